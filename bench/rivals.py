"""What the learning-rate finders of other libraries suggest, each rule re-implemented from its description.

A sweep is recorded once, to its end; the rule of each library, with its smoothing, its stop and its cuts, is applied
to the record afterwards. Read for this: fastai 2.8.12 (callback/schedule.py, learner.py), torch-lr-finder 0.2.2 (commit
76df305, lr_finder.py), Lightning 2.6.6 (tuner/lr_finder.py, rule unchanged at 7f0c343).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Suggest = Callable[[Sequence[float], Sequence[float]], float | None]


class Sweep(NamedTuple):
    """Learning rates of an exponential sweep: the first, the last, how many."""

    low: float
    high: float
    iterations: int


# Each library at its default ends. They divide the range unlike: torch-lr-finder reaches the end, fastai stops one step
# short of it, Lightning leaves out the second rate (here the first, which no rule reads).
ITERATIONS = 100
FASTAI = Sweep(1e-7, 10 * 1e8 ** (-1 / ITERATIONS), ITERATIONS)
TORCH_LR_FINDER = Sweep(1e-7, 10, ITERATIONS)
LIGHTNING = Sweep(1e-8 * 1e8 ** (1 / ITERATIONS), 1, ITERATIONS)


@dataclass(frozen=True)
class Rival:
    """A finder: the sweep it needs, whether it reads the held-out loss after each update, its rule.

    `suggest` takes the rates and the raw losses of that sweep, and gives None where the library has no suggestion or
    raises. A record shorter than the sweep counts as NaN from there on.
    """

    sweep: Sweep
    suggest: Suggest
    validated: bool = False


def record(
    step: Callable[[float], float],
    low: float,
    high: float,
    iterations: int,
    validate: Callable[[], float] | None = None,
) -> tuple[list[float], list[float], list[float]]:
    """Rates, training losses and held-out losses of an exponential sweep; `step(lr)` makes one update.

    The sweep ends early at the first training loss that is not finite, which is kept, with a held-out loss of NaN.
    Without `validate` there are no held-out losses.
    """
    lrs, losses, valid_losses = [], [], []
    for lr in np.geomspace(low, high, iterations).tolist():
        lrs.append(lr)
        losses.append(float(step(lr)))
        going = math.isfinite(losses[-1])
        if validate is not None:
            valid_losses.append(float(validate()) if going else math.nan)
        if not going:
            break
    return lrs, losses, valid_losses


def debiased(losses, late: int = 0) -> np.ndarray:
    """Exponential average, beta 0.98, divided by its weights so far; with `late` of one, by those one update later."""
    average, out = 0.0, []
    for count, loss in enumerate(losses, 1 + late):
        average = 0.98 * average + 0.02 * loss
        out.append(average / (1 - 0.98**count))
    return np.array(out)


def averaged(losses) -> np.ndarray:
    """Exponential average with 0.05 of the new loss, from the first loss on."""
    out = [losses[0]]
    for loss in losses[1:]:
        out.append(0.05 * loss + 0.95 * out[-1])
    return np.array(out)


def until(losses: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The losses up to the first above its limit, that one included."""
    above = np.flatnonzero(losses > limits)
    return losses[: above[0] + 1] if above.size else losses


def completed(losses: Sequence[float]) -> np.ndarray:
    """NaN for what a sweep that broke did not measure: the libraries go on after a NaN."""
    return np.array([*losses, *[math.nan] * (ITERATIONS - len(losses))], dtype=float)


# fastai: rules on the smoothed losses


def valley(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The middle of the longest decreasing subsequence, as if its points were neighbours."""
    lengths = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        lengths[i] += lengths[:i][losses[:i] > losses[i]].max(initial=0)
    length = lengths.max(initial=1)
    # half as fastai has it, a third and a sixth, both rounded down
    return float(lrs[lengths.argmax() - length + length // 3 + length // 6 if length > 1 else 0])


def slide(lrs: np.ndarray, losses: np.ndarray) -> float:
    """Two points 15 apart go left from the end until their slopes agree within 0.005; the left one before that."""
    slopes, left, found = np.gradient(losses), len(losses) - 16, lrs[-16]
    while left >= 0 and abs(slopes[left + 15] - slopes[left]) > 0.005:
        found = lrs[left]
        left -= 1
    return found


def minimum(lrs: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate with the lowest loss."""
    return lrs[losses.argmin()] / 10


def steep(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The left end of the interval in which the loss falls fastest in log-LR."""
    return lrs[(np.diff(losses) / np.diff(np.log(lrs))).argmin()]


def fastai(rule: Callable[[np.ndarray, np.ndarray], float]) -> Suggest:
    """Stops above four times the best smoothed loss; drops the first tenth, the last five, and all from a NaN on."""

    def suggest(lrs, losses):
        smooth = debiased(completed(losses))
        kept = until(smooth, 4 * np.fmin.accumulate(smooth))[10:-5]
        kept = kept[~np.isnan(kept)]
        try:
            return float(rule(np.array(lrs[10 : 10 + len(kept)]), kept))
        except (IndexError, ValueError):  # too few points: fastai raises these too
            return None

    return suggest


# torch-lr-finder and Lightning


def torch_lr_finder(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The fastest fall from point to point, after a stop above five times the best; drops 10 and 5, needs two more."""
    smooth = averaged(completed(losses))
    smooth = until(smooth, 5 * np.fmin.accumulate(smooth))
    if len(smooth) < 17:
        return None
    # argmin takes a NaN for the smallest, and so does torch-lr-finder: it suggests the rate at which the loss broke
    index = 10 + int(np.gradient(smooth[10:-5]).argmin())
    return lrs[index] if index < len(lrs) else None


def steepest(lrs: Sequence[float], smooth: np.ndarray, *, linear: bool) -> float | None:
    """Where the recorded loss falls fastest, per unit of LR (`linear`) or from point to point, without the first 10."""
    # single precision, as there: it counts where rates are 1e-9 apart
    kept = smooth[10:-1][np.isfinite(smooth[10:-1])].astype(np.float32)
    if len(kept) < 2:
        return None
    rates = [np.array(lrs[10 : 10 + len(kept)], np.float32)] if linear else []
    return lrs[10 + int(np.gradient(kept, *rates).argmin())]


def lightning(*, linear: bool) -> Suggest:
    """The steepest fall, after a stop above four times the best smoothed loss so far."""

    def suggest(lrs, losses):
        smooth = debiased(completed(losses), late=1)  # its count of updates is one ahead
        best = np.append(math.inf, np.fmin.accumulate(smooth)[:-1])
        return steepest(lrs, until(smooth, 4 * best), linear=linear)

    return suggest


RIVALS: dict[str, Rival] = {
    "fastai valley": Rival(FASTAI, fastai(valley)),
    "fastai slide": Rival(FASTAI, fastai(slide)),
    "fastai steep": Rival(FASTAI, fastai(steep)),
    "fastai minimum": Rival(FASTAI, fastai(minimum)),
    "torch-lr-finder": Rival(TORCH_LR_FINDER, torch_lr_finder),
    "torch-lr-finder, held-out loss": Rival(TORCH_LR_FINDER, torch_lr_finder, validated=True),
    # Since 2.5.3 (pull request 21055) the slope is d loss / d lr; before, it was taken between points of the sweep.
    "Lightning": Rival(LIGHTNING, lightning(linear=True)),
    "Lightning before 2.5.3": Rival(LIGHTNING, lightning(linear=False)),
}

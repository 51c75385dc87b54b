"""Does a model keep its accuracy at large learning rates? Read from a range test's curve. Standard library only."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from ..records.curve import Curve, Sweep, smooth

# What counts as high: this share of the best accuracy, above chance. Large learning rates are those between so many
# decades above the first that gets there; a curve that ends less than `SEEN` decades above it tells nothing.
HIGH, FROM, TO, SEEN = 0.9, 0.5, 1.0, 0.8
# Shares of the best up to which large learning rates are out, and from which they do no harm.
LOW, FLAT = 0.7, 0.8
# A plateau in sweeps of fewer updates is no yes, however often it was measured: of the pairs measured that had one,
# none trained 1.5 times faster than with a tuned standard schedule. See docs/log.md, "The verdict".
LONG = 1000
# Kernel of the smoothing in decades: the curves of accuracy are ragged where it matters.
BANDWIDTH = 0.06


@dataclass(frozen=True)
class Verdict:
    """Whether accuracy is kept at large learning rates, as super-convergence needs it: an answer with its grounds.

    Args:
        answer: "possible" where it is kept, "not possible" where it is not, or "unclear".
        score: the share of the best accuracy, above chance, that is kept on average at 3 to 10 times the learning rate
            which first gets to nine tenths of it; 0.5 where the curve does not say.
        reasons: what in the curve speaks for it, in words.
        advice: what to do about it.
    """

    answer: str
    score: float
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Plateau:
    """Where a sweep is high: learning rates, the share that it keeps at large ones, and the decades that were seen."""

    begins: float
    ends: float
    kept: float
    seen: float


def judge(curve: Curve) -> Verdict:
    """Read a curve as Smith & Topin do: held-out accuracy that stays high over large learning rates, or collapses.

    A plateau in sweeps of fewer than 1,000 updates, or of an unknown number, is "unclear": short sweeps look flat. A
    "possible" says that large learning rates do no harm: a condition for super-convergence, not a promise. Whether it
    pays against a well-tuned schedule has to be measured, see docs/log.md, "The verdict".

    Source: Smith & Topin, 1708.07120, section 3 and figures 2 and 12.

    >>> rates = tuple(k / 100 for k in range(1, 301))
    >>> sweep = Sweep(rates, (), rates, (), tuple(min(0.1 + 4 * r, 0.8) for r in rates), updates=3000)
    >>> judge(Curve((sweep,))).answer
    'possible'
    >>> judge(Curve((Sweep(rates, (), rates, (), tuple(0.8 if 0.1 < r < 0.3 else 0.1 for r in rates)),))).answer
    'not possible'
    """
    heights = [(sweep, *_height(sweep)) for sweep in curve.sweeps]
    maybe = [plateau(rates, height, sweep.stopped != "end") for sweep, rates, height in heights]
    plateaus = [each for each in maybe if each is not None]
    if not plateaus:
        return _unclear("nothing was learned in the test", "give it more updates, or look at the data and the model")
    accuracy = all(sweep.valid_accuracy for sweep in curve.sweeps)
    kept = math.fsum(p.kept for p in plateaus) / len(plateaus)
    reasons = _reasons(plateaus, kept, accuracy)
    if min(p.seen for p in plateaus) < SEEN:
        return _unclear("the sweep ends before large learning rates are reached", "go further with --lr-high", *reasons)
    if kept <= LOW:
        return Verdict("not possible", kept, reasons, _advice("not possible"))
    fewest = min(sweep.updates or max(len(sweep.lr), len(sweep.valid_lr)) for sweep in curve.sweeps)
    if accuracy and fewest < LONG and any(sweep.updates is None for sweep in curve.sweeps):
        unknown = "the record does not say how many updates a sweep took, which a column iteration does"
        reasons += (f"{unknown}: a plateau counts from {LONG:,} on",)
    elif accuracy and fewest < LONG:
        reasons += (f"a sweep of {fewest} updates looks flatter than a long one, from {LONG:,} on it would count",)
    elif accuracy and kept >= FLAT:
        return Verdict("possible", kept, reasons, _advice("possible"))
    return Verdict("unclear", kept, reasons, _advice("unclear"))


def plateau(rates: Sequence[float], height: Sequence[float], diverged: bool) -> Plateau | None:
    """Where `height` [n], relative to its best, is high; None where that was not learned in the sweep."""
    points = [(math.log10(rate), h) for rate, h in zip(rates, height, strict=False) if rate > 0]
    if len(points) < 4 or points[0][1] >= HIGH:  # it cannot be told from a model that is trained already
        return None
    first = next(x for x, h in points if h >= HIGH)
    last = max(x for x, h in points if h >= HIGH)
    seen = TO if diverged else min(TO, points[-1][0] - first)
    kept = [_at(points, first + FROM + (seen - FROM) * k / 50) for k in range(51)] if seen > FROM else []
    return Plateau(10**first, 10**last, math.fsum(kept) / max(1, len(kept)), seen)


def _at(points: Sequence[tuple[float, float]], x: float) -> float:
    """The height at x by straight lines; beyond the last point, where it diverged, nothing is kept."""
    i = bisect_left(points, (x, -math.inf))
    if i == len(points):
        return 0.0
    (a, low), (b, high) = points[max(0, i - 1)], points[i]
    return max(0.0, low + (high - low) * (x - a) / (b - a) if b > a else high)


def _height(sweep: Sweep) -> tuple[Sequence[float], list[float]]:
    """What was learned at each learning rate as a share of the most: by accuracy above chance, else by the loss."""
    if sweep.valid_accuracy:
        rates, values = sweep.valid_lr, smooth(sweep.valid_lr, sweep.valid_accuracy, BANDWIDTH)
        base = min(sweep.valid_accuracy)
    else:
        rates, raw = (sweep.valid_lr, sweep.valid_loss) if sweep.valid_loss else (sweep.lr, sweep.loss)
        values = [-value for value in smooth(rates, raw)]
        base = values[0] if values else 0.0
    most = max(values, default=0.0)
    learned = most - base > 1e-6 * max(1.0, abs(base))
    return rates, [(value - base) / (most - base) for value in values] if learned else []


def _reasons(plateaus: Sequence[Plateau], kept: float, accuracy: bool) -> tuple[str, ...]:
    what = "accuracy" if accuracy else "what was learned"
    begins, ends = geometric_mean([p.begins for p in plateaus]), geometric_mean([p.ends for p in plateaus])
    reasons = [
        f"{what} keeps {100 * kept:.0f} % of its best at large learning rates, {begins * 10**FROM:.2g} to "
        f"{begins * 10**TO:.2g}",
        f"it is within a tenth of its best from {begins:.2g} to {ends:.2g}, a factor of {ends / begins:.1f}",
    ]
    if len(plateaus) > 1:
        spread = max(p.kept for p in plateaus) - min(p.kept for p in plateaus)
        reasons.append(f"the repeats {'agree' if spread < 0.2 else 'disagree'} about that, within {100 * spread:.0f} %")
    if not accuracy:
        reasons.append("there is no held-out accuracy, and a loss alone shows a collapse but no plateau")
    return tuple(reasons)


def _advice(answer: str) -> tuple[str, ...]:
    measure = "measure whether it pays against a tuned schedule, with onecycle compare"
    return {
        "possible": ("train with one cycle up to the suggested peak, with less weight decay and dropout", measure),
        "not possible": (
            "one cycle still works, at a peak below the edge; less weight decay or dropout, larger batches, batch "
            "norms or shortcuts let the learning rate grow",
        ),
        "unclear": ("a longer test tells more (--updates)", measure),
    }[answer]


def _unclear(reason: str, advice: str, *more: str) -> Verdict:
    return Verdict("unclear", 0.5, (reason, *more), (advice,))

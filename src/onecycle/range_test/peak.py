"""From the curve of a range test to the peak of a 1cycle run. Standard library only."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import geometric_mean, median, stdev

from ..checks import one_of
from ..records.curve import BANDWIDTH, Curve, Sweep, fit

# A loss has fallen where that is so many times its standard error, and more where few losses tell the noise:
# 1 + FEW / losses.
CLEAR, FEW = 5.0, 4.0
# Held-out measurements that make a curve of their own.
ENOUGH = 6


# Updates a decade of the sweeps that landmarks are compared at: about those that the factors were fitted to.
DENSITY = 10.0


@dataclass(frozen=True)
class PeakRule:
    """The peak for 4 epochs is `factor` times a landmark; for others it goes with a power of the epochs.

    That power is `normed` where batch norms follow the weights, else `plain`. The landmark is that of a sweep of
    `DENSITY` updates a decade: one that has more of them gets as far at smaller learning rates, by the power `dense`.
    """

    landmark: str
    factor: float
    dense: float
    normed: float
    plain: float

    def basis(self, landmark: float, density: float) -> float:
        """The landmark's learning rate, as it would be in a sweep of `DENSITY` updates a decade."""
        return landmark * (density / DENSITY) ** self.dense

    def peak(self, basis: float, epochs: float, batch_norm: bool) -> float:
        """The peak from the landmark's learning rate."""
        return self.factor * basis * (epochs / 4) ** (self.normed if batch_norm else self.plain)


# By how an optimizer makes its update of a gradient: in proportion ("gradient": SGD), scaled for each weight
# ("adaptive": Adam and its kin), or a matrix's made orthogonal ("orthogonal": Muon). Fitted to bench/range_test.py, see
# docs/log.md; SGD's edge is the scout's, whose updates are as dense in any test.
RULES = {
    "gradient": PeakRule("edge", factor=0.17, dense=0.0, normed=0.52, plain=0.0),
    "adaptive": PeakRule("most", factor=3.2, dense=0.5, normed=0.37, plain=-0.13),
    "orthogonal": PeakRule("most", factor=1.6, dense=0.5, normed=0.0, plain=0.0),
}


@dataclass(frozen=True)
class Landmarks:
    """What there is to see on one sweep; learning rates, None where it does not show them.

    They are read from the held-out loss where it was measured often enough, since no batch's noise is on it; from the
    training loss where it was not, or where half of the fall was over by the second measurement.

    Args:
        level, noise: the loss where the learning rate is too small to matter, and its standard deviation.
        half, most: the loss has fallen half, and four fifths, of its way.
        steepest, slope, error: the fall is fastest, in loss a decade, with the standard error of that.
        lowest: the smoothed loss is lowest.
        rise: it has come back a quarter of its way.
        edge: the last learning rate before divergence.
    """

    level: float
    noise: float
    half: float | None
    most: float | None
    steepest: float | None
    slope: float
    error: float
    lowest: float | None
    rise: float | None
    edge: float | None


@dataclass(frozen=True)
class Suggestion:
    """A peak and where it comes from: learning rates, or None with the `reason`.

    `decades` is the standard error of the peak over the repeats, in decades; None for one, or the scout's.
    """

    lr_max: float | None = None
    lr_min: float | None = None
    edge: float | None = None
    reason: str | None = None
    decades: float | None = None


def landmarks(sweep: Sweep) -> Landmarks:
    """Read a sweep."""
    edge = sweep.lr[-1] if sweep.lr and sweep.stopped != "end" else None
    training = _read(sweep.lr, sweep.loss, edge)
    if len(sweep.valid_loss) < ENOUGH:
        return training
    held_out = _read(sweep.valid_lr, sweep.valid_loss, edge, held_out=True)
    # Two measurements are its start: where half of the fall is over by then, or they show none, each update tells more.
    late = training.half is not None and (held_out.half is None or training.half <= sweep.valid_lr[1])
    return training if late else held_out


def _read(rates: Sequence[float], losses: Sequence[float], edge: float | None, held_out: bool = False) -> Landmarks:
    """The landmarks of a curve of `losses` [n] at `rates` [n]."""
    points = [(math.log10(lr), loss) for lr, loss in zip(rates, losses, strict=False) if lr > 0]
    x, y = [a for a, _ in points], [b for _, b in points]
    if len(x) < ENOUGH:
        return Landmarks(math.nan, math.nan, None, None, None, 0.0, math.inf, None, None, edge)
    width = BANDWIDTH if held_out else max(BANDWIDTH, (x[-1] - x[0]) / (len(x) - 1))
    lines = [fit(x, y, a, width) for a in x]
    s = [line.value for line in lines]
    start = max(2 if held_out else 4, sum(a <= x[0] + (x[-1] - x[0]) / 8 for a in x))
    level = math.fsum(y[:start]) / start
    low = min(range(len(s)), key=s.__getitem__)
    down = y[: max(low + 1, ENOUGH)]  # what follows may be a divergence, and no noise
    noise = max(_noise(down), 1e-6 * max(1.0, abs(level)))
    drop = level - s[low]
    near = _count(x, x[low], width)
    clear = CLEAR * (1 + FEW / len(down)) * noise * math.sqrt(1 / start + 1 / near)
    about = median(b for a, b in points if abs(a - x[low]) <= width)  # a single low loss is no fall
    if drop < clear or median(y[:start]) - about < clear / 2:
        return Landmarks(level, noise, None, None, None, 0.0, math.inf, None, None, edge)
    steepest = min(range(low + 1), key=lambda i: lines[i].slope)
    slope, error = lines[steepest].slope, lines[steepest].error
    fall = x[: low + 1], [-v for v in s[: low + 1]]
    half, most = (_crossing(*fall, share * drop - level) for share in (0.5, 0.8))
    rise = _crossing(x[low:], s[low:], s[low] + drop / 4) if max(s[low:]) - s[low] > clear else None
    return Landmarks(level, noise, half, most, 10 ** x[steepest], slope, error, 10 ** x[low], rise, edge)


def _count(x: Sequence[float], at: float, width: float) -> float:
    """How many independent losses a smoothed one about `at` is the mean of."""
    weights = [math.exp(-0.5 * ((a - at) / width) ** 2) for a in x]
    return math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)


def density(rates: Sequence[float], at: float) -> float:
    """Updates that a sweep through `rates` [n] makes in the decade below `at`, or that it would from where it begins.

    >>> round(density([10 ** (k / 7) for k in range(20)], 50.0), 9)
    7.0
    """
    x = [math.log10(rate) for rate in rates if rate > 0]
    if len(x) < 2:
        return DENSITY
    top = min(max(math.log10(at), x[1]), x[-1])
    bottom = max(top - 1, x[0])
    return (_index(x, top) - _index(x, bottom)) / (top - bottom)


def _index(x: Sequence[float], at: float) -> float:
    """How many of the rising `x` [n] come before `at`, by straight lines between them."""
    i = min(max(1, bisect_left(x, at)), len(x) - 1)
    return i - 1 + (at - x[i - 1]) / (x[i] - x[i - 1])


def _noise(y: Sequence[float]) -> float:
    """The standard deviation of `y` [n] about its course, whatever that is, by its steps but for the largest ones.

    Either by how the steps bend, as they do not where the course is straight; or by how far they are from the usual
    one, as few are where the course is a sudden fall.
    """
    steps = [b - a for a, b in pairwise(y)]
    usual = median(steps)
    bends = _trimmed([abs(b - a) for a, b in pairwise(steps)]) / math.sqrt(6)
    return 1.585 * min(bends, _trimmed([abs(step - usual) for step in steps]) / math.sqrt(2))


def _trimmed(sizes: Sequence[float]) -> float:
    """Their mean without the largest eighth, at least one."""
    kept = sorted(sizes)[: -max(1, len(sizes) // 8)]
    return math.fsum(kept) / len(kept)


def suggest(curve: Curve, *, epochs: float = 10, kind: str = "adaptive", batch_norm: bool = False) -> Suggestion:
    """The peak of a 1cycle run of `epochs` epochs.

    Where the size of an update does not grow with the gradient's (Adam, Muon and their kin), what limits the peak is
    how fast the weights move: it is a multiple of the learning rate by which the loss has fallen most of its way, which
    depends on how many updates a sweep makes; that is made up for. With plain gradient steps it is the edge of
    divergence: the peak is a share of where the scout lost the loss. Weights that batch norms follow grow under large
    steps, and longer runs then bear larger ones (1706.05350); without, the peak stays or falls with the length of the
    run (2409.19913). It is never above where a sweep diverged, nor above where the loss has clearly risen again.

    Args:
        curve: of a range test.
        epochs: of the run that is to follow.
        kind: of the optimizer, one of `RULES`.
        batch_norm: the model has batch norms.

    Raises:
        ConfigError: an unknown kind.
    """
    rule, marks = RULES[one_of("kind of optimizer", kind, RULES)], [landmarks(sweep) for sweep in curve.sweeps]
    edges = [m.edge for m in marks if m.edge is not None]
    edge = geometric_mean(edges) if edges else None
    halves, rises = ([r for m in marks if (r := getattr(m, name)) is not None] for name in ("half", "rise"))
    basis = [
        rule.basis(at, density(sweep.lr or sweep.valid_lr, at))
        for m, sweep in zip(marks, curve.sweeps, strict=True)
        if (at := getattr(m, rule.landmark)) is not None
    ]
    if rule.landmark == "edge" and curve.scouted:
        basis = [curve.scouted]
    reason = _missing(curve, marks, basis)
    if reason is not None:
        return Suggestion(edge=edge, reason=reason)
    bounds = [*edges, geometric_mean(rises)] if rises else edges
    peak = min([rule.peak(geometric_mean(basis), epochs, batch_norm), *bounds])
    error = stdev(map(math.log10, basis)) / math.sqrt(len(basis)) if len(basis) > 1 else None
    return Suggestion(peak, min([geometric_mean(halves), peak / 3] if halves else [peak / 3]), edge, None, error)


def _missing(curve: Curve, marks: Sequence[Landmarks], basis: Sequence[float]) -> str | None:
    """Why the curve does not tell a peak, in words; None where it does."""
    fell = [m for m in marks if m.lowest is not None]
    ended = all(m.edge is None and m.rise is None for m in marks)
    if not fell and ended:
        return "the loss never moved clearly: look at the data, the model and the optimizer, or sweep further"
    if not fell:
        return (
            "the loss never fell clearly before it diverged: the model may be trained already, or the batches be too "
            "noisy or too few to tell (larger batches, more updates)"
        )
    if ended or not basis:
        return f"the sweep ended at {curve.lr[-1]:.2g}, before the loss diverged: go further with a larger lr_high"
    if all(m.half is not None and m.half <= curve.lr[0] * 1.01 for m in fell):
        return f"the loss fell from the first learning rate on: begin below {curve.lr[0]:.2g} with a smaller lr_low"
    return None


def _crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """Ten to the first x where y, which begins below `level`, reaches it, by straight lines; None where it does not."""
    for i, value in enumerate(y):
        if value >= level:
            if i == 0:
                return 10 ** x[0]
            share = (level - y[i - 1]) / (value - y[i - 1])
            return 10 ** (x[i - 1] + share * (x[i] - x[i - 1]))
    return None

"""From the curve of a range test to the peak of a 1cycle run. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .curve import Curve, Sweep, fit

# A loss has fallen or risen where its change is that many times its noise.
CLEAR = 4.0


@dataclass(frozen=True)
class Landmarks:
    """What there is to see on one sweep; learning rates, None where it does not show them.

    Args:
        level, noise: the training loss where the learning rate is too small to matter, and its standard deviation from
            batch to batch.
        half: the loss has fallen half of its way.
        steepest, slope, error: the fall is fastest, in loss a decade, with the standard error of that.
        lowest: the smoothed loss is lowest.
        rise: it has come back a quarter of its way.
        edge: the last learning rate before divergence.
    """

    level: float
    noise: float
    half: float | None
    steepest: float | None
    slope: float
    error: float
    lowest: float | None
    rise: float | None
    edge: float | None


def landmarks(sweep: Sweep) -> Landmarks:
    """Read a sweep's training loss."""
    points = [(math.log10(lr), loss) for lr, loss in zip(sweep.lr, sweep.loss, strict=False) if lr > 0]
    x, y = [a for a, _ in points], [b for _, b in points]
    lines = [fit(x, y, a) for a in x]
    s = [line.value for line in lines]
    start = max(4, len(x) // 8)
    level = math.fsum(y[:start]) / start
    noise = 1.4826 * median(abs(b - v) for b, v in zip(y, s, strict=True))
    noise = max(noise, 1e-6 * max(1.0, abs(level)))
    edge = 10 ** x[-1] if sweep.stopped != "end" else None
    low = min(range(len(s)), key=s.__getitem__)
    drop = level - s[low]
    if drop < CLEAR * noise:
        return Landmarks(level, noise, None, None, 0.0, math.inf, None, None, edge)
    steepest = min(range(low + 1), key=lambda i: lines[i].slope)
    half = _crossing(x[: low + 1], [-v for v in s[: low + 1]], -(level - drop / 2))
    rise = _crossing(x[low:], s[low:], s[low] + drop / 4)
    return Landmarks(
        level, noise, half, 10 ** x[steepest], lines[steepest].slope, lines[steepest].error, 10 ** x[low], rise, edge
    )


def _crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """Ten to the first x where y, which begins below `level`, reaches it, by straight lines; None where it does not."""
    for i, value in enumerate(y):
        if value >= level:
            if i == 0:
                return 10 ** x[0]
            share = (level - y[i - 1]) / (value - y[i - 1])
            return 10 ** (x[i - 1] + share * (x[i] - x[i - 1]))
    return None


@dataclass(frozen=True)
class Suggestion:
    """A peak and where it comes from: learning rates, or None with the `reason`."""

    lr_max: float | None
    lr_min: float | None
    edge: float | None
    reason: str | None


def suggest(curve: Curve, *, proportional: bool = True, growth: float = 1.0) -> Suggestion:
    """PLACEHOLDER."""
    marks = [landmarks(sweep) for sweep in curve.sweeps]
    edges = [m.edge for m in marks if m.edge is not None]
    edge = _middle(edges) if edges else None
    reason = _missing(marks)
    if reason:
        return Suggestion(None, None, edge, reason)
    lowest, rise = (_middle([getattr(m, name) for m in marks]) for name in ("lowest", "rise"))
    return Suggestion(lowest**0.5 * rise**0.5, _middle([m.half for m in marks]), edge, None)


def _missing(marks: Sequence[Landmarks]) -> str | None:
    if any(m.lowest is None for m in marks):
        return "the loss never fell clearly below its start"
    if any(m.rise is None for m in marks):
        return "the sweep ended before the loss rose again: let it go further, with lr_high"
    return None


def _middle(rates: Sequence[float | None]) -> float:
    """The geometric mean."""
    logs = [math.log(rate) for rate in rates if rate]
    return math.exp(math.fsum(logs) / len(logs))

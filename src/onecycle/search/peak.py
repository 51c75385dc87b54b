"""Which pilots are made for a run, and what they say of its peak: pure decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .. import text
from .pilots import JUDGING, Levels, Pilot, RunPilot

# Pilots are at the default peak, and this factor below and above it; where none of these trains, further below.
FACTOR, FURTHER = 3.0, 3
# The length of a pilot: a share of the run's updates. By how an optimizer makes its update of a gradient: the least
# length that tells something; and the gain that is evidence against the default, as a share of what the best pilot
# learned. Plain gradient steps need another peak from net to net far more than the others, whose update does not grow
# with the gradient.
LENGTH = 1 / 64
LEAST = {"gradient": 16, "adaptive": 30, "orthogonal": 30}
EVIDENCE = {"gradient": 0.05, "adaptive": 0.15, "orthogonal": 0.15}
# Of the way from the default, in the logarithm of the peak, to where the pilots are best: short runs bear other peaks
# than long ones. All of it where the default pilot learned nothing.
WAY = 0.6
# A pilot has learned something where its loss is such a share below that of knowing nothing.
LEARNED = 0.01
# Nine of ten best peaks of a grid were within this factor of the one chosen.
WITHIN = 5.0


@dataclass(frozen=True)
class Choice:
    """A peak, an interval that holds the best one in about nine of ten cases, and why."""

    lr_max: float
    low: float | None
    high: float | None
    reason: str

    def scaled(self, factor: float, method: str) -> Choice:
        """The same for another method, whose peaks are so many times as large."""
        low, high = (None if peak is None else peak * factor for peak in (self.low, self.high))
        said = self.reason if factor == 1 else f"{self.reason}; {method} takes {factor:g} times such a peak"
        return Choice(rounded(self.lr_max * factor), low, high, said)


def rounded(peak: float) -> float:
    """A peak as it is said and recorded."""
    return float(f"{peak:.3g}")


def length(updates: int, allowed: int, kind: str, *, short: bool = False, methods: int = 0) -> int:
    """The updates of each pilot of a run; together they may take so many as `allowed`, and 0 would tell nothing.

    With `short` those of a short run are as long as tells something, whatever part of the run that is. So many other
    `methods` have a pilot each.

    >>> length(2000, 200, "adaptive"), length(2000, 100, "gradient"), length(500, 50, "gradient")
    (31, 25, 0)
    >>> length(2000, 200, "adaptive", methods=1), length(2000, 200, "adaptive", methods=2)
    (31, 30)
    >>> length(150, 150, "adaptive"), length(150, 150, "adaptive", short=True), length(150, 75, "adaptive", short=True)
    (0, 30, 0)
    """
    each = min(
        max(round(LENGTH * updates), short * LEAST[kind]), int(allowed / (3 + methods + (4 + methods) * JUDGING))
    )
    return each if each >= LEAST[kind] else 0


def search_peak(
    run: RunPilot, levels: Callable[[], Levels], default: float, updates: int, kind: str, most: int = 3 + FURTHER,
    *, foreign: bool = False,
) -> Choice:  # fmt: skip
    """Make pilots of so many updates with `run`, `most` of them, and choose a peak.

    The default peak is tried first, then one below and one above it; where all are lost, peaks further below. A
    `foreign` default, which somebody's optimizer happens to have, may be far too small: as long as its pilot learned
    nothing, and the one with the largest peak most or none did, peaks further above follow.
    """
    pilots = [run(lr, updates) for lr in (default, default / FACTOR, default * FACTOR)]
    known = levels()
    while len(pilots) < min(most, 3 + FURTHER) and all(known.lost(p) for p in pilots):
        pilots.append(run(min(p.lr_max for p in pilots) / FACTOR, updates))
    while foreign and len(pilots) < min(most, 3 + FURTHER) and _too_small(pilots, default, known):
        pilots.append(run(max(p.lr_max for p in pilots) * FACTOR, updates))
    return choose(pilots, default, known, kind)


def _too_small(pilots: Sequence[Pilot], default: float, levels: Levels) -> bool:
    """Whether the default pilot learned nothing, and the one with the largest peak learned most, if any did."""
    highest = max(pilots, key=lambda pilot: pilot.lr_max)
    enough = levels.nothing - LEARNED * abs(levels.nothing)
    learned = {p.lr_max: p.loss for p in pilots if p.loss is not None and p.loss < enough}
    best = min(learned, key=learned.__getitem__, default=highest.lr_max)
    return default not in learned and best == highest.lr_max and not levels.lost(highest)


def choose(pilots: Sequence[Pilot], default: float, levels: Levels, kind: str) -> Choice:
    """The peak by what pilots came to."""
    by_peak = sorted(pilots, key=lambda p: p.lr_max)
    losses = {p.lr_max: p.loss for p in by_peak if p.loss is not None and not levels.lost(p)}
    if not losses:
        low = by_peak[0].lr_max
        return Choice(low, None, low, "every pilot was lost: look at the data and the model, or give a smaller lr_max")
    best, nothing = min(losses, key=losses.__getitem__), levels.nothing
    if losses[best] >= nothing - LEARNED * abs(nothing):
        why = "no pilot learned anything yet" if default in losses else "at the default the pilot was lost"
        return _about(default if default in losses else best, why)
    lost = default not in losses or losses[default] >= nothing
    if not lost and _share(losses[best], losses[default], nothing) <= EVIDENCE[kind]:
        said = "no other pilot was better" if best == default else f"{best:.2g} was no clear gain"
        return _about(default, said)
    peak = rounded(default * (_optimum(losses, best, nothing) / default) ** (1.0 if lost else WAY))
    how = "learned nothing" if lost else f"came to {text.number(losses[default])}"
    came = text.number(losses[best])
    return _about(peak, f"{best:.2g} came to a held-out loss of {came}, the default {default:.2g} {how}")


def best_of(pilots: Iterable[Pilot], levels: Levels) -> Pilot | None:
    """The pilot with the smallest held-out loss; None where all were lost."""
    return min((p for p in pilots if not levels.lost(p)), key=lambda p: p.loss or 0.0, default=None)


def choose_method(pilots: Sequence[Pilot], levels: Levels, kind: str) -> tuple[str | None, str]:
    """The method that the run is trained by, and why, None for its default: that is left only for evidence."""
    default, other = (best_of([p for p in pilots if (p.method is None) is own], levels) for own in (True, False))
    if other is None or other.loss is None:
        return None, "the pilots of others were lost"
    if default is None or default.loss is None:
        return other.method, "the pilots of the default were lost"
    if other.loss >= min(default.loss, levels.nothing):
        return None, "no other was better"
    if default.loss < levels.nothing and _share(other.loss, default.loss, levels.nothing) <= EVIDENCE[kind]:
        return None, f'"{other.method}" was no clear gain'
    came, own = text.number(other.loss), text.number(default.loss)
    return other.method, f"its pilot came to a held-out loss of {came}, the default's to {own}"


def _about(peak: float, reason: str) -> Choice:
    return Choice(peak, peak / WITHIN, peak * WITHIN, reason)


def _share(best: float, default: float, nothing: float) -> float:
    """How much more the best pilot learned than the default one, as a share of what it learned."""
    best, default, nothing = on_one_scale(best, default, nothing)
    return (default - best) / (nothing - best)


def on_one_scale(*losses: float) -> Sequence[float]:
    """Losses to take differences of: their logarithms where all are above 0, since each halving counts alike.

    >>> on_one_scale(1.0, 1.0), on_one_scale(-1.0, 2.0)
    ([0.0, 0.0], (-1.0, 2.0))
    """
    return [math.log(loss) for loss in losses] if min(losses) > 0 else losses


def _optimum(losses: dict[float, float], best: float, nothing: float) -> float:
    """Where a parabola through the best pilot and its neighbours, over the logarithm of the peak, is lowest."""
    peaks = list(losses)
    i = peaks.index(best)
    if not 0 < i < len(peaks) - 1:
        return best
    below, at, above = on_one_scale(*(min(losses[lr], 3 * abs(nothing)) for lr in peaks[i - 1 : i + 2]))
    bend = below - 2 * at + above
    way = 0.0 if bend <= 0 else max(-0.5, min(0.5, (below - above) / (2 * bend)))
    return best * FACTOR**way

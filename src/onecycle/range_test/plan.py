"""The plan of a range test: how many updates it may take, and through which learning rates its sweeps go."""

from __future__ import annotations

import math
from typing import Any

from ..checks import number, one_of, whole
from ..errors import ConfigError
from .sweep import ScoutedRange

# Of the epochs that the cost is counted in, and the share of them that a test may take.
EPOCHS, SHARE = 10, 0.05
# Updates of a whole test, all repeats and evaluations counted: at least, at most, and where an epoch has no length.
FEWEST, MOST, UNKNOWN = 64, 400, 200
# What all evaluations may cost beside the updates, and how many there are in a sweep.
EVALUATING, MEASUREMENTS = 1 / 3, 16
# Updates of a sweep, at least, and how much longer it may go on where its end is not the user's, to meet divergence.
SHORTEST, LONGER = 12, 1 / 4
SPACINGS = ("exponential", "linear")
# How far below and above the edge that the scout found a sweep reaches.
BELOW, ABOVE = 1000.0, 4.0


def check_plan(
    updates: int | None,
    repeats: int,
    *,
    lr_low: float | None = None,
    lr_high: float | None = None,
    spacing: str = "exponential",
    epochs: float = EPOCHS,
) -> None:
    """Validate what a range test is told about its sweeps; the arguments are those of `onecycle.range_test`.

    Raises:
        ConfigError: one that cannot be used.
    """
    whole("repeats", repeats, what="the number of sweeps")
    if updates is not None:
        whole("updates", updates, what="the number of updates of the whole test")
    for name, value in (("lr_low", lr_low), ("lr_high", lr_high), ("epochs", epochs)):
        if value is not None or name == "epochs":
            number(name, value, above=0)
    if lr_low is not None and lr_high is not None and lr_low >= lr_high:
        raise ConfigError(
            f"the learning rates rise from lr_low to lr_high; received {lr_low:g} and {lr_high:g}: swap them"
        )
    one_of("spacing", spacing, SPACINGS)


def default_updates(per_epoch: int | None) -> int:
    """The updates of a test that takes a twentieth of 10 epochs.

    >>> default_updates(300), default_updates(20)
    (150, 64)
    """
    return UNKNOWN if per_epoch is None else min(MOST, max(FEWEST, int(SHARE * EPOCHS * per_epoch)))


def sweep_updates(
    told: int | None, default: int, spent: int, repeats: int, evaluate: Any, open_ended: bool = False
) -> int:
    """The updates of each sweep, so that all of them, and what is `spent`, stay within the updates that were `told`.

    So do their evaluations, unless a sweep has to go on for longer. Where nothing was told, `default` does, or more
    where so many repeats need it.

    Raises:
        ConfigError: too few for a curve.
    """
    share = max(1 + EVALUATING if evaluate else 1.0, 1 + LONGER if open_ended else 1.0)
    need = math.ceil(spent + SHORTEST * repeats * share)
    allowed = max(default, need) if told is None else told
    if allowed < need:
        raise ConfigError(
            f"{allowed} updates are too few for {repeats} repeats of a range test: give updates={need} or more"
            + (", or fewer repeats" if repeats > 1 else "")
        )
    return int((allowed - spent) / (repeats * share))


def ends(scouted: ScoutedRange, low: float | None, high: float | None, spacing: str) -> tuple[float, float]:
    """Those of the user, else about the edge that the scout found; where it found none, all that it saw.

    A linear sweep spends nearly all of its updates near its upper end, so that it ends at the edge, not above it.
    """
    above = ABOVE if spacing == "exponential" else 1.0
    top = scouted.edge * above if high is None else high
    bottom = min(scouted.edge, top) / BELOW if scouted.moved else min(scouted.still, top / BELOW)
    return bottom if low is None else low, top


def rates(low: float, high: float, n: int, spacing: str, open_ended: bool) -> list[float]:
    """The learning rates of a sweep; one whose end is not the user's may go on a quarter longer, to meet divergence."""
    if low >= high:
        raise ConfigError(
            f"lr_low {low:g} is not below {high:g}, where training is lost: give a smaller lr_low, or lr_high too"
        )
    more = int(n * LONGER) if open_ended else 0
    if spacing == "linear":
        return [low + (high - low) * k / (n - 1) for k in range(n + more)]
    return [low * (high / low) ** (k / (n - 1)) for k in range(n + more)]

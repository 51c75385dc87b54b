"""Whether a range test pays for itself before a run whose peak is left to the library."""

from __future__ import annotations

from copy import copy

from ..data.batches import Batches, first_batch
from ..range_test.plan import EPOCHS, FEWEST, SHARE, default_updates
from ..schedules.budget import Budget
from ..schedules.presets import preset
from ..text import duration
from ..training.loop import updates_per_epoch
from ..training.state import TrainState
from .trial import trial

# A range test is worth its while where the run is so many times as long as the shortest one, or takes a minute. Where
# an epoch is so short that it would take more than its share, its curve is too coarse to be relied on unseen.
WORTH, A_MINUTE = 5, 60.0
# Of a time budget, the share that a range test may take.
TEST_SHARE = 0.1


def worth_a_test(budget: Budget, per_epoch: int | None) -> bool:
    """Whether a run of this budget and so many updates an epoch is long enough for a range test before it.

    >>> worth_a_test(Budget.parse(10), 200), worth_a_test(Budget.parse(1), 10)
    (True, False)
    """
    updates = budget.total_updates(per_epoch)
    short = updates < WORTH * FEWEST if updates is not None else (budget.seconds or 0) < A_MINUTE
    return not short and (per_epoch is None or per_epoch * EPOCHS * SHARE >= FEWEST)


def too_long(state: TrainState, train: Batches, budget: Budget) -> str | None:
    """Why a range test would take too much of a time budget, by three updates that leave no trace; else None."""
    if budget.seconds is None:
        return None
    plain = copy(state)
    plain.norm_statistics = "running"  # as in a range test
    few = trial(plain, [first_batch(train)] * 3, "3 updates", preset("constant", 1e-9))
    wait = few.seconds / 3 * default_updates(updates_per_epoch(train, state.accumulate))
    if wait <= TEST_SHARE * budget.seconds:
        return None
    return f"no range test: it would take about {duration(wait)} of {duration(budget.seconds)}"

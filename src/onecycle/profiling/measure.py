"""One setting in the real training loop: its updates, part by part."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

from ..data.batches import Batches
from ..errors import NonFiniteLoss
from ..records.history import History
from ..schedules.presets import one_cycle
from ..training.loop import Update, train
from ..training.signals import StopRequest
from ..training.state import TrainState
from .clock import DATA, PARTS, PartClock, TimedBatches, TimedRuntime, time_of
from .machine import peak_memory
from .settings import Setting, applied

# A peak learning rate at which no weight moves, and updates of a run whose end is never come to.
STILL, ENDLESS = 1e-12, 10**7
# Updates before those that count, of these at least and at most, and the most seconds of one visit. After twice those
# one before is enough, and one that counts.
WARM, LEAST, MOST, SECONDS = 2, 3, 500, 4.0


@dataclass(frozen=True)
class Timing:
    """What the updates of one setting took.

    Args:
        setting: what was measured.
        updates: how many counted, those aside that warm up and those in which an epoch begins.
        samples: of an update, the mean.
        seconds, low, high: of an update, the median and the range of the middle 80 %.
        parts: the seconds of each part, means over the middle half of the updates: data, forward, backward, optimizer,
            ours. They sum to about `seconds`.
        start: seconds that the beginning of an epoch takes beside: a new order, the start of workers.
        rate: samples a second, the beginnings of epochs included.
        memory: the most bytes in use: of the device, or of the process; None where that is not known.
        warm: seconds that the first updates took longer than others: compiling, where that is part of it.
        failed: why there is no more to say, in words; None where it was measured.
    """

    setting: Setting
    updates: int = 0
    samples: float = 0.0
    seconds: float = 0.0
    low: float = 0.0
    high: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    start: float = 0.0
    rate: float = 0.0
    memory: int | None = None
    warm: float = 0.0
    failed: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part in an update."""
        whole = math.fsum(self.parts.values())
        return {name: seconds / whole for name, seconds in self.parts.items()} if whole else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "setting": self.setting.to_dict(), "parts": dict(self.parts), "shares": self.shares}


@dataclass(frozen=True)
class Visit:
    """The updates of a setting that one go at it measured, in seconds by part, and what else it saw."""

    setting: Setting
    updates: Sequence[dict[str, float]]
    samples: float
    starts: Sequence[float]
    memory: int | None
    warm: float
    before: int | None = None

    @property
    def pace(self) -> float:
        """The median seconds of an update."""
        return median(self.totals)

    @property
    def totals(self) -> list[float]:
        """The seconds of each update; with workers the means over as many as they read ahead.

        Batches that workers read come several at a time: an update waits for all of them or for none.
        """
        return [math.fsum(parts.values()) for parts in self.blocks]

    @property
    def blocks(self) -> list[dict[str, float]]:
        """The parts of each update, or the means of so many."""
        size = min(2 * (self.setting.workers or 0), len(self.updates) // 2) or 1
        blocks = [self.updates[i : i + size] for i in range(0, len(self.updates) - size + 1, size)]
        return [{name: fmean(one[name] for one in block) for name in PARTS} for block in blocks]


def visit(
    setting: Setting, state: TrainState, batches: Batches, seconds: float, until: float,
    stop: StopRequest | None = None, *, least: int = 1,
) -> Visit | None:  # fmt: skip
    """Train for so many `seconds` as `setting` says, with a learning rate at which no weight moves.

    After `until`, by `time.perf_counter`, and `least` updates it is broken off. It has no result where none counted by
    then: the first one warms up.

    Raises:
        NonFiniteLoss: the loss is not finite, at the weights that the model has.
        OneCycleError, RuntimeError: as the training does.
    """
    began, clock, history, samples = time.perf_counter(), PartClock(time_of(state.runtime.device)), History(), 0
    with applied(setting, state, batches) as (within, source), peak_memory(state.runtime.device) as peak, _still():
        within.runtime = TimedRuntime.around(within.runtime, clock)
        policy = one_cycle(STILL, ENDLESS)
        for event in train(within, TimedBatches(source, clock), f"{ENDLESS} updates", policy, stop=stop):
            if not isinstance(event, Update):
                break
            history(event)
            clock.cut()
            samples += event.samples
            spent, counted = time.perf_counter() - began, clock.updates - WARM
            over = spent > until - began and clock.updates >= least
            slow = spent > 2 * seconds and clock.updates >= max(2, least)
            if over or slow or counted >= MOST or (counted >= LEAST and spent > seconds):
                break
        parts = clock.seconds()
    counted = [one for k, one in enumerate(parts) if k >= WARM and k not in clock.begins] or parts[WARM:] or parts[1:]
    if not counted:
        return None
    usual = median(math.fsum(one.values()) for one in counted)
    warm = math.fsum(math.fsum(one.values()) - usual for one in parts[:WARM])
    data = median(one[DATA] for one in counted)
    starts = [max(0.0, start - data) for start in clock.starts]
    return Visit(setting, counted, samples / len(parts), starts, peak.most, max(0.0, warm), peak.start)


@contextmanager
def _still() -> Iterator[None]:
    """Within the block, a loss that is not finite is no matter of the learning rate: no weight moves."""
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            "the loss is not finite at the weights that the model has, which a profile does not move: look for NaN or "
            "infinite numbers among its weights and buffers, and for what overflows in the model or the loss",
            step=error.step,
            lr=error.lr,
        ) from error


def timing(visits: Sequence[Visit], updates_per_epoch: float | None) -> Timing:
    """What several visits of one setting came to, together."""
    blocks = sorted((block for one in visits for block in one.blocks), key=lambda block: math.fsum(block.values()))
    totals = [math.fsum(block.values()) for block in blocks]
    cut = len(blocks) // 4
    parts = {name: fmean(block[name] for block in blocks[cut : len(blocks) - cut]) for name in PARTS}
    starts = [start for one in visits for start in one.starts]
    start, seconds = median(starts) if starts else 0.0, median(totals)
    samples = fmean(one.samples for one in visits)
    beside = start / updates_per_epoch if updates_per_epoch else 0.0
    at = (len(totals) - 1) / 10
    return Timing(
        visits[0].setting, sum(len(one.updates) for one in visits), samples, seconds, totals[math.floor(at)],
        totals[-1 - math.floor(at)], parts, start, samples / (seconds + beside),
        max((one.memory for one in visits if one.memory is not None), default=None), visits[0].warm,
    )  # fmt: skip


def failure(setting: Setting, why: str) -> Timing:
    """That a setting could not be measured."""
    return replace(Timing(setting), failed=why)

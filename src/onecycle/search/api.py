"""The peak of a run by pilots inside its budget: of a state in training, and of anything that has a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from .. import checks, text
from ..checks import number, whole
from ..data.batches import Batches, peeked
from ..errors import Interrupted
from ..range_test.api import kind_of, sampler_kept, source_of, swept_parts
from ..range_test.sweep import SweptStep
from ..records.run import Recording
from ..schedules.budget import SHARE, Budget
from ..schedules.policy import Policy
from ..schedules.presets import preset
from ..training.loop import updates_per_epoch
from ..training.sharing import considerate
from ..training.signals import StopRequest, stop_requests
from ..training.state import TrainState
from .peak import LEAST, Choice, best_of, choose_method, length, rounded, search_peak
from .pilots import Levels, Pilot, Pilots, RunPilot, StatePilots, StepPilots
from .trial import OutOfTime, trial

# Updates that the pace is measured by, after one that is not to take more than such a share of a time budget.
PACE, COLD = 3, 1 / 100
OUT_OF_TIME = "pilots would have taken more than their share of the time"


@dataclass(frozen=True)
class Search:
    """What pilots found out about a run.

    Args:
        lr_max: the peak to train with.
        default: the peak that is taken without evidence.
        low, high: an interval that holds the best peak in nine of ten cases; None where no pilot was made.
        reason: why this peak, in words.
        pilots: each of them, in order.
        updates: what they cost, evaluations counted as updates.
        budget: updates that run and pilots have together.
        seconds: what they took.
        share: of the budget that they took, of its time where that is what it is.
        method: what the run is trained by, where pilots of others than its default were better.
        why: of the method, where others were tried.
    """

    lr_max: float
    default: float
    low: float | None
    high: float | None
    reason: str
    pilots: tuple[Pilot, ...]
    updates: int
    budget: int
    seconds: float
    share: float
    method: str | None = None
    why: str | None = None

    def __repr__(self) -> str:
        return f"Search(lr_max={self.lr_max:.3g}, default={self.default:.3g}, pilots={len(self.pilots)})"

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{p.lr_max:.3g}{f', {p.method}' if p.method else ''}",
                f"{p.updates:,}",
                p.lost or text.number(p.loss or 0.0),
            )
            for p in self.pilots
        ]
        return text.html_table(rows, ("peak", "updates", "held-out loss"), title=self.line())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "pilots": [p.to_dict() for p in self.pilots]}

    def line(self) -> str:
        """The result in a line."""
        if not self.pilots:
            return f"peak learning rate {self.lr_max:.2g}, the default: {self.reason}"
        lengths = sorted({p.updates for p in self.pilots})
        spent = f"{text.count(len(self.pilots), 'pilot')} of {lengths[0]:,}" + (
            f" to {lengths[-1]:,}" if len(lengths) > 1 else ""
        )
        which = ", the default" if self.lr_max == self.default else ""
        between = "" if self.low is None or self.high is None else f" ({self.low:.2g} to {self.high:.2g})"
        return (
            f"peak learning rate {self.lr_max:.2g}{which}{between}, from {spent} updates, which took "
            f"{text.percent(self.share, 1)} of the budget: {self.reason}"
        )


@considerate()
def search(
    step: Callable[[Any], Any],
    optimizer: Optimizer | Sequence[Optimizer],
    batches: Any,
    *,
    updates: int,
    lr_max: float | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    share: float = SHARE,
    policy: str = "one_cycle",
    model: nn.Module | Sequence[nn.Module] | None = None,
    keep: Sequence[Any] = (),
    seed: int = 0,
) -> Search:
    """Choose the peak of a 1cycle run of `updates` updates, for any loop, by short runs that leave no trace.

    Each pilot is a complete short cycle from the weights as they are, over the same batches in the same order, so that
    pilots are compared in pairs. Everything that training changes is put back afterwards, bit for bit.

    Args:
        step: ``step(batch)`` makes an update as your loop does (forward, backward, ``optimizer.step()``) and returns
            the batch's mean loss. A call that only accumulates gradients makes no update.
        optimizer: the optimizer that `step` steps, or several. Groups keep the ratios of their rates, and so do
            optimizers; the peak is the first optimizer's largest.
        batches: whatever `step` takes, in anything that `onecycle.as_batches` takes; gone through as often as needed.
        updates: those that you have, the pilots' among them; train for ``updates - search.updates``.
        lr_max: the peak that is left only for evidence; None: the learning rate that the optimizer has.
        evaluate: measures the model as it stands on held-out data, on few batches, as often as there are pilots:
            returns ``{"loss": ..., "accuracy": ...}`` or one of them. None: by the training losses of the last quarter.
        share: of the updates that pilots may take. Above a tenth they are made for short runs too, whatever part of
            the run the least length is that tells something.
        policy: the name of a preset.
        model, keep: as for `onecycle.range_test`.
        seed: of the order and of what the step draws.

    Raises:
        ConfigError: arguments that cannot be used.
        DataError: fewer than two batches, or an iterator, which cannot be put back.
        Interrupted: Ctrl-C or SIGTERM came; everything is as before.

    >>> import torch
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    >>> def step(batch):
    ...     loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> batches = list(torch.randn(200, 64, 4, generator=torch.Generator().manual_seed(0)))
    >>> found = search(step, optimizer, batches, updates=1100)
    >>> found.lr_max > 0.001, found.updates <= 110, model.weight.grad
    (True, True, None)
    """
    optimizers, modules = swept_parts(optimizer, model, step, evaluate, *keep)
    whole("updates", updates, what="the number of updates, those of the pilots among them")
    checks.share("share", share, of="the updates")
    own = max(float(group["lr"]) for group in optimizers[0].param_groups)
    default = number("lr_max", own if lr_max is None else lr_max, above=0, what="the peak without evidence")
    kind = kind_of(optimizers[0])
    each = length(updates, int(share * updates), kind, short=share > SHARE)
    if not each:
        return _too_few(default, updates)
    with stop_requests() as stop, sampler_kept(batches):
        swept = SweptStep(
            step,
            optimizers,
            source_of(batches, seed, "search"),
            evaluate,
            None,
            modules,
            keep,
            seed,
            stop,
            "search",
            given=model is not None,
        )
        pilots = StepPilots(swept, partial(preset, policy), updates)
        return _searched(pilots, each, updates, default, share, PilotRecord(), kind, foreign=True)


@dataclass(frozen=True)
class Method:
    """Another way to train what pilots are made of, tried once beside the default one.

    Args:
        name: of it.
        policy: from a peak and a number of updates to the policy.
        scale: of its peaks, for the same as the default's.
        during: a block within which it trains.
    """

    name: str
    policy: Callable[[float, int], Policy]
    scale: float = 1.0
    during: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass
class PilotRecord:
    """The pilots of a run, those that were made before it was broken off among them: they are not made again.

    Args:
        before: in their order.
        keep: called with each new one.
    """

    before: list[Pilot] = field(default_factory=list)
    keep: Callable[[dict[str, Any]], None] = lambda made: None

    @classmethod
    def kept_in(cls, recording: Recording) -> Self:
        """Those of the peak of a run on disk, which new ones are added to."""
        return cls([Pilot(**one) for one in recording.pilots() if "setting" not in one], recording.keep_pilot)

    def of(self, run: RunPilot, all_made: list[Pilot], method: str | None = None) -> RunPilot:
        """`run`, or what is known of it."""

        def known(lr_max: float, updates: int) -> Pilot:
            i = len(all_made)
            old = self.before[i] if i < len(self.before) else None
            same = old is not None and (old.lr_max, old.updates, old.method) == (lr_max, updates, method)
            made = old if same and old is not None else replace(run(lr_max, updates), method=method)
            if made is not old:
                self.keep(made.to_dict())
            all_made.append(made)
            return made

        return known


def updates_within(state: TrainState, train: Batches, budget: Budget, spent: float) -> int:
    """The updates of a run: those of its budget, or about as many as its seconds hold after those that are `spent`.

    The pace is measured by updates that leave no trace; where the first one takes long, or those after it suddenly do,
    by that alone.
    """
    known = budget.total_updates(updates_per_epoch(train, state.accumulate))
    if known is not None or budget.seconds is None:
        return known or 1
    plain = copy(state)
    plain.norm_statistics = "running"
    batches = peeked(train, (1 + PACE) * state.accumulate)
    started = time.perf_counter()
    few = trial(plain, batches, "1 updates", preset("constant", 1e-9))
    if few.seconds < COLD * budget.seconds:
        until = time.perf_counter() + 2 * (1 + PACE) * COLD * budget.seconds
        with suppress(OutOfTime):
            few = trial(plain, batches, f"{1 + PACE} updates", preset("constant", 1e-9), until=until)
    left = budget.seconds - spent - (time.perf_counter() - started)
    return state.runtime.ranks.broadcast(max(1, int(left / max(few.pace, 1e-9))))


def search_of(
    state: TrainState,
    train: Batches,
    valid: Batches | None,
    updates: int,
    default: float,
    *,
    share: float = SHARE,
    policy: Callable[[float, int], Policy],
    methods: Sequence[Method] = (),
    record: PilotRecord | None = None,
    stop: StopRequest | None = None,
    seconds: float = math.inf,
) -> Search:
    """Choose the peak of a run of so many `updates`, its pilots included, for `state`; nothing is changed.

    Args:
        default: the peak that is taken without evidence; that of the first pilot in `record`, where there is one.
        share: of the updates that pilots may take.
        policy: from a peak and a number of updates to the policy of a run.
        methods: others that are tried too, where the budget is large enough for their pilots.
        record: of the pilots of a run that may be broken off.
        stop: where a signal came, the search is left after the update under way.
        seconds: of the run, where those are its budget: pilots that take more than their share of it are given up.

    Raises:
        Interrupted: `stop` has a signal; everything is as before.
        DataError: no batches.
    """
    record = record or PilotRecord()
    default = record.before[0].lr_max if record.before else default
    kind = kind_of(state.optimizer)
    allowed = int(share * updates)
    each = length(updates, allowed, kind, methods=len(methods))
    if not each:
        methods, each = (), length(updates, allowed, kind)
    if not each:
        return _too_few(default, updates)
    until = time.perf_counter() + share * seconds - sum(p.seconds for p in record.before)
    pilots = StatePilots(state, train, valid, policy, updates, each, stop, until)
    try:
        others = [(one, pilots.by(one.policy, one.during)) for one in methods]
        return _searched(pilots, each, updates, default, share, record, kind, seconds, others=others)
    except Interrupted as stopped:
        name = None if stop is None else stop.name
        raise Interrupted(f"stopped by {name} in a pilot, before the first update", signal=stopped.signal) from None


def _searched(
    pilots: Pilots, each: int, updates: int, default: float, share: float, record: PilotRecord, kind: str,
    seconds: float = math.inf, *, foreign: bool = False, others: Sequence[tuple[Method, Pilots]] = (),
) -> Search:  # fmt: skip
    started, made, judging = time.perf_counter(), list[Pilot](), pilots.evaluation
    allowed = int(share * updates) - judging
    if allowed // (3 + len(others)) - judging < LEAST[kind]:  # held-out batches may be larger than asked for
        others = ()
    each = min(each, allowed // (3 + len(others)) - judging)
    if each < LEAST[kind]:
        return _too_few(default, updates)
    most = allowed // (each + judging) - len(others)
    levels, taken, why = cache(pilots.levels), None, OUT_OF_TIME if others else None
    choice = Choice(default, None, None, OUT_OF_TIME)
    with suppress(OutOfTime):
        choice = search_peak(record.of(pilots, made), levels, default, each, kind, most, foreign=foreign)
        if others:
            taken, why = _tried(others, each, made, levels(), record, kind)
    if taken is not None:
        choice = choice.scaled(taken.scale, f'"{taken.name}"')
    cost = sum(p.updates + judging for p in made) + judging * bool(made)
    took = time.perf_counter() - started + sum(p.seconds for p in record.before)
    part = cost / updates if math.isinf(seconds) else took / seconds
    return Search(
        choice.lr_max, default, choice.low, choice.high, choice.reason, tuple(made), cost, updates, took, part,
        None if taken is None else taken.name, why,
    )  # fmt: skip


def _tried(
    others: Sequence[tuple[Method, Pilots]], each: int, made: list[Pilot], levels: Levels, record: PilotRecord,
    kind: str,
) -> tuple[Method | None, str]:  # fmt: skip
    """The other method that is better than the default one by a pilot each, and why; None for the default."""
    best = (best_of(made, levels) or made[0]).lr_max
    for method, run in others:
        record.of(run, made, method.name)(rounded(best * method.scale), each)
    name, why = choose_method(made, levels, kind)
    return next((method for method, _ in others if method.name == name), None), why


def _too_few(default: float, updates: int) -> Search:
    return Search(
        default, default, None, None, "the budget is too small for pilots that can tell", (), 0, updates, 0.0, 0.0
    )


def peak_recorded(resolved: Mapping[str, Any]) -> tuple[float | None, int, str | None]:
    """The peak of a recorded run, None as long as it is not known, what pilots took in updates, and the method."""
    searched = resolved.get("search") or {}
    return resolved.get("lr_max"), searched.get("updates", 0), searched.get("method")

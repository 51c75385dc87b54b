"""Pilots: short complete runs of one state at several peaks, over the same batches, that leave no trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple, Protocol, Self

import torch

from ..data.batches import Batches, ListBatches, peeked
from ..range_test.api import part_of
from ..range_test.sweep import SweptStep
from ..schedules.policy import Policy, position
from ..training import evaluate as evaluation
from ..training.balance import targets_of, trivial_loss
from ..training.norms import batch_statistics, trained
from ..training.objectives import Supervised
from ..training.ranks import Ranks
from ..training.signals import StopRequest
from ..training.state import TrainState
from ..training.step import samples_in
from .trial import trial

# Held-out samples that a pilot is judged on, at most, what a forward pass costs beside an update, and what judging a
# pilot may cost beside its updates.
SAMPLES, EVALUATING, JUDGING = 512, 1 / 3, 1 / 4
# What an evaluation of somebody's own is taken to cost, in updates.
EVALUATIONS = 4
# A pilot is lost where its loss is such a share above both that of knowing nothing and that at the start.
RISEN = 0.1

RunPilot = Callable[[float, int], "Pilot"]
"""From a peak and a number of updates to what a pilot comes to."""


@dataclass(frozen=True)
class Pilot:
    """A short complete run up to the peak `lr_max`, and what it came to on held-out data.

    Args:
        lr_max: the peak learning rate.
        updates: of the run.
        loss: the held-out loss at its end; None where it was `lost`.
        valid: all that was measured there.
        seconds: what it took.
        of: the updates of the run that it was made for, its pilots included.
        lost: why it came to nothing, in words; None for one that did not.
        method: what it was trained by, where several methods are tried; None for the one that the run has by default.
    """

    lr_max: float
    updates: int
    loss: float | None
    valid: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    of: int = 0
    lost: str | None = None
    method: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def pilot(lr_max: float, updates: int, of: int, run: Callable[[], tuple[Mapping[str, float] | None, int]]) -> Pilot:
    """Make a pilot of `run`, which trains and returns what was measured, or None, and the updates that were made.

    One that runs out of memory is lost; on several ranks that ends all of them.
    """
    started = time.perf_counter()
    try:
        valid, made = run()
        lost = None if valid is not None and math.isfinite(valid["loss"]) else f"the loss was lost after {made} updates"
    except (torch.OutOfMemoryError, MemoryError):
        if Ranks.here().world > 1:  # which the others, who wait for this one, do not know of
            raise
        valid, lost = None, "out of memory"
    seconds = time.perf_counter() - started
    if valid is None or lost is not None:
        return Pilot(lr_max, updates, None, {}, seconds, of, lost)
    return Pilot(lr_max, updates, valid["loss"], valid, seconds, of)


class Levels(NamedTuple):
    """Held-out losses to compare with: of knowing `nothing`, and of the weights at the `start`."""

    nothing: float
    start: float

    def lost(self, pilot: Pilot) -> bool:
        """Whether a pilot came to nothing: its loss is not finite, or it rose."""
        highest = max(self)
        return pilot.loss is None or pilot.loss > highest + RISEN * abs(highest)


class Pilots(Protocol):
    """What makes pilots. `evaluation` is what judging one costs, in updates."""

    evaluation: int

    def levels(self) -> Levels:
        """The held-out losses of the best constant answer, where that is known, and of the weights as they are."""
        ...

    def __call__(self, lr_max: float, updates: int) -> Pilot:
        """Make a pilot."""
        ...


class StatePilots:
    """Pilots of a state in training, each from its weights as they are and over the batches that its run begins with.

    They are judged on a part of `valid`; without validation data on training batches that none of them comes to, where
    there are so many; or on those that are `held_out` for other pilots too. After `until`, by `time.perf_counter`, a
    pilot is broken off.
    """

    def __init__(
        self, state: TrainState, train: Batches, valid: Batches | None, policy: Callable[[float, int], Policy], of: int,
        each: int, stop: StopRequest | None = None, until: float = math.inf, held_out: Sequence[Any] | None = None,
    ):  # fmt: skip
        self._state = copy(state)
        self._state.norm_statistics = "running"  # held-out batches bring theirs
        self._policy, self._of, self._stop, self._until = policy, of, stop, until
        self._during: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._train = train = peeked(train, (each + 1) * state.accumulate)
        ranks = state.runtime.ranks  # which may have data of their own each
        batch = ranks.broadcast(samples_in(next(iter(train.epoch(0)), ())) * state.accumulate)
        if held_out is None:
            samples = max(1, min(SAMPLES, int(JUDGING / EVALUATING * each * batch)))
            part = self._part(valid, each * state.accumulate, samples)
            held_out = [state.runtime.move(batch) for batch in part[: -ranks.largest(-len(part))[0]]]
        self.held_out = held_out
        self._loss = replace(state.loss, meters={}) if hasattr(state.loss, "meters") else state.loss  # type: ignore[type-var]
        samples = ranks.broadcast(sum(samples_in(part) for part in self.held_out))
        self.evaluation = math.ceil(EVALUATING * samples / max(1, batch))

    def _part(self, valid: Batches | None, used: int, samples: int) -> list[Any]:
        if valid is not None:
            return part_of(valid, samples)
        at, part = self._state.at, list[Any]()
        for batch in chain(self._train.epoch(at.epoch, at.batch + used), self._train.epoch(at.epoch)):
            part.append(batch)
            if sum(map(samples_in, part)) >= samples:
                break
        return part

    def by(self, policy: Callable[[float, int], Policy], during: Callable[[], AbstractContextManager[Any]]) -> Self:
        """The same by another policy, each within a block that `during` makes."""
        other = copy(self)
        other._policy, other._during = policy, during
        return other

    def levels(self) -> Levels:
        """The held-out losses of the best constant answer, where that is known, and of the weights as they are."""
        loss = replace(self._loss, smoothing=0.0) if isinstance(self._loss, Supervised) else self._loss
        known = self._state.runtime.ranks.broadcast(trivial_loss(loss, targets_of(ListBatches(self.held_out))))
        start = self._evaluate()["loss"]
        return Levels(start if known is None else known, start)

    def _evaluate(self) -> dict[str, float]:
        state = self._state
        with batch_statistics(trained(*state.modules)):
            return evaluation.evaluate(state.model, self.held_out, self._loss, state.runtime)

    def __call__(self, lr_max: float, updates: int) -> Pilot:
        def run() -> tuple[Mapping[str, float] | None, int]:
            policy = self._policy(lr_max, updates)
            with self._during():
                result = trial(
                    self._state, self._train, f"{updates} updates", policy, self._evaluate, self._stop, self._until
                )
            return result.valid, result.updates

        return pilot(lr_max, updates, self._of, run)


class StepPilots:
    """Pilots of a step in somebody's own loop."""

    def __init__(self, swept: SweptStep, policy: Callable[[float, int], Policy], of: int):
        self._swept, self._policy, self._of = swept, policy, of
        self.evaluation = 0 if swept.evaluate is None else EVALUATIONS

    def levels(self) -> Levels:
        """The held-out loss of the weights as they are, or a training loss; what is trivial is not known."""
        with self._swept.begin(0) as run:
            start = run.update(0.0) if self._swept.evaluate is None else _loss(run.measure())["loss"]
        return Levels(start, start)

    def __call__(self, lr_max: float, updates: int) -> Pilot:
        def run() -> tuple[Mapping[str, float] | None, int]:
            policy, losses = self._policy(lr_max, updates), list[float]()
            with self._swept.begin(0) as run:
                for k in range(updates):
                    losses.append(run.update(policy(position(k, updates))["lr"]))
                    if not math.isfinite(losses[-1]):
                        return None, k
                if self._swept.evaluate is not None:
                    return _loss(run.measure()), updates
            last = losses[-max(1, updates // 4) :]
            return {"loss": math.fsum(last) / len(last)}, updates

        return pilot(lr_max, updates, self._of, run)


def _loss(measured: Mapping[str, float]) -> Mapping[str, float]:
    """What was measured, an accuracy as the loss where there is no other."""
    return measured if "loss" in measured else {"loss": 1 - measured["accuracy"], **measured}

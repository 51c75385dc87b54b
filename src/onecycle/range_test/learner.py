"""The range test of a learner's own step, data and loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ..data.batches import Batches, DatasetBatches, ListBatches, OneShotBatches, TensorBatches
from ..errors import ConfigError, TrainingError
from ..training import evaluate as evaluation
from ..training.loop import groups_of, updates_per_epoch
from ..training.objectives import Supervised
from ..training.state import TrainState
from ..training.step import samples_in, update
from .api import MEASUREMENTS, MOST, RangeTest, check_counts, default_updates, range_test, reordered
from .sharpness import HessianFree, sharpness

# Held-out samples of a measurement, at least and at most.
SAMPLES = (128, 512)
# Training samples that the sharpness is measured on, and the change of an estimate, as a share, that ends the search.
SHARPNESS_SAMPLES, SHARPNESS_TOLERANCE = 64, 0.05


@dataclass(frozen=True)
class _Groups:
    """The batches of each update."""

    batches: Batches
    size: int

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Any]]:
        return groups_of(self.batches.epoch(epoch, start), self.size)


def range_test_of(
    state: TrainState,
    train: Batches,
    valid: Batches | None,
    *,
    build: Callable[[int], nn.Module] | None = None,
    updates: int | None = None,
    repeats: int = 2,
    full: bool = False,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> RangeTest:
    """`range_test` of what `state` trains on `train`, with a part of `valid` held out; see `Learner.range_test`.

    In `full`, the sharpness of the training loss is measured along the first sweep. The seconds that it takes are in
    ``cost``, beside those of the whole. `say` is told in a line how long the test takes, as nothing else tells of it.
    """
    check_counts(updates, repeats)
    if isinstance(train, OneShotBatches):  # what is read of it stays for the training
        train = ListBatches(train.peek((updates or MOST) * state.accumulate))
    allowed = default_updates(updates_per_epoch(train, state.accumulate)) if updates is None else updates
    if say is not None:
        more = ", and several times that for the sharpness" if full else ""
        say(f"range test: takes about the time of {allowed} updates{more}")
    batch = samples_in(next(iter(train.epoch(0)), ())) * state.accumulate
    samples = min(SAMPLES[1], max(SAMPLES[0], allowed // repeats * batch // (2 * MEASUREMENTS)))
    held_out = None if valid is None else [state.runtime.move(part) for part in _part(valid, samples)]

    loss = replace(state.loss, meters={}) if isinstance(state.loss, Supervised) else state.loss

    def step(group: list[Any]) -> torch.Tensor | float:
        if not all(module.training for module in state.model.modules()):
            state.model.train()
        try:
            return update(state, [state.runtime.move(part) for part in group])[0]
        except TrainingError:  # gradients that overflow at any scale
            return math.nan

    def evaluate() -> dict[str, float]:
        return evaluation.evaluate(state.model, held_out or (), loss, state.runtime)

    def restart(seed: int) -> None:
        try:
            state.model.load_state_dict(build(seed).state_dict())  # type: ignore[misc]
        except (AttributeError, RuntimeError) as error:
            raise ConfigError(f"build(seed) makes the model that is tested, with new weights: {error}") from error

    curvature = _Curvature(state, train) if full else None
    test = range_test(
        step,
        state.optimizer,
        _Groups(reordered(train, state.seed), state.accumulate),
        evaluate=None if held_out is None else evaluate,
        updates=updates,
        repeats=repeats,
        restart=None if build is None else restart,
        model=state.model,
        keep=[] if state.scaler is None else [state.scaler],
        probe=curvature,
        seed=state.seed,
        **options,
    )
    if curvature is None:
        return test
    cost = {**test.cost, "sharpness_seconds": round(curvature.seconds, 3)}
    return replace(test, sharpness=curvature.found, cost=cost)


class _Curvature:
    """A probe: the sharpness of the loss of a few samples where it is due, and the Hessian-free estimate everywhere."""

    def __init__(self, state: TrainState, train: Batches):
        self.found: dict[str, list[float | None]] = {"lr": [], "largest_eigenvalue": [], "hessian_free": []}
        self.seconds = 0.0
        self._state = state
        self._parts = [state.runtime.move(part) for part in _part(train, SHARPNESS_SAMPLES)]
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._free = HessianFree(self._parameters)

    def __call__(self, lr: float, due: bool) -> None:
        started = time.perf_counter()
        free = self._free.update(lr)
        if due:
            largest = self._sharpness()
            for name, value in (("lr", lr), ("largest_eigenvalue", largest), ("hessian_free", free)):
                self.found[name].append(value)
        self.seconds += time.perf_counter() - started

    def _sharpness(self) -> float | None:
        try:
            return sharpness(self._loss, self._parameters, tolerance=SHARPNESS_TOLERANCE)
        except TrainingError:
            if not self.found["lr"]:  # it cannot be differentiated twice
                raise
            return None  # it is no longer finite

    def _loss(self) -> torch.Tensor:
        """In float32, whatever the precision of the training; compiled models have no second derivative."""
        sizes = [samples_in(part) for part in self._parts]
        results = [self._state.loss(self._state.model, part) for part in self._parts]
        losses = [result[0] if isinstance(result, tuple) else result for result in results]
        return sum(loss * (n / sum(sizes)) for loss, n in zip(losses, sizes, strict=True))  # type: ignore[return-value]


def _part(batches: Batches, samples: int) -> list[Any]:
    """About so many samples: evenly spaced where the data can be indexed, else the first ones."""
    if isinstance(batches, TensorBatches):
        n = len(batches.tensors[0])
        index = torch.linspace(0, n - 1, min(samples, n)).long()
        tensors = tuple(tensor[index.to(tensor.device)] for tensor in batches.tensors)
        batches = replace(batches, tensors=tensors, batch_size=len(index), shuffle=False, drop_last=False)
    elif isinstance(batches, DatasetBatches):
        n = len(batches.dataset)  # type: ignore[arg-type]
        index = torch.linspace(0, n - 1, min(samples, n)).long().tolist()
        batches = replace(batches, dataset=Subset(batches.dataset, index), batch_size=len(index), shuffle=False)
    part: list[Any] = []
    for batch in _looked_at(batches):
        part.append(batch)
        if sum(map(samples_in, part)) >= samples:
            break
    return part


def _looked_at(batches: Batches) -> Iterator[Any]:
    """The first epoch's batches; those of an iterator stay in it."""
    if not isinstance(batches, OneShotBatches):
        yield from batches.epoch(0)
        return
    for i in count():
        if len(seen := batches.peek(i + 1)) <= i:
            return
        yield seen[i]

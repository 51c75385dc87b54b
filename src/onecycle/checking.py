"""The range test of a learner's own step, data and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from . import evaluation
from .data.loaders import Batches, DatasetBatches, ListBatches, OneShotBatches, TensorBatches
from .errors import TrainingError
from .loop import groups_of, updates_per_epoch
from .range_test import MEASUREMENTS, MOST, RangeTest, default_updates, range_test
from .state import TrainState
from .steps import Supervised, samples_in, update

# Held-out samples of a measurement, at least and at most.
SAMPLES = (128, 512)


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
    **options: Any,
) -> RangeTest:
    """`range_test` of what `state` trains on `train`, with a part of `valid` held out; see `Learner.range_test`."""
    if isinstance(train, OneShotBatches):  # what is read of it stays for the training
        train = ListBatches(train.peek((updates or MOST) * state.accumulate))
    allowed = default_updates(updates_per_epoch(train, state.accumulate)) if updates is None else updates
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
        if build is not None:
            state.model.load_state_dict(build(seed).state_dict())

    return range_test(
        step,
        state.optimizer,
        _Groups(train, state.accumulate),
        evaluate=None if held_out is None else evaluate,
        updates=updates,
        repeats=repeats,
        restart=None if build is None else restart,
        model=state.model,
        keep=[] if state.scaler is None else [state.scaler],
        seed=state.seed,
        **options,
    )


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
    for batch in batches.epoch(0):
        part.append(batch)
        if sum(map(samples_in, part)) >= samples:
            break
    return part

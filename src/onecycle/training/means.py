"""Losses and metrics of updates: read from the device a few at a time, and averaged over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import NonFiniteLoss


class UpdateMeans(NamedTuple):
    """The detached mean loss and metrics of an update over its samples, and what those weigh that do not weigh them."""

    loss: Tensor
    metrics: dict[str, Tensor]
    samples: int
    weights: dict[str, Tensor]

    def copied(self) -> UpdateMeans:
        """The same in memory of its own."""
        metrics, weights = ({name: t.clone() for name, t in part.items()} for part in (self.metrics, self.weights))
        return UpdateMeans(self.loss.clone(), metrics, self.samples, weights)


class Reading:
    """The loss and the metrics of one update: 0-d tensors on the device until somebody asks for `numbers`.

    Asking makes an accelerator wait, so those `beside` it that have not been read yet are read with it. `row` is the
    record that `Update.row` makes of it, once.

    >>> Reading({"loss": torch.tensor(0.5)}).numbers
    {'loss': 0.5}
    """

    __slots__ = ("_beside", "_numbers", "_tensors", "row")

    def __init__(self, tensors: Mapping[str, Tensor], beside: Sequence[Reading] = ()):
        self._tensors, self._beside = tensors, beside
        self._numbers: dict[str, float] | None = None
        self.row: dict[str, Any] | None = None

    @property
    def is_read(self) -> bool:
        """Whether nobody has to wait for the numbers any more."""
        return self._numbers is not None

    @property
    def numbers(self) -> dict[str, float]:
        """``{"loss": ..., metric: ...}``."""
        if self._numbers is None:
            for tensor in self._tensors.values():
                if not tensor.is_cpu:
                    _drain([self, *(other for other in self._beside if other is not self and other._numbers is None)])
                    break
            else:
                self._numbers = {name: tensor.item() for name, tensor in self._tensors.items()}
                self._tensors = {}
        return self._numbers or {}


def _drain(readings: Sequence[Reading]) -> None:
    """Read all of them, in one transfer where their tensors are of one kind."""
    tensors = [tensor for reading in readings for tensor in reading._tensors.values()]
    alike = len({(tensor.dtype, tensor.device) for tensor in tensors}) == 1
    numbers = iter(torch.stack(tensors).tolist() if alike else [tensor.item() for tensor in tensors])
    for reading in readings:
        reading._numbers = {name: next(numbers) for name in reading._tensors}
        reading._tensors = {}


@dataclass
class RunningMeans:
    """Weighted means over the updates of an epoch, added in order: the same sums however often they are read.

    A mean weighs the samples of its update, or what it brings as its weight; one of weight 0 is left out, and where
    nothing has any weight the mean is NaN. Where losses are `watched`, each that was read waits there with its update's
    number and learning rate, and one that is not finite is left out of the means in place of an error.
    """

    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    seconds: float = 0.0
    pending: list[Reading] = field(default_factory=list)
    watched: list[tuple[int, float, float]] | None = None
    _about: list[tuple[int, float, int, Reading | None]] = field(default_factory=list)

    def add(self, step: int, lr: float, update: UpdateMeans) -> Reading:
        """Take in update `step`: its learning rate, and its means with what they weigh."""
        reading = Reading({"loss": update.loss, **update.metrics}, self.pending)
        beside = [weighing for *_, weighing in self._about if weighing is not None] if update.weights else ()
        self.pending.append(reading)
        self._about.append((step, lr, update.samples, Reading(update.weights, beside) if update.weights else None))
        return reading

    def read(self, strict: bool = True) -> None:
        """Add what is pending.

        Raises:
            NonFiniteLoss: where `strict` and not `watched`, naming the first update whose loss is NaN or infinite, and
                its learning rate.
        """
        pending, about, self.pending, self._about = self.pending, self._about, [], []
        for reading, (step, lr, samples, weighing) in zip(pending, about, strict=True):
            numbers, weights = reading.numbers, {} if weighing is None else weighing.numbers
            self.samples += samples
            if weights.get("loss", 1):
                if strict and self.watched is None and not math.isfinite(numbers["loss"]):
                    raise diverged(numbers["loss"], step, lr)
                if self.watched is not None:
                    self.watched.append((step, lr, numbers["loss"]))
                    if not math.isfinite(numbers["loss"]):
                        continue
            for name, value in numbers.items():
                weight = weights.get(name, samples)
                self.sums[name] = self.sums.get(name, 0.0) + (value * weight if weight else 0.0)
                self.weights[name] = self.weights.get(name, 0) + weight

    def means(self, strict: bool = True) -> dict[str, float]:
        """The means so far; empty where there was no sample."""
        self.read(strict)
        return {
            name: total / weight if (weight := self.weights[name]) else math.nan for name, total in self.sums.items()
        }


def diverged(what: object, step: int, lr: float) -> NonFiniteLoss:
    """The error that says what is no longer finite, since which update, and what to try."""
    return NonFiniteLoss(
        f"the loss became {what} at update {step}, at learning rate {lr:.4g}. Try a smaller lr_max "
        f"(such as {lr / 3:.2g}), clip=1.0, or a longer warm-up; in fp16, precision bf16 or fp32",
        step=step,
        lr=lr,
    )

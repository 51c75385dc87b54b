"""Observers of the validation measure: keep the best weights, stop when it no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from .. import text
from ..checks import number, whole
from ..errors import ConfigError, StopTraining, did_you_mean
from ..training.loop import EpochEnd, Event
from .statistics import lower_is_better

if TYPE_CHECKING:
    from ..training.state import TrainState


def measure_in(valid: Mapping[str, float], name: str) -> float:
    """The measure called `name` as a number that is better where it is larger; NaN is worse than all.

    Raises:
        ConfigError: there is no such measure.
    """
    if name not in valid:
        raise ConfigError(f"no validation measure is called {name!r}: {did_you_mean(name, valid)}")
    value = -valid[name] if lower_is_better(name) else valid[name]
    return -math.inf if math.isnan(value) else value


class KeepBest:
    """Keeps a copy of the weights that had the best validation measure, the first of equals, in ``state.best``.

    Those of a module in the loss are kept with them. Where the state has averaged weights, it is
    those. A resumed run goes on with the best of before.
    """

    def __init__(self, state: TrainState, name: str):
        self._state, self._name = state, name

    @classmethod
    def asked(cls, name: str | None, state: TrainState, validated: bool, measured: Iterable[str]) -> list[Self]:
        """What keeps the best weights by the measure `name`, where there is one, of those that are `measured`.

        Raises:
            ConfigError: it is none of them, or the run is not `validated`.
        """
        if name is None:
            return []
        if not validated:
            raise ConfigError(f"keep_best={name!r} needs validation data: give valid, or leave it out")
        if not any(name == known or name.startswith(f"{known}_") for known in measured):
            raise ConfigError(f"keep_best={name!r} is no validation measure: {did_you_mean(name, measured)}")
        return [cls(state, name)]

    def __call__(self, event: Event) -> None:
        if event.valid is not None:
            self.take(event.valid, event.step if isinstance(event, EpochEnd) else event.step + 1, event.epoch)

    def take(self, valid: Mapping[str, float], step: int, epoch: int) -> None:
        """Keep the weights as they are after `step` updates, if `valid`, which was measured with them, is the best."""
        best = self._state.best
        if best is None or measure_in(valid, self._name) > measure_in(best["valid"], self._name):
            with self._state.averaged():
                kept = [_tensors(module) for module in self._state.modules]
            self._state.best = {"step": step, "epoch": epoch, "valid": dict(valid), "modules": kept}

    def restore(self) -> tuple[dict[str, float], str] | None:
        """Bring the best weights back; what was measured with them, and a note. None where nothing was measured."""
        best = self._state.best
        if best is None:
            return None
        with torch.no_grad():
            for module, tensors in zip(self._state.modules, best["modules"], strict=True):
                module.load_state_dict(tensors, strict=False)
        said = text.measure(self._name, best["valid"][self._name])
        when = f"update {best['step']}, epoch {best['epoch'] + 1}" if best["step"] else "before the first update"
        note = f"kept: the weights of {when}: validation {self._name} {said}"
        return best["valid"], note


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


class EarlyStopping:
    """Ends a fit when a validation measure has not become better for `patience` measurements.

    Give it as an observer: ``fit(..., observers=[EarlyStopping("loss", patience=5)])``. A schedule that is ended early
    has not reached its small learning rates: with one cycle a smaller budget is nearly always the better choice.

    Args:
        name: of the measure; losses and errors are better where they are smaller.
        patience: measurements without a better one.
        least: how much better counts.

    Raises:
        ConfigError: arguments that cannot be used, or, when called, no such measure.
    """

    def __init__(self, name: str = "loss", patience: int = 5, least: float = 0.0):
        self._name = name
        self._patience = whole("patience", patience, what="the measurements without a better one")
        self._least = number("least", least, least=0)
        self.begin()

    def __call__(self, event: Event) -> None:
        if event.valid is not None:
            self._take(event.row["step"], event.valid)
            self._end_if_done()

    def begin(self, measured: Iterable[tuple[int, Mapping[str, float]]] = ()) -> None:
        """Begin a run, or go on with one that has measured before: pairs of an update's number and the measures.

        Raises:
            StopTraining: that run was to end after what it measured last.
        """
        self._best, self._since, self._last = -math.inf, 0, -1
        for step, valid in measured:
            self._take(step, valid)
        self._end_if_done()

    def _take(self, step: int, valid: Mapping[str, float]) -> None:
        if step != self._last:  # the end of an epoch may repeat what was measured after its last update
            value, self._last = measure_in(valid, self._name), step
            better = value > self._best + self._least
            self._best, self._since = (value, 0) if better else (self._best, self._since + 1)

    def _end_if_done(self) -> None:
        if self._since >= self._patience:
            raise StopTraining(f"validation {self._name} has not become better in {self._patience} measurements")

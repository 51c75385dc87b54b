"""Which loss and which metrics fit outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, DataError
from .step import Loss, Metric, Supervised, accuracy, binary_accuracy, cross_entropy

# In training, of a classifier; measured in docs/log.md.
SMOOTHING = 0.1
Metrics = Mapping[str, Any] | Sequence[Any] | None


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats of logits against targets from 0 to 1 of the same shape, or [n, 1] and [n]."""
    return F.binary_cross_entropy_with_logits(outputs.view_as(targets), targets.to(outputs.dtype))


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of outputs and targets of the same shape, or [n, 1] and [n]."""
    return F.mse_loss(outputs.view_as(targets), targets)


def _binary_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_accuracy(outputs.view_as(targets), targets)


def pick_task(
    outputs: Tensor,
    targets: Tensor,
    metrics: Metrics = None,
    smoothing: float | None = None,
    known: Sequence[Tensor] = (),
) -> tuple[Supervised, str]:
    """The loss for such outputs and targets, and a note that says what was picked and why.

    * whole-number targets, one dimension fewer than the outputs: cross-entropy, with accuracy; its label smoothing is
      `smoothing` or, where that is None, 0.1 for one target a sample and none for one a token
    * targets that are all 0 or 1, in the outputs' shape: binary cross-entropy on logits, with accuracy
    * other floating-point targets, in the outputs' shape: mean squared error

    `outputs` and `targets` are of a few samples; `known` are all the targets at hand, which are looked at too.

    Raises:
        DataError: shapes that do not fit, or labels out of range.
        ConfigError: smoothing of anything but a cross-entropy.

    >>> task, note = pick_task(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    >>> note
    'loss: cross-entropy over 3 classes (the targets are whole numbers), label smoothing 0.1, with accuracy'
    """
    for what, value in (("the model's outputs", outputs), ("the targets", targets)):
        if not isinstance(value, Tensor):
            raise DataError(f"{what} are a {type(value).__name__}, not one tensor: give loss=fn(model, batch)")
    shapes = f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)} of {str(targets.dtype)[6:]}"
    whole = not targets.is_floating_point()
    same = outputs.shape == targets.shape or outputs.shape == (*targets.shape, 1)
    known = (targets, *known)
    binary = same and all(bool(((part == 0) | (part == 1)).all()) for part in known)
    if whole and outputs.ndim == targets.ndim + 1 and outputs.shape[:-1] == targets.shape and outputs.shape[-1] > 1:
        check_labels(known, outputs.shape[-1])
        found, measures = _split(metrics, {"accuracy": accuracy})
        amount = (SMOOTHING if outputs.ndim == 2 else 0.0) if smoothing is None else smoothing
        note = f"loss: cross-entropy over {outputs.shape[-1]} classes (the targets are whole numbers)"
        note += f", label smoothing {amount:g}" if amount else ""
        return Supervised(cross_entropy, found, measures, amount), note + _with(found, measures)
    if smoothing:
        raise ConfigError(f"smoothing is for a cross-entropy, which does not fit here ({shapes}); give smoothing=0")
    if binary:
        found, measures = _split(metrics, {"accuracy": _binary_accuracy})
        note = "loss: binary cross-entropy on logits (the targets are all 0 or 1)"
        return Supervised(binary_cross_entropy, found, measures), note + _with(found, measures)
    if same and not whole:
        found, measures = _split(metrics, {})
        return Supervised(mean_squared_error, found, measures), f"loss: mean squared error ({shapes})" + _with(
            found, measures
        )
    raise DataError(
        f"outputs and targets do not fit any default loss: {shapes}. Cross-entropy takes outputs [n, classes] and "
        "whole targets [n]; binary cross-entropy and squared error take equal shapes. Mend the model's last layer or "
        "the targets, or give loss=fn(model, batch)"
    )


class Perplexity:
    """A meter: exp of the mean cross-entropy over all tokens; logits [n, length, classes], targets [n, length]."""

    def reset(self) -> None:
        """Forget everything."""
        self._sum, self._tokens = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        self._sum += cross_entropy(outputs, targets).item() * targets.numel()
        self._tokens += targets.numel()

    def compute(self) -> float:
        """The perplexity so far."""
        return math.exp(self._sum / self._tokens)


def given_loss(loss: Callable[..., Any], metrics: Metrics = None) -> Loss:
    """The user's loss: a criterion of torch.nn gets metrics beside it; any other is ``fn(model, batch)`` and stays."""
    if not isinstance(loss, nn.Module) and getattr(loss, "__module__", "") != "torch.nn.functional":
        if metrics is not None:
            raise ConfigError("a loss of your own, fn(model, batch), returns its metrics itself: (loss, {name: mean})")
        return loss
    cross = isinstance(loss, nn.CrossEntropyLoss) or loss is F.cross_entropy
    return Supervised(loss, *_split(metrics, {"accuracy": accuracy} if cross else {}))


def check_labels(targets: Sequence[Tensor], classes: int) -> None:
    """Raise a `DataError` where a whole-number target is not one of 0 ... classes - 1."""
    low, high = min(int(part.min()) for part in targets), max(int(part.max()) for part in targets)
    if low < 0 or high >= classes:
        raise DataError(
            f"labels must lie from 0 to {classes - 1}, since the model has {classes} outputs; found labels from {low} "
            f"to {high}. Mend the labels, or give the model {high + 1} outputs"
        )


def _split(metrics: Metrics, default: dict[str, Metric]) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Functions of a batch, and meters that gather (torchmetrics), by name."""
    if metrics is None:
        return default, {}
    named = dict(metrics) if isinstance(metrics, Mapping) else {_name(m): m for m in metrics}
    meters = {name: m for name, m in named.items() if hasattr(m, "compute") and hasattr(m, "update")}
    if not all(callable(m) or name in meters for name, m in named.items()) or "loss" in named:
        raise ConfigError(
            "metrics are functions of (outputs, targets), or torchmetrics objects, and none is named loss; received "
            f"{metrics!r}"
        )
    return {name: m for name, m in named.items() if name not in meters}, meters


def _name(metric: Any) -> str:
    return getattr(metric, "__name__", type(metric).__name__.lower())


def _with(metrics: Mapping[str, Any], meters: Mapping[str, Any]) -> str:
    names = [*metrics, *meters]
    return ", with " + ", ".join(names) if names else ""


def activation(task: Any) -> Callable[[Tensor], Tensor]:
    """From the outputs to what a prediction is: probabilities for the two cross-entropies, else the outputs."""
    criterion = getattr(task, "criterion", None)
    if criterion is cross_entropy or criterion is F.cross_entropy or isinstance(criterion, nn.CrossEntropyLoss):
        return lambda outputs: torch.softmax(outputs, -1)
    return torch.sigmoid if criterion is binary_cross_entropy else lambda outputs: outputs

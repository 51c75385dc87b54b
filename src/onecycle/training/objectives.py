"""What a model is trained to minimise and measured by: losses, metrics, and which of them fit outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import share
from ..errors import ConfigError, DataError

Metric = Callable[[Tensor, Tensor], Tensor]
"""From outputs [n, ...] and targets [n, ...] to the batch's mean, a 0-d tensor."""

# In training, of a classifier; measured in docs/log.md.
SMOOTHING = 0.1
# The name of the training loss without label smoothing, beside the one that is minimised.
UNSMOOTHED = "loss_unsmoothed"
Metrics = Mapping[str, Any] | Sequence[Any] | None


class Loss(Protocol):
    """From a model and a batch of any structure to the mean loss, or to ``(loss, {metric: batch mean})``."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Supervised:
    """The loss of batches ``(inputs, targets)``: `criterion(model(inputs), targets)`, and metrics beside it.

    Label `smoothing` is for a cross-entropy, and in training alone: a model in evaluation mode is judged without it. So
    that both can be compared, the training loss without it is a metric then, ``loss_unsmoothed``.
    `meters` are objects with `update(outputs, targets)`, `compute()` and `reset()`, as in torchmetrics; they are fed in
    evaluation mode alone.
    """

    criterion: Callable[..., Tensor]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    meters: Mapping[str, Any] = field(default_factory=dict)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        share("smoothing", self.smoothing, of="the target")

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = pair(batch)
        outputs = model(inputs)
        smoothed = bool(self.smoothing) and model.training
        loss = self.criterion(outputs, targets, **({"label_smoothing": self.smoothing} if smoothed else {}))
        if not model.training:
            for meter in self.meters.values():
                meter.update(outputs, targets)
        seen = outputs.detach()
        unsmoothed = {UNSMOOTHED: self.criterion(seen, targets)} if smoothed else {}
        return loss, {**unsmoothed, **{name: metric(seen, targets) for name, metric in self.metrics.items()}}


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose largest output, [n, classes], is at the target, int64 [n]; or the same for each token.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])).item()
    0.5
    """
    return (outputs.argmax(-1) == targets).float().mean()


def binary_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of logits on the right side of zero for targets of 0 and 1 of the same shape, or [n, 1] and [n].

    >>> binary_accuracy(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])).item()
    0.5
    """
    return ((outputs.view_as(targets) > 0) == (targets > 0.5)).float().mean()


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of logits [n, classes] or [n, length, classes] against integers [n] or [n, length]."""
    if outputs.ndim > 2:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    try:
        return F.cross_entropy(outputs, targets.long(), label_smoothing=label_smoothing)
    except IndexError as error:
        raise DataError(f"labels must lie from 0 to {outputs.shape[-1] - 1}, one for each output: {error}") from error


def pair(batch: Any) -> tuple[Any, Any]:
    """The inputs and targets of a batch; a `DataError` where it is no such pair."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    what = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
    raise DataError(
        f"the default loss takes batches (inputs, targets); received a {what}. "
        "For any other structure give loss=fn(model, batch), returning the mean loss of the batch"
    )


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats of logits against targets from 0 to 1 of the same shape, or [n, 1] and [n]."""
    return F.binary_cross_entropy_with_logits(outputs.view_as(targets), targets.to(outputs.dtype))


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of outputs and targets of the same shape, or [n, 1] and [n]."""
    return F.mse_loss(outputs.view_as(targets), targets)


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
    amount = 0.0
    if whole and outputs.ndim == targets.ndim + 1 and outputs.shape[:-1] == targets.shape and outputs.shape[-1] > 1:
        check_labels(known, outputs.shape[-1])
        amount = (SMOOTHING if outputs.ndim == 2 else 0.0) if smoothing is None else smoothing
        criterion, default = cross_entropy, {"accuracy": accuracy}
        words = f"cross-entropy over {outputs.shape[-1]} classes (the targets are whole numbers)"
        words += f", label smoothing {amount:g}" if amount else ""
    elif smoothing:
        raise ConfigError(f"smoothing is for a cross-entropy, which does not fit here ({shapes}); give smoothing=0")
    elif same and all(bool(((part == 0) | (part == 1)).all()) for part in known):
        criterion, default = binary_cross_entropy, {"accuracy": binary_accuracy}
        words = "binary cross-entropy on logits (the targets are all 0 or 1)"
    elif same and not whole:
        criterion, default, words = mean_squared_error, {}, f"mean squared error ({shapes})"
    else:
        raise DataError(
            f"outputs and targets do not fit any default loss: {shapes}. Cross-entropy takes outputs [n, classes] and "
            "whole targets [n]; binary cross-entropy and squared error take equal shapes. Mend the model's last layer "
            "or the targets, or give loss=fn(model, batch)"
        )
    functions, meters = _split(metrics, default)
    names = ", ".join([*functions, *meters])
    return Supervised(criterion, functions, meters, amount), f"loss: {words}" + (names and f", with {names}")


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


def activation(task: Any) -> Callable[[Tensor], Tensor]:
    """From the outputs to what a prediction is: probabilities for the two cross-entropies, else the outputs."""
    criterion = getattr(task, "criterion", None)
    if criterion is cross_entropy or criterion is F.cross_entropy or isinstance(criterion, nn.CrossEntropyLoss):
        return lambda outputs: torch.softmax(outputs, -1)
    return torch.sigmoid if criterion is binary_cross_entropy else lambda outputs: outputs

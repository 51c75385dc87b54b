"""What one update does: forward, loss, backward, accumulate, clip, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, DataError, TrainingError

if TYPE_CHECKING:
    from .runtime import Runtime
    from .state import TrainState

Metric = Callable[[Tensor, Tensor], Tensor]
"""From outputs [n, ...] and targets [n, ...] to the batch's mean, a 0-d tensor."""

OVERFLOWS_ALLOWED = 30


class Loss(Protocol):
    """From a model and a batch of any structure to the mean loss, or to ``(loss, {metric: batch mean})``."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Supervised:
    """The loss of batches ``(inputs, targets)``: `criterion(model(inputs), targets)`, and metrics beside it.

    Label `smoothing` is for a cross-entropy, and in training alone: a model in evaluation mode is judged without it.
    `meters` are objects with `update(outputs, targets)`, `compute()` and `reset()`, as in torchmetrics; they are fed in
    evaluation mode alone.
    """

    criterion: Callable[..., Tensor]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    meters: Mapping[str, Any] = field(default_factory=dict)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing is a share of the target, from 0 to below 1; received {self.smoothing}")

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = pair(batch)
        outputs = model(inputs)
        if self.smoothing and model.training:
            loss = self.criterion(outputs, targets, label_smoothing=self.smoothing)
        else:
            loss = self.criterion(outputs, targets)
        if not model.training:
            for meter in self.meters.values():
                meter.update(outputs, targets)
        seen = outputs.detach()
        return loss, {name: metric(seen, targets) for name, metric in self.metrics.items()}


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose largest output, [n, classes], is at the target, int64 [n]; or the same for each token.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])).item()
    0.5
    """
    return (outputs.argmax(-1) == targets).float().mean()


def binary_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of logits on the right side of zero for targets of 0 and 1, same shape.

    >>> binary_accuracy(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])).item()
    0.5
    """
    return ((outputs > 0) == (targets > 0.5)).float().mean()


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of logits [n, classes] or [n, length, classes] against integers [n] or [n, length]."""
    if outputs.ndim > 2:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    try:
        return F.cross_entropy(outputs, targets.long(), label_smoothing=label_smoothing)
    except IndexError as error:
        raise DataError(f"labels must lie from 0 to {outputs.shape[-1] - 1}, one for each output: {error}") from error


def samples_in(batch: Any) -> int:
    """The number of samples of a batch of any structure: the first length of its first tensor, array or else list.

    >>> samples_in({"ids": torch.zeros(8, 3)}), samples_in((torch.zeros(4, 2), torch.zeros(4)))
    (8, 4)
    """
    shape = _first_shape(batch)
    if shape:
        return int(shape[0])
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), None)
    return len(batch) if isinstance(batch, list | tuple) and batch else 1


def _first_shape(batch: Any) -> Sequence[int]:
    """The first shape with a dimension in a structure of tensors and arrays; else ()."""
    if hasattr(batch, "shape"):
        return batch.shape
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((shape for part in parts if (shape := _first_shape(part))), ())


def compute(loss: Loss, model: nn.Module, batch: Any, runtime: Runtime) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of one batch that is on the runtime's device, in its precision.

    Raises:
        ConfigError: a loss that is not one number.
    """
    with runtime.autocast():
        result = loss(model, batch)
    value, metrics = result if isinstance(result, tuple) else (result, {})
    if not isinstance(value, Tensor) or value.ndim:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ConfigError(f"the loss of a batch is its mean, a tensor without dimensions; received {what}")
    return value, {name: torch.as_tensor(metric).detach() for name, metric in metrics.items()}


def update(state: TrainState, group: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor], int]:
    """One update from a group of batches: the gradient of the mean loss over all their samples.

    A step that overflows in fp16 is tried again on the same batches with the smaller scale, so that update k always
    means the same data. Returns the detached mean loss, the metrics' means and the number of samples.

    Raises:
        TrainingError: the gradients overflow again and again.
    """
    for _ in range(OVERFLOWS_ALLOWED):
        result = _backward(state, group)
        if _apply(state):
            return result
    raise TrainingError(
        f"update {state.step} overflowed {OVERFLOWS_ALLOWED} times in a row in fp16: the gradients are not finite at "
        'any scale. Use precision="bf16" or "fp32", a smaller lr_max, or clip=1.0'
    )


def _backward(state: TrainState, group: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor], int]:
    for parameters in state.optimizer.param_groups:
        for parameter in parameters["params"]:  # as zero_grad(), at a tenth of its cost
            parameter.grad = None
    sizes = [samples_in(batch) for batch in group]
    total = sum(sizes)
    losses: list[Tensor] = []
    all_metrics: list[dict[str, Tensor]] = []
    for batch, size in zip(group, sizes, strict=True):
        loss, metrics = compute(state.loss, state.forward, batch, state.runtime)
        scaled = loss if len(group) == 1 else loss * (size / total)
        (scaled if state.scaler is None else state.scaler.scale(scaled)).backward()
        losses.append(loss.detach())
        all_metrics.append(metrics)
    if len(group) == 1:
        return losses[0], all_metrics[0], total
    weights = torch.tensor(sizes, dtype=torch.float32, device=losses[0].device) / total
    means = {name: (torch.stack([m[name] for m in all_metrics]) * weights).sum() for name in all_metrics[0]}
    return (torch.stack(losses) * weights).sum(), means, total


def _apply(state: TrainState) -> bool:
    """Clip and step; False where a gradient scaler skipped the step."""
    scaler, optimizer = state.scaler, state.optimizer
    if state.clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], state.clip)
    if scaler is None:
        optimizer.step()
        return True
    before, fresh = scaler.get_scale(), not optimizer.state
    scaler.step(optimizer)
    scaler.update()
    applied = not scaler.get_scale() < before
    if fresh and not applied:  # torch's fused SGD leaves a momentum buffer that was never written to
        optimizer.state.clear()
    return applied


def pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    what = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
    raise DataError(
        f"the default loss takes batches (inputs, targets); received a {what}. "
        "For any other structure give loss=fn(model, batch), returning the mean loss of the batch"
    )

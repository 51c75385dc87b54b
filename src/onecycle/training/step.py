"""What one update does: forward, loss, backward, accumulate, clip, update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, TrainingError
from .objectives import Loss
from .runtime import Runtime
from .state import TrainState

OVERFLOWS_ALLOWED = 30


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

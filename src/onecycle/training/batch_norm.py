"""Batch norms: which there are, and those that take the statistics of a batch over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .ranks import Ranks

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(modules: Iterable[nn.Module]) -> list[BatchNorm]:
    """The batch norms among the modules and inside them, each one once."""
    parts = (part for module in modules for part in module.modules())
    return list(dict.fromkeys(part for part in parts if isinstance(part, BatchNorm)))


def synced(model: nn.Module, ranks: Ranks) -> nn.Module:
    """`model` with batch norms that take the statistics of the whole batch: torch's own on GPUs, else `_OverRanks`."""
    if ranks.world == 1:
        return model
    if any(parameter.is_cuda for parameter in model.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for norm in batch_norms([model]):
        norm.forward = _OverRanks(norm, ranks)  # type: ignore[method-assign]
    return model


def over_ranks(norm: BatchNorm) -> bool:
    """Whether a norm takes its statistics over all ranks, which it must do on all of them then."""
    return isinstance(vars(norm).get("forward"), _OverRanks)


class _OverRanks:
    """The forward pass of a batch norm on the CPU, where torch has none over ranks; as `torch.nn.SyncBatchNorm`."""

    def __init__(self, norm: BatchNorm, ranks: Ranks):
        self._norm, self._ranks, self._plain = norm, ranks, type(norm).forward

    def __call__(self, x: Tensor) -> Tensor:
        norm = self._norm
        if not (norm.training or norm.running_mean is None):
            return self._plain(norm, x)
        norm._check_input_dim(x)
        over, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        values = x.new_tensor(float(x.numel() // x.shape[1]), dtype=torch.float32)
        mean, n = _sums(torch.cat([x.float().sum(over), values[None]]), self._ranks)
        mean = mean / n
        centred = x.float() - mean.view(shape)
        spread, _ = _sums(torch.cat([centred.square().sum(over), values[None]]), self._ranks)
        variance = spread / n
        if norm.training and norm.running_mean is not None and norm.running_var is not None:
            with torch.no_grad():
                norm.num_batches_tracked += 1  # type: ignore[operator]
                latest = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), latest)
                norm.running_var.lerp_((spread / (n - 1)).to(norm.running_var.dtype), latest)
        y = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            y = y * norm.weight.view(shape) + norm.bias.view(shape)
        return y.to(x.dtype)


def _sums(parts: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    summed: Any = _Sum.apply(parts, ranks)
    return summed[:-1], summed[-1]


class _Sum(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:  # type: ignore[override]
        ctx.ranks = ranks
        return ranks.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.ranks.sum(gradient.clone()), None

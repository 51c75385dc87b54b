"""The gradients of several ranks, summed while they are computed: by torch's `DistributedDataParallel`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .batch_norm import batch_norms
from .objectives import BatchMeans

Compute = Callable[[Any], BatchMeans]


class _Computation(nn.Module):
    """What is computed of a batch as one module: so the loss may call the model as it likes, or parts of it.

    It has a parameter that is never used: where all of them were, torch would warn that it looks for such ones.
    """

    def __init__(self, compute: Compute, modules: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.unused = nn.Parameter(torch.zeros(1, device=next(self.parts.parameters()).device))
        self._compute = compute

    def forward(self, batch: Any) -> BatchMeans:
        return self._compute(batch)


class Summed:
    """`compute` of a batch on this rank, whose backward pass sums the gradients of all ranks.

    Parameters may be left out by a batch, also on some ranks alone. They are looked for in each update, so that the
    buckets in which gradients are summed stay as they are built, and a run that is resumed sums in the same order.
    Buffers but for those of batch norms are the main rank's in each forward pass; so are these with `statistics`.
    """

    def __init__(self, compute: Compute, modules: list[nn.Module], group: Any, *, statistics: bool):
        norms = {id(b) for norm in batch_norms(modules) for b in norm.buffers()}
        others = any(id(b) not in norms for module in modules for b in module.buffers())
        computation = _Computation(compute, modules)
        on_cpu = next(computation.parameters()).is_cpu
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated.*")  # by what came in torch 2.13
            self._parallel = DistributedDataParallel(
                computation, broadcast_buffers=others or (statistics and bool(norms)), init_sync=False,
                process_group=group if on_cpu else None, find_unused_parameters=True, gradient_as_bucket_view=True,
            )  # fmt: skip
        self._instead: dict[Tensor, Tensor] | None = None
        self._parallel.register_comm_hook(group if on_cpu else None, lambda group, bucket: self._sum(group, bucket))

    def _sum(self, group: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        if self._instead is not None:
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
                before = self._instead.get(parameter)
                gradient.zero_() if before is None else gradient.copy_(before)
        work: Any = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    @contextmanager
    def computing(self, last: bool) -> Iterator[Compute]:
        """A block for a batch of an update, and its backward pass; the gradients are summed in that of the last one."""
        with nullcontext() if last else self._parallel.no_sync():
            yield self._parallel

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """A block for a backward pass that counts for nothing: what was there before it is summed."""
        parameters = self._parallel.parameters()
        self._instead = {p: p.grad.clone() for p in parameters if p.grad is not None}
        try:
            yield
        finally:
            self._instead = None

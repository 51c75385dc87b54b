"""The gradients of several ranks, summed while they are computed: by torch's `DistributedDataParallel`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.standardise import constant
from .batch_norm import batch_norms
from .objectives import BatchMeans
from .ranks import Ranks

Compute = Callable[[Any], BatchMeans]
# Numbers that are summed with the gradients, beside two flags: of the loss and of up to 63 metrics sum and weight.
CARRIED = 128


class _Computation(nn.Module):
    """What is computed of a batch as one module: so the loss may call the model as it likes, or parts of it.

    Beside its means there is a `carrier`, whose gradient is whatever it is multiplied with: so numbers are summed along
    with the gradients. One more parameter is never used: where all are, torch warns that it looks for such ones. A GPU
    would be waited for because of it; there torch warns, once.
    """

    def __init__(self, compute: Compute, modules: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)
        device = next(self.parts.parameters()).device
        self.carrier = nn.Parameter(torch.zeros(2 + CARRIED, device=device))
        if device.type == "cpu":
            self.unused = nn.Parameter(torch.zeros(1))
        self._compute = compute

    def forward(self, batch: Any) -> tuple[BatchMeans, Tensor]:
        return self._compute(batch), self.carrier.view(-1)


@dataclass
class _Bucketed:
    """How a bucket of gradients is summed: by a group, with others `instead` where these count for nothing."""

    group: Any
    carrier: Tensor
    instead: dict[Tensor, Tensor] | None = None

    def sum(self, bucket: Any) -> torch.futures.Future[Tensor]:
        if self.instead is not None:
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
                if parameter is not self.carrier:
                    before = self.instead.get(parameter)
                    gradient.zero_() if before is None else gradient.copy_(before)
        work: Any = dist.all_reduce(bucket.buffer(), group=self.group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])


class Summed:
    """`compute` of a batch on this rank, whose backward pass sums the gradients of all ranks.

    Parameters may be left out by a batch, also on some ranks alone. They are looked for in each update, so that the
    buckets in which gradients are summed stay as they are built, and a run that is resumed sums in the same order.
    Buffers but for those of batch norms are the main rank's in each forward pass; so are these with `statistics`.
    """

    in_each_batch = False  # but in the last of an update

    def __init__(self, compute: Compute, modules: list[nn.Module], ranks: Ranks, *, statistics: bool):
        norms = {id(b) for norm in batch_norms(modules) for b in norm.buffers()}
        others = any(id(b) not in norms for module in modules for b in module.buffers())
        computation = _Computation(compute, modules)
        self._carrier, self._group = computation.carrier, ranks.group_for(computation.carrier.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated.*")  # by what came in torch 2.13
            self._parallel = DistributedDataParallel(
                computation, broadcast_buffers=others or (statistics and bool(norms)), init_sync=False,
                process_group=self._group, find_unused_parameters=True, gradient_as_bucket_view=True,
            )  # fmt: skip
        self._bucketed = _Bucketed(self._group, self._carrier)
        self._sums: Tensor | None = None
        # What torch holds in C++ must not hold this object too: nothing would ever free either of them.
        self._parallel.register_comm_hook(self._bucketed, lambda bucketed, bucket: bucketed.sum(bucket))

    @contextmanager
    def computing(self, last: bool) -> Iterator[Callable[[Any], tuple[BatchMeans, Tensor]]]:
        """A block for a batch of an update, and its backward pass; the gradients are summed in that of the last one."""
        with nullcontext() if last else self._parallel.no_sync():
            yield self._parallel

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """A block for a backward pass that counts for nothing: what was there before it is summed."""
        parameters = self._parallel.parameters()
        self._bucketed.instead = {p: p.grad.clone() for p in parameters if p.grad is not None}
        try:
            yield
        finally:
            self._bucketed.instead = None

    def carried(self, carrier: Tensor, numbers: Tensor, flags: Sequence[int]) -> Tensor:
        """What is to be added to the loss, 0, so that numbers and flags are summed over the ranks as it is derived."""
        self._carrier.grad = self._sums = None
        also = constant(tuple(map(float, flags)), carrier)
        if numbers.numel() > CARRIED:
            self._sums = numbers.clone()
            dist.all_reduce(self._sums, group=self._group)
            numbers = numbers[:0]
        together = torch.cat([also, numbers.flatten().to(carrier.dtype)])
        return (carrier[: len(together)] * together).sum()

    def arrived(self, columns: int) -> tuple[Tensor, Tensor]:
        """The sums of the numbers, in two rows, and of the flags."""
        sums: Any = self._carrier.grad
        flags, numbers = sums[:2].clone(), sums[2 : 2 + 2 * columns]
        return (numbers.double().view(2, columns) if self._sums is None else self._sums), flags

"""The part of each batch that one of several ranks computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..errors import DataError

# Samples that each rank is to have of a batch in training, at least: a batch norm takes no single one.
LEAST = 2


class Part(NamedTuple):
    """What a rank computes of a batch: how many `samples` that stands for, and how many the whole batch is `of`.

    A batch that is not shared out is computed whole by each of n ranks, and stands for an nth of its samples on each,
    the `factor` of what it weighs. Of one that this rank alone has, it is not known what all ranks have together: `of`
    is None.
    """

    batch: Any
    samples: float
    of: int | None
    factor: float = 1.0


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
    for part in batch if isinstance(batch, list | tuple) else batch.values() if isinstance(batch, Mapping) else ():
        if shape := _first_shape(part):
            return shape
    return ()


@dataclass(frozen=True)
class Shards:
    """How `rank` of `world` takes its parts of batches that all ranks have alike, each in the order of the batch.

    A batch of fewer than `least` samples for each rank is computed whole by all of them; where `least` is 0, as in an
    evaluation, a rank for which there is none takes one that counts for nothing. `any` says whether a flag is set on
    some rank, for data of which each rank has its own. Where the first dimension of batches is not that of samples,
    `cuts` is False: they are not cut, also where their lengths happen to agree.
    """

    rank: int
    world: int
    least: int = LEAST
    any: Callable[[bool], bool] = bool
    cuts: bool = True

    def share(self, n: int) -> tuple[slice, float]:
        """Which of the `n` samples of a batch this rank computes, and what these count for.

        >>> Shards(1, 2).share(5), Shards(1, 2).share(3), Shards(2, 3, least=0).share(2), Shards(0, 3, least=0).share(2)
        ((slice(2, 5, None), 1.0), (slice(0, 3, None), 0.5), (slice(1, 2, None), 1.0), (slice(0, 1, None), 0.0))
        """
        if n < self.least * self.world:
            return slice(0, n), 1 / self.world
        start, stop = n * self.rank // self.world, n * (self.rank + 1) // self.world
        return slice(start, max(stop, start + 1)), float(stop > start)

    def made(self, batch: Any, n: int) -> Part:
        """The part that `batch` is, made of the share of a batch of `n` samples."""
        span, factor = self.share(n)
        return Part(batch, (span.stop - span.start) * factor, n, factor)

    def part(self, batch: Any) -> Part:
        """The part of a batch; one that cannot be cut is whole.

        >>> Shards(1, 2).part((torch.arange(5), ["a", "b", "c", "d", "e"]))
        Part(batch=(tensor([2, 3, 4]), ['c', 'd', 'e']), samples=3.0, of=5, factor=1.0)
        """
        n = samples_in(batch)
        if not (self.cuts and can_be_cut(batch, n)):
            return Part(batch, n / self.world, n, 1 / self.world)
        return self.made(cut(batch, n, self.share(n)[0]), n)

    def epoch(self, batches: Any, epoch: int, start: int = 0) -> Iterator[Part]:
        """The parts of the batches of an epoch from batch `start` on, made alone where the batches know how to."""
        if hasattr(batches, "parts"):
            yield from batches.parts(self, epoch, start)
        else:
            yield from map(self.part, batches.epoch(epoch, start))

    def of_rank(self, read: Callable[[int], Iterator[Any]], start: int = 0) -> Iterator[Part]:
        """Batches that this rank alone has, read from `start` on, until no rank has another.

        A rank with none left repeats its last for nothing; one that begins where it has none left, its first.

        Raises:
            DataError: this rank has none at all.
        """
        batches, last = read(start), None
        while self.any((batch := next(batches, None)) is not None):
            if batch is not None:
                yield Part(batch, samples_in(batch), None)
                last = batch
                continue
            if last is None and start:
                last = next(read(0), None)
            if last is None:
                raise DataError(
                    f"rank {self.rank} of {self.world} has no batch of these data, and others do: give each rank some"
                )
            yield Part(last, 0, None, 0.0)


WHOLE = Shards(0, 1, 0)  # of one rank alone


def can_be_cut(batch: Any, n: int) -> bool:
    """Whether all that has a first length in a structure has this one, so that it is taken to be that of samples.

    >>> can_be_cut({"x": torch.zeros(4, 2), "scale": 2.0}, 4), can_be_cut((torch.zeros(9, 4, 2), torch.zeros(4)), 9)
    (True, False)
    """
    if isinstance(batch, PackedSequence) or (isinstance(batch, Tensor) and batch.layout is not torch.strided):
        return False
    if hasattr(batch, "shape"):
        return not batch.shape or (batch.shape[0] == n and not getattr(batch, "is_nested", False))
    if isinstance(batch, Mapping):
        return all(can_be_cut(part, n) for part in batch.values())
    if _lists_samples(batch):
        return len(batch) == n
    if isinstance(batch, list | tuple):
        return all(can_be_cut(part, n) for part in batch)
    return batch is None or isinstance(batch, str | bytes | int | float)


def _lists_samples(batch: Any) -> bool:
    """Whether a structure is a list of samples, such as texts or the boxes of each image, rather than of tensors."""
    return isinstance(batch, list) and not any(
        hasattr(part, "shape") or isinstance(part, list | tuple) for part in batch
    )


def cut(batch: Any, n: int, span: slice) -> Any:
    """These of the `n` samples of a structure of tensors, arrays and lists; what has no length stays."""
    if hasattr(batch, "shape"):
        return batch[span] if batch.shape else batch
    if isinstance(batch, Mapping):
        parts = {name: cut(part, n, span) for name, part in batch.items()}
        return parts if type(batch) is dict else type(batch)(parts)  # type: ignore[call-arg]
    if not isinstance(batch, list | tuple):
        return batch
    if _lists_samples(batch):
        return batch[span]
    parts = [cut(part, n, span) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def fingerprint(batch: Any) -> Any:
    """Plain numbers of a structure that other data have others of: the shape and the sum of each tensor in it.

    >>> fingerprint((torch.ones(2, 3), torch.tensor([0, 4])))
    [[[2, 3], '6'], [[2], '4']]
    """
    if isinstance(batch, Tensor) and batch.layout is torch.strided and not batch.is_nested:
        return [list(batch.shape), f"{batch.detach().abs().sum(dtype=torch.float64).item():.6g}"]  # NaN is none other
    if isinstance(batch, Mapping):
        return {str(name): fingerprint(part) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [fingerprint(part) for part in batch]
    return batch if isinstance(batch, str | int | float) else type(batch).__name__

"""From anything that holds data to batches whose order is a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from .. import text
from ..checks import whole
from ..errors import ConfigError, DataError
from .arrays import as_tensor
from .hub import HubDataset, HubStream, hub_kind
from .loaders import LoaderBatches, seeded_batches
from .orders import epoch_order
from .seeds import derive_seed, seeded_everywhere
from .shards import WHOLE, Part, Shards
from .splits import check_finite
from .standardise import changed_within, constant

Transform = Callable[[tuple[Tensor, ...], torch.Generator], tuple[Tensor, ...]]
"""From a batch and a generator for its draws to the batch that the model sees.

One with an attribute ``draws`` that is False draws nothing, and is spared the seeding of its generator.
"""


@dataclass(frozen=True)
class _Cutting:
    """How a rank makes its part of a batch of `n` samples: from those at `span` of the order, as `share` says.

    A transform that draws, and not `in_parts` as it would for the whole batch, gets the whole batch first.
    """

    shards: Shards
    n: int
    span: slice
    share: slice
    draws: bool
    afterwards: bool

    @classmethod
    def of(cls, batches: TensorBatches | DatasetBatches, i: int, samples: int, shards: Shards) -> _Cutting:
        """Of batch `i` of so many `samples`."""
        span = _span(i, samples, batches.batch_size, batches.spread)
        n, transform = span.stop - span.start, batches.transform
        share, _ = shards.share(n)
        draws = getattr(transform, "draws", transform is not None)
        afterwards = draws and not getattr(transform, "in_parts", False)
        if not afterwards:
            span = slice(span.start + share.start, span.start + share.stop)
        return cls(shards, n, span, share, draws, afterwards)

    def transformed(self, batch: tuple[Any, ...], transform: Transform, generator: torch.Generator) -> tuple[Any, ...]:
        """The transformed batch, or the part of it."""
        if not self.draws or self.afterwards or self.share.stop - self.share.start == self.n:
            return transform(batch, generator)
        return transform.of_part(batch, generator, self.n, self.share)  # type: ignore[attr-defined]

    def part(self, batch: Any) -> Part:
        """What the rank computes."""
        return self.shards.part(batch) if self.afterwards else self.shards.made(batch, self.n)


class Batches(Protocol):
    """Batches, epoch by epoch. `len`, where there is one, is the number of batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of `epoch` (from 0) from batch `start` on: the same ones at every call."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TensorBatches:
    """Batches of tensors that lie in memory, on any device: one index each, no worker and no copy but the batch.

    Args:
        tensors: of equal length n along dimension 0, on one device.
        batch_size: samples a batch, at most n.
        seed: the order of epoch e is a function of (seed, e).
        shuffle: False: in the order of the data.
        drop_last: leave out the ragged last batch; another one each epoch where the order is shuffled.
        spread: in place of a ragged last batch, batches that differ by one sample at most; of two or more samples.
        transform: applied to each batch; its generator is derived from (seed, epoch, batch).

    Raises:
        DataError: no tensors, unequal lengths, NaN or infinite values.
        ConfigError: a batch size below 1 or larger than the data.

    >>> batches = TensorBatches((torch.arange(5),), batch_size=2, shuffle=False)
    >>> [batch[0].tolist() for batch in batches.epoch(0)], len(batches)
    ([[0, 1], [2, 3], [4]], 3)
    """

    tensors: tuple[Tensor, ...]
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    transform: Transform | None = None
    spread: bool = False

    def __post_init__(self) -> None:
        lengths = {len(t) for t in self.tensors}
        if len(lengths) != 1 or lengths == {0}:
            raise DataError(
                f"tensors need one common length above 0; received {[tuple(t.shape) for t in self.tensors]}"
            )
        _check_batch_size(self.batch_size, len(self.tensors[0]))
        for i, tensor in enumerate(self.tensors):
            check_finite(tensor, "inputs" if i == 0 else "targets")

    def __len__(self) -> int:
        return _batch_count(len(self.tensors[0]), self.batch_size, self.drop_last, self.spread)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """See `Batches.epoch`."""
        return (part.batch for part in self.parts(WHOLE, epoch, start))

    def parts(self, shards: Shards, epoch: int, start: int = 0) -> Iterator[Part]:
        """The part of each batch that a rank computes; see `Shards.epoch`."""
        device, samples = self.tensors[0].device, len(self.tensors[0])
        order = epoch_order(samples, self.seed, epoch) if self.shuffle else None
        if isinstance(order, Tensor):
            order = _placed(order, device)
        generator, draws = torch.Generator(device), getattr(self.transform, "draws", True)
        for i in range(start, len(self)):
            cutting = _Cutting.of(self, i, samples, shards)
            if order is None:
                batch = tuple([t[cutting.span].clone() for t in self.tensors])  # which a model may write to
            else:
                chosen = order[cutting.span]
                chosen = chosen if isinstance(order, Tensor) else _placed(chosen, device)
                batch = tuple([t.index_select(0, chosen) for t in self.tensors])
            if self.transform is not None:
                if draws:
                    generator.manual_seed(derive_seed(self.seed, "augment", epoch, i))
                batch = cutting.transformed(batch, self.transform, generator)
            yield cutting.part(batch)


@dataclass(frozen=True)
class DatasetBatches:
    """Batches from a map-style torch `Dataset`, read by worker processes where `workers` is above 0.

    Order as in `TensorBatches`; sample i draws from generators seeded by (seed, epoch, i), so that neither the number
    of workers nor a restart in mid-epoch changes a value.
    """

    dataset: Dataset[Any]
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    transform: Transform | None = None
    workers: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    spread: bool = False

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size, self._n)

    @property
    def _n(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return _batch_count(self._n, self.batch_size, self.drop_last, self.spread)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`."""
        return (part.batch for part in self.parts(WHOLE, epoch, start))

    def parts(self, shards: Shards, epoch: int, start: int = 0) -> Iterator[Part]:
        """The part of each batch that a rank computes, and whose samples it reads; see `Shards.epoch`."""
        samples = _SeededSamples(self.dataset, self.seed, epoch)
        loader = DataLoader(
            samples, batch_sampler=self._indices(shards, epoch, start), num_workers=self.workers,
            generator=torch.Generator(), pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        generator = torch.Generator(self.device)
        for i, (cutting, batch) in enumerate(zip(self._cuttings(shards, start), loader, strict=True), start):
            if self.transform is not None:
                generator.manual_seed(derive_seed(self.seed, "augment", epoch, i))
                batch = tuple(part.to(self.device, non_blocking=True) for part in batch)
                batch = cutting.transformed(batch, self.transform, generator)
            yield cutting.part(batch)

    def _cuttings(self, shards: Shards, start: int) -> Iterator[_Cutting]:
        return (_Cutting.of(self, i, self._n, shards) for i in range(start, len(self)))

    def _indices(self, shards: Shards, epoch: int, start: int) -> Iterator[list[int]]:
        """The samples of each batch, made when they are asked for."""
        if self.shuffle:
            order = epoch_order(self._n, self.seed, epoch)
            return (order[cutting.span].tolist() for cutting in self._cuttings(shards, start))
        return (list(range(self._n)[cutting.span]) for cutting in self._cuttings(shards, start))


class _SeededSamples(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int):
        self._dataset, self._seed, self._epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> Any:
        with seeded_everywhere(derive_seed(self._seed, "sample", self._epoch, i)):
            return self._dataset[i]


@dataclass
class OneShotBatches:
    """Batches from an iterator, which can be gone through once; what `peek` looked at is not lost."""

    iterator: Iterator[Any]
    seed: int = 0
    _peeked: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.iterator)  # type: ignore[arg-type]

    def peek(self, count: int = 1) -> list[Any]:
        """The first batches, as many as there are of `count`, which `epoch` still gives."""
        have = len(self._peeked)
        self._peeked += islice(seeded_batches(self.iterator, self.seed, 0, have), max(0, count - have))
        return self._peeked[:count]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`; a second epoch is empty."""
        while self._peeked:
            start += 1
            yield self._peeked.pop(0)
        yield from seeded_batches(self.iterator, self.seed, epoch, start)


@dataclass(frozen=True)
class ListBatches:
    """Batches that lie in a list, in its order at every epoch."""

    batches: Sequence[Any]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`."""
        return islice(self.batches, start, None)


def as_batches(
    data: Any,
    batch_size: int = 64,
    *,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    transform: Transform | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    spread: bool = False,
) -> Batches:
    """Batches from anything that holds data.

    * a `DataLoader`, or any iterable of batches: as they come; the other arguments but `seed` do not apply
    * a tuple of tensors or arrays of equal length, or a `Split`: in memory, on `device`
    * the same of data frames and series: their values by position, whatever the index
    * a torch `Dataset`, or a `datasets.Dataset`: through worker processes where `workers` is above 0; a streamed
      `datasets.IterableDataset`: in its own order

    float64 arrays become float32.

    Raises:
        DataError: none of these, or data that cannot be trained on.
        ConfigError: a batch size that does not fit the data.

    >>> len(as_batches((torch.zeros(10, 3), torch.zeros(10)), 4, drop_last=True))
    2
    """
    device = torch.device(device)
    if hasattr(data, "epoch") and callable(data.epoch):
        return data
    if hasattr(data, "inputs") and hasattr(data, "targets"):
        data = (data.inputs, data.targets)
    if isinstance(data, tuple) and data and all(hasattr(part, "shape") for part in data):
        tensors = tuple(as_tensor(part).to(device) for part in data)
        return TensorBatches(tensors, batch_size, seed, shuffle, drop_last, transform, spread)
    if isinstance(data, list | tuple) and data:
        _check_list(data)
        return ListBatches(data)
    if (kind := hub_kind(data)) in ("dataset", "stream"):
        data = HubDataset(data) if kind == "dataset" else HubStream(data)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return DatasetBatches(data, batch_size, seed, shuffle, drop_last, transform, workers, device, spread)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=batch_size, num_workers=workers)
    if isinstance(data, Iterator):
        return OneShotBatches(data, seed)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping) and not hasattr(data, "shape"):
        return LoaderBatches(data, seed)
    raise _not_batches(data)


def _not_batches(data: Any) -> DataError:
    """The error that says what to give in place of `data`."""
    instead = "a DataLoader, a list or iterable of batches, a tuple (inputs, targets) of tensors or arrays, "
    instead += "a torch Dataset, a datasets.Dataset, or a split of onecycle.load(...)"
    if hub_kind(data) == "splits":
        instead = f"one of its splits, such as data[{next(iter(data), 'train')!r}]"
    elif isinstance(data, Mapping):
        instead = "(inputs, targets), a tuple; or, for a model that takes dicts, a list of them, each one batch"
    elif hasattr(data, "columns"):
        instead = "(frame.drop(columns=TARGET), frame[TARGET]), a tuple; or onecycle.load(frame, target=TARGET)"
    elif hasattr(data, "shape"):
        instead = "(inputs, targets), a tuple; inputs alone are the tuple (inputs,)"
    return DataError(f"cannot make batches of a {type(data).__name__} alone: give {instead}")


def _check_list(data: Sequence[Any]) -> None:
    """Refuse a list that is whole data and would be read as batches, such as ``[x, y]``."""
    kind = type(data).__name__
    if all(hasattr(part, "shape") for part in data):
        forms = {(len(part.shape), getattr(part, "dtype", None)) for part in data}
        pair = len(data) == 2 and data[0].shape[:1] == data[1].shape[:1] and data[0].shape != data[1].shape
        if pair or len(forms) > 1:
            shapes = text.listed((str(list(part.shape)) for part in data), most=4)
            raise DataError(
                f"a {kind} of tensors of shapes {shapes} would be read as {len(data)} batches: give the tuple (x, y) "
                "in place of [x, y]; batches of inputs alone as [(x0,), (x1,), ...]"
            )
        return
    if n := _listed_samples(data):
        raise DataError(
            f"a tuple of lists is taken for whole data, of {text.count(n, 'sample')}, which are given as arrays: "
            "(np.array(x), np.array(y)), or torch.stack(x) of tensors"
        )
    if any(isinstance(part, int | float | str) for part in data):
        raise DataError(f"a {kind} of numbers or words is no batches: give (inputs, targets) as tensors or arrays")
    structures = [_structure(batch) for batch in data]
    if odd := next((i for i, structure in enumerate(structures) if structure != structures[0]), 0):
        raise DataError(
            f"the batches of a {kind} need one structure: the first is {structures[0]}, number {odd} is "
            f"{structures[odd]}. Of whole data give the tuple (inputs, targets)"
        )


def _listed_samples(data: Sequence[Any]) -> int:
    """How many samples there are in a tuple of two lists, of inputs and of targets; 0 in any other structure."""
    if not isinstance(data, tuple) or len(data) != 2 or not all(isinstance(part, list) for part in data):
        return 0
    first, second = data
    batches = len(first) == 2 and first and hasattr(first[0], "shape")
    return len(first) if len(first) == len(second) and not batches else 0


def _structure(batch: Any) -> str:
    """The outermost structure of a batch, in words."""
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return "a dict" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"


def peeked(batches: Batches, count: int) -> Batches:
    """The first batches, as many as there are of `count`, where they can be gone through once; all others as they are.

    What is read of them stays for `batches`, and they come within the same transform of their inputs.

    >>> batches = as_batches(iter([torch.zeros(2), torch.ones(2)]))
    >>> len(peeked(batches, 1)), len(list(batches.epoch(0)))
    (1, 2)
    """
    return changed_within(
        batches, lambda plain: ListBatches(plain.peek(count)) if isinstance(plain, OneShotBatches) else plain
    )


def first_batch(batches: Batches) -> Any:
    """The first batch of the first epoch, without taking it away.

    Raises:
        DataError: there is none.
    """
    for batch in peeked(batches, 1).epoch(0):
        return batch
    raise DataError("there are no batches: the data are empty, or less than one batch with drop_last=True")


@dataclass(frozen=True)
class ImageTransform:
    """uint8 images [n, c, h, w] to normalised float32, (x / 255 - mean) / std by channel, then augmentation.

    Args:
        mean, std: of each channel, in units where 255 is 1.
        augment: from (images, generator) to images, or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    @property
    def draws(self) -> bool:
        """Whether it draws from its generator."""
        return self.augment is not None

    @cached_property
    def _factors(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What pixels are multiplied with, and what is added to them."""
        scales = tuple(1 / (255 * std) for std in self.std)
        return scales, tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def in_parts(self) -> bool:
        """Whether it draws for some images of a batch what it draws for them in the whole batch."""
        return self.augment is None or hasattr(self.augment, "of_part")

    def __call__(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        return self._changed(batch, lambda images: images if self.augment is None else self.augment(images, generator))

    def of_part(self, batch: tuple[Tensor, ...], generator: torch.Generator, n: int, span: slice) -> tuple[Any, ...]:
        """The same for the images at `span` of a batch of `n`, as they are in the whole batch."""
        augment: Any = self.augment
        return self._changed(batch, lambda images: augment.of_part(images, generator, n, span))

    def _changed(self, batch: tuple[Tensor, ...], augment: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        images, *rest = batch
        if images.dtype != torch.uint8:
            return batch
        scales, shifts = self._factors
        if len(scales) == 1:  # Passes over memory are what this costs: one fewer than below.
            shift = constant(shifts, images, torch.float32)[0]
            if images.is_cpu:  # where a sum of two types copies first, and new memory costs more than the sum
                x = images.float()
                torch.add(shift, x, alpha=scales[0], out=x)
            else:
                x = torch.add(shift, images, alpha=scales[0])
        else:
            x = images.float()
            scale, shift = (constant(numbers, x)[:, None, None] for numbers in (scales, shifts))
            x.mul_(scale).add_(shift)
        return (augment(x), *rest)


def _placed(order: Tensor, device: torch.device) -> Tensor:
    """An order on a device; from pinned memory where it is CUDA's, which is not waited for then."""
    return order.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else order.to(device)


def _check_batch_size(size: Any, n: int) -> None:
    if whole("batch_size", size, what="the number of samples a batch") > n:
        raise ConfigError(f"batch_size {size} is larger than the data, {n} samples: at most {n}")


def _batch_count(n: int, size: int, drop_last: bool, spread: bool) -> int:
    if drop_last:
        return n // size
    count = math.ceil(n / size)
    return max(1, min(count, n // 2)) if spread and size > 1 else count  # a batch norm takes no single sample


def _span(i: int, n: int, size: int, spread: bool) -> slice:
    """Where batch `i` lies in the order of `n` samples."""
    if not spread:
        return slice(i * size, min(n, (i + 1) * size))
    least, larger = divmod(n, _batch_count(n, size, False, True))  # the first ones hold one sample more
    start = i * least + min(i, larger)
    return slice(start, start + least + (i < larger))


def length_of(batches: Batches) -> int | None:
    """The number of batches of an epoch; None where it is not known.

    >>> batches = [(torch.zeros(2, 1), torch.ones(2))] * 3
    >>> length_of(as_batches(batches)), length_of(as_batches(iter(batches)))
    (3, None)
    """
    try:
        return len(batches)
    except TypeError:
        return None


def last_batch_size(batches: Batches) -> int | None:
    """The number of samples in the last batch of an epoch; None where it cannot be told without reading."""
    source = getattr(batches, "iterable", batches)  # of a DataLoader, the loader
    size = getattr(source, "batch_size", None)
    samples = getattr(source, "dataset", getattr(source, "tensors", [None])[0])
    if not isinstance(size, int) or getattr(source, "drop_last", False) or not hasattr(samples, "__len__"):
        return None
    if getattr(source, "spread", False):
        return len(samples) // len(batches)
    return len(samples) % size or size


def targets_in_memory(batches: Batches) -> tuple[Tensor, ...]:
    """All targets of batches (inputs, targets) that lie in memory; none where they are read batch by batch.

    >>> [targets.tolist() for targets in targets_in_memory(as_batches((torch.zeros(3, 2), torch.arange(3)), 2))]
    [[0, 1, 2]]
    """
    if isinstance(batches, ListBatches):
        pairs = [batch for batch in batches.batches if isinstance(batch, tuple | list) and len(batch) == 2]
        targets = tuple(batch[1] for batch in pairs if isinstance(batch[1], Tensor))
        return targets if len(targets) == len(batches) else ()
    source = getattr(batches, "iterable", batches)
    if isinstance(source, DataLoader) and type(source.sampler) not in (SequentialSampler, RandomSampler):
        return ()
    data = getattr(source, "dataset", source)
    return data.tensors[1:] if isinstance(data, TensorBatches) or type(data) is TensorDataset else ()

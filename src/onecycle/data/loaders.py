"""Batches from loaders that users bring: the same ones at every call, and from the middle of an epoch on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import Any, NamedTuple, cast

import torch
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from ..errors import CheckpointError
from .hub import shuffles_in_memory
from .seeds import derive_seed, seeded, seeded_everywhere
from .shards import WHOLE, Part, Shards
from .standardise import untransformed


@dataclass(frozen=True)
class LoaderBatches:
    """Batches from a `DataLoader` or any other iterable of batches.

    What it draws from the global generators of torch, Python and numpy, or from its own ``generator``, is derived from
    (seed, epoch, batch), and these generators are left as they were. `start` is reached

    * by the sampler alone, where a `DataLoader` reads map-style data: nothing is read again. Draws in its workers are
      derived alike, so that their number changes no batch;
    * by the state that the loader had there, where it has `state_dict` and `load_state_dict` as torchdata's
      `StatefulDataLoader`, and that state was given to `load_state_dict`;
    * by reading and dropping, else.
    """

    iterable: Iterable[Any]
    seed: int = 0
    _readings: list[_Reading] = field(default_factory=list, init=False, repr=False, compare=False)
    _saved: dict[tuple[int, int], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.iterable)  # type: ignore[arg-type]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`."""
        self._set_epoch(epoch)
        if self._by_index is None:
            yield from self._read(epoch, start)
        else:
            yield from (batch for batch, _ in self._indexed(WHOLE, epoch, start))

    def parts(self, shards: Shards, epoch: int, start: int = 0) -> Iterator[Part]:
        """The part of each batch that a rank computes, and of map-style data reads alone.

        A loader whose sampler is made for ranks has the part already.
        """
        self._set_epoch(epoch)
        if is_of_a_rank(self):
            yield from shards.of_rank(lambda first: self.epoch(epoch, first), start)
        elif self._by_index is None:
            yield from map(shards.part, self._read(epoch, start))
        else:
            for batch, n in self._indexed(shards, epoch, start):
                yield shards.part(batch) if n is None else shards.made(batch, n)

    def _set_epoch(self, epoch: int) -> None:
        names = ("sampler", "batch_sampler", "dataset")
        for holder in [getattr(self.iterable, name, None) for name in names]:
            if hasattr(holder, "set_epoch"):
                cast(Any, holder).set_epoch(epoch)

    def _indexed(self, shards: Shards, epoch: int, start: int) -> Iterator[tuple[Any, int | None]]:
        """The parts of batches by their indices, and the samples of the whole batch; None where it is whole."""
        loader, places = cast(Any, self._by_index)
        places.begin = epoch, start, shards
        with seeded_everywhere(derive_seed(self.seed, "order", epoch), *self._generators):
            iterator = iter(loader)
        yield from iterator

    def _read(self, epoch: int, start: int) -> Iterator[Any]:
        saved, seed = self._saved.get((epoch, start)) if start else None, derive_seed(self.seed, "order", epoch)
        generators = [] if self._keeps_place else self._generators
        stream = _Stream(self._generators, seed) if self._keeps_place else nullcontext()
        with seeded_everywhere(seed, *generators), stream:
            iterator = iter(self.iterable) if saved is None else self._restored(saved)
        reading = _Reading(iterator, epoch, 0 if saved is None else start)
        if self._keeps_place:
            self._readings[:] = [*(one for one in self._readings if not one.over), reading]
        try:
            for batch in seeded_batches(iterator, self.seed, epoch, reading.batch, generators, stream):
                reading.batch += 1
                if reading.batch > start:
                    yield batch
        finally:
            reading.over = True

    def _restored(self, state: Any) -> Iterator[Any]:
        loader = cast(Any, self.iterable)
        try:
            loader.load_state_dict(copy.deepcopy(state))
            return iter(loader)
        except Exception as error:
            raise CheckpointError(
                f"the state of the {type(loader).__name__} that was saved does not fit this one: {error}. Make it and "
                "its data as they were when the run was begun"
            ) from error

    def reads_again(self, epoch: int, start: int) -> bool:
        """Whether what comes before batch `start` of an epoch is read to come there."""
        return start > 0 and self._by_index is None and (epoch, start) not in self._saved

    @property
    def moves_its_data(self) -> bool:
        """Whether its state is that of the data themselves, which begin there then whoever reads them again."""
        loader = self.iterable
        return self._keeps_place and (
            not getattr(loader, "num_workers", 0) or getattr(loader, "persistent_workers", False)
        )

    def state_dict(self, epoch: int, batch: int) -> dict[str, Any] | None:
        """The state of a stateful loader where it was read up to `batch` of `epoch`, else at the place where it is.

        None where it has none, or was not read yet.
        """
        if not self._keeps_place or not self._readings:
            return None
        last = self._readings[-1]
        reading = next((one for one in self._readings if (one.epoch, one.batch) == (epoch, batch)), last)
        holder = reading.iterator if is_stateful(reading.iterator) else self.iterable
        if holder is self.iterable and reading is not last:
            reading = last
        state = cast(Any, holder).state_dict()
        return {"epoch": reading.epoch, "batch": reading.batch, "loader": copy.deepcopy(state)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Begin with this state where an epoch is to be entered at its place; None: with none."""
        self._saved.clear()
        if state is not None and self._keeps_place:
            self._saved[state["epoch"], state["batch"]] = state["loader"]

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        """Those of the loader and its samplers."""
        sampler, batch_sampler = (getattr(self.iterable, name, None) for name in ("sampler", "batch_sampler"))
        holders = (self.iterable, sampler, getattr(batch_sampler, "sampler", None))
        candidates = (getattr(holder, "generator", None) for holder in holders)
        return [generator for generator in candidates if isinstance(generator, torch.Generator)]

    @cached_property
    def _keeps_place(self) -> bool:
        """Whether the loader has a state to go on from; a shuffling that is no part of it cannot be gone on with."""
        samplers = [getattr(self.iterable, name, None) for name in ("sampler", "batch_sampler")]
        samplers.append(getattr(samplers[1], "sampler", None))
        drawing = any(getattr(sampler, "generator", self) is None for sampler in samplers)  # a seed, as it begins
        drawing = drawing or shuffles_in_memory(getattr(self.iterable, "dataset", None))
        shared = not is_of_a_rank(self)  # else one checkpoint does not have the states of all ranks
        return self._by_index is None and is_stateful(self.iterable) and shared and not drawing

    @cached_property
    def _by_index(self) -> tuple[DataLoader[Any], _Places] | None:
        """A loader of the same batches that can begin at any of them; None where data have no index."""
        loader = self.iterable
        if not _has_index(loader):
            return None
        loader = cast("DataLoader[Any]", loader)
        places = _Places(loader, self.seed, self._generators)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which the loader gave already
            alike = DataLoader(
                _Fetched(loader, self.seed, self._generators), batch_size=None, sampler=places, collate_fn=_as_it_is,
                num_workers=loader.num_workers, pin_memory=loader.pin_memory, timeout=loader.timeout,
                worker_init_fn=partial(_begin_worker, loader.worker_init_fn), generator=loader.generator,
                multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
            )  # fmt: skip
        return alike, places


def is_of_a_rank(batches: Any) -> bool:
    """Whether each rank has batches of its own: by `DistributedSampler`, `split_dataset_by_node` or Accelerate."""
    loader = getattr(untransformed(batches), "iterable", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    if any(isinstance(one, DistributedSampler) and one.num_replicas > 1 for one in samplers):
        return True
    stream = getattr(loader, "dataset", None)
    divided = getattr(getattr(stream, "stream", stream), "_distributed", None)
    if getattr(divided, "world_size", 1) > 1:
        return True
    return type(batch_sampler).__name__ == "BatchSamplerShard" or type(stream).__name__ == "IterableDatasetShard"


@dataclass
class _Reading:
    """An iterator of a loader, and up to where it was read."""

    iterator: Iterator[Any]
    epoch: int
    batch: int
    over: bool = False


def seeded_batches(
    iterator: Iterator[Any], seed: int, epoch: int, first: int, generators: Sequence[torch.Generator] = (),
    within: AbstractContextManager[None] | None = None,
) -> Iterator[Any]:  # fmt: skip
    """What is left in `iterator`; the next one counts as batch `first` of `epoch` and is read `within` a context."""
    within = nullcontext() if within is None else within
    for i in count(first):
        with seeded_everywhere(derive_seed(seed, "batch", epoch, i), *generators), within:
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def read_again(batches: Any, epoch: int, start: int) -> list[str]:
    """A note where batches before `start` of an epoch are read to go on with it; none where they are not."""
    plain = untransformed(batches)
    if not isinstance(plain, LoaderBatches) or not plain.reads_again(epoch, start):
        return []
    return [
        f"the epoch under way is read again up to its batch {start:,}: this {type(plain.iterable).__name__} begins at "
        "its first. A DataLoader of map-style data, or torchdata's StatefulDataLoader, goes on where it was"
    ]


def is_stateful(loader: Any) -> bool:
    """Whether it keeps its place in an epoch itself, as torchdata's `StatefulDataLoader` does."""
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _has_index(loader: Any) -> bool:
    """Whether it is a `DataLoader` whose batches are a function of indices.

    So is torchdata's, unless its data or samplers keep a state, which it keeps for them.
    """
    stateful = type(loader).__name__ == "StatefulDataLoader" and type(loader).__module__.startswith("torchdata.")
    if type(loader) is not DataLoader and not stateful:
        return False
    pipes = getattr(torch_data, "MapDataPipe", ())  # whose shuffling torch seeds as it begins to read
    if isinstance(loader.dataset, (IterableDataset, pipes)) or not getattr(loader, "in_order", True):
        return False
    return not (stateful and any(map(is_stateful, (loader.dataset, loader.sampler, loader.batch_sampler))))


class _Stream:
    """A context within which generators go on from where they were at its end before, at first from `seed`.

    For loaders that keep the states of their generators: these count on it that no one else sets them.
    """

    def __init__(self, generators: Sequence[torch.Generator], seed: int):
        self._generators = generators
        with seeded(generators, seed):
            self._states = [generator.get_state() for generator in generators]

    def __enter__(self) -> None:
        self._outside = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

    def __exit__(self, *error: object) -> None:
        self._states = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._outside, strict=True):
            generator.set_state(state)


class _Place(NamedTuple):
    """Where a batch lies: its indices are what the sampler gave, one where the loader makes no batches itself.

    `n` is the number of them, of which a `rank` has its own; None where it has all, whatever it is.
    """

    epoch: int
    batch: int
    indices: Any
    n: int | None
    rank: int


class _Places:
    """The places of the batches of an epoch, from `begin` on, by the sampler of a loader."""

    def __init__(self, loader: DataLoader[Any], seed: int, generators: Sequence[torch.Generator]):
        self._many = loader.batch_sampler is not None
        self._sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._seed, self._generators = seed, generators
        self.begin: tuple[int, int, Shards] = (0, 0, WHOLE)

    def __iter__(self) -> Iterator[_Place]:
        return self._from(*self.begin)

    def _from(self, epoch: int, start: int, shards: Shards) -> Iterator[_Place]:
        with seeded_everywhere(derive_seed(self._seed, "order", epoch), *self._generators):
            order = iter(self._sampler)
        for i in count():
            purpose = (
                "indices" if i else "batch"
            )  # other draws than those of reading; most samplers draw once, at first
            with seeded_everywhere(derive_seed(self._seed, purpose, epoch, i), *self._generators):
                try:
                    indices = next(order)
                except StopIteration:
                    return
            if i >= start:
                n = len(indices) if self._many and isinstance(indices, list | tuple) else None
                mine = indices if n is None else indices[shards.share(n)[0]]
                yield _Place(epoch, i, mine, n, shards.rank)


class _Fetched(Dataset[Any]):
    """The batches of a loader by their places."""

    def __init__(self, loader: DataLoader[Any], seed: int, generators: Sequence[torch.Generator]):
        self.dataset, self._collate, self._seed = loader.dataset, loader.collate_fn, seed
        self._batched, self._generators = loader.batch_sampler is not None, generators

    def __getitem__(self, place: _Place) -> tuple[Any, int | None]:
        dataset = cast(Any, self.dataset)
        of_rank = [place.rank] if place.rank and place.n is not None else []  # each draws for its own samples
        seed = derive_seed(self._seed, "batch", place.epoch, place.batch, *of_rank)
        with seeded_everywhere(seed, *self._generators):
            if not self._batched:
                samples = dataset[place.indices]
            elif getattr(dataset, "__getitems__", None):
                samples = dataset.__getitems__(place.indices)
            else:
                samples = [dataset[i] for i in place.indices]
            return self._collate(samples), place.n


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    """Give a loader's `worker_init_fn` the data set that it knows."""
    info = torch_data.get_worker_info()
    object.__setattr__(info, "dataset", cast(Any, info).dataset.dataset)
    if begin is not None:
        begin(worker)

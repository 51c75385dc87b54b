"""A user's loader goes on in the middle of an epoch as if it had not been left, and mostly without reading again."""

from __future__ import annotations

import functools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from training_makers import equal_batches, global_generators

from onecycle import CheckpointError
from onecycle.data.loaders import LoaderBatches, read_again

N = 22
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


class Drawing(Dataset):
    """Samples that draw from every generator an augmentation could use; `read` counts those of this process."""

    def __init__(self):
        self.read: Counter[int] = Counter()

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read[int(i)] += 1
        return torch.tensor([float(i), torch.rand(()).item(), random.random(), np.random.rand()])


class AtOnce(Drawing):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


class DrawingOrder:
    """A sampler that draws each index as it is asked for one, from one of the generators."""

    def __iter__(self):
        for k in range(N):
            yield [lambda: int(torch.randint(N, ())), lambda: random.randrange(N), lambda: np.random.randint(N)][
                k % 3
            ]()

    def __len__(self):
        return N


def noisy_collate(samples):
    return torch.stack(samples) + torch.rand(()), random.random()


def own():
    return torch.Generator().manual_seed(5)


LOADERS = {
    "shuffled": lambda data, **how: DataLoader(data, 3, shuffle=True, **how),
    "in order": lambda data, **how: DataLoader(data, 3, drop_last=True, **how),
    "own generator": lambda data, **how: DataLoader(data, 3, shuffle=True, generator=own(), **how),
    "with replacement": lambda data, **how: DataLoader(
        data, 3, sampler=RandomSampler(data, replacement=True, num_samples=50, generator=own()), **how
    ),
    "weighted": lambda data, **how: DataLoader(data, 3, sampler=WeightedRandomSampler([1.0] * N, 30), **how),
    "drawing order": lambda data, **how: DataLoader(data, 3, sampler=DrawingOrder(), **how),
    "batch sampler": lambda data, **how: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data, generator=own()), 3, False), **how
    ),
    "samples": lambda data, **how: DataLoader(data, batch_size=None, shuffle=True, **how),
    "collating": lambda data, **how: DataLoader(data, 3, shuffle=True, collate_fn=noisy_collate, **how),
    "torchdata": lambda data, **how: StatefulDataLoader(data, 3, shuffle=True, **how),
}


def flat(batches):
    """Batches as lists of tensors, of whatever they are made."""
    return [
        [torch.as_tensor(part) for part in (batch if isinstance(batch, list | tuple) else [batch])] for batch in batches
    ]


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("kind", [Drawing, AtOnce])
def test_the_middle_of_an_epoch_is_reached_by_indices_alone(make, kind):
    whole = flat(LoaderBatches(make(kind()), 4).epoch(2))
    assert not equal_batches(whole, flat(LoaderBatches(make(kind()), 4).epoch(1)))
    last = len(whole) - 1
    for start in (1, last - 1, last, last + 1):
        data = kind()
        batches, before = LoaderBatches(make(data), 4), global_generators()
        rest = flat(batches.epoch(2, start))
        assert equal_batches(rest, whole[start:]) and global_generators() == before
        expected = Counter(int(value) for batch in rest for value in batch[0].reshape(-1, 4)[:, 0])
        if make is not LOADERS["collating"]:
            assert data.read == expected, "nothing else is read"
        assert sum(data.read.values()) == sum(expected.values()) and not batches.reads_again(2, start)


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_batches_are_the_same_with_any_number_of_workers(make):
    alone = flat(LoaderBatches(make(Drawing()), 4).epoch(2))
    assert equal_batches(flat(LoaderBatches(make(Drawing(), num_workers=2), 4).epoch(2)), alone)
    assert equal_batches(flat(LoaderBatches(make(Drawing(), num_workers=1), 4).epoch(2, 5)), alone[5:])


def test_workers_that_stay_serve_epoch_after_epoch():
    alone = LoaderBatches(DataLoader(Drawing(), 3, shuffle=True), 4)
    stay = LoaderBatches(DataLoader(Drawing(), 3, shuffle=True, num_workers=1, persistent_workers=True), 4)
    for epoch, start in ((0, 0), (1, 3), (1, 0), (7, 6)):
        assert equal_batches(flat(stay.epoch(epoch, start)), flat(alone.epoch(epoch, start)))


def test_what_is_read_draws_otherwise_than_the_sampler():
    """Else the samples that are drawn and how they are changed would go together."""
    drawn = []

    class Sampler:
        def __iter__(self):
            for i in range(8):
                drawn.append(torch.rand(()).item())
                yield i

    class Data(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return torch.rand(())

    read = [batch.item() for batch in LoaderBatches(DataLoader(Data(), 1, sampler=Sampler())).epoch(0)]
    assert not set(drawn[1:]) & set(read)


class Opened(Dataset):
    """Data that a worker opens for itself."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.tensor([i, self.opened, get_worker_info().dataset is self])


def open_in_worker(data, worker):
    assert get_worker_info().dataset.opened is None
    get_worker_info().dataset.opened = worker + 10


def test_a_worker_knows_its_data_set_as_it_was_given():
    data = Opened()
    data.opened = None  # type: ignore[attr-defined]
    loader = DataLoader(data, 2, num_workers=2, worker_init_fn=functools.partial(open_in_worker, data))
    assert [batch.tolist() for batch in LoaderBatches(loader).epoch(0)] == [
        [[0, 10, 1], [1, 10, 1]],
        [[2, 11, 1], [3, 11, 1]],
    ]


def test_a_batch_sampler_is_told_its_epoch():
    class Ordered(BatchSampler):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([[self.epoch]])

    loader = DataLoader(range(9), batch_sampler=Ordered(SequentialSampler(range(9)), 1, False))  # type: ignore[arg-type]
    assert [batch.tolist() for batch in LoaderBatches(loader).epoch(6)] == [[6]]


class Stream(IterableDataset):
    def __init__(self, read):
        self.read = read

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for i in range(first, N, step):
            self.read.append(i)
            yield torch.tensor([float(i), torch.rand(()).item(), random.random(), np.random.rand()])


class Shuffled(IterableDataset):
    """A stream in a random order that keeps its place, as torchdata asks for it."""

    def __init__(self, read):
        self.read, self.order, self.place, self.loaded = read, torch.zeros(0), 0, False

    def __iter__(self):
        if not self.loaded:
            self.order, self.place = torch.randperm(N), 0
        self.loaded = False
        while self.place < N:
            i = int(self.order[self.place])
            self.place += 1
            self.read.append(i)
            yield torch.tensor([float(i), torch.rand(()).item(), random.random(), np.random.rand()])

    def state_dict(self):
        return {"order": self.order, "place": self.place}

    def load_state_dict(self, state):
        self.order, self.place, self.loaded = state["order"], state["place"], True


class StandIn:
    """A loader with the protocol of torchdata and nothing else of it."""

    def __init__(self, read):
        self.read, self.at, self.order, self.loaded = read, 0, [], False

    def __iter__(self):
        if not self.loaded:
            self.at, self.order = 0, torch.randperm(N).tolist()
        self.loaded = False
        while self.at < N:
            self.read.append(self.order[self.at])
            self.at += 1
            yield torch.tensor([float(self.order[self.at - 1]), torch.rand(()).item(), random.random()])

    def state_dict(self):
        return {"at": self.at, "order": list(self.order)}

    def load_state_dict(self, state):
        self.at, self.order, self.loaded = state["at"], state["order"], True


STATEFUL = {
    "stand-in": StandIn,
    "stream": lambda read: StatefulDataLoader(Shuffled(read), 3),
    "data with a state": lambda read: StatefulDataLoader(WithState(read), 3, shuffle=True),
    "replacement": lambda read: StatefulDataLoader(
        WithState(read), 3, sampler=RandomSampler(range(N), replacement=True, num_samples=60, generator=own())
    ),
}


class WithState(Dataset):
    def __init__(self, read):
        self.read, self.seen = read, 0

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read.append(int(i))
        self.seen += 1
        return torch.tensor([float(i), float(self.seen), torch.rand(()).item(), random.random()])

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_stateful_loader_goes_on_by_its_state(make, start):
    batches = LoaderBatches(make([]), 4)
    next(batches.epoch(0))  # as a trial of the first batch does
    running = batches.epoch(2)
    before = [next(running) for _ in range(start)]
    state, rest = batches.state_dict(2, start), list(running)
    assert state is not None and (state["epoch"], state["batch"]) == (2, start) and len(before) == start
    read: list[int] = []
    again = LoaderBatches(make(read), 4)
    next(again.epoch(0))
    assert again.reads_again(2, start)
    again.load_state_dict(state)
    assert not again.reads_again(2, start) and read_again(again, 2, start) == []
    read.clear()
    generators = global_generators()
    assert (
        equal_batches(([b] for b in again.epoch(2, start)), ([b] for b in rest)) and global_generators() == generators
    )
    samples = sum(len(batch) if batch.ndim > 1 else 1 for batch in rest)
    assert len(read) == samples, "nothing is read again"
    again.load_state_dict(None)
    assert again.reads_again(2, start)


def test_reading_meanwhile_does_not_change_the_state_of_what_runs():
    batches = LoaderBatches(StatefulDataLoader(Shuffled([]), 3), 4)
    running = batches.epoch(1)
    next(running), next(running)
    other = batches.epoch(1)
    next(other)
    state = batches.state_dict(1, 2)
    assert state is not None and (state["epoch"], state["batch"]) == (1, 2)


def test_a_state_that_does_not_fit_is_refused_with_what_to_do():
    batches = LoaderBatches(StatefulDataLoader(WithState([]), 3), 4)
    batches.load_state_dict({"epoch": 0, "batch": 2, "loader": {"unlike": 1}})
    with pytest.raises(
        CheckpointError, match="the state of the StatefulDataLoader that was saved does not fit this one"
    ):
        list(batches.epoch(0, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_read_again_and_that_is_said(workers):
    make = lambda: LoaderBatches(DataLoader(Stream([]), 3, num_workers=workers), 4)  # noqa: E731
    whole = list(make().epoch(1))
    assert equal_batches(([b] for b in make().epoch(1, 3)), ([b] for b in whole[3:]))
    assert make().reads_again(1, 3) and not make().reads_again(1, 0)
    assert read_again(make(), 1, 3)[0].startswith(
        "the epoch under way is read again up to its batch 3: this DataLoader"
    )
    assert make().state_dict(1, 3) is None


def test_loaders_of_ones_own_are_left_as_they_are():
    class Mine(DataLoader):
        def __iter__(self):
            return (batch + 100 for batch in super().__iter__())

    batches = LoaderBatches(Mine(range(6), 2))  # type: ignore[arg-type]
    assert [batch.tolist() for batch in batches.epoch(0, 1)] == [[102, 103], [104, 105]] and batches.reads_again(0, 1)

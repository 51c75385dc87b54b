"""Runs on loaders and streams that users bring, stopped in mid-epoch, go on to the same bits."""

from __future__ import annotations

import gc
import random
import signal
from multiprocessing import active_children

import pytest
import torch
from data_makers import png
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from training_makers import blobs, differing, seeded_net, weights

import onecycle
from onecycle import CheckpointError

X, Y = blobs(44)
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.fixture(autouse=True, scope="module")
def impatient():
    """A loader of torchdata keeps its processes, and waits so long for each where it is garbage of a cycle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        yield


class Noisy(Dataset):
    """Samples whose inputs are shaken as by an augmentation."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        self.read += 1
        return X[i] + 0.1 * torch.randn(4) + random.random(), Y[i]


class Stream(IterableDataset):
    """A stream in an order of its own, whose place torchdata keeps."""

    def __init__(self, extra=None):
        self.read, self.place, self.order, self.loaded, self.extra = 0, 0, torch.zeros(0), False, extra

    def __iter__(self):
        if not self.loaded:
            self.place, self.order = 0, torch.randperm(len(X))
        self.loaded = False
        while self.place < len(X):
            i = int(self.order[self.place])
            self.place, self.read = self.place + 1, self.read + 1
            yield X[i], Y[i]

    def state_dict(self):
        return {"place": self.place, "order": self.order, "extra": self.extra}

    def load_state_dict(self, state):
        self.place, self.order, self.loaded = state["place"], state["order"], True


def stateful(data, **how):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(data, 4, **how)


def stop_at(step):
    def observe(event):
        if isinstance(event, onecycle.Update) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return observe


def learner(data, net=seeded_net, **options):
    return onecycle.Learner(net(), data, optimizer="sgd", verbose=False, **options)


def resumed(make, folder, net=seeded_net, updates=31, **options):
    """The learner that goes on where another was stopped in its second epoch, compared with one that was not."""
    whole = learner(make(), net, **options)
    whole.fit_one_cycle(f"{updates} updates", 0.05)
    with pytest.raises(onecycle.Interrupted):
        learner(make(), net, **options).fit_one_cycle(f"{updates} updates", 0.05, out=folder, observers=[stop_at(16)])
    again = learner(make(), net, **options)
    again.fit_one_cycle(f"{updates} updates", 0.05, out=folder, resume=True)
    assert differing(weights(whole.model), weights(again.model)) == []
    assert [epoch["train_loss"] for epoch in again.history.epochs] == [e["train_loss"] for e in whole.history.epochs]
    return again


LOADERS = {
    "map-style": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "map-style with workers": lambda: DataLoader(Noisy(), 4, shuffle=True, num_workers=1),
    "torchdata": lambda: stateful(Noisy(), shuffle=True),
    "torchdata with workers": lambda: stateful(Noisy(), shuffle=True, num_workers=1),
    "a stream of torchdata": lambda: stateful(Stream()),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_a_run_on_a_loader_goes_on_where_it_was(make, tmp_path):
    made = []

    def once_more():
        made.append(make())
        return made[-1]

    again = resumed(once_more, tmp_path / "run")
    assert not any("read again" in note for note in again.notes)
    if made[-1].num_workers == 0:
        whole, last = made[0].dataset.read, made[-1].dataset.read
        assert last < whole - len(X) - 4, "an epoch and a part of one are not read"


@pytest.mark.parametrize("data", [Noisy, Stream])
def test_a_loader_has_no_processes_left_once_a_fit_was_stopped(data, tmp_path):
    before = set(active_children())
    loader = DataLoader(data(), 4, num_workers=1)
    with pytest.raises(onecycle.Interrupted) as stop:
        learner(loader).fit_one_cycle("31 updates", 0.05, out=tmp_path / "run", observers=[stop_at(16)])
    assert stop.tb is not None, "which holds what was under way"
    assert set(active_children()) <= before


def test_a_stream_is_read_again_to_its_place_and_that_is_a_note(tmp_path):
    again = resumed(lambda: DataLoader(Stream(), 4), tmp_path / "run")
    assert any("read again up to its batch 6: this DataLoader begins at its first" in note for note in again.notes)


def test_a_loader_whose_state_no_checkpoint_can_hold_is_refused_before_the_first_update(tmp_path):
    learn = learner(stateful(Stream(extra=Stream())))
    with pytest.raises(CheckpointError, match=r"\['extra'\] is a Stream, which a checkpoint cannot hold"):
        learn.fit_one_cycle("9 updates", 0.05, out=tmp_path / "run")
    assert not learn.history.steps


def conv():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4, 3),
        )


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Images in four Parquet files, as on the hub."""
    datasets = pytest.importorskip("datasets")
    folder, patch = tmp_path_factory.mktemp("parquet"), pytest.MonkeyPatch()
    patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # seconds, at the end of each shuffled stream
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))})
    for part in range(4):
        images = [
            {"bytes": png(torch.full((6, 6), 20 * i + part).numpy().astype("uint8")), "path": None} for i in range(11)
        ]
        table = datasets.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(11)]}, features=features)
        table.to_parquet(folder / f"train-{part:05d}-of-00004.parquet")
    yield folder
    gc.collect()
    patch.undo()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["stream", "shuffled stream", "data set", "folder"])
def test_parquet_and_streams_train_and_resume_with_workers(kind, workers, parquet, tmp_path):
    import datasets

    def make():
        if kind == "folder":
            return onecycle.load(parquet)
        files, streaming = {"train": sorted(map(str, parquet.glob("*.parquet")))}, "stream" in kind
        data = datasets.load_dataset(
            "parquet", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        return data.shuffle(seed=1, buffer_size=8) if kind.startswith("shuffled") else data

    again = resumed(make, tmp_path / "run", conv, batch_size=4, workers=workers)
    assert len(again.history.epochs) >= 3
    if kind != "folder":  # which keeps a part for validation
        assert [epoch["samples"] for epoch in again.history.epochs[:2]] == [44, 44], "each sample once an epoch"
    assert any("read again" in note for note in again.notes) == ("stream" in kind)


@pytest.mark.parametrize(("buffered", "workers"), [(False, 0), (False, 2), (True, 0)])
def test_a_stateful_loader_of_a_stream_of_the_hub_goes_on_to_the_same_bits(buffered, workers, parquet, tmp_path):
    """A shuffle buffer is no part of the stream's state, and so that stream is read again."""
    import datasets

    def make():
        files = {"train": sorted(map(str, parquet.glob("*.parquet")))}
        data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        data = data.shuffle(seed=1, buffer_size=8) if buffered else data
        data = data.select_columns(["label"]).map(lambda row: {"x": [float(row["label"])] * 4}).with_format("torch")
        return stateful(data, num_workers=workers)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"])

    again = resumed(make, tmp_path / "run", updates=20, loss=loss)  # it ends in the epoch that it goes on in
    assert any("read again" in note for note in again.notes) == buffered

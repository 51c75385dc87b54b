"""Small data and short runs: all samples are used, enough updates are made, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onecycle import Learner
from onecycle.commands.app import main
from onecycle.data.batches import DatasetBatches, as_batches
from onecycle.errors import ConfigError


def samples(n: int, classes: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % classes


def learner(n: int, **options) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(4, 2), samples(n), verbose=False, **options)


def numbers_seen(batches, epoch: int) -> list[int]:
    return sorted(int(i) for batch in batches.epoch(epoch) for i in batch[0])


class Numbers(torch.utils.data.Dataset):
    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        return (torch.tensor(i),)


@pytest.mark.parametrize(("n", "size"), [(20_000, 64), (1_024, 64), (600, 32), (109, 8), (45, 8), (5, 5), (1, 1)])
def test_the_batch_size_fits_the_data(n, size):
    learn = learner(n)
    assert learn.resolved["batch_size"] == size
    assert any(note.startswith(f"batch_size {size}, for {n} training sample") for note in learn.notes) == (size < 64)


def test_a_batch_size_that_is_given_is_kept_and_must_fit():
    assert learner(109, batch_size=50).resolved["batch_size"] == 50
    with pytest.raises(ConfigError, match="batch_size 64 is larger than the data, 45 samples: at most 45"):
        learner(45, batch_size=64)


def test_small_data_make_many_updates_of_all_samples():
    learn = learner(109)
    assert learn.fit(2, lr_max=0.01).updates == 28
    assert [row["samples"] for row in learn.history.epochs] == [109, 109]


@pytest.mark.parametrize("data", [lambda n: (torch.arange(n),), Numbers])
def test_spread_batches_hold_all_samples_and_differ_by_one(data):
    for n, size in ((109, 8), (10, 4), (90, 64), (7, 7), (8, 7), (1, 1), (3, 1)):
        batches = as_batches(data(n), size, spread=True)
        sizes = [len(batch[0]) for batch in batches.epoch(3)]
        assert len(sizes) == len(batches) == -(-n // size) and max(sizes) - min(sizes) <= 1 and max(sizes) <= size
        assert numbers_seen(batches, 3) == list(range(n))
        rest = [batch[0].tolist() for batch in batches.epoch(3, len(batches) - 1)]
        assert rest == [[*batches.epoch(3)][-1][0].tolist()], "a restart in mid-epoch changes nothing"


def test_no_batch_of_one_sample_is_made():
    for n in (3, 5, 21):
        assert min(len(batch[0]) for batch in as_batches((torch.arange(n),), 2, spread=True).epoch(0)) >= 2
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert Learner(norm, samples(5), batch_size=2, verbose=False).fit(2, lr_max=0.01).updates == 4


def test_workers_give_the_same_batches():
    alone, helped = (DatasetBatches(Numbers(29), 8, workers=workers, spread=True) for workers in (0, 2))
    assert [b[0].tolist() for b in alone.epoch(1, 1)] == [b[0].tolist() for b in helped.epoch(1, 1)]


def test_what_an_epoch_leaves_out_is_small_and_said_and_another_one_each_time():
    learn = learner(1_294)
    assert "each epoch leaves out 14 of 1,294 training samples, others every time: the batches are of one size" in (
        learn.notes
    )
    learn.fit(1, lr_max=0.01)
    assert learn.history.epochs[0]["samples"] == 1_280
    batches = learner(1_294, batch_size=64)._batching.batches((torch.arange(1_294),), training=True)
    assert len({i for epoch in range(3) for i in numbers_seen(batches, epoch)}) == 1_294
    assert not any("leaves out" in note for note in learner(1_300, batch_size=50).notes)
    assert not any("leaves out" in note for note in learner(90, batch_size=64).notes)


def test_a_run_of_few_updates_says_so():
    learn = learner(109)
    learn.fit(2, lr_max=0.01)
    assert "28 updates are few: more epochs or a smaller batch_size would train it further" in learn.notes
    learn = learner(109)
    learn.fit(8, lr_max=0.01)
    assert not any("are few" in note for note in learn.notes)


def test_a_run_on_few_samples_records_the_batch_size_that_it_came_to(tmp_path: Path, capsys):
    x, y = samples(60)
    np.savez(tmp_path / "few.npz", x=x.numpy(), y=y.numpy())
    main(["train", str(tmp_path / "few.npz"), "--model", "mlp", "--epochs", "1", "--out", str(tmp_path / "run")])
    capsys.readouterr()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"]["batch_size"] is None and record["resolved"]["batch_size"] == 8
    assert any("are few" in note for note in record["notes"])

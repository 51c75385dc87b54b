"""Observers write what happened, all of it and in order, and change nothing."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onecycle import CheckpointError, EpochEnd, History, Runtime, TrainState, train
from onecycle import Update as Event
from onecycle.errors import ConfigError, MissingDependency, NonFiniteLoss
from onecycle.records import beside, checkpoint
from onecycle.records import history as observers
from onecycle.records.checkpoint import checkpoints
from onecycle.records.files import read_jsonl
from onecycle.records.history import Checkpointer, Recorder, Result
from onecycle.schedules.presets import linear
from onecycle.training.guard import LOOK_EVERY
from onecycle.training.means import Reading
from onecycle.training.objectives import Supervised


def update(step: int = 4, loss: float = 0.5, seconds: float = 0.25) -> Event:
    return Event(
        step=step, updates=10, epoch=1, progress=0.4, values={"lr": 0.1, "momentum": 0.9},
        samples=8, seconds=seconds,
        reading=Reading({"loss": torch.tensor(loss), "accuracy": torch.tensor(0.75)}),
    )  # fmt: skip


def epoch_end(epoch: int = 1, valid: dict | None = None) -> EpochEnd:
    return EpochEnd(epoch, 5 * (epoch + 1), {"loss": 0.5}, valid, {"lr": 0.1}, 40, 1.25)


def test_records_are_flat():
    assert update().row == {
        "step": 4, "epoch": 1, "lr": 0.1, "momentum": 0.9, "loss": 0.5, "accuracy": 0.75, "seconds": 0.25,
    }  # fmt: skip
    assert epoch_end(valid={"loss": 0.625, "accuracy": 0.5}).row == {
        "epoch": 1, "step": 9, "lr": 0.1, "train_loss": 0.5, "valid_loss": 0.625, "valid_accuracy": 0.5, "samples": 40,
        "seconds": 1.25,
    }  # fmt: skip
    assert not [key for key in epoch_end().row if key.startswith("valid")]


def test_history_has_each_event_however_often_it_is_read():
    history = History()
    for step in range(2 * LOOK_EVERY + 3):
        history(update(step))
        if step in (0, 60):
            assert len(history.steps) == step + 1
    history(epoch_end())
    assert [row["step"] for row in history.steps] == list(range(2 * LOOK_EVERY + 3))
    assert history.epochs == [{"fit": 0, **epoch_end().row}]


def test_what_is_recorded_is_read_back(tmp_path):
    recorder, history = Recorder(tmp_path), History()
    events = [update(0, loss=1 / 3), update(1, loss=1e-9), epoch_end(0), update(2, loss=math.pi), epoch_end(1)]
    for event in events:
        recorder(event)
        history(event)
    recorder.close()
    kept = History(read_jsonl(tmp_path / "steps.jsonl"), read_jsonl(tmp_path / "epochs.jsonl"))
    assert (kept.steps, kept.epochs) == (history.steps, history.epochs)
    assert "fit" not in read_jsonl(tmp_path / "steps.jsonl")[0]  # a run on disk is one fit


def two_fits() -> History:
    history = History()
    history.begin_fit()  # nothing was recorded before it
    for valid in (None, {"loss": 0.625, "accuracy": 0.5}):
        history.begin_fit()
        for step in range(3):
            history(update(step, seconds=step + 1))
        history(epoch_end(0, valid))
    return history


def test_one_history_over_several_fits():
    history = two_fits()
    assert [(row["fit"], row["step"]) for row in history.steps] == [(f, s) for f in range(2) for s in range(3)]
    assert [row["fit"] for row in history.epochs] == [0, 1]
    history.begin_fit()
    history.extend([{"step": 0}], [])
    assert history.steps[-1] == {"fit": 2, "step": 0}


def test_what_was_measured_is_of_the_last_fit_by_update():
    history, valid = two_fits(), {"loss": 0.625, "accuracy": 0.5}
    assert history.measured() == [(epoch_end(0).step - 1, valid)]
    history.begin_fit()
    assert history.measured() == [] and history.last_fit == []
    history.extend([{"step": 0, "valid_loss": 3.0}, {"step": 1}], [{"step": 1, "epoch": 0, "valid_loss": 2.0}])
    history(update(2))
    history(epoch_end(1))
    assert history.measured() == [(0, {"loss": 3.0}), (1, {"loss": 2.0})]
    history.measured_at_end({"loss": 1.0})
    assert history.measured() == [(0, {"loss": 3.0}), (1, {"loss": 2.0}), (epoch_end(1).step - 1, {"loss": 1.0})]
    assert [row["step"] for row in history.last_fit] == [0, 1, 2]


def test_a_result_is_of_the_last_fit():
    result = two_fits().result(0.2, 3)
    assert result == Result({"loss": 0.5}, {"loss": 0.625, "accuracy": 0.5}, 0.2, 1.0, 3, 3, 32.0)
    assert result.to_dict() == {
        "train": {"loss": 0.5}, "valid": {"loss": 0.625, "accuracy": 0.5}, "test": None, "lr_max": 0.2,
        "epochs": 1.0, "updates": 3, "seconds": 3, "samples_per_second": 32.0, "baseline": None,
    }  # fmt: skip
    assert two_fits().result(None, None).lr_max == 0.1


def test_how_a_result_is_shown():
    smoothed = {"loss": 0.9, "loss_unsmoothed": 0.5, "accuracy": 0.8}
    result = Result(smoothed, {"loss": 0.625, "accuracy": 0.7512}, 0.2, 1.0, 3, 90.0, 32.0)
    assert repr(result) == "Result(valid accuracy 75.12 %, 3 updates in 1 min 30 s, lr_max=0.2)"
    assert repr(replace(result, test={"loss": 0.4})).startswith("Result(test loss 0.4, 3 updates")
    assert repr(replace(result, valid=None, train=smoothed)).startswith("Result(train accuracy 80.00 %, ")
    shown = result._repr_html_()
    assert "<tr><th></th><th>loss</th><th>accuracy</th></tr><tr><th>train</th><td>0.5</td><td>80.00 %</td>" in shown
    assert "0.9" not in shown and "<tr><th>valid</th><td>0.625</td><td>75.12 %</td></tr>" in shown
    assert replace(result, folder=Path("runs/a")).to_dict()["folder"] == "runs/a"


def test_how_a_history_is_shown():
    assert repr(History()) == "History(no updates)"
    assert repr(two_fits()) == "History(2 fits, 2 epochs, 6 updates)"
    one = History(
        [{"step": 0}], [{"epoch": 0, "train_loss": 0.9, "train_loss_unsmoothed": 0.5, "lr": 0.1, "seconds": 2}]
    )
    assert repr(one) == "History(1 epoch, 1 update)"
    head = "".join(f"<th>{name}</th>" for name in ("epoch", "train loss", "lr", "seconds"))
    assert f"<tr>{head}</tr><tr><th>1</th><td>0.5</td><td>0.1</td><td>2 s</td></tr>" in one._repr_html_()
    shown = two_fits()._repr_html_()
    assert "<th>fit</th><th>epoch</th>" in shown and "<tr><th>1</th><td>1</td><td>0.5</td><td></td>" in shown


def test_a_history_is_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = two_fits().to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["fit"]) == [0, 1] and list(frame["valid_accuracy"])[1] == 0.5
    assert len(two_fits().to_frame("steps")) == 6
    with pytest.raises(ConfigError, match="unknown kind of records 'batches'"):
        two_fits().to_frame("batches")


def test_a_data_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match="pip install pandas"):
        two_fits().to_frame()


def test_the_end_of_an_epoch_flushes(tmp_path):
    recorder = Recorder(tmp_path)
    recorder(update(0))
    assert read_jsonl(tmp_path / "steps.jsonl") == []
    recorder(epoch_end(0))
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == len(read_jsonl(tmp_path / "epochs.jsonl")) == 1
    recorder(update(1))
    recorder.sync()
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 2
    recorder(update(2))
    recorder.close()
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 3


def test_a_recorder_appends(tmp_path):
    for step in range(2):
        recorder = Recorder(tmp_path)
        recorder(update(step))
        recorder.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "steps.jsonl")] == [0, 1]


def test_a_full_disk_stops_the_recorder_and_says_how_to_go_on(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path)
    recorder(update(0))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\. Free some space and go on with --resume"):
        recorder.sync()
    monkeypatch.undo()
    recorder.close()
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 1


def test_a_disk_that_is_full_at_the_end_leaves_no_file_open(tmp_path):
    """/dev/full takes nothing: the flush of a close fails."""
    full = tmp_path / "steps.jsonl"
    try:
        full.symlink_to("/dev/full")
        full.open("a").close()
    except OSError:
        pytest.skip("no /dev/full here")
    recorder = Recorder(tmp_path)
    recorder(update(0))
    with pytest.raises(CheckpointError, match="No space left"):
        recorder.close()
    assert recorder._steps.closed and recorder._epochs.closed


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write the records"):
        Recorder(tmp_path / "nowhere")


class Clock:
    """A clock that a test sets; a copy takes `cost` seconds of it, and what is to be written is kept in `saved`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: float = 0.0):
        self.now, self.saved, self.cost = 1000.0, [], cost
        monkeypatch.setattr(observers.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(observers.checkpoint, "save", self.save)
        monkeypatch.setattr(observers, "copied_into", self.copied)

    def copied(self, before: dict, state: dict, leave: object) -> dict:
        self.began, self.now = self.now, self.now + self.cost
        return state

    def save(self, state: dict, folder: object, step: int, keep: int) -> str:
        self.saved.append((self.began, step, keep))
        return "path"


def written(checkpointer: Checkpointer) -> None:
    """Wait until the thread has ended, as it will have by the next call."""
    if checkpointer._writing is not None:
        checkpointer._writing.join()


def trained() -> TrainState:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainState(model, optimizer, Supervised(nn.functional.mse_loss), Runtime.choose("cpu"))


def test_a_checkpoint_is_due_by_time_and_at_the_end_of_an_epoch(tmp_path, monkeypatch):
    clock, state = Clock(monkeypatch), trained()
    checkpointer = Checkpointer(state, tmp_path, every=30, share=0.01, keep=3, background=True)
    for seconds, event in ((29, update()), (1, update()), (29, update()), (0, epoch_end()), (30, update())):
        clock.now += seconds
        checkpointer(event)
        written(checkpointer)
    assert [time - 1000 for time, _, _ in clock.saved] == [30, 59, 89]
    assert {keep for _, _, keep in clock.saved} == {3}


def test_saving_stays_within_its_share_of_the_time(tmp_path, monkeypatch):
    """Each takes 1 s, epochs take 7 s: at 1 % there is one in 100 s, whatever is due."""
    clock = Clock(monkeypatch, cost=1.0)
    checkpointer = Checkpointer(trained(), tmp_path, every=10, share=0.01, background=True)
    while clock.now < 2000:
        clock.now += 7
        checkpointer(epoch_end())
        written(checkpointer)
    times = [time for time, _, _ in clock.saved]
    assert all(after - before >= 101 for before, after in pairwise(times))
    assert len(times) == 10


def test_records_are_written_before_a_checkpoint_relies_on_them(tmp_path, monkeypatch):
    order: list[str] = []
    clock = Clock(monkeypatch)
    monkeypatch.setattr(clock, "save", lambda *_, **__: order.append("checkpoint"))
    monkeypatch.setattr(observers.checkpoint, "save", clock.save)
    checkpointer = Checkpointer(trained(), tmp_path, before=lambda: order.append("records"))
    checkpointer.save()
    assert order == ["records", "checkpoint"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_saved(bad, tmp_path):
    state = trained()
    checkpointer = Checkpointer(state, tmp_path)
    good = checkpointer.save()
    with torch.no_grad():
        state.model.weight[0, 1] = bad
    with pytest.raises(NonFiniteLoss, match="non-finite weights in weight"):
        checkpointer.save()
    assert checkpoints(tmp_path) == [good]


class Disk:
    """A disk whose writing waits until it is let go, and may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None):
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls, self._save, self._error = 0, observers.checkpoint.save, error
        monkeypatch.setattr(observers.checkpoint, "save", self.save)

    def save(self, *args: Any, **keywords: Any) -> Path:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(60)
        if self._error is not None:
            raise self._error
        return self._save(*args, **keywords)


def test_a_training_goes_on_while_its_checkpoint_is_written(tmp_path, monkeypatch):
    disk, state = Disk(monkeypatch), trained()
    checkpointer = Checkpointer(state, tmp_path, background=True)
    before = state.model.weight.detach().clone()
    checkpointer(epoch_end())
    assert disk.begun.wait(60) and checkpoints(tmp_path) == []
    with torch.no_grad():
        state.model.weight.add_(1)
    disk.go.set()
    checkpointer.wait()
    (path,) = checkpoints(tmp_path)
    assert torch.equal(checkpoint.load(path)["model"]["weight"], before)
    assert checkpointer.save() == path
    assert torch.equal(checkpoint.load(path)["model"]["weight"], before + 1)


def test_one_checkpoint_is_written_at_a_time_and_none_is_due_meanwhile(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(observers.time, "perf_counter", lambda: now[0])
    disk = Disk(monkeypatch)
    checkpointer = Checkpointer(trained(), tmp_path, every=30, background=True)
    for _ in range(5):
        now[0] += 100
        checkpointer(epoch_end())
    assert disk.begun.wait(60) and disk.calls == 1
    disk.go.set()
    written(checkpointer)
    now[0] += 100
    checkpointer(update())
    checkpointer.wait()
    assert disk.calls == 2


@pytest.mark.parametrize("meet", ["the next event", "the next save", "the end"])
def test_what_goes_wrong_while_it_is_written_is_raised_in_the_run(meet, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, CheckpointError("cannot write the checkpoint: No space left on device"))
    disk.go.set()
    checkpointer = Checkpointer(trained(), tmp_path, background=True)
    checkpointer(epoch_end())
    written(checkpointer)
    with pytest.raises(CheckpointError, match="No space left"):
        {"the next event": lambda: checkpointer(update()), "the next save": checkpointer.save}.get(
            meet, checkpointer.wait
        )()
    checkpointer.wait()  # it is said once


@pytest.mark.parametrize("call", [Checkpointer.save, lambda checkpointer: checkpointer(epoch_end())])
def test_by_hand_what_goes_wrong_is_raised_by_the_call(call, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, CheckpointError("cannot write the checkpoint: No space left on device"))
    disk.go.set()
    checkpointer = Checkpointer(trained(), tmp_path)
    with pytest.raises(CheckpointError, match="No space left"):
        call(checkpointer)
    disk._error = None
    assert checkpoints(tmp_path) == [] and [checkpointer.save()] == checkpoints(tmp_path)


def test_a_wait_that_is_interrupted_can_be_made_again_and_no_second_thread_writes_meanwhile(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    checkpointer = Checkpointer(trained(), tmp_path, background=True)
    checkpointer(epoch_end())
    assert disk.begun.wait(60)
    with monkeypatch.context() as patched:
        patched.setattr(beside.Writing, "join", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            checkpointer.wait()
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save()
    assert disk.calls == 1
    disk.go.set()
    checkpointer.wait()
    assert len(checkpoints(tmp_path)) == 1


@pytest.mark.parametrize(("threads", "cost"), [(1, 0.0), (2, 5.0)])
def test_the_work_of_writing_counts_where_the_training_has_all_cores(threads, cost, tmp_path, monkeypatch):
    monkeypatch.setattr(observers.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(beside, "thread_time", iter((10.0, 15.0)).__next__)
    monkeypatch.setattr(observers.time, "perf_counter", lambda: 1000.0)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {5, 7}, raising=False)
    checkpointer = Checkpointer(trained(), tmp_path, background=True)
    checkpointer(epoch_end())
    checkpointer.wait()
    assert checkpointer._cost == cost


def test_observers_change_nothing(tmp_path):
    """With all of them and without any: the same weights to the bit."""
    made = []
    for watched in (False, True):
        torch.manual_seed(0)
        state = trained()
        recorder = Recorder(tmp_path)
        watchers = [History(), recorder, Checkpointer(state, tmp_path / "c", every=0, share=1e9, before=recorder.sync)]
        batches = [(torch.ones(4, 2) * i, torch.ones(4, 1)) for i in range(5)]
        before = torch.get_rng_state()
        for event in train(state, batches, 2, linear(0.1)):
            for watch in watchers if watched else []:
                watch(event)
        assert torch.equal(torch.get_rng_state(), before)
        recorder.close()
        made.append(state.model.weight)
    assert torch.equal(*made)
    assert [row["step"] for row in read_jsonl(tmp_path / "steps.jsonl")] == list(range(10))

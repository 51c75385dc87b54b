"""A learner's run on disk: started where there is room, resumed where it fits."""

from __future__ import annotations

import signal
import threading
import warnings
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from onecycle import CheckpointError, Runtime, TrainState, train
from onecycle.records import run as runs
from onecycle.records.checkpoint import checkpoints
from onecycle.records.recording import Recording
from onecycle.schedules.presets import linear
from onecycle.training.objectives import Supervised
from onecycle.training.signals import stop_requests

CONFIG = {"seed": 0}
BATCHES = [(torch.ones(4, 2) * i, torch.ones(4, 1)) for i in range(5)]


def new_state(width: int = 1) -> TrainState:
    model = nn.Linear(2, width)
    nn.init.constant_(model.weight, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainState(model, optimizer, Supervised(nn.functional.mse_loss), Runtime.choose("cpu"))


def part_of_a_run(folder, updates=7):
    """A run of two epochs of five, stopped after `updates` with a checkpoint, and two more without one."""
    state = new_state()
    with ExitStack() as stack:
        recording = Recording.start(folder, state, CONFIG, [], stack)
        for event in train(state, BATCHES, 2, linear(0.1)):
            recording.recorder(event)
            recording.history(event)
            if hasattr(event, "reading") and event.step + 1 == updates:
                recording.checkpointer.save()
            if hasattr(event, "reading") and event.step + 1 == updates + 2:
                break
    return state


def test_a_start_leaves_the_state_alone_and_the_folder_claimed(tmp_path):
    with ExitStack() as stack:
        recording = Recording.start(tmp_path / "run", new_state(), CONFIG, ["a note"], stack)
        assert runs.read(recording.folder)["notes"] == ["a note"]
        assert recording.watchers == [recording.recorder, recording.checkpointer]
        assert recording.last_good() == "There is no checkpoint yet"
        with pytest.raises(CheckpointError, match="holds another run"):
            Recording.start(tmp_path / "run", new_state(), CONFIG, [], stack)
    assert recording.recorder._steps.closed


def test_resuming_goes_back_to_the_checkpoint(tmp_path):
    part_of_a_run(tmp_path)
    assert len(runs.read_records(tmp_path / "steps.jsonl")) == 9
    state = new_state()
    with ExitStack() as stack:
        recording = Recording.resume(tmp_path, state, CONFIG, stack)
        assert (state.at.step, state.at.epoch, state.at.batch) == (7, 1, 2)
        assert [row["step"] for row in recording.history.steps] == list(range(7))
        assert [row["epoch"] for row in recording.history.epochs] == [0]
        assert recording.last_good() == f"The last good checkpoint is {tmp_path / 'checkpoints/step-00000007'}"
    assert len(runs.read_records(tmp_path / "steps.jsonl")) == 7


def test_an_error_of_before_is_forgotten(tmp_path):
    part_of_a_run(tmp_path)
    runs.change(tmp_path, status="failed", error="the disk was full")
    with ExitStack() as stack:
        Recording.resume(tmp_path, new_state(), CONFIG, stack)
    assert (runs.read(tmp_path)["status"], runs.read(tmp_path)["error"]) == ("running", None)


def test_without_a_checkpoint_it_begins_anew(tmp_path):
    part_of_a_run(tmp_path, updates=100)
    state = new_state()
    with ExitStack() as stack:
        assert Recording.resume(tmp_path, state, CONFIG, stack).history.steps == []
    assert state.at.step == 0


def test_without_a_checkpoint_a_trained_model_cannot_begin_anew(tmp_path):
    state = part_of_a_run(tmp_path, updates=100)
    with ExitStack() as stack, pytest.raises(CheckpointError, match="give a fresh one"):
        Recording.resume(tmp_path, state, CONFIG, stack)


@pytest.mark.parametrize("what", ["configuration", "model", "records"])
def test_what_does_not_fit_changes_nothing(what, tmp_path):
    part_of_a_run(tmp_path)
    state = new_state(width=3 if what == "model" else 1)
    if what == "records":
        (tmp_path / "steps.jsonl").unlink()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = {"configuration": "seed: 0, now 1", "model": "another model", "records": "0 of the 7 records"}[what]
    with ExitStack() as stack, pytest.raises(CheckpointError, match=said):
        Recording.resume(tmp_path, state, {"seed": 1} if what == "configuration" else CONFIG, stack)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_takes_the_records_back_further(tmp_path):
    part_of_a_run(tmp_path, updates=4)
    state = new_state()
    with ExitStack() as stack:
        recording = Recording.resume(tmp_path, state, CONFIG, stack)
        for event in train(state, BATCHES, 2, linear(0.1)):
            for watch in (recording.recorder, recording.history):
                watch(event)
        recording.checkpointer.save()
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    (newest / "state.pt").write_bytes(b"damaged")
    fresh = new_state()
    with ExitStack() as stack, pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        recording = Recording.resume(tmp_path, fresh, CONFIG, stack)
    assert fresh.at.step == len(recording.history.steps) == 4
    assert recording.history.epochs == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_and_the_second_does_not(number):
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_handlers_are_put_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_requests():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_caught():
    seen = []

    def work() -> None:
        with warnings.catch_warnings(), stop_requests() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.getsignal(signal.SIGINT))]

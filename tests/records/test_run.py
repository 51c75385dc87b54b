"""One run on disk: started where there is room, resumed where it fits, its records cut back to a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from onecycle import CheckpointError, Runtime, TrainState, train
from onecycle.records import origin
from onecycle.records.checkpoint import checkpoints
from onecycle.records.files import RUN, read_jsonl, write_jsonl
from onecycle.records.run import Recording, check_same, create, is_over, truncate_records
from onecycle.schedules.presets import linear
from onecycle.training.objectives import Supervised
from onecycle.training.signals import stop_requests

CONFIG = {"seed": 0}
ROWS = [{"step": step, "loss": 1 / (step + 3), "name": "ü"} for step in range(5)]
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
        recording = Recording.start(folder, state, stack, config=CONFIG)
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
        recording = Recording.start(tmp_path / "run", new_state(), stack, config=CONFIG, notes=["a note"])
        assert RUN.read(recording.folder)["notes"] == ["a note"]
        assert recording.watchers == [recording.recorder, recording.checkpointer]
        assert recording.last_good() == "There is no checkpoint yet"
        with pytest.raises(CheckpointError, match="holds another run"):
            Recording.start(tmp_path / "run", new_state(), stack, config=CONFIG)
    assert recording.recorder._steps.closed


def test_a_full_disk_is_met_before_there_is_a_run(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, ExitStack() as stack:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            CheckpointError, match=r"cannot be written to .*/run and read back: .*No space left.*Free some"
        ):
            Recording.start(tmp_path / "run", new_state(), stack, config=CONFIG)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run/.trial").mkdir(parents=True)  # a process that was killed there
    with ExitStack() as stack:
        Recording.start(tmp_path / "run", new_state(), stack, config=CONFIG)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["epochs.jsonl", "run.json", "steps.jsonl"]


def test_resuming_goes_back_to_the_checkpoint(tmp_path):
    part_of_a_run(tmp_path)
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 9
    state = new_state()
    with ExitStack() as stack:
        recording = Recording.resume(tmp_path, state, stack, config=CONFIG)
        assert (state.at.step, state.at.epoch, state.at.batch) == (7, 1, 2)
        assert [row["step"] for row in recording.history.steps] == list(range(7))
        assert [row["epoch"] for row in recording.history.epochs] == [0]
        assert recording.last_good() == f"The last good checkpoint is {tmp_path / 'checkpoints/step-00000007'}"
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 7


def test_an_error_of_before_is_forgotten(tmp_path):
    part_of_a_run(tmp_path)
    RUN.update(tmp_path, status="failed", error="the disk was full")
    with ExitStack() as stack:
        Recording.resume(tmp_path, new_state(), stack, config=CONFIG)
    assert (RUN.read(tmp_path)["status"], RUN.read(tmp_path)["error"]) == ("running", None)


def test_without_a_checkpoint_it_begins_anew(tmp_path):
    part_of_a_run(tmp_path, updates=100)
    state = new_state()
    with ExitStack() as stack:
        assert Recording.resume(tmp_path, state, stack, config=CONFIG).history.steps == []
    assert state.at.step == 0


def test_without_a_checkpoint_a_trained_model_cannot_begin_anew(tmp_path):
    state = part_of_a_run(tmp_path, updates=100)
    with ExitStack() as stack, pytest.raises(CheckpointError, match="give a fresh one"):
        Recording.resume(tmp_path, state, stack, config=CONFIG)


@pytest.mark.parametrize("what", ["configuration", "model", "records"])
def test_what_does_not_fit_changes_nothing(what, tmp_path):
    part_of_a_run(tmp_path)
    state = new_state(width=3 if what == "model" else 1)
    if what == "records":
        (tmp_path / "steps.jsonl").unlink()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = {"configuration": "seed: 0, now 1", "model": "another model", "records": "0 of the 7 records"}[what]
    with ExitStack() as stack, pytest.raises(CheckpointError, match=said):
        Recording.resume(tmp_path, state, stack, config={"seed": 1} if what == "configuration" else CONFIG)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_takes_the_records_back_further(tmp_path):
    part_of_a_run(tmp_path, updates=4)
    state = new_state()
    with ExitStack() as stack:
        recording = Recording.resume(tmp_path, state, stack, config=CONFIG)
        for event in train(state, BATCHES, 2, linear(0.1)):
            for watch in (recording.recorder, recording.history):
                watch(event)
        recording.checkpointer.save()
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    (newest / "state.pt").write_bytes(b"damaged")
    fresh = new_state()
    with ExitStack() as stack, pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        recording = Recording.resume(tmp_path, fresh, stack, config=CONFIG)
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


def test_a_new_run(tmp_path):
    folder = create(tmp_path / "a/b", {"seed": 3}, facts={"kind": "image"}, resolved={"lr_max": 0.1}, notes=["a note"])
    record = RUN.read(folder)
    assert record["schema"] == 2
    assert (record["config"], record["notes"]) == ({"seed": 3}, ["a note"])
    assert (record["facts"], record["resolved"]) == ({"kind": "image"}, {"lr_max": 0.1})
    assert (record["status"], record["result"], record["error"]) == ("running", None, None)
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["cores"] == os.cpu_count()
    assert record["hardware"]["cpu"]
    assert record["created"].endswith("+00:00")


@pytest.fixture
def unknown_commits():
    """As in a process that has asked for no commit, before and after."""
    origin._git_commit.cache_clear()
    yield
    origin._git_commit.cache_clear()


@pytest.mark.usefixtures("unknown_commits")
def test_the_commit_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert RUN.read(create("outside", {}))["git_commit"] is None
    monkeypatch.chdir(tmp_path / "inside")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert RUN.read(create("run", {}))["git_commit"] == head


@pytest.mark.usefixtures("unknown_commits")
def test_the_commit_of_a_folder_is_asked_for_once(tmp_path, monkeypatch):
    asked, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **how: asked.append(how["cwd"]) or run(*args, **how))
    commits = {RUN.read(create(tmp_path / name, {}))["git_commit"] for name in "abc"}
    assert len(commits) == len(asked) == 1
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "d", {})
    assert asked[1:] == [str(tmp_path)]


@pytest.mark.usefixtures("unknown_commits")
def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RUN.read(create(tmp_path / "run", {}))["git_commit"] is None


def test_check_same(tmp_path):
    create(tmp_path, {"seed": 0, "lr_max": 0.1})
    check_same(tmp_path, RUN.read(tmp_path), {"lr_max": 0.1, "seed": 0})
    with pytest.raises(CheckpointError, match=r"another configuration: seed: 0, now 1\. Resume with the same one"):
        check_same(tmp_path, RUN.read(tmp_path), {"seed": 1, "lr_max": 0.1})


def test_a_run_is_over_when_its_test_set_was_looked_at():
    records = [{"status": "finished", "result": {"test": None}}, {"status": "finished", "result": {"train": {}}},
               {"status": "running", "result": None}]  # fmt: skip
    assert [is_over(record) for record in records] == [True, False, False]


def test_facts_are_compared_apart_from_the_configuration(tmp_path):
    create(tmp_path, {"momentum": (0.95, 0.85)}, facts={"samples": (5, 1)})
    check_same(tmp_path, RUN.read(tmp_path), {"momentum": (0.95, 0.85)})
    check_same(tmp_path, RUN.read(tmp_path), {"momentum": [0.95, 0.85]}, {"samples": [5, 1]})
    with pytest.raises(CheckpointError, match=r"configuration: facts.samples: \[5, 1\], now \[6, 1\]\. Resume"):
        check_same(tmp_path, RUN.read(tmp_path), {"momentum": [0.95, 0.85]}, {"samples": (6, 1)})


@pytest.mark.parametrize("name", ["run.json", "thesis.txt"])
def test_a_folder_that_is_not_free_stays_as_it_was(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="holds"):
        create(tmp_path, {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "{}")]


def written(path):
    write_jsonl(path, ROWS)
    return path


def test_truncation_keeps_what_is_below(tmp_path):
    path = written(tmp_path / "steps.jsonl")
    truncate_records(path, "step", 3)
    assert read_jsonl(path) == ROWS[:3]
    truncate_records(path, "step", 0)
    assert path.read_text() == ""
    truncate_records(tmp_path / "none.jsonl", "step", 0)
    assert [p.name for p in tmp_path.iterdir() if p.read_text()] == []


def test_records_that_are_missing_or_damaged_stop_a_resumption(tmp_path):
    path = written(tmp_path / "steps.jsonl")
    with pytest.raises(CheckpointError, match=r"holds 5 of the 7 records up to the last good checkpoint"):
        truncate_records(path, "step", 7)
    assert read_jsonl(path) == ROWS
    with pytest.raises(CheckpointError, match="holds 0 of the 2 records"):
        truncate_records(tmp_path / "none.jsonl", "step", 2)
    path.write_text(path.read_text().replace('"step": 2', '"step" 2'))
    with pytest.raises(CheckpointError, match=r"steps.jsonl is damaged"):
        read_jsonl(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CheckpointError, match=r"steps.jsonl is damaged"):
        truncate_records(path, "step", 1)


def test_truncation_on_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = written(tmp_path / "steps.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"steps.jsonl is as it was"):
        truncate_records(path, "step", 2)
    assert read_jsonl(path) == ROWS


def test_a_run_that_another_process_writes_is_not_gone_on_with(tmp_path):
    part_of_a_run(tmp_path)
    steps = (tmp_path / "steps.jsonl").read_bytes()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "steps.jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    with ExitStack() as stack, pytest.raises(CheckpointError, match="is being written by another process"):
        Recording.resume(tmp_path, new_state(), stack, config=CONFIG)
    assert (tmp_path / "steps.jsonl").read_bytes() == steps
    other.communicate(b"\n")
    with ExitStack() as stack:
        assert Recording.resume(tmp_path, new_state(), stack, config=CONFIG).resumed
        tried = [sys.executable, "-c", code.replace("EX)", "EX | fcntl.LOCK_NB)"), tmp_path / "steps.jsonl"]
        assert subprocess.run(tried, capture_output=True).returncode, "it is locked by this process now"

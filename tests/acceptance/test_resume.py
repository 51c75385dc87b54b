"""A run that is killed anywhere and resumed ends as one that was never stopped: weights, history, result, to the bit.

The children are real processes and end by a real SIGKILL. A few tests start the command itself.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch

import onecycle.fits.run
import onecycle.training.loop
import onecycle.training.norms
from onecycle import CheckpointError, Job, build_model, load
from onecycle.commands.app import main
from onecycle.jobs import run as job_run
from onecycle.learner import Learner
from onecycle.records import history as observers
from onecycle.records import run as runs
from onecycle.records.checkpoint import checkpoints
from onecycle.records.files import RUN, read_jsonl

NETS = """
import time
from pathlib import Path
from torch import nn

def tiny(input_shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(256, classes),
    )

def bare(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes))

class Held(nn.Module):
    passes = 0

    def __init__(self, input_shape, classes):
        super().__init__()
        self.net = tiny(input_shape, classes)

    def forward(self, x):
        self.passes += self.training  # one of them tries what it can be trained with
        while self.passes > 14 and self.training and Path("hold").exists():
            Path("held").touch()
            time.sleep(0.005)
        return self.net(x)
"""
SGD = Job(
    model="nets:tiny", budget="3 epochs", lr_max=0.3, optimizer="sgd", momentum=(0.95, 0.85), limit=320,
    augment=("crop", "cutout"), batch_size=32, seed=5,
)  # fmt: skip
# A ragged last group, half an epoch at the end, clipping and label smoothing
ADAMW = replace(
    SGD, optimizer="adamw", lr_max=0.02, budget="2.5 epochs", momentum=None, accumulate=3, clip=1.0, smoothing=0.1
)
MUON = replace(SGD, optimizer="muon", lr_max="default", momentum=None, policy="paper", augment=None)
JOBS = {"sgd": SGD, "adamw": ADAMW, "muon": MUON}
# Lost again and again, and rescued.
LOST = replace(SGD, model="nets:bare", lr_max=1e3, momentum=None, policy="constant", budget="30 updates", average=0.9)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the jobs lies in the current directory."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a job's uninterrupted run, in a process of its own as all the others are."""

    @functools.cache
    def run(name: str) -> Path:
        home = tmp_path_factory.mktemp(name)
        (home / "nets.py").write_text(NETS)
        assert child(JOBS[name], "run", home=home) == 0
        return home / "run"

    return run


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run that was rescued."""
    home = tmp_path_factory.mktemp("lost")
    (home / "nets.py").write_text(NETS)
    assert child(LOST, "run", home=home) == 0
    return home / "run"


def start(work: Job, out: str, resume: bool = False, home: Path | None = None, **problems: Any) -> forked.Popen:
    """A run in a process of its own, with the problems of `faults.run`."""
    code = f"from onecycle import Job; import faults; faults.run({work!r}, {out!r}, {resume!r}, {problems!r})"
    return forked.Popen(["-c", code], cwd=home, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def child(*args: Any, **keywords: Any) -> int:
    """The exit code of a run in a process of its own."""
    return start(*args, **keywords).wait(300)


def updates(steps: Path = Path("run/steps.jsonl")) -> int:
    """How many are recorded."""
    return steps.read_bytes().count(b"\n") if steps.exists() else 0


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def assert_same_run(run: str | Path, expected: Path) -> None:
    run = Path(run)
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    for file in ("steps.jsonl", "epochs.jsonl"):
        got, wanted = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / file)]
            for folder in (run, expected)
        )
        assert got == wanted
    got, wanted = (
        {k: v for k, v in RUN.read(folder)["result"].items() if k not in ("run", "seconds", "samples_per_second")}
        for folder in (run, expected)
    )
    assert got == wanted
    assert list(wanted) == ["train", "valid", "test", "lr_max", "epochs", "updates", "baseline"]
    assert RUN.read(run)["status"] == "finished"
    assert RUN.read(run)["error"] is None


def test_an_uninterrupted_run_is_what_it_should_be(finished):
    steps, epochs = (read_jsonl(finished("adamw") / f"{name}.jsonl") for name in ("steps", "epochs"))
    assert [row["step"] for row in steps] == list(range(10))  # 10 batches by 3 are 4 updates, and half of it is 2
    assert [row["samples"] for row in epochs] == [320, 320, 192]
    assert not torch.equal(*(torch.tensor([row[k] for row in steps]) for k in ("loss", "lr")))


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_random_moments_and_resumed_each_time(name, finished):
    """Wherever it is when the parent has seen its next few updates."""
    moments, last = random.Random(name), updates(finished(name) / "steps.jsonl")
    for _ in range(6):
        target = updates() + moments.randint(0, 4)
        if target >= last:
            break
        process = start(JOBS[name], "run", Path("run/run.json").exists(), slow_writing=0.005)
        wait_for(lambda target=target: updates() >= target, process)
        process.kill()
        if process.wait() == 0:  # it was faster
            break
        assert process.returncode == -signal.SIGKILL
    assert updates() > 0
    assert child(JOBS[name], "run", Path("run/run.json").exists()) == 0
    assert_same_run("run", finished(name))


@pytest.mark.parametrize(
    ("window", "die"),
    {
        "before the first update": ("training.loop._Clock.start", 1, "before"),
        "between the records and their checkpoint": ("records.checkpoint.save", 4, "before"),
        "right after a checkpoint": ("records.checkpoint.save", 4, "after"),
        "while a manifest is written": ("records.files.write_json", 5, "before"),
        "before a checkpoint gets its name": ("records.checkpoint._write_state", 5, "after"),
        "while an old checkpoint is removed": ("records.checkpoint.remove", 2, "before"),
        "between the last update of an epoch and its end": ("training.loop._end_epoch", 2, "before"),
        "before the validation of an epoch": ("learner.Learner.evaluate", 2, "before"),
        "between the record of an epoch and its checkpoint": ("records.history.Recorder.__call__", 22, "after"),
        "after the last epoch": ("records.history.History.result", 1, "before"),
        "before the weights have their name": ("safetensors.save_model", 2, "after"),
        "before the run is called finished": ("records.run.save_weights", 1, "after"),
        "before the test set is measured": ("learner.Learner.evaluate", 4, "before"),
        "before the whole result is written": ("learner.Learner.evaluate", 4, "after"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["sgd"])
def test_killed_in_a_window(name, window, die, finished):
    assert child(JOBS[name], "run", die=die) == -signal.SIGKILL, f"never came to {window}"
    assert child(JOBS[name], "run", True) == 0
    assert_same_run("run", finished(name))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("training.state.TrainState.go_back", 1), ("training.state.TrainState.go_back", 2),
        ("records.checkpoint.save", 9), ("records.checkpoint.save", 16),
    ],
)  # fmt: skip
def test_killed_about_a_rescue(what, call, when, lost):
    assert child(LOST, "run", die=(what, call, when)) == -signal.SIGKILL
    assert child(LOST, "run", True) == 0
    assert (Path("run/model.safetensors")).read_bytes() == (lost / "model.safetensors").read_bytes()
    got, wanted = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / "steps.jsonl")]
        for folder in (Path("run"), lost)
    )
    assert got == wanted
    records = [RUN.read(folder) for folder in (Path("run"), lost)]
    assert records[0]["result"]["rescues"] == records[1]["result"]["rescues"]
    said = [[note for note in record["notes"] if note.startswith("rescued at")] for record in records]
    assert said[0] == said[1] and len(said[0]) == len(records[0]["result"]["rescues"]) > 1


@pytest.mark.parametrize("call", [2, 3, 9])  # the first one is a trial
def test_killed_with_half_a_checkpoint_written(call, finished):
    assert child(SGD, "run", die_in_file=call) == -signal.SIGKILL
    assert len(list(Path("run/checkpoints").glob(".writing-*"))) == 1
    assert child(SGD, "run", True) == 0
    assert_same_run("run", finished("sgd"))
    assert len(checkpoints("run/checkpoints")) == 2
    assert not list(Path("run/checkpoints").glob(".*"))


@pytest.mark.parametrize("call", [1, 6])
def test_killed_in_an_update_while_a_checkpoint_is_written(call, finished):
    """The update after it is made meanwhile, and the process dies at its end."""
    assert child(SGD, "run", die_beside=call) == -signal.SIGKILL
    assert len(list(Path("run/checkpoints").glob(".writing-*"))) == 1
    assert child(SGD, "run", True) == 0
    assert_same_run("run", finished("sgd"))


def test_killed_while_the_end_waits_for_a_checkpoint(finished):
    assert child(SGD, "run", die=("records.beside.Writing.end", 4, "before")) == -signal.SIGKILL
    assert child(SGD, "run", True) == 0
    assert_same_run("run", finished("sgd"))


def test_killed_again_while_it_resumes(finished):
    assert child(ADAMW, "run", die=("records.checkpoint.save", 5, "after")) == -signal.SIGKILL
    for die in (
        ("records.run.truncate_records", 1, "after"),
        ("records.run.truncate_records", 2, "after"),
        ("records.files.write_json", 1, "before"),
        ("records.checkpoint.save", 1, "before"),
    ):
        assert child(ADAMW, "run", True, die=die) == -signal.SIGKILL
    assert child(ADAMW, "run", True) == 0
    assert_same_run("run", finished("adamw"))


@pytest.mark.parametrize(("call", "left"), [(1, ".trial"), (2, ".writing-run.json")])
def test_killed_before_there_is_a_run(call, left, finished):
    assert child(SGD, "run", die=("os.fsync", call, "before")) == -signal.SIGKILL
    assert [path.name for path in Path("run").iterdir()] == [left]
    with pytest.raises(CheckpointError, match=r"no run in run \(it has no run.json\)"):
        job_run.run(SGD, "run", resume=True)
    assert child(SGD, "run") == 0  # the folder is still free
    assert_same_run("run", finished("sgd"))


def test_killed_before_the_first_checkpoint_begins_anew(finished):
    assert child(SGD, "run", often=False, die=("training.loop._end_epoch", 1, "before")) == -signal.SIGKILL
    assert not checkpoints("run/checkpoints")
    assert child(SGD, "run", True, often=False) == 0
    assert_same_run("run", finished("sgd"))


def test_a_damaged_last_checkpoint_costs_only_time(finished):
    assert child(SGD, "run", die=("records.checkpoint.save", 17, "after")) == -signal.SIGKILL
    state = checkpoints("run/checkpoints")[-1] / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert child(SGD, "run", True) == 0
    assert_same_run("run", finished("sgd"))


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """What is in the files of a folder, and when each was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def extended(finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A job that goes on from a finished run, and the folder of its uninterrupted run."""
    home = tmp_path_factory.mktemp("extended")
    (home / "nets.py").write_text(NETS)
    job = replace(SGD, budget="1.5 epochs", policy="extension", extend=str(finished("sgd")))
    assert child(job, "run", home=home) == 0
    return job, home / "run"


@pytest.mark.parametrize(
    ("window", "die"),
    {
        "before its first checkpoint": ("records.checkpoint.save", 1, "before"),
        "right after its first checkpoint": ("records.checkpoint.save", 1, "after"),
        "in the middle": ("training.loop._end_epoch", 1, "before"),
        "before its weights have their name": ("safetensors.save_model", 2, "after"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_extension_is_killed_and_resumed_and_leaves_its_run_alone(window, die, finished, extended):
    job, whole = extended
    before = contents(finished("sgd"))
    assert child(job, "run", die=die) == -signal.SIGKILL, f"never came to {window}"
    assert child(job, "run", True) == 0
    assert_same_run("run", whole)
    assert [row["step"] for row in read_jsonl(whole / "steps.jsonl")] == list(range(15))
    assert contents(finished("sgd")) == before


def test_a_finished_run_gives_its_result_again(finished, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished("sgd").rglob("*")}
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("nothing is left to do"))
    again = job_run.run(SGD, finished("sgd"), resume=True).to_dict()
    assert again == {**RUN.read(finished("sgd"))["result"], "folder": str(finished("sgd"))}
    assert before == {path: path.stat().st_mtime_ns for path in finished("sgd").rglob("*")}


def test_a_changed_configuration_is_refused_by_its_keys(finished):
    changed = replace(SGD, seed=6, lr_max=0.4)
    with pytest.raises(CheckpointError, match=r"seed: 5, now 6; lr_max: 0.3, now 0.4\. Resume with the same"):
        job_run.run(changed, finished("sgd"), resume=True)


def test_a_time_budget_goes_on_with_what_was_left(monkeypatch):
    """On a clock of its own: each look at it takes 30 ms."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(onecycle.training.loop, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * 0.03))
    for module in (onecycle.fits.run, job_run, onecycle.training.norms):  # what is beside the loop takes no time
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)
    monkeypatch.setattr(runs, "Checkpointer", functools.partial(observers.Checkpointer, every=0.0, share=1e9))
    timed = replace(SGD, budget="10s")
    updates, observe = iter(range(10**9)), observers.Recorder.__call__

    def stop(self: Any, event: Any) -> None:
        observe(self, event)
        if next(updates) == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(observers.Recorder, "__call__", stop)
        with pytest.raises(KeyboardInterrupt, match=r"stopped at once\. The last good"):
            job_run.run(timed, "run")
    done = len(read_jsonl(Path("run/steps.jsonl")))
    for _ in range(100_000):  # ten minutes of doing nothing
        next(ticks)
    result = job_run.run(timed, "run", resume=True)
    steps = read_jsonl(Path("run/steps.jsonl"))
    assert [row["step"] for row in steps] == list(range(len(steps)))
    assert result.updates == len(steps) > 2 * done
    # What is kept for the end is an evaluation, with statistics of norms on four times as many batches: some looks.
    assert result.seconds == steps[-1]["seconds"] == pytest.approx(10, abs=0.5)
    seconds = [row["seconds"] for row in steps]
    assert max(after - before for before, after in pairwise(seconds)) < 0.5
    late = [row["lr"] for row in steps if row["seconds"] > 6]
    assert late == sorted(late, reverse=True) and late[-1] < 0.01 * max(row["lr"] for row in steps)


# The command itself, as anyone starts it. Its model waits in the second epoch while there is a file ``hold``.

WORDS = ["--model", "nets:Held", "--epochs", "4", "--limit", "320", "--batch-size", "32", "--augment", "crop"]
HELD = Job(model="nets:Held", budget="4 epochs", limit=320, batch_size=32, augment=("crop",))


def command(*words: str) -> subprocess.Popen[str]:
    return forked.Popen(["-m", "onecycle", "train", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("held")
    (home / "nets.py").write_text(NETS)
    assert child(HELD, "run", home=home, often=False) == 0
    return home / "run"


def test_the_command_killed_twice_and_resumed(held, capsys):
    Path("hold").touch()
    for first in (True, False):
        process = command("digits", *WORDS, "--out", "run") if first else start(HELD, "run", True)
        with process:
            wait_for(lambda: Path("held").exists() and checkpoints("run/checkpoints"), process)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert len(checkpoints("run/checkpoints")) > 0 and updates() >= (10 if first else 20)
        Path("held").unlink()
    Path("hold").unlink()
    main(["train", "--resume", "run", "--json"])
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({**RUN.read("run")["result"], "folder": "run"}, "")
    assert_same_run("run", held)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_update_with_a_checkpoint(number, code, held):
    Path("hold").touch()
    with command("digits", *WORDS, "--out", "run") as process:
        wait_for(Path("held").exists, process)
        process.send_signal(number)
        Path("hold").unlink()
        _, err = process.communicate()
    assert process.returncode == code
    said, mend = err.splitlines()[-2:]
    assert len(read_jsonl(Path("run/steps.jsonl"))) == 14
    assert said == f"stopped by {signal.Signals(number).name} after update 13. A checkpoint is written"
    assert mend == "To go on: onecycle train --resume run"
    assert "Traceback" not in err
    assert checkpoints("run/checkpoints")[-1].name == "step-00000014"
    assert RUN.read("run")["status"] == "interrupted"
    assert child(HELD, "run", True, often=False) == 0
    assert_same_run("run", held)


def test_learner_resumes_a_run_of_a_second_fit(tmp_path):
    """A cycle after a cycle: the second is interrupted, and a fresh learner goes on with it."""

    def learner() -> Learner:
        model = build_model("mlp", input_shape=(1, 8, 8), classes=10, dropout=0.2)
        return Learner(model, load("digits", limit=320), batch_size=64, verbose=False)

    whole = learner()
    whole.fit_one_cycle(1, 0.1)
    whole.fit_one_cycle(2, 0.2, out="whole")

    def stop(event: Any) -> None:
        if event.step == 7:
            raise KeyboardInterrupt

    broken = learner()
    broken.fit_one_cycle(1, 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Checkpointer", functools.partial(observers.Checkpointer, every=0.0, share=1e9))
        with pytest.raises(KeyboardInterrupt):
            broken.fit_one_cycle(2, 0.2, out="broken", observers=[stop])
    fresh = learner()
    result = fresh.fit_one_cycle(2, 0.2, out="broken", resume=True)
    assert result.updates == 10
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, fresh.model.state_dict()[name]), name
    second, resumed = (
        [row["loss"] for row in learn.history.steps if row["fit"] == fit] for learn, fit in ((whole, 1), (fresh, 0))
    )
    assert second == resumed and len(resumed) == 10

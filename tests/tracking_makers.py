"""A tiny run that is tracked, and what a tracker is to have of it, from the files of the run alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict, deque
from pathlib import Path

import torch
from training_makers import blobs, seeded_net

from onecycle import Learner, Result, Update
from onecycle.records.files import RUN, read_jsonl
from onecycle.tracking import trackers
from onecycle.tracking.tracker import Known, TrackedRun
from onecycle.tracking.values import UPDATE, Row

Series = dict[str, list[tuple[int, float]]]
# What is measured by the clock, and so is other numbers where an update is made again.
TIMES = ("seconds", "epoch_seconds", "samples_per_second")
UPDATES, PER_EPOCH = 18, 6


class Broken(Exception):
    """What an observer raises in a run that is to break off."""


def learner(track, **options) -> Learner:
    train, valid = blobs(6 * 8, seed=1), blobs(24, seed=2)
    return Learner(
        seeded_net(), train, valid, track=track, batch_size=8, optimizer="sgd", verbose=False, device="cpu", **options
    )


def fit(track, folder: Path | None, *, break_at: int | None = None, resume: bool = False, **options) -> Result:
    """Three epochs of six updates; with `break_at` an error comes after that update."""

    def broken(event) -> None:
        if isinstance(event, Update) and event.step == break_at:
            raise Broken("in an observer")

    made = learner(track, **options)
    return made.fit(3, lr_max=0.05, out=folder, resume=resume, observers=[broken])


def begun_and_killed(track: str, folder: Path) -> None:
    """Begin the same run in a process of its own, which is killed after the update 14: the last checkpoint has six."""
    code = f"""
import os, sys
sys.path.append({str(Path(__file__).parent)!r})
from tracking_makers import learner
def kill(event):
    if getattr(event, "progress", 0) == 14 / 17:
        os.kill(os.getpid(), 9)
learner({track!r}).fit(3, lr_max=0.05, out={str(folder)!r}, observers=[kill])
"""
    # The process that writes for wandb is to end with that one, and not to be shared with this one.
    environment = {name: value for name, value in os.environ.items() if "WANDB_SERVICE" not in name}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert RUN.read(folder)["status"] == "running"


def recorded(folder: Path, leave: tuple[str, ...] = ()) -> Series:
    """The series of each name, as the records of a run have them."""
    series: Series = defaultdict(list)
    for row in read_jsonl(folder / "steps.jsonl"):
        for name, value in row.items():
            if name != "step":
                series[name.replace("valid_", "valid/")].append((row["step"], value))
    measured = {step for step, _ in series.get("valid/loss", ())}
    for row in read_jsonl(folder / "epochs.jsonl"):
        for name, value in row.items():
            if name.startswith("train_") or (name.startswith("valid_") and row["step"] not in measured):
                series[name.replace("_", "/", 1)].append((row["step"], value))
        series["epoch_seconds"].append((row["step"], row["seconds"]))
        series["samples_per_second"].append((row["step"], row["samples"] / row["seconds"]))
    return {name: values for name, values in series.items() if name not in leave}


def without_result(series: Series, leave: tuple[str, ...] = ()) -> Series:
    """What a tracker has, without what it has of the result."""
    return {name: values for name, values in series.items() if not name.startswith("final/") and name not in leave}


class Written:
    """Takes everything, in order; `fails` says how many calls of `log` do not."""

    place = "nowhere"

    def __init__(self, run: TrackedRun | None = None, known: Known | None = None, fails: int = 0):
        self.run, self.known, self.fails = run, known or Known(), fails
        self.reference, self.made, self.rows, self.status = {"id": "it"}, [], [], None

    def log(self, rows: deque[Row]) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("No space left on device")
        self.rows += rows
        rows.clear()

    def text(self, name, text, step) -> None:
        self.made.append((name, step))

    table = picture = text

    def finish(self, status) -> None:
        self.status = status

    def steps(self, kind: str) -> list[int]:
        return [row.step for row in self.rows if row.kind == kind]


def sent_by_this_rank() -> list[int] | None:
    """The updates that a tracker gets from this rank; None where none is opened."""
    made: list[Written] = []

    def open_one(run: TrackedRun) -> Written:
        made.append(Written(run))
        return made[-1]

    trackers.OPEN["tensorboard"], trackers.check_host = open_one, lambda name: None
    trackers.CHECK["tensorboard"] = lambda run: None
    torch.set_num_threads(1)
    fit("tensorboard", None)
    return made[0].steps(UPDATE) if made else None

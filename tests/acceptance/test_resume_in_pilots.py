"""A run that is killed or stopped in its pilots, and resumed: the same pilots, peak and weights, to the bit."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import forked
import pytest

from onecycle import CheckpointError, Job, load_run
from onecycle.commands.app import main
from onecycle.jobs.run import job_of, run
from onecycle.optim.build import RECIPES
from onecycle.records.files import RUN, read_jsonl
from onecycle.records.run import PILOTS, Recording
from onecycle.search import peak
from onecycle.training import guard

# Twelve updates a pilot, of 170 in all, which are fewer than pilots are made for
LENGTH, LEAST = 1 / 14, 12
WORK = Job(model="mlp", budget="170 updates", optimizer="sgd", limit=320, batch_size=32, search=0.3)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peak, "LENGTH", LENGTH)
    monkeypatch.setitem(peak.LEAST, "gradient", LEAST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    assert child("run", home=home) == 0
    return home / "run"


def child(out: str, resume: bool = False, home: Path | None = None, **problems: object) -> int:
    """The exit code of the run in a process of its own, with the problems of `faults.run`."""
    code = (
        "from onecycle import Job; import faults; from onecycle.search import peak; "
        f"peak.LENGTH = {LENGTH}; peak.LEAST['gradient'] = {LEAST}; "
        f"faults.run({WORK!r}, {out!r}, {resume!r}, {problems!r})"
    )
    process = forked.Popen(["-c", code], cwd=home, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return process.wait(300)


def pilots(folder: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_jsonl(folder / PILOTS)]


def resolved(folder: Path) -> dict:
    known = RUN.read(folder)["resolved"]
    search = {**known["search"], "seconds": None, "pilots": [{**p, "seconds": None} for p in known["search"]["pilots"]]}
    return {**known, "search": search}


def assert_same(folder: Path, expected: Path) -> None:
    assert pilots(folder) == pilots(expected)
    assert resolved(folder) == resolved(expected)
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.fixture
def broken_off() -> Path:
    """A run that was killed in its second pilot."""
    assert child("run", die=("training.guard.update", 18, "before")) == -signal.SIGKILL
    return Path("run")


def test_pilots_cost_a_part_of_the_budget_and_are_recorded(whole):
    made, known = pilots(whole), resolved(whole)
    assert [row["updates"] for row in made] == [12, 12, 12] and len({row["lr_max"] for row in made}) == 3
    assert known["search"]["updates"] <= 0.3 * 170
    assert known["updates"] == 170 - known["search"]["updates"] == len(read_jsonl(whole / "steps.jsonl"))
    assert RUN.read(whole)["config"]["search"] == 0.3


@pytest.mark.parametrize(
    ("moment", "die", "recorded"),
    [
        ("in the first pilot", ("training.guard.update", 5, "before"), 0),
        ("in the second", ("training.guard.update", 18, "before"), 1),
        ("before one is recorded", ("records.run.Recording.keep_pilot", 3, "before"), 2),
        ("after the last", ("records.run.Recording.keep_pilot", 3, "after"), 3),
        ("before the peak is recorded", ("records.run.Recording.decided", 1, "before"), 3),
        ("before the first update", ("records.run.Recording.decided", 1, "after"), 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_and_resumed(moment, die, recorded, whole):
    assert child("run", die=die) == -signal.SIGKILL, f"never came to {moment}"
    assert len(pilots(Path("run"))) == recorded
    assert ("lr_max" in RUN.read("run")["resolved"]) == (moment == "before the first update")
    assert child("run", True) == 0
    assert_same(Path("run"), whole)


def test_the_command_goes_on_with_it(broken_off, whole, capsys):
    main(["train", "--resume", str(broken_off), "--json", "--no-report"])
    assert json.loads(capsys.readouterr().out)["updates"] == resolved(whole)["updates"]
    assert_same(Path("run"), whole)


def test_pilots_go_on_about_the_peak_that_they_began_with(monkeypatch):
    """Another version may have another default."""
    monkeypatch.setitem(peak.LEAST, "adaptive", LEAST)
    job = replace(WORK, optimizer="adamw", batch_size=256)
    keep = Recording.keep_pilot

    def kept_then_stopped(self, made):
        keep(self, made)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(RECIPES, "adamw", replace(RECIPES["adamw"], grows=0.0))
        run(job, "before", report=False)
        patch.setattr(Recording, "keep_pilot", kept_then_stopped)
        with pytest.raises(KeyboardInterrupt):
            run(job, "run", report=False)
    assert [row["lr_max"] for row in pilots(Path("run"))] == [0.007]
    run(job, "run", resume=True, report=False)
    assert_same(Path("run"), Path("before"))


def test_what_reads_runs_copes_with_one_that_has_no_peak_yet(broken_off, capsys):
    folder = broken_off
    assert job_of(folder) == WORK
    main(["runs", ".", "--json"])
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [(one["status"], one["lr_max"], one["error"]) for one in listed] == [("running", None, None)]
    main(["runs", "."])
    assert "running" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="nor a checkpoint: it is in its first updates yet, wait"):
        load_run(folder)
    main(["report", str(folder), "--out", "page.html"])
    page = Path("page.html").read_text(encoding="utf-8")
    assert "peak learning rate" not in page and "nan" not in page.lower().split()


def test_stopped_by_ctrl_c_and_resumed(whole, monkeypatch, capsys):
    words = ["digits", "--model", "mlp", "--budget", "170 updates", "--optimizer", "sgd", "--limit", "320",
             "--batch-size", "32", "--search", "0.3", "--no-report", "--out", "run"]  # fmt: skip
    update, calls = guard.update, iter(range(10**9))

    def interrupted(*args):
        if next(calls) == 17:
            signal.raise_signal(signal.SIGINT)
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(guard, "update", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(["train", *words])
    assert ended.value.code == 130
    assert "To go on: onecycle train --resume run" in capsys.readouterr().err
    assert len(pilots(Path("run"))) == 1
    assert child("run", True) == 0
    assert_same(Path("run"), whole)

"""Trackio's own database on this machine, read back by Trackio and by sqlite3."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tracking_makers import TIMES, UPDATES, Broken, Series, fit, learner, recorded, without_result

from onecycle import Interrupted, Update
from onecycle.records.files import RUN

trackio = pytest.importorskip("trackio")
# Trackio looks once, when it is imported, where its databases are to be: all tests of a process have one place.
DATABASE = Path(os.environ["TRACKIO_DIR"]) / "onecycle.db"


def rows(folder: Path, database: Path = DATABASE) -> list[tuple[int, dict]]:
    """Those of the run that the folder names, in order."""
    name = RUN.read(folder)["trackers"]["trackio"]["name"]
    with sqlite3.connect(database) as opened:
        found = opened.execute("select step, metrics from metrics where run_name = ? order by id", (name,)).fetchall()
    return [(step, json.loads(metrics)) for step, metrics in found]


def series(folder: Path, database: Path = DATABASE) -> Series:
    made: Series = defaultdict(list)
    for step, metrics in rows(folder, database):
        for name, value in metrics.items():
            if isinstance(value, int | float):
                made[name].append((step, value))
    return dict(made)


def said(folder: Path, name: str):
    return [metrics[name] for _, metrics in rows(folder) if name in metrics]


def test_a_run_has_what_its_files_have(tmp_path):
    result = fit("trackio", tmp_path / "run")
    there = series(tmp_path / "run")
    assert without_result(there) == recorded(tmp_path / "run")
    assert there["final/valid/accuracy"] == [(UPDATES - 1, result.valid["accuracy"])]
    name = RUN.read(tmp_path / "run")["trackers"]["trackio"]["name"]
    config = trackio.Api().runs("onecycle")
    (mine,) = [run for run in config if run.name == name]
    assert mine.config["resolved"]["lr_max"] == 0.05 and mine.config["config"] == {"budget": "3 epochs"}
    assert said(tmp_path / "run", "status") == ["finished"]
    assert {"curves", "policy"} <= {name for _, metrics in rows(tmp_path / "run") for name in metrics}


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_that_broke_off_goes_on_without_doubles_and_gaps(lost, tmp_path):
    with pytest.raises(Broken):
        fit("trackio", tmp_path / "run", break_at=14)  # eight updates after the checkpoint
    assert [step for step, _ in series(tmp_path / "run")["loss"]] == list(range(15))
    assert said(tmp_path / "run", "status") == ["failed"]
    if lost:  # what had not come to the database when the process was killed
        name = RUN.read(tmp_path / "run")["trackers"]["trackio"]["name"]
        with sqlite3.connect(DATABASE) as database:
            database.execute("delete from metrics where run_name = ? and step >= 3", (name,))
    fit("trackio", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run"), TIMES) == recorded(tmp_path / "run", TIMES)
    assert said(tmp_path / "run", "status") == ["finished"] if lost else ["failed", "finished"]


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_without_doubles_and_gaps(tmp_path):
    code = f"""
import os, sys
sys.path.append({str(Path(__file__).parents[1])!r})
from tracking_makers import learner
def kill(event):
    if getattr(event, "progress", 0) == 14 / 17:
        os.kill(os.getpid(), 9)
learner("trackio").fit(3, lr_max=0.05, out={str(tmp_path / "run")!r}, observers=[kill])
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == -9
    assert RUN.read(tmp_path / "run")["status"] == "running"  # and its last rows have not come to the database
    fit("trackio", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run"), TIMES) == recorded(tmp_path / "run", TIMES)


@pytest.fixture
def server(tmp_path):
    """The address of a server that keeps its database in `tmp_path`."""
    code = "import trackio; trackio.show(open_browser=False, block_thread=True)"
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "server"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = (re.search(r"http://\S+write_token=[\w-]+", line) for line in process.stdout)
            yield next(address[0] for address in said if address)
        finally:
            process.kill()


def test_a_server_that_the_environment_names_gets_a_resumed_run_without_doubles(tmp_path, server, monkeypatch):
    monkeypatch.setenv("TRACKIO_SERVER_URL", server)
    with pytest.raises(Broken):
        fit("trackio", tmp_path / "run", break_at=14)
    fit("trackio", tmp_path / "run", resume=True)
    there = series(tmp_path / "run", tmp_path / "server" / "onecycle.db")
    assert without_result(there, TIMES) == recorded(tmp_path / "run", TIMES)


def test_control_c_ends_the_run_as_killed(tmp_path):
    def stop(event) -> None:
        if isinstance(event, Update) and event.step == 8:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        learner("trackio").fit(3, lr_max=0.05, out=tmp_path / "run", observers=[stop])
    assert said(tmp_path / "run", "status") == ["killed"]
    fit("trackio", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run")) == recorded(tmp_path / "run")


def test_another_run_of_this_process_goes_on(tmp_path):
    mine = trackio.init(project="mine", name="mine", embed=False)
    fit("trackio", tmp_path / "run")
    trackio.log({"loss": 1.0})
    assert trackio.context_vars.current_run.get() is mine
    trackio.finish()


def test_what_the_database_does_not_take_is_said_with_its_count(tmp_path, monkeypatch):
    def full(*arguments, **keywords) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(trackio.SQLiteStorage, "bulk_log", full)
    with pytest.warns(UserWarning, match="disk is full"):
        result = fit("trackio", tmp_path / "run")
    assert result.updates == UPDATES
    (note,) = [note for note in RUN.read(tmp_path / "run")["notes"] if note.startswith("trackio did not get")]
    assert "are not in the database onecycle of Trackio" in note


def test_a_range_test_and_pilots_are_in_the_run_that_follows(tmp_path):
    made = learner("trackio", metrics="accuracy")
    test = made.range_test(updates=64)
    made.fit(3, lr_max=0.05, out=tmp_path / "run")
    ((table,), (line,)) = said(tmp_path / "run", "range_test"), said(tmp_path / "run", "range_test_result")
    assert [row["lr"] for row in table["_value"] if row.get("sweep") == 0 and row["loss"] is not None] == list(
        test.curve.sweeps[0].lr
    )
    assert test.line() in str(line)

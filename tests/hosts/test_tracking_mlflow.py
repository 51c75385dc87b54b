"""MLflow's SQLite store, read back by its client and by sqlite3; and that no tracker sends anything anywhere."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tracking_makers import TIMES, UPDATES, Broken, Series, begun_and_killed, fit, learner, recorded, without_result

from onecycle import ConfigError
from onecycle.records.files import RUN, read_jsonl
from onecycle.tracking import trackers
from onecycle.training.options import TRACKERS

mlflow = pytest.importorskip("mlflow")
for name in ("trackio", "wandb", "tensorboard"):
    pytest.importorskip(name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of runs with a store; the first of them was made by the command, with all trackers, under strace.

    MLflow takes several seconds to make a store: one is made for all tests.
    """
    place = tmp_path_factory.mktemp("tracked")
    command = [
        sys.executable, "-m", "onecycle", "train", "digits", "--model", "mlp", "--budget", "30 updates",
        "--limit", "640", "--out", "runs/first", "--no-report", "--json", "--track", ",".join(TRACKERS),
    ]  # fmt: skip
    if strace := shutil.which("strace"):
        command = [
            strace,
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-e",
            "trace=connect,sendto",
            "-e",
            "signal=none",
            "-o",
            "calls",
            *command,
        ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING", "WANDB_MODE", "HF_HUB_OFFLINE"}
    left_out = {"CI", "PYTEST_CURRENT_TEST", *quiet}  # with these no tracker would send anything anyway
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"TRACKIO_DIR": str(place / "trackio"), "HF_TOKEN": "hf_" + 34 * "x", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 30  # the output is the result alone
    return place / "runs"


def series(folder: Path) -> Series:
    """By sqlite3, in the order in which it was written."""
    made: Series = defaultdict(list)
    with sqlite3.connect(folder.parent / "mlflow.db") as store:
        query = "select key, step, value from metrics where run_uuid = ? order by step, rowid"
        for name, step, value in store.execute(query, (run_id(folder),)):
            made[name].append((step, value))
    return dict(made)


def run_id(folder: Path) -> str:
    return RUN.read(folder)["trackers"]["mlflow"]["id"]


def client(runs: Path):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace not installed here")
def test_nothing_is_sent_anywhere(runs):
    called = (runs.parent / "calls").read_text()
    assert "AF_UNIX" in called  # calls are seen, those of other processes too: this is how wandb speaks to its own
    asked = [
        line for line in called.splitlines() if "AF_INET" in line and "127.0.0.1" not in line and '"::1"' not in line
    ]
    assert asked == []


def test_the_command_tracks_with_all_of_them(runs):
    record = RUN.read(runs / "first")
    assert tuple(record["trackers"]) == TRACKERS and "track" not in record["config"]
    assert [step for step, _ in series(runs / "first")["loss"]] == list(range(30))
    assert series(runs / "first")["final/test/accuracy"] == [(29, record["result"]["test"]["accuracy"])]
    with sqlite3.connect(runs.parent / "trackio" / "onecycle.db") as database:
        rows = [
            (step, json.loads(row)) for step, row in database.execute("select step, metrics from metrics order by id")
        ]
    losses = [(row["step"], row["loss"]) for row in read_jsonl(runs / "first" / "steps.jsonl")]
    assert [(step, row["loss"]) for step, row in rows if "loss" in row] == losses
    tested = [row["final/test/accuracy"] for _, row in rows if "final/test/accuracy" in row]
    assert tested == [record["result"]["test"]["accuracy"]]
    assert list((runs / "first" / "tensorboard").iterdir()) and list((runs / "first" / "wandb").glob("offline-run-*"))


def test_a_run_has_what_its_files_have(runs):
    result = fit("mlflow", runs / "run")
    there = series(runs / "run")
    assert without_result(there) == recorded(runs / "run")
    assert there["final/valid/accuracy"] == [(UPDATES - 1, result.valid["accuracy"])]
    made = client(runs).get_run(run_id(runs / "run"))
    assert made.info.status == "FINISHED" and made.info.run_name == "run"
    assert made.data.params["resolved.lr_max"] == "0.05" and made.data.params["config.budget"] == "3 epochs"
    assert "18 updates are few" in made.data.tags["mlflow.note.content"]
    history = client(runs).get_metric_history(run_id(runs / "run"), "loss")
    assert [(one.step, one.value) for one in history] == recorded(runs / "run")["loss"]
    files = {one.path for one in client(runs).list_artifacts(run_id(runs / "run"))}
    assert files == {"config.json", "notes.md", "curves.png", "policy.png"}
    assert client(runs).get_experiment(made.info.experiment_id).name == "onecycle"
    assert mlflow.active_run() is None


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_that_broke_off_goes_on_without_doubles_and_gaps(lost, runs):
    folder = runs / f"broken-{lost}"
    with pytest.raises(Broken):
        fit("mlflow", folder, break_at=14)  # eight updates after the checkpoint
    assert [step for step, _ in series(folder)["loss"]] == list(range(15))
    assert client(runs).get_run(run_id(folder)).info.status == "FAILED"
    if lost:  # what had not come to the store when the process was killed
        with sqlite3.connect(runs / "mlflow.db") as store:
            store.execute("delete from metrics where run_uuid = ? and step >= 3", (run_id(folder),))
    fit("mlflow", folder, resume=True)
    assert without_result(series(folder), TIMES) == recorded(folder, TIMES)
    assert client(runs).get_run(run_id(folder)).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_without_doubles_and_gaps(runs):
    begun_and_killed("mlflow", runs / "killed")
    fit("mlflow", runs / "killed", resume=True)
    assert without_result(series(runs / "killed"), TIMES) == recorded(runs / "killed", TIMES)


def test_an_address_is_kept_and_said_without_what_may_be_secret(runs, monkeypatch):
    address = f"sqlite:///{runs / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}?timeout=77")
    made = learner("mlflow")
    made.fit(1, lr_max=0.05, out=runs / "elsewhere")
    assert RUN.read(runs / "elsewhere")["trackers"]["mlflow"]["uri"] == address
    assert 'tracked by mlflow: mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"' in made.notes
    assert "timeout=77" not in (runs / "elsewhere" / "run.json").read_text()


def test_a_server_that_does_not_answer_is_said_before_the_pilots(runs, monkeypatch):
    def searched(*arguments, **keywords) -> None:
        raise AssertionError("pilots were made")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("onecycle.fits.run.search_of", searched)
    with pytest.raises(ConfigError, match="mlflow cannot begin a run: MlflowException") as caught:
        learner("mlflow").fit(3, out=runs / "unanswered")
    assert "secret" not in str(caught.value) and not (runs / "unanswered" / "run.json").exists()


def test_a_run_on_a_server_is_not_looked_for_in_another_store(runs, monkeypatch):
    with pytest.raises(Broken):
        fit("mlflow", runs / "on-server", break_at=8)
    RUN.update(runs / "on-server", trackers={"mlflow": {"uri": "https://host.org", "id": run_id(runs / "on-server")}})
    assert fit(None, runs / "on-server", resume=True).updates == UPDATES
    (note,) = [note for note in RUN.read(runs / "on-server")["notes"] if "cannot go on" in note]
    assert "it is on https://host.org, and MLFLOW_TRACKING_URI does not say so. This run goes on without it" in note


def test_a_store_that_fails_in_between_loses_nothing(runs, monkeypatch):
    from mlflow import MlflowClient

    log, sent = MlflowClient.log_batch, []

    def sometimes(self, *arguments, **keywords):
        if "metrics" in keywords:
            sent.append(len(keywords["metrics"]))
            if len(sent) in (1, 3):
                raise mlflow.exceptions.MlflowException("database is locked")
        return log(self, *arguments, **keywords)

    monkeypatch.setattr(trackers, "PAUSE", 0.0)
    monkeypatch.setattr(MlflowClient, "log_batch", sometimes)
    result = fit("mlflow", runs / "locked")
    assert len(sent) == 5  # three epochs and the result, and one of them once more
    assert result.updates == UPDATES and without_result(series(runs / "locked")) == recorded(runs / "locked")
    assert not [note for note in RUN.read(runs / "locked")["notes"] if "did not get" in note]


def test_a_store_that_is_gone_costs_no_training(runs, monkeypatch):
    with pytest.raises(Broken):
        fit("mlflow", runs / "gone", break_at=8)
    with sqlite3.connect(runs / "mlflow.db") as store:
        store.execute("update runs set lifecycle_stage = 'deleted' where run_uuid = ?", (run_id(runs / "gone"),))
    assert fit(None, runs / "gone", resume=True).updates == UPDATES
    assert any("mlflow cannot go on with a run" in note for note in RUN.read(runs / "gone")["notes"])

"""run.json and the records of a run: made once, read back as they were, never another run's."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import torch

from onecycle import CheckpointError
from onecycle.records import run as runs
from onecycle.records.run import (
    change,
    check_free,
    check_same,
    create,
    differing,
    read,
    read_records,
    truncate_records,
)


def test_a_new_run(tmp_path):
    folder = create(tmp_path / "a/b", {"seed": 3}, ["a note"])
    record = read(folder)
    assert record["schema"] == 1
    assert (record["config"], record["notes"]) == ({"seed": 3}, ["a note"])
    assert (record["status"], record["result"], record["error"]) == ("running", None, None)
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["cores"] == os.cpu_count()
    assert record["hardware"]["cpu"]
    assert record["created"].endswith("+00:00")


def test_the_commit_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert read(create("outside", {}))["git_commit"] is None
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert read(create("inside", {}))["git_commit"] == head


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(create(tmp_path / "run", {}))["git_commit"] is None


def test_change_replaces_fields_alone(tmp_path):
    create(tmp_path / "run", {"seed": 3})
    change(tmp_path / "run", status="finished", result={"updates": 1})
    record = read(tmp_path / "run")
    assert (record["status"], record["result"], record["config"]) == ("finished", {"updates": 1}, {"seed": 3})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_folder_of_another_run_or_of_other_files(tmp_path):
    create(tmp_path / "run", {})
    before = (tmp_path / "run/run.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"holds another run: go on with it through --resume .*run, or give"):
        create(tmp_path / "run", {})
    assert (tmp_path / "run/run.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(CheckpointError, match="not empty and holds no run"):
        create(tmp_path / "mine", {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_free_folders(tmp_path):
    assert check_free(tmp_path / "new") == tmp_path / "new"
    assert check_free(tmp_path) == tmp_path
    (tmp_path / ".writing-run.json").write_text("{")  # of a run killed at its first breath
    assert read(create(tmp_path, {}))["status"] == "running"


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_where_nothing_can_be_written(below, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to .*Give a folder that can be written"):
        create(tmp_path / below, {})


def test_a_full_disk_keeps_run_json(tmp_path, monkeypatch):
    create(tmp_path, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onecycle.records.checkpoint.os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        change(tmp_path, status="finished")
    assert read(tmp_path)["status"] == "running"


def test_no_run_names_the_near_ones(tmp_path):
    with pytest.raises(CheckpointError, match=r"no run in .*there is no run beside it either"):
        read(tmp_path / "runs/digits-1")
    create(tmp_path / "runs/digits-1", {})
    with pytest.raises(CheckpointError, match=r"did you mean digits-1\?"):
        read(tmp_path / "runs/digit-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 2}', r"has schema 2; this version of onecycle reads 1"),
        ("{}", "has schema None"),
        ("[]", "has schema None"),
        ('{"schema": 1', "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_run_json_of_another_kind(text, said, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path)


def test_differing_names_each_key_once():
    config = {"seed": 0, "model": "mlp", "facts": {"classes": ["a", "b"], "samples": [5, 1]}, "old": 1}
    other = {"seed": 0, "model": "lenet", "facts": {"classes": ["a", "b"], "samples": [6, 1]}, "new": None}
    assert differing(config, config) == []
    assert differing(config, other) == [
        "model: 'mlp', now 'lenet'", "facts.samples: [5, 1], now [6, 1]", "old: 1, now None",
    ]  # fmt: skip


def test_check_same(tmp_path):
    create(tmp_path, {"seed": 0, "lr_max": 0.1})
    check_same(tmp_path, {"lr_max": 0.1, "seed": 0})
    with pytest.raises(CheckpointError, match=r"another configuration: seed: 0, now 1\. Resume with the same one"):
        check_same(tmp_path, {"seed": 1, "lr_max": 0.1})


ROWS = [{"step": step, "loss": 1 / (step + 3), "name": "ü"} for step in range(5)]


def write(path, rows=ROWS, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_records_come_back_to_the_bit(tmp_path):
    assert read_records(write(tmp_path / "steps.jsonl")) == ROWS
    assert read_records(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("tail", ['{"step": 5, "lo', "{", '{"step": 5}'])
def test_a_last_line_that_was_cut_off_is_left_out(tail, tmp_path):
    path = write(tmp_path / "steps.jsonl", tail=tail)
    assert read_records(path) == ROWS
    truncate_records(path, "step", 5)
    assert path.read_text() == write(tmp_path / "whole.jsonl").read_text()


def test_truncation_keeps_what_is_below(tmp_path):
    path = write(tmp_path / "steps.jsonl")
    truncate_records(path, "step", 3)
    assert read_records(path) == ROWS[:3]
    truncate_records(path, "step", 0)
    assert path.read_text() == ""
    truncate_records(tmp_path / "none.jsonl", "step", 0)
    assert [p.name for p in tmp_path.iterdir() if p.read_text()] == []


def test_records_that_are_missing_or_damaged_stop_a_resumption(tmp_path):
    path = write(tmp_path / "steps.jsonl")
    with pytest.raises(CheckpointError, match=r"holds 5 of the 7 records up to the last good checkpoint"):
        truncate_records(path, "step", 7)
    assert read_records(path) == ROWS
    with pytest.raises(CheckpointError, match="holds 0 of the 2 records"):
        truncate_records(tmp_path / "none.jsonl", "step", 2)
    path.write_text(path.read_text().replace('"step": 2', '"step" 2'))
    with pytest.raises(CheckpointError, match=r"steps.jsonl is damaged"):
        read_records(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CheckpointError, match=r"steps.jsonl is damaged"):
        truncate_records(path, "step", 1)


def test_truncation_on_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "steps.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.Path, "write_text", full)
    with pytest.raises(CheckpointError, match="Nothing of it is lost"):
        truncate_records(path, "step", 2)
    assert read_records(path) == ROWS

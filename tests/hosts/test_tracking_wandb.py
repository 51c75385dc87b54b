"""Offline runs of Weights & Biases, read back from their .wandb files: protobuf in a log of LevelDB's form."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import pytest
from tracking_makers import UPDATES, Broken, Series, begun_and_killed, fit, learner, recorded, without_result

from onecycle import ConfigError
from onecycle.records.files import RUN

wandb = pytest.importorskip("wandb")
protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
BLOCK, FULL, LAST = 32768, 1, 4


def records(path: Path) -> list:
    """Every record of a file: blocks of pieces, each with its checksum (4), length (2) and kind (1); 7 bytes before."""
    data, made, whole, at = path.read_bytes(), [], b"", 7
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (FULL, LAST):
            record = protocol.Record()
            record.ParseFromString(whole)
            made, whole = [*made, record], b""
    return made


def offline(folder: Path) -> Path:
    """The one .wandb file of a run, once it is written: another process does that, and goes on after the run's end."""
    (place,) = [one for one in (folder / "wandb").iterdir() if one.name.startswith("offline-run-")]
    (path,) = place.glob("*.wandb")
    for _ in range(600):
        if any(record.WhichOneof("record_type") == "exit" for record in records(path)):
            return path
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def history(folder: Path) -> dict[int, dict]:
    """What was logged, by its step."""
    rows: dict[int, dict] = {}
    for record in records(offline(folder)):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            assert row["_step"] not in rows  # a row for each step
            rows[row.pop("_step")] = row
    return rows


def series(folder: Path) -> Series:
    made: Series = defaultdict(list)
    for step, row in sorted(history(folder).items()):
        for name, value in row.items():
            if isinstance(value, int | float) and not name.startswith(("_", "curves/", "policy/")):
                made[name].append((step, value))
    return dict(made)


def exit_code(folder: Path) -> int:
    (code,) = [r.exit.exit_code for r in records(offline(folder)) if r.WhichOneof("record_type") == "exit"]
    return code


def test_a_run_has_what_its_files_have(tmp_path):
    result = fit("wandb", tmp_path / "run")
    there = series(tmp_path / "run")
    assert without_result(there) == recorded(tmp_path / "run")
    assert there["final/valid/accuracy"] == [(UPDATES - 1, result.valid["accuracy"])]
    (begun,) = [r.run for r in records(offline(tmp_path / "run")) if r.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["resolved"]["lr_max"] == 0.05 and config["config"] == {"budget": "3 epochs"}
    assert begun.project == "onecycle" and begun.display_name == "run"
    assert RUN.read(tmp_path / "run")["trackers"]["wandb"]["id"] == begun.run_id
    last = history(tmp_path / "run")[UPDATES - 1]
    assert "18 updates are few" in last["notes"] and exit_code(tmp_path / "run") == 0
    assert {"curves/path", "policy/path"} <= set(last)


def test_a_run_that_broke_off_has_a_new_file_with_all_of_it(tmp_path):
    with pytest.raises(Broken):
        fit("wandb", tmp_path / "run", break_at=14)
    before = offline(tmp_path / "run")
    assert max(history(tmp_path / "run")) == 14 and exit_code(tmp_path / "run") == 1
    fit("wandb", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run")) == recorded(tmp_path / "run")
    assert exit_code(tmp_path / "run") == 0 and offline(tmp_path / "run").name == before.name


@pytest.mark.slow
def test_a_run_whose_process_is_killed_has_a_new_file_with_all_of_it(tmp_path):
    begun_and_killed("wandb", tmp_path / "run")
    fit("wandb", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run")) == recorded(tmp_path / "run")


def test_offline_by_its_variable_is_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(Broken):
        fit("wandb", tmp_path / "run", break_at=14)
    offline(tmp_path / "run")
    fit("wandb", tmp_path / "run", resume=True)
    assert without_result(series(tmp_path / "run")) == recorded(tmp_path / "run")  # of one file, the other is gone


def test_disabled_and_unknown_modes(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    made = learner("wandb")
    made.fit(3, lr_max=0.05, out=tmp_path / "run")
    assert "tracked by wandb: nothing is logged, as WANDB_MODE=disabled says" in made.notes
    assert not list(tmp_path.rglob("*.wandb"))
    monkeypatch.setenv("WANDB_MODE", "of-line")
    with pytest.raises(ConfigError, match="unknown WANDB_MODE 'of-line': did you mean offline"):
        learner("wandb").fit(3, out=tmp_path / "other")
    assert not (tmp_path / "other" / "run.json").exists()


def test_another_run_of_this_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="mine", dir=tmp_path, mode="offline") as mine:
        fit("wandb", tmp_path / "run")
        assert wandb.run is mine
        mine.log({"loss": 1.0})
    assert [step for step, _ in series(tmp_path / "run")["loss"]] == list(range(UPDATES))


def test_a_range_test_is_in_the_run_that_follows(tmp_path):
    made = learner("wandb", metrics="accuracy")
    test = made.range_test(updates=64)
    made.fit(3, lr_max=0.05, out=tmp_path / "run")
    (path,) = (offline(tmp_path / "run").parent / "files" / "media" / "table").glob("range_test_*.table.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    first = [row for row in rows if row["sweep"] == 0 and row["loss"] is not None]
    assert [row["lr"] for row in first] == list(test.curve.sweeps[0].lr)
    assert history(tmp_path / "run")[0]["range_test_result"] == test.line()

"""Kinds of records, JSON and JSON lines: read back as they were, replaced in one step, never another's folder."""

from __future__ import annotations

import json
import os

import pytest

from onecycle import CheckpointError
from onecycle.records.files import (
    CHECK,
    COMPARISON,
    RUN,
    Kind,
    differing,
    read_jsonl,
    records_below,
    write_json,
    write_jsonl,
)

NOTE = Kind("note.json", 3, "note", ("text", "author"))
RECORD = {"text": "é", "author": None}


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_record_is_read_as_it_was_written(tmp_path):
    assert not NOTE.exists(tmp_path / "a/b")
    assert NOTE.write(tmp_path / "a/b", RECORD) == tmp_path / "a/b/note.json"
    assert NOTE.exists(tmp_path / "a/b")
    assert list(NOTE.read(tmp_path / "a/b").items()) == [("schema", 3), ("text", "é"), ("author", None)]
    NOTE.update(tmp_path / "a/b", author="me")
    assert NOTE.read(tmp_path / "a/b") == {"schema": 3, "text": "é", "author": "me"}
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["note.json"]


def test_a_folder_with_such_a_record_or_with_other_files(tmp_path):
    RUN.write(tmp_path / "run", {})
    with pytest.raises(CheckpointError, match=r"holds another run: go on with it through --resume .*run, or give"):
        RUN.claim(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(CheckpointError, match="mine is not empty and holds no run: give another --out"):
        RUN.claim(tmp_path / "mine")
    assert CHECK.claim(tmp_path / "mine") == tmp_path / "mine"  # it lies beside a run
    CHECK.write(tmp_path / "mine", {})
    with pytest.raises(CheckpointError, match=r"holds another check: give another --out, or remove .*check.json"):
        CHECK.claim(tmp_path / "mine")


def test_free_folders(tmp_path):
    assert NOTE.claim(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()
    assert NOTE.claim(tmp_path) == tmp_path
    (tmp_path / ".writing-note.json").write_text("{")  # of a process killed at its first breath
    assert NOTE.claim(str(tmp_path)) == tmp_path
    (tmp_path / ".writing-data.npz").touch()
    with pytest.raises(CheckpointError, match="holds no note"):
        NOTE.claim(tmp_path)
    assert NOTE.claim(tmp_path, leftovers=["data.npz"]) == tmp_path


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_where_nothing_can_be_written(below, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to .*ive a folder that can be written"):
        NOTE.claim(tmp_path / below)
    with pytest.raises(CheckpointError, match=r"cannot write to .*give a folder that can be written"):
        NOTE.write(tmp_path / below, RECORD)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="locked cannot"):
        NOTE.claim(tmp_path / "locked/new")


def test_a_full_disk_keeps_the_record(tmp_path, monkeypatch):
    NOTE.write(tmp_path, RECORD)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*note.json is as it was"):
        NOTE.update(tmp_path, text="new")
    assert NOTE.read(tmp_path)["text"] == "é"
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]


def test_no_record_names_the_near_ones(tmp_path):
    with pytest.raises(CheckpointError, match=r"no note in .*\(it has no note.json\): there is no note beside it eith"):
        NOTE.read(tmp_path / "notes/digits-1")
    NOTE.write(tmp_path / "notes/digits-1", RECORD)
    with pytest.raises(CheckpointError, match=r"did you mean digits-1\?"):
        NOTE.read(tmp_path / "notes/digit-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 4}', r"has schema 4; this version of onecycle reads 3: a newer one wrote it"),
        ('{"schema": 2}', r"has schema 2; this version of onecycle reads 3: name a folder that it has made"),
        ("{}", "has schema None"),
        ("[]", "has schema None"),
        ('{"schema": 3', "cannot be read"),
        ("", "cannot be read"),
        ('{"schema": 3, "text": ""}', "is damaged: it has no author"),
    ],
)
def test_a_record_of_another_kind(text, said, tmp_path):
    (tmp_path / "note.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        NOTE.read(tmp_path)


def test_differing_classes_are_enough_and_numbers_are_short():
    old = {"classes": ["a", "b"], "mean": [0.123456, 0.5], "samples": [5, 1]}
    assert differing(old, {**old, "classes": ["a", "c"], "mean": [0.2, 0.6]}) == [
        "classes: 'b' no longer, 'c' new (2, now 2)"
    ]
    assert differing(old, {**old, "mean": [0.23456789, 0.6]}) == ["mean: [0.123, 0.5], now [0.235, 0.6]"]
    assert differing(old, {**old, "mean": [0.123457, 0.5]}) == ["mean: [0.123456, 0.5], now [0.123457, 0.5]"]


def test_differing_names_each_key_once():
    config = {"seed": 0, "model": "mlp", "facts": {"classes": ["a", "b"], "samples": [5, 1]}, "old": 1}
    other = {"seed": 0, "model": "lenet", "facts": {"classes": ["a", "b"], "samples": [6, 1]}, "new": None}
    assert differing(config, config) == []
    assert differing(config, other) == [
        "model: 'mlp', now 'lenet'", "facts.samples: [5, 1], now [6, 1]", "old: 1, now None",
    ]  # fmt: skip


def test_json_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é"}

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"name": "new"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é"}


LINES = [{"step": step, "loss": 1 / (step + 3), "name": "ü"} for step in range(5)]


def test_lines_come_back_to_the_bit(tmp_path):
    write_jsonl(tmp_path / "steps.jsonl", LINES)
    assert read_jsonl(tmp_path / "steps.jsonl") == LINES
    assert read_jsonl(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("tail", ['{"step": 5, "lo', "{", '{"step": 5}'])
def test_a_last_line_that_was_cut_off_is_left_out(tail, tmp_path):
    path, damage = tmp_path / "steps.jsonl", []
    write_jsonl(path, LINES)
    with path.open("a") as file:
        file.write(tail)
    assert read_jsonl(path) == read_jsonl(path, damage.append) == LINES
    assert damage == ["steps.jsonl breaks off in line 6, and is shown up to there"]


@pytest.mark.parametrize("line", ['{"step" 2}', "[2]", "", "\xff"])
def test_a_damaged_line_raises_or_ends_the_reading(line, tmp_path):
    path, damage = tmp_path / "steps.jsonl", []
    text = "".join(json.dumps(record) + "\n" for record in LINES[:2])
    path.write_bytes(f"{text}{line}\n{text}".encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"steps.jsonl is damaged"):
        read_jsonl(path)
    assert read_jsonl(path, damage.append) == LINES[:2]
    assert damage == ["steps.jsonl breaks off in line 3, and is shown up to there"]


def test_lines_that_cannot_be_read(tmp_path):
    (tmp_path / "steps.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"steps.jsonl cannot be read"):
        read_jsonl(tmp_path / "steps.jsonl", print)


def test_folders_of_records_are_found_but_for_what_is_a_runs_own(tmp_path):
    made = {
        "b": RUN, "b/stages/1-head": RUN, "b/checkpoints/step-1": RUN, "a/c": RUN, "a/stages/x": RUN, ".hidden": RUN,
        "d": COMPARISON, "d/runs/one": RUN, "e": CHECK,
    }  # fmt: skip
    for folder, kind in made.items():
        kind.path(tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        kind.path(tmp_path / folder).write_text("{}")

    def found(root, *kinds, **options):
        return [str(path.relative_to(tmp_path)) for path, _ in records_below(root, *kinds, **options)]

    assert found(tmp_path, RUN, COMPARISON) == ["a/c", "a/stages/x", "b", "d", "d/runs/one"]
    assert found(tmp_path, RUN, COMPARISON, CHECK, within=False) == ["a/c", "a/stages/x", "b", "d", "e"]
    assert found(tmp_path / "d", RUN, within=False) == ["d/runs/one"]
    assert dict(records_below(tmp_path / "d", RUN, COMPARISON))[tmp_path / "d"] == [COMPARISON]

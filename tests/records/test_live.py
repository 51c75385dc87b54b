"""How runs stand while they are made, from their files alone: half-written, damaged, stale, stopped; read once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from onecycle import CheckpointError
from onecycle.records import live
from onecycle.records.files import COMPARISON, RUN
from onecycle.records.live import Follower, last_rows


def step(k: int, **more) -> dict:
    return {"step": k, "epoch": k // 10, "lr": 0.1, "loss": 2.0, "loss_unsmoothed": 1.0, "seconds": (k + 1) / 4, **more}


def a_run(root: Path, name: str = "one", *, updates: int = 15, status: str = "running", **more) -> Path:
    folder = root / name
    record = {
        "status": status, "config": {"budget": "4 epochs"}, "resolved": {"updates": 40, "batch_size": 8},
        "facts": {"samples": [80, 8, 8]}, "result": None, "error": None, **more,
    }  # fmt: skip
    RUN.write(folder, record)
    (folder / "steps.jsonl").write_text("".join(json.dumps(step(k)) + "\n" for k in range(updates)))
    rows = [{"epoch": e, "step": 10 * e + 9, "valid_loss": 0.5, "valid_accuracy": 0.75 + e / 100, "seconds": 2.0}
            for e in range(updates // 10)]  # fmt: skip
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_under_way(tmp_path):
    a_run(tmp_path)
    (one,) = Follower(tmp_path).look()
    assert (one.name, one.kind, one.state, one.done, one.total) == ("one", "run", "running", 15, 40)
    assert (one.epoch, one.epochs, one.rate, one.loss) == (2, 4.0, 4.0, 1.0)
    assert (one.measure, one.value) == ("accuracy", 0.75)
    assert one.left == pytest.approx(15 / 4 * 25 / 15, abs=1.0)
    json.dumps(one.to_dict(), allow_nan=False)


def test_a_run_by_time_has_what_its_time_leaves(tmp_path):
    a_run(tmp_path, config={"budget": "10s"}, resolved={"updates": None, "batch_size": 8})
    (one,) = Follower(tmp_path).look()
    assert one.total is None and one.left == pytest.approx(10 - 15 / 4, abs=1.0)


@pytest.mark.parametrize(
    ("status", "state"), [("interrupted", "stopped"), ("failed", "failed"), ("finished", "finished")]
)
def test_a_run_that_has_ended_has_no_time_left(tmp_path, status, state):
    result = {"valid": {"accuracy": 0.9}, "updates": 40, "epochs": 4.0} if status == "finished" else None
    a_run(tmp_path, status=status, result=result, error="stopped after update 15" if status != "finished" else None)
    (one,) = Follower(tmp_path).look()
    assert (one.state, one.left) == (state, None)
    assert (one.done, one.value) == ((40, 0.9) if result else (15, 0.75))
    assert one.said == ("" if result else "stopped after update 15")


def test_a_run_that_nobody_writes_to_is_stale_and_runs_again_with_a_word(tmp_path):
    folder = a_run(tmp_path)
    for name in os.listdir(folder):
        os.utime(folder / name, (time.time() - 300,) * 2)
    follower = Follower(tmp_path)
    (one,) = follower.look()
    assert (one.state, one.left) == ("stale", None) and 299 < one.age < 400
    with (folder / "steps.jsonl").open("a") as file:
        file.write(json.dumps(step(15)) + "\n")
    (one,) = follower.look()
    assert (one.state, one.done) == ("running", 16)


def test_slow_updates_are_waited_for(tmp_path):
    folder = a_run(tmp_path)
    lines = [json.dumps(step(k, seconds=30.0 * k)) for k in range(5)]
    (folder / "steps.jsonl").write_text("\n".join(lines) + "\n")
    for name in os.listdir(folder):
        os.utime(folder / name, (time.time() - 300,) * 2)
    assert Follower(tmp_path).look()[0].state == "running"


def test_what_is_half_written_or_damaged_is_passed_over(tmp_path):
    folder = a_run(tmp_path)
    whole = (folder / "steps.jsonl").read_text()
    (folder / "steps.jsonl").write_text(f'{{"damaged\n[1]\n{whole}{{"step": 15, "epo')
    assert Follower(tmp_path).look()[0].done == 15
    (folder / "epochs.jsonl").write_bytes(b"\xff\xfe\n")
    assert Follower(tmp_path).look()[0].value is None
    (folder / "run.json").write_text("{")
    (one,) = Follower(tmp_path).look()
    assert one.state == "unreadable" and "run.json" in one.said


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(step(k)) + "\n" for k in range(5000)))
    rows = last_rows(path, most=1000)
    assert [row["step"] for row in rows] == list(range(5000 - len(rows), 5000)) and 5 < len(rows) < 12
    assert last_rows(tmp_path / "none") == []


def test_what_has_not_changed_is_not_read_again_and_nothing_is_written(tmp_path, monkeypatch):
    a_run(tmp_path, "one")
    changed = a_run(tmp_path, "two")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    follower, asked = Follower(tmp_path), []
    real = live._read
    monkeypatch.setattr(live, "_read", lambda kind, name, *rest: asked.append(name) or real(kind, name, *rest))
    follower.look()
    follower.look()
    assert sorted(asked) == ["one", "two"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    a_run(tmp_path, "two", updates=20)
    assert {one.name: one.done for one in follower.look()} == {"one": 15, "two": 20}
    assert asked[2:] == ["two"]
    os.rename(changed, tmp_path / "three")
    assert {one.name for one in follower.look()} == {"one", "three"}


def test_before_the_first_update_it_says_what_is_done(tmp_path):
    folder = a_run(tmp_path, updates=0)
    assert Follower(tmp_path).look()[0].said == "before its first update"
    (folder / "pilots.jsonl").write_text('{"lr": 0.1}\n{"lr": 0.2}\n')
    assert Follower(tmp_path).look()[0].said == "pilots: 2 made"
    a_run(tmp_path, status="finished", forecast={"line": "80 epochs: about 91 %"}, result={"updates": 40})
    assert Follower(tmp_path).look()[0].said == "80 epochs: about 91 %"


def test_a_run_in_stages_has_the_numbers_of_the_one_that_it_is_in(tmp_path):
    folder = a_run(tmp_path, updates=0, stages=["head", "all"], config={"budget": "10s"}, resolved={"updates": None})
    a_run(folder / "stages", "1-head", config={"budget": "20 epochs"})
    follower = Follower(tmp_path)
    (one,) = follower.look()
    assert (one.name, one.folder, one.stage, one.state, one.said) == ("one", folder, "1/2 head", "running", "")
    assert (one.done, one.total, one.rate, one.value) == (15, 40, 4.0, 0.75)
    a_run(folder / "stages", "1-head", updates=20)
    assert follower.look()[0].done == 20, "what changes in a stage is seen"
    a_run(folder / "stages", "1-head", updates=40, status="finished", result={"updates": 40, "seconds": 3.0})
    (one,) = follower.look()
    assert (one.stage, one.done, one.said) == ("2/2 all", None, "before its first update")
    (folder / "steps.jsonl").write_text(json.dumps(step(0)) + "\n" + json.dumps(step(1)) + "\n")
    (one,) = follower.look()
    assert (one.stage, one.done, one.said) == ("2/2 all", 2, "")
    assert one.left == pytest.approx(10 - 3 - 2 / 4, abs=1.0), "the stage before had a part of the time"
    RUN.update(folder, status="finished", result={"updates": 2})
    assert Follower(tmp_path).look()[0].stage == ""


def test_a_stage_that_was_broken_off_is_named(tmp_path):
    folder = a_run(tmp_path, updates=0, status="interrupted", error="stopped after update 15")
    a_run(folder / "stages", "1-head", status="interrupted")
    (one,) = Follower(tmp_path).look()
    assert (one.state, one.stage, one.done, one.said) == ("stopped", "1/2 head", 15, "stopped after update 15")


def test_a_comparison_and_its_runs_what_runs_first(tmp_path):
    table = [{"status": status, "run": name} for status, name in (("finished", "a"), ("failed", "b"), ("waiting", "c"))]
    record = {"config": {}, "status": "running", "table": table, "summary": []}
    COMPARISON.write(tmp_path / "pairs", record)
    a_run(tmp_path / "pairs" / "runs", "a", status="finished", result={"updates": 40})
    a_run(tmp_path / "pairs" / "runs", "c")
    found = Follower(tmp_path).look()
    assert [(one.name, one.state) for one in found] == [
        ("pairs", "running"), ("pairs/runs/c", "running"), ("pairs/runs/a", "finished")
    ]  # fmt: skip
    assert (found[0].done, found[0].total, found[0].said) == (2, 3, "1 failed")
    assert Follower(tmp_path / "pairs" / "runs" / "a").look()[0].name == "a"


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere: name one that holds runs, or will"):
        Follower(tmp_path / "nowhere").look()
    assert Follower(tmp_path).look() == []

"""The commands on several ranks, as a launcher starts them: they print once, and come to what one rank does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ranks_makers import run

from onecycle.records.files import RUN, read_jsonl

DIGITS = ["-m", "onecycle"]
MLP = ["digits", "--model", "mlp", "--optimizer", "sgd", "--lr-max", "0.1", "--epochs", "2", "--no-report"]


def test_train_prints_and_writes_once_and_comes_to_what_one_rank_does(tmp_path):
    for world in (1, 2):
        ends = run([*DIGITS, "train", *MLP, "--out", f"of-{world}"], world, cwd=tmp_path)
        assert [end.returncode for end in ends] == [0] * world, ends
        assert "The run is in of-" in ends[0].stdout and not any(end.stdout or end.stderr for end in ends[1:])
    one, two = (read_jsonl(tmp_path / f"of-{world}" / "steps.jsonl") for world in (1, 2))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    tests = [RUN.read(tmp_path / f"of-{world}")["result"]["test"] for world in (1, 2)]
    assert tests[1] == pytest.approx(tests[0], rel=1e-5)
    again = run([*DIGITS, "train", "--resume", "of-2", "--json"], 2, cwd=tmp_path)  # it has come to its end
    assert json.loads(again[0].stdout)["test"] == tests[1] and not again[1].stdout


def test_search_and_check_decide_alike(tmp_path):
    words = "search digits --model mlp --optimizer sgd --epochs 4 --batch-size 16 --no-report --out sought"
    code = "from ranks_makers import short_pilots; from onecycle.commands.app import main; short_pilots(); "
    one, two = run(["-c", f"{code} main({words.split()})"], 2, cwd=tmp_path)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert RUN.read(tmp_path / "sought")["resolved"]["search"]["pilots"] and not two.stdout
    checked = ["check", "digits", "--model", "mlp", "--updates", "40", "--repeats", "1", "--out", "checked", "--json"]
    ends = run([*DIGITS, *checked], 2, cwd=tmp_path)
    assert json.loads(ends[0].stdout)["curve"] and not ends[1].stdout
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["checked", "sought"]


def test_a_budget_of_time_chooses_one_model_for_all_ranks(tmp_path):
    words = ["digits", "--budget", "4s", "--no-report", "--out", "timed"]
    ends = run([*DIGITS, "train", *words], 2, cwd=tmp_path)
    assert [end.returncode for end in ends] == [0, 0], ends
    assert RUN.read(tmp_path / "timed")["config"]["model"] == "fast-cnn"


def test_what_is_not_for_ranks_says_so_or_is_done_once(tmp_path):
    one, two = run([*DIGITS, "compare", "digits"], 2, cwd=tmp_path)
    assert (one.returncode, two.returncode) == (2, 0)
    assert one.stderr.startswith("error: compare starts processes of its own") and not two.stderr
    one, two = run([*DIGITS, "policy", "one_cycle"], 2, cwd=tmp_path)
    assert one.stdout and not two.stdout


def test_what_all_ranks_meet_is_said_once(tmp_path):
    one, two = run([*DIGITS, "train", "nothing-here"], 2, cwd=tmp_path)
    assert (one.returncode, two.returncode) == (2, 2)
    said = [end.stderr for end in (one, two) if end.stderr]
    assert len(said) == 1 and said[0].startswith("error: ") and "nothing-here" in said[0]

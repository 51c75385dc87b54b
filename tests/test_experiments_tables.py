"""Rows, speed-ups and sentences of a comparison; its lines while it runs; its figure."""

from __future__ import annotations

import io
import json

import pytest

from onecycle.errors import ConfigError
from onecycle.experiments import tables
from onecycle.experiments.execute import Outcome
from onecycle.experiments.figure import comparison_figure
from onecycle.experiments.live import Lines, LiveTable, interim
from onecycle.experiments.plan import Cell
from onecycle.experiments.spec import Spec

OURS = {1: 0.90, 2: 0.95}
THEIRS = {1: 0.70, 2: 0.90}


def rows_of(spec: Spec, *, split: str = "test", shift: float = 0.0) -> list[tables.Row]:
    """1cycle needs half the epochs of step decay; seeds differ a little."""
    found = []
    for setting in (dict(zip(spec.axes, values, strict=True)) for values in zip(*spec.axes.values(), strict=True)) if (
        spec.axes) else ({},):  # fmt: skip
        for policy, curve in (("one_cycle", OURS), ("step", THEIRS)):
            for epochs in spec.epochs:
                for seed in range(spec.seeds):
                    accuracy = curve[int(epochs)] + 0.001 * seed + shift
                    result = {split: {"accuracy": accuracy, "loss": 0.5}, "seconds": epochs, "updates": 9}
                    cell = Cell(policy, epochs, tuple(setting.items()))
                    found.append(tables.row(cell, seed, 0.1, f"runs/{cell.name}", Outcome("finished", result)))
    return found


SPEC = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3)


def said(spec: Spec, rows: list[tables.Row]) -> list[str]:
    return tables.sentences(spec, rows, tables.speed_ups(spec, rows))


def test_a_row_is_flat_and_says_how_the_run_ended():
    cell = Cell("step", 2, (("batch_size", 64),))
    row = tables.row(cell, 1, 0.2, "runs/x", Outcome("failed", error="disk full"))
    assert row == {
        "policy": "step", "epochs": 2, "batch_size": 64, "seed": 1, "lr_max": 0.2, "test_accuracy": None,
        "valid_accuracy": None, "updates": None, "seconds": None, "status": "failed", "error": "disk full",
        "run": "runs/x",
    }  # fmt: skip
    assert tables.row(cell, 1, None, "runs/x", None)["status"] == "waiting"
    assert rows_of(SPEC)[0]["test_accuracy"] == 0.90 and rows_of(SPEC)[0]["test_loss"] == 0.5


def test_the_speed_up_is_found_and_said():
    rows = rows_of(SPEC)
    records = tables.speed_up_rows(tables.speed_ups(SPEC, rows))
    assert [r["against"] for r in records] == ["step", "step"]
    assert records[0]["speed_up"] == pytest.approx(2) and records[0]["budget"] == 1
    assert records[1]["more_than"] and records[1]["claim"] == "faster"
    assert json.loads(json.dumps(records)) == records
    words = said(SPEC, rows)
    assert words[0].startswith("1cycle reaches 90.1 ± 0.2 % in 1 epoch; the best tuned standard schedule (step) needs")
    assert "In 2 epochs 1cycle is 5.00 points better than step, seed by seed" in words[2]
    assert "no difference" not in words[2]


def test_no_claim_where_the_difference_holds_zero():
    rows = rows_of(SPEC)
    for row in rows:
        if row["policy"] == "step":
            row["test_accuracy"] = 0.951 + 0.02 * (row["seed"] - 1)
    assert said(SPEC, rows)[-1].endswith("no difference can be claimed.")


def test_settings_are_told_apart():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3, axes={"batch_size": (32, 64)})
    rows = rows_of(spec)
    assert {r["against"] for r in tables.speed_up_rows(tables.speed_ups(spec, rows))} == {
        "step at batch size 32", "step at batch size 64",
    }  # fmt: skip
    assert all(line.startswith("At batch size ") for line in said(spec, rows))


def test_what_is_missing_is_said():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=1)
    assert "With one seed there is no interval, and no difference can be claimed." in said(spec, rows_of(spec))
    assert any("There is no test data" in line for line in said(SPEC, rows_of(SPEC, split="valid")))
    rows = rows_of(SPEC)
    rows[0] |= {"test_accuracy": None, "status": "failed"}
    assert "1 of 12 runs failed: the table says why." in said(SPEC, rows)
    assert "failed runs left out: 1" in said(SPEC, rows)[0]
    alone = Spec(policies=("step", "cosine"), epochs=(1, 2), seeds=3)
    assert said(alone, [r for r in rows_of(SPEC) if r["policy"] == "step"]) == []
    for row in rows:
        row |= {"status": "waiting", "test_accuracy": None}
    assert said(SPEC, rows) == []


def test_lines_say_where_the_comparison_is():
    stream = io.StringIO()
    lines = Lines(stream=stream)
    lines.start("run", [1.0, 1.0])
    lines.done("step-2 seed 0: test accuracy 90 %", 1.0, ())
    lines.done("step-2 seed 1: failed: disk full", 1.0, ())
    first, last = stream.getvalue().splitlines()
    assert first.startswith("run 1/2, about ") and first.endswith(" left  step-2 seed 0: test accuracy 90 %")
    assert last == "run 2/2  step-2 seed 1: failed: disk full"


def test_the_live_table_has_interim_means(monkeypatch: pytest.MonkeyPatch):
    rows = rows_of(SPEC)
    rows[2] |= {"status": "waiting", "test_accuracy": None}
    rows[5] |= {"status": "failed", "test_accuracy": None}
    assert interim(rows)[:2] == [["one_cycle", "1", "", "2/3", "", "90.05 %"], ["one_cycle", "2", "", "3/3", "1",
                                                                               "95.05 %"]]  # fmt: skip
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    table = LiveTable(stream=stream)
    table.start("run", [1.0])
    table.done("[red] is no markup", 1.0, rows)
    table.say("a line")
    table.close()
    assert "a line" in stream.getvalue() and "[red] is no markup" in stream.getvalue()
    assert "95.05 %" in stream.getvalue()


def test_the_figure_has_a_panel_a_setting_and_a_line_a_policy():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3, axes={"batch_size": (32, 64)})
    record = {"config": json.loads(json.dumps(spec.to_dict())), "table": rows_of(spec)}
    figure = comparison_figure(record)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["batch size 32", "batch size 64"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one_cycle", "step"]
    line = figure.axes[0].containers[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == pytest.approx([0.901, 0.951])
    with pytest.raises(ConfigError, match="needs a run with an accuracy"):
        comparison_figure({**record, "table": []})

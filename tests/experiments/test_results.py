"""Rows, speed-ups and sentences of a comparison; its lines while it runs; its figure."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from onecycle.errors import ConfigError
from onecycle.experiments import results
from onecycle.experiments.console import Lines, LiveTable, best_so_far, interim
from onecycle.experiments.execute import Outcome
from onecycle.experiments.plan import Condition
from onecycle.experiments.spec import Spec
from onecycle.report.draw_comparison import comparison_figure

OURS = {1: 0.90, 2: 0.95}
THEIRS = {1: 0.70, 2: 0.90}


def rows_of(spec: Spec, *, split: str = "test", shift: float = 0.0) -> list[dict[str, Any]]:
    """1cycle needs half the epochs of step decay; seeds differ a little."""
    found = []
    for setting in (dict(zip(spec.axes, values, strict=True)) for values in zip(*spec.axes.values(), strict=True)) if (
        spec.axes) else ({},):  # fmt: skip
        for policy, curve in (("one_cycle", OURS), ("step", THEIRS)):
            for epochs in spec.epochs:
                for seed in range(spec.seeds):
                    accuracy = curve[int(epochs)] + 0.001 * seed + shift
                    result = {split: {"accuracy": accuracy, "loss": 0.5}, "seconds": epochs, "updates": 9}
                    cell = Condition(policy, epochs, tuple(setting.items()))
                    found.append(results.run_record(cell, seed, 0.1, f"runs/{cell.name}", Outcome("finished", result)))
    return found


SPEC = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3)


def said(spec: Spec, rows: list[dict[str, Any]]) -> list[str]:
    return results.sentences(spec, rows, results.speed_ups(spec, rows))


def test_a_row_is_flat_and_says_how_the_run_ended():
    cell = Condition("step", 2, (("batch_size", 64),))
    row = results.run_record(cell, 1, 0.2, "runs/x", Outcome("failed", error="disk full"))
    assert row == {
        "policy": "step", "epochs": 2, "batch_size": 64, "seed": 1, "lr_max": 0.2, "test_accuracy": None,
        "valid_accuracy": None, "updates": None, "seconds": None, "status": "failed", "error": "disk full",
        "run": "runs/x",
    }  # fmt: skip
    assert results.run_record(cell, 1, None, "runs/x", None)["status"] == "waiting"
    assert rows_of(SPEC)[0]["test_accuracy"] == 0.90 and rows_of(SPEC)[0]["test_loss"] == 0.5


def test_the_speed_up_is_found_and_said():
    rows = rows_of(SPEC)
    records = results.speed_up_records(results.speed_ups(SPEC, rows))
    assert [r["against"] for r in records] == ["step", "step"]
    assert records[0]["speed_up"] == pytest.approx(2) and records[0]["budget"] == 1
    assert records[1]["more_than"] and records[1]["claim"] == "faster"
    assert json.loads(json.dumps(records)) == records
    words = said(SPEC, rows)
    assert words[0].startswith(
        "1cycle is faster (n = 3): it reaches 90.1 % [89.9, 90.3] in 1 epoch; the best tuned standard schedule (step) "
    )
    assert words[2].startswith("1cycle is better than step in 2 epochs (n = 3): by 5.00 points, seed by seed (95 % ")


def test_no_claim_where_the_difference_holds_zero():
    rows = rows_of(SPEC)
    for row in rows:
        if row["policy"] == "step":
            row["test_accuracy"] = 0.951 + 0.02 * (row["seed"] - 1)
    assert said(SPEC, rows)[-1].startswith("No difference shown in 2 epochs (n = 3): 1cycle is 0.00 points ")


def test_no_claim_of_two_seeds():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=2)
    words = said(spec, rows_of(spec))[-1]
    assert words.startswith("No difference shown in 2 epochs (n = 2): 1cycle is 5.00 points better than step, ")
    assert said(SPEC, rows_of(SPEC))[-1].startswith("1cycle is better than step in 2 epochs (n = 3): ")


def test_one_epoch_and_more_in_words():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1,), seeds=3)
    words = said(spec, rows_of(spec))
    assert words[0].endswith("(step) needs more than 1 (95 % intervals).")
    assert words[1].startswith("1cycle is better than step in 1 epoch (n = 3): ")


def test_the_best_of_many_is_no_better_than_they_are():
    """The best of several is a little lucky: to be worse than it takes more than to be worse than a given one."""

    def words(rivals: tuple[str, ...]) -> str:
        spec = Spec(policies=("one_cycle", *rivals), epochs=(2,), seeds=4)
        rows = []
        for policy in spec.policies:
            for seed, gain in enumerate((0.006, 0.011, 0.009, 0.014) if policy == "step" else (0, 0, 0, 0)):
                outcome = Outcome("finished", {"test": {"accuracy": 0.9 + gain}})
                rows.append(results.run_record(Condition(policy, 2, ()), seed, 0.1, "", outcome))
        return said(spec, rows)[-1]

    one, six = words(("step",)), words(("step", "cosine", "constant", "linear", "wsd", "clr"))
    assert one.endswith("seed by seed (95 % interval of the difference: -1.54 to -0.46).")
    assert one.startswith("1cycle is worse than step in 2 epochs (n = 4): by 1.00 points, ")
    assert six.startswith("No difference shown in 2 epochs (n = 4): 1cycle is 1.00 points worse than step, ")
    assert six.endswith("from the best of 6: -1.54 to +0.05).")


def test_a_cell_a_line():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3, axes={"hidden": ((8,), (16, 8))})
    rows = json.loads(json.dumps(rows_of(Spec(policies=spec.policies, epochs=spec.epochs, seeds=3))))
    rows = [{**row, "hidden": hidden} for hidden in ([8], [16, 8]) for row in rows]
    rows[0] |= {"test_accuracy": None, "status": "failed"}
    for row in rows[6:9]:
        row |= {"test_accuracy": None, "lr_max": None, "status": "failed"}
    columns, lines = results.means({"config": json.loads(json.dumps(spec.to_dict())), "table": rows})
    assert columns == ["hidden", "epochs", "policy", "peak", "n", "failed", "test accuracy"]
    assert lines[0] == ["8", "1", "one_cycle", "0.1", "2", "1", "90.15 % [89.51 %, 90.79 %]"]
    assert lines[2] == ["8", "1", "step", "", "0", "3", ""]
    assert lines[-1][:5] == ["16+8", "2", "step", "0.1", "3"]


def test_settings_are_told_apart():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3, axes={"batch_size": (32, 64)})
    rows = rows_of(spec)
    assert {r["against"] for r in results.speed_up_records(results.speed_ups(spec, rows))} == {
        "step at batch size 32", "step at batch size 64",
    }  # fmt: skip
    assert all(line.startswith("At batch size ") for line in said(spec, rows))


def test_what_is_missing_is_said():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=1)
    assert "With one seed there is no interval, and no difference can be shown." in said(spec, rows_of(spec))
    assert any("There is no test data" in line for line in said(SPEC, rows_of(SPEC, split="valid")))
    rows = rows_of(SPEC)
    rows[0] |= {"test_accuracy": None, "status": "failed"}
    assert "1 of 12 runs failed: the table says why." in said(SPEC, rows)
    assert said(SPEC, rows)[0].startswith("No difference shown (n = 2): ")
    assert said(SPEC, rows)[0].endswith("; failed runs left out: 1.")
    assert [r["n"] for r in results.speed_up_records(results.speed_ups(SPEC, rows))] == [2, 3]
    assert "(n = 3)" in said(SPEC, rows)[2]
    rows[3] |= {"test_accuracy": None, "status": "failed"}
    assert "n = 2)" in said(SPEC, rows)[2] and "2 of 12 runs failed: the table says why." in said(SPEC, rows)
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


def test_the_time_left_is_of_all_that_follows(monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("onecycle.experiments.console.time.perf_counter", lambda: next(clock))
    stream = io.StringIO()
    lines = Lines(2, stream)
    lines.start("trial", [10.0] * 4, after=60.0)
    for _ in range(3):
        lines.done("", 10.0, ())
    where = [line.split(", ")[1].strip() for line in stream.getvalue().splitlines()]
    # two processes start with the first two runs; the third took them 10 s
    assert where == ["about 45 s left", "about 40 s left", "about 1 min 10 s left"]


def test_the_live_table_has_interim_means(monkeypatch: pytest.MonkeyPatch):
    rows = rows_of(SPEC)
    rows[2] |= {"status": "waiting", "test_accuracy": None}
    rows[5] |= {"status": "failed", "test_accuracy": None}
    assert interim(rows)[:2] == [
        {"policy": "one_cycle", "epochs": "1", "runs": "2/3", "failed": "", "mean so far": "90.05 %"},
        {"policy": "one_cycle", "epochs": "2", "runs": "3/3", "failed": "1", "mean so far": "95.05 %"},
    ]
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    table = LiveTable(stream=stream)
    table.start("run", [1.0])
    table.done("[red] is no markup", 1.0, rows, failed=True)
    table.say("a line")
    table.close()
    assert "a line" in stream.getvalue() and stream.getvalue().count("[red] is no markup") >= 2
    assert "95.05 %" in stream.getvalue()


LAST = [("one_cycle 2", "95.10 %"), ("step 1", "70.10 %"), ("step 2", "90.10 %")]


def test_the_live_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch):
    """Each cell is a line, the columns that say nothing are left out, and the last line is always there."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "60"), ("LINES", "8")):
        monkeypatch.setenv(name, value)
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3,
                axes={"batch_size": (32, 64), "weight_decay": (1e-3, 1e-4)})  # fmt: skip
    table = LiveTable(list(spec.axes), stream=stream)
    table.start("run", [1.0, 1.0])
    before = len(stream.getvalue())
    table.done("x" * 100, 1.0, rows_of(spec))
    lines = [re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", line).strip() for line in stream.getvalue()[before:].splitlines()]
    lines = [" ".join(line.split()) for line in lines if line]
    assert lines[0] == "... 5 more" and "failed" not in lines[2]
    assert lines[3:6] == [f"{policy} 64 0.0001 3/3 {mean}" for policy, mean in LAST]
    assert lines[6].startswith("run 1/2, about ") and len(lines[6]) <= 60 and len(lines) == 7
    table.close()


def test_the_best_trials_so_far():
    trials = [
        {"policy": "step", "epochs": 1, "lr_max": lr, "valid_accuracy": value, "status": "finished"}
        for lr, value in ((0.1, 0.8), (0.2, 0.9), (0.4, None))
    ]
    assert best_so_far(trials) == [
        {"policy": "step", "epochs": "1", "trials": "3", "best so far": "90.00 % at 0.2"},
    ]  # fmt: skip
    losses = [{**row, "valid_accuracy": None, "valid_loss": row["lr_max"] / 2} for row in trials]
    assert best_so_far(losses)[0]["best so far"] == "0.05 at 0.1"


def test_the_figure_has_a_panel_a_setting_and_a_line_a_policy():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 2), seeds=3, axes={"batch_size": (32, 64)})
    record = {"config": json.loads(json.dumps(spec.to_dict())), "table": rows_of(spec)}
    figure = comparison_figure(record)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["batch size 32", "batch size 64"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["one_cycle", "step"]
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == pytest.approx([0.901, 0.951])
    with pytest.raises(ConfigError, match="needs a run with an accuracy"):
        comparison_figure({**record, "table": []})

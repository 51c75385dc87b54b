"""Epochs and seconds to a target accuracy, from run directories made by hand."""

import json

import pytest

from onecycle.errors import ConfigError
from onecycle.experiments.results import curve, target_lines, to_targets


def run(folder, accuracies, seconds=2.0, per_epoch=10):
    folder.mkdir(parents=True)
    rows = [
        {"epoch": i, "step": (i + 1) * per_epoch - 1, "valid_accuracy": a, "seconds": seconds}
        for i, a in enumerate(accuracies)
    ]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def comparison(tmp_path, **cells):
    """Cells of runs by policy: accuracies after each epoch, or a status."""
    table = []
    for policy, runs in cells.items():
        for seed, accuracies in enumerate(runs):
            status = accuracies if isinstance(accuracies, str) else "finished"
            row = {"policy": policy, "epochs": 3, "batch_size": 64, "seed": seed, "status": status}
            table.append({**row, "run": f"runs/{policy}-{seed}"})
            if status == "finished":
                run(tmp_path / f"runs/{policy}-{seed}", accuracies)
    return {"config": {"axes": {"batch_size": [64]}}, "table": table}


def test_times_are_medians_over_runs_and_none_is_dropped(tmp_path):
    record = comparison(
        tmp_path,
        one_cycle=[[0.5, 0.8, 0.9], [0.7, 0.9, 0.9], [0.5, 0.6, 0.7]],
        step=[[0.5, 0.5, 0.6], "failed", "waiting"],
        cosine=["waiting"],
    )
    ours, step = to_targets(tmp_path, record, 0.8)
    assert (ours["policy"], ours["epochs"], ours["batch_size"]) == ("one_cycle", 3, 64)
    epochs, seconds = ours["needed"]["epochs"], ours["needed"]["seconds"]
    assert (epochs["median"], epochs["reached"], epochs["n"]) == (2, 2, 3)
    assert seconds["median"] == 4.0
    assert (step["needed"]["epochs"]["median"], step["needed"]["epochs"]["n"]) == (None, 2)
    lines = target_lines([ours, step], 0.8)
    assert lines[1] == (
        "- one_cycle, 3 epochs at batch size 64: 2 epochs, 4 s (2 of 3 runs reached 80 %: too few for an interval)"
    )
    assert "more than 3 epochs, more than 6 s (0 of 2 runs reached 80 %)" in lines[2]


def test_a_cell_whose_runs_all_failed_is_said(tmp_path):
    record = comparison(tmp_path, one_cycle=[[0.5, 0.8, 0.9]], step=["failed", "failed", "failed", "waiting"])
    ours, step = to_targets(tmp_path, record, 0.8)
    for unit in ("epochs", "seconds"):
        needed = step["needed"][unit]
        assert set(needed) == set(ours["needed"][unit])
        assert (needed["median"], needed["reached"], needed["n"]) == (None, 0, 3)
    line = "- step, 3 epochs at batch size 64: none of 3 runs finished"
    assert target_lines([ours, step], 0.8)[2] == line


def test_a_curve_counts_epochs_of_the_budget_and_seconds_from_the_start(tmp_path):
    run(tmp_path / "a", [0.5, 0.75], seconds=1.5)
    assert curve(tmp_path / "a", 1.0, "epochs") == [(0.5, 0.5), (1.0, 0.75)]
    assert curve(tmp_path / "a", 1.0, "seconds") == [(1.5, 0.5), (3.0, 0.75)]
    assert curve(tmp_path / "none", 1.0, "seconds") == []
    with pytest.raises(ConfigError, match="seconds"):
        curve(tmp_path / "a", 1.0, "second")


@pytest.mark.parametrize("target", [0, 1, 91, True, "0.9"])
def test_a_target_is_a_share(tmp_path, target):
    with pytest.raises(ConfigError, match="target is an accuracy, a finite number above 0 and below 1"):
        to_targets(tmp_path, comparison(tmp_path), target)

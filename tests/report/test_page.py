"""The page from records alone: what it says, what it draws, and what it makes of hostile and damaged records."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import sys
from html import unescape

import numpy as np
import pytest
from page_makers import HOSTILE, write_check, write_comparison, write_run

from onecycle.errors import CheckpointError, ConfigError, MissingDependency
from onecycle.records.read import read, read_rows
from onecycle.records.statistics import mean_band, student
from onecycle.report import page as page_module
from onecycle.report.content import (
    Group,
    axes,
    command,
    compared,
    differences,
    groups,
    notices,
    of_run,
    of_test,
    summary,
    title,
)
from onecycle.report.draw_comparison import draw_comparison, run_keys
from onecycle.report.draw_range_test import draw_test
from onecycle.report.draw_run import clock, curve, draw_runs
from onecycle.report.page import EPOCHS, embedded, html, markdown, page
from onecycle.report.spec import LEAST, MOST, Plots, budget, kept, style
from onecycle.report.tables import (
    LAST,
    comparison_table,
    epochs_table,
    forecast_table,
    origins,
    pilots_table,
    runs_table,
    speed_up_table,
    table,
)

pytest.importorskip("jinja2")
pytest.importorskip("plotly")


def only(folder):
    (run,) = read([folder]).runs
    return run


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


# Reading


def test_a_run_as_it_was_recorded(tmp_path):
    run = only(write_run(tmp_path / "a", updates=8, per_epoch=4))
    assert (run.name, run.finished, run.damage) == ("a", True, [])
    assert [row["step"] for row in run.steps] == list(range(8))
    assert [row["epoch"] for row in run.epochs] == [0, 1]


def test_a_cut_off_last_line_is_left_out_and_said(tmp_path):
    folder = write_run(tmp_path / "a", updates=8)
    whole = (folder / "steps.jsonl").read_text()
    (folder / "steps.jsonl").write_text(whole[:-20])
    run = only(folder)
    assert len(run.steps) == 7
    assert notices(read([folder])) == ["a: steps.jsonl breaks off in line 8, and is shown up to there."]
    assert "breaks off in line 8" in html(read([folder]), plotly="")
    assert "breaks off in line 8" in markdown([folder])


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": null}', "\x00\x00"])
def test_records_up_to_the_first_damaged_line(tmp_path, line):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 0, "loss": "high"}\n' + line + '\n{"step": 2}\n')
    rows, said = read_rows(path)
    assert len(rows) == 1 and math.isnan(rows[0]["loss"])
    assert said == "steps.jsonl breaks off in line 2, and is shown up to there"


def test_no_records_yet(tmp_path):
    folder = write_run(tmp_path / "a", updates=0, status="running", result=None)
    assert only(folder).steps == []
    assert "No update is recorded yet." in html(read([folder]), plotly="")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, r"\(there is no such folder\): Known: run$"),
        (
            lambda folder: folder.mkdir(),
            r"neither a run.json nor a check.json, a compare.json or a profile.json\): Known: run$",
        ),
        (lambda folder: write_run(folder / "inner"), r"name what is in it, such as .*foreign/inner$"),
    ],
)
def test_a_folder_with_nothing_to_report(tmp_path, make, says):
    write_run(tmp_path / "run")
    make(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match=says):
        read([tmp_path / "foreign"])


def test_a_near_name_is_named(tmp_path):
    write_run(tmp_path / "digits-mlp-1")
    with pytest.raises(CheckpointError, match=r"did you mean digits-mlp-1\?"):
        read([tmp_path / "digits-mlp-2"])


@pytest.mark.parametrize("name", ["run.json", "check.json", "compare.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"schema": 5}', r"has schema 5; this version of onecycle reads \d: a newer one wrote it"),
        ("{}", "has schema None"),
        ("[1]", "has schema None"),
        ('{"schema": 1', "cannot be read"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_record_of_another_kind(tmp_path, name, content, says):
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=says):
        read([tmp_path])


@pytest.mark.parametrize("result", [None, {"curve": None}, {}])
def test_a_range_test_without_a_curve(tmp_path, result):
    text = html(read([write_check(tmp_path / "c", result=result)]), plotly="")
    assert "No curve is recorded." in text


def test_a_damaged_curve(tmp_path):
    folder = write_check(tmp_path / "c", result={"curve": {"sweeps": [{"lr": [2.0, 1.0], "loss": [1.0, 1.0]}]}})
    with pytest.raises(CheckpointError, match=r"check.json is damaged: .* Run the range test again"):
        read([folder])


@pytest.mark.parametrize("folders", [[], "runs/a"])
def test_no_list_of_folders(folders):
    with pytest.raises(ConfigError, match="a list of at least one folder"):
        read(folders)


def test_names_are_the_shortest_ends_that_differ(tmp_path):
    folders = [write_run(tmp_path / "x" / "a"), write_run(tmp_path / "y" / "a"), tmp_path / "x" / ".." / "x" / "a"]
    assert [run.name for run in read(folders).runs] == ["x/a", "y/a"]


def test_fields_of_wrong_types_do_no_harm(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    record = {"config": [1], "result": "x", "notes": 3, "command": None, "versions": 1, "status": 5, "facts": 2}
    (folder / "run.json").write_text(json.dumps(record | {"schema": 2, "resolved": []}))
    assert "Its status is 5" in html(read([folder]), plotly="")
    (folder / "run.json").unlink()
    record |= {"schema": 1, "summary": "x"}
    (folder / "compare.json").write_text(json.dumps(record | {"table": [1, {"policy": 2, "run": 7}]}))
    assert "a: 1 run (1 None)" in html(read([folder]), plotly="")
    (folder / "compare.json").write_text(json.dumps(record | {"table": []}))
    assert "no runs yet" in html(read([folder]), plotly="")


# Groups


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path):
    folders = [write_run(tmp_path / f"sgd{s}", seed=s, optimizer="sgd") for s in range(3)]
    folders.append(write_run(tmp_path / "muon", seed=0, optimizer="muon"))
    found = groups(read(folders).runs)
    assert [(group.label, len(group.runs)) for group in found] == [("sgd (3 seeds)", 3), ("muon", 1)]


def test_the_same_seed_twice_or_none_is_no_repetition(tmp_path):
    folders = [write_run(tmp_path / name, seed=1) for name in "ab"]
    assert [group.label for group in groups(read(folders).runs)] == ["a", "b"]
    folders = [write_run(tmp_path / name, config={"budget": "3 epochs"}) for name in "cd"]
    assert [group.label for group in groups(read(folders).runs)] == ["c", "d"]


def test_differing_data_are_said(tmp_path):
    runs = read([write_run(tmp_path / "a"), write_run(tmp_path / "b", data="cifar10", model="vit")]).runs
    (data,) = differences(runs)  # another model is a setting
    assert data.startswith("These runs differ in their data, so their measures can't be compared: data")
    assert '"digits" (a), "cifar10" (b)' in data
    assert differences(runs[:1]) == []
    tables = [
        write_run(tmp_path / name, config={"data": "houses.csv", "target": name}, facts={"kind": "table"})
        for name in ("price", "rent")
    ]
    (said,) = differences(read(tables).runs)
    assert 'target "price" (price), "rent" (rent)' in said
    assert differences(read([write_run(tmp_path / "c"), write_run(tmp_path / "d", seed=3)]).runs) == []
    (said,) = differences(read([tmp_path / "c", write_run(tmp_path / "e", config={"budget": "1 epoch"})]).runs)
    assert said == "e was begun in Python and does not say what its data were."


def test_the_mean_of_the_runs_that_finished(tmp_path):
    folders = [write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1, status="failed", updates=3)]
    (group,) = groups(read(folders).runs)
    assert [run.name for run in group.drawn] == ["a"]
    assert "1 of 2 runs did not finish" in summary(read(folders), [group])[0]


def test_runs_over_seeds_in_words(tmp_path):
    accuracies = [0.90, 0.91, 0.92, 0.91, 0.91]
    folders = [write_run(tmp_path / f"{s}", seed=s, result={"test": {"accuracy": a}}) for s, a in enumerate(accuracies)]
    said = "mean test accuracy 91.00 % (95 % interval 90.12 % to 91.88 %, n = 5)."
    assert summary(read(folders), groups(read(folders).runs))[0].endswith(said)


def test_axes_of_a_comparison():
    rows = [{"policy": p, "epochs": e, "seed": 0, "dropout": d, "batch_size": 8, "seconds": d, "test_loss": d}
            for p in "ab" for e in (1, 2) for d in (0, 1)]  # fmt: skip
    assert axes(rows) == ["dropout"]


# Series


def test_thinning_keeps_the_extremes_and_the_ends():
    y = np.sin(np.arange(10_000) / 50)
    y[5001], y[7000], y[8] = 9.0, -9.0, np.nan
    keep = kept(y, 100)
    assert len(keep) <= 100
    assert {0, 5001, 7000, 9999} <= set(keep)
    assert 8 not in keep
    assert list(kept(np.array([1.0, np.nan, 2.0]), 100)) == [0, 2]
    assert len(kept(np.full(5, np.nan), 4)) == 0


def test_the_mean_and_band_of_a_group_are_those_of_its_runs(tmp_path):
    folders = [write_run(tmp_path / f"{s}", seed=s, updates=6, shift=s) for s in range(3)]
    (group,) = groups(read(folders).runs)
    found = curve(group, "loss", points=100)
    columns = np.array([[row["loss"] for row in run.steps] for run in group.runs])
    assert found["x"] == list(range(6))
    for name, values in zip(("y", "low", "high"), mean_band(columns), strict=True):
        assert found[name] == pytest.approx(values, rel=1e-4)
    assert "low" not in curve(group, "lr", points=100)
    assert curve(group, "f1", points=100) == {}


def test_values_that_are_not_finite_are_gaps(tmp_path):
    folder = write_run(tmp_path / "a", updates=4)
    rows = (folder / "steps.jsonl").read_text().splitlines()
    rows[2] = re.sub(r'"loss": [0-9.]+', '"loss": NaN', rows[2])
    (folder / "steps.jsonl").write_text("\n".join(rows) + "\n")
    assert curve(groups([only(folder)])[0], "loss", points=100)["x"] == [0, 1, 3]
    html(read([folder]), plotly="")


def test_the_clock_gives_epochs_and_seconds(tmp_path):
    (group,) = groups([only(write_run(tmp_path / "a", updates=400, per_epoch=40, seconds=0.5))])
    found = clock(group)
    assert found["per_epoch"] == 40
    assert (found["update"][0], found["update"][-1]) == (0, 399)
    assert np.interp(100, found["update"], found["seconds"]) == pytest.approx(50.0)


def test_lines_share_a_budget_of_points():
    assert (budget(1), budget(10**6)) == (MOST, LEAST)
    looks = [style(i) for i in range(24)]
    assert len(set(looks)) == 24
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks[:6]))


# Figures


def test_one_run_has_training_and_validation_in_one_panel(tmp_path):
    plots = Plots()
    drawn = draw_runs(plots, groups([only(write_run(tmp_path / "a", updates=40))]))
    assert [plots.figures[i].title for i in drawn["figures"]] == ["Accuracy", "Loss"]
    assert [plots.figures[i].title for i in drawn["schedules"]] == ["Learning rate", "Momentum"]
    assert [plots.keys[i].label for i in drawn["keys"]] == [
        "training, each update", "training, mean of 5 updates", "training, mean of the epoch", "validation",
    ]  # fmt: skip
    loss = plots.figures[drawn["figures"][1]]
    assert [plots.keys[line.key].label for line in loss.series] == [plots.keys[i].label for i in drawn["keys"]]


def test_several_groups_have_a_panel_a_measure(tmp_path):
    folders = [write_run(tmp_path / f"{o}{s}", seed=s, optimizer=o, shift=s) for o in ("sgd", "muon") for s in (0, 1)]
    plots = Plots()
    drawn = draw_runs(plots, groups(read(folders).runs))
    titles = [plots.figures[i].title for i in drawn["figures"]]
    assert titles == ["Validation accuracy", "Validation loss", "Training accuracy", "Training loss"]
    assert all(len(plots.figures[i].series) == 2 for i in drawn["figures"])
    assert plots.figures[drawn["figures"][1]].caption == (
        "Lines: means over seeds, n = 2. Bands: 95 % t intervals of the mean."
    )


def test_epochs_alone_are_drawn(tmp_path):
    folder = write_run(tmp_path / "a", updates=40, per_epoch=10)
    (folder / "steps.jsonl").unlink()
    plots = Plots()
    drawn = draw_runs(plots, groups([only(folder)]))
    (train, valid) = plots.figures[drawn["figures"][1]].series
    assert (train.x, valid.x) == ([4.5, 14.5, 24.5, 34.5], [9, 19, 29, 39])
    assert len(drawn["schedules"]) == 2


def test_a_range_test_is_drawn_with_its_range(tmp_path):
    plots = Plots()
    (test,) = read([write_check(tmp_path / "c")]).tests
    figures = [plots.figures[i] for i in draw_test(plots, test)["figures"]]
    assert [figure.y for figure in figures] == [
        "loss", "accuracy", "largest hessian eigenvalue times learning rate",
        "hessian-free estimate of the learning rate",
    ]  # fmt: skip
    assert figures[0].shade == (0.01, 0.5)
    assert [figure.marks for figure in figures] == [(1.0,), (1.0,), (), ()]
    assert "shaded. Dotted: training diverges above 1." in figures[0].caption
    assert of_test(test) == (
        "mlp on digits: keeps its accuracy at large learning rates; peak learning rate 0.5 (range 0.01 to 0.5), "
        "by a range test."
    )


def test_a_divergence_does_not_hide_the_rest_of_a_range_test(tmp_path):
    folder = write_check(tmp_path / "c", lr_min=None)
    record = json.loads((folder / "check.json").read_text())
    for sweep in record["result"]["curve"]["sweeps"]:
        sweep["loss"][-1] = 1e6
    (folder / "check.json").write_text(json.dumps(record))
    plots = Plots()
    (test,) = read([folder]).tests
    figure = plots.figures[draw_test(plots, test)["figures"][0]]
    assert figure.frame[0] < 0.6 and 2.1 < figure.frame[1] < 5
    assert (figure.shade, figure.marks) == (None, (0.5, 1.0))


def test_a_range_test_that_found_nothing(tmp_path):
    folder = write_check(tmp_path / "c", lr_max=None, lr_min=None, verdict=None, reason="the loss never fell.")
    plots = Plots()
    (test,) = read([folder]).tests
    figure = plots.figures[draw_test(plots, test)["figures"][0]]
    assert (figure.shade, figure.marks) == (None, (1.0,))
    assert figure.caption.startswith("No learning rate is suggested.")
    assert of_test(test) == "mlp on digits: no peak learning rate (the loss never fell), by a range test."
    assert "mlp on digits" in html(read([folder]), plotly="")


def test_a_comparison_against_budget_and_axes(tmp_path):
    (comparison,) = read([write_comparison(tmp_path / "c", epochs=(1, 2), fractions=(0.5, 1.0))]).comparisons
    plots = Plots()
    figures = [plots.figures[i] for i in draw_comparison(plots, comparison)["figures"]]
    assert [figure.title.split(":")[0] for figure in figures] == [
        "Budget", "Seconds", "Limited data", "Speed-up at equal accuracy",
    ]  # fmt: skip
    assert figures[0].caption.endswith("At fraction 1.0.")
    assert figures[2].caption.endswith("At epochs 2.")
    mean, runs = figures[0].series[:2]
    rows = [r for r in comparison.rows if (r["policy"], r["fraction"]) == ("one_cycle", 1.0)]
    for i, epochs in enumerate((1, 2)):
        cell = [row["test_accuracy"] for row in rows if row["epochs"] == epochs]
        band = student(cell, within=(0, 1))
        assert [mean.y[i], mean.low[i], mean.high[i]] == pytest.approx(band, rel=1e-4)
    assert sorted(runs.y) == pytest.approx(sorted(row["test_accuracy"] for row in rows), rel=1e-4)
    assert runs.mode == "markers"


def test_an_axis_of_names_and_a_wide_one(tmp_path):
    folder = write_comparison(tmp_path / "c", runs=False)
    record = json.loads((folder / "compare.json").read_text())
    record["table"] = [
        {"policy": "one_cycle", "epochs": 4, "seed": 0, "optimizer": o, "batch_size": b, "test_accuracy": 0.5}
        for o in ("sgd", "adamw") for b in (16, 1024)
    ]  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(record))
    (comparison,) = read([folder]).comparisons
    plots = Plots()
    figures = [plots.figures[i] for i in draw_comparison(plots, comparison)["figures"][:2]]
    assert [(figure.x, figure.kind) for figure in figures] == [("optimizer", "category"), ("batch size", "log")]
    assert figures[0].caption.startswith("Dots: runs. One seed each: there is no interval.")
    assert "One seed: there is no interval, and small differences may be chance." in summary(read([folder]), [])


def speed_up(**row):
    return {"against": "step", "accuracy": 0.867441, "budget": 4, "needed": 6.0, "speed_up": 1.5, "low": 1.2,
            "high": 1.9, "more_than": False, "at_most": False, "claim": "faster", "n": 5, **row}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "text", "cells", "ends", "says"),
    [
        ({}, "1.5 (1.2 to 1.9) in 4 epochs, n = 5", ["6", "1.5", "1.2 to 1.9", "faster"], (1.2, 1.9), "Whiskers"),
        (
            {"low": None, "claim": None}, "1.5 (up to 1.9) in 4 epochs, n = 5",
            ["6", "1.5", "up to 1.9", "none claimed"], (None, 1.9), "Arrows",
        ),
        (
            {"needed": 8, "speed_up": 2.0, "low": 1.7, "high": None, "more_than": True},
            "more than 2 (from 1.7) in 4 epochs, n = 5",
            ["more than 8", "more than 2", "from 1.7", "faster"], (1.7, None), "Hollow",
        ),
        (
            {"needed": 2, "speed_up": 0.5, "low": None, "high": 0.6, "at_most": True, "claim": "slower"},
            "at most 0.5 (up to 0.6) in 4 epochs, n = 5",
            ["at most 2", "at most 0.5", "up to 0.6", "slower"], (None, 0.6), "Hollow",
        ),
        (
            {"low": None, "high": None, "n": 1, "claim": None}, "1.5 in 4 epochs, n = 1",
            ["6", "1.5", "-", "none claimed: one seed"], (1.5, 1.5), "One seed",
        ),
    ],
)  # fmt: skip
def test_every_speed_up_is_drawn_and_in_the_table(tmp_path, row, text, cells, ends, says):
    (comparison,) = read([write_comparison(tmp_path / "c", runs=False, speed_up=[speed_up(**row)])]).comparisons
    plots = Plots()
    drawn = draw_comparison(plots, comparison)
    figure = plots.figures[drawn["figures"][-1]]
    (series,) = figure.series
    assert (figure.title, figure.level, series.mode) == ("Speed-up at equal accuracy", 1.0, "intervals")
    assert (series.x, series.text, (series.low[0], series.high[0])) == ([86.74], [text], ends)
    assert series.bound == [bool(row.get("more_than")) - bool(row.get("at_most"))]
    assert says in figure.caption
    assert plots.keys[series.key].label == "step" and len(drawn["keys"]) == 2
    found = speed_up_table(comparison)
    assert found.columns == ["against", "accuracy", "budget", "n", "needed", "speed up", "interval", "difference"]
    assert [cell.text for cell in found.rows[0][-4:]] == cells
    json.dumps(plots.plain(), allow_nan=False)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"low": None, "high": None, "more_than": True}, "more than 1.5 (open) in 4 epochs, n = 5"),
        ({"low": None, "high": None}, "1.5 (open) in 4 epochs, n = 5"),
        ({"speed_up": 1.0, "low": 1.0, "high": None, "more_than": True}, "more than 1 (from 1) in 4 epochs, n = 5"),
        ({"speed_up": 1.0, "low": None, "high": 1.0, "at_most": True}, "at most 1 (up to 1) in 4 epochs, n = 5"),
    ],
)
def test_speed_ups_that_tell_nothing_are_left_out(tmp_path, row, text):
    row = {**row, "tells": False}
    (comparison,) = read([write_comparison(tmp_path / "c", runs=False, speed_up=[speed_up(**row)])]).comparisons
    plots = Plots()
    draw_comparison(plots, comparison)
    assert "Speed-up at equal accuracy" not in [figure.title for figure in plots.figures]
    assert speed_up_table(comparison).rows == []
    beside = [speed_up(**row), speed_up()]
    (comparison,) = read([write_comparison(tmp_path / "d", runs=False, speed_up=beside)]).comparisons
    assert len(speed_up_table(comparison).rows) == 2
    value, interval = (cell.text for cell in speed_up_table(comparison).rows[0][-3:-1])
    assert text.startswith(f"{value} ({interval})")


def test_a_speed_up_at_a_setting_has_a_line_of_its_own_in_the_legend(tmp_path):
    rows = [speed_up(against="step at dropout 0.2"), speed_up(against="step"), {"accuracy": 0.5}, 3]
    (comparison,) = read([write_comparison(tmp_path / "c", runs=False, speed_up=rows)]).comparisons
    plots = Plots()
    drawn = draw_comparison(plots, comparison)
    assert [plots.keys[i].label for i in drawn["keys"]] == ["one_cycle", "step", "against step at dropout 0.2"]


def test_runs_of_a_comparison_lead_to_their_folders(tmp_path):
    folder = write_comparison(tmp_path / "a b", epochs=(1, 2))
    record = json.loads((folder / "compare.json").read_text())
    (folder / "runs/0/report.html").write_text("")
    outside = write_run(tmp_path / "outside")
    for i, where in enumerate(["../outside", str(outside), "javascript:alert(1)", "runs/gone"], 2):
        record["table"][i]["run"] = where
    (folder / "compare.json").write_text(json.dumps(record))
    records = read([folder])

    def links(at):
        return [row[0].href for row in comparison_table(records.comparisons[0], at).rows]

    assert links(folder) == ["runs/0/report.html", "runs/1", None, None, None, None, "runs/6", "runs/7"]
    assert links(folder / "runs" / "7")[:2] == ["../0/report.html", "../1"]
    assert set(links(tmp_path)) == set(links(None)) == {None}
    text = html(records, plotly="", at=folder)
    assert '<a href="runs/0/report.html">0</a>' in text and "javascript:alert(1)</td>" in text
    assert "<a href" not in html(records, plotly="").split("<main")[1]
    hostile = folder / "runs" / HOSTILE.replace("/", "")
    hostile.mkdir()
    record["table"][0]["run"] = f"runs/{hostile.name}"
    (folder / "compare.json").write_text(json.dumps(record))
    href = comparison_table(read([folder]).comparisons[0], folder).rows[0][0].href
    assert href.startswith("runs/%3Cscript%3E") and not set(href) & set("<>\"'")


def test_a_comparison_that_was_stopped_says_so(tmp_path):
    folder = write_comparison(tmp_path / "c", status="interrupted", runs=False)
    record = json.loads((folder / "compare.json").read_text())
    record["table"][1] |= {"status": "waiting", "test_accuracy": None}
    record["tuning"] = [{"policy": "step", "seed": 9, "lr_max": 0.25, "run": "trials/x", "chosen": True}]
    (folder / "compare.json").write_text(json.dumps(record))
    said = summary(read([folder]), [])
    assert "It was interrupted: the command below goes on with it." in said
    assert said[-1] == "c: 4 runs (3 finished, 1 waiting)."
    text = html(read([folder]), plotly="")
    assert ">waiting</td>" in text and "How each policy was tuned" in text and ">0.25</td>" in text


def test_over_time_a_comparison_shows_its_main_setting_first(tmp_path):
    (comparison,) = read([write_comparison(tmp_path / "c", epochs=(1, 2))]).comparisons
    found = [(group.label, key.shown) for group, key in zip(compared(comparison), run_keys(comparison), strict=True)]
    assert found == [
        ("one_cycle, 1 epoch", False), ("one_cycle, 2 epochs", True),
        ("step, 1 epoch", False), ("step, 2 epochs", True),
    ]  # fmt: skip


def test_failed_and_missing_runs_of_a_comparison(tmp_path):
    folder = write_comparison(tmp_path / "c", epochs=(1, 2))
    record = json.loads((folder / "compare.json").read_text())
    record["table"][0] |= {"test_accuracy": None, "status": "failed", "error": "the loss became NaN"}
    record["table"][1]["run"] = "runs/gone"
    record["table"][2] |= {"run": "runs/later", "status": "planned", "test_accuracy": None}
    (folder / "compare.json").write_text(json.dumps(record))
    records = read([folder])
    assert len(records.comparisons[0].runs) == len(record["table"]) - 2
    assert any("runs/gone" in notice for notice in notices(records))
    assert not any("runs/later" in notice for notice in notices(records))
    text = html(records, plotly="")
    assert "the loss became NaN" in text
    assert "1 failed" in text


# Words and tables


def test_a_forecast_in_words_and_as_a_table(tmp_path):
    expected = [
        {"factor": 2, "updates": 80, "value": 0.85, "low": 0.8, "high": 0.9},
        {"factor": 4, "updates": 160, "value": 0.88, "low": None, "high": 0.95},
    ]
    forecast = {"measure": "accuracy", "n": 3, "line": "forecast: accuracy 85.0 %", "expected": expected}
    folder = write_run(tmp_path / "a", updates=40, forecast=forecast)
    assert " Forecast: accuracy 85.0 %. Setting: " in of_run(only(folder))
    made = forecast_table(only(folder))
    assert made.columns == ["times the budget", "updates", "valid accuracy", "90 % interval"]
    assert [cell.text for cell in made.rows[0]] == ["2", "80", "85.00 %", "80.00 % to 90.00 %"]
    assert made.words == "2 rows. From 3 pilots and the end of the run." and "Forecast of a" in html(read([folder]))
    none = write_run(tmp_path / "b", forecast={"line": "forecast: cannot say: no pilot", "expected": []})
    assert "cannot say: no pilot" in html(read([none])) and "Forecast of b" not in html(read([none]))


def write_pilots(folder, *pilots):
    lines = [
        {"updates": 100, "loss": None, "valid": {}, "seconds": 1.0, "of": 1500, "lost": None} | one for one in pilots
    ]
    (folder / "pilots.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_pilots_are_a_table(tmp_path):
    made = [
        {"lr_max": 0.04, "loss": 0.5, "valid": {"loss": 0.5, "accuracy": 0.8}},
        {"lr_max": 0.12, "lost": "the loss was lost after 7 updates"},
    ]
    search = {"lr_max": 0.04, "updates": 150, "budget": 1500, "reason": "no other pilot was better", "pilots": made}
    folder = write_run(tmp_path / "a", resolved={"lr_max": 0.04, "search": search})
    assert "Pilots of a" not in html(read([folder]), plotly="")
    write_pilots(folder, *made)
    shown = pilots_table(only(folder))
    assert shown.columns == ["peak", "updates", "held-out loss", "held-out accuracy", "kept", "why"]
    assert [[cell.text for cell in row] for row in shown.rows] == [
        ["0.04", "100", "0.5", "80.00 %", "yes", "-"],
        ["0.12", "100", "-", "-", "no", "the loss was lost after 7 updates"],
    ]
    assert shown.words == ("2 rows. They took 10.0 % of the budget; the run has peak 0.04: no other pilot was better.")
    text = html(read([folder]), plotly="")
    assert text.count("Pilots of a") == 2 and "the loss was lost after 7 updates" in text


def test_pilots_of_other_settings_and_those_of_a_search_that_has_no_end_yet(tmp_path):
    made = [
        {"lr_max": 0.04, "loss": 0.5, "setting": {}},
        {"lr_max": 0.04, "loss": 0.4, "setting": {"weight_decay": 0.2}},
    ]
    folder = write_run(tmp_path / "a", resolved={}, status="running", result=None)
    write_pilots(folder, *made)
    shown = pilots_table(only(folder))
    assert shown.columns == ["setting", "peak", "updates", "held-out loss"] and shown.note == ""
    assert [row[0].text for row in shown.rows] == ["defaults", "weight decay 0.2"]
    said = [{"kept": False, "why": ""}, {"kept": True, "why": "learned 10.0 % more"}]
    search = {"lr_max": None, "updates": 200, "of": 1000, "pilots": said, "settings": {"weight_decay": 0.2}}
    search["reason"] = "weight decay 0.2 learned more"
    shown = pilots_table(only(write_run(tmp_path / "b", resolved={"search": search})))
    assert shown.rows == []
    write_pilots(tmp_path / "b", *made)
    shown = pilots_table(only(tmp_path / "b"))
    assert [cell.text for cell in shown.rows[1]][-2:] == ["yes", "learned 10.0 % more"]
    assert shown.note == (
        "They took 20.0 % of the budget; the run has weight decay 0.2: weight decay 0.2 learned more."
    )


def test_a_run_in_words(tmp_path):
    assert of_run(only(write_run(tmp_path / "a", updates=40))) == (
        "a: test accuracy 90.00 % (359 samples), validation accuracy 80.00 % (144 samples); 40 updates in 4 s. "
        "Setting: mlp on digits, one_cycle, sgd, 4 epochs, peak learning rate 0.5."
    )
    failed = only(write_run(tmp_path / "b", updates=3, status="failed", error="the loss became NaN.", result=None))
    assert of_run(failed).startswith("b: It failed: the loss became NaN; 3 updates are recorded. Setting: ")
    running = only(write_run(tmp_path / "c", updates=1, status="running", result=None))
    assert of_run(running).startswith("c: It has no end yet; 1 update is recorded. Setting: ")


def test_a_run_that_goes_on_from_another_says_so_and_has_its_curves_before_its_own(tmp_path):
    first = write_run(tmp_path / "a", updates=40)
    extends = {"run": str(first), "updates": 40, "epochs": 4.0}
    more = write_run(tmp_path / "b", updates=8, extends=extends)
    last = write_run(tmp_path / "c", updates=4, extends={"run": str(more), "updates": 48, "epochs": 8.0})
    run = only(last)
    assert f"4 updates in 0.4 s. It goes on from {more}: 12 epochs and 52 updates in all. Setting: mlp" in of_run(run)
    assert [row["fit"] for row in run.whole.epochs] == [0] * 10 + [1] * 2 + [2]
    seconds = [row["seconds"] for row in run.whole.steps]
    assert len(seconds) == 52 and seconds == sorted(seconds) and len(run.steps) == 4
    plots = Plots()
    drawn = draw_runs(plots, [Group("c", (run,), {})])
    lines = [line.x for i in drawn["figures"] for line in plots.figures[i].series]
    assert max(map(max, lines)) == 51 and max(map(len, lines)) == 52
    validated = [line for line in lines if line[-1] == 51 and len(line) == 13]
    assert validated, "each epoch of each run was measured"
    shutil.rmtree(first)
    assert len(only(last).whole.steps) == 12, "what is gone is left out"


def test_of_many_runs_the_best_by_validation_have_a_sentence(tmp_path):
    folders = []
    for i in range(14):
        folders.append(
            write_run(tmp_path / f"r{i}", optimizer=f"o{i}", result={"valid": {"accuracy": (i * 5 % 14) / 14}})
        )
    records = read(folders)
    said = summary(records, groups(records.runs))
    assert said[0] == "All 14 are in the table; the 3 best by validation are:"
    assert [sentence.split(":")[0] for sentence in said[1:4]] == ["r11", "r8", "r5"]
    assert len(said) == 5


def test_the_command_that_reproduces_it():
    assert command({"command": ["/usr/bin/onecycle", "train", "a b"]}) == "onecycle train 'a b'"
    assert command({"command": ["/x/onecycle/__main__.py", "check"]}) == "python -m onecycle check"
    assert command({"command": ["train.py", "--x"]}) == "python train.py --x"
    assert command({}) == ""


def test_the_table_of_runs_has_what_differs(tmp_path):
    runs = read([write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2, optimizer="muon")]).runs
    found = runs_table(runs)
    assert found.columns[:4] == ["run", "optimizer", "seed", "lr max"]
    assert "model" not in found.columns and "error" not in found.columns
    assert found.rows[0][found.columns.index("test accuracy")].text == "90.00 %"
    assert table("x", []).rows == []


def test_what_runs_have_in_common_is_said_once(tmp_path):
    records = read([write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2), write_check(tmp_path / "c")])
    common, own = origins(records)
    assert ("model", "mlp") in common["Configuration"]
    assert [origin.name for origin in own] == ["mlp on digits", "a", "b"]
    assert own[1].facts == {"Configuration": [("seed", "1")], "Data": [("mean", "1.3")]}
    assert ("model", "mlp") in own[0].facts["Configuration"]
    assert own[1].command == "onecycle train digits --seed 1"


def test_titles_say_data_model_and_budget(tmp_path):
    run, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", model="vit", data="/far/away/photos.csv", seed=1)
    check = write_check(tmp_path / "c")
    comparison = write_comparison(tmp_path / "d", epochs=(1, 2))
    record = json.loads((comparison / "compare.json").read_text())
    record["config"] = {"data": "digits", "model": None, "policies": ["one_cycle", "step"], "epochs": [1, 2]}
    (comparison / "compare.json").write_text(json.dumps(record))

    def titled(*folders):
        return title(read(folders))

    assert titled(run) == "mlp on digits, 4 epochs"
    assert titled(other) == "vit on photos.csv, 4 epochs"
    assert titled(run, other) == "2 runs: 4 epochs"
    assert titled(check) == "Range test: mlp"
    assert titled(comparison) == "one_cycle and step: mlp on digits, 1 and 2 epochs"
    assert titled(comparison, run) == "1 comparison, 1 run: mlp on digits"
    assert titled(write_run(tmp_path / "e", config={"seed": 1})) == "e"
    assert "<h1>mlp on digits, 4 epochs</h1>" in html(read([run]), plotly="")


def test_settings_are_shown_with_what_they_came_to(tmp_path):
    config = {"data": "digits", "model": None, "budget": "4 epochs", "lr_max": "auto", "weight_decay": None,
              "optimizer": "muon", "clip": None, "augment": None, "seed": 3}  # fmt: skip
    resolved = {"lr_max": 0.04, "model": "small-cnn", "weight_decay": 0.1, "updates": 200, "momentum": [0.95, 0.85],
                "optimizer": "Muon"}  # fmt: skip
    facts = {"samples": [1294, 144, 359], "mean": [0.30503028684425854]}
    folder = write_run(tmp_path / "a", config=config, resolved=resolved, facts=facts, result=None)
    assert title(read([folder])) == "small-cnn on digits, 4 epochs"
    assert "peak learning rate 0.04" in of_run(only(folder))
    ((origin,), text) = origins(read([folder]))[1], html(read([folder]), plotly="")
    assert origin.facts["Configuration"] == [
        ("data", "digits"), ("model", "small-cnn"), ("budget", "4 epochs"), ("lr max", "0.04 (asked for: auto)"),
        ("optimizer", "muon"), ("seed", "3"), ("weight decay", "0.1"), ("updates", "200"), ("momentum", "0.95, 0.85"),
        ("not set", "clip, augment"),
    ]  # fmt: skip
    assert origin.facts["Data"] == [("samples", "train 1,294, validation 144, test 359"), ("mean", "0.30503")]
    assert "default" not in text.split("<main")[1].split("<script")[0]


def test_columns_of_a_table_are_named_and_the_baseline_stands_beside_the_measure_that_it_is_of(tmp_path):
    numbers = [{"name": "area", "median": 1.5, "edges": [0.1] * 99}, {"name": "rooms", "median": 2}]
    facts = {"kind": "table", "columns": {"target": "price", "numbers": numbers}}
    baseline = {"measure": "loss", "value": 0.8, "by": "the mean of the training targets"}
    result = {"valid": {"loss": 0.05, "mae": 3.0}, "baseline": baseline}
    folder = write_run(tmp_path / "a", facts=facts, result=result)
    ((origin,), text) = origins(read([folder]))[1], html(read([folder]), plotly="")
    assert origin.facts["Data"][1:] == [("columns target", "price"), ("columns numbers", "area, rooms")]
    assert "validation mae 3, validation loss 0.05, where the mean of the training targets gives loss 0.8" in text


def test_the_share_of_a_search_is_a_setting_and_what_it_found_is_none(tmp_path):
    search = {"lr_max": 0.5, "pilots": [{"lr_max": 0.5}]}
    python = only(write_run(tmp_path / "a", resolved={"lr_max": 0.5, "search": search}, config={"budget": "4 epochs"}))
    assert "search" not in python.settings
    job = only(write_run(tmp_path / "b", resolved={"search": search}, config={"budget": "4 epochs", "search": 0.1}))
    assert job.settings["search"] == 0.1
    assert "search.pilots" not in html(read([tmp_path / "a"]))


def test_without_resolved_settings_the_result_says_the_peak(tmp_path):
    folder = write_run(tmp_path / "a", config={"data": "digits", "lr_max": "auto", "clip": None})
    (origin,) = origins(read([folder]))[1]
    assert origin.facts["Configuration"] == [
        ("data", "digits"), ("lr max", "0.5 (asked for: auto)"), ("not set", "clip"),
    ]  # fmt: skip


def test_the_table_of_epochs(tmp_path):
    run = only(write_run(tmp_path / "a", updates=8, per_epoch=4, seconds=22.5, unsmoothed=0.05))
    found = epochs_table(run)
    assert found.columns == [
        "epoch", "train loss", "valid loss", "train accuracy", "valid accuracy", "learning rate", "time",
    ]  # fmt: skip
    assert [cell.text for cell in found.rows[0]] == ["1", "0.55", "0.66", "90.00 %", "80.00 %", "0.4286", "1 min 30 s"]
    assert found.words == "2 rows. The training loss is without label smoothing, as the validation loss is."
    plain = epochs_table(only(write_run(tmp_path / "b", updates=4, per_epoch=4)))
    assert (plain.rows[0][1].text, plain.words) == ("0.6", "1 row.")
    text = html(read([tmp_path / "a"]), plotly="")
    assert "<summary>Epochs of a</summary>" in text and ">1 min 30 s</td>" in text
    rows = [{"step": i, "epoch": i % 2, "fit": i // 2, "train_loss": 1.0} for i in range(4)]
    (tmp_path / "b" / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = epochs_table(only(tmp_path / "b"))
    assert [[cell.text for cell in row[:2]] for row in again.rows] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]


def test_of_many_epochs_the_last_are_in_the_table(tmp_path):
    found = epochs_table(only(write_run(tmp_path / "a", updates=LAST + 7, per_epoch=1)))
    assert [found.rows[0][0].text, found.rows[-1][0].text, len(found.rows)] == ["8", str(LAST + 7), LAST]
    assert found.words == f"{LAST} rows. The last of {LAST + 7}: 7 epochs before them are in epochs.jsonl."


def test_epochs_of_many_runs_are_on_their_own_pages(tmp_path):
    folders = [write_run(tmp_path / f"{i}", seed=i, updates=3 * EPOCHS // 4, per_epoch=1) for i in range(2)]
    assert "Epochs of" not in html(read(folders), plotly="")
    assert "Epochs of 0" in html(read(folders[:1]), plotly="")


# The page


def plotly_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*plotly-*"))


def script_of(path):
    return re.search(r'<script src="([^"]*)">', path.read_text(encoding="utf-8"))[1]


def test_pages_of_a_folder_of_runs_share_plotly(tmp_path):
    folders = [write_run(tmp_path / "runs" / name) for name in "ab"]
    pages = [page([folder], folder / "report.html") for folder in folders]
    (shared,) = plotly_files(tmp_path)
    assert re.fullmatch(r"runs/plotly-[0-9.]+\.min\.js", shared)
    assert all(path.stat().st_size < 150_000 for path in pages)
    assert {script_of(path) for path in pages} == {f"../{shared.removeprefix('runs/')}"}
    assert (tmp_path / shared).stat().st_size > 1e6
    text = page([folders[0]], folders[0] / "report.html", inline=True).read_text(encoding="utf-8")
    assert "<script src" not in text and len(text) > 1e6


def test_plotly_is_written_into_no_folder_but_one_of_records(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    page([write_run(tmp_path / "mine" / "a")], tmp_path / "mine" / "a" / "report.html")
    monkeypatch.chdir(write_run(tmp_path / "work" / "b").parent)
    path = page(["b"], "b/report.html")
    found = plotly_files(tmp_path)
    assert [name.rpartition("/")[0] for name in found] == ["mine/a", "work/b"]
    assert script_of(path) == found[1].removeprefix("work/b/")
    page(["b"], "page.html")
    page(["b"], tmp_path / "mine" / "page.html", inline=False)
    assert [name.rpartition("/")[0] for name in plotly_files(tmp_path)] == ["mine/a", "mine", "work/b"]


def test_each_run_of_a_comparison_gets_a_page(tmp_path):
    folder = write_comparison(tmp_path / "comparisons" / "c", epochs=(1, 2))
    record = json.loads((folder / "compare.json").read_text())
    outside = write_run(tmp_path / "outside")
    record["table"][0]["run"] = "../../outside"
    (folder / "compare.json").write_text(json.dumps(record))
    (folder / "runs/1/report.html").write_text("mine")
    written = page([folder], folder / "report.html").read_text(encoding="utf-8")
    assert not (outside / "report.html").exists()
    assert (folder / "runs/1/report.html").read_text() == "mine"  # it is not older than the run
    for i in range(2, 8):
        assert f'<a href="runs/{i}/report.html">{i}</a>' in written
        assert "<h1>mlp on digits, 4 epochs</h1>" in (folder / f"runs/{i}/report.html").read_text(encoding="utf-8")
    (shared,) = plotly_files(tmp_path)
    assert script_of(folder / "runs/7/report.html") == f"../../../{shared.removeprefix('comparisons/')}"
    elsewhere = write_comparison(tmp_path / "d")
    page([elsewhere], tmp_path / "page.html")
    assert not list(elsewhere.rglob("*.html"))


def test_runs_below_a_page_are_links(tmp_path):
    folders = [write_run(tmp_path / "runs" / name, seed=i) for i, name in enumerate("ab")]
    (folders[1] / "report.html").write_text("")
    hrefs = [row[0].href for row in runs_table(read(folders).runs, tmp_path).rows]
    assert hrefs == ["runs/a", "runs/b/report.html"]
    assert [row[0].href for row in runs_table(read(folders).runs, folders[0]).rows] == [None, None]


def test_everything_of_the_page_is_in_one_file(tmp_path):
    out = page([write_run(tmp_path / "a"), write_check(tmp_path / "c")], tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    own = text.replace(page_module._libraries()[1].get_plotlyjs(), "")
    assert len(own) < 150_000
    assert not re.findall(r'(?:src|href)="(?!#|data:)', own)
    assert not re.search("https?://", own)
    assert "<strong>Keeps its accuracy at large learning rates</strong>" in own
    assert "onecycle train digits --seed 0" in own


def test_a_hundred_runs_stay_below_a_megabyte(tmp_path):
    folders = [write_run(tmp_path / f"r{i}", seed=i, optimizer=f"o{i}", updates=300) for i in range(100)]
    text = html(read(folders), plotly="")
    assert len(text.encode()) < 900_000
    assert len(data_of(text)["keys"]) == 100


def test_a_hundred_runs_of_a_comparison_stay_below_a_megabyte(tmp_path):
    seeds = tuple(range(5))
    folder = write_comparison(tmp_path / "c", epochs=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), seeds=seeds, updates=300)
    text = html(read([folder]), plotly="")
    assert len(read([folder]).comparisons[0].runs) == 100
    assert len(text.encode()) < 900_000


def test_hostile_words_show_as_they_are(tmp_path):
    folder = write_run(
        tmp_path / HOSTILE, data=HOSTILE, model=HOSTILE, preset=HOSTILE, notes=[HOSTILE], command=["onecycle", HOSTILE],
        status="failed", error=HOSTILE,
    )  # fmt: skip
    other = write_run(tmp_path / "b")
    check = write_check(tmp_path / "c", title=HOSTILE, verdict={"answer": HOSTILE, "reasons": [HOSTILE]})
    comparison = write_comparison(tmp_path / "d", policies=("one_cycle", HOSTILE), summary=[HOSTILE])
    text = html(read([folder, other, check, comparison]), plotly="")
    assert text.count("<script") == 3
    assert text.count("</script") == 3
    assert not re.search(r"<(img|b|i)\b", text)
    assert unescape(text).count(HOSTILE) >= 12
    assert any(key["label"].startswith(HOSTILE) for key in data_of(text)["keys"])
    said = markdown([folder, check, comparison])
    assert "<script" not in re.sub("(?m)^    .*", "", said)  # code stays as it is
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[-3:]}) == 1


def test_data_cannot_end_their_element():
    text = embedded({"</script>": "<!-- ]]>"})
    assert "<" not in text
    assert json.loads(text) == {"</script>": "<!-- ]]>"}


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_what_the_page_needs(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    page_module._libraries.cache_clear()
    with pytest.raises(MissingDependency, match=r"pip install onecycle\[report\]"):
        page([write_run(tmp_path / "a")], tmp_path / "page.html")


def test_a_page_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write the page .*none/page.html': No such file"):
        page([write_run(tmp_path / "a")], tmp_path / "none" / "page.html")


def test_the_summary_in_markdown(tmp_path):
    text = markdown([write_run(tmp_path / "a", seed=1), write_run(tmp_path / "b", seed=2, optimizer="muon")])
    assert text.startswith("# 2 runs: mlp on digits, 4 epochs\n\n- a: test accuracy 90.00 %")
    assert "| run | place | valid accuracy |" in text
    assert "    onecycle train digits --seed 2\n" in text

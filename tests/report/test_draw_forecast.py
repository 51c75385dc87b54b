"""The figure of a forecast, from records: what is in it, where it is, and what is left out."""

from __future__ import annotations

import json

import pytest
from page_makers import write_run

from onecycle.records.read import read
from onecycle.report.draw_forecast import LOOKS, draw_forecasts, forecast_drawing, forecast_figure
from onecycle.report.page import html
from onecycle.report.spec import Plots

PILOTS = (
    {"lr_max": 0.1, "updates": 5, "loss": 1.0, "valid": {"loss": 1.0, "accuracy": 0.6}, "lost": None},
    {"lr_max": 0.3, "updates": 5, "loss": 9e9, "valid": {"loss": 9e9, "accuracy": 0.1}, "lost": None},
    {"lr_max": 0.9, "updates": 5, "loss": None, "valid": {}, "lost": "the loss was lost after 2 updates"},
    {"setting": {"dropout": 0.2}, "lr_max": 0.1, "updates": 9, "loss": 1.0, "valid": {"accuracy": 0.7}, "lost": None},
)


def forecast(measure="accuracy", value=0.8, low=0.7, high=0.95):
    ahead = [{"factor": f, "updates": 44 * f, "value": value, "low": low, "high": high} for f in (1, 2, 4, 8)]
    return {"measure": measure, "n": 2, "line": "forecast: so much", "expected": ahead}


def folder_of(place, *, epochs=None, pilots=PILOTS, **record):
    folder = write_run(place, updates=40, per_epoch=10, **{"forecast": forecast(), **record})
    (folder / "pilots.jsonl").write_text("".join(json.dumps(pilot) + "\n" for pilot in pilots))
    if epochs is not None:
        lines = (folder / "epochs.jsonl").read_text().splitlines(keepends=True)
        (folder / "epochs.jsonl").write_text("".join(lines[-epochs:]))
    return folder


def drawn(*folders):
    plots = Plots()
    foreseen = draw_forecasts(plots, read(folders).runs)
    return plots, [plots.figures[i] for i in foreseen.get("figures", {}).values()]


def lines(plots, figure):
    return {plots.keys[line.key].label.split(",")[0]: line for line in figure.series}


def test_run_pilots_and_forecast_follow_each_other(tmp_path):
    plots, (figure,) = drawn(folder_of(tmp_path / "a"))
    run, pilots, ahead = (lines(plots, figure)[name] for name in ("this run", "pilots", "forecast"))
    assert (run.x, run.y) == ([10, 20, 30, 40], [0.8] * 4), "after so many updates, the first being update 0"
    assert (pilots.x, pilots.y) == ([5, 5], [0.6, 0.1]), "neither a lost one nor one of another setting"
    assert pilots.text == ["60.00 %, peak 0.1", "10.00 %, peak 0.3"] and pilots.mode == "markers"
    assert (ahead.x, ahead.y) == ([44, 88, 176, 352], [0.8] * 4)
    assert (ahead.low, ahead.high) == ([0.7] * 4, [0.95] * 4)
    assert figure.ahead == ((44, "1x"), (88, "2x"), (176, "4x"), (352, "8x"))
    assert (figure.title, figure.x, figure.kind) == ("Forecast: validation accuracy against updates", "updates", "log")
    assert figure.percent and figure.level is None and not figure.log
    assert figure.frame[0] < 0.1 and figure.frame[1] > 0.95, "of an accuracy everything is in the frame"


def test_a_run_of_one_epoch_is_a_point(tmp_path):
    plots, (figure,) = drawn(folder_of(tmp_path / "a", epochs=1))
    run = lines(plots, figure)["this run"]
    assert (run.x, run.mode) == ([40], "lines+markers")


def test_a_target_is_a_level_in_the_frame_and_said(tmp_path):
    needed = {"target": 0.995, "line": "accuracy 99.50 %: cannot say: nothing is known beyond"}
    _, (figure,) = drawn(folder := folder_of(tmp_path / "a", needed=needed))
    assert figure.level == 0.995 < figure.frame[1] and "Dotted: the target, 99.50 %." in figure.caption
    assert "Accuracy 99.50 %: cannot say: nothing is known beyond." in html(read([folder]), plotly="")


def test_a_target_that_no_accuracy_can_have_is_said_and_not_drawn(tmp_path):
    _, (figure,) = drawn(folder_of(tmp_path / "a", needed={"target": 93.0, "line": "accuracy 9300 %: cannot say"}))
    assert figure.level is None and figure.frame[1] < 2 and "Dotted" not in figure.caption


def test_what_diverged_does_not_hide_the_rest_of_a_loss(tmp_path):
    plots, (figure,) = drawn(folder_of(tmp_path / "a", forecast=forecast("loss", 0.4, 0.3, 0.6)))
    assert lines(plots, figure)["pilots"].y == [1.0] and "Beyond the frame: 1 pilot." in figure.caption
    assert not figure.percent and not figure.log and 1 < figure.frame[1] < 3
    _, (figure,) = drawn(folder_of(tmp_path / "b", forecast=forecast("loss", 0.02, 0.01, 0.03)))
    assert figure.log and 0 < figure.frame[0] < 0.01, "a hundredfold is on a logarithmic axis"


def test_no_figure_where_it_cannot_say(tmp_path):
    none = {"measure": "accuracy", "expected": [], "reason": "no pilot", "line": "forecast: cannot say: no pilot"}
    folder = folder_of(tmp_path / "a", forecast=none)
    assert drawn(folder)[1] == [] and forecast_drawing(read([folder]).runs[0]) is None
    page = html(read([folder]), plotly="")
    assert "Forecast: cannot say: no pilot." in page and LOOKS[2].label not in page.split("Forecast: cannot")[1]


def test_a_page_has_it_above_its_table_and_names_the_run_where_there_are_several(tmp_path):
    folders = [folder_of(tmp_path / "a"), folder_of(tmp_path / "b", pilots=()), write_run(tmp_path / "c")]
    _, figures = drawn(*folders)
    assert [figure.title[:14] for figure in figures] == ["Forecast of a:", "Forecast of b:"]
    page = html(read(folders), plotly="")
    places = [page.index(f"<h3>Forecast of {name}: validation accuracy") for name in "ab"]
    tables = [page.index(f'aria-label="Forecast of {name}"') for name in "ab"]
    assert places[0] < tables[0] < places[1] < tables[1]
    assert page.count("<span>pilots, held-out</span>") == 1, "one legend for all"


def test_records_with_gaps(tmp_path):
    ahead = [*forecast()["expected"], {"factor": 16, "updates": None, "value": 0.9}, {"factor": 1}, "damaged"]
    ahead[1] = {"factor": 2, "updates": 88, "value": 0.0}
    plots, (figure,) = drawn(folder_of(tmp_path / "a", forecast={**forecast(), "expected": ahead}))
    line = lines(plots, figure)["forecast"]
    assert (line.x, line.y[1], line.low[1]) == ([44, 88, 176, 352], 0.0, None)


def test_for_print():
    pytest.importorskip("matplotlib")
    measured = [(9, {"accuracy": 0.5, "loss": 1.0}), (19, {"accuracy": 0.8, "loss": 0.5}), (29, {"loss": 0.4})]
    figure = forecast_figure(forecast(), PILOTS, measured, target=0.9)
    (panel,) = figure.axes
    figure.canvas.draw()
    assert panel.get_xscale() == "log" and panel.child_axes[0].get_xticks().tolist() == [44, 88, 176, 352]
    assert [label.get_text() for label in panel.child_axes[0].get_xticklabels()] == ["1x", "2x", "4x", "8x"]
    by_label = {line.get_label(): line for line in panel.get_lines()}
    assert by_label[LOOKS[0].label].get_xydata().tolist() == [[10, 0.5], [20, 0.8]]
    assert by_label[LOOKS[2].label].get_xdata().tolist() == [44, 88, 176, 352]
    (level,) = [line for line in panel.get_lines() if line.get_linestyle() == ":" and set(line.get_ydata()) == {0.9}]
    assert panel.get_ylim()[0] < level.get_ydata()[0] < panel.get_ylim()[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*(k.label for k in LOOKS), "90 % interval"]

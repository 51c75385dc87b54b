"""The figures of a comparison for print: the same lines as on the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from page_makers import HOSTILE, write_check, write_comparison

from onecycle.records.read import read
from onecycle.report.draw_comparison import comparison_drawings, comparison_figure, draw_comparison
from onecycle.report.draw_range_test import draw_test
from onecycle.report.matplotlib import draw_one
from onecycle.report.spec import Plots

pytest.importorskip("matplotlib")


def comparison_of(folder):
    return read([folder]).comparisons[0]


def test_every_figure_of_a_comparison_is_drawn_once(tmp_path):
    folder = write_comparison(
        tmp_path / "c", policies=("one_cycle", HOSTILE, "$x_$"), epochs=(1, 2), fractions=(0.5, 1.0)
    )
    drawings = comparison_drawings(comparison_of(folder))
    assert list(drawings) == [
        "seconds", "limited-data", "speed-up-at-equal-accuracy", "validation-accuracy", "validation-loss",
        "training-accuracy", "training-loss", "learning-rate", "momentum",
    ]  # fmt: skip
    for drawn in drawings.values():
        assert drawn._repr_png_().startswith(b"\x89PNG")


def test_lines_bands_and_runs_are_those_of_the_page(tmp_path):
    plots = Plots()
    draw_comparison(plots, comparison_of(write_comparison(tmp_path / "c", epochs=(1, 2), seeds=(0, 1, 2))))
    figure = plots.figures[0]
    panel = draw_one(plots, figure).axes[0]
    lines = panel.get_lines()
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in lines] == [(s.x, s.y) for s in figure.series]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines[::2]}) == 2
    assert len(panel.collections) - 1 == sum(bool(s.low) for s in figure.series) == 2  # and one for the legend
    assert "n = 3" in panel.get_title(loc="left")
    assert [text.get_text() for text in panel.figure.legends[0].get_texts()] == [
        "one_cycle", "step", "95 % interval of the mean",
    ]  # fmt: skip


def test_the_figure_of_a_setting_has_the_lines_of_the_page(tmp_path):
    comparison, plots = comparison_of(write_comparison(tmp_path / "c", epochs=(1, 2), runs=False)), Plots()
    page = plots.figures[draw_comparison(plots, comparison)["figures"][0]]
    (panel,) = comparison_figure(comparison.record).axes
    drawn = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in panel.get_lines()]
    assert drawn == [(plots.keys[line.key].label, line.x, line.y) for line in page.series]
    assert [line.y[1] for line in page.series[::2]] == pytest.approx([0.8505, 0.8305])


def test_a_bound_is_hollow_and_an_open_end_an_arrow(tmp_path):
    plots = Plots()
    draw_comparison(plots, comparison_of(write_comparison(tmp_path / "c")))
    panel = draw_one(plots, plots.figures[-1]).axes[0]
    points = [line for line in panel.get_lines() if line.get_marker() == "s" and line.get_markersize() > 0]
    assert [line.get_markerfacecolor() for line in points] == [points[0].get_color(), "white"]
    assert [(text.xy, text.xyann) for text in panel.texts] == [((85.0, 2.0), (0, 32))]


def test_the_intervals_of_few_seeds_do_not_decide_the_frame(tmp_path):
    folder = write_comparison(tmp_path / "c", epochs=(1, 2), runs=False)
    record = json.loads((folder / "compare.json").read_text())
    for row in record["table"]:
        row["test_accuracy"] += 0.05 * row["seed"]
    (folder / "compare.json").write_text(json.dumps(record))
    plots = Plots()
    draw_comparison(plots, comparison_of(folder))
    (figure, *_), values = plots.figures, [row["test_accuracy"] for row in record["table"]]
    assert max(high for line in figure.series for high in line.high or []) == 1  # no accuracy is above it
    low, high = draw_one(plots, figure).axes[0].get_ylim()
    assert low < min(values) and max(values) < high < max(values) + np.ptp(values)


def test_names_and_a_wide_axis(tmp_path):
    folder = write_comparison(tmp_path / "c", runs=False)
    record = json.loads((folder / "compare.json").read_text())
    record["table"] = [
        {"policy": "one_cycle", "epochs": 4, "seed": s, "optimizer": o, "batch_size": b, "test_accuracy": 0.5 + s / 9}
        for o in ("sgd", "$a$") for b in (16, 1024) for s in (0, 1)
    ]  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(record))
    drawings = comparison_drawings(comparison_of(folder))
    optimizer, size = (drawings[name].axes[0] for name in ("optimizer", "batch-size"))
    assert [label.get_text() for label in optimizer.get_xticklabels()] == ["sgd", r"\$a\$"]
    assert size.get_xscale() == "log" and list(size.get_xticks()) == [16, 1024]


def test_a_range_test_with_its_range_and_its_edge(tmp_path):
    plots = Plots()
    (test,) = read([write_check(tmp_path / "c")]).tests
    loss, accuracy, *_ = (draw_one(plots, plots.figures[i]).axes[0] for i in draw_test(plots, test)["figures"])
    for panel in (loss, accuracy):
        assert panel.get_xscale() == "log"
        assert [line.get_xdata()[0] for line in panel.get_lines() if line.get_linestyle() == ":"] == [1.0]
        assert any(round(patch.get_x(), 6) == 0.01 for patch in panel.patches)

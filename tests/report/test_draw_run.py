from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from onecycle.errors import ConfigError, MissingDependency
from onecycle.experiments.statistics import mean_interval
from onecycle.records.read import RecordedRun
from onecycle.records.statistics import mean_band
from onecycle.report.content import Group
from onecycle.report.draw_policy import policy_figure
from onecycle.report.draw_run import MINIMISED, draw_runs, history_figure
from onecycle.report.matplotlib import save
from onecycle.report.spec import MOST, Plots, kept, moving_mean, updates
from onecycle.schedules.policy import position
from onecycle.schedules.presets import PRESETS, one_cycle

is_math_text = pytest.importorskip("matplotlib.cbook").is_math_text


def policy_rows(policy, updates=50):
    return [policy(position(k, updates)) for k in range(updates)]


def recorded(updates=40, per_epoch=10, valid=True, metrics=True):
    values = {"lr": 0.1, "momentum": 0.9}
    metric = {"accuracy": 0.5} if metrics else {}
    steps = [
        {"step": k, "epoch": k // per_epoch, **values, "loss": 2 / (k + 1) ** 2, **metric, "seconds": k / 10}
        for k in range(updates)
    ]
    epochs = []
    for e, end in enumerate(range(per_epoch, updates + 1, per_epoch)):
        row = {"epoch": e, "step": end - 1, **values, "train_loss": 2 / end}
        row |= {f"train_{k}": v for k, v in metric.items()}
        row |= {"valid_loss": 3 / end} | {f"valid_{k}": v for k, v in metric.items()} if valid else {}
        epochs.append(row | {"samples": 80, "seconds": 1.0})
    return steps, epochs


def names(figure):
    return [panel.get_title(loc="left") for panel in figure.axes]


def line(panel, label):
    (found,) = [line for line in panel.get_lines() if str(line.get_label()).startswith(label)]
    return found.get_xdata(), found.get_ydata()


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_is_drawn_as_it_is(preset):
    rows = policy_rows(PRESETS[preset](0.3, 50))
    figure = policy_figure(rows, updates_per_epoch=10, title=preset)
    assert names(figure) == ["Learning rate", "Momentum"][: len(rows[0])]
    for panel, name in zip(figure.axes, rows[0], strict=True):
        x, y = panel.get_lines()[0].get_data()
        assert list(x) == list(range(50))
        assert list(y) == [row[name] for row in rows]
    figure.draw_without_rendering()


def test_any_other_scheduled_value_has_a_panel_and_a_constant_its_value_as_tick():
    figure = policy_figure(policy_rows(one_cycle(0.1).with_(weight_decay=5e-4)))
    assert names(figure) == ["Learning rate", "Weight decay"]
    assert list(figure.axes[1].get_yticks()) == [5e-4]


def test_the_epoch_axis_counts_epochs_done():
    figure = policy_figure(policy_rows(one_cycle(0.1)), updates_per_epoch=10)
    figure.draw_without_rendering()
    (axis,) = figure.axes[0].child_axes
    assert axis._functions[0](np.array([-1, 9, 49])).tolist() == [0, 1, 5]
    assert axis._functions[1](np.array([0, 1, 5])).tolist() == [-1, 9, 49]
    assert not policy_figure(policy_rows(one_cycle(0.1))).axes[0].child_axes


def test_a_run_is_drawn_with_its_epochs():
    figure = history_figure(*recorded(), title="a run")
    assert names(figure) == ["Accuracy", "Loss", "Learning rate", "Momentum"]
    loss = figure.axes[1]
    assert line(loss, "training, each update")[1][1] == 0.5
    x, y = line(loss, "training, mean of the epoch")
    assert list(x) == [4.5, 14.5, 24.5, 34.5] and y[0] == 0.2
    x, y = line(loss, "validation")
    assert list(x) == [9, 19, 29, 39] and y[0] == 0.3
    assert loss.get_yscale() == "log"  # it falls by more than LOG_FROM
    figure.draw_without_rendering()
    assert figure.axes[0].child_axes[0]._functions[0](39) == 4


def test_the_lines_are_those_of_the_page():
    steps, epochs = recorded(400, 50)
    figure, plots = history_figure(steps, epochs), Plots()
    drawn = draw_runs(plots, [Group("a run", (RecordedRun("a run", Path(), {}, steps, epochs),), {})])
    panels = [plots.figures[i] for i in (*drawn["figures"], *drawn["schedules"])]
    assert names(figure) == [panel.title for panel in panels]
    for axes, panel in zip(figure.axes, panels, strict=True):
        shown = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
        assert shown == {plots.keys[line.key].label: (line.x, line.y) for line in panel.series}
    assert len(panels[0].series) == 4


def test_with_label_smoothing_the_training_loss_is_on_the_scale_of_the_validation_loss():
    steps, epochs = recorded()
    steps = [row | {"loss_unsmoothed": row["loss"], "loss": row["loss"] + 0.4} for row in steps]
    epochs = [
        row | {"train_loss_unsmoothed": row["train_loss"], "train_loss": row["train_loss"] + 0.4} for row in epochs
    ]
    plain, (_, loss, *_) = history_figure(*recorded()), history_figure(steps, epochs).axes
    for label in ("training, each update", "training, mean of 5", "training, mean of the epoch", "validation"):
        for mine, theirs in zip(line(loss, label), line(plain.axes[1], label), strict=True):
            assert list(mine) == list(theirs)
    assert list(line(loss, MINIMISED)[1]) == pytest.approx([y + 0.4 for y in line(loss, "training, mean of 5")[1]])
    assert names(history_figure(steps, epochs)) == names(plain)


@pytest.mark.parametrize(
    ("updates", "metrics", "valid"), [(1, True, True), (2, False, True), (40, True, False), (40, False, False)]
)
def test_what_is_missing_is_left_out(updates, metrics, valid):
    steps, epochs = recorded(updates, min(updates, 10), valid, metrics)
    shown = ["Accuracy", "Loss", "Learning rate", "Momentum"]
    if not metrics:
        shown.remove("Accuracy")
    for a, b in ((steps, epochs), (steps, []), ([], epochs)):
        figure = history_figure(a, b)
        assert names(figure) == shown
        labels = {str(line.get_label()).split(" of ")[0] for line in figure.axes[0].get_lines()}
        assert ("validation" in labels) == (valid and bool(b))
        assert ("training, each update" in labels) == bool(a)
        figure.draw_without_rendering()


def test_unknown_values_leave_gaps():
    steps, epochs = recorded()
    steps[5]["loss"] = float("nan")
    epochs[0]["valid_loss"] = None
    figure = history_figure(steps, epochs)
    for drawn in figure.axes[1].get_lines():
        assert np.isfinite(drawn.get_ydata()).all()
    assert len(line(figure.axes[1], "validation")[0]) == 3


def test_100_000_updates_are_few_points_with_the_peaks():
    steps, epochs = recorded(100_000, 1000)
    steps[77_777]["loss"] = 50.0
    figure = history_figure(steps, epochs)
    x, y = line(figure.axes[1], "training, each update")
    assert len(x) <= MOST
    assert y[list(x).index(77_777)] == 50.0
    assert (x[0], x[-1]) == (0, 99_999)


def test_few_points_are_kept_as_they_are():
    y = np.random.default_rng(0).normal(size=MOST)
    assert kept(y, MOST).tolist() == list(range(MOST))


def test_a_band_is_the_interval_of_the_statistics():
    values = np.random.default_rng(0).normal(size=(6, 7))
    values[2, 1], values[1:, 3], values[:, 4], values[:, 5] = np.nan, np.nan, np.nan, 0.25
    mean, low, high = mean_band(values)
    for i, column in enumerate(values.T):
        known = column[np.isfinite(column)]
        if not len(known):
            assert np.isnan([mean[i], low[i], high[i]]).all()
            continue
        slow = mean_interval(known)
        assert mean[i] == pytest.approx(slow.mean)
        assert (slow.low is None) == np.isnan(low[i]) == np.isnan(high[i])
        if slow.low is not None:
            assert (low[i], high[i]) == pytest.approx((slow.low, slow.high))
    alone, *ends = mean_band(values[:1])
    assert alone.tolist() == pytest.approx(values[0].tolist(), nan_ok=True) and np.isnan(ends).all()


@pytest.mark.parametrize("name", ["a run at $x_$ and $", "$\\frac{$", "50 %", "\\$ or $"])
def test_names_are_no_mathematics(name):
    both = {name: 0.5, "loss": 1.0, "acc" + name: 0.5}
    figure = history_figure([{"step": k, "epoch": 0, **both, "seconds": k} for k in (0, 1)], [], title=name)
    assert figure._repr_png_()
    titles = [*names(figure), figure.get_suptitle()]
    assert len(titles) == 4 and not any(map(is_math_text, titles))
    assert titles[-1].replace(r"\$", "$") == name


@pytest.mark.parametrize("n", [0, 1, 9, 20, 300, 1000])
def test_the_moving_mean_is_a_plain_mean(n):
    y = np.random.default_rng(n).normal(size=n)
    y[3:5] = np.nan
    means, width = moving_mean(y)
    half = width // 2
    slow = [np.nanmean(y[max(0, i - half) : i + half + 1]) if half or i not in (3, 4) else np.nan for i in range(n)]
    np.testing.assert_allclose(means, slow, atol=1e-12)
    assert width <= 5 or width == 2 * (n // 100) + 1


def test_runs_in_a_row_are_drawn_in_a_row():
    rows = [{"step": k} for k in (0, 1, 2, 0, 1, 0)]
    assert updates(rows).tolist() == [0, 1, 2, 3, 4, 5]
    assert updates([{"step": 9}, {"step": 19}, {"step": 9}, {"step": 19}]).tolist() == [9, 19, 29, 39]
    assert updates([]).tolist() == []


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_rows_give_the_same_file(tmp_path, suffix, magic):
    contents = [save(history_figure(*recorded()), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2)]
    assert contents[0].startswith(magic)
    assert contents[0] == contents[1]


def test_an_unusable_path_is_named(tmp_path):
    figure = policy_figure([{"lr": 0.1}])
    with pytest.raises(ConfigError, match=r"policy\.jpeg.*\.png, \.svg or \.pdf"):
        save(figure, tmp_path / "policy.jpeg")
    with pytest.raises(ConfigError, match=r"absent.policy\.png.*No such file.*folder that exists"):
        save(figure, tmp_path / "absent" / "policy.png")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ConfigError, match="no rows"):
        policy_figure([])
    with pytest.raises(ConfigError, match="nothing is recorded"):
        history_figure([], [])
    with pytest.raises(ConfigError, match="updates_per_epoch is at least 1; received 0"):
        policy_figure([{"lr": 0.1}], updates_per_epoch=0)


def test_a_notebook_shows_a_figure_and_a_pickle_holds_it():
    figure = policy_figure([{"lr": 0.1}, {"lr": 0.2}])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert names(pickle.loads(pickle.dumps(figure))) == ["Learning rate"]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"pip install onecycle\[plot\]"):
        policy_figure([{"lr": 0.1}])


def test_pyplot_is_left_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert policy_figure([{"lr": 0.1}])._repr_png_()
    assert "matplotlib.pyplot" not in sys.modules


def test_what_was_validated_between_the_ends_of_epochs_is_drawn_too():
    steps = [{"step": k, "epoch": k // 4, "lr": 0.1, "loss": 1.0, "seconds": k} for k in range(8)]
    steps[2] |= {"valid_loss": 0.9}
    row = {"lr": 0.1, "train_loss": 1.0, "samples": 4, "seconds": 4}
    epochs = [{"epoch": 0, "step": 3, **row}, {"epoch": 1, "step": 7, **row, "valid_loss": 0.7}]
    figure = history_figure(steps, epochs)
    x, y = line(figure.axes[0], "validation")
    assert (list(x), list(y)) == ([2, 7], [0.9, 0.7]) and names(figure) == ["Loss", "Learning rate"]


def test_a_rescue_is_marked_in_every_panel():
    steps, epochs = recorded()
    steps[20] |= {"rescue_back_to": 10, "rescue_loss": 2.3, "rescue_factor": 0.5}
    figure = history_figure(steps, epochs)
    assert names(figure) == names(history_figure(*recorded())), "it is no measure"
    for panel in figure.axes:
        assert [list(one.get_xdata()) for one in panel.get_lines() if one.get_label() == "rescued"] == [[20, 20]]
    assert "rescued" in [text.get_text() for text in figure.legends[0].get_texts()]
    plots = Plots()
    draw_runs(plots, [Group("", (RecordedRun("", Path(), {}, steps, epochs),), {})])
    assert all(one.marks == (20.0,) and one.names == ("rescued",) for one in plots.figures)
    several = Plots()
    draw_runs(several, [Group("", (RecordedRun("", Path(), {}, steps, epochs),) * 2, {})])
    assert not any(one.marks for one in several.figures)


def test_a_measure_is_titled_as_it_is_written():
    steps, epochs = recorded(metrics=False)
    plots, epochs = Plots(), [{**row, "valid_mae": 2.0, "valid_r2": 0.5} for row in epochs]
    draw_runs(plots, [Group("", (RecordedRun("", Path(), {}, steps, epochs),), {})])
    assert [figure.title for figure in plots.figures][:3] == ["Loss", "MAE", "R²"]

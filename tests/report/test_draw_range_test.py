from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from onecycle.errors import ConfigError, DataError, MissingDependency
from onecycle.records.curve import Curve, Sweep, smooth
from onecycle.records.read import RecordedTest
from onecycle.report.draw_range_test import Axis, draw_test, is_linear, loss_axis, range_figure
from onecycle.report.spec import Plots
from onecycle.report.terminal import _column, _tick_labels, _ticks, _traced, range_text
from onecycle.text import number


def sweep(low=1e-3, high=2.0, updates=48, every=3, seed=0, linear=False):
    """A loss that falls, then explodes above 0.5; and an accuracy that rises, then breaks down."""
    lr = np.linspace(low, high, updates) if linear else np.geomspace(low, high, updates)
    noise = np.random.default_rng(seed).normal(0, 0.02, updates)
    loss = 2.3 - 1.2 / (1 + (0.02 / lr) ** 2) + noise + np.where(lr > 0.5, (lr / 0.5) ** 4, 0)
    held = slice(every - 1, None, every)
    accuracy = np.clip(0.1 + 0.6 / (1 + (0.02 / lr) ** 2) - np.where(lr > 0.5, 0.4, 0), 0, 1)
    return {
        "lr": lr.tolist(),
        "loss": loss.tolist(),
        "valid_lr": lr[held].tolist(),
        "valid_loss": (loss - 0.1)[held].tolist(),
        "valid_accuracy": accuracy[held].tolist(),
        "stopped": "diverged",
    }


def until(whole, updates):
    """The sweep as far as so many updates."""
    return {n: v[: updates // 3 if n.startswith("valid") else updates] for n, v in whole.items() if n != "stopped"}


def range_test(*sweeps, without=(), **others):
    sweeps = sweeps or (sweep(), until(sweep(seed=1), 36))
    sweeps = [{name: [] if name in without else values for name, values in each.items()} for each in sweeps]
    verdict = {"answer": "possible", "score": 0.8, "reasons": ["accuracy holds up to 0.4", "and more"], "advice": []}
    test = {"lr_min": 0.03, "lr_max": 0.3, "edge": 0.9, "reason": None, "verdict": verdict, "title": "digits, mlp, sgd"}
    return test | {"curve": {"sweeps": sweeps}, "sharpness": None} | others


LOSS, ACCURACY = "Loss against the learning rate", "Held-out accuracy against the learning rate"
SHARPNESS = {"lr": [0.01, 0.1, 0.4], "largest_eigenvalue": [10.0, None, 5.0], "hessian_free": [0.2, 0.3, 0.2]}
HELD_OUT = ("valid_lr", "valid_loss", "valid_accuracy")


class TestFigure:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    @staticmethod
    def panels(test):
        figure = range_figure(test)
        figure.draw_without_rendering()
        return {panel.get_title(loc="left"): panel for panel in figure.axes}

    @staticmethod
    def legend(test):
        return [text.get_text() for text in range_figure(test).legends[0].get_texts()]

    @staticmethod
    def title(test):
        return range_figure(test).get_suptitle()

    @staticmethod
    def line(panel, label):
        (found,) = [line for line in panel.get_lines() if line.get_label() == label]
        return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())

    def test_a_test_with_everything(self):
        test = range_test()
        panels = self.panels(test)
        assert list(panels) == [LOSS, ACCURACY]
        assert all(panel.get_xscale() == "log" for panel in panels.values())
        assert set(self.legend(test)) == {
            "training, each update",
            "training, smoothed",
            "held-out",
            "lowest to highest of 2 repeats",
            "suggested: 0.03 to 0.3",
            "edge of divergence: 0.9",
        }

    def test_lines_are_the_averages_and_points_what_was_measured(self):
        test = range_test()
        loss, accuracy = self.panels(test).values()
        long, short = test["curve"]["sweeps"]
        x, y = self.line(accuracy, "held-out")
        assert x.tolist() == short["valid_lr"]  # as far as both got
        assert y.tolist() == pytest.approx(
            [(a + b) / 2 for a, b in zip(long["valid_accuracy"], short["valid_accuracy"], strict=False)]
        )
        drawn = [line for line in loss.get_lines() if line.get_label() == "training, each update"]
        for line, each in zip(drawn, (long, short), strict=True):
            assert list(line.get_xdata()) == each["lr"]
            assert list(line.get_ydata()) == each["loss"]

    def test_lines_are_those_of_the_page(self):
        test, plots = range_test(sharpness=SHARPNESS), Plots()
        record = RecordedTest("a test", Path(), {"result": test}, Curve.from_dict(test["curve"]))
        specs = [plots.figures[i] for i in draw_test(plots, record)["figures"]]
        marks = [1, 1, 0, 0]  # the edge
        panels = self.panels(test)
        assert list(panels) == [spec.title for spec in specs]
        for panel, spec, n in zip(panels.values(), specs, marks, strict=True):
            drawn = [
                (line.get_label(), list(line.get_xdata()), list(line.get_ydata()))
                for line in panel.get_lines()[: len(panel.get_lines()) - n]
            ]
            wanted = [(plots.keys[line.key].label, line.x, [np.nan if y is None else y for y in line.y])
                      for line in spec.series]  # fmt: skip
            np.testing.assert_equal(drawn, wanted)

    def test_the_training_loss_is_smoothed_over_the_logarithm_of_the_learning_rate(self):
        each = sweep(high=0.4)
        x, y = self.line(self.panels(range_test(each))[LOSS], "training, smoothed")
        assert x.tolist() == each["lr"]
        assert y.tolist() == smooth(each["lr"], each["loss"])

    def test_the_marks_are_where_they_belong(self):
        for panel in self.panels(range_test()).values():
            (shade,) = [patch for patch in panel.patches if patch.get_label() == "suggested: 0.03 to 0.3"]
            box = shade.get_path().get_extents(shade.get_patch_transform())
            assert (box.x0, box.x1) == pytest.approx((0.03, 0.3))
            assert set(self.line(panel, "edge of divergence: 0.9")[0]) == {0.9}

    @pytest.mark.parametrize("worst", [10.0, 1e3, 1e9])
    def test_a_divergence_does_not_squash_the_curve(self, worst):
        exploded = sweep()
        exploded["loss"][-2:] = [worst, worst]
        exploded["valid_loss"][-1] = worst
        loss = self.panels(range_test(exploded, sweep()))[LOSS]
        low, high = loss.get_ylim()
        assert low < 1.1 and 2.3 < high < 3.2
        # Nor does it carry away the means that it is part of.
        for label in ("training, smoothed", "held-out"):
            assert self.line(loss, label)[1].max() < 5.5
        before, until = (np.array(self.line(loss, "training, smoothed")[i])[:40] for i in (0, 1))
        assert until[before < 0.2].max() < 2.4

    def test_losses_over_decades_have_a_logarithmic_axis_and_losses_below_zero_a_linear_one(self):
        lr = np.geomspace(1e-4, 1, 40)
        high = {"lr": lr, "loss": 1e4 / (1 + 1e4 * lr)}
        loss = self.panels({"curve": {"sweeps": [high]}})[LOSS]
        assert loss.get_yscale() == "log" and loss.get_ylim()[0] < 1 < 5000 < loss.get_ylim()[1]
        below = {"lr": lr, "loss": np.append(-3 * np.linspace(0, 1, 38), [50, 90])}
        loss = self.panels({"curve": {"sweeps": [below]}})[LOSS]
        assert loss.get_yscale() == "linear" and loss.get_ylim()[0] < -3 < 0 < loss.get_ylim()[1] < 3

    def test_a_loss_that_never_moves(self):
        self.panels({"curve": {"sweeps": [{"lr": [0.01, 0.1, 1], "loss": [2.3, 2.3, 2.3]}]}})

    def test_a_sweep_in_even_steps_has_a_linear_axis_and_may_begin_at_0(self):
        panels = self.panels(range_test(sweep(1e-3, 3, linear=True)))
        assert {panel.get_xscale() for panel in panels.values()} == {"linear"}
        author = sweep(0.1, 3, linear=True)
        author["lr"][0] = author["valid_lr"][0] = 0
        accuracy = self.panels(range_test(author))[ACCURACY]
        assert accuracy.get_xscale() == "linear" and self.line(accuracy, "held-out")[0][0] == 0

    @pytest.mark.parametrize(
        ("without", "names", "entries"),
        [
            (("valid_accuracy",), [LOSS], {"training, smoothed", "held-out"}),
            (HELD_OUT, [LOSS], {"training, smoothed"}),
            (("lr", "loss"), [LOSS, ACCURACY], {"held-out"}),
            (("lr", "loss", "valid_loss"), [ACCURACY], {"held-out", "suggested: 0.03 to 0.3"}),
        ],
    )
    def test_only_what_was_measured_is_drawn(self, without, names, entries):
        test = range_test(without=without)
        assert list(self.panels(test)) == names
        legend = set(self.legend(test))
        assert entries <= legend and ("training, smoothed" in legend) == ("loss" not in without)

    def test_one_repeat_has_no_band(self):
        assert not any("repeats" in label for label in self.legend(range_test(sweep())))
        assert not self.panels(range_test(sweep()))[ACCURACY].collections

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ("possible", "Keeps its accuracy at large learning rates"),
            ("not possible", "Does not keep its accuracy at large learning rates"),
            ("unclear", "Unclear whether it keeps its accuracy at large learning rates"),
        ],
    )
    def test_the_title_is_the_verdict_and_what_was_tested(self, answer, words):
        verdict = {"answer": answer, "score": 0, "reasons": ["accuracy holds", "more"], "advice": []}
        assert self.title(range_test(verdict=verdict)) == f"{words}: accuracy holds\ndigits, mlp, sgd"
        assert self.title(range_test(verdict=verdict | {"reasons": []})) == f"{words}\ndigits, mlp, sgd"
        long = "a reason " * 10
        assert self.title(range_test(verdict=verdict | {"reasons": [long]})).startswith(f"{words}:\n{long}")
        assert self.title(range_test(verdict=None)) == "Learning rate range test\ndigits, mlp, sgd"

    def test_a_title_is_text_not_mathematics(self):
        self.panels(range_test(title="cost in $\\frac{$"))

    def test_without_a_suggestion_the_reason_is_in_the_figure(self):
        test = range_test(lr_min=None, lr_max=None, reason="the loss never moved")
        assert "\nNo learning rate is suggested: the loss never moved\n" in self.title(test)
        assert not any("suggested" in label for label in self.legend(test))
        assert "suggested" not in self.title(range_test(reason="the loss never moved"))

    def test_a_peak_alone_is_a_line(self):
        panel = self.panels(range_test(lr_min=None))[LOSS]
        assert set(self.line(panel, "suggested: 0.3")[0]) == {0.3}

    def test_sharpness_has_panels_of_its_own(self):
        _, _, largest, free = (panels := self.panels(range_test(sharpness=SHARPNESS))).values()
        assert "eigenvalue" in list(panels)[2] and "Hessian-free" in list(panels)[3]
        limit, product = (np.asarray(line.get_ydata()) for line in largest.get_lines()[:2])
        assert set(limit) == {2} and product[[0, 2]].tolist() == pytest.approx([0.1, 2.0]) and np.isnan(product[1])
        own, estimate = (np.asarray(line.get_ydata()) for line in free.get_lines()[:2])
        assert own.tolist() == SHARPNESS["lr"] and estimate.tolist() == [0.2, 0.3, 0.2]
        assert len(self.panels(range_test(sharpness=SHARPNESS | {"hessian_free": []}))) == 3
        assert len(self.panels(range_test(sharpness={"lr": [], "largest_eigenvalue": [], "hessian_free": []}))) == 2

    @pytest.mark.parametrize("width", [4.5, 8, 12])
    def test_nothing_is_cut_off_at_any_width(self, width):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        reason = "the accuracy is still rising where the test ended after its 48 updates; give it more of them"
        test = range_test(lr_min=None, lr_max=None, reason=reason, verdict=None)
        figure = range_figure(test)
        figure.set_size_inches(width, 6)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for part in (*figure.texts, *figure.legends):
            box = part.get_window_extent(canvas.get_renderer())
            assert (
                box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.height + 1
            )

    def test_a_pickle_holds_it(self):
        assert len(pickle.loads(pickle.dumps(range_figure(range_test()))).axes) == 2

    def test_without_matplotlib_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(MissingDependency, match=r"onecycle\[plot\]"):
            range_figure(range_test())


class TestText:
    @pytest.mark.parametrize("ascii", [True, False])
    @pytest.mark.parametrize("width", [24, 30, 40, 80, 100, 200])
    @pytest.mark.parametrize("without", [(), ("valid_accuracy",), HELD_OUT, ("lr", "loss", "valid_accuracy")])
    def test_no_line_exceeds_the_width(self, width, without, ascii):
        for linear in (False, True):
            lines = range_text(range_test(sweep(linear=linear), without=without), width, 6, ascii=ascii)
            assert max(map(len, lines)) <= width
            assert all(line.isascii() for line in lines) or not ascii

    @pytest.mark.parametrize("height", [3, 8, 12])
    def test_the_curve_has_the_height(self, height):
        assert sum("|" in line for line in range_text(range_test(), 60, height, ascii=True)) == height

    def test_a_whole_one(self):
        each = {
            "lr": [0.01, 0.1, 1],
            "loss": [2.0, 2.0, 2.0],
            "valid_lr": [0.01, 0.1, 1],
            "valid_accuracy": [0.1, 0.7, 0.4],
        }
        test = range_test(each, lr_min=0.02, lr_max=0.2, edge=0.8)
        assert range_text(test, 38, 5) == [
            "held-out accuracy by learning rate",
            "0.7 │             ⢀⡠⠒⠉⠑⠒⠤⠤⣀⡀",
            "    │          ⣀⠤⠊⠁        ⠈⠉⠒⠒⠤⢄⣀⡀",
            "    │      ⢀⡠⠔⠉                   ⠈⠉⠒⠒",
            "    │   ⣀⠤⠒⠁",
            "0.1 │⡠⠔⠊",
            "    └┬───────────────┬───────────────┬",
            "     0.01           0.1              1",
            "          ├───────────────┤        ▲",
            "├─┤ suggested: 0.02 to 0.2",
            "▲ edge of divergence: 0.8",
        ]

    def test_it_shows_accuracy_else_training_loss_else_held_out_loss(self):
        def heading(*without):
            return range_text(range_test(without=without), 60)[0]

        assert heading() == "held-out accuracy by learning rate"
        assert heading("valid_accuracy") == heading(*HELD_OUT) == "smoothed training loss by learning rate"
        assert heading("lr", "loss", "valid_accuracy") == "held-out loss by learning rate"

    def test_a_divergence_does_not_squash_the_curve(self):
        exploded = sweep()
        exploded["loss"][-1] = 1e6
        lines = range_text(range_test(exploded, without=HELD_OUT), 60, 10, ascii=True)
        assert float(lines[1].split("|")[0]) < 3.2
        # A slow fall takes several rows, the divergence leaves at the top.
        assert sum("*" in line for line in lines[2:11]) >= 8 and "*" in lines[1]

    def test_the_marks_stand_below_their_learning_rates(self):
        each = {"lr": [0.001, 0.01, 0.1, 1], "loss": [4.0, 3.0, 2.0, 3.0]}
        lines = range_text(range_test(each, lr_min=0.01, lr_max=0.1, edge=1.0), 60, 4, ascii=True)
        floor = next(line for line in lines if "-+" in line)
        marks = next(line for line in lines if "[--" in line and "suggested" not in line)
        corner, *ticks = [column for column, character in enumerate(floor) if character == "+"]
        assert [marks.index("["), marks.index("]"), marks.index("x")] == ticks[1:] and ticks[0] == corner + 1

    def test_without_marks_there_is_no_line_for_them(self):
        lines = range_text(range_test(lr_min=None, lr_max=None, edge=None), 60, 5, ascii=True)
        assert len(lines) == 1 + 5 + 2
        lines = range_text(range_test(lr_min=None, edge=None), 60, 5, ascii=True)
        assert len(lines) == 1 + 5 + 4 and lines[-1].endswith("suggested: 0.3")

    def test_one_measurement_is_one_point(self):
        lines = range_text({"curve": {"sweeps": [{"lr": [0.1], "loss": [2.0]}]}}, 40, 4, ascii=True)
        assert sum(line.count("*") for line in lines) == 1

    @pytest.mark.parametrize("room", [{"width": 23}, {"height": 2}])
    def test_too_little_room_is_refused(self, room):
        with pytest.raises(ConfigError, match="width of 24 and a height of 3 or more"):
            range_text(range_test(), **room)


@pytest.mark.parametrize("draw", [range_figure, range_text])
class TestRefused:
    @pytest.mark.parametrize("sweeps", [[], [{"lr": [], "loss": []}], [{"lr": [0.1], "loss": []}]])
    def test_nothing_measured(self, draw, sweeps):
        with pytest.raises(ConfigError, match="without a loss or an accuracy"):
            draw({"curve": {"sweeps": sweeps}})

    @pytest.mark.parametrize("wrong", [{"valid_loss": [1.0, 2.0]}, {"valid_loss": [float("nan")]}])
    def test_values_without_their_learning_rates_and_no_numbers(self, draw, wrong):
        with pytest.raises(DataError, match=r"valid_loss a learning rate: 1; received 2|finite numbers; received nan"):
            draw({"curve": {"sweeps": [{"lr": [], "valid_lr": [0.1], **wrong}]}})


@pytest.mark.parametrize(
    ("lrs", "linear"),
    [
        (np.linspace(0, 3, 7), True),
        (np.linspace(0.1, 0.2, 50), True),
        (np.geomspace(0.1, 0.2, 50), False),
        (np.geomspace(1e-6, 10, 30), False),
        ([0.1, 0.2], False),
        ([], False),
    ],
)
def test_even_steps_are_told_from_even_factors(lrs, linear):
    assert is_linear(Curve((Sweep(tuple(lrs)),))) is linear


def test_the_axis_of_the_loss():
    def axis(*losses):
        return loss_axis([Sweep(tuple(range(1, 1 + len(loss))), tuple(loss)) for loss in losses])

    falls = np.array([3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.4, 1.2])
    assert axis(falls).high == 2.5
    assert axis(falls[:-1]).low == 1
    assert axis(falls, falls + 1) == Axis(1.0, 4.0, log=False)
    assert axis([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 9.0]).high == 2.2
    assert axis([2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.4, 2.1]).high == 2.1


def test_a_steep_line_has_no_gaps():
    dots = _traced(np.array([0, 0.5, 0.5001, 1]), np.array([0, 0, 1, 1]), 20, 10)
    assert dots.any(axis=1).all() and dots.any(axis=0).all()
    assert dots.sum() == 20 + 10 - 2


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(5e-4, 2, log=True), [0.001, 0.01, 0.1, 1]),
        (Axis(0.015, 0.12, log=True), [0.02, 0.05, 0.1]),
        (Axis(0.011, 0.018, log=True), [0.011, 0.018]),
        (Axis(0, 3, log=False), [0, 1, 2, 3]),
        (Axis(0.1, 0.9, log=False), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (Axis(0, 1.5, log=False), [0, 0.5, 1, 1.5]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert _ticks(axis) == pytest.approx(ticks)


@pytest.mark.parametrize("columns", range(8, 60))
def test_labels_of_ticks_do_not_touch(columns):
    axis = Axis(1e-6, 10, log=True)
    ticks, line = _tick_labels(axis, columns)
    labels = [float(label) for label in line.split()]
    assert len(line) <= columns and len(labels) == len(ticks)
    assert {_column(axis, label, columns) for label in labels} == ticks


@pytest.mark.parametrize(
    ("value", "text"), [(0.0251, "0.025"), (2e-5, "2e-5"), (3.0, "3"), (123456.0, "120000"), (1234567.0, "1.2e6")]
)
def test_numbers_are_short(value, text):
    assert number(value, 2) == text


def test_text_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(range_text(range_test(), 80, 6)) == 1 + 6 + 4

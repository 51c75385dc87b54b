"""The verdict: the author's own curves, made-up ones, and what it says where it cannot tell."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from onecycle.range_test.verdict import FLAT, LOW, judge
from onecycle.records.curve import Curve, Sweep

SMITH = sorted((Path(__file__).parent / "smith2017").glob("*.csv"))
EXPONENTIAL = tuple(10 ** (-3 + k / 20) for k in range(81))


def curve_of(height, rates=EXPONENTIAL, repeats=1, noise=0.0, updates=0, stopped="end"):
    draw = random.Random(0)
    accuracies = [tuple(height(r) + draw.gauss(0, noise) for r in rates) for _ in range(repeats)]
    losses = tuple(1.0 for _ in range(updates))
    steps = tuple(rates[0] * 1.001**k for k in range(updates))
    return Curve(tuple(Sweep(steps, losses, rates, (), values, stopped, updates or 40_000) for values in accuracies))


def rises(lr):
    return 0.1 + 0.8 / (1 + (0.02 / lr) ** 2)


def collapses(lr):
    return rises(lr) if lr < 0.15 else 0.1


@pytest.mark.parametrize("path", SMITH, ids=lambda path: path.stem)
def test_the_authors_range_tests_are_told_apart_with_a_margin(path):
    verdict = judge(Curve.from_csv(path))
    if "Clip" in path.stem:
        assert verdict.answer == "not possible" and verdict.score < LOW - 0.05
    else:
        assert verdict.answer == "possible" and verdict.score > FLAT + 0.05
    assert len(SMITH) == 10


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_plateau_and_a_collapse(noise, repeats):
    assert judge(curve_of(rises, noise=noise, repeats=repeats)).answer == "possible"
    verdict = judge(curve_of(collapses, noise=noise, repeats=repeats))
    assert verdict.answer == "not possible" and verdict.score < LOW and verdict.advice


def test_the_score_falls_the_earlier_it_collapses():
    scores = [judge(curve_of(lambda lr, at=at: rises(lr) if lr < at else 0.1)).score for at in (0.1, 0.3, 0.45, 2.0)]
    assert scores == sorted(scores) and scores[0] < 0.3 and scores[-1] > 0.9


def test_what_lies_beyond_divergence_is_lost():
    rates = tuple(r for r in EXPONENTIAL if r < 0.2)
    assert judge(curve_of(rises, rates, stopped="diverged")).answer == "not possible"
    ended = judge(curve_of(rises, rates))
    assert ended.answer == "unclear" and "ends before large learning rates" in ended.reasons[0]
    assert "--lr-high" in ended.advice[0]


def test_a_short_sweep_is_no_yes_and_may_be_a_no():
    short, long = (judge(curve_of(rises, rates=EXPONENTIAL[::2], updates=n)) for n in (400, 1200))
    assert (short.answer, long.answer) == ("unclear", "possible") and short.score == long.score
    assert any("a sweep of 400 updates looks flatter" in reason for reason in short.reasons)
    assert judge(curve_of(collapses, rates=EXPONENTIAL[::2], updates=400)).answer == "not possible"


def test_a_short_sweep_is_no_yes_where_every_update_is_measured():
    for n, answer in ((53, "unclear"), (999, "unclear"), (1000, "possible")):
        rates = tuple(10 ** (-3 + 4 * k / (n - 1)) for k in range(n))
        sweep = Sweep(rates, (1.0,) * n, rates, (), tuple(map(rises, rates)), updates=n)
        assert judge(Curve((sweep,))).answer == answer


def test_a_table_that_does_not_say_how_many_updates_it_took(tmp_path: Path):
    rows = [f"{500 * k},{lr},{rises(lr)}" for k, lr in enumerate(EXPONENTIAL)]
    path = tmp_path / "curve.csv"
    for cut, updates, said, answer in ((0, 40_000, False, "possible"), (1, None, True, "unclear")):
        lines = [",".join(line.split(",")[cut:]) for line in ("iteration,lr,test_accuracy", *rows)]
        path.write_text("\n".join(lines) + "\n")
        curve = Curve.from_csv(path)
        assert curve.sweeps[0].updates == updates
        verdict = judge(curve)
        assert verdict.answer == answer
        assert any("does not say how many updates" in reason for reason in verdict.reasons) is said


def test_without_accuracy_it_says_what_is_lost():
    losses = tuple(2 - rises(r) for r in EXPONENTIAL)
    for sweep in (Sweep(EXPONENTIAL, losses), Sweep(EXPONENTIAL, losses, EXPONENTIAL, losses)):
        verdict = judge(Curve((sweep,)))
        assert verdict.answer == "unclear" and any("no held-out accuracy" in reason for reason in verdict.reasons)
    falls = tuple(2 - collapses(r) for r in EXPONENTIAL)
    assert judge(Curve((Sweep(EXPONENTIAL, falls),))).answer == "not possible"


@pytest.mark.parametrize(
    "curve",
    [
        Curve(()),
        Curve((Sweep((), ()),)),
        Curve((Sweep((0.1,), (1.0,)),)),
        curve_of(lambda lr: 0.1),
    ],
    ids=["no sweep", "empty", "one point", "flat"],
)
def test_a_curve_that_says_nothing(curve):
    verdict = judge(curve)
    assert (verdict.answer, verdict.score) == ("unclear", 0.5) and verdict.reasons and verdict.advice


def test_coarse_measurements_tell_the_same_as_fine_ones():
    for height in (rises, collapses):
        fine, coarse = (judge(curve_of(height, EXPONENTIAL[::step])).score for step in (1, 4))
        assert abs(fine - coarse) < 0.12


def test_scale_and_chance_do_not_matter():
    for base, scale in ((0.0, 1.0), (0.5, 0.4), (0.01, 0.05)):
        verdict = judge(curve_of(lambda lr, b=base, s=scale: b + s * rises(lr)))
        assert math.isclose(verdict.score, judge(curve_of(rises)).score, rel_tol=1e-6)


def test_repeats_that_disagree_are_named():
    good, bad = curve_of(rises).sweeps + curve_of(collapses).sweeps
    verdict = judge(Curve((good, bad)))
    assert any("the repeats disagree" in reason for reason in verdict.reasons)
    assert judge(Curve((good, bad))).score < judge(Curve((good, good))).score


def test_a_log_that_begins_late_has_the_updates_from_there_on(tmp_path: Path):
    path = tmp_path / "curve.csv"
    rows = [f"{100_000 + k},{lr},{rises(lr)}" for k, lr in enumerate(EXPONENTIAL)]
    path.write_text("\n".join(["iteration,lr,test_accuracy", *rows]) + "\n")
    assert Curve.from_csv(path).sweeps[0].updates == 80
    assert judge(Curve.from_csv(path)).answer == "unclear"


@pytest.mark.parametrize("n", [5, 13, 23, 31])
@pytest.mark.parametrize("updates", [None, 23])
def test_a_few_points_are_no_yes_however_they_are_recorded(n, updates):
    rates = tuple(10 ** (-3 + 4 * k / (n - 1)) for k in range(n))
    for sweep in (
        Sweep(rates, (), rates, (), tuple(map(rises, rates)), updates=updates),
        Sweep(rates, (1.0,) * n, rates, (), tuple(map(rises, rates)), updates=updates),
    ):
        assert judge(Curve((sweep,))).answer == "unclear"

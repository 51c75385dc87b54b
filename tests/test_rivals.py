from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

rivals = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "bench" / "rivals.py")))

INF, NAN = math.inf, math.nan
quick = settings(deadline=None, database=None, max_examples=60)
every = pytest.mark.parametrize("name", rivals.RIVALS)


def ladder(name: str) -> list[float]:
    return np.geomspace(*rivals.RIVALS[name].sweep).tolist()


def suggest(name: str, losses: list[float]) -> float | None:
    return rivals.RIVALS[name].suggest(ladder(name)[: len(losses)], losses)


def rate(name: str, losses: list[float]) -> float:
    found = suggest(name, losses)
    assert found is not None
    return found


def index(name: str, losses: list[float], times: float = 1) -> int:
    """The point of the sweep that is suggested, or that is `times` the suggestion."""
    place = int(np.abs(np.log(np.array(ladder(name)) / (times * rate(name, losses)))).argmin())
    assert ladder(name)[place] == pytest.approx(times * rate(name, losses))
    return place


def drop(name: str, noise: float, seed: int = 0) -> list[float]:
    """A loss that falls from 2.3 to 0.6 around a rate of 1e-3, as a sigmoid of the logarithm."""
    fall = 2.3 - 1.7 / (1 + np.exp(-3 * (np.log10(ladder(name)) + 3)))
    return (fall + np.random.default_rng(seed).normal(0, noise, 100)).tolist()


# The sweep


def test_the_rates_of_each_library():
    fastai, finder, lightning = (np.log10(ladder(name)) for name in ("fastai valley", "torch-lr-finder", "Lightning"))
    i = np.arange(100)
    assert fastai == pytest.approx(-7 + 8 * i / 100)
    assert finder == pytest.approx(-7 + 8 * i / 99)
    assert lightning == pytest.approx(-8 + 8 * (i + 1) / 100)


def test_which_read_the_held_out_loss():
    assert [name for name, rival in rivals.RIVALS.items() if rival.validated] == ["torch-lr-finder, held-out loss"]


def test_record_runs_to_the_end_whatever_the_loss_is():
    values = iter([1.0, 100.0, -5.0])
    lrs, losses, valid_losses = rivals.record(lambda lr: next(values), 0.01, 1, 3)
    assert (lrs, losses, valid_losses) == (pytest.approx([0.01, 0.1, 1]), [1, 100, -5], [])


def test_record_validates_after_each_update():
    calls = []
    found = rivals.record(lambda lr: calls.append(lr) or 2.0, 1, 4, 3, validate=lambda: 10.0 * len(calls))
    assert found == (pytest.approx([1, 2, 4]), [2, 2, 2], [10, 20, 30])


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_record_ends_with_the_first_loss_that_is_not_finite(broken):
    values, validations = iter([1.0, broken, 1.0]), iter([5.0])
    lrs, losses, valid_losses = rivals.record(lambda lr: next(values), 1, 4, 3, validate=lambda: next(validations))
    assert lrs == pytest.approx([1, 2])
    assert losses == pytest.approx([1, broken], nan_ok=True)
    assert valid_losses == pytest.approx([5, NAN], nan_ok=True)


def test_what_record_gives_is_what_a_rule_takes():
    rival = rivals.RIVALS["fastai minimum"]
    lrs, losses, _ = rivals.record(lambda lr: (math.log10(lr) + 3) ** 2, *rival.sweep)
    assert rival.suggest(lrs, losses) == rate("fastai minimum", losses)


# Smoothing and stops


def test_debiased_average():
    # .02; .98 x .02 + .02 x 2 = .0596; divided by 1 - .98 = .02 and 1 - .98^2 = .0396
    assert rivals.debiased([1, 2]) == pytest.approx([1, 0.0596 / 0.0396])
    assert rivals.debiased([3] * 50) == pytest.approx([3] * 50)
    # Lightning divides by 1 - .98^2 and 1 - .98^3: a constant loss seems to rise from half its value
    assert rivals.debiased([1, 2], late=1) == pytest.approx([0.02 / 0.0396, 0.0596 / 0.058808])


def test_average_from_the_first_loss():
    assert rivals.averaged([1, 3, 0]) == pytest.approx([1, 1.1, 1.045])


def test_until_the_first_above_its_limit():
    losses = np.array([1.0, 2.0, 5.0, 1.0, 9.0])
    assert rivals.until(losses, np.full(5, 4.0)).tolist() == [1, 2, 5]
    assert rivals.until(losses, np.full(5, 9.0)).tolist() == losses.tolist()


# fastai: the rules on small curves


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([6, 5, 4, 3, 2, 1, 9], 2),  # 0...5, length 6: 5 - 6 + 6 // 3 + 6 // 6
        ([1, 2, 3], 0),  # nothing falls
        ([1, 1, 1], 0),
        ([1, 9, 8, 7, 7, 6, 0, 5, 4], 5),  # 9 8 7 6 5 4, which ends at 8: 8 - 6 + 2 + 1
        ([5, 4, 3, 2, 1], 0),  # 4 - 5 + 5 // 3 + 5 // 6
        ([3, 2], -1),  # 1 - 2 + 0 + 0, and the library's index wraps
    ],
)
def test_valley(losses, place):
    assert rivals.valley(np.arange(len(losses)), np.array(losses)) == np.arange(len(losses))[place]


@quick
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_valley_is_the_middle_of_the_longest_falling_subsequence(losses):
    subsequences = itertools.chain.from_iterable(itertools.combinations(range(len(losses)), n) for n in range(1, 9))
    falling = [s for s in subsequences if all(losses[a] > losses[b] for a, b in itertools.pairwise(s))]
    length = max(map(len, falling))
    start = min(s[-1] for s in falling if len(s) == length) - length
    place = start + int(length / 3) + int(length / 6) if length > 1 else 0
    assert rivals.valley(np.arange(len(losses)), np.array(losses)) == np.arange(len(losses))[place]


def test_slide_goes_left_from_the_rise_to_the_flat_part():
    # flat to 50, then rising by 0.1: the slopes are 0 to 49, 0.05 at 50, 0.1 from 51. The right point goes from 59 to
    # 50 with the left one at 44...35, all unequal; 49 and 34 are equal
    losses = np.maximum(0, 0.1 * (np.arange(60) - 50.0))
    assert rivals.slide(np.arange(60), losses) == 35
    assert rivals.slide(np.arange(60), np.zeros(60)) == 60 - 16


def test_minimum_is_a_tenth_of_the_lowest():
    assert rivals.minimum(np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, 2.0])) == pytest.approx(0.2)


def test_steep_is_per_log_rate():
    # falls of 1 over one factor of ten, 1.5 over two: the first is the steeper
    assert rivals.steep(np.array([1e-3, 1e-2, 1.0]), np.array([4.0, 3.0, 1.5])) == 1e-3
    assert rivals.steep(np.array([1e-3, 1e-2, 1.0]), np.array([4.0, 3.0, 0.5])) == 1e-2


# What each keeps of a sweep

FALLING = (2 - np.arange(100) / 100).tolist()


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        # 60 losses of 1, then one of L: the average is 1 + (L - 1) x 0.02 / (1 - 0.98^61), and four times the best is 4
        ("fastai steep", 107.3),
        # 1 + (L - 1) x 0.05, and five times the best is 5
        ("torch-lr-finder", 81),
        # (1 - 0.98^61 + (L - 1) x 0.02) / (1 - 0.98^62), and four times the first, 0.02 / 0.0396, is 2.02
        ("Lightning before 2.5.3", 37.7),
    ],
)
def test_the_stop_is_where_the_average_is_above_a_multiple_of_its_best(name, limit):
    # without a stop, the average falls fastest after the high loss
    assert index(name, [1.0] * 60 + [limit - 0.2] + [1.0] * 39) >= 60
    assert index(name, [1.0] * 60 + [limit + 0.2] + [1.0] * 39) < 60


def test_fastai_leaves_out_the_first_ten_and_the_last_five():
    assert index("fastai minimum", FALLING, times=10) == 94
    assert index("fastai minimum", FALLING[::-1], times=10) == 10


def test_fastai_drops_five_before_the_stop():
    assert index("fastai minimum", [*FALLING[:60], 400.0, *FALLING[61:]], times=10) == 55


def test_fastai_goes_on_after_nan_and_keeps_all_before_it():
    assert index("fastai minimum", [*FALLING[:60], NAN], times=10) == 59
    assert index("fastai minimum", [*FALLING[:97], NAN], times=10) == 94


def test_torch_lr_finder_takes_the_steepest_point():
    # 1 until 49, then 0: the average falls by .05, .0475 and so on; half the difference of the neighbours is the
    # largest at 50, (1 - .9025) / 2
    losses = [1.0] * 50 + [0.0] * 50
    for name in ("torch-lr-finder", "torch-lr-finder, held-out loss"):
        assert index(name, losses) == 50


def test_torch_lr_finder_needs_17_points():
    assert suggest("torch-lr-finder", [1.0] * 15 + [1e4] * 85) is None
    assert index("torch-lr-finder", [1.0] * 16 + [1e4] * 84) == 10


def test_torch_lr_finder_suggests_the_point_before_nan():
    assert index("torch-lr-finder", [*FALLING[:60], NAN]) == 59


@pytest.mark.parametrize("linear", [True, False])
def test_lightnings_slope_is_torch_gradient(linear):
    lrs = ladder("Lightning")
    smooth = rivals.debiased(drop("Lightning", 0.05), late=1)
    kept, rates = (torch.tensor(x[10:-1], dtype=torch.float32) for x in (smooth.tolist(), lrs))
    slope = torch.gradient(kept, spacing=[rates] if linear else 1)[0]
    assert rivals.steepest(lrs, smooth, linear=linear) == lrs[10 + int(slope.argmin())]


def test_lightning_is_linear_in_the_rate():
    # 0.01 at a rate of 1e-7 is more per unit of rate than 0.99 at 0.006, and less per point. The spacing grows by 1.2:
    # the slope at 12 is 1.44 / (1.2 x 2.64) of the fall per spacing, at 11 it is 1 / (1.2 x 2.2)
    lrs, smooth = ladder("Lightning"), np.repeat([2.0, 1.99, 1.0], [12, 60, 28])
    assert rivals.steepest(lrs, smooth, linear=True) == lrs[12]
    assert rivals.steepest(lrs, smooth, linear=False) == lrs[71]


def test_lightning_needs_13_points():
    assert suggest("Lightning", [1.0] * 11 + [1e6] * 89) is None
    assert suggest("Lightning", [1.0] * 12 + [1e6] * 88) is not None


@pytest.mark.parametrize(("name", "last"), [("fastai steep", 5), ("torch-lr-finder", 5), ("Lightning before 2.5.3", 1)])
def test_a_fall_in_the_last_points_is_not_seen(name, last):
    losses = drop(name, 0.01)
    assert suggest(name, losses[:-last] + [-1.5] * last) == suggest(name, losses)
    assert index(name, [*losses[: -last - 1], -1.5, *losses[-last:]]) >= 100 - last - 2


# Odd sweeps


@every
def test_a_cut_record_is_one_with_nan_to_the_end(name):
    losses = [*drop(name, 0.01)[:70], NAN]
    assert suggest(name, losses) == suggest(name, losses[:-1]) == suggest(name, losses + [NAN] * 29)
    assert suggest(name, losses) is not None


@every
@pytest.mark.parametrize("losses", [[], [NAN], [INF], [1.0], [1.0] * 8 + [NAN], [1.0] * 8 + [INF], [-1.0] * 100])
def test_none_from_too_few_points(name, losses):
    # and a loss below zero is above four times itself
    assert suggest(name, losses) is None


@every
def test_a_flat_noisy_sweep_gets_a_number_all_the_same(name):
    assert suggest(name, (2.3 + np.random.default_rng(0).normal(0, 0.01, 100)).tolist()) is not None


# A noisy sigmoid drop at 1e-3


def test_lightning_takes_noise_at_the_start_for_the_drop():
    # The noise is of the recorded curve, and rates are 1e-9 apart where it begins
    lrs = np.geomspace(1e-8, 1, 100)
    curve = np.array(2.3 - 1.7 / (1 + np.exp(-3 * (np.log10(lrs) + 3))))
    found = [
        rivals.steepest(lrs.tolist(), curve + np.random.default_rng(seed).normal(0, 0.002, 100), linear=True)
        for seed in range(5)
    ]
    assert found[0] == pytest.approx(7.7e-8, rel=0.01)
    assert max(found) < 1e-7
    assert rivals.steepest(lrs.tolist(), curve, linear=True) > 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_so_it_does_through_its_own_smoothing(seed):
    losses = drop("Lightning", 0.2, seed)
    assert rate("Lightning", losses) < 1e-5
    assert rate("Lightning before 2.5.3", losses) > 1e-3


@pytest.mark.parametrize("name", [name for name in rivals.RIVALS if name != "fastai minimum"])
def test_without_noise_all_but_the_minimum_are_near_the_drop(name):
    assert 1e-4 < rate(name, drop(name, 0)) < 1e-2


def test_the_minimum_is_at_the_end_of_a_sweep_that_does_not_diverge():
    assert index("fastai minimum", drop("fastai minimum", 0), times=10) == 94

"""What there is to see on a sweep, and the peak that follows from it."""

from __future__ import annotations

import math
import random

import pytest

from onecycle.range_test.peak import density, landmarks, suggest
from onecycle.records.curve import Curve, Sweep

RATES = [10 ** (-5 + k / 20) for k in range(121)]


def valley(x, noise=0.0, seed=0):
    """Falls from 2 to 1 about 1e-3, rises from 1e-1 on."""
    draw = random.Random(seed)
    return [1 + 1 / (1 + 10 ** (3 * (a + 3))) + max(0.0, a + 1) ** 2 * 4 + draw.gauss(0, noise) for a in x]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.08])
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (100, -1000), (1e-3, 0)])
def test_landmarks_of_a_valley(noise, scale, shift):
    losses = [scale * v + shift for v in valley(map(math.log10, RATES), noise)]
    marks = landmarks(Sweep(RATES, losses, stopped="diverged"))
    assert marks.level == pytest.approx(2 * scale + shift, abs=0.1 * scale)
    assert math.log10(marks.half) == pytest.approx(-3, abs=0.15)
    assert math.log10(marks.steepest) == pytest.approx(-3, abs=0.25)
    assert marks.slope < -5 * marks.error and marks.slope / scale == pytest.approx(-1.6, abs=0.35)
    assert -2.5 < math.log10(marks.lowest) < -0.6
    assert math.log10(marks.rise) == pytest.approx(-0.75, abs=0.2)
    assert marks.edge == RATES[-1]
    if noise:
        assert 0.5 * noise < marks.noise / scale < 2 * noise


def test_landmarks_that_a_sweep_does_not_show_are_none():
    n = RATES.index(next(rate for rate in RATES if rate > 0.1))
    losses = valley(map(math.log10, RATES))
    truncated = landmarks(Sweep(RATES[:n], losses[:n]))
    assert truncated.rise is None and truncated.edge is None and truncated.half is not None
    draw = random.Random(0)
    for level in (0.0, 2.3, -100.0):
        flat = landmarks(Sweep(RATES, [level + draw.gauss(0, 0.1) for _ in RATES]))
        assert flat.lowest is flat.half is flat.steepest is flat.rise is None and flat.error == math.inf
        assert flat.level == pytest.approx(level, abs=0.1) and flat.noise == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_a_rise_alone_gives_no_number(noise):
    draw = random.Random(0)
    sweep = Sweep(RATES, [1 + k / 100 + draw.gauss(0, noise) for k in range(121)], stopped="diverged")
    assert landmarks(sweep).edge == RATES[-1]
    found = suggest(Curve((sweep,)))
    assert found.lr_max is None and found.reason


@pytest.mark.parametrize("n", [8, 12, 16, 18, 40, 150])
@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(
    "course", [lambda t: t, lambda t: t**4, lambda t: 1 - math.exp(-4 * t), lambda t: float(t > 0.5)],
    ids=["line", "late", "early", "sudden"],
)  # fmt: skip
def test_a_clean_fall_is_one_whatever_the_spacing(n, held_out, course):
    rates = [10 ** (-4 + 4 * k / (n - 1)) for k in range(n)]
    losses = [0.965 - 0.45 * course(k / (n - 1)) for k in range(n)]
    sweep = Sweep(rates, [1.0] * n, rates, losses) if held_out else Sweep(rates, losses)
    marks = landmarks(sweep)
    assert marks.lowest is not None and marks.half is not None and rates[0] < marks.half <= rates[-1]


@pytest.mark.parametrize("n", [8, 16, 40, 150])
@pytest.mark.parametrize("held_out", [True, False])
def test_noise_alone_is_no_fall(n, held_out):
    draw = random.Random(0)
    rates = [10 ** (-4 + 4 * k / (n - 1)) for k in range(n)]
    for kind in (lambda: draw.gauss(0, 1), lambda: draw.lognormvariate(0, 1)):
        courses = [[kind() for _ in rates] for _ in range(50)]
        sweeps = [Sweep(rates, [1.0] * n, rates, y) if held_out else Sweep(rates, y) for y in courses]
        assert sum(landmarks(sweep).lowest is not None for sweep in sweeps) <= 2


def valley_of(density, dense, edge):
    """Falls to its lowest and diverges, all the earlier the more updates a decade there are, as a training does."""
    n = int(density * 7) + 1
    rates = [10 ** (-6 + k / density) for k in range(n)]
    shift = dense * math.log10(density / 10)
    rates = [rate for rate in rates if math.log10(rate) + shift < edge]
    return Sweep(rates, valley(math.log10(rate) + shift for rate in rates), stopped="diverged")


@pytest.mark.parametrize(
    ("kind", "dense", "edge"), [("adaptive", 0.5, 0.5), ("orthogonal", 0.5, 0.5), ("gradient", 0.5, -0.9)]
)
def test_the_length_of_a_sweep_does_not_matter(kind, dense, edge):
    curves = [Curve((valley_of(each, dense, edge),), scouted=0.1) for each in (5, 10, 20, 40)]
    peaks = [suggest(curve, kind=kind).lr_max for curve in curves]
    assert max(peaks) / min(peaks) < 1.5, "they are 2.8 apart where nothing is made up for"


@pytest.mark.parametrize("kind", ["adaptive", "orthogonal", "gradient"])
@pytest.mark.parametrize("low", [-2.9, -1.5])
def test_a_peak_is_never_above_where_the_loss_has_risen_again(kind, low):
    losses = [2 - max(0.0, min(x, low) + 4) / (low + 4) + max(0.0, x - low) * 0.9 for x in map(math.log10, RATES)]
    rises = []
    for stopped in ("diverged", "end"):
        sweep = Sweep(RATES, [1.0] * len(RATES), RATES, losses, stopped=stopped)
        rises.append(landmarks(sweep).rise)
        assert low < math.log10(rises[-1]) < low + 0.6
        assert suggest(Curve((sweep,), scouted=10.0), kind=kind).lr_max < 1.001 * rises[-1]
    if kind == "gradient":
        assert suggest(Curve((sweep,), scouted=10.0), kind=kind).lr_max == pytest.approx(rises[-1])


def test_a_peak_of_plain_gradient_steps_comes_from_the_scout_and_is_not_above_where_a_sweep_diverges():
    def at(*edges, scouted):
        sweeps = []
        for edge in edges:
            rates = [rate for rate in RATES if rate <= edge]
            sweeps.append(Sweep(rates, [2 - 0.2 * k / len(rates) for k in range(len(rates))], stopped="diverged"))
        return suggest(Curve(tuple(sweeps), scouted), kind="gradient").lr_max

    assert at(0.3, 1.0, scouted=1.0) == at(1.0, 1.0, scouted=1.0) == pytest.approx(0.17)
    assert at(0.1, 1.0, scouted=1.0) == pytest.approx(0.1, rel=0.2)
    assert at(0.3, 1.0, scouted=None) == pytest.approx(0.17 * 0.3**0.5, rel=0.1)


def test_density_is_that_of_the_decade_below():
    even = [10 ** (-3 + k / 8) for k in range(33)]
    assert density(even, 1.0) == pytest.approx(8) == density(even, even[3])
    linear = [k / 100 for k in range(1, 101)]
    assert density(linear, 1.0) == pytest.approx(90) and density(linear, 0.5) == pytest.approx(45)
    assert density(even, even[0]) == pytest.approx(8) == density(even, 100.0)


def test_a_clean_valley_of_few_points_is_read_though_it_diverges_by_more_than_it_fell():
    rates = [1e-3 * 1.74**k for k in range(14)]
    held_out = [2.299, 2.29, 2.273, 2.244, 2.192, 2.107, 1.949, 1.654, 1.079, 0.804, 2.218, 5.622, 7.071, 24.27]
    marks = landmarks(Sweep(rates, [1.0] * 14, rates, held_out, stopped="diverged"))
    assert marks.lowest == pytest.approx(rates[9]) and rates[6] < marks.half < rates[8]


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_that_is_over_before_held_out_data_are_measured_is_read_from_the_updates(seed):
    draw = random.Random(seed)
    rates = [7e-3 * 10 ** (k / 39) for k in range(90)]
    losses = [0.5 + 2 / (1 + 10 ** (4 * (math.log10(r) + 2))) + draw.gauss(0, 0.2) for r in rates]
    held_out = [0.7 + 2 / (1 + 10 ** (4 * (math.log10(r) + 2))) + max(0.0, math.log10(r) + 1) for r in rates[8::9]]
    held_out = [loss + draw.gauss(0, 0.15) for loss in held_out]
    marks = landmarks(Sweep(rates, losses, rates[8::9], held_out, stopped="diverged"))
    assert 0.008 < marks.half < 0.018 and marks.half < marks.most < 0.03


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("points", [27, 69])
def test_a_fall_within_the_first_of_evenly_spaced_rates_is_clear_though_the_loss_is_wild_above(points, seed):
    draw = random.Random(seed)
    rates = [1e-3 + 1.1 * k / 69 for k in range(points)]
    wild = [max(0.0, r - 0.2) * abs(draw.gauss(0, 3)) for r in rates]
    losses = [2.3 - 1.3 * min(r / 0.15, 1.0) + draw.gauss(0, 0.1) + w for r, w in zip(rates, wild, strict=True)]
    marks = landmarks(Sweep(rates, losses, rates[4::5], losses[4::5], stopped="diverged"))
    assert marks.lowest is not None and 0.03 < marks.half < 0.15

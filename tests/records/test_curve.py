"""What a curve holds and refuses, its bands by hand, and its smoothing against weighted least squares by numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from onecycle import DataError
from onecycle.records.curve import BANDWIDTH, Band, Curve, Sweep, fit, smooth

RATES = [10 ** (-4 + k / 10) for k in range(41)]


def noise(n, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, n).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.1, 0.2), (1.0,)), "one loss a learning rate: 2; received 1"),
        (((0.1, 0.2), (1.0, math.nan)), "the loss of a sweep are finite numbers"),
        (((0.1, math.inf),), "the lr of a sweep are finite numbers"),
        (((0.2, 0.1),), r"rise, from 0 or above; received 0.1 after 0.2"),
        (((0.1, 0.1),), "rise"),
        (((-0.1, 0.1),), "rise, from 0 or above"),
        (((0.1,), (1.0,), (0.1,), (1.0, 2.0)), "one valid_loss a learning rate: 1; received 2"),
        (((0.1,), (1.0,), (0.1,), (), (0.5, 0.5)), "one valid_accuracy"),
        (((0.1,), (1.0,), (0.2, 0.1)), "rise"),
        (((0.1,), (1.0,), (0.1,), (math.inf,)), "the valid_loss of a sweep are finite"),
    ],
)
def test_a_sweep_that_is_none_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Sweep(*arguments)


def test_a_sweep_takes_any_numbers_and_may_start_at_zero():
    sweep = Sweep(np.array([0.0, 1.0], dtype=np.float32), [2, 1])
    assert sweep.lr == (0.0, 1.0) and sweep.loss == (2.0, 1.0) and type(sweep.lr[1]) is float
    assert Sweep(()) == Sweep((), ())


def test_bands_are_of_the_repeats_that_got_there():
    curve = Curve(
        (
            Sweep((1, 2, 3), (5, 3, 4), (2, 3), (1.0, 2.0), (0.5, 0.25)),
            Sweep((1, 2), (7, 1), (2,), (3.0,), (0.75,), "diverged"),
        )
    )
    assert curve.lr == (1, 2, 3)
    assert curve.loss == Band((1, 2, 3), (6, 2, 4), (5, 1, 4), (7, 3, 4))
    assert curve.valid_loss == Band((2, 3), (2, 2), (1, 2), (3, 2))
    assert curve.valid_accuracy == Band((2, 3), (0.625, 0.25), (0.5, 0.25), (0.75, 0.25))


def test_each_repeat_is_smoothed_by_itself():
    sweeps = [Sweep(RATES, noise(41, seed)) for seed in (0, 1)]
    one, other = (smooth(s.lr, s.loss) for s in sweeps)
    band = Curve(tuple(sweeps)).smooth_loss
    assert band.low == tuple(map(min, one, other)) and band.high == tuple(map(max, one, other))


def test_an_empty_curve_has_empty_bands():
    empty = Band((), (), (), ())
    for curve in (Curve(()), Curve((Sweep(()),))):
        assert curve.lr == () and curve.loss == curve.smooth_loss == curve.valid_accuracy == empty
    only_valid = Curve((Sweep((1, 2), (), (1, 2), (), (0.1, 0.2)),))
    assert only_valid.valid_accuracy.mean == (0.1, 0.2) and only_valid.smooth_loss == only_valid.valid_loss == empty


# Smoothing


@pytest.mark.parametrize("at", [-1.0, -0.37, 0.0, 2.0])
def test_a_straight_line_is_fitted_exactly(at):
    x = [-1.0, -0.9, -0.3, 0.0, 0.05, 1.0, 2.0, 2.05]
    line = fit(x, [3 - 2 * a for a in x], at, bandwidth=0.5)
    assert line == pytest.approx((3 - 2 * at, -2, 0), abs=1e-9)


def test_fit_is_weighted_least_squares():
    x, y = np.linspace(-1, 1, 21), np.array(noise(21))
    for at in (-1.0, 0.13, 0.9):
        w = np.exp(-0.5 * ((x - at) / BANDWIDTH) ** 2) * (abs(x - at) < 4 * BANDWIDTH)
        design = np.stack([np.ones_like(x), x - at], 1)
        bread = np.linalg.inv(design.T * w @ design)
        value, slope = bread @ (design.T * w @ y)
        residual = y - design @ np.array([value, slope])
        count = w.sum() ** 2 / (w**2).sum()
        variance = (w * residual**2).sum() / w.sum() * count / (count - 2)
        error = math.sqrt(variance * (bread @ (design.T * w**2 @ design) @ bread)[1, 1])
        assert fit(x.tolist(), y.tolist(), at) == pytest.approx((value, slope, error), rel=1e-9)


def test_the_standard_error_is_the_spread_of_the_slopes():
    x = [k / 50 for k in range(101)]
    lines = [fit(x, [2 * a + e for a, e in zip(x, noise(101, seed), strict=True)], 1.0) for seed in range(300)]
    spread = np.std([line.slope for line in lines])
    assert np.mean([line.slope for line in lines]) == pytest.approx(2, abs=4 * spread / 300**0.5)
    assert np.mean([line.error for line in lines]) == pytest.approx(spread, rel=0.15)


def test_too_few_points_have_no_slope():
    assert fit([0.0], [5.0], 0.0) == (5.0, 0.0, math.inf)
    assert fit([1.0, 1.0], [4.0, 6.0], 1.0) == (5.0, 0.0, math.inf), "one learning rate twice"
    assert fit([0.0, 0.1], [1.0, 2.0], 0.0) == (pytest.approx(1.0), pytest.approx(10.0), math.inf)
    assert fit([0.0, 0.1], [1.0, 1.0], 0.0).error == math.inf, "two points fit any line"
    far = fit([0.0], [5.0], at=9.0)
    assert math.isnan(far.value) and far.error == math.inf


def test_smoothing_keeps_a_line_over_the_logarithm_and_halves_the_noise():
    line = [1 - math.log10(rate) for rate in RATES]
    assert smooth(RATES, line) == pytest.approx(line)
    dense = [10 ** (-4 + k / 100) for k in range(401)]
    errors = noise(401)
    assert np.std(smooth(dense, errors)) < 0.3 * np.std(errors)


def test_a_rate_of_zero_is_left_as_it_is():
    assert smooth([0.0, 1.0, 1e4], [9.0, 2.0, 3.0]) == [9.0, 2.0, 3.0]
    assert smooth([], []) == []


# In and out


def test_a_curve_survives_json():
    curve = Curve((Sweep(RATES, noise(41), (RATES[5],), (1.0,), (0.5,), "nan"), Sweep((0.1,), (1.0,))))
    assert Curve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve
    later = curve.to_dict()
    later["sweeps"][0]["of a later version"] = 1
    assert Curve.from_dict(later) == curve


@pytest.mark.parametrize(
    "data", [{}, {"sweeps": 3}, {"sweeps": [{"loss": [1]}]}, {"sweeps": [{"lr": ["a"]}]}, {"sweeps": [[1]]}, [], None]
)
def test_anything_else_is_no_curve(data):
    with pytest.raises(DataError, match="a curve is"):
        Curve.from_dict(data)


def test_a_log_is_read_up_to_the_peak(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "step,lr,train_loss,test_loss,test_accuracy\n0,0.0,3,3,.1\n1,,3,3,.1\n2,0.1,2.5,2.6,.2\n3,0.1,2.4,2.5,.3\n"
        "4,0.3,2,2.1,.5\n5,0.2,1,1,.9\n"
    )
    expected = Sweep((0.1, 0.3), (2.5, 2.0), (0.1, 0.3), (2.6, 2.1), (0.2, 0.5))
    assert Curve.from_csv(log) == Curve((expected,))
    log.write_text("lr,test_accuracy\n0.1,0.2\n0.2,0.4\n")
    assert Curve.from_csv(str(log)).valid_accuracy == Band((0.1, 0.2), *[(0.2, 0.4)] * 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no row has a learning rate"),
        (b"lr,test_accuracy\n", "no row has a learning rate"),
        (b"rate,test_accuracy\n1,2\n", "with the columns lr and test_accuracy: its columns are rate, test_accuracy"),
        (b"lr,test_accuracy\nfast,2\n", "fast"),
        (b"lr,test_accuracy\n0.1,2\n0.2,\n", "there is no test_accuracy at the learning rate 0.2"),
        (b"lr,test_accuracy\n0.1,2\n0.2\n", "there is no test_accuracy at the learning rate 0.2"),
        (b"lr,test_accuracy\n0.1,nan\n", "finite"),
        (b"\xff\xfe\x00", "decode"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_curve_is_named(tmp_path, content, message):
    path = tmp_path / "curve.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        Curve.from_csv(path)
    assert str(path) in str(error.value)

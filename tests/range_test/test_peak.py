"""What there is to see on a sweep, and the peak that follows from it."""

from __future__ import annotations

import math
import random

import pytest

from onecycle.range_test.peak import landmarks, suggest
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

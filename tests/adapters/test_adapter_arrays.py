"""A schedule in array operations is the schedule, at every update."""

from __future__ import annotations

import numpy as np
import pytest

from onecycle import Piecewise
from onecycle.adapters.arrays import in_arrays
from onecycle.errors import ConfigError
from onecycle.schedules.policy import position
from onecycle.schedules.presets import PRESETS

LENGTHS = (1, 2, 3, 7, 10, 100)
EASINGS = ("linear", "cosine", "exponential", "one-minus-sqrt", "hold")
CURVES = {
    "a point": Piecewise(((0.3, 0.7),)),
    "all easings": Piecewise(((0, 0.1), (0.2, 1.0), (0.4, 0.5), (0.6, 1e-3), (0.8, 1e-5), (0.9, 2.0)), EASINGS),
    "points outside": Piecewise(((-0.5, 0.0), (0.25, 1.0), (1.7, 0.1)), "cosine"),
    "only before": Piecewise(((-2, 0.5), (-1, 0.25))),
    "only after": Piecewise(((2, 0.5), (3, 0.25))),
    "negative": Piecewise(((0, -1.0), (1, -1e-4)), "exponential"),
    "jumps at updates": Piecewise(tuple((k / 9, float(k)) for k in range(10)), "hold"),
}


def reference(schedule: Piecewise, updates: int, beyond: int = 3) -> np.ndarray:
    return np.array([schedule(position(min(k, updates - 1), updates)) for k in range(updates + beyond)])


@pytest.mark.parametrize("updates", LENGTHS)
@pytest.mark.parametrize("name", CURVES)
def test_every_update_of_every_shape(name, updates):
    value = in_arrays(np, "lr", CURVES[name], updates)
    np.testing.assert_allclose(value(np.arange(updates + 3)), reference(CURVES[name], updates), rtol=0, atol=1e-14)


@pytest.mark.parametrize("updates", LENGTHS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_update_of_every_preset(name, updates):
    for key, schedule in PRESETS[name](0.3, updates).schedules.items():
        value = in_arrays(np, key, schedule, updates)
        np.testing.assert_allclose(value(np.arange(updates + 3)), reference(schedule, updates), rtol=0, atol=1e-15)


def test_a_count_of_any_shape():
    value = in_arrays(np, "lr", CURVES["all easings"], 10)
    assert value(3).shape == () and value(np.full((2, 3), 4)).shape == (2, 3)


def test_a_function_of_progress_is_told_how_it_becomes_points():
    def halved(progress):
        return 0.5 - progress / 2

    with pytest.raises(ConfigError, match=r"schedule of lr is a Python function.*Piecewise\(\[\(k / 1000") as raised:
        in_arrays(np, "lr", halved, 10)
    mend = str(raised.value).split("such as ")[1]
    import onecycle

    points = eval(mend, {"onecycle": onecycle, "schedule": halved})
    np.testing.assert_allclose(in_arrays(np, "lr", points, 10)(np.arange(10)), (1 - np.arange(10) / 9) / 2, atol=1e-15)

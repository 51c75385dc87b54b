from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecycle.errors import ConfigError
from onecycle.schedules.piecewise import EASINGS, Piecewise, constant

ROOT2 = math.sqrt(2)

# Each by hand, from 1 at progress .2 to 9 at .6: before, first point, quarter, half, three quarters, last, after.
PROGRESS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
TABLES = {
    "linear": (1, 1, 3, 5, 7, 9, 9),
    "cosine": (1, 1, 5 - 2 * ROOT2, 5, 5 + 2 * ROOT2, 9, 9),
    "exponential": (1, 1, math.sqrt(3), 3, 3 * math.sqrt(3), 9, 9),
    "one-minus-sqrt": (1, 1, 5, 1 + 4 * ROOT2, 1 + 4 * math.sqrt(3), 9, 9),
    "hold": (1, 1, 1, 1, 1, 9, 9),
}


def test_every_easing_has_a_table():
    assert set(TABLES) == set(EASINGS)


@pytest.mark.parametrize("easing", TABLES)
def test_easing_goes_through_its_hand_computed_table(easing):
    schedule = Piecewise(((0.2, 1), (0.6, 9)), easing)
    assert [schedule(x) for x in PROGRESS] == pytest.approx(TABLES[easing], rel=1e-12)


@pytest.mark.parametrize("easing", TABLES)
def test_easing_downwards_mirrors_the_table(easing):
    """Down from 9 to 1: 10 minus the way up, except the exponential, which is 9 over it."""
    schedule = Piecewise(((0.2, 9), (0.6, 1)), easing)
    mirror = [9 / v if easing == "exponential" else 10 - v for v in TABLES[easing]]
    assert [schedule(x) for x in PROGRESS] == pytest.approx(mirror, rel=1e-12)


def test_each_segment_can_have_its_own_easing():
    schedule = Piecewise(((0, 0), (0.25, 1), (0.5, 4), (1, 0)), ("linear", "exponential", "one-minus-sqrt"))
    values = [schedule(x) for x in (0.125, 0.25, 0.375, 0.5, 0.625, 1)]
    assert values == pytest.approx([0.5, 1, 2, 4, 2, 0])


def test_an_exponential_sweep_of_negative_values_stays_negative():
    assert Piecewise(((0, -1), (1, -9)), "exponential")(0.5) == pytest.approx(-3)


def test_only_the_inside_of_points_beyond_the_run_is_used():
    schedule = Piecewise(((-1, 0), (3, 8)))
    assert (schedule(0), schedule(0.5), schedule(1)) == (2, 3, 4)


def test_one_point_is_a_constant():
    assert Piecewise(((0.5, 3),)) == Piecewise([(0.5, 3.0)])
    assert [Piecewise(((0.5, 3),))(x) for x in (-1, 0.5, 2)] == [3, 3, 3]
    assert Piecewise(((0, 3),), ())(1) == 3
    assert constant(0.9) == Piecewise(((0, 0.9),))


def test_peak_is_the_largest_value():
    assert Piecewise(((0, 0.1), (0.3, 2), (1, 0))).peak == 2


def test_equality_hash_and_repr_see_points_and_easing_alone():
    one, same = Piecewise([[0, 1], [1, 0]], "cosine"), Piecewise(((0.0, 1.0), (1.0, 0.0)), "cosine")
    assert one == same and hash(one) == hash(same) and one != Piecewise(((0, 1), (1, 0)))
    assert repr(one) == "Piecewise(points=((0.0, 1.0), (1.0, 0.0)), easing='cosine')"
    assert eval(repr(one)) == one


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        constant(1.0).points = ((0, 2),)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "at least one point (progress, value); received none"),
        ((5,), "points are pairs (progress, value), as in ((0, 0.1), (1, 0)); received 5"),
        (((1, 2),), "points are pairs"),
        ((((0, 1, 2),),), "points are pairs"),
        ((((0, "high"),),), "points are pairs"),
        ((((0, 10**400),),), "points are pairs"),
        ((((0, None), (1, 1)),), "points are pairs"),
        ((((0, math.nan),),), "points must be finite numbers; received ((0.0, nan),)"),
        ((((0, 1), (math.inf, 0)),), "points must be finite numbers"),
        ((((0, 1), (0, 2)),), "progress must increase from point to point; received [0.0, 0.0]"),
        ((((0, 1), (1, 2), (0.5, 2)),), "progress must increase"),
        ((((0, 1), (1, 2)), "cosin"), "unknown easing 'cosin': did you mean cosine? Known: cosine, exponential"),
        ((((0, 1),), "cosin"), "unknown easing 'cosin'"),
        ((((0, 1), (1, 2)), ("hold", 3)), "unknown easing 3"),
        ((((0, 1), (1, 2)), ["linear", ["hold"]]), "unknown easing ['hold']"),
        ((((0, 1), (1, 2)), None), "easing is a name, or one for each segment: linear, cosine"),
        ((((0, 1), (1, 2)), ("linear", "hold")), "2 points have 1 segments; received 2 easings"),
        ((((0, 1), (1, 2)), ()), "2 points have 1 segments; received 0 easings"),
        ((((0, 1),), ("linear",)), "1 points have 0 segments; received 1 easings"),
        ((((0, 0), (1, 2)), "exponential"), "two values of the same sign, not zero; received 0.0 and 2.0"),
        ((((0, -1), (1, 2)), "exponential"), "two values of the same sign"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ConfigError) as error:
        Piecewise(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("data", [{}, {"easing": "linear"}, {"points": [[0, 1]], "ease": "linear"}, [[0, 1]], "cosine"])
def test_from_dict_names_what_it_cannot_read(data):
    with pytest.raises(ConfigError, match=r"a schedule is .*received"):
        Piecewise.from_dict(data)


quick = settings(deadline=None, database=None, max_examples=60)
values = st.floats(1e-9, 1e6)
grid = st.integers(-1000, 2000).map(lambda i: i / 1000)


@st.composite
def schedules(draw):
    progress = sorted(draw(st.lists(grid, min_size=1, max_size=6, unique=True)))
    points = tuple((x, draw(values)) for x in progress)
    names = st.sampled_from(sorted(EASINGS))
    one = draw(st.booleans())
    return Piecewise(points, draw(names) if one else tuple(draw(names) for _ in points[1:]))


@quick
@given(schedules(), st.floats(-3, 3))
def test_values_stay_within_those_of_the_points(schedule, x):
    levels = [value for _, value in schedule.points]
    assert min(levels) * (1 - 1e-9) <= schedule(x) <= max(levels) * (1 + 1e-9)


@quick
@given(schedules())
def test_every_point_is_hit_exactly(schedule):
    for x, value in schedule.points:
        assert schedule(x) == value
    assert schedule(-10) == schedule.points[0][1] and schedule(10) == schedule.points[-1][1]


@quick
@given(schedules())
def test_each_segment_is_monotone(schedule):
    for (p, a), (q, b) in pairwise(schedule.points):
        inside = [schedule(p + (q - p) * i / 20) for i in range(20)] + [b]
        slack = 1e-9 * max(a, b)
        assert all((v - u) * (1 if b >= a else -1) >= -slack for u, v in pairwise(inside))


@quick
@given(schedules())
def test_it_survives_a_configuration_file_and_a_pickle(schedule):
    from_file = Piecewise.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert from_file == schedule and type(from_file.easing) is type(schedule.easing)
    unpickled = pickle.loads(pickle.dumps(schedule))
    assert unpickled == schedule and unpickled(0.37) == from_file(0.37) == schedule(0.37)

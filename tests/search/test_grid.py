"""Which peaks are tried: every policy gets its own, from the same number of trials."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from onecycle.search.grid import ROUNDS, another, at_edge, best, grid, next_round, tuned


def hill(top: float):
    """A score that is best at `top`, as flat around it as curves of peaks are."""
    return lambda lr: (-(math.log(lr / top) ** 2),)


def test_a_grid_has_ratio_two_about_its_centre():
    for n in (3, 4, 5):
        rates = grid(0.3, n)
        assert len(rates) == n
        assert all(b / a == pytest.approx(2, rel=0.01) for a, b in pairwise(rates))
        assert math.prod(rates) ** (1 / n) == pytest.approx(0.3, rel=0.01)


def test_the_edge_and_what_comes_next():
    rising = {0.1: (0.7,), 0.2: (0.8,), 0.4: (0.9,)}
    assert (best(rising), at_edge(rising), another(rising)) == (0.4, True, 0.8)
    assert another({0.1: (0.9,), 0.2: (0.8,)}) == 0.05
    # the failed neighbour is the worse one
    assert another({0.1: (0.8,), 0.2: (0.9,), 0.4: None}) == pytest.approx(math.sqrt(0.02), rel=0.01)
    assert best({0.1: (0.9,), 0.2: (0.9,)}) == 0.1
    assert best({0.1: (0.9, -0.5), 0.2: (0.9, -0.4)}) == 0.2
    assert best({0.1: None}) is None and at_edge({0.1: None})


@pytest.mark.parametrize("top", [0.02, 0.1, 0.9, 3.0])
def test_a_peak_far_from_the_centre_is_found_and_no_policy_gets_more_trials(top: float):
    tops = {"one_cycle": top, "step": 0.1, "constant": 0.03}
    made: list[tuple[str, float]] = []

    def try_all(wanted):
        made.extend((key, lr) for key, rates in wanted.items() for lr in rates)
        return {key: {lr: hill(tops[key])(lr) for lr in rates} for key, rates in wanted.items()}

    trials = tuned([list(tops)], dict.fromkeys(tops, 0.1), 5, try_all)
    assert len({len(found) for found in trials.values()}) == 1
    assert len(made) == len(set(made)) == sum(map(len, trials.values()))
    for key, found in trials.items():
        assert not at_edge(found)
        assert 1 / 2 < best(found) / tops[key] < 2


def test_extension_ends_after_some_rounds():
    def try_all(wanted):
        return {key: {lr: (lr,) for lr in rates} for key, rates in wanted.items()}

    trials = tuned([["a"]], {"a": 0.1}, 3, try_all)
    assert len(trials["a"]) == 3 + ROUNDS and at_edge(trials["a"])
    assert next_round([trials["a"]], ROUNDS) is None


def test_a_group_that_is_decided_gets_no_more():
    calls = []

    def try_all(wanted):
        calls.append(set(wanted))
        return {key: {lr: hill({"a": 0.1, "b": 0.1, "c": 0.9}[key])(lr) for lr in rates}
                for key, rates in wanted.items()}  # fmt: skip

    tuned([["a"], ["b", "c"]], dict.fromkeys("abc", 0.1), 3, try_all)
    assert calls[0] == {"a", "b", "c"} and all(call == {"b", "c"} for call in calls[1:]) and len(calls) > 2

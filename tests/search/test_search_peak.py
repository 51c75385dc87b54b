"""Which pilots are made, and which peak they speak for: by losses made up as formulas of the peak."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle.search.peak import EVIDENCE, FACTOR, LEAST, WAY, Levels, choose, length, search_peak
from onecycle.search.pilots import Pilot

KINDS = sorted(LEAST)


def pilot(lr: float, loss: float | None) -> Pilot:
    return Pilot(lr, 50, loss, lost=None if loss is not None else "the loss was lost")


def chosen(losses: dict[float, float | None], *, nothing: float = 2.0, kind: str = "gradient", default: float = 0.1):
    return choose([pilot(lr, loss) for lr, loss in losses.items()], default, Levels(nothing, 1.05 * nothing), kind)


def test_the_default_stays_where_it_is_best():
    choice = chosen({0.1: 1.0, 0.0333: 1.2, 0.3: 1.1})
    assert choice.lr_max == 0.1 and choice.low < 0.1 < choice.high and choice.reason == "no other pilot was better"


def test_clear_evidence_moves_the_peak_a_part_of_the_way():
    choice = chosen({0.1: 1.5, 0.0333: 1.8, 0.3: 1.0})
    assert choice.lr_max == pytest.approx(0.1 * 3**WAY, rel=0.01)
    assert choice.reason == "0.3 came to a held-out loss of 1, the default 0.1 came to 1.5"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_that_is_no_evidence_does_not(kind: str):
    """ln(2 / 1) is learned, and all but the evidence of it at the default too."""
    better = 2 ** -(1 - 0.98 * EVIDENCE[kind]) * 2
    assert chosen({0.1: better, 0.0333: 1.9, 0.3: 1.0}, kind=kind).lr_max == 0.1
    worse = 2 ** -(1 - 1.02 * EVIDENCE[kind]) * 2
    assert chosen({0.1: worse, 0.0333: 1.9, 0.3: 1.0}, kind=kind).lr_max > 0.1


def test_a_default_that_learned_nothing_is_left_for_all_of_the_way():
    assert chosen({0.1: 2.5, 0.0333: 1.0, 0.3: 9.0}).lr_max == pytest.approx(0.1 / 3, rel=0.15)
    choice = chosen({0.1: None, 0.0333: 1.0, 0.3: None})
    assert choice.lr_max == 0.0333 and choice.reason.endswith("the default 0.1 learned nothing")


def test_a_net_at_chance_is_lost_whatever_its_loss_does():
    """The loss falls from where it began, and is not below that of knowing nothing."""
    choice = chosen({0.1: 2.1, 0.0333: 2.4, 0.3: 1.999})
    assert choice.lr_max == 0.1 and choice.reason == "no pilot learned anything yet"


def test_where_all_are_lost_it_goes_further_down():
    tried = []

    def run(lr: float, updates: int) -> Pilot:
        tried.append(lr)
        return pilot(lr, 1.0 if lr < 0.005 else None)

    choice = search_peak(run, lambda: Levels(2.0, 2.1), 0.1, 20, "gradient")
    assert tried == pytest.approx([0.1, 0.1 / 3, 0.3, 0.1 / 9, 0.1 / 27]) and choice.lr_max == pytest.approx(
        0.0037, rel=0.01
    )
    lost = search_peak(lambda lr, updates: pilot(lr, None), lambda: Levels(2.0, 2.1), 0.1, 20, "gradient")
    assert lost.low is None and "every pilot was lost" in lost.reason


@pytest.mark.parametrize(
    ("best", "most", "tried"),
    [
        (2.7, 6, [0.1, 0.1 / 3, 0.3, 0.9, 2.7, 8.1]),  # one beyond the best
        (0.9, 6, [0.1, 0.1 / 3, 0.3, 0.9, 2.7]),
        (0.9, 4, [0.1, 0.1 / 3, 0.3, 0.9]),  # no more than may be
        (0.1, 6, [0.1, 0.1 / 3, 0.3]),
    ],
)
def test_from_a_foreign_default_that_learned_nothing_it_goes_further_up(best: float, most: int, tried: list[float]):
    made = []

    def run(lr: float, updates: int) -> Pilot:
        made.append(lr)
        return pilot(lr, {True: 1.0, False: 1.999 if lr < best else 1.5}[lr == pytest.approx(best)])

    choice = search_peak(run, lambda: Levels(2.0, 2.0), 0.1, 30, "adaptive", most, foreign=True)
    assert made == pytest.approx(tried)
    assert choice.lr_max > 0.2 if best > 0.1 else choice.lr_max == 0.1
    made.clear()
    search_peak(run, lambda: Levels(2.0, 2.0), 0.1, 30, "adaptive", most)
    assert len(made) == 3


def test_a_foreign_default_above_which_all_are_lost_is_left_where_it_is():
    made = []

    def run(lr: float, updates: int) -> Pilot:
        made.append(lr)
        return pilot(lr, 2.0 if lr < 0.2 else None)

    assert search_peak(run, lambda: Levels(2.0, 2.0), 0.1, 30, "adaptive", foreign=True).lr_max == 0.1
    assert len(made) == 3


@given(st.floats(-1.5, 1.5), st.floats(0.2, 2.0), st.sampled_from(KINDS))
def test_it_moves_towards_the_minimum_and_never_past_it(way: float, bend: float, kind: str):
    """A log loss that is a parabola of the log peak, with its minimum at so many factors of 3."""
    losses = {0.1 * FACTOR**x: 0.01 * math.exp(bend * (x - way) ** 2) for x in (0, -1, 1)}
    moved = math.log(chosen(losses, kind=kind).lr_max / 0.1, FACTOR)
    # A gain that is clear moves it by 0.6 at least.
    assert abs(moved) <= abs(way) + 0.05 and moved * way >= -1e-9 and abs(moved) <= 1 + 0.01


@given(st.integers(1, 10**7), st.floats(0.0, 0.5), st.sampled_from(KINDS))
def test_pilots_stay_inside_what_is_allowed(updates: int, share: float, kind: str):
    allowed = int(share * updates)
    each = length(updates, allowed, kind)
    assert each == 0 or (each >= LEAST[kind] and 3 * each + 4 * each // 4 <= allowed and each <= updates / 60)


def test_negative_losses_are_compared_as_they_are():
    assert chosen({0.1: -5.0, 0.0333: -3.0, 0.3: -9.0}, nothing=0.0).lr_max > 0.1

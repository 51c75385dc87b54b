"""A policy over a time as a scheduler."""

from __future__ import annotations

import copy
import gc
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD

from onecycle import Piecewise, Policy
from onecycle.adapters.timed import TimedScheduler
from onecycle.adapters.torch import PolicyScheduler
from onecycle.errors import CheckpointError, ConfigError

LINE = Policy({"lr": Piecewise(((0, 1.0), (1, 0.0)))})


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands, unless its hand is moved."""
    hand = SimpleNamespace(at=1000.0)
    monkeypatch.setattr("onecycle.adapters.timed.time", SimpleNamespace(monotonic=lambda: hand.at))
    return hand


def sgd() -> SGD:
    return SGD([nn.Parameter(torch.zeros(2))], lr=0.3)


def used(scheduler: TimedScheduler) -> float:
    scheduler.optimizer.step()
    return scheduler.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "ten", None, True])
def test_no_time_above_0_is_refused_and_leaves_the_optimizer_free(seconds):
    optimizer = sgd()
    with pytest.raises(ConfigError, match=f"seconds is the time of the whole run, .* above 0.*; received {seconds!r}"):
        TimedScheduler(optimizer, LINE, seconds)
    assert used(TimedScheduler(optimizer, LINE, 1e9)) == pytest.approx(1.0)


def test_no_optimizer_and_no_policy_are_refused():
    with pytest.raises(ConfigError, match=r"an optimizer of torch, .* received Linear"):
        TimedScheduler(nn.Linear(1, 1), LINE, 10)
    with pytest.raises(ConfigError, match=r"policy is a Policy, .* received 0\.1"):
        TimedScheduler(sgd(), 0.1, 10)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_a_copy_goes_on_from_the_time_that_had_passed_on_its_own_optimizer(clock, how):
    scheduler = TimedScheduler(sgd(), LINE, 10)
    clock.at += 4
    again = how(scheduler)
    clock.at += 1
    assert again.optimizer is not scheduler.optimizer and again.seconds == 5
    assert used(again) == used(scheduler) == 0.5
    scheduler.detach()
    clock.at += 1
    assert used(scheduler) == 0.5 and used(again) == pytest.approx(0.4)


def test_a_pickle_of_another_machine_does_not_go_by_its_clock(clock):
    scheduler = TimedScheduler(sgd(), LINE, 10)
    clock.at += 4
    kept = pickle.dumps(scheduler)
    clock.at = 3.0
    assert used(pickle.loads(kept)) == pytest.approx(0.6)


def test_a_shallow_copy_does_not_write_beside_the_first(clock):
    scheduler = TimedScheduler(sgd(), LINE, 10)
    twin = copy.copy(scheduler)
    twin.load_state_dict({"seconds": 9.0, "budget": 10.0})
    assert used(scheduler) == 1.0


def test_the_optimizer_does_not_keep_it_alive(clock):
    optimizer = sgd()
    TimedScheduler(optimizer, LINE, 10)
    gc.collect()
    clock.at += 5
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0
    PolicyScheduler(optimizer, LINE, 10).detach()


def test_it_goes_on_from_its_state_and_another_time_is_said(clock):
    first = TimedScheduler(sgd(), LINE, 10)
    clock.at += 4
    state = first.state_dict()
    assert state == {"seconds": 4.0, "budget": 10.0}
    clock.at += 100
    second = TimedScheduler(sgd(), LINE, 10)
    second.load_state_dict(state)
    second.step()
    assert used(second) == pytest.approx(0.6)
    longer = TimedScheduler(sgd(), LINE, 40)
    longer.load_state_dict(state)
    assert used(longer) == pytest.approx(0.9)
    with pytest.warns(UserWarning, match="after 4 s of 10 s, and this training has 40 s in all") as caught:
        longer.step()
    assert len(caught) == 1 and caught[0].filename == __file__
    longer.step()


@pytest.mark.parametrize("state", [None, [1], {}, {"seconds": -4}, {"seconds": "4"}, {"seconds": 4, "budget": None}])
def test_what_is_no_state_is_refused(clock, state):
    scheduler = TimedScheduler(sgd(), LINE, 10)
    with pytest.raises(CheckpointError, match=r'saved as {"seconds": 90.0, .*begin without it. Received'):
        scheduler.load_state_dict(state)
    assert scheduler.seconds == 0


def test_the_state_of_a_policy_over_updates_is_refused_with_both_named(clock):
    over_updates = PolicyScheduler(sgd(), LINE, 20, last_epoch=2)
    with pytest.raises(CheckpointError, match="over updates, at update 3 of 20, and this one is over a time, 10 s"):
        TimedScheduler(sgd(), LINE, 10).load_state_dict(over_updates.state_dict())

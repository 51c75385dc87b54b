"""A policy that drives the optimizer of a loop of one's own."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from optim_makers import CYCLED, column, parameter
from torch.optim import SGD

from onecycle.errors import CheckpointError, ConfigError
from onecycle.optim.driver import Driver
from onecycle.schedules.policy import Policy
from onecycle.schedules.presets import linear, one_cycle


def drive(driver: Driver, steps: int) -> list[float]:
    used = []
    for _ in range(steps):
        driver.optimizer.step()
        used.append(driver.optimizer.param_groups[0]["lr"])
    return used


def test_each_step_uses_the_values_of_its_position():
    optimizer = SGD([parameter()], lr=9.0, momentum=0.9)
    driver = Driver(CYCLED, optimizer, 5)
    assert driver.values == {"lr": 1, "momentum": 0.8}
    weight = optimizer.param_groups[0]["params"][0]
    optimizer.step()
    assert weight.tolist() == [0, 0] and driver.position == 1  # 1 - lr 1 * gradient 1
    assert driver.values == {"lr": 0.75, "momentum": pytest.approx(0.7)}
    assert drive(driver, 4) == [0.75, 0.5, 0.25, 0]
    assert driver.values["lr"] == 0


def test_one_update_uses_the_first_value():
    assert drive(Driver(one_cycle(1.0), SGD([parameter()], lr=9.0), 1), 1) == [0.1]


@pytest.mark.filterwarnings("ignore:update 4 of a policy over 3")
def test_past_the_end_a_curve_that_goes_on_is_not_followed():
    driver = Driver(Policy({"lr": lambda x: 1 + x}), SGD([parameter()], lr=1.0), 3)
    assert drive(driver, 5) == [1, 1.5, 2, 2, 2] and driver.values == {"lr": 2}


def test_accumulating_batches_do_not_move_it():
    optimizer = SGD([parameter()], lr=1.0)
    driver = Driver(linear(1.0), optimizer, 3)
    weight, used = optimizer.param_groups[0]["params"][0], []
    for batch in range(12):
        (weight.sum() / 4).backward()
        if batch % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            used.append(optimizer.param_groups[0]["lr"])
    assert used == [1, 0.5, 0] and driver.position == 3


def test_a_closure_counts_once():
    optimizer = SGD([parameter()], lr=1.0)
    driver = Driver(linear(1.0), optimizer, 3)
    optimizer.step(lambda: torch.tensor(1.0))
    assert driver.position == 1


def test_a_step_that_fails_does_not_move_it():
    class Failing(SGD):
        def step(self, closure=None):
            raise RuntimeError("out of memory")

    driver = Driver(linear(1.0), Failing([parameter()], lr=1.0), 3)
    with pytest.raises(RuntimeError, match="out of memory"):
        driver.optimizer.step()
    assert driver.position == 0


def test_two_cycles_one_after_the_other_run_at_their_own_peaks():
    optimizer = SGD([{"params": [parameter()], "lr": lr} for lr in (0.1, 0.01)])
    for peak in (1.0, 0.5):
        driver = Driver(linear(peak), optimizer, 3)
        assert drive(driver, 3) == [peak, peak / 2, 0]
        driver.detach()
        assert column(optimizer, "lr_ratio") == [1, pytest.approx(0.1)]


def test_a_second_policy_on_one_optimizer_is_refused():
    optimizer = SGD([parameter()], lr=1.0)
    driver = Driver(linear(1.0), optimizer, 3)
    with pytest.raises(ConfigError, match=r"a policy attached, by a Driver, and two .* call its detach\(\)"):
        Driver(linear(0.5), optimizer, 3)
    assert drive(driver, 1) == [1]


def test_detach_lets_go():
    optimizer = SGD([parameter()], lr=1.0)
    driver = Driver(linear(1.0), optimizer, 3)
    drive(driver, 2)
    driver.detach()
    driver.detach()
    assert drive(driver, 2) == [0.5, 0.5] and driver.position == 2


@pytest.mark.parametrize("updates", [0, -3, 2.0, True, None, "10"])
def test_the_number_of_updates_is_a_count(updates):
    optimizer = SGD([parameter()], lr=1.0)
    with pytest.raises(ConfigError, match="updates of the whole run, a whole number of at least 1; received"):
        Driver(linear(1.0), optimizer, updates)
    Driver(linear(1.0), optimizer, 1)  # the failure left nothing behind


def test_a_refused_policy_leaves_the_optimizer_as_it_was():
    optimizer = SGD([parameter()], lr=1.0)
    with pytest.raises(ConfigError, match="no parameter group has 'beta3'"):
        Driver(Policy({"lr": 0.1, "beta3": 0.5}), optimizer, 3)
    drive(Driver(linear(1.0), optimizer, 1), 1)


@pytest.mark.parametrize("state", [{}, {"position": None}, {"position": -1}, {"position": True}, {"step": 3}, 4, None])
def test_a_foreign_state_is_refused_and_changes_nothing(state):
    driver = Driver(linear(1.0), SGD([parameter()], lr=1.0), 3)
    drive(driver, 1)
    with pytest.raises(CheckpointError, match=r"saved as \{\"position\": updates applied\}; received"):
        driver.load_state_dict(state)
    assert driver.position == 1


def test_a_longer_run_can_go_on_from_a_shorter_one():
    driver = Driver(linear(1.0), SGD([parameter()], lr=1.0), 11)
    driver.load_state_dict({"position": 5})
    assert drive(driver, 2) == [0.5, pytest.approx(0.4)]


def test_an_optimizer_at_work_can_be_copied_and_pickled():
    optimizer = SGD([parameter()], lr=1.0)
    drive(Driver(linear(1.0), optimizer, 3), 2)
    twin = copy.deepcopy(optimizer)
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    assert torch.load(saved, weights_only=True)["param_groups"] == twin.state_dict()["param_groups"]
    assert drive(Driver(linear(0.3), twin, 1), 1) == [0.3] and column(optimizer, "lr") == [0.5]


def test_an_optimizer_that_is_driven_is_not_kept_alive():
    optimizer = SGD([parameter()], lr=0.1)
    driver, known = Driver(linear(0.1), optimizer, 3), weakref.ref(optimizer)
    del optimizer, driver
    gc.collect()
    assert known() is None

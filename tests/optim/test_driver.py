"""A policy that drives the optimizer of a loop of one's own."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from optim_makers import CYCLED, column, parameter
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from onecycle import range_test
from onecycle.errors import CheckpointError, ConfigError
from onecycle.optim.driver import Driver, attached, inner
from onecycle.schedules.piecewise import Piecewise
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


def used(driver: Driver, order: list[int]) -> list[float]:
    """The first learning rate of each optimizer that steps, in this order."""
    return [drive_one(driver.optimizers[i]) for i in order]


def drive_one(optimizer: torch.optim.Optimizer) -> float:
    optimizer.step()
    return optimizer.param_groups[0]["lr"]


def pair(policy: Policy = CYCLED, updates: int = 3) -> Driver:
    return Driver(policy, [SGD([parameter()], lr=0.2), SGD([parameter()], lr=0.02, momentum=0.9)], updates)


@pytest.mark.parametrize("order", [[0, 1] * 3, [1, 0] * 3, [0, 1, 1, 0, 0, 1]])
def test_of_several_optimizers_an_update_is_a_step_of_each_and_their_rates_keep_their_proportion(order):
    driver = pair()
    lrs = used(driver, order)
    firsts, seconds = ([lr for i, lr in zip(order, lrs, strict=True) if i == j] for j in (0, 1))
    assert firsts == [1, 0.5, 0] and seconds == pytest.approx([0.1, 0.05, 0]) and driver.position == 3
    assert driver.optimizer is driver.optimizers[0]


def test_an_optimizer_that_steps_again_begins_an_update_and_others_join_it():
    driver = pair(updates=7)
    lrs = used(driver, [1, 1, 1, 0, 1, 1, 1, 0])
    assert lrs == pytest.approx([0.1, 5 / 60, 4 / 60, 4 / 6, 0.05, 2 / 60, 1 / 60, 1 / 6]) and driver.position == 6


@pytest.mark.parametrize("done", [3, 4, 5])
def test_several_optimizers_go_on_from_a_state_even_within_an_update(done):
    order = [1, 1, 0, 1, 1, 0, 1]
    expected = used(pair(updates=6), order)
    broken_off = pair(updates=6)
    used(broken_off, order[:done])
    state = torch.load(saved(broken_off.state_dict()), weights_only=True)
    resumed = Driver(CYCLED, [SGD([parameter()], lr=0.0), SGD([parameter()], lr=5.0)], 6)
    resumed.load_state_dict(state)
    assert used(resumed, order[done:]) == expected[done:]


@pytest.mark.parametrize("state", [{"position": 1}, {"position": 1, "scales": [1.0]}, {"position": 1, "scales": "ab"}])
def test_a_state_of_another_number_of_optimizers_is_refused(state):
    with pytest.raises(CheckpointError, match="scales and what stepped of 2 optimizers"):
        pair().load_state_dict(state)


def test_a_function_of_the_updates_applied_tells_the_progress():
    optimizer = SGD([parameter()], lr=1.0)
    driver = Driver(Policy({"lr": lambda progress: progress}), optimizer, lambda applied: applied / 2 - 0.5)
    assert drive(driver, 5) == [0, 0, 0.5, 1, 1] and driver.position == 5


def test_values_can_be_written_before_an_update():
    driver = pair()
    driver.write()
    assert [one.param_groups[0]["lr"] for one in driver.optimizers] == pytest.approx([1, 0.1]) and driver.position == 0


@pytest.mark.parametrize("optimizers", [[], ["sgd"]])
def test_what_is_no_optimizer_is_refused(optimizers):
    with pytest.raises(ConfigError, match="a torch optimizer, or several; received"):
        Driver(linear(1.0), optimizers, 3)


def test_where_one_of_several_is_driven_already_none_is_attached():
    taken, free = SGD([parameter()], lr=1.0), SGD([parameter()], lr=1.0)
    driver = Driver(linear(1.0), taken, 3)
    with pytest.raises(ConfigError, match="already has a policy attached"):
        Driver(linear(1.0), [free, taken], 3)
    assert drive(driver, 1) == [1] and drive(Driver(linear(0.5), free, 3), 1) == [0.5]


def saved(state: object) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


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


class Wrapped(Optimizer):
    """An optimizer around another, which has no hooks of its own: as Accelerate's is."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_what_is_around_an_optimizer_is_looked_into():
    optimizer = SGD([parameter()], lr=1.0)
    outer = Wrapped(Wrapped(optimizer))
    assert inner(outer) is optimizer is inner(optimizer)
    driver = Driver(linear(1.0), outer, 3)
    outer.step()
    assert driver.position == 1 and attached(optimizer) is driver
    with pytest.raises(ConfigError, match="policy is attached"):
        range_test(lambda batch: outer.step(), outer, [torch.ones(2)] * 4)
    with pytest.raises(ConfigError, match=r"an optimizer of torch, .* received 3"):
        inner(3)


def test_several_optimizers_keep_their_proportion_in_a_second_cycle_after_an_end_at_zero():
    first = pair()
    used(first, [0, 1] * 3)
    assert [column(one, "lr") for one in first.optimizers] == [[0], [0]]
    second = Driver(CYCLED, first.optimizers, 3)
    assert second.state_dict()["scales"] == pytest.approx([1, 0.1])
    assert used(second, [0, 1] * 3) == pytest.approx([1, 0.1, 0.5, 0.05, 0, 0])
    alone = Driver(CYCLED, first.optimizers[1], 3)
    assert drive(alone, 3) == [1, 0.5, 0]  # whose policy is for it alone


def test_a_second_cycle_has_the_proportion_that_was_loaded():
    state = pair().state_dict()
    optimizers = [SGD([parameter()], lr=1.0), SGD([parameter()], lr=1.0)]
    resumed = Driver(CYCLED, optimizers, 3)
    resumed.load_state_dict(state)
    used(resumed, [0, 1] * 3)
    assert Driver(CYCLED, optimizers, 3).state_dict()["scales"] == pytest.approx([1, 0.1])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("by_closure", [False, True])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_another_scheduler_that_sets_the_learning_rate_to_zero_takes_no_update(sparse, by_closure):
    optimizer = SGD([weight := nn.Parameter(torch.zeros(2))], lr=1.0)
    driver = Driver(linear(1.0), optimizer, 8)
    theirs = CosineAnnealingLR(optimizer, 4)  # 0 at its end, after four updates

    def closure():
        weight.grad = torch.ones(2).to_sparse() if sparse else torch.ones(2)
        return torch.tensor(1.0)

    used, zeros = [], 0
    for _ in range(8):
        weight.grad = None
        if not by_closure:
            closure()
        zeros += column(optimizer, "lr") == [0]
        optimizer.step(closure if by_closure else None)
        used += column(optimizer, "lr")
        theirs.step()
    assert driver.position == 8 and used == pytest.approx([1 - k / 7 for k in range(8)]) and zeros > 0


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize(("start", "steps"), [(0.0, 1), (0.0, 2), (0.5, 2)])
def test_a_step_that_distributed_checkpoints_make_to_load_an_optimizer_is_no_update(lr, start, steps):
    """It has no gradients, at a learning rate of 0: torch.distributed.checkpoint.state_dict."""
    net, policy = nn.Linear(2, 1), Policy({"lr": Piecewise(((0, start), (1, 1.0)))})

    def made():
        optimizer = AdamW(net.parameters(), lr=copy.deepcopy(lr), weight_decay=0.5)
        return optimizer, Driver(policy, optimizer, 5)

    def rates(optimizer, steps):
        for _ in range(steps):
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            yield float(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()

    optimizer, driver = made()
    whole = [policy(k / 4)["lr"] for k in range(5)]
    assert list(rates(optimizer, steps)) == pytest.approx(whole[:steps])
    saved, position = get_optimizer_state_dict(net, optimizer), driver.state_dict()
    weights = [p.clone() for p in net.parameters()]
    optimizer, driver = made()
    driver.load_state_dict(position)
    set_optimizer_state_dict(net, optimizer, saved)
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert driver.state_dict() == position
    assert list(rates(optimizer, 5 - steps)) == pytest.approx(whole[steps:])

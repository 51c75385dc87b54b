"""A policy as a scheduler of torch: what users of others ran into, and what torch itself asks for."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

import onecycle
from onecycle import Driver, Piecewise, Policy, range_test
from onecycle.adapters.torch import PolicyScheduler
from onecycle.errors import CheckpointError, ConfigError
from onecycle.schedules import presets

POLICY = presets.fastai(0.05)


@pytest.fixture(autouse=True)
def _no_ends_are_told(monkeypatch, request):
    """Most tests leave their schedulers in the middle of a cycle: the warning of that has tests of its own."""
    if "told" not in request.fixturenames:
        monkeypatch.setattr("onecycle.adapters.place.ENDED", 0.0)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(2))


def line(lr: float = 1.0) -> Policy:
    return Policy({"lr": Piecewise(((0, lr), (1, 0.0)))})


def values(optimizer: Optimizer) -> list[tuple[float, ...]]:
    """Learning rate and momenta of every group."""
    groups = optimizer.param_groups
    return [(float(g["lr"]), *map(float, g["betas"] if "betas" in g else (g["momentum"],))) for g in groups]


def update(optimizer: Optimizer, k: int = 0) -> list[tuple[float, ...]]:
    """One update; what it used."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 0.1 * (k + 1))
    optimizer.step()
    return values(optimizer)


def sgd() -> Optimizer:
    return SGD([{"params": [parameter()], "lr": 0.01}, {"params": [parameter()], "lr": 0.1}], momentum=0.9)


def adamw() -> Optimizer:
    return AdamW([{"params": [parameter()], "lr": 0.01}, {"params": [parameter()], "lr": 0.1}], betas=(0.9, 0.99))


def adamw_with_tensors() -> Optimizer:
    return AdamW([parameter()], lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.99)))


def test_it_is_a_scheduler_of_torch_and_holds_what_the_next_update_uses():
    optimizer = sgd()
    scheduler = PolicyScheduler(optimizer, POLICY, 10)
    assert isinstance(scheduler, LRScheduler) and scheduler.optimizer is optimizer
    for k in range(10):
        expected = POLICY(k / 9)
        assert (scheduler.position, scheduler.last_epoch) == (k, k)
        assert scheduler.get_last_lr() == [g["lr"] for g in optimizer.param_groups] == scheduler._last_lr
        assert values(optimizer)[1] == (expected["lr"], expected["momentum"])
        assert values(optimizer)[0][0] == pytest.approx(expected["lr"] / 10)
        update(optimizer)
        scheduler.step()
    assert scheduler.position == scheduler.total == 10
    assert scheduler.base_lrs == [0.01, 0.1]


# 1. T = 10, stepped 12 times: the learning rate stays at its last, one warning, no rebound.


def test_case_1_past_the_end_the_values_stay_with_one_warning():
    optimizer = SGD([parameter()], lr=1.0, momentum=0.9)
    scheduler = PolicyScheduler(optimizer, presets.paper(1.0), 10)
    used = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(12):
            used += update(optimizer)
            scheduler.step()
            assert len(caught) == (k >= 10)
    assert used[9:] == [(0.001, 0.95)] * 3 and values(optimizer) == [(0.001, 0.95)]
    assert (
        str(caught[0].message).startswith("stepped past the end of a schedule over 10")
        and caught[0].filename == __file__
    )


# 2. A checkpoint at step 4 of 10, restored in any load order: the next lr and momentum equal the uninterrupted run's.

ORDERS = [
    o for o in itertools.permutations(("optimizer", "make", "scheduler")) if o.index("make") < o.index("scheduler")
]


@pytest.mark.parametrize("make", [sgd, adamw, adamw_with_tensors])
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
@pytest.mark.parametrize("stop", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("between", [False, True], ids=["after the step", "between update and step"])
def test_case_2_a_checkpoint_restores_the_cycle_in_any_load_order(make, order, stop, between):
    optimizer = make()
    scheduler = PolicyScheduler(optimizer, POLICY, 10)
    saved, uninterrupted = io.BytesIO(), []

    def save():
        torch.save([optimizer.state_dict(), scheduler.state_dict()], saved)

    for k in range(11):
        if k == stop and (k == 0 or not between):
            save()
        if k < 10:
            uninterrupted.append(update(optimizer, k))
            if k + 1 == stop and between:
                save()
            scheduler.step()
    saved.seek(0)
    of_optimizer, of_scheduler = torch.load(saved, weights_only=True)
    optimizer = make()
    for what in order:
        if what == "make":
            scheduler = PolicyScheduler(optimizer, POLICY, 10)
        elif what == "optimizer":
            optimizer.load_state_dict(of_optimizer)
        else:
            scheduler.load_state_dict(of_scheduler)
    for k in range(stop, 10):
        assert scheduler.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
        assert update(optimizer, k) == uninterrupted[k]
        scheduler.step()
    assert scheduler.position == 10


def test_a_step_that_distributed_checkpoints_make_to_load_an_optimizer_is_no_update():
    """It has no gradients, at a learning rate of 0: torch.distributed.checkpoint.state_dict."""
    net = nn.Linear(2, 1)

    def made():
        optimizer = AdamW(net.parameters(), lr=0.1)
        return optimizer, PolicyScheduler(optimizer, line(), 10)

    optimizer, scheduler = made()
    assert update_rates(optimizer, scheduler, 4, net)[-1] == pytest.approx(2 / 3)
    saved = get_optimizer_state_dict(net, optimizer), scheduler.state_dict()
    weights = [p.clone() for p in net.parameters()]
    net.zero_grad()  # where there are gradients, no such step is made
    optimizer, scheduler = made()
    scheduler.load_state_dict(saved[1])
    set_optimizer_state_dict(net, optimizer, saved[0])
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert scheduler.state_dict() == saved[1]
    assert update_rates(optimizer, scheduler, 6, net) == pytest.approx([5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9, 0])


# 3. fp16 with 3 overflows in 10 iterations: position 7, wherever the overflows are.


@pytest.mark.parametrize("fused", [False, True], ids=["skipped by the scaler", "skipped inside the fused step"])
@pytest.mark.parametrize("overflows", [(0, 1, 2), (2, 5, 6), (0, 8, 9), (7, 8, 9)])
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_case_3_overflows_in_fp16_do_not_move_the_position(make, fused, overflows):
    weight = nn.Parameter(torch.ones(2))
    optimizer = make([weight], lr=1.0, fused=fused)
    scheduler = PolicyScheduler(optimizer, line(), 7)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    used = []
    for k in range(10):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (float("inf") if k in overflows else 1.0)).backward()
        scaler.step(optimizer)
        if k not in overflows:
            used.append(optimizer.param_groups[0]["lr"])
        scaler.update()
        scheduler.step()
    assert scheduler.position == 7
    assert used == [line()(k / 6)["lr"] for k in range(7)]


# 4. Accumulation 4, ragged last batch, several steps for one update as Accelerate makes them: the updates count.


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_case_4_batches_that_accumulate_do_not_move_the_position(steps):
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 6)
    used = []
    for _ in range(2):
        for batch in range(11):  # 4 + 4 + 3
            if batch in (3, 7, 10):
                optimizer.step()
                used.append(optimizer.param_groups[0]["lr"])
            for _ in range(steps):
                scheduler.step()
    assert scheduler.position == 6
    assert used == [line()(k / 5)["lr"] for k in range(6)]


# 10. AdamW with tensor lr, three betas, and a group added mid-cycle.


class ThreeBetas(AdamW):
    """Adam with a third beta, which its step does not use."""

    def __init__(self, params, lr, betas):
        super().__init__(params, lr=lr, betas=betas[:2])
        for group in self.param_groups:
            group["betas"] = betas
        self.defaults["betas"] = betas

    def step(self, closure=None):
        return None


def test_case_10_tensors_in_place_three_betas_and_a_group_added_in_the_middle():
    rate = torch.tensor(0.1)
    optimizer = ThreeBetas([parameter()], rate, (0.9, 0.99, 0.5))
    scheduler = PolicyScheduler(optimizer, POLICY, 10)
    used = []
    for k in range(10):
        if k == 4:
            optimizer.add_param_group({"params": [parameter()], "lr": torch.tensor(0.3)})
        used.append(update(optimizer))
        scheduler.step()
        assert scheduler.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
    for k, groups in enumerate(used):
        expected = POLICY(k / 9)
        for lr, *betas in groups:
            assert (lr, *betas) == pytest.approx((expected["lr"], expected["momentum"], 0.99, 0.5), rel=1e-6)
        assert len(groups) == 1 + (k >= 4), "the first update after a group is added has it on the schedule"
    assert optimizer.param_groups[0]["lr"] is rate, "written in place"
    saved = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], saved)
    saved.seek(0)
    again = PolicyScheduler(ThreeBetas([parameter()], 0.1, (0.9, 0.99, 0.5)), POLICY, 10)
    again.load_state_dict(torch.load(saved, weights_only=True)[1])
    assert again.position == 10


# What moves it


def test_it_moves_tentatively_until_the_first_update():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 5)
    plotted = []
    for _ in range(5):
        plotted += scheduler.get_last_lr()
        scheduler.step()
    assert plotted == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert update_rates(optimizer, scheduler, 5) == plotted and scheduler.position == 5


def update_rates(
    optimizer: Optimizer, scheduler: LRScheduler, updates: int, net: nn.Module | None = None
) -> list[float]:
    """The learning rates of the first group in a loop as people write it."""
    used = []
    for _ in range(updates):
        if net is not None:
            net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        used.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return used


def test_a_loop_that_steps_the_scheduler_first_skips_no_value():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 3)
    used = []
    for _ in range(3):
        scheduler.step()
        optimizer.step()
        used.append(optimizer.param_groups[0]["lr"])
    assert used == [1.0, 0.5, 0.0]


def test_many_steps_before_the_first_update_are_said():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 101)
    for _ in range(30):
        scheduler.step()
    with pytest.warns(UserWarning, match="stepped 30 times before the first update, .* the values of position 0"):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_once_an_epoch_goes_by_epochs_and_is_said_once():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 5)
    used = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            for _ in range(12):
                used += update(optimizer)[0][:1]
            scheduler.step()
    assert used == [lr for lr in (1.0, 0.75, 0.5, 0.25, 0.0) for _ in range(12)]
    assert [str(w.message).split(":")[0] for w in caught] == ["stepped once after 12 updates"]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("epoch", [0, 3, 7])
def test_a_given_position_is_taken(epoch):
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 11)
    scheduler.step(epoch)
    assert update_rates(optimizer, scheduler, 2) == pytest.approx([1 - epoch / 10, 0.9 - epoch / 10])
    with pytest.raises(ConfigError, match=r"epoch is a whole number of at least 0; received -1"):
        scheduler.step(-1)
    begun = SGD([parameter()], lr=1.0)
    assert PolicyScheduler(begun, line(), 11, last_epoch=epoch - 1).position == epoch
    assert begun.param_groups[0]["lr"] == 1 - epoch / 10


# One at a time


def test_two_on_one_optimizer_are_refused_until_one_lets_go_or_has_ended():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 3)
    before = copy.deepcopy(optimizer.param_groups)
    for another in (lambda: PolicyScheduler(optimizer, line(0.5), 3), lambda: Driver(line(0.5), optimizer, 3)):
        with pytest.raises(ConfigError, match=r"attached, by a PolicyScheduler, .* call its detach\(\) first"):
            another()
    with pytest.raises(ConfigError, match=r"call its detach\(\) before a range test"):
        range_test(lambda batch: optimizer.step(), optimizer, [1])
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in before]
    scheduler.detach()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 1.0
    second = PolicyScheduler(optimizer, line(0.5), 2)
    assert update_rates(optimizer, second, 2) == [0.5, 0.0]
    third = PolicyScheduler(optimizer, line(0.2), 3)
    assert update_rates(optimizer, third, 3) == [0.2, 0.1, 0.0]
    second.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    driver = Driver(line(0.7), optimizer, 1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.7 and driver.finished
    PolicyScheduler(optimizer, line(0.3), 3)
    assert optimizer.param_groups[0]["lr"] == 0.3


# What torch asks for


def test_torch_chains_it_after_a_warm_up():
    optimizer = SGD([parameter()], lr=1.0)
    warm = LinearLR(optimizer, 0.5, total_iters=2)
    ours = PolicyScheduler(optimizer, line(), 3)
    both = SequentialLR(optimizer, [warm, ours], [2])
    assert update_rates(optimizer, both, 5) == [0.5, 0.75, 1.0, 0.5, 0.0]


def test_a_group_added_in_a_warm_up_before_it_stays_with_the_warm_up():
    optimizer = SGD([parameter()], lr=1.0)
    warm = ConstantLR(optimizer, 0.5, total_iters=10)
    ours = PolicyScheduler(optimizer, line(), 3)
    both = SequentialLR(optimizer, [warm, ours], [2])
    optimizer.add_param_group({"params": [parameter()], "lr": 0.25})
    optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.25]
    both.step()
    assert update_rates(optimizer, both, 4) == [0.5, 1.0, 0.5, 0.0]
    assert optimizer.param_groups[1]["lr"] == 0.0


def test_torch_chains_another_after_it():
    optimizer = SGD([parameter()], lr=1.0)
    ours = PolicyScheduler(optimizer, line(), 3)
    rest = ConstantLR(optimizer, 0.25, total_iters=100)
    both = SequentialLR(optimizer, [ours, rest], [3])
    assert update_rates(optimizer, both, 5) == [1.0, 0.5, 0.0, 0.25, 0.25]


def test_torch_steps_it_in_a_chain():
    optimizer = SGD([parameter()], lr=1.0)
    chained = ChainedScheduler([PolicyScheduler(optimizer, line(), 3)], optimizer)
    assert update_rates(optimizer, chained, 3) == [1.0, 0.5, 0.0]


def led() -> tuple[Optimizer, SequentialLR]:
    optimizer = sgd()
    return optimizer, SequentialLR(
        optimizer, [PolicyScheduler(optimizer, line(), 4), LinearLR(optimizer, 0.25, total_iters=6)], [4]
    )


def followed() -> tuple[Optimizer, SequentialLR]:
    optimizer = sgd()
    return optimizer, SequentialLR(
        optimizer, [LinearLR(optimizer, 0.5, total_iters=4), PolicyScheduler(optimizer, line(), 6)], [4]
    )


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("make", [led, followed])
def test_a_sequence_of_torch_resumes_exactly_at_every_place(make, optimizer_first):
    optimizer, both = make()
    saved, used = [], []
    for _ in range(10):
        saved.append(copy.deepcopy((optimizer.state_dict(), both.state_dict())))
        used += update_rates(optimizer, both, 1)
    for k, (of_optimizer, of_schedulers) in enumerate(saved):
        optimizer, both = make()
        if optimizer_first:
            optimizer.load_state_dict(of_optimizer)
        both.load_state_dict(of_schedulers)
        if not optimizer_first:
            optimizer.load_state_dict(of_optimizer)
        assert update_rates(optimizer, both, 10 - k) == pytest.approx(used[k:]), k


def test_a_group_added_when_another_goes_on_after_it_stays_with_that():
    optimizer, both = led()
    update_rates(optimizer, both, 6)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.25})
    optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.005, 0.05, 0.25])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
@pytest.mark.parametrize("make", [sgd, adamw_with_tensors])
def test_a_copy_goes_on_with_its_own_optimizer(how, make):
    optimizer = make()
    scheduler = PolicyScheduler(optimizer, POLICY, 10)
    update_rates(optimizer, scheduler, 4)
    again = how(scheduler)
    assert again.optimizer is not optimizer and again.position == 4
    rest = update_rates(again.optimizer, again, 6)
    assert scheduler.position == 4
    assert update_rates(optimizer, scheduler, 6) == rest


def test_a_shallow_copy_is_no_second_scheduler_of_the_optimizer():
    optimizer = SGD([parameter()], lr=1.0)
    scheduler = PolicyScheduler(optimizer, line(), 5)
    assert update_rates(optimizer, scheduler, 2) == [1.0, 0.75]
    twin = copy.copy(scheduler)
    optimizer.step()
    twin.step()
    assert twin.position == 3 and optimizer.param_groups[0]["lr"] == 0.5
    scheduler.step()
    assert scheduler.position == 3 and optimizer.param_groups[0]["lr"] == 0.25


def test_a_state_is_not_loaded_into_what_was_detached():
    scheduler = begun(2)
    state = scheduler.state_dict()
    scheduler.detach()
    with pytest.raises(ConfigError, match="was detached from its optimizer: make a new one"):
        scheduler.load_state_dict(state)


# Longer runs


def test_the_rest_is_stretched_without_a_jump_and_resumes_exactly():
    optimizer, policy = SGD([parameter()], lr=1.0), line()
    scheduler = PolicyScheduler(optimizer, policy, 11)
    used = update_rates(optimizer, scheduler, 5)
    scheduler.extend(16)
    assert scheduler.total == 16 and scheduler.get_last_lr() == [0.5]
    used += update_rates(optimizer, scheduler, 4)
    state = scheduler.state_dict()
    rest = update_rates(optimizer, scheduler, 7)
    assert used + rest == pytest.approx([1, 0.9, 0.8, 0.7, 0.6] + [0.5 - 0.05 * k for k in range(11)])
    again = PolicyScheduler(SGD([parameter()], lr=1.0), policy, 11)
    again.load_state_dict(state)
    assert again.total == 16 and update_rates(again.optimizer, again, 7) == rest


def test_a_state_of_a_shorter_run_is_stretched_over_a_longer_one():
    short = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 11)
    update_rates(short.optimizer, short, 5)
    longer = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 16)
    longer.load_state_dict(short.state_dict())
    assert (longer.position, longer.total, longer.get_last_lr()) == (5, 16, [0.5])
    assert update_rates(longer.optimizer, longer, 11) == pytest.approx([0.5 - 0.05 * k for k in range(11)])
    shorter = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 4)
    with pytest.raises(CheckpointError, match="at update 5 of 11, and this scheduler was made for 4"):
        shorter.load_state_dict(short.state_dict())


def test_a_state_that_waits_for_its_turn_takes_another_total():
    optimizer = SGD([parameter()], lr=1.0)
    waits = PolicyScheduler(optimizer, line(), 5)
    both = SequentialLR(optimizer, [ConstantLR(optimizer, 0.5, total_iters=2), waits], [2])
    state = waits.state_dict()
    assert state["position"] == -1
    waits.extend(3)
    assert waits.total == 3 and update_rates(optimizer, both, 5) == [0.5, 0.5, 1.0, 0.5, 0.0]
    optimizer = SGD([parameter()], lr=1.0)
    longer = PolicyScheduler(optimizer, line(), 11)
    longer.load_state_dict(state)
    longer.step(0)
    assert longer.total == 11 and update_rates(optimizer, longer, 3) == pytest.approx([1.0, 0.9, 0.8])


@pytest.mark.parametrize("updates", [9, 10])
def test_the_state_of_an_end_is_not_stretched_without_a_word(updates):
    state = begun(updates).state_dict()
    longer = begun(0, 20)
    before = longer.state_dict()
    with pytest.raises(
        ConfigError, match=rf"left to stretch over 20 .* after {updates} of 10: .*\"extension\", lr_max"
    ):
        longer.load_state_dict(state)
    assert longer.state_dict() == before and longer.get_last_lr() == [1.0]
    same = begun(0)
    same.load_state_dict(state)
    assert same.position == updates and same.get_last_lr() == [0.0]


@pytest.mark.parametrize("updates", [9, 10, 12])
def test_nothing_is_left_to_stretch_at_the_end(updates):
    scheduler = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        update_rates(scheduler.optimizer, scheduler, updates)
    with pytest.raises(ConfigError, match=r'PolicyScheduler\(optimizer, onecycle.preset\("extension"'):
        scheduler.extend(20)


@pytest.mark.parametrize("total", [4, 0, -1, 6.5, True, None])
def test_a_total_that_is_none_is_refused(total):
    scheduler = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 10)
    update_rates(scheduler.optimizer, scheduler, 4)
    with pytest.raises(ConfigError, match="the number of updates of the whole run, a whole number of at least 5"):
        scheduler.extend(total)
    assert scheduler.total == 10


# Ends that are told


@pytest.fixture
def told():
    """The warnings of ends in the middle of a cycle; none is told twice."""


def ending(how) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        how()
        gc.collect()
    assert all(w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


def begun(updates: int, total: int = 10) -> PolicyScheduler:
    scheduler = PolicyScheduler(SGD([parameter()], lr=1.0), line(), total)
    update_rates(scheduler.optimizer, scheduler, updates)
    return scheduler


def test_an_end_in_the_middle_of_a_cycle_is_told(told):
    (text,) = ending(lambda: begun(4))
    assert text.startswith("training ended at 4 of 10 steps of its schedule")

    def saved_before():
        scheduler = begun(4)
        scheduler.state_dict()
        update_rates(scheduler.optimizer, scheduler, 2)

    assert len(ending(saved_before)) == 1

    def never_stepped():
        scheduler = begun(0)
        scheduler.optimizer.step()

    assert len(ending(never_stepped)) == 1


def test_an_end_where_another_scheduler_goes_on_is_none(told):
    def sequence(make, updates):
        update_rates(*make(), updates)

    for make, updates in ((led, 6), (led, 10), (followed, 3), (followed, 10)):
        assert ending(lambda make=make, updates=updates: sequence(make, updates)) == []
    (text,) = ending(lambda: sequence(followed, 6))
    assert text.startswith("training ended at 2 of 6 steps")

    def chained():
        scheduler = PolicyScheduler(SGD([parameter()], lr=1.0), line(), 3)
        update_rates(scheduler.optimizer, ChainedScheduler([scheduler], scheduler.optimizer), 3)

    assert ending(chained) == []


def test_an_end_that_is_none_is_not_told(told):
    def plotted():
        scheduler = begun(0)
        for _ in range(7):
            scheduler.step()

    def saved():
        begun(4).state_dict()

    def loaded():
        begun(0).load_state_dict({"position": 4, "total": 10, "stretched": [0, 0.0], "built": 10})

    def copied():
        scheduler = begun(10)
        copy.deepcopy(scheduler)

    def detached():
        begun(4).detach()

    for how in (plotted, saved, loaded, copied, detached, lambda: begun(10), lambda: begun(97, 100)):
        assert ending(how) == []


# Bad input


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda o: PolicyScheduler(nn.Linear(1, 1), line(), 3), "an optimizer of torch, .* received Linear"),
        (lambda o: PolicyScheduler(o, 0.1, 3), r"policy is a Policy, such as onecycle.one_cycle\(0.1\); received 0.1"),
        (lambda o: PolicyScheduler(o, line(), 0), "total is the number of updates of the whole run, .* received 0"),
        (lambda o: PolicyScheduler(o, line(), 2.5), "received 2.5"),
        (lambda o: PolicyScheduler(o, line(), 3, last_epoch=-2), "last_epoch is .* at least -1; received -2"),
        (lambda o: PolicyScheduler(o, line().with_(beta3=0.5), 3), "no parameter group has 'beta3'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_leaves_the_optimizer_as_it_was(make, match):
    optimizer = SGD([parameter()], lr=1.0, momentum=0.9)
    with pytest.raises(ConfigError, match=match):
        make(optimizer)
    assert values(optimizer) == [(1.0, 0.9)]
    PolicyScheduler(optimizer, line(), 3)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda o: CosineAnnealingLR(o, 10), "T_max, eta_min"),
        (lambda o: LambdaLR(o, lambda k: 1.0), "lr_lambdas"),
        (lambda o: SequentialLR(o, [ConstantLR(o), ConstantLR(o)], [5]), "no arguments"),
    ],
)
def test_the_state_of_another_scheduler_of_torch_is_refused_with_what_to_do(make, names):
    optimizer = SGD([parameter()], lr=1.0)
    theirs = make(optimizer)
    update_rates(optimizer, theirs, 4)
    ours = begun(0)
    with pytest.raises(CheckpointError, match=f"after 4 updates, with {names}: .* make it with last_epoch=3"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.position == 0
    assert PolicyScheduler(SGD([parameter()], lr=1.0), line(), 11, last_epoch=3).get_last_lr() == [0.6]


def test_the_state_of_a_policy_over_a_time_is_refused_with_both_named():
    with pytest.raises(CheckpointError, match=r"over a time, 1 min 30 s of .* over 10 updates: .*budget=\.\.\."):
        begun(0).load_state_dict({"seconds": 90.0, "budget": 600.0})


@pytest.mark.parametrize(
    "state", [None, {}, {"position": -1}, {"position": 4, "total": 10, "stretched": 3, "built": 10}]
)
def test_a_foreign_state_is_refused(state):
    scheduler = begun(2)
    with pytest.raises(CheckpointError, match=r"a scheduler is saved as .* received"):
        scheduler.load_state_dict(state)
    assert scheduler.position == 2


def test_an_optimizer_without_momentum_takes_a_policy_with_one():
    optimizer = torch.optim.Adagrad([parameter()], lr=0.1)
    scheduler = PolicyScheduler(optimizer, onecycle.preset("torch", 1.0, 10), 10)
    assert update_rates(optimizer, scheduler, 10) == pytest.approx(
        [presets.torch(1.0, 10)(k / 9)["lr"] for k in range(10)]
    )

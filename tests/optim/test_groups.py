"""The values of a policy in the parameter groups of an optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_makers import CYCLED, DOWN, column, parameter
from torch.optim import SGD, Adam, AdamW, RMSprop

from onecycle.errors import ConfigError
from onecycle.optim.groups import bind, write
from onecycle.schedules.piecewise import EASINGS, Piecewise
from onecycle.schedules.policy import Policy


def test_groups_keep_their_proportions():
    optimizer = SGD([{"params": [parameter()], "lr": lr} for lr in (0.02, 0.2, 0.1)])
    for x in (0, 0.5, 1, 0.25):  # through zero and back
        assert write(CYCLED, optimizer, x)["lr"] == 1 - x
        assert column(optimizer, "lr") == pytest.approx([(1 - x) * ratio for ratio in (0.1, 1, 0.5)])


def test_a_ratio_of_ones_own_is_kept():
    groups = [
        {"params": [parameter()], "lr": 0.1, "lr_ratio": 0.25},
        {"params": [parameter()], "lr": 0.1, "lr_ratio": 1.0},
    ]
    optimizer = SGD(groups)
    write(CYCLED, optimizer, 0.5)
    assert column(optimizer, "lr") == [0.125, 0.5]


def test_a_start_at_zero_is_no_ratio():
    optimizer = SGD([parameter()], lr=0.0)
    assert write(CYCLED, optimizer, 0.5)["lr"] == column(optimizer, "lr")[0] == 0.5


def test_weight_decay_is_scheduled_where_there_is_some():
    groups = [{"params": [parameter()], "weight_decay": wd} for wd in (0.01, 0.0, 0.005)]
    policy = Policy({"lr": 0.1, "weight_decay": Piecewise(((0, 0.0), (1, 0.2)))})
    optimizer = AdamW(groups)
    for x in (0, 0.5, 1):
        write(policy, optimizer, x)
        assert column(optimizer, "weight_decay") == pytest.approx([0.2 * x, 0, 0.1 * x])
    without = SGD([parameter()], lr=0.1)
    write(policy, without, 1)
    assert column(without, "weight_decay") == [0.2]


def test_what_is_not_named_is_left_alone():
    optimizer = AdamW([parameter()], lr=0.3, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.02)
    write(Policy({"lr": 0.1}), optimizer, 0.3)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.1, (0.7, 0.9), 1e-3, 0.02)


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_momentum_means_beta1(make):
    optimizer = make([parameter()], betas=(0.9, 0.99))
    write(CYCLED, optimizer, 0.5)
    assert column(optimizer, "betas") == [(pytest.approx(0.6), 0.99)]


def test_momentum_of_groups_keeps_its_proportions():
    optimizer = SGD([{"params": [parameter()], "momentum": m} for m in (0.9, 0.45, 0.0)], lr=0.1)
    write(CYCLED, optimizer, 0)
    assert column(optimizer, "momentum") == pytest.approx([0.8, 0.4, 0])


@pytest.mark.parametrize("make", [SGD, RMSprop])
def test_an_optimizer_without_momentum_stays_without(make):
    optimizer = make([parameter()], lr=0.1)
    for x in (0, 0.5):
        write(CYCLED, optimizer, x)
        optimizer.add_param_group({"params": [parameter()]})
    write(CYCLED, optimizer, 0.25)
    assert column(optimizer, "momentum") == [0, 0, 0] and column(optimizer, "lr") == [0.75] * 3


def test_rmsprop_with_momentum_takes_part():
    optimizer = RMSprop([parameter()], lr=0.1, momentum=0.5)
    write(CYCLED, optimizer, 0)
    assert column(optimizer, "momentum") == [0.8]


def test_an_optimizer_that_knows_no_momentum_is_left_alone():
    optimizer = torch.optim.Adagrad([parameter()], lr=0.1)
    write(CYCLED, optimizer, 0.5)
    assert column(optimizer, "lr") == [0.5] and not {"momentum", "betas"} & set(optimizer.param_groups[0])


def test_a_name_that_no_group_has_is_an_error():
    with pytest.raises(
        ConfigError, match=r"no parameter group has 'weight_decy'; they have \['amsgrad', 'betas', .*'lr'"
    ):
        bind(Policy({"lr": 0.1, "weight_decy": 0.1}), AdamW([parameter()]))


def test_a_tensor_is_written_in_place():
    lr, betas = torch.tensor(0.3), (torch.tensor(0.9), torch.tensor(0.99))
    optimizer = AdamW([parameter()], lr=lr, betas=betas)
    write(CYCLED, optimizer, 0.5)
    group = optimizer.param_groups[0]
    assert group["lr"] is lr and lr == 0.5
    assert group["betas"][0] is betas[0] and betas[0] == torch.tensor(0.6)
    assert group["betas"][1] is betas[1] and betas[1] == torch.tensor(0.99)
    optimizer.step()


def test_groups_that_share_a_tensor_can_still_differ():
    """torch gives the tensor of its `lr` argument to every group; the first keeps it."""
    lr = torch.tensor(0.3)
    optimizer = AdamW([{"params": [parameter()], "lr_ratio": ratio} for ratio in (1.0, 0.5)], lr=lr)
    bind(CYCLED, optimizer)
    own = column(optimizer, "lr")
    write(CYCLED, optimizer, 0.5)
    optimizer.add_param_group({"params": [parameter()], "lr_ratio": 0.25})
    bind(CYCLED, optimizer)
    write(CYCLED, optimizer, 0.5)
    assert [float(v) for v in column(optimizer, "lr")] == [0.5, 0.25, 0.125]
    assert own[0] is lr and all(a is b for a, b in zip(own, column(optimizer, "lr"), strict=False))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, while it compiles
def test_a_compiled_step_follows_the_tensor_and_is_compiled_once():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    weight = parameter()
    optimizer = AdamW([weight], lr=torch.tensor(0.3), weight_decay=0.0)
    step = torch.compile(optimizer.step, backend=backend)
    moved, compiled = [], []
    for k in range(5):
        write(Policy({"lr": DOWN}), optimizer, k / 4)
        before = weight.detach().clone()
        step()
        moved.append(float((before - weight).detach()[0]))
        compiled.append(len(graphs))
    # under a constant gradient each step of Adam is the learning rate
    assert moved == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-4)
    assert compiled[1] == compiled[-1] > 0


def test_a_group_added_later_takes_part_in_full_unless_it_says_otherwise():
    policy = Policy({"lr": DOWN, "weight_decay": 0.1, "momentum": 0.8})
    optimizer = SGD([{"params": [parameter()], "lr": lr} for lr in (0.1, 0.2)], momentum=0.9, weight_decay=0.01)
    write(policy, optimizer, 0.5)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.003})
    optimizer.add_param_group({"params": [parameter()], "lr_ratio": 0.1, "weight_decay": 0.0, "momentum": 0.0})
    write(policy, optimizer, 0.5)
    assert column(optimizer, "lr") == pytest.approx([0.25, 0.5, 0.5, 0.05])
    assert column(optimizer, "weight_decay") == [0.1, 0.1, 0.1, 0]
    assert column(optimizer, "momentum") == [0.8, 0.8, 0.8, 0]


def test_ratios_that_a_foreign_state_lacks_are_made_again():
    groups = [{"params": [parameter()], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = SGD(groups)
    foreign = copy.deepcopy(optimizer.state_dict())
    write(CYCLED, optimizer, 0.5)
    optimizer.load_state_dict(foreign)
    write(CYCLED, optimizer, 0)
    assert column(optimizer, "lr") == [0.5, 1]


@st.composite
def policies(draw):
    """Curves that turn at the same places or at others, by one easing or another, and functions."""
    several = [sorted(draw(st.sets(st.integers(-2, 12), min_size=1, max_size=4))) for _ in range(2)]
    names = draw(st.lists(st.sampled_from(sorted(EASINGS)), min_size=2, max_size=2))

    def schedule():
        if draw(st.integers(0, 4)) == 0:
            return lambda progress: 1 + progress
        places = draw(st.sampled_from(several))
        return Piecewise(tuple((x / 10, draw(st.floats(1e-3, 2.0))) for x in places), draw(st.sampled_from(names)))

    return Policy({name: schedule() for name in ("lr", "momentum", "weight_decay")})


@settings(max_examples=200, deadline=None)
@given(policies(), st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=5))
def test_what_is_written_is_the_policy_to_the_bit(policy, places):
    optimizer = SGD([parameter()], lr=0.1, momentum=0.9, weight_decay=0.01)
    for progress in places:
        expected = policy(progress)
        assert write(policy, optimizer, progress) == expected
        assert {name: optimizer.param_groups[0][name] for name in expected} == expected

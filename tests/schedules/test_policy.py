from __future__ import annotations

import copy
import io
import json
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from onecycle.errors import CheckpointError, ConfigError
from onecycle.optim.driver import Driver
from onecycle.optim.groups import bind, write
from onecycle.schedules.piecewise import Piecewise
from onecycle.schedules.policy import Policy, position
from onecycle.schedules.presets import linear, one_cycle, paper

DOWN = Piecewise(((0, 1.0), (1, 0.0)))
CYCLED = Policy({"lr": DOWN, "momentum": Piecewise(((0, 0.8), (1, 0.4)))})


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    return p


def column(optimizer: Optimizer, key: str) -> list:
    return [group[key] for group in optimizer.param_groups]


# Values


def test_a_policy_gives_every_value_and_takes_numbers_as_constants():
    policy = Policy({"lr": DOWN, "momentum": 0.9, "weight_decay": lambda x: x / 10})
    assert policy(0.25) == {"lr": 0.75, "momentum": 0.9, "weight_decay": 0.025}
    assert Policy({"lr": 1})(0.3) == {"lr": 1}


def test_with_replaces_and_adds_without_touching_the_original():
    changed = CYCLED.with_(lr=0.5, weight_decay=0.1)
    assert changed(0) == {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.1}
    assert CYCLED(0) == {"lr": 1, "momentum": 0.8}


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({}, 'a policy names at least "lr"'),
        ({"momentum": 0.9}, "received {'momentum': 0.9}"),
        (0.1, "received 0.1"),
        ({"lr": None}, "the schedule of lr is a number, a Piecewise or a function of progress; received None"),
        ({"lr": "0.1"}, "received '0.1'"),
        ({"lr": 0.1, "momentum": True}, "the schedule of momentum is a number"),
        ({"lr": float("nan")}, "points must be finite"),
    ],
)
def test_bad_policies_are_named(schedules, message):
    with pytest.raises(ConfigError) as error:
        Policy(schedules)
    assert message in str(error.value)


def test_a_policy_survives_files_pickles_and_copies():
    policy = paper(0.3).with_(weight_decay=1e-4)
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    for twin in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):
        assert twin == policy and [twin(x / 9) for x in range(10)] == [policy(x / 9) for x in range(10)]
    assert Policy.from_dict({"lr": {"points": [[0, 1], [1, 0]]}, "momentum": 0.9})(0.5) == {"lr": 0.5, "momentum": 0.9}


def test_factors_of_the_layers_are_part_of_a_policy():
    policy = Policy({"lr": DOWN}, [0.1, 1])
    assert policy.layers == (0.1, 1.0) and policy.with_(momentum=0.9).layers == policy.layers
    assert policy.to_dict()["layers"] == [0.1, 1.0] and "layers" not in Policy({"lr": DOWN}).to_dict()
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy != Policy({"lr": DOWN})
    with pytest.raises(ConfigError, match="layers is a finite number above 0; received 0"):
        Policy({"lr": DOWN}, (0, 1))


def test_a_function_is_named_in_the_dict_but_cannot_be_read_back():
    data = Policy({"lr": abs}).to_dict()
    assert data == {"lr": "<built-in function abs>"}
    with pytest.raises(ConfigError, match="the schedule of lr is a number"):
        Policy.from_dict(data)


def test_position_meets_both_ends():
    assert [position(k, 5) for k in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert position(0, 1) == 0


# Into the optimizer


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


# The driver


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
    with pytest.raises(ConfigError, match=r"already has a policy attached: call driver.detach\(\)"):
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
    with pytest.raises(ConfigError, match="updates is the number of updates of the whole run, at least 1; received"):
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


def test_plot_draws_one_panel_a_value():
    pytest.importorskip("matplotlib")
    figure = paper(0.3).plot(20, updates_per_epoch=5, title="paper")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["learning rate", "momentum"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [paper(0.3)(k / 19)["lr"] for k in range(20)]

"""Optimizers from names, classes, factories and instances, and the groups that they get."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from training_makers import CPU, TASK, blobs, differing, seeded_net, sgd, weights

from onecycle import ConfigError, Policy, TrainState, one_cycle, train
from onecycle.optim.build import RECIPES, build_optimizer
from onecycle.optim.groups import bind, write
from onecycle.optim.layers import layer_groups, layers_of, split_by_layer
from onecycle.schedules.policy import layer_factors

WEIGHTS = {"0.0.weight", "2.weight"}


def decays(optimizer, model) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g.get("weight_decay") for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(
    ("given", "options", "decay"),
    [
        ("sgd", {}, RECIPES["sgd"].weight_decay),
        ("adamw", {}, RECIPES["adamw"].weight_decay),
        ("adam", {}, 0.0),
        ("sgd", {"weight_decay": 0.3}, 0.3),
        (torch.optim.AdamW, {}, 0.01),
        (torch.optim.AdamW, {"weight_decay": 0.2}, 0.2),
        (torch.optim.SGD, {}, 0.0),
        (functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.4), {}, 0.4),
        (lambda groups: torch.optim.AdamW(groups, weight_decay=0.7), {}, 0.7),
    ],
)
def test_weights_are_decayed_and_biases_and_norms_are_not(given, options, decay):
    model = seeded_net()
    made, notes = build_optimizer(given, model, **options)
    assert decays(made, model) == {n: decay if n in WEIGHTS else 0.0 for n, _ in model.named_parameters()}
    assert notes == ([f"weight decay {decay:g} on weights, none on biases and norms"] if decay else [])


def test_recipes():
    model = seeded_net()
    sgd_, adamw_ = build_optimizer("sgd", model)[0], build_optimizer("adamw", model)[0]
    assert type(sgd_) is torch.optim.SGD and type(adamw_) is torch.optim.AdamW
    assert all(g["nesterov"] and g["momentum"] == RECIPES["sgd"].momentum for g in sgd_.param_groups)
    assert {g["betas"] for g in adamw_.param_groups} == {(RECIPES["adamw"].momentum, 0.99)}


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("sgd", "momentum", 0.8),
        (torch.optim.SGD, "momentum", 0.8),
        (torch.optim.RMSprop, "momentum", 0.8),
        ("adamw", "betas", (0.8, 0.99)),
        (torch.optim.NAdam, "betas", (0.8, 0.99)),
    ],
)
def test_momentum_has_the_name_that_the_optimizer_gives_it(given, key, value):
    made, _ = build_optimizer(given, seeded_net(), momentum=0.8)
    assert all(group[key] == value for group in made.param_groups)


@pytest.mark.parametrize(
    "given",
    [
        torch.optim.Adagrad,
        torch.optim.RAdam,
        torch.optim.Adadelta,
        torch.optim.Rprop,
        torch.optim.ASGD,
        torch.optim.Adamax,
    ],
)
def test_any_class_of_torch(given):
    model = seeded_net()
    made, _ = build_optimizer(given, model)
    assert len(decays(made, model)) == len(list(model.parameters()))


def test_an_instance_is_used_as_it_is():
    model = seeded_net()
    given = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}], lr=0.1
    )
    made, notes = build_optimizer(given, model)
    assert made is given and notes == [] and [g["lr"] for g in made.param_groups] == [0.01, 0.1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("sdg", "unknown optimizer 'sdg': did you mean sgd"),
        ("ADAMW", "Known: adam, .*, or any class of torch.optim"),
        (5, "optimizer is a name, a class, a factory or an instance; received 5"),
        (None, "received None"),
        (lambda groups: "no", "must return a torch optimizer; received 'no'"),
        (torch.optim.LBFGS, "LBFGS evaluates the loss several times a step"),
        (functools.partial(torch.optim.SGD, lr=-1), "Invalid learning rate"),
        (nn.Linear, "Linear cannot be made"),
    ],
)
def test_what_makes_no_optimizer(given, says):
    with pytest.raises(ConfigError, match=says):
        build_optimizer(given, seeded_net())


def test_momentum_for_an_optimizer_without_any():
    with pytest.raises(ConfigError, match=r"Adagrad cannot be made.*betas"):
        build_optimizer(torch.optim.Adagrad, seeded_net(), momentum=0.9)


def test_an_optimizer_of_another_model():
    with pytest.raises(ConfigError, match="no parameter of this model: make it from"):
        build_optimizer(sgd(seeded_net()), seeded_net())


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_a_model_without_parameters(optimizer):
    with pytest.raises(ConfigError, match="no parameters"):
        build_optimizer(optimizer, nn.ReLU())


def test_layers_are_the_children_from_the_input_on():
    net = seeded_net()
    assert [sum(p.numel() for p in layer) for layer in layer_groups(net)] == [4 * 8 + 8 + 8 + 8, 8 * 3 + 3]
    assert len(layer_groups(nn.Sequential(net))) == 2, "a single child is looked into"
    assert layer_groups(net[2]) == [[net[2].weight, net[2].bias]]


def test_every_parameter_is_in_one_layer_only():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Embedding(5, 4)
            self.scale = nn.Parameter(torch.ones(()))
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.token.weight

    model = Tied()
    layers = layer_groups(model)
    assert [[id(p) for p in layer] for layer in layers] == [[id(model.scale)], [id(model.token.weight)]]


def test_layers_of_the_users_or_of_an_optimizers_groups():
    net = seeded_net()
    assert layers_of(net, sgd(net), [net[0], net[2]]) == layer_groups(net)
    own = torch.optim.SGD([{"params": [p]} for p in net.parameters()], lr=0.1)
    assert [len(layer) for layer in layers_of(net, own)] == [1] * 6
    assert len(layers_of(net, sgd(net))) == 2, "one group says nothing about layers"
    assert len(layers_of(net, build_optimizer("sgd", net)[0])) == 2
    with pytest.raises(ConfigError, match=r"must hold all of the model; 0\.0\.weight is in none"):
        layers_of(net, sgd(net), [net[2]])


def rates(optimizer, model) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: round(g["lr"], 9) for g in optimizer.param_groups for p in g["params"]}


def test_rates_by_layer_whatever_the_groups_and_then_one_for_all():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    for given in ("sgd", "muon", torch.optim.AdamW, sgd(net)):
        made, _ = build_optimizer(given, net)
        before = decays(made, net)
        split_by_layer(made, layer_groups(net))
        for peaks, expected in ((slice(0.001, 0.1), (0.001, 0.01, 0.1)), (slice(0.1), (0.01, 0.01, 0.1))):
            high, layers = layer_factors(peaks, 3)
            write(Policy({"lr": high}, layers), made, 0)
            assert rates(made, net) == {f"{i}.{n}": lr for i, lr in enumerate(expected) for n in ("weight", "bias")}
        assert decays(made, net) == before
        write(Policy({"lr": 0.1}), made, 0)
        assert set(rates(made, net).values()) == {0.1}


def test_ratios_of_the_users_own_count_where_the_policy_has_none():
    net = seeded_net()
    own = torch.optim.SGD([{"params": net[0].parameters(), "lr": 0.02}, {"params": net[2].parameters(), "lr": 0.1}])
    split_by_layer(own, layers_of(net, own))
    for policy, expected in ((Policy({"lr": 0.1}, (0.5, 1.0)), [0.05, 0.1]), (Policy({"lr": 0.1}), [0.02, 0.1])):
        bind(policy, own)
        write(policy, own, 0)
        assert [round(g["lr"], 9) for g in own.param_groups] == expected


def test_groups_are_split_once_and_a_new_one_when_it_comes():
    net = nn.Sequential(seeded_net(), nn.Linear(3, 3))
    made, _ = build_optimizer("sgd", net[0])
    split_by_layer(made, layer_groups(net[0]))
    groups = list(made.param_groups)
    assert [(g["layer"], len(g["params"])) for g in groups] == [(0, 1), (1, 1), (0, 3), (1, 1)]
    made.add_param_group({"params": net[1].parameters()})
    with pytest.raises(ConfigError, match="factors for 2 layers needs parameter groups with a key layer, 0 to 1"):
        bind(Policy({"lr": 0.1}, (0.5, 1.0)), made)
    split_by_layer(made, layer_groups(net[0]))
    assert all(a is b for a, b in zip(groups, made.param_groups, strict=False))
    assert [g["layer"] for g in made.param_groups[4:]] == [1]
    with pytest.raises(ConfigError, match="factors for 3 layers, and the model 2 layer groups"):
        split_by_layer(made, layer_groups(net[0]), (0.1, 0.5, 1.0))


def test_the_optimizers_state_survives_a_split():
    net = seeded_net()
    made, _ = build_optimizer("sgd", net)
    net(torch.ones(4, 4)).sum().backward()
    made.step()
    buffers = {id(p): made.state[p]["momentum_buffer"].clone() for p in net.parameters()}
    split_by_layer(made, layer_groups(net))
    assert all(torch.equal(made.state[p]["momentum_buffer"], buffers[id(p)]) for p in net.parameters())
    made.load_state_dict(made.state_dict())


@pytest.mark.parametrize("given", [*RECIPES, torch.optim.SGD, torch.optim.RMSprop])
def test_split_groups_train_bit_for_bit_as_whole_ones(given):
    x, y = blobs(32)
    trained = []
    for split in (False, True):
        net = seeded_net()
        state = TrainState(net, build_optimizer(given, net)[0], TASK, CPU, clip=0.5)
        if split:
            split_by_layer(state.optimizer, layer_groups(net))
        list(train(state, [(x[:16], y[:16]), (x[16:], y[16:])], policy=one_cycle(0.05), budget=4))
        trained.append(weights(net))
    assert differing(*trained) == []


def test_default_peaks_grow_with_samples_beyond_64():
    peaks = {name: [recipe.peak(n) for n in (None, 1, 64, 128, 1024)] for name, recipe in RECIPES.items()}
    assert peaks == {
        "sgd": [0.2] * 5,
        "adam": [0.005] * 3 + [0.00707, 0.02],
        "adamw": [0.007] * 3 + [0.0099, 0.028],
        "muon": [0.04] * 5,
    }

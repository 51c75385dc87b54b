"""A policy as a value: what it holds, what it refuses, and how it is kept."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from onecycle.errors import ConfigError
from onecycle.schedules.piecewise import Piecewise
from onecycle.schedules.policy import Policy, position
from onecycle.schedules.presets import paper

DOWN = Piecewise(((0, 1.0), (1, 0.0)))
CYCLED = Policy({"lr": DOWN, "momentum": Piecewise(((0, 0.8), (1, 0.4)))})


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
    with pytest.raises(ConfigError, match="layers is a finite number of at least 0; received -1"):
        Policy({"lr": DOWN}, (-1, 1))
    with pytest.raises(ConfigError, match=r"layers are factors of the learning rate, .* received 0\.5"):
        Policy.from_dict({"lr": 0.1, "layers": 0.5})


def test_a_function_is_named_in_the_dict_but_cannot_be_read_back():
    data = Policy({"lr": abs}).to_dict()
    assert data == {"lr": "<built-in function abs>"}
    with pytest.raises(ConfigError, match="the schedule of lr is a number"):
        Policy.from_dict(data)


def test_position_meets_both_ends():
    assert [position(k, 5) for k in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert position(0, 1) == 0


def test_plot_draws_one_panel_a_value():
    pytest.importorskip("matplotlib")
    figure = paper(0.3).plot(20, updates_per_epoch=5, title="paper")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["Learning rate", "Momentum"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [paper(0.3)(k / 19)["lr"] for k in range(20)]


def test_its_repr_is_a_line():
    steps = Piecewise(tuple((k / 10, 1 - k / 10) for k in range(11)))
    policy = Policy({"lr": steps, "momentum": DOWN, "weight_decay": paper, "beta": 0.5}, (0.1, 1))
    assert repr(policy) == (
        "Policy(lr 1 to 0.9 to ... to 0, momentum 1 to 0, weight_decay paper, beta 0.5, layers 0.1 to 1)"
    )

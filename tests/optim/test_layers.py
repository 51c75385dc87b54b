"""Layer groups in the order in which layers are run, and the head of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_makers import seeded_net

from onecycle import Learner
from onecycle.optim.layers import RunOrder, freeze, frozen_modules, head_of, layer_groups

X = torch.ones(2, 4)


class Backwards(nn.Module):
    """Registered from the output to the input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.unused = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.stem = nn.Linear(4, 8)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)


def order_of(model: nn.Module, x: torch.Tensor = X) -> RunOrder:
    return RunOrder.of(model, lambda: model(x))


def names(model: nn.Module, groups) -> list[str]:
    known = {p: name.rpartition(".")[0] for name, p in model.named_parameters()}
    return [" ".join(dict.fromkeys(known[p] for p in group)) for group in groups]


def test_groups_come_in_the_order_in_which_they_are_run():
    model = Backwards()
    assert names(model, layer_groups(model)) == ["head", "unused", "blocks.0 blocks.1 blocks.2", "stem"]
    in_order = layer_groups(model, order_of(model))
    assert names(model, in_order) == ["unused", "stem", "blocks.0 blocks.1 blocks.2", "head"]


def test_a_child_with_most_of_the_parameters_is_looked_into():
    model = Backwards()
    deep = layer_groups(model, order_of(model), deep=True)
    assert names(model, deep) == ["unused", "stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    held = [p for group in deep for p in group]
    assert len(held) == len(set(held)) == len(list(model.parameters()))


def test_a_learner_traces_its_model():
    x, y = torch.randn(32, 4), torch.arange(32) % 2
    learn = Learner(Backwards(), (x, y), batch_size=8, verbose=False)
    learn.freeze()
    assert {name for name, p in learn.model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    learn.fit(1, lr_max=slice(1e-4, 1e-2))
    factors = learn.history.steps and learn.optimizer.param_groups
    assert {group["layer"] for group in factors} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", [None, "head"])
def test_the_head_is_what_makes_the_outputs(name):
    model = Backwards()
    assert head_of(model, order_of(model), name) is model.head
    nested = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Sequential(nn.Dropout(), nn.Linear(50, 3)))
    assert head_of(nested, order_of(nested)) is nested[2]


def test_no_head_where_outputs_are_of_several_modules_or_calls():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            return self.a(self.body(x)) + self.b(self.body(x))

    class Twice(Sum):
        def forward(self, x):
            self.a(self.body(x))
            return self.a(self.body(x))

    for model in (Sum(), Twice(), nn.Linear(4, 2)):
        assert head_of(model, order_of(model)) is None


def test_frozen_modules_are_those_without_a_trained_parameter():
    net = seeded_net()
    assert frozen_modules(net) == []
    freeze(layer_groups(net), 1)
    assert frozen_modules(net) == [net[0], *net[0]], "and not the dropout beside what is trained"

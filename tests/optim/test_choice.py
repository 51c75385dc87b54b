"""The optimizer by default: Muon where orthogonal updates are cheap beside the model, AdamW where they are not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import Learner
from onecycle.optim.choice import choose
from onecycle.optim.muon import Muon
from onecycle.training.probe import positions_of
from onecycle.training.runtime import Runtime


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(width: int, inputs: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


class Own(nn.Module):
    """A weight of its own that is multiplied with, and embeddings."""

    def __init__(self):
        super().__init__()
        self.embed, self.weight = nn.Embedding(7, 8), nn.Parameter(numbers(8, 5))

    def forward(self, x):
        return (self.embed(x) @ self.weight).mean(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


class Last(nn.Module):
    """What a recurrent layer gives at the last step."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (mlp(4), numbers(3, 6), {"0.weight": 1, "2.weight": 1, "4.weight": 1}),
        (nn.Conv2d(3, 8, 3), numbers(2, 3, 10, 10), {"weight": 64}),
        (nn.Conv1d(3, 8, 3, stride=2), numbers(2, 3, 11), {"weight": 5}),
        (Own(), torch.tensor([[1, 2, 3], [4, 5, 6]]), {"weight": 3}),
        (Attention(), numbers(2, 5, 8), {"inner.in_proj_weight": 5, "inner.out_proj.weight": 5}),
        (Last(nn.LSTM(4, 6, batch_first=True)), numbers(2, 5, 4), {"layer.weight_ih_l0": 5, "layer.weight_hh_l0": 5}),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten()), numbers(2, 9, 4), {"0.weight": 9}),
    ],
)
def test_positions_are_those_that_a_weight_is_applied_to(model, inputs, expected):
    def loss(model, batch):
        return model(batch).square().mean()

    counts = positions_of(model, loss, inputs, Runtime.choose("cpu"))
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p]: n for p, n in counts.items()} == expected


def test_a_weight_that_is_used_twice_counts_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(numbers(4, 4))

        def forward(self, x):
            return F.linear(F.linear(x, self.weight), weight=self.weight)

    model = Tied()
    counts = positions_of(model, lambda model, batch: model(batch).mean(), numbers(3, 4), Runtime.choose("cpu"))
    assert counts == {model.weight: 2}


def test_positions_leave_no_trace_and_an_error_is_met_by_the_training():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    positions_of(model, lambda model, batch: model(batch).mean(), numbers(4, 3), Runtime.choose("cpu"))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert positions_of(model, lambda model, batch: 1 / 0, numbers(4, 3), Runtime.choose("cpu")) == {}


def test_wide_layers_on_few_samples_are_for_adamw_and_on_many_for_muon():
    model = mlp(512)
    assert choose(model, {}, 64).optimizer == "adamw"
    assert choose(model, {}, 64 * 1024).optimizer == "muon"
    everywhere = dict.fromkeys(model.parameters(), 1024.0)
    assert choose(model, everywhere, 64).optimizer == "muon"
    assert choose(mlp(16), {}, 64).optimizer == "muon"


def test_where_some_matrices_are_costly_the_others_stay_with_muon():
    model = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(100, 100), nn.ReLU())), nn.Linear(100, 500),
                          nn.Linear(500, 2))  # fmt: skip
    few = choose(model, {}, 64)
    assert few.optimizer == "adamw" and "adamw" in few.note
    positions = dict.fromkeys(model.parameters(), 5.5)
    some = choose(model, positions, 64)
    assert some.optimizer == "muon" and 0 < len(some.left) < 9 and f"{len(some.left)} of 9 matrices" in some.note
    assert choose(model, dict.fromkeys(model.parameters(), 400.0), 64).left == ()


def data(inputs: int, n: int = 256):
    x = numbers(n, inputs)
    return x, (x[:, 0] > 0).long()


def test_the_learner_says_what_auto_comes_to_and_keeps_to_it():
    wide = Learner(mlp(512), data(6), verbose=False)
    assert isinstance(wide.optimizer, torch.optim.AdamW) and wide.resolved["optimizer"] == "adamw"
    assert wide.default_peak == 0.007 and any('optimizer="muon"' in note for note in wide.notes)
    narrow = Learner(mlp(16), data(6), verbose=False)
    assert isinstance(narrow.optimizer, Muon) and narrow.resolved["optimizer"] == "muon"
    assert narrow.default_peak == 0.04 and not any("orthogonal" in note for note in narrow.notes)


def test_muon_by_name_is_muon_for_all_of_them():
    learn = Learner(mlp(512), data(6), optimizer="muon", verbose=False)
    assert isinstance(learn.optimizer, Muon)
    assert [len(group["params"]) for group in learn.optimizer.param_groups] == [2, 4]
    assert not any("orthogonal" in note for note in learn.notes)


def test_matrices_left_to_adamw_are_updated_by_it_and_decay():
    model = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(100, 100), nn.ReLU())), nn.Linear(100, 500),
                          nn.ReLU(), nn.Linear(500, 2))  # fmt: skip
    x = numbers(32, 11, 100)
    learn = Learner(
        model, (x, (x.sum((1, 2)) > 0).long()), loss=lambda m, b: m(b[0]).square().mean(), batch_size=32, verbose=False
    )
    left = learn.resolved["matrices_by_adamw"]
    inside, by_adamw, rest = learn.optimizer.param_groups
    assert len(by_adamw["params"]) == left > 0 and "momentum" not in by_adamw
    assert by_adamw["weight_decay"] == inside["weight_decay"] > 0 and rest["weight_decay"] == 0
    learn.fit("3 updates", lr_max="default")
    assert all("exp_avg" in learn.optimizer.state[p] for p in by_adamw["params"])
    assert all(bool(p.isfinite().all()) for p in model.parameters())

"""The optimizer by default: Muon where orthogonal updates are cheap beside the model, AdamW where they are not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from onecycle import CheckpointError, ConfigError, Learner
from onecycle.optim.choice import choose
from onecycle.optim.muon import Muon
from onecycle.training.probe import positions_of
from onecycle.training.runtime import Runtime


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(width: int, inputs: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


ORIGINAL = "parametrizations.weight.original"


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
        (nn.ConvTranspose2d(3, 8, 2, stride=2), numbers(2, 3, 4, 4), {"weight": 16}),
        (parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), numbers(2, 3, 10, 10), {ORIGINAL + "1": 64}),
        (parametrizations.spectral_norm(nn.Linear(6, 5)), numbers(2, 6), {ORIGINAL: 1}),
        (Own(), torch.tensor([[1, 2, 3], [4, 5, 6]]), {"weight": 3}),
        (Attention(), numbers(2, 5, 8), {"inner.in_proj_weight": 5, "inner.out_proj.weight": 5}),
        (Last(nn.LSTM(4, 6, batch_first=True)), numbers(2, 5, 4), {"layer.weight_ih_l0": 5, "layer.weight_hh_l0": 5}),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten()), numbers(2, 9, 4), {"0.weight": 9}),
    ],
)
def test_positions_are_those_that_a_weight_is_applied_to(model, inputs, expected):
    counts = positions_of(model, (inputs, torch.zeros(len(inputs))), Runtime.choose("cpu"))
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
    assert positions_of(model, (numbers(3, 4), torch.zeros(3)), Runtime.choose("cpu")) == {model.weight: 2}


def test_positions_leave_no_trace_and_an_error_is_met_by_the_training():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    positions_of(model, (numbers(4, 3), torch.zeros(4)), Runtime.choose("cpu"))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert positions_of(model, (numbers(4, 7), torch.zeros(4)), Runtime.choose("cpu")) == {}


def test_wide_layers_on_few_samples_are_for_adamw_and_on_many_for_muon():
    model = mlp(512)
    once = dict.fromkeys(model.parameters(), 1.0)
    assert choose(model, once, 64).optimizer == "adamw"
    assert choose(model, once, 64 * 1024).optimizer == "muon"
    everywhere = dict.fromkeys(model.parameters(), 1024.0)
    assert choose(model, everywhere, 64).optimizer == "muon"
    narrow = mlp(16)
    assert choose(narrow, dict.fromkeys(narrow.parameters(), 1.0), 64).optimizer == "muon"


def test_where_some_matrices_are_costly_the_others_stay_with_muon():
    model = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(100, 100), nn.ReLU())), nn.Linear(100, 500),
                          nn.Linear(500, 2))  # fmt: skip
    few = choose(model, dict.fromkeys(model.parameters(), 1.0), 64)
    assert few.optimizer == "adamw" and "adamw" in few.note
    positions = dict.fromkeys(model.parameters(), 5.5)
    some = choose(model, positions, 64)
    assert some.optimizer == "muon" and 0 < len(some.left) < 9 and f"{len(some.left)} of 9 matrices" in some.note
    assert choose(model, dict.fromkeys(model.parameters(), 400.0), 64).left == ()


def data(inputs: int, n: int = 256):
    x = numbers(n, inputs)
    return x, (x[:, 0] > 0).long()


def test_where_most_weights_are_frozen_it_is_adamw():
    """As with changes of low rank to what others pretrained, or a head on a body."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10))
    positions = dict.fromkeys(model.parameters(), 1.0)
    assert choose(model, positions, 64).optimizer == "muon"
    model[0].requires_grad_(False)
    chosen = choose(model, positions, 64)
    assert chosen.optimizer == "adamw" and "2,080 parameters are frozen" in chosen.note


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


def test_a_loss_of_ones_own_is_not_called_to_choose():
    calls = []

    def loss(model, batch):
        calls.append(model.training)
        return F.cross_entropy(model(batch[0]), batch[1])

    assert Learner(mlp(512), data(6), loss=loss, verbose=False).resolved["optimizer"] == "adamw"
    assert calls == []


def test_what_a_model_keeps_of_its_first_batch_is_not_made_by_choosing():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.mean = mlp(512), nn.Parameter(torch.zeros(6))
            self.register_buffer("known", torch.tensor(False))

        def forward(self, x):
            if not self.known:
                self.mean.data.copy_(x.mean(0))
                self.known.fill_(True)
            return self.net(x - self.mean)

    model = Centred()
    Learner(model, data(6), loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), verbose=False)
    assert not model.known and not model.mean.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_where_nothing_can_be_counted_muon_is_for_all():
    scripted = torch.jit.trace(mlp(512), numbers(3, 6))
    assert Learner(scripted, data(6), verbose=False).resolved["optimizer"] == "muon"


def test_weights_under_a_norm_count_as_those_without():
    model = mlp(512)
    for layer in (model[0], model[2]):
        parametrizations.weight_norm(layer)
    assert Learner(model, data(6), verbose=False).resolved["optimizer"] == "adamw"


def test_a_weight_without_elements_is_trained_by_nobody():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 2)
            self.more = nn.Linear(1, 16, bias=False)
            self.more.weight = nn.Parameter(torch.zeros(16, 0))

        def forward(self, x):
            return self.head(torch.relu(self.inner(x) + self.more(x[:, :0])))

    learn = Learner(Optional(), data(6), optimizer="muon", verbose=False)
    learn.fit("2 updates", lr_max=0.01)


def test_resuming_a_run_of_the_default_before_says_how_to(tmp_path):
    Learner(mlp(512), data(6), optimizer="muon", verbose=False).fit("4 updates", lr_max=0.01, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="optimizer 'muon', now 'adamw': give optimizer='muon'"):
        Learner(mlp(512), data(6), verbose=False).fit("4 updates", lr_max=0.01, out=tmp_path / "run", resume=True)


def test_an_unknown_optimizer_is_told_of_auto():
    with pytest.raises(ConfigError, match='"auto"'):
        Learner(mlp(4), data(6), optimizer="mun", verbose=False)

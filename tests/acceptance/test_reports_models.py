"""Models as users of other tools reported them; each test is named after a public report."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from onecycle import CheckpointError, ConfigError, DataError, Learner, TrainingError
from onecycle.optim.build import build_optimizer
from onecycle.records.checkpoint import load_weights, save_weights

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=G)
LABELS = torch.randint(0, 3, (64,), generator=G)


def learner(model, data=None, valid=None, **options):
    data = (X, LABELS) if data is None else data
    return Learner(model, data, data if valid is None else valid, **{"batch_size": 16, "verbose": False, **options})


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(body, nn.Linear(8, 3))


# Modules that are not to be trained


def test_a_backbone_in_evaluation_mode_stays_there_lightning_18930_18951_2551():
    model = normed()
    model[0].eval()
    learn = learner(model)
    before = model[0][1].running_mean.clone()
    learn.range_test()
    learn.fit(2, lr_max=0.1)
    assert torch.equal(model[0][1].running_mean, before)
    assert not model[0].training and not model[0][1].training and model.training


def test_a_model_that_is_in_evaluation_mode_as_a_whole_is_trained():
    model = normed().eval()
    before = model[0][1].running_mean.clone()
    learner(model).fit(1, lr_max=0.1)
    assert not torch.equal(model[0][1].running_mean, before)


def test_freeze_keeps_the_statistics_of_norms_too_ultralytics_8753():
    learn = learner(normed())
    norm = learn.model[0][1]
    learn.freeze()
    before = {name: t.clone() for name, t in learn.model[0].state_dict().items()}
    learn.fit(1, lr_max=0.1)
    assert all(torch.equal(t, before[name]) for name, t in learn.model[0].state_dict().items())
    learn.unfreeze()
    assert norm.training
    learn.fit(1, lr_max=0.1)
    assert not torch.equal(norm.running_mean, before["1.running_mean"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_range_test_of_a_small_head_on_a_large_frozen_body(optimizer):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    alone = nn.Linear(512, 3)
    model = nn.Sequential(body, nn.Linear(512, 3))
    model[1].load_state_dict(alone.state_dict())
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    with_body = learner(model, optimizer=optimizer).range_test()
    head = learner(alone, (body(X), LABELS), optimizer=optimizer, standardise=False).range_test()
    assert with_body.lr_max is not None and with_body.lr_max == pytest.approx(head.lr_max, rel=1e-3)


def test_nothing_to_train_is_said():
    model = normed()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learn = learner(model)
    for train in (learn.range_test, lambda: learn.fit(1, lr_max=0.1)):
        with pytest.raises((ConfigError, TrainingError), match=r"all.* are frozen"):
            train()


# Kinds of layers and of numbers


def test_lazy_layers_get_their_shape_before_the_optimizer_is_made_lightning_13764():
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
    learn = learner(lazy)
    assert tuple(lazy[0].weight.shape) == (8, 5)
    held = {id(p) for group in learn.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in lazy.parameters()}
    before = lazy[0].weight.clone()
    learn.fit(1, lr_max=0.1)
    assert not torch.equal(lazy[0].weight, before)
    own = learner(nn.LazyLinear(3), loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    own.fit(1, lr_max=0.1)


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()])
def test_double_precision_models_and_data_skorch_518(loss):
    model = nn.Linear(5, 3).double()
    learn = learner(model, (X.double(), LABELS), loss=loss)
    learn.fit(1, lr_max=0.1)
    assert model.weight.dtype == torch.float64 and learn.predict(X.double()).dtype == torch.float64
    numbers = learner(nn.Linear(5, 1).double(), (X.double(), X.double().sum(1)))
    assert numbers.evaluate()["loss"] > 0


def test_sparse_embeddings_allennlp_2312():
    def model(sparse=True):
        return nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3))

    data = (torch.randint(0, 10, (64, 2), generator=G), LABELS)
    for optimizer in ("muon", "adamw", "sgd", torch.optim.AdamW):
        with pytest.raises(ConfigError, match=r"gradients of 0 are sparse.*sparse=False"):
            learner(model(), data, optimizer=optimizer)
        learner(model(sparse=False), data, optimizer=optimizer)
        frozen = model()
        frozen[0].requires_grad_(False)
        learn = learner(frozen, data, optimizer=optimizer, clip=0.1)
        learn.fit(1, lr_max=0.01)
        with pytest.raises(ConfigError, match=r"gradients of 0 are sparse.*sparse=False"):
            learn.unfreeze()
        assert not frozen[0].weight.requires_grad, "what was refused leaves the layers as they were"
        learn.fit(1, lr_max=0.01)
    frozen = model()
    frozen[0].requires_grad_(False)
    learn = learner(frozen, data, optimizer=torch.optim.SGD(frozen.parameters(), lr=0.1), clip=0.1)
    with pytest.raises(ConfigError, match=r"clip=0\.1 is for dense gradients"):
        learn.unfreeze()
    net = model()
    before = net[0].weight.clone()
    learn = learner(net, data, optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    learn.fit(1, lr_max=0.1)
    assert not torch.equal(net[0].weight, before)
    with pytest.raises(ConfigError, match=r"clip=1.0 is for dense gradients"):
        learner(net, data, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), clip=1.0)


def test_an_optimizer_that_needs_a_closure_is_refused_lightning_246():
    model = nn.Linear(5, 3)
    for optimizer in (torch.optim.LBFGS, torch.optim.LBFGS(model.parameters())):
        with pytest.raises(ConfigError, match="LBFGS evaluates the loss several times"):
            learner(model, optimizer=optimizer)


@pytest.mark.parametrize("weight_norm", [parametrizations.weight_norm, None])
def test_gains_and_wide_biases_are_no_weights(weight_norm):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.Conv1d(1, 4, 3)
            self.layer = layer if weight_norm is None else weight_norm(layer)
            self.shift = nn.Parameter(torch.zeros(1, 4, 1))
            self.head = nn.Linear(4, 1)

    model = Shifted()
    for optimizer in ("muon", "adamw", "sgd"):
        built, _ = build_optimizer(optimizer, model)
        decay = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
        assert decay[id(model.shift)] == 0 and decay[id(model.layer.bias)] == 0
        gains = [p for name, p in model.named_parameters() if name.endswith("original0")]
        assert all(decay[id(p)] == 0 for p in gains) and len(gains) == (weight_norm is not None)
        weight = [p for name, p in model.named_parameters() if name.endswith(("layer.weight", "original1"))]
        assert all(decay[id(p)] > 0 for p in weight)
        muons = {
            id(p)
            for group in built.param_groups
            if optimizer == "muon" and "momentum" in group
            for p in group["params"]
        }
        assert not muons & {id(model.shift), *map(id, gains)}


# What is written


class Remembering(nn.Linear):
    """A layer with an extra state."""

    def __init__(self, state):
        super().__init__(5, 3)
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_extra_state_is_kept_accelerate_1246_transformers_38154(tmp_path):
    model = Remembering({"seen": 3, "scale": torch.ones(2)})
    learn = learner(model)
    learn.fit(1, lr_max=0.1, out=tmp_path / "run")
    other = Remembering(None)
    load_weights(other, tmp_path / "run" / "model.safetensors")
    assert other.state["seen"] == 3 and torch.equal(other.weight, model.weight)
    again = learner(Remembering(None))
    again.fit(1, lr_max=0.1, out=tmp_path / "run", resume=True)
    assert again.model.state["seen"] == 3


def test_what_cannot_be_read_back_is_found_before_the_first_update(tmp_path):
    class Thing: ...

    learn = learner(Remembering(Thing()))
    with pytest.raises(CheckpointError, match=r"model\['_extra_state'\] is a Thing, which a checkpoint cannot hold"):
        learn.fit(1, lr_max=0.1, out=tmp_path / "run")
    assert learn.state.step == 0 and not (tmp_path / "run").exists()


class Backbone(nn.Module):
    def __init__(self, compiled=False):
        super().__init__()
        torch.manual_seed(0)
        body = nn.Linear(5, 4)
        self.body = torch.compile(body, backend="eager") if compiled else body
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_weights_of_compiled_modules_have_plain_names_lightning_20233(tmp_path):
    for model in (torch.compile(Backbone(), backend="eager"), Backbone(compiled=True)):
        learn = learner(model)
        learn.fit("4 updates", lr_max=0.1)
        plain = Backbone()
        load_weights(plain, learn.save(tmp_path / "w.safetensors"))
        torch.testing.assert_close(plain(X), model(X))
        save_weights(Backbone(), tmp_path / "first.safetensors")
        learn.load(tmp_path / "first.safetensors")
        torch.testing.assert_close(model(X), Backbone()(X))


# Structures


def test_predictions_in_any_structure():
    class Two(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.body, self.kind = nn.Linear(5, 3), kind

        def forward(self, x, mask=None):
            y = self.body(x if mask is None else x * mask)
            return {"tuple": (y, y.sum(1)), "dict": {"logits": y, "none": None}}[self.kind]

    def loss(model, batch):
        out = model(batch["x"])
        return F.cross_entropy(out[0] if isinstance(out, tuple) else out["logits"], batch["y"])

    batches = [{"x": X[i : i + 16], "y": LABELS[i : i + 16]} for i in range(0, 64, 16)]
    two = learner(Two("tuple"), batches, loss=loss)
    first, second = two.predict(batches)
    torch.testing.assert_close(first, two.model(X)[0].detach())
    torch.testing.assert_close(second, two.model(X)[1].detach())
    named = learner(Two("dict"), batches, loss=loss)
    torch.testing.assert_close(named.predict(batches)["logits"], named.model(X)["logits"].detach())
    masked = named.predict({"x": X, "mask": torch.zeros(64, 5), "y": LABELS})
    torch.testing.assert_close(masked["logits"], named.model.body.bias.detach().expand(64, 3))
    assert masked["none"] is None


# A batch of one sample


def test_a_last_batch_of_one_sample_with_batch_norm_fastai_970():
    loader = DataLoader(TensorDataset(X[:33], LABELS[:33]), 16)
    with pytest.raises(DataError, match=r"a batch of one sample.*drop_last=True"):
        learner(normed(), loader)
    learner(nn.Linear(5, 3), loader).fit(1, lr_max=0.1)
    images = torch.randn(9, 1, 4, 4)
    pixels = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    few = DataLoader(TensorDataset(images, LABELS[:9]), 4)
    learner(pixels, few).fit(1, lr_max=0.1)
    still = normed()
    still[0].eval()
    learner(still, loader).fit(1, lr_max=0.1)

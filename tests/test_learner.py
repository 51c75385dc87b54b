"""The facade on every form of data, task and optimizer, and what it says of input that cannot be used."""

from __future__ import annotations

import copy
import functools
import inspect
import signal
import threading
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from training_makers import blobs, differing, equal_batches, global_generators, seeded_net, weights

import onecycle
from onecycle import (
    CheckpointError,
    ConfigError,
    DataError,
    EpochEnd,
    Interrupted,
    Learner,
    Piecewise,
    Policy,
    Update,
    one_cycle,
    preset,
)
from onecycle.data import Split
from onecycle.errors import NonFiniteLoss
from onecycle.optim.build import RECIPES
from onecycle.records.files import RUN, read_jsonl
from onecycle.records.read import main_value
from onecycle.search import api, pilots, trial
from onecycle.training.metrics import accuracy
from onecycle.training.options import TrainingOptions

X, Y = blobs(48)
MANY = X.repeat(25, 1), Y.repeat(25)
VALID = blobs(21, seed=1)


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))

    def __len__(self):
        return 48


def learner(train=(X, Y), valid=VALID, model=None, **options) -> Learner:
    options = {"batch_size": 8, "verbose": False, "device": "cpu", "optimizer": "sgd", **options}
    return Learner(seeded_net() if model is None else model, train, valid, **options)


def hub_rows(pair=(X, Y)):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"x": pair[0].numpy(), "y": pair[1].numpy()})


def loss_of_rows(model, batch):
    outputs = model(batch["x"])
    return F.cross_entropy(outputs, batch["y"]), {"right": (outputs.argmax(1) == batch["y"]).float().mean()}


def batches() -> list:
    return [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]


FORMS = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.double().numpy(), Y.numpy()),
    "small integers": lambda: (X.numpy(), Y.numpy().astype(np.int32)),
    "split": lambda: Split(X, Y),
    "dataset": lambda: TensorDataset(X, Y),
    "iterable dataset": Streamed,
    "loader": lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True),
    "loader with workers": lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True, num_workers=1),
    "loader with a generator": lambda: DataLoader(
        TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator().manual_seed(1)
    ),
    "list": batches,
    "tuple of batches": lambda: tuple(batches()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data(form):
    runs = []
    for _ in range(2):
        learn = learner(FORMS[form](), FORMS[form]())
        result = learn.fit_one_cycle(3, 0.1)
        runs.append(weights(learn.model))
        assert result.updates == 18 and result.epochs == 3
        assert result.valid["accuracy"] > 0.8 and len(learn.history.epochs) == 3
    assert differing(*runs) == [], "the same seed, the same run"


def test_a_datasets_dataset_of_columns():
    learn = learner(hub_rows(), hub_rows(VALID), loss=loss_of_rows)
    result = learn.fit_one_cycle(5, 0.1)
    assert result.valid["right"] > 0.8 and result.train.keys() == {"loss", "right"}


def test_a_datasets_dataset_of_images():
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    labels = [i % 2 for i in range(24)]
    images = [Image.fromarray(np.full((6, 6), 40 + 150 * label + i % 7, np.uint8)) for i, label in enumerate(labels)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    assert learner(rows, rows, model).fit_one_cycle(8, 0.1).valid["accuracy"] == 1.0


def test_the_embedded_data_bring_their_own_validation():
    data = onecycle.load("digits", limit=200)
    learn = learner(data, None, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    result = learn.fit_one_cycle(3, 0.2)
    assert result.valid["accuracy"] > 0.6 and set(data.notes) <= set(learn.notes)
    assert learn.predict(data.test.inputs[:7]).shape == (7, 10)


def test_a_generator_is_trained_on_once():
    learn = learner(iter(batches()), None)
    seen = []
    result = learn.fit_one_cycle(budget="6 updates", lr_max=0.1, observers=[lambda e: seen.append(e)])
    assert result.updates == 6 and result.epochs == 1 and seen[-1].samples == 48, "the first batch is not lost"
    with pytest.raises(DataError, match="only once"):
        learn.fit_one_cycle(budget="6 updates", lr_max=0.1)
    with pytest.raises(ConfigError, match="no length"):
        learner(iter(batches()), None).fit_one_cycle(1, 0.1)


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, a, b):
            return self.a(a) + self.b(b)

    learn = learner(
        (X[:, :2], X[:, 2:], Y), None, Sum(), loss=lambda m, batch: F.cross_entropy(m(*batch[:2]), batch[2])
    )
    assert learn.fit_one_cycle(10, 0.2).train["loss"] < 0.4
    with pytest.raises(DataError, match="received a tuple of 3"):
        learner((X[:, :2], X[:, 2:], Y), None, Sum())


def test_a_language_model():
    class Next(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 5)

        def forward(self, tokens):
            return self.table(tokens)

    tokens = (torch.arange(200) % 5).view(20, 10)
    pairs = learner((tokens[:, :-1], tokens[:, 1:]), None, Next(), batch_size=5)
    assert "cross-entropy over 5 classes" in pairs.notes[0]
    pairs.fit_one_cycle(40, 0.5)
    assert pairs.predict(tokens[:1]).argmax(-1).tolist() == [[(t + 1) % 5 for t in tokens[0].tolist()]]

    def loss(model, batch):
        return F.cross_entropy(model(batch["ids"][:, :-1]).flatten(0, 1), batch["ids"][:, 1:].flatten())

    own = learner([{"ids": tokens[i : i + 5]} for i in range(0, 20, 5)], None, Next(), loss=loss, optimizer="adamw")
    assert own.fit_one_cycle(40, 0.3).train["loss"] < 0.2


@pytest.mark.parametrize(
    ("targets", "outputs", "note"),
    [
        (
            Y,
            3,
            "loss: cross-entropy over 3 classes (the targets are whole numbers), label smoothing 0.1, with accuracy",
        ),
        ((Y > 0).long(), 1, "loss: binary cross-entropy on logits (the targets are all 0 or 1), with accuracy"),
        ((Y > 0).float(), 1, "loss: binary cross-entropy on logits (the targets are all 0 or 1), with accuracy"),
        (X[:, 0], 1, "loss: mean squared error (outputs (8, 1), targets (8,) of float32)"),
        (X[:, :1], 1, "loss: mean squared error (outputs (8, 1), targets (8, 1) of float32)"),
    ],
)
def test_the_loss_is_picked_and_said(targets, outputs, note):
    learn = learner((X, targets), (X, targets), seeded_net(classes=outputs))
    assert note in learn.notes
    before = learn.evaluate()["loss"]
    assert learn.fit_one_cycle(8, 0.05).valid["loss"] < before


def test_targets_that_begin_with_zeros_and_ones_are_still_a_regression():
    targets = torch.cat([torch.tensor([0.0, 1.0] * 20), torch.full((8,), 7.5)])
    assert "mean squared error" in learner((X, targets), None, seeded_net(classes=1)).notes[0]


def lrs(learn: Learner) -> list[float]:
    """The learning rates of the last fit."""
    steps = learn.history.steps
    return [row["lr"] for row in steps if row["fit"] == steps[-1]["fit"]]


def test_two_fits_in_a_row_are_two_cycles():
    learn = learner()
    first = learn.fit_one_cycle(2, 0.1)
    assert lrs(learn) == [one_cycle(0.1)(k / 11)["lr"] for k in range(12)]
    second = learn.fit_one_cycle(1, 0.02)
    assert lrs(learn) == [one_cycle(0.02)(k / 5)["lr"] for k in range(6)]
    assert (first.updates, second.updates, learn.state.step) == (12, 6, 18)
    assert (first.lr_max, second.lr_max) == (0.1, 0.02)
    assert [(row["fit"], row["epoch"]) for row in learn.history.epochs] == [(0, 0), (0, 1), (1, 0)]


def test_a_fit_after_one_that_failed_begins_a_new_epoch():
    learn = learner()

    def stop(event):
        if event.step == 8:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn.fit_one_cycle(2, 0.1, observers=[stop])
    samples = []
    learn.fit_one_cycle(2, 0.1, observers=[lambda e: samples.append(e.samples) if isinstance(e, EpochEnd) else None])
    assert samples == [48, 48] and lrs(learn) == [one_cycle(0.1)(k / 11)["lr"] for k in range(12)]


@pytest.mark.parametrize("optimizer", RECIPES)
def test_frozen_layers_do_not_move_and_then_do(optimizer):
    learn = learner(optimizer=optimizer)
    learn.fit_one_cycle(1, 0.05)
    learn.freeze()
    before = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
    learn.fit_one_cycle(2, 0.05)
    moved = {name for name, p in learn.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"2.weight", "2.bias"}
    learn.unfreeze()
    learn.fit_one_cycle(1, 0.05)
    moved = {name for name, p in learn.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= set(before) - {"0.0.bias"}, "a bias before a batch norm has no gradient"


@pytest.mark.parametrize("optimizer", RECIPES)
def test_layers_that_were_frozen_from_the_start_are_trained_afterwards(optimizer, tmp_path):
    """Also with rates by layer, and where that run is broken off and resumed: to the bit."""

    def thawed() -> Learner:
        learn = learner(optimizer=optimizer)
        learn.freeze()
        learn.fit_one_cycle(1, 0.05)
        learn.unfreeze()
        return learn

    def stop(event):
        if isinstance(event, Update) and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    whole, cut, resumed = thawed(), thawed(), learner(optimizer=optimizer)
    before = weights(whole.model)
    whole.fit_one_cycle(1, 0.05, out=tmp_path / "whole")
    moved = set(differing(weights(whole.model), before))
    assert moved >= {name for name, _ in whole.model.named_parameters()} - {"0.0.bias"}
    with pytest.raises(Interrupted):
        cut.fit_one_cycle(1, 0.05, out=tmp_path / "cut", observers=[stop])
    resumed.fit_one_cycle(1, 0.05, out=tmp_path / "cut", resume=True)
    assert differing(weights(resumed.model), weights(whole.model)) == []
    by_layer = thawed()
    assert by_layer.fit_one_cycle(1, slice(0.005, 0.05)).updates == 6


@pytest.mark.parametrize("layers", [-1, 2, 99])
def test_layers_to_freeze_are_checked(layers):
    with pytest.raises(ConfigError, match=f"0 to 1.*received {layers}"):
        learner().freeze(layers)


def group_lrs(learn: Learner, fit) -> list[dict[str, float]]:
    """The learning rate of each parameter at each update of `fit`."""
    names = {id(p): name for name, p in learn.model.named_parameters()}
    used = []
    hook = learn.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append({names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]})
    )
    fit()
    hook.remove()
    return used


@pytest.mark.parametrize("optimizer", ["sgd", torch.optim.AdamW])
def test_rates_by_layer_and_then_one_for_all(optimizer):
    learn = learner(optimizer=optimizer)
    for lr_max, ratio in ((slice(0.001, 0.1), 0.01), (slice(0.1), 0.1), (0.1, 1.0), (slice(0.05, 0.1), 0.5)):
        used = group_lrs(learn, lambda lr_max=lr_max: learn.fit_one_cycle(1, lr_max))
        for k, rates in enumerate(used):
            lr = one_cycle(0.1)(k / 5)["lr"]
            assert rates == {name: pytest.approx(lr if name[0] == "2" else ratio * lr) for name in rates}


@pytest.mark.parametrize("optimizer", ["muon", "sgd", torch.optim.AdamW])
def test_a_slice_leaves_nothing_for_the_fits_after_it(optimizer):
    trained = []
    for sliced in (False, True):
        learn = learner(optimizer=optimizer, clip=1.0)
        start = copy.deepcopy(learn.state.state_dict())
        if sliced:
            learn.fit_one_cycle(1, slice(0.001, 0.1))
            start["optimizer"]["param_groups"] = learn.optimizer.state_dict()["param_groups"]
            learn.state.load_state_dict(start)
        learn.fit_one_cycle(2, 0.1)
        trained.append(weights(learn.model))
    assert differing(*trained) == []


def test_a_run_with_a_slice_is_resumed_to_the_bit(tmp_path):
    def begun(out, **options):
        learn = learner(valid=None)
        learn.fit_one_cycle(2, slice(0.001, 0.1), out=out, **options)
        return weights(learn.model)

    def stop(event):
        if isinstance(event, Update) and event.step == 3:
            raise KeyboardInterrupt

    whole = begun(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path / "broken", observers=[stop])
    assert differing(begun(tmp_path / "broken", resume=True), whole) == []


def test_the_default_peak_of_a_run_that_is_resumed_is_that_which_it_began_with(tmp_path):
    """Another version may have another default."""

    def stop(event):
        if isinstance(event, Update) and event.step == 3:
            raise KeyboardInterrupt

    whole, broken, resumed = learner(), learner(), learner()
    whole.fit(2, lr_max=0.0123)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(2, lr_max=0.0123, out=tmp_path / "run", observers=[stop])
    assert resumed.fit(2, lr_max="default", out=tmp_path / "run", resume=True).lr_max == 0.0123
    assert differing(weights(resumed.model), weights(whole.model)) == []


def test_a_call_that_cannot_be_used_leaves_its_folder_free(tmp_path):
    learn = learner(optimizer=torch.optim.RMSprop)
    learn.fit(1, lr_max=0.001)
    with pytest.raises(ConfigError, match="give lr_max"):
        learn.fit(2, out=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    assert learn.fit(2, lr_max=0.001, out=tmp_path / "run").updates

    def wrong(event):
        raise ConfigError("after an update")

    with pytest.raises(ConfigError, match="after an update"):
        learn.fit(1, lr_max=0.001, out=tmp_path / "tried", observers=[wrong])
    assert RUN.read(tmp_path / "tried")["status"] == "failed"
    with pytest.raises(ConfigError, match="after an update"):
        learner().fit(1, lr_max=0.001, out=tmp_path / "tried", resume=True, observers=[wrong])
    assert RUN.read(tmp_path / "tried")["status"] == "failed"


def test_a_group_added_between_fits_is_trained():
    model = nn.Sequential(seeded_net(), nn.Identity())
    learn = learner(model=model)
    learn.fit_one_cycle(1, 0.1)
    model[1] = nn.Linear(3, 3)
    learn.optimizer.add_param_group({"params": model[1].parameters()})
    before = model[1].weight.detach().clone()
    used = group_lrs(learn, lambda: learn.fit_one_cycle(1, 0.1))
    assert not torch.equal(model[1].weight, before)
    assert all(len(set(rates.values())) == 1 for rates in used) and len(used[0]) == 8
    learn.fit_one_cycle(1, slice(0.01, 0.1))


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD,
        functools.partial(torch.optim.AdamW, betas=(0.8, 0.9)),
        lambda groups: torch.optim.RMSprop(groups),
    ],
)
def test_optimizers_of_the_users(optimizer):
    assert learner(optimizer=optimizer).fit_one_cycle(8, 0.1).valid["accuracy"] > 0.8


def test_an_instance_keeps_the_ratios_of_its_groups():
    model = seeded_net()
    groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters(), "lr": 0.1}]
    learn = learner(model=model, optimizer=torch.optim.SGD(groups, lr=1.0, momentum=0.9))
    for _ in range(2):
        for k, rates in enumerate(group_lrs(learn, lambda: learn.fit_one_cycle(1, 0.3))):
            lr = one_cycle(0.3)(k / 5)["lr"]
            assert rates["2.weight"] == lr and rates["0.0.weight"] == pytest.approx(0.2 * lr)
    with pytest.raises(ConfigError, match="give lr_max: an optimizer of your own"):
        learn.fit_one_cycle(1)


@pytest.mark.parametrize("name", RECIPES)
def test_the_default_peak_is_the_recipes(name):
    result = learner(optimizer=name).fit_one_cycle(6)
    assert result.lr_max == RECIPES[name].lr_max and result.valid["accuracy"] > 0.7


def test_a_learner_needs_no_choice_but_model_and_data():
    result = Learner(seeded_net(), (X, Y), VALID, batch_size=8, verbose=False).fit_one_cycle(6)
    assert result.valid["accuracy"] > 0.7


def test_any_policy_and_preset():
    learn = learner(optimizer="adamw")
    learn.fit(1, Policy({"lr": Piecewise(((0, 0.1), (1, 0.01))), "weight_decay": 0.2}))
    assert lrs(learn)[0] == 0.1 and lrs(learn)[-1] == 0.01
    assert sorted({g["weight_decay"] for g in learn.optimizer.param_groups}) == [0.0, 0.2], "biases stay without"
    learn.fit(1, "fastai", 0.1, momentum=(0.9, 0.7))
    assert learn.history.steps[6]["momentum"] == 0.9 and learn.history.steps[6]["fit"] == 1
    assert lrs(learn) == [preset("fastai", 0.1)(k / 5)["lr"] for k in range(6)]


def test_observers_get_every_event_in_order():
    first, second = [], []
    learn = learner()
    learn.fit_one_cycle(2, 0.1, observers=[first.append, lambda e: second.append((len(first), e))])
    assert "".join("E" if isinstance(e, EpochEnd) else "u" for e in first) == "uuuuuuEuuuuuuE"
    assert [n for n, _ in second] == list(range(1, 15)) and [e for _, e in second] == first
    ends = [e for e in first if isinstance(e, EpochEnd)]
    assert [e.valid["accuracy"] for e in ends] == [row["valid_accuracy"] for row in learn.history.epochs]
    assert [e.loss for e in first if isinstance(e, Update)] == [row["loss"] for row in learn.history.steps]


def test_the_result_says_what_the_history_has():
    learn = learner()
    result = learn.fit_one_cycle(1.5, 0.1)
    last = learn.history.epochs[-1]
    assert result.train == {name: last[f"train_{name}"] for name in ("loss", "loss_unsmoothed", "accuracy")}
    assert result.valid == {"loss": last["valid_loss"], "accuracy": last["valid_accuracy"]} == learn.evaluate()
    assert (result.updates, result.epochs) == (9, 1.5) and result.samples_per_second > 0 and result.seconds > 0
    assert learner(valid=None).fit_one_cycle(1, 0.1).valid is None


class Meter:
    """Gathers; in torchmetrics' manner."""

    fed: ClassVar[list[int]] = []

    def reset(self):
        self.n = 0

    def update(self, outputs, targets):
        self.n += len(targets)
        self.fed.append(len(targets))

    def compute(self):
        return torch.tensor(float(self.n))


def test_metrics_of_every_kind():
    def error(outputs, targets):
        return (outputs.argmax(1) != targets).float().mean()

    learn = learner(metrics=[error, Meter()])
    result = learn.fit_one_cycle(2, 0.1)
    assert result.train.keys() == {"loss", "loss_unsmoothed", "error"} and result.valid["meter"] == 21
    named = learner(metrics={"wrong": error}).fit_one_cycle(1, 0.1)
    assert named.valid.keys() == {"loss", "wrong"}


def test_torchmetrics_in_a_fit():
    torchmetrics = pytest.importorskip("torchmetrics")
    learn = learner(metrics=[torchmetrics.Accuracy("multiclass", num_classes=3, average="micro"), accuracy])
    valid = learn.fit_one_cycle(1, 0.1).valid
    assert valid["multiclassaccuracy"] == pytest.approx(valid["accuracy"])


def test_a_fit_leaves_the_callers_generators():
    before = global_generators()
    learn = learner(DataLoader(TensorDataset(X, Y), 8, shuffle=True), optimizer="adamw")
    learn.fit_one_cycle(1, 0.05, observers=[lambda e: None])
    learn.evaluate()
    learn.predict(X)
    assert global_generators() == before


def test_accumulated_batches_are_one_update():
    one = learner(batch_size=24, model=nn.Linear(4, 3))
    four = learner(batch_size=6, accumulate=4, model=nn.Linear(4, 3))
    four.model.load_state_dict(one.model.state_dict())
    a, b = one.fit_one_cycle(3, 0.1), four.fit_one_cycle(3, 0.1)
    assert a.updates == b.updates == 6
    torch.testing.assert_close(one.model.weight, four.model.weight)


def test_smoothing_shows_in_training_and_not_in_validation():
    plain, smooth = learner(smoothing=0), learner(smoothing=0.5)
    assert smooth.evaluate() == plain.evaluate()
    tiny = Policy({"lr": 1e-12})
    assert smooth.fit(1, tiny).train["loss"] != pytest.approx(plain.fit(1, tiny).train["loss"], rel=1e-3)


def test_predictions():
    learn = learner()
    learn.fit_one_cycle(5, 0.1)
    found = learn.predict(VALID[0])
    assert found.shape == (21, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(21))
    assert (found.argmax(1) == VALID[1]).float().mean().item() == pytest.approx(learn.evaluate()["accuracy"])
    for same in (VALID[0].double().numpy(), VALID, [VALID], TensorDataset(*VALID), [VALID[0][:9], VALID[0][9:]]):
        torch.testing.assert_close(learn.predict(same), found)
    yes = learner((X, (Y > 0).long()), None, seeded_net(classes=1)).predict(X)
    assert yes.shape == (48, 1) and bool(((yes > 0) & (yes < 1)).all())
    raw = learner((X, X[:, 0]), None, nn.Linear(4, 1))
    torch.testing.assert_close(raw.predict(X), raw.model(X).detach())


def test_evaluation_on_other_data():
    learn = learner()
    assert learn.evaluate(VALID) == learn.evaluate() == learn.evaluate(TensorDataset(*VALID))
    assert learn.evaluate((X, Y)) != learn.evaluate()
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        learner(valid=None).evaluate()


def test_weights_saved_and_loaded(tmp_path):
    learn = learner()
    learn.fit_one_cycle(1, 0.1)
    path = learn.save(tmp_path / "model.safetensors")
    other = learner()
    other.load(path)
    assert differing(weights(learn.model), weights(other.model)) == [] and other.evaluate() == learn.evaluate()


def test_foreign_weights_change_nothing(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    path = learner(model=other, train=(X, Y), valid=None).save(tmp_path / "other.safetensors")
    learn = learner(model=model)
    before = weights(model)
    (tmp_path / "noise").write_bytes(b"no weights")
    for wrong in (path, tmp_path / "noise", tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=f"cannot load {wrong}"):
            learn.load(wrong)
        assert differing(before, weights(model)) == []
    with pytest.raises(CheckpointError, match="cannot write"):
        learn.save(tmp_path / "no" / "such" / "folder")


def test_low_precision_trains():
    for precision in ("bf16", "fp16"):
        learn = learner(precision=precision)
        assert learn.fit_one_cycle(5, 0.1).valid["accuracy"] > 0.8
        assert all(p.dtype == torch.float32 for p in learn.model.parameters())


def test_compiled(monkeypatch):
    calls = []

    def quick(model, dynamic):
        """torch's own compiler but for the last stage, the machine code, which takes half a minute."""
        assert dynamic is False, "each of the two sizes of a batch is compiled for itself"
        calls.append(model)
        return compiler(model, backend="eager")

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", quick)
    monkeypatch.setattr("onecycle.training.compiled._check_tools", lambda device: None)
    learn, plain = learner(compile=True), learner()
    assert calls == [learn.model] and learn.state.forward is not learn.model
    assert learn.fit_one_cycle(1, 0.1).valid == plain.fit_one_cycle(1, 0.1).valid
    assert differing(weights(learn.model), weights(plain.model)) == []


def test_in_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(learner().fit_one_cycle(1, 0.1).updates))
    handler = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert results == [6] and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_update(number):
    learn = learner()
    before = signal.getsignal(number)
    seen = []

    def press(event):
        seen.append(event.step)
        if event.step == 3:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=f"stopped by {number.name} after update 3") as found:
        learn.fit_one_cycle(2, 0.1, observers=[press])
    assert seen == [0, 1, 2, 3] and found.value.signal == number and signal.getsignal(number) == before


def test_a_loss_that_diverges_says_where_and_what_to_try():
    learn = learner((X * 1e4, X[:, 0]), None, nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)), rescue=False)
    with pytest.raises(NonFiniteLoss, match=r"at update \d+, at learning rate .*smaller lr_max.*clip=1.0"):
        learn.fit_one_cycle(5, 100.0)


def loss_without_end(model, batch):
    return model(batch[0])


BROKEN_X = X.index_fill(0, torch.tensor([5]), float("nan"))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"train": (X, Y[:40])}, DataError, "one common length"),
        ({"train": (BROKEN_X, Y)}, DataError, "1 of 48 samples, the first at index 5"),
        ({"valid": (BROKEN_X, Y)}, DataError, "the first at index 5"),
        ({"train": (X, Y + 1)}, DataError, "labels must lie from 0 to 2.*found labels from 0 to 3"),
        ({"train": (X, torch.where(Y == 2, -1, Y))}, DataError, "found labels from -1"),
        ({"valid": (X, Y + 5)}, DataError, "found labels from 0 to 7.*give the model 8 outputs"),
        ({"train": (X, X)}, DataError, r"outputs \(8, 3\), targets \(8, 4\) of float32"),
        ({"train": [{"x": X}]}, DataError, "received a dict of 1.*give loss=fn"),
        ({"train": [(X, [0] * 48)]}, DataError, "the targets are a list.*give loss=fn"),
        ({"train": 7}, DataError, "cannot make batches of a int"),
        ({"train": []}, DataError, "no batches: the data are empty"),
        ({"batch_size": 64}, ConfigError, "batch_size 64 is larger than the data, 48 samples"),
        ({"batch_size": 0}, ConfigError, "at least 1"),
        ({"optimizer": "addamw"}, ConfigError, "unknown optimizer 'addamw': did you mean adamw"),
        ({"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())}, ConfigError, "no parameter of this model"),
        ({"precision": "half"}, ConfigError, "unknown precision 'half'"),
        ({"device": "gpu"}, ConfigError, "cannot use the device 'gpu'"),
        ({"metrics": ["accurate"]}, ConfigError, "unknown metric 'accurate': did you mean accuracy"),
        ({"metrics": [5]}, ConfigError, "metrics are functions"),
        ({"accumulate": 0}, ConfigError, "accumulate"),
        ({"clip": -1.0}, ConfigError, "clip"),
        ({"smoothing": 1.5}, ConfigError, "smoothing is a share"),
        ({"smoothing": 0.1, "loss": nn.CrossEntropyLoss()}, ConfigError, "smooth the labels in the loss"),
        ({"augment": "flip"}, ConfigError, "for images held as uint8"),
    ],
)
def test_what_a_learner_cannot_use(options, error, says):
    with pytest.raises(error, match=says):
        learner(**options)


def test_layer_groups_hold_the_whole_model():
    model = seeded_net()
    with pytest.raises(ConfigError, match="layer_groups must hold all"):
        learner(model=model, layer_groups=[model[2]])
    three = learner(model=model, layer_groups=[model[0][0], model[0][1], model[2]])
    used = group_lrs(three, lambda: three.fit_one_cycle(1, slice(0.001, 0.1)))[0]
    assert used["0.1.weight"] / used["0.0.weight"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give epochs or a budget"),
        ({"epochs": 1, "budget": "5m"}, "give epochs or a budget"),
        ({"epochs": 0}, "above 0"),
        ({"epochs": float("nan")}, "above 0"),
        ({"budget": "5 parsecs"}, "cannot read the budget '5 parsecs'"),
        ({"epochs": 1, "lr_max": 0}, "finite number above 0"),
        ({"epochs": 1, "lr_max": float("nan")}, "finite number above 0"),
        ({"epochs": 1, "lr_max": slice(0.2, 0.1)}, "0 < a <= b"),
        ({"epochs": 1, "lr_max": slice(None)}, "0 < a <= b"),
        ({"epochs": 1, "lr_max": slice(0.1, float("inf"))}, "0 < a <= b|finite"),
        ({"epochs": 1, "preset": "one_cyle"}, "the preset one_cycle has no option 'preset'"),
        ({"epochs": 1, "peek_at": 0.2}, "peek_at"),
        ({"epochs": 1, "resume": True}, "resume=True needs out"),
    ],
)
def test_what_a_fit_cannot_use(arguments, says):
    learn = learner()
    before = weights(learn.model)
    with pytest.raises(ConfigError, match=says):
        learn.fit_one_cycle(**arguments)
    assert differing(before, weights(learn.model)) == [] and learn.state.step == 0


def test_labels_of_a_loader_that_are_out_of_range_later():
    bad = batches()
    bad[4] = (bad[4][0], bad[4][1] + 3)
    with pytest.raises(DataError, match="labels must lie from 0 to 2"):
        learner(bad, None).fit_one_cycle(1, 0.1)


def test_a_loss_that_is_not_one_number():
    with pytest.raises(ConfigError, match=r"received a tensor of shape \(16, 3\)"):
        learner(loss=loss_without_end).fit_one_cycle(1, 0.1)


def test_the_data_are_not_changed_by_training():
    x = X.clone()
    learner((x, Y)).fit_one_cycle(1, 0.1)
    assert equal_batches([(x,)], [(X,)])


def test_options_are_keywords_with_their_help():
    signature = inspect.signature(Learner)
    assert [p.name for p in signature.parameters.values()][:3] == ["model", "train", "valid"]
    assert signature.parameters["batch_size"].default is None and signature.parameters["clip"].default is None
    assert {field.name for field in fields(TrainingOptions)} < set(signature.parameters)
    assert "clip: " in Learner.__doc__ and "{options}" not in Learner.__doc__
    with pytest.raises(ConfigError, match="unknown option 'batchsize': did you mean batch_size"):
        Learner(seeded_net(), (X, Y), batchsize=8)
    with pytest.raises(ConfigError, match=r"momentum is one number; received \(0.95, 0.85\)"):
        learner(momentum=(0.95, 0.85))


@pytest.mark.parametrize(("name", "peak"), [("sgd", 0.2), ("adamw", 0.014), ("adam", 0.01), ("muon", 0.04)])
def test_the_default_peak_goes_with_the_samples_of_an_update(name, peak):
    many = blobs(256)
    for options in ({"batch_size": 256}, {"batch_size": 64, "accumulate": 4}):
        assert learner(many, optimizer=name, **options).fit("1 updates", lr_max="default").lr_max == peak
    loader = DataLoader(TensorDataset(*many), batch_size=256)
    assert learner(loader, optimizer=name).fit_one_cycle(1, "default").lr_max == peak
    in_lists = [tuple(part[i : i + 128] for part in many) for i in (0, 128)]  # batches of nobody knows what size
    assert learner(in_lists, optimizer=name).fit_one_cycle(1, "default").lr_max == RECIPES[name].lr_max


def test_the_default_peak_counts_no_batches_beyond_the_epoch():
    options = {"optimizer": "adamw", "batch_size": 64, "accumulate": 64}
    assert learner(blobs(128), **options).fit("1 updates", lr_max="default").lr_max == 0.0099


@pytest.mark.parametrize(
    "size", ["auto", [64], len, torch.tensor([64, 64]), 256.0, -5, 0, True], ids=lambda size: type(size).__name__
)
def test_a_batch_size_that_is_no_number_of_samples_is_not_known(size):
    class Batched:
        batch_size = size

        def __iter__(self):
            return iter(batches())

    learn = learner(Batched(), optimizer="adamw", accumulate=100)
    assert learn.resolved["batch_size"] is None
    assert learn.fit("1 updates", lr_max="default").lr_max == RECIPES["adamw"].lr_max


def test_the_default_peak_by_name():
    assert learner().fit_one_cycle(1, "default").lr_max == RECIPES["sgd"].lr_max
    with pytest.raises(ConfigError, match='lr_max is a number, a slice, "auto" or "default"; received None'):
        learner().fit_one_cycle(1, None)


def test_a_policy_of_ones_own_has_its_peak():
    with pytest.raises(ConfigError, match=r"leave out lr_max=0\.1"):
        learner().fit(1, one_cycle(0.2), 0.1)
    with pytest.raises(ConfigError, match="leave out warmup"):
        learner().fit(1, one_cycle(0.2), warmup=0.1)
    with pytest.raises(ConfigError, match="unknown preset 'one_cicle': did you mean one_cycle"):
        learner().fit(1, "one_cicle", 0.1)


def test_a_learner_is_said_in_a_line():
    learn = learner()
    assert repr(learn) == (
        "Learner(model: Sequential of 83 parameters, optimizer: SGD, device: cpu, fp32, trained: 0 updates)"
    )
    learn.fit_one_cycle(1, 0.1)
    assert "<th>trained</th><td>6 updates</td>" in learn._repr_html_()


class Ticks:
    """Time that passes in forward passes alone: an eighth of a second each."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in ("onecycle.fits.run", "onecycle.training.loop"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(perf_counter=lambda: self.now))

    def loss(self, model, batch):
        self.now += 0.125
        return loss_of_pairs(model, batch)


def loss_of_pairs(model, batch):
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def test_a_time_budget_is_charged_with_evaluations_and_ends_at_the_end_of_its_schedule(monkeypatch):
    """Of 3 s, an eighth a pass: two evaluations of 3 batches, two batches to foresee them, 16 updates to the end."""
    clock = Ticks(monkeypatch)
    learn = learner(loss=clock.loss, batch_size=4, norm_statistics="running")
    clock.now = 0.0
    result = learn.fit("3 s", Policy({"lr": Piecewise(((0, 0.1), (1, 0.0)))}))
    assert (clock.now, result.updates, len(learn.history.epochs)) == (3.0, 16, 2)
    assert lrs(learn)[-1] < 0.1 / result.updates


@pytest.mark.parametrize("slower", [4 / 3, 2])
def test_a_time_budget_holds_under_a_load_that_changes(monkeypatch, slower):
    clock = Ticks(monkeypatch)

    def loss(model, batch):
        clock.now += 0.01 * (slower if 2 < clock.now < 4 else 1)
        return loss_of_pairs(model, batch)

    learn = learner(loss=loss)
    learn.fit("6 s", one_cycle(0.1), after=0.5)
    assert 5.5 * 0.98 < clock.now <= 5.5 * 1.02
    assert lrs(learn)[-1] < 0.002


def test_what_was_spent_before_is_charged_too(monkeypatch):
    clock = Ticks(monkeypatch)
    clock.now = 100.0
    learn = learner(loss=clock.loss, valid=None, norm_statistics="running")
    learn.fit("3 s", one_cycle(0.1), began=98.5)
    assert clock.now == 100 + 1.5 and learn.history.steps[-1]["lr"] == pytest.approx(1e-4)


def test_a_time_budget_too_small_for_pilots_takes_the_default_peak(monkeypatch):
    """Of 20 s at an eighth a pass, 160 updates: five of them tell the pace."""
    clock = Ticks(monkeypatch)
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    learn = learner(MANY, valid=None, loss=clock.loss, norm_statistics="running")
    clock.now = 0.0
    result = learn.fit_one_cycle(budget="20 s")
    assert "peak learning rate 0.2, the default: the budget is too small for pilots that can tell" in learn.notes
    assert result.lr_max == RECIPES["sgd"].lr_max and clock.now == 20 and result.updates == 155


def test_pilots_are_inside_a_time_budget(monkeypatch):
    clock = Ticks(monkeypatch)
    for module in (trial, pilots, api):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    learn = learner(MANY, valid=None, loss=clock.loss, norm_statistics="running")
    clock.now = 0.0
    result = learn.fit_one_cycle(budget="125 s")
    (line,) = [note for note in learn.notes if "from 3 pilots of 16 updates" in note]
    spent = 1000 - result.updates
    assert clock.now == 125 and 48 <= spent - 5 <= 0.1 * 1000 and "which took" in line


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> SimpleNamespace:
    """A learner whose run of 1100 updates found its peak by pilots, with the result and the folder."""
    learn, folder = learner(MANY), tmp_path_factory.mktemp("searched") / "run"
    return SimpleNamespace(learn=learn, folder=folder, result=learn.fit("1100 updates", out=folder))


def test_pilots_are_inside_a_budget_of_updates_and_leave_no_trace(searched):
    given, searched, result = learner(MANY), searched.learn, searched.result
    same = given.fit(f"{result.updates} updates", lr_max=result.lr_max)
    spent = 1100 - result.updates
    assert 3 * 17 <= spent <= 110
    assert differing(weights(searched.model), weights(given.model)) == [] and lrs(searched) == lrs(given)
    assert (same.valid, same.train) == (result.valid, result.train)
    assert learner(MANY).fit("1100 updates", search=0).updates == 1100


@pytest.mark.parametrize("share", [-0.1, 1, float("nan"), "much", None])
def test_a_share_of_the_budget_for_pilots_that_is_none(share):
    with pytest.raises(ConfigError, match=r"search is a share of the budget, at least 0 and below 1; received"):
        learner().fit("1100 updates", search=share)


def test_an_optimizer_of_ones_own_gets_its_peak_from_pilots_where_there_is_room():
    learn = learner(MANY, optimizer=torch.optim.RMSprop)
    with pytest.raises(ConfigError, match=r"give lr_max: .* no default peak here, and the budget is too small"):
        learn.fit("50 updates")
    result = learn.fit("2000 updates")
    assert 2000 - result.updates <= 200 and any("from 3 pilots of 31 updates" in note for note in learn.notes)


def test_killed_in_a_pilot_a_run_makes_the_others_and_the_same_choice(tmp_path, monkeypatch, searched):
    whole, made = searched.result, []

    def power_cut(*args, was=pilots.trial, **keywords):
        made.append(args)
        if len(made) == 2:
            raise RuntimeError("power cut")
        return was(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pilots, "trial", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            learner(MANY).fit("1100 updates", out=tmp_path / "cut")
    assert "lr_max" not in RUN.read(tmp_path / "cut")["resolved"]
    first = read_jsonl(tmp_path / "cut" / "pilots.jsonl")
    result = learner(MANY).fit("1100 updates", out=tmp_path / "cut", resume=True)
    after = read_jsonl(tmp_path / "cut" / "pilots.jsonl")
    assert len(first) == 1 and after[0] == first[0] and len(after) == 3
    folders = tmp_path / "cut", searched.folder
    untimed = [[{**pilot, "seconds": 0} for pilot in read_jsonl(folder / "pilots.jsonl")] for folder in folders]
    assert untimed[0] == untimed[1] and result.lr_max == whole.lr_max and result.updates == whole.updates
    files = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert files[0] == files[1]


def test_a_run_whose_peak_was_found_goes_on_without_pilots(tmp_path, monkeypatch):

    def power_cut(event):
        if getattr(event, "step", 0) == 300:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        learner(MANY).fit("1100 updates", out=tmp_path, observers=[power_cut])
    found = RUN.read(tmp_path)["resolved"]
    monkeypatch.setattr(pilots, "trial", lambda *_, **__: pytest.fail("searched again"))
    result = learner(MANY).fit("1100 updates", out=tmp_path, resume=True)
    assert result.lr_max == found["lr_max"] and result.updates == 1100 - found["search"]["updates"]


def test_a_fit_with_pilots_forecasts_longer_ones(tmp_path):
    learn = learner(MANY)
    with pytest.raises(ConfigError, match="no fit to forecast from: fit first"):
        learn.forecast()
    result = learn.fit("1100 updates", out=tmp_path / "run")
    made, record = learn.forecast(), RUN.read(tmp_path / "run")
    assert learn.notes[-1] == made.line() == record["forecast"]["line"] == record["notes"][-1]
    assert [e["updates"] for e in record["forecast"]["expected"]] == [e.updates for e in made.expected]
    assert made.reason or made.expected[0].value == pytest.approx(main_value(result.valid)[1])
    assert made.reason or made.expected[0].updates == 1100
    assert made.reason or (len(made.pilots), list(made.measured)) == (3, learn.history.measured())
    learn.fit("20 updates", lr_max=0.1)
    assert learn.forecast().line() == "forecast: cannot say: no pilots were made"


def test_a_resumed_run_gives_the_same_forecast(tmp_path, searched):
    whole, cut, resumed = searched.learn, learner(MANY), learner(MANY)

    def power_cut(event):
        if len(cut.history.steps) == 500:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut.fit("1100 updates", out=tmp_path / "cut", observers=[power_cut])
    resumed.fit("1100 updates", out=tmp_path / "cut", resume=True)
    assert replace(resumed.forecast(), seconds=None) == replace(whole.forecast(), seconds=None)
    assert resumed.forecast().n == 3

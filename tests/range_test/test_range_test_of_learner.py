"""The range test of a learner: its own step, data, validation part and precision, and what a fit is like after it."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from range_makers import changes, snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from training_makers import blobs, differing, seeded_net, weights

import onecycle
from onecycle import ConfigError, DataError, Learner, TrainingError
from onecycle.range_test.api import SAMPLES
from onecycle.range_test.plan import FEWEST, MEASUREMENTS

X, Y = blobs(240)
Y = torch.where(torch.arange(240) % 5 == 0, (Y + 1) % 3, Y)
VALID = blobs(300, seed=1)


def learner(train=(X, Y), valid=VALID, model=None, **options) -> Learner:
    options = {"batch_size": 8, "verbose": False, "device": "cpu", "optimizer": "sgd", **options}
    return Learner(seeded_net() if model is None else model, train, valid, **options)


def everything(learn: Learner):
    keep = [] if learn.state.scaler is None else [learn.state.scaler]
    return snapshot([learn.model], [learn.optimizer], keep), vars(learn.state.at).copy(), learn.history, learn.notes[:]


def frozen(learn: Learner, before):
    after = everything(learn)
    return changes(before[0], after[0]) == [] and before[1:] == after[1:]


def test_label_smoothing_is_in_what_is_minimised_and_not_in_the_curve():
    logged = []

    def seen(learn):
        loss = learn.state.loss

        def record(model, batch):
            value, metrics, _ = loss(model, batch)
            if model.training:
                logged.append((value.item(), metrics["loss_unsmoothed"].item()))
            return value, metrics

        learn.state = replace(learn.state, loss=record)
        return learn

    sweep = seen(learner(smoothing=0.3)).range_test(repeats=1).curve.sweeps[0]
    swept = logged[-len(sweep.loss) :]
    assert list(sweep.loss) == [unsmoothed for _, unsmoothed in swept]
    assert all(minimised != unsmoothed for minimised, unsmoothed in swept)
    logged.clear()
    alone = seen(learner(valid=None, smoothing=0.3)).range_test(repeats=1).curve.sweeps[0]
    assert list(alone.loss) == [minimised for minimised, _ in logged[-len(alone.loss) :]]


DATA = {
    "tensors": lambda: (X, Y),
    "list": lambda: list(zip(X.split(8), Y.split(8), strict=True)),
    "shuffled loader": lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True),
    "loader with a generator": lambda: DataLoader(
        TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "dataset": lambda: TensorDataset(X, Y),
    "iterator": lambda: iter(list(zip(X.split(8), Y.split(8), strict=True))),
}
KINDS = [
    *((name, {}) for name in DATA),
    ("tensors", {"optimizer": "adamw"}),
    ("tensors", {"optimizer": "muon"}),
    ("tensors", {"accumulate": 4}),
    ("iterator", {"accumulate": 4}),
    ("tensors", {"clip": 1.0, "precision": "fp16"}),
    ("tensors", {"precision": "bf16"}),
]


@pytest.mark.parametrize(("data", "options"), KINDS)
def test_a_fit_after_it_is_as_a_fit_without_it(data, options):
    results = []
    for tested in (False, True):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        learn = learner(DATA[data](), **options)
        if tested:
            before = everything(learn)
            test = learn.range_test()
            assert len(test.curve.sweeps) == 2 and test.curve.valid_accuracy.mean and frozen(learn, before)
        result = learn.fit_one_cycle(lr_max=0.1, budget="7 updates" if data == "iterator" else 1)
        results.append((weights(learn.model), result.train, result.valid, learn.optimizer.state_dict()["param_groups"]))
        after = torch.rand(1)
    assert differing(results[0][0], results[1][0]) == [] and results[0][1:] == results[1][1:]
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "the caller's generator"


def test_between_two_fits_it_leaves_the_optimizers_state():
    learn, plain = learner(), learner()
    for each in (learn, plain):
        each.fit_one_cycle(1, 0.1)
    before = everything(learn)
    first, second = learn.range_test(), learn.lr_find()
    assert first.curve == second.curve and first.lr_max == second.lr_max and frozen(learn, before)
    for each in (learn, plain):
        each.fit_one_cycle(1, 0.05)
    assert differing(weights(learn.model), weights(plain.model)) == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 2, 20, 45, 46])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_error_or_a_ctrl_c_in_the_loss_leaves_nothing(error, at, precision):
    calls = itertools.count(0)  # the first is the probe of a new learner
    active = True

    def loss(model, batch):
        if active and next(calls) == at:
            raise error
        return F.cross_entropy(model(batch[0]), batch[1])

    learn = learner(loss=loss, precision=precision, clip=1.0)
    before = everything(learn)
    with pytest.raises(error):
        learn.range_test()
    assert frozen(learn, before)
    active = False
    plain = learner(loss=loss, precision=precision, clip=1.0)
    for each in (learn, plain):
        each.fit_one_cycle(1, 0.1)
    assert differing(weights(learn.model), weights(plain.model)) == []


def test_an_error_between_unscaling_and_the_step_leaves_the_scaler_usable(monkeypatch):
    learn = learner(precision="fp16", clip=1.0)
    with monkeypatch.context() as patch:

        def broken(*args):
            raise KeyboardInterrupt

        patch.setattr(nn.utils, "clip_grad_norm_", broken)
        with pytest.raises(KeyboardInterrupt):
            learn.range_test()
    learn.fit_one_cycle(1, 0.1)


def test_no_files_and_no_new_attributes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    learn = learner()
    names = set(vars(learn)), set(vars(learn.state)), set(vars(learn.model))
    learn.range_test()
    assert list(tmp_path.iterdir()) == []
    assert (set(vars(learn)), set(vars(learn.state)), set(vars(learn.model))) == names


# Held-out measurements


@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
def test_it_measures_on_one_small_part_of_the_validation_data(kind):
    valid = {"tensors": VALID, "dataset": TensorDataset(*VALID), "loader": DataLoader(TensorDataset(*VALID), 50)}[kind]
    seen = []

    def loss(model, batch):
        if not model.training:
            seen.append(batch[0])
        return F.cross_entropy(model(batch[0]), batch[1])

    learn = learner(valid=valid, loss=loss)
    seen.clear()
    test = learn.range_test()
    n = test.cost["evaluations"]
    parts = list(torch.cat(seen).split(sum(map(len, seen)) // n))
    assert len(parts) == n and all(torch.equal(part, parts[0]) for part in parts), "always the same"
    assert SAMPLES[0] <= len(parts[0]) <= SAMPLES[1] and len(parts[0]) < 300
    assert {tuple(x.tolist()) for x in parts[0]} <= {tuple(x.tolist()) for x in VALID[0]}
    if kind != "loader":
        assert torch.equal(parts[0][0], VALID[0][0]) and torch.equal(parts[0][-1], VALID[0][-1]), "from all of it"
    assert n >= 0.5 * MEASUREMENTS


@pytest.mark.parametrize("n", [1, 2, 129])
def test_validation_batches_of_one_sample_do_not_stop_a_batch_norm(n):
    loader = DataLoader(TensorDataset(VALID[0][:n], VALID[1][:n]), 128)
    for valid in ((VALID[0][:n], VALID[1][:n]), loader):
        curve = learner(valid=valid, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1])).range_test().curve
        assert curve.valid_loss.mean and all(map(math.isfinite, curve.valid_loss.mean))


def test_metrics_that_gather_are_not_disturbed():
    class Meter:
        def __init__(self):
            self.log = []

        def update(self, outputs, targets):
            self.log.append(len(targets))

        def reset(self):
            self.log.append("reset")

        def compute(self):
            return 0.0

    meter = Meter()
    learn = learner(metrics={"meter": meter}, loss=nn.CrossEntropyLoss())
    meter.log.clear()
    learn.range_test()
    assert meter.log == []


def test_without_validation_data_the_training_loss_has_to_do():
    learn = learner(valid=None)
    before = everything(learn)
    test = learn.range_test()
    assert test.curve.valid_loss.mean == test.curve.valid_accuracy.mean == () and test.cost["evaluations"] == 0
    assert test.lr_max is not None or test.reason
    assert frozen(learn, before)


# Repeats


def test_each_repeat_has_initial_weights_of_its_own_where_the_model_can_be_built():
    def build(seed):
        return nn.Sequential(nn.Linear(4, 3))

    built = []

    def recorded(seed):
        built.append(build(seed))
        return built[-1]

    def first_losses(build):
        learn = learner(DATA["list"](), model=build_seeded(), loss=lambda m, b: m(X).square().mean())
        before = everything(learn)
        test = learn.range_test(build=build, repeats=3, updates=100)
        assert frozen(learn, before)
        return [sweep.loss[0] for sweep in test.curve.sweeps]

    def build_seeded():
        torch.manual_seed(0)
        return build(0)

    kept, other = first_losses(None), first_losses(recorded)
    assert kept[0] == kept[1] == kept[2] == other[0] and len(set(other)) == 3
    assert len(built) == 2 and differing(weights(built[0]), weights(built[1]))


def test_repeats_differ_in_their_batches():
    sweeps = learner(model=seeded_net(dropout=0.0)).range_test(repeats=3, updates=100).curve.sweeps
    assert len({sweep.loss for sweep in sweeps}) == 3


# Precision and cost


def test_overflows_in_fp16_are_no_points():
    calls = itertools.count(1)

    def loss(model, batch):
        value = F.cross_entropy(model(batch[0]), batch[1])
        return value * (math.inf if model.training and next(calls) % 7 == 0 else 1.0)

    learn = learner(loss=loss, precision="fp16", optimizer="adamw")
    before = everything(learn)
    test = learn.range_test(updates=100)
    assert frozen(learn, before)
    for sweep in test.curve.sweeps:
        assert len(sweep.lr) > 10 and len({round(b / a, 6) for a, b in itertools.pairwise(sweep.lr)}) == 1


def test_gradients_that_overflow_at_any_scale_are_an_error():
    learn = learner(loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]) * math.inf, precision="fp16")
    before = everything(learn)
    with pytest.raises(TrainingError, match="the loss is nan before any update"):
        learn.range_test()
    assert frozen(learn, before)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("updates", [None, 70, 120])
def test_updates_are_counted_and_stay_within_what_is_told(updates, accumulate):
    learn = learner(accumulate=accumulate)
    applied = []
    learn.optimizer.register_step_post_hook(lambda *_: applied.append(1))
    test = learn.range_test(updates=updates)
    assert test.cost["updates"] == len(applied) <= (updates or FEWEST)
    assert test.cost["share"] == pytest.approx(len(applied) / (10 * 30 / accumulate))


def test_by_default_it_costs_under_a_twentieth_of_ten_epochs():
    x, y = blobs(1300)
    assert learner((x, y)).range_test().cost["share"] <= 0.05


# What cannot be tested, and what can


def test_a_trained_model_is_swept():
    learn = learner(blobs(240))
    learn.fit_one_cycle(10, 0.1)
    before = everything(learn)
    test = learn.range_test()
    assert min(map(len, (sweep.lr for sweep in test.curve.sweeps))) > 7
    assert (test.lr_max is None) == bool(test.reason) and frozen(learn, before)


def test_weights_that_are_nan_are_an_error_that_says_so():
    learn = learner()
    with torch.no_grad():
        learn.model[2].weight.fill_(math.nan)
    before = everything(learn)
    with pytest.raises(TrainingError, match="the loss is nan before any update: look at the data"):
        learn.range_test()
    assert frozen(learn, before)


@pytest.mark.parametrize("options", [{"updates": "100"}, {"repeats": None}, {"repeats": "2"}])
def test_counts_that_are_none_are_named(options):
    with pytest.raises(ConfigError, match="a whole number of at least 1; received"):
        learner().range_test(**options)


@pytest.mark.parametrize("build", [lambda seed: nn.Linear(1, 1), lambda seed: None])
def test_what_does_not_build_the_model_is_named(build):
    learn = learner()
    before = everything(learn)
    with pytest.raises(ConfigError, match="makes the model that is tested"):
        learn.range_test(build=build)
    assert frozen(learn, before)


def test_it_says_how_long_it_takes_before_it_begins(capsys):
    learn = learner(blobs(1100), verbose=True)
    capsys.readouterr()
    learn.range_test()
    assert "range test: takes about the time of 68 updates" in capsys.readouterr().err


@pytest.mark.parametrize("train", [(X[:8], Y[:8]), [(X, Y)], iter([(X, Y)])], ids=["tensors", "list", "iterator"])
def test_one_batch_is_too_few(train):
    with pytest.raises(DataError, match=r"at least 2 batches"):
        learner(train).range_test()


def test_an_optimizer_whose_rates_are_zero_is_tested_all_the_same():
    model = seeded_net()
    learn = learner(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    curve = learn.range_test().curve
    assert min(curve.loss.mean) < curve.loss.mean[0] - 0.1 and learn.optimizer.param_groups[0]["lr"] == 0.0


def test_frozen_layers_stay_as_they_are():
    learn = learner()
    learn.freeze()
    before = everything(learn)
    assert learn.range_test().curve.lr and frozen(learn, before)
    assert [p.requires_grad for p in learn.model.parameters()] == [False] * 4 + [True] * 2


def test_a_compiled_model_is_tested_through_its_compiled_form(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    monkeypatch.setattr("onecycle.training.compiled._check_tools", lambda device: None)
    assert learner(compile=True).range_test().curve.lr


def swept(model, optimizer, updates, **options):
    data = onecycle.load("digits")
    net = onecycle.build_model(model, input_shape=data.input_shape, classes=data.n_classes, seed=0)
    learn = Learner(net, data, optimizer=optimizer, batch_size=16, verbose=False)
    return learn.range_test(updates=updates, **options)


def test_a_sweep_that_begins_late_and_falls_cleanly_has_a_peak():
    test = swept("small-cnn", "muon", 400)
    losses = test.curve.sweeps[0].loss
    assert losses[0] > 2 and min(losses) < 0.5, "the training loss falls cleanly"
    assert test.lr_max is not None and 0.02 < test.lr_max < 0.15


def test_a_linear_sweep_has_the_peak_of_an_exponential_one():
    linear, exponential = (swept("mlp", "sgd", 200, spacing=spacing) for spacing in ("linear", "exponential"))
    assert 0.4 < linear.lr_max / exponential.lr_max < 2.5


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_peak_of_a_long_test_is_about_that_of_a_short_one(optimizer):
    short, long = (swept("mlp", optimizer, updates) for updates in (64, 400))
    assert 0.4 < short.lr_max / long.lr_max < 2.5

"""What trainings drawn at random brought to light (bench/fuzz.py), each in its smallest form."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from onecycle import ConfigError, DataError, Learner, Supervised, TrainState, Update, preset, train

G = torch.Generator().manual_seed(0)
X = torch.randn(24, 5, generator=G)
LABELS = torch.arange(24) % 3
IMAGES = torch.randn(24, 2, 6, 6, generator=G)


def learner(model, data, valid=None, **options):
    return Learner(model, data, valid, **{"batch_size": 8, "optimizer": torch.optim.SGD, "verbose": False, **options})


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, outputs)


class Again:
    """Batches that can be gone through again, of an unknown number."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def normed() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def listed(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


# Memory formats


class Viewed(nn.Module):
    """The classic convolutional net, which flattens by `view`."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(F.relu(self.body(x)).view(-1, 64))


@pytest.mark.parametrize("loss", [None, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])])
def test_a_model_that_flattens_by_view_is_trained(loss):
    model = Viewed()
    before = model.body.weight.clone()
    learner(model, (IMAGES, LABELS), loss=loss).fit(1, lr_max=0.1)
    assert model.body.weight.is_contiguous() and not torch.equal(model.body.weight, before)


@pytest.mark.parametrize("loss", ["nll", lambda model, batch: F.nll_loss(model(batch[0]), batch[1])])
def test_a_loss_that_takes_contiguous_outputs_alone_gets_them(loss):
    pixels = torch.randint(0, 3, (24, 6, 6), generator=G)
    learner(nn.Conv2d(2, 3, 1), (IMAGES, pixels), loss=loss).fit(1, lr_max=0.1)


def test_other_convolutions_are_laid_out_with_their_channels_last_without_a_trace():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner(model, (IMAGES, LABELS))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# Types of targets


@pytest.mark.parametrize("loss", ["huber", "smooth_l1", "mse", "mae", nn.BCEWithLogitsLoss()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bool])
@pytest.mark.parametrize("double", [False, True])
def test_targets_of_another_precision_than_the_outputs(loss, dtype, double):
    targets, model = (X[:, :2] > 0).to(dtype), net(2)
    inputs, model = (X.double(), model.double()) if double else (X, model)
    learn = learner(model, (inputs, targets), loss=loss, weight_decay=0.0)
    learn.fit("1 update", "constant", 0.1)
    by_hand = net(2).double() if double else net(2)
    x, y = next(learn.train.epoch(0))
    learn.state.loss.criterion(by_hand(x), y.to(x.dtype)).backward()
    torch.testing.assert_close(model.weight, by_hand.weight - 0.1 * by_hand.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_class_weights_of_models_that_are_not_float32(dtype):
    inputs, labels, model = X.to(dtype), LABELS.clamp(max=1), net().to(dtype)
    learn = learner(model, (inputs, labels), class_weights="balanced", smoothing=0.0)
    learn.fit("1 update", "constant", 0.1)
    expected = F.cross_entropy(model(inputs), labels, torch.tensor([1.5, 0.75, 1.0]).to(dtype)).item()
    assert learn.evaluate((inputs, labels))["loss"] == pytest.approx(expected, rel=1e-2)


def test_float64_stays_exact_where_batches_are_accumulated_by_weight():
    """Shares of whole numbers, such as of targets that count, are float32 in torch."""
    targets = LABELS.masked_fill(torch.arange(24) % 5 == 0, -100)
    model, alone = net().double(), net().double()
    options = {"loss": nn.CrossEntropyLoss(), "weight_decay": 0.0}
    learner(model, listed(X.double(), targets, 7), accumulate=4, **options).fit(1, "constant", 0.1)
    learner(alone, [(X.double(), targets)], **options).fit(1, "constant", 0.1)
    torch.testing.assert_close(model.weight, alone.weight, rtol=1e-13, atol=1e-14)


# Batches of one sample


def test_single_samples_for_a_batch_norm_are_found_before_the_first_update():
    odd = listed(X[:17], LABELS[:17], 8)
    dicts = [{"x": x, "y": y} for x, y in odd]

    def loss(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"])

    for data, options in ((odd, {}), (dicts, {"loss": loss}), ((X, LABELS), {"batch_size": 1})):
        model = normed()
        with pytest.raises(DataError, match="a batch of one sample"):
            learner(model, data, **options)
        assert int(model[1].num_batches_tracked) == 0


def test_a_stream_says_it_when_it_comes_to_the_single_sample():
    learn = learner(normed(), iter(listed(X[:17], LABELS[:17], 8)))
    with pytest.raises(DataError, match="a batch of one sample"):
        learn.fit("3 updates", "constant", 0.1)


def test_a_single_sample_after_the_end_of_a_run_is_left_out_of_the_statistics_of_norms():
    model, by_hand = normed(), normed()
    learn = learner(model, Again(listed(X[:17], LABELS[:17], 8)))
    learn.fit("1 update", "constant", 0.1)
    by_hand.load_state_dict(model.state_dict())
    inside = [by_hand[0](x) for x in (X[:8], X[8:16])]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in inside]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in inside]).mean(0))


# Targets


@pytest.mark.parametrize("data", [listed, lambda x, y, size: DataLoader(TensorDataset(x, y), size)])
def test_labels_of_all_batches_in_memory_are_looked_at(data):
    labels = LABELS.clone()
    labels[-1] = 3
    with pytest.raises(DataError, match="found labels from 0 to 3"):
        learner(net(), data(X, labels, 8))


def test_targets_that_are_left_out_of_other_data_alone():
    learn = learner(net(), (X, LABELS), metrics=["accuracy", "top2"])
    other = LABELS.masked_fill(torch.arange(24) % 5 < 2, -100)
    outputs, counted = learn.model(X).detach(), other != -100
    measured = learn.evaluate(listed(X, other, 5))
    assert measured["loss"] == pytest.approx(F.cross_entropy(outputs, other).item(), rel=1e-5)
    assert measured["accuracy"] == pytest.approx((outputs.argmax(1) == other)[counted].float().mean().item())
    two = (outputs.topk(2).indices == other[:, None]).any(1)
    assert measured["top2"] == pytest.approx(two[counted].float().mean().item())


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_part_of_an_update_that_weighs_nothing_adds_nothing_to_it(by_hand, precision):
    """Its mean is 0 / 0, and so is the gradient of that."""
    weight = torch.tensor([0.0, 1.0, 2.0])
    x, y = X[:4], torch.tensor([0, 0, 1, 2])

    def masked(model, batch):
        each, mask = F.cross_entropy(model(batch[0]), batch[1], reduction="none"), weight[batch[1]]
        return (each * mask).sum() / mask.sum(), {}, mask.sum()

    loss = masked if by_hand else nn.CrossEntropyLoss(weight=weight)
    model, alone = net(), net()
    options = {"loss": loss, "weight_decay": 0.0, "precision": precision}
    learner(model, listed(x, y, 2), accumulate=2, **options).fit(1, "constant", 0.1)
    learner(alone, [(x[2:], y[2:])], **options).fit(1, "constant", 0.1)
    torch.testing.assert_close(model.weight, alone.weight, rtol=1e-3, atol=1e-3 if precision == "fp16" else 1e-6)
    before = model.weight.clone()
    learn = learner(model, listed(x[:2], y[:2], 1) * 2, accumulate=4, **options)
    learn.fit(1, "constant", 0.1)
    assert torch.equal(model.weight, before) and learn.state.step == 1


@pytest.mark.parametrize("model", [nn.Sequential(net(1), nn.Flatten(0)), net(1)], ids=["[n]", "[n, 1]"])
def test_one_output_for_a_loss_of_classes_is_refused_which_would_always_be_zero(model):
    for targets in (torch.zeros(24, dtype=torch.int64), torch.rand(24, 1)):
        with pytest.raises(DataError, match=r"outputs of \[n, classes\]; received float32 .*BCEWithLogitsLoss"):
            learner(model, (X, targets), loss=nn.CrossEntropyLoss(), metrics="f1")


def test_labels_out_of_range_in_a_stream_are_said_for_any_criterion_of_classes():
    labels = LABELS.clone()
    labels[-1] = 3
    for criterion in (nn.MultiMarginLoss(), nn.CrossEntropyLoss()):
        learn = learner(net(), iter(listed(X, labels, 8)), loss=criterion)
        with pytest.raises(DataError, match="labels must lie from 0 to 2"):
            learn.fit("3 updates", "constant", 0.1)


def test_a_loss_in_a_loop_of_ones_own_is_a_mean_too():
    for criterion in (nn.MSELoss(reduction="sum"), functools.partial(F.cross_entropy, reduction="none")):
        with pytest.raises(ConfigError, match='give reduction="mean"'):
            Supervised(criterion)


def test_a_mean_over_no_targets_at_all_is_not_a_number():
    learn = learner(net(), (X, LABELS), metrics=["accuracy", "f1"])
    measured = learn.evaluate((X, torch.full((24,), -100)))
    assert all(map(math.isnan, measured.values())) and measured.keys() == {"loss", "accuracy", "f1"}


def test_a_hinge_embedding_does_not_broadcast():
    targets = LABELS.remainder(2) * 2 - 1
    learn = learner(net(1), (X, targets), loss=nn.HingeEmbeddingLoss())
    expected = F.hinge_embedding_loss(learn.model(X).view(-1), targets)
    assert learn.evaluate((X, targets))["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, "pos_weight"])
def test_weights_of_outputs_are_not_broadcast_over_the_batch(loss):
    weights = torch.tensor([1.0, 5.0, 0.2])
    criterion = nn.BCEWithLogitsLoss(pos_weight=weights) if loss == "pos_weight" else loss(weight=weights)
    with pytest.raises(ConfigError, match=r"weight has shape \[3\], and the outputs of a sample have \[\]"):
        learner(net(1), (X, LABELS.remainder(2)), loss=criterion, batch_size=3)
    learner(net(3), (X, F.one_hot(LABELS, 3)), loss=criterion, batch_size=3).fit("2 updates", "constant", 0.1)


def test_targets_beyond_what_the_first_ones_decided_for_are_refused_when_they_come():
    targets = (LABELS.float() - 1).abs().sort().values
    targets[-1] = 2.0
    learn = learner(net(1), iter(listed(X, targets, 8)))
    with pytest.raises(DataError, match='from 1 to 2: give the loss, such as loss="mse"'):
        learn.fit("3 updates", "constant", 0.1)


# Optimizers and metrics


def test_dense_gradients_for_an_optimizer_of_sparse_ones():
    with pytest.raises(ConfigError, match="SparseAdam is for sparse gradients alone"):
        learner(net(), (X, LABELS), optimizer=torch.optim.SparseAdam)


class Turned(nn.Module):
    """Complex matrices, then real ones."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(5, 5, dtype=torch.complex64) for _ in range(2)))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x.to(torch.complex64)).abs())


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adam", "adamw"])
def test_complex_weights_are_trained_by_the_named_optimizers(optimizer):
    learn = learner(Turned(), (X, LABELS), optimizer=optimizer)
    before = learn.evaluate((X, LABELS))["loss"]
    learn.fit(4, lr_max=0.01)
    assert learn.evaluate((X, LABELS))["loss"] < before


def test_an_optimizer_that_cannot_take_its_first_step():
    learn = learner(Turned(), (X, LABELS), optimizer=torch.optim.Adafactor)
    with pytest.raises(ConfigError, match=r"Adafactor cannot update these parameters: .*complex.* another optimizer"):
        learn.fit(1, lr_max=0.01)
    frozen = nn.Sequential(net(), nn.Linear(3, 3)).requires_grad_(False)
    learn = learner(frozen, (X, LABELS), optimizer=torch.optim.SparseAdam)
    frozen.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"SparseAdam cannot update these parameters: .*dense"):
        learn.fit(1, lr_max=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_state_of_an_optimizer_in_another_type_than_its_weights_is_loaded_as_it_was(dtype):
    whole, first, second = (learner(net().to(dtype), (X.to(dtype), LABELS), optimizer=torch.optim.NAdam) for _ in "abc")
    policy, losses = preset("constant", 0.1), []
    for event in train(whole.state, whole.train, "6 updates", policy):
        losses += [event.loss] if isinstance(event, Update) else []
    for event in train(first.state, first.train, "6 updates", policy):
        if isinstance(event, Update) and event.step == 2:
            break
    second.state.load_state_dict(first.state.state_dict())
    rest = [e.loss for e in train(second.state, second.train, "6 updates", policy) if isinstance(e, Update)]
    assert rest == losses[3:] and torch.equal(whole.model.weight, second.model.weight)


def test_an_optimizer_of_another_model_in_a_loop_of_ones_own():
    with pytest.raises(ConfigError, match="holds no parameter of this model"):
        TrainState(net(), torch.optim.SGD(net().parameters(), lr=0.1), Supervised(nn.CrossEntropyLoss()))


def test_metrics_beside_a_loss_of_ones_own_are_tried_first():
    dicts = [{"x": x, "y": y} for x, y in listed(X, LABELS, 8)]

    def loss(model, batch):
        x, y = batch.values() if isinstance(batch, dict) else batch
        return F.cross_entropy(model(x)[0], y)

    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    def size(outputs, targets):
        return outputs.abs().mean()

    with pytest.raises(DataError, match=r"metrics beside loss=fn\(model, batch\) are of batches \(inputs, targets\)"):
        learner(Two(5, 3), dicts, loss=loss, metrics=[size])
    with pytest.raises(DataError, match=r"metric '.*' fails on the model's outputs, a tuple"):
        learner(Two(5, 3), (X, LABELS), loss=loss, metrics=[size])
    learn = learner(Two(5, 3), dicts, loss=loss, metrics=[])
    learn.fit(1, lr_max=0.1)
    assert learn.evaluate(dicts).keys() == {"loss"}


# Validation data


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        ((X[:, :4], LABELS), "validation data: the loss cannot be measured on .*4 and 5x3"),
        (listed(X.double(), LABELS, 8), "validation data: .*float64"),
        ((X, LABELS[:, None]), r"validation data: .*give targets.squeeze"),
        ((X, LABELS.float()), "validation data: .*give targets.long"),
        (iter(listed(X, LABELS, 8)), "can be gone through only once: give list"),
    ],
    ids=["columns", "type", "shape of targets", "type of targets", "iterator"],
)
def test_validation_data_that_do_not_fit_are_refused_before_the_first_update(valid, words):
    with pytest.raises(DataError, match=words):
        learner(net(), (X, LABELS), valid)


def test_a_loss_of_ones_own_may_be_nothing_for_the_first_validation_samples():
    """None of their targets counts; how much the others do is not known of it."""
    learn = learner(net(), (X, LABELS), (X, LABELS.masked_fill(torch.arange(24) < 8, -100)), loss=of_ones_own)
    learn.fit("1 update", "constant", 0.1)


def of_ones_own(outputs, targets):
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("inputs", [X, X.double().numpy()])
def test_validation_inputs_in_memory_become_of_the_models_type(inputs):
    learn = learner(net(), (inputs, LABELS), (X.double(), LABELS))
    expected = F.cross_entropy(learn.model(X), LABELS).item()
    assert learn.evaluate()["loss"] == pytest.approx(expected, rel=1e-5)
    assert "inputs: float64 becomes float32, the model's type" in learn.notes


def test_a_single_validation_sample_for_a_norm_without_running_statistics():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    for valid in (listed(X[:17], LABELS[:17], 8), DataLoader(TensorDataset(X[:17], LABELS[:17]), 8)):
        for inputs in (X, X * 100):  # which are standardised, in batches around these
            with pytest.raises(DataError, match=r"validation data: .*float32 \[1, 5\].*more than 1 value per channel"):
                learner(model, (inputs, LABELS), valid)

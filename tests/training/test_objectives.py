"""Which loss is picked for which outputs and targets, and what is said about it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import ConfigError, DataError, Supervised
from onecycle.training.losses import binary_cross_entropy, cross_entropy, mean_squared_error, unwrapped
from onecycle.training.metrics import Perplexity, SquaredErrors, accuracy
from onecycle.training.objectives import Seen, activation, check_labels, given_loss, pick_task

R = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
ZEROS_AND_ONES = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("outputs", "targets", "picked", "note"),
    [
        (R, torch.tensor([0, 1, 2, 0]), cross_entropy, "cross-entropy over 3 classes"),
        (R, torch.tensor([0, 1, 2, 0], dtype=torch.uint8), cross_entropy, "cross-entropy over 3 classes"),
        (R[:, :2], ZEROS_AND_ONES, cross_entropy, "cross-entropy over 2 classes"),
        (R.view(2, 2, 3), torch.tensor([[0, 1], [2, 0]]), cross_entropy, "cross-entropy over 3 classes"),
        (R[:, :1], ZEROS_AND_ONES, binary_cross_entropy, "binary cross-entropy on logits"),
        (R[:, 0], ZEROS_AND_ONES, binary_cross_entropy, "binary cross-entropy on logits"),
        (R[:, :1], ZEROS_AND_ONES.float(), binary_cross_entropy, "binary cross-entropy on logits"),
        (R[:, :1], ZEROS_AND_ONES.bool(), binary_cross_entropy, "binary cross-entropy on logits"),
        (R, (R > 0).float(), binary_cross_entropy, "binary cross-entropy on logits"),
        (R, (R > 0).long(), binary_cross_entropy, "binary cross-entropy on logits"),
        (R[:, :1], R[:, 1], mean_squared_error, r"mean squared error \(outputs \(4, 1\), targets \(4,\) of float32\)"),
        (R[:, :1], R[:, 1:2], mean_squared_error, "mean squared error"),
        (R, R * 2, mean_squared_error, "mean squared error"),
    ],
)
def test_the_loss_that_fits(outputs, targets, picked, note):
    import re

    task, said = pick_task(Seen(outputs, targets))
    assert unwrapped(task.criterion) is picked and re.match("loss: " + note, said), said
    assert said.endswith("accuracy") == (picked is not mean_squared_error) == ("accuracy" in task.metrics)
    loss, metrics, _ = task(nn.Identity(), (outputs, targets))
    unsmoothed = {"loss_unsmoothed"} if task.smoothing else set()
    assert loss.ndim == 0 and bool(torch.isfinite(loss)) and metrics.keys() == task.metrics.keys() | unsmoothed


def test_one_column_against_a_flat_target_is_not_broadcast():
    outputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0])
    assert mean_squared_error(outputs, targets).item() == 2.5
    bce = -(math.log(1 - 1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(-2)))) / 2
    assert binary_cross_entropy(outputs, torch.tensor([0, 1])).item() == pytest.approx(bce, rel=1e-6)
    task, _ = pick_task(Seen(outputs, torch.tensor([0, 1])))
    assert task.metrics["accuracy"](outputs, torch.tensor([0, 1])).item() == 0.5


def test_all_targets_at_hand_decide():
    few = torch.tensor([0.0, 1.0, 0.0])
    assert unwrapped(pick_task(Seen(torch.zeros(3, 1), few))[0].criterion) is binary_cross_entropy
    assert pick_task(Seen(torch.zeros(3, 1), few, [torch.tensor([0.0, 3.5])]))[0].criterion is mean_squared_error
    with pytest.raises(DataError, match="found labels from 0 to 7"):
        pick_task(Seen(torch.zeros(3, 4), few.long(), [torch.tensor([0, 7])]))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (R, R[:, 0]),
        (R, torch.tensor([0, 1, 2])),
        (R, torch.zeros(4, 1, dtype=torch.long)),
        (R[:, 0], torch.tensor([[0.0], [1.0], [1.0], [0.0]])),
        (R, R[:, :2]),
    ],
)
def test_shapes_that_do_not_fit_are_named(outputs, targets):
    shapes = f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)}"
    with pytest.raises(DataError) as found:
        pick_task(Seen(outputs, targets))
    assert shapes in str(found.value) and "give loss=fn(model, batch)" in str(found.value)


@pytest.mark.parametrize(
    ("outputs", "targets", "says"),
    [({"logits": R}, torch.zeros(4), "the model's outputs are a dict"), (R, [0, 1, 2, 0], "the targets are a list")],
)
def test_what_is_not_a_tensor_needs_a_loss_of_its_own(outputs, targets, says):
    with pytest.raises(DataError, match=says + ".*give loss=fn"):
        pick_task(Seen(outputs, targets))


@pytest.mark.parametrize(("labels", "found"), [([0, 3], "from 0 to 3"), ([-1, 2], "from -1 to 2")])
def test_labels_out_of_range(labels, found):
    with pytest.raises(DataError, match=f"must lie from 0 to 2, since the model has 3 outputs; found labels {found}"):
        check_labels([torch.tensor([1]), torch.tensor(labels)], 3)


def test_labels_are_smoothed_by_default_and_tokens_are_not():
    labels, tokens = torch.tensor([0, 1, 2, 0]), torch.tensor([[0, 1], [2, 0]])
    assert pick_task(Seen(R, labels))[0].smoothing == 0.1
    assert pick_task(Seen(R.view(2, 2, 3), tokens))[0].smoothing == 0.0
    for amount in (0.0, 0.3):
        assert pick_task(Seen(R, labels), smoothing=amount)[0].smoothing == amount
        assert pick_task(Seen(R.view(2, 2, 3), tokens), smoothing=amount)[0].smoothing == amount


def test_smoothing_reaches_the_cross_entropy_and_nothing_else():
    assert pick_task(Seen(R, torch.tensor([0, 1, 2, 0])), smoothing=0.1)[0].smoothing == 0.1
    for targets in (R, (R > 0).float()):
        with pytest.raises(ConfigError, match="smoothing is for a cross-entropy"):
            pick_task(Seen(R, targets), smoothing=0.1)


class Meter:
    def update(self, outputs, targets): ...
    def compute(self): ...
    def reset(self): ...


def test_metrics_as_a_list_or_by_name():
    meter = Meter()
    for given, names, measured in (
        ([accuracy, meter], ["accuracy"], ["meter"]),
        ({"a": accuracy, "b": meter}, ["a"], ["b"]),
        ([], [], []),
    ):
        task, said = pick_task(Seen(R, torch.tensor([0, 1, 2, 0])), given)
        assert (list(task.metrics), list(task.meters)) == (names, measured)
        assert said.endswith(", ".join([*names, *measured]))


@pytest.mark.parametrize("metrics", [{"loss": accuracy}, {"a": 5}, ["accurate"]])
def test_metrics_that_cannot_be(metrics):
    with pytest.raises(ConfigError, match=r"metrics are functions|unknown metric"):
        pick_task(Seen(R, torch.tensor([0, 1, 2, 0])), metrics)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy, nn.L1Loss(), F.huber_loss])
def test_a_criterion_of_torch_gets_metrics_beside_it(loss):
    task, _ = given_loss(loss)
    assert isinstance(task, Supervised) and task.criterion is loss
    assert list(task.metrics) == (["accuracy"] if "ross" in repr(loss) else [])
    assert list(given_loss(loss, [accuracy])[0].metrics) == ["accuracy"]


def test_a_function_of_model_and_batch_stays_as_it_is():
    def loss(model, batch):
        return model(batch).mean()

    assert given_loss(loss) == (loss, [])
    with pytest.raises(ConfigError, match="Or return metrics yourself"):
        given_loss(loss, ["accuracy"])


def test_predictions_are_probabilities_where_there_are_classes():
    for criterion in (cross_entropy, F.cross_entropy, nn.CrossEntropyLoss()):
        torch.testing.assert_close(activation(Supervised(criterion))(R), R.softmax(-1))
    torch.testing.assert_close(activation(Supervised(binary_cross_entropy))(R), R.sigmoid())
    for other in (Supervised(mean_squared_error), lambda model, batch: None):
        assert activation(other)(R) is R


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens():
    meter = Perplexity()
    generator = torch.Generator().manual_seed(0)
    parts = [
        (torch.randn(n, 5, 7, generator=generator), torch.randint(0, 7, (n, 5), generator=generator)) for n in (3, 1)
    ]
    for _ in range(2):
        meter.reset()
        for outputs, targets in parts:
            meter.update(outputs, targets)
    tokens = torch.cat([F.cross_entropy(o.flatten(0, 1), t.flatten(), reduction="none") for o, t in parts])
    assert meter.compute() == pytest.approx(math.exp(tokens.mean().item()), rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_squared_errors_of_uneven_parts_are_those_of_all(offset):
    targets = R.double().repeat(5, 1) * torch.arange(20)[:, None] + offset
    outputs = targets + R.flip(0).repeat(5, 1)
    meters = [SquaredErrors() for _ in range(4)]
    for meter, part in zip(meters, (slice(0, 3), slice(3, 3), slice(3, 13), slice(13, 20)), strict=True):
        for i in range(part.start, part.stop, 4):
            meter.update(outputs[i : min(i + 4, part.stop)], targets[i : min(i + 4, part.stop)])
    meters[1].combine(meters)
    spread = (targets - targets.mean(0)).square().sum(0)
    expected = (1 - (outputs - targets).square().sum(0) / spread).mean().item()
    assert meters[1].compute() == pytest.approx(expected, rel=1e-9)


def test_r2_of_constant_targets_is_nan_in_any_number_of_batches():
    meter = SquaredErrors()
    for n in (3, 7, 1):
        meter.update(torch.rand(n), torch.full((n,), 0.1))
    assert math.isnan(meter.compute())


def test_perplexity_of_what_is_lost_is_infinite_and_of_no_tokens_nan():
    meter = Perplexity()
    meter.update(torch.tensor([[0.0, 1000.0]]), torch.tensor([0]))
    assert meter.compute() == math.inf
    meter.reset()
    meter.update(torch.zeros(2, 2), torch.full((2,), -100))
    assert math.isnan(meter.compute())


def test_with_label_smoothing_the_loss_without_it_is_measured_too():
    outputs, targets = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True), torch.tensor([0])
    task = Supervised(cross_entropy, {"accuracy": accuracy}, smoothing=0.1)
    net = nn.Identity()
    loss, metrics, _ = task(net, (outputs, targets))
    assert loss == F.cross_entropy(outputs, targets, label_smoothing=0.1)
    assert (
        metrics["loss_unsmoothed"] == F.cross_entropy(outputs, targets) and not metrics["loss_unsmoothed"].requires_grad
    )
    judged, plain, _ = task(net.eval(), (outputs, targets))
    assert judged == F.cross_entropy(outputs, targets) and plain.keys() == {"accuracy"}

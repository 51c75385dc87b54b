"""Losses, targets and metrics as users of other tools reported them; each test is named after a public report."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from onecycle import ConfigError, DataError, Learner, OneCycleError, Supervised, evaluate
from onecycle.training.losses import cross_entropy

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=G)
LABELS = torch.randint(0, 3, (64,), generator=G)


def learner(model, data, valid=None, **options):
    torch.manual_seed(0)
    return Learner(model, data, data if valid is None else valid, **{"batch_size": 16, "verbose": False, **options})


def net(outputs: int, inputs: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs)


def trained_by_hand(model, batches, criterion, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model


def trained(model, batches, **options):
    learn = Learner(model, batches, optimizer=torch.optim.SGD, weight_decay=0.0, verbose=False, **options)
    learn.fit(1, "constant", 0.1)
    return model


# Segmentation


class Pixels(nn.Module):
    """Outputs [n, classes, h, w] for images [n, c, h, w]."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Conv2d(2, classes, 1)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("size", [(4, 6), (3, 3)], ids=["not square", "as many classes as pixels"])
def test_classes_along_axis_1_for_torchs_cross_entropy_fastai_3603(size):
    images = torch.randn(12, 2, *size, generator=G)
    targets = torch.randint(0, 3, (12, *size), generator=G)
    learn = learner(Pixels(3), (images, targets), loss=nn.CrossEntropyLoss(), batch_size=4)
    learn.fit(1, lr_max=0.1)
    outputs = learn.model(images)
    assert learn.evaluate()["accuracy"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    torch.testing.assert_close(learn.predict(images), outputs.softmax(1).detach())


def test_the_default_loss_of_segmentation_and_where_it_cannot_be_told():
    images, targets = torch.randn(12, 2, 4, 6, generator=G), torch.randint(0, 3, (12, 4, 6), generator=G)
    learn = learner(Pixels(3), (images, targets), batch_size=4)
    assert "cross-entropy over 3 classes along axis 1" in learn.notes[0]
    assert learn.evaluate()["loss"] == pytest.approx(F.cross_entropy(learn.model(images), targets).item())
    with pytest.raises(DataError, match=r"along axis 1 or along the last one.*nn.CrossEntropyLoss\(\)"):
        learner(Pixels(3), (torch.randn(12, 2, 3, 3), torch.randint(0, 3, (12, 3, 3))), batch_size=4)


# Shapes that torch would broadcast


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), F.mse_loss, "mse"])
@pytest.mark.parametrize("targets", [X.sum(1), X.sum(1, keepdim=True)], ids=["[n]", "[n, 1]"])
def test_one_output_is_not_broadcast_pytorch_16045(criterion, targets):
    learn = learner(net(1), (X, targets), loss=criterion)
    expected = F.mse_loss if criterion == "mse" else criterion
    outputs = learn.model(X).detach()
    assert learn.evaluate()["loss"] == pytest.approx(expected(outputs.view(-1), targets.view(-1)).item(), rel=1e-5)
    flat = trained(net(1), [(X, targets)] * 5, loss=criterion)
    by_hand = trained_by_hand(net(1), [(X, X.sum(1, keepdim=True))] * 5, expected)
    torch.testing.assert_close(flat.weight, by_hand.weight)


@pytest.mark.parametrize("wide", [2, 3])
def test_other_shapes_are_refused_skorch_974(wide):
    with pytest.raises(DataError, match=rf"float32 \[8, {wide}\] and targets of float32 \[8\]"):
        learner(net(wide), (X, X.sum(1)), loss=nn.MSELoss())


def test_a_loss_of_ones_own_that_may_broadcast_is_told():
    def squared(outputs, targets):
        return (outputs.squeeze(1) - targets).square().mean()

    learn = learner(net(1), (X, X.sum(1)), loss=squared)
    assert any("must not broadcast" in note for note in learn.notes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float64])
@pytest.mark.parametrize("outputs", [(1,), ()], ids=["[n, 1]", "[n]"])
def test_binary_targets_of_any_type_pytorch_2220_fastai_1801(dtype, outputs):
    targets = (X[:, 0] > 0).to(dtype)
    model = net(1) if outputs else nn.Sequential(net(1), nn.Flatten(0))
    learn = learner(model, (X, targets), loss=nn.BCEWithLogitsLoss())
    logits = learn.model(X).detach().view(-1)
    measured = learn.evaluate()
    assert measured["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets.float()).item())
    assert measured["accuracy"] == pytest.approx(((logits > 0) == targets.bool()).float().mean().item())
    torch.testing.assert_close(learn.predict(X).view(-1), logits.sigmoid())


# Targets that are left out, and means with weights


def some_ignored(shape=(64,)):
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, 3, shape, generator=generator)
    targets[torch.rand(shape, generator=generator) < 0.5] = -100
    return targets


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(), F.cross_entropy, functools.partial(F.cross_entropy)])
def test_targets_that_are_left_out_count_nowhere_mmsegmentation_1209(loss):
    targets = some_ignored()
    learn = learner(net(3), (X, targets), loss=loss)
    assert any(f"{int((targets == -100).sum()) * 2} targets of -100 left out" in note for note in learn.notes)
    outputs, counted = learn.model(X).detach(), targets != -100
    for size in (64, 7, 1):
        measured = learn.evaluate(DataLoader(TensorDataset(X, targets), size))
        assert measured["accuracy"] == pytest.approx((outputs.argmax(1) == targets)[counted].float().mean().item())
        assert measured["loss"] == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-5)
    learn.fit(1, lr_max=0.1)


def test_another_number_is_left_out_where_the_criterion_says_so_torchmetrics_304():
    targets = torch.where(some_ignored() == -100, 255, LABELS)
    with pytest.raises(DataError, match=r"found labels from 0 to 255.*ignore_index=255"):
        learner(net(3), (X, targets))
    learn = learner(net(3), (X, targets), loss=nn.CrossEntropyLoss(ignore_index=255), metrics=["accuracy", "f1"])
    outputs, counted = learn.model(X).detach(), targets != 255
    measured = learn.evaluate()
    assert measured["accuracy"] == pytest.approx((outputs.argmax(1) == targets)[counted].float().mean().item())
    f1 = pytest.importorskip("torchmetrics").functional.classification.multiclass_f1_score
    assert measured["f1"] == pytest.approx(f1(outputs[counted], targets[counted], 3).item())


@pytest.mark.parametrize("options", [{}, {"weight": torch.tensor([1.0, 5.0, 0.2])}], ids=["plain", "weighted"])
def test_a_mean_does_not_depend_on_the_batches_pytorch_61309(options):
    criterion, targets = nn.CrossEntropyLoss(**options), some_ignored()
    model = net(3)
    expected = criterion(model(X), targets).item()
    for size in (64, 13, 3, 1):
        loader = DataLoader(TensorDataset(X, targets), size)
        assert evaluate(model, loader, Supervised(criterion))["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_gradients_are_of_the_whole_mean_transformers_24725(precision, weighted):
    """As if it were one batch, though the parts have few tokens or many."""
    tokens = some_ignored((64, 4))
    tokens[:16, 1:] = -100
    inputs = torch.randn(64, 4, 5, generator=G)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]) if weighted else None)

    def by_tokens(model, batch):
        outputs, targets = model(batch[0]).flatten(0, 1), batch[1].flatten()
        number = (targets != -100).sum()
        if weighted:
            number = criterion.weight[targets[targets != -100]].sum()
        return criterion(outputs, targets), {}, number

    class Transposed(nn.Linear):
        def forward(self, x):
            return super().forward(x).transpose(1, 2)

    def parts(size):
        return [(inputs[i : i + size], tokens[i : i + size]) for i in range(0, 64, size)]

    for make, loss in ((lambda: net(3), by_tokens), (lambda: Transposed(5, 3), criterion)):
        one, four = make(), make()
        four.load_state_dict(one.state_dict())
        trained(one, parts(64), loss=loss, precision=precision)
        trained(four, parts(16), loss=loss, precision=precision, accumulate=4)
        torch.testing.assert_close(one.weight, four.weight, rtol=1e-4, atol=1e-4 if precision == "fp16" else 1e-6)
        before = make().weight
        assert not torch.equal(one.weight, before)


def test_a_batch_without_a_target_leaves_the_weights_as_they_are():
    batches = [(X[:16], torch.full((16,), -100)), (X[16:32], LABELS[16:32])]
    model = trained(net(3), batches, loss=nn.CrossEntropyLoss())
    by_hand = trained_by_hand(net(3), batches[1:], F.cross_entropy)
    torch.testing.assert_close(model.weight, by_hand.weight)
    learn = Learner(net(3), batches, batches, loss=nn.CrossEntropyLoss(), verbose=False)
    assert learn.evaluate()["loss"] == pytest.approx(F.cross_entropy(learn.model(X[16:32]), LABELS[16:32]).item())


# Targets that are distributions, and labels that are no whole numbers


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()])
def test_soft_targets(loss):
    soft = torch.randn(64, 3, generator=G).softmax(1)
    learn = learner(net(3), (X, soft), loss=loss)
    outputs = learn.model(X).detach()
    measured = learn.evaluate()
    assert measured["loss"] == pytest.approx(F.cross_entropy(outputs, soft).item(), rel=1e-5)
    assert measured["accuracy"] == pytest.approx((outputs.argmax(1) == soft.argmax(1)).float().mean().item())
    torch.testing.assert_close(learn.predict(X), outputs.softmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_rows_are_classes(dtype):
    hot = F.one_hot(LABELS, 3).to(dtype)
    learn = learner(net(3), (X, hot))
    assert "one-hot rows" in learn.notes[0] and "BCEWithLogitsLoss" in learn.notes[0]
    outputs = learn.model(X).detach()
    assert learn.evaluate()["loss"] == pytest.approx(F.cross_entropy(outputs, LABELS).item(), rel=1e-5)
    assert learn.evaluate()["accuracy"] == pytest.approx((outputs.argmax(1) == LABELS).float().mean().item())


def test_labels_that_are_no_whole_numbers_are_not_cut_off():
    for labels in (LABELS + 0.5, LABELS.float()):
        with pytest.raises(DataError, match=r"targets of float32 \[8\] are neither whole numbers"):
            learner(net(3), (X, labels), loss=nn.CrossEntropyLoss())
        with pytest.raises(DataError, match="do not fit any default loss"):
            learner(net(3), (X, labels))


# What may be given as a loss


class Centres(nn.Module):
    """Cross-entropy, and the distance of the outputs from a learned centre of their class; counts its calls."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, outputs, targets):
        if self.training:
            self.calls += 1
        return F.cross_entropy(outputs, targets) + self.dropout((outputs - self.centres[targets]).square()).mean()


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw", torch.optim.SGD])
def test_parameters_and_buffers_of_a_criterion_belong_to_the_state_lightning_2984(optimizer, tmp_path):
    def new():
        return learner(net(3), (X, LABELS), loss=Centres(), optimizer=optimizer)

    learn = new()
    criterion = learn.state.loss.criterion
    first = learn.evaluate()
    assert first == learn.evaluate() and criterion.calls == 0, "evaluation mode: no dropout, no counting"
    before = criterion.centres.detach().clone()
    learn.range_test()
    assert criterion.calls == 0 and torch.equal(criterion.centres, before), "a range test leaves no trace"
    learn.fit(2, lr_max=0.1, out=tmp_path / "run")
    assert criterion.calls == 8 and not torch.equal(criterion.centres, before)
    other = new()
    other.state.load_state_dict(learn.state.state_dict())
    assert torch.equal(other.state.loss.criterion.centres, criterion.centres)
    assert other.state.loss.criterion.calls == 8


def test_a_killed_run_with_a_criterion_that_learns_goes_on_exactly_fastai_3395(tmp_path):
    class Stop(Exception): ...

    def stop(event):
        if getattr(event, "step", 0) == 5:
            raise Stop

    def new():
        return learner(net(3), (X, LABELS), loss=Centres())

    whole, broken = new(), new()
    whole.fit(3, lr_max=0.1, out=tmp_path / "whole")
    with pytest.raises(Stop):
        broken.fit(3, lr_max=0.1, out=tmp_path / "broken", observers=[stop])
    resumed = new()
    resumed.fit(3, lr_max=0.1, out=tmp_path / "broken", resume=True)
    for name, tensor in whole.state.loss.criterion.state_dict().items():
        assert torch.equal(tensor, resumed.state.loss.criterion.state_dict()[name]), name


def test_an_optimizer_of_ones_own_without_the_criterions_parameters_is_told_skorch_565():
    model = net(3)
    learn = learner(model, (X, LABELS), loss=Centres(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert "the optimizer leaves out 1 parameter of the loss" in learn.notes


def test_a_function_of_outputs_and_targets_is_a_criterion():
    def absolute(outputs, targets):
        return (outputs - targets).abs().mean()

    for loss in (absolute, lambda y_pred, y_true: absolute(y_pred, y_true), functools.partial(F.l1_loss)):
        learn = learner(net(3), (X, torch.zeros(64, 3)), loss=loss)
        assert learn.evaluate()["loss"] == pytest.approx(learn.model(X).abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (nn.CrossEntropyLoss, r"give an instance of it, such as CrossEntropyLoss\(\)"),
        ("crossentropy", "unknown loss 'crossentropy': did you mean cross_entropy"),
        (5, "received 5"),
        (lambda a, c: a, r"cannot tell what loss takes by its arguments \(a, c\)"),
        (lambda outputs: outputs, r"a loss is called with two arguments"),
        (nn.TripletMarginLoss(), r"TripletMarginLoss takes \(anchor, positive, negative\)"),
        (nn.CrossEntropyLoss(reduction="sum"), "give reduction=\"mean\"; received 'sum'"),
        (nn.MSELoss(reduction="none"), "give reduction=\"mean\"; received 'none'"),
    ],
)
def test_what_cannot_be_a_loss(loss, says):
    with pytest.raises(ConfigError, match=says):
        learner(net(3), (X, LABELS), loss=loss)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "mse", "mae", "huber", "binary_cross_entropy"])
def test_losses_by_name(name):
    classes = name in ("cross_entropy", "nll")
    targets = LABELS if classes else (X[:, :3] > 0).float()
    model = nn.Sequential(net(3), nn.LogSoftmax(1)) if name == "nll" else net(3)
    learn = learner(model, (X, targets), loss=name)
    learn.fit(1, lr_max=0.01)
    assert ("accuracy" in learn.evaluate()) == (classes or name == "binary_cross_entropy")


def test_probabilities_given_to_a_cross_entropy_are_told():
    learn = learner(nn.Sequential(net(3), nn.Softmax(1)), (X, LABELS), loss=nn.CrossEntropyLoss())
    assert any("leave out softmax" in note for note in learn.notes)


# Metrics


def test_torchmetrics_of_every_kind_torchmetrics_815_2091():
    tm = pytest.importorskip("torchmetrics")
    micro = {"num_classes": 3, "average": "micro"}
    collection = tm.MetricCollection({"micro": tm.classification.MulticlassAccuracy(**micro)})
    vector = tm.classification.MulticlassAccuracy(num_classes=3, average=None)
    learn = learner(net(3), (X, LABELS), metrics=[collection, vector, "accuracy"])
    measured = learn.fit(1, lr_max=0.1).valid
    assert measured["micro"] == pytest.approx(measured["accuracy"])
    assert {f"multiclassaccuracy_{i}" for i in range(3)} < measured.keys()
    bare = learner(net(3), (X, LABELS), metrics=tm.classification.MulticlassAccuracy(**micro))
    assert bare.evaluate().keys() == {"loss", "multiclassaccuracy"}


def test_two_metrics_of_one_class_stay_two_lightning_9528():
    tm = pytest.importorskip("torchmetrics")
    pairs = [tm.classification.MulticlassAccuracy(num_classes=3, top_k=k) for k in (1, 2)]
    measured = learner(net(3), (X, LABELS), metrics=pairs).evaluate()
    assert measured["multiclassaccuracy"] < measured["multiclassaccuracy_2"]


@pytest.mark.parametrize("loss", [None, nn.BCEWithLogitsLoss()])
def test_binary_metrics_of_one_output_and_small_logits_torchmetrics_1208(loss):
    """Logits from 0 to 1 are taken for probabilities by torchmetrics alone."""
    tm = pytest.importorskip("torchmetrics")
    model = net(1)
    with torch.no_grad():
        model.weight.mul_(0.01)
        model.bias.fill_(0.2)
    targets = (X[:, 0] > 0).float()
    metrics = [tm.classification.BinaryAccuracy(), "accuracy", "auroc", "f1"]
    measured = learner(model, (X, targets), loss=loss, metrics=metrics).evaluate()
    assert measured["binaryaccuracy"] == pytest.approx(measured["accuracy"]) == pytest.approx(targets.mean().item())


def test_meters_beside_a_loss_of_model_and_batch():
    tm = pytest.importorskip("torchmetrics")

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1]), {"always": torch.tensor(1.0)}

    meter = tm.classification.MulticlassAccuracy(num_classes=3, average="micro")
    learn = learner(net(3), (X, LABELS), loss=loss, metrics={"acc": meter})
    right = (learn.model(X).argmax(1) == LABELS).float().mean().item()
    measured = learn.evaluate()
    assert measured["acc"] == pytest.approx(right) and measured["always"] == 1
    assert learn.fit(1, lr_max=0.1).train.keys() == {"loss", "always"}


def test_metrics_by_name_agree_with_their_formulas():
    outputs, targets = net(3)(X).detach(), LABELS
    measured = learner(net(3), (X, LABELS), metrics=["balanced_accuracy", "top2"]).evaluate()
    recalls = [(outputs.argmax(1) == c)[targets == c].float().mean() for c in range(3)]
    assert measured["balanced_accuracy"] == pytest.approx(torch.stack(recalls).mean().item())
    top = (outputs.topk(2, 1).indices == targets[:, None]).any(1).float().mean().item()
    assert measured["top2"] == pytest.approx(top)
    y = X.sum(1) + 1
    numbers = learner(net(1), (X, y), metrics=["r2", "mae", "rmse"]).evaluate()
    errors = net(1)(X).detach().view(-1) - y
    assert numbers["r2"] == pytest.approx(1 - (errors.square().sum() / (y - y.mean()).square().sum()).item(), rel=1e-4)
    assert numbers["mae"] == pytest.approx(errors.abs().mean().item(), rel=1e-5)
    assert numbers["rmse"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["r2", "mae", "acuracy"])
def test_names_that_do_not_go_with_the_loss(name):
    with pytest.raises(ConfigError, match=r"does not go with a loss of classes|did you mean accuracy"):
        learner(net(3), (X, LABELS), metrics=[name])


def test_tokens_have_their_classes_last_for_the_default_loss():
    inputs, tokens = torch.randn(64, 4, 5, generator=G), some_ignored((64, 4))
    learn = learner(net(3), (inputs, tokens), metrics=["accuracy", "perplexity"])
    outputs = learn.model(inputs).detach()
    assert learn.state.loss.criterion is cross_entropy
    expected = F.cross_entropy(outputs.flatten(0, 1), tokens.flatten()).item()
    assert learn.evaluate()["loss"] == pytest.approx(expected, rel=1e-5)
    assert learn.evaluate()["perplexity"] == pytest.approx(torch.tensor(expected).exp().item(), rel=1e-4)


# Riddles of torch, met in words before the first update


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (lambda: net(3), (X[:, :4], LABELS), {}),
        (lambda: net(3).double(), [(X, LABELS)], {}),
        (lambda: net(3), [(X.double(), LABELS)], {}),
        (lambda: net(3), [(torch.ones(4, 5, dtype=torch.int64), LABELS[:4])], {}),
        (lambda: net(3), (X, LABELS), {"loss": nn.BCELoss()}),
        (lambda: net(1), (X, (X[:, 0] > 0).float()), {"loss": nn.BCELoss()}),
        (lambda: net(2), (X, LABELS), {"loss": nn.CrossEntropyLoss()}),
        (lambda: net(3), (X, LABELS[:, None]), {"loss": nn.CrossEntropyLoss()}),
        (lambda: net(3), (X, LABELS), {"loss": nn.CrossEntropyLoss(weight=torch.ones(2))}),
        (lambda: nn.LSTM(5, 3), (X, LABELS), {}),
        (lambda: nn.LSTM(5, 3), (X, LABELS), {"loss": nn.CrossEntropyLoss()}),
    ],
)
def test_a_riddle_of_torch_is_met_at_construction(model, data, options):
    with pytest.raises(OneCycleError) as raised:
        learner(model(), data, **options)
    assert len(str(raised.value)) > 40

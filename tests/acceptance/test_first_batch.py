"""What models, data and losses have wrong is met on the first batch, in words, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import ConfigError, DataError, Learner, TrainingError

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=G)
Y = (X[:, 0] > 0).long()
IMAGES = torch.rand(24, 3, 8, 8, generator=G)
LABELS = torch.arange(24) % 3


def net(*more: nn.Module, outputs: int = 2) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, outputs), *more)


def cnn(channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    pooled = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear, "received the class Linear: give an instance"),
        (lambda x: x, "model is a torch.nn.Module; received <function"),
        (nn.Identity(), "the model has no parameters to train"),
    ],
    ids=["class", "function", "without parameters"],
)
@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_a_model_that_is_none(model, message, optimizer):
    outputs = F.one_hot(Y, 5).float()
    with pytest.raises(ConfigError, match=message):
        Learner(model, (X, outputs), optimizer=optimizer, verbose=False)


@pytest.mark.parametrize(
    ("model", "loss", "targets", "note"),
    [
        (net(nn.Softmax(1)), None, Y, "probabilities already; cross-entropy takes logits: leave out softmax"),
        (net(nn.Softmax(1)), nn.CrossEntropyLoss(), Y, "cross-entropy takes logits: leave out softmax"),
        (net(), nn.NLLLoss(), Y, r"no log-probabilities, which this loss takes: end the model with nn.LogSoftmax"),
        (net(nn.Sigmoid(), outputs=1), None, Y.float(), "this loss takes logits: leave out sigmoid"),
        (net(nn.Sigmoid(), outputs=1), nn.BCEWithLogitsLoss(), Y, "this loss takes logits: leave out sigmoid"),
    ],
    ids=["softmax", "softmax of a criterion", "logits for NLLLoss", "sigmoid", "sigmoid of a criterion"],
)
def test_an_activation_that_the_loss_has_itself_is_said(model, loss, targets, note):
    notes = Learner(model, (X, targets), loss=loss, verbose=False).notes
    assert len([said for said in notes if note in said.replace("dim=1", "")]) == 1, notes


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (net(), None),
        (net(nn.LogSoftmax(1)), nn.NLLLoss()),
        (net(outputs=1), nn.BCEWithLogitsLoss()),
        (net(nn.Sigmoid(), outputs=1), nn.BCELoss()),
    ],
)
def test_an_activation_that_fits_is_not_spoken_of(model, loss):
    targets = Y if loss is None or isinstance(loss, nn.NLLLoss) else Y.float()
    assert not [note for note in Learner(model, (X, targets), loss=loss, verbose=False).notes if "the model's" in note]


def test_logits_for_a_loss_of_probabilities():
    model = net(outputs=1)
    nn.init.constant_(model[0].bias, 2.0)
    with pytest.raises(DataError, match=r"the loss takes probabilities: .* End the model with nn.Sigmoid\(\), or give"):
        Learner(model, (X, Y.float()), loss=nn.BCELoss(), verbose=False)


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ((X[:, :3], Y), r"validation data: .*\[8, 3\]"),
        ((X, Y[:, None].expand(-1, 2)), r"validation data: "),
        ([(X, Y.float())], r"validation data: .*give targets.long\(\)"),
    ],
    ids=["inputs", "targets", "types"],
)
def test_validation_data_of_another_form(valid, message):
    with pytest.raises(DataError, match=message):
        Learner(net(), (X, Y), valid, verbose=False)


@pytest.mark.parametrize(
    ("inputs", "channels", "mend"),
    [
        (IMAGES.permute(0, 2, 3, 1), 3, r"give x.permute\(0, 3, 1, 2\)"),
        (IMAGES[:, 0], 1, r"give x.unsqueeze\(1\) of grey ones"),
    ],
    ids=["channels last", "grey without channels"],
)
def test_images_with_their_channels_elsewhere(inputs, channels, mend):
    with pytest.raises(DataError, match=f"cannot take inputs of float32 .*{mend}"):
        Learner(cnn(channels), (inputs, LABELS), verbose=False)


def test_images_that_are_too_small():
    model = nn.Sequential(nn.Conv2d(3, 4, 9), cnn(4))
    with pytest.raises(DataError, match=r"have 8 x 8 pixels: give a size that it takes, --image-size .*image_size="):
        Learner(model, (IMAGES, LABELS), verbose=False)


def test_inputs_that_the_model_cannot_predict():
    learn = Learner(cnn(), (IMAGES, LABELS), verbose=False)
    with pytest.raises(DataError, match=r"cannot take inputs of float32 \[3, 8, 8\]: .*give x\[None\] of a single one"):
        learn.predict(IMAGES[0])
    with pytest.raises(DataError, match=r"cannot take inputs of uint8 \[24, 3, 8, 8\]: .*give the inputs as float32"):
        learn.predict((IMAGES * 255).byte())


def test_a_list_of_samples_is_whole_data():
    samples = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    listed = Learner(cnn(), samples, samples, batch_size=8, augment="none", verbose=False)
    tensors = Learner(cnn(), (IMAGES, LABELS), (IMAGES, LABELS), batch_size=8, verbose=False)
    assert listed.fit(2, lr_max=0.01).train["loss"] == pytest.approx(
        tensors.fit(2, lr_max=0.01).train["loss"], rel=1e-5
    )
    assert listed.history.steps[-1]["step"] == 5  # 3 batches an epoch, not 24 of one
    assert listed.evaluate()["loss"] == pytest.approx(tensors.evaluate()["loss"], rel=1e-5)


def test_words_for_targets():
    with pytest.raises(DataError, match=r"an array of words .* names, y = np.unique\(y, return_inverse=True\)"):
        Learner(net(), (X, np.array(["no", "yes"])[Y.numpy()]), verbose=False)


@pytest.mark.parametrize("loss", [None, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])])
def test_a_metric_that_fails_is_named(loss):
    with pytest.raises(DataError, match=r"metric 'broken' fails on the model's outputs, float32 .*ZeroDivisionError"):
        Learner(net(), (X, Y), (X, Y), loss=loss, metrics={"broken": lambda outputs, targets: 1 / 0}, verbose=False)


def test_a_metric_that_is_no_mean():
    with pytest.raises(ConfigError, match=r"metric 'hits' of a batch is its mean, one number; .* shape \(8,\)"):
        Learner(net(), (X, Y), metrics={"hits": lambda outputs, targets: outputs.argmax(1) == targets}, verbose=False)


def test_a_loss_without_a_gradient():
    learn = Learner(
        net(), (X, Y), loss=lambda outputs, targets: F.cross_entropy(outputs.detach(), targets), verbose=False
    )
    with pytest.raises(TrainingError, match=r"the loss has no gradient: .* detach\(\)"):
        learn.fit(1, lr_max=0.1)


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adam", "adamw"])
def test_complex_weights_are_trained(optimizer):
    torch.manual_seed(0)
    inputs = torch.randn(256, 4, dtype=torch.complex64)
    wanted = inputs @ torch.randn(4, 2, dtype=torch.complex64)
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64))
    learn = Learner(
        model, (inputs, wanted), loss=lambda outputs, targets: (outputs - targets).abs().square().mean(),
        optimizer=optimizer, weight_decay=0.0, verbose=False,
    )  # fmt: skip
    before = learn.evaluate((inputs, wanted))["loss"]
    learn.fit(20, lr_max=0.02)
    assert learn.evaluate((inputs, wanted))["loss"] < before / 10


def test_whole_targets_beside_one_output_may_be_two_things():
    with pytest.raises(
        DataError, match=r"may be classes or numbers: .* Give targets.float\(\) or loss=\"mse\" for numbers"
    ):
        Learner(net(outputs=1), (X, torch.arange(64)), verbose=False)

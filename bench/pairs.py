"""Models with their data, small enough that the truth about them can be measured: what the other benchmarks draw on.

Every pair holds normalised tensors (train, valid, test), so that nothing but the weights, the batch order and dropout
depends on the seed. Images are brought to a smaller side by area, text is Python's own documentation.
"""

import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import onecycle
from onecycle.data.batches import TensorBatches

OUT = Path(__file__).parent / "out"


def rows(name):
    """The records of ``bench/out/NAME.jsonl``."""
    path = OUT / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(name, row):
    """Add a record to them."""
    OUT.mkdir(exist_ok=True)
    with (OUT / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Pair:
    """A model, by name or as a function of the seed, and the number of training samples that it gets."""

    name: str
    data: Callable[[], tuple]
    train: int
    model: str | Callable[[int], torch.nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64

    def splits(self):
        """Train, valid and test, each (inputs, targets)."""
        train, valid, test = self.data()
        return tuple(part[: self.train] for part in train), valid, test

    def build(self, seed):
        """The model with fresh weights."""
        if callable(self.model):
            return self.model(seed)
        splits = self.splits()
        shape, classes = tuple(splits[0][0].shape[1:]), int(max(targets.max() for _, targets in splits)) + 1
        return onecycle.build_model(self.model, input_shape=shape, classes=classes, seed=seed, **self.options)

    def learner(self, seed, optimizer, **settings):
        """A learner on it, silent, with validation data that no epoch pauses for."""
        train, valid, _ = self.splits()
        settings = {"batch_size": self.batch_size, **settings}
        learn = onecycle.Learner(self.build(seed), train, optimizer=optimizer, seed=seed, verbose=False, **settings)
        learn.valid = TensorBatches(valid, min(500, len(valid[0])), shuffle=False)
        return learn


@cache
def images(name, side):
    """10 classes of images at `side` x `side`: those to train on, to choose with and to test on, in a fixed order."""
    data = onecycle.load(name)
    splits = []
    for i, split in enumerate((data.train, data.valid, data.test)):
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(i))
        x = split.inputs[order].float() / 255
        x = F.interpolate(x, size=(side, side), mode="area") if x.shape[-1] != side else x
        splits.append((x, split.targets[order].long()))
    mean, std = splits[0][0].mean((0, 2, 3), keepdim=True), splits[0][0].std((0, 2, 3), keepdim=True)
    return tuple(((x - mean) / std, y) for x, y in splits)


@cache
def text(length=32):
    """Windows of Python's language reference, each character to be told from those before it."""
    return windows_of("\n".join(topics.topics[key] for key in sorted(topics.topics)), length, 1000)


def windows_of(whole, length, valid):
    """Windows of a text to train on, `valid` to choose with and 2,000 to test on; and the characters that follow."""
    windows, following = cut(whole, length)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    parts = order[valid + 2000 :], order[:valid], order[valid : valid + 2000]
    return tuple((windows[part], following[part]) for part in parts)


def cut(whole, length):
    """A text in windows of so many characters, as numbers, and the characters that follow each of them."""
    characters = sorted(set(whole))
    codes = torch.tensor([characters.index(c) for c in whole])
    windows = codes[: (len(codes) - 1) // length * length].view(-1, length)
    return windows, codes[1 : windows.numel() + 1].view(-1, length)


def fashion(side):
    return lambda: images("fashion-mnist", side)


def cifar(side):
    return lambda: images("cifar10", side)


@contextmanager
def drawn_from(seed):
    """Within the block torch draws from `seed`; afterwards as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def plain(seed, *, layers=12, norm=False, width=16):
    """A deep network of 3x3 convolutions without shortcuts, on 16x16 colour images."""

    def block(before, after, stride):
        conv = nn.Conv2d(before, after, 3, stride, 1, bias=not norm)
        return [conv, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU(inplace=True)]

    with drawn_from(seed):
        modules = block(3, width, 1)
        for i in range(layers - 1):
            modules += block(width, width, 2 if i in (2, 6) else 1)
        return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def vanishing(seed, *, layers=6):
    """A multi-layer perceptron of logistic units, whose gradient shrinks on its way down, on 14x14 images."""
    with drawn_from(seed):
        hidden = [m for _ in range(layers) for m in (nn.Linear(128, 128), nn.Sigmoid())]
        return nn.Sequential(nn.Flatten(), nn.Linear(196, 128), nn.Sigmoid(), *hidden, nn.Linear(128, 10))


class PostNorm(nn.Module):
    """A causal transformer with its norms after the sums, as in 1706.03762: known to want a warm-up."""

    def __init__(self, characters, width=64, depth=4):
        super().__init__()
        self.embed, self.where = nn.Embedding(characters, width), nn.Embedding(32, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=False)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.body(self.embed(x) + self.where.weight, mask=mask, is_causal=True))


def post_norm(seed):
    characters = int(max(part.max() for split in text() for part in split)) + 1
    with drawn_from(seed):
        return PostNorm(characters)


TRANSFORMER = {"width": 64, "depth": 2, "heads": 4}
PEAK_PAIRS = [
    Pair("mlp, fashion-mnist 28x28", fashion(28), 20_000, "mlp"),
    Pair("small-cnn, fashion-mnist 14x14", fashion(14), 20_000, "small-cnn"),
    Pair("lenet, fashion-mnist 16x16", fashion(16), 20_000, "lenet"),
    Pair("small-cnn, cifar10 16x16", cifar(16), 10_000, "small-cnn"),
    Pair("resnet20, cifar10 16x16", cifar(16), 4_000, "resnet20", {}, 16),
    Pair("char-transformer, text", text, 6_000, "char-transformer", TRANSFORMER, 16),
]


@dataclass(frozen=True)
class Case:
    """A pair under an optimizer and a regularisation, for the question whether super-convergence is possible."""

    pair: Pair
    optimizer: str = "sgd"
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 16

    @property
    def name(self):
        """All that tells it from the others."""
        parts = [self.pair.name, f"{self.pair.train} samples", self.optimizer]
        return ", ".join(parts + [f"{k} {v:g}" for k, v in self.settings.items()])


@cache
def digits():
    """8x8 digits."""
    data = onecycle.load("digits")
    return tuple((s.inputs.float() / 8 - 1, s.targets.long()) for s in (data.train, data.valid, data.test))


SHORT = {"epochs": 4}
CASES = [
    Case(Pair("small-cnn, fashion-mnist 14x14", fashion(14), 500, "small-cnn", {}, 32)),
    Case(Pair("lenet, fashion-mnist 16x16", fashion(16), 1000, "lenet", {}, 32)),
    Case(Pair("post-norm transformer of 4 layers, text", text, 300, post_norm, {}, 16), "adamw"),
    Case(Pair("resnet20, digits", digits, 500, "resnet20", {}, 32)),
    Case(Pair("logistic mlp, fashion-mnist 14x14", fashion(14), 1000, vanishing, {}, 32)),
    Case(Pair("plain 12 layers with norms, cifar10 16x16", cifar(16), 500, partial(plain, norm=True), {}, 32)),
    Case(Pair("char-transformer, text", text, 500, "char-transformer", TRANSFORMER, 16)),
    Case(Pair("small-cnn, cifar10 16x16", cifar(16), 1000, "small-cnn", {}, 32)),
    Case(Pair("lenet, fashion-mnist 16x16", fashion(16), 1000, "lenet", {}, 32), "sgd", {"weight_decay": 0.03}),
    Case(Pair("mlp, fashion-mnist 14x14", fashion(14), 1000, "mlp", {}, 32)),
    Case(Pair("resnet56, digits", digits, 300, "resnet56", {}, 32)),
    Case(Pair("small-cnn, cifar10 16x16", cifar(16), 1000, "small-cnn", {}, 32), "adamw"),
    Case(Pair("small-cnn, cifar10 16x16", cifar(16), 1000, "small-cnn", {}, 32), "sgd", {"weight_decay": 0.05}),
    Case(Pair("char-transformer, text", text, 500, "char-transformer", TRANSFORMER, 16), "adamw"),
    Case(Pair("mlp, fashion-mnist 14x14", fashion(14), 1000, "mlp", {}, 32), "adamw"),
    Case(Pair("small-cnn, fashion-mnist 14x14", fashion(14), 2000, "small-cnn", {}, 250)),
    Case(Pair("small-cnn, cifar10 16x16", cifar(16), 1000, "small-cnn", {}, 32), "muon"),
    Case(Pair("small-cnn dropout .5, cifar10 16x16", cifar(16), 1000, "small-cnn", {"dropout": 0.5}, 32)),
    Case(Pair("small-cnn, fashion-mnist 14x14", fashion(14), 3000, "small-cnn"), **SHORT),
    Case(Pair("mlp, fashion-mnist 14x14", fashion(14), 4000, "mlp"), **SHORT),
    Case(Pair("plain 12 layers, cifar10 16x16", cifar(16), 3000, plain), **SHORT),
    Case(Pair("char-transformer, text", text, 2000, "char-transformer", TRANSFORMER), **SHORT),
    Case(Pair("small-cnn, cifar10 16x16", cifar(16), 4000, "small-cnn"), "sgd", {"weight_decay": 0.05}, **SHORT),
]

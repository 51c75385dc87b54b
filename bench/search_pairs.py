"""Pairs of model and data for the search of a peak: half of them to design with, half to judge with, once, at the end.

None of them is in pairs.py. Tables, text, photos, sequences, autoencoders and regressions are in both halves, with and
without norms. Data are made by formula, or are Fashion-MNIST, CIFAR-10, and, in the folder that ONECYCLE_SHARED names,
tables/diamonds.csv (of seaborn-data) and text/tinyshakespeare.txt (of karpathy/char-rnn).
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from pairs import cut, drawn_from, images
from torch import Tensor, nn
from torch.nn import functional as F

import onecycle
from onecycle.data.batches import TensorBatches

SHARED = Path(os.environ.get("ONECYCLE_SHARED", "../shared/data"))
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SearchPair:
    """A model as a function of the seed, its data (train, valid, test), and what is measured: accuracy or loss."""

    name: str
    data: Callable[[], tuple[Part, Part, Part]]
    model: Callable[[], nn.Module]
    measure: str = "accuracy"
    batch_size: int = 64

    def build(self, seed: int) -> nn.Module:
        """The model with fresh weights."""
        with drawn_from(seed):
            return self.model()

    def learner(self, seed: int, optimizer: object, **options: object) -> onecycle.Learner:
        """A silent learner on it, with validation data."""
        train, valid, _ = self.data()
        options = {"batch_size": self.batch_size, "optimizer": optimizer, "seed": seed, "verbose": False, **options}
        loss = "mse" if self.measure == "loss" and train[1].is_floating_point() else None
        return onecycle.Learner(self.build(seed), train, valid, loss=loss, **options)

    def test(self, learn: onecycle.Learner) -> float:
        """Accuracy in percent, or the loss, on the test data."""
        test = self.data()[2]
        batches = TensorBatches(test, 500, shuffle=False)
        value = onecycle.evaluate(learn.model, batches.epoch(0), learn.state.loss)[self.measure]
        return 100 * value if self.measure == "accuracy" else value


def split(x: Tensor, y: Tensor, train: int, valid: int, seed: int = 0) -> tuple[Part, Part, Part]:
    """Rows in another order, cut in three; the test gets at most 4,000."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = (
        order[:train],
        order[train : train + valid],
        order[train + valid :][: 4000 if x.dim() != 2 or y.dim() != 2 or y.is_floating_point() else 1000],
    )
    return tuple((x[i], y[i]) for i in parts)  # type: ignore[return-value]


# ---- data ----------------------------------------------------------------------------------------------------------


def normal(seed: int) -> Callable[..., Tensor]:
    return partial(torch.randn, generator=torch.Generator().manual_seed(seed))


@cache
def clusters(seed: int, columns: int, classes: int, each: int, spread: float, n: int, noise: float = 0.0, train=6000):
    """A table: classes of several clusters in a subspace, rotated, with columns that say nothing and wrong labels."""
    draw, generator = normal(seed), torch.Generator().manual_seed(seed + 1)
    useful = columns // 2
    centres = spread * draw(classes * each, useful)
    which = torch.randint(len(centres), (n,), generator=generator)
    x = centres[which] + torch.einsum(
        "ni,nij->nj", draw(n, useful), draw(len(centres), useful, useful)[which] / useful**0.5
    )
    x = torch.cat([x, draw(n, columns - useful)], 1) @ torch.linalg.qr(draw(columns, columns))[0]
    y = which % classes
    wrong = torch.rand(n, generator=generator) < noise
    y[wrong] = torch.randint(classes, (int(wrong.sum()),), generator=generator)
    return split((x - x.mean(0)) / x.std(0), y, train, 1000)


@cache
def diamonds(target: str, train: int):
    """Carat, cut, ... to the price: as a regression (of its logarithm), or as one of ten equal classes."""
    with (SHARED / "tables" / "diamonds.csv").open() as file:
        rows = list(csv.DictReader(file))
    numbers = torch.tensor([[float(r[c]) for c in ("carat", "depth", "table", "x", "y", "z")] for r in rows])
    columns = [(numbers - numbers.mean(0)) / numbers.std(0)]
    for name in ("cut", "color", "clarity"):
        values = sorted({r[name] for r in rows})
        columns.append(F.one_hot(torch.tensor([values.index(r[name]) for r in rows]), len(values)).float())
    price = torch.tensor([float(r["price"]) for r in rows])
    if target == "tenth":
        edges = price.quantile(torch.linspace(0, 1, 11)[1:-1])
        return split(torch.cat(columns, 1), torch.bucketize(price, edges), train, 1000, 3)
    y = price.log()
    return split(torch.cat(columns, 1), ((y - y.mean()) / y.std())[:, None], train, 1000, 4)


@cache
def friedman(which: int, train: int):
    """The first or third function of Friedman (1991), with noise, among columns that say nothing."""
    generator = torch.Generator().manual_seed(which)
    x = torch.rand(train + 5000, 10, generator=generator)
    if which == 1:
        y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    else:
        a, b, c, d = 100 * x[:, 0], 40 * torch.pi + 520 * torch.pi * x[:, 1], x[:, 2], 1 + 10 * x[:, 3]
        y = torch.atan((b * c - 1 / (b * d)) / (a + 1e-3))
    y = (y - y.mean()) / y.std() + 0.2 * torch.randn(len(y), generator=generator)
    return split((x - 0.5) / 0.29, y[:, None], train, 1000)


@cache
def waves(kind: str, n: int, train: int):
    """Signals of 64 steps, [n, 1, 64]: which shape of wave, or how many chirps, at any phase, frequency and noise."""
    draw, generator = normal(7 if kind == "shape" else 8), torch.Generator().manual_seed(9)
    t = torch.linspace(0, 1, 64)
    if kind == "shape":
        frequency, phase = 2 + 6 * torch.rand(n, 1, generator=generator), torch.rand(n, 1, generator=generator)
        position = (frequency * t + phase) % 1
        shapes = [
            (2 * torch.pi * position).sin(), (position < 0.5).float() * 2 - 1, 2 * position - 1,
            1 - 2 * position, 4 * (position - 0.5).abs() - 1, ((position < 0.2).float() - 0.2) * 1.5,
        ]  # fmt: skip
        y = torch.randint(len(shapes), (n,), generator=generator)
        x = torch.stack(shapes)[y, torch.arange(n)] + 0.6 * draw(n, 64)
    else:
        y = torch.randint(5, (n,), generator=generator)
        x = 0.4 * draw(n, 64)
        for k in range(4):
            centre, width = torch.rand(n, 1, generator=generator), 0.02 + 0.02 * torch.rand(n, 1, generator=generator)
            x += (k < y)[:, None] * (-(((t - centre) / width) ** 2)).exp() * 1.5
    return split(x[:, None], y, train, 1000)


@cache
def remembered(n: int, train: int, length: int = 24, symbols: int = 8):
    """Sequences of symbols: which one came right after the only marker (symbol 0)?"""
    generator = torch.Generator().manual_seed(11)
    x = torch.randint(1, symbols, (n, length), generator=generator)
    at = torch.randint(0, length - 1, (n,), generator=generator)
    x[torch.arange(n), at] = 0
    return split(x, x[torch.arange(n), at + 1], train, 1000)


@cache
def shakespeare(length: int, train: int, seed: int):
    """Windows of characters, each to be told from those before it."""
    windows, following = cut((SHARED / "text" / "tinyshakespeare.txt").read_text(), length)
    return split(windows, following, train, 500, seed)


@cache
def speakers(train: int):
    """Which of six speakers says a line of a play: the words of it, hashed to 4,096 codes, 40 a line."""
    import zlib

    lines: list[tuple[str, str]] = []
    for paragraph in (SHARED / "text" / "tinyshakespeare.txt").read_text().split("\n\n"):
        speaker, _, said = paragraph.partition(":\n")
        lines += [(speaker, line) for line in said.split("\n") if len(line.split()) > 3]
    counts: dict[str, int] = {}
    for speaker, _ in lines:
        counts[speaker] = counts.get(speaker, 0) + 1
    most = sorted(counts, key=lambda name: -counts[name])[:6]
    kept = [(most.index(speaker), line.lower().split()) for speaker, line in lines if speaker in most]
    x = torch.zeros(len(kept), 40, dtype=torch.long)
    for i, (_, words) in enumerate(kept):
        codes = [1 + zlib.crc32(word.strip(",.;:!?'").encode()) % 4095 for word in words][:40]
        x[i, : len(codes)] = torch.tensor(codes)
    return split(x, torch.tensor([speaker for speaker, _ in kept]), train, 500)


@cache
def pictures(name: str, side: int, train: int, flat: bool = False):
    """Fashion-MNIST or CIFAR-10 at `side` pixels; `train` of them."""
    parts = [tuple(part[: (train, 1000, 4000)[i]] for part in each) for i, each in enumerate(images(name, side))]
    return tuple((x.flatten(1) if flat else x, y) for x, y in parts)


@cache
def themselves(name: str, side: int, train: int, flat: bool):
    """Images whose target they are themselves."""
    return tuple((x, x.clone()) for x, _ in pictures(name, side, train, flat))


@cache
def photos(labels: tuple[int, ...], train: int):
    """CIFAR-10 at its own size, some of its classes, so few that an epoch is short."""
    whole = images("cifar10", 32)
    parts = []
    for (x, y), n in zip(whole, (train, 500, 4000), strict=True):
        kept = (y[:, None] == torch.tensor(labels)).any(1).nonzero().flatten()[:n]
        parts.append((x[kept], torch.searchsorted(torch.tensor(labels), y[kept])))
    return tuple(parts)


@cache
def shapes(train: int, side: int = 16):
    """Pictures with a disc and a rectangle under noise: which of nothing, disc and rectangle is each pixel?"""
    generator = torch.Generator().manual_seed(12)
    n = train + 1500
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).float()

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    disc = (grid[0] - drawn(2, side - 2)) ** 2 + (grid[1] - drawn(2, side - 2)) ** 2 < drawn(2, 5) ** 2
    box = ((grid[0] - drawn(2, side - 2)).abs() < drawn(1, 4)) & ((grid[1] - drawn(2, side - 2)).abs() < drawn(1, 4))
    y = torch.where(box, 2, torch.where(disc, 1, 0))
    light = torch.stack([drawn(-1, 1), drawn(-1, 1), drawn(-1, 1)])[:, :, 0, 0].T
    x = light.gather(1, y.flatten(1)).view(n, 1, side, side) + 0.5 * torch.randn(n, 1, side, side, generator=generator)
    return split(x, y, train, 500)


# ---- models --------------------------------------------------------------------------------------------------------


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None, dropout: float = 0.0):
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), *([norm(after)] if norm else []), act()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def residual_mlp(inputs: int, width: int, blocks: int, outputs: int):
    def block():
        return Residual(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    return nn.Sequential(
        nn.Linear(inputs, width), *[block() for _ in range(blocks)], nn.LayerNorm(width), nn.Linear(width, outputs)
    )


def convs(channels: list[int], classes: int, norm: Callable[[int], nn.Module] | None, dimensions: int = 2, act=nn.ReLU):
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if dimensions == 2 else (nn.Conv1d, nn.AdaptiveAvgPool1d)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(channels)):
        layers += [conv(before, after, 3 if dimensions == 2 else 7, 2 if i else 1, 1 if dimensions == 2 else 3)]
        layers += [*([norm(after)] if norm else []), act()]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(channels[-1], classes))


class Recurrent(nn.Module):
    """Symbols through a GRU or LSTM to an answer at each position, or at the end."""

    def __init__(self, kind: type[nn.Module], symbols: int, width: int, outputs: int, last: bool):
        super().__init__()
        self.embed, self.last = nn.Embedding(symbols, 32), last
        self.body, self.head = kind(32, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.embed(x))[0]
        return self.head(out[:, -1] if self.last else out)


class Attention(nn.Module):
    """Self-attention of `heads`, causal or not, with as few lines as it takes."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.qkv, self.out, self.heads, self.causal = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
            causal,
        )

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(n, length, width)
        )


def attention_blocks(width: int, depth: int, causal: bool, norm: type[nn.Module] = nn.LayerNorm):
    return [
        block
        for _ in range(depth)
        for block in (
            Residual(norm(width), Attention(width, 4, causal)),
            Residual(norm(width), nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width)),
        )
    ]


class Positions(nn.Module):
    """Adds what is learnt for each position."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Mean(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Patches(nn.Module):
    """Squares of an image as a sequence."""

    def __init__(self, channels: int, side: int, width: int):
        super().__init__()
        self.cut = nn.Conv2d(channels, width, side, side)

    def forward(self, x: Tensor) -> Tensor:
        return self.cut(x).flatten(2).transpose(1, 2)


class Transposed(nn.Module):
    """`inner` over positions in the place of channels."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


def vit():
    return nn.Sequential(
        Patches(3, 4, 32),
        Positions(16, 32),
        *attention_blocks(32, 2, False),
        nn.LayerNorm(32),
        Mean(),
        nn.Linear(32, 10),
    )


def mixer():
    def block():
        return [
            Residual(nn.LayerNorm(32), Transposed(mlp(49, 48, 49, act=nn.GELU))),
            Residual(nn.LayerNorm(32), mlp(32, 64, 32, act=nn.GELU)),
        ]

    return nn.Sequential(Patches(1, 2, 32), *block(), *block(), nn.LayerNorm(32), Mean(), nn.Linear(32, 10))


def writer():
    return nn.Sequential(
        nn.Embedding(65, 32),
        Positions(24, 32),
        *attention_blocks(32, 2, True, nn.RMSNorm),
        nn.RMSNorm(32),
        nn.Linear(32, 65),
    )


class BagOfWords(nn.Module):
    """The mean of the embedded words through a hidden layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.EmbeddingBag(4096, 48, padding_idx=0)
        self.head = mlp(48, 64, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def thin_resnet(channels: int, width: int, classes: int):
    def block(w: int):
        return Residual(
            nn.Conv2d(w, w, 3, 1, 1, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(),
            nn.Conv2d(w, w, 3, 1, 1, bias=False),
            nn.BatchNorm2d(w),
        )

    def down(a: int, b: int):
        return [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

    return nn.Sequential(
        *down(channels, width), block(width), nn.ReLU(), *down(width, 2 * width), block(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )  # fmt: skip


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def conv_autoencoder():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 8, 3, 2, 1), nn.GELU(),
        nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip


class UNet(nn.Module):
    """Down once, up once, and across."""

    def __init__(self):
        super().__init__()

        def pair(a: int, b: int):
            return nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU())

        self.fine, self.coarse, self.up = pair(1, 12), pair(12, 24), nn.ConvTranspose2d(24, 12, 2, 2)
        self.head = nn.Sequential(pair(24, 12), nn.Conv2d(12, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return self.head(torch.cat([fine, self.up(self.coarse(F.max_pool2d(fine, 2)))], 1))


class PulseCounter(nn.Module):
    """A GRU over a signal, [n, 1, 64], in steps of four values."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.GRU(4, 48, batch_first=True), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.reshape(len(x), 16, 4))[0].mean(1))


DESIGN = [
    SearchPair(
        "wide mlp, table of 8 classes", partial(clusters, 1, 24, 8, 4, 1.0, 14_000), partial(mlp, 24, 256, 256, 8)
    ),
    SearchPair("mlp, price of diamonds", partial(diamonds, "price", 12_000), partial(mlp, 26, 128, 128, 1), "loss"),
    SearchPair(
        "GRU, tinyshakespeare",
        partial(shakespeare, 16, 8000, 1),
        partial(Recurrent, nn.GRU, 65, 48, 65, False),
        "loss",
        32,
    ),
    SearchPair(
        "cnn with group norms, cifar10 16x16",
        partial(pictures, "cifar10", 16, 8000),
        partial(convs, [3, 12, 24, 48], 10, group_norm),
        batch_size=32,
    ),
    SearchPair(
        "autoencoder, fashion-mnist 14x14",
        partial(themselves, "fashion-mnist", 14, 8000, True),
        partial(mlp, 196, 128, 16, 128, 196),
        "loss",
    ),
    SearchPair(
        "cnn with batch norms, photos of 4 animals",
        partial(photos, (3, 4, 5, 7), 1500),
        partial(convs, [3, 12, 24, 24], 4, nn.BatchNorm2d),
        batch_size=16,
    ),
    SearchPair(
        "1-D cnn with batch norms, shapes of waves",
        partial(waves, "shape", 10_000, 3000),
        partial(convs, [1, 16, 32, 32], 6, nn.BatchNorm1d, 1),
    ),
    SearchPair(
        "residual mlp, table of 3 classes with noise",
        partial(clusters, 2, 16, 3, 6, 0.8, 9000, 0.2, 2000),
        partial(residual_mlp, 16, 48, 3, 3),
        batch_size=32,
    ),
    SearchPair(
        "deep mlp with batch norms, fashion-mnist 14x14",
        partial(pictures, "fashion-mnist", 14, 12_000, True),
        partial(mlp, 196, 96, 96, 96, 96, 96, 10, norm=nn.BatchNorm1d),
    ),
    SearchPair("ViT, cifar10 16x16", partial(pictures, "cifar10", 16, 8000), vit, batch_size=32),
    SearchPair(
        "LSTM, what came after the marker",
        partial(remembered, 12_000, 6000),
        partial(Recurrent, nn.LSTM, 8, 64, 8, True),
    ),
    SearchPair(
        "tanh mlp, Friedman's first function",
        partial(friedman, 1, 2000),
        partial(mlp, 10, 64, 64, 1, act=nn.Tanh),
        "loss",
        32,
    ),
]
JUDGE = [
    SearchPair(
        "SELU mlp, table of 12 classes with noise",
        partial(clusters, 3, 40, 12, 3, 0.9, 16_000, 0.1, 8000),
        partial(mlp, 40, 128, 128, 128, 12, act=nn.SELU),
    ),
    SearchPair(
        "residual mlp, tenth of the price of diamonds",
        partial(diamonds, "tenth", 16_000),
        partial(residual_mlp, 26, 64, 2, 10),
        batch_size=128,
    ),
    SearchPair("transformer, tinyshakespeare", partial(shakespeare, 24, 6000, 2), writer, "loss", 16),
    SearchPair(
        "thin resnet, cifar10 16x16",
        partial(pictures, "cifar10", 16, 6000),
        partial(thin_resnet, 3, 12, 10),
        batch_size=32,
    ),
    SearchPair(
        "conv autoencoder, cifar10 16x16", partial(themselves, "cifar10", 16, 6000, False), conv_autoencoder, "loss"
    ),
    SearchPair(
        "plain cnn, photos of 4 vehicles",
        partial(photos, (0, 1, 8, 9), 1000),
        partial(convs, [3, 16, 24, 32], 4, None),
        batch_size=16,
    ),
    SearchPair("GRU, number of pulses", partial(waves, "count", 10_000, 4000), PulseCounter),
    SearchPair("bag of words, speakers of plays", partial(speakers, 2400), BagOfWords, batch_size=32),
    SearchPair(
        "GELU mlp with dropout, fashion-mnist 14x14",
        partial(pictures, "fashion-mnist", 14, 10_000, True),
        partial(mlp, 196, 160, 160, 160, 10, act=nn.GELU, dropout=0.2),
    ),
    SearchPair(
        "SiLU mlp, Friedman's third function",
        partial(friedman, 3, 3000),
        partial(mlp, 10, 128, 128, 1, act=nn.SiLU),
        "loss",
    ),
    SearchPair("mixer, fashion-mnist 14x14", partial(pictures, "fashion-mnist", 14, 6000), mixer, batch_size=32),
    SearchPair("u-net, discs and rectangles", partial(shapes, 2000), UNet, batch_size=16),
]

"""Pairs that no constant of the range test was fitted to: made data and small nets, under a second a training.

As in pairs.py nothing but the weights, the batch order and dropout depends on the seed.
"""

import argparse
import inspect
import itertools
import math
from functools import cache

import torch
from pairs import Pair, drawn_from
from torch import nn

VALID, TEST = 500, 3000


def split(x, y, train):
    """Train, valid and test of samples in random order."""
    return (
        (x[:train], y[:train]),
        (x[train : train + VALID], y[train : train + VALID]),
        (x[train + VALID :], y[train + VALID :]),
    )


@cache
def clusters(train=3200, classes=4, wrong=0.1, share=None):
    """Points of 20 numbers about two centres a class, and a share of wrong labels; `share`: of the first class."""
    n, draw = train + VALID + TEST, torch.Generator().manual_seed(1)
    y = torch.randint(classes, (n,), generator=draw)
    y = y if share is None else (torch.rand(n, generator=draw) > share).long()
    centres = 1.2 * torch.randn(classes, 2, 20, generator=draw)
    x = centres[y, torch.randint(2, (n,), generator=draw)] + 1.5 * torch.randn(n, 20, generator=draw)
    noisy = torch.rand(n, generator=draw) < wrong
    return split(x, torch.where(noisy, torch.randint(classes, (n,), generator=draw), y), train)


@cache
def friedman(train=2000):
    """Friedman's first function of ten numbers, with noise, in standard units."""
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(train + VALID + TEST, 10, generator=draw)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(len(y), generator=draw)
    return split((x - 0.5) * math.sqrt(12), ((y - y.mean()) / y.std())[:, None], train)


@cache
def signals(train=2048, length=64):
    """Five kinds of waves of random phase and frequency in noise."""
    draw = torch.Generator().manual_seed(3)
    n = train + VALID + TEST
    y = torch.randint(5, (n,), generator=draw)
    t = torch.linspace(0, 1, length) * (2 + 4 * torch.rand(n, 1, generator=draw)) + torch.rand(n, 1, generator=draw)
    sine = torch.sin(2 * math.pi * t)
    saw = 2 * (t % 1) - 1
    waves = torch.stack([sine, sine.sign(), saw, saw.abs() * 2 - 1, torch.sin(2 * math.pi * t * t / 3)], 1)
    x = waves[torch.arange(n), y] + 0.8 * torch.randn(n, length, generator=draw)
    return split(x[:, None], y, train)


@cache
def shapes(train=1600, side=12):
    """Discs, squares, crosses and rings of random place and size, in noise."""
    draw = torch.Generator().manual_seed(4)
    n = train + VALID + TEST
    y = torch.randint(4, (n,), generator=draw)
    place, size = 3 + 5 * torch.rand(n, 2, 1, 1, generator=draw), 2 + 2 * torch.rand(n, 1, 1, generator=draw)
    axis = torch.arange(float(side))
    dy, dx = axis.view(1, -1, 1) - place[:, 0], axis.view(1, 1, -1) - place[:, 1]
    far, wide = (dx**2 + dy**2).sqrt(), torch.maximum(dx.abs(), dy.abs())
    cross = (torch.minimum(dx.abs(), dy.abs()) < 0.8) & (wide < size)
    drawn = torch.stack([far < size, wide < size, cross, (far < size) & (far > size - 1.3)], 1).float()
    x = drawn[torch.arange(n), y] + 0.5 * torch.randn(n, side, side, generator=draw)
    return split(x[:, None], y, train)


@cache
def spirals(train=800):
    """Three arms of a spiral in the plane."""
    draw = torch.Generator().manual_seed(5)
    n = train + VALID + TEST
    y, r = torch.randint(3, (n,), generator=draw), torch.rand(n, generator=draw)
    angle = 2 * math.pi / 3 * y + 5 * r + 0.2 * torch.randn(n, generator=draw)
    return split(2 * torch.stack([r * angle.cos(), r * angle.sin()], 1), y, train)


@cache
def code(train=2400, length=8):
    """Windows of a module of the standard library, and the character that follows each."""
    whole = inspect.getsource(argparse)
    known = sorted(set(whole))
    codes = torch.tensor([known.index(c) for c in whole])
    starts = torch.randperm(len(codes) - length, generator=torch.Generator().manual_seed(6))[: train + VALID + TEST]
    return split(codes[starts[:, None] + torch.arange(length)], codes[starts + length], train)


def layers(inputs, outputs, width=64, depth=2, unit=nn.ReLU):
    """A multi-layer perceptron as a function of the seed."""

    def make(seed):
        with drawn_from(seed):
            sizes = [inputs] + [width] * depth
            hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), unit())]
            return nn.Sequential(*hidden, nn.Linear(width, outputs))

    return make


def waves_net(seed):
    """Convolutions over time with batch norms."""
    with drawn_from(seed):
        return nn.Sequential(
            nn.Conv1d(1, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 5, 2, 2), nn.BatchNorm1d(32),
            nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5),
        )  # fmt: skip


def shapes_net(seed):
    """Convolutions over images without norms."""
    with drawn_from(seed):
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, 1, 1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 9, 4),
        )  # fmt: skip


class NextCharacter(nn.Module):
    """A recurrent net that reads characters and tells the next."""

    def __init__(self, characters, width=48):
        super().__init__()
        self.embed, self.body = nn.Embedding(characters, 24), nn.GRU(24, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        return self.head(self.body(self.embed(x))[0][:, -1])


def code_net(seed):
    characters = int(max(part.max() for both in code() for part in both)) + 1
    with drawn_from(seed):
        return NextCharacter(characters)


JUDGED_PAIRS = [
    Pair("mlp, clusters", clusters, 3200, layers(20, 4), {}, 32),
    Pair("mlp, clusters in few batches", lambda: clusters(400), 400, layers(20, 4), {}, 16),
    Pair("mlp, one class in ten", lambda: clusters(2400, 2, 0.03, 0.1), 2400, layers(20, 2), {}, 16),
    Pair("tanh mlp, friedman", friedman, 2000, layers(10, 1, unit=nn.Tanh), {}, 16),
    Pair("deep mlp, spirals", spirals, 800, layers(2, 3, 48, 4), {}, 8),
    Pair("conv with norms, signals", signals, 2048, waves_net, {}, 16),
    Pair("conv without norms, shapes", shapes, 1600, shapes_net, {}, 16),
    Pair("gru, code", code, 2400, code_net, {}, 32),
]

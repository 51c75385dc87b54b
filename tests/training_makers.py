"""A tiny classification, and a net with everything that resuming can get wrong: dropout and batch norm."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from onecycle import Runtime, Supervised, TrainState
from onecycle.training.losses import cross_entropy
from onecycle.training.metrics import accuracy

CPU = Runtime.choose("cpu")
TASK = Supervised(cross_entropy, {"accuracy": accuracy})


def blobs(n: int = 48, features: int = 4, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs float32 [n, features] around one centre a class, and labels int64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 4 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(n, features, generator=generator), labels


def seeded_net(features: int = 4, classes: int = 3, dropout: float = 0.25) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU())
        return nn.Sequential(body, nn.Dropout(dropout), nn.Linear(8, classes))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def adamw(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr)


def new_state(make_optimizer=sgd, **options) -> TrainState:
    model = seeded_net()
    return TrainState(model, make_optimizer(model), TASK, CPU, **options)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of tensors that are not the same to the bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def equal_batches(one: Iterable, other: Iterable) -> bool:
    def flat(batches: Iterable) -> list[Tensor]:
        return [tensor for batch in batches for tensor in (batch.values() if isinstance(batch, dict) else batch)]

    a, b = flat(one), flat(other)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def global_generators() -> tuple:
    """The states of the generators that belong to the caller, comparable by ==."""
    kind, keys, *rest = np.random.get_state()
    return bytes(torch.get_rng_state().tolist()), random.getstate(), (kind, keys.tobytes(), *rest)

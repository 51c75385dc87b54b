"""Tiny runs of every kind, and models of one's own, for the tests of exports."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onecycle import Job, Learner, run

KINDS = ("digits", "colours", "houses", "tags", "reviews", "characters")


def make_run(kind: str, place: Path) -> Path:
    """The folder of a run of one epoch on made data of this kind, which lie beside it."""
    data, options = MADE[kind](place)
    run(Job(str(data), budget="1 epochs", search=0, **options), place / kind, report=False)
    return place / kind


class Runs:
    """The folder of a run of each kind by its name; made when it is first asked for, once for all tests."""

    _folders: ClassVar[dict[str, Path]] = {}

    def __init__(self, factory: pytest.TempPathFactory):
        self._factory = factory

    def __getitem__(self, kind: str) -> Path:
        if kind not in self._folders:
            self._folders[kind] = make_run(kind, self._factory.mktemp(kind))
        return self._folders[kind]


def _digits(_: Path) -> tuple[Any, dict[str, Any]]:
    return "digits", {"limit": 100}


def _colours(place: Path) -> tuple[Any, dict[str, Any]]:
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), np.uint8)
    np.savez(place / "colours.npz", x=images, y=np.arange(60) % 3)
    return place / "colours.npz", {"model": "resnet20"}


HOUSES = ("size", "rooms", "town", "sold")


def houses(rows: int, seed: int = 0) -> list[list[Any]]:
    """Size, rooms, town and date, some of them missing."""
    draw = random.Random(seed)

    def some(value: Any) -> Any:
        return value if draw.random() > 0.15 else None

    towns = ("Bonn", "Kiel", "Ulm")
    return [
        [some(round(draw.uniform(40, 200), 1)), some(float(draw.randint(1, 6))), some(draw.choice(towns)),
         f"20{draw.randint(10, 23)}-0{draw.randint(1, 9)}-1{draw.randint(0, 9)}"]
        for _ in range(rows)
    ]  # fmt: skip


def _houses(place: Path) -> tuple[Any, dict[str, Any]]:
    rows = houses(80)
    prices = [2000 * (size or 100) + 5e4 * (town == "Bonn") for size, _, town, _ in rows]
    return _table(
        place / "houses.csv", [*HOUSES, "price"], [[*row, p] for row, p in zip(rows, prices, strict=True)], "price"
    )


def _tags(place: Path) -> tuple[Any, dict[str, Any]]:
    draw = random.Random(0)
    numbers = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(80)]
    rows = [[a, b, ";".join([*["hot"] * (a > 0), *["wet"] * (b > 0)])] for a, b in numbers]
    data, options = _table(place / "tags.csv", ["a", "b", "tags"], rows, "tags")
    return data, {**options, "task": "multi-label"}


def _reviews(place: Path) -> tuple[Any, dict[str, Any]]:
    draw = random.Random(0)
    words = ["the", "film", "was", "a", "plot", "with", "some", "actors", "and", "scenes", "of", "no", "story"]
    texts = [" ".join(draw.choices(words, k=12)) + (" wonderful" if i % 2 else " dreadful") for i in range(60)]
    rows = [[text, "good" if i % 2 else "bad"] for i, text in enumerate(texts)]
    return _table(place / "reviews.csv", ["text", "mood"], rows, "mood")


def _characters(place: Path) -> tuple[Any, dict[str, Any]]:
    (place / "characters.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return place / "characters.txt", {"limit": 20, "model_options": {"depth": 1, "width": 16, "heads": 2}}


def _table(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]], target: str) -> tuple[Any, dict[str, Any]]:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path, {"target": target}


MADE: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "digits": _digits,
    "colours": _colours,
    "houses": _houses,
    "tags": _tags,
    "reviews": _reviews,
    "characters": _characters,
}


def own_run(folder: Path, model: nn.Module, *data: Tensor, **options: Any) -> Path:
    """The folder of a run of one epoch that a learner in Python began."""
    Learner(model, data, batch_size=10, verbose=False, **options).fit(1, lr_max=0.01, out=folder)
    return folder


def numbers() -> tuple[Tensor, Tensor]:
    """Inputs [40, 6] and targets [40, 1], both far from standard units."""
    x = 50 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    return x, 1000 * x[:, :1]


class Inverse(nn.Module):
    """A model with an operation that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(torch.eye(2) + self.linear(x)[:, :, None] ** 2)[:, 0, :1]


class Deciding(nn.Module):
    """A model in which Python decides by the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum() > 0 else 2 * y


class ForPairs(nn.Module):
    """A model that computes for two samples otherwise than for more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if len(x) == 2 else 2 * self.linear(x)


class Named(nn.Module):
    """A model of two inputs by name, with two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(20, 4), nn.Linear(5, 2)

    def forward(self, ids: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.linear(torch.cat([self.embedding(ids).mean(1), x], 1)), "twice": 2 * x}

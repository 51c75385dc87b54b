"""Models of tables: a front that spreads a row out into numbers, which any model of arrays can follow."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from ..checks import whole
from ..errors import ConfigError
from .small import dropout_share

LARGEST_EMBEDDING = 16
MOST_BINNED = 2048  # numbers that the bins of all columns may become


class TableLayout(Protocol):
    """What a model needs to know of a table: `onecycle.load(...).columns`."""

    @property
    def flags(self) -> int: ...
    @property
    def cardinalities(self) -> tuple[int, ...]: ...
    @property
    def edges(self) -> tuple[tuple[float, ...], ...]: ...


class TableFront(nn.Module):
    """A row float32 [n, numbers + flags + categories] as float32 [n, width], with all that the next layer sees near 1.

    Numbers are given as they are and, beside that, piecewise linearly: for each of the bins between quantiles, how far
    the number is through it, from -1 below to 1 above; unless that would be more than `MOST_BINNED` (then `binned` is
    False). Each code of a category has an embedding; those of unknown and of missing ones start at zero.

    Source: Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", 2203.05556, section 3.1.
    """

    low: Tensor
    span: Tensor
    column: Tensor

    def __init__(self, columns: TableLayout):
        super().__init__()
        self.numbers, self.plain = len(columns.edges), len(columns.edges) + columns.flags
        binned = self.binned = sum(map(len, columns.edges)) <= MOST_BINNED
        bins = [(i, *ends) for i, edges in enumerate(columns.edges) for ends in pairwise(edges) if binned]
        which, low, high = zip(*bins, strict=True) if bins else ((), (), ())
        # Not saved with the weights: they are facts of the data.
        self.register_buffer("column", torch.tensor(which, dtype=torch.int64), persistent=False)
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("span", torch.tensor(high) - torch.tensor(low), persistent=False)
        sizes = [min(LARGEST_EMBEDDING, (codes + 1) // 2 + 1) for codes in columns.cardinalities]
        self.embeddings = nn.ModuleList(map(nn.Embedding, columns.cardinalities, sizes))
        for embedding in self.embeddings:
            nn.init.zeros_(embedding.weight.data[:2])  # type: ignore[index, union-attr]
        self.width = self.plain + len(bins) + sum(sizes)
        self.columns = self.plain + len(sizes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.columns,):
            raise ConfigError(
                f"this model takes rows of {self.columns} numbers, [n, {self.columns}]; received {list(x.shape)}"
            )
        parts = [x[:, : self.plain]]
        if len(self.low):
            through = (x[:, self.column] - self.low) / self.span
            parts.append(2 * through.clamp(0, 1) - 1)
        codes = x[:, self.plain :].long()
        parts += [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return torch.cat(parts, 1)


def tabular(
    *, input_shape: tuple[int, ...], classes: int, width: int = 256, depth: int = 2, dropout: float = 0.1
) -> nn.Sequential:
    """The model of tables, behind a `TableFront`: linear, `depth` residual layers, norm, ReLU, linear."""
    layers = [ResidualLayer(whole("width", width), dropout_share(dropout)) for _ in range(whole("depth", depth))]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(input_shape), width),
        *layers,
        nn.LayerNorm(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, classes),
    )


class ResidualLayer(nn.Module):
    """x + dropout(relu(linear(norm(x))))."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.linear, self.dropout = nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.linear(self.norm(x)).relu())

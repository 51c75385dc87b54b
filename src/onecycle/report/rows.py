"""Recorded rows as columns of numbers, and what is made of these before they are drawn: means, bands, fewer points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

Row = Mapping[str, Any]

# Values that span more than this factor are drawn on a logarithmic axis.
LOG_FROM = 30


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """A column as floats, [n]; what a row lacks is NaN."""
    return np.array([row.get(name) for row in rows], dtype=float)


def updates(rows: Sequence[Row]) -> np.ndarray:
    """The update of each row, [n], counted on where a run begins again at 0."""
    steps = np.array([row["step"] for row in rows], dtype=float)
    begins = np.flatnonzero(np.diff(steps) <= 0)
    offsets = np.zeros(len(steps))
    offsets[begins + 1] = steps[begins] + 1
    return steps + np.cumsum(offsets)


def value_names(rows: Sequence[Row]) -> list[str]:
    """The scheduled values: the columns before the loss.

    >>> value_names([{"step": 0, "epoch": 0, "lr": 0.1, "momentum": 0.9, "loss": 2.3, "accuracy": 0.1}])
    ['lr', 'momentum']
    """
    before = (name for row in rows for name in takewhile(lambda name: name not in ("loss", "train_loss"), row))
    return [name for name in dict.fromkeys(before) if name not in ("step", "epoch")]


def moving_mean(y: np.ndarray) -> tuple[np.ndarray, int]:
    """The centred mean over about 2 % of the values, shorter at the ends, without the unknown ones; and its width."""
    half = len(y) // 100 or min(2, len(y) // 10)
    known = np.isfinite(y)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(y))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    n = count[high] - count[low]
    return np.where(n > 0, (total[high] - total[low]) / np.maximum(n, 1), np.nan), 2 * half + 1


def kept(y: np.ndarray, points: int) -> np.ndarray:
    """The known values to draw: the lowest and the highest of each of half as many pieces, the first and the last."""
    known = np.flatnonzero(np.isfinite(y))
    if len(known) <= points:
        return known
    pieces = np.array_split(known, points // 2 - 1)
    extremes = [piece[f(y[piece])] for piece in pieces for f in (np.argmin, np.argmax)]
    return np.unique([known[0], *extremes, known[-1]])


def spans_decades(y: np.ndarray) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    y = y[np.isfinite(y)]
    return len(y) > 0 and bool(y.min() > 0 and y.max() / y.min() > LOG_FROM)

"""What is drawn in a page, as plain data: figures of series, each a line with its band, thinned to what can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .figures import TRAIN, VALID, VALUES, _column, _moving_mean, _updates
from .page_groups import Group

# Okabe & Ito's colours, and a dash with each: lines are told apart in grey too.
COLOURS = (TRAIN, VALID, *VALUES)
DASHES = ("solid", "dash", "dot", "dashdot")
# Points of all lines over time on a page, at most so many and at least so few in one.
BUDGET, MOST, LEAST = 36_000, 1000, 40
KNOTS = 48


@dataclass(frozen=True)
class Key:
    """An entry of a legend: how the lines look that belong to it. A line that is not `shown` waits for a click."""

    label: str
    colour: str
    dash: str = "solid"
    faint: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Series:
    """A line or markers: `x`, `y` and the band from `low` to `high`, [n] each; the looks of `key`.

    Where `clock` is given, `x` are updates, and the clock says at which epoch and second each was.
    """

    key: int
    x: list[Any]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    clock: int | None = None
    mode: str = "lines"


@dataclass(frozen=True)
class Figure:
    """One panel. `kind` of the horizontal axis: "time" (updates, epochs or seconds), "linear", "log" or "category"."""

    title: str
    caption: str
    x: str
    y: str
    kind: str
    series: list[Series]
    log: bool = False
    percent: bool = False
    low: bool = False
    shade: tuple[float, float] | None = None
    mark: float | None = None
    level: float | None = None


@dataclass
class Plots:
    """The keys, clocks and figures of a page; figures and legends are named by their index."""

    keys: list[Key] = field(default_factory=list)
    clocks: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def key(self, key: Key) -> int:
        self.keys.append(key)
        return len(self.keys) - 1

    def clock(self, group: Group) -> int:
        self.clocks.append(clock(group))
        return len(self.clocks) - 1

    def figure(self, figure: Figure) -> int:
        self.figures.append(figure)
        return len(self.figures) - 1

    def plain(self) -> dict[str, Any]:
        """As the page's script reads it; what is empty is left out."""
        return {
            "keys": [asdict(key) for key in self.keys],
            "clocks": self.clocks,
            "figures": [
                _known(figure) | {"series": [_known(line) for line in figure.series]} for figure in self.figures
            ],
        }


def _known(part: Figure | Series) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if value is not None}


def style(i: int) -> tuple[str, str]:
    """A colour and a dash for the `i`-th line: 24 pairs, neighbours differing in both."""
    return COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]


def budget(lines: int) -> int:
    """Points that one of so many lines may have."""
    return int(np.clip(BUDGET // max(lines, 1), LEAST, MOST))


def curve(group: Group, name: str, *, points: int, smooth: bool = False, by_epoch: bool = False) -> dict[str, Any]:
    """A column over the updates: ``x`` and ``y``, and ``low`` and ``high`` where the group has several runs.

    With `smooth` the moving mean of each run is taken first. Empty where no run has the column.
    """
    tables = [run.epochs if by_epoch else run.steps for run in group.drawn]
    tables = [rows for rows in tables if any(name in row for row in rows)]
    if not tables:
        return {}
    columns = [_column(rows, name) for rows in tables]
    columns = [_moving_mean(column)[0] if smooth else column for column in columns]
    stack = np.full((len(columns), max(map(len, columns))), np.nan)
    for i, column in enumerate(columns):
        stack[i, : len(column)] = column
    values = np.ma.masked_invalid(stack)
    mean, low, high = (np.ma.filled(f(axis=0), np.nan) for f in (values.mean, values.min, values.max))
    x = _updates(max(tables, key=len))
    keep = kept(mean, points)
    found = {"x": [int(v) for v in x[keep]], "y": numbers(mean[keep])}
    if np.any(high[keep] > low[keep]):
        found |= {"low": numbers(low[keep]), "high": numbers(high[keep])}
    return found


def kept(y: np.ndarray, points: int) -> np.ndarray:
    """The known values to draw: the lowest and the highest of each of half as many pieces, the first and the last."""
    known = np.flatnonzero(np.isfinite(y))
    if len(known) <= points:
        return known
    pieces = np.array_split(known, points // 2 - 1)
    extremes = [piece[f(y[piece])] for piece in pieces for f in (np.argmin, np.argmax)]
    return np.unique([known[0], *extremes, known[-1]])


def clock(group: Group) -> dict[str, Any]:
    """``update`` and ``seconds`` at some knots, and the updates ``per_epoch``: None where that is not known."""
    runs = group.drawn
    longest = max(runs, key=lambda run: (len(run.steps), len(run.epochs)))
    times = [_times(run.steps, run.epochs) for run in runs]
    updates, _ = _times(longest.steps, longest.epochs)
    knots = updates[np.unique(np.linspace(0, len(updates) - 1, KNOTS).round().astype(int))] if len(updates) else updates
    seconds = [np.interp(knots, x, y) for x, y in times if len(x)]
    return {
        "update": [int(knot) for knot in knots],
        "seconds": numbers(np.mean(seconds, axis=0)) if seconds else [],
        "per_epoch": _per_epoch(longest.steps, longest.epochs),
    }


def numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Five significant digits of each, None for what is not finite."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def _times(steps: Sequence[Any], epochs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Updates and the seconds since the start at each."""
    if steps:
        return _updates(steps), np.maximum.accumulate(np.nan_to_num(_column(steps, "seconds")))
    if epochs:
        return _updates(epochs), np.cumsum(np.nan_to_num(_column(epochs, "seconds")))
    return np.array([]), np.array([])


def _per_epoch(steps: Sequence[Any], epochs: Sequence[Any]) -> int | None:
    if epochs:  # the last one can be a piece
        return int(np.diff(_updates(epochs), prepend=-1).max())
    later = [i for i, row in enumerate(steps) if row.get("epoch", 0) > steps[0].get("epoch", 0)]
    return later[0] if later else None

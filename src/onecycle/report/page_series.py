"""What is drawn in a page, as plain data: figures of series, each a line with its band, thinned to what can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..records.statistics import bounds_of, mean_band
from .content import Group
from .figures import TRAIN, VALID, VALUES
from .rows import column, kept, moving_mean, updates

# Okabe & Ito's colours, and with each a dash, to which the page adds a mark: lines are told apart in grey too.
COLOURS = (TRAIN, VALID, *VALUES)
DASHES = ("solid", "dash", "dot", "dashdot")
# The marks as paths in a legend's 30 by 10 pixels.
MARKS = {
    "solid": "M12 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "dash": "M12 2h6v6h-6z",
    "dot": "M15 1l4 4-4 4-4-4z",
    "dashdot": "M14 1h2v3h3v2h-3v3h-2v-3h-3v-2h3z",
}
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
    """`x`, `y` and the band from `low` to `high`, [n] each; the looks of `key`. `text` is shown in place of `y`.

    `mode` is "lines", "lines+markers", "markers", or "intervals": points, each with its own interval. There an end
    that is None is open, and `bound` says of each point whether it is a value (0) or `y` is less than it (1) or more
    (-1). Where `clock` is given, `x` are updates, and the clock says at which epoch and second each was.
    """

    key: int
    x: list[Any]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    clock: int | None = None
    mode: str = "lines"
    text: list[str] | None = None
    bound: list[int] | None = None


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
    frame: tuple[float, float] | None = None
    shade: tuple[float, float] | None = None
    marks: tuple[float, ...] = ()
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
    """A column over the updates: ``x`` and the mean ``y``, and its 95 % interval where the group has several runs.

    With `smooth` the moving mean of each run is taken first. Empty where no run has the column.
    """
    tables = [run.epochs if by_epoch else run.steps for run in group.drawn]
    tables = [rows for rows in tables if any(name in row for row in rows)]
    if not tables:
        return {}
    columns = [column(rows, name) for rows in tables]
    if smooth:
        columns = [moving_mean(values)[0] for values in columns]
    mean, low, high = mean_band(stacked(columns), within=bounds_of(name))
    x = updates(max(tables, key=len))
    keep = kept(mean, points)
    found = {"x": [int(v) for v in x[keep]], "y": numbers(mean[keep])}
    return found | ends(low[keep], high[keep])


def stacked(columns: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Columns as the rows of one array, [columns, longest]; NaN where one has ended."""
    stack = np.full((len(columns), max(map(len, columns))), np.nan)
    for row, values in zip(stack, columns, strict=True):
        row[: len(values)] = values
    return stack


def ends(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """``low`` and ``high`` of a band, where it is wider than the last bit."""
    wide = np.any(high - low > 1e-9 * np.abs(high + low))
    return {"low": numbers(low), "high": numbers(high)} if wide else {}


def of_seeds(counts: Sequence[int]) -> str:
    """What lines and bands are, from the number of runs behind each line."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "One seed each: there is no interval."
    n = str(most) if least == most else f"{least} to {most}"
    return f"Lines: means over seeds, n = {n}. Bands: 95 % t intervals of the mean" + (
        ", where n is above 1." if least == 1 else "."
    )


def clock(group: Group) -> dict[str, Any]:
    """``update`` and ``seconds`` at some knots, and the updates ``per_epoch``: None where that is not known."""
    runs = group.drawn
    longest = max(runs, key=lambda run: (len(run.steps), len(run.epochs)))
    times = [_times(run.steps, run.epochs) for run in runs]
    known, _ = _times(longest.steps, longest.epochs)
    knots = known[np.unique(np.linspace(0, len(known) - 1, KNOTS).round().astype(int))] if len(known) else known
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
        return updates(steps), np.maximum.accumulate(np.nan_to_num(column(steps, "seconds")))
    if epochs:
        return updates(epochs), np.cumsum(np.nan_to_num(column(epochs, "seconds")))
    return np.array([]), np.array([])


def _per_epoch(steps: Sequence[Any], epochs: Sequence[Any]) -> int | None:
    if epochs:  # the last one can be a piece
        return int(np.diff(updates(epochs), prepend=-1).max())
    later = [i for i, row in enumerate(steps) if row.get("epoch", 0) > steps[0].get("epoch", 0)]
    return later[0] if later else None

"""Figures as plain data, which the page's script and matplotlib draw; and how recorded numbers become their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np

from ..records.statistics import bounds_of, mean_band

# Okabe & Ito's colours, and with each a dash and a mark: lines are told apart in grey too.
TRAIN, VALID = "#0072B2", "#D55E00"
VALUES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
# Lines of at most so many points have a mark at each.
MARKED = 30
# Values that span more than this factor are drawn on a logarithmic axis.
LOG_FROM = 30

# Columns of a record that say which it is.
COUNTS = ("fit", "step", "epoch")

Row = Mapping[str, Any]


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

    `mode` is "lines", "lines+markers", "markers", "bars", or "intervals": points, each with its own interval. There an
    end that is None is open, and `bound` says of each point whether it is a value (0) or `y` is less than it (1) or
    more (-1). Where `clock` is given, `x` are updates, and the clock says at which epoch and second each was.
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
    """One panel. `kind` of the horizontal axis: "time" (updates, epochs or seconds), "linear", "log" or "category".

    `log` and `percent` are about the vertical axis, `frame` is what it shows. `shade` is a range and `marks` are places
    on the horizontal one (updates, where that is time), `level` one on the vertical; `names` are what a legend calls
    the shade and the marks, in this order, as far as they have a name, and `bands` what it calls the bands. The lines
    of one that is `named` have no entry: its title says it all. `ahead` are places with a name above each; the lines of
    a figure that has some follow each other, and each is read where it is.
    """

    title: str
    caption: str
    x: str
    y: str
    kind: str
    series: list[Series]
    log: bool = False
    percent: bool = False
    low: bool = False
    named: bool = False
    frame: tuple[float, float] | None = None
    shade: tuple[float, float] | None = None
    marks: tuple[float, ...] = ()
    level: float | None = None
    names: tuple[str, ...] = ()
    bands: str = "95 % interval of the mean"
    ahead: tuple[tuple[float, str], ...] = ()


@dataclass
class Plots:
    """Figures with the keys and clocks that their series name by index."""

    keys: list[Key] = field(default_factory=list)
    clocks: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def key(self, key: Key) -> int:
        self.keys.append(key)
        return len(self.keys) - 1

    def clock(self, clock: dict[str, Any]) -> int:
        self.clocks.append(clock)
        return len(self.clocks) - 1

    def figure(self, figure: Figure) -> int:
        self.figures.append(figure)
        return len(self.figures) - 1

    def plain(self) -> dict[str, Any]:
        """As the page's script reads it: numbers of five significant digits, and nothing that is empty."""
        return {
            "keys": [asdict(key) for key in self.keys],
            "clocks": [{name: _short(value) for name, value in clock.items()} for clock in self.clocks],
            "figures": [
                {**vars(figure), "series": [_given(vars(line)) for line in figure.series]} for figure in self.figures
            ],
        }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _short(value) for name, value in fields.items() if value is not None}


def _short(values: Any) -> Any:
    if isinstance(values, list):
        return [float(f"{value:.5g}") if isinstance(value, float) else value for value in values]
    return values


def style(i: int) -> tuple[str, str]:
    """A colour and a dash for the `i`-th line: 24 pairs, neighbours differing in both."""
    return COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]


def mode(x: Sequence[Any], most: int = MARKED) -> str:
    """Lines, with marks where they have few points."""
    return "lines+markers" if len(x) <= most else "lines"


def budget(lines: int) -> int:
    """Points that one of so many lines may have."""
    return int(np.clip(BUDGET // max(lines, 1), LEAST, MOST))


def of_seeds(counts: Sequence[int]) -> str:
    """What lines and bands are, from the number of runs behind each line."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "One seed each: there is no interval."
    n = str(most) if least == most else f"{least} to {most}"
    return f"Lines: means over seeds, n = {n}. Bands: 95 % t intervals of the mean" + (
        ", where n is above 1." if least == 1 else "."
    )


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """A recorded column as floats, [n]; what a row lacks is NaN."""
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

    >>> value_names([{"fit": 0, "step": 0, "epoch": 0, "lr": 0.1, "momentum": 0.9, "loss": 2.3, "accuracy": 0.1}])
    ['lr', 'momentum']
    """
    before = (name for row in rows for name in takewhile(lambda name: name not in ("loss", "train_loss"), row))
    return [name for name in dict.fromkeys(before) if name not in COUNTS]


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


def mean_line(columns: Sequence[Sequence[float] | np.ndarray], name: str) -> tuple[np.ndarray, ...]:
    """The mean of columns of the measure `name`, which may end early, and the ends of its interval, [longest] each."""
    stack = np.full((len(columns), max(map(len, columns))), np.nan)
    for row, values in zip(stack, columns, strict=True):
        row[: len(values)] = values
    return mean_band(stack, within=bounds_of(name))


def ends(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """``low`` and ``high`` of a band, where it is wider than the last bit."""
    wide = np.any(high - low > 1e-9 * np.abs(high + low))
    return {"low": numbers(low), "high": numbers(high)} if wide else {}


def numbers(values: Sequence[Any] | np.ndarray) -> list[float | None]:
    """Values as numbers, None for what is not finite."""
    return [float(v) if np.isfinite(v) else None for v in np.array(values, dtype=float)]


def kept(y: np.ndarray, points: int) -> np.ndarray:
    """The known values to draw: the lowest and the highest of each of half as many pieces, the first and the last."""
    known = np.flatnonzero(np.isfinite(y))
    if len(known) <= points:
        return known
    pieces = np.array_split(known, points // 2 - 1)
    extremes = [piece[f(y[piece])] for piece in pieces for f in (np.argmin, np.argmax)]
    return np.unique([known[0], *extremes, known[-1]])


def spans_decades(series: Sequence[Series]) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    y = [value for line in series for value in line.y if value is not None]
    return bool(y) and min(y) > 0 and max(y) / min(y) > LOG_FROM

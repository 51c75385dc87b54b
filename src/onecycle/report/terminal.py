"""A range test in characters, for a terminal without pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..text import number
from .draw_range_test import Axis, labels, recorded
from .spec import Figure, Plots, Series

# What marks lr_min, the range, lr_max and the edge, in ASCII or not.
MARKS = {True: "[-]x", False: "├─┤▲"}
# The bits of the dots of a Braille pattern, four rows of two.
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def range_text(result: Mapping[str, Any], width: int = 80, height: int = 12, ascii: bool = False) -> list[str]:
    """Draw a range test in characters: held-out accuracy, or without it the smoothed training loss, by learning rate.

    Args:
        result: as for `range_figure`; its title, verdict and reason are not among the lines.
        width: columns that no line exceeds, at least 24.
        height: rows of the curve, at least 3; a heading, the axis and the marks come on top.
        ascii: draw in ASCII rather than in Braille patterns and lines.

    Raises:
        ConfigError: no measurement at all, or too little room.
        DataError: as `range_figure`.

    >>> sweep = {"lr": [0.001, 0.01, 0.1, 1], "valid_lr": [0.001, 0.1, 1], "valid_accuracy": [0.1, 0.9, 0.3]}
    >>> test = {"curve": {"sweeps": [sweep]}, "lr_min": 0.02, "lr_max": 0.2, "edge": 0.8}
    >>> print("\\n".join(range_text(test, width=36, height=4, ascii=True)))
    held-out accuracy by learning rate
    0.9 |                 ******
        |           ******      ****
        |    *******                ****
    0.1 |****
        ++---------+---------+---------+
         0.001   0.01       0.1        1
                      [---------]     x
    [-] suggested: 0.02 to 0.2
    x edge of divergence: 0.8
    """
    if width < 24 or height < 3:
        raise ConfigError(f"a plot takes a width of 24 and a height of 3 or more; received {width=}, {height=}")
    plots = recorded(result)
    figure, line = _shown(plots)
    name = f"{plots.keys[line.key].label} {figure.y}".replace("training, smoothed", "smoothed training")
    lr, values = np.array(line.x), np.array(line.y, dtype=float)
    marks = {key: float(result[key]) for key in ("lr_min", "lr_max", "edge") if result.get(key) is not None}
    across = Axis(min([*lr, *marks.values()]), max([*lr, *marks.values()]), figure.kind == "log")
    top = figure.frame[1] if figure.frame else np.inf
    up = Axis(float(values.min()), min(float(values.max()), top), figure.log)
    sides = {0: number(up.high, 3), height - 1: number(up.low, 3)}
    margin = max(map(len, sides.values())) + 2
    columns = width - margin
    wall, floor, tick, corner = "|-++" if ascii else "│─┬└"
    dots = (1, 1) if ascii else DOTS.shape
    curve = _characters(_traced(across.share(lr), up.share(values), height * dots[0], columns * dots[1]), ascii)
    ticks, names = _tick_labels(across, columns)
    lines = [
        *textwrap.wrap(f"{name} by learning rate", width),
        *(f"{sides.get(row, ''):>{margin - 2}} {wall}{line}" for row, line in enumerate(curve)),
        " " * (margin - 1) + corner + "".join(tick if column in ticks else floor for column in range(columns)),
        " " * margin + names,
        *(" " * margin + line for line in _mark_row(marks, across, columns, ascii)),
        *_mark_names(labels(result), width, ascii),
    ]
    return [line.rstrip() for line in lines]


def _shown(plots: Plots) -> tuple[Figure, Series]:
    """The accuracy where it is known, else the loss; of the lines of the loss the smoothed one before the held-out."""
    figures = {figure.y: figure for figure in plots.figures}
    figure = figures.get("accuracy") or figures["loss"]
    return figure, next(line for line in figure.series if not plots.keys[line.key].faint)


def _traced(across: np.ndarray, up: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The dots [rows, columns] of the line through points given by their shares of the two axes."""
    at = np.interp(np.linspace(0, 1, columns), across, up, left=np.nan, right=np.nan)
    known = np.flatnonzero(np.isfinite(at))
    ends = np.rint((1 - at[known]) * (rows - 1)).astype(int)
    dots = np.zeros((rows, columns), dtype=bool)
    for column, before, row in zip(known, [*ends[:1], *ends], ends, strict=False):
        # From beside the row of the column before on, else a steep line has gaps.
        low, high = sorted((row, before + np.sign(row - before)))
        dots[max(low, 0) : max(high + 1, 0), column] = True
    return dots


def _characters(dots: np.ndarray, ascii: bool) -> list[str]:
    if ascii:
        return ["".join("*" if dot else " " for dot in row) for row in dots]
    cells = dots.reshape(-1, DOTS.shape[0], dots.shape[1] // DOTS.shape[1], DOTS.shape[1]).transpose(0, 2, 1, 3)
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in (cells * DOTS).sum(axis=(2, 3))]


def _ticks(axis: Axis) -> list[float]:
    """Round learning rates on the axis, or its ends where there are fewer than three."""
    if axis.log:
        powers = range(int(np.floor(np.log10(axis.low))), int(np.ceil(np.log10(axis.high))) + 1)
        choices = [[digit * 10.0**power for power in powers for digit in digits] for digits in ((1,), (1, 2, 5))]
    else:
        step = 10.0 ** np.floor(np.log10((axis.high - axis.low) or 1.0))
        choices = [np.arange(round(axis.high / size) + 1) * size for size in (step, step / 2, step / 5)]
    fitting = [[tick for tick in ticks if -1e-9 <= axis.share(tick) <= 1 + 1e-9] for ticks in choices]
    return next((ticks for ticks in fitting if len(ticks) > 2), [axis.low, axis.high])


def _tick_labels(axis: Axis, columns: int) -> tuple[set[int], str]:
    """The columns of the ticks and the line of their labels, of as many as do not touch."""
    ticks, line = set(), ""
    for tick in _ticks(axis):
        label, column = number(tick, 2), _column(axis, tick, columns)
        begin = min(max(column - len(label) // 2, 0), columns - len(label))
        if begin > len(line) or not line:
            line = line.ljust(begin) + label
            ticks.add(column)
    return ticks, line


def _mark_row(marks: Mapping[str, float], axis: Axis, columns: int, ascii: bool) -> list[str]:
    """The line that marks the suggested range and the edge, if there is any."""
    left, rule, right, edge = MARKS[ascii]
    symbols = {"lr_min": left, "lr_max": right, "edge": edge}
    at = {name: _column(axis, lr, columns) for name, lr in marks.items()}
    row = [" "] * columns
    if "lr_min" in at and "lr_max" in at:
        row[at["lr_min"] : at["lr_max"]] = rule * (at["lr_max"] - at["lr_min"])
    for name, column in at.items():
        row[column] = symbols[name]
    return ["".join(row)] if at else []


def _mark_names(labels: Sequence[str], width: int, ascii: bool) -> list[str]:
    symbols = MARKS[ascii][:3], MARKS[ascii][3]
    names = [f"{symbol} {name}" for symbol, name in zip(symbols, labels, strict=True) if name]
    together = "   ".join(names)
    return [line for name in ([together] if len(together) <= width else names) for line in textwrap.wrap(name, width)]


def _column(axis: Axis, value: float, columns: int) -> int:
    return round(float(axis.share(value)) * (columns - 1))

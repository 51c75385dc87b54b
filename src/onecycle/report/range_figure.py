"""A saved learning rate range test as a figure, and in characters for a terminal without pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from .figures import TRAIN, VALID, VALUES, _legend, _line, _panels, plain
from .rows import LOG_FROM, moving_mean, spans_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Test = Mapping[str, Any]
# Learning rates [n] and values [n] of one measure, of each repeat that has it.
Curves = list[tuple[np.ndarray, np.ndarray]]
SUGGESTED, EDGE, SHARPNESS = VALUES[0], "0.25", VALUES[1]
ANSWERS = {
    "possible": "Super-convergence looks possible",
    "not possible": "Super-convergence does not look possible",
    "unclear": "It is unclear whether super-convergence is possible",
}
TITLE = 90  # A longer line of the title is broken at its colon.
# A loss at the start is the median of so many values: the very first can be far off.
START = 5
# What marks lr_min, the range, lr_max and the edge, in ASCII or not.
MARKS = {True: "[-]x", False: "├─┤▲"}
# The bits of the dots of a Braille pattern, four rows of two.
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclass(frozen=True)
class Axis:
    """From `low`, a share of 0, to `high`, a share of 1, in even steps or (`log`) in even factors."""

    low: float
    high: float
    log: bool

    def share(self, values: Any) -> np.ndarray:
        low, high = _scaled([self.low, self.high], self.log)
        return (_scaled(values, self.log) - low) / ((high - low) or 1.0)

    def value(self, share: float) -> float:
        low, high = _scaled([self.low, self.high], self.log)
        at = float(low + share * (high - low))
        return 10**at if self.log else at

    def column(self, value: float, columns: int) -> int:
        return round(float(self.share(value)) * (columns - 1))


def _scaled(values: Any, log: bool) -> np.ndarray:
    return np.log10(values) if log else np.asarray(values, dtype=float)


def range_figure(test: Test) -> Figure:
    """Draw a range test against the learning rate: held-out accuracy, the losses and, where known, the sharpness.

    Points are what was measured; lines the mean over the repeats, as far as two of them got, in a band from the lowest
    to the highest. The training loss is smoothed by a moving mean. The axis of the loss ends a little above the loss at
    the start: a divergence runs out of the picture. That of the learning rate is linear for a sweep in even steps.

    Args:
        test: what the file of a range test holds: ``curve`` with its ``sweeps``, each ``{"lr", "loss", "valid_lr",
            "valid_loss", "valid_accuracy"}`` of which any can be empty; and ``lr_min, lr_max, edge, reason, verdict,
            sharpness, title``, each of which can be missing or None.

    Raises:
        ConfigError: no measurement at all, or not one value a learning rate.
        MissingDependency: matplotlib is not installed.

    >>> sweep = {"lr": [0.01, 0.1, 1], "loss": [2.3, 1.5, 9], "valid_lr": [0.1, 1], "valid_accuracy": [0.5, 0.1]}
    >>> figure = range_figure({"curve": {"sweeps": [sweep]}, "lr_min": 0.03, "lr_max": 0.3, "edge": 0.9})
    >>> [panel.get_title(loc="left") for panel in figure.axes]
    ['held-out accuracy', 'loss']
    """
    (log, accuracy, train, valid), sharpness = _read(test), _sharpness(test)
    heights = [2.6] * bool(accuracy) + [2.8] * bool(train or valid)
    figure, panels = _panels(heights + [1.5] * len(sharpness), None)
    figure.suptitle(plain(_title(test)), fontsize="medium", wrap=True)
    main, beside = panels[: len(heights)], panels[len(heights) :]
    if accuracy:
        main[0].set_title("held-out accuracy", loc="left", fontsize="small")
        _draw(main[0], accuracy, accuracy, log, VALID, ("held-out", None))
    if train or valid:
        _draw_losses(main[-1], train, valid, log)
    for panel, measure in zip(beside, sharpness, strict=True):
        _draw_sharpness(panel, *measure)
    repeats = max(map(len, (accuracy, train, valid)))
    if repeats > 1:
        main[-1].fill_between([], [], color="0.5", alpha=0.3, lw=0, label=f"lowest to highest of {repeats} repeats")
    for panel in panels:
        _draw_marks(panel, _marks(test))
    _learning_rate_axis(panels[-1], log)
    _legend(figure, main[-1])
    return figure


def range_text(test: Test, width: int = 80, height: int = 12, ascii: bool = False) -> list[str]:
    """Draw a range test in characters: held-out accuracy, or without it the smoothed training loss, by learning rate.

    Args:
        test: as for `range_figure`; its title, verdict and reason are not among the lines.
        width: columns that no line exceeds, at least 24.
        height: rows of the curve, at least 3; a heading, the axis and the marks come on top.
        ascii: draw in ASCII rather than in Braille patterns and lines.

    Raises:
        ConfigError: no measurement at all, not one value a learning rate, or too little room.

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
    log, *measures = _read(test)
    name, lr, values, up = _shown(log, *measures)
    marks = _marks(test)
    across = Axis(min([*lr, *marks.values()]), max([*lr, *marks.values()]), log)
    sides = {0: _number(up.high, 3), height - 1: _number(up.low, 3)}
    margin = max(map(len, sides.values())) + 2
    columns = width - margin
    wall, floor, tick, corner = "|-++" if ascii else "│─┬└"
    dots = (1, 1) if ascii else DOTS.shape
    curve = _characters(_traced(across.share(lr), up.share(values), height * dots[0], columns * dots[1]), ascii)
    ticks, labels = _tick_labels(across, columns)
    lines = [
        *textwrap.wrap(f"{name} by learning rate", width),
        *(f"{sides.get(row, ''):>{margin - 2}} {wall}{line}" for row, line in enumerate(curve)),
        " " * (margin - 1) + corner + "".join(tick if column in ticks else floor for column in range(columns)),
        " " * margin + labels,
        *(" " * margin + line for line in _mark_row(marks, across, columns, ascii)),
        *_mark_names(marks, width, ascii),
    ]
    return [line.rstrip() for line in lines]


def average(curves: Curves, log: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The learning rates [n] of all repeats, and there the mean, the lowest and the highest of their values, [n] each.

    A repeat has values from its first learning rate to its last, in between along a straight line over the learning
    rate or (`log`) its logarithm. Rates that only a single repeat got to are left out, unless all are so.

    >>> repeats = [(np.array([1.0, 3.0]), np.array([0.0, 2.0])), (np.array([2.0, 4.0]), np.array([3.0, 5.0]))]
    >>> [part.tolist() for part in average(repeats, log=False)]
    [[2.0, 3.0], [2.0, 3.0], [1.0, 2.0], [3.0, 4.0]]
    """
    rates = np.unique(np.concatenate([lr for lr, _ in curves]))
    at = _scaled(rates, log)
    values = np.array([np.interp(at, _scaled(lr, log), y, left=np.nan, right=np.nan) for lr, y in curves])
    count = np.isfinite(values).sum(axis=0)
    known = count >= min(2, count.max())
    values = values[:, known]
    return rates[known], np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)


def loss_axis(losses: Curves) -> Axis:
    """From the lowest loss to where a divergence is plain: half as far above the start as the loss fell below it."""
    low, high = (float(edge([edge(loss) for _, loss in losses])) for edge in (np.min, np.max))
    begin = max(float(np.median(loss[:START])) for _, loss in losses)
    axis = Axis(low, begin, log=low > 0 and begin / low > LOG_FROM)
    return Axis(low, min(high, max(axis.value(1.5), begin + 0.1 * abs(begin))), axis.log)


def smooth(losses: Curves) -> Curves:
    """The moving mean of each repeat, over about 2 % of it."""
    return [(lr, moving_mean(loss)[0]) for lr, loss in losses]


def _capped(losses: Curves, axis: Axis) -> Curves:
    """Losses at most a little above the axis: one that exploded would hide the mean of the others."""
    return [(lr, np.minimum(loss, axis.value(2))) for lr, loss in losses]


def _is_linear(lrs: Sequence[float]) -> bool:
    """Whether learning rates rise by even steps rather than by even factors."""
    if len(lrs) < 3 or min(lrs) <= 0:
        return len(lrs) > 2
    by_steps, by_factors = (np.std(np.diff(x)) / np.mean(np.diff(x)) for x in (lrs, np.log(lrs)))
    return bool(by_steps < by_factors)


def _read(test: Test) -> tuple[bool, Curves, Curves, Curves]:
    """Whether the sweeps rise by even factors; held-out accuracy, training loss and held-out loss."""
    sweeps = test["curve"]["sweeps"]
    rates = [sweep.get(name, ()) for sweep in sweeps for name in ("lr", "valid_lr")]
    log = not _is_linear(max(rates, key=len, default=()))
    accuracy, valid = (_curves(sweeps, "valid_lr", name, log) for name in ("valid_accuracy", "valid_loss"))
    train = _curves(sweeps, "lr", "loss", log)
    if not (accuracy or train or valid):
        raise ConfigError(f"a range test without a loss or an accuracy cannot be drawn; received {len(sweeps)} sweeps")
    return log, accuracy, train, valid


def _curves(sweeps: Sequence[Test], rates: str, name: str, log: bool) -> Curves:
    """What is known of one measure, of the repeats that have some of it."""
    found = []
    for sweep in sweeps:
        lr, values = (np.array(sweep.get(key, ()), dtype=float) for key in (rates, name))
        if len(values) not in (0, len(lr)):
            raise ConfigError(f"a sweep has one {name} for each {rates}; received {len(values)} for {len(lr)}")
        known = np.isfinite(values) & (lr[: len(values)] > (0 if log else -np.inf))
        if known.any():
            found.append((lr[known], values[known]))
    return found


def _marks(test: Test) -> dict[str, float]:
    return {name: float(test[name]) for name in ("lr_min", "lr_max", "edge") if test.get(name) is not None}


def _labels(marks: Mapping[str, float]) -> tuple[str, str]:
    """What the suggested range and the edge are called; empty where there is none."""
    suggested = " to ".join(_number(marks[name]) for name in ("lr_min", "lr_max") if name in marks)
    edge = f"edge of divergence: {_number(marks['edge'])}" if "edge" in marks else ""
    return suggested and f"suggested: {suggested}", edge


def _number(value: float, digits: int = 2) -> str:
    """At most so many digits, and a short exponent: 2e-5."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _title(test: Test) -> str:
    """The verdict in words, why there is no suggestion, and what was tested: a line each, of those that are known."""
    verdict, reason = test.get("verdict"), test.get("reason")
    head = [ANSWERS[verdict["answer"]], *verdict.get("reasons", ())[:1]] if verdict else ["Learning rate range test"]
    none = ["No learning rate is suggested", reason] if reason and test.get("lr_max") is None else []
    lines = [(": " if len(": ".join(parts)) <= TITLE else ":\n").join(parts) for parts in (head, none)]
    return "\n".join(filter(None, [*lines, test.get("title")]))


def _draw_losses(panel: Axes, train: Curves, valid: Curves, log: bool) -> None:
    axis = loss_axis(train + valid)
    panel.set_title("loss", loc="left", fontsize="small")
    if train:
        _draw(panel, train, smooth(_capped(train, axis)), log, TRAIN, ("training, smoothed", "training, each update"))
    if valid:
        _draw(panel, valid, _capped(valid, axis), log, VALID, ("held-out", None))
    if axis.high > axis.low:
        panel.set_ylim(axis.value(-0.05), axis.value(1.05))
    if axis.log:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.4g}")


def _draw(panel: Axes, points: Curves, curves: Curves, log: bool, color: str, labels: Sequence[str | None]) -> None:
    """The average of `curves` and their band, and `points` as they are."""
    lr, mean, low, high = average(curves, log)
    if len(curves) > 1:
        panel.fill_between(lr, low, high, color=color, alpha=0.15, linewidth=0)
    _line(panel, lr, mean, color=color, linewidth=1.8, label=labels[0])
    for i, (lr, values) in enumerate(points):
        style = {"marker": "o", "markersize": 3, "markeredgewidth": 0, "alpha": 0.4, "linewidth": 0}
        _line(panel, lr, values, color=color, label=None if i else labels[1], **style)


def _sharpness(test: Test) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each measure of sharpness: its name, learning rates [n], values [n], and what to compare them with [n]."""
    known = test.get("sharpness") or {}
    names = ("lr", "largest_eigenvalue", "hessian_free")
    lr, largest, free = (np.array(known.get(name) or [np.nan], dtype=float) for name in names)
    measures = [
        ("largest Hessian eigenvalue times learning rate (unstable above 2)", lr, largest * lr, 0 * lr + 2),
        ("Hessian-free estimate of the learning rate (dashed: the sweep's own)", lr, free, lr),
    ]
    return [measure for measure in measures if np.isfinite(measure[2]).any()]


def _draw_sharpness(panel: Axes, name: str, lr: np.ndarray, values: np.ndarray, limit: np.ndarray) -> None:
    panel.set_title(name, loc="left", fontsize="small")
    panel.plot(lr, limit, color="0.5", linewidth=1, linestyle="--")
    _line(panel, lr, values, color=SHARPNESS, linewidth=1.8, marker="o", markersize=4)
    if spans_decades(np.concatenate([values, limit])):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.4g}")


def _draw_marks(panel: Axes, marks: Mapping[str, float]) -> None:
    suggested, edge = _labels(marks)
    ends = [marks[name] for name in ("lr_min", "lr_max") if name in marks]
    if len(ends) == 2:
        panel.axvspan(*ends, color=SUGGESTED, alpha=0.18, linewidth=0, zorder=0, label=suggested)
    elif ends:
        panel.axvline(ends[0], color=SUGGESTED, linewidth=1.5, label=suggested)
    if edge:
        panel.axvline(marks["edge"], color=EDGE, linewidth=1.2, linestyle="--", label=edge)


def _learning_rate_axis(panel: Axes, log: bool) -> None:
    """On the lowest panel; the others share it."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    panel.set_xlabel("learning rate")
    if log:
        panel.set_xscale("log")
        low, high = panel.get_xlim()
        panel.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5), numticks=12))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter("{x:.4g}")


def _shown(log: bool, accuracy: Curves, train: Curves, valid: Curves) -> tuple[str, np.ndarray, np.ndarray, Axis]:
    """What a plot in characters shows: its name, learning rates [n], values [n] and their axis."""
    if accuracy:
        name, curves, limits = "held-out accuracy", accuracy, Axis(0.0, np.inf, log=False)
    elif train:
        name, limits = "smoothed training loss", loss_axis(train)
        curves = smooth(_capped(train, limits))
    else:
        name, limits = "held-out loss", loss_axis(valid)
        curves = _capped(valid, limits)
    lr, values, _, _ = average(curves, log)
    return name, lr, values, Axis(float(values.min()), min(float(values.max()), limits.high), limits.log)


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
        label, column = _number(tick), axis.column(tick, columns)
        begin = min(max(column - len(label) // 2, 0), columns - len(label))
        if begin > len(line) or not line:
            line = line.ljust(begin) + label
            ticks.add(column)
    return ticks, line


def _mark_row(marks: Mapping[str, float], axis: Axis, columns: int, ascii: bool) -> list[str]:
    """The line that marks the suggested range and the edge, if there is any."""
    left, rule, right, edge = MARKS[ascii]
    symbols = {"lr_min": left, "lr_max": right, "edge": edge}
    at = {name: axis.column(lr, columns) for name, lr in marks.items()}
    row = [" "] * columns
    if "lr_min" in at and "lr_max" in at:
        row[at["lr_min"] : at["lr_max"]] = rule * (at["lr_max"] - at["lr_min"])
    for name, column in at.items():
        row[column] = symbols[name]
    return ["".join(row)] if at else []


def _mark_names(marks: Mapping[str, float], width: int, ascii: bool) -> list[str]:
    (suggested, edge), symbols = _labels(marks), MARKS[ascii]
    names = [f"{symbol} {name}" for symbol, name in ((symbols[:3], suggested), (symbols[3], edge)) if name]
    together = "   ".join(names)
    return [line for name in ([together] if len(together) <= width else names) for line in textwrap.wrap(name, width)]

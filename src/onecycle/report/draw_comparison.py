"""The figures of a comparison: the measure against the budget and against each axis, and the speed-up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from ..records.read import RecordedComparison, items, main_measure, number
from .content import axes, compared, interval_of, speed_up_text, speed_ups
from .draw_run import draw_runs
from .matplotlib import draw, draw_one
from .spec import DASHES, Figure, Key, Plots, Row, Series, ends, mean_line, numbers, of_seeds, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

NAMES = {"epochs": "Budget", "seconds": "Seconds", "fraction": "Limited data"}
# Positive values that span more than this factor get a logarithmic axis.
LOG_FROM = 8
# Panels side by side in a figure for print.
ACROSS = 3


class Measured(NamedTuple):
    """The runs of one policy at one value of an axis: where on the axis, and what was measured, [n] each."""

    policy: str
    x: list[Any]
    y: list[float]


def comparison_figure(record: Mapping[str, Any]) -> Drawing:
    """Draw the mean accuracy over seeds with its 95 % interval against epochs, from the contents of ``compare.json``.

    A panel for each setting; the loss where there is no accuracy.

    Raises:
        ConfigError: no run has an accuracy or a loss yet.
        MissingDependency: matplotlib is not installed.
    """
    rows = items(record, "table")
    measure = main_measure(rows)
    if measure is None:
        raise ConfigError("a figure of a comparison needs a run with an accuracy or a loss, and none is recorded here")
    plots = Plots()
    keys = _keys(plots, rows)
    settings: dict[str, tuple[dict[str, Any], list[Row]]] = {}
    for row in rows:
        setting = {axis: row.get(axis) for axis in axes(rows)}
        settings.setdefault(json.dumps(setting, default=str), (setting, []))[1].append(row)
    for setting, mates in settings.values():
        title = _words(setting) or _word(measure)
        plots.figure(replace(_panel(mates, keys, measure, "epochs", {}), title=title))
    return draw(plots, plots.figures, across=min(len(settings), ACROSS))


def comparison_drawings(comparison: RecordedComparison) -> dict[str, Drawing]:
    """The figures of a page about a comparison by names for their files, such as ``speed-up-at-equal-accuracy``.

    But for the one against the budget, which `comparison_figure` draws for each setting.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    plots = Plots()
    draw_comparison(plots, comparison)
    draw_runs(plots, compared(comparison), run_keys(comparison))
    figures = {re.sub(r"[^a-z0-9]+", "-", f.title.split(":")[0].lower()).strip("-"): f for f in plots.figures}
    return {name: draw_one(plots, figure) for name, figure in figures.items() if name != "budget"}


def draw_comparison(plots: Plots, comparison: RecordedComparison) -> dict[str, list[int]]:
    """A line a policy: the indices of the ``keys`` of the legend and of the ``figures``."""
    rows = [row for row in comparison.rows if row.get("policy") is not None]
    measure = main_measure(rows)
    if measure is None:
        return {}
    keys = _keys(plots, rows)
    drawn = [_against(rows, keys, measure, axis) for axis in ("epochs", "seconds", *axes(rows))]
    figures = [plots.figure(figure) for figure in (*drawn, _speed_up(plots, keys, comparison)) if figure is not None]
    return {"keys": list(keys.values()), "figures": figures}


def run_keys(comparison: RecordedComparison) -> list[Key]:
    """How the runs of each group are drawn over time: a colour a policy, a dash a setting; the main one shown."""
    main = {axis: _base(comparison.rows, axis) for axis in ("epochs", *axes(comparison.rows))}
    policies: dict[str, int] = {}
    settings = {str(main): 0}  # so that the main one has the same looks as against the budget
    keys = []
    for group in compared(comparison):
        at = {axis: group.axes.get(axis) for axis in main}
        policy = policies.setdefault(str(group.axes.get("policy")), len(policies))
        setting = settings.setdefault(str(at), len(settings))
        colour, dash = style(policy)
        dash = DASHES[(DASHES.index(dash) + setting) % len(DASHES)]
        keys.append(Key(group.label, colour, dash, shown=at == main))
    return keys


def _against(rows: Sequence[Row], keys: Mapping[str, int], measure: str, axis: str) -> Figure | None:
    """The measure against one axis, the others held at one value; None where the axis has one value alone."""
    by = "epochs" if axis == "seconds" else axis
    held = {other: _base(rows, other) for other in ("epochs", *axes(rows)) if other != by}
    rows = [row for row in rows if all(row.get(other) == value for other, value in held.items())]
    if len({str(row.get(by)) for row in rows}) < 2 or not _cells(rows, measure, axis):
        return None
    return _panel(rows, keys, measure, axis, held)


def _panel(rows: Sequence[Row], keys: Mapping[str, int], measure: str, axis: str, held: Mapping[str, Any]) -> Figure:
    cells = _cells(rows, measure, axis)
    values = [x for cell in cells for x in cell.x]
    numeric = all(number(x) is not None for x in values)
    wide = numeric and values and min(values) > 0 and max(values) > LOG_FROM * min(values)
    what, name = _word(measure), "share of the training data" if axis == "fraction" else _word(axis)
    at = f" At {_words(held)}." if _words(held) else ""
    return Figure(
        f"{NAMES.get(axis, name.capitalize())}: {what} against {'the ' * (axis == 'fraction')}{name}",
        f"Dots: runs. {of_seeds([len(cell.y) for cell in cells] or [1])}{at}",
        name, what, "log" if wide else "linear" if numeric else "category",
        [line for policy, key in keys.items() for line in _lines(key, policy, cells, measure, numeric)],
        percent=measure.endswith("accuracy"),
    )  # fmt: skip


def _cells(rows: Sequence[Row], measure: str, axis: str) -> list[Measured]:
    by = "epochs" if axis == "seconds" else axis
    cells: dict[tuple[str, str], Measured] = {}
    for row in rows:
        y = number(row.get(measure))
        if y is not None and row.get(axis) is not None:
            cell = cells.setdefault((str(row["policy"]), str(row[by])), Measured(str(row["policy"]), [], []))
            cell.x.append(row[axis] if number(row[axis]) is not None else str(row[axis]))
            cell.y.append(y)
    return list(cells.values())


def _lines(key: int, policy: str, cells: Sequence[Measured], measure: str, numeric: bool) -> list[Series]:
    """The mean and its interval over the cells of a policy, and a dot a run."""
    cells = [cell for cell in cells if cell.policy == policy]
    if not cells:
        return []
    at = [(fmean(cell.x) if numeric else cell.x[0], cell.y) for cell in cells]
    if numeric:
        at.sort(key=lambda point: point[0])
    mean, low, high = mean_line(list(zip_longest(*(y for _, y in at), fillvalue=math.nan)), measure)
    return [
        Series(key, [x for x, _ in at], numbers(mean), **ends(low, high), mode="lines+markers"),
        Series(key, [x for cell in cells for x in cell.x], [y for cell in cells for y in cell.y], mode="markers"),
    ]


def _keys(plots: Plots, rows: Sequence[Row]) -> dict[str, int]:
    """A key a policy."""
    policies = dict.fromkeys(str(row["policy"]) for row in rows)
    return {policy: plots.key(Key(policy, *style(i))) for i, policy in enumerate(policies)}


def _word(name: str) -> str:
    return name.replace("valid_", "validation ").replace("_", " ")


def _words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{_word(axis)} {value}" for axis, value in setting.items() if value is not None)


def _base(rows: Sequence[Row], axis: str) -> Any:
    """Where an axis is held: the largest budget and all the data; of others, the value that most rows have."""
    values: list[Any] = [row.get(axis) for row in rows]
    known = [value for value in values if number(value) is not None]
    return max(known) if axis in ("epochs", "fraction") and known else max(values, key=values.count, default=None)


def _speed_up(plots: Plots, keys: dict[str, int], comparison: RecordedComparison) -> Figure | None:
    """The speed-up at each accuracy, against whichever standard policy was the best there.

    From rows with ``accuracy``, ``speed_up``, ``low``, ``high``, ``more_than`` and ``at_most``. Those who have no line
    of their own yet get a key among `keys`. None where no row tells anything.
    """
    rows = [
        row for row in speed_ups(comparison) if None not in (number(row.get("accuracy")), number(row.get("speed_up")))
    ]
    if not rows:
        return None
    rivals: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["accuracy"]):
        rivals.setdefault(str(row.get("against") or "the best standard policy"), []).append(row)
    for against in rivals:
        if against not in keys:
            keys[against] = plots.key(Key(f"against {against}", *style(len(keys))))
    said = f"The budget of {', '.join(rivals)} over that of 1cycle at equal accuracy: above 1, 1cycle is faster."
    intervals = [interval_of(row) for row in rows]
    said += " Whiskers: 95 % intervals." if any(intervals) else " One seed: there is no interval."
    if any(pair and None in pair for pair in intervals):
        said += " Arrows: ends beyond the budgets that were tried."
    if any(row.get("more_than") or row.get("at_most") for row in rows):
        said += " Hollow: so is the speed-up itself."
    series = [_intervals(keys[against], mine) for against, mine in rivals.items()]
    return Figure("Speed-up at equal accuracy", said, "accuracy of 1cycle (%)", "speed-up", "linear", series, level=1.0)


def _intervals(key: int, rows: Sequence[Row]) -> Series:
    """A point a speed-up, with its interval as far as it is known."""
    low, high = zip(*(interval_of(row) or (row["speed_up"], row["speed_up"]) for row in rows), strict=True)
    return Series(
        key,
        [float(f"{100 * row['accuracy']:.4g}") for row in rows],
        numbers([row["speed_up"] for row in rows]),
        low=list(low),
        high=list(high),
        mode="intervals",
        text=[speed_up_text(row) for row in rows],
        bound=[1 if row.get("more_than") else -1 if row.get("at_most") else 0 for row in rows],
    )

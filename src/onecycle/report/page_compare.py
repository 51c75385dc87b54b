"""The figures of a comparison: the measure against the budget and against each axis, and the speed-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .page_groups import axes, compared
from .page_read import Comparison, items, number
from .page_series import COLOURS, DASHES, Figure, Key, Plots, Series, numbers, style

Row = Mapping[str, Any]
NAMES = {"epochs": "Budget", "seconds": "Seconds", "fraction": "Limited data"}
# Positive values that span more than this factor get a logarithmic axis.
LOG_FROM = 8


@dataclass(frozen=True)
class Cell:
    """The runs of one policy at one value of an axis: where on the axis, and what was measured, [n] each."""

    policy: str
    x: list[Any]
    y: list[float]


def draw_comparison(plots: Plots, comparison: Comparison) -> dict[str, list[int]]:
    """A line a policy: the indices of the ``keys`` of the legend and of the ``figures``."""
    rows = [row for row in comparison.rows if row.get("policy") is not None]
    measure = main_measure(rows)
    if measure is None:
        return {}
    keys = {
        policy: plots.key(Key(policy, *style(i)))
        for i, policy in enumerate(dict.fromkeys(str(r["policy"]) for r in rows))
    }
    found = [_against(rows, keys, measure, axis) for axis in ("epochs", "seconds", *axes(rows))]
    figures = [plots.figure(figure) for figure in found if figure is not None]
    return {"keys": list(keys.values()), "figures": figures + _speed_up(plots, comparison)}


def run_keys(comparison: Comparison) -> list[Key]:
    """How the runs of each group are drawn over time: a colour a policy, a dash a setting; the main one shown."""
    main = {axis: _base(comparison.rows, axis) for axis in ("epochs", *axes(comparison.rows))}
    policies: dict[str, int] = {}
    settings: dict[str, int] = {}
    keys = []
    for group in compared(comparison):
        at = {axis: group.axes.get(axis) for axis in main}
        policy = policies.setdefault(str(group.axes.get("policy")), len(policies))
        setting = settings.setdefault(str(at), len(settings))
        colour, dash = COLOURS[policy % len(COLOURS)], DASHES[(policy + setting) % len(DASHES)]
        keys.append(Key(group.label, colour, dash, shown=at == main))
    return keys


def main_measure(rows: Sequence[Row]) -> str | None:
    """The column that a comparison is about: accuracy before loss, test before validation."""
    names = ("test_accuracy", "valid_accuracy", "test_loss", "valid_loss")
    return next((name for name in names if any(number(row.get(name)) is not None for row in rows)), None)


def _against(rows: Sequence[Row], keys: Mapping[str, int], measure: str, axis: str) -> Figure | None:
    """The measure against one axis, the others held at one value; None where the axis has one value alone."""
    by = "epochs" if axis == "seconds" else axis
    held = {other: _base(rows, other) for other in ("epochs", *axes(rows)) if other != by}
    rows = [row for row in rows if all(row.get(other) == value for other, value in held.items())]
    cells = _cells(rows, measure, axis, by)
    if len({str(row.get(by)) for row in rows}) < 2 or not cells:
        return None
    values = [x for cell in cells for x in cell.x]
    numeric = all(number(x) is not None for x in values)
    wide = numeric and min(values) > 0 and max(values) > LOG_FROM * min(values)
    what = measure.replace("valid_", "validation ").replace("_", " ")
    name = NAMES.get(axis, axis.replace("_", " ").capitalize())
    return Figure(
        f"{name}: {what} against {'the share of the training data' if axis == 'fraction' else axis.replace('_', ' ')}",
        _caption(cells, held),
        "share of the training data" if axis == "fraction" else axis.replace("_", " "),
        what,
        "log" if wide else "linear" if numeric else "category",
        [
            series
            for policy, key in keys.items()
            for series in _lines(key, [c for c in cells if c.policy == policy], numeric)
        ],
        percent=measure.endswith("accuracy"),
    )


def _cells(rows: Sequence[Row], measure: str, axis: str, by: str) -> list[Cell]:
    found: dict[tuple[str, str], Cell] = {}
    for row in rows:
        y = number(row.get(measure))
        if y is not None and row.get(axis) is not None:
            cell = found.setdefault((str(row["policy"]), str(row[by])), Cell(str(row["policy"]), [], []))
            cell.x.append(row[axis] if number(row[axis]) is not None else str(row[axis]))
            cell.y.append(y)
    return list(found.values())


def _lines(key: int, cells: Sequence[Cell], numeric: bool) -> list[Series]:
    """The mean and band over the cells, and a dot a run."""
    if not cells:
        return []
    at = [(fmean(cell.x) if numeric else cell.x[0], cell.y) for cell in cells]
    if numeric:
        at.sort(key=lambda point: point[0])
    x, each = [x for x, _ in at], [x for cell in cells for x in cell.x]
    band: dict[str, Any] = {}
    if any(len(y) > 1 for _, y in at):
        band = {"low": numbers([min(y) for _, y in at]), "high": numbers([max(y) for _, y in at])}
    return [
        Series(key, _plain(x, numeric), numbers([fmean(y) for _, y in at]), **band),
        Series(key, _plain(each, numeric), numbers([y for cell in cells for y in cell.y]), mode="markers"),
    ]


def _plain(values: list[Any], numeric: bool) -> list[Any]:
    return numbers(values) if numeric else values


def _base(rows: Sequence[Row], axis: str) -> Any:
    """Where an axis is held: the largest budget and all the data; of others, the value that most rows have."""
    values = [row.get(axis) for row in rows]
    known = [number(value) for value in values]
    numeric = [value for value in known if value is not None]
    return max(numeric) if axis in ("epochs", "fraction") and numeric else max(values, key=values.count, default=None)


def _caption(cells: Sequence[Cell], held: Mapping[str, Any]) -> str:
    counts = sorted({len(cell.y) for cell in cells})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    said = f"Dots: runs. Lines: means over seeds, n = {n}; bands: from the lowest to the highest."
    if counts == [1]:
        said = "One seed each: no spread is known."
    at = ", ".join(f"{axis.replace('_', ' ')} {value}" for axis, value in held.items() if value is not None)
    return said + (f" At {at}." if at else "")


def _speed_up(plots: Plots, comparison: Comparison) -> list[int]:
    """The speed-up at each accuracy, from rows with ``accuracy``, ``speed_up``, ``low`` and ``high``."""
    rows = [row for row in items(comparison.record, "speed_up") if isinstance(row, Mapping)]
    known = [row for row in rows if number(row.get("accuracy")) is not None and number(row.get("speed_up")) is not None]
    if not known:
        return []
    found: dict[str, list[Row]] = {}
    for row in sorted(known, key=lambda row: row["accuracy"]):
        found.setdefault(str(row.get("against") or "the best standard policy"), []).append(row)
    series = []
    for i, (against, mine) in enumerate(found.items()):
        edges = {side: numbers([_or_nan(row.get(side)) for row in mine]) for side in ("low", "high")}
        band: dict[str, Any] = edges if all(v is not None for side in edges.values() for v in side) else {}
        key = plots.key(Key(f"against {against}", *style(i)))
        x, y = ([row[name] for row in mine] for name in ("accuracy", "speed_up"))
        series.append(Series(key, numbers(x), numbers(y), **band, mode="lines+markers"))
    said = f"The budget of {', '.join(found)} over that of 1cycle at equal accuracy: above 1, 1cycle is faster."
    said += " Bands: intervals." if any(line.low for line in series) else ""
    return [
        plots.figure(Figure("Speed-up at equal accuracy", said, "accuracy", "speed-up", "linear", series, level=1.0))
    ]


def _or_nan(value: Any) -> float:
    known = number(value)
    return math.nan if known is None else known

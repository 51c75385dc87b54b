"""The figures of a comparison: the measure against the budget and against each axis, and the speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..records.read import RecordedComparison, items, number
from ..records.statistics import Bounds, bounds_of, mean_band
from .content import axes, compared, interval_of, speed_up_text
from .page_series import DASHES, Figure, Key, Plots, Series, ends, numbers, of_seeds, stacked, style

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


def draw_comparison(plots: Plots, comparison: RecordedComparison) -> dict[str, list[int]]:
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
    figures = [plots.figure(figure) for figure in (*found, _speed_up(plots, keys, comparison)) if figure is not None]
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
            for series in _lines(key, [c for c in cells if c.policy == policy], numeric, bounds_of(measure))
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


def _lines(key: int, cells: Sequence[Cell], numeric: bool, within: Bounds) -> list[Series]:
    """The mean and its interval over the cells, and a dot a run."""
    if not cells:
        return []
    at = [(fmean(cell.x) if numeric else cell.x[0], cell.y) for cell in cells]
    if numeric:
        at.sort(key=lambda point: point[0])
    x, each = [x for x, _ in at], [x for cell in cells for x in cell.x]
    mean, low, high = mean_band(stacked([y for _, y in at]).T, within=within)
    return [
        Series(key, _plain(x, numeric), numbers(mean), **ends(low, high), mode="lines+markers"),
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
    at = ", ".join(f"{axis.replace('_', ' ')} {value}" for axis, value in held.items() if value is not None)
    return f"Dots: runs. {of_seeds([len(cell.y) for cell in cells])}" + (f" At {at}." if at else "")


def _speed_up(plots: Plots, keys: dict[str, int], comparison: RecordedComparison) -> Figure | None:
    """The speed-up at each accuracy, against whichever standard policy was the best there.

    From rows with ``accuracy``, ``speed_up``, ``low``, ``high``, ``more_than`` and ``at_most``. Those who have no line
    of their own yet get a key among `keys`.
    """
    rows = [row for row in items(comparison.record, "speed_up") if isinstance(row, Mapping)]
    rows = [row for row in rows if number(row.get("accuracy")) is not None and number(row.get("speed_up")) is not None]
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["accuracy"]):
        found.setdefault(str(row.get("against") or "the best standard policy"), []).append(row)
    for against in found:
        if against not in keys:
            keys[against] = plots.key(Key(f"against {against}", *style(len(keys))))
    if not found:
        return None
    said = f"The budget of {', '.join(found)} over that of 1cycle at equal accuracy: above 1, 1cycle is faster."
    intervals = [interval_of(row) for row in rows]
    said += " Whiskers: 95 % intervals." if any(intervals) else " One seed: there is no interval."
    if any(pair and None in pair for pair in intervals):
        said += " Arrows: ends beyond the budgets that were tried."
    if any(row.get("more_than") or row.get("at_most") for row in rows):
        said += " Hollow: so is the speed-up itself."
    series = [_intervals(keys[against], mine) for against, mine in found.items()]
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

"""The figure of a reproduction: what was published beside what came out here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from .matplotlib import draw
from .spec import Figure, Key, Plots, Row, Series, ends, mean_line, mode, numbers, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Points = Sequence[tuple[float, float]]


def reproduction_figure(
    title: str,
    published: Mapping[str, Any],
    theirs: Mapping[str, Points],
    panel: Mapping[str, Any],
    ours: Mapping[str, Sequence[Row]],
    by: str | None,
) -> Drawing:
    """Draw two panels: the published lines, and the means over the seeds with 95 % intervals.

    Args:
        published, panel: of the published and of the own panel: ``{"title", "x", "y", "log"}``.
        theirs: the published (x, y) of each line.
        ours: the runs of each line, each with its ``curve`` of (x, y) or, over the setting `by`, its ``value``.
        by: the setting on the horizontal axis; None for curves.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    plots = Plots()
    lines = [
        _line(plots, i, label, *map(list, zip(*points, strict=True)))
        for i, (label, points) in enumerate(theirs.items())
    ]
    means = [_mean(plots, i, label, rows, by, panel["y"]) for i, (label, rows) in enumerate(ours.items())]
    plots.figure(_panel(published, lines))
    plots.figure(_panel(panel, means))
    return draw(plots, plots.figures, title=title, across=2, common=False)


def points_of(rows: Sequence[Row], by: str | None) -> dict[Any, list[float]]:
    """The values of all seeds at each setting, or at each point of their curves."""
    values: dict[Any, list[float]] = {}
    for row in rows:
        at = row.get("curve", []) if by is None else [(row[by], row["value"])]
        for x, y in at:
            if y is not None:
                values.setdefault(tuple(x) if isinstance(x, list) else x, []).append(y)
    return values


def _mean(plots: Plots, i: int, label: str, rows: Sequence[Row], by: str | None, name: str) -> Series:
    points = points_of(rows, by)
    n = max(map(len, points.values()), default=0)
    whole = by is not None or all(len(values) == n for values in points.values())
    if not whole:  # a mean over those that got further would flatter
        points = {x: values for x, values in points.items() if len(values) == n}
    if any(isinstance(x, tuple) for x in points):  # a pair, such as a momentum that moves, stands beside numbers
        points = {_in_words(x): values for x, values in points.items()}
    else:
        points = dict(sorted(points.items()))
    mean, low, high = mean_line(list(zip_longest(*points.values(), fillvalue=np.nan)) or [[]], name)
    said = f"{label} (n = {n}{'' if whole else ', until the first diverged'})"
    return _line(plots, i, said, list(points), numbers(mean), **ends(low, high))


def _line(plots: Plots, i: int, label: str, x: list[Any], y: list[Any], **band: Any) -> Series:
    return Series(plots.key(Key(label, *style(i))), x, y, mode=mode(x), **band)


def _panel(about: Mapping[str, Any], series: list[Series]) -> Figure:
    names = any(isinstance(x, str) for line in series for x in line.x)
    kind = "category" if names else "log" if about["log"] else "linear"
    return Figure(about["title"], "", about["x"], about["y"], kind, series)


def _in_words(value: Any) -> str:
    return " to ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"

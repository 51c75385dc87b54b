"""The figure of a reproduction: what was published beside what came out here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingDependency
from ..experiments.figure import COLOURS, MARKS
from ..experiments.statistics import Interval, mean_interval
from .claims import is_in, plain
from .protocol import Line, Panel, Points, Protocol, published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
# Curves of more points are drawn without marks.
MARKED = 20
# A logarithmic axis of so few points has its ticks at them.
TICKS = 8


def figure(protocol: Protocol, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Two panels: the author's published lines, and the means of `rows` over the seeds with 95 % intervals.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingDependency("figures are drawn by matplotlib: pip install onecycle[plot]") from error
    drawn = Figure(figsize=(11, 4.8), layout=ConstrainedLayoutEngine(h_pad=0.1))
    theirs, ours = drawn.subplots(1, 2)
    for i, (label, points) in enumerate(published(protocol.name).items()):
        _line(theirs, i, label, [x for x, _ in points], [y for _, y in points])
    _frame(theirs, protocol.published)
    for i, line in enumerate(protocol.lines):
        _draw(ours, i, line, [row for row in rows if is_in(row, line.where)], protocol.by)
    _frame(ours, protocol.panel)
    drawn.suptitle(protocol.title, fontsize="large", ha="left", x=0.01)
    return drawn


def means(rows: Sequence[Mapping[str, Any]], by: str | None) -> list[tuple[Any, Interval]]:
    """The means over seeds with their intervals: of the values by a setting, or of curves at each of their points."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        points: Points = row.get("curve", []) if by is None else [(plain(row[by]), row["value"])]
        for x, y in points:
            if y is not None:
                found.setdefault(x, []).append(y)
    return [(x, mean_interval(values)) for x, values in found.items()]


def _draw(panel: Axes, i: int, line: Line, rows: Sequence[Mapping[str, Any]], by: str | None) -> None:
    found = means(rows, by)
    n = max((m.n for _, m in found), default=0)
    whole = by is not None or all(m.n == n for _, m in found)
    if not whole:  # a mean over those that got further would flatter
        found = [(x, m) for x, m in found if m.n == n]
    names = any(isinstance(x, tuple) for x, _ in found)  # a pair, such as a momentum that moves, stands beside numbers
    if not names:
        found = sorted(found)
    xs = [_in_words(x) for x, _ in found] if names else [x for x, _ in found]
    mean = [m.mean for _, m in found]
    low = [m.mean if m.low is None else m.low for _, m in found]
    high = [m.mean if m.high is None else m.high for _, m in found]
    drawn = _line(panel, i, f"{line.label} (n = {n}{'' if whole else ', until the first diverged'})", xs, mean)
    if by is None:
        panel.fill_between(xs, low, high, color=drawn, alpha=0.2, linewidth=0)
    else:
        below, above = ([abs(a - b) for a, b in zip(mean, ends, strict=True)] for ends in (low, high))
        panel.errorbar(xs, mean, yerr=[below, above], fmt="none", color=drawn, capsize=3)


def _line(panel: Axes, i: int, label: str, x: Sequence[Any], y: Sequence[float]) -> str:
    colour = COLOURS[i % len(COLOURS)]
    marks = {"marker": MARKS[i % len(MARKS)], "markersize": 5} if len(x) <= MARKED else {}
    panel.plot(x, y, label=label, color=colour, linestyle=DASHES[i % len(DASHES)], linewidth=1.6, **marks)
    return colour


def _frame(panel: Axes, about: Panel) -> None:
    panel.set_title(about.title, loc="left", fontsize="medium")
    panel.set_xlabel(about.x)
    panel.set_ylabel(about.y)
    if about.log:
        panel.set_xscale("log")
        places = np.unique(np.concatenate([np.asarray(line.get_xdata(), float) for line in panel.lines]))
        if len(places) <= TICKS:
            panel.set_xticks(places, [f"{x:,g}" for x in places.tolist()])
            panel.set_xticks([], minor=True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="0.92", linewidth=0.8)
    panel.legend(frameon=False, fontsize="small", loc=about.legend)


def _in_words(value: Any) -> str:
    return " to ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"

"""The figures of a page for print: the same data, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records.read import RecordedComparison
from .content import compared
from .figures import _legend, _panels, plain
from .page_compare import draw_comparison, run_keys
from .page_figures import draw_runs
from .page_series import Figure, Plots, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

STYLES = {"solid": ("-", "o"), "dash": ("--", "s"), "dot": (":", "D"), "dashdot": ("-.", "P")}


def comparison_drawings(comparison: RecordedComparison) -> dict[str, Drawing]:
    """The figures of a comparison by names for their files, such as ``speed-up-at-equal-accuracy``.

    But for the one against the budget, which `onecycle.Comparison.plot` draws for each setting.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    plots = Plots()
    draw_comparison(plots, comparison)
    draw_runs(plots, compared(comparison), run_keys(comparison))
    return {_name(f.title): drawing(plots, f) for f in plots.figures if not f.title.startswith("Budget:")}


def drawing(plots: Plots, figure: Figure) -> Drawing:
    """One figure of a page, with the lines that are shown at first.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    drawn, (panel,) = _panels([4.0], figure.title)
    panel.set_title(plain(fill(figure.caption, 120)), loc="left", fontsize="x-small", color="0.3")
    series = [line for line in figure.series if plots.keys[line.key].shown]
    _axes(panel, figure, series)
    for line in series:
        _draw(panel, plots, line, _positions(figure, line))
    for x in figure.marks:
        panel.axvline(x, color="0.4", linewidth=1, linestyle=":")
    if figure.shade:
        panel.axvspan(*figure.shade, color="#009E73", alpha=0.16, linewidth=0, zorder=0)
    if figure.level is not None:
        panel.axhline(figure.level, color="0.4", linewidth=1, linestyle=":")
    _legend(drawn, panel)
    return drawn


def _axes(panel: Axes, figure: Figure, series: Sequence[Series]) -> None:
    from matplotlib.ticker import AutoLocator, NullLocator, PercentFormatter

    panel.set_xlabel(plain("updates" if figure.kind == "time" else figure.x))
    panel.set_ylabel(plain(figure.y))
    if figure.kind == "log":
        panel.set_xscale("log")
    known = sorted({x for line in series for x in _positions(figure, line)})
    if figure.kind == "category":
        panel.set_xticks(known, [plain(name) for name in _categories(figure)])
    elif figure.kind != "time":
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_major_locator(AutoLocator()) if len(known) > 8 else panel.set_xticks(known)
        panel.xaxis.set_minor_locator(NullLocator())
    if figure.log:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.4g}")
    if figure.percent:
        panel.yaxis.set_major_formatter(PercentFormatter(1))
    if limits := figure.frame or _frame(series):
        panel.set_ylim(*limits)


def _draw(panel: Axes, plots: Plots, line: Series, x: Sequence[float]) -> None:
    key = plots.keys[line.key]
    dash, mark = STYLES[key.dash]
    y = np.array(line.y, dtype=float)
    look: dict[str, Any] = {"color": key.colour, "marker": mark, "zorder": 3}
    if line.mode == "markers":
        panel.plot(x, y, **look, linestyle="none", markersize=3, alpha=0.5)
    elif line.mode == "intervals":
        _draw_intervals(panel, line, x, y, {**look, "label": plain(key.label)})
    else:
        marked = "markers" in line.mode
        look |= {"marker": mark if marked else None, "markersize": 4, "linestyle": dash, "linewidth": 1.6}
        panel.plot(x, y, **look, label=plain(key.label), alpha=0.4 if key.faint else 1)
        if line.low and line.high:
            low, high = (np.array(side, dtype=float) for side in (line.low, line.high))
            panel.fill_between(x, low, high, color=key.colour, alpha=0.18, linewidth=0)


def _draw_intervals(panel: Axes, line: Series, x: Sequence[float], y: np.ndarray, look: dict[str, Any]) -> None:
    """Points with whiskers, arrows at open ends, hollow where the point is itself a bound."""
    sides = [(line.low or [], -1), (line.high or [], 1)]
    reach = [[0 if end is None else abs(end - at) for end, at in zip(side, y, strict=True)] for side, _ in sides]
    panel.errorbar(x, y, yerr=reach, **look, linestyle="none", markersize=0, capsize=4)
    for i, (at, value) in enumerate(zip(x, y, strict=True)):
        hollow = bool(line.bound and line.bound[i])
        panel.plot(at, value, color=look["color"], marker=look["marker"], mfc="white" if hollow else None, zorder=4)
        for side, up in sides:
            if side[i] is None:
                arrow = {"arrowstyle": "<-", "color": look["color"], "shrinkA": 0, "shrinkB": 3, "linewidth": 1.5}
                panel.annotate("", (at, value), (0, 32 * up), textcoords="offset points", arrowprops=arrow)
    panel.margins(x=0.05, y=0.15)


def _frame(series: Sequence[Series]) -> tuple[float, float] | None:
    """What the lines take, and of their bands as much again: the interval of few seeds can be far wider."""
    ys = _known(line.y for line in series)
    ends = _known(side for line in series if line.mode != "intervals" for side in (line.low, line.high) if side)
    if not ys or not ends:
        return None
    room = (max(ys) - min(ys)) / 2
    low, high = max(min(*ys, *ends), min(ys) - room), min(max(*ys, *ends), max(ys) + room)
    margin = (high - low) / 20
    low = max(low, min(ys) / 2) if min(ys) > 0 else low
    return low - margin * (low > margin), high + margin


def _known(columns: Any) -> list[float]:
    return [value for column in columns for value in column if value is not None]


def _categories(figure: Figure) -> list[Any]:
    return list(dict.fromkeys(x for line in figure.series for x in line.x))


def _positions(figure: Figure, line: Series) -> list[float]:
    names = _categories(figure) if figure.kind == "category" else []
    return [names.index(x) for x in line.x] if names else line.x


def _name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.split(":")[0].lower()).strip("-")

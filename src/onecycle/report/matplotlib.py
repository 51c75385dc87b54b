"""Figures for print: the one renderer of specs by matplotlib, which is imported when the first one is drawn.

The figures belong to no window and to no global state: a notebook shows one that ends a cell, `save` writes one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, MissingDependency
from .spec import VALUES, Figure, Key, Plots, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
STYLES = {"solid": ("-", "o"), "dash": ("--", "s"), "dot": (":", "D"), "dashdot": ("-.", "P")}
PLACES = (":", "--")
# An axis with so few different places has its ticks at them.
TICKS = 8
# Few entries of a legend stand in one column where two would have more characters side by side than this.
WIDEST = 60


def draw(
    plots: Plots, figures: Sequence[Figure], *, title: str | None = None, across: int = 0, common: bool = True
) -> Drawing:
    """Draw panels below each other that share their horizontal axis, or `across` of them side by side.

    Lines that are not shown at first on a page are left out. Panels side by side share the vertical axis and the legend
    where these are `common` to all; else each has its own.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise MissingDependency("figures are drawn by matplotlib: pip install onecycle[plot]") from error
    heights = [0.9 if figure.low else 2.1 for figure in figures[:: across or 1]]
    size = (1 + (4.3 if across < 3 else 3.4) * across, 0.9 + 1.6 * sum(heights)) if across else (8, 1.3 + sum(heights))
    drawn = Drawing(figsize=size, layout="constrained")
    # Without pyplot, IPython has no formatter for figures and asks the object itself.
    drawn._repr_png_ = partial(_rendered, drawn, "png")  # type: ignore[attr-defined]
    grid = drawn.subplots(
        *(len(heights), across or 1), sharex=not across, sharey=common and bool(across), squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    for i, (panel, figure) in enumerate(zip(grid.flat, figures, strict=False)):
        _draw_panel(panel, plots, figure, [figure] if across else figures)
        if across and not common and not figure.named:
            panel.legend(frameon=False, fontsize="small")
        elif across and i % across:
            panel.set_ylabel("")
    for panel in grid.flat[len(figures) :]:
        panel.set_visible(False)
    if not across:
        _finish_column(drawn, list(grid.flat), plots, figures)
    if title:
        drawn.suptitle(plain(title), fontsize="medium", wrap=True)
    if common:
        _legend(drawn, [panel for panel, figure in zip(grid.flat, figures, strict=False) if not figure.named])
    return drawn


def draw_one(plots: Plots, figure: Figure) -> Drawing:
    """One figure of a page with its caption."""
    drawn = draw(plots, [figure], title=figure.title)
    (panel,) = drawn.axes
    panel.set_title(plain(fill(figure.caption, 120)), loc="left", fontsize="x-small", color="0.3")
    drawn.set_size_inches(8, 4.5)
    return drawn


def save(figure: Drawing, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`; the same figure gives the same bytes.

    Raises:
        ConfigError: another suffix, or a path that cannot be written.

    >>> from onecycle.report.draw_policy import policy_figure
    >>> save(policy_figure([{"lr": 0.1}]), "policy.jpeg")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: cannot save a figure as 'policy.jpeg': end the name in .png, .svg or .pdf
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"cannot save a figure as {str(path)!r}: end the name in .png, .svg or .pdf")
    content = _rendered(figure, suffix[1:])
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"cannot write the figure {str(path)!r}: {error.strerror}. Name one in a folder that exists and is writable"
        ) from error
    return path


def plain(text: str) -> str:
    """Text that matplotlib can draw, and does not take for mathematics."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def _rendered(figure: Drawing, kind: str) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "onecycle"}):  # else the identifiers in an SVG are random
        figure.savefig(buffer, format=kind, dpi=150, metadata=FORMATS["." + kind])
    return buffer.getvalue()


def _draw_panel(panel: Axes, plots: Plots, figure: Figure, mates: Sequence[Figure]) -> None:
    """Draw one figure; `mates` are those that share its horizontal axis, and itself."""
    series = [line for line in figure.series if plots.keys[line.key].shown]
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0.015 if figure.kind == "time" else 0.04)
    panel.tick_params(labelsize="small")
    panel.set_title(plain(figure.title), loc="left", fontsize="small")
    panel.set_xlabel(plain("updates" if figure.kind == "time" else figure.x), fontsize="small")
    if figure.y.lower() not in figure.title.lower():
        panel.set_ylabel(plain(figure.y), fontsize="small")
    for line in series:
        _draw_line(panel, plots.keys[line.key], line, _positions(figure, line))
    names = iter(figure.names)
    if figure.shade:
        panel.axvspan(*figure.shade, color=VALUES[0], alpha=0.18, linewidth=0, zorder=0, label=next(names, None))
    for i, x in enumerate(figure.marks):
        dash = PLACES[min(i, len(PLACES) - 1) if figure.kind != "time" else 0]
        panel.axvline(x, color="0.35", linewidth=1.3, linestyle=dash, label=next(names, None))
    if figure.level is not None:
        panel.axhline(figure.level, color="0.4", linewidth=1, linestyle=":")
    if any(line.low and line.mode != "intervals" for line in series):
        panel.fill_between([], [], color="0.5", alpha=0.3, linewidth=0, label=figure.bands)
    _across(panel, figure, sorted({x for mate in mates for line in mate.series for x in _positions(mate, line)}))
    _upwards(panel, figure, series)
    if figure.ahead:
        _name_above(panel, figure.ahead)


def _across(panel: Axes, figure: Figure, places: Sequence[float]) -> None:
    """The horizontal axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if figure.kind == "category":
        panel.set_xticks(places, [plain(name) for name in _categories(figure)])
        return
    if figure.kind == "log":
        panel.set_xscale("log")
    panel.xaxis.set_major_formatter(_tick)
    panel.xaxis.set_minor_locator(NullLocator())
    if figure.kind != "time" and len(places) <= TICKS and not figure.ahead:
        panel.set_xticks(places)
    elif figure.kind == "log":
        many = places[-1] / places[0] > 300
        panel.xaxis.set_major_locator(LogLocator(subs=(1,) if many else (1, 2, 5), numticks=12))
    else:
        whole = {"integer": True, "min_n_ticks": 1} if figure.kind == "time" else {}
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], **whole))
    if figure.kind == "time" and len(places) == 1:
        panel.set_xlim(places[0] - 0.5, places[0] + 0.5)


def _name_above(panel: Axes, ahead: Sequence[tuple[float, str]]) -> None:
    """Places by their names, at the top."""
    from matplotlib.ticker import NullLocator

    axis = panel.secondary_xaxis("top")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks([x for x, _ in ahead], [plain(name) for _, name in ahead])
    axis.tick_params(labelsize="small")
    axis.spines["top"].set_color("0.6")


def _upwards(panel: Axes, figure: Figure, series: Sequence[Series]) -> None:
    """The vertical axis."""
    from matplotlib.ticker import MaxNLocator

    if figure.log:
        panel.set_yscale("log")
    else:
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3 if figure.low else 5, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter(_percent if figure.percent else _tick)
    if limits := figure.frame or _frame(figure, series):
        panel.set_ylim(*limits)
    values = set(_known(line.y for line in series))
    if figure.low and len(values) == 1:
        panel.set_yticks(list(values))


def _tick(value: float, _: float) -> str:
    return f"{value:,.9g}".replace("e-0", "e-").replace("e+0", "e")


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.6g} %"


def _draw_line(panel: Axes, key: Key, line: Series, x: Sequence[float]) -> None:
    dash, mark = STYLES[key.dash]
    y = np.array(line.y, dtype=float)
    look: dict[str, Any] = {"color": key.colour, "marker": mark, "zorder": 3, "label": plain(key.label)}
    if line.mode == "intervals":
        _draw_intervals(panel, line, x, y, look)
        return
    if line.mode == "bars":
        panel.bar(x, y, width=0.6, color=key.colour, zorder=3)
        panel.set_ylim(bottom=0)
        return
    if line.mode == "markers":
        look |= {"linestyle": "none", "markersize": 4.5, "alpha": 0.8, "mec": "white", "mew": 0.5, "zorder": 3.5}
    else:
        marked = "markers" in line.mode or len(y) == 1
        look |= {"marker": mark if marked else None, "markersize": 4, "linestyle": dash, "linewidth": 1.6}
        look |= {"linewidth": 0.8, "alpha": 0.45} if key.faint else {}
    panel.plot(x, y, **look)
    if line.low and line.high:
        low, high = (np.array(side, dtype=float) for side in (line.low, line.high))
        panel.fill_between(x, low, high, color=key.colour, alpha=0.18, linewidth=0)


def _draw_intervals(panel: Axes, line: Series, x: Sequence[float], y: np.ndarray, look: dict[str, Any]) -> None:
    """Points with whiskers, arrows at open ends, hollow where the point is itself a bound."""
    sides = [(line.low or [], -1), (line.high or [], 1)]
    reach = [[0 if end is None else abs(end - at) for end, at in zip(side, y, strict=True)] for side, _ in sides]
    label = look.pop("label")
    panel.errorbar(x, y, yerr=reach, **look, linestyle="none", markersize=0, capsize=4)
    for i, (at, value) in enumerate(zip(x, y, strict=True)):
        hollow = bool(line.bound and line.bound[i])
        look |= {"linestyle": "none", "mfc": "white" if hollow else None, "zorder": 4}
        panel.plot(at, value, **look, label=None if i else label)
        for side, up in sides:
            if side[i] is None:
                arrow = {"arrowstyle": "<-", "color": look["color"], "shrinkA": 0, "shrinkB": 3, "linewidth": 1.5}
                panel.annotate("", (at, value), (0, 32 * up), textcoords="offset points", arrowprops=arrow)
    panel.margins(x=0.05, y=0.15)


def _frame(figure: Figure, series: Sequence[Series]) -> tuple[float, float] | None:
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


def _finish_column(drawn: Drawing, panels: Sequence[Axes], plots: Plots, figures: Sequence[Figure]) -> None:
    """The axis in epochs at the top of what was recorded over updates; the name of the shared axis at the bottom."""
    for panel in panels[:-1]:
        panel.set_xlabel("")
    clocks = [plots.clocks[line.clock] for figure in figures for line in figure.series if line.clock is not None]
    lengths = {clock["per_epoch"] for clock in clocks}
    if len(lengths) == 1 and (updates := lengths.pop()):
        _epoch_axis(panels[0], updates, beside=not figures[0].caption)


def _epoch_axis(panel: Axes, updates_per_epoch: int, beside: bool) -> None:
    """An axis in epochs at the top: update k (from 0) ends at (k + 1) / updates_per_epoch.

    Its name is `beside` that of the panel, or, as there is a caption, in a line of its own.
    """
    from matplotlib.ticker import MaxNLocator

    functions = partial(_epochs, updates_per_epoch), partial(_update, updates_per_epoch)
    axis = panel.secondary_xaxis("top", functions=functions)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.xaxis.set_major_formatter(_tick)
    axis.tick_params(labelsize="small")
    axis.spines["top"].set_color("0.6")
    if beside:
        panel.set_title("epochs", loc="center", fontsize="small")
    else:
        axis.set_xlabel("epochs", fontsize="small")


def _epochs(updates_per_epoch: int, update: Any) -> Any:
    return (update + 1) / updates_per_epoch


def _update(updates_per_epoch: int, epochs: Any) -> Any:
    return epochs * updates_per_epoch - 1


def _legend(drawn: Drawing, panels: Sequence[Axes]) -> None:
    """What is drawn in any of the panels, once."""
    entries = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(entries) if label}
    if handles:
        labels = list(dict.fromkeys(label for _, label in entries if label))
        half = (len(labels) + 1) // 2
        wide = sum(max(map(len, column)) for column in (labels[:half], labels[half:]) if column) > WIDEST
        place = {"loc": "outside lower center", "ncols": 1 if wide and len(labels) < 6 else 2}
        drawn.legend([handles[label] for label in labels], labels, **place, frameon=False, fontsize="small")


def _known(columns: Iterable[Iterable[float | None]]) -> list[float]:
    return [value for column in columns for value in column if value is not None]


def _categories(figure: Figure) -> list[Any]:
    return list(dict.fromkeys(x for line in figure.series for x in line.x))


def _positions(figure: Figure, line: Series) -> list[float]:
    names = _categories(figure) if figure.kind == "category" else []
    return [names.index(x) for x in line.x] if names else line.x

"""Figures of a schedule and of a run, drawn from flat records; matplotlib is imported when the first one is drawn.

The figures belong to no window and to no global state: a notebook shows one that ends a cell, `save` writes one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, MissingDependency
from .rows import Row, column, kept, moving_mean, spans_decades, updates, value_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by colour-blind readers too.
TRAIN, VALID = "#0072B2", "#D55E00"
VALUES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LABELS = {"lr": "learning rate"}
FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
# More points than this are drawn as the lowest and the highest of each of half as many pieces.
POINTS = 3000


def policy_figure(rows: Sequence[Row], *, updates_per_epoch: int | None = None, title: str | None = None) -> Figure:
    """Draw what a policy schedules, a panel each: learning rate, then momentum and the rest, against updates.

    Args:
        rows: one ``{"lr": ..., "momentum": ...}`` an update, the first being update 0.
        updates_per_epoch: adds an axis in epochs at the top.
        title: a line above the figure.

    Raises:
        ConfigError: no rows, or fewer than one update an epoch.
        MissingDependency: matplotlib is not installed.

    >>> figure = policy_figure([{"lr": 0.1, "momentum": 0.95}, {"lr": 0.2, "momentum": 0.85}])
    >>> [panel.get_title(loc="left") for panel in figure.axes]
    ['learning rate', 'momentum']
    """
    if not rows:
        raise ConfigError("a figure of a policy needs at least one update; received no rows")
    if updates_per_epoch is not None and updates_per_epoch < 1:
        raise ConfigError(f"updates_per_epoch is at least 1; received {updates_per_epoch}")
    names = list(rows[0])
    figure, panels = _panels([2.0] + [1.0] * (len(names) - 1), title)
    _draw_values(panels, np.arange(len(rows)), rows, names)
    if updates_per_epoch:
        _epoch_axis(panels[0], updates_per_epoch)
    return figure


def history_figure(steps: Sequence[Row], epochs: Sequence[Row], *, title: str | None = None) -> Figure:
    """Draw a run against updates: loss, the main metric, learning rate and the other scheduled values.

    The loss of each update is thin, its moving mean over about 2 % of the run bold. An epoch's mean over the training
    data stands at the middle of the epoch, where it was collected; its validation value at the end. Runs one after the
    other, each counting its updates from 0, are drawn one after the other.

    Args:
        steps: a row an update: ``step, epoch, lr, ..., loss, (metrics) ..., seconds``.
        epochs: a row an epoch: ``epoch, step, lr, ..., train_loss, ..., valid_loss, ..., samples, seconds``.
        title: a line above the figure.

    Raises:
        ConfigError: neither steps nor epochs.
        MissingDependency: matplotlib is not installed.

    >>> steps = [{"step": k, "epoch": 0, "lr": 0.1, "loss": 2.0 - k, "seconds": k} for k in range(2)]
    >>> epochs = [{"epoch": 0, "step": 1, "lr": 0.1, "train_loss": 1.5, "valid_loss": 1.2, "samples": 8, "seconds": 1}]
    >>> [panel.get_title(loc="left") for panel in history_figure(steps, epochs).axes]
    ['loss', 'learning rate']
    """
    if not steps and not epochs:
        raise ConfigError("nothing is recorded yet: a figure of a run needs at least one update or epoch")
    metric = _main_metric(steps, epochs)
    values = value_names([*steps[:1], *epochs])
    figure, panels = _panels([3.0] + [2.0] * bool(metric) + [1.2] * len(values), title)
    x, ends = updates(steps), updates(epochs)
    _draw_measure(panels[0], "loss", x, steps, ends, epochs)
    _legend(figure, panels[0])
    if metric:
        _draw_measure(panels[1], metric, x, steps, ends, epochs)
    _draw_values(panels[len(panels) - len(values) :], *((x, steps) if steps else (ends, epochs)), values)
    if epochs:
        # The last epoch of a run can be a piece of one.
        _epoch_axis(panels[0], int(np.diff(ends, prepend=-1).max()))
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`; the same figure gives the same bytes.

    Raises:
        ConfigError: another suffix, or a path that cannot be written.

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
    """Text that matplotlib takes for no mathematics."""
    return text.replace("$", r"\$")


def _rendered(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "onecycle"}):  # else the identifiers in an SVG are random
        figure.savefig(buffer, format=kind, dpi=150, metadata=FORMATS["." + kind])
    return buffer.getvalue()


def _panels(heights: list[float], title: str | None) -> tuple[Figure, list[Axes]]:
    """Panels above each other that share the axis of updates."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingDependency("figures are drawn by matplotlib: pip install onecycle[plot]") from error
    figure = Figure(figsize=(8, 1.5 + 0.75 * sum(heights)), layout="constrained")
    # Without pyplot, IPython has no formatter for figures and asks the object itself.
    figure._repr_png_ = partial(_rendered, figure, "png")  # type: ignore[attr-defined]
    panels = list(figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    for panel, height in zip(panels, heights, strict=True):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.margins(x=0.015)
        panel.tick_params(labelsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3 if height < 2 else 5, steps=[1, 2, 5, 10]))
        panel.yaxis.set_major_formatter("{x:.4g}")
    panels[-1].set_xlabel("updates")
    if title:
        figure.suptitle(plain(title), fontsize="medium", wrap=True)
    return figure, panels


def _draw_values(panels: Sequence[Axes], x: np.ndarray, rows: Sequence[Row], names: Sequence[str]) -> None:
    for i, (panel, name) in enumerate(zip(panels, names, strict=True)):
        y = column(rows, name)
        _line(panel, x, y, color=VALUES[i % len(VALUES)], linewidth=1.8)
        panel.set_title(plain(LABELS.get(name, name.replace("_", " "))), loc="left", fontsize="small")
        known = np.unique(y[np.isfinite(y)])
        if len(known) == 1:
            panel.set_yticks(known)
    if len(x) == 1:
        panels[0].set_xlim(x[0] - 0.5, x[0] + 0.5)


def _draw_measure(
    panel: Axes, name: str, x: np.ndarray, steps: Sequence[Row], ends: np.ndarray, epochs: Sequence[Row]
) -> None:
    """A loss or a metric: by update in training, and by epoch in training and validation."""
    each, train, valid = column(steps, name), column(epochs, "train_" + name), column(epochs, "valid_" + name)
    means, width = moving_mean(each)
    _line(panel, x, each, color=TRAIN, linewidth=0.6, alpha=0.35, label="training, each update")
    if width > 1:
        _line(panel, x, means, color=TRAIN, linewidth=1.8, label=f"training, mean of {width:,} updates")
    starts = np.concatenate([[-1], ends[:-1]]) + 1 if len(ends) else ends
    points = {"marker": "o", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    _line(panel, (starts + ends) / 2, train, color=TRAIN, linewidth=0, label="training, mean of the epoch", **points)
    _line(panel, ends, valid, color=VALID, linewidth=1, label="validation", **points)
    panel.set_title(plain(name.replace("_", " ")), loc="left", fontsize="small")
    if name == "loss" and spans_decades(np.concatenate([means, train, valid])):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.4g}")


def _line(panel: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """A line through the known values; a single one is a point."""
    keep = kept(y, POINTS)
    x, y = x[keep], y[keep]
    if len(x) == 1:
        style |= {"marker": "o", "alpha": 1.0}
    if len(x):
        panel.plot(x, y, **style)


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def _epoch_axis(panel: Axes, updates_per_epoch: int) -> None:
    """An axis in epochs at the top: update k (from 0) ends at (k + 1) / updates_per_epoch."""
    from matplotlib.ticker import MaxNLocator

    def epochs(update: Any) -> Any:
        return (update + 1) / updates_per_epoch

    def update(epochs: Any) -> Any:
        return epochs * updates_per_epoch - 1

    axis = panel.secondary_xaxis("top", functions=(epochs, update))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.tick_params(labelsize="small")
    axis.spines["top"].set_color("0.6")
    # As a title it shares the line of the panel's name; as the axis' own label it would take one more.
    panel.set_title("epochs", loc="center", fontsize="small")


def _main_metric(steps: Sequence[Row], epochs: Sequence[Row]) -> str | None:
    """The first metric beside the loss."""
    if steps:
        columns = list(steps[0])
        names = columns[columns.index("loss") + 1 :]
    else:
        names = [name.removeprefix("train_") for name in epochs[0] if name.startswith("train_")]
    names += [name.removeprefix("valid_") for row in epochs[:1] for name in row if name.startswith("valid_")]
    return next((name for name in names if name not in ("loss", "seconds")), None)

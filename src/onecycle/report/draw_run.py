"""The figures of runs: measures and scheduled values over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..records.read import RecordedRun
from .content import Group
from .draw_policy import schedule, schedule_key
from .matplotlib import draw
from .spec import (
    COUNTS,
    MARKED,
    TRAIN,
    VALID,
    Figure,
    Key,
    Plots,
    Row,
    Series,
    budget,
    column,
    ends,
    kept,
    mean_line,
    mode,
    moving_mean,
    numbers,
    of_seeds,
    spans_decades,
    style,
    updates,
    value_names,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# Updates at which a clock is read.
KNOTS = 48
# With label smoothing, the training loss on the scale of the validation loss: of updates and of epochs.
UNSMOOTHED = {"loss": "loss_unsmoothed", "train_loss": "train_loss_unsmoothed"}
# The column of updates before which the run was rescued.
RESCUED = "rescue_back_to"
MINIMISED = "training, minimised (with label smoothing)"
TITLES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²"}  # as in the table of errors


class Timeline(NamedTuple):
    """A group with the key that it is drawn by, the clock of its updates, and the points that a line may have."""

    group: Group
    key: int
    clock: int
    points: int


def history_figure(steps: Sequence[Row], epochs: Sequence[Row], *, title: str | None = None) -> Drawing:
    """Draw a run against updates: the main metric, the loss, learning rate and the other scheduled values.

    The values of each update are thin, their moving mean over about 2 % of the run bold. An epoch's mean over the
    training data stands at the middle of the epoch, where it was collected; its validation value at the end. Runs one
    after the other, each counting its updates from 0, are drawn one after the other.

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
    ['Loss', 'Learning rate']
    """
    if not steps and not epochs:
        raise ConfigError("nothing is recorded yet: a figure of a run needs at least one update or epoch")
    plots = Plots()
    drawn = draw_runs(plots, [Group("", (RecordedRun("", Path(), {}, steps, epochs),), {})])
    return draw(plots, [plots.figures[i] for i in (*drawn["figures"][:2], *drawn["schedules"])], title=title)


def draw_runs(plots: Plots, groups: Sequence[Group], looks: Sequence[Key] | None = None) -> dict[str, list[int]]:
    """``keys`` of the legend (or `looks`, one a group), ``figures`` of measures over time, ``schedules`` of values."""
    groups = [replace(group, runs=tuple(run.whole for run in group.runs)) for group in groups]
    looks = looks or [Key(group.label, *style(i)) for i, group in enumerate(groups)]
    known = [(group, key) for group, key in zip(groups, looks, strict=True) if _some_rows(group)]
    if not known:
        return {}
    groups = [group for group, _ in known]
    metrics, values = _metrics(groups), dict.fromkeys(name for g in groups for name in value_names(_some_rows(g)))
    points = budget(len(groups) * (2 * len(metrics) + len(values)))
    lines = [Timeline(group, plots.key(key), plots.clock(clock(group)), points) for group, key in known]
    keys, figures = _one(plots, lines[0], metrics) if len(lines) == 1 else _several(plots, lines, metrics)
    by_epoch = not any(run.steps for group in groups for run in group.drawn)
    schedules = []
    for i, name in enumerate(values):
        if len(lines) == 1:
            lines = [lines[0]._replace(key=plots.key(schedule_key(i, name)))]
        figure = schedule(name, _lines(lines, name, by_epoch=by_epoch))
        figure = replace(figure, named=len(lines) == 1)
        schedules.append(plots.figure(_with_marks(figure, groups[0]) if len(groups) == 1 else figure))
    return {"keys": keys, "figures": figures, "schedules": schedules}


def curve(
    group: Group, name: str, *, points: int, smooth: bool = False, by_epoch: bool = False, middle: bool = False
) -> dict[str, Any]:
    """A column over the updates: ``x`` and the mean ``y``, and its 95 % interval where the group has several runs.

    With `smooth` the moving mean of each run is taken first; with `middle`, a row of an epoch stands at its middle.
    Empty where no run has the column.
    """
    validation = name.startswith("valid_")
    tables = [measured_rows(run) if validation else run.epochs if by_epoch else run.steps for run in group.drawn]
    tables = [rows for rows in tables if any(name in row for row in rows)]
    if not tables:
        return {}
    columns = [column(rows, name) for rows in tables]
    if smooth:
        columns = [moving_mean(values)[0] for values in columns]
    mean, low, high = mean_line(columns, name)
    x = updates(max(tables, key=len))
    if middle:
        x = (np.concatenate([[-1], x[:-1]]) + 1 + x) / 2
    keep = kept(mean, points)
    at = [int(v) if float(v).is_integer() else float(v) for v in x[keep]]
    return {"x": at, "y": numbers(mean[keep])} | ends(low[keep], high[keep])


def measured_rows(run: RecordedRun) -> list[Row]:
    """The rows with validation measures, of updates and of epochs, by update."""
    rows = [row for row in (*run.steps, *run.epochs) if any(name.startswith("valid_") for name in row)]
    return [row for _, row in sorted({(row.get("fit", 0), row["step"]): row for row in rows}.items())]


def clock(group: Group) -> dict[str, Any]:
    """``update`` and ``seconds`` at some knots, and the updates ``per_epoch``: None where that is not known."""
    runs = group.drawn
    longest = max(runs, key=lambda run: (len(run.steps), len(run.epochs)))
    times = [_times(run.steps, run.epochs) for run in runs]
    known, _ = _times(longest.steps, longest.epochs)
    knots = known[np.unique(np.linspace(0, len(known) - 1, KNOTS).round().astype(int))] if len(known) else known
    seconds = [np.interp(knots, x, y) for x, y in times if len(x)]
    return {
        "update": [int(knot) for knot in knots],
        "seconds": numbers(np.mean(seconds, axis=0)) if seconds else [],
        "per_epoch": _per_epoch(longest.steps, longest.epochs),
    }


def _times(steps: Sequence[Row], epochs: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Updates and the seconds since the start at each."""
    if steps:
        return updates(steps), np.maximum.accumulate(np.nan_to_num(column(steps, "seconds")))
    return updates(epochs), np.cumsum(np.nan_to_num(column(epochs, "seconds")))


def _per_epoch(steps: Sequence[Row], epochs: Sequence[Row]) -> int | None:
    if epochs:  # the last one can be a piece
        return int(np.diff(updates(epochs), prepend=-1).max())
    later = [i for i, row in enumerate(steps) if row.get("epoch", 0) > steps[0].get("epoch", 0)]
    return later[0] if later else None


def _one(plots: Plots, line: Timeline, metrics: Sequence[str]) -> tuple[list[int], list[int]]:
    """Training and validation in one panel a measure."""
    group, recorded = line.group, bool(line.group.drawn[0].steps)
    width = moving_mean(column(group.drawn[0].steps, "loss"))[1]
    mean = f"training, mean of {width:,} updates" if width > 1 else "training, each update"
    looks: list[tuple[Key, dict[str, bool]]] = [
        (Key("training, each update", TRAIN, faint=True), {}),
        (Key(mean, TRAIN), {"smooth": True}),
        (Key("training, mean of the epoch", TRAIN, "dot" if recorded else "solid"), {"by_epoch": True, "middle": True}),
        (Key(MINIMISED, TRAIN, "dashdot", faint=True), {"smooth": True}),
        (Key("validation", VALID, "dash"), {"by_epoch": True}),
    ]
    keys: dict[Key, int] = {}
    figures = []
    for name in metrics:
        trained, series = _trained(group, name), []
        each = trained if width > 1 and len(group.drawn) == 1 else ""
        minimised = name if trained != name else ""
        columns = (each, trained, _trained(group, f"train_{name}"), minimised, f"valid_{name}")
        for (key, how), measured in zip(looks, columns, strict=True):
            if values := curve(group, measured, points=line.points, **how):
                keys[key] = keys[key] if key in keys else plots.key(key)
                marks = "markers" if recorded and "middle" in how else mode(values["x"])
                series.append(Series(keys[key], **values, clock=line.clock, mode=marks))
        measure = _measure(TITLES.get(name, name.capitalize()), name, series, [line])
        figures.append(plots.figure(_with_marks(measure, group)))
    return list(keys.values()), figures


def _with_marks(figure: Figure, group: Group) -> Figure:
    """The figure with marks where the stages of a run begin, and where it was lost and went back to a good state.

    Of several runs there is none.
    """
    run, *others = group.drawn
    steps = run.steps
    if others or not steps:
        return figure
    at = [float(x) for x in updates(steps)]
    begun = [x for x, row, last in zip(at[1:], steps[1:], steps, strict=False) if row.get("fit") != last.get("fit")]
    begun = begun if run.stages and not run.before else []
    lost = [x for x, row in zip(at, steps, strict=True) if RESCUED in row]
    names = (*(f"stage {i}" for i in range(2, len(begun) + 2)), *["rescued"] * bool(lost))
    return replace(figure, marks=(*begun, *lost), names=names) if names else figure


def _several(plots: Plots, lines: Sequence[Timeline], metrics: Sequence[str]) -> tuple[list[int], list[int]]:
    """A line a group, validation and training in panels of their own."""
    figures = []
    for name in metrics:
        if series := _lines(lines, f"valid_{name}", by_epoch=True):
            figures.append(_measure(f"Validation {name}", name, series, lines))
    for name in metrics:
        if series := _lines(lines, name, smooth=True) or _lines(lines, f"train_{name}", by_epoch=True, middle=True):
            figures.append(_measure(f"Training {name}", name, series, lines))
    return [line.key for line in lines], [plots.figure(figure) for figure in figures]


def _lines(lines: Sequence[Timeline], name: str, **how: bool) -> list[Series]:
    markers = MARKED if len(lines) <= 12 else 1
    curves = [(line, curve(line.group, _trained(line.group, name), points=line.points, **how)) for line in lines]
    return [
        Series(line.key, **values, clock=line.clock, mode=mode(values["x"], markers))
        for line, values in curves
        if values
    ]


def _trained(group: Group, name: str) -> str:
    """The column that a training loss is drawn from: that without label smoothing, where it is recorded."""
    plain = UNSMOOTHED.get(name, name)
    return plain if any(plain in row for row in _some_rows(group)) else name


def _measure(title: str, name: str, series: list[Series], lines: Sequence[Timeline]) -> Figure:
    counts = [len(line.group.drawn) for line in lines]
    return Figure(
        title.replace("_", " "),
        of_seeds(counts) if len(lines) > 1 or any(line.low for line in series) else "",
        "", TITLES.get(name, name.replace("_", " ")), "time", series,
        log=name == "loss" and spans_decades(series), percent=name == "accuracy",
    )  # fmt: skip


def _metrics(groups: Sequence[Group]) -> list[str]:
    """The metrics and the loss that were recorded, accuracy first."""
    runs = [run for group in groups for run in group.drawn]
    names = [name for run in runs for row in run.steps[:1] for name in row if name not in value_names([row])]
    names = [name for name in names if not name.startswith(("valid_", "rescue_"))]
    rows = [row for run in runs for row in (*run.epochs[:1], *run.epochs[-1:])]
    names += [name[6:] for row in rows for name in row if name.startswith(("train_", "valid_"))]
    known = dict.fromkeys(name for name in names if name not in (*COUNTS, "seconds", UNSMOOTHED["loss"]))
    return sorted(known, key=lambda name: {"accuracy": 0, "loss": 1}.get(name, 2))


def _some_rows(group: Group) -> list[Row]:
    return [row for run in group.drawn for row in (*run.steps[:1], *run.steps[-1:], *run.epochs[:1])]

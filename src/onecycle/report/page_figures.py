"""The figures of a page: of runs over time and of a range test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..records.curve import Band, Curve
from ..records.read import RecordedTest, items, number, part
from .content import Group
from .figures import LABELS, TRAIN, VALID, VALUES
from .page_series import Figure, Key, Plots, Series, budget, curve, ends, numbers, of_seeds, style
from .range_figure import loss_axis
from .rows import column, moving_mean, spans_decades, value_names


class Line(NamedTuple):
    """A group with the key that it is drawn by and the clock of its updates, and the points that a line may have."""

    group: Group
    key: int
    clock: int
    points: int


def draw_runs(plots: Plots, groups: Sequence[Group], looks: Sequence[Key] | None = None) -> dict[str, list[int]]:
    """Measures and scheduled values over time: ``keys`` of the legend, ``figures`` by measure, ``schedules``.

    A key a group may be given by `looks`.
    """
    looks = looks or [Key(group.label, *style(i)) for i, group in enumerate(groups)]
    known = [(group, key) for group, key in zip(groups, looks, strict=True) if _some_rows(group)]
    if not known:
        return {}
    groups = [group for group, _ in known]
    metrics, values = _metrics(groups), dict.fromkeys(name for g in groups for name in value_names(_some_rows(g)))
    points = budget(len(groups) * (2 * len(metrics) + len(values)))
    lines = [Line(group, plots.key(key), plots.clock(group), points) for group, key in known]
    keys, figures = _one(plots, lines[0], metrics) if len(lines) == 1 else _several(plots, lines, metrics)
    by_epoch = not any(run.steps for group in groups for run in group.drawn)
    schedules = [_schedule(name, _lines(lines, name, by_epoch=by_epoch)) for name in values]
    return {"keys": keys, "figures": figures, "schedules": [plots.figure(figure) for figure in schedules]}


def draw_test(plots: Plots, test: RecordedTest) -> dict[str, list[int]]:
    """What was seen at which learning rate: the suggested range shaded, the edge of divergence marked."""
    if test.curve is None or not test.curve.lr:
        return {}
    result, curve = test.result, test.curve
    peak, least, edge = (number(result.get(name)) for name in ("lr_max", "lr_min", "edge"))
    shade = (least, peak) if peak and least and least < peak else None
    said = "The suggested range is shaded." if shade else f"Dotted: the peak {peak:.3g}." if peak else ""
    said = said or "No learning rate is suggested."
    said += f" Dotted: training diverges above {edge:.3g}." if edge else ""
    said += _repeats(len(curve.sweeps))
    marks = tuple(at for at in (None if shade else peak, edge) if at)
    where: dict[str, Any] = {"caption": said, "x": "learning rate", "kind": "log", "shade": shade, "marks": marks}
    each = plots.key(Key("each repeat, each update", TRAIN, faint=True))
    mean = plots.key(Key("training, smoothed", TRAIN))
    held = plots.key(Key("held-out", VALID, "dash"))
    figures = _losses(curve, each, mean, held, where)
    if curve.valid_accuracy.lr:
        line = _band(held, curve.valid_accuracy)
        title = "Held-out accuracy against the learning rate"
        figures.append(Figure(title, y="accuracy", series=[line], percent=True, **where))
    return {"keys": [each, mean, held], "figures": [*map(plots.figure, figures), *_sharpness(plots, result)]}


def _losses(curve: Curve, each: int, mean: int, held: int, where: Mapping[str, Any]) -> list[Figure]:
    """The losses, in a frame that a divergence leaves."""
    trained = [(np.array(s.lr), np.array(s.loss)) for s in curve.sweeps if s.loss]
    measured = [(np.array(s.valid_lr), np.array(s.valid_loss)) for s in curve.sweeps if s.valid_loss]
    if not trained and not measured:
        return []
    axis = loss_axis(trained + measured)
    series = [Series(each, numbers(lr), numbers(loss)) for lr, loss in trained]
    series += [_band(mean, curve.smooth_loss)] if trained else []
    series += [_band(held, curve.valid_loss)] if measured else []
    frame = (axis.value(-0.05), axis.value(1.05)) if axis.high > axis.low else None
    return [Figure("Loss against the learning rate", y="loss", series=series, log=axis.log, frame=frame, **where)]


def _one(plots: Plots, line: Line, metrics: Sequence[str]) -> tuple[list[int], list[int]]:
    """Training and validation in one panel a measure."""
    group, points = line.group, line.points
    width = moving_mean(column(group.drawn[0].steps, "loss"))[1]
    what = f"mean of {width:,} updates" if width > 1 else "each update" if group.drawn[0].steps else "each epoch"
    train, valid = plots.key(Key(f"training, {what}", TRAIN)), plots.key(Key("validation", VALID, "dash"))
    each = plots.key(Key("training, each update", TRAIN, faint=True)) if width > 1 and len(group.drawn) == 1 else None
    figures = []
    for name in metrics:
        found = {
            train: curve(group, name, points=points, smooth=True)
            or curve(group, f"train_{name}", points=points, by_epoch=True),
            valid: curve(group, f"valid_{name}", points=points, by_epoch=True),
        }
        series = [
            Series(key, **values, clock=line.clock, mode=_mode(values["x"])) for key, values in found.items() if values
        ]
        if each is not None and (values := curve(group, name, points=points)):
            series.insert(0, Series(each, **values, clock=line.clock))
        figures.append(plots.figure(_measure(name.capitalize(), name, series, _bands(series, [line]))))
    return [key for key in (each, train, valid) if key is not None], figures


def _several(plots: Plots, lines: Sequence[Line], metrics: Sequence[str]) -> tuple[list[int], list[int]]:
    """A line a group, validation and training in panels of their own."""
    figures = []
    for name in metrics:
        if series := _lines(lines, f"valid_{name}", by_epoch=True):
            figures.append(_measure(f"Validation {name}", name, series, _bands(series, lines)))
    for name in metrics:
        if series := _lines(lines, name, smooth=True) or _lines(lines, f"train_{name}", by_epoch=True):
            figures.append(_measure(f"Training {name}", name, series, _bands(series, lines)))
    return [line.key for line in lines], [plots.figure(figure) for figure in figures]


def _lines(lines: Sequence[Line], name: str, **how: bool) -> list[Series]:
    markers = 30 if len(lines) <= 12 else 1
    found = [(line, curve(line.group, name, points=line.points, **how)) for line in lines]
    return [
        Series(line.key, **values, clock=line.clock, mode=_mode(values["x"], markers))
        for line, values in found
        if values
    ]


def _schedule(name: str, series: list[Series]) -> Figure:
    title = LABELS.get(name, name.replace("_", " "))
    return Figure(title.capitalize(), "", "", title, "time", series, low=True)


def _measure(title: str, name: str, series: list[Series], caption: str) -> Figure:
    return Figure(
        title.replace("_", " "), caption, "", name.replace("_", " "), "time", series,
        log=name == "loss" and _decades(series), percent=name == "accuracy",
    )  # fmt: skip


def _bands(series: Sequence[Series], lines: Sequence[Line]) -> str:
    counts = [len(line.group.drawn) for line in lines]
    return of_seeds(counts) if len(lines) > 1 or any(line.low for line in series) else ""


def _band(key: int, band: Band) -> Series:
    edges = ends(np.array(band.low), np.array(band.high))
    return Series(key, numbers(band.lr), numbers(band.mean), **edges, mode=_mode(band.lr))


def _sharpness(plots: Plots, result: Mapping[str, Any]) -> list[int]:
    found = part(result, "sharpness")
    lines = [
        (Key("largest eigenvalue", VALUES[0]), "largest_eigenvalue"),
        (Key("Hessian-free estimate", VALUES[1], "dash"), "hessian_free"),
    ]
    x = items(found, "lr")
    series = [
        Series(plots.key(key), _numbers(x), _numbers(items(found, name)), mode="lines+markers")
        for key, name in lines
        if len(items(found, name)) == len(x) > 0
    ]
    if not series:
        return []
    said = "Solid: the largest eigenvalue of the Hessian; dashed: the estimate from gradients alone."
    title = "Curvature against the learning rate"
    return [plots.figure(Figure(title, said, "learning rate", "curvature", "log", series, log=_decades(series)))]


def _repeats(n: int) -> str:
    return (
        f" Bands: from the lowest to the highest of n = {n} repeats." if n > 1 else " One repeat: no spread is known."
    )


def _metrics(groups: Sequence[Group]) -> list[str]:
    """The metrics and the loss that were recorded, accuracy first."""
    runs = [run for group in groups for run in group.drawn]
    names = [name for run in runs for row in run.steps[:1] for name in row if name not in value_names([row])]
    rows = [row for run in runs for row in run.epochs[:1]]
    names += [name[6:] for row in rows for name in row if name.startswith(("train_", "valid_"))]
    known = dict.fromkeys(name for name in names if name not in ("step", "epoch", "seconds"))
    return sorted(known, key=lambda name: {"accuracy": 0, "loss": 1}.get(name, 2))


def _some_rows(group: Group) -> list[Mapping[str, float]]:
    return [row for run in group.drawn for row in (*run.steps[:1], *run.epochs[:1])]


def _mode(x: Sequence[Any], most: int = 30) -> str:
    return "lines+markers" if len(x) <= most else "lines"


def _decades(series: Sequence[Series]) -> bool:
    return spans_decades(np.array([y for line in series for y in line.y], dtype=float))


def _numbers(values: Sequence[Any]) -> list[float | None]:
    return numbers([np.nan if number(v) is None else v for v in values])

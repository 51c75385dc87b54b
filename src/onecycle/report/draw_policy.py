"""The figure of a policy: each scheduled value against the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .matplotlib import draw
from .spec import MOST, VALUES, Figure, Key, Plots, Row, Series, column, kept, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LABELS = {"lr": "learning rate"}


def policy_figure(rows: Sequence[Row], *, updates_per_epoch: int | None = None, title: str | None = None) -> Drawing:
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
    ['Learning rate', 'Momentum']
    """
    if not rows:
        raise ConfigError("a figure of a policy needs at least one update; received no rows")
    if updates_per_epoch is not None and updates_per_epoch < 1:
        raise ConfigError(f"updates_per_epoch is at least 1; received {updates_per_epoch}")
    plots = Plots()
    clock = plots.clock({"update": [], "seconds": [], "per_epoch": updates_per_epoch})
    for i, name in enumerate(rows[0]):
        y = column(rows, name)
        keep = kept(y, MOST)
        line = Series(plots.key(schedule_key(i, name)), keep.tolist(), numbers(y[keep]), clock=clock)
        plots.figure(replace(schedule(name, [line]), low=i > 0, named=True))
    return draw(plots, plots.figures, title=title)


def schedule_key(i: int, name: str) -> Key:
    """How the `i`-th scheduled value is drawn where there is one line of it."""
    return Key(LABELS.get(name, name.replace("_", " ")), VALUES[i % len(VALUES)])


def schedule(name: str, series: list[Series]) -> Figure:
    """The panel of a scheduled value over time."""
    words = LABELS.get(name, name.replace("_", " "))
    return Figure(words.capitalize(), "", "", words, "time", series, low=True)

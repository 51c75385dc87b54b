"""The command that follows what is being made."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..checks import number as checked
from ..errors import ConfigError
from ..text import duration, fitted, measure, number, rate
from .options import Flag, Json, Whole
from .printing import print_json

if TYPE_CHECKING:
    from ..records.live import Standing

PORT = 8765
HEADS = ("run", "state", "stage", "progress", "epoch", "updates", "updates/s", "loss", "validation", "left", "says")
# The columns in the order in which they are left out where the terminal is too narrow.
LEAST = ("says", "updates/s", "epoch", "loss", "stage", "updates", "left", "progress")
STYLES = {"running": "green", "failed": "red", "unreadable": "red", "stopped": "yellow", "stale": "yellow"}
BAR = 10
SAID = 60  # characters of what is said of a run


def watch(
    folder: Path = Path("runs"),
    *,
    web: Flag = False,
    port: Annotated[Whole | None, Parameter(show_default=str(PORT))] = None,
    every: float = 1.0,
    once: Flag = False,
    json: Json = False,
) -> None:
    """Follow runs, comparisons and searches while they are made, from their files alone. Ctrl-C ends it.

    Parameters
    ----------
    folder
        What is in it and below it is followed, also what begins later.
    web
        Show a page at an address of this machine, with the page of each run as it grows; it asks nothing of any other.
    port
        Of that page; 0 for one that is free.
    every
        Seconds from one look to the next.
    once
        Look once; so it is where the output is no terminal.
    """
    checked("every", every, above=0, what="seconds from one look to the next", example="1")
    if port is not None and not web:
        raise ConfigError("--port is that of the page: give --web too, or leave it out")
    if web:
        if once or json:
            raise ConfigError("--web shows a page until it is stopped: leave out --once and --json")
        from ..deployment.watching import watch_on_page

        try:
            watch_on_page(folder, port=PORT if port is None else port)
        except KeyboardInterrupt:  # also before it answers
            return
    from ..records.live import Follower

    follower = Follower(folder)
    if json:
        print_json({"standing": [one.to_dict() for one in follower.look()]})
    elif once or not sys.stdout.isatty():
        _console().print(drawn(follower.look(), 1000, None))
    else:
        _follow(follower, every)


def _console() -> Any:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 1000
    return console


def _follow(follower: Any, every: float) -> None:
    from rich.live import Live

    console = _console()
    try:
        with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:
            while True:
                live.update(drawn(follower.look(), console.width, console.height - 2), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def drawn(standing: Sequence[Standing], width: int, height: int | None) -> Any:
    """A table of what is followed, as much of it as there is room for; below it the interim means of comparisons."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..experiments.console import interim, table

    if not standing:
        return Text("nothing here yet: a run that begins appears by itself")
    below = [
        part
        for one in standing
        if one.kind == "comparison" and one.rows
        for part in ("", Text(f"{one.name}, so far:"), *table(interim(one.rows), 8))
    ]
    room = len(standing) if height is None else max(3, height - 2 - 4 * len(below) // 3)
    shown = standing[:room]
    cells = fitted([list(HEADS), *(_cells(one) for one in shown)], width, LEAST)
    kept = [i for i, name in enumerate(cells[0]) if any(row[i] for row in cells[1:])]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i in kept:
        made.add_column(cells[0][i], no_wrap=True, overflow="ellipsis")
    states = cells[0].index("state") if "state" in cells[0] else -1
    for row in cells[1:]:
        made.add_row(*(Text(row[i], style=STYLES.get(row[i], "") if i == states else "") for i in kept))
    more = len(standing) - len(shown)
    return Group(made, *([Text(f"and {more} more, which ended before")] if more else []), *below)


def _cells(one: Standing) -> list[str]:
    """What is shown of one, by `HEADS`."""
    share = min(1.0, one.done / one.total) if one.total and one.done is not None else None
    full = round(BAR * (share or 0.0))
    epochs = "" if one.epochs is None else f"/{math.ceil(one.epochs)}"
    done = "" if one.done is None else f"{one.done:,}" + (f"/{one.total:,}" if one.total else "")
    said = f"no word for {duration(round(one.age))}" if one.state == "stale" else one.said
    return [
        one.name,
        one.state,
        one.stage,
        "" if share is None else f"{'━' * full}{'┄' * (BAR - full)} {share:4.0%}",
        "" if one.epoch is None else f"{one.epoch}{epochs}",
        done + (" runs" if one.kind == "comparison" and done else ""),
        "" if one.rate is None else rate(one.rate),
        "" if one.loss is None else number(one.loss),
        "" if one.value is None or one.measure is None else f"{one.measure} {measure(one.measure, one.value)}",
        "" if one.left is None else duration(round(one.left)),
        said if len(said) <= SAID else f"{said[: SAID - 1]}…",
    ]

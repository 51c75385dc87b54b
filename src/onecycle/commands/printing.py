"""What the commands print."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schedules.policy import Policy

# A plot in characters is no wider.
PLOT = 100
LANDMARKS = {
    "lr_max": "the peak for a 1cycle run of {epochs:g} epochs{error}",
    "lr_min": "from here on the learning rate matters",
    "edge": "training diverges above",
}


def repr_class(name: str) -> str:
    """A class's name as it can be printed in a line: white space shown, everything else as it is."""
    return name if name.isprintable() and name.strip() else repr(name)


def show_policy(made: Policy, updates: int, steps_per_epoch: int) -> None:
    """The values at the first and last update and at the points between."""
    from ..schedules.policy import position

    points = {x for s in made.schedules.values() for x, _ in getattr(s, "points", ()) if 0 <= x <= 1}
    steps = sorted({0, updates - 1, *(round(x * (updates - 1)) for x in points)})
    rows = []
    for step in steps:
        values = made(position(step, updates))
        rows.append([f"{step:,}", f"{step / steps_per_epoch:.2f}", *(f"{value:.4g}" for value in values.values())])
    print_table(["update", "epoch", *made.schedules], rows)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as their cells; on a terminal, cells are folded to fit."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def text(value: Any) -> str:
    """A value as a cell of a table."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, tuple | list):
        return (
            " x ".join(map(str, value))
            if all(isinstance(v, int) for v in value)
            else ", ".join(f"{v:.4g}" for v in value)
        )
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_json(value: Any) -> None:
    """One value as JSON, for people and programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def check_lines(result: Mapping[str, Any], width: int | None = None, *, ascii: bool = False) -> list[str]:
    """What a check found, as lines no wider than `width`: plot, verdict, numbers, cost and what to do next."""
    from ..report.draw_range_test import ANSWERS
    from ..report.terminal import range_text

    verdict, cost = result["verdict"], result["cost"]
    lines = [result["title"], *range_text(result, max(24, min(PLOT, width or 80)), ascii=ascii), ""]
    lines += _wrapped([f"{ANSWERS[verdict['answer']]} (score {verdict['score']:.2f} of 1)."], width)
    lines += _wrapped([f"- {reason}" for reason in verdict["reasons"]], width, "  ")
    lines += _wrapped([f"- next: {advice}" for advice in verdict["advice"]], width, "  ")
    lines += ["", *_wrapped([*_landmarks(result), *_sharpness(result)], width, "        ")]
    if cost:
        share = f", {_percent(cost['share'])} of the updates of a training of 10 epochs" if "share" in cost else ""
        spent = f"{cost['updates']:,} updates and {cost['evaluations']:,} measurements in {_seconds(cost['seconds'])}"
        lines += _wrapped([f"It took {spent}{share}. Everything is as before."], width)
    if result["out"]:
        lines += _wrapped([f"The check is in {result['out']}", *page_line(result["out"])], width)
    return lines + (["", "To train:", *command_lines(result["train"], width)] if result["train"] else [])


def page_line(folder: str | Path) -> list[str]:
    """Where the page about a folder is; nothing where it has none.

    >>> page_line("runs/digits-1")
    []
    """
    page = Path(folder) / "report.html"
    return [f"Its page is {page}"] if page.exists() else []


def command_lines(command: str, width: int | None = None) -> list[str]:
    """A command of the shell, broken at its options so that it still can be copied.

    >>> command_lines("onecycle train digits --epochs 10 --lr-max 0.2", 30)
    ['onecycle train digits \\\\', '    --epochs 10 --lr-max 0.2']
    """
    groups: list[str] = []
    for word in shlex.split(command):
        if groups and not word.startswith("--"):
            groups[-1] += f" {shlex.quote(word)}"
        else:
            groups.append(shlex.quote(word))
    lines = groups[:1]
    for group in groups[1:]:
        if width is None or len(lines[-1]) + len(group) + len("  \\") <= width:
            lines[-1] += f" {group}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {group}")
    return lines


def _landmarks(result: Mapping[str, Any]) -> list[str]:
    if result["lr_max"] is None:
        return [f"lr_max  none: {result['reason']}"] if result["reason"] else []
    decades = result["decades"]
    error = "" if decades is None else f" (standard error over the repeats: a factor of {10**decades:.2f})"
    known = {name: about for name, about in LANDMARKS.items() if result[name] is not None}
    return [
        f"{name:<7} {result[name]:<7.2g} {about.format(epochs=result['epochs'], error=error)}"
        for name, about in known.items()
    ]


def _sharpness(result: Mapping[str, Any]) -> list[str]:
    """What was measured nearest to the suggested peak."""
    if not result["sharpness"] or result["lr_max"] is None:
        return []
    rows = [row for row in zip(*result["sharpness"].values(), strict=True) if None not in row]
    if not rows:
        return []
    lr, largest, free = min(rows, key=lambda row: abs(row[0] - result["lr_max"]))
    return [
        f"sharpness at {lr:.2g}: largest Hessian eigenvalue {largest:.2g}, times the learning rate {lr * largest:.2g}; "
        f"the Hessian-free estimate of the best learning rate is {free:.2g}; measured along the sweep in "
        f"{_seconds(result['cost']['sharpness_seconds'])}"
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.{share < 0.1:d}f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _wrapped(lines: Iterable[str], width: int | None, indent: str = "") -> list[str]:
    wide = 10**6 if width is None else max(24, width)
    return [part for line in lines for part in textwrap.wrap(line, wide, subsequent_indent=indent)]

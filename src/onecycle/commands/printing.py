"""What the commands print."""

from __future__ import annotations

import codecs
import io
import json
import shlex
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from .. import text

# A plot in characters is no wider.
PLOT = 100
LANDMARKS = {
    "lr_max": "the peak for a 1cycle run of {epochs:g} epochs{error}",
    "lr_min": "from here on the learning rate matters",
    "edge": "training diverges above",
}

# What stands for a character that an output cannot hold; other letters lose their accents, all else becomes "?".
PLAIN = dict(zip("…│─━└┬·\u2013\u2014\u2018\u2019\u201c\u201d→↑↓\u00d7", "~|--++---''\"\">^vx", strict=True)) | {
    "±": "+-",
    "µ": "u",
    "█": "#",
    "▌": "",
}


@contextmanager
def degraded_output() -> Iterator[None]:
    """Within the block, what standard output and error cannot encode is printed as the nearest ASCII."""
    codecs.register_error("onecycle", _nearest)
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="onecycle")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """The handler of encoding errors by that name.

    >>> codecs.register_error("onecycle", _nearest)
    >>> "caf\u00e9 \u2026 \u2603".encode("ascii", "onecycle")
    b'cafe ~ ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a path that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or letters or ("" if unicodedata.combining(character) else "?")


def encodes(words: str) -> bool:
    """Whether standard output can hold these characters."""
    try:
        words.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def print_table(columns: Sequence[str], rows: Iterable[Iterable[Any]], least: Sequence[str] = ()) -> None:
    """Print columns as wide as their cells; on a terminal, they fit.

    There the columns in `least` are left out one by one, then the names in the first are cut, and cells are folded.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 1000
    cells = [list(columns), *(list(map(_cell, row)) for row in rows)]
    if least:
        cells = text.fitted(cells, console.width, least)
    table = Table(box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for column in cells[0]:
        table.add_column(column, overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return text.number(value)
    if isinstance(value, tuple | list):
        return (" x " if all(isinstance(part, int) for part in value) else ", ").join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def print_json(value: Any) -> None:
    """One value as JSON, for people and programs."""
    said = json.dumps(value, indent=2, ensure_ascii=False)
    print(said if encodes(said) else json.dumps(value, indent=2))


def check_lines(result: Mapping[str, Any], width: int | None = None, *, ascii: bool = False) -> list[str]:
    """What a check found, as lines no wider than `width`: plot, verdict, numbers, cost and what to do next."""
    from ..report.content import ANSWERS
    from ..report.terminal import range_text

    verdict, cost = result["verdict"], result["cost"]
    lines = [result["title"], *range_text(result, max(24, min(PLOT, width or 80)), ascii=ascii), ""]
    lines += wrapped([f"{ANSWERS[verdict['answer']]} (score {verdict['score']:.2f} of 1)."], width)
    lines += wrapped([f"- {reason}" for reason in verdict["reasons"]], width, "  ")
    lines += wrapped([f"- next: {advice}" for advice in verdict["advice"]], width, "  ")
    lines += ["", *wrapped([*_landmarks(result), *_sharpness(result)], width, "        ")]
    if cost:
        share = ""
        if "share" in cost:
            share = (
                f", {text.percent(cost['share'], int(cost['share'] < 0.1))} of the updates of a training of 10 epochs"
            )
        updates, measured = text.count(cost["updates"], "update"), text.count(cost["evaluations"], "measurement")
        spent = f"{updates} and {measured} in {text.duration(cost['seconds'])}"
        lines += wrapped([f"It took {spent}{share}. Everything is as before."], width)
    if folder := result.get("folder"):
        lines += wrapped([f"The check is in {folder}", *page_line(folder)], width)
    return lines + (["", "To train:", *command_lines(result["command"], width)] if result.get("command") else [])


def terminal_width() -> int | None:
    """The width of the terminal; None for a file or a pipe."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


@contextmanager
def going_on(command: Sequence[str], record: Path) -> Iterator[None]:
    """Name the command to go on with after a Ctrl-C, where there is a `record` of what was begun."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if record.exists():
            stop.args = (f"{str(stop) or 'stopped'}\nTo go on: {shlex.join(command)}",)
        raise


def result_lines(result: Mapping[str, Any], folder: Path) -> list[str]:
    """What a run came to: its closing table, what its predictions say, and where it and its page are."""
    from ..records.progress import summary
    from ..report.draw_predictions import predictions_text

    looked = wrapped(predictions_text(folder), terminal_width(), "  ")
    return [*summary(result, width=terminal_width(), more=looked), *page_line(folder)]


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
        f"{text.duration(result['cost']['sharpness_seconds'])}"
    ]


def wrapped(lines: Iterable[str], width: int | None, indent: str = "") -> list[str]:
    """Lines no wider than `width`, where it is known; those that go on begin with the `indent`."""
    wide = 10**6 if width is None else max(24, width)
    return [part for line in lines for part in textwrap.wrap(line, wide, subsequent_indent=indent)]

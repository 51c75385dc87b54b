"""What a comparison says while it runs: a live table on a terminal, one line a run elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

from ..report.page_words import duration, value_text
from .plan import in_words

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

Row = Mapping[str, Any]
# Cells that a live table shows, at most.
CELLS = 24


class Silent:
    """Says nothing."""

    def start(self, label: str, expected: Sequence[float]) -> None:
        """A batch of runs is to be made, each of about so many seconds."""

    def done(self, words: str, expected: float, rows: Sequence[Row]) -> None:
        """A run has ended; `rows` are all of the comparison as they stand."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """There is no more to say."""


class Lines(Silent):
    """One plain line a run, with the time left of the batch."""

    def __init__(self, jobs: int = 1, stream: TextIO | None = None):
        self._stream, self._jobs = sys.stderr if stream is None else stream, jobs

    def start(self, label: str, expected: Sequence[float]) -> None:
        self._label, self._total, self._done = label, len(expected), 0
        self._left, self._spent, self._began = sum(expected), 0.0, time.perf_counter()

    def done(self, words: str, expected: float, rows: Sequence[Row]) -> None:
        self._done, self._left, self._spent = self._done + 1, self._left - expected, self._spent + expected
        self.say(f"{self._where}  {words}")

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @property
    def _where(self) -> str:
        """``run 3/20, about 2 min left``."""
        left = self._left / self._jobs
        if self._spent:  # what the runs so far took tells more than the measured second
            left = self._left * (time.perf_counter() - self._began) / self._spent
        end = f", about {duration(round(max(left, 0)))} left" if self._done < self._total else ""
        return f"{self._label} {self._done}/{self._total}{end}"


class LiveTable(Lines):
    """The same on a terminal: one table that changes in place, a row a cell with its interim mean."""

    def __init__(self, axes: Sequence[str] = (), jobs: int = 1, stream: TextIO | None = None):
        super().__init__(jobs, stream)
        self._axes = axes
        self._live: Live | None = None

    def start(self, label: str, expected: Sequence[float]) -> None:
        super().start(label, expected)
        self._draw("", ())

    def done(self, words: str, expected: float, rows: Sequence[Row]) -> None:
        self._done, self._left, self._spent = self._done + 1, self._left - expected, self._spent + expected
        self._draw(words, rows)

    def say(self, line: str) -> None:
        if self._live is None:
            super().say(line)
        else:
            self._live.console.print(line, markup=False, highlight=False, emoji=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, words: str, rows: Sequence[Row]) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            console = Console(file=self._stream, highlight=False, markup=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        where = Text(f"{self._where}  {words}".strip(), no_wrap=True, overflow="ellipsis")
        self._live.update(Group(_table(interim(rows, self._axes)), where), refresh=True)


def _table(cells: Sequence[list[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("policy", "epochs", "setting", "runs", "failed", "mean so far"):
        table.add_column(column)
    for cell in cells[-CELLS:]:
        table.add_row(*cell)
    return table


def interim(rows: Sequence[Row], axes: Sequence[str] = ()) -> list[list[str]]:
    """The cells as they stand: policy, epochs, setting, runs that ended, those that failed, and their mean."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        setting = in_words(tuple((name, row[name]) for name in axes))
        found.setdefault((row["policy"], row["epochs"], setting), []).append(row)
    lines = []
    for (policy, epochs, setting), mates in found.items():
        ended = sum(row["status"] in ("finished", "failed") for row in mates)
        failed = sum(row["status"] == "failed" for row in mates)
        if ended:
            lines.append([policy, f"{epochs:g}", setting, f"{ended}/{len(mates)}", str(failed or ""), _mean(mates)])
    return lines


def _mean(rows: Sequence[Row]) -> str:
    for name in ("test_accuracy", "valid_accuracy", "test_loss", "valid_loss"):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            return value_text(name, fmean(values))
    return ""

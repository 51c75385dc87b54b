"""What a comparison says while it runs: a live table on a terminal, one line a run elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

from ..records.read import main_measure
from ..text import duration, measure
from .plan import in_short

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class Silent:
    """Says nothing."""

    def start(self, label: str, expected: Sequence[float], after: float = 0) -> None:
        """A batch of runs is to be made, each of about so many seconds; what follows it takes `after`."""

    def done(self, words: str, expected: float, rows: Sequence[Mapping[str, Any]], failed: bool = False) -> None:
        """A run has ended; `rows` are those of its kind as they stand. That one `failed` is to be seen later too."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """There is no more to say."""


class Lines(Silent):
    """One plain line a run, with the time left."""

    def __init__(self, jobs: int = 1, stream: TextIO | None = None):
        self._stream, self._jobs = sys.stderr if stream is None else stream, jobs

    def start(self, label: str, expected: Sequence[float], after: float = 0) -> None:
        self._label, self._total, self._done = label, len(expected), 0
        self._left, self._spent = sum(expected) + after, 0.0

    def done(self, words: str, expected: float, rows: Sequence[Mapping[str, Any]], failed: bool = False) -> None:
        self._count(expected)
        self.say(f"{self._standing}  {words}")

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _count(self, expected: float) -> None:
        self._done, self._left = self._done + 1, self._left - expected
        if self._done == self._jobs:  # until the first runs have ended, processes start and modules are imported
            self._began = time.perf_counter()
        elif self._done > self._jobs:
            self._spent += expected

    @property
    def _standing(self) -> str:
        """``run 3/20, about 2 min left``."""
        left = self._left / self._jobs
        if self._spent:  # what the runs so far took tells more than the measured second
            left = self._left * (time.perf_counter() - self._began) / self._spent
        end = f", about {duration(max(round(left), 1))} left" if self._done < self._total else ""
        return f"{self._label} {self._done}/{self._total}{end}"


class LiveTable(Lines):
    """The same on a terminal: one table that changes in place, a line a condition with its interim mean."""

    def __init__(self, axes: Sequence[str] = (), jobs: int = 1, stream: TextIO | None = None):
        super().__init__(jobs, stream)
        self._axes = axes
        self._live: Live | None = None

    def start(self, label: str, expected: Sequence[float], after: float = 0) -> None:
        super().start(label, expected, after)
        self._draw("", ())

    def done(self, words: str, expected: float, rows: Sequence[Mapping[str, Any]], failed: bool = False) -> None:
        self._count(expected)
        if failed:
            self.say(words)
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

    def _draw(self, words: str, rows: Sequence[Mapping[str, Any]]) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            console = Console(file=self._stream, highlight=False, markup=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        standing = Text(f"{self._standing}  {words}".strip(), no_wrap=True, overflow="ellipsis")
        cells = interim(rows, self._axes) if self._label == "run" else best_so_far(rows, self._axes)
        self._live.update(Group(*table(cells, self._live.console.height - 5), standing), refresh=True)


def table(cells: Sequence[Mapping[str, str]], most: int) -> list[Table | str]:
    """The cells, as many as there is room for, in the columns that are not empty."""
    from rich.table import Table

    if not cells:
        return []
    columns = [name for name in cells[0] if any(cell[name] for cell in cells)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:  # where it is narrow the titles are folded, the cells are not
        made.add_column(column, min_width=max(len(cell[column]) for cell in cells))
    shown = cells[-max(1, most) :]
    for cell in shown:
        made.add_row(*(cell[name] for name in columns))
    return [made] if len(shown) == len(cells) else [f"... {len(cells) - len(shown)} more", made]


def interim(runs: Sequence[Mapping[str, Any]], axes: Sequence[str] = ()) -> list[dict[str, str]]:
    """The conditions as they stand: runs that ended, those that failed, and the mean of the others."""
    lines = []
    for title, group in _grouped(runs, axes):
        ended = [run for run in group if run["status"] in ("finished", "failed")]
        failed = sum(run["status"] == "failed" for run in ended)
        name, values = _values(group)
        mean = measure(name, fmean(values)) if values else ""
        if ended:
            done = f"{len(ended)}/{len(group)}"
            lines.append({**title, "runs": done, "failed": str(failed or ""), "mean so far": mean})
    return lines


def best_so_far(trials: Sequence[Mapping[str, Any]], axes: Sequence[str] = ()) -> list[dict[str, str]]:
    """The conditions that are tuned: trial runs that ended, and the best of them with its peak."""
    lines = []
    for title, group in _grouped(trials, axes):
        name, values = _values(group)
        words = ""
        if values:
            top = min(values) if name.endswith("loss") else max(values)
            words = f"{measure(name, top)} at {next(run['lr_max'] for run in group if run.get(name) == top):g}"
        lines.append({**title, "trials": str(len(group)), "best so far": words})
    return lines


def _grouped(
    runs: Sequence[Mapping[str, Any]], axes: Sequence[str]
) -> list[tuple[dict[str, str], list[Mapping[str, Any]]]]:
    """The runs by condition, each with its policy, budget and setting in words."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    names = ("policy", "epochs", *axes)
    for run in runs:
        groups.setdefault(tuple(in_short(run[name]) for name in names), []).append(run)
    titles = [name.replace("_", " ") for name in names]
    return [(dict(zip(titles, values, strict=True)), group) for values, group in groups.items()]


def _values(runs: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """What is measured of the runs, and its values."""
    name = main_measure(runs) or ""
    return name, [run[name] for run in runs if run.get(name) is not None]

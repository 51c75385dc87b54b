"""What a run says while it trains: a bar on a terminal or in a notebook, one line an epoch, and a closing table."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from .. import text
from ..training.loop import EpochEnd, Event, Update
from .read import comparable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

# Seconds between two looks at the loss: reading it waits for an accelerator, and drawing takes about a millisecond.
LOOK = 0.2
# How much a new value counts in the running loss and rate.
WEIGHT = 0.3
# Columns of the bar itself, at least and at most.
BAR = (6, 40)
GAP = "  "
# Lines of the notes at the start of a run, at most, and the variable of the environment that lifts it.
MOST, NOTES = 5, "ONECYCLE_NOTES"
# Columns of the line in a notebook, whose width is not known.
NOTEBOOK = 100


class NotebookOutput:
    """Text under a notebook's cell that is replaced in place: lines that stay, and below them the bar."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._handle: Any = None

    def show(self, bar: str = "") -> None:
        """Show the lines and `bar`, in the place of what was shown before."""
        from IPython.display import display  # type: ignore[import-not-found]

        data = {"text/plain": "\n".join([*self.lines, bar] if bar else self.lines)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


class Progress:
    """An observer that shows how far a run is.

    On a terminal: one bar with updates done, loss, learning rate, momentum, rate and time left, as much of it as the
    width holds, and one lasting line an epoch. In a notebook the same, as text that is replaced in place. Elsewhere:
    one plain line an epoch. The bar's loss is a running mean of those that it saw, a few a second; the lines have the
    true means. Where labels are smoothed, the training loss is shown without that, as the validation loss is.

    Args:
        epochs: how many the run has, where that is known.
        stream: where to write, standard error at default; in a notebook, under the cell.
        unit: what a sample is called, such as "images".
        terminal: draw as on a terminal; whether `stream` is one, at default.

    >>> progress = Progress(epochs=2, stream=sys.stdout, terminal=False)
    >>> progress(EpochEnd(0, 40, {"loss": 0.91}, {"loss": 0.75, "accuracy": 0.8125}, {"lr": 0.1}, 5120, 2.5))
    epoch 1/2  train loss 0.9100  valid loss 0.7500  valid accuracy 0.8125  2.5 s
    """

    def __init__(
        self, *, epochs: float | None, stream: TextIO | None = None, unit: str = "samples", terminal: bool | None = None
    ):
        self._notebook = NotebookOutput() if stream is None and terminal is None and in_notebook() else None
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._notebook is None and (self._stream.isatty() if terminal is None else terminal)
        self._epochs, self._unit = epochs, unit
        self._live: Live | None = None
        self._loss: float | None = None
        self._rate: float | None = None
        # Samples and time are counted from `_since` on: not through an evaluation, nor before a run was resumed.
        self._samples, self._since = 0, None
        # A run that is over before the first look never pays for a bar.
        self._due = LOOK if self._terminal or self._notebook else math.inf

    def __call__(self, event: Event) -> None:
        """Take note of an event; for nearly all updates, that is a comparison of times."""
        if isinstance(event, EpochEnd):
            self._since = None
            self._say(_fitted(_epoch_fields(event, self._epochs), self._width))
            return
        if self._since is None:
            self._samples, self._since = 0, event.seconds
        else:
            self._samples += event.samples
        if event.seconds >= self._due:
            self._look(event)

    def close(self) -> None:
        """Remove the bar and give the terminal its cursor back; more than once is harmless."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._notebook is not None and self._loss is not None:
            self._notebook.show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def table(self, result: Mapping[str, Any]) -> None:
        """Remove the bar and write the closing table of a result: see `summary`."""
        self.close()
        for line in summary(result, unit=self._unit, width=self._width):
            self._say(line)

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=self._stream, force_terminal=True, highlight=False)

    @property
    def _width(self) -> int | None:
        return self._console.width if self._terminal else None

    def _say(self, line: str) -> None:
        """Write a line that stays, above the bar if there is one."""
        if self._notebook is not None:
            self._notebook.lines.append(line)
            self._notebook.show()
        elif self._live is not None:
            self._console.print(line, markup=False, emoji=False, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            print(line, file=self._stream, flush=True)

    def _look(self, event: Update) -> None:
        self._due = event.seconds + LOOK
        self._loss = _running(self._loss, comparable(event.row)["loss"])
        if self._samples and self._since is not None and event.seconds > self._since:
            self._rate = _running(self._rate, self._samples / (event.seconds - self._since))
        self._samples, self._since = 0, event.seconds
        self._draw(_update_fields(event, self._loss, self._rate, self._unit), _share(event))

    def _draw(self, fields: list[tuple[int, str]], share: float) -> None:
        if self._notebook is not None:
            done = round(share * BAR[1])
            self._notebook.show(_fitted([(-1, "━" * done + "┄" * (BAR[1] - done)), *fields], NOTEBOOK))
            return
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        width = self._console.width - 1  # a full last column makes some terminals wrap
        said = _fitted(fields, width - BAR[0] - len(GAP))
        line = Table.grid(padding=(0, len(GAP), 0, 0))
        room = width - len(said) - len(GAP)
        if room >= BAR[0]:
            line.add_row(ProgressBar(total=1.0, completed=share, width=min(room, BAR[1])), said)
        else:
            line.add_row(said)
        if self._live is None:
            # Without a thread of its own: it is drawn when an update says so. Other people's prints go above the bar.
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True,
                redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty(),
            )  # fmt: skip
            self._live.start()
        self._live.update(line, refresh=True)


def summary(
    result: Mapping[str, Any], *, unit: str = "samples", width: int | None = None, more: Sequence[str] = ()
) -> list[str]:
    """The closing table of a result, as lines no wider than `width`, and `more` lines before that of its folder.

    >>> result = {
    ...     "train": {"loss": 0.0123, "accuracy": 0.9987}, "valid": {"loss": 0.0456, "accuracy": 0.99}, "test": None,
    ...     "folder": "runs/one", "lr_max": 0.06, "epochs": 10, "updates": 1000, "seconds": 83.2,
    ...     "samples_per_second": 12345.6,
    ... }
    >>> print(*summary(result, unit="images"), sep="\\n")
             loss  accuracy
    train  0.0123    0.9987
    valid  0.0456    0.9900
    1,000 updates (10 epochs) in 1 min 23 s, 12,346 images/s, peak learning rate 0.06
    The run is in runs/one
    """
    splits = {split: comparable(result[split]) for split in ("train", "valid", "test", "flipped") if result.get(split)}
    names = dict.fromkeys(name for means in splits.values() for name in means)
    heads = ["", *("test, flips" if split == "flipped" else split for split in splits)]
    lines = [head.ljust(max(5, *map(len, heads))) for head in heads]
    for name in names:
        cells = [name, *(_number(means[name]) if name in means else "" for means in splits.values())]
        wide = max(map(len, cells))
        if width is None or len(lines[0]) + len(GAP) + wide <= width:
            lines = [line + GAP + cell.rjust(wide) for line, cell in zip(lines, cells, strict=True)]
    said = (
        f"{text.count(result['updates'], 'update')} ({text.count(round(result['epochs'], 2), 'epoch')}) in "
        f"{text.duration(result['seconds'])}, {text.rate(result['samples_per_second'])} {unit}/s, "
        f"peak learning rate {text.number(result['lr_max'])}"
    )
    for line in (without_learning(result), rescued(result), said):
        lines += textwrap.wrap(line, width) if width else [line] if line else []
    return [*lines, *more, *([f"The run is in {result['folder']}"] if result.get("folder") else [])]


def rescued(result: Mapping[str, Any]) -> str:
    """How often a run was rescued, where it was.

    >>> rescued({"rescues": [{"step": 21, "back_to": 0, "factor": 0.5}, {"step": 60, "back_to": 20, "factor": 0.25}]})
    'rescued 2 times, at updates 21 and 60; in the end learning rates x 0.25'
    """
    rescues = result.get("rescues") or []
    if not rescues:
        return ""
    steps = text.listed([str(rescue["step"]) for rescue in rescues])
    return (
        f"rescued {text.count(len(rescues), 'time')}, at update{'s' * (len(rescues) > 1)} {steps}; in the end learning "
        f"rates x {rescues[-1]['factor']:.3g}"
    )


def without_learning(result: Mapping[str, Any]) -> str:
    """What is reached on the validation data without learning, where a result has it.

    >>> without_learning({"baseline": {"measure": "accuracy", "value": 0.5, "by": "always saying 'cat'"}})
    "valid: always saying 'cat' gives accuracy 50.00 %"
    """
    base = result.get("baseline")
    if not base:
        return ""
    name = base["measure"].replace("_", " ")
    return f"valid: {base['by']} gives {name} {text.measure(base['measure'], base['value'])}"


def notes(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print notes on what was decided, a line each, to standard error at default.

    >>> notes(["loss: cross-entropy, since the targets are int64 classes"], sys.stdout)
    note: loss: cross-entropy, since the targets are int64 classes
    """
    to = sys.stderr if stream is None else stream
    for line in lines:
        print(text.folded(f"note: {line}", to), file=to, flush=True)


class NoteBlock:
    """Notes that are printed as they come, `MOST` lines of them before a run trains; those beyond are counted.

    A line is kept for a `chief` note, such as where a run goes on, and one for the count. The environment's
    ``ONECYCLE_NOTES=all``, which the commands' ``--verbose`` sets, has all of them printed.

    >>> block = NoteBlock(sys.stdout)
    >>> block.add("one", "two", "three", "four", "five", "six")
    note: one
    note: two
    note: three
    >>> block.add("runs/a goes on after 20 updates", chief=True)
    note: runs/a goes on after 20 updates
    >>> block.close("learn.notes has them")
    note: and 3 more: learn.notes has them
    >>> block.add("stopped after 40 updates")
    note: stopped after 40 updates
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._said, self._held = 0, list[str]()
        self._closed = False

    def add(self, *lines: str, chief: bool = False) -> None:
        """Print notes, as far as there is room for them."""
        every = chief or self._closed or os.environ.get(NOTES) == "all"
        room = len(lines) if every else max(0, MOST - 2 - self._said)
        notes(lines[:room], self._stream)
        self._said += len(lines[:room])
        self._held += lines[room:]

    def close(self, where: str) -> None:
        """Fill the room that is left, and say how many more there are and `where`; what comes later is printed."""
        held, room = self._held, max(1, MOST - self._said)
        shown = held if len(held) <= room else held[: room - 1]
        more = len(held) - len(shown)
        notes([*shown, *([f"and {more} more: {where}"] if more else [])], self._stream)
        self._held, self._closed = [], True


def _epoch_fields(event: EpochEnd, epochs: float | None) -> list[tuple[int, str]]:
    """The pieces of an epoch's line, each with its rank: that of the largest rank is left out first."""
    last = "" if epochs is None else f"{math.ceil(epochs)}"
    fields = [(0, f"epoch {event.epoch + 1:>{len(last)}}" + (f"/{last}" if last else ""))]
    train = comparable(event.train)
    split, means = ("train", train) if event.valid is None else ("valid", event.valid)
    if event.valid is not None and "loss" in train:
        fields.append((4, f"train loss {_number(train['loss'])}"))
    main = next((name for name in means if name != "loss"), "loss")
    for name, value in means.items():
        rank = 1 if name == main else 3 if name == "loss" else 5
        fields.append((rank, f"{split} {name} {_number(value)}"))
    return [*fields, (2, text.duration(event.seconds))]


def _update_fields(event: Update, loss: float, rate: float | None, unit: str) -> list[tuple[int, str]]:
    """The pieces of the bar's line, ranked as in `_epoch_fields` and padded so that they stay in place."""
    share = _share(event)
    if event.updates is None:
        fields = [(0, f"{share:4.0%}")]
    else:
        total = f"{event.updates:,}"
        fields = [(0, f"{event.step + 1:>{len(total)},}/{total}")]
    fields += [(1, f"loss {_number(loss)}"), (3, f"lr {event.lr:<8.3g}")]
    if "momentum" in event.values:
        fields.append((5, f"momentum {event.values['momentum']:.3f}"))
    if rate is not None:
        fields.append((4, f"{text.rate(rate)} {unit}/s"))
    if share > 0:
        fields.append((2, f"{text.duration(round(event.seconds * (1 - share) / share))} left"))
    return fields


def _fitted(fields: list[tuple[int, str]], width: int | None) -> str:
    """One line of the pieces, without the least important ones where they are too wide together."""
    line = GAP.join(piece for _, piece in fields)
    if width is None or len(line) <= width or len(fields) == 1:
        return line
    least = max(fields)
    return _fitted([field for field in fields if field is not least], width)


def _share(event: Update) -> float:
    return (event.step + 1) / event.updates if event.updates else event.progress


def _running(mean: float | None, value: float) -> float:
    return value if mean is None or not math.isfinite(mean) else mean + WEIGHT * (value - mean)


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3e}"

"""They watch, they change nothing: called with each event, in the order in which they are given.

An observer is any function of an event (`Update` or `EpochEnd`). `Learner.fit` calls `close()` where it has one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import CheckpointError
from ..training.loop import LOOK_EVERY, EpochEnd, Event, Update
from . import checkpoint
from .files import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..training.state import TrainState

Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """What a fit came to.

    `train` are the means over the last epoch's batches, in training mode; `valid` is measured at its end.
    """

    train: dict[str, float]
    valid: dict[str, float] | None
    lr_max: float
    epochs: float
    updates: int
    seconds: float
    samples_per_second: float


def step_record(event: Update) -> dict[str, Any]:
    """An update as a flat record: step, epoch, the policy's values, loss and metrics, seconds since the run's start."""
    return event.row


def epoch_record(event: EpochEnd) -> dict[str, Any]:
    """An epoch as a flat record: epoch, its last step, ``train_*`` and ``valid_*`` means, samples, training seconds."""
    return event.row


class _Rows:
    """Updates become records a few at a time: reading a loss makes an accelerator wait."""

    def __init__(self, sink: Callable[[dict[str, Any]], None]):
        self._sink = sink
        self._pending: list[Update] = []

    def add(self, event: Update) -> None:
        self._pending.append(event)
        if len(self._pending) >= LOOK_EVERY:
            self.drain()

    def drain(self) -> None:
        pending, self._pending = self._pending, []
        for event in pending:
            self._sink(step_record(event))


class History:
    """The records of a run in memory: `steps` and `epochs`, lists of flat dictionaries.

    >>> History().epochs
    []
    """

    def __init__(self, steps: Iterable[dict[str, Any]] = (), epochs: Iterable[dict[str, Any]] = ()):
        self._steps = list(steps)
        self.epochs = list(epochs)
        self._rows = _Rows(self._steps.append)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One record an update."""
        self._rows.drain()
        return self._steps

    def __call__(self, event: Event) -> None:
        if isinstance(event, Update):
            self._rows.add(event)
        else:
            self.epochs.append(epoch_record(event))

    def result(self, lr_max: float | None, updates_per_epoch: int | None) -> Result:
        """What the run came to; without `lr_max` its peak is the largest learning rate that was used."""
        epochs, steps = self.epochs, self.steps
        last = epochs[-1]
        means = {kind: {k[6:]: v for k, v in last.items() if k.startswith(kind)} for kind in ("train_", "valid_")}
        return Result(
            train=means["train_"],
            valid=means["valid_"] or None,
            lr_max=lr_max or max(row["lr"] for row in steps),
            epochs=len(steps) / updates_per_epoch if updates_per_epoch else float(len(epochs)),
            updates=len(steps),
            seconds=steps[-1]["seconds"],
            samples_per_second=sum(row["samples"] for row in epochs) / sum(row["seconds"] for row in epochs),
        )

    def plot(self, title: str | None = None) -> Figure:
        """Draw losses and metrics, learning rate and momentum against updates; needs ``onecycle[plot]``."""
        from ..report.draw_run import history_figure

        return history_figure(self.steps, self.epochs, title=title)


class Recorder:
    """Appends each update to ``steps.jsonl`` and each epoch to ``epochs.jsonl`` in a run's folder.

    Raises:
        CheckpointError: the disk is full or not writable; what was recorded stays.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._steps = self._open("steps.jsonl")
        self._epochs = self._open("epochs.jsonl")
        self._rows = _Rows(lambda row: self._write(self._steps, row))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Update):
            self._rows.add(event)
        else:
            self._write(self._epochs, epoch_record(event))
            self.flush()

    def flush(self) -> None:
        """Everything so far to the operating system, where it outlives this process."""
        self._rows.drain()
        for file in (self._steps, self._epochs):
            self._guarded(file.flush)

    def sync(self) -> None:
        """Everything so far to the disk, where it outlives a power cut: a checkpoint relies on it."""
        self.flush()
        for file in (self._steps, self._epochs):
            self._guarded(lambda file=file: os.fsync(file.fileno()))

    def close(self) -> None:
        """Flush, and close the files."""
        with ExitStack() as stack:
            stack.callback(lambda: self._guarded(self._epochs.close))
            stack.callback(lambda: self._guarded(self._steps.close))
            self._rows.drain()

    def _open(self, name: str) -> TextIO:
        return self._guarded(lambda: (self._folder / name).open("a", encoding="utf-8", buffering=1 << 16))

    def _write(self, file: TextIO, record: dict[str, Any]) -> None:
        self._guarded(lambda: file.write(json.dumps(record) + "\n"))

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            raise CheckpointError(
                f"cannot write the records in {self._folder}: {error}. Free some space and go on with "
                f"--resume {self._folder}"
            ) from error


class Checkpointer:
    """Saves the state every so many seconds and at the end of an epoch, within a share of the run's time.

    A checkpoint is due `every` seconds after the last, or at the end of an epoch. It waits while saving would take more
    than `share` of the time since the last one, judged by what that one took: epochs of a fraction of a second are not
    all saved. The last `keep` stay. `before` is called first (to write the records that a resumed run relies on).

    Raises:
        NonFiniteLoss: a loss or a weight is not finite; nothing is saved, and the last good checkpoint stays.
        CheckpointError: the disk is full or not writable.
    """

    def __init__(
        self, state: TrainState, folder: str | Path, *, every: float = 30.0, share: float = 0.01, keep: int = 2,
        before: Callable[[], None] | None = None,
    ):  # fmt: skip
        self._state, self._folder, self._keep = state, Path(folder), keep
        self._every, self._share, self._before = every, share, before
        self._last, self._cost = time.perf_counter(), 0.0

    def __call__(self, event: Event) -> None:
        since = time.perf_counter() - self._last
        if since * self._share < self._cost:
            return
        if isinstance(event, EpochEnd) or since >= self._every:
            self.save()

    def save(self) -> Path:
        """Save now."""
        start = time.perf_counter()
        self._state.check_finite()
        if self._before is not None:
            self._before()
        path = checkpoint.save(self._state.state_dict(), self._folder, self._state.step, keep=self._keep)
        self._last = time.perf_counter()
        self._cost = self._last - start
        return path


def read_history(folder: str | Path) -> History:
    """The history of a run on disk."""
    folder = Path(folder)
    return History(read_jsonl(folder / "steps.jsonl"), read_jsonl(folder / "epochs.jsonl"))

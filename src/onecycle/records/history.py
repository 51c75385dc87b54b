"""Observers: they are called with each event, in the order in which they are given, and change nothing.

An observer is any function of an event (`Update` or `EpochEnd`). `Learner.fit` calls its `begin(measured)` before the
first one, where it has such a method, with what a run that is resumed has measured before: see `History.measured`.
"""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import torch

from .. import text
from ..checks import cores, one_of
from ..errors import CheckpointError, ConfigError, MissingDependency, NonFiniteLoss, TrainingError
from ..training.copies import copied_into
from ..training.guard import LOOK_EVERY
from ..training.loop import EpochEnd, Event, Update
from ..training.rescue import Rescue
from . import checkpoint
from .beside import NEVER_CHANGED, Writing
from .files import lock, sync_file
from .read import comparable, main_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from ..training.state import TrainState

Observer = Callable[[Event], None]
FLUSH_EVERY = 1.0  # seconds after which what was recorded is brought to where others can read it


@dataclass(frozen=True, repr=False)
class Result:
    """What a fit came to.

    `train` are the means over the last epoch's batches, in training mode; `valid` is measured at its end, and `test`
    once after the run, where there is such a split. Where labels are smoothed, ``train["loss"]`` is the loss that was
    minimised, and ``train["loss_unsmoothed"]`` compares with the validation loss. `flipped` is the test with the mean
    over each image and its mirror image, where it was asked for. `baseline` is what is reached on the
    validation data without learning, where that is known: a ``measure``, its ``value``, and ``by`` what. `rescues` are
    those of a run that was lost, each with its update ``step`` and what it went ``back_to``; see
    `onecycle.training.rescue`. `folder` is the run's, if it has one.
    """

    train: dict[str, float]
    valid: dict[str, float] | None
    lr_max: float
    epochs: float
    updates: int
    seconds: float
    samples_per_second: float
    test: dict[str, float] | None = None
    baseline: dict[str, Any] | None = None
    rescues: list[dict[str, Any]] = field(default_factory=list)
    flipped: dict[str, float] | None = None
    folder: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the ``result`` of a run's ``run.json``, and the folder where there is one."""
        names = ("train", "valid", "test", "lr_max", "epochs", "updates", "seconds", "samples_per_second", "baseline")
        folder = {} if self.folder is None else {"folder": str(self.folder)}
        more = {name: value for name in ("rescues", "flipped") if (value := getattr(self, name))}
        return {**{name: getattr(self, name) for name in names}, **more, **folder}

    def __repr__(self) -> str:
        split = next(split for split in ("test", "valid", "train") if getattr(self, split) is not None)
        name, value = main_value(comparable(getattr(self, split))) or ("loss", float("nan"))
        return (
            f"Result({split} {name} {text.measure(name, value)}, {text.count(self.updates, 'update')} in "
            f"{text.duration(self.seconds)}, lr_max={text.number(self.lr_max)}{self._rescued})"
        )

    @property
    def _rescued(self) -> str:
        return f", rescued {text.count(len(self.rescues), 'time')}" if self.rescues else ""

    def _repr_html_(self) -> str:
        splits = {name: comparable(means) for name in ("train", "valid", "test") if (means := getattr(self, name))}
        names = list(dict.fromkeys(name for means in splits.values() for name in means))
        rows = [
            [split, *(text.measure(name, means[name]) if name in means else "" for name in names)]
            for split, means in splits.items()
        ]
        return text.html_table(rows, ["", *names], repr(self))


class History:
    """The records of a learner's fits in memory: `steps` and `epochs`, lists of flat dictionaries.

    Each record has ``fit``, the number of its fit from 0, and what the event's `row` has; steps and epochs are counted
    within their fit.

    >>> History()
    History(no updates)
    """

    def __init__(self, steps: Iterable[dict[str, Any]] = (), epochs: Iterable[dict[str, Any]] = ()):
        self._fit = 0
        self._steps: list[dict[str, Any]] = []
        self._epochs: list[dict[str, Any]] = []
        self._measured: list[dict[str, Any]] = []  # those of both with something that was measured on validation data
        self._pending: list[Event] = []
        self.extend(steps, epochs)

    def __call__(self, event: Event) -> None:
        self._pending.append(event)
        if len(self._pending) >= LOOK_EVERY and event.is_read:
            self._take()

    def begin_fit(self) -> None:
        """Count what follows to another fit, unless the one before recorded nothing."""
        if any(records and records[-1]["fit"] == self._fit for records in (self.steps, self.epochs)):
            self._fit += 1

    @property
    def trained(self) -> bool:
        """Whether the last fit has an update."""
        return bool(self.steps) and self.steps[-1]["fit"] == self._fit

    def check_trained(self, reason: str | None) -> None:
        """Validate that the last fit has an update, and was not rescued in vain; `reason` is what it was ended for.

        Raises:
            ConfigError: it has none.
            TrainingError: it was rescued, and its last validation loss is not finite all the same.
        """
        if not self.trained:
            raise ConfigError(
                f"nothing was trained: an observer asked for the end before the first update ({reason}). Let its begin "
                "raise StopTraining only where something was measured before, or leave that observer out"
            )
        self._check_saved()

    def _check_saved(self) -> None:
        """Raise a TrainingError where a fit was rescued, and its last validation loss is not finite all the same."""
        rescues, measured = self.rescues(), self.measured()
        loss = measured[-1][1].get("loss", 0.0) if measured else 0.0
        if rescues and not math.isfinite(loss):
            times = text.count(len(rescues), "time")
            raise TrainingError(
                f"the run was rescued {times} and is lost all the same: its validation loss is {loss}. Try a much "
                "smaller lr_max, clip=1.0, or a longer warm-up"
            )

    def extend(self, steps: Iterable[dict[str, Any]], epochs: Iterable[dict[str, Any]]) -> None:
        """Add records of the fit under way, such as those of a run that is resumed."""
        for records, rows in ((self.steps, steps), (self.epochs, epochs)):
            records.extend(added := [{"fit": self._fit, **row} for row in rows])
            self._measured += [row for row in added if any(name.startswith("valid_") for name in row)]

    def measured_at_end(self, valid: Mapping[str, float]) -> None:
        """Add what was measured after the last epoch, whose end turned out to be that of the run, to its record."""
        self.epochs[-1].update(named(valid, "valid_"))
        self._measured.append(self.epochs[-1])

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One record an update."""
        self._take()
        return self._steps

    @property
    def last_fit(self) -> list[dict[str, Any]]:
        """The records of the last fit's updates."""
        return self._of_last_fit(self.steps)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """One record an epoch."""
        self._take()
        return self._epochs

    @property
    def last_epochs(self) -> list[dict[str, Any]]:
        """The records of the last fit's epochs."""
        return self._of_last_fit(self.epochs)

    def result(self, lr_max: float | None, updates_per_epoch: int | None) -> Result:
        """What the last fit came to; without `lr_max` its peak is the largest learning rate that was used."""
        epochs, steps = self.last_epochs, self.last_fit
        measured = self.measured()
        return Result(
            train=_means(epochs[-1], "train_"),
            valid=measured[-1][1] if measured else None,
            lr_max=lr_max or max(row["lr"] for row in steps),
            epochs=len(steps) / updates_per_epoch if updates_per_epoch else float(len(epochs)),
            updates=len(steps),
            seconds=steps[-1]["seconds"],
            samples_per_second=sum(row["samples"] for row in epochs) / sum(row["seconds"] for row in epochs),
            rescues=[rescue.to_dict() for rescue in self.rescues()],
        )

    def rescues(self) -> list[Rescue]:
        """Those of the last fit."""
        rescued = (row for row in self.last_fit if "rescue_factor" in row)
        return [rescue for row in rescued if (rescue := Rescue.of(row))]

    def measured(self) -> list[tuple[int, dict[str, float]]]:
        """What the last fit measured on the validation data: each with the number of the update before, in order."""
        self._take()
        measured = {row["step"]: _means(row, "valid_") for row in self._of_last_fit(self._measured)}
        return sorted(measured.items())

    def plot(self, title: str | None = None) -> Figure:
        """Draw losses and metrics, learning rate and momentum against updates; needs ``onecycle[plot]``."""
        from ..report.draw_run import history_figure

        return history_figure(self.steps, self.epochs, title=title)

    def to_frame(self, records: Literal["epochs", "steps"] = "epochs") -> DataFrame:
        """The records as a pandas data frame, a row an epoch or a row an update.

        Raises:
            ConfigError: neither "epochs" nor "steps".
            MissingDependency: pandas is not installed.
        """
        one_of("kind of records", records, ("epochs", "steps"))
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise MissingDependency("a data frame needs pandas: pip install pandas") from error
        return DataFrame(getattr(self, records))

    def __repr__(self) -> str:
        if not self.steps:
            return "History(no updates)"
        counts = [text.count(self._fit + 1, "fit")] if self._fit else []
        counts += [text.count(len(self.epochs), "epoch"), text.count(len(self.steps), "update")]
        return f"History({', '.join(counts)})"

    def _repr_html_(self) -> str:
        rows = [comparable(row) for row in self.epochs]
        names = ["fit"] * bool(self._fit) + ["epoch"]
        names += dict.fromkeys(name for row in rows for name in row if name.startswith(("train_", "valid_")))
        cells = [[_cell(name, row.get(name)) for name in (*names, "lr", "seconds")] for row in rows]
        return text.html_table(cells, [name.replace("_", " ") for name in (*names, "lr", "seconds")], repr(self))

    def _take(self) -> None:
        pending, self._pending = self._pending, []
        for event in pending:
            row = {"fit": self._fit, **event.row}
            (self._steps if isinstance(event, Update) else self._epochs).append(row)
            if event.valid:
                self._measured.append(row)

    def _of_last_fit(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the last fit, which come last: earlier fits may have many more."""
        number = itemgetter("fit")
        return records[bisect_left(records, self._fit, key=number) : bisect_right(records, self._fit, key=number)]


def named(means: Mapping[str, float], kind: str) -> dict[str, float]:
    """Means as fields of a row whose names begin with `kind`."""
    return {f"{kind}{name}": value for name, value in means.items()}


def _means(row: dict[str, Any], kind: str) -> dict[str, float]:
    """The means of a row whose names begin with `kind`, under the rest of their names."""
    return {name.removeprefix(kind): value for name, value in row.items() if name.startswith(kind)}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("fit", "epoch"):
        return str(value + 1)
    return text.duration(value) if name == "seconds" else text.measure(name, value)


class Recorder:
    """Appends each update to ``steps.jsonl`` and each epoch to ``epochs.jsonl`` in a run's folder.

    Raises:
        CheckpointError: the disk is full or not writable; what was recorded stays.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._steps = self._open("steps.jsonl")
        lock(self._steps)
        self._epochs = self._open("epochs.jsonl")
        self._pending: list[Event] = []
        self._flushed = 0.0

    def __call__(self, event: Event) -> None:
        self._pending.append(event)
        if isinstance(event, EpochEnd):
            self.flush()
        elif event.is_read and event.seconds - self._flushed >= FLUSH_EVERY:
            self._flushed = event.seconds
            self.flush()
        elif len(self._pending) >= LOOK_EVERY and event.is_read:
            self._write()

    def flush(self) -> None:
        """Bring everything so far to the operating system, where it outlives this process."""
        self._write()
        for file in (self._steps, self._epochs):
            self._guarded(file.flush)

    def sync(self) -> None:
        """Bring everything so far to the disk, where it outlives a power cut: a checkpoint relies on it."""
        self._write()
        for file in (self._steps, self._epochs):
            self._guarded(lambda file=file: sync_file(file))

    def close(self) -> None:
        """Write what is left, and close the files."""
        with ExitStack() as stack:
            stack.callback(lambda: self._guarded(self._epochs.close))
            stack.callback(lambda: self._guarded(self._steps.close))
            self._write()

    def _open(self, name: str) -> TextIO:
        return self._guarded(lambda: (self._folder / name).open("a", encoding="utf-8", buffering=1 << 16))

    def _write(self) -> None:
        pending, self._pending = self._pending, []
        for event in pending:
            file, line = self._steps if isinstance(event, Update) else self._epochs, json.dumps(event.row) + "\n"
            self._guarded(lambda file=file, line=line: file.write(line))

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

    In the `background`, as in a run with a folder, events wait for a copy of the state in memory alone; a thread writes
    that to the disk, one at a time. What goes wrong there is raised by the next event, by `save` or by `wait`, which is
    to be called after the last event.

    A checkpoint is due `every` seconds after the last, or at the end of an epoch. It waits while the one before is
    written, and while it would take more than `share` of the time since that one, judged by what that one took: what
    the training waited, and, where the training has a thread for every core, the work of writing. So epochs of a
    fraction of a second are not all saved. The last `keep` stay. `before` is called first (to write the records that a
    resumed run relies on).

    Raises:
        NonFiniteLoss: a loss or a weight is not finite, in a run that is not rescued; nothing is saved, and the last
            good checkpoint stays.
        CheckpointError: the disk is full or not writable.
    """

    def __init__(
        self, state: TrainState, folder: str | Path, *, every: float = 30.0, share: float = 0.01,
        keep: int = checkpoint.KEPT,
        before: Callable[[], None] | None = None, background: bool = False,
    ):  # fmt: skip
        self._state, self._folder, self._keep, self._background = state, Path(folder), keep, background
        self._every, self._share, self._before = every, share, before
        self._last, self._cost = time.perf_counter(), 0.0
        self._copy: dict[str, Any] = {}  # of the state as it was saved last, whose memory is used again
        self._writing: Writing | None = None

    def __call__(self, event: Event) -> None:
        ranks, sharded = self._state.runtime.ranks, self._state.is_sharded
        if not (ranks.is_main or sharded):
            return
        if self._writing is not None and not self._writing.is_alive():
            self.wait()
        since = time.perf_counter() - self._last
        busy = self._writing is not None and self._share < 1
        due = not busy and since * self._share >= self._cost and (isinstance(event, EpochEnd) or since >= self._every)
        if ranks.any(ranks.is_main and due) if sharded else due:  # shards are put together by all ranks
            try:
                if self._background:
                    self._begin()
                else:
                    self.save()
            except NonFiniteLoss as error:
                if self._state.watch is None:
                    error.__dict__["alone"] = True  # of several ranks the main one looks
                    raise  # else the next update finds it, and goes back to what was kept

    def save(self) -> Path:
        """Save the state as it is now, and wait until it is written; returns the checkpoint's folder.

        Raises:
            NonFiniteLoss, CheckpointError: as the class says; also what went wrong with the one before.
        """
        start = time.perf_counter()
        if self._state.runtime.ranks.is_main or self._state.is_sharded:
            self._begin()
            self.wait()
        self._last = time.perf_counter()
        self._cost = self._last - start
        return checkpoint.path_of(self._folder, self._state.step)

    def _begin(self) -> None:
        """Copy the state as it is now, and begin to write it."""
        start = time.perf_counter()
        self.wait()
        self._state.check_finite()
        if self._before is not None:
            self._before()
        state = self._state.state_dict()
        if not self._state.runtime.ranks.is_main:
            return
        self._copy = state if self._state.is_sharded else copied_into(self._copy, state, leave=NEVER_CHANGED)
        self._writing = Writing(partial(checkpoint.save, self._copy, self._folder, self._state.step, keep=self._keep))
        self._last = time.perf_counter()
        self._cost = self._last - start

    def wait(self) -> None:
        """Wait for what is being written, if anything is. Where that is interrupted, it can be waited for again.

        Raises:
            CheckpointError: it cannot be written; the checkpoints before are untouched.
        """
        if (writing := self._writing) is not None:
            try:
                seconds = writing.end()
            except BaseException as error:
                if error is writing.error:  # else the wait was interrupted, and it is written still
                    self._writing = None
                raise
            self._writing = None
            if torch.get_num_threads() >= cores():
                self._cost += seconds

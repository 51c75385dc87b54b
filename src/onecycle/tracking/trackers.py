"""An observer that sends what a run records to the trackers that were asked for, and no error of theirs any further."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError, MissingDependency, OneCycleError
from ..records.files import RUN
from ..records.history import History, Observer
from ..text import count, listed
from ..training.guard import LOOK_EVERY
from ..training.loop import EpochEnd, Event, Update
from ..training.options import NO_TRACKER
from .mlflow import MlflowTracker, check_mlflow
from .tensorboard import TensorBoardTracker, check_tensorboard
from .tracker import TrackedRun, Tracker, check_host, without_credentials
from .values import RESULT, Row, Rows, SentTable, numbers, of_result
from .wandb_style import check_trackio, check_wandb, open_trackio, open_wandb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPEN: dict[str, Callable[[TrackedRun], Tracker]] = {
    "trackio": open_trackio, "wandb": open_wandb, "tensorboard": TensorBoardTracker.open, "mlflow": MlflowTracker.open,
}  # fmt: skip
# What can be looked at before a run is begun, which it does not begin.
CHECK: dict[str, Callable[[TrackedRun], None]] = {
    "trackio": check_trackio, "wandb": check_wandb, "tensorboard": check_tensorboard, "mlflow": check_mlflow,
}  # fmt: skip
# What of a run's record is sent as its configuration.
CONFIG = ("config", "resolved", "facts", "extends", "versions", "hardware", "git_commit", "command", "created")
# Where epochs are short, seconds from one sending to the next at their ends: each costs more than the rows in it.
PAUSE = 1.0
# Errors of a tracker may take such a share of the time: it is tried again after so many times as long as it took.
PATIENCE = 9.0
# Characters of one in a note.
LONGEST = 160


@dataclass
class Sending:
    """A tracker's run, the rows that it is still to have, and what went wrong.

    An error loses nothing by itself: the rows stay, and are sent with those that come after them.
    """

    name: str
    tracker: Tracker
    rows: deque[Row] = field(default_factory=deque)
    lost: list[str] = field(default_factory=list)
    error: Exception | None = None
    again: float = 0.0

    def send(self, rows: Iterable[Row], now: Callable[[], float] = time.perf_counter) -> None:
        """Send what the tracker does not have, unless an error was a short while ago."""
        self.rows += (row for row in rows if self.tracker.known.lacks(row))
        if self.rows and now() >= self.again:
            began = now()
            if not self.tried(partial(self.tracker.log, self.rows)):
                self.again = now() + PATIENCE * (now() - began)

    def tried(self, action: Callable[[], Any], what: str = "") -> bool:
        """Whether an action of the tracker went well; `what` is lost where it did not."""
        try:
            action()
        except Exception as error:  # whatever it is: the training goes on
            self.error = error
            self.lost += [what] * bool(what)
            return False
        return True

    def end(self, status: str) -> str | None:
        """End the run; a sentence about what the tracker did not get, where there is something."""
        self.again = 0.0
        self.send(())
        self.tried(partial(self.tracker.finish, status), "its end")
        kinds = Counter(row.kind for row in self.rows)
        lost = [*(count(n, kind) for kind, n in kinds.items()), *dict.fromkeys(self.lost)]
        if not lost:
            return None
        return f"{self.name} did not get all of this run: {listed(lost)} ({_said(self.error)})"


class Trackers:
    """The trackers of a learner, each with a run for each fit.

    Within a block of it a run stays open after its fit, for what is measured then; the outermost block, which may be
    the fit's, ends it.

    Args:
        names: of the trackers; None for those that a run was tracked by before it was broken off.
        say: told of each note.

    Raises:
        MissingDependency: the package of one is not installed.
    """

    def __init__(self, names: str | Sequence[str] | None, say: Callable[[str], None]):
        self.names, self._say = (names,) if isinstance(names, str) else names, say
        for name in self.names or ():
            if name != NO_TRACKER:
                check_host(name)
        self._open: list[Sending] = []
        self._depth = 0
        self._folder: Path | None = None
        self._tests: list[Any] = []  # range tests that no run has yet
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._rows, self._pending, self._last, self._sent_at = Rows(), list[Event](), 0, -math.inf
        self._result: dict[str, Any] = {}
        self._figures: dict[str, Callable[[], Figure]] = {}
        self._notes: Sequence[str] = ()
        self._forecast: Mapping[str, Any] | None = None

    def __enter__(self) -> Trackers:
        self._depth += 1
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.end(error)

    def check(self, folder: Path | None, resume: bool) -> None:
        """Validate what can be validated of the trackers of a run in `folder` before it is begun, and import them.

        A tracker that the run has already is not looked at: it goes on without that where it must.

        Raises:
            ConfigError: a tracker cannot begin a run.
            MissingDependency: the package of one is not installed, or does not import.
        """
        before = (RUN.read(folder).get("trackers") if folder and resume else None) or {}
        for name in self.names or ():
            if name != NO_TRACKER and name not in before:
                try:
                    CHECK[name](TrackedRun(name, folder, {}))
                except Exception as error:
                    raise _refused(name, error) from error

    def start(self, record: Mapping[str, Any], folder: Path | None, history: History, notes: Sequence[str]) -> None:
        """Begin runs for a fit with this `record`, as ``run.json`` has it, or go on with those that it names.

        A run that is resumed gets what it does not have of the updates before, from `history`. The `notes` are read
        when it is ended.

        Raises:
            ConfigError: a tracker cannot begin a run.
            MissingDependency: the package of one is not installed.
        """
        before = record.get("trackers") or {}
        names = [name for name in (before if self.names is None else self.names) if name != NO_TRACKER]
        if not names:
            return
        self.end(None)
        self._begin_anew()
        self._folder, self._notes = folder, notes
        name = folder.resolve().name if folder else f"fit-{datetime.now():%Y%m%d-%H%M%S}"
        config = {one: record[one] for one in CONFIG if record.get(one)}
        searched = record["resolved"].get("search") or {}
        config["resolved"] = {key: value for key, value in record["resolved"].items() if key != "search"}
        steps, epochs = history.last_fit, history.last_epochs
        for one in names:
            self._begin_run(one, TrackedRun(name, folder, config, before.get(one), len(steps)))
        if folder is not None:
            opened = {one.name: one.tracker.reference for one in self._open}
            RUN.update(folder, trackers={**before, **opened})
        self._figures["curves"] = history.plot
        if pilots := searched.get("pilots"):
            self._each("pilots", lambda t: t.table("pilots", SentTable.of_pilots(pilots), 0), new=True)
        for test in self._tests:
            self._send_range_test(test)
        self._tests = []
        self._send(list(self._rows.all(steps, epochs)))

    def _begin_run(self, name: str, run: TrackedRun) -> None:
        try:
            tracker = OPEN[name](run)
        except MissingDependency:
            raise
        except Exception as error:
            if run.before is None:
                raise _refused(name, error) from error
            self._record([f"{name} cannot go on with a run: {_said(error)}. This run goes on without it"])
            return
        self._open.append(Sending(name, tracker))
        self._say(f"tracked by {name}: {without_credentials(tracker.place)}")

    @property
    def observers(self) -> list[Observer]:
        """This one, where there is a run."""
        return [self] if self._open else []

    def __call__(self, event: Event) -> None:
        """Keep an event until it is read, as the files of a run do: nothing waits for a device for it."""
        self._pending.append(event)
        if event.is_read and (
            len(self._pending) >= LOOK_EVERY
            or (isinstance(event, EpochEnd) and time.perf_counter() - self._sent_at >= PAUSE)
        ):
            self._send_pending()

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, []
        rows = self._rows
        self._send([rows.update(e.row) if isinstance(e, Update) else rows.epoch(e.row) for e in pending])
        self._sent_at = time.perf_counter()

    def _send(self, rows: list[Row]) -> None:
        self._last = max([self._last, *(row.step for row in rows)])
        for sending in self._open:
            sending.send(rows)

    def measured_at_end(self, record: Mapping[str, Any]) -> None:
        """Send what was measured after the last epoch, as its record has it by now."""
        if self._open:
            self._send_pending()
            valid = {name: value for name, value in record.items() if name.startswith("valid_")}
            self._send([Row(record["step"], RESULT, numbers(valid))])

    def range_test(self, test: Any) -> Any:
        """The test, after it is in the run that is open, or kept for the next one."""
        if self._open:
            self._send_range_test(test)
        else:
            self._tests.append(test)
        return test

    def _send_range_test(self, test: Any) -> None:
        self._each(
            "the range test", lambda t: t.table("range_test", SentTable.of_range_test(test.to_dict()), self._last)
        )
        self._each("the range test", lambda t: t.text("range_test_result", test.line(), self._last))
        self._draw({"range_test_curve": test.plot})

    def ended(
        self, result: Mapping[str, Any], forecast: Mapping[str, Any] | None, policy: Callable[[], Figure]
    ) -> None:
        """Keep what a fit came to: it is sent when the run is ended, with what is `tested` until then."""
        self._result, self._forecast = dict(result), forecast
        self._figures["policy"] = policy

    def tested(self, **measured: Mapping[str, float] | None) -> None:
        """Keep what was measured once, after the fit."""
        self._result.update(measured)

    def end(self, error: BaseException | None) -> None:
        """End the runs that are open, with what they came to; an `error` says how they ended else."""
        if not self._open:
            return
        status = "killed" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed" if error else "finished"
        notes: list[str] = []
        try:
            self._send_pending()
            kept = RUN.read(self._folder)["notes"] if self._folder is not None else ()
            said = "\n".join(f"- {note}" for note in dict.fromkeys([*kept, *self._notes]))
            self._each("the notes", lambda t: t.text("notes", said, self._last))
            if self._result:
                self._send_result()
        except Exception as failed:  # such as of a device that is gone, or of a figure
            notes.append(f"the trackers did not get the end of this run: {_said(failed)}")
        notes += [note for sending in self._open if (note := sending.end(status))]
        self._open = []
        self._record(notes)

    def _record(self, notes: Sequence[str]) -> None:
        """Say what was not tracked, and keep it with the run."""
        for note in notes:
            self._say(note)
        if notes and self._folder is not None:
            with suppress(CheckpointError):
                RUN.update(self._folder, notes=[*RUN.read(self._folder)["notes"], *notes])

    def _send_result(self) -> None:
        last = self._last
        self._send([Row(last, RESULT, of_result(self._result))])
        if rescues := self._result.get("rescues"):
            self._each("rescues", lambda t: t.table("rescues", SentTable.of(rescues), last))
        if self._forecast and (expected := self._forecast["expected"]):
            self._each("forecast", lambda t: t.table("forecast", SentTable.of(expected), last))
        self._draw(self._figures)

    def _draw(self, figures: Mapping[str, Callable[[], Figure]]) -> None:
        """Send figures, where matplotlib is installed."""
        from ..report.matplotlib import save

        if find_spec("matplotlib") is None:
            return
        with TemporaryDirectory() as place:
            for name, figure in figures.items():
                path = save(figure(), Path(place) / f"{name}.png")
                self._each(f"the figure {name}", partial(_add_picture, name, path, self._last))

    def _each(self, what: str, action: Callable[[Tracker], None], new: bool = False) -> None:
        for sending in self._open:
            if not new or sending.tracker.known.update == 0:
                sending.tried(partial(action, sending.tracker), what)


def _add_picture(name: str, path: Path, step: int, tracker: Tracker) -> None:
    tracker.picture(name, path, step)


def _refused(name: str, error: Exception) -> OneCycleError:
    """What is raised where a tracker cannot begin a run."""
    if isinstance(error, MissingDependency):
        return error
    return ConfigError(f"{name} cannot begin a run: {_said(error)}. Mend that, or leave out track={name!r}")


def _said(error: object) -> str:
    """The class of an error, where it is not ours, and its first line, or the beginning: some name an address often."""
    line = without_credentials(str(error).strip().partition("\n")[0].rstrip("."))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
    return line if isinstance(error, OneCycleError) else f"{type(error).__name__}: {line}"

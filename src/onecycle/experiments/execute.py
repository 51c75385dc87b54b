"""One run of a comparison: what is to be made, making it, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..jobs.job import Job
from ..jobs.run import finished, run
from ..records.files import RUN
from ..records.run import is_over


@dataclass(frozen=True)
class PlannedRun:
    """One run to be made: its folder and what is trained. A trial run leaves the test set alone."""

    folder: Path
    job: Job
    trial: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with its result as in ``run.json`` or its error, and what else is to be known of it."""

    status: Literal["finished", "failed", "interrupted"]
    result: dict[str, Any] | None = None
    error: str | None = None
    note: str | None = None


Work = Callable[[Sequence[PlannedRun]], Iterator[tuple[PlannedRun, Outcome]]]
"""Makes runs, and gives each with its outcome as it ends."""


def known(planned: PlannedRun) -> Outcome | None:
    """The outcome of a run that needs no work: it has finished, or is a trial that has failed.

    Raises:
        CheckpointError: the folder holds a run with another configuration, or one that cannot be read.
    """
    if not RUN.exists(planned.folder):
        return None
    record = RUN.read(planned.folder)
    result = finished(planned.job, planned.folder, record) if is_over(record) else None
    if result is not None:
        return Outcome("finished", result.to_dict())
    if record["status"] == "failed" and planned.trial:
        return Outcome("failed", error=record["error"])
    return None


def ended(folder: Path) -> Outcome | None:
    """The outcome of the run in `folder`, whatever its configuration, if it has finished.

    Raises:
        CheckpointError: its record cannot be read.
    """
    if not RUN.exists(folder):
        return None
    record = RUN.read(folder)
    return Outcome("finished", record["result"]) if is_over(record) else None


def execute(planned: PlannedRun) -> Outcome:
    """Make a run or resume it; one that fails is tried once more, but for a trial, where failing is an answer.

    Raises:
        KeyboardInterrupt: stopped; the run can be resumed.
    """
    outcome = _attempt(planned)
    return _attempt(planned) if outcome.status == "failed" and not planned.trial else outcome


def _attempt(planned: PlannedRun) -> Outcome:
    try:
        begun = RUN.exists(planned.folder)
        result = run(planned.job, planned.folder, resume=begun, test=not planned.trial, report=False)
        return Outcome("finished", result.to_dict())
    except Exception as error:  # whatever it is, the other runs go on
        return Outcome("failed", error=str(error) or type(error).__name__)


def interruptible(planned: PlannedRun, stopping: Callable[[], bool] = lambda: False) -> Outcome:
    """In a worker: as `execute`, which a SIGINT stops after the update under way and its checkpoint.

    Where it is `stopping` already, nothing is begun. Afterwards SIGINT is ignored: nothing would catch it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Outcome("interrupted") if stopping() else execute(planned)
    except KeyboardInterrupt as stop:
        return Outcome("interrupted", error=str(stop))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Make runs, one after the other in this process or in several processes; what is done already is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .. import runs
from ..errors import ConfigError, Interrupted
from ..interrupt import StopRequest, stop_requests
from ..job import run
from .plan import Task

# Seconds between two looks at whether a stop was asked for.
LOOK = 0.2
DIED = "its process died; where memory is short, give fewer jobs"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with its result as in ``run.json`` or its error."""

    status: Literal["finished", "failed", "interrupted"]
    result: dict[str, Any] | None = None
    error: str | None = None


Work = Callable[[Sequence[Task]], Iterator[tuple[Task, Outcome]]]
"""Makes runs, and gives each with its outcome as it ends."""


def known(task: Task) -> Outcome | None:
    """The outcome of a run that needs none of the work: it has come to its end, or is a trial that has failed.

    Raises:
        CheckpointError: the folder holds a run with another configuration, or one that cannot be read.
    """
    if not (task.folder / "run.json").exists():
        return None
    record = runs.read(task.folder)
    if record["status"] == "finished" and "test" in record["result"]:
        return Outcome("finished", run(task.job, task.folder, resume=True))
    if record["status"] == "failed" and task.trial:
        return Outcome("failed", error=record["error"])
    return None


def execute(task: Task) -> Outcome:
    """Make a run or go on with it; one that fails is tried once more, but for a trial, where failing is an answer.

    Raises:
        KeyboardInterrupt: stopped; the run can be gone on with.
    """
    outcome = _attempt(task)
    return _attempt(task) if outcome.status == "failed" and not task.trial else outcome


def _attempt(task: Task) -> Outcome:
    try:
        begun = (task.folder / "run.json").exists()
        return Outcome("finished", run(task.job, task.folder, resume=begun, test=not task.trial, draw=False))
    except Exception as error:  # whatever it is, the other runs go on
        return Outcome("failed", error=str(error) or type(error).__name__)


@contextmanager
def workers(jobs: int) -> Iterator[Work]:
    """How runs are made within the block: here, or in `jobs` processes that divide the threads between them.

    Raises:
        ConfigError: `jobs` is not a whole number from 1.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"jobs is the number of processes, at least 1; received {jobs!r}")
    if jobs == 1:
        yield _here
        return
    pool = _Pool(jobs)
    try:
        yield pool.work
    finally:
        pool.close()


def _here(tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
    for task in tasks:
        yield task, execute(task)


class _Pool:
    """Processes that stay, since starting one takes seconds."""

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._executor = self._start()

    def work(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
        """As `Work`. When a process dies, what was not done is tried once more, in fresh ones."""
        left = list(tasks)
        for last in (False, True):
            broken = []
            for task, outcome in self._round(left):
                if outcome is None and not last:
                    broken.append(task)
                else:
                    yield task, outcome or Outcome("failed", error=DIED)
            if not broken:
                return
            self.close()
            self._executor, left = self._start(), broken

    def _round(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome | None]]:
        """Each with its outcome; with None where its process died."""
        with stop_requests() as stop:
            waiting = {self._submit(task): task for task in tasks}
            while waiting:
                done, _ = wait(waiting, LOOK, FIRST_COMPLETED)
                self._obey(stop, waiting)
                for future in done:
                    yield waiting.pop(future), _outcome(future)

    def _submit(self, task: Task) -> Future[Outcome]:
        try:
            return self._executor.submit(_in_worker, task)
        except BrokenProcessPool as error:
            future: Future[Outcome] = Future()
            future.set_exception(error)
            return future

    def _obey(self, stop: StopRequest, waiting: dict[Future[Outcome], Task]) -> None:
        """Let the runs under way write their checkpoints, begin no other, and stop."""
        if stop.signal is None:
            return
        running = [future for future in waiting if not future.cancel()]
        for process in self._processes():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
        wait(running)
        raise Interrupted(f"stopped by {signal.Signals(stop.signal).name}", signal=stop.signal)

    def _start(self) -> ProcessPoolExecutor:
        self._before = set(multiprocessing.active_children())
        threads = max(1, torch.get_num_threads() // self._jobs)
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._jobs, context, initializer=_begin, initargs=(threads,))

    def _processes(self) -> list[Any]:
        return [process for process in multiprocessing.active_children() if process not in self._before]

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _outcome(future: Future[Outcome]) -> Outcome | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


def _begin(threads: int) -> None:
    """In a worker: its share of the threads, no signals but those that are sent to it, and no life after its parent."""
    torch.set_num_threads(threads)
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C in the terminal reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _in_worker(task: Task) -> Outcome:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return execute(task)
    except KeyboardInterrupt as stop:
        return Outcome("interrupted", error=str(stop))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

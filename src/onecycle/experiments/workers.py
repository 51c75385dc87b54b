"""Make runs, one after the other in this process or in several processes; what is done already is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..data import loading_once
from ..errors import Interrupted
from ..training.signals import LOOK, StopRequest, stop_requests
from .execute import Outcome, PlannedRun, Work, execute, interruptible
from .options import Placement
from .ray import cluster

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

# In a worker: whether it is to begin no other run, and what lasts as long as it.
_stopping: Event
_life = ExitStack()

DIED = "its process died; where memory is short, give fewer jobs"


@contextmanager
def workers(placement: Placement) -> Iterator[Work]:
    """How runs are made within the block: here, in several processes that divide the threads between them, or on Ray.

    Raises:
        ConfigError: there is no such cluster, or one without a node that is large enough.
        MissingDependency: Ray is not installed.
    """
    if placement.on is not None:
        with cluster(placement) as work:
            yield work
        return
    if placement.jobs == 1:
        yield _here
        return
    pool = _Pool(placement.jobs)
    try:
        yield pool.work
    except Exception:  # such as a full disk: the runs under way would go on to their end first
        pool.stop()
        raise
    finally:
        pool.close()


def _here(runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
    for run in runs:
        yield run, execute(run)


class _Pool:
    """Processes that stay, since starting one takes seconds."""

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._executor = self._start()

    def work(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        """As `Work`. When a process dies, what was not done is tried once more, in fresh ones."""
        left = list(runs)
        for last in (False, True):
            broken = []
            for run, outcome in self._round(left):
                if outcome is None and not last:
                    broken.append(run)
                else:
                    yield run, outcome or Outcome("failed", error=DIED)
            if not broken:
                return
            self.close()
            self._executor, left = self._start(), broken

    def _round(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome | None]]:
        """Each with its outcome; with None where its process died."""
        with stop_requests() as stop:
            waiting = {self._submit(run): run for run in runs}
            while waiting:
                done, _ = wait(waiting, LOOK, FIRST_COMPLETED)
                self._obey(stop, waiting)
                for future in done:
                    yield waiting.pop(future), _outcome(future)

    def _submit(self, planned: PlannedRun) -> Future[Outcome]:
        try:
            with _undisturbed():  # processes start here
                return self._executor.submit(_in_worker, planned)
        except BrokenProcessPool as error:
            future: Future[Outcome] = Future()
            future.set_exception(error)
            return future

    def _obey(self, stop: StopRequest, waiting: dict[Future[Outcome], PlannedRun]) -> None:
        """Let the runs under way write their checkpoints, begin no other, and stop."""
        if stop.signal is None:
            return
        running = {future for future in waiting if not future.cancel()}
        self.stop()
        while running and self._processes():
            running = wait(running, LOOK).not_done
        raise Interrupted(f"stopped by {stop.name}", signal=stop.signal)

    def stop(self) -> None:
        """Have the runs under way write their checkpoints and end, and begin no other."""
        self._stopping.set()  # for those that were handed out and have not begun
        for process in self._processes():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGINT)

    def _start(self) -> ProcessPoolExecutor:
        self._before = set(multiprocessing.active_children())
        threads = max(1, torch.get_num_threads() // self._jobs)
        context = multiprocessing.get_context("spawn")
        self._stopping = context.Event()
        return ProcessPoolExecutor(self._jobs, context, initializer=_begin, initargs=(threads, self._stopping))

    def _processes(self) -> list[Any]:
        return [process for process in multiprocessing.active_children() if process not in self._before]

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _outcome(future: Future[Outcome]) -> Outcome | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Within the block a Ctrl-C waits; in a process that is started there, which would die of it, until `_begin`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int, stopping: Event) -> None:
    """In a worker: its share of the threads, no signals but those that are sent to it, and no life after its parent."""
    global _stopping
    _stopping = stopping
    _life.enter_context(loading_once())
    torch.set_num_threads(threads)
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C in the terminal reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _in_worker(planned: PlannedRun) -> Outcome:
    return interruptible(planned, _stopping.is_set)

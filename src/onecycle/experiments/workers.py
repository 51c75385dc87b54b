"""Make runs, one after the other in this process or in several processes; what is done already is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..data import held
from ..errors import ConfigError, Interrupted
from ..jobs.run import run
from ..records import run as runs
from ..training.signals import StopRequest, stop_requests
from .plan import Task

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

# In a worker: whether it is to begin no other run, and what lasts as long as it.
_stopping: Event
_life = ExitStack()

# Seconds between two looks at whether a stop was asked for.
LOOK = 0.2
DIED = "its process died; where memory is short, give fewer jobs"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with its result as in ``run.json`` or its error."""

    status: Literal["finished", "failed", "interrupted"]
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ray:
    """Runs on a Ray cluster: "ray" for one that runs here, else a new one, or its address as "ray://HOST:PORT".

    A run gets `cpus` CPUs, as many threads, and the share `gpus` of a GPU; None is a whole one, where the cluster has
    GPUs and the run may use one.

    Raises:
        ConfigError: what cannot be meant.
    """

    on: str = "ray"
    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        host, _, port = self.on.removeprefix("ray://").rpartition(":")
        if self.on != "ray" and not (self.on.startswith("ray://") and host and port.isdigit()):
            raise ConfigError(
                f"on is ray, or the address of a cluster such as ray://127.0.0.1:10001; received {self.on!r}"
            )
        if isinstance(self.cpus, bool) or not isinstance(self.cpus, int) or self.cpus < 1:
            raise ConfigError(f"cpus is the number of CPUs of a run on Ray, at least 1; received {self.cpus!r}")
        if self.gpus is not None and not (isinstance(self.gpus, int | float) and 0 <= self.gpus <= 1):
            raise ConfigError(f"gpus is the share of a GPU of a run on Ray, from 0 to 1; received {self.gpus!r}")

    @classmethod
    def wanted(cls, on: str | None, cpus: int | None, gpus: float | None, jobs: int = 1) -> Ray | None:
        """What the arguments of a comparison say; None where it is not to run on Ray.

        Raises:
            ConfigError: they contradict each other.
        """
        if on is None:
            if cpus is not None or gpus is not None:
                raise ConfigError('cpus and gpus are what a run gets on Ray: give on="ray" too')
            return None
        if jobs != 1:
            raise ConfigError(f"on Ray, cpus and gpus decide how many runs are made at once: leave out jobs ({jobs!r})")
        return cls(on, 1 if cpus is None else cpus, gpus)


Work = Callable[[Sequence[Task]], Iterator[tuple[Task, Outcome]]]
"""Makes runs, and gives each with its outcome as it ends."""


def known(task: Task) -> Outcome | None:
    """The outcome of a run that needs none of the work: it has come to its end, or is a trial that has failed.

    Raises:
        CheckpointError: the folder holds a run with another configuration, or one that cannot be read.
    """
    if not (task.folder / "run.json").exists():
        return None
    if ended(task.folder):
        return Outcome("finished", run(task.job, task.folder, resume=True))
    record = runs.read(task.folder)
    if record["status"] == "failed" and task.trial:
        return Outcome("failed", error=record["error"])
    return None


def ended(folder: Path) -> Outcome | None:
    """The outcome of the run in `folder`, whatever its configuration, where it has come to its end.

    Raises:
        CheckpointError: its record cannot be read.
    """
    if not (folder / "run.json").exists():
        return None
    record = runs.read(folder)
    whole = record["status"] == "finished" and "test" in record["result"]
    return Outcome("finished", record["result"]) if whole else None


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


def check_jobs(jobs: Any) -> None:
    """Refuse what is no number of processes, and processes that could not start.

    Raises:
        ConfigError: `jobs` is not a whole number from 1; or they would import a script that they cannot, or run it.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"jobs is the number of processes, at least 1; received {jobs!r}")
    script = getattr(sys.modules["__main__"], "__file__", None)
    if jobs > 1 and script is not None and not os.path.exists(script):
        raise ConfigError(
            "the processes of jobs import the script, and this one is in no file: save it, or leave out jobs"
        )
    if jobs > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "the processes of jobs import the script, and this one compares when it is imported: write the call under "
            "if __name__ == '__main__':"
        )


@contextmanager
def workers(jobs: int, on: Ray | None = None) -> Iterator[Work]:
    """How runs are made within the block: here, in `jobs` processes that divide the threads between them, or on Ray.

    Raises:
        ConfigError: `jobs` is not a whole number from 1, or there is no such cluster.
        MissingDependency: Ray is not installed.
    """
    check_jobs(jobs)
    if on is not None:
        from .ray import cluster

        with cluster(on) as work:
            yield work
        return
    if jobs == 1:
        yield _here
        return
    pool = _Pool(jobs)
    try:
        yield pool.work
    except Exception:  # such as a full disk: the runs under way would go on to their end first
        pool.stop()
        raise
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
            with _undisturbed():  # processes start here
                return self._executor.submit(_in_worker, task)
        except BrokenProcessPool as error:
            future: Future[Outcome] = Future()
            future.set_exception(error)
            return future

    def _obey(self, stop: StopRequest, waiting: dict[Future[Outcome], Task]) -> None:
        """Let the runs under way write their checkpoints, begin no other, and stop."""
        if stop.signal is None:
            return
        running = {future for future in waiting if not future.cancel()}
        self.stop()
        while running and self._processes():
            running = wait(running, LOOK).not_done
        raise Interrupted(f"stopped by {signal.Signals(stop.signal).name}", signal=stop.signal)

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
    _life.enter_context(held())
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


def _in_worker(task: Task) -> Outcome:
    return interruptible(task, _stopping.is_set)


def interruptible(task: Task, stopping: Callable[[], bool] = lambda: False) -> Outcome:
    """In a worker: as `execute`, which a SIGINT stops after the update under way and its checkpoint.

    Where it is `stopping` already, nothing is begun. Afterwards SIGINT is ignored: nothing would catch it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Outcome("interrupted") if stopping() else execute(task)
    except KeyboardInterrupt as stop:
        return Outcome("interrupted", error=str(stop))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

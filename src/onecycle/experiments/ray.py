"""Make runs on a Ray cluster: each is a task on some node, and its files come back while it trains.

What a run has written goes to a desk on the head node, and from there to the folder of the run. A run whose node dies
is made again by Ray, on another one: it goes on from what is on the desk.
"""

from __future__ import annotations

import _thread
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, Interrupted, TrainingError
from ..jobs.job import Job
from ..records import run as runs
from ..training.signals import StopRequest, stop_requests
from .mirror import Change, Watch, apply, renamed, whole
from .plan import Task
from .ray_connection import PATIENCE, connected, gist
from .workers import LOOK, Outcome, Ray, Work, interruptible

# How often Ray makes a run again whose node or process has died.
RETRIES = 3
# Seconds between two looks of a node at what a run has written.
EVERY = 0.5
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Terms:
    """What a node is told: the threads of a run, and what the process that asks for the runs is like."""

    threads: int
    every: float
    folder: str
    command: tuple[str, ...]
    modules: tuple[str, ...]

    def settle(self) -> None:
        """Make this process of a node like the one that asks, as far as the node has the same files."""
        torch.set_num_threads(self.threads)
        sys.argv[:] = self.command
        sys.path += [place for place in self.modules if place not in sys.path]
        if Path(self.folder).is_dir():
            os.chdir(self.folder)


@contextmanager
def cluster(on: Ray) -> Iterator[Work]:
    """How runs are made within the block: on a Ray cluster.

    Raises:
        ConfigError: no cluster answers at the address, or none of its nodes is large enough.
        MissingDependency: Ray is not installed.
    """
    with connected(on.on) as ray, _desk(ray, on.on) as desk:
        yield Cluster(ray, desk, on).work


class Cluster:
    """Makes runs on a Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, desk: Any, on: Ray):
        self._ray, self._desk, self._on = ray, desk, on
        self._make = ray.remote(_on_node)
        self._tasks: list[Task] = []
        modules = tuple(os.path.abspath(place) for place in sys.path if os.path.exists(place or "."))
        self._terms = Terms(on.cpus, EVERY, os.getcwd(), tuple(sys.argv), modules)
        self._whole = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        self._need(on.gpus or 0)

    def work(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
        """As `execute.Work`.

        Raises:
            ConfigError: no node is large enough.
            TrainingError: the cluster is gone.
            Interrupted: stopped by a signal, after the updates under way and their checkpoints.
        """
        for gpus in {self._share(task.job) for task in tasks}:
            self._need(gpus)
        with stop_requests() as stop, self._kept():
            first = len(self._tasks)
            self._tasks += tasks
            waiting = {self._submit(run): run for run in range(first, len(self._tasks))}
            while waiting:
                done, _ = self._ray.wait(list(waiting), timeout=LOOK)
                self._take()
                self._obey(stop, waiting)
                for ref in done:
                    run = waiting.pop(ref)
                    self._desk.forget.remote(run)
                    yield self._tasks[run], self._outcome(ref)

    def _submit(self, run: int) -> Any:
        """The run under way, or one that has failed where its folder holds something else."""
        task = self._tasks[run]
        try:
            begun = whole(task.folder)
            if begun is None:
                runs.check_free(task.folder)
        except (CheckpointError, OSError) as refused:
            return self._ray.put(Outcome("failed", error=str(refused)))
        if begun is not None:
            self._ray.get(self._desk.lay.remote(run, begun))
        make = self._make.options(num_cpus=self._on.cpus, num_gpus=self._share(task.job), max_retries=RETRIES)
        return make.remote(self._desk, run, task, self._terms, _paths(task.job))

    def _take(self) -> None:
        """Bring the folders of the runs up to what is on the desk."""
        for run, change in self._ray.get(self._desk.news.remote()):
            folder = self._tasks[run].folder
            try:
                apply(change, folder)
            except OSError as error:
                raise CheckpointError(f"cannot write to {folder}: {error}. Free some space and go on") from error

    def _outcome(self, ref: Any) -> Outcome:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            return Outcome("failed", error=f"on Ray: {error.cause!r}")
        except self._ray.exceptions.RayError as error:
            return Outcome("failed", error=f"its node or process died, {RETRIES + 1} times: {gist(error)}")

    def _obey(self, stop: StopRequest, waiting: Mapping[Any, int]) -> None:
        """Let the runs under way write their checkpoints, begin no other, and stop."""
        if stop.signal is None:
            return
        begun = self._ray.get(self._desk.stop.remote())
        running = [ref for ref, run in waiting.items() if run in begun]
        for ref in waiting:
            if ref not in running:
                self._ray.cancel(ref)
        while running:
            _, running = self._ray.wait(running, timeout=LOOK)
            self._take()
        self._take()
        raise Interrupted(f"stopped by {signal.Signals(stop.signal).name}", signal=stop.signal)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Within the block a cluster that goes away is an error that says so."""
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RayError) as error:
            raise TrainingError(
                f"the Ray cluster is gone: {gist(error)}. What came back is kept: when the cluster is there "
                "again, give the same command again to go on"
            ) from error

    def _share(self, job: Job) -> float:
        if self._on.gpus is not None:
            return self._on.gpus
        return self._whole if job.device is None or job.device.startswith("cuda") else 0

    def _need(self, gpus: float) -> None:
        """Refuse what Ray would wait for without end."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self._on.cpus and node.get("GPU", 0) >= gpus for node in nodes):
            there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a run is to get {self._on.cpus} CPUs and {gpus:g} GPUs; the nodes of the Ray cluster have: {there}. "
                "Give fewer cpus or gpus, or start such a node: ray start --address=HEAD:6379"
            )


class Desk:
    """On the head node: the runs under way as far as they have come, which outlives the nodes that make them."""

    def __init__(self) -> None:
        self._home = TemporaryDirectory(prefix="onecycle-desk-")
        self._attempts: dict[int, int] = {}
        self._news: list[tuple[int, Change]] = []
        self._stopping = False

    def lay(self, run: int, begun: Change) -> None:
        """A run that goes on from what was made of it before."""
        apply(begun, self._folder(run))

    def begin(self, run: int) -> tuple[int, Change | None, bool]:
        """The number of this attempt at a run, what there is of it already, and whether it is to be made at all."""
        self._attempts[run] = self._attempts.get(run, 0) + 1
        return self._attempts[run], whole(self._folder(run)), not self._stopping

    def put(self, run: int, attempt: int, change: Change | None) -> bool:
        """What a run has written; whether it is to go on: not where a later attempt has begun, nor after a stop."""
        if attempt != self._attempts.get(run):
            return False
        if change is not None:
            apply(change, self._folder(run))
            self._news.append((run, change))
        return not self._stopping

    def news(self) -> list[tuple[int, Change]]:
        """What has come since the last call."""
        found, self._news = self._news, []
        return found

    def forget(self, run: int) -> None:
        """A run has ended, and everything of it was fetched."""
        self._attempts.pop(run, None)
        shutil.rmtree(self._folder(run), ignore_errors=True)

    def stop(self) -> list[int]:
        """Let no run go on; those that have begun."""
        self._stopping = True
        return list(self._attempts)

    def close(self) -> None:
        """Leave nothing behind."""
        self._home.cleanup()

    def _folder(self, run: int) -> Path:
        return Path(self._home.name) / str(run)


def _on_node(desk: Any, run: int, task: Task, terms: Terms, paths: Sequence[str]) -> Outcome:
    """In a process of a node: make a run in a folder of its own, and send what it writes to the desk."""
    terms.settle()
    if missing := [path for path in paths if not os.path.exists(path)]:
        return Outcome("failed", error=_not_there(missing))
    # Ray would lend the CPUs of a main thread that waits for it to another run.
    with TemporaryDirectory(prefix="onecycle-") as home, ThreadPoolExecutor(1) as aside:
        folder = Path(home) / "run"
        attempt, begun, wanted = aside.submit(_call, desk.begin, run).result()
        if not wanted:
            return Outcome("interrupted")
        if begun is not None:
            apply(begun, folder)
        watch, ended = Watch(folder), threading.Event()

        def send() -> bool:
            change = watch.change()
            named = None if change is None else renamed(change, folder, task.folder)
            return _call(desk.put, run, attempt, named)

        streaming = aside.submit(_stream, send, ended, terms.every)
        try:
            outcome = interruptible(replace(task, folder=folder))
        finally:
            ended.set()
        streaming.result()
        aside.submit(send).result()
    return _named(outcome, folder, task.folder)


def _stream(send: Callable[[], bool], ended: threading.Event, every: float) -> None:
    """Send what is new every so many seconds; stop the run where it is not to go on, or cannot be sent."""
    try:
        while not ended.wait(every):
            if not send():
                break
    finally:
        if not ended.is_set():
            _thread.interrupt_main()


def _call(method: Any, *arguments: Any) -> Any:
    import ray

    return ray.get(method.remote(*arguments))


def _named(outcome: Outcome, old: Path, new: Path) -> Outcome:
    """The same of a run that lies in another folder."""
    result = outcome.result and {**outcome.result, "run": str(new)}
    return Outcome(outcome.status, result, outcome.error and outcome.error.replace(str(old), str(new)))


def _paths(job: Job) -> list[str]:
    """What a run reads that is a path and not a name."""
    return [job.data] if os.path.exists(job.data) else []


def _not_there(paths: Sequence[str]) -> str:
    return (
        f"{', '.join(paths)} is not there on the Ray node {platform.node()}: what is given by its path must be on a "
        "file system that all nodes share, under the same path"
    )


@contextmanager
def _desk(ray: Any, on: str) -> Iterator[Any]:
    """A desk on the head node.

    Raises:
        ConfigError: it cannot be set up there, as where onecycle is not installed.
    """
    desk = ray.remote(num_cpus=0, resources={HEAD: 0.001})(Desk).remote()
    try:
        ray.get(desk.news.remote())
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"the Ray cluster ({on}) cannot run onecycle: {gist(error)}. Install the same versions of onecycle, "
            "torch and Ray on all its nodes"
        ) from error
    try:
        yield desk
    finally:
        with suppress(Exception):  # the cluster may be gone
            ray.get(desk.close.remote(), timeout=PATIENCE)
        with suppress(Exception):
            ray.kill(desk)

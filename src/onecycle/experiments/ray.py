"""Make runs on a Ray cluster: each is a task on some node, and its folder comes back as the task's result.

A run whose node dies is made again on another one. With a storage that all nodes reach it is kept there after each
checkpoint, and goes on from the last of them; without, it starts anew.
"""

from __future__ import annotations

import _thread
import hashlib
import json
import os
import platform
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, Interrupted, MissingDependency, TrainingError
from ..jobs.job import Job
from ..records import archive as storages
from ..records.archive import archive, open_storage, renamed, unpack
from ..records.checkpoint import checkpoints
from ..records.files import RUN
from ..text import count
from ..training.signals import stop_requests
from .execute import LOOK, Outcome, PlannedRun, Work, interruptible
from .options import Placement

# How often a run is made again whose node or process has died.
RETRIES = 3
START = "To start one, on its first machine: ray start --head --port=6379 --ray-client-server-port=10001."


@dataclass(frozen=True)
class NodeSetup:
    """What a node is told: the threads of a run, its storage, and what the process that asks for runs is like."""

    threads: int
    storage: Any
    folder: str
    command: tuple[str, ...]
    modules: tuple[str, ...]

    def apply(self) -> None:
        """Make this process of a node like the one that asks, as far as the node has the same files."""
        torch.set_num_threads(self.threads)
        sys.argv[:] = self.command
        sys.path += [folder for folder in self.modules if folder not in sys.path]
        if Path(self.folder).is_dir():
            os.chdir(self.folder)


@contextmanager
def cluster(placement: Placement) -> Iterator[Work]:
    """How runs are made within the block: on a Ray cluster.

    Raises:
        ConfigError: no cluster answers at the address, it cannot run onecycle, or none of its nodes is large enough;
            a storage that cannot be written.
        MissingDependency: Ray is not installed.
    """
    storage = None if placement.storage is None else open_storage(placement.storage)
    with connected(placement.on or "ray") as ray:
        yield Cluster(ray, placement, storage).work


class Cluster:
    """Makes runs on a Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, placement: Placement, storage: Any = None):
        self._ray, self._placement, self._cpus = ray, placement, placement.cpus or 1
        modules = tuple(os.path.abspath(folder) for folder in sys.path if os.path.exists(folder or "."))
        self._setup = NodeSetup(self._cpus, storage, os.getcwd(), tuple(sys.argv), modules)
        self._has_gpus = bool(ray.cluster_resources().get("GPU"))
        self._task = ray.remote(_on_node)
        self._check_size(placement.gpus or 0)
        try:
            ray.get(ray.remote(num_cpus=0)(NodeSetup.apply).remote(self._setup))
        except ray.exceptions.RayError as error:
            raise ConfigError(
                f"the Ray cluster ({placement.on}) cannot run onecycle: {_gist(error)}. Install the same versions of "
                "onecycle, torch and Ray on all its nodes"
            ) from error

    def work(self, planned: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        """As `execute.Work`.

        Raises:
            ConfigError: no node is large enough.
            TrainingError: the cluster is gone.
            Interrupted: stopped by a signal, after the updates under way and their checkpoints.
        """
        for gpus in {self._gpus(run.job) for run in planned}:
            self._check_size(gpus)
        deaths: Counter[Path] = Counter()
        waiting: dict[Any, PlannedRun] = {}
        with stop_requests() as stop, self._connection():
            for run in planned:
                try:
                    waiting[self._submit(run)] = run
                except (CheckpointError, OSError) as error:
                    yield run, Outcome("failed", error=str(error))
            while waiting:
                done, _ = self._ray.wait(list(waiting), timeout=LOOK)
                if stop.signal is not None:
                    self._stop(waiting)
                    raise Interrupted(f"stopped by {stop.name}", signal=stop.signal)
                for ref in done:
                    run = waiting.pop(ref)
                    try:
                        outcome = self._receive(ref, run)
                    except self._ray.exceptions.RayError as error:
                        deaths[run.folder] += 1
                        if deaths[run.folder] <= RETRIES:
                            waiting[self._submit(run)] = run
                            continue
                        died = f"its node or process died, {count(deaths[run.folder], 'times')}: {_gist(error)}"
                        outcome = Outcome("failed", error=died)
                    yield run, self._noted(outcome, deaths[run.folder])

    def _submit(self, run: PlannedRun) -> Any:
        """The task that makes a run, from what there is of it here.

        Raises:
            CheckpointError: its folder holds something else.
        """
        begun = archive(run.folder, run.folder) if RUN.exists(run.folder) else None
        if begun is None:
            RUN.claim(run.folder)
        task = self._task.options(num_cpus=self._cpus, num_gpus=self._gpus(run.job), max_retries=0)
        return task.remote(run, self._setup, _key(run), begun, _paths(run.job))

    def _receive(self, ref: Any, run: PlannedRun) -> Outcome:
        """How a run ended; its folder is here then."""
        try:
            outcome, files = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("interrupted")
        except self._ray.exceptions.RayTaskError as error:
            return Outcome("failed", error=f"on Ray: {error.cause!r}")
        try:
            if files is not None:
                unpack(files, run.folder)
        except OSError as error:
            raise CheckpointError(f"cannot write to {run.folder}: {error}. Free some space and go on") from error
        if self._setup.storage is not None:
            with suppress(OSError):  # a run without a checkpoint left nothing there
                self._setup.storage.delete_file(_key(run))
        return outcome

    def _noted(self, outcome: Outcome, deaths: int) -> Outcome:
        if not deaths or outcome.status == "failed":
            return outcome
        how = f"went on from its last checkpoint in {self._placement.storage}"
        if self._placement.storage is None:
            how = "started anew, since no storage for checkpoints was given"
        return replace(outcome, note=f"its node or process died {count(deaths, 'times')}: it {how}")

    def _stop(self, waiting: Mapping[Any, PlannedRun]) -> None:
        """Let the runs under way write their checkpoints and come back; begin no other."""
        for ref in waiting:
            self._ray.cancel(ref)
        for ref, run in waiting.items():
            with suppress(self._ray.exceptions.RayError):
                self._receive(ref, run)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Within the block a cluster that goes away is an error that says so."""
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RayError) as error:
            raise TrainingError(
                f"the Ray cluster is gone: {_gist(error)}. What came back is kept: when the cluster is there "
                "again, give the same command again to go on"
            ) from error

    def _gpus(self, job: Job) -> float:
        if self._placement.gpus is not None:
            return self._placement.gpus
        return float(self._has_gpus and (job.device is None or job.device.startswith("cuda")))

    def _check_size(self, gpus: float) -> None:
        """Check that some node is large enough: Ray would wait for one without end."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= gpus for node in nodes):
            sizes = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a run is to get {self._cpus} CPUs and {gpus:g} GPUs; the nodes of the Ray cluster have: {sizes}. "
                "Give fewer cpus or gpus, or start such a node: ray start --address=HEAD:6379"
            )


def _on_node(
    run: PlannedRun, setup: NodeSetup, key: str, begun: bytes | None, paths: Sequence[str]
) -> tuple[Outcome, bytes | None]:
    """In a process of a node: make a run in a folder of its own; how it ended, and that folder as an archive."""
    setup.apply()
    if missing := [path for path in paths if not os.path.exists(path)]:
        return Outcome("failed", error=_not_there(missing)), None
    with TemporaryDirectory(prefix="onecycle-") as home:
        folder, storage = Path(home) / "run", setup.storage
        begun = begun if storage is None else storages.read(storage, key) or begun
        if begun is not None:
            unpack(begun, folder)
        with _kept(storage, key, folder, run.folder) as problems:
            outcome = interruptible(replace(run, folder=folder))
        outcome = Outcome("failed", error=problems[0]) if problems else outcome
        said = json.dumps(asdict(outcome), ensure_ascii=False)
        files = archive(folder, run.folder) if (folder / "run.json").exists() else None
        return Outcome(**json.loads(renamed(said, folder, run.folder))), files


def _paths(job: Job) -> list[str]:
    """What a run reads that is a path and not a name."""
    return [path for path in (job.data, job.valid, job.test) if path and os.path.exists(path)]


def _not_there(paths: Sequence[str]) -> str:
    return (
        f"{', '.join(paths)} is not there on the Ray node {platform.node()}: what is given by its path must be on a "
        "file system that all nodes share, under the same path"
    )


@contextmanager
def _kept(storage: Any, key: str, folder: Path, name: Path) -> Iterator[list[str]]:
    """Within the block the run is put into the storage after each checkpoint; where it cannot be, it is stopped."""
    ended, problems = threading.Event(), []

    def keep() -> None:
        last: list[Path] = []
        while not ended.wait(LOOK) and not problems:
            newest = checkpoints(folder / "checkpoints")[-1:]
            try:
                if newest != last:
                    storages.write(storage, key, archive(folder, name))
                    last = newest
            except OSError as error:
                if newest[0].exists():  # else it was removed while it was read: the next look finds another
                    problems.append(f"cannot keep checkpoints in the storage: {error}")
                    _thread.interrupt_main()

    if storage is None:
        yield problems
        return
    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield problems
    finally:
        ended.set()
        thread.join()


def _key(run: PlannedRun) -> str:
    """A name that no other run has in a storage."""
    identity = json.dumps([platform.node(), str(run.folder.resolve()), asdict(run.job)])
    return f"{run.folder.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.zip"


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """The module `ray`, connected within the block to a cluster; a connection that is there already stays.

    "ray" is the cluster of RAY_ADDRESS, else the one that this machine is part of, else a new one on this machine;
    "ray://HOST:PORT" is the one that answers there.

    Raises:
        ConfigError: no cluster answers, or one that another version of Ray or Python runs.
        MissingDependency: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anywhere unless the user says so
    os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "5")  # of which Ray makes three
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingDependency(f'--on ray needs Ray ({error}): pip install "onecycle[ray]"') from error
    if ray.is_initialized():
        if on != "ray":
            raise ConfigError(f'this process is connected to Ray already: give on="ray", or ray.shutdown() before {on}')
        yield ray
        return
    address = _here() if on == "ray" else on
    if refused := _refused(address):
        raise ConfigError(f"no Ray cluster answers at {address}: {refused}. {START}") from refused
    try:
        _init(ray, address)
    except Exception as error:  # ConnectionError, RuntimeError where versions differ, and whatever gRPC raises
        raise ConfigError(
            f"cannot use the Ray cluster ({address}): {_gist(error)}. {START} If it runs: the port is that of "
            "--ray-client-server-port, and a cluster that asks for a token needs RAY_AUTH_MODE=token here too"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(ray: Any, address: str) -> None:
    options = {"include_dashboard": False} if address == "local" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a connection that fails says so in its error
        for last in (False, True):
            try:
                ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
                return
            except ConnectionAbortedError:  # the server that Ray forks for a client dies now and then
                if last:
                    raise


def _here() -> str:
    """The address of the cluster that this machine is part of; "local" for a new one, where there is none."""
    if asked := os.environ.get("RAY_ADDRESS"):
        return asked
    with suppress(Exception):  # where Ray keeps it is Ray's own affair
        from ray._private.utils import read_ray_address

        last = read_ray_address()
        if last and not _refused(last):
            return last
    return "local"


def _refused(address: str) -> OSError | None:
    """See at once that nobody is there: Ray itself tries for up to two minutes, and may then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            return error
    return None


def _gist(error: BaseException) -> str:
    """What an error of Ray's says, in one line; of a traceback in it the end."""
    text = str(getattr(error, "cause", None) or error)
    head, traceback, rest = text.partition("Traceback (most recent call last)")
    words = head.split() + (rest.strip().rpartition("\n")[2].split() if traceback else [])
    return " ".join(words).rstrip(".") or type(error).__name__

"""A Ray cluster as runs are made on it: connecting to it, what its nodes are told, and what they keep in a storage."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ConfigError, MissingDependency
from ..records import archive as storages
from ..records.archive import archive
from ..records.checkpoint import checkpoints
from ..training.signals import LOOK
from .job import Job

START = "To start one, on its first machine: ray start --head --port=6379 --ray-client-server-port=10001."


@dataclass(frozen=True)
class NodeSetup:
    """What a node is told: the threads of a run, its storage, and what the process that asks for runs is like."""

    threads: int
    storage: Any
    folder: str
    command: tuple[str, ...]
    modules: tuple[str, ...]

    @classmethod
    def like_here(cls, threads: int, storage: Any) -> NodeSetup:
        """What makes a node's process like this one."""
        modules = tuple(os.path.abspath(folder) for folder in sys.path if os.path.exists(folder or "."))
        return cls(threads, storage, os.getcwd(), tuple(sys.argv), modules)

    def try_on(self, ray: Any, on: str) -> None:
        """Apply it in some process of the cluster, and see whether that can run onecycle.

        Raises:
            ConfigError: it cannot.
        """
        try:
            ray.get(ray.remote(num_cpus=0)(NodeSetup.apply).remote(self))
        except ray.exceptions.RayError as error:
            raise ConfigError(
                f"the Ray cluster ({on}) cannot run onecycle: {gist(error)}. Install the same versions of "
                "onecycle, torch and Ray on all its nodes"
            ) from error

    def apply(self) -> None:
        """Make this process of a node like the one that asks, as far as the node has the same files."""
        torch.set_num_threads(self.threads)
        sys.argv[:] = self.command
        sys.path += [folder for folder in self.modules if folder not in sys.path]
        if Path(self.folder).is_dir():
            os.chdir(self.folder)


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
            f"cannot use the Ray cluster ({address}): {gist(error)}. {START} If it runs: the port is that of "
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


def gist(error: BaseException) -> str:
    """What an error of Ray's says, in one line; of a traceback in it the end."""
    text = str(getattr(error, "cause", None) or error)
    head, traceback, rest = text.partition("Traceback (most recent call last)")
    words = head.split() + (rest.strip().rpartition("\n")[2].split() if traceback else [])
    return " ".join(words).rstrip(".") or type(error).__name__


class NodeSize(NamedTuple):
    """What a node has."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs"


def node_sizes(ray: Any) -> list[NodeSize]:
    """What each node has that is there."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeSize(node.get("CPU", 0), node.get("GPU", 0)) for node in alive]


def takes_gpu(ray: Any, job: Job) -> bool:
    """Whether what a job trains is to get a GPU: the cluster has some, and the job does not ask for another device."""
    return bool(ray.cluster_resources().get("GPU")) and (job.device is None or job.device.startswith("cuda"))


def paths_of(job: Job) -> list[str]:
    """What a run reads that is a path and not a name."""
    return [path for path in (job.data, job.valid, job.test) if path and os.path.exists(path)]


def missing_here(paths: Sequence[str], what: str = "what is given by its path") -> str:
    """The message that paths are not on this node."""
    return (
        f"{', '.join(paths)} is not there on the Ray node {platform.node()}: {what} must be on a file system that all "
        "nodes share, under the same path"
    )


def storage_key(folder: Path, job: Job) -> str:
    """A name that no other run has in a storage."""
    identity = json.dumps([platform.node(), str(folder.resolve()), asdict(job)])
    return f"{folder.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.zip"


@contextmanager
def kept(
    storage: Any, key: str, folder: Path, name: Path, stop: Callable[[], None] = _thread.interrupt_main
) -> Iterator[list[str]]:
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
                    stop()

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

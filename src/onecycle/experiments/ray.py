"""Make runs on a Ray cluster: each is a task on some node, and its folder comes back as the task's result.

A run whose node dies is made again on another one. With a storage that all nodes reach it is kept there after each
checkpoint, and goes on from the last of them; without, it starts anew.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import CheckpointError, ConfigError, Interrupted, TrainingError
from ..jobs.job import Job
from ..jobs.ray_cluster import (
    NodeSetup,
    connected,
    gist,
    kept,
    missing_here,
    node_sizes,
    paths_of,
    storage_key,
    takes_gpu,
)
from ..records import archive as storages
from ..records.archive import archive, open_storage, renamed, unpack
from ..records.files import RUN
from ..text import count
from ..training.signals import LOOK, stop_requests
from .execute import Outcome, PlannedRun, Work, interruptible
from .options import Placement

# How often a run is made again whose node or process has died.
RETRIES = 3


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
        self._setup = NodeSetup.like_here(self._cpus, storage)
        self._task = ray.remote(_on_node)
        self._check_size(placement.gpus or 0)
        self._setup.try_on(ray, placement.on or "ray")

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
                        died = f"its node or process died, {count(deaths[run.folder], 'times')}: {gist(error)}"
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
        return task.remote(run, self._setup, storage_key(run.folder, run.job), begun, paths_of(run.job))

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
                self._setup.storage.delete_file(storage_key(run.folder, run.job))
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
                f"the Ray cluster is gone: {gist(error)}. What came back is kept: when the cluster is there "
                "again, give the same command again to go on"
            ) from error

    def _gpus(self, job: Job) -> float:
        if self._placement.gpus is not None:
            return self._placement.gpus
        return float(takes_gpu(self._ray, job))

    def _check_size(self, gpus: float) -> None:
        """Check that some node is large enough: Ray would wait for one without end."""
        sizes = node_sizes(self._ray)
        if not any(size.cpus >= self._cpus and size.gpus >= gpus for size in sizes):
            raise ConfigError(
                f"a run is to get {self._cpus} CPUs and {gpus:g} GPUs; the nodes of the Ray cluster have: "
                f"{'; '.join(map(str, sizes))}. "
                "Give fewer cpus or gpus, or start such a node: ray start --address=HEAD:6379"
            )


def _on_node(
    run: PlannedRun, setup: NodeSetup, key: str, begun: bytes | None, paths: Sequence[str]
) -> tuple[Outcome, bytes | None]:
    """In a process of a node: make a run in a folder of its own; how it ended, and that folder as an archive."""
    setup.apply()
    if missing := [path for path in paths if not os.path.exists(path)]:
        return Outcome("failed", error=missing_here(missing)), None
    with TemporaryDirectory(prefix="onecycle-") as home:
        folder, storage = Path(home) / "run", setup.storage
        begun = begun if storage is None else storages.read(storage, key) or begun
        if begun is not None:
            unpack(begun, folder)
        with kept(storage, key, folder, run.folder) as problems:
            outcome = interruptible(replace(run, folder=folder))
        outcome = Outcome("failed", error=problems[0]) if problems else outcome
        said = json.dumps(asdict(outcome), ensure_ascii=False)
        files = archive(folder, run.folder) if (folder / "run.json").exists() else None
        return Outcome(**json.loads(renamed(said, folder, run.folder))), files

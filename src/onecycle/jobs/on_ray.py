"""A training by several processes of a Ray cluster: Ray Train starts them, and makes each a rank."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import CheckpointError, ConfigError, Interrupted, MissingDependency, RankError, TrainingError
from ..records import archive as storages
from ..records.archive import archive, open_storage, unpack
from ..records.files import RUN, read_jsonl
from ..records.history import History, Result
from ..records.progress import notes
from ..text import count
from ..training.options import seconds_of
from ..training.ranks import Ranks
from ..training.signals import LOOK, ask, stop_requests
from .drawing import draw, write_page
from .job import Job
from .places import RanksOnRay
from .ray_channel import Channel, ChannelStream, RankEnd
from .ray_cluster import NodeSetup, connected, gist, kept, missing_here, node_sizes, paths_of, storage_key, takes_gpu
from .run import FIGURE, finished, free_folder, run

# How often all ranks are started anew after one was lost.
RESTARTS = 3


@dataclass(frozen=True)
class RankTask:
    """What each rank is to do: `run` with a job in a folder.

    Without a storage the folder is shared by all nodes, which see the file `beside` it; with one the main rank has it
    in a folder of its own, and it goes by `key` in the storage.
    """

    job: Job
    folder: Path
    resume: bool
    verbose: bool
    setup: NodeSetup
    key: str
    paths: tuple[str, ...]
    beside: Path | None
    launch: str = field(default_factory=lambda: uuid4().hex)

    def rank(self, channel: Any) -> None:
        """In a process of Ray Train: be one of the ranks.

        Raises:
            RankError: another rank is lost, so that Ray is to start all of them anew.
        """
        self.setup.apply()
        ranks = Ranks.here()
        with _own_temporary() as home:
            folder = self.folder if self.setup.storage is None else home / self.folder.name
            try:
                end = RankEnd(replace(self._trained(ranks, channel, folder), folder=None).to_dict())
            except RankError as error:
                if error.said is None:
                    raise
                end = RankEnd.of(error, ranks)
            except (Exception, KeyboardInterrupt) as error:
                end = RankEnd.of(error, ranks)
        _ray().get(channel.end.remote(ranks.rank, end.renamed(folder, self.folder)))

    def _trained(self, ranks: Ranks, channel: Any, folder: Path) -> Result:
        for problem in ranks.gather(self._problem()):
            if problem is not None:
                raise ConfigError(problem)
        restarts = ranks.from_main(lambda: _ray().get(channel.begin.remote()))
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(restarts)  # so the run is gone on with, as under torchrun
        os.environ["TORCHELASTIC_RUN_ID"] = self.launch
        train = partial(run, self.job, folder, verbose=self.verbose, report=False)
        with _listening(channel, folder, self.folder) if ranks.is_main else ExitStack():
            if restarts and self.verbose and ranks.is_main:
                notes([f"a rank was lost: all are started anew, {restarts} of {RESTARTS} times"])
            if self.setup.storage is None:
                return train(resume=self.resume)
            return self._in_storage(ranks, train, folder)

    def _problem(self) -> str | None:
        """Why this rank cannot take part."""
        if self.beside is not None and not self.beside.exists():
            return missing_here([str(self.folder.parent)], "the folder of the run") + ", or give a --storage"
        missing = [path for path in self.paths if not os.path.exists(path)]
        return missing_here(missing) if missing else None

    def _in_storage(self, ranks: Ranks, train: Any, folder: Path) -> Result:
        """The result of a training in a folder of the main rank, which goes on with what the storage has of it."""
        storage = self.setup.storage

        def brought() -> bool:
            begun = storages.read(storage, self.key)
            if begun is not None:
                unpack(begun, folder)
            return begun is not None

        resume = ranks.from_main(brought)
        if not ranks.is_main:
            return train(resume=resume)

        def keep() -> None:
            if RUN.exists(folder):
                storages.write(storage, self.key, archive(folder, self.folder))

        try:
            with kept(storage, self.key, folder, self.folder, stop=partial(ask, signal.SIGTERM)) as problems:
                result = train(resume=resume)
        except BaseException as error:
            with suppress(OSError):
                keep()
            if problems and isinstance(error, KeyboardInterrupt):  # which they asked for
                raise TrainingError(problems[0]) from None
            raise
        try:
            keep()
        except OSError as error:
            raise CheckpointError(f"the run has ended, and cannot be put into the storage: {error}") from error
        return result


def run_on_ray(
    job: Job, out: str | Path | None = None, *, place: RanksOnRay, resume: bool = False, verbose: bool = False,
    report: bool = True,
) -> Result:  # fmt: skip
    """Train as `job` says, as `onecycle.jobs.run.run` does, by ranks on a Ray cluster; a lost one costs a restart.

    The run goes on from its last checkpoint then. Without a storage `out` has to be where all nodes see it. A time
    budget begins when the ranks have met.

    Raises:
        ConfigError: no cluster answers, it is too small, or a storage that cannot be written.
        MissingDependency: Ray, or Ray Train, is not installed.
        OneCycleError: what ended the run on some rank.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    folder = free_folder(job) if out is None else Path(out)
    if not resume:
        RUN.claim(folder)
    elif (result := finished(job, folder, RUN.read(folder))) is not None:
        return result
    storage = None if place.storage is None else open_storage(place.storage)
    with ExitStack() as stack:
        ray = stack.enter_context(connected(place.on or "ray"))
        ranks, cpus, gpu = place.ranks or 1, place.cpus or 1, takes_gpu(ray, job)
        _check_size(ray, ranks, cpus, gpu)
        setup = NodeSetup.like_here(cpus, storage)
        setup.try_on(ray, place.on or "ray")
        key = storage_key(folder, job)
        if storage is not None and resume and storages.read(storage, key) is None:
            storages.write(storage, key, archive(folder, folder))
        beside = None if storage is not None else stack.enter_context(_beside(folder))
        paths = (*paths_of(job), *([] if job.extend is None else [job.extend]))
        task = RankTask(job, folder, resume, verbose, setup, key, paths, beside)
        try:
            end = _made(ray, task, Trainers(ranks, cpus, gpu, _address(place.storage)))
        finally:
            if storage is not None:
                _bring(storage, key, folder)
    if report and RUN.exists(folder):
        _draw(job, folder, end)
    if end.result is None:
        raise end.raised()
    return Result(**end.result, folder=folder)


@dataclass(frozen=True)
class Trainers:
    """How many ranks of which size Ray Train makes, and where it keeps its own files."""

    ranks: int
    cpus: int
    gpu: bool
    storage: str | None

    def fit(self, task: RankTask, channel: Any) -> RankEnd | None:
        """In a process of the cluster: have the ranks made, and anew where one is lost; the end where that failed."""
        try:
            from ray.train import FailureConfig, RunConfig, ScalingConfig
            from ray.train.torch import TorchConfig, TorchTrainer
        except ImportError as error:
            needs = f'--on ray needs Ray Train on its nodes ({error}): pip install "onecycle[ray]"'
            return RankEnd(error=needs, kind=MissingDependency.__name__)

        os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # which would have each line come twice

        def rank() -> None:
            task.rank(channel)

        resources = {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}
        with tempfile.TemporaryDirectory(prefix="onecycle-") as home:
            trainer = TorchTrainer(
                rank,
                torch_config=TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if self.gpu else "gloo",
                    timeout_s=max(1, round(seconds_of(task.job.timeout))),
                ),
                scaling_config=ScalingConfig(num_workers=self.ranks, use_gpu=self.gpu, resources_per_worker=resources),
                run_config=RunConfig(
                    name=Path(task.key).stem, storage_path=self.storage or home,
                    failure_config=FailureConfig(max_failures=RESTARTS),
                ),
            )  # fmt: skip
            try:
                trainer.fit()
            except Exception as error:
                return RankEnd(error=self._lost(error), kind=TrainingError.__name__)
        return None

    def _lost(self, error: Exception) -> str:
        failures = dict(getattr(error, "worker_failures", {}))
        told = [f"rank {rank} of {self.ranks}: {gist(one)}" for rank, one in sorted(failures.items())]
        return f"ranks were lost, after {count(RESTARTS, 'restart')} too: {'; '.join(told) or gist(error)}"


def _made(ray: Any, task: RankTask, trainers: Trainers) -> RankEnd:
    """The end of a training on the cluster; what the main rank prints is printed here meanwhile.

    Raises:
        Interrupted: stopped by a signal before the ranks had begun.
        TrainingError: the cluster is gone.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the head of the cluster: ranks are lost with other nodes, and these are not.
    heads = [node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]
    here = NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
    channel = ray.remote(num_cpus=0, scheduling_strategy=here)(Channel).remote()
    with stop_requests() as stop, _connection(ray):
        fit = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(Trainers.fit).remote(
            trainers, task, channel
        )
        told = False
        try:
            while True:
                done, _ = ray.wait([fit], timeout=LOOK)
                for line in ray.get(channel.heard.remote()):
                    print(line, file=sys.stderr, flush=True)
                if done:
                    break
                if stop.signal is not None and not told:
                    told = True
                    if not ray.get(channel.stop.remote(stop.signal)):
                        raise Interrupted(f"stopped by {stop.name} before the ranks had begun", signal=stop.signal)
        except BaseException:
            with suppress(Exception):
                ray.cancel(fit, force=True)
            raise
        lost, ends = ray.get([fit, channel.ends.remote()])
        return lost or RankEnd.of_all(ends)


@contextmanager
def _listening(channel: Any, old: Path, new: Path) -> Iterator[None]:
    """Within the block the lines of this process go through the channel, and a stop that is asked for there is made.

    In the lines the folder `old` is called `new`.
    """
    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(LOOK):
            if (number := _ray().get(channel.asked.remote())) is not None:
                ask(number)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        with redirect_stderr(ChannelStream(channel, old, new)):  # type: ignore[type-var]
            yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _own_temporary() -> Iterator[Path]:
    """A folder that is gone after the block, and all temporary ones within it: Ray kills a process at its end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="onecycle-") as home:
        tempfile.tempdir = home
        try:
            yield Path(home)
        finally:
            tempfile.tempdir = before


@contextmanager
def _connection(ray: Any) -> Iterator[None]:
    """Within the block a cluster that goes away is an error that says so."""
    try:
        yield
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise TrainingError(
            f"the Ray cluster is gone, or could not make the ranks: {gist(error)}. When it is there again, go on with "
            "the last checkpoint"
        ) from error


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A file beside a folder, by which nodes see whether they share it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".onecycle-", dir=folder.parent) as file:
        yield folder.parent / Path(file.name).name


def _check_size(ray: Any, ranks: int, cpus: int, gpu: bool) -> None:
    """Check that the cluster has room for the ranks: Ray would wait for it without end.

    Raises:
        ConfigError: it has not.
    """
    sizes = node_sizes(ray)
    room = sum(int(min(size.cpus // cpus, size.gpus if gpu else float("inf"))) for size in sizes)
    if room < ranks:
        each = count(cpus, "CPU") + (" and a GPU" if gpu else "")
        raise ConfigError(
            f"ranks is {ranks}, each with {each}, and the Ray cluster has room for {room}: its nodes have "
            f"{'; '.join(map(str, sizes))}. Give fewer ranks, or start more nodes: ray start --address=HEAD:6379"
        )


def _address(storage: str | None) -> str | None:
    """Where Ray Train keeps its own files: a folder has to be absolute."""
    return storage if storage is None or "://" in storage else str(Path(storage).resolve())


def _bring(storage: Any, key: str, folder: Path) -> None:
    """Bring a run from the storage into its folder; nothing of it stays there then."""
    files = storages.read(storage, key)
    if files is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpack(files, folder)
        storage.delete_file(key)
    with suppress(OSError):
        storage.delete_dir(Path(key).stem)


def _draw(job: Job, folder: Path, end: RankEnd) -> None:
    """The figure and the page of a run that has ended, the page of one that broke off."""
    if end.result is None:
        write_page(folder)
        return
    history = History(read_jsonl(folder / "steps.jsonl"), read_jsonl(folder / "epochs.jsonl"))
    draw(folder, FIGURE, partial(history.plot, title=f"{job.data}, {job.policy}, {job.budget}"))


def _ray() -> Any:
    import ray

    return ray

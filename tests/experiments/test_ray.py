"""Comparisons on a real Ray cluster of this machine equal those in process, whatever happens to its nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
import pytest
import ray_models
from ray_models import free_port

from onecycle import compare
from onecycle.errors import ConfigError, Interrupted, MissingDependency, TrainingError
from onecycle.experiments import ray as on_ray
from onecycle.experiments.comparison import Comparison
from onecycle.experiments.execute import PlannedRun
from onecycle.experiments.options import Placement
from onecycle.experiments.workers import workers
from onecycle.jobs import ray_cluster
from onecycle.jobs.job import Job
from onecycle.records.files import read_jsonl

SPEC: dict[str, Any] = {
    "data": "digits", "model": "mlp", "policies": ["one_cycle", "step"], "epochs": [1], "seeds": 2, "limit": 320,
    "batch_size": 64,
    "optimizer": "sgd", "tune": False, "lr_max": 0.05, "verbose": False,
}  # fmt: skip
LONG = {**SPEC, "epochs": [6], "seeds": 1, "model": ray_models.slow}


STOPPED = r"stopped after 0 of 2 runs, kept in out\. To go on: onecycle compare digits .* --on ray --out out"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def assert_same(one: Comparison, other: Comparison) -> None:
    """Tables, weights and records are equal to the bit, but for times, places and what differs by its nature."""
    assert len(one.table) == len(other.table)
    for row, its in zip(one.table, other.table, strict=True):
        assert without_times(row) == without_times(its)
        home, there = one.folder / row["run"], other.folder / row["run"]
        assert (home / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
        for name in ("steps.jsonl", "epochs.jsonl"):
            records = [list(map(without_times, read_jsonl(folder / name))) for folder in (home, there)]
            assert records[0] == records[1]
        assert without_times(result(home)) == without_times(result(there))
    assert trials(one) == trials(other)
    assert one.summary == other.summary


def trials(comparison: Comparison) -> list[dict[str, Any]]:
    """In one order, since they are listed as they end."""
    return [without_times(row) for row in sorted(comparison.record["tuning"], key=lambda row: row["run"])]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["result"]


def in_the_middle(runs: int, act: Callable[[], None]) -> threading.Thread:
    """Hold the runs of the comparison in ``out`` when they have checkpoints; do something when so many are held."""
    here = Path.cwd()

    def watch() -> None:
        wait_for((here / "out/compare.json").exists)  # its speed was measured
        (here / "hold").touch()
        try:
            wait_for(lambda: len(list(here.glob("held-*"))) >= runs)
            act()
        finally:
            (here / "hold").unlink()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so, however busy the machine is; ten minutes are the end of a test that would not end."""
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def built_elsewhere() -> int:
    return sum(int(line) != os.getpid() for line in Path("built.txt").read_text().splitlines())


def test_a_comparison_on_a_cluster_equals_the_one_in_process(cluster: Any):
    spec = {**{key: value for key, value in SPEC.items() if key != "lr_max"}, "tune": True, "trials": 3}
    assert_same(compare(out="here", **spec), compare(out="there", on="ray", **spec))
    run = Path("there/runs/step-1-seed1")
    record = json.loads((run / "run.json").read_text())
    assert record["command"] == sys.argv and record["hardware"]["threads"] == 1
    files = [
        "checkpoints",
        "epochs.jsonl",
        "model.safetensors",
        "predictions",
        "run.json",
        "steps.jsonl",
        "summary.json",
    ]
    assert sorted(path.name for path in run.iterdir()) == files


def test_failed_runs_are_shown_with_their_error(cluster: Any):
    spec = {**SPEC, "batch_size": 64, "seeds": 1, "epochs": [8], "lr_max": {"one_cycle": 200.0, "step": 0.05}}
    here, there = compare(out="here", **spec), compare(out="there", on="ray", **spec)
    failed, finished = there.table
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert "there/runs" in failed["error"] and failed["error"] == here.table[0]["error"].replace("here/", "there/")
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("mine")
    task = PlannedRun(Path("taken"), Job(model="mlp", limit=160, budget="1 epochs", lr_max=0.1))
    with workers(Placement(on="ray")) as work:
        [(_, outcome)] = work([task])
    assert outcome.status == "failed" and "taken is not empty and holds no run" in str(outcome.error)


def test_what_no_node_can_do_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"a run is to get 3 CPUs and 0 GPUs; the nodes .* have: .*1 CPUs, 0 GPUs"):
        compare(out="out", on="ray", cpus=3, **SPEC)
    with pytest.raises(ConfigError, match=r"a run is to get 1 CPUs and 0.5 GPUs"):
        compare(out="out", on="ray", gpus=0.5, **SPEC)
    with pytest.raises(ConfigError, match="connected to Ray already"):
        compare(out="out", on=cluster.client, **SPEC)
    assert not Path("out").exists()
    monkeypatch.setattr(on_ray, "paths_of", lambda job: ["elsewhere/images"])
    row = compare(out="out", on="ray", **{**SPEC, "seeds": 1}).table[0]
    assert row["status"] == "failed"
    assert "elsewhere/images is not there on the Ray node" in row["error"] and "all nodes share" in row["error"]


@pytest.mark.slow
def test_a_stop_leaves_a_comparison_that_goes_on(cluster: Any):
    whole = compare(out="whole", **{**LONG, "model": ray_models.quick})

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(Path("told").exists)  # the run that is held

    stopper = in_the_middle(1, interrupt)
    with pytest.raises(Interrupted, match=STOPPED) as stop:
        compare(out="out", on="ray", **LONG)
    stopper.join()
    assert stop.value.signal == signal.SIGINT
    record = Comparison.read("out").record
    assert record["status"] == "interrupted" and "waiting" in [row["status"] for row in record["table"]]
    [halted] = [json.loads(path.read_text()) for path in Path("out").glob("runs/*/run.json")]
    assert halted["status"] == "interrupted" and "/onecycle-" not in str(halted["error"])
    steps = [int(path.name.removeprefix("step-")) for path in Path("out").rglob("checkpoints/step-*")]
    assert 0 < max(steps) < 30
    some = compare(out="out", on="ray", **LONG)  # goes on from what is here
    assert_same(whole, some)


@pytest.mark.slow
def test_through_a_client_from_the_shell(cluster: Any):
    options = "--model mlp --policies one_cycle,step --epochs 1 --seeds 1 --limit 320 --optimizer sgd --no-tune"
    command = ["-m", "onecycle", "compare", "digits", *options.split(), "--batch-size", "64", "--lr-max", "0.05"]
    command += ["--json", "--out", "shell", "--on", cluster.client]
    done = forked.run(command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert_same(compare(out="here", **{**SPEC, "seeds": 1}), Comparison.read("shell"))


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["storage", None])
def test_a_node_that_is_killed_in_the_middle_costs_nothing_but_time(cluster: Any, storage: str | None):
    here = compare(out="here", **{**LONG, "model": ray_models.quick})
    node = cluster.add_node(**cluster.small)
    kept = Path.cwd() / "storage"
    begun: dict[str, bytes] = {}

    def kill() -> None:
        if storage is not None:
            wait_for(lambda: len(list(kept.glob("*.zip"))) == 2)
        for path in kept.glob("*.zip"):
            with zipfile.ZipFile(path) as files:
                assert any(name.endswith("manifest.json") for name in files.namelist())
                begun[path.name.rpartition("-")[0]] = files.read("steps.jsonl").partition(b"\n")[0]
        workers = children(node.all_processes["raylet"][0].process.pid)
        cluster.remove_node(node, allow_graceful=False)
        for worker in workers:  # which would live on for a while
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    killer = in_the_middle(2, kill)
    there = compare(out="out", on="ray", storage=storage, **LONG)
    killer.join()
    assert built_elsewhere() == len(there.table) + 1  # one was made again
    assert_same(here, there)
    [note] = there.record["notes"]
    how = "went on from its last checkpoint in storage" if storage else "started anew, since no storage"
    assert f"seed 0: its node or process died 1 time: it {how}" in note
    for run, first in begun.items():  # none begins anew: these records have times
        assert (there.folder / "runs" / run / "steps.jsonl").read_bytes().startswith(first)
    if storage:
        assert len(begun) == 2 and list(kept.iterdir()) == []


def test_a_cluster_that_goes_away_is_named():
    class Lost(Gone):
        @staticmethod
        def wait(*_: Any, **__: Any) -> None:
            raise ConnectionError("lost\nand more")

    work = on_ray.Cluster(Lost, Placement(on="ray")).work
    with pytest.raises(TrainingError, match=r"the Ray cluster is gone: lost and more\. .* give the same command again"):
        next(work([PlannedRun(Path("run"), Job())]))


def test_a_run_whose_nodes_die_again_and_again_has_failed():
    class Deadly(Gone):
        submitted = 0

        @staticmethod
        def wait(refs: list, **_: Any) -> tuple[list, list]:
            Deadly.submitted += 1
            return refs, []

        @staticmethod
        def get(ref: Any) -> Any:
            if ref == "task":
                raise RuntimeError("the node died")

    task = PlannedRun(Path("run"), Job())
    [(made, outcome)] = on_ray.Cluster(Deadly, Placement(on="ray")).work([task])
    assert made is task and outcome.status == "failed" and Deadly.submitted == on_ray.RETRIES + 1
    assert outcome.error == "its node or process died, 4 times: the node died"


class Gone:
    """As much of Ray as a cluster asks of it."""

    class exceptions:
        RayError = RuntimeError
        RayTaskError = TaskCancelledError = ZeroDivisionError

    gpus = 0

    @classmethod
    def remote(cls, *function: Any, **_: Any) -> Any:
        if not function:
            return cls.remote
        task = types.SimpleNamespace(remote=lambda *_: "task" if function[0] is on_ray._on_node else "setup")
        task.options = lambda **_: task
        return task

    @classmethod
    def cluster_resources(cls) -> dict[str, int]:
        return {"GPU": cls.gpus}

    @classmethod
    def nodes(cls) -> list[Any]:
        return [{"Alive": True, "Resources": {"CPU": 1, "GPU": cls.gpus}}]

    @staticmethod
    def get(ref: Any) -> Any:
        return None


def test_gpus_are_shared_where_there_are_any():
    class Two(Gone):
        gpus = 2

    def share(device: str | None, gpus: float | None) -> float:
        return on_ray.Cluster(Two, Placement(on="ray", gpus=gpus))._gpus(Job(device=device))

    assert [share(device, None) for device in (None, "cuda", "cpu")] == [1, 1, 0]
    assert [share(None, 0.25), share("cuda", 0.25), share(None, 0)] == [0.25, 0.25, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "spark"}, "on is ray, or the address of a cluster such as ray://127.0.0.1:10001; received 'spark'"),
        ({"on": "ray://head"}, "received 'ray://head'"),
        (
            {"on": "ray", "cpus": 0},
            "CPUs of a run on Ray, a whole number of at least 1; received 0",
        ),
        ({"on": "ray", "gpus": 2}, "gpus is a share of a GPU, at least 0 and at most 1; received 2"),
        ({"on": "ray", "jobs": 2}, r"leave out jobs \(2\)"),
        ({"cpus": 2}, 'give on="ray" too'),
        ({"storage": "shared"}, 'storage is for runs on Ray: give on="ray" too'),
        ({"on": "ray", "storage": "ftp://a"}, "storage is a folder that all nodes share, or .*; received 'ftp://a'"),
        ({"on": "ray", "storage": "file/under"}, "that can be written; received 'file/under'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str):
    Path("file").touch()
    with pytest.raises(ConfigError, match=message):
        compare(out="out", **arguments, **SPEC)
    assert not Path("out").exists()


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r'pip install "onecycle\[ray\]"'):
        compare(out="out", on="ray", **SPEC)


def test_where_nobody_answers_it_says_how_to_start_ray(monkeypatch: pytest.MonkeyPatch):
    ray, exceptions = types.ModuleType("ray"), types.ModuleType("ray.exceptions")

    def init(*_: Any, **__: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    vars(ray).update(is_initialized=lambda: False, init=init, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    port = free_port()
    for on, address in ((f"ray://127.0.0.1:{port}", None), ("ray", f"127.0.0.1:{port}")):
        if address:
            monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at .*127.0.0.1:{port}: .*ray start --head"):
            compare(out="out", on=on, **SPEC)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match=r"Version mismatch.* ray start --head"),
    ):
        compare(out="out", on=f"ray://127.0.0.1:{port}", **SPEC)
    assert not Path("out").exists()


def test_a_connection_that_is_lost_as_it_begins_is_tried_once_more():
    calls: list[str] = []

    class Ray:
        @staticmethod
        def init(address: str, **_: Any) -> None:
            calls.append(address)
            if len(calls) != 2:
                raise ConnectionAbortedError("Initialization failure from server")

    ray_cluster._init(Ray, "ray://head:10001")
    assert len(calls) == 2
    calls += ["three"]
    with pytest.raises(ConnectionAbortedError):
        ray_cluster._init(Ray, "ray://head:10001")
    assert len(calls) == 5


def test_a_model_of_this_session_cannot_be_found_elsewhere(monkeypatch: pytest.MonkeyPatch):
    def build() -> None: ...

    build.__module__ = "__main__"
    build.__qualname__ = "build"
    monkeypatch.setattr(sys.modules["__main__"], "build", build, raising=False)
    with pytest.raises(ConfigError, match="defined in this session"):
        compare(out="out", on="ray", **{**SPEC, "model": build})

"""Comparisons on a real Ray cluster of this machine: a head without CPUs, and two nodes of one CPU each."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import ray_models

from onecycle import compare
from onecycle.errors import ConfigError, Interrupted, MissingDependency, TrainingError
from onecycle.experiments import ray as on_ray
from onecycle.experiments import ray_connection
from onecycle.experiments.comparison import Comparison
from onecycle.experiments.plan import Task
from onecycle.experiments.workers import Outcome, Ray, workers
from onecycle.jobs.job import Job
from onecycle.records.run import read_records

SPEC: dict[str, Any] = {
    "data": "digits", "model": "mlp", "policies": ["one_cycle", "step"], "epochs": [1], "seeds": 2, "limit": 320,
    "optimizer": "sgd", "tune": False, "lr_max": 0.05, "verbose": False,
}  # fmt: skip
LONG = {**SPEC, "epochs": [6], "model": ray_models.slow}


# Little memory, and a dead node is noticed after a second.
SMALL = {"object_store_memory": 80 * 1024 * 1024}
ATTENTIVE = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_ray, "EVERY", 0.05)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """The cluster, to which this process is connected; `client` is its address for others."""
    if find_spec("ray") is None:
        pytest.skip('Ray is not installed: pip install "onecycle[ray]"')
    # A short path, since sockets lie in it; of its own, since Ray keeps there which cluster a machine is part of.
    with TemporaryDirectory(prefix="ray-") as home, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        for variable in ("RAY_TMPDIR", "TMPDIR"):  # the latter for what a killed node leaves
            patch.setenv(variable, home)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # with it the client server dies now and then on a busy machine
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray
        from ray.cluster_utils import Cluster

        port = free_port()
        head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": port, **SMALL}
        made: Any = Cluster(initialize_head=True, head_node_args={**head, "_system_config": ATTENTIVE})
        try:
            for _ in range(2):
                made.add_node(num_cpus=1, **SMALL)
            ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
            made.client = f"ray://127.0.0.1:{port}"
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def assert_same(one: Comparison, other: Comparison) -> None:
    """Tables, weights and records are equal to the bit, but for times, places and what differs by its nature."""
    assert len(one.table) == len(other.table)
    for row, its in zip(one.table, other.table, strict=True):
        assert without_times(row) == without_times(its)
        home, there = one.folder / row["run"], other.folder / row["run"]
        assert (home / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
        for name in ("steps.jsonl", "epochs.jsonl"):
            records = [list(map(without_times, read_records(folder / name))) for folder in (home, there)]
            assert records[0] == records[1]
        assert result(there)["run"] == str(there)
        assert without_times(result(home)) == {**without_times(result(there)), "run": str(home)}
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
    """Hold the runs of the comparison in ``out`` until so many have brought a checkpoint, and then do something."""
    out, hold = Path("out").resolve(), Path("hold").resolve()

    def under_way() -> int:
        found = [run for run in out.glob("runs/*/run.json") if '"status": "running"' in run.read_text()]
        return sum(any(run.parent.glob("checkpoints/step-*")) for run in found)

    def watch() -> None:
        if wait_for((out / "compare.json").exists):  # its speed was measured
            hold.touch()
            if wait_for(lambda: under_way() >= runs):
                act()
            hold.unlink()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def wait_for(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 90
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


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
    files = ["checkpoints", "epochs.jsonl", "model.safetensors", "run.json", "steps.jsonl"]
    assert sorted(path.name for path in run.iterdir()) == files


def test_failed_runs_are_shown_with_their_error(cluster: Any):
    spec = {**SPEC, "seeds": 1, "epochs": [8], "lr_max": {"one_cycle": 200.0, "step": 0.05}}
    here, there = compare(out="here", **spec), compare(out="there", on="ray", **spec)
    failed, finished = there.table
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert "there/runs" in failed["error"] and failed["error"] == here.table[0]["error"].replace("here/", "there/")
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("mine")
    task = Task(Path("taken"), Job(model="mlp", limit=160, budget="1 epochs", lr_max=0.1))
    with workers(1, Ray()) as work:
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
    monkeypatch.setattr(on_ray, "_paths", lambda job: ["elsewhere/images"])
    row = compare(out="out", on="ray", **{**SPEC, "seeds": 1}).table[0]
    assert row["status"] == "failed"
    assert "elsewhere/images is not there on the Ray node" in row["error"] and "all nodes share" in row["error"]


def test_a_stop_leaves_a_comparison_that_goes_on(cluster: Any):
    whole = compare(out="whole", **{**LONG, "model": ray_models.quick})

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # the nodes hear of it while their runs are held

    stopper = in_the_middle(1, interrupt)
    with pytest.raises(Interrupted, match="what is done is kept in out") as stop:
        compare(out="out", on="ray", **LONG)
    stopper.join()
    assert stop.value.signal == signal.SIGINT
    record = Comparison.read("out").record
    assert record["status"] == "interrupted" and "waiting" in [row["status"] for row in record["table"]]
    halted = [json.loads(path.read_text()) for path in Path("out").glob("runs/*/run.json")]
    assert "interrupted" in [run["status"] for run in halted]
    assert all("/onecycle-" not in str(run["error"]) for run in halted)
    kept = Path("out").rglob("checkpoints/step-*")
    steps = max(int(path.name.removeprefix("step-")) for path in kept)
    assert 0 < steps < 30
    some = compare(out="out", on="ray", **LONG)  # goes on from what is here
    assert_same(whole, some)


def test_through_a_client_from_the_shell(cluster: Any):
    options = "--model mlp --policies one_cycle,step --epochs 1 --seeds 2 --limit 320 --optimizer sgd --no-tune"
    command = [sys.executable, "-m", "onecycle", "compare", "digits", *options.split(), "--lr-max", "0.05"]
    command += ["--json", "--out", "shell", "--on", cluster.client]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert_same(compare(out="here", **SPEC), Comparison.read("shell"))


def test_a_node_that_is_killed_in_the_middle_costs_nothing_but_time(cluster: Any):
    here = compare(out="here", **{**LONG, "model": ray_models.quick})
    before: dict[Path, str] = {}

    def kill() -> None:
        before.update({path: path.read_text() for path in Path("out").glob("runs/*/steps.jsonl")})
        node = next(iter(cluster.worker_nodes))
        workers = children(node.all_processes["raylet"][0].process.pid)
        cluster.remove_node(node, allow_graceful=False)
        for worker in workers:  # which would live on for a while
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    killer = in_the_middle(2, kill)
    there = compare(out="out", on="ray", **LONG)
    killer.join()
    assert len(cluster.worker_nodes) == 1
    assert built_elsewhere() == len(there.table) + 1  # one was made again, and
    firsts = [path.read_text().startswith(text.partition("\n")[0]) for path, text in before.items()]
    assert len(firsts) >= 2 and all(firsts)  # but not from its start: these records have times
    assert_same(here, there)


def test_a_cluster_that_goes_away_is_named(monkeypatch: pytest.MonkeyPatch):
    class Gone:
        class exceptions:
            RayError = RuntimeError

        remote = staticmethod(lambda function: function)
        cluster_resources = staticmethod(dict)
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 1}}])

        @staticmethod
        def get(*_: Any) -> None:
            raise ConnectionError("lost\nand more")

    class Desk:
        class lay:
            remote = staticmethod(lambda *_: None)

    (run := Path("run")).mkdir()
    (run / "run.json").write_text("{}")
    work = on_ray.Cluster(Gone, Desk, Ray()).work
    with pytest.raises(TrainingError, match=r"the Ray cluster is gone: lost and more\. .* give the same command again"):
        next(work([Task(run, Job())]))


def test_gpus_are_shared_where_there_are_any():
    class Two:
        remote = staticmethod(lambda function: function)
        cluster_resources = staticmethod(lambda: {"GPU": 2})
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 1, "GPU": 2}}])

    def share(device: str | None, gpus: float | None) -> float:
        return on_ray.Cluster(Two, None, Ray(gpus=gpus))._share(Job(device=device))

    assert [share(device, None) for device in (None, "cuda", "cpu")] == [1, 1, 0]
    assert [share(None, 0.25), share("cuda", 0.25), share(None, 0)] == [0.25, 0.25, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "spark"}, "on is ray, or the address of a cluster such as ray://127.0.0.1:10001; received 'spark'"),
        ({"on": "ray://head"}, "received 'ray://head'"),
        ({"on": "ray", "cpus": 0}, "cpus is the number of CPUs of a run on Ray, at least 1; received 0"),
        ({"on": "ray", "gpus": 2}, "gpus is the share of a GPU of a run on Ray, from 0 to 1; received 2"),
        ({"on": "ray", "jobs": 2}, r"leave out jobs \(2\)"),
        ({"cpus": 2}, 'give on="ray" too'),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        compare(out="out", **arguments, **SPEC)
    assert not Path("out").exists()


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r'pip install "onecycle\[ray\]"'):
        compare(out="out", on="ray", **SPEC)


def test_where_nobody_answers_it_says_how_to_start_ray(monkeypatch: pytest.MonkeyPatch):
    class Ray:
        is_initialized = staticmethod(lambda: False)

        @staticmethod
        def init(*_: Any, **__: Any) -> None:
            raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    monkeypatch.setattr(ray_connection, "_ray", lambda: Ray)
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

    ray_connection._init(Ray, "ray://head:10001")
    assert len(calls) == 2
    calls += ["three"]
    with pytest.raises(ConnectionAbortedError):
        ray_connection._init(Ray, "ray://head:10001")
    assert len(calls) == 5


def test_a_model_of_this_session_cannot_be_found_elsewhere(monkeypatch: pytest.MonkeyPatch):
    def build() -> None: ...

    build.__module__ = "__main__"
    build.__qualname__ = "build"
    monkeypatch.setattr(sys.modules["__main__"], "build", build, raising=False)
    with pytest.raises(ConfigError, match="defined in this session"):
        compare(out="out", on="ray", **{**SPEC, "model": build})


def test_outcomes_know_the_folder_of_their_run():
    outcome = Outcome("failed", {"run": "/tmp/x/run", "updates": 3}, "look into /tmp/x/run/steps.jsonl")
    named = on_ray._named(outcome, Path("/tmp/x/run"), Path("out/runs/a"))
    assert named == Outcome("failed", {"run": "out/runs/a", "updates": 3}, "look into out/runs/a/steps.jsonl")

"""A training by ranks on Ray: on a real cluster of this machine, and what a rank does there, with real ranks beside."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ranks_makers import on_ranks

from onecycle.commands.app import main
from onecycle.errors import CheckpointError, ConfigError, Interrupted, MissingDependency, RankError
from onecycle.jobs import on_ray
from onecycle.jobs.job import Job
from onecycle.jobs.on_ray import Trainers, run_on_ray
from onecycle.jobs.places import RanksOnRay
from onecycle.jobs.ray_channel import Channel, ChannelStream, RankEnd
from onecycle.records.files import RUN
from onecycle.training.ranks import Ranks

JOB = Job("digits", model="ray_models:quick", budget="6 epochs", lr_max=0.05, optimizer="sgd", limit=320, batch_size=64)
OPTIONS = ["--epochs", "6", "--lr-max", "0.05", "--optimizer", "sgd", "--limit", "320", "--batch-size", "64"]
SAME = "import torch; torch.set_num_threads(1); from test_on_ray import *; "


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def on_two(call: str) -> list[Any]:
    """What a function of this module comes to on each of two ranks."""
    here = str(Path(__file__).parent)
    return on_ranks(f"import sys; sys.path.insert(0, {here!r}); {SAME} result({call})", 2)


def whole() -> None:
    from onecycle.jobs.run import run

    run(JOB, "whole", report=False)


@pytest.mark.slow
def test_a_lost_rank_on_a_cluster_costs_a_restart_and_no_bit(cluster: Any, capfd: pytest.CaptureFixture[str]):
    on_two("whole()")
    node = cluster.add_node(**cluster.small)
    try:
        words = ["train", "digits", "--model", "ray_models:lost", *OPTIONS, "--out", "out", "--no-report"]
        main([*words, "--on", "ray", "--ranks", "2", "--storage", "storage"])
    finally:
        cluster.remove_node(node)
    shown = capfd.readouterr()
    assert (
        shown.err.count("epoch 6/6") == 1 and "note: a rank was lost: all are started anew, 1 of 3 times" in shown.err
    )
    assert "note: out goes on after" in shown.err and "/onecycle-" not in shown.err + Path("out/run.json").read_text()
    assert shown.out.endswith("The run is in out\n")
    assert Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    with zipfile.ZipFile("kept.zip") as kept:
        first = kept.read("steps.jsonl").splitlines()[0]  # it has times: the run went on, and did not begin anew
    assert Path("out/steps.jsonl").read_bytes().splitlines()[0] == first
    assert RUN.read("out")["status"] == "finished"
    assert list(Path("storage").iterdir()) == []


class Remote:
    """An actor without Ray."""

    def __init__(self, thing: Any):
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return types.SimpleNamespace(remote=getattr(self._thing, name))


class Asked(Channel):
    """A channel by which a stop is asked for once an epoch is over."""

    def asked(self) -> int | None:
        return 15 if any("epoch  1/60" in line for line in self._lines) else None


def ranked(channel: Channel, **changes: Any) -> dict[str, Any]:
    """What a rank of a training does in a process of Ray Train, which has it in a thread."""
    from onecycle.jobs.ray_cluster import NodeSetup

    sys.modules["ray"] = types.SimpleNamespace(get=lambda made: made)  # type: ignore[assignment]
    beside = Path("beside")
    beside.touch()
    setup = NodeSetup.like_here(1, None)
    task = on_ray.RankTask(JOB, Path("out"), False, True, setup, "key.zip", (), beside, launch="one")
    raised: list[str] = []

    def train() -> None:
        try:
            replace(task, **changes).rank(Remote(channel))
        except RankError as error:
            raised.append(str(error))

    Ranks.join("gloo", 60.0)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    ends = [vars(end) for end in channel.ends()]
    return {"ends": ends, "lines": channel.heard(), "raised": raised}


LONG = replace(JOB, budget="60 epochs")


class Again(Channel):
    """A channel of ranks that were there before."""

    def begin(self) -> int:
        super().begin()
        return super().begin()


def stopped() -> dict[str, Any]:
    return ranked(Asked(), job=LONG)


def again() -> dict[str, Any]:
    return ranked(Again(), job=LONG)


def test_a_stop_reaches_the_ranks_which_go_on_later():
    main_rank, other = on_two("stopped()")
    [end], [its] = main_rank["ends"], other["ends"]
    assert (end["kind"], end["signal"]) == ("Interrupted", 15) == (its["kind"], its["signal"])
    assert "stopped by SIGTERM after update" in end["error"] and "A checkpoint is written" in end["error"]
    assert any(line.startswith("epoch  1/60") for line in main_rank["lines"]) and other["lines"] == []
    assert isinstance(RankEnd(**end).raised(), Interrupted)
    later = on_two("again()")[0]
    assert later["lines"][0] == "note: a rank was lost: all are started anew, 1 of 3 times"
    assert any("note: out goes on after" in line for line in later["lines"])
    assert later["ends"][0]["result"]["updates"] == 300 and RUN.read("out")["status"] == "finished"


class Full:
    """A storage without room."""

    @staticmethod
    def open_input_stream(key: str) -> Any:
        raise FileNotFoundError(key)

    @staticmethod
    def open_output_stream(key: str) -> Any:
        raise OSError(28, "No space left on device")


def unkept() -> dict[str, Any]:
    from onecycle.jobs.ray_cluster import NodeSetup

    return ranked(Channel(), job=LONG, setup=NodeSetup.like_here(1, Full), beside=None)


def test_a_storage_without_room_ends_the_run_with_its_message():
    (end,) = on_two("unkept()")[0]["ends"]
    assert (end["kind"], end["error"]) in [
        ("TrainingError", "cannot keep checkpoints in the storage: [Errno 28] No space left on device"),
        (
            "CheckpointError",
            "the run has ended, and cannot be put into the storage: [Errno 28] No space left on device",
        ),
    ]  # the second where it ended before the first checkpoint was put there


def failing() -> list[dict[str, Any]]:
    import ray_models

    def quick(**_: Any) -> Any:
        raise OSError("the disk with the weights is gone")

    second = os.environ["RANK"] == "1"
    if second:
        ray_models.quick = quick  # type: ignore[assignment]
    return [
        ranked(Channel(), paths=("elsewhere/images",) if second else ()),
        ranked(Channel(), beside=Path("not-there")),
        ranked(Channel()),  # the last, since a rank that fails leaves the others
    ]


def test_an_error_of_one_rank_arrives_with_its_message_and_its_number():
    ends = [[RankEnd(**one["ends"][0]) for one in of_rank] for of_rank in on_two("failing()")]
    (missing, unshared, mine), (*_, its) = ends
    assert mine.silent and not its.silent
    error = RankEnd.of_all([mine, its]).raised()
    assert type(error) is ConfigError and str(error).startswith("rank 1 of 2: model 'ray_models:quick'")
    assert "OSError: the disk with the weights is gone" in str(error)
    assert missing.kind == "ConfigError" and "elsewhere/images is not there on the Ray node" in str(missing.error)
    assert "the folder of the run must be on a file system that all nodes share" in str(unshared.error)
    assert "or give a --storage" in str(unshared.error)


def test_what_ranks_tell_is_what_is_raised():
    done = RankEnd({"updates": 3})
    assert RankEnd.of_all([done, done]) is done
    assert type(RankEnd.of(CheckpointError("x"), Ranks()).raised()) is CheckpointError
    assert str(RankEnd.of(ZeroDivisionError("x"), Ranks()).raised()) == "ZeroDivisionError: x"


def test_ranks_that_are_lost_again_and_again_are_named():
    error = RuntimeError("Training failed due to worker errors:")
    error.worker_failures = {1: OSError("the actor died\nand more")}  # type: ignore[attr-defined]
    said = Trainers(2, 1, False, None)._lost(error)
    assert said == "ranks were lost, after 3 restarts too: rank 1 of 2: the actor died and more"
    assert Trainers(2, 1, False, None)._lost(OSError("no room")) == "ranks were lost, after 3 restarts too: no room"


def test_lines_go_through_a_channel_whole():
    channel = Channel()
    print("one\nin /tmp/x/out", "three", file=ChannelStream(Remote(channel), Path("/tmp/x/out"), Path("out")))
    assert channel.heard() == ["one", "in out three"] and channel.heard() == []
    assert (channel.stop(2), channel.begin(), channel.begin(), channel.stop(2)) == (False, 0, 1, True)


class Small:
    """As much of Ray as is asked of a cluster for its size."""

    gpus = 0

    @classmethod
    def cluster_resources(cls) -> dict[str, int]:
        return {"GPU": cls.gpus}

    @classmethod
    def nodes(cls) -> list[Any]:
        return [{"Alive": alive, "Resources": {"CPU": 3, "GPU": cls.gpus}} for alive in (True, True, False)]


@pytest.mark.parametrize(
    ("ranks", "cpus", "gpus", "said"),
    [
        (7, 1, 0, "ranks is 7, each with 1 CPU, and the Ray cluster has room for 6: its nodes have 3 CPUs, 0 GPUs; 3"),
        (3, 2, 0, "ranks is 3, each with 2 CPUs, and the Ray cluster has room for 2"),
        (3, 1, 1, "ranks is 3, each with 1 CPU and a GPU, and the Ray cluster has room for 2"),
        (6, 1, 0, ""), (2, 2, 0, ""), (2, 1, 1, ""),
    ],
)  # fmt: skip
def test_more_ranks_than_there_is_room_for_are_refused(ranks: int, cpus: int, gpus: int, said: str):
    sized = types.SimpleNamespace(nodes=lambda: [
        {**node, "Resources": {"CPU": 3, "GPU": gpus}} for node in Small.nodes()
    ])  # fmt: skip
    if not said:
        on_ray._check_size(sized, ranks, cpus, bool(gpus))
        return
    with pytest.raises(ConfigError, match=said):
        on_ray._check_size(sized, ranks, cpus, bool(gpus))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": 2}, 'give on="ray" .* too; without Ray: torchrun --nproc-per-node=2 -m onecycle train'),
        ({"storage": "shared"}, "storage is for a training on Ray"),
        ({"on": "spark"}, "on is ray, or the address of a cluster such as ray://127.0.0.1:10001; received 'spark'"),
        (
            {"on": "ray", "ranks": 0},
            "ranks is the number of processes on Ray, a whole number of at least 1; received 0",
        ),
        ({"on": "ray", "cpus": 1.5}, "cpus is the number of CPUs of a rank on Ray, .* received 1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        RanksOnRay(**options)


def test_what_cannot_be_used_is_said_before_ray_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    Path("file").touch()
    with pytest.raises(ConfigError, match=r"storage is a folder that all nodes share, .* received 'file/under'"):
        run_on_ray(JOB, "out", place=RanksOnRay(on="ray", storage="file/under"))
    with pytest.raises(MissingDependency, match=r'pip install "onecycle\[ray\]"'):
        run_on_ray(JOB, "out", place=RanksOnRay(on="ray"))
    RUN.claim("out").mkdir()
    Path("out/thesis.txt").touch()
    with pytest.raises(CheckpointError, match="out is not empty and holds no run"):
        run_on_ray(JOB, "out", place=RanksOnRay(on="ray"))
    monkeypatch.setitem(sys.modules, "ray.train", None)
    end = Trainers(1, 1, False, None).fit(None, None)  # type: ignore[arg-type]
    assert end is not None and isinstance(end.raised(), MissingDependency) and "onecycle[ray]" in str(end.error)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without a launcher such as torchrun"):
        RanksOnRay(on="ray")


def test_a_run_that_has_ended_is_not_made_again(monkeypatch: pytest.MonkeyPatch):
    from onecycle.jobs.run import run

    made = run(replace(JOB, budget="1 epochs"), "out", report=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    again = run_on_ray(replace(JOB, budget="1 epochs"), "out", place=RanksOnRay(on="ray"), resume=True)
    assert json.dumps(again.to_dict()) == json.dumps(made.to_dict())

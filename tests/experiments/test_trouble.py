"""What goes wrong around a comparison: what is said of it, and how the comparison goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparison_makers import GIVEN
from torch import nn

from onecycle.errors import CheckpointError, DataError, Interrupted, TrainingError
from onecycle.experiments import campaign as campaign_module
from onecycle.experiments import comparison as module
from onecycle.experiments import plan, workers
from onecycle.experiments.comparison import Comparison, compare, lines
from onecycle.experiments.execute import Outcome, PlannedRun, execute
from onecycle.experiments.options import Placement
from onecycle.experiments.plan import Speed
from onecycle.experiments.spec import Spec
from onecycle.jobs.job import Job
from onecycle.records.files import COMPARISON, RUN

UNTUNED = {**GIVEN, "epochs": [1], "seeds": 1, "tune": False, "lr_max": 0.1}
TUNED = {**GIVEN, "epochs": [1], "seeds": 1, "trials": 3}
SPEED = Speed(1000.0, 160, 100)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "measure", lambda job, seconds: SPEED)


class Unfit(nn.Linear):
    """A model of one's own: a layer for another number of inputs, or one that breaks off in its first update."""

    breaks: BaseException | None = None

    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__(64 if self.breaks else 3, classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.breaks and torch.is_grad_enabled():
            raise self.breaks
        return super().forward(input.flatten(1))


@pytest.mark.parametrize(
    ("breaks", "raised", "message"),
    [
        (None, DataError, r"^Unfit cannot take inputs of float32 \[8, 1, 8, 8\]: mat1 and mat2"),
        (KeyError("mask"), TrainingError, "^the model cannot be trained on these data: KeyError: 'mask'"),
        (DataError("no such label"), DataError, "^no such label"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "^stop"),
    ],
)
def test_what_a_model_raises_says_that_it_cannot_be_trained(breaks, raised, message, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Unfit, "breaks", breaks)
    with pytest.raises(raised, match=message) as error:
        plan.measure(Job(model=f"{__name__}:Unfit", limit=160, optimizer="sgd"), 0.01)
    assert raised is not TrainingError or error.value.__cause__ is not None


def test_a_record_that_breaks_off_says_how_to_mend_it(tmp_path: Path):
    (tmp_path / "compare.json").write_text('{"schema": 1, "ta')
    with pytest.raises(CheckpointError, match=r"compare\.json cannot be read: .*Restore it, or give another folder"):
        Comparison.read(tmp_path)


@pytest.mark.parametrize("options", [UNTUNED, TUNED])
def test_a_run_that_is_stopped_alone_is_still_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None, options: dict
):
    """As where somebody ends one of the processes: the others go on, and the comparison is not finished."""
    made: list[PlannedRun] = []

    def work(tasks: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        for i, task in enumerate(tasks):
            made.append(task)
            yield task, Outcome("interrupted") if i == 0 else execute(task)

    @contextmanager
    def fake(*_):
        yield work

    with monkeypatch.context() as patch:
        patch.setattr(module, "workers", fake)
        with pytest.raises(Interrupted, match="To go on: onecycle compare digits --model mlp "):
            compare(out=tmp_path / "out", **options)
    left = Comparison.read(tmp_path / "out")
    assert left.record["status"] == "interrupted" and "waiting" in [row["status"] for row in left.table]
    assert all(RUN.read(task.folder)["status"] == "finished" for task in made[1:])
    assert {task.trial for task in made} == {options is TUNED}
    whole = compare(out=tmp_path / "out", **options)
    assert whole.record["status"] == "finished" and [row["status"] for row in whole.table] == ["finished"] * 2


def test_an_error_here_stops_the_runs_under_way(monkeypatch: pytest.MonkeyPatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda *_, **__: SimpleNamespace(shutdown=lambda **_: None))
    monkeypatch.setattr(workers.os, "kill", lambda pid, number: sent.append((pid, number)))
    pools: list[workers._Pool] = []
    monkeypatch.setattr(workers, "_Pool", lambda jobs, make=workers._Pool: pools.append(make(jobs)) or pools[-1])
    with pytest.raises(CheckpointError, match="full"), workers.workers(Placement(jobs=2)):
        monkeypatch.setattr(pools[0], "_processes", lambda: [SimpleNamespace(pid=7), SimpleNamespace(pid=None)])
        raise CheckpointError("the disk is full")
    assert sent == [(7, signal.SIGINT)] and pools[0]._stopping.is_set()
    with workers.workers(Placement(jobs=2)):
        pass
    assert len(sent) == 1 and not pools[1]._stopping.is_set()


def test_a_damaged_range_test_is_named(tmp_path: Path, unmeasured: None):
    (tmp_path / "out/trials").mkdir(parents=True)
    campaign = module.Campaign(Spec.from_dict({k: v for k, v in TUNED.items() if k != "verbose"}), tmp_path / "out",
                       {(): SPEED}, module.Silent(), lambda tasks: iter(()))  # fmt: skip
    for text in ('{"peaks": {"1": 0.', "[]", '{"peaks": 3}', "{}"):
        (tmp_path / "out/trials/range.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"trials/range\.json cannot be read: .*Remove it to test anew"):
            campaign.tune()


@pytest.mark.parametrize(
    ("record", "centre"),
    [(None, 0.0111), ({"peaks": {}, "default": 0.005}, 0.005), ({"peaks": {"1": 0.03}}, 0.03), ({"peaks": {}}, 0.007)],
    ids=["new", "begun", "tested", "begun before there was one"],
)
def test_a_comparison_keeps_the_peak_that_its_trials_are_about(record, centre, tmp_path: Path, monkeypatch, unmeasured):
    """An epoch of one batch allows no range test; 160 samples are an update, however many batches are asked for."""
    kept, seen = tmp_path / "out/trials/range.json", []
    kept.parent.mkdir(parents=True)
    if record is not None:
        kept.write_text(json.dumps(record))
    monkeypatch.setattr(campaign_module, "tuned", lambda groups, centres, *_: seen.extend(centres.values()) or {})
    asked = {**TUNED, "optimizer": "adamw", "batch_size": 160, "accumulate": 8, "policies": ["one_cycle"]}
    spec = Spec.from_dict({k: v for k, v in asked.items() if k != "verbose"})
    for _ in range(2):
        module.Campaign(spec, tmp_path / "out", {(): SPEED}, module.Silent(), lambda tasks: iter(())).tune()
    assert seen == [centre, centre]


@pytest.mark.parametrize("before", [True, False])
def test_runs_along_an_axis_of_samples_keep_the_batch_size_that_they_began_with(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None
):
    """Earlier versions had none in common: each run's batch size fitted its own data."""
    given: dict[str, Any] = {name: value for name, value in UNTUNED.items() if name != "batch_size"}
    given["fraction"] = [1, 0.5]
    with monkeypatch.context() as patch:
        if before:
            patch.setattr(module, "common_batch_size", lambda spec: None)
        begun = compare(out=tmp_path / "out", **given).record
    assert begun["common_batch_size"] == (None if before else {"size": 8, "samples": 80})
    if before:
        COMPARISON.write(tmp_path / "out", {k: v for k, v in begun.items() if k != "common_batch_size"})
    monkeypatch.setattr(module, "common_batch_size", lambda spec: plan.CommonBatchSize(16, 99))
    whole = compare(out=tmp_path / "out", **{**given, "seeds": 2})
    sizes = {RUN.read(tmp_path / "out" / row["run"])["config"]["batch_size"] for row in whole.table}
    assert [row["status"] for row in whole.table] == ["finished"] * 8 and sizes == {None if before else 8}
    assert whole.record["notes"] == begun["notes"] and len(begun["notes"]) == (not before)


def test_on_ray_the_time_is_of_one_run_after_the_other():
    said = {on: lines(Spec(), {(): SPEED}, Placement(on=on))[-1] for on in (None, "ray")}
    assert said["ray"] == said[None].replace(", from", " if one after the other, from") != said[None]

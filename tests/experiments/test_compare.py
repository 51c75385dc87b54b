"""A comparison from its plan to its record: tuned alike, resumed, failing in places, and in processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from comparison_makers import GIVEN
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from onecycle import Learner, build_model, load
from onecycle.commands.app import main
from onecycle.errors import CheckpointError, ConfigError, DataError, Interrupted
from onecycle.experiments import campaign, execute, plan, workers
from onecycle.experiments import comparison as module
from onecycle.experiments.comparison import Comparison, compare, conduct
from onecycle.experiments.execute import Outcome, PlannedRun, known
from onecycle.experiments.options import Placement
from onecycle.experiments.plan import Speed
from onecycle.experiments.spec import Spec
from onecycle.jobs.job import Job
from onecycle.jobs.predictions import predict_files
from onecycle.jobs.run import job_of, run
from onecycle.records.files import RUN

UNTUNED = {**GIVEN, "epochs": [1], "seeds": 2, "tune": False, "lr_max": {"one_cycle": 0.2, "step": 0.1}}
TUNED = {**GIVEN, "epochs": [1], "seeds": 1, "trials": 3}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "measure", lambda job, seconds: Speed(1000.0, 160, 100))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[PlannedRun]:
    """The runs that were made, each time one was."""
    found: list[PlannedRun] = []
    real = execute.run

    def counted(job, folder, **options):
        if "test" in options:
            found.append(PlannedRun(folder, job, not options["test"]))
        return real(job, folder, **options)

    monkeypatch.setattr(execute, "run", counted)
    return found


def measures(comparison: Comparison) -> list:
    return [(row["policy"], row["seed"], row["lr_max"], row["test_accuracy"]) for row in comparison.table]


@pytest.mark.parametrize("asked", [UNTUNED, TUNED])
def test_no_run_of_a_comparison_searches_its_peak(asked, made, tmp_path, monkeypatch):
    """Its share of the budget would be another for each policy."""
    monkeypatch.setattr("onecycle.fits.run.search_of", lambda *_: pytest.fail("searched"))
    assert compare(out=tmp_path / "out", **asked).record["status"] == "finished"
    assert made and all(isinstance(planned.job.lr_max, float) for planned in made)


def test_given_peaks(tmp_path: Path):
    comparison = compare(out=tmp_path / "out", **UNTUNED)
    record = json.loads((tmp_path / "out/compare.json").read_text())
    assert comparison == Comparison.read(tmp_path / "out") and comparison.record == record
    assert [row[:3] for row in measures(comparison)] == [("one_cycle", 0, 0.2), ("step", 0, 0.1), ("one_cycle", 1, 0.2),
                                                         ("step", 1, 0.1)]  # fmt: skip
    assert (record["schema"], record["status"], record["tuning"]) == (1, "finished", [])
    assert {"versions", "hardware", "command", "created", "config", "speed_up"} <= set(record)
    for row in comparison.table:
        one = RUN.read(tmp_path / "out" / row["run"])
        assert one["result"]["test"]["accuracy"] == row["test_accuracy"] and one["config"]["seed"] == row["seed"]
        assert one["config"]["policy"] == row["policy"] and one["resolved"]["lr_max"] == row["lr_max"]
    assert "the best standard schedule (step)" in comparison.summary[0]
    alone = run(Job(model="mlp", limit=160, batch_size=64, optimizer="sgd", budget="1 epochs", lr_max=0.1,
                    policy="step", seed=1), tmp_path / "alone", report=False)  # fmt: skip
    assert alone.test["accuracy"] == comparison.table[3]["test_accuracy"]


def test_the_options_of_a_model_travel_with_its_run(tmp_path: Path):
    comparison = compare(out=tmp_path / "out", **{**UNTUNED, "policies": ["step"], "lr_max": 0.1, "seeds": 1,
                                                  "hidden": [[8], [16, 8]]})  # fmt: skip
    assert [row["hidden"] for row in comparison.table] == [[8], [16, 8]]
    folder = tmp_path / "out" / comparison.table[1]["run"]
    assert job_of(folder).model_options == {"hidden": [16, 8]}
    assert known(PlannedRun(folder, job_of(folder)))
    Image.new("L", (8, 8)).save("black.png")
    assert predict_files(folder, ["black.png"])[0]["class"] in "0123456789"
    assert not (folder / "curves.png").exists()


def test_each_policy_gets_its_peak_from_as_many_trials(tmp_path: Path, made: list[PlannedRun]):
    comparison = compare(out=tmp_path / "out", **{**TUNED, "epochs": [1, 2]})
    tuning = comparison.record["tuning"]
    trials = [task for task in made if task.trial]
    assert len(trials) == len(tuning) and len(made) - len(trials) == 4
    for epochs in (1, 2):
        groups = [[row for row in tuning if row["policy"] == policy and row["epochs"] == epochs]
                  for policy in ("one_cycle", "step")]  # fmt: skip
        assert len(groups[0]) == len(groups[1]) >= 3
        for group in groups:
            chosen = [row for row in group if row["chosen"]]
            assert len(chosen) == 1 and chosen[0]["valid_accuracy"] == max(row["valid_accuracy"] for row in group)
            rates = sorted(row["lr_max"] for row in group)
            assert all(b / a < 2.02 for a, b in pairwise(rates))
            measured = [row for row in comparison.table if row["policy"] == chosen[0]["policy"]
                        and row["epochs"] == epochs]  # fmt: skip
            assert [row["lr_max"] for row in measured] == [chosen[0]["lr_max"]]
    for row in tuning:  # neither the test data nor a seed of the measured runs
        one = RUN.read(tmp_path / "out" / row["run"])
        assert one["result"]["test"] is None and row["test_accuracy"] is None
        assert one["config"]["seed"] == plan.TRIAL_SEED
    assert "With one seed there is no interval" in comparison.summary[-1]


def test_called_again_it_does_only_what_is_missing(tmp_path: Path, made: list[PlannedRun]):
    first = compare(out=tmp_path / "out", **TUNED)
    made.clear()
    assert compare(out=tmp_path / "out", **TUNED) == first and made == []
    (tmp_path / "out/compare.json").write_text(json.dumps({**first.record, "status": "running", "table": []}))
    shutil.rmtree(tmp_path / "out/runs/step-1-seed0")
    shutil.rmtree(tmp_path / "out" / first.record["tuning"][1]["run"])
    again = compare(out=tmp_path / "out", **TUNED)
    assert sorted(task.folder.name for task in made) == sorted(
        [Path(first.record["tuning"][1]["run"]).name, "step-1-seed0"]
    )
    assert measures(again) == measures(first) and again.record["status"] == "finished"


def test_more_seeds_go_on(tmp_path: Path, made: list[PlannedRun]):
    compare(out=tmp_path / "out", **UNTUNED)
    made.clear()
    more = compare(out=tmp_path / "out", **{**UNTUNED, "seeds": 3})
    assert [task.folder.name for task in made] == ["one_cycle-1-seed2", "step-1-seed2"]
    assert len(more.table) == 6
    with pytest.raises(CheckpointError, match="holds another comparison: seeds: 3, now 2"):
        compare(out=tmp_path / "out", **UNTUNED)


def test_a_stop_leaves_a_comparison_that_goes_on_by_the_command_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    whole = compare(out=tmp_path / "whole", **UNTUNED)
    real, count = execute.run, []

    def stopped(*arguments, **options):
        count.append(1)
        if len(count) == 3:
            raise Interrupted("stopped by SIGINT after update 1", signal=2)
        return real(*arguments, **options)

    monkeypatch.setattr(execute, "run", stopped)
    with pytest.raises(Interrupted, match=r"^stopped after 2 of 4 runs, kept in .*/out\. To go on: (.*)$") as stop:
        compare(out=tmp_path / "out", **UNTUNED)
    assert stop.value.signal == 2
    record = Comparison.read(tmp_path / "out").record
    assert record["status"] == "interrupted"
    assert [row["status"] for row in record["table"]] == ["finished", "finished", "waiting", "waiting"]
    assert record["summary"]
    monkeypatch.setattr(execute, "run", real)
    capsys.readouterr()
    main(shlex.split(str(stop.value).rpartition(": ")[2])[1:])
    assert "2 of 4 runs are there already" in capsys.readouterr().err
    assert measures(Comparison.read(tmp_path / "out")) == measures(whole)


def test_trials_of_an_extended_grid_count_with_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {**UNTUNED, "tune": True, "lr_max": None, "policies": ["step"], "seeds": 1, "trials": 3}
    monkeypatch.setattr(campaign, "_score", lambda outcome: (0.5,))
    monkeypatch.setattr(campaign, "tuned", lambda groups, centres, trials, try_all: _tried_twice(groups, try_all))
    real, made = execute.run, []

    def stopped(*arguments, **options):
        made.append(1)
        if len(made) == 4:
            raise Interrupted("stopped by SIGINT after update 1", signal=2)
        return real(*arguments, **options)

    monkeypatch.setattr(execute, "run", stopped)
    with pytest.raises(Interrupted, match=r"^stopped after 3 of 4 trials, kept in "):
        compare(out=tmp_path / "out", **options)


def _tried_twice(groups, try_all):
    (condition,) = groups[0]
    try_all({condition: [0.01, 0.02]})
    return {condition: try_all({condition: [0.03, 0.04]})[condition]}


def test_a_failed_run_is_tried_once_more_and_then_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, tries = execute.run, []

    def fails(job, folder, **options):
        if job.seed == 1:
            tries.append(job.policy)
            if job.policy == "step" or len(tries) == 1:
                raise OSError("the disk <is> full")
        return real(job, folder, **options)

    monkeypatch.setattr(execute, "run", fails)
    comparison = compare(out=tmp_path / "out", **UNTUNED)
    assert tries == ["one_cycle", "one_cycle", "step", "step"]
    last = comparison.table[-1]
    assert (last["status"], last["error"], last["test_accuracy"]) == ("failed", "the disk <is> full", None)
    assert [row["status"] for row in comparison.table[:-1]] == ["finished"] * 3
    assert "1 of 4 runs failed: the table says why." in comparison.summary
    assert "with n = 1 there is no interval" in comparison.summary[0] and comparison.record["speed_up"][0]["n"] == 1
    monkeypatch.setattr(execute, "run", real)
    assert compare(out=tmp_path / "out", **UNTUNED).table[-1]["status"] == "finished"


def test_a_trial_that_diverges_is_an_answer_and_is_not_tried_again(tmp_path: Path, made: list[PlannedRun]):
    task = PlannedRun(
        tmp_path / "trial",
        Job(model="mlp", limit=160, batch_size=64, optimizer="sgd", budget="2 epochs", lr_max=1e30, rescue=False),
        trial=True,
    )
    outcome = execute.execute(task)
    assert outcome.status == "failed" and "loss" in str(outcome.error) and len(made) == 1
    assert known(task) == outcome
    assert known(replace(task, trial=False)) is None


def test_a_policy_of_which_every_trial_fails_has_failed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = execute.run

    def fails(job, folder, **options):
        if job.policy == "step":
            raise DataError("no")
        return real(job, folder, **options)

    monkeypatch.setattr(execute, "run", fails)
    comparison = compare(out=tmp_path / "out", **TUNED)
    ours, theirs = comparison.table
    assert ours["status"] == "finished"
    assert (theirs["status"], theirs["error"]) == ("failed", "no trial run of this policy finished")
    assert theirs["lr_max"] is None


def test_where_no_range_test_can_be_made_the_trials_are_about_the_default(tmp_path: Path):
    comparison = compare(out=tmp_path / "out", **{**TUNED, "batch_size": 160, "policies": ["one_cycle"]})
    rates = sorted(row["lr_max"] for row in comparison.record["tuning"])
    assert 0.2 in rates and 0.1 in rates
    assert comparison.table[0]["status"] == "finished"


def test_a_process_that_dies_is_replaced_and_then_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Dead:
        def __init__(self, *_, **__):
            pass

        def submit(self, *_):
            raise workers.BrokenProcessPool("gone")

        def shutdown(self, **_):
            pass

    starts = []
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda *a, **k: starts.append(1) or Dead())
    with workers.workers(Placement(jobs=2)) as work:
        task = PlannedRun(tmp_path / "x", Job())
        assert list(work([task])) == [(task, Outcome("failed", error=workers.DIED))]
    assert len(starts) == 2


def test_a_worker_that_is_to_stop_begins_nothing(tmp_path: Path, made: list[PlannedRun]):
    task = PlannedRun(tmp_path / "run", Job(model="mlp", limit=160, batch_size=64, budget="1 epochs"))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert execute.interruptible(task, stopping=lambda: True) == Outcome("interrupted")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # between two runs, where nothing would catch it
    finally:
        signal.signal(signal.SIGINT, before)
    assert made == [] and not task.folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs is the number of processes, a whole number of at least 1; received 0"),
        ({"model": lambda: None}, "a function or class at the top of a module"),
        ({"model": "mpl"}, "unknown model 'mpl': did you mean mlp"),
        ({"data": "digit"}, "digits"),
        ({"model": "mlp", "fraction": [1, 0.01]}, "with fraction 0.01: "),
        ({"epochs": ["1"]}, "epochs is a finite number above 0; received '1'"),
        ({"batch_size": "many"}, "batch_size"),
        ({"optimizer": ["sgd", "adamm"]}, "unknown optimizer 'adamm'"),
        ({"width": 3}, "model mlp has no option 'width'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(options: dict, message: str, monkeypatch):
    monkeypatch.setattr(plan, "measure", lambda job, seconds: plan.prepare(job) and Speed(1000.0, 160, 100))
    with pytest.raises((ConfigError, DataError), match=message):
        compare(out="out", **{**UNTUNED, **options})
    assert os.listdir() == []


class Straight(nn.Linear):
    """A model of one's own, at the top of this module."""

    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__(input_shape[0], classes)


def samples(n: int = 96, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    y = (x.sum(1) > 0).long()
    return {"train": (x[32:], y[32:]), "valid": (x[:16].numpy(), y[:16].numpy()), "test": (x[16:32], y[16:32])}


OWN = {**UNTUNED, "model": Straight, "batch_size": 16, "limit": None, "seeds": 1}


def test_data_and_model_of_ones_own(tmp_path: Path, made: list[PlannedRun]):
    """A run is what a `Learner` makes of the same data, also from a copy and in another folder."""
    digits = load("digits", limit=160)
    comparison = compare(**{**UNTUNED, "limit": None}, data=digits)
    assert comparison.folder == Path("comparisons/data-mlp-1")
    model = build_model("mlp", input_shape=digits.input_shape, classes=10, seed=1)
    learn = Learner(model, digits, optimizer="sgd", batch_size=64, seed=1, verbose=False)
    alone = learn.fit(1, "step", 0.1)
    row = comparison.table[3]
    assert (row["policy"], row["seed"], row["valid_loss"]) == ("step", 1, alone.valid["loss"])
    assert row["test_loss"] == learn.evaluate(digits.test)["loss"]
    made.clear()
    assert compare(**{**UNTUNED, "limit": None}, data=load("digits", limit=160)) == comparison and made == []
    other = compare(**OWN, data=samples())
    assert other.folder == Path(f"comparisons/data-{__name__}-Straight-1")
    assert [row["status"] for row in other.table] == ["finished"] * 2


def test_other_data_are_another_comparison(tmp_path: Path):
    compare(out="out", **OWN, data=samples())
    with pytest.raises(CheckpointError, match=r"holds another comparison: x_train: other values; .*or another --out"):
        compare(out="out", **OWN, data=samples(seed=1))
    with pytest.raises(CheckpointError, match=r"x_train: float32 \[64, 3\], now float32 \[68, 3\]"):
        compare(out="out", **OWN, data=samples(100))
    with pytest.raises(CheckpointError, match=r"data: '.*data.npz', now 'digits'"):
        compare(out="out", **OWN)
    Path("out/data.npz").unlink()
    with pytest.raises(CheckpointError, match=r"data\.npz is gone"):
        compare(out="out", **OWN, data=samples())


def test_a_share_of_data_of_ones_own(tmp_path: Path):
    sizes = []
    for n in (96, 64):  # in the same place, one after the other
        comparison = compare(out="out", **{**OWN, "fraction": [1, 0.5]}, data=samples(n))
        rows = [RUN.read(comparison.folder / row["run"]) for row in comparison.table]
        sizes.append([row["facts"]["samples"][0] for row in rows if row["config"]["policy"] == "step"])
        shutil.rmtree("out")
    assert sizes == [[64, 32], [32, 16]]


def test_refused_data_of_ones_own_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan, "measure", lambda job, seconds: plan.prepare(job) and Speed(1000.0, 160, 100))
    with pytest.raises(DataError, match="received DataLoader as train"):
        compare(out="out", **OWN, data=DataLoader(list(range(3))))
    with pytest.raises(DataError, match="NaN or infinite inputs"):
        compare(out="out", **OWN, data=(torch.full((64, 3), math.nan), torch.arange(64) % 2))
    assert os.listdir() == []
    Path("out").mkdir()
    (Path("out") / "data.npz").write_bytes(b"left by a comparison that was killed before its first record")
    assert compare(out="out", **OWN, data=samples()).record["status"] == "finished"


def test_a_model_is_found_by_its_name_where_the_runs_are(monkeypatch: pytest.MonkeyPatch):
    two = Placement(jobs=2)
    assert module._name_of(Straight, two) == f"{__name__}:Straight"
    main = type(sys)("__main__")  # as in a notebook
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("def build(input_shape, classes): ...", main.__dict__)
    assert module._name_of(main.build, Placement()) == "__main__:build"
    with pytest.raises(ConfigError, match=r"'build' is defined in this session.*put it into a file.*or leave out jobs"):
        module._name_of(main.build, two)
    main.__file__ = "<stdin>"
    with pytest.raises(ConfigError, match="this one is in no file: save it, or leave out jobs"):
        Placement(jobs=2)
    main.__file__ = __file__
    assert module._name_of(main.build, two) == "__main__:build" and Placement(jobs=2) == two
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match="write the call under if __name__ == '__main__'"):
        Placement(jobs=2)


def test_runs_that_are_done_show_while_the_peaks_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = compare(out=tmp_path / "out", **TUNED)
    (tmp_path / "out/compare.json").write_text(json.dumps({**first.record, "status": "interrupted"}))
    shutil.rmtree(tmp_path / "out" / first.record["tuning"][0]["run"])

    def stopped(*arguments, **options):
        raise Interrupted("stopped", signal=2)

    monkeypatch.setattr(execute, "run", stopped)
    with pytest.raises(Interrupted):
        compare(out=tmp_path / "out", **TUNED)
    left = Comparison.read(tmp_path / "out")
    assert left.record["status"] == "interrupted" and left.table == first.table and left.summary == first.summary


def test_folders_that_hold_something_else_are_refused(tmp_path: Path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="foreign is not empty and holds no comparison"):
        compare(out="foreign", **UNTUNED)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/compare.json").write_text('{"schema": 2}')
    with pytest.raises(CheckpointError, match="has schema 2; this version of onecycle reads 1"):
        compare(out="newer", **UNTUNED)
    (tmp_path / "newer/compare.json").write_text('{"schema"')
    with pytest.raises(CheckpointError, match="cannot be read"):
        Comparison.read("newer")
    (tmp_path / "newer/compare.json").write_text('{"schema": 1, "table": []}')
    with pytest.raises(CheckpointError, match="is damaged: it has no config, status, summary"):
        Comparison.read("newer")
    with pytest.raises(CheckpointError, match="no comparison in foreign"):
        Comparison.read("foreign")


def test_without_a_folder_the_comparison_finds_its_own_again(made: list[PlannedRun]):
    spec = Spec.from_dict({k: v for k, v in UNTUNED.items() if k != "verbose"})
    first = conduct(spec)
    assert first.folder == Path("comparisons/digits-mlp-1")
    made.clear()
    assert conduct(spec).folder == first.folder and made == []
    assert module._home(None, replace(spec, seeds=1)) == Path("comparisons/digits-mlp-2")


def test_the_page_reads_what_is_written(tmp_path: Path):
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    comparison = compare(out=tmp_path / "out", **{**UNTUNED, "epochs": [1, 2], "batch_size": [32, 64]})
    page = comparison.report()
    assert page == tmp_path / "out/report.html"
    text = page.read_text(encoding="utf-8")
    assert "one_cycle" in text and "Speed-up at equal accuracy" in text and "batch size" in text
    assert len(comparison.plot().axes) == 2


def test_a_comparison_is_plain_data_a_line_and_a_table(tmp_path: Path):
    comparison = compare(out=tmp_path / "out", **UNTUNED)
    assert repr(comparison) == f"Comparison(one_cycle, step: 4 of 4 runs finished, in {tmp_path / 'out'})"
    assert json.loads(json.dumps(comparison.to_dict())) == {"folder": str(tmp_path / "out"), **comparison.record}
    page = comparison._repr_html_()
    assert page.count("<table>") == 2 and "<th>one_cycle</th>" in page.replace("td>", "th>")


def test_a_comparison_whose_range_test_was_made_with_muon_goes_on_with_it(tmp_path):
    spec, trials = Spec(policies=("one_cycle", "step"), epochs=(1,)), tmp_path / "trials"
    assert campaign._as_begun(spec, tmp_path) == spec
    trials.mkdir()
    (trials / "range.json").write_text('{"peaks": {"1": 0.05}, "default": 0.04}')
    assert campaign._as_begun(spec, tmp_path).settings["optimizer"] == "muon"
    (trials / "range.json").write_text('{"peaks": {"1": 0.05}, "default": 0.007, "optimizer": "adamw"}')
    assert campaign._as_begun(spec, tmp_path) == spec

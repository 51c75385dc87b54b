"""Runs that an earlier version of the library began go on to the bit, or it is said why not and what to do."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onecycle import (
    CheckpointError,
    ConfigError,
    Job,
    Learner,
    Policy,
    Update,
    build_model,
    load,
    load_run,
    run,
)
from onecycle.commands.app import main
from onecycle.fits import run as fit
from onecycle.jobs import run as job_run
from onecycle.jobs.run import job_of
from onecycle.records import checkpoint
from onecycle.records import run as runs
from onecycle.records.files import RUN

WORK = Job(model="small-cnn", budget="16 updates", limit=320, batch_size=64, lr_max=0.05, norm_statistics="running",
           standardise=False, rescue=False)  # fmt: skip
LATER = ("standardise", "norm_statistics", "rescue", "fit", "skip_damaged", "leave_out", "average", "class_weights",
         "keep_best", "search")  # fmt: skip


class PowerCut(Exception): ...


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A whole run and one that was cut in the middle of an epoch, with what an earlier version would have written."""
    place, train = tmp_path_factory.mktemp("begun"), fit.train

    def power_cut(*args, **keywords):
        for event in train(*args, **keywords):
            yield event
            if getattr(event, "step", 0) == 12:
                raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_run, "draw", lambda *_: None)
        run(WORK, place / "whole")
        patch.setattr(fit, "train", power_cut)
        patch.setattr(runs, "Checkpointer", functools.partial(runs.Checkpointer, every=0.0, share=1e9))
        with pytest.raises(PowerCut):
            run(WORK, place / "cut")
    record, folder = RUN.read(place / "cut"), place / "cut" / "checkpoints"
    state = checkpoint.latest(folder)
    assert state is not None and state["at"]["batch"]
    config = {name: value for name, value in record["config"].items() if name not in LATER}
    resolved = {name: value for name, value in record["resolved"].items() if name not in LATER}
    RUN.update(place / "cut", config=config, resolved=resolved)
    for name in ("loss", "averages", "best"):
        del state[name]
    del state["means"]["weights"]
    shutil.rmtree(folder)
    checkpoint.save(state, folder, state["at"]["step"])
    return place


@pytest.fixture
def cut(begun) -> Path:
    shutil.copytree(begun / "cut", "cut")
    return Path("cut")


def test_it_goes_on_as_it_would_have_then(begun, cut, capsys):
    assert job_of(cut) == WORK
    main(["train", "--resume", "cut", "--no-report"])
    assert "begun by an earlier version of onecycle: standardise=False, norm_statistics='running' and rescue=False" in (
        capsys.readouterr().err
    )
    weights = [(place / "model.safetensors").read_bytes() for place in (begun / "whole", cut)]
    assert weights[0] == weights[1]
    results = [RUN.read(place)["result"] for place in (begun / "whole", cut)]
    for result in results:
        result["seconds"] = result["samples_per_second"] = 0
    assert results[0] == results[1]
    assert run(job_of(cut), cut, resume=True).to_dict()["updates"] == 16, "and it is known as finished"


def test_an_automatic_peak_stays_the_one_that_was_chosen_then(begun, cut, capsys):
    RUN.update(cut, config={**RUN.read(cut)["config"], "lr_max": "auto"})
    main(["train", "--resume", "cut", "--no-report"])
    assert not (cut / runs.PILOTS).exists() and "pilot" not in capsys.readouterr().err
    assert RUN.read(cut)["result"]["lr_max"] == 0.05
    assert (cut / "model.safetensors").read_bytes() == (begun / "whole" / "model.safetensors").read_bytes()


def test_what_is_now_done_by_default_is_another_run(cut):
    files = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    said = (
        r"standardise: False, now True; norm_statistics: 'running', now 'estimated'\. Resume with the same one.*An "
        r"earlier version of onecycle began it: what it did was standardise=False, norm_statistics='running' and "
        r"rescue=False"
    )
    with pytest.raises(CheckpointError, match=said):
        run(replace(WORK, standardise=True, norm_statistics="estimated", rescue=False), cut, resume=True)
    assert files == {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}


def test_it_predicts_from_its_checkpoint(cut):
    assert load_run(cut).predict(load("digits").test.inputs[:3]).shape == (3, 10)


def test_options_that_are_not_known_here_are_named(cut):
    RUN.update(cut, config={**RUN.read(cut)["config"], "planets": 3})
    for use in (job_of, load_run):
        with pytest.raises(CheckpointError, match=r"has planets, which this version.*pip install --upgrade onecycle"):
            use(cut)


def test_options_that_come_to_something_else_are_named(cut):
    RUN.update(cut, resolved={**RUN.read(cut)["resolved"], "batch_size": 48})
    with pytest.raises(CheckpointError, match=r"its options came to something else, batch_size: 48, now 64\. Give the"):
        run(job_of(cut), cut, resume=True)


# Of a run in Python the options are not recorded, but what they came to is


def digits(**options) -> Learner:
    data = load("digits", limit=320)
    model = build_model("small-cnn", input_shape=data.input_shape, classes=data.n_classes)
    return Learner(model, data, verbose=False, **options)


def stop(event):
    if isinstance(event, Update) and event.step == 4:
        raise PowerCut


@pytest.mark.parametrize(
    ("options", "peak", "says"),
    [
        ({"batch_size": 32}, 0.05, "updates: .*batch_size: .*now 32"),
        ({"smoothing": 0.2}, 0.05, "smoothing: 0.1, now 0.2"),
        ({"accumulate": 2}, 0.05, "accumulate: 1, now 2"),
        ({}, 0.06, "lr_max: 0.05, now 0.06"),
        ({"norm_statistics": "estimated"}, 0.05, None),
        ({"norm_statistics": "running"}, 0.05, "norm_statistics: 'estimated', now 'running'"),
    ],
)
def test_a_run_in_python_goes_on_with_the_options_that_it_was_begun_with(options, peak, says):
    with pytest.raises(PowerCut):
        digits().fit_one_cycle(2, 0.05, out="run", observers=[stop])
    if says is None:
        assert digits(**options).fit_one_cycle(2, peak, out="run", resume=True).updates
        return
    with pytest.raises(CheckpointError, match=says):
        digits(**options).fit_one_cycle(2, peak, out="run", resume=True)


@pytest.mark.parametrize(
    ("policy", "options", "says"),
    [
        ("cosine", {}, r"schedule\.lr\.points: .*, now .*"),
        ("one_cycle", {"peak_at": 0.4}, r"schedule\.lr\.points"),
        ("one_cycle", {"momentum": (0.9, 0.8)}, r"schedule\.momentum"),
    ],
)
def test_a_run_in_python_goes_on_with_its_schedule(policy, options, says):
    with pytest.raises(PowerCut):
        digits().fit(2, "one_cycle", 0.05, out="run", observers=[stop])
    with pytest.raises(CheckpointError, match=says):
        digits().fit(2, policy, 0.05, out="run", resume=True, **options)
    assert digits().fit(2, "one_cycle", 0.05, out="run", resume=True).updates


def test_a_schedule_that_is_a_function_is_not_compared():
    def policy():
        return Policy({"lr": lambda progress: 0.05 * (1 - progress)})

    with pytest.raises(PowerCut):
        digits().fit(2, policy(), out="run", observers=[stop])
    assert digits().fit(2, policy(), out="run", resume=True).updates


def test_standardised_targets_are_the_same_when_a_run_goes_on():
    import torch

    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))

    def priced(factor: float) -> Learner:
        torch.manual_seed(0)
        return Learner(torch.nn.Linear(2, 1), (x, factor * x.sum(1)), optimizer="adamw", verbose=False)

    with pytest.raises(PowerCut):
        priced(1000).fit_one_cycle(2, 0.05, out="run", observers=[stop])
    with pytest.raises(CheckpointError, match=r"scales\.targets\.mean"):
        priced(2000).fit_one_cycle(2, 0.05, out="run", resume=True)
    assert priced(1000).fit_one_cycle(2, 0.05, out="run", resume=True).updates


def test_an_unknown_option_that_is_asked_for_is_still_an_error_of_the_user():
    with pytest.raises(ConfigError, match="unknown option 'planets'"):
        Job.from_dict({"planets": 3})


def test_a_table_of_whose_columns_less_was_kept_goes_on():
    rows = [f"{i},{i}.5,{i % 7}.25" for i in range(40)]
    Path("a.csv").write_text("\n".join(["x,y,z", *rows]))
    job = Job("a.csv", target="y,z", budget="4 updates", lr_max=0.01)
    run(job, "r", report=False)
    facts = RUN.read("r")["facts"]
    for column in facts["columns"]["numbers"]:
        del column["comma"]
    facts["columns"]["target"] = "y or z"
    RUN.update("r", facts=facts, status="running", result=None)
    assert run(job, "r", resume=True, report=False).updates == 4

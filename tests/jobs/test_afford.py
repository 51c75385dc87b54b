"""The net that a time budget affords: by what updates take, in a run, and in one that is resumed."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from onecycle import CheckpointError, ConfigError, Job, Update, load, run
from onecycle.commands.options import job_and_folder
from onecycle.data.splits import Split
from onecycle.jobs import afford
from onecycle.jobs import run as job_run
from onecycle.jobs.run import job_of
from onecycle.records.files import RUN
from onecycle.search.trial import OutOfTime

CPU = SimpleNamespace(device=torch.device("cpu"))
DIGITS = Job(model="auto", budget="100s")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)
    monkeypatch.setattr(afford, "support", lambda device: {"bf16": "a unit"})
    for name, value in {"WIDTHS": (8, 16, 32, 48, 64, 96), "EPOCHS": 5, "UPDATES": 1000, "TRAINING": 0.8}.items():
        monkeypatch.setattr(afford, name, value)


def images(samples: int):
    data = load("digits")
    return replace(data, train=Split(torch.zeros(samples, 1, 8, 8, dtype=torch.uint8), torch.arange(samples) % 10))


def chosen(monkeypatch, seconds, job=DIGITS, samples=6400, elapsed=0.0):
    """What "auto" comes to where an update takes `seconds`, a function of width and precision."""
    monkeypatch.setattr(afford, "_pace", lambda one, until: seconds(one.model_options["width"], one.precision))
    learner_of = lambda one: SimpleNamespace(runtime=CPU, **vars(one))  # noqa: E731
    return afford.affordable(job, images(samples), time.perf_counter() - elapsed, learner_of)


def test_the_widest_net_is_taken_that_makes_the_updates_in_the_time(monkeypatch):
    # 80 of 100 s for 1,000 updates: .08 s an update
    job, data = chosen(monkeypatch, lambda width, _: width / 500)
    assert (job.model, job.model_options, job.precision) == ("fast-cnn", {"width": 32}, "fp32")
    assert data.notes[-1] == ("model auto: fast-cnn of width 32 in fp32, batches of 128: about 25 epochs in the time")
    assert chosen(monkeypatch, lambda width, _: width / 500, elapsed=50)[0].model_options == {"width": 16}
    # 5 epochs of 64,000 in batches of 256 are 1,250 updates: .064 s
    assert chosen(monkeypatch, lambda width, _: width / 499, samples=64000)[0].model_options == {"width": 16}
    assert chosen(monkeypatch, lambda width, _: 1.0)[0].model_options == {"width": afford.WIDTHS[0]}


def test_narrow_numbers_are_taken_where_they_are_faster_and_computed_by_the_hardware(monkeypatch):
    def seconds(width, precision):
        return width / 500 / (2 if precision == "bf16" and width > 16 else 1)

    assert chosen(monkeypatch, seconds)[0].precision == "bf16"
    assert chosen(monkeypatch, seconds)[0].model_options == {"width": 64}
    assert chosen(monkeypatch, seconds, replace(DIGITS, precision="fp32"))[0].model_options == {"width": 32}
    monkeypatch.setattr(afford, "support", lambda device: {"bf16": None})
    assert chosen(monkeypatch, seconds)[0].precision == "fp32"


def test_batches_go_by_the_samples(monkeypatch):
    sizes = [chosen(monkeypatch, lambda *_: 0.01, samples=n)[0].batch_size for n in (20, 1294, 3000, 6400, 10**5)]
    assert sizes == [20, 32, 64, 128, 256]


def test_what_is_given_stays(monkeypatch):
    given = replace(DIGITS, model_options={"width": 8, "dropout": 0.1}, batch_size=50, precision="bf16")
    job, _ = chosen(monkeypatch, lambda *_: 0.001, given)
    assert replace(job, model="auto") == given


def test_an_update_is_of_all_its_batches(monkeypatch):
    def seconds(width, _):
        return 4 * width / 500

    job, data = chosen(monkeypatch, seconds, replace(DIGITS, accumulate=4), samples=64000)
    assert job.model_options == {"width": 8}  # of .064 s, and 1,000 updates in 80 s
    assert data.notes[-1].endswith("about 20 epochs in the time")


def test_choosing_takes_its_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(afford.time, "perf_counter", lambda: now[0])
    asked = []

    def pace(one, until):
        asked.append(one.model_options["width"])
        now[0] += 0.8
        if now[0] > until:
            raise OutOfTime
        return 0.001

    monkeypatch.setattr(afford, "_pace", pace)
    learner_of = lambda one: SimpleNamespace(runtime=CPU, **vars(one))  # noqa: E731
    job, _ = afford.affordable(DIGITS, images(6400), 0.0, learner_of)  # 5 s, four trials of .8 s a width
    assert asked == [8] * 4 + [16] * 3 and job.model_options == {"width": 8}
    now[0] = 0.0
    job, data = afford.affordable(replace(DIGITS, budget="20s"), images(6400), 0.0, learner_of)
    assert (job.model, job.model_options, job.precision) == ("fast-cnn", {"width": 8}, "fp32")
    assert data.notes[-1].endswith("batches of 128: not timed, which would take more than 5% of the time")


def test_options_of_another_model_leave_it_to_the_data():
    given = replace(DIGITS, model_options={"bn_momentum": 0.9})
    assert afford.affordable(given, images(100), 0.0, pytest.fail)[0] == replace(given, model=None)


def test_a_real_choice_of_widths_and_updates():
    data, learners = images(400), []

    def learner_of(one):
        learners.append(job_run.prepare(one, data=data).learner)
        return learners[-1]

    job, with_note = afford.affordable(replace(DIGITS, accumulate=2), data, time.perf_counter(), learner_of)
    assert job.model == "fast-cnn" and job.model_options["width"] in afford.WIDTHS and job.batch_size == 32
    assert {int(learner.state.at.step) for learner in learners} == {0} and len(with_note.notes) == len(data.notes) + 1


@pytest.mark.parametrize("job", [Job(model="auto", budget="3 epochs"), Job(model="auto", budget="9 updates")])
def test_other_budgets_get_the_model_of_the_data(job):
    before = images(100)
    chosen_job, data = afford.affordable(job, before, time.perf_counter(), pytest.fail)
    assert data is before and (chosen_job.model, chosen_job.precision) == (None, "fp32")


def test_other_data_get_the_model_of_the_data():
    for changes in ({"kind": "table"}, {"classes": None}):
        assert afford.affordable(DIGITS, replace(images(100), **changes), 0.0, pytest.fail)[0].model is None
    tiny = replace(images(100), train=Split(torch.zeros(100, 1, 3, 8, dtype=torch.uint8), torch.zeros(100).long()))
    assert afford.affordable(DIGITS, tiny, 0.0, pytest.fail)[0].model is None  # which fast-cnn does not take


def test_the_commands_choose_by_the_time_and_python_where_it_is_asked_to():
    assert job_and_folder({"budget": "9s"}, None, None)[0].model == "auto"
    assert job_and_folder({"budget": "9s", "model": "mlp"}, None, None)[0].model == "mlp"
    assert str(job_and_folder({"budget": "9s"}, None, None)[1]) == "runs/digits-1"
    assert Job(budget="9s").model is None and Job(budget="9s").precision == "fp32"
    assert str(job_run.free_folder(Job("auto"))) == "runs/auto-1"
    assert DIGITS.command() == "onecycle train digits --model auto --budget 100s --lr-max auto"


def test_an_unknown_optimizer_is_refused_before_the_data_are_read():
    with pytest.raises(ConfigError, match="sdg"):
        run(replace(DIGITS, data="nothing.npz", optimizer="sdg"), "run")


def test_a_run_keeps_its_net_when_it_is_resumed(monkeypatch):
    monkeypatch.setattr(afford, "WIDTHS", (8,))
    job = replace(DIGITS, budget="4s", limit=320, lr_max=0.02)

    def stop(event):
        if isinstance(event, Update):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(job_run.Learner, "_progress", lambda *_: [stop])
        run(job, "run", verbose=True, report=False)
    record = RUN.read("run")
    config = record["config"]
    assert (config["model"], config["model_options"]) == ("fast-cnn", {"width": 8})
    assert any(note.startswith("model auto: fast-cnn of width 8") for note in record["notes"])
    monkeypatch.setattr(afford, "affordable", pytest.fail)
    monkeypatch.setattr(job_run, "affordable", pytest.fail)
    result = run(job, "run", resume=True, report=False)
    assert result.updates > 0 and RUN.read("run")["config"] == config
    assert run(job, "run", resume=True, report=False).to_dict() == result.to_dict()
    assert job_of("run").model == "fast-cnn"
    for changes in ({"batch_size": 50}, {"precision": "bf16"}, {"model_options": {"width": 64}}):
        with pytest.raises(CheckpointError, match=next(iter(changes))):
            run(replace(job, **changes), "run", resume=True, report=False)
    extended = run(replace(job, extend="run", budget="2 updates"), "more", report=False)
    assert extended.updates == 2 and RUN.read("more")["config"]["model_options"] == {"width": 8}

"""Jobs that are fine-tuned in stages: their options, their budget, and a run of them that is killed."""

from __future__ import annotations

import json
import shutil

import forked
import pytest
from training_makers import differing

from onecycle import ConfigError, Job, run
from onecycle.jobs.run import job_of
from onecycle.records.files import RUN, read_jsonl

SMALL = {"model": "onecycle.models.small:small_cnn", "limit": 200, "optimizer": "adamw"}
KILLED = {"data": "digits", "budget": "4 epochs", "fine_tune": "auto", **SMALL}


def weights_in(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_budget_has_all_stages(tmp_path):
    job = Job("digits", budget="3 epochs", fine_tune="discriminative", **SMALL)
    result = run(job, tmp_path / "run", report=False)
    per_epoch = round(result.updates / result.epochs)
    assert result.updates == 2 * per_epoch, "one epoch of three is the head's"
    assert result.test is not None and job_of(tmp_path / "run") == job
    head = RUN.read(tmp_path / "run" / "stages" / "1-head")
    assert head["result"]["epochs"] == 20 and head["status"] == "finished"


def test_a_short_budget_is_shared(tmp_path):
    result = run(Job("digits", budget="1 epochs", fine_tune="full", **SMALL), tmp_path / "run", report=False)
    assert result.epochs == pytest.approx(0.5, abs=0.05)


def test_head_alone(tmp_path):
    result = run(Job("digits", budget="1 epochs", fine_tune="head", **SMALL), tmp_path / "run", report=False)
    assert result.epochs == 20 and not (tmp_path / "run" / "stages").exists()
    record = RUN.read(tmp_path / "run")
    assert record["result"]["seconds"] > read_jsonl(tmp_path / "run" / "steps.jsonl")[-1]["seconds"], "features too"
    assert sum("pretrained (--pretrained) was not given" in note for note in record["notes"]) == 1


def test_a_time_budget(tmp_path):
    result = run(Job("digits", budget="2s", fine_tune="auto", **SMALL), tmp_path / "run", report=False)
    assert result.updates >= 1 and RUN.read(tmp_path / "run" / "stages" / "1-head")["status"] == "finished"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(Job.from_dict(KILLED), folder, report=False)
    return folder


@pytest.mark.parametrize("killed_in", ["stages/1-head", "."])
def test_killed_in_either_stage_and_resumed_to_the_bit(tmp_path, killed_in, whole):
    script = (
        "import os, signal, sys, json\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[2], sys.argv[3], 'checkpoints').resolve()\n"
        "from onecycle import Job, run\n"
        "from onecycle.records import history\n"
        "called = history.Checkpointer.__call__\n"
        "def call(self, event):\n"
        "    called(self, event)\n"
        "    if self._folder.resolve() == folder and event.step >= 7:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "history.Checkpointer.__call__ = call\n"
        "run(Job.from_dict(json.loads(sys.argv[1])), sys.argv[2], report=False)\n"
    )
    done = forked.run(["-c", script, json.dumps(KILLED), str(tmp_path / "cut"), killed_in])
    assert done.returncode == -9, done.stderr
    assert RUN.read(tmp_path / "cut")["status"] == "running"
    result = run(job_of(tmp_path / "cut"), tmp_path / "cut", resume=True, report=False)
    assert differing(weights_in(whole), weights_in(tmp_path / "cut")) == []
    assert len(read_jsonl(tmp_path / "cut" / "steps.jsonl")) == result.updates


def test_stages_of_ones_own(tmp_path):
    stages = [{"budget": "2 epochs", "train": "head"}, {"budget": "1 epochs", "lr_max": [1e-5, 1e-3]}]
    job = Job("digits", stages=stages, **SMALL)
    assert run(job, tmp_path / "run", report=False).epochs == 1
    assert job_of(tmp_path / "run").stages == job.stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fine_tune": "heads"}, "did you mean head"),
        ({"fine_tune": "auto", "balance": True}, "onecycle search .balance. is for a run in one stage"),
        ({"model": "timm:resnet18", "pretrained": True, "balance": True}, "--fine-tune off"),
        ({"freeze_epochs": 3}, 'fine_tune is "off" here'),
        ({"freeze_epochs": 3, "fine_tune": "head"}, 'fine_tune is "head" here'),
        ({"stages": [{"budget": "1 epochs"}], "policy": "cosine"}, "stages have policies of their own"),
        ({"fine_tune": "full", "policy": {"lr": 0.1}}, "fine_tune cannot be had with a policy of your own"),
        ({"freeze_epochs": -1}, "freeze_epochs"),
        ({"fine_tune": "full", "lora": 8, "pretrained": True, "model": "timm:resnet18"}, "fine_tune and lora=8"),
        ({"stages": [{"budget": "1 epochs"}], "fine_tune": "full"}, "stages have peaks and layers of their own"),
        ({"stages": [{"budget": "1 epochs"}], "budget": "3 epochs"}, "stages have budgets of their own"),
        ({"fine_tune": "head"}, "model=None would begin with random ones: give pretrained .--pretrained. and a model"),
        ({"fine_tune": "auto", "model": "mlp"}, "model='mlp' would begin with random ones"),
        ({"fine_tune": "full", "model": "timm:resnet18"}, "give pretrained .--pretrained., or leave out fine_tune"),
        ({"stages": [{"train": "head"}]}, r'a stage is \{"budget"'),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        Job("digits", **options)


def test_too_many_epochs_for_the_head(tmp_path):
    job = Job("digits", budget="2 epochs", fine_tune="full", freeze_epochs=2, **SMALL)
    with pytest.raises(ConfigError, match="freeze_epochs=2 leave nothing of 2 epochs for the rest"):
        run(job, tmp_path / "run", report=False)


def test_a_part_of_a_model_is_not_extended(tmp_path):
    from onecycle.jobs.extend import extension_of

    run(Job("digits", budget="1 epochs", fine_tune="head", **SMALL), tmp_path / "run", report=False)
    with pytest.raises(ConfigError, match="trained a part of its model"):
        extension_of(tmp_path / "run", {"budget": "1 epochs"})


def test_stages_are_no_runs_of_their_own(tmp_path, capsys):
    from onecycle.commands.app import main

    run(Job("digits", budget="2 epochs", fine_tune="full", **SMALL), tmp_path / "run", report=False)
    main(["runs", str(tmp_path), "--json"])
    assert "/stages/" not in capsys.readouterr().out
    assert "--stages" not in Job("digits", stages=[{"budget": "1 epochs"}]).command()


def test_a_run_in_stages_that_were_asked_for_is_extended(tmp_path):
    from onecycle.jobs.extend import extension_of

    own = [{"budget": "1 epochs", "train": "head"}, {"budget": "1 epochs"}]
    asked = {"full": {"budget": "2 epochs", "fine_tune": "full", "freeze_epochs": 0.5}, "own": {"stages": own}}
    for name, options in asked.items():
        first = run(Job("digits", **options, **SMALL), tmp_path / name, report=False)
        more = run(extension_of(tmp_path / name, {"budget": "1 epochs"}), tmp_path / f"{name}-more", report=False)
        assert more.epochs == 1 and more.lr_max < first.lr_max * 1.01


@pytest.mark.parametrize("method", ["head", "full"])
def test_a_run_that_was_broken_off_is_looked_into(tmp_path, method, capsys):
    from onecycle import load_run
    from onecycle.errors import CheckpointError

    job = Job("digits", budget="2 epochs", fine_tune=method, **SMALL)
    whole = run(job, tmp_path / "run", report=False)
    for name in ("model.safetensors", "predictions"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    RUN.update(tmp_path / "run", status="running")
    if method == "head":
        with pytest.raises(CheckpointError, match=r"its checkpoints are of the head alone.*train --resume .*run"):
            load_run(tmp_path / "run", verbose=False)
        return
    looked = load_run(tmp_path / "run").interpret()
    said = capsys.readouterr().err
    assert looked.confusion.accuracy.value == pytest.approx(whole.valid["accuracy"])
    assert looked.heat_map(0).ndim == 2
    assert "has not come to its end (running): the weights are those of its last checkpoint" in said
    assert "has kept no predictions: they are computed for its validation data" in said

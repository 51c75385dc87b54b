"""A range test as plain data: what it decides by itself, what it writes, and the command that it ends in."""

from __future__ import annotations

import json
import random
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from onecycle import CheckpointError, ConfigError, DataError, Job, Learner, Result, TrainingError, build_model
from onecycle.commands.app import main
from onecycle.errors import MissingDependency
from onecycle.jobs import drawing
from onecycle.jobs import run as job_run
from onecycle.jobs.check import check, check_curve
from onecycle.range_test.api import range_test
from onecycle.range_test.verdict import judge
from onecycle.records.curve import Curve

DRAW = drawing.draw
TINY = Job(model="mlp", limit=320, batch_size=64)
CURVE = "iteration,lr,test_accuracy\n0,0.1,0.60\n1,0.5,0.80\n2,1.0,0.82\n3,2.0,0.81\n4,3.0,0.80\n5,1.0,0.83\n"


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "draw", lambda *_: None)


def learner(data, classes: int = 2, **options) -> Learner:
    x, _ = data
    return Learner(nn.Linear(x.shape[1], classes), data, batch_size=16, verbose=False, **options)


def test_the_result_is_plain_data_with_the_command_to_go_on():
    test = check(TINY)
    result = test.to_dict()
    assert json.loads(json.dumps(result)) == result
    assert test.folder is None and "folder" not in result and test.command == result["command"]
    assert (
        result["command"]
        == f"onecycle train digits --model mlp --epochs 10 --lr-max {result['lr_max']:.2g} --limit 320 --batch-size 64"
    )
    assert result["title"] == "digits, mlp, adamw"
    assert result["verdict"]["answer"] in ("possible", "not possible", "unclear")
    assert len(result["curve"]["sweeps"]) == 2 and result["curve"]["sweeps"][0]["valid_accuracy"]
    assert 0 < result["cost"]["updates"] <= 64 and result["cost"]["share"] == result["cost"]["updates"] / 50
    assert any("loss: cross-entropy" in note for note in result["notes"])
    assert result["sharpness"] is None


def test_without_a_folder_nothing_is_written():
    check(TINY, repeats=1)
    assert list(Path.cwd().iterdir()) == []


def test_the_same_job_gives_the_same_test():
    first, again, other = (check(each, repeats=1).curve for each in (TINY, TINY, replace(TINY, seed=1)))
    assert first == again != other


def test_what_a_check_leaves_in_its_folder():
    result = check(TINY, "deep/down", updates=70).to_dict()
    assert [str(path) for path in Path("deep/down").iterdir()] == ["deep/down/check.json"]
    record = json.loads(Path("deep/down/check.json").read_text())
    assert list(record) == [
        "schema", "created", "command", "versions", "hardware", "git_commit", "config", "resolved", "facts", "notes",
        "result",
    ]  # fmt: skip
    assert record["schema"] == 1
    assert record["result"] == {k: v for k, v in result.items() if k != "folder"}
    config = record["config"]
    assert (config["data"], config["model"], record["facts"]["classes"]) == ("digits", "mlp", list("0123456789"))
    assert (config["updates"], config["repeats"], config["full"]) == (70, 2, False)
    assert record["notes"] == result["notes"]
    came_to = {
        "model": "mlp", "optimizer": "adamw", "weight_decay": 0.05, "momentum": 0.9, "smoothing": 0.1,
        "lr_max": result["lr_max"],
    }  # fmt: skip
    assert {name: record["resolved"][name] for name in came_to} == pytest.approx(came_to)


def test_the_picture_is_drawn_where_matplotlib_is(monkeypatch):
    monkeypatch.setattr(drawing, "draw", DRAW)
    pytest.importorskip("matplotlib")
    check(TINY, "out", repeats=1)
    assert Path("out/check.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_written_where_what_it_needs_is_installed(monkeypatch):
    monkeypatch.setattr(drawing, "draw", DRAW)
    pytest.importorskip("plotly")
    check(TINY, "out", repeats=1)
    assert "its accuracy at large learning rates</strong>" in Path("out/report.html").read_text()


def test_a_check_does_not_fail_for_want_of_a_picture_or_a_page(monkeypatch):
    def missing(*_: object) -> None:
        raise MissingDependency("not installed")

    monkeypatch.setattr(drawing, "draw", DRAW)
    monkeypatch.setattr("onecycle.report.matplotlib.save", missing)
    monkeypatch.setattr("onecycle.report.page.page", missing)
    check(TINY, "out", repeats=1)
    assert [path.name for path in Path("out").iterdir()] == ["check.json"]


def test_a_folder_that_cannot_be_used_is_refused_before_the_data_are_read(monkeypatch):
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    Path("full").mkdir()
    Path("full/check.json").write_text("{}")
    Path("file").write_text("")
    with pytest.raises(CheckpointError, match="full holds another check: give another --out"):
        check(TINY, "full")
    for out in ("file", "file/below/it"):
        with pytest.raises(CheckpointError, match=r"cannot write to .*file"):
            check(TINY, out)


def test_a_disk_that_is_full(monkeypatch):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("onecycle.records.files.os.fsync", full)
    with pytest.raises(CheckpointError, match="cannot write to out: No space left on device"):
        check(TINY, "out", repeats=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"budget": "soon"}, "cannot read the budget 'soon'"),
        ({"lr_max": "big"}, """lr_max is a number, "auto" or "default"; received 'big'"""),
    ],
)
def test_bad_settings_are_refused_before_the_data_are_read(change, said, monkeypatch):
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(ConfigError, match=said):
        check(replace(TINY, **change))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeats": 0}, "repeats is the number of sweeps, a whole number of at least 1; received 0"),
        ({"updates": 2.5}, "updates is the number of updates of the whole test"),
        ({"lr_low": -1}, "lr_low is a finite number above 0; received -1"),
        ({"lr_low": 1.0, "lr_high": 0.1}, "received 1 and 0.1: swap them"),
    ],
)
def test_a_bad_plan_is_refused_before_the_data_are_read(options, said, monkeypatch):
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(ConfigError, match=said):
        check(TINY, "out", **options)
    assert not Path("out").exists()


def test_each_repeat_has_initial_weights_of_its_own(monkeypatch):
    seen = {}
    original = Learner.range_test

    def spy(self, **options):
        seen.update(options)
        return original(self, **options)

    monkeypatch.setattr(Learner, "range_test", spy)
    check(replace(TINY, budget="3.5 epochs"), updates=80, repeats=2)
    assert (seen["epochs"], seen["updates"], seen["repeats"]) == (3.5, 80, 2)
    for seed in (1, 2**63 - 1):
        expected = build_model("mlp", input_shape=(1, 8, 8), classes=10, seed=seed).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in seen["build"](seed).state_dict().items())


@pytest.mark.parametrize("budget", ["5m", "500 updates"])
def test_a_budget_that_is_not_in_epochs(budget):
    result = check(replace(TINY, budget=budget), repeats=1).to_dict()
    assert result["epochs"] == 10
    assert f"--budget {budget}" in result["command"].replace("'", "")


# The command to go on with


RESULT = Result({"loss": 1.0}, None, 0.1, 1.0, 1, 1.0, 1.0)


def random_job(draw: random.Random) -> Job:
    """Any settings but those of the schedule, which a check has no say in."""
    choices = {
        "data": ["digits", "a folder/of images", "hub:ylecun/mnist"], "model": [None, "resnet20", "my.models:net"],
        "budget": ["10 epochs", "2.5 epochs", "5m", "500 updates"], "optimizer": ["muon", "sgd"],
        "momentum": [None, 0.9, (0.95, 0.85)], "weight_decay": [None, 0.0, 1e-5, 0.123456789], "batch_size": [None, 7],
        "smoothing": [None, 0.0, 0.1], "augment": [None, ("none",), ("crop", "flip")], "accumulate": [1, 4],
        "clip": [None, 0.5], "seed": [0, 12345678], "limit": [None, 1000], "image_size": [None, 32],
        "precision": ["fp32", "bf16"], "device": [None, "cpu"], "compile": [False, True],
        "norm_statistics": ["estimated", "running"], "class_weights": [None, "balanced"],
    }  # fmt: skip
    return Job(**{name: draw.choice(values) for name, values in choices.items()})


def test_the_command_trains_the_very_job(monkeypatch, capsys):
    done = []
    monkeypatch.setattr("onecycle.jobs.run.run", lambda job, *_, **__: done.append(job) or RESULT)
    draw = random.Random(0)
    for peak in ["default", 0.5, 3e-6, 20.0] * 5:
        work = random_job(draw)
        if work.budget == "5m" and work.model is None:  # for which train chooses a model by the time
            work = replace(work, model="small-cnn")
        main([*shlex.split(work.command(lr_max=peak))[1:], "--json"])
        assert done.pop() == replace(work, lr_max=peak)
    capsys.readouterr()


def test_the_command_names_the_model_where_train_would_choose_one_by_the_time():
    assert "--model small-cnn" in check(Job(budget="5m", limit=320), updates=64, repeats=1, report=False).command
    assert "--model" not in check(Job(limit=320), updates=64, repeats=1, report=False).command


# A curve that is there already


def test_a_curve_from_a_file_is_judged():
    Path("curve.csv").write_text(CURVE)
    result = check_curve("curve.csv", "out").to_dict()
    curve = Curve.from_dict(result["curve"])
    assert curve.valid_accuracy.lr == (0.1, 0.5, 1.0, 2.0, 3.0)
    assert result["verdict"]["answer"] == judge(curve).answer
    assert (result["lr_max"], result.get("command"), result["title"], result["cost"]) == (None, None, "curve.csv", {})
    record = json.loads(Path("out/check.json").read_text())
    assert record["config"] == {"curve": "curve.csv"}
    assert record["result"]["curve"] == result["curve"]


@pytest.mark.parametrize("text", ["", "rate,accuracy\n1,2\n", "lr,test_accuracy\nhigh,0.5\n", None])
def test_a_file_that_is_no_curve(text):
    if text is not None:
        Path("curve.csv").write_text(text)
    with pytest.raises(DataError, match=r"curve\.csv is no curve, a CSV file with the columns lr and test_accuracy"):
        check_curve("curve.csv")


def test_a_curve_without_accuracies_is_refused_before_anything_is_written():
    Path("curve.csv").write_text("lr,train_loss\n0.1,2.3\n0.2,2.2\n")
    with pytest.raises(DataError, match=r"curve\.csv has no values in a column test_accuracy"):
        check_curve("curve.csv", "out")
    assert not Path("out").exists()


# The sharpness along the sweep


def test_in_full_the_sharpness_is_measured_along_the_same_sweeps():
    plain, full = check(TINY).to_dict(), check(TINY, full=True).to_dict()
    assert full["curve"] == plain["curve"]
    first = full["curve"]["sweeps"][0]
    assert list(full["sharpness"]) == ["lr", "largest_eigenvalue", "hessian_free"]
    assert full["sharpness"]["lr"] == first["valid_lr"]
    assert {len(values) for values in full["sharpness"].values()} == {len(first["valid_lr"])}
    assert 0 < full["cost"]["sharpness_seconds"] < full["cost"]["seconds"]
    free = full["sharpness"]["hessian_free"]
    assert free[:2] == [None, None] and all(value > 0 for value in free[2:])  # two updates come before the first


def test_the_sharpness_is_that_of_the_loss():
    """A quadratic, whose curvature is the same wherever the sweep has got to."""
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    learn = learner((x, x.sum(1, keepdim=True)), classes=1, optimizer="sgd")
    found = learn.range_test(full=True, repeats=1).sharpness
    inputs = torch.cat([x, torch.ones(64, 1)], 1)  # the bias is a weight of an input of one
    expected = torch.linalg.eigvalsh(2 * inputs.T @ inputs / 64)[-1].item()
    assert found["largest_eigenvalue"] == pytest.approx([expected] * len(found["lr"]), rel=0.05)


def test_the_sharpness_leaves_no_trace():
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    learn = Learner(net, (x, (x[:, 0] > 0).long()), batch_size=16, verbose=False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate()
    learn.range_test(full=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators[0]) and random.getstate() == generators[1]
    assert all(p.grad is None for p in net.parameters()) and not learn.optimizer.state


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_a_loss_without_a_second_derivative_is_named():
    x = torch.randn(64, 5)
    learn = learner((x, (x[:, 0] > 0).long()), loss=lambda model, batch: Once.apply(model(batch[0])).square().mean())
    assert learn.range_test(repeats=1).sharpness is None
    with pytest.raises(TrainingError, match="cannot be differentiated twice"):
        learn.range_test(repeats=1, full=True)


def test_a_probe_sees_every_update_of_the_first_sweep():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def step(batch):
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def measured():
        return {"loss": model.weight.square().sum().item()}

    def probe(lr, due):
        seen.append((lr, due, optimizer.param_groups[0]["lr"], measured()["loss"]))

    batches = list(torch.randn(20, 16, 4, generator=torch.Generator().manual_seed(0)))
    test = range_test(step, optimizer, batches, evaluate=measured, probe=probe, repeats=2)
    first, second = test.curve.sweeps
    assert [lr for lr, *_ in seen] == [lr for _, _, lr, _ in seen] == list(first.lr)
    assert [lr for lr, due, *_ in seen if due] == list(first.valid_lr)
    assert [loss for _, due, _, loss in seen if due] == list(first.valid_loss)  # after the update
    assert second.lr

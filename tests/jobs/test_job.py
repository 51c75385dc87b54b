"""A run as plain data: what it decides by itself, and what it writes."""

from __future__ import annotations

import functools
import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onecycle import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    Job,
    Learner,
    TrainingError,
    Update,
    load,
    run,
)
from onecycle.errors import MissingDependency
from onecycle.fits import run as fit
from onecycle.jobs import run as job_run
from onecycle.jobs.predict import load_run
from onecycle.jobs.predictions import predict_files
from onecycle.jobs.run import job_of
from onecycle.optim.build import RECIPES
from onecycle.records import run as runs
from onecycle.records.files import RUN, read_jsonl
from onecycle.records.history import Result
from onecycle.records.progress import summary
from onecycle.report import page as report_page
from onecycle.search import pilots

DRAW = job_run.draw
TINY = Job(model="mlp", budget="1 epochs", limit=320, batch_size=64)
KEYS = ["train", "valid", "test", "lr_max", "epochs", "updates", "seconds", "samples_per_second", "baseline", "folder"]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)


def arrays(path: str = "points.npz", labels: bool = True, **more: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) if labels else x.sum(1, keepdims=True)
    np.savez(path, **{"x": x, "y": y, **more})
    return path


def test_the_result_is_what_run_json_says():
    result = run(TINY, "run")
    assert list(result.to_dict()) == KEYS and result.to_dict()["folder"] == "run"
    assert replace(result, folder=None).to_dict() == json.loads(Path("run/run.json").read_text())["result"]
    assert (result.folder, result.epochs, result.updates) == (Path("run"), 1.0, 5)
    assert result.lr_max == RECIPES["adamw"].lr_max
    for split in ("train", "valid", "test"):
        assert list(getattr(result, split)) == ["loss", *["loss_unsmoothed"] * (split == "train"), "accuracy"]
        assert math.isfinite(getattr(result, split)["loss"]) and 0 <= getattr(result, split)["accuracy"] <= 1
    assert result.samples_per_second > 0 and result.seconds > 0


def test_what_a_run_leaves_in_its_folder():
    run(TINY, "run")
    found = sorted(str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file())
    found = [name for name in found if not name.endswith((".png", ".jpg"))]  # of the samples that are shown
    assert found == [
        "checkpoints/step-00000005/manifest.json", "checkpoints/step-00000005/state.pt", "epochs.jsonl",
        "model.safetensors", "predictions/predictions.json", "predictions/test.npz", "predictions/valid.npz",
        "run.json", "steps.jsonl", "summary.json",
    ]  # fmt: skip
    record = RUN.read("run")
    assert record["status"] == "finished"
    asked = json.loads(json.dumps(asdict(TINY)))
    assert asked.pop("timeout") and not asked.pop("shard") and asked.pop("track") is None  # which change nothing
    assert record["config"] == asked
    assert record["facts"] == {
        "kind": "image", "input_shape": [1, 8, 8], "outputs": 10, "classes": list("0123456789"),
        "mean": list(load("digits", limit=320).mean), "std": list(load("digits", limit=320).std),
        "samples": [320, 144, 359],
    }  # fmt: skip
    assert any("stratified" in note for note in record["notes"])


def test_the_test_split_is_measured_once_and_on_the_last_weights(monkeypatch):
    data, seen = load("digits", limit=320), []
    evaluate = Learner.evaluate

    def counted(self, split=None, **keep):
        seen.append(split)
        return evaluate(self, split, **keep)

    monkeypatch.setattr(Learner, "evaluate", counted)
    result = run(TINY, "run")
    assert [split is not None for split in seen] == [False, True]
    assert torch.equal(seen[1].inputs, data.test.inputs)
    assert predict_accuracy("run", data.test) == pytest.approx(result.test["accuracy"])


def predict_accuracy(folder: str, split) -> float:
    np.savez("split.npz", x=split.inputs.numpy())
    rows = predict_files(folder, ["split.npz"])
    return sum(int(row["class"]) == label for row, label in zip(rows, split.targets.tolist(), strict=True)) / len(rows)


def test_the_curves_are_drawn_where_matplotlib_is(monkeypatch):
    monkeypatch.setattr(job_run, "draw", DRAW)
    pytest.importorskip("matplotlib")
    run(TINY, "run")
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_written_where_what_it_needs_is_installed(monkeypatch):
    monkeypatch.setattr(job_run, "draw", DRAW)
    pytest.importorskip("plotly")
    run(TINY, "run")
    assert "test accuracy" in Path("run/report.html").read_text()
    run(TINY, "bare", report=False)
    assert not Path("bare/report.html").exists()


def test_the_time_of_a_page_is_measured_on_one_with_figures(monkeypatch):
    pytest.importorskip("plotly")
    monkeypatch.setattr(job_run, "draw", DRAW)
    pages, page = [], report_page.page

    def kept(folders, out):
        pages.append(page(folders, out).read_text())

    monkeypatch.setattr(report_page, "page", kept)
    assert job_run._seconds_to_draw() > 0
    assert len(pages) == 1 and all('"x":[0,1],"y":[1.0,1.0]' in text for text in pages)


def test_what_follows_a_run_is_not_measured_when_there_is_no_time_left(monkeypatch):
    monkeypatch.setattr(job_run, "_seconds_to_draw", lambda: 5.0)
    learner = SimpleNamespace(evaluation_seconds=lambda data: 2.0)
    now, tests = time.perf_counter(), job_run.Tests(learner, "test", False)
    assert job_run._seconds_after(tests, True, now + 1000) == 7.0
    assert job_run._seconds_after(replace(tests, flips=True), True, now + 1000) == 11.0
    assert job_run._seconds_after(tests, True, now) == 2.0
    assert job_run._seconds_after(replace(tests, data=None), False, now + 1000) == 0.0


def test_flips_are_measured_apart():
    result = run(replace(TINY, data="digits", test_flips=True), "run")
    model, data = load_run("run").model.eval(), load("digits")
    with torch.no_grad():
        x = (data.test.inputs.float() / 255 - data.mean[0]) / data.std[0]
        outputs = (model(x) + model(x.flip(-1))) / 2
    accuracy = float((outputs.argmax(1) == data.test.targets).float().mean())
    assert result.flipped["accuracy"] == pytest.approx(accuracy, abs=1e-6) != result.test["accuracy"]
    assert Result(**RUN.read("run")["result"]).flipped == result.flipped
    assert any(line.startswith("test, flips") for line in summary(result.to_dict()))
    assert "flipped" not in run(TINY, "plain").to_dict()


def test_flips_are_for_images():
    arrays()
    with pytest.raises(ConfigError, match=r"test_flips mirrors the images of a test split, and Data\(points"):
        run(Job("points.npz", budget="1 epochs", test_flips=True), "run")
    learner = Learner(torch.nn.Linear(4, 2), (torch.zeros(8, 4), torch.arange(8) % 2), verbose=False)
    with pytest.raises(ConfigError, match=r"flips=True mirrors images held as uint8"):
        learner.evaluate(learner.train, flips=True)


def test_a_run_does_not_fail_for_want_of_a_picture_or_a_page(monkeypatch):
    monkeypatch.setattr(job_run, "draw", DRAW)

    def missing(*_: object) -> None:
        raise MissingDependency("not installed")

    monkeypatch.setattr("onecycle.report.matplotlib.save", missing)
    monkeypatch.setattr("onecycle.report.page.page", missing)
    assert run(TINY, "run").updates == 5
    assert not Path("run/curves.png").exists() and not Path("run/report.html").exists()


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (Interrupted("stopped", signal=15), "It was interrupted: stopped. A checkpoint is written"),
        (TrainingError("no way"), "It failed: no way; 2 updates are recorded."),
    ],
)
def test_the_page_of_a_run_that_breaks_off_says_so_and_of_one_that_goes_on_is_made_anew(monkeypatch, stop, said):
    pytest.importorskip("plotly")
    monkeypatch.setattr(job_run, "draw", DRAW)
    real = runs.Recorder.__call__

    def broken(self, event):
        real(self, event)
        if isinstance(event, Update) and event.step == 1:
            raise stop

    with monkeypatch.context() as patched:
        patched.setattr(runs.Recorder, "__call__", broken)
        with pytest.raises(type(stop)):
            run(TINY, "run")
    assert said in Path("run/report.html").read_text()
    run(TINY, "run", resume=True)
    assert "5 updates in" in Path("run/report.html").read_text()


def test_a_run_that_breaks_off_before_its_first_record_has_no_page():
    job_run.write_page(Path("nowhere"))
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("data", "model", "stem"),
    [
        ("digits", None, "digits"),
        ("digits", "small-cnn", "digits-small-cnn"),
        ("hub:ylecun/mnist", "timm:resnet18", "mnist-timm-resnet18"),
        ("some/where/points.npz", "mlp", "points-mlp"),
        ("photos", "onecycle.models.packages:efficientnet_lite0", "photos-efficientnet_lite0"),
        (".", None, None),
    ],
)
def test_folders_are_numbered(data, model, stem):
    stem = stem or Path.cwd().name
    work = Job(data=data, model=model)
    assert job_run.free_folder(work) == Path(f"runs/{stem}-1")
    Path(f"runs/{stem}-1").mkdir(parents=True)
    Path(f"runs/{stem}-2").mkdir()
    assert job_run.free_folder(work) == Path(f"runs/{stem}-3")


def test_a_model_that_suits_the_data():
    assert job_run._default_model(load("digits")) == "small-cnn"
    assert job_run._default_model(load(arrays())) == "mlp"
    colour = replace(load("digits"), train=replace_inputs(load("digits").train))
    assert job_run._default_model(colour) == "resnet20"


def replace_inputs(split):
    return type(split)(split.inputs.expand(-1, 3, -1, -1), split.targets)


def test_the_job_of_a_run_comes_back():
    work = replace(TINY, momentum=(0.95, 0.85), augment=("crop", "flip"), lr_max=0.1, seed=7)
    run(work, "run")
    assert job_of("run") == work
    assert run(work, "run", resume=True) == Result(**RUN.read("run")["result"], folder=Path("run"))
    assert run(replace(work, model=None), "run", resume=True).updates == 5  # no model named: the run's own


def test_a_policy_in_place_of_a_preset():
    policy = {"lr": {"points": [[0, 0.01], [0.5, 0.1], [1, 0]], "easing": "linear"}, "momentum": 0.8}
    result = run(replace(TINY, policy=policy), "run")
    steps = read_jsonl(Path("run/steps.jsonl"))
    assert [row["lr"] for row in steps] == pytest.approx([0.01, 0.055, 0.1, 0.05, 0])
    assert {row["momentum"] for row in steps} == {0.8}
    assert result.lr_max == 0.1
    assert job_of("run").policy == policy


def test_momentum_reaches_the_updates():
    run(replace(TINY, momentum=0.5), "constant")
    run(replace(TINY, momentum=(0.9, 0.6)), "cycled")
    cycled = [row["momentum"] for row in read_jsonl(Path("cycled/steps.jsonl"))]
    assert (cycled[0], min(cycled), cycled[-1]) == (0.9, pytest.approx(0.6, abs=0.1), 0.9)


def test_arrays_without_a_test_split_and_their_predictions():
    result = run(Job(data=arrays(), model="mlp", budget="5 epochs", batch_size=16), "run")
    assert result.test is None
    rows = predict_files("run", ["points.npz"])
    assert [row["file"] for row in rows[:2]] == ["points.npz[0]", "points.npz[1]"]
    assert len(rows) == 120
    assert {row["class"] for row in rows} == {"0", "1"}
    assert all(0.5 <= row["probability"] <= 1 for row in rows)
    truth = np.load("points.npz")["y"]
    assert np.mean([int(row["class"]) == label for row, label in zip(rows, truth, strict=True)]) > 0.8


def test_a_regression_and_its_predictions():
    result = run(Job(data=arrays(labels=False), model="mlp", budget="20 epochs", batch_size=16, lr_max=0.02), "run")
    assert list(result.train) == ["loss", "mae"] and list(result.valid) == ["loss", "mae", "r2"]
    rows = predict_files("run", ["points.npz"])
    assert list(rows[0]) == ["file", "output"]
    outputs = np.array([row["output"] for row in rows])
    assert np.corrcoef(outputs[:, 0], np.load("points.npz")["y"][:, 0])[0, 1] > 0.9


def test_a_target_that_no_accuracy_can_have_is_refused_before_the_training_and_loses_no_run():
    with pytest.raises(ConfigError, match="reach is a value of the validation accuracy: received 93; an accuracy is"):
        run(TINY, "never", reach=93)
    assert not Path("never").exists()
    trained = run(TINY, "run", report=False)
    assert run(TINY, "run", resume=True, reach=93, report=False).updates == trained.updates
    needed = RUN.read("run")["needed"]
    assert "received 93; an accuracy is a share" in needed["line"] and needed["factor"] is None


def test_a_target_without_a_forecast_is_one_of_the_metric_of_the_run():
    job = Job(data=arrays(labels=False), model="mlp", budget="1 epochs", batch_size=16)
    run(job, "run", reach=93, report=False)
    assert RUN.read("run")["needed"]["line"] == "mae 93: cannot say: no pilots of the peak were made"


def test_predictions_are_those_of_the_learner():
    """Built again from the folder alone: the same numbers as from the model that was trained."""
    data = load("digits", limit=320)
    run(TINY, "run")
    learn = Learner(job_run.build("mlp", input_shape=(1, 8, 8), classes=10), data, verbose=False)
    learn.load("run/model.safetensors")
    expected = learn.predict(data.test.inputs)
    np.savez("test.npz", x=data.test.inputs.numpy())
    rows = predict_files("run", ["test.npz"], calibrated=False)
    assert [row["probability"] for row in rows] == pytest.approx(expected.max(1).values.tolist(), abs=1e-6)
    assert [row["class"] for row in rows] == [str(i) for i in expected.argmax(1).tolist()]


def test_a_run_that_is_not_finished_predicts_from_its_last_checkpoint():
    run(TINY, "run")
    before = predict_files("run", [digits_file()])
    Path("run/model.safetensors").unlink()
    assert predict_files("run", [digits_file()]) == before
    for path in Path("run/checkpoints").glob("*/*"):
        path.unlink()
    for path in Path("run/checkpoints").iterdir():
        path.rmdir()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor a checkpoint: finish it by onecycle"):
        predict_files("run", [digits_file()])


def digits_file() -> str:
    np.savez("some.npz", x=load("digits").test.inputs[:3].numpy())
    return "some.npz"


def test_weights_that_are_damaged_or_of_another_model():
    run(TINY, "run")
    run(replace(TINY, model="small-cnn"), "other")
    weights = Path("run/model.safetensors").read_bytes()
    for data in (weights[:1000], b"", Path("other/model.safetensors").read_bytes()):
        Path("run/model.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"cannot load run/model\.safetensors"):
            predict_files("run", [digits_file()])


def test_what_cannot_be_predicted():
    run(TINY, "run")
    with pytest.raises(DataError, match=r"2 of 3 files do not exist: a\.png and b\.png"):
        predict_files("run", ["a.png", digits_file(), "b.png"])
    RUN.write(Path("many/one"), {})
    with pytest.raises(CheckpointError, match=r"no run in many .*: name one that is in it, such as many/one"):
        RUN.read("many")
    with pytest.raises(CheckpointError, match="no run in nowhere"):
        predict_files("nowhere", [digits_file()])


def test_a_run_begun_in_python_is_gone_on_with_in_python():
    data = load("digits", limit=320)
    learn = Learner(job_run.build("mlp", input_shape=(1, 8, 8), classes=10), data, verbose=False)
    learn.fit_one_cycle(1, 0.1, out="run")
    with pytest.raises(CheckpointError, match="was begun in Python"):
        job_of("run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": "one_cicle"}, "did you mean one_cycle"),
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"lr_max": -1.0}, "lr_max is the peak learning rate"),
        ({"budget": "soon"}, "cannot read the budget 'soon'"),
        ({"search": 1}, "search is a share of the budget, at least 0 and below 1; received 1"),
    ],
)
def test_bad_settings_are_refused_before_the_data_are_read(change, said, monkeypatch):
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(ConfigError, match=said):
        run(replace(TINY, **change), "run")
    assert not Path("run").exists()


def test_an_occupied_folder_is_refused_before_the_data_are_read(monkeypatch):
    RUN.write("run", {})
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(CheckpointError, match="holds another run"):
        run(TINY, "run")


def test_unknown_settings():
    with pytest.raises(ConfigError, match="unknown option 'lr_mx': did you mean lr_max"):
        Job.from_dict({"lr_mx": 1})


def test_other_data_under_the_same_name_are_noticed():
    work = Job(data=arrays(), model="mlp", budget="2 epochs", batch_size=16)
    run(work, "run")
    RUN.update("run", status="interrupted", result=None)
    rng = np.random.default_rng(1)
    np.savez("points.npz", x=rng.normal(size=(80, 4)), y=rng.integers(0, 2, 80))
    with pytest.raises(CheckpointError, match=r"facts\.samples: \[108, 12, 0\], now \[72, 8, 0\]"):
        run(work, "run", resume=True)


def test_a_budget_shorter_than_an_update_holds_one():
    assert run(replace(TINY, budget="0.000001s"), "run").updates == 1


# The peak from pilots

AUTO = Job(
    model="mlp", budget="1100 updates", limit=640, batch_size=4, augment=("none",), optimizer="sgd", lr_max="auto"
)


def test_the_peak_that_pilots_found_is_that_of_the_run():
    found = run(AUTO, "auto")
    resolved = RUN.read("auto")["resolved"]
    assert found.lr_max == resolved["lr_max"] == resolved["search"]["lr_max"]
    assert found.updates == 1100 - resolved["search"]["updates"] == resolved["updates"] < 1100
    notes = RUN.read("auto")["notes"]
    assert sum(f"peak learning rate {found.lr_max:.2g}" in note and "3 pilots of 17" in note for note in notes) == 1
    given = run(replace(AUTO, lr_max=found.lr_max, budget=f"{found.updates} updates"), "given")
    assert Path("auto/model.safetensors").read_bytes() == Path("given/model.safetensors").read_bytes()
    assert (found.train, found.valid, found.test) == (given.train, given.valid, given.test)


def test_without_pilots_the_peak_is_the_optimizers():
    assert run(replace(AUTO, lr_max="default"), "run").lr_max == RECIPES[AUTO.optimizer].lr_max
    assert not any("pilots" in note for note in RUN.read("run")["notes"])
    assert not Path("run/pilots.jsonl").exists()


def test_a_run_that_goes_on_keeps_its_peak_without_other_pilots(monkeypatch):
    whole = run(AUTO, "whole")
    train = fit.train

    def power_cut(*args, **keywords):
        for event in train(*args, **keywords):
            yield event
            if getattr(event, "step", 0) == 123:
                raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", power_cut)
        patch.setattr(runs, "Checkpointer", functools.partial(runs.Checkpointer, every=0.1, share=1e9))
        with pytest.raises(RuntimeError, match="power cut"):
            run(AUTO, "cut")
    monkeypatch.setattr(pilots, "trial", lambda *_, **__: pytest.fail("searched again"))
    result = run(job_of("cut"), "cut", resume=True)
    assert job_of("cut") == AUTO
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    for key in ("train", "valid", "test", "lr_max", "updates"):
        assert getattr(result, key) == getattr(whole, key)
    with pytest.raises(CheckpointError, match=r"lr_max: 'auto', now 0\.1"):
        run(replace(AUTO, lr_max=0.1), "cut", resume=True)


@pytest.mark.parametrize("peak", ["none", "big", ""])
def test_a_peak_that_is_no_word_for_one(peak):
    with pytest.raises(ConfigError, match='lr_max is a number, "auto" or "default"'):
        run(replace(TINY, lr_max=peak), "run")
    assert not Path("run").exists()

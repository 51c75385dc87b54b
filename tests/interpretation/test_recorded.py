"""What a run keeps of its predictions: of the last evaluation, once, with what is shown of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from ranks_makers import on_ranks
from torch import nn

from onecycle import Job, Learner, load, run
from onecycle.errors import CheckpointError
from onecycle.interpretation.calibration import fitted_temperature
from onecycle.interpretation.classes import Confusion
from onecycle.interpretation.residuals import Residuals
from onecycle.interpretation.samples import most_wrong
from onecycle.models import build
from onecycle.records.files import RUN
from onecycle.records.predictions import PREDICTIONS, read_predictions
from onecycle.training import outputs as outputs_module
from onecycle.training.outputs import Outputs
from onecycle.training.probe import FEW


class Counted(nn.Module):
    """Counts the samples that it is given in evaluation."""

    def __init__(self, model):
        super().__init__()
        self.model, self.samples = model, 0

    def forward(self, x):
        self.samples += 0 if self.training else len(x)
        return self.model(x)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run(Job("digits", model="small-cnn", budget="1 epochs", lr_max=0.05, seed=3), folder, report=False)
    return folder


def test_a_run_keeps_the_predictions_that_it_was_measured_by(digits_run):
    kept, result = read_predictions(digits_run), RUN.read(digits_run)["result"]
    assert {split: len(one) for split, one in kept.items()} == {"valid": 144, "test": 359}
    for split, one in kept.items():
        assert Confusion.of(one).accuracy.value == pytest.approx(result[split]["accuracy"])
    assert RUN.read(digits_run)["calibration"]["temperature"] == fitted_temperature(kept["valid"])
    assert kept["valid"].names == tuple("0123456789")


def test_only_what_is_shown_has_pictures_and_of_the_test_set_nothing_is(digits_run):
    kept = read_predictions(digits_run)
    known = [one for one in kept["valid"].about.values() if "picture" in one]
    assert 0 < len(known) <= 36 and all("heat_map" in one for one in known)
    for file in (known[0]["picture"], known[0]["heat_map"]):
        with Image.open(PREDICTIONS.path(digits_run).parent / file) as picture:
            assert picture.size in ((8, 8), (128, 128))
    assert kept["test"].about == {}
    worst = most_wrong(kept["valid"], 1)[0]
    assert worst.picture.is_file() and worst.name == f"sample {worst.number + 1}"


def test_a_picture_is_that_of_its_sample(digits_run):
    kept, valid = read_predictions(digits_run)["valid"], load("digits", seed=3).valid
    number = next(number for number, one in kept.about.items() if "picture" in one)
    with Image.open(kept.folder / kept.about[number]["picture"]) as picture:
        assert np.array_equal(np.asarray(picture), valid.inputs[number, 0].numpy())


@pytest.mark.parametrize("kept", [None, "accuracy"])
def test_no_pass_over_the_validation_data_is_made_for_it(tmp_path, kept):
    data, seen = load("digits", limit=200), []
    for folder in (None, tmp_path / "run"):
        torch.manual_seed(0)
        model = Counted(build("mlp", input_shape=data.input_shape, classes=10))
        Learner(model, data, verbose=False, keep_best=kept, seed=1).fit(2, lr_max=0.05, out=folder)
        seen.append(model.samples)
    assert seen[1] - seen[0] == FEW, "which the model's summary is made from"


def test_of_the_best_weights_that_are_not_the_last_the_predictions_are_theirs(tmp_path):
    data = load("digits", limit=200)
    learn = Learner(build("mlp", input_shape=data.input_shape, classes=10), data, verbose=False, keep_best="accuracy")

    def spoil(event):
        if event.valid is not None and event.epoch == 0:
            for group in learn.optimizer.param_groups:
                group["params"][0].data.neg_()

    learn.fit(2, lr_max=0.02, out=tmp_path / "run", observers=[spoil])
    kept = read_predictions(tmp_path / "run")["valid"]
    assert Confusion.of(kept).accuracy.value == pytest.approx(learn.evaluate()["accuracy"])


def table(path, rows=240):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(rows, 2)), rng.normal(size=rows)
    words = rng.choice(["red", "green"], rows)
    y = 3 * x[:, 0] + 2 * (words == "red") + 0.1 * noise
    lines = ["used,unused,colour,price"]
    lines += [f"{a:.4f},{b:.4f},{word},{z:.4f}" for (a, b), word, z in zip(x, words, y, strict=True)]
    lines[5] = lines[5].rpartition(",")[0] + ","  # without a target
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_a_regression_of_a_table_keeps_rows_and_importance(tmp_path):
    lines = table(tmp_path / "table.csv")
    job = Job(str(tmp_path / "table.csv"), target="price", budget="15 epochs", lr_max=0.01)
    run(job, tmp_path / "run", report=False)
    kept = read_predictions(tmp_path / "run")["valid"]
    assert kept.kind == "numbers" and kept.names == ("price",)
    (residuals,) = Residuals.of(kept)
    result = RUN.read(tmp_path / "run")["result"]["valid"]
    assert [residuals.mae, residuals.r2] == pytest.approx([result["mae"], result["r2"]], rel=1e-4)
    worst = most_wrong(kept, 1)[0]
    cells = lines[int(worst.name.removeprefix("row "))].split(",")
    assert [float(worst.row["used"]), worst.row["colour"]] == [pytest.approx(float(cells[0])), cells[2]]
    assert float(worst.true) == pytest.approx(float(cells[3]), rel=1e-3)
    assert [one["column"] for one in kept.importance[:2]] == ["used", "colour"] and kept.importance[1]["low"] > 0
    assert "calibration" not in RUN.read(tmp_path / "run")


def test_several_labels_a_sample(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x[:, :3] > 0).astype(np.float32)
    learn = Learner(nn.Linear(4, 3), (x[:150], y[:150]), (x[150:], y[150:]), verbose=False)
    learn.fit(5, lr_max=0.1, out=tmp_path / "run")
    kept = read_predictions(tmp_path / "run")["valid"]
    assert kept.kind == "labels" and kept.names == ("0", "1", "2") and len(kept) == 50
    assert ((kept.outputs > 0) == (kept.targets > 0.5)).mean() == pytest.approx(learn.evaluate()["accuracy"], abs=1e-6)


def test_one_label_is_two_classes_whatever_the_loss_calls_it(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    for loss, last in ((nn.BCEWithLogitsLoss(), []), (nn.BCELoss(), [nn.Sigmoid()])):
        model = nn.Sequential(nn.Linear(4, 1), *last)
        learn = Learner(model, (x, y), (x, y), loss=loss, verbose=False)
        learn.fit(3, lr_max=0.1, out=tmp_path / type(loss).__name__)
        kept = read_predictions(tmp_path / type(loss).__name__)["valid"]
        assert kept.kind == "classes" and len(kept.names) == 2
        p = learn.predict(x)[:, 0].numpy()
        assert np.allclose(kept.probabilities[:, 1], p, atol=1e-5)


def test_a_loss_of_ones_own_leaves_nothing(tmp_path):
    x = torch.randn(64, 3)
    learn = Learner(
        nn.Linear(3, 1), (x, x.sum(1)), (x, x.sum(1)), verbose=False,
        loss=lambda model, batch: (model(batch[0])[:, 0] - batch[1]).square().mean(),
    )  # fmt: skip
    learn.fit(1, lr_max=0.1, out=tmp_path / "run")
    assert read_predictions(tmp_path / "run") == {} and RUN.read(tmp_path / "run")["status"] == "finished"


def test_of_large_validation_data_every_so_many_samples_are_kept(monkeypatch):
    monkeypatch.setattr(outputs_module, "NUMBERS", 40)
    kept, model = Outputs(), nn.Identity()
    kept.begin(50)
    with kept.watching(model):
        for i in range(0, 50, 7):
            part = torch.arange(i, min(50, i + 7)).float()
            model(part[:, None].repeat(1, 2))
            kept.take((part, part))
    outputs, targets = kept.joined()
    assert kept.stride == 3 and targets.tolist() == list(range(0, 50, 3)) and kept.samples == 50
    assert outputs[:, 1].tolist() == targets.tolist()


def test_of_data_of_unknown_length_the_first_are_kept(monkeypatch):
    monkeypatch.setattr(outputs_module, "NUMBERS", 20)
    kept, model = Outputs(), nn.Identity()
    kept.begin(None)
    with kept.watching(model):
        for i in range(8):
            model(torch.full((5, 1), float(i)))
            kept.take((torch.zeros(5), torch.zeros(5)))
    outputs, _ = kept.joined()
    assert len(outputs) == 20 and kept.samples == 40 and kept.stride == 1


@pytest.mark.parametrize("harm", ["cut", "shape", "gone", "kind"])
def test_damaged_predictions_are_refused_in_words(digits_run, tmp_path, harm):
    for path in PREDICTIONS.path(digits_run).parent.iterdir():
        (tmp_path / "run" / "predictions").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "predictions" / path.name).write_bytes(path.read_bytes())
    array = tmp_path / "run" / "predictions" / "valid.npz"
    record = json.loads(PREDICTIONS.path(tmp_path / "run").read_text())
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:200])
    elif harm == "gone":
        array.unlink()
    elif harm == "shape":
        np.savez(array, outputs=np.zeros((3, 10), np.float32), targets=np.zeros(4, np.int64), numbers=np.arange(3))
    else:
        record["splits"]["valid"]["kind"] = "words"
        PREDICTIONS.path(tmp_path / "run").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"damaged.*made anew"):
        read_predictions(tmp_path / "run")


def test_what_is_kept_says_how_many_are_left_out(digits_run):
    kept = read_predictions(digits_run)["valid"]
    assert kept.left_out == ""
    assert replace(kept, samples=1000).left_out == "856 of 1,000 samples are left out"


RANKED = """
import torch, numpy as np
from ranks_cases import data, net
from onecycle import Learner
from onecycle.records.predictions import read_predictions
x, y = data()
learn = Learner(net(), (x, y), (x[:37], y[:37]), batch_size=5, verbose=False, seed=1)
learn.fit(1, lr_max=0.05, out={folder!r})
kept = read_predictions({folder!r})["valid"]
p = learn.predict(x[:37]).numpy()
alike = bool(np.allclose(kept.probabilities, p, atol=1e-5)) and kept.targets.tolist() == y[:37].tolist()
result([len(kept), kept.samples, alike])
"""


def test_two_ranks_keep_all_samples_in_their_order_once(tmp_path):
    told = on_ranks(RANKED.format(folder=str(tmp_path / "run")), 2)
    assert told == [[37, 37, True]] * 2

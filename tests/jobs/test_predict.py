"""The model of a run, loaded from its folder alone, predicts as the learner that trained it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import image_folder, pixels
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from onecycle import CheckpointError, ConfigError, DataError, Job, Learner, build_model, load, load_run, run
from onecycle.commands.app import main
from onecycle.jobs.predict import TrainedModel
from onecycle.jobs.predictions import predict_files
from onecycle.records.files import RUN


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pets(each: int = 10, root: str = "pets", shape: tuple[int, ...] = (12, 20, 3)) -> Path:
    image_folder(Path(root), each=each, shape=shape)
    return Path(root)


PETS = {"data": "pets", "model": "small-cnn", "budget": "1 epochs", "batch_size": 4, "image_size": 8, "fit": "pad"}


def begun_in_python(own: nn.Module | None = None, **options) -> tuple[Learner, TrainedModel]:
    data = load(pets(), image_size=8, fit="pad")
    net = own or build_model("small-cnn", input_shape=data.input_shape, classes=2, dropout=0.1)
    learn = Learner(net, data, batch_size=4, verbose=False)
    learn.fit_one_cycle(2, 0.05, out="run")
    return learn, load_run("run", **options)


def files_of(root: str = "pets") -> list[str]:
    return sorted(map(str, Path(root).rglob("*.png")))


def test_a_run_of_a_job():
    pets()
    run(Job(**PETS), "run", report=False)
    trained = load_run("run")
    learn = Learner(trained.model, load("pets", image_size=8, fit="pad"), batch_size=4, verbose=False)
    data = load("pets", image_size=8, fit="pad")
    assert (trained.classes, trained.kind, trained.input_shape) == (("cat", "dog"), "image", (3, 8, 8))
    assert torch.equal(trained.predict(data.valid.inputs), learn.predict(data.valid.inputs))
    assert repr(trained) == "TrainedModel(SmallCNN, kind=image, input_shape=(3, 8, 8), classes=2)"
    rows = predict_files("run", ["pets"])
    assert [row["file"] for row in rows] == files_of()
    calibrated = trained.predict("pets", calibrated=True)
    assert torch.equal(calibrated.max(1).values, torch.tensor([row["probability"] for row in rows]))


def test_a_run_begun_in_python():
    learn, trained = begun_in_python()
    data = load("pets", image_size=8, fit="pad")
    assert torch.equal(trained.predict(data.valid.inputs), learn.predict(data.valid.inputs))
    assert torch.equal(trained.predict(data.valid), learn.predict(data.valid))
    whole = torch.cat([learn.predict(part.inputs) for part in (data.train, data.valid)])
    got = trained.predict(Path("pets"))
    assert sorted(got[:, 0].tolist()) == pytest.approx(sorted(whole[:, 0].tolist()), abs=1e-6)
    assert (trained.classes, trained.fit) == (("cat", "dog"), "pad")
    assert not trained.model.training


def test_a_model_of_ones_own_is_given():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    learn, trained = begun_in_python(model, model=nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    inputs = torch.from_numpy(pixels(5, 3, 8, 8))
    assert torch.equal(trained.predict(inputs), learn.predict(inputs))
    with pytest.raises(CheckpointError, match=r"load_run\('run', model=\.\.\.\)"):
        load_run("run")
    with pytest.raises(CheckpointError, match=r"cannot load run/model\.safetensors into this model"):
        load_run("run", model=nn.Linear(3, 2))


def test_a_model_without_shapes_takes_no_weights():
    begun_in_python(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), model=nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    )
    with pytest.raises(CheckpointError, match=r"lazy layers.* Call the model on one"):
        load_run("run", model=nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))


def test_a_regression_on_arrays_begun_in_python():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    learn = Learner(build_model("mlp", input_shape=(3,), classes=1), (x, x.sum(1)), batch_size=8, verbose=False)
    learn.fit_one_cycle(1, 0.01, out="run")
    trained = load_run("run")
    assert torch.equal(trained.predict(x), learn.predict(x)) and trained.classes is None
    np.save("x.npy", x.numpy())
    assert torch.allclose(trained.predict("x.npy"), learn.predict(x))
    assert predict_files("run", ["x.npy"])[3] == {"file": "x.npy[3]", "output": learn.predict(x)[3].tolist()}
    with pytest.raises(ConfigError, match="top_k = 2: this run has no classes"):
        predict_files("run", ["x.npy"], top_k=2)


class Shaped(Dataset):
    """A data set with a shape that is not that of its samples."""

    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.full((3,), i / 20), torch.tensor([i / 10])


@pytest.mark.parametrize("shape", [None, len, (20, 3), (20, 1, 3)])
def test_a_data_set_of_ones_own_may_have_any_shape(shape):
    learn = Learner(build_model("mlp", input_shape=(3,), classes=1), Shaped(shape), batch_size=5, verbose=False)
    learn.fit_one_cycle(1, 0.01, out="run")
    trained = load_run("run")
    assert (trained.kind, trained.input_shape) == ("array", None)
    assert torch.equal(trained.predict(torch.ones(2, 3)), learn.predict(torch.ones(2, 3)))


def test_two_outputs_of_yes_or_no_are_probabilities():
    x = torch.randn(40, 3)
    learn = Learner(
        build_model("mlp", input_shape=(3,), classes=2), (x, (x[:, :2] > 0).float()), batch_size=8, verbose=False,
        loss=nn.BCEWithLogitsLoss(),
    )  # fmt: skip
    learn.fit_one_cycle(1, 0.01, out="run")
    got = load_run("run").predict(x)
    assert torch.equal(got, learn.predict(x)) and got.min() >= 0 and got.max() <= 1


def test_a_run_without_what_a_prediction_needs():
    begun_in_python()
    record = RUN.read("run")
    del record["prediction"]
    RUN.write("run", record)
    with pytest.raises(CheckpointError, match=r"did not keep what a prediction needs: .* Learner\.load"):
        load_run("run")


# The command


def trained_pets() -> None:
    pets()
    run(Job(**PETS), "run", report=False)


def said(capsys, *words: str) -> tuple[str, str]:
    main(["predict", "run", *words])
    return capsys.readouterr()


def test_a_folder_as_csv(capsys):
    trained_pets()
    capsys.readouterr()
    (Path("pets") / "cat" / "notes.txt").write_text("none")
    out, err = said(capsys, "pets", "--out", "preds.csv", "--top-k", "2")
    assert out.startswith("written: preds.csv (20 images, ")
    assert err == "note: left out 1 file: 1 that is no image (.txt)\n"
    with open("preds.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    assert [row["file"] for row in rows] == files_of()
    for row, shares in zip(rows, load_run("run").predict("pets", calibrated=True).tolist(), strict=True):
        assert (float(row["probability"]), float(row["probability_2"])) == (max(shares), min(shares))
        assert {row["class"], row["class_2"]} == {"cat", "dog"}


def test_damaged_images_are_listed_or_left_out(capsys):
    trained_pets()
    for name in ("a.png", "b.jpg"):
        (Path("pets") / "cat" / name).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"2 images do not decode(.|\n)*a\.png(.|\n)*b\.jpg"):
        predict_files("run", ["pets"])
    capsys.readouterr()
    out, _ = said(capsys, "pets", "--skip-damaged", "--json")
    result = json.loads(out)
    assert len(result["predictions"]) == 20
    assert result["notes"] == ["2 of 22 files do not decode and are left out, such as pets/cat/a.png"]


def test_all_damaged_images_are_listed_beyond_the_first_chunk(monkeypatch):
    trained_pets()
    monkeypatch.setattr("onecycle.data.inputs.CHUNK", 3)
    assert [row["file"] for row in predict_files("run", ["pets"])] == files_of()
    for index in (0, 9):
        (Path("pets") / "dog" / f"{index}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="2 images do not decode"):
        predict_files("run", ["pets"])
    assert len(predict_files("run", ["pets"], skip_damaged=True)) == 18


def test_images_unlike_those_of_training_are_noted():
    trained_pets()
    alike = pets(root="alike", shape=(12, 20, 3))
    notes: list[str] = []
    predict_files("run", [alike], say=notes.append)
    assert notes == []
    (Path("dark")).mkdir()
    for index in range(8):
        Image.fromarray(pixels(1, 3, 3, seed=index)[0] // 200).save(f"dark/{index}.png")
    predict_files("run", ["dark"], say=notes.append)
    assert [note.partition(":")[0] for note in notes] == ["unlike the training images"] * 3
    for note, words in zip(notes, ("are grey", "has 3 pixels on its shorter side", "much darker"), strict=True):
        assert words in note


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pets", "--top-k", "3"], "top_k = 3: this run has 2 classes"),
        (["pets", "--top-k", "0"], "top_k is the number of classes to name for each sample"),
        (["nowhere"], "1 of 1 file does not exist: nowhere"),
        (["empty"], "No images in empty"),
        (["pets", "--out", "nowhere/x.csv"], "name a file in a folder that exists"),
        (["words.txt"], "1 image does not decode"),
    ],
)
def test_what_the_command_cannot_use(capsys, words, message):
    trained_pets()
    Path("empty").mkdir()
    Path("words.txt").write_text("words")
    with pytest.raises(SystemExit):
        main(["predict", "run", *words])
    assert message in capsys.readouterr().err


def test_a_table_as_a_frame():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"x": rng.normal(size=80), "kind": rng.choice(["a", "b", "c"], 80)})
    frame["y"] = np.where(frame.x > 0, "high", "low")
    frame.to_csv("table.csv", index=False)
    run(Job("table.csv", target="y", budget="1 epochs", batch_size=16), "run", report=False)
    trained = load_run("run")
    by_file = predict_files("run", ["table.csv"])
    got = trained.predict(frame.drop(columns="y"), calibrated=True)
    assert got.max(1).values.tolist() == pytest.approx([row["probability"] for row in by_file])
    assert [trained.classes[i] for i in got.argmax(1)] == [row["class"] for row in by_file]

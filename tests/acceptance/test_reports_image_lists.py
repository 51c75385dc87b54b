"""Images that a CSV file lists, with a class or a number beside each path."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import onecycle
from onecycle.commands.app import main
from onecycle.errors import DataError


@pytest.fixture
def photos(tmp_path, monkeypatch) -> pd.DataFrame:
    """Dark and light images in a folder, and a table of them one level above."""
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list" / "images").mkdir(parents=True)
    rows = []
    for i in range(24):
        level = 40 + 150 * (i % 2)
        pixels = np.full((8, 8, 3), level, np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(f"list/images/{i}.png")
        rows.append({"path": f"images/{i}.png", "who": "me", "label": ("dark", "light")[i % 2], "level": level / 7})
    return pd.DataFrame(rows)


def test_classes(photos):
    photos.to_csv("list/train.csv", index=False)
    data = onecycle.load("list/train.csv", target="label", leave_out=["level"])
    assert (data.kind, data.classes, data.input_shape) == ("image", ("dark", "light"), (3, 8, 8))
    assert torch.equal((data.train.inputs[:, 0, 4, 4] > 100).long(), data.train.targets)
    assert "images listed in the column path" in data.notes and "left out: who (beside images)" in data.notes


def test_a_frame_for_validation_lists_images_beside_the_training_table(photos):
    photos[:18].to_csv("list/train.csv", index=False)
    data = onecycle.load("list/train.csv", target="label", valid=photos[18:], leave_out=["level"])
    assert (len(data.train), len(data.valid)) == (18, 6)
    assert torch.equal((data.valid.inputs[:, 0, 4, 4] > 100).long(), data.valid.targets)


def test_numbers_and_a_file_for_validation(photos):
    photos[:18].to_csv("list/train.csv", index=False)
    photos[18:].to_csv("list/valid.csv", index=False)
    data = onecycle.load("list/train.csv", target="level", task="regression", valid="list/valid.csv")
    assert data.classes is None and (len(data.train), len(data.valid)) == (18, 6)
    assert data.train.targets.tolist() == pytest.approx(photos["level"][:18].tolist())


def test_images_that_are_not_there_are_named(photos):
    photos.assign(path=photos["path"].where(photos.index != 20, "images/none.png")).to_csv("list/a.csv", index=False)
    with pytest.raises(DataError, match=r"1 of 24 images in the train table do not exist: .*none\.png"):
        onecycle.load("list/a.csv", target="label")


def test_names_that_are_no_files_stay_words(photos):
    photos.assign(path=["x.png", "y.png"] * 12).to_csv("list/a.csv", index=False)
    assert onecycle.load("list/a.csv", target="label").kind == "table"


@pytest.fixture
def coloured(tmp_path, monkeypatch) -> pd.DataFrame:
    """Images that are red, green, both or neither, and a table that says so in two ways."""
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = []
    for i in range(64):
        red, green = i % 2, i // 2 % 2
        pixels = np.full((8, 8, 3), 30, np.uint8)
        pixels[..., 0] += 180 * red
        pixels[..., 1] += 180 * green
        pixels[0, 0] = i
        Image.fromarray(pixels).save(f"{i}.png")
        named = [name for name, there in (("red", red), ("green", green)) if there]
        rows.append({"path": f"{i}.png", "label": "|".join(named) or "grey", "red": red, "green": green})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("target", ["label", "red,green"])
def test_several_labels_an_image_from_the_list_to_the_prediction(coloured, target, capsys):
    coloured[["path", *target.split(",")]].to_csv("list.csv", index=False)
    options = ["--epochs", "6", "--lr-max", "0.02", "--model", "small-cnn", "--batch-size", "8"]
    main(["train", "list.csv", "--target", target, "--out", "run", "--no-report", "--json", *options])
    result = json.loads(capsys.readouterr().out)
    assert result["valid"].keys() == {"loss", "accuracy", "f1"} and result["valid"]["f1"] > 0.9
    main(["predict", "run", *(f"{i}.png" for i in range(4)), "--json"])
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    labels = [set(filter(None, prediction["labels"].split(";"))) for prediction in predictions]
    grey = {"grey"} if target == "label" else set()
    assert labels == [grey, {"red"}, {"green"}, {"red", "green"}]
    assert predictions[3]["probability_red"] > 0.5 > predictions[2]["probability_red"]
    with pytest.raises(SystemExit):
        main(["predict", "run", "0.png", "--top-k", "2"])
    assert "gives each sample several labels" in capsys.readouterr().err


def test_labels_of_images_that_stream(coloured):
    coloured.to_csv("list.csv", index=False)
    whole = onecycle.load("list.csv", target="red,green")
    data = onecycle.load("list.csv", target="red,green", in_memory_bytes=1)
    assert torch.equal(data.train.targets, whole.train.targets)
    model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=2)
    learn = onecycle.Learner(model, data, batch_size=8, verbose=False)
    assert any("binary cross-entropy" in note for note in learn.notes)
    assert learn.fit_one_cycle(1, 0.02).valid["loss"] < 1


def test_numbers_of_images_that_stream(photos):
    photos.to_csv("list/a.csv", index=False)
    data = onecycle.load("list/a.csv", target="level", task="regression", in_memory_bytes=1)
    image, level = data.train[0]
    assert float(image[0, 4, 4]) / 7 == pytest.approx(float(level), rel=0.01)


def test_rows_without_a_path_are_left_out_and_counted(photos):
    paths = photos["path"].where(photos.index > 1).str.replace("/", "\\")
    photos.assign(path=paths).to_csv("list/a.csv", index=False)
    data = onecycle.load("list/a.csv", target="label")
    assert data.kind == "image" and len(data.train) + len(data.valid) == 22
    assert "train: left out 2 rows of 24 without a path" in data.notes
    assert torch.equal((data.train.inputs[:, 0, 4, 4] > 100).long(), data.train.targets)
    with pytest.raises(DataError, match="The valid table has no column 'path', which lists the images"):
        onecycle.load("list/a.csv", target="label", valid=photos.drop(columns="path"))

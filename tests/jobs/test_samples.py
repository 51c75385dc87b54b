"""What is given to a trained model is made what it was trained on, or is refused in words that say what it takes."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from onecycle import DataError, Job, Learner, load, load_run, run
from onecycle.commands.app import main

MEASURES = {"area": [30.0, 50.0], "rooms": [1, 3], "kind": ["flat", "house"]}


def write(path: str | Path, head: list[str], rows: list[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Runs on images, arrays, a table, texts and characters, and one in Python."""
    place, draw = tmp_path_factory.mktemp("samples"), random.Random(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(Job("digits", model="small-cnn", budget="3 updates", limit=100), "images", report=False)
        x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        np.savez("points.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
        run(Job("points.npz", budget="3 updates"), "arrays", report=False)
        houses = [[draw.uniform(30, 200), draw.randint(1, 6), draw.choice(["flat", "house"])] for _ in range(80)]
        write("houses.csv", ["area", "rooms", "kind", "price"], [[*row, 2000 * row[0]] for row in houses])
        run(Job("houses.csv", target="price", budget="3 updates"), "table", report=False)
        Path("text.txt").write_text("so it goes on and on, again and again. " * 100)
        run(Job("text.txt", budget="2 updates", batch_size=8), "characters", report=False)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("black.png")
    return place


@pytest.fixture(autouse=True)
def at_home(place, monkeypatch):
    monkeypatch.chdir(place)


def frame(**more):
    return pytest.importorskip("pandas").DataFrame({**MEASURES, **more})


IMAGES, ARRAYS = r"It takes images: uint8 \[n, 1, 8, 8\] from 0 to 255, or paths", r"It takes arrays \[n, 4\], or paths"
ROWS = "It takes the rows of a data frame, or of a .csv, .tsv or .parquet file, with the columns area, rooms and kind"
CODES = r"It takes the codes of characters: int64 \[n, 64\]"
LEVELS = (2.0 * torch.arange(128)).reshape(2, 1, 8, 8)
GIVEN = {
    "a frame to images": ("images", frame, "for a DataFrame", IMAGES),
    "a list to images": ("images", lambda: [[1.0]], r"a list of 1 list \(give np.array\(x\)\)", IMAGES),
    "a dictionary to images": ("images", lambda: {"x": [1.0]}, "for a dict", IMAGES),
    "a table to images": ("images", lambda: "houses.csv", "for houses.csv, a table", IMAGES),
    "nothing to images": ("images", lambda: None, "for None", IMAGES),
    "a number to images": ("images", lambda: 3, "for an int", IMAGES),
    "no images": ("images", lambda: torch.empty(0, 1, 8, 8), r"\[0, 1, 8, 8\], which has no samples", IMAGES),
    "images as shares": ("images", lambda: LEVELS / 255, r"give \(x \* 255\)\.round\(\)\.to\(", IMAGES),
    "images as whole numbers": ("images", lambda: torch.ones(2, 1, 8, 8).long(), r"give x\.to\(torch\.uint8", IMAGES),
    "floats up to 255": ("images", lambda: LEVELS, r"from 0 to 254 \(give x\.round\(\)\.to\(torch", IMAGES),
    "flat numbers to images": ("images", lambda: torch.randn(2, 64), r"float32 \[2, 64\]", IMAGES),
    "an image to arrays": ("arrays", lambda: "black.png", "black.png, an image", ARRAYS),
    "a table to arrays": ("arrays", lambda: "houses.csv", "houses.csv, a table", ARRAYS),
    "a text to arrays": ("arrays", lambda: "text.txt", "text.txt, which is no array", ARRAYS),
    "one sample": ("arrays", lambda: torch.randn(4), r"one sample \(give x\[None\]\)", ARRAYS),
    "a list of samples": ("arrays", lambda: [np.zeros(4)] * 2, r"a list of 2 samples \(give np\.stack", ARRAYS),
    "a list of lists": ("arrays", lambda: [[1, 2, 3, 4]], r"a list of 1 list \(give np\.array", ARRAYS),
    "other columns": ("arrays", lambda: torch.randn(2, 7), r"float32 \[2, 7\]", ARRAYS),
    "images to arrays": ("arrays", lambda: torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"uint8 \[2, 1, 4, 4\]", ARRAYS),
    "whole numbers of others": ("arrays", lambda: torch.ones(2, 9).long(), "cannot be multiplied", ARRAYS),
    "an empty list": ("arrays", list, "for an empty list", ARRAYS),
    "a set": ("arrays", lambda: {1.0, 2.0}, "for a set of 2 floats", ARRAYS),
    "lists to a table": ("table", lambda: [[1.0]], "for a list of 1 list", ROWS),
    "records to a table": ("table", lambda: [{"area": 3.0}], r"a list of 1 dict \(give pd\.DataFrame", ROWS),
    "one value a column": ("table", lambda: {"area": 3.0}, "for one value a column", ROWS),
    "an image to a table": ("table", lambda: "black.png", "black.png, an image", ROWS),
    "an array to a table": ("table", lambda: "points.npz", "points.npz, an array", ROWS),
    "a folder to a table": ("table", lambda: ".", r"\., a folder", ROWS),
    "a word to a table": ("table", lambda: "prices", "'prices', which is no file", ROWS),
    "a series to a table": ("table", lambda: frame()["area"], r"a Series \(give it as a column", ROWS),
    "numbers to a table": ("table", lambda: torch.randn(2, 9), r"float32 \[2, 9\]", ROWS),
    "a file to characters": ("characters", lambda: "text.txt", r"text\.txt \(give tensors\)", CODES),
    "numbers to characters": ("characters", lambda: torch.randn(2, 64), "Long, Int", CODES),
    "a frame to characters": ("characters", frame, "for a DataFrame", CODES),
}


@pytest.mark.parametrize(("folder", "given", "said", "takes"), GIVEN.values(), ids=GIVEN.keys())
def test_what_a_run_does_not_take_is_named_and_so_is_what_it_takes(folder, given, said, takes):
    with pytest.raises(DataError, match=rf"this run cannot predict .*{said}.*{takes}"):
        load_run(folder).predict(given())


def test_what_is_too_long_for_a_path_is_none():
    for folder, said in (("images", "1 of 1 file does not exist"), ("table", r"'aaaa[a]* \.\.\.', which is no file")):
        with pytest.raises(DataError, match=said):
            load_run(folder).predict("a" * 5000)


# Images of another size, in other channels or orders


def digits() -> torch.Tensor:
    return load("digits").test.inputs[:5]


def test_images_of_another_size_are_brought_to_that_of_training_as_files_are(capsys):
    trained, images = load_run("images"), torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 12, 16)))
    images = images.to(torch.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"{i}.png")
    from_files = trained.predict(["0.png", "1.png", "2.png"])
    capsys.readouterr()
    assert torch.equal(trained.predict(images), from_files)
    assert "3 images of 1x12x16 brought to 1x8x8, as files are (crop)" in capsys.readouterr().err
    assert torch.equal(trained.predict(images.numpy()[:, 0]), from_files), "[n, h, w]"
    assert torch.equal(trained.predict(images.numpy().transpose(0, 2, 3, 1)), from_files), "[n, h, w, c]"


def test_images_as_in_training_are_taken_as_they_are(capsys):
    trained, images = load_run("images"), digits()
    expected = trained.predict(images)
    assert capsys.readouterr().err == ""
    assert torch.equal(trained.predict(images.expand(-1, 3, -1, -1)), expected), "grey, in three channels"
    assert torch.allclose(trained.predict(images[:1]), expected[:1], atol=1e-6)
    normalised = trained.batching.normalise((images,), torch.Generator())[0]
    assert torch.equal(trained.predict(normalised), expected)
    assert "float32 [5, 1, 8, 8] is taken for images that are normalised already" in capsys.readouterr().err
    assert torch.equal(trained.predict([(normalised,)]), expected), "batches come as they are"


NOT_BELOW = {
    "brighter than the mean": 1.798 + torch.rand(2, 1, 8, 8),
    "white": torch.full((2, 1, 8, 8), 2.0),
    "at the mean": torch.zeros(2, 1, 8, 8),
    "shares that were resized": torch.rand(2, 1, 8, 8),
}


@pytest.mark.parametrize("images", NOT_BELOW.values(), ids=NOT_BELOW.keys())
def test_images_that_may_be_normalised_are_taken_and_said(images, capsys):
    trained, others = load_run("images"), torch.randn(3, 1, 8, 8)
    alone, said = trained.predict(images), capsys.readouterr().err
    assert torch.allclose(alone, trained.predict(torch.cat([images, others]))[:2], atol=1e-6)
    assert "they may be others: give uint8" in said and "they may be" not in capsys.readouterr().err


def test_frozen_images_are_taken_as_others_are():
    images = digits().numpy().copy()
    images.flags.writeable = False
    assert torch.equal(load_run("images").predict(images), load_run("images").predict(digits()))


def test_a_model_may_take_numbers_of_any_length(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.layers(x).mean(-1))

    x, longer = torch.randn(20, 100), torch.randn(3, 120)
    learn = Learner(Mean(), (x, (x[:, 0] > 0).long()), verbose=False, batch_size=10)
    learn.fit_one_cycle(1, 0.01, out=tmp_path / "run")
    trained = load_run(tmp_path / "run", model=Mean())
    assert torch.allclose(trained.predict(longer), learn.predict(longer), atol=1e-6)
    with pytest.raises(DataError, match=r"float32 \[3, 2\] \(.*Kernel size.*It takes arrays \[n, 100\]"):
        trained.predict(torch.randn(3, 2))


def test_one_column_is_not_standardised_as_several(tmp_path):
    x = 100 + 30 * torch.randn(20, 4)
    net = nn.Sequential(nn.Linear(4, 2))
    learn = Learner(net, (x, (x[:, 0] > 100).long()), verbose=False, batch_size=10)
    learn.fit_one_cycle(1, 0.01, out=tmp_path / "run")
    for predict in (learn.predict, load_run(tmp_path / "run", model=net).predict):
        with pytest.raises(DataError, match=r"those of training had 4 columns"):
            predict(x[:, :1])


def test_what_is_unlike_the_training_images_is_said_of_tensors_too(capsys):
    load_run("images").predict(torch.full((9, 1, 8, 8), 255, dtype=torch.uint8))
    assert "unlike the training images: they are much brighter" in capsys.readouterr().err
    load_run("images", verbose=False).predict(torch.full((9, 1, 8, 8), 255, dtype=torch.uint8))
    assert capsys.readouterr().err == ""


def test_a_model_of_ones_own_may_take_images_of_any_size(capsys, tmp_path):
    x = torch.randint(0, 256, (20, 1, 6, 6), dtype=torch.uint8)
    net = nn.Conv2d(1, 2, 3, padding=1)
    learn = Learner(net, (x, (x[:, 0] > 127).long()), loss=nn.CrossEntropyLoss(), verbose=False, batch_size=10)
    learn.fit_one_cycle(1, 0.01, out=tmp_path / "run")
    trained, larger = load_run(tmp_path / "run", model=net), torch.zeros(2, 1, 9, 12, dtype=torch.uint8)
    assert trained.predict(larger).shape == (2, 2, 9, 12)
    assert "images of 1x9x12, and those of training had 1x6x6" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"uint8 \[2, 3, 6, 6\]"):
        trained.predict(torch.zeros(2, 3, 6, 6, dtype=torch.uint8))


# Columns


def test_columns_come_in_any_order_and_from_any_table(capsys):
    trained = load_run("table")
    expected = trained.predict(MEASURES)
    assert torch.equal(trained.predict(frame()), expected)
    assert torch.equal(trained.predict(frame()[["kind", "area", "rooms"]]), expected)
    assert torch.equal(trained.predict(frame(price=0)), expected)
    assert capsys.readouterr().err == ""
    assert torch.equal(trained.predict(frame(garden=1, cellar=2)), expected)
    assert "not looked at: garden and cellar (the model was not trained on them)" in capsys.readouterr().err
    with pytest.raises(DataError, match="lacks 2 columns that the model was trained on: rooms and kind"):
        trained.predict(frame()[["area"]])
    encoded = load("houses.csv", target="price").train.inputs[:3]
    assert trained.predict(encoded).shape == (3, 1)
    assert "is taken for rows that onecycle.load encoded" in capsys.readouterr().err


def test_several_targets_are_no_extra_columns(tmp_path, capsys):
    rows = [[i, i % 2, i // 2 % 2] for i in range(40)]
    write(tmp_path / "scenes.csv", ["x", "sea", "snow"], rows)
    job = Job(str(tmp_path / "scenes.csv"), target="sea,snow", budget="2 updates", lr_max=0.01)
    run(job, tmp_path / "run", report=False)
    load_run(tmp_path / "run").predict(tmp_path / "scenes.csv")
    assert "not looked at" not in capsys.readouterr().err


def test_extra_columns_of_a_file_are_named_by_the_command(capsys):
    write("more.csv", ["garden", "kind", "rooms", "area"], [["yes", "flat", 3, 50.0]])
    main(["predict", "table", "more.csv"])
    assert "note: not looked at: garden (the model was not trained on it)" in capsys.readouterr().err
    write("less.csv", ["kind", "area"], [["flat", 50.0]])
    with pytest.raises(DataError, match=r"less\.csv lacks 1 column that the model was trained on: rooms"):
        load_run("table").predict("less.csv")

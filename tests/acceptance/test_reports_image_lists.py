"""Images that a CSV file lists, with a class or a number beside each path."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import onecycle
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

"""Several labels a sample: cells that are taken apart, and columns of 0 and 1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from onecycle.data import load
from onecycle.errors import DataError

TAGS = ["cat;dog", "cat", "dog;owl", "owl", "dog"]


def frame(values: list, **more) -> pd.DataFrame:
    n = 40
    repeated = {name: (each * n)[:n] for name, each in {"y": values, **more}.items()}
    return pd.DataFrame({"x": np.arange(n) + 0.5, **repeated})


@pytest.mark.parametrize("separator", [";", "|", ",", "; "])
def test_cells_with_a_separator_have_several_labels(separator):
    data = load(frame([tags.replace(";", separator) for tags in TAGS]), target="y")
    assert data.classes == ("cat", "dog", "owl")
    assert data.train.targets.dtype == torch.float32 and data.train.targets.shape == (36, 3)
    numbers = data.columns.numbers[0]
    expected = {
        round(float(v), 4): row
        for v, row in zip(
            numbers.encode(np.arange(40) + 0.5),
            [[float(name in tags.split(";")) for name in data.classes] for tags in TAGS] * 8,
            strict=True,
        )
    }
    for part in (data.train, data.valid):
        for x, row in zip(part.inputs[:, 0].tolist(), part.targets.tolist(), strict=True):
            assert expected[round(x, 4)] == row
    said = next(note for note in data.notes if note.startswith("several labels a sample"))
    assert f"separated by {separator[0]!r}: 3 labels, 1.4 of them" in said and "--task classification" in said


@pytest.mark.parametrize(
    "values",
    [
        ["Smith, John", "Jones, Anna", "Smith, Anna"],
        ["red;green", "blue"],
        ["big cat", "small cat", "big dog"],
        ["AC/DC", "a-b"],
        ["up|left", "up|right", "down|left", "down|right"],
        ["red; old", "red; new", "blue; old", "blue; new"],
    ],
)
def test_words_with_separators_in_them_stay_classes(values):
    assert load(frame(values), target="y").classes == tuple(sorted(values))


def test_what_is_asked_for_is_done():
    assert load(frame(TAGS), target="y", task="classification").classes == tuple(sorted(TAGS))
    pairs = frame(["up|left", "up|right", "down|left"])
    assert load(pairs, target="y", task="multi-label").classes == ("down", "left", "right", "up")
    spaced = [tags.replace(";", " ") for tags in TAGS]
    assert load(frame(spaced), target="y").classes == tuple(sorted(spaced))
    assert load(frame(spaced), target="y", task="multi-label").classes == ("cat", "dog", "owl")
    with pytest.raises(DataError, match="the target is numbers, and labels are words"):
        load(frame([1, 2, 3]), target="y", task="multi-label")


@pytest.mark.parametrize("target", [["cat", "dog"], "cat,dog", "cat, dog"])
def test_columns_of_zeros_and_ones_are_labels(target):
    data = load(frame(["a"], cat=[0, 1, 1], dog=["yes", "no", "yes"]), target=target)
    assert data.classes == ("cat", "dog") and data.columns.names == ("x",)
    assert sorted(map(tuple, data.train.targets.unique(dim=0).tolist())) == [(0, 1), (1, 0), (1, 1)]


def test_columns_of_which_one_is_1_are_classes():
    one_hot = frame(["a"], cat=[0, 1, 0], dog=[1, 0, 0], owl=[0, 0, 1])
    data = load(one_hot, target="cat,dog,owl")
    assert data.classes == ("cat", "dog", "owl") and data.train.targets.dtype == torch.int64
    assert load(one_hot, target="cat,dog,owl", task="multi-label").train.targets.shape == (36, 3)


def test_columns_of_numbers_are_a_regression():
    data = load(frame(["a"], left=[0.5, 2.5], top=[3, 1]), target=["left", "top"])
    assert data.classes is None and sorted(map(tuple, data.train.targets.unique(dim=0).tolist())) == [
        (0.5, 3),
        (2.5, 1),
    ]


def test_rows_that_lack_one_of_several_targets_are_left_out():
    data = load(frame(["a"], cat=[0, 1, None, 1], dog=[1, 1, 1, 0]), target="cat,dog")
    assert "train: left out 10 rows of 40 without a value of cat or dog" in data.notes
    assert len(data.train) + len(data.valid) == 30


def test_what_is_refused():
    given = frame(["a"], cat=[0, 1, 1], dog=["yes", "perhaps"])
    with pytest.raises(DataError, match=r"the target dog holds 'perhaps'.*each holds 0 and 1"):
        load(given, target="cat,dog")
    with pytest.raises(DataError, match="no column 'dogs': did you mean dog"):
        load(given, target="cat,dogs")
    with pytest.raises(DataError, match="the target columns hold 2, and labels are 0 and 1"):
        load(frame(["a"], cat=[0, 2], dog=[1]), target=["cat", "dog"], task="multi-label")
    train, valid = frame(["a;b", "b", "a"]), frame(["a;b", "b;c", "c"])
    with pytest.raises(DataError, match="Labels differ between splits: 'c' in the valid split"):
        load(train, target="y", valid=valid)


def test_a_label_that_only_some_rows_have_is_named():
    data = load(frame(["a;b"] + ["b", "a", "a;b"] * 13, c=[0] * 39 + [1]), target="y")
    assert data.classes == ("a", "b")
    rare = frame(["x"], a=[0, 1], b=[1, 1, 0], c=[1] + [0] * 39)
    notes = load(rare, target="a,b,c").notes
    assert any("no samples of 'c' (1 of 3 classes)" in note for note in notes)
    assert not any("stratified" in note for note in notes)

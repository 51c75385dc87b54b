"""Data made in Python, written as a ``.npz`` and loaded again: the same to the bit, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from onecycle import load
from onecycle.data import Data, Split, Stream
from onecycle.data.npz import differing, to_arrays
from onecycle.errors import DataError

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def again(data, tmp_path: Path, **options) -> Data:
    np.savez(tmp_path / "data.npz", **to_arrays(data))
    return load(tmp_path / "data.npz", **options)


def test_a_data_set_is_kept_as_it_is(tmp_path: Path):
    digits = load("digits", limit=200, seed=3)
    digits = replace(digits, mean=(0.3,), std=(0.7,), augment=("crop",))
    found = again(digits, tmp_path, seed=5)
    for split in ("train", "valid", "test"):
        mine, its = getattr(digits, split), getattr(found, split)
        assert torch.equal(mine.inputs, its.inputs) and torch.equal(mine.targets, its.targets)
    for field in ("kind", "classes", "mean", "std", "augment", "origin", "notes"):
        assert getattr(digits, field) == getattr(found, field)


def test_fewer_samples_and_other_sizes(tmp_path: Path):
    digits = load("digits")
    fewer = again(digits, tmp_path, limit=100)
    assert len(fewer.train) == 100 and fewer.mean == digits.mean and fewer.test is not None
    larger = again(digits, tmp_path, image_size=12)
    assert larger.input_shape == (1, 12, 12) and larger.mean != digits.mean


def test_text_stays_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 40)
    text = load(tmp_path / "a.txt", context=8)
    found = again(text, tmp_path)
    assert found.kind == "text" and found.classes == text.classes
    assert isinstance(found.train, Split) and isinstance(text.train, Split)
    assert torch.equal(found.train.inputs, text.train.inputs) and found.train.targets.shape == text.train.targets.shape


def test_arrays_and_tensors(tmp_path: Path):
    x = np.linspace(0, 1, 36).reshape(12, 3)
    found = again((x, LABELS), tmp_path, valid_fraction=0.25)
    assert (found.kind, found.classes, len(found.train), len(found.valid), found.test) == (
        "array", ("0", "1", "2"), 9, 3, None,
    )  # fmt: skip
    assert found.train.inputs.dtype == torch.float32
    pair = (torch.randint(0, 256, (12, 5, 5), dtype=torch.uint8), torch.as_tensor(LABELS))
    found = again({"train": pair, "valid": pair, "test": Split(*pair)}, tmp_path)
    assert (found.kind, found.input_shape, len(found.valid)) == ("image", (1, 5, 5), 12) and found.mean
    tokens = again((torch.arange(24).reshape(12, 2), torch.rand(12)), tmp_path)
    assert (tokens.train.inputs.dtype, tokens.classes) == (torch.int64, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(2, 1), torch.zeros(2))), "received DataLoader as train.*all samples"),
        (TensorDataset(torch.zeros(2, 1)), "received TensorDataset as train"),
        (([[1.0]], [0]), "received list, list as train"),
        ((torch.zeros(3, 1),), "received Tensor as train"),
        ({"test": (torch.zeros(3, 1), torch.zeros(3))}, "received the splits 'test'"),
        ({"train": (torch.zeros(3, 1), torch.zeros(3)), "dev": 1}, "received the splits 'train', 'dev'"),
        ((torch.zeros(3, 1), torch.zeros(2)), r"train: inputs is float32 \[3, 1\] and targets is float32 \[2\]. Both"),
        ((torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.int64)), "of one-hot labels take .argmax"),
        ((np.array(["a", "b"]), np.array([0, 1])), "train: inputs has dtype <U1"),
        (
            {"train": (torch.zeros(3, 2, 2).byte(), torch.zeros(3)), "test": (torch.zeros(3, 2, 2), torch.zeros(3))},
            r"images \(uint8\) in some splits and not in others",
        ),
        (replace(load("digits"), train=Stream([], torch.zeros(0), (1, 8, 8))), "the name or path that it was loaded"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(data, message: str):
    with pytest.raises(DataError, match=message):
        to_arrays(data)


def test_other_data_are_told_from_the_kept(tmp_path: Path):
    x = np.linspace(0, 1, 36, dtype=np.float32).reshape(12, 3)
    path = tmp_path / "data.npz"
    assert differing(to_arrays((x, LABELS)), path) == ["data.npz is gone"]
    np.savez(path, **to_arrays((x, LABELS)))
    assert differing(to_arrays((x.astype(np.float64), LABELS)), path) == []
    assert differing(to_arrays((x, LABELS[::-1].copy())), path) == ["y_train: other values"]
    assert differing(to_arrays((x[:6], LABELS[:6])), path) == [
        "x_train: float32 [12, 3], now float32 [6, 3]", "y_train: int64 [12], now int64 [6]",
    ]  # fmt: skip
    both = {"train": (x, LABELS), "test": (x, LABELS)}
    assert differing(to_arrays(both), path)[0] == "x_test: none, now float32 [12, 3]"
    assert "classes: ['0', '1', '2'], now None" in differing(to_arrays((x, LABELS / 2)), path)


def test_nan_is_no_difference(tmp_path: Path):
    x = np.array([[0.0], [np.nan], [2.0]], np.float32)
    arrays = to_arrays((x[:, :1] * 0 + 1, LABELS[:3])) | {"x_train": x}
    np.savez(tmp_path / "data.npz", **arrays)
    assert differing(arrays, tmp_path / "data.npz") == []
    assert differing(arrays | {"x_train": x[::-1].copy() + 1}, tmp_path / "data.npz") == ["x_train: other values"]

"""Arrays of every layout and type as tensors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from onecycle import Learner, as_batches, load
from onecycle.data.arrays import as_tensor
from onecycle.errors import DataError

X = np.arange(12.0, dtype=np.float32).reshape(4, 3)


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "array",
    [
        X.astype(">f4"), X.astype(">f8"), X.astype(np.longdouble), X[::-1].copy()[::-1], np.asfortranarray(X),
        frozen(X), X.astype(object), np.ma.masked_array(X), np.repeat(X, 2, 0)[::2],
    ],
    ids=lambda array: f"{array.dtype} {array.strides}",
)  # fmt: skip
def test_numbers_of_any_layout_are_float32(array):
    tensor = as_tensor(array)
    assert tensor.dtype == torch.float32 and tensor.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", torch.uint8), ("uint16", torch.int32), ("uint32", torch.int64), ("uint64", torch.int64),
     (">i4", torch.int32), ("int8", torch.int8), ("object", torch.int64)],
)  # fmt: skip
def test_whole_numbers(dtype, expected):
    labels = np.array([0, 1, 2, 1])
    tensor = as_tensor(labels.astype(dtype))
    assert tensor.dtype == expected and tensor.tolist() == labels.tolist()
    if dtype.startswith("uint"):
        tensor = as_tensor(torch.from_numpy(labels.astype(dtype)))
        assert tensor.dtype == expected and tensor.tolist() == labels.tolist()


def test_what_is_missing_or_masked_is_no_number():
    frame = pd.DataFrame(X).mask(X == 4).astype(object)
    for array in (np.ma.masked_array(X, X == 4), np.where(X == 4, None, X), frame):
        assert as_tensor(array).isnan().tolist() == (X == 4).tolist()


def test_what_is_no_number_is_refused():
    with pytest.raises(DataError, match="uint64 with 18446744073709551615 in it: torch has int64"):
        as_tensor(np.array([2**64 - 1], np.uint64))
    with pytest.raises(DataError, match="array of objects is no array of numbers"):
        as_tensor(np.array([np.zeros(2), np.zeros(3)], dtype=object))
    with pytest.raises(DataError, match="array of words is no array of numbers"):
        as_tensor(np.array(["a", "b"], dtype=object))


def test_labels_of_16_bits_and_images_backwards_are_trained_on():
    images = np.random.default_rng(0).integers(0, 255, (12, 1, 4, 4)).astype(np.uint8)
    labels = (np.arange(12) % 2).astype(np.uint16)
    backwards, again = images[::-1], frozen(images)
    for x in (backwards, again):
        learn = Learner(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), (x, labels), batch_size=4, verbose=False)
        learn.fit("1 updates", "constant", 0.1)
        assert learn.train.tensors[0].tolist() == x.tolist()
    first, targets = next(iter(as_batches((images, labels), 4, shuffle=False).epoch(0)))
    assert targets.tolist() == [0, 1, 0, 1] and first.dtype == torch.uint8


def test_a_memory_map_stays_in_its_file_and_is_not_written_to(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    for mapped in (x, np.asarray(x), x[1:3], x.reshape(2, 6)):
        assert as_tensor(mapped).data_ptr() == mapped.__array_interface__["data"][0]
    assert as_tensor(frozen(X)).data_ptr() != as_tensor(X).data_ptr()
    learn = Learner(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), (x, X[:, :2].copy()), batch_size=2,
                    verbose=False)  # fmt: skip
    learn.fit("1 updates", "constant", 0.1)
    assert learn.predict(x).shape == (4, 2)


def test_batches_in_order_are_copies():
    """So that a model which writes to its inputs does not change the data."""
    x = torch.arange(4.0)
    for (batch,) in as_batches((x,), 2, shuffle=False).epoch(0):
        batch.zero_()
    assert x.tolist() == [0, 1, 2, 3]


def test_words_in_a_npz_are_the_names_of_the_classes(tmp_path):
    words = np.array(["owl", "cat"] * 10)
    np.savez(tmp_path / "a.npz", x_train=np.eye(20), y_train=words, x_test=np.eye(20)[:3], y_test=words[:3])
    data = load(tmp_path / "a.npz")
    assert data.classes == ("cat", "owl") and data.test is not None and data.test.targets.tolist() == [1, 0, 1]

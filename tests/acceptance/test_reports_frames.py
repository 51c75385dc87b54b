"""Frames, series and the splits and streams of `datasets` in place of arrays, as public reports have them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import onecycle
from onecycle.errors import ConfigError, DataError


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return x, x.sum(1)


def learner(train, valid=None, outputs=1, **options):
    torch.manual_seed(0)
    return onecycle.Learner(nn.Linear(3, outputs), train, valid, batch_size=10, verbose=False, **options)


def weights(train, outputs=1):
    learn = learner(train, outputs=outputs)
    learn.fit_one_cycle(1, 0.01)
    return learn.model.weight


def test_frame_and_series_are_taken_by_position_pytorch_51112(arrays):
    """pytorch/pytorch#51112: a series whose index is shuffled gave KeyError 1."""
    x, y = arrays
    order = np.random.default_rng(1).permutation(60)
    frame, series = pd.DataFrame(x, columns=list("abc")), pd.Series(y)
    assert torch.equal(weights((frame, series)), weights((x, y)))
    shuffled = weights((frame.iloc[order], series.iloc[order]))
    assert torch.equal(shuffled, weights((x[order], y[order])))
    assert torch.equal(weights((frame.convert_dtypes(), series)), weights((x, y)))
    learn = learner((x, y), (frame, series))
    assert torch.equal(learn.predict(frame), learn.predict(x))
    assert learn.evaluate((frame, series)) == learn.evaluate((x, y))


def test_columns_of_words_are_refused_by_name(arrays):
    x, y = arrays
    frame = pd.DataFrame(x, columns=list("abc")).assign(sex="f", town="Ulm")
    with pytest.raises(
        DataError, match=r"2 of 5 columns are no numbers: sex and town\. .*onecycle.load\(frame, target"
    ):
        learner((frame, y))
    with pytest.raises(DataError, match=r"series of str values, 'k', is none of numbers.*cat\.codes"):
        learner((x, pd.Series(["a", "b"] * 30, name="k")), outputs=2)
    with pytest.raises(DataError, match=r"cannot make batches of a DataFrame alone.*frame.drop"):
        learner(frame)


class Polars:
    """What of a polars frame is used: no index, no iloc."""

    shape = (60, 2)

    def __init__(self, **columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, key):
        return pd.Series(self._columns[self.columns[key[1]]])

    def to_numpy(self):
        raise AssertionError("mixed columns become objects")


def test_frames_without_an_index(arrays):
    x, y = arrays
    learn = onecycle.Learner(nn.Linear(2, 1), (Polars(a=x[:, 0], b=x[:, 1]), y), verbose=False, batch_size=10)
    assert learn.train.tensors[0].tolist() == x[:, :2].tolist()


def test_missing_values_in_a_frame_are_refused_as_nan(arrays):
    x, y = arrays
    frame = pd.DataFrame(x, columns=list("abc")).convert_dtypes()
    frame.iloc[4, 1] = pd.NA
    with pytest.raises(DataError, match="NaN or infinite inputs: 1 of 60 samples, the first at index 4"):
        learner((frame, y))


@pytest.mark.parametrize("of", [list, lambda values: list(map(torch.from_numpy, values))])
def test_lists_of_samples_are_refused_in_words(arrays, of):
    x, y = arrays
    with pytest.raises(DataError, match=r"a tuple of lists is taken for whole data, of 60 samples.*np.array\(x\)"):
        learner((of(x), list(y)))
    ragged = np.empty(60, object)
    ragged[:] = [row[: 1 + i % 3] for i, row in enumerate(x)]
    with pytest.raises(DataError, match=r"an array of objects is no array of numbers"):
        learner((ragged, y))
    assert torch.equal(weights((x.astype(object), y)), weights((x, y)))


def test_a_tuple_of_batches_stays_one(arrays):
    x, y = (torch.from_numpy(part) for part in arrays)
    assert len(learner(([x[:30], y[:30]], [x[30:], y[30:]])).train) == 2


# Data sets of the hub's library


def by_column(model, batch):
    return nn.functional.mse_loss(model(batch["x"]).squeeze(1), batch["y"])


@pytest.fixture
def rows(arrays):
    datasets = pytest.importorskip("datasets")
    x, y = arrays
    return datasets, datasets.Dataset.from_dict({"x": x.tolist(), "y": y.tolist()})


def test_the_splits_of_a_dataset_dict_by_name(rows):
    datasets, dataset = rows
    splits = datasets.DatasetDict({"train": dataset, "validation": dataset.select(range(20)), "test": dataset})
    learn = learner(splits, loss=by_column)
    assert (len(learn.train), len(learn.valid)) == (6, 1)
    assert "splits: train and validation; test not used here" in learn.notes
    with pytest.raises(DataError, match="no split train; it has a and b"):
        learner(datasets.DatasetDict({"a": dataset, "b": dataset}), loss=by_column)
    with pytest.raises(DataError, match=r"cannot make batches of a DatasetDict alone: give one of its splits"):
        learn.evaluate(splits)


def test_a_streamed_dataset_huggingface_23809(rows):
    """huggingface/datasets, transformers#23809: a stream has no length, so the budget is in updates."""
    _, dataset = rows
    stream = dataset.to_iterable_dataset().shuffle(seed=0, buffer_size=60)
    learn = learner(stream, dataset.to_iterable_dataset(), loss=by_column)
    with pytest.raises(ConfigError, match="give the budget in updates"):
        learn.fit(1, lr_max=0.01)
    before = learn.evaluate()["loss"]
    result = learn.fit("20 updates", lr_max=0.05)
    assert result.updates == 20 and result.valid["loss"] < before
    first, again, second = (next(learn.train.epoch(epoch))["x"] for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_streamed_images_with_labels_are_pairs():
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = [image.new("RGB", (8, 6), (255, 0, 0)), image.new("RGB", (16, 12), (0, 0, 255))] * 4
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 4}, features=features)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 2))
    learn = onecycle.Learner(net, rows.to_iterable_dataset(), batch_size=4, verbose=False)
    pixels, labels = next(learn.train.epoch(0))
    assert pixels.shape == (4, 3, 6, 8) and labels.tolist() == [0, 1, 0, 1]
    assert pixels[1, :, 0, 0].tolist() == [0, 0, 1]

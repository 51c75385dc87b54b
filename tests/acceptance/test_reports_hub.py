"""Data sets of the `datasets` library with labels that are no class numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from onecycle import DataError, Learner

datasets = pytest.importorskip("datasets")


def of_images(labels, feature):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (8, 8), dtype=np.uint8) for _ in labels]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def net(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def test_labels_with_fractions_stay_whole_numbers_do_not_come_of_them():
    labels = [0.5, 1.5] * 8
    learn = Learner(net(1), of_images(labels, datasets.Value("float32")), batch_size=8, verbose=False)
    assert any("mean squared error" in note for note in learn.notes)
    batch = next(learn.train.epoch(0))
    assert set(batch[1].tolist()) == {0.5, 1.5} and batch[1].dtype == torch.float32


def test_labels_that_are_words_are_refused_with_their_mend():
    data = of_images(["cat", "dog"] * 8, datasets.Value("string"))
    with pytest.raises(DataError, match=r"are words: number them by dataset.class_encode_column\('label'\)"):
        Learner(net(2), data, batch_size=8, verbose=False)
    learn = Learner(net(2), data.class_encode_column("label"), batch_size=8, verbose=False)
    assert next(learn.train.epoch(0))[1].dtype == torch.int64

"""How a learner's data are batched: normalised by the training split, augmented in training alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_makers import blobs

from onecycle import ConfigError
from onecycle.data import Split
from onecycle.data.batch_settings import BatchSettings

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (12, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12)


def settings(batch_size: int = 4) -> BatchSettings:
    return BatchSettings(batch_size, 0, 0, CPU)


def inputs_of(batches, epoch: int = 0):
    return torch.cat([batch[0] for batch in batches.epoch(epoch)])


def order_of(batches, epoch: int = 0) -> list[int]:
    return torch.cat([batch[1] for batch in batches.epoch(epoch)]).tolist()


def test_training_is_shuffled_and_even_and_the_rest_in_order_and_whole():
    data = (torch.zeros(10, 2), torch.arange(10))
    training, other = settings().batches(data, training=True), settings().batches(data, training=False)
    assert [len(y) for _, y in training.epoch(0)] == [4, 3, 3] and order_of(training) != order_of(training, 1)
    many = settings(16).batches((torch.zeros(650, 2), torch.arange(650)), training=True)
    assert len(many) == 40 and {len(y) for _, y in many.epoch(0)} == {16}, "10 of 650 are left out"
    assert order_of(other) == order_of(other, 1) == list(range(10))
    assert [len(y) for _, y in other.epoch(0)] == [8, 2]


def test_data_smaller_than_a_batch_can_be_measured_but_not_trained_on():
    data = (torch.zeros(3, 2), torch.arange(3))
    assert order_of(settings(64).batches(data, training=False)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="larger than the data"):
        settings(64).batches(data, training=True)


def test_a_stream_without_a_length_is_measured_in_batches_of_the_size_that_is_asked_for():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(torch.zeros(10, 2), range(10), strict=True))

    assert [len(y) for _, y in settings().batches(Stream(), training=False).epoch(0)] == [8, 2]
    assert [len(y) for _, y in settings().batches(Stream(), training=True).epoch(0)] == [4, 4, 2]


@pytest.mark.parametrize("make", [tuple, lambda pair: Split(*pair), lambda pair: (pair[0].numpy(), pair[1])])
def test_images_are_normalised_by_the_training_splits_statistics(make):
    batching, notes = settings().with_transforms(make((IMAGES, LABELS)), None, None)
    assert notes == []
    x = inputs_of(batching.batches((IMAGES, LABELS), training=False)).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
    other = IMAGES // 2
    slow = (other.double() / 255 - IMAGES.double().mean((0, 2, 3))[:, None, None] / 255) / (
        IMAGES.double().div(255).std((0, 2, 3), correction=0)[:, None, None]
    )
    torch.testing.assert_close(inputs_of(batching.batches((other,), training=False)).double(), slow, atol=1e-4, rtol=0)


def test_known_statistics_are_used():
    batching, _ = settings().with_transforms((IMAGES, LABELS), ((0.0, 0.0), (1.0, 1.0)), None)
    x = inputs_of(batching.batches((IMAGES,), training=False))
    torch.testing.assert_close(x, IMAGES.float() / 255)


def test_an_image_of_one_colour_does_not_divide_by_zero():
    flat = torch.full((4, 1, 3, 3), 7, dtype=torch.uint8)
    batching, _ = settings().with_transforms((flat, LABELS[:4]), None, None)
    assert bool(torch.isfinite(inputs_of(batching.batches((flat,), training=False))).all())


def test_augmentation_is_for_training_alone_and_repeats_itself():
    batching, notes = settings().with_transforms((IMAGES, LABELS), None, "flip")
    plain, _ = settings().with_transforms((IMAGES, LABELS), None, "none")
    assert notes == ["augmentation: flip"]
    augmented = batching.batches((IMAGES, LABELS), training=True)
    expected = inputs_of(plain.batches((IMAGES, LABELS), training=True))
    got = inputs_of(augmented)
    flipped = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(got, expected, strict=True)]
    kept = [bool(torch.equal(a, b)) for a, b in zip(got, expected, strict=True)]
    assert any(flipped) and any(kept) and all(a or b for a, b in zip(flipped, kept, strict=True))
    assert torch.equal(inputs_of(augmented), got)
    assert torch.equal(
        inputs_of(batching.batches((IMAGES,), training=False)), inputs_of(plain.batches((IMAGES,), training=False))
    )


def test_data_that_are_not_images_pass_through():
    x, y = blobs(8)
    batching, notes = settings().with_transforms((x, y), None, "none")
    assert notes == [] and torch.equal(inputs_of(batching.batches((x, y), training=False)), x)


def test_no_augmentation_of_what_is_not_uint8_images():
    with pytest.raises(ConfigError, match="augment='flip' is for images held as uint8"):
        settings().with_transforms(blobs(8), None, "flip")


def test_unknown_augmentation():
    with pytest.raises(ConfigError, match="did you mean flip"):
        settings().with_transforms((IMAGES, LABELS), None, ["flipp"])


def test_uint8_arrays_that_are_not_images_are_left_alone():
    codes = np.zeros((6, 5), np.uint8)
    batching, _ = settings().with_transforms((codes, np.zeros(6)), None, None)
    assert inputs_of(batching.batches((codes,), training=False)).dtype == torch.uint8

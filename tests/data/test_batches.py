"""Batches from every form of data: their order, what they draw, and that any of it can be entered in the middle."""

from __future__ import annotations

import io
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_makers import png
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset
from training_makers import blobs, equal_batches, global_generators

from onecycle import ConfigError, DataError, as_batches
from onecycle.data import Split
from onecycle.data import batches as batching
from onecycle.data.augment import augmenter
from onecycle.data.batches import (
    DatasetBatches,
    ImageTransform,
    LoaderBatches,
    OneShotBatches,
    TensorBatches,
    first_batch,
)
from onecycle.data.hub import HubDataset
from onecycle.data.seeds import derive_seed

X, Y = blobs(10)


class Noisy(Dataset):
    """Each sample draws from every generator that a user's augmentation could use."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int):
        return torch.tensor([float(i), torch.rand(()).item(), random.random(), np.random.rand()])


class Counting(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10).float())


def noisy_batches():
    for _ in range(4):
        yield torch.rand(2), torch.tensor([random.random(), np.random.rand()])


class NoisyIterable:
    def __iter__(self):
        return noisy_batches()


def reiterable(kind: str, seed: int = 3):
    if kind == "tensors":
        return TensorBatches(
            (X, Y), 3, seed, transform=lambda batch, g: (batch[0] + torch.rand(4, generator=g), batch[1])
        )
    if kind == "dataset":
        return DatasetBatches(Noisy(), 3, seed)
    if kind == "list":
        return as_batches([(X[:3], Y[:3]), (X[3:], Y[3:])])
    if kind == "iterable":
        return as_batches(NoisyIterable(), seed=seed)
    loaders = {
        "loader": lambda: DataLoader(Noisy(), 3, shuffle=True),
        "own generator": lambda: DataLoader(Noisy(), 3, shuffle=True, generator=torch.Generator().manual_seed(5)),
        "sampler": lambda: DataLoader(Noisy(), 3, sampler=RandomSampler(Noisy(), generator=torch.Generator())),
        "batch sampler": lambda: DataLoader(
            Noisy(), batch_sampler=BatchSampler(RandomSampler(Noisy(), generator=torch.Generator()), 3, False)
        ),
    }
    return as_batches(loaders[kind](), seed=seed)


KINDS = ["tensors", "dataset", "list", "iterable", "loader", "own generator", "sampler", "batch sampler"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_the_same_at_every_call_and_from_every_start(kind):
    batches = reiterable(kind)
    whole = list(batches.epoch(2))
    list(batches.epoch(0))
    for start in range(len(whole) + 1):
        torch.rand(3), random.random(), np.random.rand()
        assert equal_batches(batches.epoch(2, start), whole[start:]), start


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "list"])
def test_epochs_and_seeds_differ(kind):
    batches = reiterable(kind)
    assert not equal_batches(batches.epoch(0), batches.epoch(1))
    assert not equal_batches(batches.epoch(0), reiterable(kind, seed=4).epoch(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_generators_stay(kind):
    batches = reiterable(kind)
    before = global_generators()
    for _ in batches.epoch(0):
        assert global_generators() == before
    first_batch(batches)
    assert global_generators() == before


@pytest.mark.parametrize("holder", ["loader", "sampler"])
def test_a_generator_of_the_loaders_own_stays_where_it_was(holder):
    generator = torch.Generator().manual_seed(5)
    if holder == "loader":
        loader = DataLoader(Noisy(), 3, shuffle=True, generator=generator)
    else:
        loader = DataLoader(Noisy(), 3, sampler=RandomSampler(Noisy(), generator=generator))
    before = generator.get_state()
    list(as_batches(loader).epoch(0))
    assert torch.equal(generator.get_state(), before)


def test_a_loader_with_workers_repeats_itself():
    loader = DataLoader(Noisy(), 3, shuffle=True, num_workers=2)
    batches = as_batches(loader, seed=1)
    whole = list(batches.epoch(1))
    assert sorted(int(row[0]) for batch in whole for row in batch) == list(range(10))
    assert equal_batches(([b] for b in batches.epoch(1, 2)), ([b] for b in whole[2:]))


def test_samples_do_not_depend_on_workers_nor_on_a_restart():
    alone, helped = DatasetBatches(Noisy(), 3, seed=1), DatasetBatches(Noisy(), 3, seed=1, workers=2)
    whole = list(alone.epoch(4))
    assert equal_batches(([b] for b in helped.epoch(4)), ([b] for b in whole))
    assert equal_batches(([b] for b in helped.epoch(4, 2)), ([b] for b in whole[2:]))


def test_draws_of_one_epoch_differ_from_sample_to_sample_and_in_the_next_epoch():
    rows = torch.cat(list(DatasetBatches(Noisy(), 3, shuffle=False).epoch(0)))
    later = torch.cat(list(DatasetBatches(Noisy(), 3, shuffle=False).epoch(1)))
    assert all(len(set(rows[:, column].tolist())) == 10 for column in (1, 2, 3))
    assert torch.equal(rows[:, 0], later[:, 0]) and not bool((rows[:, 1:] == later[:, 1:]).any())


def test_each_sample_comes_once_an_epoch_unless_the_ragged_batch_is_dropped():
    whole = [batch[0] for batch in TensorBatches((torch.arange(10),), 4, seed=0).epoch(0)]
    assert [len(b) for b in whole] == [4, 4, 2] and Counter(torch.cat(whole).tolist()) == Counter(range(10))
    even = TensorBatches((torch.arange(10),), 4, seed=0, drop_last=True)
    assert [len(b[0]) for b in even.epoch(0)] == [4, 4] and len(even) == 2
    dropped = {frozenset(range(10)) - frozenset(torch.cat([b[0] for b in even.epoch(e)]).tolist()) for e in range(5)}
    assert len(dropped) > 1, "another ragged batch each epoch"
    assert [len(b) for b in DatasetBatches(Noisy(), 4, drop_last=True).epoch(0)] == [4, 4]


def test_grey_images_are_normalised_in_their_own_memory_to_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, 1, 7, 5), dtype=torch.uint8, generator=generator)
    before, transform = images.clone(), ImageTransform((0.286,), (0.353,))
    for given in (images, images.to(memory_format=torch.channels_last)):
        (normalised,) = transform((given,), generator)
        assert torch.equal(normalised, torch.add(torch.tensor(-0.286 / 0.353), given, alpha=1 / (255 * 0.353)))
        assert normalised.dtype == torch.float32 and normalised.stride() == given.stride()
    assert torch.equal(images, before)


def test_a_transform_that_draws_nothing_is_spared_the_seeding(monkeypatch):
    seeded, derive = [], derive_seed
    monkeypatch.setattr(batching, "derive_seed", lambda *args: seeded.append(args[1]) or derive(*args))
    images = torch.arange(4 * 8 * 8, dtype=torch.uint8).reshape(4, 1, 8, 8)
    plain = ImageTransform((0.5,), (0.25,))
    drawing = replace(plain, augment=augmenter("flip"))
    for transform, expected in ((plain, 0), (drawing, 2), (lambda batch, generator: batch, 2)):
        seeded.clear()
        assert len(list(TensorBatches((images,), 2, transform=transform).epoch(0))) == 2
        assert seeded.count("augment") == expected


def test_inputs_and_targets_stay_together():
    for x, y in TensorBatches((torch.arange(20.0), torch.arange(20) * 10), 3).epoch(0):
        assert torch.equal(x * 10, y.float())


def test_augmentation_is_a_function_of_seed_epoch_and_batch():
    def transform(batch, generator):
        return (torch.rand(len(batch[0]), generator=generator),)

    a = TensorBatches((X,), 5, seed=0, transform=transform)
    draws = [batch[0] for epoch in range(2) for batch in a.epoch(epoch)]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(next(a.epoch(1, 1))[0], draws[3])
    other = TensorBatches((X,), 5, seed=1, transform=transform)
    assert not torch.equal(next(other.epoch(0))[0], draws[0])


def test_arrays_become_tensors_and_float64_becomes_float32():
    x, y = next(as_batches((np.arange(6, dtype=np.float64).reshape(3, 2), np.arange(3, dtype=np.int32)), 3).epoch(0))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int32)


def test_a_split_is_its_inputs_and_targets():
    batches = as_batches(Split(X, Y), 5, shuffle=False)
    assert equal_batches(batches.epoch(0), [(X[:5], Y[:5]), (X[5:], Y[5:])])


def test_a_torch_dataset_is_batched_and_an_iterable_one_comes_in_its_order():
    assert equal_batches(as_batches(TensorDataset(X, Y), 10, shuffle=False).epoch(0), [(X, Y)])
    counted = list(as_batches(Counting(), 4).epoch(0))
    assert [batch.tolist() for batch in counted] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_batches_of_any_structure_pass_as_they_are():
    data = [{"ids": X, "more": [Y, "text"]}, {"ids": X, "more": [Y, "text"]}]
    assert list(as_batches(data).epoch(5)) == data


def test_a_generator_keeps_the_batch_that_was_peeked_at():
    batches = as_batches(iter([torch.ones(1), torch.zeros(1)]))
    assert isinstance(batches, OneShotBatches)
    assert first_batch(batches) is first_batch(batches)
    assert [batch.item() for batch in batches.epoch(0)] == [1.0, 0.0]
    assert list(batches.epoch(1)) == []
    with pytest.raises(TypeError):
        len(batches)


def test_what_a_generator_draws_does_not_depend_on_peeking_nor_on_a_break():
    whole = list(as_batches(noisy_batches(), seed=1).epoch(0))
    peeked = as_batches(noisy_batches(), seed=1)
    before = global_generators()
    first_batch(peeked)
    assert global_generators() == before
    assert equal_batches(peeked.epoch(0), whole)
    source = noisy_batches()
    parts = [next(as_batches(source, seed=1).epoch(0, i)) for i in range(2)]
    assert equal_batches([*parts, *as_batches(source, seed=1).epoch(0, 2)], whole)
    assert global_generators() == before


def test_set_epoch_is_called_on_a_sampler_that_has_one():
    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = Sampler(range(10))
    list(as_batches(DataLoader(TensorDataset(X), 5, sampler=sampler)).epoch(6))
    assert sampler.epoch == 6


def hub_images():
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(np.full((4, 5, 3), 51 * i, np.uint8)) for i in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)


def test_a_datasets_dataset_with_images_and_labels_gives_pairs():
    x, y = next(as_batches(hub_images(), 4, shuffle=False).epoch(0))
    assert (x.shape, x.dtype, y.tolist()) == ((4, 3, 4, 5), torch.float32, [0, 1, 0, 1])
    torch.testing.assert_close(x[:, 0, 0, 0], torch.tensor([0.0, 0.2, 0.4, 0.6]))


def test_images_of_a_datasets_dataset_are_decoded_as_files_are():
    """Turned as their Exif says, on white where they are transparent, all of one shape."""
    datasets = pytest.importorskip("datasets")
    turned = Image.Exif()
    turned[0x0112] = 6
    made = [("L", 7, {}), ("RGBA", (0, 0, 0, 0), {}), ("RGB", (51, 51, 51), {"exif": turned}), ("I;16", 25700, {})]
    cells = []
    for mode, colour, options in made:
        buffer = io.BytesIO()
        size = (4, 6) if options else (6, 4)
        Image.new(mode, size, colour).save(buffer, format="PNG", **options)
        cells.append({"bytes": buffer.getvalue(), "path": None})
    cells[0]["bytes"] = png(np.full((9, 9), 7, np.uint8))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0, 1]}, features=features)
    hub = HubDataset(rows)
    assert hub.shape == (3, 4, 6)
    assert [note.partition(":")[0] for note in hub.notes] == [
        "images of 2 sizes become 4x6",
        "grey and colour images are mixed",
    ]
    images, labels = next(iter(as_batches(rows, 4, shuffle=False).epoch(0)))
    assert (images.shape, labels.tolist()) == ((4, 3, 4, 6), [0, 1, 0, 1])
    assert [round(255 * float(image.min())) for image in images] == [7, 255, 51, 100]
    grey = rows.select([0])
    assert HubDataset(grey).shape == (1, 9, 9) and HubDataset(grey, hub.shape)[0][0].shape == hub.shape
    drawn = rows.with_transform(lambda batch: {"x": [1.0] * len(batch["label"])})
    assert HubDataset(drawn)[0] == {"x": 1.0}


def test_a_datasets_dataset_of_plain_columns_gives_dicts_of_tensors():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"a": [[1.0, 2.0], [3.0, 4.0]], "b": [5, 6]})
    (batch,) = as_batches(rows, 2, shuffle=False).epoch(0)
    assert {name: column.tolist() for name, column in batch.items()} == {"a": [[1, 2], [3, 4]], "b": [5, 6]}


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_by_channel(channels):
    images = torch.randint(0, 256, (5, channels, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels]
    found, labels = ImageTransform(mean, std)((images, torch.arange(5)), torch.Generator())
    slow = torch.stack([(images[:, c].double() / 255 - mean[c]) / std[c] for c in range(channels)], 1)
    torch.testing.assert_close(found, slow.float())
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_what_is_not_uint8_is_not_normalised():
    assert ImageTransform((0.5,), (0.5,))((X,), torch.Generator())[0] is X


@pytest.mark.parametrize(
    ("data", "size", "error", "says"),
    [
        ((X, Y[:9]), 2, DataError, r"one common length.*\(10, 4\).*\(9,\)"),
        ((X[:0],), 2, DataError, "above 0"),
        ((X, Y), 11, ConfigError, "batch_size 11 is larger than the data, 10 samples"),
        ((X, Y), 0, ConfigError, "at least 1; received 0"),
        ((X, Y), 2.5, ConfigError, "received 2.5"),
        ((X, Y), True, ConfigError, "received True"),
        (TensorDataset(X), 11, ConfigError, "larger than the data"),
        ((np.array(["a", "b"]), np.zeros(2)), 2, DataError, "an array of words is no array of numbers"),
        ((X.index_fill(0, torch.tensor([3, 7]), float("nan")), Y), 2, DataError, "inputs.*2 of 10.*first at index 3"),
        ((X, Y.float().index_fill(0, torch.tensor([9]), float("inf"))), 2, DataError, "targets.*1 of 10.*at index 9"),
        (5, 2, DataError, "cannot make batches of a int alone: give a DataLoader"),
        ("digits", 2, DataError, "cannot make batches of a str"),
        ({"x": X}, 2, DataError, "cannot make batches of a dict alone: give .*tuple.*list of them"),
        (X, 2, DataError, "cannot make batches of a Tensor alone: give .*tuple"),
        (X.numpy(), 2, DataError, "cannot make batches of a ndarray alone"),
    ],
)
def test_data_that_cannot_be_used_say_why(data, size, error, says):
    with pytest.raises(error, match=says):
        as_batches(data, size)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.numpy()], ids=["tensors", "arrays"])
def test_a_list_of_inputs_and_targets_is_refused_with_the_tuple_as_its_mend(make):
    with pytest.raises(DataError, match=r"shapes \[10, 4\] and \[10\] .*give the tuple \(x, y\) in place of \[x, y\]"):
        as_batches([make(X), make(Y)], 5)
    assert len(as_batches((make(X), make(Y)), 5)) == 2


def test_lists_that_are_no_batches_are_refused():
    for data, says in (
        ([X, Y, Y], "a list of tensors of shapes .* would be read as 3 batches"),
        ([X, Y[:9]], r"shapes \[10, 4\] and \[9\] would be read as 2 batches"),
        ([X, X[:, :1]], "give the tuple"),
        (([1, 2], 3), "a tuple of numbers or words"),
        ([1.0, 2.0], "a list of numbers or words"),
        ([(X, Y), (X, Y, Y)], "the first is a tuple of 2, number 1 is a tuple of 3"),
        ([(X, Y), X], "the first is a tuple of 2, number 1 is a Tensor"),
        ([{"x": X}, (X, Y)], "the first is a dict, number 1 is a tuple of 2"),
    ):
        with pytest.raises(DataError, match=says):
            as_batches(data, 2)


class Table:
    """Has a shape and no dtype, as a data frame."""

    shape = (10, 4)

    def __len__(self) -> int:
        return 10


def test_tables_that_are_no_arrays_are_refused():
    with pytest.raises(DataError, match="give the tuple"):
        as_batches([Table(), Y], 2)
    with pytest.raises(DataError, match="cannot make a tensor of a Table"):
        as_batches((Table(), Y), 2)


def test_a_list_of_batches_of_inputs_alone_stays():
    assert len(as_batches([X[:9], X])) == len(as_batches([X, X.clone()])) == 2


@pytest.mark.parametrize("data", [[], iter([]), DataLoader([])])
def test_no_batches_at_all(data):
    with pytest.raises(DataError, match="no batches"):
        first_batch(as_batches(data))


def test_batches_are_taken_as_they_are():
    batches = LoaderBatches([X])
    assert as_batches(batches) is batches

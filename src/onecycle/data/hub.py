"""Data sets of the `datasets` library as samples for a learner, images through the same decoder as those of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from ..errors import DataError
from ..text import listed
from .encoded import MIXED, common_size
from .folders import SPLIT_NAMES
from .images import decode_or_raise, headers, is_grey, open_image, undecodable, upright_size
from .parquet import EncodedColumn, encoded_item

SEEN = 4096  # headers that are read for the shape of all images


def hub_kind(data: Any) -> str | None:
    """What of the `datasets` library `data` is: a "dataset", a "stream", or the "splits" of one; else None."""
    if not type(data).__module__.startswith("datasets."):
        return None
    return "splits" if isinstance(data, Mapping) else "dataset" if hasattr(data, "__len__") else "stream"


def shuffles_in_memory(data: Any) -> bool:
    """Whether it is a stream of the `datasets` library that shuffles in a buffer, which is no part of its state."""
    parts = [data._ex_iterable] if hub_kind(data) == "stream" and hasattr(data, "_ex_iterable") else []
    for part in parts:
        parts += [inner for inner in (getattr(part, "ex_iterable", None), *getattr(part, "ex_iterables", ())) if inner]
    return any(type(part).__name__ == "BufferShuffledExamplesIterable" for part in parts)


class HubDataset(Dataset[Any]):
    """A `datasets.Dataset` as samples: dicts of tensors, or ``(image, label)`` where it has both.

    An image is float32 [c, h, w] from 0 to 1. Images of one size stay as they are; those of several are brought to the
    size that is common among them, or to `shape`, as those of a folder are; `notes` say so. A format or transform that
    was set on the data set is kept, and its samples stay as they are.
    """

    def __init__(self, dataset: Any, shape: tuple[int, int, int] | None = None):
        image, labels = _image_and_labels(dataset)
        plain = dataset.format["type"] is None
        self.shape, self.notes = shape, ()
        self._images, self._labels, self._dataset = None, None, dataset.with_format("torch") if plain else dataset
        if image is not None and labels and plain:
            self._images = EncodedColumn(dataset, image)
            self._labels, self._dataset = labels[0], dataset.select_columns([labels[0]])
            if shape is None:
                self.shape, self.notes = _shape_of(self._images)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, i: int) -> Any:
        sample = self._dataset[int(i)]
        if self._images is None or self.shape is None:
            return sample
        image = decode_or_raise(self._images[int(i)], self.shape, f"image {i}")
        return torch.from_numpy(image).float() / 255, number_of(sample[self._labels])


class HubStream(IterableDataset[Any]):
    """A streamed `datasets.IterableDataset` as samples, as in `HubDataset`, in its own order.

    Images are brought to the size of the first.
    """

    def __init__(self, dataset: Any):
        import datasets

        image, labels = _image_and_labels(dataset)
        self._pair, self._shape = (image, labels[0]) if image is not None and labels else None, (0, 0, 0)
        if self._pair is None:
            self._dataset = dataset.with_format("torch")
            return
        self._dataset = dataset.cast_column(image, datasets.Image(decode=False))
        with open_image(encoded_item(next(iter(self._dataset))[image])) as first:
            self._shape = (1 if is_grey(first) else 3, *upright_size(first))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew, where the data set shuffles."""
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        for i, sample in enumerate(self._dataset):
            if self._pair is None:
                yield sample
            else:
                image, label = (sample[name] for name in self._pair)
                pixels = decode_or_raise(encoded_item(image), self._shape, f"image {i}")
                yield torch.from_numpy(pixels).float() / 255, number_of(label)


def named_splits(splits: Mapping[Any, Any]) -> tuple[Any, Any, list[str]]:
    """The training and validation splits (None where there is none) of a `DatasetDict`, and a note on the others.

    Raises:
        DataError: no training split.
    """
    names = {SPLIT_NAMES.get(str(name).lower(), str(name)): name for name in splits}
    if "train" not in names:
        kind = type(splits).__name__
        raise DataError(f"this {kind} has no split train; it has {listed(map(str, splits))}. Give one of them")
    used = [names[split] for split in ("train", "valid") if split in names]
    rest = [str(name) for name in splits if name not in used]
    note = f"splits: {listed(map(str, used))}" + (f"; {listed(rest)} not used here" if rest else "")
    return splits[names["train"]], splits[names["valid"]] if "valid" in names else None, [note]


def _image_and_labels(dataset: Any) -> tuple[str | None, list[str]]:
    """The column of images, and those that may be of labels."""
    kinds = {name: type(feature).__name__ for name, feature in (dataset.features or {}).items()}
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"] or [n for n in kinds if n == "label"]
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    words = labels and str(getattr(dataset.features[labels[0]], "dtype", "")).endswith("string")
    if image is not None and words:
        raise DataError(
            f"the labels of this data set, {labels[0]!r}, are words: number them by dataset.class_encode_column"
            f"({labels[0]!r}), in every split alike"
        )
    return image, labels


def number_of(label: Any) -> int | torch.Tensor:
    """A label as the number that it is: one with a fraction stays so, float32, for a regression.

    >>> number_of(1.5), number_of(torch.tensor(2))
    (tensor(1.5000), 2)
    """
    value = label.item() if hasattr(label, "item") else label
    return torch.tensor(value, dtype=torch.float32) if isinstance(value, float) else int(value)


def _shape_of(images: Sequence[Any]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The shape that is common to the images, by the headers of as many as `SEEN`, and notes."""
    seen = range(0, len(images), -(-len(images) // SEEN) or 1)
    sizes, greys, bad = headers([images[i] for i in seen])
    if not sizes:
        raise undecodable({f"image {seen[index]}": why for index, why in bad.items()})
    (height, width), notes = next(iter(sizes)), ()
    if len(sizes) > 1:
        (height, width), _ = common_size(sizes)
        notes = (f"images of {len(sizes)} sizes become {height}x{width}: resize them in the data set for another size",)
    if len(greys) > 1:
        notes += MIXED
    return (3 if greys[False] else 1, height, width), notes

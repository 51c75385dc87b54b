"""A `datasets.Dataset` as samples for a learner, its images through the same decoder as those of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from .encoded import MIXED, common_size
from .images import decode_or_raise, each, is_grey, open_image, undecodable, upright_size
from .parquet import EncodedColumn

SEEN = 4096  # headers that are read for the shape of all images


def is_hub(data: Any) -> bool:
    """Whether `data` is of the `datasets` library."""
    return type(data).__module__.startswith("datasets.")


class HubDataset(Dataset[Any]):
    """A `datasets.Dataset` as samples: dicts of tensors, or ``(image, label)`` where it has both.

    An image is float32 [c, h, w] from 0 to 1. Images of one size stay as they are; those of several are brought to the
    size that is common among them, or to `shape`, as those of a folder are; `notes` say so. A format or transform that
    was set on the data set is kept, and its samples stay as they are.
    """

    def __init__(self, dataset: Any, shape: tuple[int, int, int] | None = None):
        features = dataset.features or {}
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        image = next((name for name, kind in kinds.items() if kind == "Image"), None)
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel"] or [n for n in kinds if n == "label"]
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
        return torch.from_numpy(image).float() / 255, int(sample[self._labels])


def _shape_of(images: Sequence[Any]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The shape that is common to the images, by the headers of as many as `SEEN`, and notes."""
    sizes: list[tuple[int, int]] = []
    greys: set[bool] = set()
    seen = range(0, len(images), -(-len(images) // SEEN) or 1)

    def header(index: int) -> None:
        with open_image(images[seen[index]]) as image:
            sizes.append(upright_size(image))
            greys.add(is_grey(image))

    bad = each(header, len(seen))
    if not sizes:
        raise undecodable({f"image {seen[index]}": why for index, why in bad.items()})
    counts = Counter(sizes)
    (height, width), _ = common_size(counts) if len(counts) > 1 else (sizes[0], ())
    notes = ()
    if len(counts) > 1:
        notes = (
            f"images of {len(counts)} sizes become {height}x{width}: resize them in the data set for another size",
        )
    if len(greys) > 1:
        notes += MIXED
    return (1 if greys == {True} else 3, height, width), notes

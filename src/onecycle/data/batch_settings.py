"""How the data sets of a learner are batched: in what size, by what transforms, and how many samples are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..checks import whole
from ..errors import ConfigError
from .arrays import as_tensor
from .augment import augmenter
from .batches import Batches, DatasetBatches, ImageTransform, TensorBatches, as_batches
from .hub import HubDataset, hub_kind
from .images import channel_statistics
from .splits import Split, Stream, shape_of
from .standardise import InputTransform, TransformedBatches

# Samples in a batch where none are asked for: at most and at least, and the batches that an epoch is to have.
BATCH_SIZE, SMALLEST, BATCHES = 64, 8, 12
# Of the training samples, the share that may be left out of an epoch so that all batches are of one size.
LEFT_OUT = 1 / 32
PIXELS = 2**19  # of images that a model begins from


@dataclass(frozen=True)
class BatchSettings:
    """How every data set of a learner is batched: normalised by the training data, augmented in training alone."""

    batch_size: int
    seed: int
    workers: int
    device: torch.device
    normalise: ImageTransform | InputTransform | None = None
    augment: ImageTransform | InputTransform | None = None
    image_shape: tuple[int, int, int] | None = None  # of the training images, where a `datasets.Dataset` has them
    evaluated: int | None = None  # samples in a batch that is measured; None: twice as many as in training

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, what="the number of samples a batch")

    def batches(self, data: Any, *, training: bool) -> Batches:
        """Batches of `data`: shuffled, augmented and even in training; in order, whole and twice as large otherwise.

        A ragged last batch of training is left out where it holds a small share of the samples; else they are spread.
        """
        if hub_kind(data) == "dataset":
            data = HubDataset(data, self.image_shape)
        samples = samples_of(data) or 0
        spare = samples % self.batch_size <= LEFT_OUT * samples
        batches = as_batches(
            data,
            self.batch_size if training else self._measured_size(data),
            seed=self.seed,
            shuffle=training,
            drop_last=training and spare,
            spread=training and not spare,
            transform=self.augment if training else self.normalise,
            device=self.device,
            workers=self.workers,
        )
        if isinstance(self.normalise, InputTransform) and not hasattr(batches, "transform"):
            return TransformedBatches(batches, self.normalise)  # which come as they are
        return batches

    def _measured_size(self, data: Any) -> int:
        """Samples in a batch of `data` that is measured: at most all that it has, where it has a length."""
        size, samples = self.evaluated or 2 * self.batch_size, samples_of(data)
        return size if samples is None else max(1, min(size, samples))

    @property
    def images(self) -> bool:
        """Whether the samples are images held as uint8."""
        return isinstance(self.normalise, ImageTransform)

    def with_transforms(
        self,
        train: Any,
        statistics: tuple[tuple[float, ...], tuple[float, ...]] | None,
        augment: str | Sequence[str] | None,
    ) -> tuple[BatchSettings, list[str]]:
        """These settings with the transforms that `train` needs, and notes that say which.

        Args:
            train: the training data, in any form.
            statistics: mean and standard deviation of each channel, where they are known.
            augment: a name, several, or None.

        Raises:
            ConfigError: augmentation of anything but images held as uint8.
        """
        names = tuple([augment] if isinstance(augment, str) else augment or ())
        wanted = names if names != ("none",) else ()
        mean, std = statistics or _pixel_statistics(train)
        if not mean:
            if wanted:
                raise ConfigError(
                    f"augment={augment!r} is for images held as uint8; augment other data in their own loader"
                )
            hub = HubDataset(train) if hub_kind(train) == "dataset" else None
            return (self, []) if hub is None else (replace(self, image_shape=hub.shape), list(hub.notes))
        plain = ImageTransform(mean, std)
        notes = ["augmentation: " + ", ".join(wanted)] if wanted else []
        return replace(self, normalise=plain, augment=replace(plain, augment=augmenter(names or ("none",)))), notes


def fitting_batch_size(n: int | None) -> int:
    """The batch size for `n` training samples where none is given: 64 or, for small data, less, but at least 8.

    It is the largest power of two that makes 12 batches an epoch, or all samples where there are fewer than 8.

    >>> [fitting_batch_size(n) for n in (50_000, 700, 250, 109, 5)], fitting_batch_size(None)
    ([64, 32, 16, 8, 5], 64)
    """
    if n is None:
        return BATCH_SIZE
    size = BATCH_SIZE
    while size > SMALLEST and n < BATCHES * size:
        size //= 2
    return max(1, min(size, n))


def samples_of(data: Any) -> int | None:
    """The number of samples of whole data, None where they are batched already or have no length."""
    if hasattr(data, "inputs") and hasattr(data, "targets"):
        return len(data.inputs)
    if isinstance(data, tuple) and data and all(hasattr(part, "shape") and len(part.shape) for part in data):
        return int(data[0].shape[0])
    whole_data = hub_kind(data) == "dataset" or (isinstance(data, Dataset) and not isinstance(data, IterableDataset))
    return len(cast(Any, data)) if whole_data else None


def samples_listed(data: Any) -> Any:
    """A list of samples ``(input, number)``, which no batches could be, as a torch `Dataset`; all else as it is.

    >>> as_batches(samples_listed([(torch.zeros(3), 0), (torch.ones(3), 1)]), 2).dataset[1]
    (tensor([1., 1., 1.]), 1)
    """
    pairs = isinstance(data, list) and data and all(isinstance(part, tuple | list) and len(part) == 2 for part in data)
    single = pairs and all(isinstance(part[1], Number) or getattr(part[1], "shape", None) == () for part in data)
    return _Listed(data) if single else data


class _Listed(Dataset[Any]):
    def __init__(self, samples: list[Any]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Any:
        return self._samples[i]


def left_out(batches: Batches) -> int:
    """How many samples an epoch of `batches` leaves out."""
    if not isinstance(batches, TensorBatches | DatasetBatches) or not batches.drop_last:
        return 0
    samples = len(batches.tensors[0]) if isinstance(batches, TensorBatches) else len(cast(Any, batches.dataset))
    return samples % batches.batch_size


def _pixel_statistics(data: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [n, c, h, w], in units where 255 is 1."""
    images = data.inputs if hasattr(data, "inputs") else data[0] if isinstance(data, tuple) and data else None
    if getattr(images, "ndim", 0) != 4 or not str(getattr(images, "dtype", "")).endswith("uint8"):
        return (), ()
    return channel_statistics(as_tensor(images).cpu())


def some_images(part: Split | Stream, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images from all of a data set, evenly, normalised as a model sees them: float32 [n, channels, height, width].

    So many that they have about `PIXELS` pixels, or 16.
    """
    n = min(len(part), max(16, PIXELS // math.prod(shape_of(part)[1:])))
    chosen = torch.linspace(0, len(part) - 1, n).long()
    images = torch.stack([part[i][0] for i in chosen.tolist()]) if isinstance(part, Stream) else part.inputs[chosen]
    return ImageTransform(mean, std)((images,), torch.Generator())[0]

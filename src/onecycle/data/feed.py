"""How one learner's data become batches: normalised and augmented for training, normalised for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ConfigError
from .augment import augmenter
from .batches import Batches, ImageTransform, as_batches


@dataclass(frozen=True)
class Feed:
    """The settings that every data set of a learner is batched with; `batches` applies them."""

    batch_size: int
    seed: int
    workers: int
    device: torch.device
    normalise: ImageTransform | None = None
    augment: ImageTransform | None = None

    def batches(self, data: Any, *, training: bool) -> Batches:
        """Batches of `data`: shuffled, augmented and even in training; in order, whole and twice as large otherwise."""
        return as_batches(
            data,
            self.batch_size if training else max(1, min(2 * self.batch_size, _length(data))),
            seed=self.seed,
            shuffle=training,
            drop_last=training,
            transform=self.augment if training else self.normalise,
            device=self.device,
            workers=self.workers,
        )


def feed_for(
    train: Any,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None,
    augment: str | Sequence[str] | None,
    feed: Feed,
) -> tuple[Feed, list[str]]:
    """`feed` with the transforms that `train` needs, and notes that say which.

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
        return feed, []
    plain = ImageTransform(mean, std)
    notes = ["augmentation: " + ", ".join(wanted)] if wanted else []
    return replace(feed, normalise=plain, augment=replace(plain, augment=augmenter(names or ("none",)))), notes


def _pixel_statistics(data: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [n, c, h, w], in units where 255 is 1."""
    images = data.inputs if hasattr(data, "inputs") else data[0] if isinstance(data, tuple) and data else None
    if getattr(images, "ndim", 0) != 4 or not str(getattr(images, "dtype", "")).endswith("uint8"):
        return (), ()
    from .images import channel_statistics

    return channel_statistics(torch.as_tensor(images).cpu())


def _length(data: Any) -> int:
    """Samples in `data` where a batch size matters to it; its size is checked elsewhere."""
    if isinstance(data, tuple) and data:
        data = data[0]
    return len(data) if hasattr(data, "__len__") else 1

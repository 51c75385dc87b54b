"""The units that a model was trained in: they are saved with its weights, and come back with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from ..data.batch_settings import BatchSettings
from ..data.batches import Batches, DatasetBatches, ImageTransform, TensorBatches
from ..data.standardise import InputTransform, Scale, TransformedBatches, untransformed
from ..errors import CheckpointError
from .objectives import Loss, Supervised

KEY = "onecycle.units"


@dataclass(frozen=True)
class Units:
    """How inputs are prepared and targets are scaled: `inputs` and `targets` standardised, uint8 images by `pixels`.

    None stands for as they are.
    """

    inputs: Scale | None = None
    targets: Scale | None = None
    pixels: Scale | None = None

    @classmethod
    def of(cls, batching: BatchSettings, loss: Loss) -> Self:
        """Those of a learner."""
        known, targets = batching.normalise, getattr(loss, "scale", None)
        if isinstance(known, ImageTransform):
            return cls(None, targets, Scale(known.mean, known.std))
        return cls(getattr(known, "scale", None), targets)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Self | None:
        """From what `metadata` gave; None where a file says nothing of units.

        Raises:
            CheckpointError: it cannot be read.
        """
        if KEY not in metadata:
            return None
        try:
            return cls(**{name: Scale.of(scale) for name, scale in json.loads(metadata[KEY]).items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"the units that the weights were trained in cannot be read, {metadata[KEY]!r}: save them again, by "
                "this version of onecycle"
            ) from error

    def metadata(self) -> dict[str, str]:
        """As the metadata of a file.

        >>> Units.read(Units(targets=Scale((3.0,), (2.0,))).metadata())
        Units(inputs=None, targets=Scale(mean=(3.0,), std=(2.0,)), pixels=None)
        """
        known = {"inputs": self.inputs, "targets": self.targets, "pixels": self.pixels}
        return {KEY: json.dumps({name: None if scale is None else scale.to_dict() for name, scale in known.items()})}

    def differing(self, other: Self) -> list[str]:
        """The names of what is in other units."""
        return [name for name in ("inputs", "targets", "pixels") if getattr(self, name) != getattr(other, name)]

    def for_loss(self, loss: Loss) -> Loss:
        """The loss with targets in these units.

        Raises:
            CheckpointError: it cannot have any.
        """
        if getattr(loss, "scale", None) == self.targets:
            return loss
        if not isinstance(loss, Supervised):
            raise CheckpointError(
                "these weights were trained on standardised targets, and loss=fn(model, batch) has targets as they "
                "are: give the loss as a criterion of (outputs, targets), or a name such as mse"
            )
        return replace(loss, scale=self.targets)

    def for_batching(self, batching: BatchSettings, dtype: torch.dtype | None) -> BatchSettings:
        """The settings with inputs in these units, and of the model's `dtype` where they say none.

        Images held as uint8 stay normalised in some way.
        """
        known, augment = batching.normalise, batching.augment
        if self.pixels is not None:
            drawn = augment.augment if isinstance(augment, ImageTransform) else None
            plain = ImageTransform(self.pixels.mean, self.pixels.std)
            return replace(batching, normalise=plain, augment=replace(plain, augment=drawn))
        if isinstance(known, ImageTransform) or getattr(known, "scale", None) == self.inputs:
            return batching
        dtype = known.dtype if isinstance(known, InputTransform) else dtype
        transform = InputTransform(dtype or torch.get_default_dtype(), self.inputs)
        return replace(batching, normalise=transform, augment=transform)


def retransformed(batches: Batches, transform: Any) -> Batches:
    """The same batches with another transform of their inputs."""
    plain = untransformed(batches)
    if isinstance(plain, TensorBatches | DatasetBatches):
        return replace(plain, transform=transform)
    return TransformedBatches(plain, transform) if isinstance(transform, InputTransform) else plain

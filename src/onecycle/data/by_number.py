"""Samples of batches by their number in an epoch that is not shuffled: how many there are, and some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from .batches import Batches, DatasetBatches, ListBatches, TensorBatches
from .shards import samples_in
from .standardise import TransformedBatches, untransformed


def samples_in_all(batches: Batches) -> int | None:
    """The number of samples of an epoch; None where it is not known without reading.

    >>> samples_in_all(TensorBatches((torch.zeros(5, 2),), 2))
    5
    """
    plain = untransformed(batches)
    if isinstance(plain, TensorBatches):
        return len(plain.tensors[0])
    if isinstance(plain, ListBatches):
        return sum(map(samples_in, plain.batches))
    data: Any = getattr(getattr(plain, "iterable", plain), "dataset", None)
    return len(data) if hasattr(data, "__len__") and not isinstance(data, IterableDataset) else None


def inputs_of(batches: Batches, numbers: Sequence[int]) -> Tensor | None:
    """The inputs of the samples with these numbers, as the data hold them; None where they cannot be asked for so.

    >>> inputs_of(TensorBatches((torch.arange(5), torch.zeros(5)), 2, shuffle=False), [3, 1])
    tensor([3, 1])
    """
    plain = untransformed(batches)
    if isinstance(plain, TensorBatches):
        return plain.tensors[0][torch.tensor(numbers, dtype=torch.int64, device=plain.tensors[0].device)]
    if not isinstance(plain, DatasetBatches):
        return None
    samples = [plain.dataset[i] for i in numbers]
    inputs = [sample[0] for sample in samples if isinstance(sample, tuple | list)]
    same = all(isinstance(one, Tensor) and one.shape == inputs[0].shape for one in inputs)
    return torch.stack(inputs) if inputs and same and len(inputs) == len(samples) else None


def as_seen(batches: Batches, inputs: Tensor) -> Tensor:
    """Inputs of `inputs_of` as the model sees them, after the transform of the batches."""
    plain = untransformed(batches)
    if getattr(plain, "transform", None) is not None:
        inputs = plain.transform((inputs,), torch.Generator(inputs.device))[0]  # type: ignore[union-attr]
    return batches.transform((inputs,))[0] if isinstance(batches, TransformedBatches) else inputs

"""What data are, as plain data: classes with counts, shapes, exact repetitions, and what was decided for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .label_sets import has_label_sets
from .splits import Data, Split, Stream, class_sizes

# Of more classes those with the most training samples are kept.
CLASSES = 100
# Of more samples, or more bytes, repetitions are not looked for: it would take about a second or longer.
SAMPLES, BYTES = 200_000, 2**28


def data_summary(data: Data) -> dict[str, Any]:
    """The samples of each split, the classes with their counts or the range of the targets, repetitions, and notes."""
    known = {"train": data.train, "valid": data.valid, "test": data.test}
    parts = {name: part for name, part in known.items() if part is not None}
    summary: dict[str, Any] = {
        "kind": data.kind,
        "shape": list(data.input_shape),
        "samples": {name: len(part) for name, part in parts.items()},
        "notes": list(data.notes),
    }
    if data.kind == "text":
        return {**summary, "characters": len(data.classes or ())}
    if data.classes is None:
        summary["targets"] = {name: _range(part.targets) for name, part in parts.items()}
    else:
        sizes = {name: class_sizes(part, data.classes).tolist() for name, part in parts.items()}
        order = sorted(range(len(data.classes)), key=lambda i: -sizes["train"][i])
        summary["classes"] = [
            {"name": data.classes[i], **{name: of_split[i] for name, of_split in sizes.items()}}
            for i in order[:CLASSES]
        ]
        summary["classes_left_out"] = max(0, len(order) - CLASSES)
        summary["label_sets"] = has_label_sets(data.train.targets, data.classes)
    return {**summary, "repeated": repetitions(parts)}


def _range(targets: Tensor) -> dict[str, float]:
    values = targets.double()
    return {"low": values.min().item(), "mean": values.mean().item(), "high": values.max().item()}


def repetitions(parts: Mapping[str, Split | Stream]) -> dict[str, Any]:
    """How many samples of each split have inputs that came before, equal in every byte, and other targets than then.

    Those of training came before in training, those of other splits in training too, or within their own; by split
    ``within``, ``in_train`` and ``other_target``. Or the ``reason`` why that is not known.

    >>> import torch
    >>> train = Split(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 1]))
    >>> repetitions({"train": train, "valid": Split(torch.tensor([[2.0], [3.0]]), torch.tensor([1, 0]))})
    {'train': {'within': 1, 'in_train': 0, 'other_target': 1}, 'valid': {'within': 0, 'in_train': 1, 'other_target': 0}}
    """
    whole = {name: part for name, part in parts.items() if isinstance(part, Split)}
    if len(whole) < len(parts):
        return {"reason": "the images are decoded as they are needed"}
    size = sum(part.inputs.numel() * part.inputs.element_size() for part in whole.values())
    if size > BYTES or sum(map(len, whole.values())) > SAMPLES:
        return {"reason": "there are too many to be compared in a second"}
    counts, train = dict[str, dict[str, int]](), dict[tuple[int, int], tuple[int, int]]()
    for name, part in whole.items():
        count, here = {"within": 0, "in_train": 0, "other_target": 0}, dict[tuple[int, int], tuple[int, int]]()
        for sample, target in zip(_hashes(part.inputs), _hashes(part.targets), strict=True):
            before = here.get(sample, None if name == "train" else train.get(sample))
            count["within"] += sample in here
            count["in_train"] += sample not in here and before is not None
            count["other_target"] += before is not None and before != target
            here.setdefault(sample, target)
        train = here if name == "train" else train
        counts[name] = count
    return counts


def _hashes(tensor: Tensor) -> list[tuple[int, int]]:
    """128 bits of each sample's bytes: two sums of its words of 64 bits, each times a random odd number."""
    rows = np.ascontiguousarray(tensor.numpy().reshape(len(tensor), -1)).view(np.uint8)
    words = -(-rows.shape[1] // 8)
    factors = np.random.default_rng(0).integers(2**64, size=(2, words), dtype=np.uint64) | np.uint64(1)
    at_a_time, sums = max(1, 2**22 // (8 * words)), list[tuple[int, int]]()
    for start in range(0, len(rows), at_a_time):
        part = rows[start : start + at_a_time]
        padded = np.zeros((len(part), 8 * words), np.uint8)
        padded[:, : part.shape[1]] = part
        mixed = padded.view(np.uint64)
        mixed ^= mixed >> np.uint64(29)  # so that the highest bits count for as much as the others
        sums += zip(*((mixed * factor).sum(1).tolist() for factor in factors), strict=True)
    return sums

"""Text as characters: one id per distinct character, windows of `context` characters, the targets one further on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError
from .splits import RawData, Split


def read_text(path: Path, *, context: int, valid_fraction: float, in_memory_bytes: int) -> RawData:
    """The last `valid_fraction` of the text is the validation split; the windows of a split do not overlap."""
    ids, classes = encode(_decoded(path), in_memory_bytes)
    train = len(ids) - int(len(ids) * valid_fraction + 0.5)
    parts = {"train": ids[:train], "valid": ids[train:]}
    for split, part in parts.items():
        if len(part) < context + 1:
            raise DataError(
                f"{path} has {len(ids)} characters, {len(part)} of them for the {split} split; one window needs "
                f"{context + 1}. Give more text or a smaller context."
            )
    note = f"validation: the last {100 * valid_fraction:g} % of the text"
    return RawData(
        "text", {split: windows(part, context) for split, part in parts.items()}, classes, str(path), (note,)
    )


def encode(text: str, in_memory_bytes: int) -> tuple[Tensor, tuple[str, ...]]:
    """The ids int64 [characters] and the distinct characters, sorted by code point: id i is the i-th of them."""
    import numpy as np

    if 8 * len(text) > in_memory_bytes:
        raise DataError(
            f"The text needs {8 * len(text) / 2**20:.0f} MiB as ids, more than in_memory_bytes = {in_memory_bytes}. "
            "Raise it or give a part of the text."
        )
    points, ids = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    return torch.from_numpy(ids.astype(np.int64)), tuple(map(chr, points.tolist()))


def windows(ids: Tensor, context: int) -> Split:
    """Non-overlapping windows: inputs and targets int64 [n, context], views of the same ids one apart.

    >>> windows(torch.arange(8), 3)
    Split(inputs=int64 [2, 3], targets=int64 [2, 3])
    """
    n = (len(ids) - 1) // context
    return Split(ids[: n * context].view(n, context), ids[1 : n * context + 1].view(n, context))


def _decoded(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded. Save it as UTF-8.") from error
    if not text.strip():
        raise DataError(f"{path} is empty. Give a file with text in it.")
    if len(set(text)) < 2:
        raise DataError(f"{path} has one distinct character only: {text[0]!r}. Give a file with text in it.")
    return text

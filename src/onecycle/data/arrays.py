"""Arrays in a ``.npz``, the embedded digits, and the conversion of arrays to the layout of a `Split`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .splits import TEST, Found, Split, cut, listed, numbered

CHANNELS = (1, 3, 4)
KEYS = {
    "train": (("x_train", "y_train"), ("x", "y")),
    "valid": (("x_valid", "y_valid"), ("x_val", "y_val")),
    "test": (("x_test", "y_test"),),
}


def read_digits() -> Found:
    """The 1,797 digits of the package, with a stratified 20 % as the test split, the same for every seed."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["x"], file["y"]
    scaled = ((images.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    classes = tuple("0123456789")
    whole = Split(torch.from_numpy(scaled[:, None]), torch.from_numpy(labels.astype(np.int64)))
    train, test = cut(whole, 0.2, (0, TEST), classes)
    note = "test: 20 % of the 1,797, stratified, always the same (the file has no split of its own)"
    return Found("image", {"train": train, "test": test}, classes, "the package", (note,))


def read_npz(path: Path) -> Found:
    """Keys x and y, or x_train, y_train and the same with valid and test; `classes`, when there, has the names.

    uint8 [n, h, w], [n, h, w, c] and [n, c, h, w] are images; all other numbers are float32 arrays. Labels are
    integers [n] or, for regression, floats [n, ...].
    """
    from .npz import ABOUT, from_arrays  # which is built on this module

    arrays = load_arrays(path)
    if ABOUT in arrays:
        return from_arrays(arrays)
    pairs = {split: pair for split, known in KEYS.items() for pair in known if pair[0] in arrays}
    if "train" not in pairs:
        raise DataError(
            f"{path} has the keys {listed(sorted(arrays)) or 'none'}. Needed are x and y, or x_train and y_train."
        )
    parts, kinds = {}, {}
    for split, (x, y) in pairs.items():
        if y not in arrays:
            raise DataError(f"{path} has {x} but no {y}. Its keys are {listed(sorted(arrays))}.")
        if arrays[x].ndim == 0 or arrays[y].ndim == 0 or len(arrays[x]) != len(arrays[y]):
            raise DataError(f"{path}: {x} is {_brief(arrays[x])} and {y} is {_brief(arrays[y])}. Both need n samples.")
        kinds[split], inputs = as_inputs(arrays[x], f"{path}: {x}")
        parts[split] = Split(inputs, as_targets(arrays[y], f"{path}: {y}"))
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"{path}: images (uint8) in some splits and not in others: {kinds}. Store all of them the same way."
        )
    return Found(kinds["train"], parts, _class_names(parts, arrays.get("classes"), path), str(path))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` by key, or of a ``.npy`` as ``x``; pickled objects are refused."""
    try:
        with open(path, "rb") as file:  # np.load leaves a file that it opened and cannot read open
            loaded = np.load(file, allow_pickle=False)
            return {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path} is not made of plain arrays: pickled objects can run code and are refused. Save arrays of one "
                "shape and a numeric dtype with np.savez."
            ) from error
        raise DataError(f"{path} cannot be read: {error}. Save it again with np.savez.") from error


def as_inputs(array: np.ndarray, name: str) -> tuple[str, Tensor]:
    """("image", uint8 [n, c, h, w]) of a uint8 array that looks like images, else ("array", float32 [n, ...])."""
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return "image", torch.from_numpy(np.ascontiguousarray(_channels_first(array, name)))
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name} has dtype {array.dtype}. Allowed are uint8 images and real numbers.")
    return "array", torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _channels_first(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    if array.shape[3] in CHANNELS:
        return array.transpose(0, 3, 1, 2)
    if array.shape[1] in CHANNELS:
        return array
    raise DataError(
        f"{name} is {_brief(array)}. Images are [n, h, w], [n, h, w, c] or [n, c, h, w] with c of 1, 3 or 4."
    )


def as_targets(array: np.ndarray, name: str) -> Tensor:
    """Float32 targets of a regression [n, ...], or int64 labels [n]."""
    if array.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if array.dtype.kind not in "iub" or array.size != len(array):
        raise DataError(
            f"{name} is {_brief(array)}. Labels are integers [n], targets of a regression floats [n, ...]; of one-hot "
            "labels take .argmax(1)."
        )
    return torch.from_numpy(array.reshape(-1).astype(np.int64))


def _class_names(parts: dict[str, Split], names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    floats = {split for split, part in parts.items() if part.targets.is_floating_point()}
    if floats and floats != set(parts):
        raise DataError(
            f"{path}: float targets in {listed(sorted(floats))} only. Use integers or floats in every split."
        )
    if floats:
        return None
    return tuple(map(str, names.tolist())) if names is not None else numbered(parts["train"].targets)


def _brief(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"

"""Arrays in a ``.npz``: a user's, the embedded digits, and data made in Python that `load` reads back to the bit."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..text import listed
from .splits import TEST, Data, RawData, Split, Stream, cut, numbered

CHANNELS = (1, 3, 4)
KEYS = {
    "train": (("x_train", "y_train"), ("x", "y")),
    "valid": (("x_valid", "y_valid"), ("x_val", "y_val")),
    "test": (("x_test", "y_test"),),
}
ABOUT = "onecycle"  # the key that tells data made in Python from a file of plain arrays
FORMS = (
    "a Data of onecycle.load, (inputs, targets), or {'train': (inputs, targets), 'valid': ..., 'test': ...}, of arrays "
    "or tensors"
)


def read_digits() -> RawData:
    """The 1,797 digits of the package, with a stratified 20 % as the test split, the same for every seed."""
    arrays = load_arrays(Path(__file__).with_name("digits.npz"))
    scaled = ((arrays["x"].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    classes = tuple("0123456789")
    whole = Split(torch.from_numpy(scaled[:, None]), as_targets(arrays["y"], "y"))
    train, test = cut(whole, 0.2, (0, TEST), classes)
    note = "test: 20 % of the 1,797, stratified, always the same (the file has no split of its own)"
    return RawData("image", {"train": train, "test": test}, classes, "the package", (note,))


def read_npz(path: Path) -> RawData:
    """Keys x and y, or x_train, y_train and the same with valid and test; `classes`, when there, has the names.

    uint8 [n, h, w], [n, h, w, c] and [n, c, h, w] are images; all other numbers are float32 arrays. Labels are
    integers or words [n] or, for regression, floats [n, ...].
    """
    arrays = load_arrays(path)
    if ABOUT in arrays:
        return _from_arrays(arrays)
    arrays = _with_numbers(arrays)
    pairs = {split: pair for split, known in KEYS.items() for pair in known if pair[0] in arrays}
    if "train" not in pairs:
        raise DataError(
            f"{path} has the keys {listed(sorted(arrays)) or 'none'}. Needed are x and y, or x_train and y_train."
        )
    kinds: dict[str, str] = {}
    parts: dict[str, Split | Stream] = {}
    for split, (x, y) in pairs.items():
        if y not in arrays:
            raise DataError(f"{path} has {x} but no {y}. Its keys are {listed(sorted(arrays))}.")
        kinds[split], parts[split] = _checked_split(arrays[x], arrays[y], str(path), x, y)
    return RawData(_one_kind(kinds, f"{path}: "), parts, _class_names(parts, arrays.get("classes"), path), str(path))


def _with_numbers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with labels that are words as numbers, and the words as the names of the classes."""
    words = {key: array for key, array in arrays.items() if key.startswith("y") and array.dtype.kind == "U"}
    if not words or any(key.startswith("y") and key not in words for key in arrays):
        return dict(arrays)
    names = np.unique(np.concatenate([array.ravel() for array in words.values()]))
    numbers = {key: np.searchsorted(names, array) for key, array in words.items()}
    return {**arrays, **numbers, "classes": names}


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


def array_of(raw: bytes, name: str) -> np.ndarray:
    """The array of real numbers in the bytes of a ``.npy``; pickled objects are refused.

    Raises:
        DataError: it is none, or its length is not that which its header tells: nothing is made before that is known.
    """
    form, stream = np.lib.format, io.BytesIO(raw)
    try:
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}[form.read_magic(stream)]
        shape, _, dtype = read(stream)
    except (ValueError, KeyError, TypeError, EOFError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"{name} is no .npy file that can be read. Make one with numpy.save.") from error
    if dtype.kind not in "fiub":
        raise DataError(f"{name} has dtype {dtype}. Allowed are uint8 images and real numbers.")
    there = len(raw) - stream.tell()
    if (needed := math.prod(shape) * dtype.itemsize) != there or min(shape, default=1) < 0:
        raise DataError(f"{name} holds {there:,} bytes, and its header tells of {needed:,}. Save it again, and whole.")
    return np.load(io.BytesIO(raw), allow_pickle=False)


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


def _checked_split(x: np.ndarray, y: np.ndarray, place: str, *names: str) -> tuple[str, Split]:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(f"{place}: {names[0]} is {_brief(x)} and {names[1]} is {_brief(y)}. Both need n samples.")
    kind, inputs = as_inputs(x, f"{place}: {names[0]}")
    return kind, Split(inputs, as_targets(y, f"{place}: {names[1]}"))


def _one_kind(kinds: Mapping[str, str], place: str = "") -> str:
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"{place}images (uint8) in some splits and not in others: {kinds}. Give all of them the same way."
        )
    return kinds["train"]


def _class_names(parts: Mapping[str, Split | Stream], names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
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


# Data made in Python


@dataclass(frozen=True)
class _About:
    """What is known of data beside their samples; mean and std are None where they are to be measured."""

    kind: str
    classes: tuple[str, ...] | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: tuple[str, ...] = ()
    origin: str = "Python"
    notes: tuple[str, ...] = ()


def to_arrays(data: Any) -> dict[str, np.ndarray]:
    """The arrays of a file that `load` reads back: the samples of each split by `KEYS`, and what else is known as JSON.

    A `Data` is kept as it is. Of other samples uint8 [n, h, w], [n, h, w, c] and [n, c, h, w] are images, float64
    becomes float32, and integer labels name the classes.

    Raises:
        DataError: data that are read batch by batch or image by image, or that are no arrays.
    """
    if isinstance(data, Data):
        parts = {name: part for name in KEYS if (part := getattr(data, name)) is not None}
        about = _About(data.kind, data.classes, data.mean, data.std, data.augment, data.origin, data.notes)
    else:
        parts, about = _in_splits(data if isinstance(data, Mapping) else {"train": data})
    arrays = {ABOUT: np.array(json.dumps(asdict(about)))}
    for name, part in parts.items():
        if isinstance(part, Stream):
            raise DataError(
                f"the {name} split is read image by image, too large for memory: give the name or path that it was "
                "loaded by, with limit and image_size as options"
            )
        (x, y), *_ = KEYS[name]
        arrays |= {x: part.inputs.numpy(force=True), y: part.targets.numpy(force=True)}
    return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> RawData:
    """What `to_arrays` was given."""
    known: dict[str, Any] = json.loads(str(arrays[ABOUT]))
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    about = _About(**known)
    parts: dict[str, Split | Stream] = {
        name: Split(torch.from_numpy(arrays[x]), torch.from_numpy(arrays[y]))
        for name, ((x, y), *_) in KEYS.items()
        if x in arrays
    }
    statistics = None if about.mean is None or about.std is None else (about.mean, about.std)
    return RawData(about.kind, parts, about.classes, about.origin, about.notes, about.augment, statistics)


def differing(arrays: Mapping[str, np.ndarray], path: Path) -> list[str]:
    """How the file at `path` differs from `arrays`: a line for each key, [] where it holds the same data."""
    if not path.exists():
        return [f"{path.name} is gone"]
    kept = load_arrays(path)
    lines = [line for name in {**kept, **arrays} if name != ABOUT and (line := _difference(kept, arrays, name))]
    before, now = (json.loads(str(each[ABOUT])) if ABOUT in each else {} for each in (kept, arrays))
    return lines + [
        f"{key}: {before.get(key)!r}, now {now[key]!r}"
        for key in ("kind", "classes", "mean", "std", "augment")
        if before.get(key) != now[key]
    ]


def _in_splits(given: Mapping[str, Any]) -> tuple[dict[str, Split | Stream], _About]:
    if "train" not in given or not set(given) <= set(KEYS):
        raise DataError(f"data are given as {FORMS}; received the splits {', '.join(map(repr, given)) or 'none'}")
    kinds, parts = {}, {}
    for name, pair in given.items():
        kinds[name], parts[name] = _split(pair, name)
    targets = parts["train"].targets
    return parts, _About(_one_kind(kinds), None if targets.is_floating_point() else numbered(targets))


def _split(pair: Any, name: str) -> tuple[str, Split]:
    if isinstance(pair, Split):
        pair = (pair.inputs, pair.targets)
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(hasattr(part, "shape") for part in pair):
        kinds = [type(part).__name__ for part in pair] if isinstance(pair, tuple | list) else [type(pair).__name__]
        raise DataError(
            f"each run reads the data anew, so give {FORMS}; received {', '.join(kinds) or 'nothing'} as {name}. Of a "
            "DataLoader or Dataset give all samples, stacked and without random augmentation: batch_size and augment "
            "are options"
        )
    x, y = (part.numpy(force=True) if isinstance(part, Tensor) else np.asarray(part) for part in pair)
    kind, split = _checked_split(x, y, name, "inputs", "targets")
    # Whole numbers may be tokens, which a model looks up.
    return kind, Split(torch.from_numpy(x.astype(np.int64)), split.targets) if x.dtype.kind == "i" else split


def _difference(kept: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], name: str) -> str | None:
    before, now = (_brief(arrays[name]) if name in arrays else "none" for arrays in (kept, given))
    if before != now:
        return f"{name}: {before}, now {now}"
    same = np.array_equal(kept[name], given[name], equal_nan=kept[name].dtype.kind == "f")
    return None if same else f"{name}: other values"

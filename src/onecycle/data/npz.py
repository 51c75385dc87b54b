"""Data made in Python as a ``.npz`` that `load` reads back to the bit: what runs elsewhere and later read them from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .arrays import KEYS, as_inputs, as_targets, load_arrays
from .splits import Data, Found, Split, Stream, numbered

# The key that tells such a file from one of plain arrays.
ABOUT = "onecycle"
FORMS = (
    "a Data of onecycle.load, (inputs, targets), or {'train': (inputs, targets), 'valid': ..., 'test': ...}, of arrays "
    "or tensors"
)


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
    """The arrays of the file: the samples of each split by `KEYS`, and what else is known, as JSON.

    A `Data` is kept as it is. Of other samples uint8 [n, h, w], [n, h, w, c] and [n, c, h, w] are images, float64
    becomes float32, and integer labels name the classes.

    Raises:
        DataError: data that are read batch by batch or image by image, or that are no arrays.
    """
    if isinstance(data, Data):
        parts = {name: part for name in KEYS if (part := getattr(data, name)) is not None}
        known = _About(data.kind, data.classes, data.mean, data.std, data.augment, data.origin, data.notes)
    else:
        parts, known = _plain(data if isinstance(data, Mapping) else {"train": data})
    arrays = {ABOUT: np.array(json.dumps(asdict(known)))}
    for name, part in parts.items():
        if isinstance(part, Stream):
            raise DataError(
                f"the {name} split is read image by image, too large for memory: give the name or path that it was "
                "loaded by, with limit and image_size as options"
            )
        (x, y), *_ = KEYS[name]
        arrays |= {x: part.inputs.numpy(force=True), y: part.targets.numpy(force=True)}
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Found:
    """What `to_arrays` was given."""
    known: dict[str, Any] = json.loads(str(arrays[ABOUT]))
    about = _About(**{key: _frozen(value) for key, value in known.items()})
    pairs = {name: pair for name, (pair, *_) in KEYS.items() if pair[0] in arrays}
    parts: dict[str, Split | Stream] = {
        name: Split(torch.from_numpy(arrays[x]), torch.from_numpy(arrays[y])) for name, (x, y) in pairs.items()
    }
    statistics = None if about.mean is None or about.std is None else (about.mean, about.std)
    return Found(about.kind, parts, about.classes, about.origin, about.notes, about.augment, statistics)


def differing(arrays: Mapping[str, np.ndarray], path: Path) -> list[str]:
    """In what the file at `path` holds other data."""
    if not path.exists():
        return [f"{path.name} is gone"]
    kept = load_arrays(path)
    found = [line for name in {**kept, **arrays} if name != ABOUT and (line := _difference(kept, arrays, name))]
    mine, its = (json.loads(str(known[ABOUT])) if ABOUT in known else {} for known in (kept, arrays))
    return found + [
        f"{key}: {mine.get(key)!r}, now {its[key]!r}"
        for key in ("kind", "classes", "mean", "std", "augment")
        if mine.get(key) != its[key]
    ]


def _plain(given: Mapping[str, Any]) -> tuple[dict[str, Split | Stream], _About]:
    if "train" not in given or not set(given) <= set(KEYS):
        raise DataError(f"data are given as {FORMS}; received the splits {', '.join(map(repr, given)) or 'none'}")
    kinds, parts = {}, {}
    for name, pair in given.items():
        kinds[name], parts[name] = _split(pair, name)
    if len(set(kinds.values())) > 1:
        raise DataError(f"images (uint8) in some splits and not in others: {kinds}. Give all of them the same way.")
    targets = parts["train"].targets
    return parts, _About(kinds["train"], None if targets.is_floating_point() else numbered(targets))


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
    x, y = (part.numpy(force=True) if isinstance(part, torch.Tensor) else np.asarray(part) for part in pair)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(f"{name}: inputs {list(x.shape)} and targets {list(y.shape)}: both need n samples.")
    if x.dtype.kind == "i":  # tokens, say, which a model looks up
        kind, inputs = "array", torch.from_numpy(x.astype(np.int64))
    else:
        kind, inputs = as_inputs(x, f"{name} inputs")
    return kind, Split(inputs, as_targets(y, f"{name} targets"))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _difference(kept: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], name: str) -> str | None:
    a, b = (f"{x[name].dtype} {list(x[name].shape)}" if name in x else "none" for x in (kept, given))
    if a != b:
        return f"{name}: {a}, now {b}"
    same = np.array_equal(kept[name], given[name], equal_nan=kept[name].dtype.kind == "f")
    return None if same else f"{name}: other values"

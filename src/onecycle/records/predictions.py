"""What a model predicts for the samples of a split, beside what is true; and where a run keeps it.

In the folder of a run, ``predictions/`` holds ``predictions.json``, for each split an ``.npz`` file of its outputs and
targets, and small pictures of the samples that are shown.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..text import count
from .files import Kind, sync_folder

PREDICTIONS = Kind("predictions/predictions.json", 1, "set of predictions", ("splits",), shared=True)
KINDS = ("classes", "labels", "numbers")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a model for n samples of a split, and their targets.

    | kind | outputs, float32 [n, k] | targets |
    | --- | --- | --- |
    | classes | log-probabilities of k classes | int64 [n] |
    | labels | logits of k labels, of which a sample may have several | float32 [n, k] of 0 and 1 |
    | numbers | k numbers, in the units of the targets | float32 [n, k] |

    Attributes:
        split: "valid", "test", or what else the samples are called.
        names: of the k classes, labels or numbers.
        numbers: int64 [n], the number of each sample in its split, from 0.
        samples: how many samples the split has.
        about: what is known of some samples, by their number in the split: see `onecycle.data.splits.Split`; those that
            are shown have a ``picture``, the name of a file, and perhaps a ``heat_map``, another.
        sentences: what there is to say of how they were made.
        importance: of the columns of a table, where it was measured: rows with ``column``, ``mean``, ``low``, ``high``.
        folder: where the pictures are.
    """

    split: str
    kind: str
    outputs: np.ndarray
    targets: np.ndarray
    names: tuple[str, ...]
    numbers: np.ndarray
    samples: int
    about: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    importance: tuple[Mapping[str, Any], ...] = ()
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        what = {"classes": "class", "labels": "label", "numbers": "number"}[self.kind]
        return f"Predictions({self.split}: {count(len(self), 'sample')}, {count(len(self.names), what)})"

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[n, k] of classes, or of each label by itself; of numbers there are none."""
        if self.kind == "classes":
            return np.exp(self.outputs.astype(np.float64))
        return 1 / (1 + np.exp(-self.outputs.astype(np.float64).clip(-700, 700)))

    def known_of(self, i: int) -> Mapping[str, Any]:
        """What is known of sample `i` of the predictions, at least its ``name``."""
        number = int(self.numbers[i])
        return self.about.get(number, {"name": f"sample {number + 1}"})

    @property
    def left_out(self) -> str:
        """How many samples are not looked at, in words; empty where all are."""
        left = self.samples - len(self)
        return f"{left:,} of {count(self.samples, 'sample')} are left out" if left else ""


def write_predictions(folder: str | Path, predictions: Predictions, pictures: Mapping[str, bytes]) -> None:
    """Write the predictions for a split into the folder of a run, with the `pictures` by the names of their files.

    Raises:
        CheckpointError: they cannot be written.
    """
    path = PREDICTIONS.path(folder)
    array = f"{predictions.split}.npz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, data in pictures.items():
            (path.parent / name).write_bytes(data)
        beside = path.parent / f".writing-{array}"
        with beside.open("wb") as file:
            np.savez(file, outputs=predictions.outputs, targets=predictions.targets, numbers=predictions.numbers)
        beside.replace(path.parent / array)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the predictions into {path.parent}: {error.strerror or error}. Free some space; the run "
            "itself is whole"
        ) from error
    splits = PREDICTIONS.read(folder)["splits"] if PREDICTIONS.exists(folder) else {}
    one = {
        "kind": predictions.kind,
        "names": predictions.names,
        "samples": predictions.samples,
        "sentences": predictions.sentences,
        "importance": predictions.importance,
        "about": {str(number): known for number, known in predictions.about.items()},
    }
    PREDICTIONS.write(folder, {"splits": {**splits, predictions.split: one}})


def read_predictions(folder: str | Path) -> dict[str, Predictions]:
    """The predictions that are recorded in the folder of a run, by split; empty where none are.

    Raises:
        CheckpointError: they are damaged, or another version of onecycle wrote them.
    """
    if not PREDICTIONS.exists(folder):
        return {}
    return {split: _read(folder, split, one) for split, one in PREDICTIONS.read(folder)["splits"].items()}


def _read(folder: str | Path, split: str, one: Mapping[str, Any]) -> Predictions:
    path = PREDICTIONS.path(folder).parent / f"{split}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            outputs, targets, numbers = arrays["outputs"], arrays["targets"], arrays["numbers"]
        about = {int(number): known for number, known in one["about"].items()}
        read = Predictions(
            split, one["kind"], outputs, targets, tuple(one["names"]), numbers, one["samples"], about,
            tuple(one["sentences"]), tuple(one["importance"]), path.parent,
        )  # fmt: skip
        _check(read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"the predictions in {path.parent} are damaged: {error}. Remove this folder, and they are made anew"
        ) from error
    return read


def _check(read: Predictions) -> None:
    n, k = read.outputs.shape
    shape = (n,) if read.kind == "classes" else (n, k)
    if read.kind not in KINDS or read.targets.shape != shape or read.numbers.shape != (n,) or len(read.names) != k:
        raise ValueError(f"outputs {read.outputs.shape} and targets {read.targets.shape} of {read.kind!r}")


def names_of(given: Sequence[str] | None, k: int) -> tuple[str, ...]:
    """Names of k outputs: those that are given, else their numbers.

    >>> names_of(None, 2), names_of(("cat", "dog"), 2)
    (('0', '1'), ('cat', 'dog'))
    """
    return tuple(given) if given is not None and len(given) == k else tuple(map(str, range(k)))

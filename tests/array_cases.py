"""Arrays as they may be, made at random with known contents, and what was read held against those."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from table_cases import outcome
from torch import Tensor, nn

from onecycle import Learner, OneCycleError, as_batches, load

HARD = ("negative", "beyond", "bool", "words", "one-hot", "column")
TARGETS = (*("whole",) * 4, "float", *("numbers",) * 3, "several numbers", *HARD)
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REAL = ("float16", "float32", "float64", ">f4", ">f8")


@dataclass
class Case:
    """Inputs and targets as plain arrays, and as they are given; `way` is how: "batches", "learner" or "file".

    `hard` says that these targets may be refused.
    """

    seed: int
    x: np.ndarray
    y: np.ndarray
    given: tuple[Any, Any]
    classes: int
    way: str
    hard: bool


def draw(seed: int) -> Case:
    """The arrays of a seed."""
    r = random.Random(seed)
    rng = np.random.default_rng(seed)
    n, classes = r.choice((9, 16, 40)), r.choice((2, 3))
    way = r.choice(("batches", "learner", "file"))
    shape = r.choice(((5,), (5,), (1,), (3, 4), (1, 6, 6), (3, 6, 6), (6, 6, 3)))
    kind = r.choice((*WHOLE, *REAL, *REAL, "bool" if way != "file" else "int8"))
    if kind in WHOLE:
        x = rng.integers(0, 100, (n, *shape)).astype(kind)
    elif kind == "bool":
        x = rng.random((n, *shape)) < 0.5
    else:
        x = (rng.normal(size=(n, *shape)) * 3).astype(kind)
    if kind != "bool":
        x.reshape(n, -1)[:, 0] = np.arange(n)  # every sample has a number of its own
    targets = r.choice(TARGETS)
    y = _targets(targets, r, rng, n, classes)
    wrap = _kept if way == "file" else _wrapped
    return Case(seed, x, y, (wrap(r, x), wrap(r, y)), classes, way, targets in HARD)


def _targets(kind: str, r: random.Random, rng: np.random.Generator, n: int, classes: int) -> np.ndarray:
    labels = np.arange(n) % classes
    rng.shuffle(labels)
    return {
        "whole": lambda: labels.astype(r.choice(WHOLE)),
        "negative": lambda: labels.astype(r.choice(WHOLE[:4])) - 1,
        "beyond": lambda: labels + 1,
        "float": lambda: labels.astype(r.choice(REAL)),
        "bool": lambda: labels == 0,
        "words": lambda: np.array(["cat", "dog", "owl"])[labels],
        "one-hot": lambda: np.eye(classes, dtype=r.choice(("int64", "float32", "uint8", "bool")))[labels],
        "column": lambda: labels[:, None],
        "numbers": lambda: rng.normal(size=n).astype(r.choice(REAL)),
        "several numbers": lambda: rng.normal(size=(n, classes)).astype(r.choice(REAL)),
    }[kind]()


def _kept(r: random.Random, values: np.ndarray) -> np.ndarray:
    """The same values in memory of another layout."""
    how = r.choice(("plain", "plain", "fortran", "every other", "backwards", "frozen", "transposed"))
    if how == "fortran":
        return np.asfortranarray(values)
    if how == "every other":
        return np.repeat(values, 2, 0)[::2]
    if how == "backwards":
        return values[::-1].copy()[::-1]
    if how == "transposed" and values.ndim > 1:
        return np.ascontiguousarray(values.swapaxes(0, -1)).swapaxes(0, -1)
    if how == "frozen":
        values = values.copy()
        values.setflags(write=False)
    return values


def _wrapped(r: random.Random, values: np.ndarray) -> Any:
    """The same values as arrays, tensors, frames, series or objects."""
    values = _kept(r, values)
    how = r.choice(("array", "array", "tensor", "frame", "object", "masked", "grad"))
    native = values.dtype.kind in "fiub" and values.dtype.isnative
    if how in ("tensor", "grad") and native:
        tensor = torch.from_numpy(values.copy())
        tensor = tensor.movedim(0, -1).contiguous().movedim(-1, 0) if r.random() < 0.3 else tensor
        return tensor.requires_grad_() if how == "grad" and tensor.is_floating_point() else tensor
    if how == "frame" and values.ndim <= 2 and values.dtype.isnative:
        values = values if values.flags.writeable else values.copy()
        made = pd.DataFrame(values) if values.ndim == 2 else pd.Series(values)
        made.index = made.index[::-1]
        if r.random() < 0.3 and not (values.dtype.kind == "f" and (values == np.floor(values)).all()):
            made = made.convert_dtypes()  # which makes whole numbers of floats that are
        return made
    if how == "object":
        return values.astype(object)
    return np.ma.masked_array(values) if how == "masked" else values


def check(case: Case, root: Path) -> str:
    """ "read" or "refused: WHY"; an AssertionError says how what was read differs from what is there."""
    try:
        x, y = {"batches": _by_batches, "learner": _by_learner, "file": _by_file}[case.way](case, root)
    except OneCycleError as error:
        return f"{'refused' if case.hard else 'fault: refused'}: {error}"
    _check_same(x, case.x, "inputs")
    words = case.y.dtype.kind == "U"
    _check_same(y, np.unique(case.y, return_inverse=True)[1] if words else case.y, "targets")
    return "read"


def _by_batches(case: Case, root: Path) -> tuple[Tensor, Tensor]:
    batches = list(as_batches(case.given, 4, shuffle=False).epoch(0))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def _by_learner(case: Case, root: Path) -> tuple[Tensor, Tensor]:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(case.x[0].size, case.classes if case.y.dtype.kind != "f" else case.y[0].size)
    )
    learn = Learner(model, case.given, batch_size=4, verbose=False, standardise=False)
    learn.fit("1 updates", "constant", 0.01)
    x, y = learn.train.tensors
    return x, y


def _by_file(case: Case, root: Path) -> tuple[Tensor, Tensor]:
    np.savez(root / "a.npz", x=case.given[0], y=case.given[1])
    data = load(root / "a.npz")
    x = torch.cat([data.train.inputs, data.valid.inputs])
    y = torch.cat([data.train.targets, data.valid.targets])
    order = x.reshape(len(x), -1)[:, 0].double().argsort()
    if case.y.dtype.kind == "U":
        names = np.array(data.classes)
        assert names[y[order].numpy()].tolist() == case.y.tolist(), "the names of the classes"
        return x[order], torch.from_numpy(np.unique(case.y, return_inverse=True)[1])
    return x[order], y[order]


def _check_same(read: Tensor, known: np.ndarray, what: str) -> None:
    """The values that were read are those that there are, rounded to their type at most."""
    values = read.detach()
    plain = values.double().numpy()
    if plain.shape != known.shape:  # images are [n, channels, height, width], one column may be none
        moved = known.transpose(0, 3, 1, 2) if known.ndim == 4 and known.shape[3] in (1, 3) else known
        assert plain.size == known.size, f"{what}: {list(plain.shape)}, expected {list(known.shape)}"
        known = moved.reshape(plain.shape)
    if values.is_floating_point():
        known = known.astype({2: np.float16, 4: np.float32, 8: np.float64}[values.element_size()])
    off = plain != known.astype(np.float64)
    assert not off.any(), f"{what}: {plain[off][0]}, expected {known[off][0]}"


def run(seed: int, root: Path) -> str:
    """What came of the case of a seed: "read", "refused: ..." or "fault: ..."."""
    return outcome(lambda: check(draw(seed), root))

"""Targets of several columns or labels a sample: cells such as cat;dog, and a column of 0 and 1 for each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..text import count, listed, number
from .table_columns import plain_column

MULTI_LABEL = "multi-label"
SEPARATORS = (";", "|", ",")  # within a cell of labels; where they are asked for, a space too
FEW = 20  # labels that there may be in any table, and a quarter of the rows
WORDS = {
    **dict.fromkeys(("1", "1.0", "yes", "y", "true"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "n", "false"), 0.0),
}
Targets = tuple[dict[str, Tensor], tuple[str, ...] | None, str]


def label_sets(words: Mapping[str, Sequence[str]], task: str | None) -> Targets | None:
    """Targets float32 [n, labels] of 0 and 1 by split, the labels, and a note; None where each cell is one class.

    Cells are taken apart at a separator that some of them have and others have not, where half of what they come apart
    into is in several cells (and, for commas, something is a cell by itself too); or where the task is "multi-label".
    """
    cells = {cell for each in words.values() for cell in each}
    asked = task == MULTI_LABEL
    separator = _separator(cells, asked)
    labels = sorted({part for cell in cells for part in _parts(cell, separator)})
    if not asked and (
        task is not None or separator is None or len(labels) > max(FEW, sum(map(len, words.values())) / 4)
    ):
        return None
    index = {label: i for i, label in enumerate(labels)}
    targets = {split: torch.zeros(len(each), len(labels)) for split, each in words.items()}
    for split, each in words.items():
        for row, cell in zip(targets[split], each, strict=True):
            row[[index[part] for part in _parts(cell, separator)]] = 1
    between = "" if separator is None else f", separated by {separator!r}"
    return (
        targets,
        tuple(labels),
        _note(targets, labels, between)
        + ("" if asked else "; for one class a cell give task='classification', --task classification"),
    )


def target_columns(columns: Mapping[str, Mapping[str, Any]], task: str | None) -> Targets:
    """Targets float32 [n, columns] of several columns by split, or int64 [n] where one of them is 1 in every row.

    Columns of 0 and 1 are labels, other numbers a regression of several outputs.

    Raises:
        DataError: columns that hold neither.
    """
    names = list(next(iter(columns.values())))
    values = {split: np.stack([_numbers(name, each[name]) for name in names], 1) for split, each in columns.items()}
    together = np.concatenate(list(values.values()))
    targets = {split: torch.from_numpy(each.astype(np.float32)) for split, each in values.items()}
    if task == "regression" or not np.isin(together, (0, 1)).all():
        if task in ("classification", MULTI_LABEL):
            odd = together[~np.isin(together, (0, 1))][0]
            raise DataError(
                f"the target columns hold {number(odd)}, and labels are 0 and 1: leave out task, or mend it."
            )
        note = (
            f"a regression of {count(len(names), 'numbers')}, from {number(together.min())} to {number(together.max())}"
        )
        return targets, None, note
    if task != MULTI_LABEL and bool((together.sum(1) == 1).all()):
        note = (
            f"a classification: 1 of {count(len(names), 'columns')} is 1 in every row; for labels by themselves give "
        )
        labels = {split: each.argmax(1) for split, each in targets.items()}
        return labels, tuple(names), note + f"task={MULTI_LABEL!r}, --task {MULTI_LABEL}"
    if task == "classification":
        raise DataError(f"{listed(names)} are several labels a row, not one class: give task={MULTI_LABEL!r}.")
    return targets, tuple(names), _note(targets, names, ", a column each")


def has_label_sets(targets: Tensor, classes: Sequence[str] | None) -> bool:
    """Whether targets are of 0 and 1 for each of the classes, of which a sample may have several."""
    return classes is not None and targets.ndim == 2 and targets.is_floating_point()


def _note(targets: Mapping[str, Tensor], labels: Sequence[str], how: str) -> str:
    mean = float(torch.cat(list(targets.values())).sum(1).mean())
    return f"several labels a sample{how}: {count(len(labels), 'label')}, {mean:.2g} of them in a sample on average"


def _separator(cells: Set[str], asked: bool) -> str | None:
    for separator in SEPARATORS + ((" ",) if asked else ()):
        combined = [cell for cell in cells if separator in cell]
        if combined and asked:
            return separator
        often = Counter(part for cell in cells for part in set(_parts(cell, separator)))
        parts = {part for cell in combined for part in _parts(cell, separator)}
        shared = sum(often[part] > 1 for part in parts)
        alone = cells & parts if separator == "," else len(combined) < len(cells)
        if combined and 2 * shared >= len(parts) and alone:
            return separator
    return None


def _parts(cell: str, separator: str | None) -> list[str]:
    parts = [cell] if separator is None else cell.split(separator)
    return [part.strip() for part in parts if part.strip()]


def _numbers(name: str, column: Any) -> np.ndarray:
    """Float64 [n] of numbers, truth values and words for such."""
    import pyarrow as pa

    column = plain_column(column)
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        if not np.isfinite(values).all():
            raise DataError(f"the target {name} has infinite values. Remove these rows.")
        return values
    words = column.cast(pa.string()).to_pylist()
    if strange := [word for word in words if str(word).lower() not in WORDS]:
        comma = "; where a comma is a decimal one, with task='regression'" if "," in str(strange[0]) else ""
        raise DataError(
            f"the target {name} holds {strange[0]!r}. Several columns are predicted where each holds 0 and 1 (yes, "
            f"no), or numbers{comma}. Give one target, or mend it."
        )
    return np.array([WORDS[word.lower()] for word in words])

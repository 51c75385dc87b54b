"""The outputs of a model by the names of its classes: columns of values, one for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..checks import whole
from ..errors import ConfigError
from ..text import count

LIKELY = 0.5  # the probability above which a label is said


class Names(Protocol):
    """What a model's outputs stand for."""

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def label_sets(self) -> bool: ...


def named(of: Names, outputs: Tensor, top_k: int) -> dict[str, list[Any]]:
    """Outputs [n, ...] as columns: the best classes, or the labels, and their probabilities; or the outputs."""
    if of.classes is None or outputs.ndim != 2:
        return {"output": outputs.tolist()}
    if of.label_sets:
        likely = [[of.classes[i] for i in row.nonzero().flatten().tolist()] for row in outputs > LIKELY]
        shares = {f"probability_{label}": share.tolist() for label, share in zip(of.classes, outputs.T, strict=True)}
        return {"labels": [";".join(labels) for labels in likely], **shares}
    best = outputs.topk(top_k, -1)
    columns: dict[str, list[Any]] = {}
    for rank, (labels, shares) in enumerate(zip(best.indices.T.tolist(), best.values.T.tolist(), strict=True), 1):
        end = "" if rank == 1 else f"_{rank}"
        columns |= {f"class{end}": [of.classes[label] for label in labels], f"probability{end}": shares}
    return columns


def check_named(of: Names, top_k: int) -> None:
    """Raise a ConfigError for a number of classes to name that `of` does not have, or names all of."""
    check_top(top_k, of.classes)
    if of.label_sets and top_k > 1:
        raise ConfigError(f"top_k = {top_k}: this run gives each sample several labels, and all of them are named")


def check_top(top_k: int, classes: Sequence[str] | None) -> None:
    """Raise a ConfigError for a number of classes to name that a run with these `classes` does not have."""
    whole("top_k", top_k, what="the number of classes to name for each sample")
    if classes is None and top_k > 1:
        raise ConfigError(f"top_k = {top_k}: this run has no classes to choose among. Leave it out")
    if classes is not None and top_k > len(classes):
        raise ConfigError(f"top_k = {top_k}: this run has {count(len(classes), 'class')}. Give at most that")

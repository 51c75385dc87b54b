"""Whether an exported model predicts what its run does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..text import number
from .graph import PredictionGraph
from .torch_export import Predict

SIZES = (1, 3, 16)
"""The samples of the batches that are compared."""
TOLERANCE = 1e-4
"""By how much predictions may differ, as a share of the largest of them."""


@dataclass(frozen=True)
class Agreement:
    """The largest absolute `difference` of exported predictions from those of a run, and the `largest` prediction."""

    difference: float
    largest: float

    def __str__(self) -> str:
        if not self.difference:
            return "the same predictions as the run"
        largest = f"of which the largest is {number(self.largest, 3)}"
        return f"predictions within {number(self.difference, 2)} of the run's, {largest}"


def agreement(graph: PredictionGraph, predict: Predict, tolerance: float = TOLERANCE) -> Agreement:
    """How far exported predictions are from those of the run, over batches of `SIZES`.

    Raises:
        ExportError: further than `tolerance` times the largest prediction, or the shapes are others.
    """
    worst, largest = 0.0, 0.0
    for seed, n in enumerate(SIZES):
        inputs = graph.samples(n, seed)
        expected, given = pytree.tree_leaves(graph.predicted(inputs)), pytree.tree_leaves(predict(*inputs))
        shapes = [[list(each.shape) for each in outputs] for outputs in (expected, given)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"for {n} samples the exported model gives {shapes[1]}, and the run's {shapes[0]}")
        worst = max(worst, *(_difference(*pair) for pair in zip(expected, given, strict=True)))
        largest = max(largest, *(float(each.double().abs().nan_to_num(0, 0, 0).max()) for each in expected))
    if not worst <= tolerance * largest:
        raise ExportError(
            f"the exported model predicts something else: its predictions differ by up to {number(worst)}, and may by "
            f"{number(tolerance * largest)}. Nothing was written; a larger tolerance=... lets it pass"
        )
    return Agreement(worst, largest)


def _difference(expected: Tensor, given: Tensor) -> float:
    """The largest absolute difference; infinite where only one of two is no number."""
    a, b = expected.double(), given.double()
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    return float(apart.nan_to_num(math.inf, math.inf).max()) if apart.numel() else 0.0

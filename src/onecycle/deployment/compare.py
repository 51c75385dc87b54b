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

    Each output is judged by itself, and of values [n, columns], which may be in other units, each column.

    Raises:
        ExportError: further than `tolerance` times the largest prediction, or the shapes are others.
    """
    pairs: list[tuple[list[Tensor], list[Tensor]]] = []
    for seed, n in enumerate(SIZES):
        inputs = graph.samples(n, seed)
        expected, given = pytree.tree_leaves(graph.predicted(inputs)), pytree.tree_leaves(predict(*inputs))
        shapes = [[list(each.shape) for each in outputs] for outputs in (expected, given)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"for {n} samples the exported model gives {shapes[1]}, and the run's {shapes[0]}")
        pairs.append((expected, given))
    apart, largest = [], []
    for i in range(len(pairs[0][0])):
        expected, given = (torch.cat([_columns(pair[which][i], graph) for pair in pairs]) for which in (0, 1))
        apart.append(_difference(expected, given))
        largest.append(expected.abs().nan_to_num(0, 0, 0).amax(0))
    for off, large in zip(apart, largest, strict=True):
        beyond = ~(off <= tolerance * large)
        if bool(beyond.any()):
            worst, allowed = (number(values[beyond].max().item()) for values in (off, tolerance * large))
            raise ExportError(
                f"the exported model predicts something else: its predictions differ by up to {worst}, and may by "
                f"{allowed}. Nothing was written; a larger tolerance=... lets it pass"
            )
    return Agreement(max(float(off.max()) for off in apart), max(float(large.max()) for large in largest))


def _columns(outputs: Tensor, graph: PredictionGraph) -> Tensor:
    """Outputs as float64 [n, columns], one column where they are no values of several targets."""
    several = outputs.ndim == 2 and not graph.probabilities
    return outputs.double() if several else outputs.double().reshape(-1, 1)


def _difference(expected: Tensor, given: Tensor) -> Tensor:
    """The largest absolute difference by column; infinite where only one of two is no number."""
    a, b = expected, given
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    return apart.nan_to_num(math.inf, math.inf).amax(0)

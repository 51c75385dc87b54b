"""The optimizer by default: Muon, where making its updates orthogonal costs little beside the model's own work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import nn

from ..text import count
from .muon import embedded_in, inner_matrices, weights_of
from .orthogonal import products_of_orthogonal

AUTO = "auto"
# What orthogonal updates may cost, as a share of the arithmetic of an update of the model: up to about there Muon is as
# good as AdamW in the same time or better (docs/log.md, "The default optimizer in equal time").
SHARE = 0.5
# The arithmetic, in floating-point operations, that takes as long as what an update takes besides: about half a
# millisecond of one core.
FIXED = 5e7


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer by name, or what else was asked for; the inner matrices that Muon leaves to AdamW; in words why."""

    optimizer: Any
    left: Sequence[nn.Parameter] = ()
    note: str = ""


def choose(model: nn.Module, positions: Mapping[nn.Parameter, float], samples: int) -> OptimizerChoice:
    """Muon for as many inner matrices as are cheap to make orthogonal, from the cheapest on; else "adamw" for all.

    So it is where these hold less than half of the inner weights, and where most weights are frozen: what was trained
    by other optimizers is not for Muon (Liu et al., 2502.16982, section 3.5).

    An update of `samples` samples takes 6 operations for each element of a weight at each position that it is applied
    to: 2 forward and 4 backward. By that, and never by the clock, the same model and batches have the same optimizer
    on every machine.

    Args:
        positions: of a sample, by weight: what a convolution is applied to is every pixel, a linear layer every token.
            Others are taken to be applied once, embeddings not at all. Where none of the inner matrices is among them
            nothing is known of the work, and Muon is for all.
        samples: of an update.

    >>> wide, narrow = (nn.Sequential(nn.Linear(64, n), nn.Linear(n, n), nn.Linear(n, 10)) for n in (512, 32))
    >>> [choose(model, dict.fromkeys(model.parameters(), 1.0), 64).optimizer for model in (wide, narrow)]
    ['adamw', 'muon']
    """
    inner, left, spent = inner_matrices(model), [], 0.0
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if 2 * frozen > sum(p.numel() for p in model.parameters()):
        about = f"{count(frozen, 'parameter')} are frozen, as of a pretrained model"
        return OptimizerChoice("adamw", note=f'optimizer "adamw": {about}; optimizer="muon" is the other')
    if not any(p in positions for p in inner):
        return OptimizerChoice("muon")
    embedded = embedded_in(model)
    applied = {p: max(positions.get(p, 0.0), float(id(p) not in embedded)) for p in weights_of(model)}
    allowed = SHARE * (FIXED + 6 * samples * sum(p.numel() * times for p, times in applied.items()))
    costs = {p: products_of_orthogonal(p.flatten(1).shape) for p in inner}
    for matrix, cost in sorted(costs.items(), key=itemgetter(1)):
        if spent + cost > allowed:
            left.append(matrix)
        else:
            spent += cost
    if not left:
        return OptimizerChoice("muon")
    weighs = [sum(p.numel() for p in matrices) for matrices in (left, inner)]
    about = f"at {count(samples, 'sample')} an update orthogonal updates would cost too much beside the model itself"
    if 2 * weighs[0] > weighs[1]:
        return OptimizerChoice("adamw", note=f'optimizer "adamw": {about}; optimizer="muon" makes them all the same')
    kept = f'optimizer "muon", with AdamW for {len(left)} of {count(len(inner), "matrices")}'
    return OptimizerChoice("muon", left, f"{kept}: {about} there")

"""What a regression is off by: its errors in all, their quantiles, and by the size of what is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records.predictions import Predictions
from ..records.statistics import student

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GROUPS = 5


@dataclass(frozen=True)
class ResidualGroup:
    """The samples predicted from `low` to `high`: how many, the mean of their residuals, and of their sizes."""

    low: float
    high: float
    n: int
    mean: float
    mae: float


@dataclass(frozen=True)
class Residuals:
    """The residuals of one number, prediction less target, in the units of the target.

    `mean` is their mean with Student's 95 % interval (low, high), `mae` the mean of their sizes, `rmse` the root of the
    mean of their squares, `r2` the share of the variance that is explained (None where the targets are constant), and
    `quantiles` those at `QUANTILES`. The `groups` are fifths of the samples by what is predicted: where predictions are
    right on the whole, each mean is near 0. By what is true it would not be: the largest values are predicted too small
    by every model that errs.
    """

    name: str
    n: int
    mean: tuple[float, float, float]
    mae: float
    rmse: float
    r2: float | None
    quantiles: tuple[float, ...]
    groups: tuple[ResidualGroup, ...]

    @classmethod
    def of(cls, predictions: Predictions) -> list[Residuals]:
        """Of each number that is predicted."""
        outputs, targets = predictions.outputs.astype(np.float64), predictions.targets.astype(np.float64)
        return [_of_one(name, outputs[:, i], targets[:, i]) for i, name in enumerate(predictions.names)]


def _of_one(name: str, predicted: np.ndarray, true: np.ndarray) -> Residuals:
    errors = predicted - true
    squares, spread = float(np.square(errors).sum()), float(np.square(true - true.mean()).sum())
    order = np.argsort(predicted, kind="stable")
    groups = [
        ResidualGroup(
            float(predicted[part[0]]), float(predicted[part[-1]]), len(part), float(errors[part].mean()),
            float(np.abs(errors[part]).mean()),
        )
        for part in np.array_split(order, GROUPS) if len(part)
    ]  # fmt: skip
    return Residuals(
        name, len(errors), student(errors), float(np.abs(errors).mean()), (squares / len(errors)) ** 0.5,
        1 - squares / spread if spread else None, tuple(np.quantile(errors, QUANTILES).tolist()), tuple(groups),
    )  # fmt: skip

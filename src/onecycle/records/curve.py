"""The curve of a learning rate range test: what was seen at which learning rate. Standard library only."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError

# Standard deviation of the smoothing kernel, in decades of learning rate.
BANDWIDTH = 0.12
# The scout's learning rate grows by this factor at every update.
SCOUT = 2.0


class LocalLine(NamedTuple):
    """A straight line fitted about a point: its value there, its slope a decade, and the slope's standard error."""

    value: float
    slope: float
    error: float


class Band(NamedTuple):
    """A quantity over learning rates: mean, lowest and highest of the repeats that got there, [n] each."""

    lr: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Sweep:
    """One run of rising learning rates: the training loss of each update, and what was measured in between.

    Args:
        lr, loss: of each update, [updates]; the loss is that of its mini-batch, before the update.
        valid_lr, valid_loss, valid_accuracy: held-out measurements, [measurements] each or empty; the learning rate is
            that of the update before.
        stopped: "end", "diverged" or "nan".
        updates: how many the sweep took; None where that is not recorded, as in a table of measurements.

    Raises:
        DataError: lengths that differ, learning rates that do not rise, or values that are not finite.
    """

    lr: tuple[float, ...]
    loss: tuple[float, ...] = ()
    valid_lr: tuple[float, ...] = ()
    valid_loss: tuple[float, ...] = ()
    valid_accuracy: tuple[float, ...] = ()
    stopped: str = "end"
    updates: int | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "loss", "valid_lr", "valid_loss", "valid_accuracy"):
            values = tuple(map(float, getattr(self, name)))
            object.__setattr__(self, name, values)
            if wrong := [value for value in values if not math.isfinite(value)]:
                raise DataError(f"the {name} of a sweep are finite numbers; received {wrong[0]}")
            rates = self.valid_lr if name.startswith("valid") else self.lr
            if values and len(values) != len(rates):
                raise DataError(f"a sweep has one {name} a learning rate: {len(rates)}; received {len(values)}")
        for rates in (self.lr, self.valid_lr):
            for a, b in pairwise((-math.inf, *rates)):
                if a >= b or b < 0:
                    raise DataError(f"the learning rates of a sweep rise, from 0 or above; received {b:g} after {a:g}")


@dataclass(frozen=True)
class Curve:
    """The sweeps of a range test, all over the same learning rates, and their means and bands.

    `scouted` is the learning rate at which the scout, which doubles it at every update, lost the loss.

    >>> curve = Curve((Sweep((0.1, 0.2), (3.0, 1.0)), Sweep((0.1, 0.2), (2.0, 1.0))))
    >>> curve.loss.mean, curve.loss.high
    ((2.5, 1.0), (3.0, 1.0))
    """

    sweeps: tuple[Sweep, ...]
    scouted: float | None = None

    @property
    def lr(self) -> tuple[float, ...]:
        """The learning rates of the sweep that got furthest, [n]."""
        return max((sweep.lr for sweep in self.sweeps), key=len, default=())

    @cached_property
    def loss(self) -> Band:
        """The training loss as it was measured."""
        return _band([dict(zip(s.lr, s.loss, strict=False)) for s in self.sweeps])

    @cached_property
    def smooth_loss(self) -> Band:
        """The training loss of each repeat, smoothed by lines fitted over the logarithm of the learning rate."""
        return _band([dict(zip(s.lr, smooth(s.lr, s.loss), strict=False)) for s in self.sweeps if s.loss])

    @cached_property
    def valid_loss(self) -> Band:
        """The held-out loss."""
        return _band([dict(zip(s.valid_lr, s.valid_loss, strict=False)) for s in self.sweeps])

    @cached_property
    def valid_accuracy(self) -> Band:
        """The held-out accuracy."""
        return _band([dict(zip(s.valid_lr, s.valid_accuracy, strict=False)) for s in self.sweeps])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` is its inverse."""
        sweeps = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(s).items()} for s in self.sweeps]
        return {"sweeps": sweeps, "scouted": self.scouted}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Curve:
        """From what `to_dict` returns.

        Raises:
            DataError: anything else.
        """
        known = {field.name for field in fields(Sweep)}
        try:
            sweeps = tuple(Sweep(**{k: v for k, v in sweep.items() if k in known}) for sweep in data["sweeps"])
            return cls(sweeps, data.get("scouted"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f'a curve is {{"sweeps": [{{"lr": [...], "loss": [...], ...}}]}}: {error}') from error

    @classmethod
    def from_csv(cls, path: str | Path) -> Curve:
        """A curve from a table with a column ``lr`` and any of ``train_loss``, ``test_loss``, ``test_accuracy``.

        A column ``iteration`` counts the updates, of which those from the first row to the last one are the sweep's;
        without one that number is not known.

        Rows without a learning rate, or that repeat or go back below one, are left out: so a log that goes on after the
        learning rate's peak is read up to the peak.

        Raises:
            DataError: no such table.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
            return cls((_sweep_of(rows),))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path} is no curve, a CSV file with the columns lr and test_accuracy: {error}") from error


def _sweep_of(rows: Sequence[Mapping[str, str]]) -> Sweep:
    if rows and "lr" not in rows[0]:
        raise ValueError(f"its columns are {', '.join(map(str, rows[0]))}")
    rising: list[Mapping[str, str]] = []
    for row in rows:
        if row["lr"] and float(row["lr"]) > (float(rising[-1]["lr"]) if rising else 0.0):
            rising.append(row)
    if not rising:
        raise ValueError("no row has a learning rate above 0")

    def column(name: str) -> tuple[float, ...]:
        if not rising[0].get(name):
            return ()
        if empty := [row["lr"] for row in rising if not row[name]]:
            raise ValueError(f"there is no {name} at the learning rate {empty[0]}")
        return tuple(float(row[name]) for row in rising)

    rates, iteration = column("lr"), rising[-1].get("iteration")
    begun = float(rising[0].get("iteration") or 0)
    measured = (rates, column("test_loss"), column("test_accuracy"))
    return Sweep(rates, column("train_loss"), *measured, updates=int(float(iteration) - begun) if iteration else None)


def fit(x: Sequence[float], y: Sequence[float], at: float, bandwidth: float = BANDWIDTH) -> LocalLine:
    """The line through the points (x, y) about `at`, weighted by a Gaussian kernel.

    Source: local linear regression, Cleveland 1979, doi 10.1080/01621459.1979.10481038; the standard error is that of
    weighted least squares with the residuals' own variance.

    >>> line = fit([0.0, 0.1, 0.2], [1.0, 1.2, 1.4], at=0.1)
    >>> round(line.value, 6), round(line.slope, 6), round(line.error, 6)
    (1.2, 2.0, 0.0)
    """
    near = [(a - at, b) for a, b in zip(x, y, strict=True) if abs(a - at) < 4 * bandwidth]
    weights = [math.exp(-0.5 * (a / bandwidth) ** 2) for a, _ in near]
    total = math.fsum(weights)
    if not total:
        return LocalLine(math.nan, math.nan, math.inf)
    mean_x = math.fsum(w * a for w, (a, _) in zip(weights, near, strict=True)) / total
    mean_y = math.fsum(w * b for w, (_, b) in zip(weights, near, strict=True)) / total
    spread = math.fsum(w * (a - mean_x) ** 2 for w, (a, _) in zip(weights, near, strict=True))
    if spread < 1e-12 * total:
        return LocalLine(mean_y, 0.0, math.inf)
    slope = math.fsum(w * (a - mean_x) * (b - mean_y) for w, (a, b) in zip(weights, near, strict=True)) / spread
    residuals = [b - mean_y - slope * (a - mean_x) for a, b in near]
    count = total**2 / math.fsum(w * w for w in weights)
    variance = math.fsum(w * r * r for w, r in zip(weights, residuals, strict=True)) / total
    leverage = math.fsum((w * (a - mean_x)) ** 2 for w, (a, _) in zip(weights, near, strict=True)) / spread**2
    error = math.sqrt(variance * leverage * count / (count - 2)) if count > 2 else math.inf
    return LocalLine(mean_y - slope * mean_x, slope, error)


def smooth(lr: Sequence[float], values: Sequence[float], bandwidth: float = BANDWIDTH) -> list[float]:
    """`values` [n] at the learning rates `lr` [n], smoothed over their logarithm; at a rate of 0 as they are."""
    x = [math.log10(rate) if rate > 0 else -math.inf for rate in lr]
    known = [(a, b) for a, b in zip(x, values, strict=True) if a > -math.inf]
    xs, ys = [a for a, _ in known], [b for _, b in known]
    return [fit(xs, ys, a, bandwidth).value if a > -math.inf else b for a, b in zip(x, values, strict=True)]


def _band(repeats: Sequence[Mapping[float, float]]) -> Band:
    rates = sorted({rate for repeat in repeats for rate in repeat})
    values = [[repeat[rate] for repeat in repeats if rate in repeat] for rate in rates]
    return Band(
        tuple(rates),
        tuple(math.fsum(v) / len(v) for v in values),
        tuple(map(min, values)),
        tuple(map(max, values)),
    )

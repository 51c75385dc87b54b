"""When a run is lost, what it goes back to, and at which learning rate it goes on.

A run is lost where its loss is not finite, or where it has unlearned: its training loss was clearly below that of
knowing nothing, and is back near it for a share of the run. Then it goes back to a good state that was kept before, but
not to an earlier position: the lost updates are spent, the order of the data and the draws go on, and so does the
schedule, with a part of its learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..optim.shared import local
from .sharded import summed

# Rescues of a run, at most.
MOST = 8
# After a rescue the largest learning rate to come is such a share of the one at which the run was lost, and not more
# than this share, nor less than the least one, of what it would have been; back to the same state again, the share's
# square, and so on.
SHARE, LEAST = 1 / 2, 1 / 8
# Losses are averaged over so many updates; how much the latest such block counts in the running mean and its share of
# high losses, and in the variance of a loss.
BLOCK, LATEST, SLOWLY = 10, 0.5, 0.2
# A run has learned where the running mean was so many standard deviations of a loss below that of knowing nothing.
# Where that is not known it is taken to be the first loss, and it takes twice as much, and such a share of it.
CLEARLY, HALF = 2.0, 0.5
# It has unlearned where such a share of that is gone, or is lost before it learned anything where the loss is such a
# multiple of that of knowing nothing: in most losses of such a share of the run, but at least in so many; and in so
# many where the length of the run is not known.
UNLEARNED, BLOWN = 0.75, 1.25
LASTING, SHORTEST, UNKNOWN = 1 / 20, 20, 100
# A good state is kept once in such a share of a run, and once in so many updates at most.
KEPT, SELDOM = 1 / 20, 50


@dataclass(frozen=True, slots=True)
class Rescue:
    """A lost run went back, before update `step` of it (from 0), to the state that it had after `back_to` updates.

    `loss` is what showed it: one that is not finite, or the running mean that rose again. From here on learning rates
    are `factor` times those of the policy.
    """

    step: int
    back_to: int
    loss: float
    factor: float

    @property
    def row(self) -> dict[str, float]:
        """As fields of an update's flat record."""
        return {f"rescue_{name}": value for name, value in self.to_dict().items() if name != "step"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data; without a loss that is not finite."""
        loss = {"loss": self.loss} if math.isfinite(self.loss) else {}
        return {"step": self.step, "back_to": self.back_to, **loss, "factor": self.factor}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rescue | None:
        """The rescue that an update's flat record tells of; None where there was none."""
        if "rescue_factor" not in row:
            return None
        loss = row.get("rescue_loss", math.nan)
        return cls(int(row["step"]), int(row["rescue_back_to"]), loss, row["rescue_factor"])

    def __str__(self) -> str:
        """In words.

        >>> print(Rescue(120, 100, math.nan, 0.5))
        rescued at update 120: the loss was not finite; back to the state after 100 updates, learning rates x 0.5
        """
        lost = "the loss was not finite"
        if math.isfinite(self.loss):
            lost = f"the training loss was back at {self.loss:.4g}, that of having learned little or nothing"
        back = f"the state after {self.back_to} updates" if self.back_to else "the state that it began with"
        return f"rescued at update {self.step}: {lost}; back to {back}, learning rates x {self.factor:.3g}"


@dataclass
class Watch:
    """How a run does, in plain numbers that are part of its state.

    `level` is the training loss of knowing nothing, where that is known. A run that is `judged` is lost where its
    losses are high for `lasting` updates, and a state is kept each `every`. `factor` is that of the learning rates, and
    `rescued` are the updates at which it was lost, the last `times` of which it went `back_to` the same state; `dead`
    says that its weights have no gradient. The rest is the running mean of the loss, and what it has come to.
    """

    level: float | None = None
    lasting: int = UNKNOWN
    every: int = SELDOM
    judged: bool = True
    factor: float = 1.0
    rescued: list[int] = field(default_factory=list)
    back_to: int | None = None
    times: int = 0
    losses: int = 0
    total: float = 0.0
    squares: float = 0.0
    high: int = 0
    first: float = 0.0
    mean: float = 0.0
    variance: float = 0.0
    lowest: float = math.inf
    noise: float = 0.0
    share: float = 0.0
    lost_for: int = 0
    limit: float = math.inf
    lr: float = 0.0
    dead: bool = False

    @classmethod
    def of_run(cls, updates: int | None, level: float | None, *, judged: bool = True) -> Watch:
        """Of a run that begins, of so many updates where that is known; where it is not `judged`, losses may rise."""
        if updates is None:
            return cls(level, judged=judged)
        every = max(SELDOM, round(KEPT * updates / BLOCK) * BLOCK)
        return cls(level, max(SHORTEST, round(LASTING * updates)), every, judged)

    def take(self, loss: float, lr: float) -> bool:
        """Take in the finite loss of the next update and its learning rate; whether the run is lost by now."""
        if not self.losses:
            self.first = loss
        self.losses += 1
        off = loss - self.mean
        self.total += loss
        self.squares += off * off
        self.high += loss > self.limit
        return self.losses % BLOCK == 0 and self._end_block(lr)

    def _end_block(self, lr: float) -> bool:
        mean, blocks = self.total / BLOCK, self.losses // BLOCK
        self.squares -= BLOCK * (mean - self.mean) ** 2  # they were taken about the mean of before
        latest, slowly = max(LATEST, 1 / blocks), max(SLOWLY, 1 / blocks)
        self.mean += latest * (mean - self.mean)
        self.variance += slowly * (self.squares / BLOCK - self.variance)
        self.share += latest * (self.high / BLOCK - self.share)
        if self.mean < self.lowest:
            self.lowest, self.noise = self.mean, math.sqrt(max(0.0, self.variance))
        lost = self.mean > self.limit and self.share > 1 / 2
        self.lr = lr if lost and not self.lost_for else self.lr
        self.lost_for = self.lost_for + BLOCK if lost else 0
        self.total, self.squares, self.high, self.limit = 0.0, 0.0, 0, self._limit()
        return self.lost_for >= self.lasting

    def _limit(self) -> float:
        """The loss above which the run is lost, if that lasts."""
        if not self.judged:
            return math.inf
        if self.has_learned:
            return self.lowest + UNLEARNED * self._fall
        return math.inf if self.level is None else max(self.first, BLOWN * abs(self.level))

    @property
    def _fall(self) -> float:
        """How far the running mean once was below the loss of knowing nothing."""
        return (self.first if self.level is None else self.level) - self.lowest

    @property
    def has_learned(self) -> bool:
        """Whether the running mean was clearly below the loss of knowing nothing."""
        if self.level is not None:
            return self._fall > CLEARLY * self.noise
        return self._fall > max(2 * CLEARLY * self.noise, HALF * abs(self.first))

    @property
    def is_well(self) -> bool:
        """Whether the running mean is about as low as it ever was."""
        return self.mean <= self.lowest + max(self.noise / 2, self._fall / 10)


@dataclass(frozen=True)
class Kept:
    """A good state that was kept after `step` updates of the run: what a rescue brings back.

    `proven` says that the losses after it were well too. `watch` is how the run did by then.
    """

    step: int
    proven: bool
    watch: Watch
    modules: list[dict[str, Any]]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    averages: dict[str, Tensor] | None


def can_keep(modules: Iterable[nn.Module]) -> bool:
    """Whether all weights and buffers have their shape by now."""
    return not any(is_lazy(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers()))


def is_dead(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether the gradient of at least half of the weights, [m, n, ...] each, is zero to the bit.

    So it is where units that do nothing, such as rectified ones that are never above 0, cut the loss off from the
    inputs: no learning rate brings them back.
    """
    gradients = [p.grad for p in parameters if p.ndim > 1 and p.grad is not None and not p.grad.is_sparse]
    if not gradients:
        return False
    norms = summed(torch.stack([local(gradient).abs().sum().float() for gradient in gradients]), gradients)
    return int((norms == 0).sum()) * 2 >= len(norms)


def smaller(lr: float, to_come: float, times: int = 1) -> float:
    """What learning rates are multiplied with, where the run was lost at `lr` and the largest to come is `to_come`.

    `times` counts rescues in a row that went back to the same state, this one too.

    >>> smaller(0.1, 0.1), smaller(0.1, 0.1, times=2), smaller(0.02, 0.05), smaller(0.01, 1.0)
    (0.5, 0.25, 0.2, 0.125)
    """
    share = SHARE**times
    return max(LEAST, min(share, share * lr / to_come)) if to_come > 0 else max(LEAST, share)

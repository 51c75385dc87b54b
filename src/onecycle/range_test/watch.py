"""Whether a training is lost: its loss has risen for good, or its net has died. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

# Losses before the newest ones that are needed to judge those, and how many of the newest have to agree: that it is
# above the start, or back there.
START, ABOVE, BACK = 6, 3, 4
# How far above the start is lost: so many times as far as the highest losses so far, one in `RARE` of them left out,
# and so many times the noise; and how much more noise where few losses tell it: 1 + FEW / losses.
FAR, CLEAR, FEW, RARE = 3.0, 4.0, 6.0, 24
# The share of a fall that is left where a loss is back.
LEFT = 0.1
# A gradient has vanished below the first share of its norm at the start, and is alive above the second.
VANISHED, ALIVE = 0.01, 0.1


class DivergenceWatch:
    """Tells that a training is lost, whatever the loss's scale and sign.

    It is lost where each of the newest losses is clearly above the start; where each is back there, once the loss had
    clearly fallen; or where the net has died: the gradients of half of its weights have vanished while others are
    alive, or while the loss has not clearly fallen. What is clear is told by the noise of all losses so far. A single
    loss is never enough, however large. A longer training has more chances to be unlucky, and more losses to know the
    noise from.

    >>> watch = DivergenceWatch()
    >>> [watch.diverged(loss) for loss in (2.3, 2.2, 2.3, 2.1, 2.2, 2.2, 2.1, 2.0, 3.5, 7.0, 9.0)][-3:]
    [False, False, True]
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.moved = False
        self._lowest = math.inf
        self._fell = False
        self._first: list[Sequence[float]] = []
        self._vanished: list[int] = []

    def diverged(self, loss: float, gradients: Sequence[float] = ()) -> bool:
        """Take in the next loss, a finite number, and the norms of the gradients that it came with, one a weight."""
        self.losses.append(loss)
        risen = self._risen()
        died = self._died(gradients)
        self.moved |= risen or died or self._fell
        return risen or died

    def _risen(self) -> bool:
        past, newest = self.losses[:-ABOVE], self.losses[-BACK:]
        n = len(past)
        if n < START:
            return False
        level = median(past[: max(START, n // 8)])
        noise = max(_noise(past), 1e-6 * max(1.0, abs(level)))
        clear = CLEAR * noise * (1 + FEW / n)
        early = sorted(past[: max(START, n // 2)])
        far = FAR * (early[-1 - len(early) // RARE] - level)
        lost = max(far, clear)
        self.moved |= newest[-1] > level + lost
        if min(newest[-ABOVE:]) > level + lost or min(newest[-2:]) > level + 2 * lost:
            return True
        width = max(5, n // 4)
        recent = median(self.losses[-width:])
        if level - recent > clear * (0.75 + 4 / width):  # the median of a few can be low by chance
            self._fell, self._lowest = True, min(self._lowest, recent)
        return self._fell and min(newest) > level - LEFT * (level - self._lowest)

    def _died(self, gradients: Sequence[float]) -> bool:
        if len(gradients) != len(self._vanished):  # the first ones; others than before begin anew
            self._first, self._vanished = [], [0] * len(gradients)
        if len(self._first) < START:
            self._first.append(gradients)
            return False
        usual = [median(norms) for norms in zip(*self._first, strict=True)]
        shares = [now / before if before > 0 else math.nan for now, before in zip(gradients, usual, strict=True)]
        known = zip(self._vanished, shares, strict=True)
        self._vanished = [times + 1 if share < VANISHED else 0 for times, share in known]
        shares = [share for share in shares if not math.isnan(share)]
        if not shares or 2 * sum(times >= ABOVE for times in self._vanished) < len(shares):
            return False
        return max(shares) > ALIVE or not self._fell


def _noise(losses: Sequence[float]) -> float:
    """The standard deviation of losses about their course, from their steps, the largest of which are left out."""
    steps = sorted(abs(b - a) for a, b in pairwise(losses))
    return fmean(steps[: len(steps) - len(steps) // 8])

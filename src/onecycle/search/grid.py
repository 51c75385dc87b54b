"""Which peak learning rates are tried for a policy: pure decisions, from the scores of the trials so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import TypeVar

# Between neighbours on a grid, at most.
RATIO = 2.0
# Rounds in which a grid may be extended: each gives every policy one more trial.
ROUNDS = 4

Key = TypeVar("Key", bound=Hashable)
Score = tuple[float, ...]
Trials = Mapping[float, Score | None]
"""By peak, what is to be large on validation data; None for a trial that failed."""


def grid(centre: float, n: int) -> list[float]:
    """Peaks about `centre`, from low to high, each twice the one before.

    >>> grid(0.1, 5)
    [0.025, 0.05, 0.1, 0.2, 0.4]
    """
    return [_rounded(centre * RATIO ** (i - (n - 1) / 2)) for i in range(n)]


def best(trials: Trials) -> float | None:
    """The peak with the highest score, of equals the lowest; None where all failed.

    >>> best({0.1: (0.8,), 0.2: (0.9,), 0.4: None})
    0.2
    """
    good = {lr: score for lr, score in trials.items() if score is not None}
    return min((lr for lr in good if good[lr] == max(good.values())), default=None)


def at_edge(trials: Trials) -> bool:
    """Whether a peak beyond those tried may be better.

    A failed trial is an edge as good as any: beyond the largest that trains there is none.

    >>> at_edge({0.1: (0.8,), 0.2: (0.9,)}), at_edge({0.1: (0.8,), 0.2: (0.9,), 0.4: None})
    (True, False)
    """
    chosen = best(trials)
    return chosen is None or chosen in (min(trials), max(trials))


def another(trials: Trials) -> float:
    """One more peak to try: beyond the edge if the best is there, else between the best and its better neighbour.

    >>> another({0.1: (0.8,), 0.2: (0.9,)}), another({0.1: None, 0.2: None})
    (0.4, 0.05)
    >>> another({0.1: (0.8,), 0.2: (0.9,), 0.4: (0.85,)})
    0.283
    """
    chosen, tried = best(trials), sorted(trials)
    if chosen is None or chosen == tried[0]:
        return _rounded(tried[0] / RATIO)
    if chosen == tried[-1]:
        return _rounded(chosen * RATIO)
    i = tried.index(chosen)
    return _rounded(math.sqrt(chosen * max(tried[i - 1], tried[i + 1], key=lambda lr: trials[lr] or (-math.inf,))))


def next_round(groups: Sequence[Trials], rounds: int) -> list[float] | None:
    """One more peak for each of the policies' trials, as long as one of them has its best at the edge of its grid.

    All get the same number of trials: those that need no wider grid get a finer one. None when all is decided.
    """
    if rounds >= ROUNDS or not any(map(at_edge, groups)):
        return None
    return [another(trials) for trials in groups]


def tuned(
    groups: Sequence[Sequence[Key]],
    centres: Mapping[Key, float],
    n: int,
    try_all: Callable[[Mapping[Key, list[float]]], Mapping[Key, Trials]],
) -> dict[Key, dict[float, Score | None]]:
    """The trials of each key, from a grid of `n` peaks about its centre on; those of a group get equally many.

    `try_all` makes the trial runs: it takes the peaks that are wanted for each key, and returns their scores.
    """
    trials: dict[Key, dict[float, Score | None]] = {key: {} for group in groups for key in group}
    wanted = {key: grid(centres[key], n) for key in trials}
    for rounds in count():
        for key, found in try_all(wanted).items():
            trials[key] |= found
        wanted = {}
        for group in groups:
            more = next_round([trials[key] for key in group], rounds)
            wanted |= {key: [lr] for key, lr in zip(group, more or [], strict=False)}
        if not wanted:
            break
    return trials


def _rounded(lr: float) -> float:
    """Three significant digits."""
    return float(f"{lr:.3g}")

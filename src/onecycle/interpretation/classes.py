"""What a classifier takes for what: the confusion matrix, and accuracy, precision, recall and F1 with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..records.predictions import Predictions
from ..records.statistics import wilson
from ..text import percent

LIKELY = 0.5  # the probability above which a label is said


@dataclass(frozen=True)
class CountedShare:
    """So many of `n`, as a share with its 95 % interval (Wilson's); of none there is no share.

    >>> print(CountedShare(9, 10), CountedShare(0, 0))
    90.0 % [59.6, 98.2] (9 of 10) none of 0
    """

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """From 0 to 1."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends: see `onecycle.records.statistics.wilson`."""
        return wilson(self.hits, self.n) if self.n else None

    def __str__(self) -> str:
        if self.value is None or self.interval is None:
            return "none of 0"
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        return f"{percent(self.value, 1)} [{low}, {high}] ({self.hits:,} of {self.n:,})"


@dataclass(frozen=True)
class ClassScores:
    """How one class, or one label, fares: `right` of `true` samples were found, in `predicted` that were said to be it.

    Precision is the share of what is said to be the class that is it, recall the share of the class that is found, F1
    their harmonic mean.
    """

    name: str
    right: int
    true: int
    predicted: int

    @property
    def precision(self) -> CountedShare:
        return CountedShare(self.right, self.predicted)

    @property
    def recall(self) -> CountedShare:
        return CountedShare(self.right, self.true)

    @property
    def f1(self) -> float | None:
        """2 right / (true + predicted); None where the class neither occurs nor is said.

        >>> ClassScores("cat", 6, 8, 7).f1
        0.8
        """
        both = self.true + self.predicted
        return 2 * self.right / both if both else None

    @property
    def f1_interval(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval of F1.

        F1 rises with the share J of right ones among all that are the class or said to be it, F1 = 2 J / (1 + J), so
        that Wilson's interval of J gives one of F1 with the same coverage, given how many those are.
        """
        union = self.true + self.predicted - self.right
        if not union:
            return None
        low, high = wilson(self.right, union)
        return 2 * low / (1 + low), 2 * high / (1 + high)

    @property
    def errors(self) -> int:
        """Those that were not found, and those that were wrongly said to be it."""
        return self.true + self.predicted - 2 * self.right


@dataclass(frozen=True)
class ConfusedPair:
    """`count` of the `of` samples of the class `true` are taken for `predicted`."""

    true: str
    predicted: str
    count: int
    of: int

    def __str__(self) -> str:
        """In words: ``cat taken for dog: 7 of 39 (17.9 %)``."""
        share = percent(self.count / self.of, 1)
        return f"{self.true} taken for {self.predicted}: {self.count:,} of {self.of:,} ({share})"


@dataclass(frozen=True, eq=False)
class Confusion:
    """The confusion matrix: `counts` int64 [k, k], where row i are the samples of class i and column j what is said.

    >>> confusion = Confusion(np.array([[3, 1], [0, 2]]), ("cat", "dog"))
    >>> print(confusion.accuracy)
    83.3 % [43.6, 97.0] (5 of 6)
    >>> print(*confusion.pairs())
    cat taken for dog: 1 of 4 (25.0 %)
    """

    counts: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, predictions: Predictions) -> Confusion:
        """Of predictions of classes."""
        k = len(predictions.names)
        said = predictions.outputs.argmax(1)
        counts = np.bincount(predictions.targets * k + said, minlength=k * k).reshape(k, k)
        return cls(counts, predictions.names)

    @property
    def accuracy(self) -> CountedShare:
        return CountedShare(int(self.counts.trace()), int(self.counts.sum()))

    def pairs(self, most: int | None = None) -> list[ConfusedPair]:
        """The pairs of classes that are confused, the most samples first; among as many, the larger share first."""
        true, said = np.nonzero(self.counts * (1 - np.eye(len(self.classes), dtype=np.int64)))
        sizes = self.counts.sum(1)
        made = [
            ConfusedPair(self.classes[i], self.classes[j], int(self.counts[i, j]), int(sizes[i]))
            for i, j in zip(true.tolist(), said.tolist(), strict=True)
        ]
        return sorted(made, key=lambda pair: (-pair.count, pair.of))[:most]

    @cached_property
    def by_class(self) -> list[ClassScores]:
        """The scores of each class, in their order."""
        rights, trues, saids = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        return [
            ClassScores(name, int(right), int(true), int(said))
            for name, right, true, said in zip(self.classes, rights, trues, saids, strict=True)
        ]

    def worst(self, most: int) -> Confusion:
        """The matrix of at most so many classes: those with the most errors, in their order."""
        errors = np.array([scores.errors for scores in self.by_class])
        kept = np.sort(np.argsort(-errors, kind="stable")[:most])
        return Confusion(self.counts[np.ix_(kept, kept)], tuple(self.classes[i] for i in kept))


def by_label(predictions: Predictions) -> list[ClassScores]:
    """The scores of each label by itself: it is said where its probability is above one half."""
    said, true = predictions.outputs > 0, predictions.targets > LIKELY
    counts = zip(
        predictions.names, (said & true).sum(0).tolist(), true.sum(0).tolist(), said.sum(0).tolist(), strict=True
    )
    return [ClassScores(*one) for one in counts]


def macro_f1(scores: Sequence[ClassScores]) -> float:
    """The mean of F1 over the classes that occur, NaN where none does.

    >>> macro_f1([ClassScores("cat", 2, 2, 2), ClassScores("dog", 0, 2, 0), ClassScores("cow", 0, 0, 1)])
    0.5
    """
    known = [one.f1 for one in scores if one.true and one.f1 is not None]
    return sum(known) / len(known) if known else float("nan")

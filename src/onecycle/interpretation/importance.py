"""What a model of a table goes by: how much worse it becomes where a column says nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..records.predictions import Predictions
from ..records.statistics import student
from ..text import count, listed
from .samples import losses

REPEATS = 5


@dataclass(frozen=True)
class ColumnImportance:
    """How much the mean loss rises where the values of `column` are shuffled among the samples.

    `mean` over the repeats, from `low` to `high` with 95 % confidence (Student's t over the repeats: the spread of the
    shuffling, not that of other samples or another training). The loss is the negative log-likelihood, or the absolute
    error in the units of the target. Below 0 it is chance: nothing is lost without the column.
    """

    column: str
    mean: float
    low: float
    high: float
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def permutation_importance(
    rows: np.ndarray,
    columns: Mapping[str, Sequence[int]],
    predicted: Callable[[np.ndarray], Predictions],
    repeats: int = REPEATS,
    seed: int = 0,
) -> list[ColumnImportance]:
    """The importance of each column of a table to a model, the most important first.

    Args:
        rows: [n, d], held out from training, as the model takes them.
        columns: which of the d each column of the table became; they are shuffled together.
        predicted: predictions for such rows, with their targets.
        repeats: how many times each column is shuffled; each is a pass over the rows.

    Columns that say the same share their importance, or hide each other's: what a model goes by is measured, and not
    what it could go by. Sources: Breiman, "Random Forests", 2001, section 10; held-out samples and any model: Fisher et
    al., "All Models are Wrong, but Many are Useful", 1801.01489, section 3.

    Raises:
        ConfigError: fewer than two samples, or two repeats.
    """
    if len(rows) < 2 or repeats < 2:
        raise ConfigError(
            f"importance needs two samples and two repeats or more; received {count(len(rows), 'sample')} and "
            f"{count(repeats, 'repeat')}"
        )
    before, rng, made = float(losses(predicted(rows)).mean()), np.random.default_rng(seed), []
    for name, places in columns.items():
        rises, shuffled = [], rows.copy()
        for _ in range(repeats):
            shuffled[:, list(places)] = rows[rng.permutation(len(rows))][:, list(places)]
            rises.append(float(losses(predicted(shuffled)).mean()) - before)
        made.append(ColumnImportance(name, *student(rises), repeats))
    return sorted(made, key=lambda one: -one.mean)


def places_of(columns: Any, width: int) -> dict[str, list[int]]:
    """Which numbers of a row each column of a table became: of `TableColumns`; of None, a column a number.

    >>> places_of(None, 2)
    {'0': [0], '1': [1]}
    """
    if columns is None:
        return {str(i): [i] for i in range(width)}
    flagged = [column for column in columns.numbers if column.flag]
    places: dict[str, list[int]] = {}
    for i, column in enumerate((*columns.numbers, *flagged, *columns.categories)):
        places.setdefault(column.name, []).append(i)
    return places


def importance_sentence(importance: Sequence[Mapping[str, Any]]) -> str:
    """The columns that the model goes by, and those without which nothing is lost.

    >>> importance_sentence([{"column": "age", "low": 0.1}, {"column": "deck", "low": -0.01}])
    'it goes by age; shuffling deck changes nothing that is clearly above chance'
    """
    used = [one["column"] for one in importance if one["low"] > 0]
    rest = [one["column"] for one in importance if one["low"] <= 0]
    said = [f"it goes by {listed(used, most=5)}"] if used else []
    said += [f"shuffling {listed(rest, most=5)} changes nothing that is clearly above chance"] if rest else []
    return "; ".join(said)

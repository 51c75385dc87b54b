"""Which samples to look at: the most wrong, the least sure, and those whose labels are likely to be errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..records.predictions import Predictions
from ..text import listed, number, percent
from .classes import LIKELY

SHOWN = 12  # of each kind, on a page
TOLD = 4  # numbers, or labels, of a sample


@dataclass(frozen=True)
class PredictedSample:
    """A sample with what is true and what is said of it.

    Attributes:
        index: of the sample among the predictions; `number` of it in its split, from 0.
        name: the file or the row that it was.
        true, said: in words.
        why: the number that it was chosen by, in words.
        text, row: of a text its beginning, of a table's row the cells by column.
        picture, heat_map: files of what it looks like, and of where the model looked, where they are recorded.
    """

    index: int
    number: int
    name: str
    true: str
    said: str
    why: str
    text: str | None = None
    row: dict[str, str] = field(default_factory=dict)
    picture: Path | None = None
    heat_map: Path | None = None

    @property
    def short_name(self) -> str:
        """The last two parts of a path, such as ``bees/1.jpg``; any other name as it is."""
        return "/".join(self.name.replace("\\", "/").split("/")[-2:])

    def __str__(self) -> str:
        about = f" [{self.text}]" if self.text else f" [{_cells(self.row)}]" if self.row else ""
        return f"{self.name}: {self.said}, and it is {self.true} ({self.why}){about}"


def losses(predictions: Predictions) -> np.ndarray:
    """How wrong each sample is, [n]: its negative log-likelihood, for labels their sum, or its error for numbers.

    The errors of several numbers are put together in units of their standard deviation, as the root of their squares'
    mean.
    """
    outputs, targets = predictions.outputs.astype(np.float64), predictions.targets
    if predictions.kind == "classes":
        return -outputs[np.arange(len(outputs)), targets]
    if predictions.kind == "labels":
        return (np.logaddexp(0, outputs) - outputs * targets).sum(1)
    errors = outputs - targets
    if errors.shape[1] == 1:
        return np.abs(errors[:, 0])
    spread = targets.astype(np.float64).std(0)
    return np.sqrt(np.square(errors / np.where(spread > 0, spread, 1.0)).mean(1))


def margins(predictions: Predictions) -> np.ndarray:
    """How sure the model is of each sample, [n]: how much more probable the first class is than the second.

    Of labels, how far the least sure is from one half, twice. Source: Scheffer et al., "Active Hidden Markov Models for
    Information Extraction", 2001.

    Raises:
        ConfigError: a regression, which does not say how sure it is.
    """
    if predictions.kind == "numbers":
        raise ConfigError("a regression does not say how sure it is: look at most_wrong, or at residuals")
    p = predictions.probabilities
    if predictions.kind == "labels":
        return 2 * np.abs(p - LIKELY).min(1)
    best = np.partition(p, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def most_wrong(predictions: Predictions, k: int = SHOWN) -> list[PredictedSample]:
    """The k samples with the largest loss, of classes and labels only those that are wrong, the worst first."""
    loss = losses(predictions)
    order = np.argsort(-loss, kind="stable")
    if predictions.kind == "classes":
        order = order[predictions.outputs.argmax(1)[order] != predictions.targets[order]]
    if predictions.kind == "labels":
        order = order[((predictions.outputs > 0) != (predictions.targets > LIKELY)).any(1)[order]]
    return [sample(predictions, i, _why(predictions, i, loss)) for i in order[:k].tolist()]


def least_sure(predictions: Predictions, k: int = SHOWN) -> list[PredictedSample]:
    """The k samples of the smallest margin, see `margins`."""
    margin = margins(predictions)
    order = np.argsort(margin, kind="stable")[:k].tolist()
    return [sample(predictions, i, f"a margin of {percent(float(margin[i]), 1)}") for i in order]


def label_errors(predictions: Predictions, k: int | None = None) -> list[PredictedSample]:
    """Samples whose label is likely to be wrong, the likeliest first; at most k of them.

    Confident learning: a sample is counted as another class where its probability of that is at least the mean that
    the samples with that class's label have, and higher than for all other classes of which that is so. They are ranked
    by how much more probable that class is than the label. Labels are taken each by itself.

    The predictions must be of samples that the model was not trained on: of its training data it has learned the wrong
    labels too, and finds too few.

    Sources: Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", 1911.00068, section 3;
    of labels by themselves: Thyagarajan et al., "Identifying Incorrect Annotations in Multi-Label Classification Data",
    2211.13895.

    Raises:
        ConfigError: a regression.
    """
    if predictions.kind == "numbers":
        raise ConfigError("label errors are found by classes or labels: of a regression look at most_wrong")
    p = predictions.probabilities
    if predictions.kind == "classes":
        gain, likely = _confident(p, predictions.targets)
        words = [f"{predictions.names[j]} is more likely by {percent(g, 0)}" for g, j in zip(gain, likely, strict=True)]
    else:
        given = (predictions.targets > LIKELY).astype(np.int64)
        each = [_confident(np.stack([1 - one, one], 1), label) for one, label in zip(p.T, given.T, strict=True)]
        gains = np.stack([gain for gain, _ in each], 1)
        gain, which = gains.max(1), gains.argmax(1)
        words = [
            f"{'no ' if given[i, j] else ''}{predictions.names[j]} is more likely by {percent(gain[i], 0)}"
            for i, j in enumerate(which.tolist())
        ]
    order = np.argsort(-gain, kind="stable")
    return [sample(predictions, i, words[i]) for i in order[gain[order] > 0][:k].tolist()]


def _confident(p: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much more probable another class is that a sample is counted as, 0 where there is none; and that class."""
    k = p.shape[1]
    sizes = np.bincount(given, minlength=k)
    own = np.bincount(given, p[np.arange(len(p)), given], minlength=k)
    threshold = np.where(sizes > 0, own / np.maximum(sizes, 1), np.inf)
    confident = np.where(p >= threshold, p, -1.0)
    likely = confident.argmax(1)
    other = (confident.max(1) > 0) & (likely != given)
    rows = np.arange(len(p))
    return np.where(other, np.maximum(p[rows, likely] - p[rows, given], 1e-12), 0.0), likely


def sample(predictions: Predictions, i: int, why: str = "") -> PredictedSample:
    """Sample `i` of the predictions."""
    known = predictions.known_of(i)
    files = {name: predictions.folder / known[name] for name in ("picture", "heat_map") if known.get(name)} if (
        predictions.folder
    ) else {}  # fmt: skip
    return PredictedSample(
        i, int(predictions.numbers[i]), str(known["name"]), _true(predictions, i), _said(predictions, i), why,
        known.get("text"), dict(known.get("row") or {}), **files,
    )  # fmt: skip


def _true(predictions: Predictions, i: int) -> str:
    target, names = predictions.targets[i], predictions.names
    if predictions.kind == "classes":
        return names[int(target)]
    if predictions.kind == "labels":
        return listed((name for name, there in zip(names, target > LIKELY, strict=True) if there), most=TOLD) or "none"
    return _numbers(target)


def _said(predictions: Predictions, i: int) -> str:
    if predictions.kind == "numbers":
        return _numbers(predictions.outputs[i])
    p, names = predictions.probabilities[i], predictions.names
    if predictions.kind == "classes":
        best = int(p.argmax())
        return f"{names[best]} ({percent(float(p[best]), 1)})"
    there = [f"{name} ({percent(float(one), 0)})" for name, one in zip(names, p, strict=True) if one > LIKELY]
    return listed(there, most=TOLD) or "none"


def _why(predictions: Predictions, i: int, loss: np.ndarray) -> str:
    if predictions.kind == "classes":
        share = float(predictions.probabilities[i, int(predictions.targets[i])])
        return f"{percent(share, 1)} for what is true" if share >= 0.0005 else "below 0.1 % for what is true"
    if predictions.kind == "labels":
        return f"a loss of {number(loss[i], 3)}"
    error = predictions.outputs[i] - predictions.targets[i]
    return f"off by {number(float(error[0]), 3)}" if len(error) == 1 else f"off by {number(loss[i], 3)} deviations"


def _numbers(values: Sequence[Any] | np.ndarray) -> str:
    return listed((number(float(value)) for value in values), most=TOLD)


def _cells(row: dict[str, str], most: int = 6) -> str:
    return listed((f"{name} {cell}" for name, cell in row.items()), ",", most)

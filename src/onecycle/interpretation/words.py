"""What there is to say about predictions, in sentences: the same on a page, in a terminal and in a notebook."""

from __future__ import annotations

from ..records.predictions import Predictions
from ..text import count, listed, number, percent
from .calibration import Calibration
from .classes import Confusion, by_label, macro_f1
from .residuals import Residuals
from .samples import label_errors

PAIRS = 3


def sentences_of(predictions: Predictions) -> list[str]:
    """The measure with its interval, what is confused, whether probabilities are what they say, and labels to check."""
    if predictions.kind == "numbers":
        return [_of_number(one) for one in Residuals.of(predictions)]
    if predictions.kind == "labels":
        scores = by_label(predictions)
        worst = [one for one in sorted(scores, key=lambda one: -one.errors) if one.errors][:PAIRS]
        said = [f"mean F1 of {count(len(scores), 'label')}: {percent(macro_f1(scores), 1)}"]
        said += [f"the most errors: {listed(f'{one.name} ({one.errors:,})' for one in worst)}"] if worst else []
    else:
        said = confusion_lines(Confusion.of(predictions), PAIRS)
    said.append(Calibration.of(predictions).sentence)
    errors = label_errors(predictions)
    if errors and predictions.split != "test":
        said.append(f"{count(len(errors), 'label')} of {len(predictions):,} may be wrong, by a model that errs itself")
    return said


def confusion_lines(confusion: Confusion, most: int) -> list[str]:
    """The accuracy with its interval, and so many of the pairs that are confused."""
    pairs = confusion.pairs()
    said = [f"accuracy {confusion.accuracy}", *map(str, pairs[:most])]
    errors = sum(pair.count for pair in pairs[most:])
    if errors:
        said[-1] += f"; {count(errors, 'error')} in {count(len(pairs) - most, 'other pair')} of classes"
    return said


def _of_number(one: Residuals) -> str:
    mean, low, high = one.mean
    side = "too much" if low > 0 else "too little" if high < 0 else ""
    tends = f"; on the whole {side} is predicted, by {number(abs(mean), 3)}" if side else ""
    q = [number(value, 3) for value in one.quantiles]
    return f"errors of {one.name}: half of them lie from {q[1]} to {q[3]}, nine in ten from {q[0]} to {q[4]}{tends}"

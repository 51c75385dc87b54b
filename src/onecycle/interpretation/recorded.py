"""Predictions with what is shown of them, into the folder of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.table_columns import TableColumns
from ..errors import ConfigError
from ..records.files import RUN
from ..records.predictions import Predictions, write_predictions
from .calibration import Calibration
from .looked import Looked
from .pictures import encoded, thumbnail, with_heat
from .samples import SHOWN, label_errors, least_sure, most_wrong

NAMED = 1000  # samples whose name is kept, beside those that are shown
ROWS = 1000  # of a table that its importance is measured on, for a page
# That takes at most so many seconds, and in a run by time such a share of them.
SECONDS, SHARE = 1.0, 0.02


def record(folder: Path, predictions: Predictions, looked: Looked | None = None, budget: float | None = None) -> None:
    """Write predictions into the folder of a run, with what is shown of them where they may be `looked` at.

    `budget` is that of a run by time, in seconds.

    The validation split gives the run its calibration too.

    Raises:
        CheckpointError: they cannot be written.
    """
    pictures: dict[str, bytes] = {}
    if looked is not None:
        predictions, pictures = shown(predictions, looked)
        predictions = _with_importance(predictions, looked, budget)
    write_predictions(folder, predictions, pictures)
    if predictions.split == "valid" and predictions.kind != "numbers":
        RUN.update(folder, calibration=Calibration.of(predictions).to_dict())


def shown_numbers(predictions: Predictions, k: int = SHOWN) -> list[int]:
    """The numbers of the samples that a page shows, in order."""
    chosen = [*most_wrong(predictions, k)]
    if predictions.kind != "numbers":
        chosen += [*least_sure(predictions, k), *label_errors(predictions, k)]
    return sorted({sample.number for sample in chosen})


def shown(predictions: Predictions, looked: Looked) -> tuple[Predictions, dict[str, bytes]]:
    """The predictions with what is known of samples, and the pictures and heat maps of those that are shown."""
    numbers, more = shown_numbers(predictions), most_wrong(predictions, NAMED)
    if predictions.kind != "numbers":
        more += label_errors(predictions, NAMED)
    about = {number: looked.about(number) for number in numbers}
    about |= {one.number: {"name": looked.about(one.number)["name"]} for one in more if one.number not in about}
    known, files, why = _pictures(predictions.split, numbers, asked_outputs(predictions, numbers), looked)
    about |= {number: {**about[number], **each} for number, each in known.items()}
    sentences = (*predictions.sentences, *([f"there are no heat maps: {why}"] if why else []))
    return replace(predictions, about=about, sentences=sentences), files


def seconds_to_record(looked: Looked, samples: int, budget: float) -> float:
    """About how long `record` takes in a run of so many seconds, by what the pictures of the first samples take."""
    begun = time.perf_counter()
    numbers = list(range(min(3 * SHOWN, samples)))
    _pictures("valid", numbers, [0] * len(numbers), looked)
    importance = seconds_for_importance(budget) if isinstance(looked.columns, TableColumns) else 0.0
    return time.perf_counter() - begun + importance


def seconds_for_importance(budget: float | None) -> float:
    """How long the importance of columns may take at the end of a run of so many seconds, where it is one by time."""
    return SECONDS if budget is None else min(SECONDS, SHARE * budget)


def _pictures(
    split: str, numbers: Sequence[int], asked: Sequence[int], looked: Looked
) -> tuple[dict[int, dict[str, str]], dict[str, bytes], str]:
    """The names of the pictures of samples with these numbers, the files, and why there are no heat maps, if so."""
    images = looked.images(numbers)
    if images is None:
        return {}, {}, ""
    heat, known, files = looked.heat_maps(images, asked), dict[int, dict[str, str]](), dict[str, bytes]()
    for i, number in enumerate(numbers):
        picture, known[number] = thumbnail(images[i]), {}
        drawn = {"picture": picture} | ({} if isinstance(heat, str) else {"heat_map": with_heat(picture, heat[i])})
        for what, one in drawn.items():
            end, data = encoded(one)
            known[number][what] = f"{split}-{number}{'' if what == 'picture' else '-heat'}{end}"
            files[known[number][what]] = data
    return known, files, heat if isinstance(heat, str) else ""


def asked_outputs(predictions: Predictions, numbers: Sequence[int]) -> list[int]:
    """The output of the model that speaks for what is said of each sample: see `heat_maps`."""
    if predictions.kind == "numbers":
        return [int(len(predictions.names) == 1)] * len(numbers)
    places = np.searchsorted(predictions.numbers, numbers)
    return predictions.outputs[places].argmax(1).tolist()


def _with_importance(predictions: Predictions, looked: Looked, budget: float | None) -> Predictions:
    if not isinstance(looked.columns, TableColumns):
        return predictions
    try:
        importance = looked.importance(predictions, most=ROWS, seconds=seconds_for_importance(budget))
    except ConfigError as error:
        return replace(predictions, sentences=(*predictions.sentences, str(error)))
    return replace(predictions, importance=tuple(one.to_dict() for one in importance))

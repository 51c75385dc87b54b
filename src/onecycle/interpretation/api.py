"""Looking into a result in Python and in a notebook: `Learner.interpret` and ``load_run(folder).interpret()``."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..records.predictions import Predictions
from ..text import count, html_table, listed
from .calibration import Calibration
from .classes import ClassScores, Confusion, by_label
from .importance import REPEATS, ColumnImportance
from .looked import Looked
from .recorded import asked_outputs, shown
from .residuals import Residuals
from .samples import SHOWN, PredictedSample, label_errors, least_sure, most_wrong
from .words import sentences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

CELLS = 12  # classes of a confusion matrix in a notebook


@dataclass(frozen=True, eq=False)
class Interpretation:
    """What a model does on the samples of a split.

    Attributes:
        predictions: what is predicted and what is true, as arrays.
        how: whether it was read from a run's folder or computed, in words.
    """

    predictions: Predictions
    how: str = ""
    look: Callable[[], Looked] | None = field(default=None, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, predictions: Predictions | str, looked: Looked, how: str) -> Interpretation:
        """Of predictions that were computed; a `ConfigError` where it is said why there are none."""
        if isinstance(predictions, str):
            raise ConfigError(f"this result cannot be looked into: {predictions}")
        known, files = shown(predictions, looked)
        return cls(known, how, lambda: looked, files)

    @cached_property
    def confusion(self) -> Confusion:
        """The confusion matrix.

        Raises:
            ConfigError: a sample has no class, or may have several labels.
        """
        if self.predictions.kind != "classes":
            raise ConfigError(
                f"a confusion matrix is of one class a sample, and here are {self.predictions.kind}: look at "
                + ("residuals" if self.predictions.kind == "numbers" else "by_class, which is by label")
            )
        return Confusion.of(self.predictions)

    @cached_property
    def by_class(self) -> list[ClassScores]:
        """Precision, recall and F1 of each class, or of each label by itself.

        Raises:
            ConfigError: a regression.
        """
        return by_label(self.predictions) if self.predictions.kind == "labels" else self.confusion.by_class

    @cached_property
    def calibration(self) -> Calibration:
        """How far probabilities are from what they say.

        Raises:
            ConfigError: a regression.
        """
        if self.predictions.kind == "numbers":
            raise ConfigError("a regression has no probabilities to be calibrated: look at residuals")
        return Calibration.of(self.predictions)

    @cached_property
    def residuals(self) -> list[Residuals]:
        """The errors of each number that is predicted.

        Raises:
            ConfigError: a classifier.
        """
        if self.predictions.kind != "numbers":
            raise ConfigError("residuals are of numbers: of a classifier look at confusion, by_class and calibration")
        return Residuals.of(self.predictions)

    def most_wrong(self, k: int = SHOWN) -> list[PredictedSample]:
        """The k samples with the largest loss, see `onecycle.interpretation.samples.most_wrong`."""
        return most_wrong(self.predictions, k)

    def least_sure(self, k: int = SHOWN) -> list[PredictedSample]:
        """The k samples of which the model is the least sure, see `onecycle.interpretation.samples.least_sure`."""
        return least_sure(self.predictions, k)

    def label_errors(self, k: int | None = None) -> list[PredictedSample]:
        """The samples whose label is likely to be wrong, see `onecycle.interpretation.samples.label_errors`.

        Of data that the model was trained on it finds too few.
        """
        return label_errors(self.predictions, k)

    def importance(self, repeats: int = REPEATS) -> list[ColumnImportance]:
        """What a model of a table goes by: see `onecycle.interpretation.importance.permutation_importance`.

        Raises:
            ConfigError: the samples are no rows of a table.
        """
        return self._looked().importance(self.predictions, repeats)

    def heat_map(self, number: int) -> np.ndarray:
        """Where the model looked in the image with this number, [h, w] in 0 to 1, for what it says that it is.

        See `onecycle.interpretation.heat_maps.heat_maps`.

        Raises:
            ConfigError: no such sample, no images, or a net without feature maps.
        """
        if number not in self.predictions.numbers:
            raise ConfigError(
                f"there is no sample {number}: they are numbered from 0 to {self.predictions.samples - 1}"
            )
        looked = self._looked()
        images = looked.images([number])
        made = "these samples are no images" if images is None else looked.heat_maps(
            images, asked_outputs(self.predictions, [number])
        )  # fmt: skip
        if isinstance(made, str):
            raise ConfigError(f"there is no heat map: {made}")
        return made[0].numpy()

    def plot(self) -> Drawing:
        """Draw how sure it is and how often it is right, or the errors of a regression; needs ``onecycle[plot]``."""
        from ..report.draw_predictions import predictions_drawing

        return predictions_drawing(self.predictions)

    def __str__(self) -> str:
        kept = self.predictions
        left = f", {kept.left_out}" if kept.left_out else ""
        worst = [f"most wrong: {one}" for one in self.most_wrong(3)]
        lines = [f"{kept.split}: {count(len(kept), 'sample')}{left}", *sentences_of(kept), *kept.sentences, *worst]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Interpretation({self.predictions!r}, {self.how})"

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in str(self).split("\n"))
        tables = ""
        if self.predictions.kind == "classes":
            worst = self.confusion.worst(CELLS)
            rows = [(name, *row) for name, row in zip(worst.classes, worst.counts.tolist(), strict=True)]
            left = len(self.confusion.classes) - len(worst.classes)
            title = "true by row, said by column" + (f"; {left} classes with fewer errors left out" if left else "")
            tables = html_table(rows, ("", *worst.classes), title)
        return f"<ul>{said}</ul>{tables}{''.join(map(self._drawn, self.most_wrong()))}"

    def _drawn(self, one: PredictedSample) -> str:
        """The picture of a sample and its heat map, with what is said of it; nothing where it has none."""
        known = self.predictions.about.get(one.number, {})
        drawn = [self._data(known[name]) for name in ("picture", "heat_map") if known.get(name)]
        if not drawn:
            return ""
        images = "".join(f'<img src="{data}" height="96" style="image-rendering: pixelated">' for data in drawn)
        said = html.escape(f"{one.said}, is {one.true}")
        return f'<figure style="display: inline-block; margin: 4px">{images}<figcaption>{said}</figcaption></figure>'

    def _data(self, name: str) -> str:
        folder = self.predictions.folder
        data = self.files[name] if name in self.files else (folder / name).read_bytes() if folder else b""
        kind = "png" if name.endswith("png") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    def _looked(self) -> Looked:
        if self.look is None:
            raise ConfigError("the model and the data are needed for that: learn.interpret(), or load_run(folder)")
        return self.look()


def split_of(recorded: Mapping[str, Predictions], split: str) -> Predictions:
    """The predictions for a split.

    Raises:
        ConfigError: there are none.
    """
    if split not in recorded:
        raise ConfigError(f"no predictions are recorded for {split!r}: there are some for {listed(recorded) or 'none'}")
    return recorded[split]

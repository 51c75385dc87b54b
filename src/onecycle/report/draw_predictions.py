"""Looking into a result on a page: what is confused, how sure the model is, what it goes by, and samples to look at."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import text
from ..errors import CheckpointError
from ..interpretation.calibration import Calibration
from ..interpretation.classes import ClassScores, Confusion, CountedShare, by_label
from ..interpretation.importance import importance_sentence
from ..interpretation.residuals import QUANTILES, Residuals
from ..interpretation.samples import SHOWN, PredictedSample, label_errors, least_sure, most_wrong
from ..interpretation.words import sentences_of
from ..records.predictions import Predictions, read_predictions
from ..records.read import RecordedRun
from .matplotlib import draw
from .spec import TRAIN, VALID, Figure, Key, Plots, Series
from .tables import GAP, Table, TableCell

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SPLITS = {"valid": "Validation", "test": "Test"}
CELLS = 12  # classes of a confusion matrix
ROWS = 200  # of a table of classes
POINTS = 1000  # of a figure of residuals
COLUMNS = 12  # of a table's rows that are shown
LINES = 5  # in a terminal
BYTES = 600_000  # of all pictures on a page


@dataclass(frozen=True)
class MatrixCell:
    """A number of samples, its share of the row (None in margins), and whether it is right."""

    count: int
    share: float | None = None
    right: bool = False


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix for a page: a row of cells for each class of `names`, and the heads of the `columns`."""

    caption: str
    names: list[str]
    columns: list[str]
    rows: list[list[MatrixCell]]


@dataclass(frozen=True)
class ShownSample:
    """A sample with what its picture and its heat map are drawn from, empty where there is none."""

    sample: PredictedSample
    picture: str = ""
    heat_map: str = ""


@dataclass(frozen=True)
class Gallery:
    """Samples under a title: with pictures as addresses, or rows of a table, or texts."""

    title: str
    note: str
    samples: list[ShownSample]
    table: Table | None = None


@dataclass
class _Pictures:
    """Pictures as addresses, as long as they fit on the page."""

    left: int = BYTES
    refused: int = 0
    seen: dict[Path, str] = field(default_factory=dict)

    def address(self, path: Path | None) -> str:
        if path is None:
            return ""
        if path not in self.seen:
            try:
                data = path.read_bytes()
            except OSError:
                data = b""
            address = f"data:image/{path.suffix[1:].replace('jpg', 'jpeg')};base64,{base64.b64encode(data).decode()}"
            self.seen[path] = address if data else ""
        fits = len(self.seen[path]) <= self.left  # each time that it is on the page it is in the file
        self.left -= len(self.seen[path]) if fits else 0
        self.refused += not fits or not self.seen[path]
        return self.seen[path] if fits else ""


def predictions_drawing(predictions: Predictions) -> Drawing:
    """Draw how sure a model is and how often it is right, or the errors of a regression.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    plots = Plots()
    made = draw_predictions(plots, predictions.split, predictions)
    figures = [plots.figures[i] for i in made["figures"]]
    return draw(plots, figures, title=made["said"][0], across=len(figures), common=False)


def predictions_text(folder: Path) -> list[str]:
    """The measure of a run's validation data, and what is confused most, in at most five lines.

    Nothing of a run that has kept no predictions, or damaged ones, which its page says.
    """
    try:
        kept = read_predictions(folder)
    except CheckpointError:
        return []
    split = next((split for split in ("valid", *kept) if split in kept), None)
    if split is None:
        return []
    return [f"{SPLITS.get(split, split).lower()}: {line}" for line in sentences_of(kept[split])[:LINES]]


def looked_into(plots: Plots, runs: Sequence[RecordedRun]) -> tuple[list[dict[str, Any]], list[str]]:
    """A section for each split whose predictions a run has kept, and what is wrong with them; of one run alone.

    Several runs have theirs on pages of their own.
    """
    if len(runs) != 1:
        return [], []
    try:
        kept = read_predictions(runs[0].folder)
    except CheckpointError as error:
        return [], [str(error)]
    return [draw_predictions(plots, split, kept[split]) for split in sorted(kept, key=lambda one: one == "test")], []


def draw_predictions(plots: Plots, split: str, predictions: Predictions) -> dict[str, Any]:
    """A section about the predictions for a split: what there is to say, figures, tables and samples."""
    made: dict[str, Any] = {
        "title": SPLITS.get(split, split),
        "said": [*sentences_of(predictions), *predictions.sentences],
        "matrix": None, "figures": [], "keys": [], "tables": [], "galleries": [],
    }  # fmt: skip
    if predictions.left_out:
        made["said"].append(predictions.left_out)
    if predictions.kind == "numbers":
        _add_residuals(made, plots, predictions)
    else:
        _add_classes(made, plots, predictions)
    if predictions.importance:
        made["tables"].append(importance_table(predictions))
        made["said"].append(importance_sentence(predictions.importance))
    if split != "test":
        made["galleries"], refused = _galleries(predictions)
        made["said"] += [f"{text.count(refused, 'picture')} left out, so that the page stays small"] * bool(refused)
    made["said"] = [sentence for sentence in made["said"] if sentence]
    return made


def matrix_of(confusion: Confusion, most: int = CELLS) -> Matrix:
    """The confusion matrix; of many classes that of those with the most errors, and what is said beside them."""
    k = len(confusion.classes)
    shown = confusion.worst(most) if k > most else confusion
    kept = [confusion.classes.index(name) for name in shown.classes]
    sizes = confusion.counts.sum(1)
    rows = []
    for at, i in enumerate(kept):
        size = int(sizes[i])
        row = [
            MatrixCell(int(n), float(n) / size if size else 0.0, j == at)
            for j, n in enumerate(shown.counts[at].tolist())
        ]
        others = [MatrixCell(size - int(shown.counts[at].sum()))] if k > most else []
        rows.append([*row, *others, MatrixCell(size)])
    caption = "A row a true class, a column what is said."
    if k > most:
        errors = sum(scores.errors for scores in confusion.by_class if scores.name not in shown.classes)
        caption += (
            f" The {most} of {k} classes with the most errors; {text.count(k - most, 'class')} with "
            f"{text.count(errors, 'error')} left out."
        )
    return Matrix(caption, list(shown.classes), [*shown.classes, *(["other"] if k > most else []), "all"], rows)


def classes_table(scores: Sequence[ClassScores], what: str = "class") -> Table:
    """Precision, recall and F1 of each class with 95 % intervals, the most errors first."""
    ordered = sorted(scores, key=lambda one: -one.errors)
    rows = [
        [
            TableCell(one.name), _count_cell(one.true), _count_cell(one.predicted), _share_cell(one.precision),
            _share_cell(one.recall), _f1_cell(one), _count_cell(one.errors),
        ]
        for one in ordered[:ROWS]
    ]  # fmt: skip
    left = len(ordered) - len(rows)
    note = "In brackets 95 % intervals (Wilson). Errors: not found, or wrongly said."
    note += f" {text.count(left, what)} with fewer errors left out." if left else ""
    return Table(f"By {what}", [what, "samples", "said", "precision", "recall", "F1", "errors"], rows, note)


def importance_table(predictions: Predictions) -> Table:
    """How much the loss rises where a column is shuffled, the most important first."""
    what = "the absolute error" if predictions.kind == "numbers" else "the loss"
    rows = [
        [
            TableCell(str(one["column"])), TableCell(text.number(one["mean"], 3), one["mean"]),
            TableCell(f"{text.number(one['low'], 2)} to {text.number(one['high'], 2)}", one["low"]),
        ]
        for one in predictions.importance
    ]  # fmt: skip
    repeats = predictions.importance[0]["repeats"]
    note = (
        f"By how much {what} of held-out rows rises where the column is shuffled, over {repeats} times. Columns that "
        "say the same share their importance."
    )
    return Table("Importance of columns", ["column", "rise", "95 % interval"], rows, note)


def residuals_table(residuals: Sequence[Residuals]) -> Table:
    """The errors of each number in all."""
    rows = []
    for one in residuals:
        mean, low, high = one.mean
        known = (one.mae, one.rmse, *([one.r2] if one.r2 is not None else []))
        cells = [TableCell(text.number(value, 3), value) for value in known] + [TableCell(GAP)] * (one.r2 is None)
        interval = TableCell(f"{text.number(mean, 2)} [{text.number(low, 2)}, {text.number(high, 2)}]", mean)
        cells += [interval, *(TableCell(text.number(value, 3), value) for value in one.quantiles)]
        rows.append([TableCell(one.name), *cells])
    columns = ["number", "MAE", "RMSE", "R²", "mean error", *(text.percent(q, 0) for q in QUANTILES)]
    return Table("Errors", columns, rows, "Prediction less target; in percent, the quantiles of these errors.")


def groups_table(one: Residuals) -> Table:
    """The errors by the size of what is predicted."""
    rows = [
        [
            TableCell(f"{text.number(group.low, 3)} to {text.number(group.high, 3)}", group.low),
            *(TableCell(text.number(value, 3), value) for value in (group.n, group.mean, group.mae)),
        ]
        for group in one.groups
    ]
    return Table(f"Errors of {one.name} by what is predicted", ["predicted", "samples", "mean error", "MAE"], rows)


def _add_classes(made: dict[str, Any], plots: Plots, predictions: Predictions) -> None:
    if predictions.kind == "classes":
        confusion = Confusion.of(predictions)
        made["matrix"] = matrix_of(confusion)
        made["tables"].append(classes_table(confusion.by_class))
    else:
        made["tables"].append(classes_table(by_label(predictions), "label"))
    bins = Calibration.of(predictions).bins
    ideal, measured = plots.key(Key("as it says", VALID, "dash")), plots.key(Key("measured", TRAIN))
    ends = [one.right.interval or (0.0, 1.0) for one in bins]
    series = [
        Series(ideal, [10.0 * i for i in range(11)], [i / 10 for i in range(11)]),
        Series(
            measured, [100 * one.confidence for one in bins], [one.right.value for one in bins],
            [low for low, _ in ends], [high for _, high in ends], mode="intervals", bound=[0] * len(bins),
            text=[f"{one.right}, confidence {text.percent(one.confidence, 1)}" for one in bins],
        ),
    ]  # fmt: skip
    said = (
        "Samples by how probable the model finds what it says; the share that is right, with 95 % intervals (Wilson)."
    )
    about = "How sure it is, and how often it is right", said, "confidence in %", "right", "linear"
    made["figures"].append(plots.figure(Figure(*about, series, percent=True, frame=(-0.03, 1.05))))
    made["keys"] += [ideal, measured]


def _add_residuals(made: dict[str, Any], plots: Plots, predictions: Predictions) -> None:
    residuals = Residuals.of(predictions)
    made["tables"] += [residuals_table(residuals), *map(groups_table, residuals[:3])]
    chosen = np.unique(np.linspace(0, len(predictions) - 1, POINTS).astype(np.int64))
    for i, one in enumerate(residuals[:3]):
        key = plots.key(Key("a sample", TRAIN))
        x, errors = predictions.outputs[chosen, i], predictions.outputs[chosen, i] - predictions.targets[chosen, i]
        points = Series(key, [float(v) for v in x], [float(v) for v in errors], mode="markers")
        part = (
            f"{len(chosen):,} of {text.count(len(predictions), 'sample')}. " if len(chosen) < len(predictions) else ""
        )
        said = f"{part}Above 0 too much was predicted, below too little."
        about = f"Errors of {one.name}" if len(residuals) > 1 else "Errors", said, "predicted", "error", "linear"
        made["figures"].append(plots.figure(Figure(*about, [points], named=True, level=0.0)))


def _galleries(predictions: Predictions) -> tuple[list[Gallery], int]:
    """What to look at, and how many pictures are left out."""
    pictures = _Pictures()
    numbers = predictions.kind == "numbers"
    kinds = [
        (
            "The most wrong",
            "The largest errors." if numbers else "Those with the least probability for what is true.",
            most_wrong(predictions, 12),
        )
    ]
    if not numbers:
        kinds += [
            ("The least sure", "The smallest margins between the two most probable answers.", least_sure(predictions)),
            (
                "Labels that may be wrong",
                "By confident learning (Northcutt et al., 1911.00068): the model, which was not trained on them, is as "
                "sure of another class as it is of that class's own samples. Mend those labels that are wrong.",
                label_errors(predictions, SHOWN),
            ),
        ]  # fmt: skip
    made, above = [], set[int]()
    for title, note, samples in kinds:
        new = [one for one in samples if one.index not in above]
        if again := len(samples) - len(new):
            note += f" {text.count(again, 'sample')} of these {'is' if again == 1 else 'are'} shown above."
        above |= {one.index for one in new}
        shown = [ShownSample(one, pictures.address(one.picture), pictures.address(one.heat_map)) for one in new]
        if samples:
            table = rows_table(title, new) if any(one.row for one in new) else None
            made.append(Gallery(title, note, shown, table))
    return made, pictures.refused


def rows_table(title: str, samples: Sequence[PredictedSample]) -> Table:
    """Samples that are rows of a table, with their cells."""
    names = list(dict.fromkeys(name for one in samples for name in one.row))
    rows = [
        [TableCell(one.name), TableCell(one.true), TableCell(one.said), TableCell(one.why)]
        + [_plain_cell(one.row.get(name, "")) for name in names[:COLUMNS]]
        for one in samples
    ]
    left = len(names) - COLUMNS
    note = f"{text.count(left, 'column')} left out." if left > 0 else ""
    return Table(title, ["row", "true", "said", "why", *names[:COLUMNS]], rows, note)


def _plain_cell(cell: str) -> TableCell:
    try:
        return TableCell(cell, float(cell))
    except ValueError:
        return TableCell(cell or GAP)


def _count_cell(n: int) -> TableCell:
    return TableCell(f"{n:,}", n)


def _share_cell(share: CountedShare) -> TableCell:
    if share.value is None or share.interval is None:
        return TableCell(GAP)
    return _with_interval(share.value, share.interval)


def _f1_cell(one: ClassScores) -> TableCell:
    return TableCell(GAP) if one.f1 is None or one.f1_interval is None else _with_interval(one.f1, one.f1_interval)


def _with_interval(value: float, ends: tuple[float, float]) -> TableCell:
    low, high = (f"{100 * end:.0f}" for end in ends)
    return TableCell(f"{100 * value:.1f} % [{low}, {high}]", value)

"""The summaries of a run's model and data on its page, from ``summary.json`` in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import text
from ..errors import CheckpointError
from ..records.files import SUMMARY
from ..records.read import RecordedRun, items, number, part
from .tables import GAP, Table, TableCell

FORMS = {
    "image": "images, each {shape}",
    "table": "rows, each of {shape} columns",
    "texts": "texts, of each the first {shape} tokens",
}
SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def summaries(runs: Sequence[RecordedRun]) -> tuple[list[dict[str, Any]], list[str]]:
    """A section on the model and one on the data of a run, and what is wrong with their record; of one run alone.

    Several runs have theirs on pages of their own, and runs of earlier versions have none.
    """
    if len(runs) != 1 or not SUMMARY.exists(runs[0].folder):
        return [], []
    try:
        record = SUMMARY.read(runs[0].folder)
        made = [_model(part(record, "model")), _data(part(record, "data"))]
    except CheckpointError as error:
        return [], [str(error)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [], [f"{SUMMARY.file} is damaged, so that model and data are not summed up: {error}"]
    return [one for one in made if one], []


def _model(known: Mapping[str, Any]) -> dict[str, Any] | None:
    if not known:
        return None
    trained, parameters = number(known.get("trained")), known["parameters"]
    said = text.count(parameters, "parameter")
    said += f", {trained:,} of them trained" if trained is not None and trained != parameters else ""
    if flops := number(known.get("flops")):
        said += f"; {flops_text(flops)} FLOPs for a sample: two for each multiplication with a weight, forward alone"
    lines = [f"{said}."]
    if reason := known.get("reason"):
        lines.append(f"Its layers are not known: {reason}.")
    rows, cut = [_layer(row) for row in items(known, "layers")], number(known.get("left_out"))
    if cut:
        at = int(known["left_out_after"])
        rows.insert(at, [TableCell(f"… {text.count(cut, 'layer')} left out"), *[TableCell(GAP)] * 4])
    others = number(known.get("others"))
    note = "In the order in which they are run."
    if others:
        keep = "keep" if others > 1 else "keeps"
        note += f" {text.count(others, 'module')} without parameters that {keep} the shape left out."
    heads = ["layer", "kind", "output", "parameters", "FLOPs"]
    return {"title": "Model", "said": lines, "table": Table("Layers", heads, rows, note) if rows else None, "notes": []}


def _layer(row: Mapping[str, Any]) -> list[TableCell]:
    shape, flops = row["shape"], row["flops"]
    return [
        TableCell(row["name"] or "the model"), TableCell(row["kind"]),
        TableCell(GAP if shape is None else " x ".join(map(str, shape)) or "1"),
        TableCell(f"{row['parameters']:,}", row["parameters"]),
        TableCell(flops_text(flops), flops) if flops else TableCell(GAP),
    ]  # fmt: skip


def flops_text(flops: float) -> str:
    """Floating-point operations in short.

    >>> flops_text(1_234_000), flops_text(980)
    ('1.23 M', '980')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.0f}"


def _data(known: Mapping[str, Any]) -> dict[str, Any] | None:
    if not known:
        return None
    samples = part(known, "samples")
    sizes = text.listed(f"{size:,} {SPLITS.get(name, name)}" for name, size in samples.items())
    shape = " x ".join(map(str, items(known, "shape")))
    form = FORMS.get(known["kind"], f"samples of kind {known['kind']}, each {{shape}}")
    lines = [f"{sizes} {form.format(shape=shape)}."]
    if characters := number(known.get("characters")):
        lines.append(f"{text.count(characters, 'different character')}.")
    for name, ends in part(known, "targets").items():
        low, mean, high = (text.number(ends[end]) for end in ("low", "mean", "high"))
        lines.append(f"Targets of {SPLITS.get(name, name)}: {low} to {high}, on average {mean}.")
    lines += repeated_sentences(part(known, "repeated"))
    return {"title": "Data", "said": lines, "table": _classes(known, list(samples)), "notes": items(known, "notes")}


def _classes(known: Mapping[str, Any], splits: Sequence[str]) -> Table | None:
    rows = [
        [TableCell(str(row["name"])), *(TableCell(f"{row[name]:,}", row[name]) for name in splits)]
        for row in items(known, "classes")
    ]
    left = number(known.get("classes_left_out"))
    note = "A sample may have several of them." if known.get("label_sets") else ""
    note += f" {text.count(left, 'class')} with fewer training samples left out." if left else ""
    return Table("Classes", ["class", *(SPLITS[name] for name in splits)], rows, note.strip()) if rows else None


def repeated_sentences(known: Mapping[str, Any]) -> list[str]:
    """Sentences about samples that occur more than once; one where there are none, or where that is not known."""
    if reason := known.get("reason"):
        return [f"Samples that occur more than once were not looked for: {reason}."]
    said = []
    for name, counts in known.items():
        words, split = [], SPLITS.get(name, name)
        if n := counts["within"]:
            words.append(
                f"{text.count(n, f'{split} sample')} {'is a copy' if n == 1 else 'are copies'} of another one there"
            )
        if n := counts["in_train"]:
            words.append(f"{text.count(n, f'{split} sample')} {'is' if n == 1 else 'are'} in the training data too")
        if words:
            n = counts["other_target"]
            said.append(f"{', and '.join(words)}{f' ({n:,} of them with another target)' if n else ''}.")
    return said or (["No sample occurs more than once."] if known else [])

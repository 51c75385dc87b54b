"""A job for the data at hand as a TOML file with words: what was found, and the options that matter."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..data import Data
from ..data.splits import Split, Stream
from ..data.table_folders import is_table
from ..data.tables import as_table
from ..errors import CheckpointError, DataError
from ..records.files import replace_text
from ..text import count, listed, number, percent
from .job import Job
from .run import prepare

WIDTH = 100
SOME = 12  # classes that are listed
# Values of options that have none at default.
EXAMPLES = {
    "keep_best": "accuracy", "task": "regression", "leave_out": ["id"], "valid": "valid.csv", "test": "test.csv",
    "text_column": "text", "augment": ["flip"], "image_size": 128,
}  # fmt: skip
# Those that are shown: of all data, of images, and of tables and texts.
OPTIONS = {
    "": ("batch_size", "lr_max", "optimizer", "weight_decay", "smoothing", "precision", "keep_best", "seed"),
    "image": ("image_size", "fit", "augment", "skip_damaged"),
    "table": ("task", "leave_out", "valid", "test"),
    "texts": ("task", "text_column", "valid", "test"),
}


def draft(data: str | Path, out: str | Path = "onecycle.toml", *, target: str | None = None) -> str:
    """Look at `data`, and write a TOML file of a job for them, which ``onecycle train`` runs; return its text.

    Args:
        data: as in `Job`.
        out: the file.
        target: of a table, the column to be predicted; None: the last one, which the file says.

    Raises:
        CheckpointError: the file is there already, or cannot be written.
        DataError: data that cannot be used.
    """
    out = Path(out)
    if out.exists():
        raise CheckpointError(f"{out} is there already, and is left as it is: give another --out, or remove it")
    guessed = target is None and is_table(Path(data)) and Path(data).is_file()
    if guessed:
        target = as_table(data).table.column_names[-1]
    try:
        ready = prepare(Job(str(data), target=target))
    except DataError as error:
        if not guessed:
            raise
        raise DataError(
            f"{error} ({target}, the last column, was taken as the target: --target NAME names another)"
        ) from error
    resolved = ready.learner._setup.resolved(ready.learner.state)
    job = replace(ready.job, model=ready.config["model"])
    found = _found(ready.data, ready.learner.notes, target if guessed else None)
    text = "".join(f"{line}\n" for line in (*found, "", *_settings(job, ready.data, resolved, out)))
    replace_text(out, text)
    return text


def _found(data: Data, notes: list[str], guessed: str | None) -> Iterator[str]:
    """What the data are, as comments."""
    kind = {"image": "images", "texts": "texts", "text": "one text, by characters"}.get(data.kind, f"{data.kind} data")
    shape = " x ".join(map(str, data.input_shape))
    yield from _comment(f"{data.origin}: {kind}, each {shape} as the model sees it")
    for name, split in (("training", data.train), ("validation", data.valid), ("test", data.test)):
        yield from _comment(f"{name}: " + ("none" if split is None else count(len(split), "sample")))
    if data.classes is None:
        yield from _comment("a regression: " + _range(data.train))
    elif data.kind != "text":
        yield from _comment(f"{count(len(data.classes), 'class')}: {_classes(data)}")
    if guessed:
        yield from _comment(f"{guessed} is the last column: name another target below, if it is another that you want")
    for note in dict.fromkeys((*data.notes, *notes)):
        yield from _comment(f"- {note}")


def _classes(data: Data) -> str:
    """The classes with their training samples, the most frequent first."""
    names, targets = data.classes or (), data.train.targets
    if targets.ndim > 1:
        counts = Counter(dict(zip(names, targets.sum(0).int().tolist(), strict=True)))
    else:
        counts = Counter(names[int(label)] for label in targets.tolist())
    told = [f"{name} ({n:,})" for name, n in counts.most_common(SOME)]
    more = len(names) - len(told)
    least = min(counts.values(), default=0)
    balance = f"; the smallest has {percent(least / max(1, counts.total()), 1)}" if len(names) > 2 else ""
    return listed(told, most=SOME) + (f" and {more} more" if more > 0 else "") + balance


def _range(train: Split | Stream) -> str:
    targets = train.targets.float()
    low, high, mean = (number(float(value)) for value in (targets.min(), targets.max(), targets.mean()))
    return f"targets from {low} to {high}, mean {mean}"


def _settings(job: Job, data: Data, resolved: Mapping[str, Any], out: Path) -> Iterator[str]:
    """The options as TOML: those that are decided by the data, and as comments those that may be changed."""
    yield f"# To train: onecycle train {out.name} (options given there replace those of the file)."
    yield "# What is behind a # is in effect as it is, or an example."
    yield f"data = {_toml(job.data)}"
    if job.target is not None:
        yield from _comment(_help("target"))
        yield f"target = {_toml(job.target)}"
    yield ""
    yield from _comment(_help("model"))
    yield f"model = {_toml(job.model)}  # {resolved['parameters']:,} parameters"
    yield ""
    yield from _comment('How long: passes over the data as here, a time such as "5m", or "500 updates".')
    yield f"budget = {_toml(job.budget)}"
    for name in (*OPTIONS[""], *OPTIONS.get(data.kind, ())):
        yield ""
        yield from _comment(_help(name))
        value = resolved.get(name, getattr(job, name)) if name != "lr_max" else job.lr_max
        value = data.augment if name == "augment" else value
        if name == "image_size" and len(data.input_shape) == 3:
            value = data.input_shape[-1]
        yield f"# {name} = {_toml(EXAMPLES.get(name) if value in (None, ()) else value)}"


def _help(name: str) -> str:
    return next(field.metadata["help"] for field in fields(Job) if field.name == name)


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _toml(value: Any) -> str:
    """A value as TOML has it, whose texts and lists are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)

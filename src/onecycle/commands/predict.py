"""The command that predicts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError
from ..text import count, duration, rate
from .options import Flag, Json, Whole
from .printing import print_json, print_table

if TYPE_CHECKING:
    from ..jobs.predictions import Written

ROWS = 1000  # of a table that is printed, whose widths are found together
NOUNS = {"image": "image", "texts": "text", "table": "row"}  # for the samples of each kind of data


def predict(
    run: Path,
    *files: str,
    top_k: Annotated[Whole, Parameter(name=["--top-k"])] = 1,
    out: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    format: str | None = None,
    workers: Whole | None = None,
    skip_damaged: Flag = False,
    calibrated: bool = True,
    json: Json = False,
) -> None:
    """Say what is in images (or in the rows of tables, or arrays), by the model of a run.

    Parameters
    ----------
    run
        Folder of a run of "onecycle train", or of a learner's fit(out=...).
    files
        Image files and folders of them; .csv, .tsv and .parquet files with the columns that a model of tables was
        trained on; .txt files; .npy and .npz files of samples, for a model of arrays. Patterns such as "photos/*.jpg"
        are for all files that match.
    top_k
        Name so many classes for each sample, the likeliest first.
    out
        Write a .csv or a .jsonl file (a record of JSON a line), or "-" for standard output: file, class, probability,
        and so on. Lines are written as they come, and a file has its name once it is whole.
    format
        csv or jsonl, where the ending of --out does not tell.
    workers
        Threads that decode images. Default: one for each core.
    skip_damaged
        Leave out images that do not decode, with a note.
    calibrated
        Probabilities at the temperature that the run has, if it has one; --no-calibrated: the model's own.
    """
    if not files:
        raise ConfigError("give at least one file to predict: onecycle predict RUN FILE...")
    if out is not None and out.startswith("--"):
        raise ConfigError(f'--out is a file, or "-" for standard output; received {out}')
    place = None if out in (None, "-") else Path(str(out))
    if place is not None and (not place.parent.is_dir() or place.is_dir()):
        raise ConfigError(f"cannot write {place}: name a file in a folder that exists")
    if out is None and format:
        raise ConfigError("--format is that of --out: give --out FILE, or --out - for standard output")
    if json and out is not None:
        raise ConfigError("--json prints all predictions as one object: leave out --out, or --json")
    from ..jobs.predict import load_run
    from ..jobs.predictions import format_of, write_predictions
    from ..records.progress import notes
    from ..training.sharing import considerate

    format = format_of(place, format)
    trained = load_run(run)
    said: list[str] = []
    if calibrated and trained.calibratable and trained.temperature is None:
        said.append("probabilities are the model's own: this run has no calibration")
    options: dict[str, Any] = {
        "top_k": top_k, "workers": workers, "skip_damaged": skip_damaged, "calibrated": calibrated, "say": said.append,
    }  # fmt: skip
    if out is not None:
        noun = NOUNS.get(trained.kind, "sample")
        with _followed(noun) as follow:
            written = write_predictions(trained, files, place, format=format, follow=follow, **options)
        notes(said)
        if place is not None:
            print(f"written: {place} ({_how_many(written, noun)})")
        return
    with considerate():
        rows = trained.predictions(files, **options)
        if json:
            predictions = list(rows)
            print_json({"folder": str(run), "notes": said, "predictions": predictions})
            return
        _print(rows)
    notes(said)


def _how_many(written: Written, noun: str) -> str:
    speed = f"{rate(written.rows / max(written.seconds, 1e-9))} {noun}s/s"
    return f"{count(written.rows, noun)}, {duration(written.seconds)}, {speed}"


def _print(rows: Iterator[Mapping[str, Any]]) -> None:
    """A table, or several below each other where there are many rows."""
    part: list[Mapping[str, Any]] = []
    first = True
    for row in rows:
        part.append(row)
        if len(part) == ROWS:
            _print_part(part, first)
            part, first = [], False
    if part or first:
        _print_part(part, first)


def _print_part(part: Sequence[Mapping[str, Any]], first: bool) -> None:
    columns = list(part[0]) if part else ["file"]
    print_table(columns if first else [""] * len(columns), [list(row.values()) for row in part])


@contextmanager
def _followed(noun: str) -> Iterator[Any]:
    """Within the block a terminal shows how far it is; what is called is told that."""
    if not sys.stderr.isatty():
        yield lambda so_far: None
        return

    def follow(so_far: Written) -> None:
        print(f"\r{_how_many(so_far, noun)}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield follow
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

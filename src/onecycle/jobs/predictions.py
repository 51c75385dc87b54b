"""Predictions for files, brought to a file or to standard output as they come."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

from ..checks import one_of
from ..errors import ConfigError, Interrupted
from ..records.files import sync_file
from ..text import count
from ..training.sharing import considerate
from ..training.signals import stop_requests
from .predict import TrainedModel, load_run

FORMATS = ("csv", "jsonl")
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """What was written: `rows` samples in `seconds`, to `path`, None for standard output."""

    path: Path | None
    rows: int
    seconds: float


@considerate()
def predict_files(
    folder: str | Path, files: Sequence[str | Path], *, say: Say = lambda note: None, **options: Any
) -> list[dict[str, Any]]:
    """All predictions for files by the model of the run in `folder`; see `TrainedModel.predictions` for the options.

    Raises:
        CheckpointError: no run, or no weights there.
        ConfigError: a `top_k` above the number of classes, or where there are none.
        DataError: files that cannot be read.
    """
    return list(load_run(folder).predictions(list(files), say=say, **options))


def format_of(out: Path | None, asked: str | None) -> str:
    """The format of a file: the one that is `asked` for, else that of its ending; of standard output CSV.

    >>> format_of(Path("photos.jsonl"), None), format_of(None, None), format_of(None, "jsonl")
    ('jsonl', 'csv', 'jsonl')

    Raises:
        ConfigError: an unknown format, or an ending that tells of none.
    """
    if asked is not None:
        return one_of("format", asked, FORMATS)
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"the ending of {out} tells of no format: name it {out.with_suffix('.csv').name} or "
            f"{out.with_suffix('.jsonl').name}, or give --format csv or --format jsonl"
        )
    return "csv" if out is None else ENDINGS[out.suffix.lower()]


@considerate()
def write_predictions(
    trained: TrainedModel, files: Sequence[str | Path], out: Path | None, *, format: str | None = None,
    say: Say = lambda note: None, follow: Callable[[Written], None] = lambda so_far: None, **options: Any,
) -> Written:  # fmt: skip
    """Write the predictions for files to `out` as they come, so that any number of samples needs little memory.

    A file appears under its name once it is whole. After a Ctrl-C or SIGTERM, what was predicted until then is in a
    file with ``.partial`` behind its name.

    Args:
        trained: the model.
        files: as `TrainedModel.predictions` takes them, and so `options`.
        out: a file; None: standard output.
        format: "csv" or "jsonl"; None: by the ending of `out`.
        say: is told what is to be noted.
        follow: is told how far it is, after each part.

    Raises:
        ConfigError: an `out` that cannot be written, or of no format.
        DataError: files that cannot be read; nothing is written to `out` then.
        Interrupted: stopped by a signal; it says where the predictions until then are.
    """
    lines = PredictionLines(format_of(out, format))
    began = time.perf_counter()
    written = Written(out, 0, 0.0)
    file = _Out(out)
    with stop_requests() as request, file.open():
        for columns in trained.named_parts(files, say=say, **options):
            file.write(lines.of(columns))
            rows = written.rows + len(columns["file"])
            written = Written(out, rows, time.perf_counter() - began)
            follow(written)
            if request.signal is not None:
                raise Interrupted(f"stopped after {count(written.rows, 'sample')}", signal=request.signal)
        if not written.rows:
            file.write(lines.of({"file": []}))
    return written


class PredictionLines:
    """Columns of predictions as text in one of `FORMATS`; that of CSV begins with the names of the columns."""

    def __init__(self, format: str):
        self._json = format == "jsonl"
        self._begun = False

    def of(self, columns: Mapping[str, list[Any]]) -> str:
        """The next lines; several outputs get a column each in CSV, and are a list in JSON."""
        if self._json:
            rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
            return "".join(f"{_json_line(row)}\n" for row in rows)
        columns = _flat(columns)
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._begun:
            writer.writerow(columns)
            self._begun = True
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()


def _json_line(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps({name: _finite(value) for name, value in row.items()}, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """Numbers of JSON, which has no NaN: null in its place."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns with one for each of several outputs."""
    outputs = columns.get("output") or []
    if not outputs or not isinstance(outputs[0], list):
        return dict(columns)
    others = {name: values for name, values in columns.items() if name != "output"}
    if len(outputs[0]) == 1:
        return {**others, "output": [values[0] for values in outputs]}
    return {**others, **{f"output_{i}": list(each) for i, each in enumerate(zip(*outputs, strict=True), 1)}}


class _Out:
    """A file of lines that is put into its place at the end; or standard output, where there is no path."""

    def __init__(self, path: Path | None):
        self._path = path
        self._device = path is not None and path.exists() and not path.is_file()  # /dev/null must stay what it is
        self._beside = path and (path if self._device else path.with_name(f".writing-{path.name}"))
        self._file: TextIO = sys.stdout

    def write(self, text: str) -> None:
        """Write lines, all or none of which are in a file that is kept."""
        if self._path is None:
            self._file.write(text)
            self._file.flush()
            return
        with self._said():
            self._file.write(text)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within the block lines are written; after a stop they are kept beside, after an error they are not."""
        if self._path is None or self._beside is None:
            yield
            return
        with self._said():
            self._file = self._beside.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        try:
            yield
            self._put(self._path)
        except KeyboardInterrupt as stop:
            kept = self._put(self._path.with_name(f"{self._path.name}.partial"))
            stop.args = (f"{str(stop) or 'stopped'}: what was predicted until then is in {kept}",)
            raise
        finally:
            with suppress(OSError):
                self._file.close()
            if not self._device:
                self._beside.unlink(missing_ok=True)

    def _put(self, path: Path) -> Path:
        if self._device or self._beside is None:
            return path
        with self._said():
            sync_file(self._file)
            self._file.close()
            self._beside.replace(path)
        return path

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"cannot write {self._path}: {error.strerror or error}. Name a file in a folder that can be written, "
                "on a disk with room for it"
            ) from error

"""The command that predicts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError
from .options import Flag, Json, Whole
from .printing import print_json, print_table


def predict(
    run: Path,
    *files: str,
    top_k: Annotated[Whole, Parameter(name=["--top-k"])] = 1,
    skip_damaged: Flag = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Say what is in images (or in the rows of arrays or tables), by the model of a run.

    Parameters
    ----------
    run
        Folder of a run of "onecycle train", or of a learner's fit(out=...).
    files
        Image files and folders of them; .npy and .npz files of samples, for a model of arrays; or .csv, .tsv and
        .parquet files with the columns that a model of tables was trained on.
    top_k
        Name so many classes for each sample, the likeliest first.
    skip_damaged
        Leave out images that do not decode, with a note.
    out
        Write a CSV file: file, class, probability, and so on.
    """
    if not files:
        raise ConfigError("give at least one file to predict: onecycle predict RUN FILE...")
    from ..jobs.predict import predict_files
    from ..records.progress import notes

    said: list[str] = []
    if out is not None and (not out.parent.is_dir() or out.is_dir()):
        raise ConfigError(f"cannot write {out}: name a file in a folder that exists")
    predictions = predict_files(run, list(files), top_k=top_k, skip_damaged=skip_damaged, say=said.append)
    if out is not None:
        _write(out, predictions)
    if json:
        print_json({"folder": str(run), "notes": said, "predictions": predictions})
        return
    notes(said)
    if out is None:
        columns = list(predictions[0]) if predictions else ["file"]
        print_table(columns, [[prediction[column] for column in columns] for prediction in predictions])
    else:
        print(f"written: {out} ({len(predictions)} rows)")


def _write(out: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """A row for each sample; several outputs get a column each."""
    rows = [_flat(prediction) for prediction in predictions]
    try:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["file"])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(
            f"cannot write {out}: {error.strerror}. Name a file in a folder that can be written"
        ) from error


def _flat(prediction: Mapping[str, Any]) -> dict[str, Any]:
    outputs = prediction.get("output", [])
    if not isinstance(outputs, list) or len(outputs) < 2:
        return {key: value[0] if isinstance(value, list) else value for key, value in prediction.items()}
    return {"file": prediction["file"], **{f"output_{i}": value for i, value in enumerate(outputs, 1)}}

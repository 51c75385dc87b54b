"""The command that predicts."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .options import Json
from .printing import print_json, print_table


def predict(run: Path, *files: str, json: Json = False) -> None:
    """Say what is in images (or in the rows of arrays or tables), by the model of a run.

    Parameters
    ----------
    run
        Folder of a run of "onecycle train".
    files
        Image files; .npy and .npz files of samples, for a model of arrays; or .csv, .tsv and .parquet files with the
        columns that a model of tables was trained on.
    """
    if not files:
        raise ConfigError("give at least one file to predict: onecycle predict RUN FILE...")
    from ..jobs.predict import predict_files

    predictions = predict_files(run, list(files))
    if json:
        print_json({"folder": str(run), "predictions": predictions})
        return
    columns = ["file", "class", "probability"] if "class" in predictions[0] else ["file", "output"]
    print_table(columns, [[prediction[column] for column in columns] for prediction in predictions])

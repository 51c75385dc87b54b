"""Predictions by the model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import read_inputs
from ..data.batches import ImageTransform, as_batches
from ..data.table_columns import TableColumns
from ..data.tables import read_rows
from ..errors import CheckpointError, ConfigError
from ..models import build
from ..records.checkpoint import latest, load_weights
from ..records.files import RUN
from ..training.evaluate import predict
from .run import job_of


def predict_files(folder: str | Path, files: list[str]) -> list[dict[str, Any]]:
    """The class of each image, or the outputs for each row of arrays or tables, by the model of the run in `folder`.

    Returns one dictionary a sample: ``file``, and ``class`` and ``probability``, or ``output`` for a regression.

    Raises:
        CheckpointError: no run, or no weights there.
        DataError: files that cannot be read.
    """
    job, facts = job_of(folder), RUN.read(folder)["facts"]
    if facts["kind"] == "text":
        raise ConfigError("predict takes images, arrays or tables; this run was trained on text")
    shape = tuple(facts["input_shape"])
    options = job.model_options or {}
    columns = TableColumns.from_dict(facts["columns"]) if facts.get("columns") else None
    model = build(
        job.model or "", input_shape=shape, classes=facts["outputs"], columns=columns, seed=job.seed, **options
    )
    _load_weights(model, Path(folder))
    if columns is None:
        inputs, counts = _read(files, facts["kind"], shape, job.fit)
    else:
        inputs, counts = read_rows(files, columns)
    transform = ImageTransform(tuple(facts["mean"]), tuple(facts["std"])) if facts["mean"] else None
    batches = as_batches((inputs,), min(256, len(inputs)), shuffle=False, transform=transform)
    outputs = predict(model, batches.epoch(0))
    names = [file if n == 1 else f"{file}[{i}]" for file, n in zip(files, counts, strict=True) for i in range(n)]
    if facts["classes"] is None:
        return [{"file": file, "output": row.tolist()} for file, row in zip(names, outputs, strict=True)]
    best = torch.softmax(outputs, -1).max(-1)
    return [
        {"file": file, "class": facts["classes"][i], "probability": p}
        for file, i, p in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _read(files: list[str], kind: str, shape: tuple[int, ...], fit: str) -> tuple[Tensor, list[int]]:
    """The samples in files of images or arrays, and how many there are in each."""
    inputs = read_inputs(files, kind=kind, input_shape=shape, fit=fit)
    if len(files) == len(inputs):
        return inputs, [1] * len(files)
    return inputs, [len(read_inputs([file], kind=kind, input_shape=shape)) for file in files]


def _load_weights(model: nn.Module, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if weights.exists():
        load_weights(model, weights)
        return
    saved = latest(folder / "checkpoints")
    if saved is None:
        raise CheckpointError(f"{folder} has neither model.safetensors nor a checkpoint: train it first")
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {folder} cannot be loaded: {error}") from error

"""Export the model of a run, and check that it predicts the same there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..checks import number, one_of
from ..data.text_tokens import TextTokens
from ..errors import CheckpointError, ConfigError
from ..jobs.predict import TrainedModel, load_run
from ..records.files import RUN
from ..records.progress import notes
from ..text import duration, size
from ..training.runtime import Runtime
from . import onnx, torch_export
from .compare import SIZES, TOLERANCE, Agreement, agreement
from .description import description
from .graph import PredictionGraph

TARGETS = ("onnx", "torch-export", "folder")
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
TOKENIZER = ".tokenizer.json"  # the end of the name of the file beside a model of texts


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: the file, or the folder.
        to: "onnx", "torch-export" or "folder".
        files: all that was written.
        agreement: of its predictions with those of the run.
        samples: how many were compared.
        by: what computed them.
        seconds: that all of it took.
        notes: what was decided.
    """

    path: Path
    to: str
    files: tuple[Path, ...]
    agreement: Agreement
    samples: int
    by: str
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        paths = {"path": str(self.path), "files": [str(file) for file in self.files]}
        return {**asdict(self), **paths, "notes": list(self.notes)}

    def line(self) -> str:
        """What was written, and how it was checked, in a line."""
        weight = size(sum(file.stat().st_size for file in self.files))
        checked = f"{self.agreement} ({self.samples} samples, by {self.by})"
        return f"written: {self.path} ({weight}, in {duration(self.seconds)}): {checked}"


def export(
    run: str | Path,
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    example: Any = None,
    tolerance: float = TOLERANCE,
    verbose: bool = True,
) -> Exported:
    """Export the model of a finished run, with all that is done to its inputs and outputs, and check its predictions.

    Args:
        run: its folder.
        to: "onnx", a file for onnxruntime and other engines; or "torch-export", a file for torch alone.
        out: the file; by default ``model.onnx`` or ``model.pt2`` in the folder of the run.
        model: one to take the weights, where the run does not know how its own was made.
        example: samples as the model takes them, a tensor or a dictionary of tensors, where the run does not know the
            shape of its inputs; the check is made with samples of them, else with samples drawn like those of training.
        tolerance: by how much predictions may differ, as a share of the largest of them.
        verbose: print notes.

    Raises:
        CheckpointError: no finished run there, no weights, or a model that must be given.
        ConfigError: an unknown `to`, a path that exists or cannot be written, or an example that is needed.
        MissingDependency: a package that is not installed.
        ExportError: an operation that the format does not have, or predictions that differ; nothing is written.

    >>> from tempfile import TemporaryDirectory
    >>> from onecycle import Job, run
    >>> with TemporaryDirectory() as place:
    ...     _ = run(Job("digits", model="mlp", budget="1 epochs", limit=200), f"{place}/run", report=False)
    ...     exported = export(f"{place}/run", "torch-export")
    >>> exported.path.name, exported.agreement.difference < 1e-6
    ('model.pt2', True)
    """
    began, run = time.perf_counter(), Path(run)
    one_of("to", to, TARGETS)
    tolerance = number("tolerance", tolerance, least=0)
    record = _finished(run)
    if to == "onnx":
        onnx.check_installed()
    path = run / f"model{SUFFIXES[to]}" if out is None else Path(out)
    if path.suffix != SUFFIXES[to]:
        raise ConfigError(f"out={str(path)!r}: the file of {to} ends in {SUFFIXES[to]}")
    trained = load_run(run, model=model, device="cpu", verbose=False)
    names = [path.name, *([path.stem + TOKENIZER] if isinstance(trained.columns, TextTokens) else [])]
    _check_free(path.parent, names)
    told = _told(trained)
    exact = replace(trained, runtime=Runtime(torch.device("cpu")))
    graph = PredictionGraph(exact, example).eval()
    with TemporaryDirectory(prefix=".writing-", dir=path.parent) as place:
        beside = Path(place)
        about = description(graph, exact, record, run.resolve().name)
        save = onnx.save if to == "onnx" else torch_export.save
        predict = save(torch_export.traced(graph), beside / path.name, about)
        agreed = agreement(graph, predict, tolerance)
        if isinstance(trained.columns, TextTokens):
            (beside / names[1]).write_text(trained.columns.standalone(), encoding="utf-8")
        del predict  # a file that is open cannot be moved everywhere
        files = tuple(path.parent / file.name for file in sorted(beside.iterdir()))
        for file in files:
            shutil.move(beside / file.name, file)
    by = f"onnxruntime {version('onnxruntime')}, opset {onnx.OPSET}" if to == "onnx" else f"torch {torch.__version__}"
    if verbose:
        notes(told)
    return Exported(path, to, files, agreed, sum(SIZES), by, time.perf_counter() - began, tuple(told))


def _finished(run: Path) -> Mapping[str, Any]:
    """The record of a finished run.

    Raises:
        CheckpointError: it is not finished.
    """
    record = RUN.read(run)
    if record["status"] != "finished":
        raise CheckpointError(
            f"the run in {run} is {record['status']}, and what is exported is a finished one: go on with it, onecycle "
            f"train --resume {run}"
        )
    return record


def _check_free(folder: Path, names: list[str]) -> None:
    """Raise a ConfigError where files of these names are in the folder already, or cannot be."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write to {folder}: give out (--out) as a file in a folder that exists")
    for name in names:
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} exists, and nothing is overwritten: give another out (--out), or remove it"
            )


def _told(trained: TrainedModel) -> list[str]:
    """Notes on what is otherwise than in the run."""
    narrow = trained.runtime.precision
    note = (
        f"the run computed in {narrow}, and the exported model does in float32: they differ by the rounding of {narrow}"
    )
    return [note] * (narrow != "fp32")

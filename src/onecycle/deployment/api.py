"""Export the model of a run, and check that it predicts the same there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..checks import number, one_of, unless_none, word
from ..data.text_tokens import TextTokens
from ..errors import CheckpointError, ConfigError
from ..jobs.predict import TrainedModel, load_run
from ..jobs.run import FIGURE
from ..records.files import RUN
from ..records.progress import notes
from ..text import duration, listed, size
from ..training.runtime import Runtime
from . import folder, onnx, torch_export
from .card import Details
from .compare import SIZES, TOLERANCE, Agreement, agreement
from .description import description, without_folders
from .graph import PredictionGraph
from .hub import check_name

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
        agreement: of its predictions with those of the run; None where the run does not know the shape of its inputs.
        samples: how many were compared.
        by: what computed them.
        seconds: that all of it took.
        notes: what was decided.
    """

    path: Path
    to: str
    files: tuple[Path, ...]
    agreement: Agreement | None
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
        if self.agreement is None:
            checked = "not compared, since the run does not know the shape of its inputs (example=...)"
        return f"written: {self.path} ({weight}, in {duration(self.seconds)}): {checked}"


def export(
    run: str | Path,
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    example: Any = None,
    tolerance: float = TOLERANCE,
    licence: str | None = None,
    data_licence: str | None = None,
    dataset: str | None = None,
    repo: str | None = None,
    verbose: bool = True,
) -> Exported:
    """Export the model of a finished run, with all that is done to its inputs and outputs, and check its predictions.

    Args:
        run: its folder.
        to: "onnx", a file for onnxruntime and other engines; "torch-export", a file for torch alone; or "folder":
            weights, record, labels and a model card, which `onecycle.load_run` reads and `push_to_hub` uploads.
        out: the file, by default ``model.onnx`` or ``model.pt2`` in the folder of the run; or the folder, by default
            ``exports/RUN``.
        model: one to take the weights, where the run does not know how its own was made.
        example: samples as the model takes them, a tensor or a dictionary of tensors, where the run does not know the
            shape of its inputs; the check is made with samples of them, else with samples drawn like those of training.
        tolerance: by how much predictions may differ, as a share of the largest of them.
        licence: of the weights, for the card, such as "mit"; so are the `data_licence`, and the OWNER/NAME on the hub
            of the `dataset` and of the model, `repo`.
        verbose: print notes.

    Raises:
        CheckpointError: no finished run there, no weights, or a model that must be given.
        ConfigError: an unknown `to`, a path that exists or cannot be written, an example that is needed, or words for a
            card where there is none.
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
    one_of("format", to, TARGETS)
    tolerance = number("tolerance", tolerance, least=0)
    details = _details(to, licence=licence, data_licence=data_licence, dataset=dataset, repo=repo)
    record = _finished(run)
    if to == "onnx":
        onnx.check_installed()
    path = _free_path(run, to, out)
    trained = load_run(run, model=model, device="cpu", verbose=False)
    told = _told(trained, to)
    source = _Source(run, record, model, replace(trained, runtime=Runtime(torch.device("cpu"))), example)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".writing-", dir=path.parent) as place:
            write = source.write_folder if to == "folder" else source.write_file
            agreed = write(Path(place) / path.name, to, details, tolerance)
            files = _moved(Path(place), path.parent)
    except OSError as error:
        mend = "free some space, or give out (--out) in a folder that can be written"
        raise ConfigError(f"cannot write to {path.parent}: {error.strerror or error}; {mend}") from error
    by = f"onnxruntime {version('onnxruntime')}, opset {onnx.OPSET}" if to == "onnx" else f"torch {torch.__version__}"
    if verbose:
        notes(told)
    samples = 0 if agreed is None else sum(SIZES)
    return Exported(path, to, files, agreed, samples, by, time.perf_counter() - began, tuple(told))


@dataclass(frozen=True)
class _Source:
    """What is exported: a finished run, its model in float32 on the CPU, and samples where some were given."""

    run: Path
    record: Mapping[str, Any]
    given: nn.Module | None
    trained: TrainedModel
    example: Any

    @cached_property
    def graph(self) -> PredictionGraph:
        return PredictionGraph(self.trained, self.example).eval()

    @property
    def name(self) -> str:
        return self.run.resolve().name

    def write_file(self, path: Path, to: str, _: Details, tolerance: float) -> Agreement:
        """Write a file and what lies beside it, and compare what it predicts."""
        about = description(self.graph, self.trained, self.record, self.name)
        save = onnx.save if to == "onnx" else torch_export.save
        predict = save(torch_export.traced(self.graph), path, about)
        agreed = agreement(self.graph, predict, tolerance)
        if isinstance(self.trained.columns, TextTokens):
            path.with_name(path.stem + TOKENIZER).write_text(self.trained.columns.standalone(), encoding="utf-8")
        return agreed

    def write_folder(self, path: Path, _: str, details: Details, tolerance: float) -> Agreement | None:
        """Write a folder, and compare what it predicts as a run; None where no samples can be made."""
        known = self.example is not None or self.trained.columns is not None or self.trained.input_shape is not None
        graph = self.graph if known else None
        record = without_folders(self.record, self.run)
        about = description(graph, self.trained, record, self.name)
        folder.write(path, self.trained, record, about, details, self.run / FIGURE)
        again = load_run(path, model=deepcopy(self.given), device="cpu", verbose=False)
        again = replace(again, runtime=self.trained.runtime)
        if graph is None:
            return None
        return agreement(graph, lambda *inputs: again.predict(graph.before.as_trained(*inputs)), tolerance)


def _details(to: str, **given: str | None) -> Details:
    """What a card says beside the record.

    Raises:
        ConfigError: no card is written, or a name on the hub that is none.
    """
    names = [name for name, value in given.items() if value is not None]
    if names and to != "folder":
        raise ConfigError(
            f'{listed(names)}: for the model card alone, which to="folder" (--to folder) has; leave it out'
        )
    for name in ("dataset", "repo"):
        unless_none(check_name, name, given[name])
    for name in ("licence", "data_licence"):
        unless_none(word, name, given[name], "the name of a licence, such as mit")
    return Details(**given)


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


def _free_path(run: Path, to: str, out: str | Path | None) -> Path:
    """Where the file or the folder is to be.

    Raises:
        ConfigError: there is something, or nothing can be written there; or the name of a file has another end.
    """
    if to == "folder":
        path = Path("exports") / run.resolve().name if out is None else Path(out)
        within = next((one for one in path.parents if one.exists()), path.parent)
        taken = [path] if path.exists() else []
    else:
        path = run / f"model{SUFFIXES[to]}" if out is None else Path(out)
        if path.suffix != SUFFIXES[to]:
            raise ConfigError(f"out={str(path)!r}: the file of {to} ends in {SUFFIXES[to]}")
        beside = (path.stem + TOKENIZER, path.name + onnx.WEIGHTS)
        within, taken = path.parent, [one for one in (path, *map(path.with_name, beside)) if one.exists()]
    if not within.is_dir() or not os.access(within, os.W_OK):
        why = "is read-only" if within.is_dir() else "is no folder" if within.exists() else "is not there"
        raise ConfigError(f"cannot write to {within}, which {why}: give out (--out) in a folder that can be written")
    if taken:
        raise ConfigError(f"{taken[0]} exists, and nothing is overwritten: give another out (--out), or remove it")
    return path


def _moved(place: Path, to: Path) -> tuple[Path, ...]:
    """Move what was written to where it is to be; all files, in order."""
    files = [path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file()]
    for path in place.iterdir():
        shutil.move(path, to / path.name)
    return tuple(to / file for file in files)


def _told(trained: TrainedModel, to: str) -> list[str]:
    """Notes on what is otherwise than in the run."""
    narrow = trained.runtime.precision
    note = (
        f"the run computed in {narrow}, and the exported model does in float32: they differ by the rounding of {narrow}"
    )
    return [note] * (narrow != "fp32" and to != "folder")

"""A graph as a program of torch.export: ``.pt2``, for torch without this library and without the model's code."""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError
from .graph import BATCH, PredictionGraph

EXTRA = "onecycle.json"
"""The extra file of a ``.pt2`` that has its description."""
TRACED = 2  # samples that a graph is traced with; with one torch would take their number for fixed
FOLDER = 'to="folder" (--to folder)'
LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")
Predict = Callable[..., Any]


def traced(graph: PredictionGraph) -> torch.export.ExportedProgram:
    """The graph as a program for any number of samples.

    Raises:
        ExportError: torch cannot trace it; the message says where.
    """
    batch = torch.export.Dim(BATCH)
    inputs = graph.samples(TRACED)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(graph, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),), strict=False)
    except Exception as error:  # whatever the tracing raises, or the model within it
        raise ExportError(_in_words(graph, error)) from error


def save(program: torch.export.ExportedProgram, path: Path, description: Mapping[str, Any]) -> Predict:
    """Write a program with its description, and return it as it is read back from the file."""
    with quiet():
        torch.export.save(program, path, extra_files={EXTRA: json.dumps(description)})
        module = torch.export.load(path).module()

    def predict(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return module(*inputs)

    return predict


def _in_words(graph: PredictionGraph, error: Exception) -> str:
    """Why a graph cannot be traced, and where in the model's code."""
    name, said = type(graph.model).__name__, str(error).strip().partition("\n")[0] or type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    place = f", in {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    mend = "Where Python decides by the values of tensors, write it with torch.where or torch.cond"
    if "onstraint" in str(error) and "specializ" in str(error):
        said, place = "its forward computes for one number of samples alone", ""
        mend = "Use x.shape[0] in it where that number is meant, and no test of it"
    return f"torch.export cannot trace {name}: {said}{place}. {mend}; or export weights and record, {FOLDER}"


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block the exporters keep what they say of themselves; warnings of a model's own code stay."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b")
            warnings.filterwarnings(
                "ignore", message="The tensor attributes .* were assigned during export"
            )  # of LSTMs
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

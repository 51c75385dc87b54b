"""A graph as ONNX, for onnxruntime and other engines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError, MissingDependency
from ..text import listed
from .graph import BATCH
from .torch_export import FOLDER, Predict, quiet

OPSET = 18
"""The version of ONNX's operators: the first that torch's exporter writes without a conversion, and widely read."""
BESIDE = 1_500_000_000  # bytes of weights from which on they are in a file beside: a protocol buffer holds 2 GiB
WEIGHTS = ".data"  # the end of the name of that file
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Check that ONNX can be written and run here.

    Raises:
        MissingDependency: a package is missing; the message has the pip line.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise MissingDependency(
            f'ONNX needs {listed(PACKAGES)}, and here is no {listed(missing, "or")}: pip install "onecycle[onnx]". '
            'Without them: to="torch-export" (--to torch-export)'
        )


def save(program: torch.export.ExportedProgram, path: Path, description: Mapping[str, Any]) -> Predict:
    """Write a program as ONNX with its description in the metadata, and return it as onnxruntime runs the file.

    Each key of the description is one of the metadata, its value as JSON.

    Raises:
        ExportError: an operation that ONNX, or onnxruntime, does not have; the message names it.
    """
    names: dict[str, Any] = {
        f"{which}_names": [each["name"] for each in description[f"{which}s"]] for which in ("input", "output")
    }
    batch = (tuple({0: BATCH} for _ in description["inputs"]),)
    size = sum(value.nbytes for value in program.state_dict.values())
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False, dynamic_shapes=batch, **names
            )
            made.model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
            made.save(path, external_data=size > BESIDE)
    except Exception as error:  # the exporter raises classes of its own, and others
        raise ExportError(_in_words(error)) from error
    return _opened(path)


def _opened(path: Path) -> Predict:
    """The model in a file, run by onnxruntime on the CPU."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(_in_words(error)) from error
    names = [each.name for each in session.get_inputs()]

    def predict(*inputs: Tensor) -> Any:
        arrays = [each.numpy() for each in inputs]
        return [torch.from_numpy(each) for each in session.run(None, dict(zip(names, arrays, strict=True)))]

    return predict


def _in_words(error: Exception) -> str:
    """Which operation ONNX does not have, and what else to try."""
    errors: list[BaseException] = [error]
    while (cause := errors[-1].__cause__ or errors[-1].__context__) is not None:
        errors.append(cause)
    said = " ".join(map(str, errors))
    ops = re.findall(r"OpOverload\(op='([\w.]+)'", said) or re.findall(r"implementation for (\w+\(\d+\))", said)
    what = f"it has no {listed(dict.fromkeys(ops))}" if ops else str(errors[-1]).strip().partition("\n")[0]
    return (
        f"cannot export to ONNX (opset {OPSET}): {what}. Compute it otherwise in the model, or export to a format "
        f'that has all of torch, to="torch-export" (--to torch-export) or {FOLDER}'
    )

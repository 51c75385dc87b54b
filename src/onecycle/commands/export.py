"""The command that exports."""

from __future__ import annotations

from pathlib import Path

from .options import Json
from .printing import print_json


def export(
    run: Path,
    *,
    to: str = "onnx",
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Export the model of a run for other programs, and check that it predicts the same there.

    Parameters
    ----------
    run
        Folder of a finished run of "onecycle train", or of a learner's fit(out=...).
    to
        onnx: a file for onnxruntime and other engines. torch-export: a file for torch alone.
    out
        The file. Default: model.onnx or model.pt2 in the folder of the run.
    """
    from ..deployment.api import export as write

    exported = write(run, to, out, verbose=not json)
    print_json(exported.to_dict()) if json else print(exported.line())

"""What travels with an exported model in words: its inputs, outputs and classes, and the run that it is from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..data.sources import KNOWN
from ..data.table_columns import TableColumns
from ..jobs.predict import TrainedModel
from ..records.files import plain
from .graph import BATCH, PredictionGraph, named

SCHEMA = 1
UNSHOWN = ("command", "trackers")  # of a record: what was typed, and addresses that may hold a password
USER = re.compile(r"(?<=://)[^\s/@]+@")  # of an address, with its password


def description(
    graph: PredictionGraph | None, trained: TrainedModel, record: Mapping[str, Any], run: str
) -> dict[str, Any]:
    """What an exported model takes and gives, as plain data.

    Its keys are ``schema``, ``kind``, ``inputs``, ``outputs``, ``classes`` (None for a regression), ``label_sets``,
    ``fit`` (how images of other proportions were brought to one size), ``columns`` (of a table), ``run``, ``model`` and
    ``versions``. Without a graph, inputs and outputs are None.
    """
    columns = trained.columns
    return plain(
        {
            "schema": SCHEMA,
            "kind": trained.kind,
            "inputs": graph and [each.to_dict() for each in graph.inputs],
            "outputs": graph and outputs_of(graph, trained),
            "classes": trained.classes,
            "label_sets": trained.label_sets,
            "fit": trained.fit if trained.kind == "image" else None,
            "columns": table_layout(columns) if isinstance(columns, TableColumns) else None,
            "run": {
                "name": run,
                "data": data_name(record),
                **{key: record.get(key) for key in ("created", "git_commit")},
            },
            "model": model_name(record),
            "versions": {**record.get("versions", {}), "exported_with_torch": torch.__version__},
        }
    )


def outputs_of(graph: PredictionGraph, trained: TrainedModel) -> list[dict[str, Any]]:
    """The outputs of a graph, each with its name, type and shape, in the order in which it gives them."""
    with torch.no_grad():
        outputs = graph(*graph.samples(2))
    if isinstance(outputs, Tensor):
        values = trained.classes is None and (trained.form.kind == "elements" or trained.fitted)
        name, words = ("values", "in the units of the targets") if values else ("outputs", "of the model")
        if graph.probabilities:
            name, words = "probabilities", "from 0 to 1" if trained.classes is None else "by class"
        names, about = [name], [words]
    else:
        names = [
            pytree.keystr(path).strip("[]'").replace("']['", ".") for path, _ in pytree.tree_leaves_with_path(outputs)
        ]
        names = [f"output_{name}" if name.isdigit() else name for name in names]
        about = ["of the model"] * len(names)
    return [
        {"name": name, "dtype": named(each.dtype), "shape": [BATCH, *each.shape[1:]], "about": words}
        for name, words, each in zip(names, about, pytree.tree_leaves(outputs), strict=True)
    ]


def table_layout(columns: TableColumns) -> dict[str, Any]:
    """How a row of a table becomes the inputs of a graph: each column by its place."""
    return {
        "target": columns.target,
        "numbers": [{"name": each.name, "part": each.part} for each in columns.numbers],
        "categories": [{"name": each.name, "part": each.part, "values": each.values} for each in columns.categories],
    }


def data_name(record: Mapping[str, Any]) -> str | None:
    """The name of a run's data without the folders that they lay in; None where it is not recorded."""
    data = record["config"].get("data")
    if not data or data in KNOWN or data.startswith("hub:"):
        return data
    return Path(data).name or data


def model_name(record: Mapping[str, Any]) -> str:
    """The model as it was asked for, or the class of one that was made in Python."""
    return str(record["config"].get("model") or record["resolved"].get("model") or "model")


def without_folders(record: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """A ``run.json`` for other people's eyes: without `UNSHOWN` and users of addresses, paths cut.

    What predictions need, the facts of the data, stays as it is.
    """
    config = record["config"]
    paths = [config.get(name) for name in ("data", "valid", "test", "extend")]
    paths += [(record.get("extends") or {}).get("run"), str(run), str(run.resolve())]
    long = sorted({path for path in paths if isinstance(path, str) and os.sep in path}, key=len, reverse=True)
    cut = {path: path if path.startswith("hub:") else Path(path).name for path in long}
    places = {Path.cwd(): "", Path.home(): "~"}
    cut |= {
        f"{place}{os.sep}": f"{short}{os.sep}" if short else "" for place, short in places.items() if place.parts[1:]
    }

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            for path, short in cut.items():
                value = value.replace(path, short)
            return USER.sub("", value)
        if isinstance(value, Mapping):
            return {key: shown(one) for key, one in value.items()}
        return [shown(one) for one in value] if isinstance(value, Sequence) else value

    return {k: v if k in ("facts", "prediction") else shown(v) for k, v in record.items() if k not in UNSHOWN}

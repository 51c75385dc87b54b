"""What a service says: of a model what it is and takes, and of its outputs what they are, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.table_columns import CategoryColumn, NumberColumn, TableColumns
from ..data.text_tokens import TextTokens
from ..errors import ConfigError
from ..jobs.named import LIKELY, check_top
from ..jobs.predict import TrainedModel
from .description import data_name, model_name
from .questions import accepted

TOP = 5  # classes that are named where nothing is said
SOME = 60  # values of a category that are listed in a description


def as_json(value: Any) -> bytes:
    """Plain data as JSON in UTF-8; what is no character of it stays escaped, and no number is NaN.

    >>> as_json({"a": "\\u00e9", "b": float("nan")})
    b'{"a": "\\xc3\\xa9", "b": null}'
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def top_of(trained: TrainedModel, asked: int | None) -> int:
    """How many classes are named for a sample; 1 where there are none to choose among.

    Raises:
        ConfigError: more than there are.
    """
    chosen = trained.classes is not None and not trained.label_sets
    if asked is None:
        return min(TOP, len(trained.classes or ())) if chosen else 1
    if trained.label_sets and asked > 1:
        raise ConfigError(f"top_k = {asked}: this run gives each sample several labels, and all of them are named")
    check_top(asked, trained.classes)
    return asked


def answer(trained: TrainedModel, outputs: Tensor, top_k: int) -> dict[str, Any]:
    """What a model says of one sample, by its outputs.

    ``class``, ``probability`` and ``top``; or ``labels`` and the ``probabilities`` of all; or a ``value``, ``values``
    by name, or an ``output`` of any shape.
    """
    if trained.classes is None or outputs.ndim != 1:
        names = trained.columns.target if trained.columns is not None else ()
        if outputs.numel() == 1:
            return {"value": outputs.item()}
        named = outputs.ndim == 1 and len(names) == len(outputs)
        return {"values": dict(zip(names, outputs.tolist(), strict=True))} if named else {"output": outputs.tolist()}
    if trained.label_sets:
        shares = dict(zip(trained.classes, outputs.tolist(), strict=True))
        return {"labels": [label for label, share in shares.items() if share > LIKELY], "probabilities": shares}
    best = outputs.topk(top_k)
    top = [
        {"class": trained.classes[label], "probability": probability}
        for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {**top[0], "top": top}


def model_facts(trained: TrainedModel, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is, how it was trained, and what it takes, without paths of this machine."""
    columns = trained.columns
    facts, result = record.get("facts") or {}, record.get("result") or {}
    return {
        "run": folder.resolve().name,
        "kind": trained.kind,
        "answers": _answers(trained),
        "classes": trained.classes,
        "target": columns.target if columns is not None else None,
        "input": {"media": accepted(trained.kind), **_input(trained)},
        "example": example(trained),
        "model": model_name(record),
        "parameters": sum(weights.numel() for weights in trained.model.parameters()),
        "data": data_name(record),
        "samples": facts.get("samples"),
        "result": {name: result[name] for name in ("valid", "test") if isinstance(result.get(name), dict)},
        "created": record.get("created"),
        "onecycle": (record.get("versions") or {}).get("onecycle"),
    }


def _answers(trained: TrainedModel) -> str:
    if trained.classes is None:
        return "values"
    return "labels" if trained.label_sets else "class"


def _input(trained: TrainedModel) -> dict[str, Any]:
    if isinstance(trained.columns, TextTokens):
        return {"column": trained.columns.column, "tokens": trained.columns.length}
    if trained.columns is not None:
        return {"columns": [column_of(trained.columns, name) for name in trained.columns.names]}
    return {"shape": trained.input_shape, **({"fit": trained.fit} if trained.kind == "image" else {})}


def column_of(columns: TableColumns, name: str) -> dict[str, Any]:
    """What a column of a table holds: numbers with their range, dates, or categories with their values."""
    numbers = {column.part: column for column in columns.numbers if column.name == name}
    categories = {column.part: column for column in columns.categories if column.name == name}
    parts = {*numbers, *categories}
    if parts != {""}:
        days = numbers.get("days")
        known: dict[str, Any] = {"type": "date"}
        if days is not None:
            known |= {"typical": _day(days.median), "range": list(map(_day, days.limits or ()))}
        return {"name": name, **known}
    number, category = numbers.get(""), categories.get("")
    if number is not None:
        return {"name": name, "type": "number", **_number(number, category)}
    values = list(category.values if category is not None else ())
    words = {"type": "category", "values": values[:SOME], "typical": values[0]}
    return {"name": name, **words, **({"more": len(values) - SOME} if len(values) > SOME else {})}


def _number(number: NumberColumn, category: CategoryColumn | None) -> dict[str, Any]:
    known: dict[str, Any] = {"typical": _plain(number.median), "range": list(map(_plain, number.limits or ()))}
    return known | ({"values": list(category.values)} if category is not None else {})


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")


def _day(days: float) -> str:
    import numpy as np

    return str(np.datetime64(round(days), "D"))


def example(trained: TrainedModel) -> Any:
    """What may be sent as JSON: a typical row, a text, an array of zeros; None where nothing is known."""
    if isinstance(trained.columns, TextTokens):
        return {"text": "a text such as those of training"}
    if trained.columns is not None:
        return {name: column_of(trained.columns, name).get("typical") for name in trained.columns.names}
    if trained.kind != "array" or trained.input_shape is None or math.prod(trained.input_shape) > 1000:
        return None
    zeros: Any = 0
    for size in reversed(trained.input_shape):
        zeros = [zeros] * size
    return zeros

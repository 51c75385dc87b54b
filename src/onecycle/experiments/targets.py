"""Epochs and seconds to a target accuracy, from the records of the runs of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..records.files import read_jsonl
from .plan import Setting, in_words

UNITS = ("epochs", "seconds")
Curve = list[tuple[float, float]]


def to_targets(folder: Path, record: Mapping[str, Any], target: float) -> list[dict[str, Any]]:
    """For each policy, budget and setting, when the validation accuracy first was at `target`: records.

    A record has ``policy``, ``epochs`` (the budget) and the axes; for epochs and for seconds ``median``, ``low`` and
    ``high`` as `ToTarget` has them, ``reached`` and ``n``, and ``words``. Runs that never got there are not dropped:
    they needed more than their budget. Failed runs count as such, also where all failed; what is still to be run does
    not count.

    Raises:
        ConfigError: a target outside (0, 1).
    """
    check_target(target)
    names = ("policy", "epochs", *record["config"]["axes"])
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["table"]:
        cells.setdefault(str([row[name] for name in names]), []).append(row)
    found = (_cell(folder, rows, target) for rows in cells.values())
    return [
        {**{name: rows[0][name] for name in names}, **times} for rows, times in zip(cells.values(), found, strict=True)
        if times
    ]  # fmt: skip


def check_target(target: float | None) -> None:
    """Refuse what no accuracy can be.

    Raises:
        ConfigError: not None, and outside (0, 1).
    """
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < 1:
        raise ConfigError(f"a target accuracy is a share between 0 and 1, such as 0.9; received {target!r}")


def _cell(folder: Path, rows: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Both times of the runs that differ in their seed alone; nothing where none of them has ended."""
    from .statistics import ToTarget, to_target

    finished = [row for row in rows if row["status"] == "finished"]
    failed = sum(row["status"] == "failed" for row in rows)
    if failed and not finished:
        none = asdict(ToTarget(target, failed, 0, None, None, None, limit=0.0))
        return {"needed": {unit: {**none, "words": f"none of {failed} runs came to its end"} for unit in UNITS}}
    times = {}
    for unit in UNITS:
        if curves := [points for row in finished if (points := curve(folder / row["run"], row["epochs"], unit))]:
            result = to_target(curves, target, failed=failed)
            times[unit] = {**asdict(result), "words": str(result)}
    return {"needed": times} if times else {}


def curve(folder: Path, epochs: float, unit: str) -> Curve:
    """Validation accuracy after each epoch of a run, against epochs or seconds of training.

    Raises:
        ConfigError: another unit.
        CheckpointError: records that cannot be read.
    """
    if unit not in UNITS:
        raise ConfigError(f"unknown unit {unit!r}: {did_you_mean(unit, UNITS)}")
    rows = [row for row in read_jsonl(folder / "epochs.jsonl") if "valid_accuracy" in row]
    if not rows:
        return []
    scale = epochs / (rows[-1]["step"] + 1)
    seconds = accumulate(row["seconds"] for row in rows)  # each row has those of its own epoch
    times = [(row["step"] + 1) * scale for row in rows] if unit == "epochs" else seconds
    return [(time, row["valid_accuracy"]) for time, row in zip(times, rows, strict=True)]


def target_lines(found: Sequence[Mapping[str, Any]], target: float) -> list[str]:
    """The records in words, a line a cell."""
    said = [f"Validation accuracy of {100 * target:g} %, first reached after (median over runs, 95 % interval):"]
    for row in found:
        setting: Setting = tuple((k, v) for k, v in row.items() if k not in ("policy", "epochs", "needed"))
        where = f" at {in_words(setting)}" if setting else ""
        (epochs, _, runs_there), (seconds, *_) = (row["needed"][unit]["words"].partition(" (") for unit in UNITS)
        times = f"{epochs} epochs, {seconds} s ({runs_there}" if runs_there else epochs
        said.append(f"- {row['policy']}, {row['epochs']:g} epochs{where}: {times}")
    return said

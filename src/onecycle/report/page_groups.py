"""Runs that differ in their seed alone belong together; what else differs between runs names the groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.read import Comparison, Run

# Facts that decide whether two measures are of the same thing; the mean and the spread of the pixels follow the seed.
DATA = (
    "data",
    "limit",
    "image_size",
    "facts.kind",
    "facts.input_shape",
    "facts.outputs",
    "facts.classes",
    "facts.samples",
)
# Columns of a comparison that are no axis of it: what was measured, and where it is.
MEASURED = ("seed", "lr_max", "seconds", "status", "error", "run", "updates", "samples_per_second", "created")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone; `axes` are the settings that the group's label is made of."""

    label: str
    runs: tuple[Run, ...]
    axes: Mapping[str, Any]

    @property
    def drawn(self) -> tuple[Run, ...]:
        """The runs whose mean is shown: those that came to their end, where there are any."""
        return tuple(run for run in self.runs if run.finished) or self.runs


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by everything but their seed, in the order of each group's first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        settings = {
            key: value for key, value in flat(run.config).items() if key not in ("seed", "facts.mean", "facts.std")
        }
        mates = found.setdefault(json.dumps(settings, sort_keys=True, default=str), [])
        # Without a seed of its own a run is no repetition: begun in Python, it does not say what it was.
        if any(_seed(run) in (None, _seed(mate)) for mate in mates):
            mates = found.setdefault(run.name, [])
        mates.append(run)
    varied = varying([mates[0] for mates in found.values()])
    return [
        Group(_label(mates, varied), tuple(mates), {k: flat(mates[0].config).get(k) for k in varied})
        for mates in found.values()
    ]


def compared(comparison: Comparison) -> list[Group]:
    """The runs of a comparison by everything but their seed."""
    names = ["policy", "epochs", *axes(comparison.rows)]
    found: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for row, run in comparison.runs:
        settings = {name: row.get(name) for name in names}
        found.setdefault(json.dumps(settings, default=str), (settings, []))[1].append(run)
    return [Group(_settings(settings), tuple(runs), settings) for settings, runs in found.values()]


def axes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that were varied in a comparison, beside policy, epochs and seed."""
    names = dict.fromkeys(name for row in rows for name in row)
    measured = ("train_", "valid_", "test_")
    return [
        name
        for name in names
        if name not in ("policy", "epochs", *MEASURED)
        and not name.startswith(measured)
        and len({json.dumps(row.get(name), default=str) for row in rows}) > 1
    ]


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, but for the seed and what was read from the data."""
    configs = [{k: v for k, v in flat(run.config).items() if not k.startswith("facts.")} for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name != "seed")
    return [name for name in names if len({json.dumps(config.get(name), default=str) for config in configs}) > 1]


def shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all flat records have in common."""
    first = records[0] if records else {}
    return {key: value for key, value in first.items() if all(key in r and r[key] == value for r in records)}


def differences(runs: Sequence[Run]) -> list[str]:
    """Sentences about data or models that differ, so that the runs' measures can't be compared."""
    known = [run for run in runs if run.facts]
    said = [f"{run.name} was begun in Python and does not say what its data were." for run in runs if not run.facts]
    if len(runs) < 2:
        return []
    for what, keys in (("data", DATA), ("model", ("model",))):
        found = [line for key in keys if (line := _values(known, key))]
        if found:
            said.append(f"These runs differ in their {what}, so their measures can't be compared: {'; '.join(found)}.")
    return said


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under one name each.

    >>> flat({"seed": 1, "facts": {"kind": "image"}})
    {'seed': 1, 'facts.kind': 'image'}
    """
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _seed(run: Run) -> Any:
    return run.config.get("seed")


def _label(mates: Sequence[Run], varied: Sequence[str]) -> str:
    if len(mates) == 1:
        return mates[0].name
    settings = _settings({name: flat(mates[0].config).get(name) for name in varied})
    return f"{settings or ', '.join(run.name for run in mates[:3])} ({len(mates)} seeds)"


def _settings(values: Mapping[str, Any]) -> str:
    """``one_cycle, 4 epochs, fraction 0.1``: what says by itself what it is goes without its name."""
    said = []
    for name, value in values.items():
        if value is not None:
            text = str(value) if len(str(value)) <= 40 else str(value)[:39] + "…"
            plain = name in ("policy", "preset", "optimizer", "model", "data", "budget")
            said.append(text if plain else f"{text} epochs" if name == "epochs" else f"{name} {text}")
    return ", ".join(said)


def _values(runs: Sequence[Run], key: str) -> str | None:
    """``facts.samples: [1, 2] (a), [3, 4] (b, c)``; None where all are the same."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(json.dumps(flat(run.config).get(key), default=str, ensure_ascii=False), []).append(run.name)
    if len(found) < 2:
        return None
    shown = [f"{_short(value)} ({_short(', '.join(names))})" for value, names in found.items()]
    return f"{key.removeprefix('facts.')} {', '.join(shown[:4])}" + (
        f" and {len(shown) - 4} others" if len(shown) > 4 else ""
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"

"""The tables of a page: runs side by side, settings, versions, hardware, commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .page_groups import flat, shared, varying
from .page_read import Comparison, RangeTest, Records, Run, items, number, part
from .page_words import command, value_text

# Longer texts in cells, and longer lists, are cut.
WIDEST = 300
GAP = "-"
TITLES = {"Configuration": "config", "Versions": "versions", "Hardware": "hardware"}


@dataclass(frozen=True)
class Cell:
    """A text, and what it is sorted by: a number, or the text itself."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """Cells under column names."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone, and gaps."""
        return [
            all(cell.value is not None or cell.text == GAP for cell in column)
            for column in zip(*self.rows, strict=True)
        ]


def runs_table(runs: Sequence[Run]) -> Table:
    """A row a run: the settings in which they differ, and what came out."""
    names = varying(runs)
    measured = dict.fromkeys(
        f"{split}_{name}" for run in runs for split in ("test", "valid") for name in part(run.result, split)
    )
    rows = []
    for run in runs:
        result, settings = run.result, flat(run.config)
        values = {"run": run.name} | {name: settings.get(name) for name in names} | {"seed": settings.get("seed")}
        values["lr_max"] = result.get("lr_max") if values.get("lr_max") is None else values["lr_max"]
        values |= {name: part(result, name.split("_", 1)[0]).get(name.split("_", 1)[1]) for name in measured}
        values |= {"updates": result.get("updates"), "seconds": result.get("seconds")}
        rows.append(values | {"status": run.record.get("status"), "error": run.record.get("error")})
    return table("Runs", rows)


def comparison_table(comparison: Comparison) -> Table:
    """The comparison's own rows, a row a run."""
    return table(f"Runs of {comparison.name}", comparison.rows)


def speed_up_table(comparison: Comparison) -> Table:
    """What was found about the speed-up."""
    return table("Speed-up", [row for row in items(comparison.record, "speed_up") if isinstance(row, Mapping)])


def table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as they are recorded, without the columns that are empty in all."""
    names = [
        n for n in dict.fromkeys(n for row in rows for n in row) if any(row.get(n) not in (None, "") for row in rows)
    ]
    return Table(
        caption, [name.replace("_", " ") for name in names], [[_cell(n, row.get(n)) for n in names] for row in rows]
    )


@dataclass(frozen=True)
class Origin:
    """Where records are from: what made them, and everything that decided how they came out."""

    name: str
    folder: str
    command: str
    notes: list[str]
    facts: dict[str, list[tuple[str, str]]]


def origins(records: Records) -> tuple[dict[str, list[tuple[str, str]]], list[Origin]]:
    """What all runs have in common, under "Configuration", "Versions" and "Hardware"; and each with what is its own."""
    facts = {id(run): _facts(run) for run in records.runs}
    common = {title: shared([found[title] for found in facts.values()]) for title in TITLES}
    if len(facts) < 2:
        common = {title: {} for title in TITLES}
    own = []
    for item in (*records.comparisons, *records.tests, *records.runs):
        found, known = _facts(item), common if id(item) in facts else {}
        rest = {title: {k: v for k, v in found[title].items() if k not in known.get(title, {})} for title in TITLES}
        own.append(_origin(item, {title: _pairs(pairs) for title, pairs in rest.items()}))
    return {title: _pairs(pairs) for title, pairs in common.items() if pairs}, own


def _facts(item: Run | RangeTest | Comparison) -> dict[str, dict[str, Any]]:
    found = {title: flat(part(item.record, name)) for title, name in TITLES.items()}
    if commit := item.record.get("git_commit"):
        found["Versions"]["git commit"] = commit
    return found


def _origin(item: Run | RangeTest | Comparison, facts: dict[str, list[tuple[str, str]]]) -> Origin:
    notes = [str(note) for note in items(item.record, "notes")]
    created = item.record.get("created")
    notes = ([f"begun {created}"] if created else []) + notes
    facts = {name: pairs for name, pairs in facts.items() if pairs}
    return Origin(item.name, str(item.folder), command(item.record), notes, facts)


def _pairs(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values; None is what was left to its default."""
    named = {name.removeprefix("facts.").replace("_", " "): value for name, value in settings.items()}
    return [(name, "default" if value is None else _text(value)) for name, value in named.items()]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return _cut(", ".join(_text(v) for v in value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _cell(name: str, value: Any) -> Cell:
    known = number(value)
    if known is None:
        return Cell(GAP if value is None else _cut(_text(value)))
    if isinstance(value, int):
        return Cell(f"{value:,}" if name != "seed" else str(value), value)
    return Cell(f"{value:.1f}" if name == "seconds" else value_text(name, value), value)

"""The tables of a page: runs side by side, settings, versions, hardware, commands."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from .. import text
from ..records.read import Comparison, RangeTest, Records, Run, items, number, part
from .content import bounded, command, flat, interval_of, shared, varying

# Longer texts in cells, and longer lists, are cut.
WIDEST = 300
GAP = "-"
# Columns of a comparison's table that come first, and those of a speed-up that are put in words.
FIRST = ("run", "status", "error")
RESULT = ("needed", "speed_up", "low", "high", "more_than", "at_most", "claim")
TITLES = {"Configuration": "config", "Versions": "versions", "Hardware": "hardware"}


@dataclass(frozen=True)
class Cell:
    """A text, what it is sorted by (a number, or the text itself), and where it leads."""

    text: str
    value: float | None = None
    href: str | None = None


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


def comparison_table(comparison: Comparison, at: Path | None = None) -> Table:
    """The comparison's own rows, a row a run; from a page in the comparison's folder, `at`, each leads to its run."""
    rows = [{name: row.get(name) for name in (*FIRST, *row)} for row in comparison.rows]
    found = table(f"Runs of {comparison.name}", rows)
    for row, cells in zip(rows, found.rows, strict=True):
        where = row["run"]
        if isinstance(where, str) and where:
            cells[0] = Cell(_cut(PurePath(where).name), href=at and _href(comparison.folder, where, at))
    return found


def tuning_table(comparison: Comparison) -> Table:
    """The trial runs that the peaks were chosen by."""
    rows = [row for row in items(comparison.record, "tuning") if isinstance(row, Mapping)]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("run", "seed")]
    return table("Trial runs", [{name: row.get(name) for name in names} for row in rows])


def speed_up_table(comparison: Comparison) -> Table:
    """What was found about the speed-up, in words where it is a bound."""
    rows = [row for row in items(comparison.record, "speed_up") if isinstance(row, Mapping)]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in RESULT]
    found = table("Speed-up of 1cycle", [{name: row.get(name) for name in names} for row in rows])
    cells = [[*cells, *_speed_up(row)] for row, cells in zip(rows, found.rows, strict=True)]
    return replace(found, columns=[*found.columns, "needed", "speed up", "interval", "difference"], rows=cells)


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


def _speed_up(row: Mapping[str, Any]) -> list[Cell]:
    """What is needed, the speed-up, its interval, and what may be claimed."""
    values = [(name, number(row.get(name))) for name in ("needed", "speed_up")]
    cells = [Cell(GAP) if value is None else Cell(bounded(row, name), value) for name, value in values]
    interval = interval_of(row)
    if interval is None:
        return [*cells, Cell(GAP), Cell("none claimed: one seed")]
    return [*cells, Cell(text.bounds(*interval), interval[0] or 0), Cell(str(row.get("claim") or "none claimed"))]


def _href(folder: Path, run: str, at: Path) -> str | None:
    """From a page in the folder `at` to a run's page, or to its folder; None where that is not within `folder`."""
    home, to, at = folder.resolve(), (folder / run).resolve(), at.resolve()
    if not (to.is_dir() and to.is_relative_to(home) and at.is_relative_to(home)):
        return None
    page = to / "report.html"
    return quote(os.fsencode(os.path.relpath(page if page.exists() else to, at)))


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
    named = {
        name.removeprefix("facts.").removeprefix("settings.").replace("_", " "): value
        for name, value in settings.items()
    }
    return [(name, "default" if value is None else _text(value)) for name, value in named.items()]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return _cut(", ".join(_text(v) for v in value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == {}:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _cut(words: str) -> str:
    return words if len(words) <= WIDEST else words[: WIDEST - 1] + "…"


def _cell(name: str, value: Any) -> Cell:
    known = number(value)
    if known is None:
        return Cell(GAP if value is None else _cut(_text(value)))
    if isinstance(value, int):
        return Cell(f"{value:,}" if name != "seed" else str(value), value)
    return Cell(f"{value:.1f}" if name == "seconds" else text.measure(name, value), value)

"""The tables of a page: runs side by side, epochs, settings, data, versions, hardware, commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from .. import text
from ..records.files import stage_names
from ..records.read import Recorded, RecordedComparison, RecordedRun, Records, comparable, items, number, part
from .content import ENDS_AS_BEFORE, bounded, command, flat, interval_of, shared, speed_ups, varying

# The page in the folder of a run, range test or comparison.
PAGE = "report.html"
# Longer texts in cells, and longer lists, are cut.
WIDEST = 300
# Of so many epochs at the end a table has a row each.
LAST = 50
GAP = "-"
# Columns of a comparison's table that come first, and those of a speed-up that are put in words.
FIRST = ("run", "status", "error")
RESULT = ("needed", "speed_up", "low", "high", "more_than", "at_most", "claim", "tells")
NAMES = {"seconds": "time", "lr": "learning rate"}
MAIN = ("data", "model", "budget", "policy", "lr_max", "optimizer", "batch_size", "seed")
TITLES = ("Configuration", "Data", "Versions", "Hardware")


@dataclass(frozen=True)
class TableCell:
    """A text, what it is sorted by (a number, or the text itself), and where it leads."""

    text: str
    value: float | None = None
    href: str | None = None


@dataclass(frozen=True)
class Table:
    """Cells under column names."""

    caption: str
    columns: list[str]
    rows: list[list[TableCell]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone, and gaps."""
        columns = zip(*self.rows, strict=True)
        return [all(cell.value is not None or cell.text == GAP for cell in column) for column in columns]

    @property
    def words(self) -> str:
        """How many rows there are, and the note."""
        return f"{text.count(len(self.rows), 'row')}. {self.note}".strip()


@dataclass(frozen=True)
class Origin:
    """Where records are from: what made them, and everything that decided how they came out."""

    name: str
    folder: str
    command: str
    notes: list[str]
    facts: dict[str, list[tuple[str, str]]]


def runs_table(runs: Sequence[RecordedRun], at: Path | None = None) -> Table:
    """A row a run: the settings in which they differ, and what came out; a run below `at` leads to its page."""
    names = varying(runs)
    measured = dict.fromkeys(
        (split, name) for run in runs for split in ("test", "valid") for name in run.measured(split)
    )
    rows = []
    for run in runs:
        settings = flat(run.settings)
        values = {"run": run.name, **{name: settings.get(name) for name in (*names, "seed", "lr_max")}}
        values |= {f"{split}_{name}": run.measured(split).get(name) for split, name in measured}
        values |= {name: run.result.get(name) for name in ("updates", "seconds")}
        rows.append(values | {"status": run.record.get("status"), "error": run.record.get("error")})
    links = [None if at is None else link(run.folder, at, within=at) for run in runs]
    return _linked(table("Runs", rows), [(run.name, href) for run, href in zip(runs, links, strict=True)])


def stages_table(run: RecordedRun) -> Table:
    """A row a stage of a run that was made in several: what it trained, and what that came to at its end."""
    rows, spent = [], 0.0
    names = stage_names(run.record, [one.folder for one in run.stages])
    for i, (one, name) in enumerate(zip((*run.stages, run), names, strict=False), 1):
        valid = comparable(dict(one.measured("valid")))
        if one is run and (run.ends_as_before or not valid):
            valid = {k.removeprefix("valid_"): v for k, v in one.last_measured.items() if k.startswith("valid_")}
        took = number(one.result.get("seconds"))
        if took is None:
            took = one.steps[-1].get("seconds") if one.steps else None
        elif one is run:  # its seconds are those of all its stages
            took = max(took - spent, 0.0)
        spent += took or 0.0
        rows.append({
            "stage": i,
            "trained": _trained(one, name),
            "updates": one.result.get("updates") or len(one.steps),
            "peak": number(one.result.get("lr_max")) or one.resolved.get("lr_max"),
            **{f"valid_{measure}": value for measure, value in valid.items()},
            "seconds": took,
        })  # fmt: skip
    return replace(table("Stages", rows), note=f"The run {ENDS_AS_BEFORE}." if run.ends_as_before else "")


def _trained(stage: RecordedRun, name: str) -> str:
    """What a stage of this name trained, in words."""
    all_of_it, frozen = (number(stage.resolved.get(key)) for key in ("parameters", "frozen"))
    if name == "head" or frozen is not None:
        return "the head" + (f", {text.count(all_of_it - frozen, 'parameter')}" if all_of_it and frozen else "")
    what = "all layers" if name == "all" else f"the last {text.count(int(name.removeprefix('last-')), 'layer group')}"
    factors = [one for one in map(number, items(part(stage.resolved, "schedule"), "layers")) if one]
    times = max(factors, default=1.0) / min(factors, default=1.0)
    return what + (f", peaks that rise {text.number(times, 3)} times towards the output" if times > 1 else "")


def epochs_table(run: RecordedRun) -> Table:
    """A row an epoch, of many the last: losses, metrics, the learning rate and the time."""
    rows, fits = [], {row.get("fit") for row in run.epochs}
    for row in run.epochs[-LAST:]:
        fit, epoch = (None if number(row.get(name)) is None else row[name] + 1 for name in ("fit", "epoch"))
        row = comparable(row)
        measures = [name for name in row if name.startswith(("train_", "valid_"))]
        measures.sort(key=lambda name: (not name.endswith("_loss"), name.split("_", 1)[1], name))
        first = {"fit": fit if len(fits) > 1 else None, "epoch": epoch}
        rows.append(first | {name: row.get(name) for name in (*measures, "lr", "seconds")})
    without = any("train_loss_unsmoothed" in row for row in run.epochs)
    notes = ["The training loss is without label smoothing, as the validation loss is."] if without else []
    if (left := len(run.epochs) - len(rows)) > 0:
        notes.insert(
            0, f"The last of {len(run.epochs):,}: {text.count(left, 'epoch')} before them are in epochs.jsonl."
        )
    return replace(table(f"Epochs of {run.name}", rows), note=" ".join(notes))


def pilots_table(run: RecordedRun) -> Table:
    """The short runs before a run, a row each: what it tried, what that came to, and which was taken."""
    search = part(run.resolved, "search")
    decided = items(search, "pilots")
    rows = []
    for i, pilot in enumerate(run.pilots):
        told = decided[i] if len(decided) == len(run.pilots) and isinstance(decided[i], Mapping) else {}
        same = all(pilot.get(name) == search.get(name) for name in ("lr_max", "method"))
        kept = told.get("kept", same if search else None)
        rows.append({
            "setting": _setting_of(part(pilot, "setting")) if any("setting" in one for one in run.pilots) else None,
            "method": pilot.get("method") or ("default" if any(one.get("method") for one in run.pilots) else None),
            "peak": pilot.get("lr_max"),
            "updates": pilot.get("updates"),
            "held-out loss": pilot.get("loss"),
            "held-out accuracy": part(pilot, "valid").get("accuracy"),
            "kept": None if kept is None else "yes" if kept else "no",
            "why": pilot.get("lost") or told.get("why"),
        })  # fmt: skip
    peak, spent = number(search.get("lr_max")), number(search.get("updates"))
    whole = number(search.get("budget")) or number(search.get("of"))
    note = f"They took {text.percent(spent / whole, 1)} of the budget" if spent and whole else ""
    taken = [f"peak {text.number(peak, 3)}"] if peak else []
    taken += [_setting_of(settings)] if (settings := part(search, "settings")) else []
    note += f"; the run has {', '.join(taken)}: {search.get('reason')}" if note and taken else ""
    return replace(table(f"Pilots of {run.name}", rows), note=f"{note}." if note else "")


def _setting_of(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in values.items()) or "defaults"


def forecast_table(run: RecordedRun) -> Table:
    """What longer runs are expected to come to, a row a multiple of the budget."""
    known = part(run.record, "forecast")
    measure, rows = str(known.get("measure")), []
    for one in items(known, "expected"):
        low, high = ("" if (v := number(one.get(k))) is None else text.measure(measure, v) for k in ("low", "high"))
        row = {"times the budget": one.get("factor"), "updates": one.get("updates")}
        rows.append({**row, f"valid_{measure}": one.get("value"), "90 % interval": f"{low} to {high}"})
    note = f"From {text.count(number(known.get('n')) or 0, 'pilot')} and the end of the run."
    return replace(table(f"Forecast of {run.name}", rows), note=note)


def profile_parts_table(result: Mapping[str, Any]) -> Table:
    """The parts of an update as it is, a row each."""
    present = part(result, "present")
    shares, rows = part(present, "shares"), []
    for name, seconds in part(present, "parts").items():
        share = shares.get(name, 0.0)
        cells = TableCell(text.short_duration(seconds), seconds), TableCell(text.percent(share, 0), share)
        rows.append([TableCell(name), *cells])
    return Table("Parts of an update", ["part", "time", "share"], rows, "Means over the middle half of the updates.")


def profile_table(result: Mapping[str, Any]) -> Table:
    """The settings that were measured, a row each."""
    present, rows = part(result, "present"), []
    columns = ["setting", "update", "80 % of updates", "samples/s", "times", "memory"]
    for one in (present, *items(result, "others")):
        first = TableCell(_named_setting(part(one, "setting"), part(present, "setting"), one is present))
        if why := one.get("failed"):
            rows.append([replace(first, text=f"{first.text}: {why}"), *[TableCell(GAP)] * (len(columns) - 1)])
            continue
        times, memory = one["rate"] / (number(present.get("rate")) or one["rate"]), number(one.get("memory"))
        between = " to ".join(text.short_duration(one[end]) for end in ("low", "high"))
        rows.append([
            first, TableCell(text.short_duration(one["seconds"]), one["seconds"]), TableCell(between, one["low"]),
            TableCell(text.rate(one["rate"]), one["rate"]), TableCell(f"{times:.2f}", times),
            TableCell(GAP) if memory is None else TableCell(text.size(memory), memory),
        ])  # fmt: skip
    note = "Each differs from the first as it says. Updates are medians; times: the samples a second of the first."
    return Table("Settings", columns, rows, note)


def _named_setting(setting: Mapping[str, Any], present: Mapping[str, Any], all_of_it: bool) -> str:
    """What a setting is, or in what it is another than the present one."""
    said = {
        "batch_size": "batch {}", "precision": "{}", "threads": "{} threads", "workers": "{} workers",
    }  # fmt: skip
    words = []
    for name, value in setting.items():
        if value is None or (value == present.get(name) and not all_of_it):
            continue
        if name == "channels_last":
            words += [] if all_of_it else ["channels last" if value else "channels first"]
        elif name == "compile":
            words += ["compiled"] if value else [] if all_of_it else ["not compiled"]
        else:
            form = said.get(name, "{}")
            words.append((form[:-1] if value == 1 and form.endswith("s") else form).format(value))
    return ", ".join(words)


def comparison_table(comparison: RecordedComparison, at: Path | None = None) -> Table:
    """The comparison's own rows, a row a run; from a page in the comparison's folder, `at`, each leads to its run."""
    rows = [{name: row.get(name) for name in (*FIRST, *row)} for row in map(comparable, comparison.rows)]
    names = [row["run"] if isinstance(row["run"], str) else "" for row in rows]
    inside = at is not None and at.resolve().is_relative_to(comparison.folder.resolve())
    links = [link(comparison.folder / n, at, within=comparison.folder) if at and inside and n else None for n in names]
    cells = [(PurePath(name).name, href) for name, href in zip(names, links, strict=True)]
    return _linked(table(f"Runs of {comparison.name}", rows), cells)


def tuning_table(comparison: RecordedComparison) -> Table:
    """The trial runs that the peaks were chosen by."""
    rows = [comparable(row) for row in items(comparison.record, "tuning") if isinstance(row, Mapping)]
    return table("Trial runs", [{k: v for k, v in row.items() if k not in ("run", "seed")} for row in rows])


def speed_up_table(comparison: RecordedComparison) -> Table:
    """What was found about the speed-up, in words where it is a bound."""
    rows = speed_ups(comparison)
    found = table("Speed-up of 1cycle", [{k: v for k, v in row.items() if k not in RESULT} for row in rows])
    cells = [[*cells, *_speed_up(row)] for row, cells in zip(rows, found.rows, strict=True)]
    return replace(found, columns=[*found.columns, "needed", "speed up", "interval", "difference"], rows=cells)


def table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as they are recorded, without the columns that are empty in all."""
    names = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    columns = [NAMES.get(name, name).replace("_", " ") for name in names]
    return Table(caption, columns, [[cell(name, row.get(name)) for name in names] for row in rows])


def origins(records: Records) -> tuple[dict[str, list[tuple[str, str]]], list[Origin]]:
    """What all runs have in common, under each of `TITLES`; and each record with what is its own."""
    facts = {id(run): _facts(run) for run in records.runs}
    common: dict[str, dict[str, Any]] = {
        title: shared([of_run[title] for of_run in facts.values()]) if len(facts) > 1 else {} for title in TITLES
    }
    each = []
    for item in (*records.comparisons, *records.tests, *records.profiles, *records.runs):
        known = common if id(item) in facts else {}
        rest = {
            title: {name: value for name, value in values.items() if name not in known.get(title, {})}
            for title, values in _facts(item).items()
        }
        notes = [str(note) for note in items(item.record, "notes")]
        created = item.record.get("created")
        notes = ([f"begun {str(created).replace('T', ' ').replace('+00:00', ' UTC')}"] if created else []) + notes
        each.append(Origin(item.name, str(item.folder), command(item.record), notes, _listed(rest)))
    return _listed(common), each


def link(folder: Path, at: Path, within: Path) -> str | None:
    """From a page in the folder `at` to a run's page, or to its folder; None where that is not inside of `within`."""
    folder, at, within = (path.resolve() for path in (folder, at, within))
    if folder == at or not (folder.is_dir() and folder.is_relative_to(within)):
        return None
    page = folder / PAGE
    return quote(os.fsencode(os.path.relpath(page if page.exists() else folder, at)))


def _linked(found: Table, names: Sequence[tuple[str, str | None]]) -> Table:
    """The table with the names of its runs, in the first column, as links."""
    cells = [TableCell(_cut(name), href=href) if name else None for name, href in names]
    return replace(found, rows=[[cell or row[0], *row[1:]] for cell, row in zip(cells, found.rows, strict=True)])


def _speed_up(row: Mapping[str, Any]) -> list[TableCell]:
    """What is needed, the speed-up, its interval, and what may be claimed."""
    values = [(name, number(row.get(name))) for name in ("needed", "speed_up")]
    cells = [TableCell(GAP) if value is None else TableCell(bounded(row, name), value) for name, value in values]
    interval = interval_of(row)
    if interval is None:
        return [*cells, TableCell(GAP), TableCell("none claimed: one seed")]
    claim = str(row.get("claim") or "none claimed")
    return [*cells, TableCell(text.bounds(*interval), interval[0] or 0), TableCell(claim)]


def _facts(item: Recorded) -> dict[str, dict[str, Any]]:
    """Everything that decided how a record came out; a setting like "auto" is said with what it came to."""
    asked, settings = flat(item.config), flat(item.settings)
    settings = {name: settings[name] for name in dict.fromkeys((*MAIN, *settings)) if name in settings}
    for name, value in settings.items():
        if asked.get(name) not in (None, value):
            settings[name] = f"{_text(value)} (asked for: {_text(asked[name])})"
    data = flat(item.facts)
    sizes = zip(("train", "validation", "test"), items(item.facts, "samples"), strict=False)
    if samples := ", ".join(f"{split} {size:,}" for split, size in sizes if number(size)):
        data["samples"] = samples
    versions = {**part(item.record, "versions"), "git_commit": item.record.get("git_commit")}
    of_titles = (settings, data, {k: v for k, v in versions.items() if v}, flat(part(item.record, "hardware")))
    return dict(zip(TITLES, of_titles, strict=True))


def _listed(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Names and values under their titles, those that are not set in one line."""
    lists = {}
    for title, values in facts.items():
        named = {re.sub("[._]", " ", name.removeprefix("settings.")): value for name, value in values.items()}
        pairs = [(name, _text(value)) for name, value in named.items() if value not in (None, {})]
        unset = ", ".join(name for name, value in named.items() if value in (None, {}))
        lists[title] = pairs + [("not set", unset)] * bool(unset)
    return {title: pairs for title, pairs in lists.items() if pairs}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return _cut(", ".join(_text(v) for v in value)) or "none"
    if isinstance(value, list | tuple) and all(isinstance(v, Mapping) and "name" in v for v in value):
        return _text([str(v["name"]) for v in value])  # columns of a table: what is known of each is in run.json
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return text.number(value, 5)
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _cut(words: str) -> str:
    return words if len(words) <= WIDEST else words[: WIDEST - 1] + "…"


def cell(name: str, value: Any) -> TableCell:
    """A recorded value of this name."""
    if number(value) is None:
        return TableCell(GAP if value is None else _cut(_text(value)))
    if name == "seconds":
        return TableCell(text.duration(value), value)
    if isinstance(value, int):
        return TableCell(f"{value:,}" if name != "seed" else str(value), value)
    return TableCell(text.measure(name, value), value)

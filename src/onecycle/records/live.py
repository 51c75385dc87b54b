"""How runs and comparisons stand while they are made: read from their files alone, of which nothing is written.

Another process may be writing: what is half written or damaged is passed over, and read the next time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import COMPARISON, PILOTS, RUN, records_below, stage_names, stages_of
from .read import comparable, items, main_value, number, part

TAIL = 2**16  # bytes of the end of a file of lines that tell how it stands
RECENT = 64  # updates whose rate is that of now
STALE = 60.0  # seconds without a word, at least, after which nobody seems to write; and so many of its updates
SLOW = 20
RUNNING, STOPPED, FAILED, FINISHED, LOST, UNREADABLE = "running", "stopped", "failed", "finished", "stale", "unreadable"
STATES = {"running": RUNNING, "interrupted": STOPPED, "failed": FAILED, "finished": FINISHED}


@dataclass(frozen=True)
class Standing:
    """How far a run or a comparison is.

    Attributes:
        name: the folder, as seen from the one that is followed.
        kind: "run" or "comparison".
        stage: of a run that is made in stages, the one that it is in, "1/2 head": the numbers are of that one.
        state: "running", "stopped", "failed", "finished", "stale" (it runs by its record, and nothing was written
            for long) or "unreadable".
        done, total: updates, of a comparison runs; `total` is None where a time says how long.
        epoch, epochs: as far as they are known.
        rate: updates a second of late.
        loss: of training, of the last update, without label smoothing.
        measure, value: what was last measured on the validation data.
        left: seconds, about.
        said: what the forecast says, or what went wrong; or what is done before the first update.
        age: seconds since the last word.
        version: changes with its files.
    """

    name: str
    kind: str
    state: str
    folder: Path
    done: int | None = None
    total: int | None = None
    epoch: int | None = None
    epochs: float | None = None
    rate: float | None = None
    loss: float | None = None
    measure: str | None = None
    value: float | None = None
    left: float | None = None
    said: str = ""
    age: float = 0.0
    version: str = ""
    stage: str = ""
    rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)  # of a comparison

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the rows."""
        return {name: value for name, value in asdict(self).items() if name != "rows"} | {"folder": str(self.folder)}


class Follower:
    """Follows what is in a folder and below it; what has not changed since is not read again."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._known: dict[Path, tuple[str, Standing]] = {}

    def look(self) -> list[Standing]:
        """How everything stands now: what runs first, then the latest word.

        Raises:
            CheckpointError: there is no such folder.
        """
        if not self.root.is_dir():
            raise CheckpointError(f"there is no folder {self.root}: name one that holds runs, or will")
        below = [(kind.what, place) for place, held in records_below(self.root, RUN, COMPARISON) for kind in held]
        found = [one for kind, place in below if (one := self._standing(kind, place)) is not None]
        return sorted(found, key=lambda one: (one.state != RUNNING, one.kind == "run", one.age))

    def _standing(self, kind: str, place: Path) -> Standing | None:
        name = os.path.relpath(place, self.root)
        name = place.resolve().name if name == "." else name
        try:
            version, at = _version(place)
        except OSError:  # it is being moved
            return None
        before = self._known.get(place)
        if before is None or before[0] != version:
            before = version, _read(kind, name, place, version)
            self._known[place] = before
        return _aged(before[1], max(0.0, time.time() - at))


def _version(place: Path) -> tuple[str, float]:
    """What changes with the files of a folder, and when the last of them was written."""
    known, latest = [], 0.0
    for folder in (place, *stages_of(place)):
        for name in (RUN.file, "steps.jsonl", "epochs.jsonl", PILOTS, COMPARISON.file, "checkpoints"):
            with suppress(FileNotFoundError):
                status = os.stat(folder / name)
                known.append(f"{status.st_mtime_ns:x}.{status.st_size:x}")
                latest = max(latest, status.st_mtime)
    return "-".join(known), latest


def _read(kind: str, name: str, place: Path, version: str) -> Standing:
    try:
        record = (RUN if kind == "run" else COMPARISON).read(place)
    except CheckpointError as error:
        return Standing(name, kind, UNREADABLE, place, said=str(error), version=version)
    state = STATES.get(str(record["status"]), str(record["status"]))
    return (_run if kind == "run" else _comparison)(name, place, record, state, version)


def _run(name: str, whole: Path, told: Mapping[str, Any], state: str, version: str) -> Standing:
    """Of the run in the folder `whole`, whose ``run.json`` is `told`: by the records of the stage that it is in."""
    place, record, stage, spent = whole, told, "", 0.0
    if before := stages_of(whole):
        place, record, stage, spent = _stage(whole, told, before)
    steps, epochs = last_rows(place / "steps.jsonl"), last_rows(place / "epochs.jsonl")
    resolved, result, config = (part(record, key) for key in ("resolved", "result", "config"))
    last = steps[-1] if steps else {}
    done, total = _whole(last.get("step"), 1), _whole(resolved.get("updates"))
    samples, size = items(part(told, "facts"), "samples"), number(resolved.get("batch_size"))
    per_epoch = int(_whole(epochs[0].get("step"), 1) or 0) if epochs and epochs[0].get("epoch") == 0 else 0
    per_epoch = per_epoch or (int(samples[0] // size) if samples and size and number(samples[0]) else 0)
    if state == FINISHED:
        done = _whole(result.get("updates")) or done
    measured = result.get("valid") if isinstance(result.get("valid"), dict) else _validation(epochs)
    measure, value = main_value(measured or {}) or (None, None)
    left = _left(state, last, done, total, str(config.get("budget")), spent)
    return Standing(
        name, "run", state, whole, done, total, _whole(last.get("epoch"), 1),
        total / per_epoch if total and per_epoch else number(result.get("epochs")), _rate(steps),
        number(comparable(last).get("loss")), measure, value, left,
        _said(told, place, steps), version=version, stage=stage,
    )  # fmt: skip


def _stage(whole: Path, told: Mapping[str, Any], before: Sequence[Path]) -> tuple[Path, Mapping[str, Any], str, float]:
    """The folder of the stage that a run is in, its record, which one that is, and the seconds that others took."""
    records = []
    with suppress(CheckpointError):  # it is being written
        records = [RUN.read(folder) for folder in before]
    names, at = stage_names(told, before), len(before)
    over = not records or records[-1]["status"] == "finished"
    if over:  # the next one may have no folder of its own yet
        at += 1
    spent = sum(number(part(one, "result").get("seconds")) or 0.0 for one in records)
    folder, record = (whole, told) if over else (before[-1], records[-1])
    stage = f"{at}/{len(names)} {names[min(at, len(names)) - 1]}" if told["status"] != "finished" else ""
    return folder, record, stage, spent


def _comparison(name: str, place: Path, record: Mapping[str, Any], state: str, version: str) -> Standing:
    rows = [row for row in items(record, "table") if isinstance(row, dict)]
    ended = [row for row in rows if row.get("status") in ("finished", "failed")]
    failed = sum(row.get("status") == "failed" for row in rows)
    said = f"{failed} failed" if failed else ""
    return Standing(
        name, "comparison", state, place, len(ended), len(rows) or None, said=said, version=version, rows=rows
    )


def _aged(one: Standing, age: float) -> Standing:
    """The same, `age` seconds after its last word."""
    values = {**vars(one), "age": age}
    if one.state == RUNNING and one.kind == "run":
        if age > max(STALE, SLOW / one.rate if one.rate else STALE):
            values |= {"state": LOST, "left": None}
        elif one.left is not None:
            values["left"] = max(0.0, one.left - age)
    return Standing(**values)


def last_rows(path: Path, most: int = TAIL) -> list[dict[str, Any]]:
    """The records in the last bytes of a file of lines; what is no whole record is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            lines = file.read(most).split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1 if size > most else 0 : -1]:  # the last one is being written, or is empty
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _whole(value: Any, more: int = 0) -> int | None:
    value = number(value)
    return None if value is None else int(value) + more


def _validation(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last that was measured on the validation data."""
    named = ({name[6:]: one for name, one in row.items() if name.startswith("valid_")} for row in reversed(epochs))
    return next((measured for measured in named if measured), None)


def _rate(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Updates a second of the last ones."""
    known = [(row["step"], row["seconds"]) for row in steps[-RECENT:] if number(row.get("seconds")) is not None]
    if len(known) < 2 or known[-1][1] <= known[0][1]:
        return None
    return (known[-1][0] - known[0][0]) / (known[-1][1] - known[0][1])


def _left(
    state: str, last: Mapping[str, Any], done: int | None, total: int | None, budget: str, spent: float
) -> float | None:
    """The seconds that are left, by those that the updates so far took, evaluations among them.

    Of a budget of time that stages share, those before have `spent` so much.
    """
    from ..schedules.budget import Budget

    seconds = number(last.get("seconds"))
    if state != RUNNING or not done or not seconds:
        return None
    if total:
        return max(0.0, seconds * (total - done) / done)
    with suppress(Exception):  # of another version
        limit = Budget.parse(budget).seconds
        return None if limit is None else max(0.0, limit - spent - seconds)
    return None


def _said(record: Mapping[str, Any], place: Path, steps: Sequence[Any]) -> str:
    """What there is to say of a run beside its numbers."""
    if record.get("error"):
        return str(record["error"])
    for name in ("needed", "forecast"):
        if line := part(record, name).get("line"):
            return str(line)
    if steps or record.get("status") != "running":
        return ""
    pilots = len(last_rows(place / PILOTS))
    return f"pilots: {pilots} made" if pilots else "before its first update"

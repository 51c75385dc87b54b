"""What folders hold, read for a page: runs, range tests, comparisons and profiles, each with what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, DataError, did_you_mean
from .curve import Curve
from .files import CHECK, COMPARISON, PILOTS, PROFILE, RUN, read_jsonl, runs_before, stages_of

KINDS = (RUN, CHECK, COMPARISON, PROFILE)
# What the runs of a comparison are measured by, the first that there is: accuracies, which are compared, else losses.
ACCURACIES = ("test_accuracy", "valid_accuracy")
MEASURES = (*ACCURACIES, "test_loss", "valid_loss")


@dataclass(frozen=True)
class Recorded:
    """What a folder holds: the record itself, ``run.json``, ``check.json``, ..., and its parts."""

    name: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings as they were asked for."""
        return part(self.record, "config")

    @property
    def resolved(self) -> Mapping[str, Any]:
        """What the settings came to."""
        return part(self.record, "resolved")

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was read from the data."""
        return part(self.record, "facts")

    @property
    def result(self) -> Mapping[str, Any]:
        return part(self.record, "result")

    def measured(self, split: str) -> Mapping[str, Any]:
        """What was measured on "train", "valid" or "test"."""
        return part(self.result, split)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, and what those that were left open came to; None where that is not recorded."""
        known = {"lr_max": number(self.result.get("lr_max"))} | dict(self.resolved)
        known = {k: value for k, value in known.items() if value is not None and k not in ("scales", "search")}
        given = {name: value for name, value in self.config.items() if value not in (None, "auto", "default")}
        return {**self.config, **known, **given}

    @property
    def finished(self) -> bool:
        return self.record.get("status") == "finished"


@dataclass(frozen=True)
class RecordedRun(Recorded):
    """A run: ``run.json`` and its rows, read up to the first damaged line; and those `before` that it goes on from.

    Of one that was made in stages, `stages` are those before the last.
    """

    steps: Sequence[Mapping[str, float]]
    epochs: Sequence[Mapping[str, float]]
    damage: Sequence[str] = ()
    before: Sequence[RecordedRun] = ()
    pilots: Sequence[Mapping[str, Any]] = ()
    stages: Sequence[RecordedRun] = ()

    @property
    def last_measured(self) -> Mapping[str, float]:
        """The row, of an update or an epoch, with what was measured last on the validation data; empty without any."""
        measured = [row for row in (*self.steps, *self.epochs) if any(name.startswith("valid_") for name in row)]
        return max(measured, key=lambda row: row["step"], default={})

    @property
    def ends_as_before(self) -> bool:
        """Whether it ended with the weights that its last stage began with."""
        return bool(self.stages and self.measured("valid") == self.stages[-1].measured("valid") != {})

    @property
    def whole(self) -> RecordedRun:
        """The run with the rows of those before it in front of its own, each with the number of its ``fit``."""
        steps: list[Mapping[str, float]] = []
        epochs: list[Mapping[str, float]] = []
        parts = [part for run in (*self.before, self) for part in (*run.stages, run)]
        for fit, run in enumerate(parts):
            spent = steps[-1].get("seconds", 0.0) if steps else 0.0
            steps += [{"fit": fit, **row, "seconds": row.get("seconds", 0.0) + spent} for row in run.steps]
            epochs += [{"fit": fit, **row} for row in run.epochs]
        return replace(self, steps=steps, epochs=epochs) if len(parts) > 1 else self


@dataclass(frozen=True)
class RecordedTest(Recorded):
    """A range test: ``check.json``; `curve` is None where it came to no end."""

    curve: Curve | None


@dataclass(frozen=True)
class RecordedComparison(Recorded):
    """A comparison: ``compare.json``, its rows, and the runs below its folder, each with its row."""

    rows: Sequence[Mapping[str, Any]]
    runs: Sequence[tuple[Mapping[str, Any], RecordedRun]]
    damage: Sequence[str] = ()


@dataclass(frozen=True)
class RecordedProfile(Recorded):
    """A profile: ``profile.json``."""


@dataclass(frozen=True)
class Records:
    """Everything on a page, in the order in which it was given."""

    runs: list[RecordedRun] = field(default_factory=list)
    tests: list[RecordedTest] = field(default_factory=list)
    comparisons: list[RecordedComparison] = field(default_factory=list)
    profiles: list[RecordedProfile] = field(default_factory=list)


def read(folders: Sequence[str | Path]) -> Records:
    """What the folders hold.

    Raises:
        ConfigError: no folders.
        CheckpointError: a folder holds nothing of the kind, or something of another version, or it cannot be read.
    """
    if isinstance(folders, str | Path) or not folders:
        raise ConfigError(f"a page needs a list of at least one folder of a run; received {folders!r}")
    given = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    records = Records()
    for name, folder in zip(_names(given), given, strict=True):
        kinds = [kind for kind in KINDS if kind.exists(folder)]
        if not kinds:
            raise CheckpointError(_nothing_in(folder))
        if RUN in kinds:
            records.runs.append(read_run(folder, name))
        if CHECK in kinds:
            records.tests.append(_read_test(folder, name))
        if COMPARISON in kinds:
            records.comparisons.append(_read_comparison(folder, name))
        if PROFILE in kinds:
            records.profiles.append(_read_profile(folder, name))
    return records


def read_run(folder: Path, name: str) -> RecordedRun:
    """A run of which ``run.json`` is whole, and those that it goes on from, as far as they are still there."""
    run = _read_run(folder, name)
    try:
        before = [_read_run(one, one.name) for one in runs_before(run.record)]
    except CheckpointError:
        before = []
    return replace(run, before=before)


def _read_run(folder: Path, name: str) -> RecordedRun:
    record = RUN.read(folder)
    steps, steps_damage = read_rows(folder / "steps.jsonl")
    epochs, epochs_damage = read_rows(folder / "epochs.jsonl")
    damage = [d for d in (steps_damage, epochs_damage) if d]
    pilots = list(read_jsonl(folder / PILOTS, damage.append))
    stages: list[RecordedRun] = []
    for i, place in enumerate(stages_of(folder), 1):
        try:
            stages.append(_read_run(place, f"{name}, stage {i}"))
        except CheckpointError as error:
            damage.append(f"stage {i}: {error}")
    damage += [f"{one.name.removeprefix(f'{name}, ')}: {said}" for one in stages for said in one.damage]
    return RecordedRun(name, folder, record, steps, epochs, damage, pilots=pilots, stages=stages)


def read_rows(path: Path) -> tuple[list[dict[str, float]], str | None]:
    """The numbers of each line of a ``.jsonl`` file, up to one that is cut off or damaged, and a sentence about it."""
    damage: list[str] = []
    rows: list[dict[str, float]] = []
    for record in read_jsonl(path, damage.append):
        if number(record.get("step")) is None:
            return rows, f"{path.name} breaks off in line {len(rows) + 1}, and is shown up to there"
        rows.append({key: value if isinstance(value, int | float) else math.nan for key, value in record.items()})
    return rows, damage[0] if damage else None


def part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping within a record; empty where there is none."""
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


def items(record: Mapping[str, Any], name: str) -> list[Any]:
    """A list within a record; empty where there is none."""
    value = record.get(name)
    return list(value) if isinstance(value, list | tuple) else []


def number(value: Any) -> float | None:
    """`value` where it is a finite number.

    >>> number(2), number(float("nan")), number("2")
    (2, None, None)
    """
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def main_value(measures: Mapping[str, Any]) -> tuple[str, float] | None:
    """The accuracy, or the first other metric, or the loss: its name and value; None where nothing is known.

    >>> main_value({"loss": 0.5, "accuracy": 0.9}), main_value({"loss": float("nan")})
    (('accuracy', 0.9), None)
    """
    names = sorted(measures, key=lambda name: {"accuracy": 0, "loss": 2}.get(name, 1))
    return next(((name, value) for name in names if (value := number(measures[name])) is not None), None)


def main_measure(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = MEASURES) -> str | None:
    """The first column of `names` that a run of a comparison has a number in: accuracy before loss, test before valid.

    >>> main_measure([{"valid_accuracy": 0.9, "test_loss": 0.3}]), main_measure([{"test_accuracy": None}])
    ('valid_accuracy', None)
    """
    return next((name for name in names if any(number(row.get(name)) is not None for row in rows)), None)


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, or means, with the losses that compare with each other: without label smoothing, where that is recorded.

    >>> comparable({"loss": 0.9, "loss_unsmoothed": 0.5, "accuracy": 0.8})
    {'loss': 0.5, 'accuracy': 0.8}
    """
    end = "_unsmoothed"
    return {name: row.get(f"{name}{end}", value) for name, value in row.items() if not name.endswith(end)}


def _read_test(folder: Path, name: str) -> RecordedTest:
    record = CHECK.read(folder)
    data = part(record, "result").get("curve")
    try:
        curve = None if data is None else Curve.from_dict(data)
    except DataError as error:
        raise CheckpointError(f"{CHECK.path(folder)} is damaged: {error}. Run the range test again") from error
    return RecordedTest(str(part(record, "result").get("title") or name), folder, record, curve)


def _read_profile(folder: Path, name: str) -> RecordedProfile:
    record = PROFILE.read(folder)
    if not part(part(record, "result"), "present"):
        raise CheckpointError(f"{PROFILE.path(folder)} is damaged: it has no present. Make the profile again")
    return RecordedProfile(str(part(record, "result").get("title") or name), folder, record)


def _read_comparison(folder: Path, name: str) -> RecordedComparison:
    record = COMPARISON.read(folder)
    rows = [row for row in items(record, "table") if isinstance(row, Mapping)]
    runs, damage = [], []
    for row in rows:
        where = row.get("run")
        if isinstance(where, str) and where:
            try:
                runs.append((row, read_run(folder / where, where)))
            except CheckpointError as error:
                if row.get("status") == "finished":  # one that was not begun has left nothing
                    damage.append(str(error))
    return RecordedComparison(name, folder, record, rows, runs, damage)


def _nothing_in(folder: Path) -> str:
    wanted = "neither a run.json nor a check.json, a compare.json or a profile.json"
    if not folder.is_dir():
        wanted = "there is no such folder"
    below = sorted({path.parent for kind in KINDS for path in folder.glob(f"*/{kind.file}")})
    if below:
        return f"nothing to report in {folder} ({wanted}): name what is in it, such as {below[0]}"
    beside = {path.parent.name for kind in KINDS for path in folder.parent.glob(f"*/{kind.file}")}
    near = did_you_mean(folder.name, beside) if beside else "there is nothing beside it either"
    return f"nothing to report in {folder} ({wanted}): {near}"


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]

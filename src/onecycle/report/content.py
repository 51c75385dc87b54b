"""A page in words, and the runs behind a line: those that differ in their seed alone, named by what else differs."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any

from .. import text
from ..records.read import Comparison, RangeTest, Records, Run, items, main_value, number, part
from ..records.statistics import bounds_of, student

# More groups than this are in the table, and of the best a sentence each.
SENTENCES, BEST = 12, 3
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


def summary(records: Records, groups: Sequence[Group]) -> list[str]:
    """What came out, the most important first."""
    said = [sentence for comparison in records.comparisons for sentence in of_comparison(comparison)]
    said += [of_test(test) for test in records.tests]
    if len(groups) > SENTENCES:
        said.append(f"All {len(groups):,} are in the table; the {BEST} best by validation are:")
        groups = sorted(groups, key=_goodness, reverse=True)[:BEST]
    said += [of_run(group.runs[0]) if len(group.runs) == 1 else of_group(group) for group in groups]
    if len(groups) > 1 and all(len(group.runs) == 1 for group in groups):
        said.append("One seed each: there is no interval, and small differences may be chance.")
    return said


def notices(records: Records) -> list[str]:
    """What to know before believing the figures."""
    said = differences(records.runs)
    runs = [*records.runs, *(run for comparison in records.comparisons for _, run in comparison.runs)]
    said += [f"{run.name}: {sentence}." for run in runs for sentence in run.damage]
    said += [sentence for comparison in records.comparisons for sentence in comparison.damage]
    return said


def of_run(run: Run) -> str:
    """One run in words."""
    config, result = run.config, run.result
    model, data = config.get("model"), config.get("data")
    lr = number(result.get("lr_max")) or number(config.get("lr_max"))
    settings = [config.get("policy"), config.get("optimizer"), config.get("budget")]
    settings = [str(setting) for setting in settings if setting] + ([f"peak learning rate {lr:.3g}"] if lr else [])
    what = f"{model} on {data}" if model and data else "a run"
    return f"{run.name}: {what}" + (f", {', '.join(settings)}" if settings else "") + f". {outcome(run)}"


def outcome(run: Run) -> str:
    """How a run ended, and what was measured."""
    if not run.finished:
        error = f": {str(run.record['error']).rstrip('.')}" if run.record.get("error") else ""
        how = {"running": "It has no end yet", "failed": "It failed", "interrupted": "It was interrupted"}
        status = how.get(str(run.record.get("status")), f"Its status is {run.record.get('status')}")
        updates = len(run.steps) or max((int(row["step"]) + 1 for row in run.epochs), default=0)
        return f"{status}{error}; {updates:,} updates are recorded."
    samples: dict[str, Any] = dict(zip(("train", "valid", "test"), items(run.facts, "samples"), strict=False))
    said = []
    for split, name in (("test", "test"), ("valid", "validation")):
        found = main_value(part(run.result, split))
        if found is not None:
            n = number(samples.get(split))
            said.append(f"{name} {_measure(*found)}" + (f" ({n:,} samples)" if n else ""))
    updates, seconds = number(run.result.get("updates")), number(run.result.get("seconds"))
    took = f"{updates:,} updates" if updates is not None else ""
    took += f" in {text.duration(seconds)}" if seconds is not None else ""
    sentence = "; ".join(part for part in (", ".join(said), took) if part) or "finished"
    return sentence[0].upper() + sentence[1:] + "."


def of_group(group: Group) -> str:
    """Runs over seeds in words."""
    finished = [run for run in group.runs if run.finished]
    said = []
    for split, name in (("test", "test"), ("valid", "validation")):
        found = [value for run in finished if (value := main_value(part(run.result, split)))]
        if found:
            metric, values = found[0][0], [value for _, value in found]
            mean, *ends = student(values, within=bounds_of(metric))
            interval = f"95 % interval {' to '.join(text.measure(metric, end) for end in ends)}, "
            said.append(f"mean {name} {_measure(metric, mean)} ({interval * (len(found) > 1)}n = {len(found)})")
    rest = len(group.runs) - len(finished)
    said += [f"{rest} of {len(group.runs)} runs did not finish"] if rest else []
    return f"{group.label}: {', '.join(said) or 'finished'}."


def of_test(test: RangeTest) -> str:
    """A range test in words."""
    result = test.result
    verdict, lr = part(result, "verdict"), number(result.get("lr_max"))
    said = []
    if verdict.get("answer"):
        said.append(f"super-convergence is {verdict['answer']}")
    low = number(result.get("lr_min"))
    if lr:
        said.append(f"peak learning rate {lr:.3g}" + (f" (range {low:.3g} to {lr:.3g})" if low else ""))
    else:
        said.append(
            "no peak learning rate" + (f" ({str(result['reason']).rstrip('.')})" if result.get("reason") else "")
        )
    return f"{test.name}: range test, {'; '.join(said)}."


def of_comparison(comparison: Comparison) -> list[str]:
    """A comparison's own sentences, and how many of its runs came to their end."""
    said = [str(sentence) for sentence in items(comparison.record, "summary")]
    if comparison.record.get("status") in ("running", "interrupted"):
        how = {"running": "It has no end yet", "interrupted": "It was interrupted"}[comparison.record["status"]]
        said.append(f"{how}: the command below goes on with it.")
    status = [str(row.get("status")) for row in comparison.rows]
    counts = [f"{status.count(name)} {name}" for name in dict.fromkeys(status)]
    seeds = {str(row.get("seed")) for row in comparison.rows}
    if len(seeds) == 1:
        said.append("One seed: there is no interval, and small differences may be chance.")
    return [
        *said,
        f"{comparison.name}: {len(status)} runs ({', '.join(counts)})."
        if status
        else f"{comparison.name}: no runs yet.",
    ]


def interval_of(row: Mapping[str, Any]) -> tuple[float | None, float | None] | None:
    """The ends of the interval of a recorded speed-up, None for an open one; None where one seed allows none.

    >>> interval_of({"low": 1.2, "high": None, "n": 5}), interval_of({"low": None, "high": None, "n": 1})
    ((1.2, None), None)
    """
    low, high, n = (number(row.get(name)) for name in ("low", "high", "n"))
    return None if low is None and high is None and (n is None or n < 2) else (low, high)


def speed_up_text(row: Mapping[str, Any]) -> str:
    """A recorded speed-up in words.

    >>> speed_up_text({"speed_up": 1.294, "low": 1.04, "high": 1.75, "budget": 4, "n": 5})
    '1.294 (1.04 to 1.75) in 4 epochs, n = 5'
    >>> speed_up_text({"speed_up": 1.0, "low": 1.0, "high": None, "more_than": True})
    'more than 1 (from 1)'
    """
    interval, budget, n = interval_of(row), number(row.get("budget")), number(row.get("n"))
    return (
        bounded(row, "speed_up")
        + (f" ({text.bounds(*interval)})" if interval else "")
        + (f" in {budget:g} epochs" if budget is not None else "")
        + (f", n = {n}" if n is not None else "")
    )


def bounded(row: Mapping[str, Any], name: str) -> str:
    """A value of a recorded speed-up, said to be a bound where it is one."""
    how = "more than " if row.get("more_than") else "at most " if row.get("at_most") else ""
    return how + text.measure(name, row[name])


def _goodness(group: Group) -> float:
    """The mean validation accuracy, or the loss turned over; the lowest where neither is known."""
    measures = [part(run.result, "valid") for run in group.runs]
    for name, sign in (("accuracy", 1), ("loss", -1)):
        values = [value for found in measures if (value := number(found.get(name))) is not None]
        if values:
            return sign * fmean(values)
    return -math.inf


def command(record: Mapping[str, Any]) -> str:
    """The command line that a record was made by; empty where it is not recorded."""
    words = [str(word) for word in items(record, "command")]
    if not words:
        return ""
    program = PurePath(words[0])
    if program.name == "__main__.py":
        start = ["python", "-m", program.parent.name]
    elif program.suffix == ".py":
        start = ["python", words[0]]
    else:
        start = [program.name]
    return shlex.join([*start, *words[1:]])


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
    parts = []
    for name, value in values.items():
        if value is not None:
            said = _short(str(value), 40)
            plain = name in ("policy", "optimizer", "model", "data", "budget")
            parts.append(said if plain else text.count(value, "epochs") if name == "epochs" else f"{name} {said}")
    return ", ".join(parts)


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


def _short(words: str, longest: int = 60) -> str:
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _measure(name: str, value: float) -> str:
    """``accuracy 98.05 %`` or ``loss 0.154``."""
    return f"{name.replace('_', ' ')} {text.measure(name, value)}"

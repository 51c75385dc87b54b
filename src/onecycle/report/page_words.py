"""A page in words: what came out of runs, range tests and comparisons, a sentence each."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from statistics import fmean
from typing import Any

import numpy as np

from ..records.read import Comparison, RangeTest, Records, Run, items, number, part
from .page_groups import Group, differences
from .rows import mean_band

# More groups than this are in the table, and of the best a sentence each.
SENTENCES, BEST = 12, 3


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
    settings = [config.get("preset"), config.get("optimizer"), config.get("budget")]
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
            said.append(f"{name} {measure(*found)}" + (f" ({n:,} samples)" if n else ""))
    updates, seconds = number(run.result.get("updates")), number(run.result.get("seconds"))
    took = f"{updates:,} updates" if updates is not None else ""
    took += f" in {duration(seconds)}" if seconds is not None else ""
    sentence = "; ".join(part for part in (", ".join(said), took) if part) or "finished"
    return sentence[0].upper() + sentence[1:] + "."


def of_group(group: Group) -> str:
    """Runs over seeds in words."""
    finished = [run for run in group.runs if run.finished]
    said = []
    for split, name in (("test", "test"), ("valid", "validation")):
        found = [value for run in finished if (value := main_value(part(run.result, split)))]
        if found:
            metric, values = found[0][0], np.array([[value] for _, value in found])
            mean, *ends = (float(part[0]) for part in mean_band(values))
            interval = f"95 % interval {' to '.join(value_text(metric, end) for end in ends)}, "
            said.append(f"mean {name} {measure(metric, mean)} ({interval * (len(found) > 1)}n = {len(found)})")
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
        + (f" ({ends_text(*interval)})" if interval else "")
        + (f" in {budget:g} epochs" if budget is not None else "")
        + (f", n = {n}" if n is not None else "")
    )


def bounded(row: Mapping[str, Any], name: str) -> str:
    """A value of a recorded speed-up, said to be a bound where it is one."""
    how = "more than " if row.get("more_than") else "at most " if row.get("at_most") else ""
    return how + value_text(name, row[name])


def ends_text(low: float | None, high: float | None) -> str:
    """``1.04 to 1.75``, ``from 1.04``, ``up to 1.75``.

    >>> ends_text(1.04, 1.75), ends_text(None, None)
    ('1.04 to 1.75', 'open')
    """
    if low is None or high is None:
        return "open" if low is high else f"from {low:.4g}" if high is None else f"up to {high:.4g}"
    return f"{low:.4g} to {high:.4g}"


def _goodness(group: Group) -> float:
    """The mean validation accuracy, or the loss turned over; the lowest where neither is known."""
    measures = [part(run.result, "valid") for run in group.runs]
    for name, sign in (("accuracy", 1), ("loss", -1)):
        values = [value for found in measures if (value := number(found.get(name))) is not None]
        if values:
            return sign * fmean(values)
    return -math.inf


def main_value(measures: Mapping[str, Any]) -> tuple[str, float] | None:
    """The accuracy, or the first other metric, or the loss."""
    names = sorted(measures, key=lambda name: {"accuracy": 0, "loss": 2}.get(name, 1))
    return next(((name, value) for name in names if (value := number(measures[name])) is not None), None)


def measure(name: str, value: float) -> str:
    """``accuracy 98.05 %`` or ``loss 0.154``."""
    return f"{name.replace('_', ' ')} {value_text(name, value)}"


def value_text(name: str, value: float) -> str:
    """A value as it is written in sentences and tables.

    >>> value_text("test_accuracy", 0.98049), value_text("loss", 0.15427)
    ('98.05 %', '0.1543')
    """
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.9), duration(250), duration(7300)
    ('0.9 s', '4 min 10 s', '2 h 1 min')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


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

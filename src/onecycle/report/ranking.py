"""Runs ranked by what their validation data say, those of other data apart, and the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .. import text
from ..records.read import RecordedRun, items, main_value, number
from ..records.statistics import bounds_of, lower_is_better, student, wilson
from .content import Group, flat, groups, measured_on, outcome, varying
from .tables import GAP, MAIN, Table, TableCell, cell

# What settings came to that is no choice of anyone's.
FOLLOWS = ("updates", "parameters", "scales", "search", "schedule", "seed")
# So near to a whole number is the count of right samples that an accuracy is of.
WHOLE = 0.05


@dataclass(frozen=True)
class Ranked:
    """Runs that differ in their seed alone: the mean of their validation metric, its interval, and of how many.

    The 95 % interval is Student's over the seeds; of one run Wilson's over its validation samples, where the metric is
    an accuracy of those, and none else.
    """

    group: Group
    value: float
    interval: tuple[float, float] | None
    n: str


@dataclass(frozen=True)
class Ranking:
    """Runs whose `metric` was measured on the same data, the best first, and the `names` of settings that differ."""

    metric: str
    ranked: Sequence[Ranked]
    names: Sequence[str]
    known: bool = True

    @property
    def sentence(self) -> str:
        """Which is first, and whose interval reaches it."""
        first, *others = self.ranked
        value = text.measure(self.metric, first.value)
        metric = self.metric.replace("_", " ")
        said = f"By validation {metric} {first.group.label} is first of {len(self.ranked)}: {value}"
        without = "" if self.known else " These were begun in Python and do not say what their data were."
        near = [one.group.label for one in others if _overlap(first.interval, one.interval)]
        if near:
            said += f"; the {'intervals' if len(near) > 1 else 'interval'} of {text.listed(near, most=5)} "
            said += f"{'overlap' if len(near) > 1 else 'overlaps'} its own, so that the order may be chance"
        return f"{said}.{without}"


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def rankings(runs: Sequence[RecordedRun]) -> tuple[list[Ranking], list[str]]:
    """The rankings of several runs, one for each data set and metric; and sentences about those that are in none.

    A run that has not finished, or has measured no validation data, is not ranked. One that is alone with its data or
    its metric is compared with nothing.
    """
    if len(runs) < 2:
        return [], []
    left, kinds = list[str](), dict[str, list[RecordedRun]]()
    for run in runs:
        main = main_value(run.measured("valid"))
        if not run.finished:
            left.append(f"{run.name} is not ranked: {_so_far(run)}")
        elif main is None:
            left.append(f"{run.name} is not ranked: nothing was measured on validation data.")
        else:
            kinds.setdefault(json.dumps([main[0], measured_on(run)], sort_keys=True, default=str), []).append(run)
    made = []
    for of_kind in kinds.values():
        metric = next(name for name, _ in [main_value(of_kind[0].measured("valid")) or ("", 0.0)])
        if len(mates := groups(of_kind)) > 1:
            sign = 1 if lower_is_better(metric) else -1
            ranked = sorted((_ranked(group, metric) for group in mates), key=lambda one: sign * one.value)
            made.append(Ranking(metric, ranked, _differing(of_kind), bool(of_kind[0].facts)))
        elif len(kinds) > 1:
            one = mates[0]
            means = f"validation {metric.replace('_', ' ')} {text.measure(metric, _ranked(one, metric).value)}"
            left.append(f"{one.label} is not ranked with the others, of other data or another metric: {means}.")
    return made, left


def _so_far(run: RecordedRun) -> str:
    """How a run that has not finished stands."""
    last = next((row for row in reversed(run.epochs) if any(name.startswith("valid_") for name in row)), {})
    main = main_value({name[6:]: value for name, value in last.items() if name.startswith("valid_")})
    measured = f" Its last validation {main[0].replace('_', ' ')} is {text.measure(*main)}." if main else ""
    if run.record.get("status") != "running":
        return f"{_lowered(outcome(run))}{measured}"
    updates = text.count(len(run.steps), "update")
    return f"it is still being written, or was killed, after {updates}.{measured}"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _ranked(group: Group, metric: str) -> Ranked:
    values = [value for run in group.runs if (value := number(run.measured("valid").get(metric))) is not None]
    if len(values) > 1:
        mean, low, high = student(values, within=bounds_of(metric))
        return Ranked(group, mean, (low, high), text.count(len(values), "seed"))
    samples = dict(zip(("train", "valid"), items(group.runs[0].facts, "samples"), strict=False)).get("valid")
    n, value = int(number(samples) or 0), fmean(values)
    if not n:
        return Ranked(group, value, None, text.count(1, "seed"))
    hits = round(value * n)
    facts = group.runs[0].facts
    of_samples = metric == "accuracy" and facts.get("kind") != "text" and not facts.get("label_sets")
    counted = of_samples and abs(hits - value * n) < WHOLE
    return Ranked(group, value, wilson(hits, n) if counted else None, text.count(n, "sample"))


def _differing(runs: Sequence[RecordedRun]) -> list[str]:
    """The names of the settings in which runs differ: as they were asked for, or by what these came to."""
    settings = [flat({k: v for k, v in run.settings.items() if k not in FOLLOWS}) for run in runs]
    names = dict.fromkeys([*varying(runs), *(name for one in settings for name in one)])
    differ = [name for name in names if len({json.dumps(one.get(name), default=str) for one in settings}) > 1]
    return sorted(differ, key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN))


def ranking_table(ranking: Ranking) -> Table:
    """A row a run or a group of seeds, the best first: what was measured, and the settings in which they differ."""
    metric = ranking.metric
    word, rows = metric.replace("_", " "), list[list[TableCell]]()
    runs = [run for one in ranking.ranked for run in one.group.runs]
    tested = any(number(run.measured("test").get(metric)) is not None for run in runs)
    seconds = any(number(run.result.get("seconds")) is not None for run in runs)
    for place, one in enumerate(ranking.ranked, 1):
        ends = GAP if one.interval is None else " to ".join(text.measure(metric, end) for end in one.interval)
        low = None if one.interval is None else one.interval[0]
        row = [
            TableCell(one.group.label), TableCell(str(place), place), _measure(metric, one.value),
            TableCell(ends, low), TableCell(one.n),
        ]  # fmt: skip
        row += [_measure(metric, _mean_of(one.group, "test", metric))] if tested else []
        row += [_setting(one.group, name) for name in ranking.names]
        row += [_seconds(one.group)] if seconds else []
        rows.append(row)
    heads = ["run", "place", f"valid {word}", "95 % interval", "n", *([f"test {word}"] if tested else [])]
    heads += [*(name.replace("_", " ") for name in ranking.names), *(["time"] if seconds else [])]
    note = (
        "Intervals: Student's over seeds; of one run Wilson's over its validation samples, which leaves out that "
        "another seed gives another run. The best of several looks better on what it is chosen by than it is."
    )
    return Table(f"Ranked by validation {word}", heads, rows, note)


def _measure(metric: str, value: float | None) -> TableCell:
    return TableCell(GAP) if value is None else TableCell(text.measure(metric, value), value)


def _mean_of(group: Group, split: str, metric: str) -> float | None:
    values = [value for run in group.runs if (value := number(run.measured(split).get(metric))) is not None]
    return fmean(values) if values else None


def _seconds(group: Group) -> TableCell:
    known = [value for run in group.runs if (value := number(run.result.get("seconds"))) is not None]
    return TableCell(text.duration(fmean(known)), fmean(known)) if known else TableCell(GAP)


def _setting(group: Group, name: str) -> TableCell:
    """A setting of a group; where its runs differ in it, such as peaks that were found, all that it was."""
    values: dict[str, Any] = {}
    for run in group.runs:
        value = flat(run.settings).get(name)
        values.setdefault(json.dumps(value, default=str), value)
    cells = [cell(name, value) for value in values.values()]
    return cells[0] if len(cells) == 1 else TableCell(", ".join(one.text for one in cells))

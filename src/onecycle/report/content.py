"""A page in words: its title, a sentence for each thing on it, what to beware of; and which runs are repetitions."""

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
from ..records.read import (
    Recorded,
    RecordedComparison,
    RecordedProfile,
    RecordedRun,
    RecordedTest,
    Records,
    items,
    main_value,
    number,
    part,
)
from ..records.statistics import bounds_of, student

# What the answers of a range test's verdict say. That accuracy is kept is a condition of super-convergence, no more.
ANSWERS = {
    "possible": "Keeps its accuracy at large learning rates",
    "not possible": "Does not keep its accuracy at large learning rates",
    "unclear": "Unclear whether it keeps its accuracy at large learning rates",
}

# With more groups than this, only the best get a sentence each; the others are in the table.
SENTENCES, BEST = 12, 3
# Facts that decide whether two measures are of the same thing; the mean and the spread of the pixels follow the seed.
FACTS = ("kind", "input_shape", "outputs", "classes", "samples")
DATA = ("data", "target", "valid", "test", "limit", *(f"facts.{name}" for name in FACTS))
# Columns of a comparison that are no axis of it: what was measured, and where it is.
MEASURED = ("seed", "lr_max", "seconds", "status", "error", "run", "updates", "samples_per_second", "created")
SPLITS = {"test": "test", "flipped": "mirrored test", "valid": "validation"}
ENDINGS = {"running": "It has no end yet", "failed": "It failed", "interrupted": "It was interrupted"}
ENDS_AS_BEFORE = "ended with the weights of the head's stage, since the last one came to no better"
ONE_SEED = "One seed: there is no interval, and small differences may be chance."


def title(records: Records) -> str:
    """What the page is about: model, data and budget, as far as everything on it shares them."""
    everything = [*records.comparisons, *records.tests, *records.profiles, *records.runs]
    subject = _subject(shared([_setting(item) for item in everything]))
    if len(everything) == 1:
        (item,) = everything
        if isinstance(item, RecordedComparison):
            policies = [str(policy) for policy in items(item.config, "policies")]
            return f"{text.listed(policies) or item.name}: {subject}" if subject else item.name
        kind = {RecordedTest: "Range test: ", RecordedProfile: "Profile: "}.get(type(item), "")
        return f"{kind}{subject or item.name}"
    kinds = (
        (records.comparisons, "comparison"), (records.tests, "range test"), (records.profiles, "profile"),
        (records.runs, "run"),
    )  # fmt: skip
    counts = ", ".join(text.count(len(of_kind), name) for of_kind, name in kinds if of_kind)
    return f"{counts}: {subject}" if subject else counts


def summary(records: Records, groups: Sequence[Group]) -> list[str]:
    """What came out, the most important first."""
    said = [sentence for comparison in records.comparisons for sentence in of_comparison(comparison)]
    said += [of_test(test) for test in records.tests]
    said += [f"{profile.name}: {profile_sentence(profile.result)}" for profile in records.profiles]
    if len(groups) > SENTENCES:
        said.append(f"All {len(groups):,} are in the table; the {BEST} best by validation are:")
        groups = sorted(groups, key=_goodness, reverse=True)[:BEST]
    said += [of_run(group.runs[0]) if len(group.runs) == 1 else of_group(group) for group in groups]
    if len(groups) > 1 and all(len(group.runs) == 1 for group in groups):
        said.append(ONE_SEED.replace("One seed", "One seed each"))
    return said


def notices(records: Records) -> list[str]:
    """What to know before believing the figures."""
    said = differences(records.runs)
    runs = [*records.runs, *(run for comparison in records.comparisons for _, run in comparison.runs)]
    said += [f"{run.name}: {sentence}." for run in runs for sentence in run.damage]
    said += [sentence for comparison in records.comparisons for sentence in comparison.damage]
    return said


def of_run(run: RecordedRun) -> str:
    """One run in words: how it ended, then how it was set."""
    settings = run.settings
    lr = number(run.resolved.get("lr_max")) or number(settings.get("lr_max"))
    subject = [_subject({**_setting(run), "budget": None})]
    optimizer = run.resolved.get("optimizer") or settings.get("optimizer")
    names = [settings.get("policy"), optimizer, settings.get("budget")]
    setting = [*subject, *(name for name in names if isinstance(name, str)), lr and f"peak learning rate {lr:.3g}"]
    words = ", ".join(word for word in setting if word)
    lines = [str(part(run.record, name).get("line") or "") for name in ("forecast", "needed")]
    foreseen = "".join(f" {line[:1].upper()}{line[1:]}." for line in lines if line)
    return f"{run.name}: {outcome(run)}{_in_stages(run)}{_in_all(run)}{foreseen}" + (
        f" Setting: {words}." if words else ""
    )


def _in_stages(run: RecordedRun) -> str:
    """In how many stages a run was made, and whether the last one was in vain; nothing for one that is in one piece."""
    if not run.stages:
        return ""
    updates = sum(len(one.steps) for one in (*run.stages, run))
    said = f" It has {len(run.stages) + 1} stages, with {text.count(updates, 'update')} in all"
    return said + (f", and {ENDS_AS_BEFORE}." if run.ends_as_before else ".")


def _in_all(run: RecordedRun) -> str:
    """What a run goes on from, and the epochs and updates of both; nothing for one that begins by itself."""
    extends = part(run.record, "extends")
    if not extends:
        return ""
    epochs, updates = ((number(extends.get(k)) or 0) + (number(run.result.get(k)) or 0) for k in ("epochs", "updates"))
    whole = f"{text.count(epochs, 'epoch')} and {text.count(updates, 'update')} in all"
    return f" It goes on from {extends.get('run') or 'a fit before it'}: {whole}."


def outcome(run: RecordedRun) -> str:
    """How a run ended, and what was measured."""
    if not run.finished:
        error = f": {str(run.record['error']).rstrip('.')}" if run.record.get("error") else ""
        status = run.record.get("status")
        updates = len(run.steps) or max((int(row["step"]) + 1 for row in run.epochs), default=0)
        updates += sum(len(one.steps) for one in run.stages)
        ending = ENDINGS.get(str(status), f"Its status is {status}")
        are = "is" if updates == 1 else "are"
        return f"{ending}{error}; {text.count(updates, 'update')} {are} recorded{_rescued(run)}."
    samples: dict[str, Any] = dict(zip(("train", "valid", "test"), items(run.facts, "samples"), strict=False))
    measured = []
    for split, name in SPLITS.items():
        if main := main_value(run.measured(split)):
            n = number(samples.get(split))
            measured.append(f"{name} {_measure(*main)}" + (f" ({text.count(n, 'sample')})" if n else ""))
    base = part(run.result, "baseline")
    if (value := number(base.get("value"))) is not None:
        name, valid = str(base.get("measure")), run.measured("valid")
        if (own := number(valid.get(name))) is not None and name not in (main_value(valid) or ()):
            measured.append(f"validation {_measure(name, own)}")
        measured.append(f"where {base.get('by')} gives {_measure(name, value)}")
    updates, seconds = number(run.result.get("updates")), number(run.result.get("seconds"))
    took = text.count(updates, "update") if updates is not None else ""
    took += f" in {text.duration(seconds)}" if seconds is not None else ""
    sentence = "; ".join(words for words in (", ".join(measured), took) if words) or "finished"
    return f"{sentence}{_rescued(run)}."


def _rescued(run: RecordedRun) -> str:
    """That a run was lost and went back to a good state, and where."""
    lost = [str(int(row["step"])) for row in run.steps if "rescue_back_to" in row]
    if not lost:
        return ""
    updates = f"update{'s' * (len(lost) > 1)} {text.listed(lost)}"
    return f"; it was lost and rescued {text.count(len(lost), 'time')}, at {updates}"


def of_group(group: Group) -> str:
    """Runs over seeds in words."""
    finished = [run for run in group.runs if run.finished]
    said = []
    for split, name in SPLITS.items():
        measured = [main for run in finished if (main := main_value(run.measured(split)))]
        if measured:
            metric, values = measured[0][0], [value for _, value in measured]
            mean, *ends = student(values, within=bounds_of(metric))
            interval = f"95 % interval {' to '.join(text.measure(metric, end) for end in ends)}, "
            said.append(f"mean {name} {_measure(metric, mean)} ({interval * (len(values) > 1)}n = {len(values)})")
    rest = len(group.runs) - len(finished)
    said += [f"{rest} of {len(group.runs)} runs did not finish"] if rest else []
    return f"{group.label}: {', '.join(said) or 'finished'}."


def verdict_of(result: Mapping[str, Any]) -> str | None:
    """What the verdict of a range test says; None where it has none."""
    answer = part(result, "verdict").get("answer")
    return ANSWERS.get(answer, answer) if isinstance(answer, str) and answer else None


def of_test(test: RecordedTest) -> str:
    """A range test in words."""
    result, said = test.result, []
    lr, low = number(result.get("lr_max")), number(result.get("lr_min"))
    if verdict := verdict_of(result):
        said.append(verdict[0].lower() + verdict[1:])
    if lr:
        said.append(f"peak learning rate {lr:.3g}" + (f" (range {low:.3g} to {lr:.3g})" if low else ""))
    else:
        reason = str(result.get("reason") or "").rstrip(".")
        said.append("no peak learning rate" + (f" ({reason})" if reason else ""))
    return f"{test.name}: {'; '.join(said)}, by a range test."


def profile_spread(result: Mapping[str, Any]) -> str:
    """The range of an update's time, and over how many."""
    one = part(result, "present")
    low, high = text.short_duration(one["low"]), text.short_duration(one["high"])
    return f"{low} to {high} in the middle 80 % of {text.count(one['updates'], 'update')}"


def profile_sentence(result: Mapping[str, Any]) -> str:
    """What an update takes, in a sentence."""
    one = part(result, "present")
    if one.get("failed"):
        return f"As it is, it could not be measured: {one['failed']}."
    said = f"An update takes {text.short_duration(one['seconds'])} ({profile_spread(result)}): "
    said += f"{text.rate(one['rate'])} samples a second"
    if (updates := number(result.get("updates_per_epoch"))) is not None:
        said += f", an epoch in {text.duration(updates * one['seconds'] + one['start'])}"
    return f"{said}."


def profile_facts(result: Mapping[str, Any]) -> list[str]:
    """What is known of the memory and the hardware, a sentence each."""
    said = []
    if (peak := number(part(result, "present").get("memory"))) is not None:
        of = "of the device" if result.get("device") != "cpu" else "in this process, the data among it"
        said.append(f"Memory: at most {text.size(peak)} {of}.")
    if largest := part(result, "largest"):
        each = f"{text.size(largest['bytes_per_sample'])} a sample, {text.size(largest['free'])} free"
        known = {"estimated": "about", "measured": "measured:", "at least": "at least", "all": "all"}[largest["how"]]
        said.append(f"The largest batch that fits: {known} {text.count(largest['batch_size'], 'sample')} ({each}).")
    for precision, unit in part(result, "support").items():
        said.append(f"{precision}: {f'computed by {unit}' if unit else 'no hardware for it here, it is emulated'}.")
    return said


def profile_changes(result: Mapping[str, Any]) -> list[str]:
    """What to change, or that nothing is gained."""
    said = [f"{one['sentence']}." for one in items(result, "change")]
    if said or part(result, "present").get("failed"):
        return said
    return ["Nothing that was tried here makes it clearly faster."]


def of_comparison(comparison: RecordedComparison) -> list[str]:
    """A comparison's own sentences, and how many of its runs came to their end."""
    said = [str(sentence) for sentence in items(comparison.record, "summary")]
    if comparison.record.get("status") in ("running", "interrupted"):
        said.append(f"{ENDINGS[comparison.record['status']]}: the command below goes on with it.")
    status = [str(row.get("status")) for row in comparison.rows]
    if len({str(row.get("seed")) for row in comparison.rows}) == 1:
        said.append(ONE_SEED)
    counts = ", ".join(f"{status.count(name)} {name}" for name in dict.fromkeys(status))
    runs = f"{text.count(len(status), 'run')} ({counts})" if status else "no runs yet"
    return [*said, f"{comparison.name}: {runs}."]


def speed_ups(comparison: RecordedComparison) -> list[Mapping[str, Any]]:
    """The recorded speed-ups; none where none of them tells anything."""
    known = [row for row in items(comparison.record, "speed_up") if isinstance(row, Mapping)]
    return known if any(row.get("tells", True) for row in known) else []


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
        + (f" in {text.count(budget, 'epochs')}" if budget is not None else "")
        + (f", n = {n}" if n is not None else "")
    )


def bounded(row: Mapping[str, Any], name: str) -> str:
    """A value of a recorded speed-up, said to be a bound where it is one."""
    how = "more than " if row.get("more_than") else "at most " if row.get("at_most") else ""
    return how + text.measure(name, row[name])


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
    runs: tuple[RecordedRun, ...]
    axes: Mapping[str, Any]

    @property
    def drawn(self) -> tuple[RecordedRun, ...]:
        """The runs whose mean is shown: those that came to their end, where there are any."""
        return tuple(run for run in self.runs if run.finished) or self.runs


def groups(runs: Sequence[RecordedRun]) -> list[Group]:
    """The runs by everything but their seed, in the order of each group's first."""
    by_setting: dict[str, list[RecordedRun]] = {}
    for run in runs:
        setting = {k: v for k, v in _asked(run).items() if k not in ("seed", "facts.mean", "facts.std")}
        mates = by_setting.setdefault(json.dumps(setting, sort_keys=True, default=str), [])
        # Without a seed of its own a run is no repetition: begun in Python, it does not say what it was.
        if any(run.config.get("seed") in (None, mate.config.get("seed")) for mate in mates):
            mates = by_setting.setdefault(run.name, [])
        mates.append(run)
    varied = varying([mates[0] for mates in by_setting.values()])
    return [
        _group(mates, {name: flat(mates[0].settings).get(name) for name in varied}) for mates in by_setting.values()
    ]


def compared(comparison: RecordedComparison) -> list[Group]:
    """The runs of a comparison by everything but their seed."""
    names = ["policy", "epochs", *axes(comparison.rows)]
    cells: dict[str, tuple[dict[str, Any], list[RecordedRun]]] = {}
    for row, run in comparison.runs:
        settings = {name: row.get(name) for name in names}
        cells.setdefault(json.dumps(settings, default=str), (settings, []))[1].append(run)
    return [Group(_in_words(settings), tuple(runs), settings) for settings, runs in cells.values()]


def axes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that were varied in a comparison, beside policy, epochs and seed."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [
        name
        for name in names
        if name not in ("policy", "epochs", *MEASURED)
        and not name.startswith(("train_", "valid_", "test_"))
        and _varies(name, rows)
    ]


def varying(runs: Sequence[RecordedRun]) -> list[str]:
    """The settings in which runs differ, but for the seed and what was read from the data."""
    configs = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name != "seed")
    return [name for name in names if _varies(name, configs)]


def shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all flat records have in common."""
    first = records[0] if records else {}
    return {key: value for key, value in first.items() if all(key in r and r[key] == value for r in records)}


def differences(runs: Sequence[RecordedRun]) -> list[str]:
    """Sentences about data that differ, so that the runs' measures can't be compared."""
    if len(runs) < 2:
        return []
    known = [run for run in runs if run.facts]
    said = [f"{run.name} was begun in Python and does not say what its data were." for run in runs if not run.facts]
    if differing := [line for key in DATA if (line := _values(known, key))]:
        said.append(f"These runs differ in their data, so their measures can't be compared: {'; '.join(differing)}.")
    return said


def measured_on(run: RecordedRun) -> dict[str, Any]:
    """What decides whether the measures of two runs are of the same data.

    The size that images are brought to is a setting of the run. One begun in Python says no more than what it predicts.
    """
    if run.facts:
        asked = _asked(run)
        return {key: asked.get(key) for key in DATA}
    return {key: part(run.record, "prediction").get(key) for key in ("kind", "classes", "form")}


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under one name each.

    >>> flat({"seed": 1, "facts": {"kind": "image"}})
    {'seed': 1, 'facts.kind': 'image'}
    """
    settings = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            settings |= flat(value, f"{before}{key}.")
        else:
            settings[f"{before}{key}"] = value
    return settings


def _setting(item: Recorded) -> dict[str, Any]:
    """Model, data and budget."""
    setting = {name: item.settings.get(name) for name in ("model", "data", "budget")}
    if isinstance(item, RecordedTest | RecordedProfile):
        del setting["budget"]
    elif isinstance(item, RecordedComparison):
        epochs = [str(value) for value in items(item.config, "epochs")]
        setting["budget"] = f"{text.listed(epochs)} epoch{'s' * (epochs != ['1'])}" if epochs else None
        setting["model"] = setting["model"] or next((run.settings.get("model") for _, run in item.runs), None)
    return setting


def _subject(setting: Mapping[str, Any]) -> str:
    """``small-cnn on digits, 10 epochs``, as far as it is known; a path is named by its end."""
    model, data, budget = (setting.get(name) for name in ("model", "data", "budget"))
    if isinstance(data, str) and (PurePath(data).is_absolute() or PurePath(data).suffix):
        data = PurePath(data).name
    return ", ".join(
        str(words) for words in (f"{model} on {data}" if model and data else model or data, budget) if words
    )


def _goodness(group: Group) -> float:
    """The mean validation accuracy, or the loss turned over; the lowest where neither is known."""
    measures = [run.measured("valid") for run in group.runs]
    for name, sign in (("accuracy", 1), ("loss", -1)):
        values = [value for measured in measures if (value := number(measured.get(name))) is not None]
        if values:
            return sign * fmean(values)
    return -math.inf


def _asked(run: RecordedRun) -> dict[str, Any]:
    facts = {k: v for k, v in run.facts.items() if k != "input_shape" or run.facts.get("kind") != "image"}
    return flat({**run.config, "facts": facts})


def _varies(name: str, records: Sequence[Mapping[str, Any]]) -> bool:
    return len({json.dumps(record.get(name), default=str) for record in records}) > 1


def _group(mates: Sequence[RecordedRun], axes: Mapping[str, Any]) -> Group:
    label = mates[0].name
    if len(mates) > 1:
        label = f"{_in_words(axes) or ', '.join(run.name for run in mates[:3])} ({len(mates)} seeds)"
    return Group(label, tuple(mates), axes)


def _in_words(settings: Mapping[str, Any]) -> str:
    """``one_cycle, 4 epochs, fraction 0.1``: what says by itself what it is goes without its name."""
    words = []
    for name, value in settings.items():
        if name == "epochs" and number(value) is not None:
            words.append(text.count(value, "epochs"))
        elif value is not None:
            plain = name in ("policy", "optimizer", "model", "data", "budget")
            words.append(f"{'' if plain else f'{name} '}{_short(str(value), 40)}")
    return ", ".join(words)


def _values(runs: Sequence[RecordedRun], key: str) -> str | None:
    """``samples [1, 2] (a), [3, 4] (b, c)``; None where all are the same."""
    names: dict[str, list[str]] = {}
    for run in runs:
        names.setdefault(json.dumps(_asked(run).get(key), default=str, ensure_ascii=False), []).append(run.name)
    if len(names) < 2:
        return None
    shown = [f"{_short(value)} ({_short(', '.join(of_value))})" for value, of_value in names.items()]
    others = f" and {len(shown) - 4} others" if len(shown) > 4 else ""
    return f"{key.removeprefix('facts.')} {', '.join(shown[:4])}{others}"


def _short(words: str, longest: int = 60) -> str:
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _measure(name: str, value: float) -> str:
    """``accuracy 98.05 %`` or ``loss 0.154``."""
    return f"{name.replace('_', ' ')} {text.measure(name, value)}"

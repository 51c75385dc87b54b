"""What came out of a comparison: a record a run, means, speed-ups, times to a target, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import number, one_of
from ..errors import DataError
from ..records.files import read_jsonl
from ..records.read import ACCURACIES, main_measure
from ..text import count, measure
from .execute import Outcome
from .plan import Condition, Setting, in_short, in_words, settings
from .spec import Spec

if TYPE_CHECKING:
    from .statistics import SpeedUp

# Presets that are one cycle in somebody's reading; the others are the standard ones.
CYCLES = ("one_cycle", "paper", "author", "fastai", "torch")
UNITS = ("epochs", "seconds")


def run_record(
    condition: Condition, seed: int, lr_max: float | None, run: str, outcome: Outcome | None
) -> dict[str, Any]:
    """A run as a tidy record: what it was, what was measured (None if nothing was), and how it ended."""
    result = (outcome.result if outcome else None) or {}
    measured = {
        f"{split}_{name}": value
        for split in ("test", "valid", "train")
        for name, value in (result.get(split) or {}).items()
    }
    return {
        "policy": condition.policy, "epochs": condition.epochs, **dict(condition.setting), "seed": seed,
        "lr_max": lr_max, **dict.fromkeys(ACCURACIES), **measured, "updates": result.get("updates"),
        "seconds": result.get("seconds"),
        "status": outcome.status if outcome else "waiting", "error": outcome.error if outcome else None, "run": run,
    }  # fmt: skip


def cycle_of(spec: Spec) -> str | None:
    """The policy that the others are compared with."""
    return next((policy for policy in CYCLES if policy in spec.policies), None)


def speed_ups(spec: Spec, table: Sequence[Mapping[str, Any]]) -> list[tuple[Setting, SpeedUp]]:
    """What the best standard policy needs for 1cycle's accuracy, at each setting and budget of 1cycle."""
    from .statistics import speed_up  # with scipy, which takes its time

    name, ours = main_measure(table, ACCURACIES), cycle_of(spec)
    standard = [policy for policy in spec.policies if policy not in CYCLES]
    if name is None or ours is None or not standard:
        return []
    results = []
    for setting in settings(spec):
        accuracies: dict[str, dict[float, dict[int, float | None]]] = {policy: {} for policy in spec.policies}
        for run in table:
            if run["status"] in ("finished", "failed") and _is_at(run, setting):  # what is still to come does not count
                accuracies[run["policy"]].setdefault(run["epochs"], {})[run["seed"]] = run[name]
        try:
            by_budget = speed_up(accuracies[ours], {policy: accuracies[policy] for policy in standard})
        except DataError:  # too few runs have come to their end
            continue
        results += [(setting, result) for result in by_budget.values()]
    return results


def speed_up_records(results: Sequence[tuple[Setting, SpeedUp]]) -> list[dict[str, Any]]:
    """Speed-ups as records."""
    several = len({setting for setting, _ in results}) > 1
    return [
        {
            "against": f"{s.policy} at {in_words(setting)}" if several else s.policy,
            **dict(setting), "accuracy": s.target.mean, "budget": s.budget, "needed": s.needed, "speed_up": s.s,
            "low": s.low, "high": s.high, "more_than": s.more_than, "at_most": s.at_most, "claim": s.claim, "n": s.n,
            "tells": s.tells,
        }
        for setting, s in results
    ]  # fmt: skip


def means(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines for people, from the contents of ``compare.json``: each condition, its mean and its interval.

    n are the runs that the mean is of.
    """
    from .statistics import summary

    table = record["table"]
    name = main_measure(table) or ACCURACIES[0]
    by = [*record["config"]["axes"], "epochs", "policy", "lr_max"]
    named = [{**run, **{key: "" if run[key] is None else in_short(run[key]) for key in by}} for run in table]

    def words(mean: Mapping[str, Any]) -> str:
        said = [measure(name, mean[key]) for key in ("mean", "low", "high") if mean[key] is not None]
        return "".join(said[:1]) + (f" [{', '.join(said[1:])}]" if said[1:] else "")

    columns = [*by[:-1], "peak", "n", "failed", name]
    lines = [
        [*(mean[key] for key in by), str(mean["n"]), str(mean["failed"] or ""), words(mean)]
        for mean in summary(named, by, name)
    ]
    return [column.replace("_", " ") for column in columns], lines


def sentences(spec: Spec, table: Sequence[Mapping[str, Any]], results: Sequence[tuple[Setting, SpeedUp]]) -> list[str]:
    """What came out, in words: the speed-ups, the difference at the largest budget, and what is missing."""
    from .statistics import sentence

    said = [_at(setting) + sentence(result, tuned=spec.tune) + "." for setting, result in results]
    said += [line for setting in settings(spec) if (line := _difference(spec, table, setting))]
    name = main_measure(table, ACCURACIES)
    if name == "valid_accuracy":
        said.append("There is no test data: the accuracies are of the validation data, which the peaks were chosen by.")
    if name is None and any(run["status"] == "finished" for run in table):
        said.append("No accuracy is measured here: the losses are in the table, and nothing is compared in words.")
    if spec.seeds < 2:
        said.append("With one seed there is no interval, and no difference can be shown.")
    if failed := sum(run["status"] == "failed" for run in table):
        said.append(f"{failed} of {count(len(table), 'runs')} failed: the table says why.")
    return said


def _difference(spec: Spec, table: Sequence[Mapping[str, Any]], setting: Setting) -> str | None:
    """The paired difference between 1cycle and the best other policy, at the largest budget.

    Which one is best is seen in the same runs: the best of noisy means is a little too good. That moves the difference
    down, so the lower end needs nothing, and the upper one is at a level corrected for the number (Bonferroni).
    """
    from .statistics import mean_interval, paired_difference

    name, ours, budget = main_measure(table, ACCURACIES), cycle_of(spec), max(spec.epochs)
    if name is None or ours is None or spec.seeds < 2:
        return None
    here = [run for run in table if _is_at(run, setting) and run["epochs"] == budget and run[name] is not None]
    values = {policy: {run["seed"]: run[name] for run in here if run["policy"] == policy} for policy in spec.policies}
    others = {p: by_seed for p, by_seed in values.items() if p not in CYCLES and set(by_seed) & set(values[ours])}
    if not others:
        return None
    rival = max(others, key=lambda policy: mean_interval(others[policy].values()).mean)
    gap, wide = (paired_difference(values[ours], others[rival], level) for level in (0.95, 1 - 0.05 / len(others)))
    if gap.low is None or wide.high is None:
        return None
    shown = gap.n > 2 and (gap.low > 0 or wide.high < 0)
    how = "better" if gap.mean > 0 else "worse"
    points = f"{100 * abs(gap.mean):.2f} points"
    after = f"in {count(budget, 'epochs')} (n = {gap.n})"
    conclusion = (
        f"1cycle is {how} than {rival} {after}: by {points}"
        if shown
        else f"No difference shown {after}: 1cycle is {points} {how} than {rival}"
    )
    choice = f" from the best of {len(others)}" if len(others) > 1 else ""
    interval = f"{100 * gap.low:+.2f} to {100 * wide.high:+.2f}"
    return f"{_at(setting)}{conclusion}, seed by seed (95 % interval of the difference{choice}: {interval})."


def _is_at(run: Mapping[str, Any], setting: Setting) -> bool:
    return all(run[name] == value for name, value in setting)


def _at(setting: Setting) -> str:
    words = in_words(setting)
    return f"At {words}: " if words else ""


def check_target(target: float | None) -> None:
    """Validate a target accuracy; None is no target.

    Raises:
        ConfigError: outside (0, 1).
    """
    if target is not None:
        number("target", target, above=0, below=1, what="an accuracy", example="0.9")


def to_targets(folder: Path, record: Mapping[str, Any], target: float) -> list[dict[str, Any]]:
    """For each policy, budget and setting, when the validation accuracy first was at `target`: records.

    A record has ``policy``, ``epochs`` (the budget) and the axes; for epochs and for seconds ``median``, ``low`` and
    ``high`` as `ToTarget` has them, ``reached`` and ``n``, and ``words``. Runs that never got there are not dropped:
    they needed more than their budget. Failed runs count as such, also where all failed; what is still to be run does
    not count.

    Raises:
        ConfigError: a target outside (0, 1).
    """
    check_target(target)
    names = ("policy", "epochs", *record["config"]["axes"])
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in record["table"]:
        groups.setdefault(str([run[name] for name in names]), []).append(run)
    return [
        {**{name: group[0][name] for name in names}, **times}
        for group in groups.values()
        if (times := _times(folder, group, target))
    ]


def _times(folder: Path, group: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Both times of the runs that differ in their seed alone; nothing where none of them has ended."""
    from .statistics import ToTarget, to_target

    finished = [run for run in group if run["status"] == "finished"]
    failed = sum(run["status"] == "failed" for run in group)
    if failed and not finished:
        none = asdict(ToTarget(target, failed, 0, None, None, None, limit=0.0))
        return {"needed": {unit: {**none, "words": f"none of {count(failed, 'runs')} finished"} for unit in UNITS}}
    times = {}
    for unit in UNITS:
        if curves := [points for run in finished if (points := curve(folder / run["run"], run["epochs"], unit))]:
            result = to_target(curves, target, failed=failed)
            times[unit] = {**asdict(result), "words": str(result)}
    return {"needed": times} if times else {}


def curve(folder: Path, epochs: float, unit: str) -> list[tuple[float, float]]:
    """Validation accuracy after each epoch of a run, against epochs or seconds of training.

    Raises:
        ConfigError: another unit.
        CheckpointError: records that cannot be read.
    """
    one_of("unit", unit, UNITS)
    measured = [row for row in read_jsonl(folder / "epochs.jsonl") if "valid_accuracy" in row]
    if not measured:
        return []
    scale = epochs / (measured[-1]["step"] + 1)
    seconds = accumulate(row["seconds"] for row in measured)  # each row has those of its own epoch
    times = [(row["step"] + 1) * scale for row in measured] if unit == "epochs" else seconds
    return [(time, row["valid_accuracy"]) for time, row in zip(times, measured, strict=True)]


def target_lines(records: Sequence[Mapping[str, Any]], target: float) -> list[str]:
    """The times to a target in words, a line for each policy, budget and setting."""
    said = [f"Validation accuracy of {100 * target:g} %, first reached after (median over runs, 95 % interval):"]
    for record in records:
        setting: Setting = tuple((k, v) for k, v in record.items() if k not in ("policy", "epochs", "needed"))
        at = f" at {in_words(setting)}" if setting else ""
        (epochs, _, reached), (seconds, *_) = (record["needed"][unit]["words"].partition(" (") for unit in UNITS)
        unit = "epoch" if epochs.rpartition(" ")[2] == "1" else "epochs"
        times = f"{epochs} {unit}, {seconds} s ({reached}" if reached else epochs
        said.append(f"- {record['policy']}, {count(record['epochs'], 'epochs')}{at}: {times}")
    return said

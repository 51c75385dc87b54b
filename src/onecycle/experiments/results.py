"""What came out of a comparison: a row a run, speed-ups, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import text
from ..errors import DataError
from .plan import Cell, Setting, in_short, in_words, settings
from .spec import Spec
from .workers import Outcome

if TYPE_CHECKING:
    from .statistics import SpeedUp

Row = dict[str, Any]
# Presets that are one cycle in somebody's reading; the others are the standard ones.
CYCLES = ("one_cycle", "paper", "author", "fastai", "torch")
MEASURES = ("test_accuracy", "valid_accuracy")
LOSSES = ("test_loss", "valid_loss")


def row(cell: Cell, seed: int, lr_max: float | None, run: str, outcome: Outcome | None) -> Row:
    """A run as a tidy record: what it was, what was measured (None if nothing was), and how it ended."""
    result = (outcome.result if outcome else None) or {}
    measured = {
        f"{split}_{name}": value
        for split in ("test", "valid", "train")
        for name, value in (result.get(split) or {}).items()
    }
    return {
        "policy": cell.policy, "epochs": cell.epochs, **dict(cell.setting), "seed": seed, "lr_max": lr_max,
        **dict.fromkeys(MEASURES), **measured, "updates": result.get("updates"), "seconds": result.get("seconds"),
        "status": outcome.status if outcome else "waiting", "error": outcome.error if outcome else None, "run": run,
    }  # fmt: skip


def measure_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The accuracy that is compared: the test set's, else the validation data's; None where there is neither."""
    return next((name for name in MEASURES if any(r.get(name) is not None for r in rows)), None)


def cycle_of(spec: Spec) -> str | None:
    """The policy that the others are compared with."""
    return next((policy for policy in CYCLES if policy in spec.policies), None)


def speed_ups(spec: Spec, rows: Sequence[Row]) -> list[tuple[Setting, SpeedUp]]:
    """What the best standard policy needs for 1cycle's accuracy, at each setting and budget of 1cycle."""
    from .statistics import speed_up  # with scipy, which takes its time

    measure, ours = measure_of(rows), cycle_of(spec)
    standard = [policy for policy in spec.policies if policy not in CYCLES]
    if measure is None or ours is None or not standard:
        return []
    found = []
    for setting in settings(spec):
        here = [r for r in rows if _is_at(r, setting)]
        by_policy = {
            policy: _by_budget([r for r in here if r["policy"] == policy], measure) for policy in spec.policies
        }
        try:
            results = speed_up(by_policy[ours], {policy: by_policy[policy] for policy in standard})
        except DataError:  # too few runs have come to their end
            continue
        found += [(setting, result) for result in results.values()]
    return found


def speed_up_rows(found: Sequence[tuple[Setting, SpeedUp]]) -> list[Row]:
    """Speed-ups as records."""
    several = len({setting for setting, _ in found}) > 1
    return [
        {
            "against": f"{s.policy} at {in_words(setting)}" if several else s.policy,
            **dict(setting), "accuracy": s.target.mean, "budget": s.budget, "needed": s.needed, "speed_up": s.s,
            "low": s.low, "high": s.high, "more_than": s.more_than, "at_most": s.at_most, "claim": s.claim, "n": s.n,
        }
        for setting, s in found
    ]  # fmt: skip


def means(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for people, from the contents of ``compare.json``: a cell each, its mean and its interval.

    n are the runs that the mean is of.
    """
    from .statistics import summary

    rows, axes = record["table"], list(record["config"]["axes"])
    name = next((m for m in (*MEASURES, *LOSSES) if any(r.get(m) is not None for r in rows)), MEASURES[0])
    by = [*axes, "epochs", "policy", "lr_max"]
    cells = summary([{**r, **{key: "" if r[key] is None else in_short(r[key]) for key in by}} for r in rows], by, name)

    def words(cell: Mapping[str, Any]) -> str:
        if cell["mean"] is None:
            return ""
        mean, *ends = (text.measure(name, cell[key]) for key in ("mean", "low", "high") if cell[key] is not None)
        return mean + (f" [{', '.join(ends)}]" if ends else "")

    columns = [*by[:-1], "peak", "n", "failed", name]
    lines = [[*(cell[key] for key in by), str(cell["n"]), str(cell["failed"] or ""), words(cell)] for cell in cells]
    return [column.replace("_", " ") for column in columns], lines


def sentences(spec: Spec, rows: Sequence[Row], found: Sequence[tuple[Setting, SpeedUp]]) -> list[str]:
    """What came out, in words: the speed-ups, the difference at the largest budget, and what is missing."""
    from .statistics import sentence

    said = [_at(setting) + sentence(result, tuned=spec.tune) + "." for setting, result in found]
    said += [line for setting in settings(spec) if (line := _difference(spec, rows, setting))]
    measure = measure_of(rows)
    if measure == "valid_accuracy":
        said.append("There is no test data: the accuracies are of the validation data, which the peaks were chosen by.")
    if measure is None and any(r["status"] == "finished" for r in rows):
        said.append("No accuracy is measured here: the losses are in the table, and nothing is compared in words.")
    if spec.seeds < 2:
        said.append("With one seed there is no interval, and no difference can be claimed.")
    if failed := sum(r["status"] == "failed" for r in rows):
        said.append(f"{failed} of {len(rows)} runs failed: the table says why.")
    return said


def _difference(spec: Spec, rows: Sequence[Row], setting: Setting) -> str | None:
    """The paired difference between 1cycle and the best other policy, at the largest budget.

    Which one is best is seen in the same runs: the best of noisy means is a little too good. That moves the difference
    down, so the lower end needs nothing, and the upper one is at a level corrected for the number (Bonferroni).
    """
    from .statistics import mean_interval, paired_difference

    measure, ours, budget = measure_of(rows), cycle_of(spec), max(spec.epochs)
    if measure is None or ours is None or spec.seeds < 2:
        return None
    here = [r for r in rows if _is_at(r, setting) and r["epochs"] == budget and r[measure] is not None]
    cells = {policy: {r["seed"]: r[measure] for r in here if r["policy"] == policy} for policy in spec.policies}
    others = {p: cell for p, cell in cells.items() if p not in CYCLES and set(cell) & set(cells[ours])}
    if not others:
        return None
    rival = max(others, key=lambda policy: mean_interval(others[policy].values()).mean)
    gap, wide = (paired_difference(cells[ours], others[rival], level) for level in (0.95, 1 - 0.05 / len(others)))
    if gap.low is None or wide.high is None:
        return None
    claimed = gap.n > 2 and (gap.low > 0 or wide.high < 0)
    words = "better" if gap.mean > 0 else "worse"
    choice = f" from the best of {len(others)}" if len(others) > 1 else ""
    end = "" if claimed else ": no difference can be claimed"
    epochs = "epoch" if budget == 1 else "epochs"
    return (
        f"{_at(setting)}In {budget:g} {epochs} 1cycle is {100 * abs(gap.mean):.2f} points {words} than {rival}, "
        f"seed by seed (95 % interval of the difference{choice}: {100 * gap.low:+.2f} to "
        f"{100 * wide.high:+.2f}, n = {gap.n}){end}."
    )


def _by_budget(rows: Sequence[Row], measure: str) -> dict[float, dict[int, float | None]]:
    """Accuracies by budget and seed, None for failed runs; those that are still to come are left out."""
    found: dict[float, dict[int, float | None]] = {}
    for r in rows:
        if r["status"] in ("finished", "failed"):
            found.setdefault(r["epochs"], {})[r["seed"]] = r[measure]
    return found


def _is_at(r: Row, setting: Setting) -> bool:
    return all(r[name] == value for name, value in setting)


def _at(setting: Setting) -> str:
    words = in_words(setting)
    return f"At {words}: " if words else ""

"""What to change, said of what was measured alone."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

from .. import text
from .measure import LEAST, Timing, Visit
from .result import Change
from .settings import Setting

# A setting gains where it has so many times the samples a second, in each go at least so many; with one go, so many.
GAIN, EACH, ALONE = 1.1, 1.05, 1.15
# And of pairs of updates, one of it and one of the other, in such a share it is the faster a sample.
MOSTLY = 0.8
# Two updates tell something where they take so many seconds together; else it takes three.
LONG = 2.0
# Of batches whose samples a second are within this share of the best the smallest is named.
NEARLY = 0.95
# Reading is named where it takes this share of an update.
MUCH = 0.1
# What changes nothing but the speed, and can be asked for; compiling anew for all of it together would take too long.
NEUTRAL = ("precision", "threads", "workers")
PYTHON = {
    "precision": 'precision="{}"', "batch_size": "batch_size={}", "workers": "workers={}",
    "threads": "torch.set_num_threads({})", "compile": "compile={}",
}  # fmt: skip
SHELL = {
    "precision": "--precision {}", "batch_size": "--batch-size {}", "workers": "--workers {}",
    "threads": "OMP_NUM_THREADS={}", "compile": "--compile",
}  # fmt: skip
OF_LOADER = {"batch_size": "batch_size={} in the DataLoader", "workers": "num_workers={} in the DataLoader"}

Visits = Mapping[Setting, Sequence[Visit]]


def gain(visits: Sequence[Visit], base: Sequence[Visit]) -> float | None:
    """How many times the samples a second; None where that is no more than chance.

    Each go is told from the one at the base in its round, and most of the updates have to be faster than those there.
    """
    if not _enough(visits) or _faster(visits, base) < MOSTLY:
        return None
    ratios = [_rate(one) / _rate(other) for one, other in zip(visits, base, strict=False)]
    if not ratios:
        ratios = [_rate(visits[0]) / _rate(base[-1])]
    mean = geometric_mean(ratios)
    if len(ratios) == 1:
        return mean if mean >= ALONE else None
    return mean if mean >= GAIN and min(ratios) >= EACH else None


def _enough(visits: Sequence[Visit]) -> bool:
    """Whether so many updates tell something: a few, or two that are long."""
    updates = [math.fsum(parts.values()) for one in visits for parts in one.updates]
    return len(updates) >= LEAST or (len(updates) > 1 and math.fsum(updates) > LONG)


def _faster(visits: Sequence[Visit], base: Sequence[Visit]) -> float:
    """The share of the pairs of updates in which that of `visits` takes less time a sample."""
    here, there = (sorted(t / one.samples for one in goes for t in one.totals) for goes in (visits, base))
    return sum(len(there) - bisect_right(there, each) for each in here) / (len(here) * len(there))


def _rate(visit: Visit) -> float:
    return visit.samples / visit.pace


def together(base: Setting, visits: Visits) -> Setting | None:
    """The settings that gained and change no training, in one; None where there are fewer than two."""
    best: dict[str, tuple[float, Any]] = {}
    for setting, goes in visits.items():
        changes = setting.changes(base)
        if len(changes) == 1 and (name := next(iter(changes))) in NEUTRAL and (times := gain(goes, visits[base])):
            best[name] = max(best.get(name, (0.0, None)), (times, changes[name]), key=lambda one: one[0])
    if len(best) < 2:
        return None
    return replace(base, **{name: value for name, (_, value) in best.items()})


def changes(
    base: Setting, visits: Visits, timings: Sequence[Timing], present: Timing, *, shell: bool, of_loader: bool
) -> tuple[Change, ...]:
    """What to change, the largest gain first: of each kind the best, and several at once where these were tried."""
    known = {one.setting: one for one in timings}
    if base not in visits:
        return ()
    best: dict[tuple[str, ...], Change] = {}
    for setting, goes in visits.items():
        names = tuple(setting.changes(base))
        if not names or not {*names} <= {*NEUTRAL, "compile", "batch_size"} or gain(goes, visits[base]) is None:
            continue
        one = _change(setting, base, known, shell, of_loader)
        if one is not None and (names not in best or _better(one, best[names])):
            best[names] = one
    worth = [one for one in best.values() if _adds(one, best.values())]
    fits = () if present.failed != "out of memory" or base == present.setting else (_fitting(base, present, shell),)
    return *fits, *sorted(worth, key=lambda one: -one.gain)


def _adds(change: Change, others: Iterable[Change]) -> bool:
    """Whether a change of several settings gains on each of those that are a part of it."""
    parts = [one for one in others if {*one.changes} < {*change.changes}]
    return all(change.gain >= GAIN * one.gain for one in parts)


def _better(one: Change, other: Change) -> bool:
    """Whether a change is more worth naming than another of its kind: of batches that are as good, the smaller one."""
    size, other_size = one.changes.get("batch_size"), other.changes.get("batch_size")
    if size is None or other_size is None or size == other_size:
        return one.gain > other.gain
    return one.gain * NEARLY > other.gain if size > other_size else one.gain > NEARLY * other.gain


def _change(
    setting: Setting, base: Setting, known: Mapping[Setting, Timing], shell: bool, of_loader: bool
) -> Change | None:
    changed, made, before = setting.changes(base), known[setting], known[base]
    times = made.rate / before.rate  # over all goes, the start of workers among them
    if times < GAIN:
        return None
    words = _words(changed, shell, of_loader)
    said = (
        f"{words}: {times:.2g} times the samples a second ({text.rate(made.rate)} in place of {text.rate(before.rate)})"
    )
    if "workers" in changed and (share := before.shares["data"]) >= MUCH:
        said = f"reading takes {text.percent(share, 0)} of an update. {said}"
    if changed.get("compile"):
        updates = round(made.warm / (before.seconds - made.seconds))
        said += f"; compiling took {text.duration(made.warm)}, which {text.count(updates, 'update')} pay for"
    if (size := changed.get("batch_size")) and base.batch_size:
        many = text.number(base.batch_size / size, 3)
        said += f"; an epoch has {many} times the updates then, which changes what is learned, not only the speed"
    return Change(words, times, said, changed)


def _words(changed: Mapping[str, Any], shell: bool, of_loader: bool) -> str:
    forms = {**(SHELL if shell else PYTHON), **(OF_LOADER if of_loader else {})}
    words = [forms[name].format(value) for name, value in changed.items()]
    if shell:
        words.sort(key=lambda word: word.startswith("--"))  # an environment variable comes first
    return " ".join(words) if shell else ", ".join(words)


def _fitting(base: Setting, present: Timing, shell: bool) -> Change:
    """That the present batch is too large, and one that fits."""
    words = (SHELL if shell else PYTHON)["batch_size"].format(base.batch_size)
    said = f"a batch of {present.setting.batch_size} does not fit into the memory: {words} does"
    return Change(words, 1.0, said, base.changes(present.setting))

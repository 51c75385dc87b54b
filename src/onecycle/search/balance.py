"""Which other settings are tried beside the peak, how long, and what is kept: pure decisions.

A large learning rate regularises by itself, so that the other regularisers may want less (Smith, 1803.09820, section
4.4; Smith & Topin, 1708.07120). Short runs ask for less of them than long ones do, so that a gain of a short run alone
says little: it has to last, or grow, from one length to a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import text
from .peak import on_one_scale

# The two lengths of a candidate's pilots: the longer one is so many times as long, and for so many of them.
LONGER, FINALISTS = 3, 2
# The shortest pilot that tells two settings apart, in updates, and the fewest candidates that are worth a search.
LEAST, FEWEST = 64, 2
# What a pilot has to learn more than the default one, as a share of what that learned, to be kept for the longer
# pilots, and there to be taken. Of label smoothing it is the gain in accuracy: it changes what the loss means.
KEPT, EVIDENCE = -0.01, 0.05


@dataclass(frozen=True)
class Candidate:
    """One setting at another value than its default."""

    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} {self.value:g}"


@dataclass(frozen=True)
class Trial:
    """A pilot of a candidate, or of the default settings, and what became of it.

    Args:
        candidate: None for the default settings.
        lr_max, updates: the peak and the length of the pilot.
        loss, accuracy: held out; None where the pilot was lost, or there is no such measure.
        kept: whether its setting was kept for what came next.
        why: in words.
    """

    candidate: Candidate | None
    lr_max: float | None
    updates: int
    loss: float | None
    accuracy: float | None = None
    kept: bool = True
    why: str = ""


RunTrial = Callable[[Candidate | None, int], Trial]
"""From a candidate and a length, in updates of the default batch size, to its pilot."""


def candidates(default: Mapping[str, Any], most: int | None = None) -> list[Candidate]:
    """Values about those of `default`, by name; nothing for a setting that is None or not there.

    Args:
        default: of weight_decay, dropout, batch_size and smoothing.
        most: the largest batch that the data allow.

    >>> print(*candidates({"weight_decay": 0.05, "dropout": 0.0, "batch_size": 64, "smoothing": 0.1}, 256), sep=", ")
    batch size 32, batch size 128, weight decay 0.0125, weight decay 0.2, dropout 0.1, dropout 0.2, smoothing 0, ...
    """
    tried: list[Candidate] = []
    if (size := default.get("batch_size")) is not None and size > 1:
        tried += [Candidate("batch_size", n) for n in (size // 2, size * 2) if most is None or n <= most]
    if decay := default.get("weight_decay"):
        tried += [Candidate("weight_decay", float(f"{decay * factor:.3g}")) for factor in (0.25, 4)]
    if (share := default.get("dropout")) is not None:
        tried += [Candidate("dropout", p) for p in ((share / 2, min(0.8, 2 * share)) if share else (0.1, 0.2))]
    if amount := default.get("smoothing"):
        tried += [Candidate("smoothing", value) for value in (0.0, min(0.4, 2 * amount))]
    return tried


def length(allowed: float, count: int, judging: float) -> tuple[int, int]:
    """The updates of the shorter pilots, and for how many candidates; 0 where they would tell nothing.

    `allowed` are the updates of all pilots together; judging one costs the share `judging` of its updates.

    >>> length(4000, 8, 0.25), length(1500, 8, 0.25), length(400, 8, 0.25)
    ((177, 8), (66, 8), (0, 0))
    """
    for n in range(count, FEWEST - 1, -1):
        updates = int(allowed / ((1 + judging) * (1 + n + LONGER * (1 + min(n, FINALISTS)))))
        if updates >= LEAST:
            return updates, n
    return 0, 0


def balance(
    run: RunTrial, nothing: float, tried: Sequence[Candidate], updates: int
) -> tuple[Candidate | None, str, list[Trial]]:
    """The candidate that is taken, None for the default settings, why, and all pilots.

    All candidates are tried at the shorter length, and those that are not clearly worse than the default, the best
    two, at the longer. `nothing` is the held-out loss of knowing nothing.
    """
    base = run(None, updates)
    if base.loss is None or base.loss >= nothing:
        return None, "the default pilot learned nothing yet", [replace(base, why="learned nothing yet")]
    short = [run(one, updates) for one in tried]
    gains = [_gain(one, base, nothing) for one in short]
    order = sorted(range(len(short)), key=lambda i: gains[i], reverse=True)
    finalists = [i for i in order if gains[i] >= KEPT][:FINALISTS]
    told = [replace(one, kept=i in finalists, why=_said(one, gains[i])) for i, one in enumerate(short)]
    if not finalists:
        return None, "every other setting was clearly worse", [base, *told]
    longer = run(None, LONGER * updates)
    late = [run(tried[i], LONGER * updates) for i in finalists]
    later = [-math.inf if longer.loss is None else _gain(one, longer, nothing) for one in late]
    decided = [_verdict(one, longer, gains[i], gain) for i, one, gain in zip(finalists, late, later, strict=True)]
    good = [k for k, (taken, _) in enumerate(decided) if taken]
    best = max(good, key=lambda k: later[k], default=None)
    ended = [
        replace(one, kept=k == best, why=why if k == best or not taken else f"{why}, another more")
        for k, (one, (taken, why)) in enumerate(zip(late, decided, strict=True))
    ]
    pilots = [base, *told, longer, *ended]
    if best is None:
        return None, "no other setting had a gain that lasted", pilots
    chosen = tried[finalists[best]]
    return chosen, f"{chosen} {decided[best][1]}", pilots


def _gain(one: Trial, default: Trial, nothing: float) -> float:
    """How much more a pilot learned than the default one, as a share of what that learned; or its gain in accuracy."""
    if one.loss is None:
        return -math.inf
    if _by_accuracy(one):
        known = one.accuracy is not None and default.accuracy is not None
        return one.accuracy - default.accuracy if known else -math.inf  # type: ignore[operator]
    if default.loss is None or default.loss >= nothing:
        return 0.0
    loss, base, zero = on_one_scale(one.loss, default.loss, nothing)
    return (base - loss) / (zero - base)


def _by_accuracy(one: Trial) -> bool:
    """Whether the held-out loss says nothing: without smoothing it is lower by itself."""
    return one.candidate is not None and one.candidate.name == "smoothing"


def _said(one: Trial, gain: float) -> str:
    if one.loss is None:
        return one.why or "lost"
    if _by_accuracy(one):
        more = "more" if gain >= 0 else "less"
        return f"{abs(100 * gain):.1f} points {more} accurate" if math.isfinite(gain) else "no accuracy to judge it by"
    return f"learned {text.percent(abs(gain), 1)} {'more' if gain >= 0 else 'less'}"


def _verdict(one: Trial, default: Trial, before: float, gain: float) -> tuple[bool, str]:
    """Whether a pilot of the longer length is evidence against the default one, and why."""
    said = _said(one, gain)
    if one.loss is None or gain < EVIDENCE:
        return False, f"{said}: no evidence"
    if gain < before:
        return False, f"{said}, and {_said(one, before)} in the shorter pilot: a gain that fades"
    if one.accuracy is not None and default.accuracy is not None and one.accuracy < default.accuracy:
        return False, f"{said}, with a lower accuracy"
    return True, said

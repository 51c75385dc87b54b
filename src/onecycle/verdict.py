"""Can this model super-converge on these data? Read from the curve of a range test. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from .curve import Curve


@dataclass(frozen=True)
class Verdict:
    """An answer with its grounds.

    Args:
        answer: "possible", "not possible" or "unclear".
        score: from 0, clearly not, to 1, clearly possible.
        reasons: what in the curve speaks for it, in words.
        advice: what would change it.
    """

    answer: str
    score: float
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


def judge(curve: Curve) -> Verdict:
    """PLACEHOLDER."""
    return Verdict("unclear", 0.5, (), ())

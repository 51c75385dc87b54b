"""A few hundred trainings drawn at random are what plain torch makes of them, or refused before the first update."""

from __future__ import annotations

from collections import Counter

import pytest
from fuzz_cases import draw
from fuzzing import run


@pytest.mark.parametrize("block", range(4))
def test_trainings_drawn_at_random(block):
    """`python bench/fuzz.py --cases 1 --seed SEED` shows one that fails as a script."""
    cases = [draw(seed) for seed in range(75 * block, 75 * block + 75)]
    outcomes = {case.seed: run(case) for case in cases}
    assert not {seed: outcome for seed, outcome in outcomes.items() if outcome.is_fault}
    kinds = Counter(outcome.kind for outcome in outcomes.values())
    assert kinds["equal"] > 30, "most of them train"

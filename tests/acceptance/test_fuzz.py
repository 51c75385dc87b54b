"""Some trainings drawn at random are what plain torch makes of them, or refused before the first update."""

from __future__ import annotations

from collections import Counter

import pytest
from fuzz_cases import draw
from fuzz_mutants import MUTANTS, cases_that_show
from fuzzing import run

PLAIN = [
    "the second group's rate is 1 % larger",
    "the schedule is one update late",
    "the first batch of an epoch is skipped",
    "batches of a group weigh alike",
    "a hundredth of the gradient before is kept",
    "gradients are clipped at 1 % more",
    "weights grow by 1e-4 an update",
    "weight decay of biases",
    "an evaluation leaves out its last batch",
    "targets left out count in a mean",
]
"""Faults that many cases show; `python bench/fuzz.py --mutants` tries them all."""


@pytest.mark.parametrize("block", range(4))
def test_trainings_drawn_at_random(block):
    """`python bench/fuzz.py --cases 1 --seed SEED` shows one that fails as a script."""
    cases = [draw(seed) for seed in range(30 * block, 30 * block + 30)]
    outcomes = {case.seed: run(case) for case in cases}
    assert not {seed: outcome for seed, outcome in outcomes.items() if outcome.is_fault}
    kinds = Counter(outcome.kind for outcome in outcomes.values())
    assert kinds["equal"] > 10, "most of them train"


@pytest.mark.parametrize("name", PLAIN)
def test_planted_faults_come_to_light(name):
    assert cases_that_show(MUTANTS[name], map(draw, range(300)), enough=1)

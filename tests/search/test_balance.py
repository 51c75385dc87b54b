"""Which settings are tried beside the peak, and what it takes to move one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from onecycle.search.balance import EVIDENCE, FINALISTS, LEAST, LONGER, Candidate, Trial, balance, candidates, length

DECAY, DROPOUT, BATCH = Candidate("weight_decay", 0.025), Candidate("dropout", 0.1), Candidate("batch_size", 128)
NOTHING = math.log(10)


def learned(share: float) -> float:
    """The loss of a pilot that has come so far on the way to a small loss, where the default one has come to 1."""
    return NOTHING ** (1 - share)


def pilots(shares: dict[tuple[Candidate | None, int], float | None], accuracy: dict | None = None) -> Callable:
    made: list[tuple[Candidate | None, int]] = []

    def run(candidate: Candidate | None, updates: int) -> Trial:
        made.append((candidate, updates))
        share = shares[candidate, updates]
        loss = None if share is None else learned(share)
        return Trial(
            candidate, 0.1, updates, loss, (accuracy or {}).get(candidate), why="" if loss else "out of memory"
        )

    run.made = made  # type: ignore[attr-defined]
    return run


def test_values_about_the_defaults_and_none_for_what_a_model_has_not():
    assert [(one.name, one.value) for one in candidates({"weight_decay": 0.1, "dropout": 0.4, "smoothing": 0.1})] == [
        ("weight_decay", 0.025), ("weight_decay", 0.4), ("dropout", 0.2), ("dropout", 0.8), ("smoothing", 0.0),
        ("smoothing", 0.2),
    ]  # fmt: skip
    assert [one.value for one in candidates({"batch_size": 64}, most=100)] == [32]
    assert candidates({"weight_decay": 0.0, "smoothing": 0.0}) == []


def test_pilots_fit_the_updates_that_they_may_take():
    for allowed in range(0, 6000, 50):
        each, n = length(allowed, 8, 0.25)
        assert each == n == 0 or (each >= LEAST and n >= 2)
        assert 1.25 * each * (1 + n + LONGER * (1 + min(n, FINALISTS))) <= allowed


def test_a_gain_that_lasts_is_taken_and_what_is_clearly_worse_is_not_run_longer():
    run = pilots({(None, 10): 0.5, (DECAY, 10): 0.56, (DROPOUT, 10): 0.4, (BATCH, 10): 0.5,
                  (None, 30): 0.7, (DECAY, 30): 0.8, (BATCH, 30): 0.7})  # fmt: skip
    chosen, why, trials = balance(run, NOTHING, [DECAY, DROPOUT, BATCH], 10)
    assert chosen == DECAY and "weight decay 0.025 learned 14.3 % more" in why
    assert [one[1] for one in run.made] == [10, 10, 10, 10, 30, 30, 30] and (DROPOUT, 30) not in run.made
    assert [one.kept for one in trials] == [True, True, False, True, True, True, False]
    assert trials[2].why == "learned 20.0 % less" and trials[-1].why == "learned 0.0 % more: no evidence"


@pytest.mark.parametrize(
    ("short", "long", "accuracy", "why"),
    [
        (0.60, 0.71, {}, "no evidence"),  # too little
        (0.70, 0.80, {}, "a gain that fades"),  # 40 % more, then 14 %: what short runs prefer
        (0.55, 0.80, {None: 0.9, DECAY: 0.8}, "with a lower accuracy"),
        (0.55, None, {}, "out of memory"),
    ],
)
def test_the_default_stays_without_evidence(short, long, accuracy, why):
    run = pilots({(None, 10): 0.5, (DECAY, 10): short, (None, 30): 0.7, (DECAY, 30): long}, accuracy)
    chosen, said, trials = balance(run, NOTHING, [DECAY], 10)
    assert chosen is None and said == "no other setting had a gain that lasted"
    assert why in trials[-1].why and not trials[-1].kept


def test_of_two_that_are_better_the_better_one_and_of_lost_pilots_none():
    run = pilots({(None, 10): 0.5, (DECAY, 10): 0.51, (DROPOUT, 10): 0.51, (BATCH, 10): None, (None, 30): 0.5,
                  (DECAY, 30): 0.5 * (1 + 2 * EVIDENCE), (DROPOUT, 30): 0.5 * (1 + 3 * EVIDENCE)})  # fmt: skip
    chosen, _, trials = balance(run, NOTHING, [DECAY, DROPOUT, BATCH], 10)
    assert chosen == DROPOUT
    assert trials[3].why == "out of memory" and trials[-2].why.endswith("another more")
    lost = pilots({(None, 10): 0.5, (DECAY, 10): None})
    assert balance(lost, NOTHING, [DECAY], 10)[:2] == (None, "every other setting was clearly worse")


def test_nothing_is_tried_beside_a_default_that_has_learned_nothing():
    for share in (0.0, None):
        run = pilots({(None, 10): share})
        assert balance(run, NOTHING, [DECAY], 10)[:2] == (None, "the default pilot learned nothing yet")
        assert run.made == [(None, 10)]


@pytest.mark.parametrize(("more", "taken"), [(0.06, True), (0.03, False), (-0.02, False)])
def test_label_smoothing_is_judged_by_accuracy_since_it_changes_the_loss(more, taken):
    none = Candidate("smoothing", 0.0)
    run = pilots({(None, 10): 0.5, (none, 10): 0.9, (None, 30): 0.7, (none, 30): 0.95}, {None: 0.8, none: 0.8 + more})
    chosen, _, trials = balance(run, NOTHING, [none], 10)
    assert chosen == (none if taken else None)
    assert trials[1].why == f"{abs(100 * more):.1f} points {'more' if more > 0 else 'less'} accurate"
    without = pilots({(None, 10): 0.5, (none, 10): 0.9})
    assert "no accuracy to judge it by" in balance(without, NOTHING, [none], 10)[2][1].why

"""The statistics of predictions against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onecycle.errors import ConfigError
from onecycle.interpretation import calibration as c
from onecycle.interpretation.calibration import Calibration
from onecycle.interpretation.classes import ClassScores, Confusion, by_label, macro_f1
from onecycle.interpretation.residuals import Residuals
from onecycle.interpretation.samples import label_errors, least_sure, losses, margins, most_wrong
from onecycle.records.predictions import Predictions


def of_classes(probabilities, targets, names=None, **more) -> Predictions:
    p = np.asarray(probabilities, dtype=np.float64)
    names = tuple(names or map(str, range(p.shape[1])))
    return Predictions(
        "valid", "classes", np.log(p).astype(np.float32), np.asarray(targets), names, np.arange(len(p)), len(p), **more
    )


PETS = of_classes(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]],
    [0, 0, 0, 1, 1, 2],
    ("cat", "dog", "cow"),
)


def test_the_confusion_matrix_has_true_classes_in_its_rows():
    confusion = Confusion.of(PETS)
    assert confusion.counts.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert (confusion.accuracy.hits, confusion.accuracy.n) == (5, 6)
    assert [str(pair) for pair in confusion.pairs()] == ["cat taken for dog: 1 of 3 (33.3 %)"]


def test_scores_by_class_are_those_of_their_definitions():
    cat, dog, cow = Confusion.of(PETS).by_class
    assert (cat.precision.value, cat.recall.value, cat.f1) == (1.0, 2 / 3, 0.8)
    assert (dog.precision.value, dog.recall.value, dog.f1) == (2 / 3, 1.0, 0.8)
    assert cow.f1 == 1.0 and cow.errors == 0 and cat.errors == dog.errors == 1
    assert macro_f1([cat, dog, cow]) == pytest.approx(2.6 / 3)


def test_intervals_hold_the_value_and_shrink_with_samples():
    few, many = ClassScores("cat", 6, 8, 7), ClassScores("cat", 600, 800, 700)
    for one in (few, many):
        low, high = one.f1_interval
        assert low < one.f1 < high
    assert np.ptp(few.f1_interval) > 5 * np.ptp(many.f1_interval)
    # J = 6 / 9: Wilson's interval from 0.3542 to 0.8794, and F1 = 2 J / (1 + J) of its ends
    assert few.f1_interval == pytest.approx((0.5231, 0.9358), abs=1e-3)


def test_a_class_without_samples_has_no_scores():
    scores = ClassScores("cow", 0, 0, 0)
    assert scores.f1 is scores.f1_interval is scores.precision.value is scores.recall.interval is None


def test_the_worst_classes_are_those_with_the_most_errors_in_their_order():
    confusion = Confusion(np.array([[5, 0, 0, 1], [0, 9, 0, 0], [2, 0, 4, 0], [3, 0, 0, 2]]), tuple("abcd"))
    worst = confusion.worst(2)
    assert worst.classes == ("a", "d") and worst.counts.tolist() == [[5, 1], [3, 2]]
    assert [(pair.true, pair.predicted) for pair in confusion.pairs(2)] == [("d", "a"), ("c", "a")]


def test_pairs_of_as_many_samples_begin_with_the_smaller_class():
    confusion = Confusion(np.array([[8, 2, 0], [0, 10, 0], [2, 0, 2]]), tuple("abc"))
    assert [pair.true for pair in confusion.pairs()] == ["c", "a"]


def test_the_expected_calibration_error_of_two_bins():
    confidence, right = np.array([0.92, 0.98, 0.62, 0.68]), np.array([True, False, True, True])
    # |0.95 - 0.5| / 2 + |0.65 - 1| / 2
    assert c.expected_error(confidence, right) == pytest.approx(0.4)
    first, last = c.reliability(confidence, right)
    assert (first.low, first.confidence, first.right.hits, first.right.n) == (0.6, pytest.approx(0.65), 2, 2)
    assert (last.low, last.right.hits, last.right.n) == (0.9, 1, 2)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_temperature_that_was_put_in_is_found_again(kind):
    """Targets are drawn from the probabilities of logits, which are then multiplied with 2.5."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40_000, 3)) * 1.5
    if kind == "classes":
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        targets = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    else:
        targets = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
    found = Calibration.of(
        Predictions("valid", kind, (2.5 * z).astype(np.float32), targets, ("a", "b", "c"), np.arange(len(z)), len(z))
    )
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.ece_after < 0.01 < 0.05 < found.ece and found.nll_after < found.nll
    assert found.sentence.startswith("the model is too sure") and found.by_chance < 0.01


def test_the_temperature_is_the_best_of_a_grid_with_ten_samples_as_the_model_says():
    grid, p = np.geomspace(c.COLDEST, c.HOTTEST, 2001), np.exp(PETS.outputs.astype(np.float64))

    def as_said(t):  # the cross-entropy with what the model says
        at = p ** (1 / t)
        return -(p * np.log(at / at.sum(1, keepdims=True))).sum(1).mean()

    best = grid[np.argmin([len(PETS) * c.mean_nll(PETS, t) + 10 * as_said(t) for t in grid])]
    assert c.fitted_temperature(PETS) == pytest.approx(best, rel=0.01)


def test_few_predictions_that_are_all_right_are_not_made_certain():
    """8 of 8 right at 90 %, and 10 as the model says: (8 + 9) / 18 of them are right at the temperature."""
    found = Calibration.of(of_classes([[0.9, 0.1]] * 8, [0] * 8))
    assert 1 / (1 + (1 / 9) ** (1 / found.temperature)) == pytest.approx(17 / 18)
    wrong = Calibration.of(of_classes([[0.9, 0.1]] * 8, [1] * 8))
    assert wrong.temperature == c.HOTTEST


def test_the_most_wrong_are_wrong_and_the_least_sure_are_close():
    assert [one.index for one in most_wrong(PETS)] == [2]
    (worst,) = most_wrong(PETS)
    assert (worst.true, worst.said, worst.why) == ("cat", "dog (80.0 %)", "10.0 % for what is true")
    assert losses(PETS)[2] == pytest.approx(-np.log(0.1))
    assert margins(PETS) == pytest.approx([0.5, 0.3, 0.7, 0.5, 0.1, 0.5], abs=1e-6)
    assert [one.index for one in least_sure(PETS, 2)] == [4, 1]


def test_confident_learning_by_hand():
    """The thresholds are 0.7 = (0.9 + 0.8 + 0.4) / 3 of class a, and 0.55 = (0.9 + 0.3 + 0.45) / 3 of class b."""
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3], [0.55, 0.45]])
    found = label_errors(of_classes(p, [0, 0, 0, 1, 1, 1], ("a", "b")))
    # sample 2 reaches that of b, and sample 4 that of a; the last one reaches none
    assert [one.index for one in found] == [4, 2]
    assert found[0].why == "a is more likely by 40 %" and found[1].why == "b is more likely by 20 %"


def test_label_errors_that_were_put_in_are_found():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 4, 2000)
    p = np.full((2000, 4), 0.05)
    p[np.arange(2000), true] = 0.85
    p = 0.9 * p + 0.1 * rng.dirichlet(np.ones(4), 2000)
    given = true.copy()
    flipped = rng.choice(2000, 100, replace=False)
    given[flipped] = (given[flipped] + 1) % 4
    found = {one.index for one in label_errors(of_classes(p, given))}
    assert len(found & set(flipped.tolist())) >= 95 and len(found - set(flipped.tolist())) <= 5


LABELS = Predictions(
    "valid", "labels", np.array([[3.0, -2.0], [-1.0, -3.0], [0.1, 2.0]], dtype=np.float32),
    np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32), ("red", "round"), np.arange(3), 3,
)  # fmt: skip


def test_labels_are_scored_each_by_itself():
    red, round_ = by_label(LABELS)
    assert (red.right, red.true, red.predicted) == (1, 2, 2) and (round_.right, round_.true, round_.predicted) == (
        1,
        1,
        1,
    )
    assert [one.index for one in most_wrong(LABELS)] == [1, 2]
    assert most_wrong(LABELS)[0].true == "red" and most_wrong(LABELS)[0].said == "none"
    assert least_sure(LABELS, 1)[0].index == 2


def test_label_errors_of_labels_say_which():
    z = np.array([[4.0], [4.0], [-4.0], [4.0], [-4.0], [-4.0]], dtype=np.float32)
    given = np.array([[1], [1], [1], [0], [0], [0]], dtype=np.float32)
    found = label_errors(Predictions("valid", "labels", z, given, ("red",), np.arange(6), 6))
    assert sorted((one.index, one.why.split(" is")[0]) for one in found) == [(2, "no red"), (3, "red")]


NUMBERS = Predictions(
    "valid", "numbers", np.array([[1.0], [2.0], [3.0], [4.0], [8.0]], dtype=np.float32),
    np.array([[1.0], [1.0], [4.0], [4.0], [5.0]], dtype=np.float32), ("price",), np.arange(5), 5,
)  # fmt: skip


def test_residuals_by_hand():
    (one,) = Residuals.of(NUMBERS)
    # errors 0, 1, -1, 0, 3
    assert one.mean[0] == pytest.approx(0.6) and one.mae == 1.0 and one.rmse == pytest.approx((11 / 5) ** 0.5)
    assert one.r2 == pytest.approx(1 - 11 / 14) and one.quantiles[2] == 0
    assert [group.mean for group in one.groups] == [0, 1, -1, 0, 3]
    assert [worst.index for worst in most_wrong(NUMBERS, 2)] == [4, 1]
    assert most_wrong(NUMBERS, 1)[0].why == "off by 3" and most_wrong(NUMBERS, 1)[0].said == "8"


@pytest.mark.parametrize("looked_for", [label_errors, least_sure])
def test_a_regression_has_no_label_errors_and_does_not_say_how_sure_it_is(looked_for):
    with pytest.raises(ConfigError, match="regression"):
        looked_for(NUMBERS)

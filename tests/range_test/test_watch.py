"""The watch over a training: what is divergence, what is a net that died, and what is noise."""

from __future__ import annotations

import math
import random

import pytest

from onecycle.range_test.watch import START, DivergenceWatch


def watched(losses):
    """The index at which it is divergence; None if it never is."""
    watch = DivergenceWatch()
    return next((i for i, loss in enumerate(losses) if watch.diverged(loss)), None)


def noisy(level, n=200, sd=0.1, seed=0):
    draw = random.Random(seed)
    return [level(k) + draw.gauss(0, sd) for k in range(n)]


FALLS_AND_RISES = noisy(lambda k: 2 - min(k, 100) / 60 + (max(0, k - 130) / 25) ** 2)


def test_a_rise_after_a_fall_is_divergence_once_it_is_back_at_the_start():
    stop = watched(FALLS_AND_RISES)
    assert stop is not None and 155 <= stop <= 170
    assert sum(FALLS_AND_RISES[stop - 2 : stop + 1]) / 3 > sum(FALLS_AND_RISES[:START]) / START


def test_four_times_the_best_is_no_divergence():
    losses = [10.0] * 8 + [10 * 0.8**k for k in range(1, 30)] + [0.1 + k * 0.3 for k in range(30)]
    assert max(losses[37:]) > 60 * min(losses) and watched(losses) is None
    assert watched([*losses, *[10.5] * 5]) is not None


def test_a_plain_rise_is_divergence():
    stop = watched(noisy(lambda k: 1 + max(0, k - 50) * 0.1))
    assert stop is not None and 51 < stop < 70


@pytest.mark.parametrize("level", [2.3, 0.0, -100.0])
def test_noise_and_a_slow_fall_are_no_divergence(level):
    assert [watched(noisy(lambda k: level, sd=1.0, n=40, seed=s)) for s in range(20)].count(None) >= 18
    assert watched(noisy(lambda k: level - k * 0.05, sd=0.3)) is None
    assert watched([level] * 100) is None


def test_one_bad_batch_is_no_divergence():
    losses = noisy(lambda k: 1.0, sd=0.01, n=60)
    losses[30] = 1.1
    assert watched(losses) is None


@pytest.mark.parametrize(("scale", "shift"), [(100, 0), (1e-3, 0), (1, -100), (0.01, -3), (5, 1000)])
def test_scale_and_sign_of_the_loss_do_not_matter(scale, shift):
    assert watched([scale * loss + shift for loss in FALLS_AND_RISES]) == watched(FALLS_AND_RISES)


def test_it_needs_a_few_losses():
    assert watched([1.0, 1e9, 1e9, 1e9, 1e9, 1e9]) is None


def test_moved_says_whether_anything_happened():
    for losses, moved in (([1.0] * 50, False), (noisy(lambda k: 1 - k / 50), True), (FALLS_AND_RISES, True)):
        watch = DivergenceWatch()
        for loss in losses[:150]:
            watch.diverged(loss)
        assert watch.moved == moved


KINDS = {
    "gaussian": lambda draw: draw.gauss(0, 1),
    "heavy tails on both sides": lambda draw: draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2 / 3)),
    "skewed": lambda draw: draw.lognormvariate(0, 1),
    "skewed to below": lambda draw: -draw.lognormvariate(0, 1),
    "batches of 8 with a rare large loss": lambda draw: sum(
        draw.expovariate(1) + 10 * (draw.random() < 0.1) for _ in range(8)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "times"), [(12, 200), (150, 60)])
@pytest.mark.parametrize("fall", [0.0, 4.0])
def test_noise_of_any_kind_is_no_divergence_however_long(kind, n, times, fall):
    draw = random.Random(n)
    courses = [
        [KINDS[kind](draw) - fall / (1 + math.exp((n / 2 - k) / (n / 15))) for k in range(n)] for _ in range(times)
    ]
    assert sum(watched(course) is not None for course in courses) <= times / 60


@pytest.mark.parametrize("fall", [0, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_seen_within_a_few_updates(fall, seed):
    draw = random.Random(seed)
    before = [10 - fall / (1 + math.exp((30 - k) / 5)) + draw.gauss(0, 1) for k in range(60)]
    grows = [before[-1] + 0.3 * 3**k + draw.gauss(0, 1) for k in range(20)]
    jumps = [22 + draw.gauss(0, 1) for _ in range(20)]
    assert 60 < watched(before + grows) <= 66
    assert 60 < watched(before + jumps) <= 63
    assert watched([*before, 1000000000.0, *before[-20:]]) is None, "one loss is not enough, however large"


def test_a_fall_that_is_lost_again_is_divergence_though_the_loss_is_not_above_the_start():
    draw = random.Random(0)
    before = [10 - 8 / (1 + math.exp((30 - k) / 5)) + draw.gauss(0, 1) for k in range(60)]
    assert watched(before + [9.7] * 20) == 60 + 3
    assert watched(before + [6.0] * 40) is None, "half of it is not lost"


def died(gradients, losses):
    """The index at which it is lost; None if it never is."""
    watch = DivergenceWatch()
    return next((i for i, known in enumerate(zip(losses, gradients, strict=True)) if watch.diverged(*known)), None)


def test_a_net_has_died_where_half_of_its_gradients_vanish_for_good():
    alive, dead, still = [3.0, 1.0, 2.0, 0.5], [0.0, 0.0, 0.01, 0.4], [1.0 + 0.01 * (k % 3) for k in range(40)]
    assert died([alive] * 40, still) is None
    assert died([alive] * 20 + [dead] * 20, still) == 22
    assert died(([alive] * 2 + [dead]) * 13 + [alive], still) is None, "as of layers that are skipped at random"
    assert died([[0.0, 0.0, 0.0, 1.0]] * 40, still) is None, "they were never there: it has not begun to learn"
    assert died([[1e-9 * g for g in alive]] * 40, still) is None
    spike = [[1e6 * g for g in alive]]
    assert died([alive] * 20 + spike + [alive] * 19, still) is None, "what follows a spike has not vanished"


def test_a_net_that_has_learnt_all_has_not_died():
    alive = [3.0, 1.0, 2.0, 0.5]
    vanishing = [[g * min(1.0, 0.5 ** (k - 10)) for g in alive] for k in range(40)]
    learnt = [1.0 * min(1.0, 0.7 ** (k - 10)) for k in range(40)]
    assert died(vanishing, learnt) is None
    assert died(vanishing, [1.0 + 0.01 * (k % 3) for k in range(40)]) is not None, "it stays where it began"

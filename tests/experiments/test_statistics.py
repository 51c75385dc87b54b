from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onecycle.errors import ConfigError, DataError
from onecycle.experiments.statistics import (
    Interval,
    SpeedUp,
    mean_interval,
    paired_difference,
    sentence,
    speed_up,
    summary,
    to_target,
)

INF, NAN = math.inf, math.nan
quick = settings(deadline=None, database=None, max_examples=40)
fractions = st.floats(0, 1)


def cell(mean: float, *deviations: float) -> dict[int, float]:
    """Accuracies by seed: three seeds with a standard deviation of 0.001 unless told."""
    return {seed: mean + d for seed, d in enumerate(deviations or (-0.001, 0.0, 0.001))}


def line(accuracies: dict, *deviations: float) -> dict:
    return {budget: cell(mean, *deviations) for budget, mean in accuracies.items()}


def ends(found) -> tuple[float, float]:
    """Low and high, as numbers where they are unbounded."""
    return -INF if found.low is None else found.low, INF if found.high is None else found.high


# Mean and paired difference


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("values", [[0.9, 0.91], [0.90, 0.91, 0.92, 0.91, 0.91], [1, 2, 4, 8, 16, 32]])
def test_students_interval_is_the_one_of_scipy(values, level):
    found = mean_interval(values, level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.n, found.method, found.level) == (pytest.approx(np.mean(values)), len(values), "t", level)


def test_students_interval_by_hand():
    # mean 2, s 1, t(2) at 97.5 % 4.30265: 2 -+ 4.30265 / sqrt(3)
    found = mean_interval([1, 2, 3])
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-5)


def test_the_bootstrap_interval_is_that_of_all_resamples():
    values, n = [0.1, 0.2, 0.4, 0.7, 1.0], 5
    means = np.sort([np.mean(x) for x in itertools.product(values, repeat=n)])
    outside = stats.norm.cdf(-math.sqrt(5 / 4) * stats.t.ppf(0.95, 4))
    found = mean_interval(values, 0.9, "bootstrap")
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [outside, 1 - outside]), abs=0.02)
    assert found.method == "bootstrap" and found == mean_interval(values, 0.9, "bootstrap")


def test_the_bootstrap_interval_covers_what_it_says():
    rng = np.random.default_rng(0)
    intervals = [ends(mean_interval(rng.normal(size=8), 0.9, "bootstrap")) for _ in range(150)]
    assert 0.84 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.96


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_one_value_has_no_interval_and_equal_ones_a_point(method):
    one = mean_interval([0.9], method=method)
    assert (one.mean, one.low, one.high, one.n) == (0.9, None, None, 1)
    assert str(one) == "0.9 (n = 1: no interval)"
    two = mean_interval([0.5, 0.5], method=method)
    assert (two.mean, two.low, two.high, two.n) == (0.5, 0.5, 0.5, 2)


@quick
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(-10, 10), st.sampled_from(["t", "bootstrap"]))
def test_an_interval_holds_its_mean_and_moves_with_the_values(values, shift, method):
    found = mean_interval(values, method=method)
    low, high = ends(found)
    assert low - 1e-9 <= found.mean <= high + 1e-9
    moved = ends(mean_interval([v + shift for v in values], method=method))
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


@pytest.mark.parametrize("value", [NAN, INF, -INF, None, "0.9", True])
def test_a_value_that_is_not_finite_is_refused(value):
    for call in (
        lambda: mean_interval([0.9, value]),
        lambda: paired_difference({0: 0.9}, {0: value}),
        lambda: to_target([[(1, 0.5), (2, value)]], 0.9),
    ):
        with pytest.raises(DataError, match=f"a finite number; received {value!r}"):
            call()


def test_bad_arguments_are_named():
    with pytest.raises(DataError, match="no values"):
        mean_interval([])
    with pytest.raises(ConfigError, match="unknown method 'bootstap': did you mean bootstrap"):
        mean_interval([1, 2], method="bootstap")  # pyright: ignore[reportArgumentType]
    for level in (0, 1, 95, NAN):
        for call in (lambda x: mean_interval([1, 2], x), lambda x: to_target([[(1, 1)]], 1, level=x)):
            with pytest.raises(ConfigError, match=f"between 0 and 1, such as 0.95; received {level}"):
                call(level)


def test_a_paired_difference_is_over_the_common_seeds():
    a, b = {3: 0.92, 1: 0.90, 2: 0.91, 9: 0.1}, {1: 0.88, 2: 0.89, 3: 0.91, 7: 0.5}
    found = paired_difference(a, b)
    expected = stats.ttest_rel([0.90, 0.91, 0.92], [0.88, 0.89, 0.91]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high)) and found.n == 3
    assert paired_difference({1: 0.9}, {1: 0.8}).low is None
    with pytest.raises(DataError, match=r"no seed is in both \[0\] and \[1\]"):
        paired_difference({0: 0.9}, {1: 0.9})


# Time to a target


def ending(*times: float, censored: tuple[float, ...] = ()) -> list[list[tuple[float, float]]]:
    """One curve for each time at which 0.9 is reached, and for each at which a run ended without."""
    return [[(t / 2, 0.5), (t, 0.9), (t + 9, 0.8)] for t in times] + [[(t / 2, 0.5), (t, 0.8)] for t in censored]


def test_all_reach_the_target():
    # Share below after each: 5/6, 4/6, 3/6 ... 0. The log-log interval of 5/6 holds one half already: its lower end
    # is (5/6) ** exp(1.96 / sqrt(30) / log(6/5)) = 0.27.
    found = to_target(ending(1, 2, 3, 4, 5, 6), 0.9)
    assert (found.median, found.n, found.reached) == (3, 6, 6)
    assert found.low == 1 and found.high == 6


def test_kaplan_meier_by_hand():
    # At risk 8, 7, 5, 4 at the times 1, 2, 4, 5: 7/8, 6/8, 6/8 * 4/5 = 0.6, 0.6 * 3/4 = 0.45.
    found = to_target(ending(1, 2, 4, 5, censored=(3, 9, 9, 9)), 0.9)
    assert (found.median, found.n, found.reached, found.limit) == (5, 8, 4, 9)
    assert found.high is None and str(found) == "5 [1, more than 9] (4 of 8 runs reached 90 %)"
    # Dropping the censored runs would give 2, and counting the one that ended at 3 as never would give none.
    assert to_target(ending(1, 2, 4, 5), 0.9).median == 2
    assert to_target(ending(1, 2, 4, 5, censored=(9, 9, 9)), 0.9, failed=2).median is None


def test_what_most_runs_did_not_reach_is_more_than_the_limit():
    found = to_target(ending(3, censored=(12, 12, 12)), 0.9)
    assert (found.median, found.low, found.high, found.reached, found.n) == (None, None, None, 1, 4)
    assert str(found) == "more than 12 (1 of 4 runs reached 90 %)"
    assert str(to_target(ending(censored=(7.5,)), 0.9)) == "more than 7.5 (0 of 1 runs reached 90 %)"


def test_too_few_runs_bound_no_median():
    # All of 5 lie on one side of it in 1 of 32 cases, more than 2.5 %; at 90 % they are enough.
    five = ending(1, 2, 3, 4, 5)
    assert (to_target(five, 0.9).low, to_target(five, 0.9).high) == (None, None)
    assert str(to_target(five, 0.9)) == "3 (5 of 5 runs reached 90 %: too few for an interval)"
    found = to_target(five, 0.9, level=0.9)
    assert (found.low, found.high) == (1, 5) and str(found) == "3 [1, 5] (5 of 5 runs reached 90 %)"


def test_the_first_measurement_at_the_target_counts():
    assert to_target([[(1, 0.5), (2, 0.9), (3, 0.4), (4, 0.95)]], 0.9).median == 2
    assert to_target([[(1, 0.9)]], 0.9).median == 1


def test_failed_runs_never_reach_it():
    with_failed, without = to_target(ending(1, 2, 3), 0.9, failed=4), to_target(ending(1, 2, 3), 0.9)
    assert (without.median, without.n) == (2, 3)
    assert (with_failed.median, with_failed.n, with_failed.reached) == (None, 7, 3)


def test_the_median_interval_covers_what_it_says():
    rng, inside, censored = np.random.default_rng(0), 0, 0
    for _ in range(150):
        times = rng.lognormal(0, 0.5, 10)
        found = to_target([[(t, 0.9)] if t < 1.5 else [(1.5, 0.5)] for t in times], 0.9)
        low, high = ends(found)
        inside += low <= 1 <= high
        censored += found.reached < 10
    assert inside / 150 >= 0.9 and censored > 100


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "no curves"),
        ([[(1, 0.5)], []], r"rising order; received \[\]"),
        ([[(2, 0.5), (1, 0.6)]], r"rising order; received \[\(2, 0.5\), \(1, 0.6\)\]"),
        ([[(1, 0.5), (1, 0.6)]], "rising order"),
    ],
)
def test_bad_curves_are_named(curves, message):
    with pytest.raises(DataError, match=message):
        to_target(curves, 0.9)


@quick
@given(
    st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 3),
    st.floats(0.5, 0.99),
)
def test_median_and_interval_are_in_order(ends, failed, level):
    found = to_target([[(t, 0.9 if there else 0.1)] for t, there in ends], 0.5, failed=failed, level=level)
    bounds = [0 if found.low is None else found.low, found.median, INF if found.high is None else found.high]
    assert found.n == len(ends) + failed and found.reached == sum(there for _, there in ends)
    assert sorted(b for b in bounds if b is not None) == [b for b in bounds if b is not None]
    assert found.high is None or found.median is not None


# The speed-up

STEP = {4: 0.85, 8: 0.89, 16: 0.91}


def test_the_budget_is_interpolated_in_its_logarithm():
    found = speed_up(line({4: 0.90}), {"step": line(STEP)})[4]
    # Half-way between the accuracies at 8 and 16: sqrt(8 * 16).
    assert found.needed == pytest.approx(math.sqrt(128)) and found.s == pytest.approx(math.sqrt(8))
    assert (found.policy, found.budget, found.tried, found.n, found.failed) == ("step", 4, (4, 16), 3, 0)
    assert found.target.mean == pytest.approx(0.9) and found.target.low == pytest.approx(0.9 - 0.002484, abs=1e-6)
    assert (found.more_than, found.at_most, found.reached_share, found.claim) == (False, False, 1.0, "faster")
    # The same seeds move all means alike: the difference, and so the crossing, is known exactly.
    assert found.low == pytest.approx(found.s) and found.high == pytest.approx(found.s)


def test_the_interval_is_where_the_paired_difference_is_not_significant():
    """With one policy, the ends are those budgets at which a paired t test has p = 5 %."""
    rng = np.random.default_rng(3)
    ours = {4: cell(0.875, *rng.normal(0, 0.004, 6))}
    step = {b: cell(a, *rng.normal(0, 0.004, 6)) for b, a in ((4, 0.85), (16, 0.90))}
    found = speed_up(ours, {"step": step}, resamples=20000)[4]
    for end in ends(found):
        weight = math.log2(end) / 2  # between the budgets 4 and 16
        interpolated = [(1 - weight) * step[4][seed] + weight * step[16][seed] for seed in range(6)]
        assert stats.ttest_rel(interpolated, list(ours[4].values())).pvalue == pytest.approx(0.05, abs=0.006)


def test_the_best_policy_at_the_crossing_counts():
    standard = {"step": line(STEP), "cosine": line({4: 0.80, 8: 0.88, 16: 0.93}), "constant": line({4: 0.86, 16: 0.87})}
    found = speed_up(line({2: 0.855, 4: 0.885, 8: 0.92}), standard)
    assert [found[b].policy for b in (2, 4, 8)] == ["constant", "step", "cosine"]
    assert found[2].at_most and found[2].needed == 4 and found[4].needed == pytest.approx(4 * 2 ** (0.035 / 0.04))
    assert found[8].needed == pytest.approx(8 * 2**0.8)
    assert list(found) == [2, 4, 8]


def test_a_fall_with_the_budget_is_not_needed():
    found = speed_up(line({4: 0.90}), {"step": line({4: 0.88, 8: 0.86, 16: 0.92})})[4]
    assert found.needed == pytest.approx(8 * math.sqrt(2))


def test_more_than_the_largest_budget():
    found = speed_up(line({4: 0.95}), {"step": line(STEP), "constant": line({4: 0.9, 8: 0.9, 16: 0.9})})[4]
    assert (found.more_than, found.at_most, found.needed, found.s, found.policy) == (True, False, 16, 4, "step")
    assert (found.low, found.high, found.reached_share, found.claim) == (4, None, 0.0, "faster")


def test_at_most_the_smallest_budget():
    found = speed_up(line({8: 0.80}), {"step": line(STEP)})[8]
    assert (found.more_than, found.at_most, found.needed, found.s) == (False, True, 4, 0.5)
    assert (found.low, found.high, found.claim) == (None, 0.5, "slower")
    # Where 1cycle was not given more, "at most" says nothing about which is faster.
    assert speed_up(line({4: 0.80}), {"step": line(STEP)})[4].claim is None
    assert speed_up(line({2: 0.80}), {"step": line(STEP)})[2].claim is None


def test_no_claim_from_more_than_a_budget_below_ones_own():
    found = speed_up(line({32: 0.95}), {"step": line(STEP)})[32]
    assert found.more_than and found.claim is None and (found.low, found.high) == (0.5, None)
    assert speed_up(line({16: 0.95}), {"step": line(STEP)})[16].claim == "faster"


def test_resamples_that_are_censored_leave_an_end_open():
    noisy = (-0.01, 0.0, 0.01)
    above = speed_up({4: cell(0.909, *noisy)}, {"step": line(STEP, 0.01, -0.01, 0.0)})[4]
    assert above.high is None and above.low is not None and not above.more_than
    assert above.reached_share is not None and 0.5 < above.reached_share < 0.99
    below = speed_up({4: cell(0.852, *noisy)}, {"step": line(STEP, 0.01, -0.01, 0.0)})[4]
    assert below.low is None and below.high is not None and not below.at_most and below.claim is None


def test_one_seed_has_no_interval():
    for ours, step in (({0: 0.9}, {0: 0.8, 1: 0.8}), ({0: 0.9, 1: 0.9}, {0: 0.8})):
        found = speed_up({4: ours}, {"step": {4: step, 16: {0: 0.95, 1: 0.95}}})[4]
        assert (found.n, found.low, found.high, found.reached_share, found.claim) == (1, None, None, None, None)
        assert found.s == pytest.approx(4 ** (2 / 3))


def test_failed_runs_are_left_out_and_counted():
    step = line(STEP) | {8: {0: 0.89, 1: None, 2: 0.89}}
    found = speed_up({4: {0: 0.9, 1: 0.9, 2: None}, 8: {0: None}}, {"step": step, "cosine": {4: {0: None, 1: None}}})
    assert list(found) == [4]
    assert (found[4].n, found[4].failed, found[4].policy) == (2, 4, "step")
    assert found[4].needed == pytest.approx(math.sqrt(128))


def test_policies_are_compared_where_all_were_tried():
    # What "short" would need beyond 8 is not known: only "more than 8" can be said.
    short = {4: STEP[4], 8: STEP[8]}
    pending = {16: {}}
    found = speed_up(line({4: 0.90}), {"step": line(STEP), "short": line(short) | pending})[4]
    assert found.more_than and found.tried == (4, 8) and found.needed == 8
    # It was tried at 16, and failed: then it does not get there.
    failing = line(short) | {16: {0: None, 1: None}}
    found = speed_up(line({4: 0.90}), {"step": line(STEP), "failing": failing})[4]
    assert found.needed == pytest.approx(math.sqrt(128)) and found.tried == (4, 16)


def simulated(truth: float, policies: int, seed: int, n: int = 5) -> tuple[float, float]:
    """The interval of S, 1cycle at budget 4, where a policy needs `truth` for the same; seeds share half the noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=n)

    def runs(budget: float) -> dict[int, float]:
        noise = 0.004 * (shared + rng.normal(size=n)) / math.sqrt(2)
        return dict(enumerate(0.80 + 0.02 * math.log2(budget) + noise))

    standard = {f"policy-{i}": {b: runs(b) for b in (4, 8, 16, 32)} for i in range(policies)}
    found = speed_up({4: runs(truth)}, standard, resamples=400)[4]
    return ends(found)


@pytest.mark.parametrize(("policies", "n", "least", "most"), [(1, 3, 0.91, 0.99), (1, 5, 0.91, 0.99), (3, 5, 0.91, 1)])
def test_the_interval_of_a_speed_up_covers_it(policies, n, least, most):
    intervals = [simulated(10, policies, seed, n) for seed in range(200)]
    assert least <= np.mean([low <= 2.5 <= high for low, high in intervals]) <= most
    if n == 5:
        assert np.median([high / low for low, high in intervals]) < 2  # and it says something


def test_the_upper_end_is_corrected_for_the_number_of_policies():
    rng = np.random.default_rng(0)
    step = {b: cell(a, *rng.normal(0, 0.004, 6)) for b, a in STEP.items()}
    ours = {4: cell(0.89, *rng.normal(0, 0.004, 6))}
    one, three = speed_up(ours, {"a": step})[4], speed_up(ours, {"a": step, "b": step, "c": step})[4]
    corrected = speed_up(ours, {"a": step}, level=1 - 0.05 / 3)[4]
    assert three.low == one.low and three.high == pytest.approx(corrected.high, rel=0.01)
    assert three.high != pytest.approx(one.high, rel=0.02)


def test_faster_is_rarely_claimed_of_equals():
    assert np.mean([simulated(4, 3, seed)[0] > 1 for seed in range(100)]) <= 0.05


@quick
@given(
    st.lists(st.lists(fractions, min_size=3, max_size=3), min_size=2, max_size=4),
    st.lists(fractions, min_size=3, max_size=3),
    st.integers(0, 5),
)
def test_a_speed_up_is_in_order_whatever_the_runs(curve, runs, seed):
    step = {2.0**i: dict(enumerate(values)) for i, values in enumerate(curve, start=2)}
    ours = {4: dict(enumerate(runs))}
    found = speed_up(ours, {"step": step}, resamples=100, seed=seed)[4]
    reordered = {b: dict(reversed(step[b].items())) for b in reversed(step)}
    again = speed_up(ours, {"step": reordered}, resamples=100, seed=seed)[4]
    assert again == found
    assert found.tried[0] <= found.needed <= found.tried[1]
    low, high = ends(found)
    assert low <= high and not (found.more_than and found.at_most)
    assert {"faster": low >= 1, "slower": high < 1, None: low <= 1 <= high}[found.claim]


def test_resampling_is_repeatable_and_depends_on_its_seed():
    ours, step = {4: cell(0.9, 0.01, 0.0, -0.01)}, {"step": line(STEP, 0.0, 0.01, -0.01)}
    assert speed_up(ours, step) == speed_up(ours, step) != speed_up(ours, step, seed=1)


@pytest.mark.parametrize(
    ("ours", "standard", "options", "error", "message"),
    [
        ({}, {"step": line(STEP)}, {}, DataError, "successful runs of 1cycle and of at least one standard policy"),
        ({4: {0: None}}, {"step": line(STEP)}, {}, DataError, "successful runs of 1cycle"),
        (line({4: 0.9}), {}, {}, DataError, "successful runs of 1cycle"),
        (line({4: 0.9}), {"step": {}}, {}, DataError, "successful runs of 1cycle"),
        ({4: {0: 91.2}}, {"step": line(STEP)}, {}, DataError, "0.91 for 91 %; received 91.2 of 1cycle"),
        (line({4: 0.9}), {"step": {4: {0: NAN}}}, {}, DataError, "a finite number; received nan"),
        (line({4: 0.9}), {"step": line({0: 0.9})}, {}, ConfigError, "a number above 0; received 0 of step"),
        (line({4: 0.9}), {"a": line({4: 0.9}), "b": line({8: 0.9})}, {}, DataError, r"received \[\[4\], \[8\]\]"),
        (line({4: 0.9}), {"step": line(STEP)}, {"level": 95}, ConfigError, "received 95"),
        (line({4: 0.9}), {"step": line(STEP)}, {"resamples": 10}, ConfigError, "from 100.*received 10"),
    ],
)
def test_a_speed_up_names_what_it_cannot_use(ours, standard, options, error, message):
    with pytest.raises(error, match=message):
        speed_up(ours, standard, **options)


# In words


BEST = SpeedUp(
    s=9 / 4,
    low=7 / 4,
    high=3,
    policy="cosine",
    target=Interval(0.912, 0.910, 0.914, 5, "t"),
    budget=4,
    needed=9,
    tried=(2, 12),
    n=5,
    failed=0,
    more_than=False,
    at_most=False,
    reached_share=1.0,
    claim="faster",
)
HEAD = " (n = 5): it reaches 91.2 % [91.0, 91.4] in 4 epochs; the best tuned standard schedule (cosine) needs "


@pytest.mark.parametrize(
    ("changes", "tail"),
    [
        ({}, "9 [7, 12] (95 % intervals)"),
        ({"failed": 3}, "9 [7, 12] (95 % intervals); failed runs left out: 3"),
        ({"high": None}, "9 [7, over 12] (95 % intervals)"),
        ({"low": 0.9, "claim": None}, "9 [3.6, 12] (95 % intervals)"),
        ({"low": None, "claim": None}, "9 [under 2, 12] (95 % intervals)"),
        ({"low": None, "high": None, "claim": None}, "9 (95 % intervals)"),
        ({"s": 3, "needed": 12, "more_than": True, "low": 2.6, "high": None}, "more than 12 [10.4, over 12] (95 % "),
        ({"s": 3, "needed": 12, "more_than": True, "low": 3, "high": None}, "more than 12 (95 % intervals)"),
        ({"s": 0.5, "needed": 2, "at_most": True, "low": None, "high": 0.5, "claim": "slower"}, "at most 2 (95 %"),
        (
            {"s": 0.5, "needed": 2, "at_most": True, "low": None, "high": 0.7, "claim": "slower"},
            "at most 2 [under 2, 2.8]",
        ),
        (
            {"n": 1, "low": None, "high": None, "claim": None},
            "9 (with n = 1 there is no interval)",
        ),
    ],
)
def test_a_speed_up_in_words(changes, tail):
    said = sentence(replace(BEST, **changes))
    claim, n = (changes.get(name, getattr(BEST, name)) for name in ("claim", "n"))
    head = f"1cycle is {claim}{HEAD}" if claim else f"No difference shown{HEAD.replace('it', '1cycle', 1)}"
    assert said.startswith(head.replace("n = 5", f"n = {n}") + tail)


@pytest.mark.parametrize(
    ("changes", "tells"),
    [
        ({}, True),
        ({"n": 1, "low": None, "high": None}, True),
        ({"low": None, "high": None}, False),
        ({"low": None, "high": None, "more_than": True}, False),
        ({"s": 1.0, "low": 1.0, "high": None, "more_than": True}, False),
        ({"s": 1.0, "low": 1.0, "high": None, "more_than": True, "claim": "faster"}, True),
        ({"s": 1.0, "low": None, "high": 1.0, "at_most": True}, False),
        ({"s": 1.5, "low": 1.0, "high": None, "more_than": True}, True),
    ],
)
def test_whether_a_speed_up_tells_anything(changes, tells):
    assert replace(BEST, **{"claim": None, **changes}).tells is tells


def test_units_and_given_peaks_in_words():
    assert "in 4 seconds; the best standard schedule (cosine) needs 9" in sentence(BEST, "seconds", tuned=False)


def test_percent_has_the_digits_that_are_known():
    for target, expected in (
        (Interval(0.9123, 0.9121, 0.9125, 5, "t"), "91.23 % [91.21, 91.25] in"),
        (Interval(0.9123, 0.88, 0.9446, 5, "t"), "91.2 % [88.0, 94.5] in"),
        (Interval(0.9123, None, None, 1, "t"), "91.2 % in"),
    ):
        assert f"(n = 5): it reaches {expected}" in sentence(replace(BEST, target=target))


def words(ours, standard) -> str:
    return sentence(speed_up(ours, standard)[4])


def test_censored_in_words():
    step = {"step": line(STEP)}
    assert words(line({4: 0.95}), step).endswith("(step) needs more than 16 (95 % intervals)")
    none = words(line({4: 0.80}), step)
    assert none.startswith("No difference shown (n = 3): 1cycle reaches")
    assert none.endswith("(step) needs at most 4 (95 % intervals)")


def test_no_difference_is_claimed_where_there_is_none():
    ours, step = {4: cell(0.86, 0.01, 0.0, -0.01)}, {"step": line(STEP, -0.01, 0.01, 0.0)}
    assert words(ours, step).startswith("No difference shown (n = 3): ")


def test_slower_and_failed_in_words():
    step = {"step": line({1: 0.85, 2: 0.89, 4: 0.91}) | {8: {0: None}}}
    tail = "needs 1.41 [1.41, 1.41] (95 % intervals); failed runs left out: 1"
    assert words(line({4: 0.87}), step).endswith(tail)


# Tables


def test_a_summary_counts_failed_runs():
    rows = [
        {"policy": "step", "epochs": 4, "seed": 0, "test_accuracy": 0.90},
        {"policy": "one_cycle", "epochs": 4, "seed": 0, "test_accuracy": 0.92},
        {"policy": "step", "epochs": 4, "seed": 1, "test_accuracy": 0.91},
        {"policy": "step", "epochs": 4, "seed": 2, "test_accuracy": None, "error": "TrainingError"},
        {"policy": "step", "epochs": 4, "seed": 3, "test_accuracy": NAN},
        {"policy": "step", "epochs": 8, "seed": 0},
    ]
    first, second, third = summary(rows, by=["policy", "epochs"])
    interval = mean_interval([0.90, 0.91])
    expected = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": 2, "failed": 2}
    assert first == {"policy": "step", "epochs": 4, **expected}
    assert second == {"policy": "one_cycle", "epochs": 4, "mean": 0.92, "low": None, "high": None, "n": 1, "failed": 0}
    assert third == {"policy": "step", "epochs": 8, "mean": None, "low": None, "high": None, "n": 0, "failed": 1}


def test_a_summary_of_another_value_and_of_nothing():
    assert summary([{"loss": 1.5}, {"loss": 1.5}], by=[], value="loss")[0]["mean"] == 1.5
    assert summary([], by=["policy"]) == []
    with pytest.raises(DataError, match="no 'polcy' to summarise by: did you mean policy"):
        summary([{"policy": "step", "test_accuracy": 0.9}], by=["polcy"])


def test_the_interval_of_an_accuracy_stays_from_0_to_1_and_covers_as_often():
    near = [0.99, 1.0, 1.0]
    plain, cut = mean_interval(near), mean_interval(near, within=(0, 1))
    assert plain.low is not None and plain.high is not None and plain.high > 1
    assert (cut.mean, cut.low, cut.high) == (plain.mean, plain.low, 1.0)
    rows = [{"policy": "step", "test_accuracy": value, "test_loss": 30 * value} for value in near]
    assert summary(rows, by=["policy"])[0]["high"] == 1.0
    assert summary(rows, by=["policy"], value="test_loss")[0]["high"] > 30
    ours = {4: dict(enumerate(near))}
    assert speed_up(ours, {"step": {4: {0: 0.9, 1: 0.91, 2: 0.9}}})[4].target.high == 1.0
    rng, p = np.random.default_rng(0), 0.97  # a skewed share, near the edge
    draws = rng.binomial(100, p, (4000, 5)) / 100
    ends = [(mean_interval(x), mean_interval(x, within=(0, 1))) for x in draws]
    covered = [sum(bool(i.low <= p <= i.high) for i in kind) for kind in zip(*ends, strict=True)]
    assert covered[0] == covered[1] > 0.92 * len(draws)

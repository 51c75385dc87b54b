"""The statistics of a fair comparison: means with intervals, time to a target, the speed-up S, and what they say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy import stats

from ..checks import one_of
from ..errors import ConfigError, DataError, did_you_mean
from ..records.statistics import Bounds, bounds_of, student
from ..text import count, percent

Accuracies = Mapping[Any, Mapping[int, float | None]]
"""Fractions from 0 to 1 by budget (a number), then by seed; None for a run that failed."""
BySeed = Mapping[int, float]
ByBudget = Mapping[float, BySeed]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the ends are None for a single value, which allows none."""

    mean: float
    low: float | None
    high: float | None
    n: int
    method: str
    level: float = 0.95

    def __str__(self) -> str:
        """In words: ``0.912 [0.91, 0.914] (n = 5)``."""
        if self.low is None or self.high is None:
            return f"{self.mean:.4g} (n = {self.n}: no interval)"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"


def mean_interval(
    values: Iterable[float],
    level: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
    within: Bounds = None,
) -> Interval:
    """The mean of independent values, with its two-sided confidence interval.

    ``t`` is Student's: ``mean +- t(n - 1) s / sqrt(n)``, cut off at what the values can be `within`, such as ``(0, 1)``
    for accuracies. ``bootstrap`` takes percentiles of the means of resampled
    values, at a level widened for few of them (Hesterberg, 1411.5279, the expanded percentile interval); it never
    reaches beyond the values, and so covers too little below about 5 of them.

    >>> print(mean_interval([0.90, 0.91, 0.92, 0.91, 0.91]))
    0.91 [0.9012, 0.9188] (n = 5)
    >>> print(mean_interval([0.9]))
    0.9 (n = 1: no interval)

    Raises:
        DataError: no values, or one that is not a finite number.
        ConfigError: an unknown method, or a level outside (0, 1).
    """
    _check_level(level)
    one_of("method", method, ("t", "bootstrap"))
    if not len(x := np.array([_finite(v) for v in values])):
        raise DataError("there are no values to take a mean of: give one at least, and two for an interval")
    if len(x) < 2:
        low = high = None
    elif method == "t":
        _, low, high = student(x, level, within)
    else:
        low, high = _resampled(x, level)
    return Interval(float(x.mean()), low, high, len(x), method, level)


def _resampled(x: np.ndarray, level: float, draws: int = 9999) -> tuple[float, float]:
    n, rng = len(x), np.random.default_rng(0)
    outside = 2 * float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1)))
    drawn = stats.bootstrap(
        (x,), np.mean, n_resamples=draws, confidence_level=1 - max(outside, 1 / draws), method="percentile", rng=rng
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], level: float = 0.95) -> Interval:
    """The mean of ``a - b`` over the seeds that both have, with Student's interval of the differences.

    The values are by seed; what the runs of one seed share (data order, augmentation) the difference cancels.

    >>> print(paired_difference({0: 0.92, 1: 0.90, 2: 0.91}, {0: 0.91, 1: 0.88, 2: 0.89, 3: 0.5}))
    0.01667 [0.002324, 0.03101] (n = 3)

    Raises:
        DataError: no seed in common, or a value that is not a finite number.
    """
    if not (common := sorted(set(a) & set(b))):
        raise DataError(f"no seed is in both {sorted(a)} and {sorted(b)}: a paired difference needs the same seeds")
    return mean_interval([_finite(a[seed]) - _finite(b[seed]) for seed in common], level)


@dataclass(frozen=True)
class ToTarget:
    """Epochs or seconds to a target accuracy: the median over runs; an end that the runs do not bound is None.

    `reached` of `n` runs got there. No run was followed beyond `limit`: where `median` is None, it is more than that.
    """

    target: float
    n: int
    reached: int
    median: float | None
    low: float | None
    high: float | None
    limit: float
    level: float = 0.95

    def __str__(self) -> str:
        """In words: ``9 [7, more than 12] (6 of 8 runs reached 90 %)``."""
        beyond = f"more than {_short(self.limit)}"
        words = beyond if self.median is None else _short(self.median)
        if self.low is not None:
            words += f" [{_short(self.low)}, {beyond if self.high is None else _short(self.high)}]"
        few = ": too few for an interval" if self.low is None and self.median is not None else ""
        return f"{words} ({self.reached} of {self.n} runs reached {_short(100 * self.target)} %{few})"


def to_target(
    curves: Iterable[Sequence[tuple[float, float]]], target: float, *, failed: int = 0, level: float = 0.95
) -> ToTarget:
    """When an accuracy is first measured at `target` or above: the median over runs, none of them dropped.

    A run that ends below the target is censored: it needs more than it was given. The median is where the
    Kaplan-Meier estimate of the share of runs still below the target is first one half or less; its interval is where
    the estimate's log-log interval holds one half (Brookmeyer and Crowley, Biometrics 38, 1982). An end is None where
    the runs on its side are too few, under 6 at 95 %: all of n lie on one side of the median in ``2 ** -n`` of cases.

    Args:
        curves: one a run, of measured ``(epochs or seconds, accuracy)`` in rising order.
        failed: runs that broke off with an error; they count as never reaching the target.

    >>> print(to_target([[(1, 0.7), (2, 0.9)], [(1, 0.8), (3, 0.92)], [(1, 0.6), (3, 0.7)]], 0.9))
    3 (2 of 3 runs reached 90 %: too few for an interval)

    Raises:
        DataError: no curves, or one that is empty, does not rise, or holds a number that is not finite.
    """
    _check_level(level)
    ends = [_reached_at(curve, _finite(target)) for curve in curves]
    if not ends:
        raise DataError("there are no curves: give one run's [(epochs, accuracy), ...] at least")
    limit = max(time for time, _ in ends)
    ends += [(limit, False)] * failed
    n, reached = len(ends), sum(there for _, there in ends)
    median, low, high = _kaplan_meier_median(ends, level)
    few = math.log2(2 / (1 - level))
    low, high = low if n >= few else None, high if reached >= few else None
    return ToTarget(target, n, reached, median, low, high, limit, level)


def _reached_at(curve: Sequence[tuple[float, float]], target: float) -> tuple[float, bool]:
    """When the target was reached, or how long the run was followed without."""
    points = [(_finite(time), _finite(accuracy)) for time, accuracy in curve]
    if not points or any(b[0] <= a[0] for a, b in pairwise(points)):
        raise DataError(f"a curve is (epochs or seconds, accuracy) pairs in rising order; received {list(curve)}")
    return next(((time, True) for time, accuracy in points if accuracy >= target), (points[-1][0], False))


def _kaplan_meier_median(ends: list[tuple[float, bool]], level: float) -> list[float | None]:
    """Where the share of runs below the target, its lower and its upper bound are first one half or less."""
    reached, censored = ([time for time, there in ends if there is kind] for kind in (True, False))
    below = stats.ecdf(stats.CensoredData(uncensored=reached, right=censored)).sf
    with warnings.catch_warnings():  # the bounds of a share of 0 are undefined: they are taken as 0
        warnings.simplefilter("ignore", RuntimeWarning)
        bounds = below.confidence_interval(level, method="log-log")
    shares = [below.probabilities, bounds.low.probabilities, bounds.high.probabilities]
    places = [below.quantiles[(share <= 0.5) | (below.probabilities == 0)] for share in shares]
    return [float(times[0]) if len(times) else None for times in places]


@dataclass(frozen=True)
class SpeedUp:
    """What the best standard policy needs for the accuracy that 1cycle reaches within `budget`, and the ratio S.

    Args:
        s, low, high: `needed` over `budget`, and its interval; an end without a bound is None.
        policy: the standard policy that needs least; among equals, the one with the highest accuracy.
        target: what 1cycle reaches within `budget`, with Student's interval over seeds.
        needed: a budget; where `more_than`, the largest tried, which was not enough; where `at_most`, the smallest.
        tried: the smallest and the largest budget at which the standard policies are compared.
        n: the seeds of the cell that has fewest; below 2 there is no interval, below 3 no claim: it covers too little.
        failed: runs left out because they failed.
        reached_share: resamples in which a standard policy gets there; None without an interval.
        claim: "faster" or "slower" where the interval leaves out S = 1, else None.
    """

    s: float
    low: float | None
    high: float | None
    policy: str
    target: Interval
    budget: float
    needed: float
    tried: tuple[float, float]
    n: int
    failed: int
    more_than: bool
    at_most: bool
    reached_share: float | None
    claim: Literal["faster", "slower"] | None

    @property
    def tells(self) -> bool:
        """Whether it says anything: it is claimed, or neither a bound beyond S = 1 nor open at both ends."""
        beyond = (self.more_than and self.s <= 1) or (self.at_most and self.s >= 1)
        return self.claim is not None or not (beyond or (self.n > 1 and self.low is self.high is None))


def speed_up(
    one_cycle: Accuracies, standard: Mapping[str, Accuracies], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[float, SpeedUp]:
    """The speed-up S at each budget of 1cycle: what the best standard policy needs for the same accuracy, over it.

    A standard policy's mean accuracy is a line in the logarithm of the budget that never falls (less can be spent);
    the best policy is the first to reach 1cycle's mean. The best of noisy means is a little too good: S errs to the
    small side. The policies are compared up to the smallest of their largest budgets: beyond, not all were tried.

    The interval is a bootstrap over seeds. A resample moves each mean by the sum of its seeds' deviations, each times
    a normal multiplier of the seed's own, the same for all policies and budgets since runs of one seed are paired,
    on a scale that makes the interval of a single mean exactly Student's. (Of 3 seeds drawn with replacement it would
    cover 75 % at best.) Each end is the lowest of the policies', the upper ones at a level corrected for their number
    (Bonferroni); an end that is censored in the resamples is unbounded.
    Source: van der Vaart and Wellner, Weak Convergence and Empirical Processes, 1996, section 2.9 (multipliers).

    Accuracies are given by budget and seed, None for a failed run; the result has the budgets with a successful one.

    >>> ours = {4: {0: 0.90, 1: 0.902, 2: 0.898}}
    >>> step = {4: {0: 0.85, 1: 0.851, 2: 0.849}, 8: {0: 0.89, 1: 0.891, 2: 0.889}, 16: {0: 0.91, 1: 0.911, 2: 0.909}}
    >>> speed_up(ours, {"step": step})[4].needed
    11.31

    Raises:
        DataError: no successful run of 1cycle or of a standard policy, or an accuracy that is not a fraction.
        ConfigError: a budget that is not a finite number above 0, a level outside (0, 1), fewer than 100 resamples.
    """
    if resamples < 100:
        raise ConfigError(f"resamples is a number from 100, 2000 for a 95 % interval; received {resamples!r}")
    ours = _successful(one_cycle, "1cycle")
    theirs = {name: cells for name, given in standard.items() if (cells := _successful(given, name))}
    if not ours or not theirs:
        raise DataError("a speed-up needs successful runs of 1cycle and of at least one standard policy")
    # A budget at which all runs failed was tried too.
    tried = max(map(min, theirs.values())), min(max(b for b, cell in standard[name].items() if cell) for name in theirs)
    if tried[0] > tried[1]:
        raise DataError(f"the standard policies share no budgets; received {[list(p) for p in theirs.values()]}")
    results, beside = {}, [cell for given in standard.values() for cell in given.values()]
    for budget, runs in ours.items():
        needed, n = _needed(runs, theirs, resamples, seed)
        needed[needed > tried[1]] = math.inf
        failed = sum(value is None for cell in (one_cycle[budget], *beside) for value in cell.values())
        target, policy = mean_interval(runs.values(), level, within=(0, 1)), _best(needed[:, 0], theirs)
        results[budget] = _speed_up(budget, target, policy, needed, tried, n, failed)
    return results


def _best(needed: np.ndarray, theirs: Mapping[str, ByBudget]) -> str:
    """The policy that needs least; of equals, as two are that both never get there, the one of the highest mean."""
    heights = [-max(np.mean(list(cell.values())) for cell in cells.values()) for cells in theirs.values()]
    return min(zip(needed, heights, theirs, strict=True))[2]


def _needed(runs: BySeed, theirs: Mapping[str, ByBudget], resamples: int, seed: int) -> tuple[np.ndarray, int]:
    """The budget each policy needs, [policies, 1 + resamples] (as measured, then resampled), and the fewest seeds."""
    cells = [runs, *(cell for policy in theirs.values() for cell in policy.values())]
    seeds, n = sorted(set().union(*cells)), min(map(len, cells))
    moves = np.zeros((1 + resamples, len(seeds)))
    if n > 1:
        rng = np.random.default_rng(seed)
        scale = np.sqrt(rng.chisquare(n - 1, (resamples, 1)) / (n - 1))
        moves[1:] = rng.standard_normal((resamples, len(seeds))) / scale

    def mean(cell: BySeed) -> np.ndarray:
        x = np.array(list(cell.values()))
        deviations = (x - x.mean()) / math.sqrt(max(1, len(x) * (len(x) - 1)))
        return x.mean() + moves[:, [seeds.index(seed) for seed in cell]] @ deviations

    target = mean(runs)
    curves = [(np.array(list(p)), np.stack([mean(cell) for cell in p.values()], axis=1)) for p in theirs.values()]
    return np.array([_crossing(budgets, accuracy, target) for budgets, accuracy in curves]), n


def _crossing(budgets: np.ndarray, accuracy: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where rows of `accuracy` [rows, budgets] reach `target` [rows]: 0 is at the first or before, infinite never."""
    best = np.maximum.accumulate(accuracy, axis=1)
    k = (best < target[:, None]).sum(axis=1)
    needed = np.where(k == 0, 0.0, math.inf)
    rows = np.flatnonzero((k > 0) & (k < len(budgets)))
    k = k[rows]
    low, high = best[rows, k - 1], best[rows, k]
    needed[rows] = budgets[k - 1] * (budgets[k] / budgets[k - 1]) ** ((target[rows] - low) / (high - low))
    return needed


def _speed_up(
    budget: float, target: Interval, policy: str, needed: np.ndarray, tried: tuple[float, float], n: int, failed: int
) -> SpeedUp:
    draws = np.sort(needed[:, 1:], axis=1)
    outside = draws.shape[1] * (1 - target.level) / 2
    first, last = draws[:, int(outside)].min(), draws[:, -1 - int(outside / len(needed))].min()
    point = needed[:, 0].min()
    # A censored budget is given as the tried one that bounds it.
    known, least, most = (float(tried[0] if x == 0 else min(x, tried[1])) for x in (point, first, last))
    low = None if n < 2 or first == 0 else least / budget
    high = None if n < 2 or last == math.inf else most / budget
    faster = low is not None and (low > 1 or (low == 1 and first == math.inf))
    return SpeedUp(
        *(known / budget, low, high, policy, target, budget, known, tried, n, failed),
        more_than=bool(point == math.inf),
        at_most=bool(point == 0),
        reached_share=float((needed[:, 1:].min(axis=0) < math.inf).mean()) if n > 1 else None,
        claim=None if n < 3 else "faster" if faster else "slower" if high is not None and high < 1 else None,
    )


def sentence(result: SpeedUp, unit: str = "epochs", *, tuned: bool = True) -> str:
    """What a speed-up says, its conclusion first; no difference is shown where its interval holds S = 1.

    >>> ours = {4: {0: 0.904, 1: 0.905, 2: 0.903}}
    >>> step = {4: {0: 0.85, 1: 0.86, 2: 0.85}, 8: {0: 0.89, 1: 0.89, 2: 0.888}, 16: {0: 0.909, 1: 0.912, 2: 0.913}}
    >>> print(sentence(speed_up(ours, {"step": step})[4]))
    1cycle is faster (n = 3): it reaches 90.4 % [90.2, 90.6] in 4 epochs; the best tuned standard schedule (step)
    needs 12.7 [11..., 15...] (95 % intervals)
    """
    beyond = "more than " if result.more_than else "at most " if result.at_most else ""
    conclusion, who = (f"1cycle is {result.claim}", "it") if result.claim else ("No difference shown", "1cycle")
    words = f"{conclusion} (n = {result.n}): {who} reaches {_percent(result.target)} in {count(result.budget, unit)}; "
    words += f"the best {'tuned ' if tuned else ''}standard schedule ({result.policy}) "
    words += f"needs {beyond}{_short(result.needed)}"
    decided = (result.more_than and result.low == result.s) or (result.at_most and result.high == result.s)
    if (result.low, result.high) != (None, None) and not decided:
        low = f"under {_short(result.tried[0])}" if result.low is None else _short(result.low * result.budget)
        high = f"over {_short(result.tried[1])}" if result.high is None else _short(result.high * result.budget)
        words += f" [{low}, {high}]"
    words += f" ({100 * result.target.level:g} % intervals)" if result.n > 1 else " (with n = 1 there is no interval)"
    return words + (f"; failed runs left out: {result.failed}" if result.failed else "")


def _percent(accuracy: Interval) -> str:
    """``91.2 % [91.0, 91.4]``, to the digits that the interval bears out."""
    if accuracy.low is None or accuracy.high is None:
        return percent(accuracy.mean, 1)
    digits = 1 if accuracy.high - accuracy.low >= 0.002 else 2
    return f"{percent(accuracy.mean, digits)} [{100 * accuracy.low:.{digits}f}, {100 * accuracy.high:.{digits}f}]"


def summary(rows: Iterable[Mapping[str, Any]], by: Sequence[str], value: str = "test_accuracy") -> list[dict[str, Any]]:
    """Mean, Student's interval and n of `value` for each combination of `by`, in the order of their first rows.

    The rows are tidy records, one a run. A run whose value is None, missing or not finite has failed: it counts in
    `failed` alone. A combination in which all failed has a mean of None.

    >>> rows = [{"policy": "step", "test_accuracy": 0.9}, {"policy": "step", "test_accuracy": None}]
    >>> summary(rows, by=["policy"])
    [{'policy': 'step', 'mean': 0.9, 'low': None, 'high': None, 'n': 1, 'failed': 1}]

    Raises:
        DataError: a row without one of `by`.
    """
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        if missing := [name for name in by if name not in row]:
            raise DataError(f"a record has no {missing[0]!r} to summarise by: {did_you_mean(missing[0], row)}")
        groups.setdefault(tuple(row[name] for name in by), []).append(row.get(value))
    results = []
    for key, values in groups.items():
        good = [v for v in values if v is not None and math.isfinite(v)]
        interval = mean_interval(good, within=bounds_of(value)) if good else None
        ends = {name: interval and getattr(interval, name) for name in ("mean", "low", "high")}
        results.append(dict(zip(by, key, strict=True)) | ends | {"n": len(good), "failed": len(values) - len(good)})
    return results


def _successful(given: Accuracies, name: str) -> ByBudget:
    """The successful runs, by rising budget and seed."""
    for budget in given:
        if _finite(budget) <= 0:
            raise ConfigError(f"a budget is a number above 0; received {budget!r} of {name}")
        for value in given[budget].values():
            if value is not None and not 0 <= _finite(value) <= 1:
                raise DataError(f"accuracies are fractions, 0.91 for 91 %; received {value!r} of {name}")
    cells = ((b, {seed: v for seed, v in sorted(given[b].items()) if v is not None}) for b in sorted(given))
    return {budget: cell for budget, cell in cells if cell}


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise DataError(f"a value is a finite number; received {value!r}: runs without one have failed, leave them out")
    return float(value)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"a confidence level is between 0 and 1, such as 0.95; received {level!r}")


def _short(value: float) -> str:
    """Three significant digits: ``9.43``, ``1230``."""
    return f"{float(f'{value:.3g}'):g}"

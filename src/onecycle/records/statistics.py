"""The mean over runs and Student's interval of it: what tables, sentences, figures and pages all show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Bounds = tuple[float, float] | None
_LOWER = ("loss", "error", "mae", "mse", "perplexity")


def bounds_of(measure: str) -> Bounds:
    """The values that a measure can take: accuracies lie from 0 to 1, of all else nothing is known.

    >>> bounds_of("test_accuracy"), bounds_of("loss")
    ((0.0, 1.0), None)
    """
    return (0.0, 1.0) if measure.endswith("accuracy") else None


def lower_is_better(name: str) -> bool:
    """Whether a measure of this name is better where it is smaller.

    >>> lower_is_better("loss"), lower_is_better("rmse"), lower_is_better("accuracy")
    (True, True, False)
    """
    return any(word in name.lower() for word in _LOWER)


def mean_band(
    values: np.ndarray, level: float = 0.95, within: Bounds = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over the runs, [runs, n] -> [n], and the two ends of Student's interval of it.

    The interval is ``mean +- t(n - 1) s / sqrt(n)``, cut off at what the values can be `within`: the true mean lies
    there too, so that the interval covers it exactly as often as before. NaN is no value. The mean of none is NaN, and
    so are the ends of fewer than two.

    >>> mean, low, high = mean_band(np.array([[0.90], [0.91], [0.92], [0.91], [0.91]]))
    >>> f"{mean[0]:.4f} [{low[0]:.4f}, {high[0]:.4f}]"
    '0.9100 [0.9012, 0.9188]'
    >>> [float(end[0]) for end in mean_band(np.array([[0.9], [1.0]]), within=(0, 1))]
    [0.95, 0.31, 1.0]
    """
    if len(values) == 1:
        nothing = np.full(values.shape[1], np.nan)
        return values[0], nothing, nothing
    from scipy.special import stdtrit  # scipy.stats takes far longer to load

    known = np.isfinite(values)
    n = known.sum(0)
    mean = np.where(n > 0, np.where(known, values, 0.0).sum(0) / np.maximum(n, 1), np.nan)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(0)
    freedom = np.maximum(n - 1, 1)
    half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(squares / freedom / np.maximum(n, 1))
    half = np.where(n > 1, half, np.nan)
    low, high = (-np.inf, np.inf) if within is None else within
    return mean, np.maximum(mean - half, low), np.minimum(mean + half, high)


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The ends of Wilson's interval for a share, of which `hits` of `n` independent samples were counted.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    >>> low, high = wilson(280, 359)
    >>> f"{low:.4f} {high:.4f}", wilson(5, 5)[1]
    ('0.7342 0.8198', 1.0)
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    share, wide = hits / n, z * z / n
    middle, half = share + wide / 2, z * (share * (1 - share) / n + wide / (4 * n)) ** 0.5
    return max(0.0, (middle - half) / (1 + wide)), min(1.0, (middle + half) / (1 + wide))


def student(
    values: Sequence[float] | np.ndarray, level: float = 0.95, within: Bounds = None
) -> tuple[float, float, float]:
    """The mean of some values and the ends of its interval, as `mean_band`; NaN for what there is none of.

    >>> student([2.0, 4.0])
    (3.0, -9.71, 15.71)
    """
    mean, low, high = mean_band(np.array(values, dtype=float)[:, None], level, within)
    return float(mean[0]), float(low[0]), float(high[0])

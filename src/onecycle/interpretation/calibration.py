"""Whether probabilities are what they say: reliability, expected calibration error, and one temperature for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records.predictions import Predictions
from .classes import CountedShare

BINS = 10
# Temperatures lie between these.
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 100
# A temperature is fitted as if so many more samples had come out as the model says: of few, it stays near 1.
AS_SAID = 10
# Draws from what is predicted, to see what the error of a calibrated model would be by chance; of many samples fewer.
FEWEST, DRAWS, DRAWN = 10, 200, 2_000_000


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence lies from `low` to `high`: the mean of it, and how many of them are right."""

    low: float
    high: float
    confidence: float
    right: CountedShare


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from what they say.

    The confidence of a sample is the probability of what is said: of the most probable class, or of whether it has a
    label, each label by itself. In `bins` of it the share that is right is to be the mean confidence; `ece`, the
    expected calibration error, is the mean distance between both, weighted by samples. It is above 0 by chance even
    where all probabilities are true: `by_chance` is its mean over samples that were drawn from the predictions
    themselves, and `ece` says something where it is clearly above that.

    A `temperature` divides the logits, so that the negative log-likelihood becomes the least, where `AS_SAID` samples
    more than there are had come out as the model says: a few that are all right do not make it certain of everything.
    With it the mean negative log-likelihood `nll` is `nll_after` and the error `ece_after`, on the samples that it was
    fitted on. Which class is the most probable stays.

    Sources: Guo et al., "On Calibration of Modern Neural Networks", 1706.04599, sections 2 and 4.2; drawing from the
    predictions: Bröcker & Smith, "Increasing the Reliability of Reliability Diagrams", 2007.
    """

    bins: tuple[ReliabilityBin, ...]
    ece: float
    by_chance: float
    temperature: float
    ece_after: float
    nll: float
    nll_after: float
    n: int

    @classmethod
    def of(cls, predictions: Predictions, bins: int = BINS) -> Calibration:
        """Of predictions of classes or labels."""
        temperature = fitted_temperature(predictions)
        confidence, right = confidences(predictions)
        after, _ = confidences(predictions, temperature)
        rng, draws = np.random.default_rng(0), min(max(DRAWN // len(confidence), FEWEST), DRAWS)
        chance = [expected_error(confidence, rng.random(len(confidence)) < confidence, bins) for _ in range(draws)]
        return cls(
            reliability(confidence, right, bins), expected_error(confidence, right, bins), float(np.mean(chance)),
            temperature, expected_error(after, right, bins), mean_nll(predictions), mean_nll(predictions, temperature),
            len(predictions),
        )  # fmt: skip

    @property
    def sentence(self) -> str:
        """Whether the model is too sure, or not sure enough, and what mends it."""
        clear = self.ece > 2 * self.by_chance
        how = "is too sure" if self.temperature > 1 else "could be surer"
        said = f"ECE {100 * self.ece:.1f} %, where chance alone gives about {100 * self.by_chance:.1f} %"
        mend = f"a temperature of {self.temperature:.3g} makes it {100 * self.ece_after:.1f} %"
        return f"the model {how}: {said}; {mend}" if clear else f"the probabilities are not clearly off: {said}"

    def to_dict(self) -> dict[str, float | int | str]:
        """What is kept with a run: the temperature, and what it was fitted by."""
        known = {"nll": self.nll, "nll_after": self.nll_after, "ece": self.ece, "ece_after": self.ece_after}
        return {"temperature": self.temperature, "metric": "nll", "n": self.n, **known}


def confidences(predictions: Predictions, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The probability of what is said, and whether that is right: [n] of classes, [n k] of labels."""
    z = predictions.outputs.astype(np.float64) / temperature
    if predictions.kind == "classes":
        return np.exp(_log_softmax(z).max(1)), z.argmax(1) == predictions.targets
    sure = 1 / (1 + np.exp(-np.abs(z).clip(0, 700)))
    return sure.ravel(), ((z > 0) == (predictions.targets > 0.5)).ravel()


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The bins of equal width that have samples."""
    place = _places(confidence, bins)
    made = []
    for i in np.unique(place).tolist():
        inside = place == i
        share = CountedShare(int(right[inside].sum()), int(inside.sum()))
        made.append(ReliabilityBin(i / bins, (i + 1) / bins, float(confidence[inside].mean()), share))
    return tuple(made)


def expected_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error, over bins of equal width: Guo et al., 1706.04599, equation 3.

    >>> round(expected_error(np.array([0.95, 0.95, 0.65, 0.65]), np.array([True, True, True, False])), 3)
    0.1
    """
    place = _places(confidence, bins)
    gaps = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _places(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def mean_nll(predictions: Predictions, temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the targets: by sample, and for labels by label too."""
    z = predictions.outputs.astype(np.float64) / temperature
    if predictions.kind == "classes":
        return float(-_log_softmax(z)[np.arange(len(z)), predictions.targets].mean())
    return float((np.logaddexp(0, z) - z * predictions.targets).mean())


def fitted_temperature(predictions: Predictions) -> float:
    """The temperature at which the negative log-likelihood is the least, `AS_SAID` samples as the model says included.

    That is convex in 1 / temperature: Newton's steps, and halves of what is left where one leads out of it.
    """
    z, n = predictions.outputs.astype(np.float64), len(predictions)
    if predictions.kind == "classes":
        observed = float(z[np.arange(n), predictions.targets].mean())
    else:
        observed = float((z * predictions.targets).mean())
    said = (n * observed + AS_SAID * _logit(predictions, z, 1.0)[0]) / (n + AS_SAID)
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _logit(predictions, z, low)[0] >= said:
        return HOTTEST
    if _logit(predictions, z, high)[0] <= said:
        return COLDEST
    inverse = 1.0
    for _ in range(STEPS):
        mean, curvature = _logit(predictions, z, inverse)
        slope = mean - said
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        after = inverse - slope / curvature if curvature else low
        after = after if low < after < high else (low + high) / 2
        if abs(after - inverse) < 1e-6 * inverse:
            break
        inverse = after
    return 1 / inverse


def _logit(predictions: Predictions, z: np.ndarray, inverse: float) -> tuple[float, float]:
    """The mean logit that is expected at 1 / temperature, of logits z, and its derivative.

    Less that of the targets, they are the first and the second derivative of the negative log-likelihood.
    """
    if predictions.kind == "classes":
        p = np.exp(_log_softmax(z * inverse))
        mean = (p * z).sum(1)
        return float(mean.mean()), float(((p * z * z).sum(1) - mean * mean).mean())
    p = 1 / (1 + np.exp(-(z * inverse).clip(-700, 700)))
    return float((z * p).mean()), float((z * z * p * (1 - p)).mean())


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))

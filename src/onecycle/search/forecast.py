"""What more time would bring: the validation metric of longer runs, from a run's pilots and its end.

The error (of an accuracy 1 less it; a loss as it is) falls as a power of the updates, ever more slowly. How fast it
fell from the best pilot to the end of the run says how fast it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .. import text
from ..checks import number
from ..errors import ConfigError
from ..records.read import comparable, main_value
from ..records.statistics import bounds_of, lower_is_better
from .pilots import Pilot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = (1, 2, 4, 8)
# An error falls with the power GOES_ON sqrt(p) - WORN ln(1 + passes through the data) of the time: p is that power with
# which it fell from the best pilot to the end of the run.
GOES_ON, WORN = 0.2965, 0.0191
# Deviations of the logarithm of the error: between repeats, beside what the number of validation samples makes of an
# accuracy; and for each e-fold of time, by itself and in proportion to p ln(1 + passes).
REPEATS, SPREAD, OF_POWER = 0.01, 0.03, 0.103
# Of these, the ends of an interval that holds nine of ten.
BETTER, WORSE = 2.4, 2.3
# A pilot has learned something where its error is such a share below that of knowing nothing.
LEARNED = 0.02
# Steps of a factor of time, in which a target is looked for.
STEPS = 120


@dataclass(frozen=True)
class Expected:
    """What is expected of a run of so many times the budget: a value, and the interval that holds nine of ten."""

    factor: float
    updates: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Needed:
    """The budget that reaches a target, and the interval that holds it in about nine of ten cases.

    Args:
        target: of the measure.
        factor: of the budget that the forecast is from; None where it cannot be said, for a `reason`.
        updates, epochs, seconds: what that comes to.
        low, high: factors between which it is; None: above the largest that can be said.
        reason: why nothing is said.
    """

    measure: str
    target: float
    factor: float | None = None
    updates: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def line(self) -> str:
        """The result in a line."""
        target = f"{self.measure} {text.measure(self.measure, self.target)}"
        if self.factor is None or self.updates is None:
            return f"{target}: cannot say: {self.reason}"
        if self.factor == 1:
            return f"{target} is expected of this budget already, {text.count(self.updates, 'update')}"
        more = [] if self.epochs is None else [text.count(float(f"{self.epochs:.3g}"), "epoch")]
        more += [] if self.seconds is None else [text.duration(self.seconds)]
        about = f" ({', '.join(more)})" if more else ""
        within = text.bounds(self.low, self.high, 2)
        return f"{target} takes about {text.count(self.updates, 'update')}{about}, {within} times this budget"


@dataclass(frozen=True)
class Forecast:
    """The validation metric that is expected of this budget and of multiples of it, with 90 % intervals.

    Args:
        measure: the metric, such as accuracy.
        expected: a value and an interval for each factor; none where nothing can be said, for a `reason`.
        reason: why nothing is said; None where something is.
        n: the pilots that it is from.
        updates: of the budget.
        power: with which the error fell from the best pilot to the end of the run.
        passes: through the data, of so many updates.
        samples: of the validation data, where that is known.
        seconds: that the budget took, where that is known.
        pilots, measured: what `plot` draws beside what is expected: the pilots of the run, and what the run measured on
            the validation data, each with the number of the update before. The run's files keep them, and `to_dict`
            leaves them out.
    """

    measure: str
    expected: tuple[Expected, ...] = ()
    reason: str | None = None
    n: int = 0
    updates: int = 0
    power: float = 0.0
    passes: float = 0.0
    samples: int | None = None
    seconds: float | None = None
    pilots: tuple[Pilot, ...] = field(default=(), compare=False)
    measured: tuple[tuple[int, Mapping[str, float]], ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return f"Forecast({self.line()})"

    def _repr_html_(self) -> str:
        head = ("times the budget", "updates", self.measure, "90 % interval")
        cells = [
            (f"{e.factor:g}", f"{e.updates:,}", self._said(e.value), f"{self._said(e.low)} to {self._said(e.high)}")
            for e in self.expected
        ]
        return text.html_table(cells, head if cells else (), title=self.line())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        known = {name: value for name, value in asdict(self).items() if name not in ("pilots", "measured")}
        return {**known, "expected": [asdict(e) for e in self.expected], "line": self.line()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Forecast:
        """The forecast that `to_dict` wrote."""
        known = {name: value for name, value in record.items() if name != "line"}
        return cls(**{**known, "expected": tuple(Expected(**e) for e in record["expected"])})

    def line(self) -> str:
        """The result in a line.

        >>> Forecast("accuracy", reason="no pilots were made").line()
        'forecast: cannot say: no pilots were made'
        """
        if not self.expected:
            return f"forecast: cannot say: {self.reason}"
        words = {2: "twice", 4: "four times"}
        said = [
            f"{self._said(e.value)} ({self._said(e.low)} to {self._said(e.high)}) at {words[int(e.factor)]}"
            for e in self.expected
            if e.factor in words
        ]
        return f"forecast: {self.measure} {text.listed(said)} this budget"

    def plot(self, target: float | None = None) -> Figure:
        """Draw what is expected, with its 90 % band, beyond what the run and its pilots measured.

        Against updates, on a logarithmic axis. A `target` is drawn as a level; `budget_for` says what it takes.

        Raises:
            ConfigError: nothing can be said, for the `reason`; or a target that is no value of the metric.
            MissingDependency: matplotlib is not installed; it comes with ``onecycle[plot]``.

        >>> pilots = [Pilot(0.1, 30, 1.2, {"loss": 1.2, "accuracy": 0.6})]
        >>> made = forecast(pilots, {"loss": 0.3, "accuracy": 0.9}, 1900, budget=2000, passes=4, samples=5000)
        >>> made.plot(target=0.92).axes[0].get_xscale()
        'log'
        """
        from ..report.draw_forecast import forecast_figure

        if not self.expected:
            raise ConfigError(f"there is no forecast to draw: {self.reason}")
        if target is not None:
            target = target_of(self.measure, target)
        return forecast_figure(self.to_dict(), [one.to_dict() for one in self.pilots], self.measured, target=target)

    def _said(self, value: float) -> str:
        return text.percent(value, 1) if self.measure.endswith("accuracy") else text.number(value, 3)

    def budget_for(self, target: float) -> Needed:
        """The budget that reaches a value of the metric.

        Raises:
            ConfigError: a target that is no value of the metric.

        >>> pilots = [Pilot(0.1, 30, 1.2, {"loss": 1.2, "accuracy": 0.6})]
        >>> made = forecast(pilots, {"loss": 0.3, "accuracy": 0.9}, 1900, budget=2000, passes=4, samples=5000)
        >>> made.budget_for(0.99).line()[:33]
        'accuracy 99.00 %: cannot say: at '
        """
        target = target_of(self.measure, target)
        if not self.expected:
            return Needed(self.measure, target, reason=self.reason)
        lower = lower_is_better(self.measure)

        def first(end: str) -> float | None:
            """The least factor at which one of value, low and high reaches the target."""
            for one in self._finely():
                value = getattr(one, end)
                if value <= target if lower else value >= target:
                    return one.factor
            return None

        factor = first("value")
        low, high = (first("low"), first("high")) if lower else (first("high"), first("low"))
        if factor is None:
            last = self.expected[-1]
            ends = f"{self._said(last.value)} ({self._said(last.low)} to {self._said(last.high)})"
            reason = f"at {last.factor:g} times this budget {ends} is expected, and nothing is known beyond"
            return Needed(self.measure, target, low=low, reason=reason)
        seconds = None if self.seconds is None else self.seconds * factor
        return Needed(
            self.measure, target, factor, round(self.updates * factor), self.passes * factor, seconds, low, high
        )

    def _finely(self) -> Iterator[Expected]:
        """What is expected of many factors."""
        error = _error(self.measure, self.expected[0].value) or 0.0
        for i in range(STEPS + 1):
            factor = self.expected[-1].factor ** (i / STEPS)
            yield _expected(self.measure, error, factor, self.updates, self.power, self.passes, self.samples)


def target_of(measure: str, target: float, name: str = "target") -> float:
    """The `target`, which a run is to reach, as a value that this validation metric can have.

    Raises:
        ConfigError: it is no finite number, or none that the metric can have.

    >>> target_of("loss", 93)
    93.0
    >>> try:
    ...     target_of("accuracy", 93)
    ... except ConfigError as error:
    ...     print(str(error).partition(": ")[2])
    received 93; an accuracy is a share from 0 to 1, such as 0.93
    """
    what = f"a value of the validation {measure.replace('_', ' ')}"
    target, bounds = number(name, target, what=what), bounds_of(measure)
    if bounds is not None and not bounds[0] <= target <= bounds[1]:
        share = f"a share from {bounds[0]:g} to {bounds[1]:g}, such as 0.93"
        raise ConfigError(f"{name} is {what}: received {target:g}; an accuracy is {share}")
    return target


def forecast(
    pilots: Sequence[Pilot],
    valid: Mapping[str, float] | None,
    updates: int,
    *,
    passes: float,
    budget: int | None = None,
    samples: int | None = None,
    nothing: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    stopped: str | None = None,
    measured: Sequence[tuple[int, Mapping[str, float]]] = (),
    factors: Sequence[float] = FACTORS,
) -> Forecast:
    """What is expected of a run of this budget and of multiples of it.

    Args:
        pilots: of the run.
        valid: what was measured on the validation data at its end.
        updates: of the run.
        passes: through the data, at its end.
        budget: the updates of run and pilots together; None: those of the run.
        samples: of the validation data.
        nothing: the ``measure`` and the ``value`` that are reached without learning, where they are known.
        seconds: what the budget took.
        stopped: why the run ended before its budget did; None for one that did not.
        measured: on the validation data of the run, in order: each with the number of the update before.
        factors: of the budget.

    >>> pilots = [Pilot(lr, 30, loss, {"loss": loss, "accuracy": 0.5}) for lr, loss in ((0.1, 1.5), (0.3, 1.4))]
    >>> made = forecast(pilots, {"loss": 0.35, "accuracy": 0.88}, 1900, passes=4.0, budget=2000, samples=5000)
    >>> [e.updates for e in made.expected], made.measure, made.n
    ([2000, 4000, 8000, 16000], 'accuracy', 2)
    """
    main = main_value(comparable(valid)) if valid is not None else None
    if main is None:
        return Forecast("loss", reason="there is no validation data" if valid is None else "no metric is a number")
    measure, value = main
    if stopped:
        return Forecast(measure, reason=f"the run was stopped early: {stopped}")
    end = _error(measure, value)
    errors = [e for p in pilots if p.lost is None and (e := _error(measure, p.valid.get(measure))) is not None]
    if (reason := _cannot_say(pilots, errors, measure, value, end, _nothing(nothing, measure))) or end is None:
        return Forecast(measure, reason=reason, n=len(errors))
    longest = max(p.updates for p in pilots)
    power = math.log(min(errors) / end) / math.log(updates / longest)
    whole = updates if budget is None else budget
    passes *= whole / updates
    expected = tuple(_expected(measure, end, f, whole, power, passes, samples) for f in factors)
    return Forecast(
        measure, expected, None, len(errors), whole, power, passes, samples, seconds, tuple(pilots), tuple(measured)
    )


def _error(measure: str, value: float | None) -> float | None:
    """What is left to gain, above 0; None where that is not known."""
    if value is None or not math.isfinite(value):
        return None
    error = value if lower_is_better(measure) else 1 - value
    return error if error > 0 else None


def _nothing(known: Mapping[str, Any] | None, measure: str) -> float | None:
    return _error(measure, known["value"]) if known and known["measure"] == measure else None


def _cannot_say(
    pilots: Sequence[Pilot], errors: Sequence[float], measure: str, value: float, end: float | None,
    nothing: float | None,
) -> str | None:  # fmt: skip
    """Why there is no forecast, None where there is one."""
    if not pilots:
        return "no pilots were made"
    if end is None:
        ceiling = value == (0 if lower_is_better(measure) else 1)
        said = text.measure(measure, value)
        return f"{measure} is {said}: nothing is left to gain" if ceiling else f"{measure} {said} has no known limit"
    if not errors:
        return f"no pilot came to a number of this metric: {measure}"
    if nothing is not None and min(errors) > (1 - LEARNED) * nothing:
        return "the pilots learned nothing yet"
    if min(errors) <= end:
        return "the whole run came no further than a pilot"
    return None


def _expected(
    measure: str, error: float, factor: float, updates: int, power: float, passes: float, samples: int | None
) -> Expected:
    more, often = math.log(factor), math.log1p(passes)
    change = -more * (GOES_ON * math.sqrt(power) - WORN * often)
    counted = (1 - error) / (error * samples) if samples and measure.endswith("accuracy") and error < 1 else 0.0
    deviation = math.sqrt(REPEATS**2 + counted + (more * (SPREAD + OF_POWER * power * often)) ** 2)
    errors = [error * math.exp(change + by) for by in (-BETTER * deviation, 0.0, WORSE * deviation)]
    if lower_is_better(measure):
        low, value, high = errors
    else:
        high, value, low = (1 - min(1.0, e) if measure.endswith("accuracy") else 1 - e for e in errors)
    return Expected(factor, round(updates * factor), value, low, high)

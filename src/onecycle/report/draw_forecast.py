"""The figure of a forecast: what was measured so far, and what longer runs are expected to come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import text
from ..records.read import RecordedRun, comparable, items, number, part
from ..records.statistics import bounds_of, lower_is_better
from .draw_run import measured_rows
from .matplotlib import draw_one
from .spec import LOG_FROM, MOST, VALID, VALUES, Figure, Key, Plots, Row, Series, column, kept, mode, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LOOKS = (
    Key("this run, validation", VALID, "dash"),
    Key("pilots, held-out", VALUES[1], "dot"),
    Key("forecast", VALUES[0]),
)
# Of what the values in a frame span, the share that is empty beyond them.
MARGIN = 0.05


class Point(NamedTuple):
    """What was measured after so many updates, and what to say of it beside the value."""

    updates: int
    value: float
    said: str = ""


class Frame(NamedTuple):
    """The range of the values that are shown, and whether their axis is logarithmic."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> Frame:
        """The frame of these values."""
        low, high = min(values), max(values)
        return cls(low, high, low > 0 and high > LOG_FROM * low)

    def with_more(self, values: Sequence[float]) -> Frame:
        """The frame with those of these values that leave it by no more than its size: what diverged hides all else."""
        least, most = self.beyond(1)
        near = [value for value in values if least <= value <= most]
        return Frame(min([self.low, *near]), max([self.high, *near]), self.log)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends with some room; None where all values are the same."""
        return self.beyond(MARGIN) if self.low < self.high else None

    def beyond(self, share: float) -> tuple[float, float]:
        """The ends, moved apart by a share of what is between them."""
        if self.log:
            factor = (self.high / self.low) ** share
            return self.low / factor, self.high * factor
        room = share * (self.high - self.low)
        return self.low - room, self.high + room


@dataclass(frozen=True)
class Outlook:
    """The values of a measure: those `expected`, with their ``factor, updates, low, high``, and those so far."""

    measure: str
    expected: Sequence[Row]
    measured: Sequence[Point]
    pilots: Sequence[Point]
    target: float | None = None

    @property
    def frame(self) -> Frame:
        """All of what is expected, and the target; of the rest what does not dwarf it."""
        ends = [number(row[name]) for row in self.expected for name in ("value", "low", "high")]
        values = [value for value in (*ends, self.target) if value is not None]
        so_far = [point.value for point in (*self.measured, *self.pilots)]
        best = sorted((point.value for point in self.pilots), reverse=not lower_is_better(self.measure))[:1]
        sure = [*values, *(so_far if bounds_of(self.measure) else best)]
        return Frame.of(sure).with_more([*sure, *so_far])

    def figure(self, looks: Sequence[int], name: str = "") -> Figure:
        """The figure by the keys of `LOOKS`, of the run of this name where there are several."""
        frame, what = self.frame, f"validation {self.measure.replace('_', ' ')}"
        pilots = [point for point in self.pilots if frame.low <= point.value <= frame.high]
        measured = [self.measured[i] for i in kept(column([p._asdict() for p in self.measured], "value"), MOST)]
        values, low, high = (numbers([row[name] for row in self.expected]) for name in ("value", "low", "high"))
        at = [row["updates"] for row in self.expected]
        run, short, ahead = looks
        series = [
            Series(run, *_places(measured), mode=mode(measured)),
            Series(short, *_places(pilots), mode="markers", text=[point.said for point in pilots]),
            Series(ahead, at, values, low, high, mode="lines+markers"),
        ]
        return Figure(
            f"Forecast{f' of {name}' if name else ''}: {what} against updates",
            self._caption(len(self.pilots) - len(pilots)), "updates", what, "log", [line for line in series if line.x],
            log=frame.log, percent=self.measure.endswith("accuracy"), frame=frame.ends, level=self.target,
            bands="90 % interval", ahead=tuple((row["updates"], f"{row['factor']:g}x") for row in self.expected),
        )  # fmt: skip

    def _caption(self, outside: int) -> str:
        said = [f"Above: times the budget{', pilots included' * bool(self.pilots)}. Band: 90 % interval."]
        said += [f"Beyond the frame: {text.count(outside, 'pilot')}."] if outside else []
        said += [] if self.target is None else [f"Dotted: the target, {text.measure(self.measure, self.target)}."]
        return " ".join(said)


def forecast_figure(
    forecast: Mapping[str, Any],
    pilots: Sequence[Row],
    measured: Sequence[tuple[int, Row]],
    *,
    target: float | None = None,
) -> Drawing:
    """Draw a forecast as a line beyond what was measured, with its 90 % band, against updates.

    Args:
        forecast: its ``measure``, and what is ``expected``, at least once: ``factor, updates, value, low, high``.
        pilots: ``lr_max, updates, valid, lost`` of each.
        measured: the number of an update, from 0, and what was measured after it, in order.
        target: a value of the measure, which is drawn as a level.

    Raises:
        MissingDependency: matplotlib is not installed.

    >>> ahead = [{"factor": f, "updates": 100 * f, "value": 0.9, "low": 0.8, "high": 0.95} for f in (1, 2)]
    >>> drawn = forecast_figure({"measure": "accuracy", "expected": ahead}, [], [(99, {"accuracy": 0.9})])
    >>> [text.get_text() for text in drawn.legends[0].get_texts()]
    ['this run, validation', 'forecast', '90 % interval']
    """
    measure = str(forecast["measure"])
    points = [Point(step + 1, value) for step, row in measured if (value := number(row.get(measure))) is not None]
    return _drawn(Outlook(measure, expected_of(forecast), points, _pilots(pilots, measure), target))


def draw_forecasts(plots: Plots, runs: Sequence[RecordedRun]) -> dict[str, Any]:
    """The ``keys`` of a legend, and the index of a figure by the name of each run that has a forecast: ``figures``.

    Empty where none has one.
    """
    known = {run.name: outlook for run in runs if (outlook := _outlook(run))}
    if not known:
        return {}
    looks = [plots.key(key) for key in LOOKS]
    figures = {
        name: plots.figure(outlook.figure(looks, name if len(known) > 1 else "")) for name, outlook in known.items()
    }
    drawn = {line.key for i in figures.values() for line in plots.figures[i].series}
    return {"keys": [key for key in looks if key in drawn], "figures": figures}


def forecast_drawing(run: RecordedRun) -> Drawing | None:
    """The figure of the forecast of a recorded run for print; None where it has no forecast.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    outlook = _outlook(run)
    return None if outlook is None else _drawn(outlook)


def expected_of(forecast: Mapping[str, Any]) -> list[Row]:
    """What a recorded forecast expects, as far as it has a place and a value."""
    rows = [{"low": None, "high": None, **row} for row in items(forecast, "expected") if isinstance(row, Mapping)]
    return [row for row in rows if all(number(row.get(name)) is not None for name in ("factor", "updates", "value"))]


def _drawn(outlook: Outlook) -> Drawing:
    plots = Plots()
    return draw_one(plots, outlook.figure([plots.key(key) for key in LOOKS]))


def _outlook(run: RecordedRun) -> Outlook | None:
    """That of a run that has a forecast."""
    forecast = part(run.record, "forecast")
    expected, measure = expected_of(forecast), str(forecast.get("measure"))
    if not expected:
        return None
    rows = [(int(row["step"]), number(comparable(row).get(f"valid_{measure}"))) for row in measured_rows(run)]
    points = [Point(step + 1, value) for step, value in rows if value is not None]
    target, (low, high) = number(part(run.record, "needed").get("target")), bounds_of(measure) or (-inf, inf)
    if target is not None and not low <= target <= high:
        target = None  # which no run can have
    return Outlook(
        measure, expected, points, _pilots(run.pilots, measure, part(run.resolved, "search").get("method")), target
    )


def _pilots(pilots: Sequence[Row], measure: str, method: Any = None) -> list[Point]:
    """Those that tried a peak and came to a value; a forecast takes none of other settings or another `method`."""
    points = []
    for pilot in (one for one in pilots if one.get("method") == method):
        value, updates = number(part(pilot, "valid").get(measure)), number(pilot.get("updates"))
        if value is not None and updates is not None and not pilot.get("lost") and "setting" not in pilot:
            peak = number(pilot.get("lr_max"))
            said = text.measure(measure, value) + ("" if peak is None else f", peak {text.number(peak, 3)}")
            points.append(Point(int(updates), value, said))
    return points


def _places(points: Sequence[Point]) -> tuple[list[int], list[float | None]]:
    return [point.updates for point in points], [point.value for point in points]

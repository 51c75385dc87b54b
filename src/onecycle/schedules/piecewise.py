"""A schedule is points and an easing: one class for every curve over the progress of a run.

Standard library only, so that anything (another framework, a spreadsheet) can use it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, isfinite, pi, sqrt
from typing import Any

from ..checks import one_of
from ..errors import ConfigError

Schedule = Callable[[float], float]
"""From progress (0 at the first update, 1 at the last) to a value. Any callable will do."""


def _linear(t: float) -> float:
    return t


def _cosine(t: float) -> float:
    return (1 - cos(pi * t)) / 2


def _hold(t: float) -> float:
    return 0.0


# The share of the way from a to b that lies before a share t of the segment; an exponential goes it in powers of b / a.
EASINGS: dict[str, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _linear,
    "one-minus-sqrt": sqrt,
    "hold": _hold,
}


@dataclass(frozen=True)
class Piecewise:
    """A value over progress: straight lines, cosines, exponentials or steps between points.

    Between the points ``(p, a)`` and ``(q, b)`` the value at progress ``x`` is, with ``t = (x - p) / (q - p)``:

    ================  ==========================  =============================================
    easing            value                       source
    ================  ==========================  =============================================
    linear            a + (b - a) t               Smith, 1803.09820
    cosine            a + (b - a)(1 - cos pi t)/2 Loshchilov & Hutter, 1608.03983
    exponential       a (b / a)^t                 the usual learning rate range test
    one-minus-sqrt    a + (b - a) sqrt(t)         Haegele et al., 2405.18392, section 3
    hold              a, and b from q on          step decay
    ================  ==========================  =============================================

    Before the first point the value is the first one's; after the last point it is the last one's.
    Points may lie outside [0, 1]: then only the part inside is used.

    Args:
        points: at least one ``(progress, value)``, progress strictly increasing, all finite.
        easing: one name for all segments, or one name for each.

    Raises:
        ConfigError: points or easing that do not make a curve.

    >>> triangle = Piecewise(((0, 0.04), (0.25, 1.0), (1, 0.0)))
    >>> triangle(0), triangle(0.25), triangle(0.625), triangle(1), triangle(7)
    (0.04, 1.0, 0.5, 0.0, 0.0)
    """

    points: tuple[tuple[float, float], ...]
    easing: str | tuple[str, ...] = "linear"
    # The progress of each point, and for each segment its start, width and easing; curves that turn alike share these.
    turns: tuple[tuple[float, ...], tuple[tuple[Any, ...], ...]] = field(init=False, repr=False, compare=False)
    # For each segment its first value, how far it goes from there, and for an exponential the ratio of its two values.
    spans: tuple[tuple[float, float, float | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = _checked_points(self.points)
        easing = _checked_easing(self.easing)
        names = (easing,) * (len(points) - 1) if isinstance(easing, str) else easing
        _check_segments(points, names)
        starts, values = zip(*points, strict=True)
        segments = ((p, q - p, EASINGS[name]) for (p, q), name in zip(pairwise(starts), names, strict=True))
        spans = (
            (a, b - a, b / a if name == "exponential" else None)
            for (a, b), name in zip(pairwise(values), names, strict=True)
        )
        # Before the first point and after the last there is a segment that holds.
        made = {
            "points": points,
            "easing": easing,
            "turns": (starts, ((starts[0], 1.0, _hold), *segments, (starts[-1], 1.0, _hold))),
            "spans": ((values[0], 0.0, None), *spans, (values[-1], 0.0, None)),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def __call__(self, progress: float) -> float:
        """The value at `progress`."""
        starts, segments = self.turns
        i = bisect_right(starts, progress)
        start, width, ease = segments[i]
        a, rise, ratio = self.spans[i]
        share = ease((progress - start) / width)
        return a + rise * share if ratio is None else a * ratio**share

    @property
    def peak(self) -> float:
        """The largest value of any point."""
        return max(value for _, value in self.points)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a configuration file; `from_dict` is its inverse."""
        easing = self.easing if isinstance(self.easing, str) else list(self.easing)
        return {"points": [list(point) for point in self.points], "easing": easing}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Piecewise:
        """From ``{"points": [[0, 0.1], [1, 0]], "easing": "linear"}``.

        >>> Piecewise.from_dict({"points": [[0, 0.1], [1, 0]]})
        Piecewise(points=((0.0, 0.1), (1.0, 0.0)), easing='linear')
        """
        if not isinstance(data, Mapping) or "points" not in data or set(data) - {"points", "easing"}:
            raise ConfigError(f'a schedule is {{"points": [[0, 0.1], [1, 0]], "easing": "linear"}}; received {data!r}')
        return cls(data["points"], data.get("easing", "linear"))


def constant(value: float) -> Piecewise:
    """The same value at every progress.

    >>> constant(0.9)(0.3)
    0.9
    """
    return Piecewise(((0.0, value),))


def _checked_points(points: Iterable[Any]) -> tuple[tuple[float, float], ...]:
    try:
        checked = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"points are pairs (progress, value), as in ((0, 0.1), (1, 0)); received {points!r}"
        ) from None
    if not checked:
        raise ConfigError("a schedule needs at least one point (progress, value); received none")
    if not all(isfinite(v) for point in checked for v in point):
        raise ConfigError(f"points must be finite numbers; received {checked}")
    if any(p[0] >= q[0] for p, q in pairwise(checked)):
        raise ConfigError(f"progress must increase from point to point; received {[x for x, _ in checked]}")
    return checked


def _checked_easing(easing: Any) -> str | tuple[str, ...]:
    if not isinstance(easing, str | tuple | list):
        raise ConfigError(f"easing is a name, or one for each segment: {', '.join(EASINGS)}; received {easing!r}")
    for name in (easing,) if isinstance(easing, str) else easing:
        one_of("easing", name, EASINGS)
    return easing if isinstance(easing, str) else tuple(easing)


def _check_segments(points: tuple[tuple[float, float], ...], names: tuple[str, ...]) -> None:
    if len(names) != len(points) - 1:
        raise ConfigError(f"{len(points)} points have {len(points) - 1} segments; received {len(names)} easings")
    for name, ((_, a), (_, b)) in zip(names, pairwise(points), strict=True):
        if name == "exponential" and not a * b > 0:
            raise ConfigError(
                f"an exponential easing needs two values of the same sign, not zero; received {a} and {b}"
            )

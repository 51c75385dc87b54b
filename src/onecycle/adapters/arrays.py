"""A `Piecewise` in the array operations of another framework, exact in the precision that it computes in."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ..schedules.piecewise import Piecewise
from ..schedules.policy import position

# By easing: the value at a share `t` of the way from a to b, with `s` = 1 - t. They are weighted means of a and b, so
# that single precision has its seven digits where b is a millionth of a too.
_EASINGS: dict[str, Callable[..., Any]] = {
    "linear": lambda xp, a, b, t, s: a * s + b * t,
    "cosine": lambda xp, a, b, t, s: a * xp.sin(math.pi / 2 * s) ** 2 + b * xp.sin(math.pi / 2 * t) ** 2,
    "exponential": lambda xp, a, b, t, s: a * xp.power(b / a, t),
    "one-minus-sqrt": lambda xp, a, b, t, s: a * s / (1 + xp.sqrt(t)) + b * xp.sqrt(t),
}


def in_arrays(xp: Any, name: str, schedule: Any, updates: int) -> Callable[[Any], Any]:
    """`schedule` as a function of the number of updates applied, an array of any shape, in the operations of `xp`.

    It can be traced and vectorised. Which segment an update belongs to is decided in whole numbers. Past the last of
    the `updates` the value stays.

    Raises:
        ConfigError: a schedule that is not a `Piecewise`, whose Python cannot be traced.

    >>> import numpy as np
    >>> in_arrays(np, "lr", Piecewise(((0, 0.0), (0.5, 1.0), (1, 0.5))), 5)(np.arange(7))
    array([0.  , 0.5 , 1.  , 0.75, 0.5 , 0.5 , 0.5 ])
    """
    if not isinstance(schedule, Piecewise):
        raise ConfigError(
            f"the schedule of {name} is a Python function, {schedule!r}, which cannot be traced: give it as points, "
            "such as onecycle.Piecewise([(k / 1000, schedule(k / 1000)) for k in range(1001)])"
        )
    places, values = zip(*schedule.points, strict=True)
    last, span = len(places) - 1, max(1, updates - 1)
    # The first update at or after each point, and how far behind the point it is, in updates.
    first = [bisect_left(range(updates), place, key=lambda k: position(k, updates)) for place in places]
    lead = [k - place * span for k, place in zip(first, places, strict=True)]
    easings = [schedule.easing] * last if isinstance(schedule.easing, str) else schedule.easing
    used = [(easing, [float(each == easing) for each in ("hold", *easings, "hold")]) for easing in _EASINGS]

    def value(count: Any) -> Any:
        k = xp.clip(count, 0, updates - 1)
        segment = xp.searchsorted(xp.array(first), k, side="right")
        left, right = xp.clip(segment - 1, 0, last), xp.clip(segment, 0, last)

        def at(numbers: Any, index: Any) -> Any:
            return xp.take(xp.array(numbers), index)

        after = (k - at(first, left)) + at(lead, left)
        before = (at(first, right) - k) - at(lead, right)
        result = at(values, left)
        for easing, marks in used:
            if any(marks):
                inside = at(marks, segment) > 0
                a, b = xp.where(inside, result, 1.0), xp.where(inside, at(values, right), 1.0)
                t = xp.where(inside, after / xp.where(inside, after + before, 1.0), 0.5)
                s = xp.where(inside, before / xp.where(inside, after + before, 1.0), 0.5)
                result = xp.where(inside, _EASINGS[easing](xp, a, b, t, s), result)
        return result

    return value

"""The checks of arguments that are needed everywhere: each returns the value, or raises one kind of message.

A message says what the argument is, what is allowed and what was received. numpy's numbers are numbers, True is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from .errors import ConfigError, did_you_mean


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether `value` is a whole number, `least` or more.

    >>> is_whole(3), is_whole(0), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number.

    >>> is_number(0.5), is_number(float("inf")), is_number(True), is_number("1")
    (True, False, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole(name: str, value: Any, *, least: int = 1, what: str = "") -> int:
    """The whole number `value`, which is `least` or more; `what` says in the message what it counts.

    Raises:
        ConfigError: it is no such number.

    >>> whole("repeats", 0, what="the number of sweeps")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: repeats is the number of sweeps, a whole number of at least 1; received 0
    """
    if not is_whole(value, least):
        raise ConfigError(f"{name} is {what and what + ', '}a whole number of at least {least}; received {value!r}")
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    what: str = "",
    example: str = "",
) -> float:
    """The finite number `value` within its bounds; `what` says in the message what it is, `example` gives one.

    Raises:
        ConfigError: it is no such number.

    >>> number("lr_max", -1, above=0, what="the peak learning rate", example="0.1")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: lr_max is the peak learning rate, a finite number above 0, such as 0.1; received -1
    """
    bounds = {"above": above, "of at least": least, "below": below, "at most": most}
    if not is_number(value) or not (
        (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    ):
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        what, said, example = what and f"{what}, ", said and f" {said}", example and f", such as {example}"
        raise ConfigError(f"{name} is {what}a finite number{said}{example}; received {value!r}")
    return float(value)


def share(name: str, value: Any, *, of: str, zero: bool = True, one: bool = False) -> float:
    """The share `value` of something, from 0 to 1; the ends are allowed where `zero` and `one` say so.

    Raises:
        ConfigError: it is no such number.

    >>> share("warmup", 1.5, of="the run")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: warmup is a share of the run, at least 0 and below 1; received 1.5
    """
    low, high = "at least 0" if zero else "above 0", "at most 1" if one else "below 1"
    if not is_number(value) or not ((value > 0 or (zero and value == 0)) and (value < 1 or (one and value == 1))):
        raise ConfigError(f"{name} is a share of {of}, {low} and {high}; received {value!r}")
    return float(value)


def one_of(what: str, value: Any, known: Iterable[str], more: str = "") -> str:
    """The name `value`, which is among those that are `known`; `more` says in the message what else is allowed.

    Raises:
        ConfigError: an unknown name.

    >>> one_of("optimizer", "adamm", ("adam", "sgd"))
    Traceback (most recent call last):
    onecycle.errors.ConfigError: unknown optimizer 'adamm': did you mean adam? Known: adam, sgd
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"unknown {what} {value!r}: {did_you_mean(str(value), known)}{more}")
    return value

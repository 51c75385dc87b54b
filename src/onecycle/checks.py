"""The checks of arguments that are needed everywhere: each returns the value, or raises one kind of message.

A message says what the argument is, what is allowed and what was received. numpy's numbers and tensors of one number
are numbers, and become Python's; True is none. What this process may use, which some arguments are checked against and
many defaults rest on, is told here too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from .errors import ConfigError, did_you_mean

Checked = TypeVar("Checked")


def unwrapped(value: Any) -> Any:
    """`value` as plain Python, where it is a number of numpy or a tensor of one; in mappings, tuples and lists too.

    >>> import numpy as np
    >>> unwrapped(np.float64(0.5)), unwrapped({"hidden": [np.int64(3)]}), unwrapped("sgd")
    (0.5, {'hidden': [3]}, 'sgd')
    """
    if isinstance(value, Mapping):
        return {unwrapped(key): unwrapped(one) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(unwrapped, value))
    shape, item = getattr(value, "shape", None), getattr(value, "item", None)
    return item() if isinstance(shape, tuple) and not shape and callable(item) else value


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether `value` is a whole number, `least` or more.

    >>> is_whole(3), is_whole(0), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    value = unwrapped(value)
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number.

    >>> is_number(0.5), is_number(float("inf")), is_number(True), is_number("1")
    (True, False, False, False)
    """
    value = unwrapped(value)
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def whole(name: str, value: Any, *, least: int = 1, what: str = "") -> int:
    """The whole number `value`, which is `least` or more; `what` says in the message what it counts.

    Raises:
        ConfigError: it is no such number.

    >>> whole("repeats", 0, what="the number of sweeps")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: repeats is the number of sweeps, a whole number of at least 1; received 0
    """
    if not is_whole(value, least):
        raise ConfigError(f"{name} is {what and what + ', '}a whole number of at least {least}; {_received(value)}")
    return int(unwrapped(value))


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
        raise ConfigError(f"{name} is {what}a finite number{said}{example}; {_received(value)}")
    return float(unwrapped(value))


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
        raise ConfigError(f"{name} is a share of {of}, {low} and {high}; {_received(value)}")
    return float(unwrapped(value))


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


def flag(name: str, value: Any) -> bool:
    """The truth value `value`.

    Raises:
        ConfigError: anything but True and False.

    >>> flag("compile", "no")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: compile is true or false; received 'no'
    """
    value = unwrapped(value)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is true or false; received {value!r}")
    return value


def word(name: str, value: Any, what: str) -> str:
    """The text `value`, which is not empty; `what` says in the message what it is.

    Raises:
        ConfigError: no text, or an empty one.

    >>> word("data", 3, "a name or a path")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: data is a name or a path; received 3
    """
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is {what}; received {value!r}")
    return value


def names(name: str, value: Any, example: str) -> str | tuple[str, ...]:
    """The name `value`, or several in a tuple or list; `example` gives some.

    Raises:
        ConfigError: something else.

    >>> names("augment", ["crop", 3], '("crop", "flip")')
    Traceback (most recent call last):
    onecycle.errors.ConfigError: augment has names, such as ("crop", "flip"); received ['crop', 3]
    """
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, tuple | list) or not all(isinstance(one, str) for one in several):
        raise ConfigError(f"{name} has names, such as {example}; received {value!r}")
    return value if isinstance(value, str) else tuple(several)


def keywords(name: str, value: Any, example: str) -> dict[str, Any]:
    """The mapping `value` from names to plain data, numbers made Python's; `example` gives one.

    Raises:
        ConfigError: no mapping, a key that is no text, or what JSON has no word for.

    >>> keywords("policy_options", 3, '{"peak_at": 0.3}')
    Traceback (most recent call last):
    onecycle.errors.ConfigError: policy_options has a value for each name, such as {"peak_at": 0.3}; received 3
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} has a value for each name, such as {example}; received {value!r}")
    return plain_data(name, value)


def plain_data(name: str, value: Any) -> Any:
    """`value`, its numbers made Python's, if it is what JSON has words for.

    Raises:
        ConfigError: it is not.

    >>> plain_data("limit", {"a": 1j})
    Traceback (most recent call last):
    onecycle.errors.ConfigError: limit holds numbers, texts, lists and mappings alone; received {'a': 1j}
    """
    plain = unwrapped(value)
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} holds numbers, texts, lists and mappings alone; received {value!r}") from error
    return plain


def unless_none(check: Callable[..., Checked], name: str, value: Any, *args: Any, **bounds: Any) -> Checked | None:
    """`check` of a value that may be None too.

    >>> unless_none(whole, "limit", None)
    """
    return None if value is None else check(name, value, *args, **bounds)


def cores() -> int:
    """The cores that this process may use: no more than taskset or a container leaves it.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _received(value: Any) -> str:
    """The end of a message about what is no such number; a number in quotes has its mend."""
    try:
        quoted = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        quoted = False
    return f"received {value!r}" + (": leave out the quotes" if quoted else "")

"""How long a run may take: epochs, updates or time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..checks import number, unwrapped, whole
from ..errors import ConfigError
from ..text import count, duration

# Of the budget of a run, the share that the pilots which choose its peak may take.
SHARE = 0.1
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d*)?|\.\d+)"
_COUNT = re.compile(rf"\s*{_NUMBER}\s*(epochs?|updates?)?\s*", re.IGNORECASE)
_PART = re.compile(rf"\s*{_NUMBER}\s*(h|min|m|sec|s)", re.IGNORECASE)
_TIME = re.compile(rf"(?:{_PART.pattern})+\s*", re.IGNORECASE)
_ALLOWED = 'a number of epochs (10 or 0.5), "10 epochs", "500 updates", or a time such as "90s", "5m", "1 h 30 min"'


@dataclass(frozen=True)
class Budget:
    """What a run may spend: exactly one of `epochs`, `updates` and `seconds`.

    Raises:
        ConfigError: none or several of them, or one that is not a finite number above 0.
    """

    epochs: float | None = None
    updates: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        if len(given) != 1:
            raise ConfigError(f"a budget is one of epochs, updates and seconds; received {given or 'none'}")
        for name, value in given.items():
            whole(name, value) if name == "updates" else number(name, value, above=0)
            object.__setattr__(self, name, unwrapped(value))

    @classmethod
    def parse(cls, value: Any) -> Budget:
        """From a number of epochs, a text such as ``"5m"`` or ``"500 updates"``, a `timedelta` or a `Budget`.

        >>> Budget.parse("1.5h").seconds, Budget.parse(10).epochs, Budget.parse("500 updates").updates
        (5400.0, 10, 500)
        """
        value = unwrapped(value)
        if isinstance(value, Budget):
            return value
        if isinstance(value, timedelta):
            return cls(seconds=value.total_seconds())
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls(epochs=value)
        if isinstance(value, str) and _TIME.fullmatch(value):
            return cls(seconds=sum(_read(part) * _SECONDS[unit.lower()] for part, unit in _PART.findall(value)))
        match = _COUNT.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"cannot read the budget {value!r}: give {_ALLOWED}")
        if (match[2] or "").lower().startswith("update"):
            if not _read(match[1]).is_integer():
                raise ConfigError(f"updates are counted in whole numbers; received {value!r}")
            return cls(updates=int(_read(match[1])))
        return cls(epochs=_read(match[1]))

    def total_updates(self, per_epoch: int | None) -> int | None:
        """The number of updates of the run, at `per_epoch` updates an epoch; None under a time budget.

        Raises:
            ConfigError: epochs are asked for and the length of one is not known.
        """
        if self.seconds is not None or self.updates is not None:
            return self.updates
        if per_epoch is None:
            raise ConfigError(
                "the batches have no length, so an epoch cannot be counted: give the budget in updates "
                '("500 updates") or in time ("5m"), or pass batches that have a len()'
            )
        return max(1, round((self.epochs or 0) * per_epoch))

    def without(self, spent: int, per_epoch: int | None) -> Budget:
        """What is left after so many updates; of a time budget, whose clock has run on, all of it.

        >>> Budget(epochs=10).without(20, 100), Budget(epochs=10).without(0, 100).epochs
        (Budget(epochs=None, updates=980, seconds=None), 10)
        """
        total = self.total_updates(per_epoch)
        return self if total is None or not spent else Budget(updates=max(1, total - spent))

    def __str__(self) -> str:
        """In words that `parse` reads: ``1 epoch``, ``500 updates``, ``5 min``."""
        if self.seconds is None:
            return count(self.updates, "updates") if self.updates is not None else count(self.epochs or 0, "epochs")
        words = duration(self.seconds)
        return words if _TIME.fullmatch(words) and Budget.parse(words) == self else f"{self.seconds:.12g} s"


def _read(number: str) -> float:
    return float(number.replace(",", ""))

"""How long a run may take: epochs, updates or time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import ConfigError

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(epochs?|updates?|s|sec|m|min|h)?\s*", re.IGNORECASE)
_ALLOWED = 'a number of epochs (10 or 0.5), "10 epochs", "500 updates", or a time such as "90s", "5m", "1.5h"'


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
            kind, kinds = ("whole", int) if name == "updates" else ("finite", int | float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value <= 0:
                raise ConfigError(f"{name} is a {kind} number above 0; received {value!r}")

    @classmethod
    def parse(cls, value: Any) -> Budget:
        """From a number of epochs, a text such as ``"5m"`` or ``"500 updates"``, a `timedelta` or a `Budget`.

        >>> Budget.parse("1.5h").seconds, Budget.parse(10).epochs, Budget.parse("500 updates").updates
        (5400.0, 10, 500)
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, timedelta):
            return cls(seconds=value.total_seconds())
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls(epochs=value)
        match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"cannot read the budget {value!r}: give {_ALLOWED}")
        number, unit = match[1], (match[2] or "epochs").lower()
        if unit.startswith("update"):
            if not number.isdigit():
                raise ConfigError(f"updates are counted in whole numbers; received {value!r}")
            return cls(updates=int(number))
        return cls(epochs=float(number)) if unit.startswith("epoch") else cls(seconds=float(number) * _UNITS[unit])

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

    def __str__(self) -> str:
        """In words: ``10 epochs``, ``500 updates``, ``300 s``."""
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return f"{self.updates} updates" if self.updates is not None else f"{self.epochs:.12g} epochs"

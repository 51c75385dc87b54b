"""Kinds of options, and the options of a command as the fields of a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..jobs.job import Job

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def _whole(_: type, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)  # where cyclopts would round 2.7 to 3
    except ValueError:
        raise ValueError(f"it is a whole number; received {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object and nothing else.")
]


def job_from(given: dict[str, Any], out: Path | None, resume: Path | None) -> tuple[Job, Path | None]:
    """The job that the options describe; a resumed one is the run's own, which they may only repeat."""
    from ..jobs.job import Job
    from ..jobs.run import job_of

    settings = settings_from(given)
    if resume is None:
        return Job.from_dict(settings), out
    if out is not None and out != resume:
        raise ConfigError(f"--resume {resume} goes on in its own folder; leave out --out {out}")
    return replace(job_of(resume), **settings), resume


def settings_from(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a command, those that were given, as the fields of a job."""
    from ..schedules.budget import Budget

    settings = dict(given)
    if "epochs" in settings and "budget" in settings:
        raise ConfigError("give --epochs or --budget, one of them")
    if "epochs" in settings:
        settings["budget"] = str(Budget(epochs=settings.pop("epochs")))
    if "momentum" in settings:
        settings["momentum"] = momentum_from(settings["momentum"])
    if "augment" in settings:
        settings["augment"] = tuple(name.strip() for name in settings["augment"].split(","))
    if settings.get("policy", "").lower().endswith(".json"):
        if "lr_max" in settings:
            raise ConfigError("a --policy of your own has its peak: leave out --lr-max")
        settings["policy"] = _read_policy(Path(settings["policy"]))
    return settings


def _read_policy(path: Path) -> dict[str, Any]:
    from ..schedules.policy import Policy

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the policy in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path} holds {values!r}; a policy is an object such as {{"lr": 0.1, "momentum": 0.9}}')
    return Policy.from_dict(values).to_dict()


def momentum_from(text: str) -> float | tuple[float, float]:
    """Momentum, or the high and the low of its cycle.

    >>> momentum_from("0.9"), momentum_from("0.95,0.85")
    (0.9, (0.95, 0.85))
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < 1 for number in numbers):
        raise ConfigError(
            f"--momentum is one number from 0 to below 1, or HIGH,LOW such as 0.95,0.85; received {text!r}"
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])

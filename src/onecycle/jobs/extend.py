"""The job that goes on from a finished run, which says all that is not asked for anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..records.extension import finished_run, of_a_part
from ..records.files import RUN, differing, plain
from ..schedules.stages import ALL, HEAD
from .job import Job
from .run import job_of

# What an extension may have of its own; all else is as in the run before.
FREE = (
    "budget", "policy", "policy_options", "lr_max", "momentum", "evaluate_every", "keep_best", "workers", "device",
    "compile", "shard", "timeout", "track",
)  # fmt: skip


def extension_of(folder: str | Path, values: Mapping[str, Any]) -> Job:
    """The job that goes on from the finished run in `folder`, with the budget and what else `values` have.

    Raises:
        CheckpointError: no finished run there, or one that was begun in Python.
        ConfigError: no budget, or options that are not those of the run; they are named.
    """
    folder = Path(folder)
    ended, record = finished_run(folder), RUN.read(folder)
    if not record["facts"]:
        raise CheckpointError(
            f"the run in {folder} was begun in Python and does not say what its model and data were: extend it there, "
            f"by Learner(model, data).extend(epochs, run={str(folder)!r})"
        )
    before = job_of(folder)
    if before.tuning == HEAD or any(stage["train"] != ALL for stage in before.stages[-1:]):
        raise of_a_part(folder)
    if "budget" not in values:
        raise ConfigError(f"say for how long {folder} is to go on: give --epochs, or a --budget such as 10m")
    fixed = {name: value for name, value in values.items() if name not in FREE}
    asked = replace(before, **fixed)
    if lines := differing(*({name: plain(getattr(job, name)) for name in fixed} for job in (before, asked))):
        raise ConfigError(
            f"{folder} was trained with other options: {'; '.join(lines)}. An extension has those of its run: leave "
            "them out, or begin a new run"
        )
    free = {name: value for name, value in values.items() if name in FREE}
    free = {"policy": "extension", "policy_options": None, "lr_max": "auto", **free}
    if isinstance(free["policy"], str) and free["lr_max"] == "auto":
        ended.peak(None)  # where there is none it says so
    once = {"fine_tune": None, "freeze_epochs": None, "stages": ()}  # all layers are trained from its first update on
    return replace(before, **{**once, **free}, extend=str(folder))

"""A profile as plain data: what the command line asks for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ..checks import flag
from ..profiling.api import BUDGET, budget_seconds
from ..profiling.result import Profile
from ..records.files import PROFILE
from ..training.sharing import considerate
from .drawing import written
from .job import Job
from .run import prepare


@considerate(changing=True)
def profile(
    job: Job,
    out: str | Path | None = None,
    *,
    budget: Any = BUDGET,
    compile: bool = False,
    verbose: bool = False,
    report: bool = True,
    began: float | None = None,
) -> Profile:
    """Measure where the time of an update of what `job` describes goes, and what would make it faster.

    It is as `Learner.profile`, with what to change in options of the command.
    The budget is charged with reading the data too, from `began` on (by `time.perf_counter`; None: from this call on).
    With `out` the profile has that `folder`, in which ``profile.json`` holds it with configuration, versions and
    hardware, ``profile.png`` its figure, where matplotlib is installed, and ``report.html`` its page, where plotly and
    jinja2 are; without `report`, neither of the two.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`; as `Learner.profile`.
        Interrupted: stopped by a signal; nothing is written.

    >>> made = profile(Job("digits", model="mlp"), budget="3s")
    >>> list(made.present.parts), made.folder
    (['data', 'forward', 'backward', 'optimizer', 'ours'], None)
    """
    began = time.perf_counter() if began is None else began
    budget_seconds(budget)
    flag("compile", compile)
    folder = None if out is None else PROFILE.claim(out)
    ready = prepare(job, verbose)
    path = PurePath(job.data)
    data = path.name if path.is_absolute() or path.suffix else job.data
    title = f"{ready.config['model']} on {data}, {ready.learner.resolved['optimizer']}"
    made = ready.learner.profile(budget, compile=compile, began=began, title=title, shell=True)
    return written(
        PROFILE, replace(made, folder=folder), report, config={**ready.config, "budget": str(budget)},
        resolved=ready.learner.resolved, facts=ready.facts, notes=list(ready.learner.notes),
    )  # fmt: skip

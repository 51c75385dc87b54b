"""The command that trains."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError
from ..jobs.job import Job
from .options import (
    GROUPS,
    Folder,
    Json,
    NoReport,
    destination,
    given,
    job_and_folder,
    of_main_rank,
    options_of,
    settings,
    source,
)
from .printing import going_on, page_line, print_json, terminal_width

SCHEDULE = GROUPS["Schedule"]


@options_of(Job, leave=("data",))
class JobOptions:
    """What decides how a run goes."""

    epochs: Annotated[float | None, Parameter(help="Passes over the training data.", group=SCHEDULE)] = None


def train(
    data: Annotated[str | None, source("Or a TOML file of these options, which those given here replace.")] = None,
    *,
    options: Annotated[JobOptions, Parameter(name="*")] = JobOptions(),
    out: Folder = None,
    resume: Folder = None,
    no_report: NoReport = False,
    json: Json = False,
) -> None:
    """Train a model with one cycle of the learning rate.

    Parameters
    ----------
    out
        Folder of the run. Default: runs/DATA-MODEL-1, or the next free number.
    resume
        Go on with the run in this folder, exactly where its last checkpoint is.
    """
    began = time.perf_counter()  # importing torch counts
    from ..jobs.extend import extension_of
    from ..jobs.run import free_folder, run

    values = settings(data, given(options))
    out, no_report = destination(values, out, no_report)
    extended = values.pop("extend", None)
    if extended is None:
        job, folder = of_main_rank(values, lambda: job_and_folder(values, out, resume))
    elif resume is None:
        job = of_main_rank(values, lambda: extension_of(extended, values))
        folder = out or of_main_rank(values, lambda: free_folder(job))
    else:
        raise ConfigError(f"give --extend or --resume, one of them: --resume {resume} goes on with an extension too")
    again = ["onecycle", "train", "--resume", str(folder), *(["--shard"] if job.shard else [])]
    with going_on(again, folder / "run.json"):
        result = run(job, folder, resume=resume is not None, verbose=not json, report=not no_report, began=began)
    if json:
        print_json(result.to_dict())
        return
    from ..records.progress import summary

    print(*summary(result.to_dict(), width=terminal_width()), *page_line(folder), sep="\n")

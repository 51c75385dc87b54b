"""The command that trains."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError
from ..jobs.job import Job
from ..jobs.places import RanksOnRay
from ..training.launched import world_asked
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
from .printing import going_on, print_json, result_lines

SCHEDULE = GROUPS["Schedule"]


@options_of(Job, leave=("data",))
class JobOptions:
    """What decides how a run goes."""

    epochs: Annotated[float | None, Parameter(help="Passes over the training data.", group=SCHEDULE)] = None


@options_of(RanksOnRay)
class PlaceOptions:
    """Where the ranks are."""


def train(
    data: Annotated[str | None, source("Or a TOML file of these options, which those given here replace.")] = None,
    *,
    options: Annotated[JobOptions, Parameter(name="*")] = JobOptions(),
    place: Annotated[PlaceOptions, Parameter(name="*")] = PlaceOptions(),
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

    values, placed = settings(data, given(options)), RanksOnRay(**given(place))
    out, no_report = destination(values, out, no_report)
    extended = values.pop("extend", None)
    if extended is None:
        job, folder = of_main_rank(values, lambda: job_and_folder(values, out, resume))
    elif resume is None:
        job = of_main_rank(values, lambda: extension_of(extended, values))
        folder = out or of_main_rank(values, lambda: free_folder(job))
    else:
        raise ConfigError(f"give --extend or --resume, one of them: --resume {resume} goes on with an extension too")
    again = ["onecycle", "train", "--resume", str(folder), *(["--shard"] if job.shard else []), *placed.in_shell()]
    if job.shard and world_asked() > 1:
        again = ["torchrun", f"--nproc-per-node={world_asked()}", "-m", *again]
    with going_on(again, folder / "run.json"):
        resuming, verbose, report = resume is not None, not json, not no_report
        if placed.on is None:
            result = run(job, folder, resume=resuming, verbose=verbose, report=report, began=began)
        else:
            from ..jobs.on_ray import run_on_ray

            result = run_on_ray(job, folder, place=placed, resume=resuming, verbose=verbose, report=report)
    if json:
        print_json(result.to_dict())
        return
    print(*result_lines(result.to_dict(), folder), sep="\n")

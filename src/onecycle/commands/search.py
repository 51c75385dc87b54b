"""The command that tries other settings inside a share of the budget, and trains with what it chose."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from ..checks import number
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
from .printing import going_on, print_json, print_table, result_lines

SCHEDULE = GROUPS["Schedule"]


@options_of(Job, leave=("data", "balance", "extend"))
class SearchOptions:
    """What decides how a run goes."""

    epochs: Annotated[float | None, Parameter(help="Passes over the training data.", group=SCHEDULE)] = None


def search(
    data: Annotated[str | None, source("Or a TOML file of these options, which those given here replace.")] = None,
    *,
    options: Annotated[SearchOptions, Parameter(name="*")] = SearchOptions(),
    out: Folder = None,
    resume: Folder = None,
    reach: float | None = None,
    no_report: NoReport = False,
    json: Json = False,
) -> None:
    """Train like train, after pilots of the peak, weight decay, dropout, batch size and label smoothing.

    Everything is inside the budget. What you give stays as it is; the rest is moved for evidence alone.

    Parameters
    ----------
    out
        Folder of the run. Default: runs/DATA-MODEL-1, or the next free number.
    resume
        Go on with the run in this folder, exactly where its last pilot or checkpoint is.
    reach
        A value of the validation metric, such as 0.93: say at the end which budget is expected to reach it.
    """
    began = time.perf_counter()  # importing torch counts
    from ..jobs.run import run
    from ..records.files import RUN

    if reach is not None:
        reach = number("--reach", reach, what="a value of the validation metric", example="0.93")
    values = {**settings(data, given(options)), "balance": True}
    out, no_report = destination(values, out, no_report)
    if "extend" in values:
        raise ConfigError(f"an extension has the settings of its run: onecycle train --extend {values['extend']}")
    job, folder = of_main_rank(values, lambda: job_and_folder(values, out, resume))
    if job.extend is not None:
        raise ConfigError(f"an extension has the settings of its run: onecycle train --resume {resume}")
    with going_on(["onecycle", "search", "--resume", str(folder)], folder / "run.json"):
        result = run(
            job, folder, resume=resume is not None, verbose=not json, report=not no_report, began=began, reach=reach
        )
    folder = result.folder or folder  # where this rank has it
    record = RUN.read(folder)
    searched = record["resolved"]["search"]
    needed = None if reach is None else record["needed"]
    if json:
        print_json({**result.to_dict(), "search": searched, **({} if needed is None else {"needed": needed})})
        return
    from ..records.read import read_run
    from ..report.tables import pilots_table

    if searched["pilots"]:
        made = pilots_table(read_run(folder, folder.name))
        print_table(made.columns, [[cell.text for cell in row] for row in made.rows])
        print()
    print(*result_lines(result.to_dict(), folder), sep="\n")
    if needed is not None:
        print(needed["line"])

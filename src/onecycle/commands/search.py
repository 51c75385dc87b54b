"""The command that tries other settings inside a share of the budget, and trains with what it chose."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Parameter

from .. import text
from ..checks import number
from ..errors import ConfigError
from ..jobs.job import Job
from .options import GROUPS, Folder, Json, NoReport, destination, given, options_of, settings, source
from .printing import going_on, page_line, print_json, print_table, terminal_width

SCHEDULE = GROUPS["Schedule"]
HEADS = ("setting", "peak", "updates", "loss", "accuracy", "kept", "why")


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
    from ..jobs.run import free_folder, job_of, run
    from ..records.files import RUN

    if reach is not None:
        reach = number("--reach", reach, what="a value of the validation metric", example="0.93")
    values = {**settings(data, given(options)), "balance": True}
    out, no_report = destination(values, out, no_report)
    if "extend" in values:
        raise ConfigError(f"an extension has the settings of its run: onecycle train --extend {values['extend']}")
    if resume is None:
        job = Job.from_dict(values)
    elif out is not None and out != resume:
        raise ConfigError(f"--resume {resume} goes on in its own folder; leave out --out {out}")
    else:
        before = job_of(resume)
        if before.extend is not None:
            raise ConfigError(f"an extension has the settings of its run: onecycle train --resume {resume}")
        job = replace(before, **values)
    folder = resume or out or free_folder(job)
    with going_on(["onecycle", "search", "--resume", str(folder)], folder / "run.json"):
        result = run(
            job, folder, resume=resume is not None, verbose=not json, report=not no_report, began=began, reach=reach
        )
    record = RUN.read(folder)
    searched = record["resolved"]["search"]
    needed = None if reach is None else record["needed"]
    if json:
        print_json({**result.to_dict(), "search": searched, **({} if needed is None else {"needed": needed})})
        return
    from ..records.progress import summary

    if searched["pilots"]:
        print_table(HEADS, rows(searched["pilots"]))
        print()
    print(*summary(result.to_dict(), width=terminal_width()), *page_line(folder), sep="\n")
    if needed is not None:
        print(needed["line"])


def rows(pilots: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """A row a pilot.

    >>> pilot = {"setting": {"weight_decay": 0.2}, "lr_max": 0.04, "updates": 96, "loss": 0.51234, "accuracy": 0.8125}
    >>> rows([{**pilot, "kept": False, "why": "learned 3.0 % less"}])
    [['weight decay 0.2', '0.04', 96, '0.5123', '81.25 %', 'no', 'learned 3.0 % less']]
    """
    return [
        [
            ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in one["setting"].items()) or "defaults",
            "" if one["lr_max"] is None else text.number(one["lr_max"], 2),
            one["updates"],
            "" if one["loss"] is None else f"{one['loss']:.4f}",
            "" if one["accuracy"] is None else text.percent(one["accuracy"]),
            "yes" if one["kept"] else "no",
            one["why"],
        ]
        for one in pilots
    ]

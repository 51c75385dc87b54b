"""The command that says where the time of an update goes."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from ..jobs.job import Job
from .options import GROUPS, Flag, Folder, Json, NoReport, destination, given, options_of, settings, source
from .printing import encodes, page_line, print_json, terminal_width

PROFILE = GROUPS["Profile"]
BAR = "█▌"
LEAVE = (
    "data", "budget", "lr_max", "search", "balance", "policy", "policy_options", "extend", "compile", "evaluate_every",
    "keep_best", "track",
)  # fmt: skip


@options_of(Job, leave=LEAVE)
class ProfiledOptions:
    """What of a job decides what an update is."""


def profile(
    data: Annotated[str | None, source("Or a TOML file of these options, which those given here replace.")] = None,
    *,
    options: Annotated[ProfiledOptions, Parameter(name="*")] = ProfiledOptions(),
    budget: Annotated[
        str | None, Parameter(group=PROFILE, help="Time for all of it, such as 30s or 5m.", show_default="1m")
    ] = None,
    compile: Annotated[
        Flag, Parameter(group=PROFILE, help="Try torch.compile too, whose compiling may take longer than the budget.")
    ] = False,
    out: Folder = None,
    no_report: NoReport = False,
    json: Json = False,
) -> None:
    """Say where the time of an update goes, and what would make it faster here. Nothing is trained.

    Parameters
    ----------
    out
        Folder for profile.json, its figure and its page. Without it nothing is written.
    """
    began = time.perf_counter()  # importing torch counts
    from ..jobs import profile as jobs
    from ..report.draw_profile import profile_text

    values = settings(data, given(options))
    out, no_report = destination(values, out, no_report)
    for name in LEAVE[1:]:  # of a file for another command
        values.pop(name, None)
    result = jobs.profile(
        Job.from_dict(values), out, budget=budget or jobs.BUDGET, compile=compile, verbose=not json,
        report=not no_report, began=began,
    )  # fmt: skip
    if json:
        print_json(result.to_dict())
        return
    print(*profile_text(result.to_dict(), terminal_width(), ascii=not encodes(BAR)), sep="\n")
    if result.folder is not None:
        print(f"The profile is in {result.folder}", *page_line(result.folder), sep="\n")

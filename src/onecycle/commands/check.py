"""The command that tests which learning rates a model can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError
from ..jobs.job import Job
from .options import GROUPS, Folder, Json, NoReport, Whole, destination, given, options_of, settings, source
from .printing import check_lines, encodes, print_json, terminal_width

TEST = GROUPS["Range test"]
BRAILLE = "\u28ff"  # the dots of a plot


UNTESTED = ("data", "budget", "lr_max", "search", "balance", "policy", "policy_options", "stages", "extend", "track")


@options_of(Job, leave=UNTESTED)
class TestedOptions:
    """What of a job counts in a range test."""

    epochs: Annotated[
        float | None, Parameter(help="Of the training that is to follow.", group=TEST, show_default="10")
    ] = None


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """How the test is made."""

    updates: Annotated[
        Whole | None,
        Parameter(help="Of the whole test; by default a twentieth of 10 epochs, but at least 64 and at most 400."),
    ] = None
    repeats: Annotated[
        Whole | None,
        Parameter(help="Sweeps, each with a data order and initial weights of its own.", show_default="2"),
    ] = None
    lr_low: Annotated[
        float | None, Parameter(help="Where the sweep begins; by default where the loss does not move yet.")
    ] = None
    lr_high: Annotated[float | None, Parameter(help="Where it ends; by default beyond where training diverges.")] = None
    full: Annotated[
        bool | None,
        Parameter(help="Measure the sharpness along the first sweep too: several times the cost.", negative=""),
    ] = None


def check(
    data: Annotated[
        str | None,
        source(
            "Or a TOML file of these options, which those given here replace; or the CSV file of a range test, with "
            "columns lr and test_accuracy, to be judged."
        ),
    ] = None,
    *,
    options: Annotated[TestedOptions, Parameter(name="*")] = TestedOptions(),
    test: Annotated[TestOptions, Parameter(name="*", group=TEST)] = TestOptions(),
    out: Folder = None,
    no_report: NoReport = False,
    json: Json = False,
) -> None:
    """Test which learning rates a model can take, and if it keeps its accuracy at large ones. The training is not kept.

    Parameters
    ----------
    out
        Folder for check.json, its figure and its page. Without it nothing is written.
    """
    from ..jobs import check as jobs

    if data is not None and data.lower().endswith(".csv") and "target" not in given(options):
        if others := [f"--{name.replace('_', '-')}" for name in (*given(options), *given(test))]:
            raise ConfigError(f"a curve in a file is only judged, nothing is trained: leave out {', '.join(others)}")
        result = jobs.check_curve(data, out, report=not no_report)
    else:
        values = settings(data, {**given(options), **given(test)})
        out, no_report = destination(values, out, no_report)
        of_test = {name: values.pop(name) for name in TestOptions.__dataclass_fields__ if name in values}
        result = jobs.check(Job.from_dict(values), out, verbose=not json, report=not no_report, **of_test)
    if json:
        print_json(result.to_dict())
    else:
        print(*check_lines(result.to_dict(), terminal_width(), ascii=not encodes(BRAILLE)), sep="\n")

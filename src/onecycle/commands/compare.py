"""The command that compares policies."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError, MissingDependency, TrainingError
from ..experiments.options import Placement
from ..experiments.spec import DECIDED, LISTED
from ..jobs.job import Job
from .options import GROUPS, Flag, Folder, Json, NoReport, Whole, destination, given, options_of, source, value
from .printing import page_line, print_json, print_table

if TYPE_CHECKING:
    from ..experiments.comparison import Comparison

# Fields of a job that a comparison has other words for, or that have no value in one word: those are for --set.
# (`target` is an accuracy here: the column of a table is ``--set target=NAME``.)
ELSEWHERE = (
    "data", "budget", "policy", "policy_options", *DECIDED, "freeze_epochs", "stages", "extend", "model_options",
    "seed", "augment", "compile", "target", "track",
)  # fmt: skip


@options_of(Placement)
class PlacementOptions:
    """Where the runs are made."""


@options_of(Job, leave=ELSEWHERE, kind=str)
class AxisOptions:
    """What is the same for all policies, or varied for each."""

    fraction: Annotated[str | None, Parameter(help="Share of the training data.", group=GROUPS["Data"])] = None
    dropout: Annotated[str | None, Parameter(help="Of the model, where it has one.", group=GROUPS["Model"])] = None


@dataclass(frozen=True, kw_only=True)
class SpecOptions:
    """What is compared."""

    policies: Annotated[
        str | None, Parameter(help="Presets, see onecycle policy.", show_default="one_cycle,step,cosine,constant")
    ] = None
    epochs: Annotated[str | None, Parameter(help="Budgets.", show_default="2,4,8")] = None
    seeds: Annotated[
        Whole | None, Parameter(help="Runs of each policy and budget, with the seeds from 0.", show_default="5")
    ] = None
    trials: Annotated[
        Whole | None, Parameter(help="Trial runs for each policy and budget, to tune its peak.", show_default="5")
    ] = None
    no_tune: Annotated[bool | None, Parameter(help="Take the peaks of --lr-max as they are.", negative="")] = None
    lr_max: Annotated[
        str | None, Parameter(help="With --no-tune: one number, or POLICY=NUMBER,POLICY=NUMBER.", metavar="PEAKS")
    ] = None
    settings: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="Any other option of onecycle train or of the model; NAME=VALUE,VALUE for an axis. May be repeated.",
            negative="",
            consume_multiple=False,
            metavar="NAME=VALUE",
        ),
    ] = None


def compare(
    data: Annotated[
        str | None,
        source(
            "Or a TOML file of these options, which those given here replace. In a comparison --target is an accuracy: "
            "the column of a table is given by --set target=COLUMN."
        ),
    ] = None,
    *,
    spec: Annotated[SpecOptions, Parameter(name="*", group=GROUPS["Comparison"])] = SpecOptions(),
    axes: Annotated[AxisOptions, Parameter(name="*")] = AxisOptions(),
    place: Annotated[PlacementOptions, Parameter(name="*")] = PlacementOptions(),
    target: Annotated[float | None, Parameter(group=GROUPS["Output"])] = None,
    plan: Annotated[Flag, Parameter(group=GROUPS["Output"])] = False,
    out: Folder = None,
    no_report: NoReport = False,
    json: Json = False,
) -> None:
    """Compare training policies fairly: each with its own tuned peak, over several seeds, with intervals.

    Called again with the same options it goes on with what is missing. An option with several values, separated by
    commas, is an axis: all combinations are run; of a switch by --set, as in --set standardise=true,false.

    Parameters
    ----------
    target
        Say too how many epochs and seconds each policy took to this validation accuracy, such as 0.9.
    plan
        Only print what would be run, and how long it takes.
    out
        Folder of the comparison. Default: comparisons/DATA-MODEL-1, or the next that is not another's.
    """
    from ..experiments.comparison import conduct
    from ..experiments.plan import plan_lines
    from ..experiments.results import check_target
    from ..experiments.spec import Spec, read_toml

    placement = Placement(**given(place))
    check_target(target)
    if data is not None and data.lower().endswith(".toml"):
        values = read_toml(data)
    else:
        values = {} if data is None else {"data": data}
    out, no_report = destination(values, out, no_report)
    wanted = Spec.from_dict({**values, **_values(given(spec), given(axes))})
    if plan:
        said = plan_lines(wanted, placement)
        print_json({"config": wanted.to_dict(), "plan": said}) if json else print(*said, sep="\n")
        return
    comparison = conduct(wanted, out, placement=placement, verbose=not json)
    if not no_report:
        with suppress(MissingDependency):
            comparison.report()
    if json:
        needed = {} if target is None else {"to_target": comparison.to_target(target)}
        print_json({**comparison.to_dict(), **needed})
    else:
        _tell(comparison, target)
    if all(row["status"] == "failed" for row in comparison.table):
        raise TrainingError(f"no run came to its end; the first failed with: {comparison.table[0]['error']}")


def _values(spec: dict[str, Any], axes: dict[str, Any]) -> dict[str, Any]:
    """The options as the values of a specification."""
    values = {name: text if name == "model" else _read(text, name) for name, text in {**spec, **axes}.items()}
    if values.pop("no_tune", False):
        values["tune"] = False
    if isinstance(peaks := spec.get("lr_max"), str) and "=" in peaks:
        values["lr_max"] = dict(map(_pair, peaks.split(",")))
    for name, one in map(_pair, values.pop("settings", [])):
        if name in values:
            raise ConfigError(f"{name} is given twice, as {values[name]!r} and {one!r}: leave one out")
        values[name] = one
    return values


def _tell(comparison: Comparison, target: float | None) -> None:
    """Print the means, the sentences, and where everything is."""
    from ..experiments.results import means, target_lines
    from ..records.progress import notes

    print_table(*means(comparison.record))
    notes(comparison.record["notes"])
    needed = [] if target is None else target_lines(comparison.to_target(target), target)
    folder = [*page_line(comparison.folder), f"The comparison is in {comparison.folder}"]
    print("", *comparison.summary, *needed, *folder, sep="\n")


def _read(text: Any, name: str = "") -> Any:
    """A value of the command line, or a list of them where there are commas; names of columns are what they are.

    >>> _read("64,256"), _read("1e-3"), _read("sgd"), _read("id,2", "leave_out")
    ([64, 256], 0.001, 'sgd', ['id', '2'])
    """
    if name == LISTED:
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(text, str) and "," in text:
        return [value(part.strip()) for part in text.split(",") if part.strip()]
    return value(text)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, given = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"a setting is NAME=VALUE, such as image_size=32; received {text!r}")
    name = name.strip().replace("-", "_")
    return name, _read(given, name)

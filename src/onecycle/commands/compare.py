"""The command that compares policies."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError, MissingDependency, TrainingError
from .options import Flag, Json, Whole
from .printing import page_line, print_json, print_table

if TYPE_CHECKING:
    from ..experiments.comparison import Comparison

Values = Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=False)]


def compare(
    data: str | None = None,
    *,
    model: str | None = None,
    policies: str | None = None,
    epochs: str | None = None,
    seeds: Whole | None = None,
    fraction: str | None = None,
    batch_size: str | None = None,
    weight_decay: str | None = None,
    dropout: str | None = None,
    optimizer: str | None = None,
    momentum: str | None = None,
    limit: str | None = None,
    settings: Values = None,
    no_tune: Flag = False,
    lr_max: str | None = None,
    trials: Whole | None = None,
    jobs: Whole = 1,
    on: str | None = None,
    cpus: Whole | None = None,
    gpus: float | None = None,
    storage: str | None = None,
    target: float | None = None,
    plan: Flag = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Compare training policies fairly: each with its own tuned peak, over several seeds, with intervals.

    Called again with the same options it goes on with what is missing. An option with several values, separated by
    commas, is an axis: all combinations are run.

    Parameters
    ----------
    data
        As for "onecycle train"; or a TOML file that holds all of it, in which options given here replace values.
    model
        As for "onecycle train". Default: one that suits the data.
    policies
        Presets, see "onecycle policy"; default one_cycle,step,cosine,constant.
    epochs
        Budgets; default 2,4,8.
    seeds
        Runs of each cell, with the seeds from 0; default 5.
    fraction
        Share of the training data.
    batch_size
        Samples a batch.
    weight_decay
        Of weights.
    dropout
        Of the model, where it has one.
    optimizer
        muon (default), sgd, adam or adamw.
    momentum
        Momentum, or beta1.
    limit
        Use only so many training samples.
    settings
        Any other option of "onecycle train" or of the model, NAME=VALUE, or NAME=VALUE,VALUE for an axis. Repeat it for
        several.
    no_tune
        Take the peaks of --lr-max as they are.
    lr_max
        With --no-tune: one number, or POLICY=NUMBER,POLICY=NUMBER.
    trials
        Trial runs for each policy and budget; default 5.
    jobs
        Processes that make runs side by side; default 1.
    on
        Instead of --jobs: "ray" for the Ray cluster that runs here, else a new one on this machine; or the address of
        one, ray://HOST:10001.
    cpus
        On Ray, CPUs of a run, and its threads; default 1.
    gpus
        On Ray, share of a GPU of a run, such as 0.25; default a whole one, where there are any.
    storage
        On Ray, a folder that all nodes share, or an address such as s3://BUCKET/FOLDER, where runs keep checkpoints:
        one whose node dies goes on from there. Default: none, and it starts anew.
    target
        Say too how many epochs and seconds each policy took to this validation accuracy, such as 0.9.
    plan
        Only print what would be run, and how long it takes.
    out
        Folder of the comparison. Default: comparisons/DATA-MODEL-1, or the next that is not another's.
    """
    axes = ("fraction", "batch_size", "weight_decay", "dropout", "optimizer", "momentum", "limit", "epochs", "policies")
    given: dict[str, Any] = {
        name: value for name, value in locals().items() if name in (*axes, "model", "seeds", "trials")
    }
    given = {name: _read(value) if name in axes else value for name, value in given.items() if value is not None}
    if no_tune:
        given["tune"] = False
    if lr_max is not None:
        given["lr_max"] = dict(map(_pair, lr_max.split(","))) if "=" in lr_max else _read(lr_max)
    for name, value in map(_pair, settings or []):
        if name in given:
            raise ConfigError(f"{name} is given twice, as {given[name]!r} and {value!r}: leave one out")
        given[name] = value
    from ..experiments.comparison import conduct, lines, measured
    from ..experiments.options import Placement
    from ..experiments.results import check_target
    from ..experiments.spec import Spec, read_toml

    placement = Placement(jobs=jobs, on=on, cpus=cpus, gpus=gpus, storage=storage)
    check_target(target)
    if data is not None and data.lower().endswith(".toml"):
        spec = Spec.from_dict({**read_toml(data), **given})
    else:
        spec = Spec.from_dict({**({} if data is None else {"data": data}), **given})
    if plan:
        said = lines(spec, measured(spec), placement)
        print_json({"config": spec.to_dict(), "plan": said}) if json else print(*said, sep="\n")
        return
    comparison = conduct(spec, out, placement=placement, verbose=not json)
    with suppress(MissingDependency):
        comparison.report()
    if json:
        needed = {} if target is None else {"to_target": comparison.to_target(target)}
        print_json({"out": str(comparison.folder), **comparison.record, **needed})
    else:
        _tell(comparison, target)
    if all(row["status"] == "failed" for row in comparison.table):
        raise TrainingError(f"no run came to its end; the first failed with: {comparison.table[0]['error']}")


def _tell(comparison: Comparison, target: float | None) -> None:
    """The means, the sentences, and where everything is."""
    from ..experiments.results import means, target_lines
    from ..records.progress import notes

    print_table(*means(comparison.record))
    notes(comparison.record["notes"])
    needed = [] if target is None else target_lines(comparison.to_target(target), target)
    where = [*page_line(comparison.folder), f"The comparison is in {comparison.folder}"]
    print("", *comparison.summary, *needed, *where, sep="\n")


def _read(text: Any) -> Any:
    """A value of the command line: a number if it is one, a list where there are commas.

    >>> _read("64,256"), _read("1e-3"), _read("sgd")
    ([64, 256], 0.001, 'sgd')
    """
    if not isinstance(text, str):
        return text
    if "," in text:
        return [_read(part.strip()) for part in text.split(",") if part.strip()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"a setting is NAME=VALUE, such as image_size=32; received {text!r}")
    return name.strip().replace("-", "_"), _read(value)

"""The runs that a protocol asks for, as records; what is there already is not run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..experiments.comparison import HERE, conduct
from ..experiments.options import Placement
from ..experiments.spec import Spec
from ..jobs.check import check
from ..jobs.job import Job
from ..jobs.run import run
from ..range_test.verdict import LOW, judge
from ..records.curve import Curve
from ..records.files import CHECK, RUN, read_jsonl
from .protocol import Points, Protocol, published

Row = dict[str, Any]
# Accuracy of ten classes by chance: what a run counts for in which training diverged, and how its error begins.
CHANCE, DIVERGED = 0.1, "the loss became"
# Points of a curve that are kept.
POINTS = 200


def gather(protocol: Protocol, folder: Path, *, placement: Placement = HERE, verbose: bool = False) -> list[Row]:
    """Make the runs of `protocol` in `folder`, or what is missing of them; one record a run.

    A record has ``part``, ``seed``, ``value`` (what claims are about), ``status``, the settings, and ``curve``, its
    (x, y) over training, where the figure shows it.

    Args:
        placement: where the runs of comparisons are made.

    Raises:
        OneCycleError: as `conduct`, `check` and `run`.
    """
    makers = {"comparisons": _comparisons, "range-tests": _range_tests, "schedules": _schedules}
    return list(makers[protocol.kind](protocol, folder, placement=placement, verbose=verbose))


def specs(protocol: Protocol) -> dict[str, Spec]:
    """The comparisons of a protocol, by name; none where it consists of something else."""
    if protocol.kind != "comparisons":
        return {}
    return {name: Spec.from_dict({**protocol.common, **part}) for name, part in protocol.parts.items()}


def _comparisons(protocol: Protocol, folder: Path, **options: Any) -> Iterator[Row]:
    for name, spec in specs(protocol).items():
        home = folder / name
        for row in conduct(spec, home, **options).table:
            found = {**spec.settings, "part": name, **row, "value": value_of(row)}
            if protocol.by is None:
                found["curve"] = _validation(home / row["run"])
            yield found


def value_of(row: Mapping[str, Any]) -> float | None:
    """Test accuracy; None for a run that failed for a reason that is not its settings', such as a full disk.

    >>> value_of({"status": "failed", "error": "the loss became nan at update 3", "test_accuracy": None})
    0.1
    """
    return CHANCE if row["status"] == "failed" and row["error"].startswith(DIVERGED) else row["test_accuracy"]


def _validation(folder: Path) -> Points:
    """Validation accuracy over the updates of a run."""
    epochs = read_jsonl(folder / "epochs.jsonl")
    return [(row["step"] + 1, row["valid_accuracy"]) for row in epochs if "valid_accuracy" in row]


def _range_tests(protocol: Protocol, folder: Path, verbose: bool, **_: Any) -> Iterator[Row]:
    for name, part in protocol.parts.items():
        job = Job.from_dict({**protocol.common, **part, "augment": (protocol.common["augment"],)})
        for seed, sweep in enumerate(_tested(job, folder / name, protocol.options, verbose)["curve"]["sweeps"]):
            said = judge(Curve.from_dict({"sweeps": [sweep]}))
            kept = None if said.answer == "unclear" and said.score <= LOW else said.score  # the sweep does not say
            curve = list(zip(sweep["valid_lr"], sweep["valid_accuracy"], strict=False))
            yield {"part": name, "seed": seed, "value": kept, "status": "finished", "curve": curve}


def _tested(job: Job, folder: Path, options: Mapping[str, Any], verbose: bool) -> dict[str, Any]:
    if CHECK.exists(folder):
        return CHECK.read(folder)["result"]
    return check(job, folder, **options, verbose=verbose).to_dict()


def _schedules(protocol: Protocol, folder: Path, **_: Any) -> Iterator[Row]:
    log = published(protocol.name)
    for name, part in protocol.parts.items():
        settings = {**protocol.common, **part}
        for seed in range(settings.pop("seeds")):
            home = folder / f"{name}-seed{seed}"
            begun = RUN.exists(home)
            run(Job.from_dict({**settings, "seed": seed}), home, resume=begun, test=False, report=False)
            steps = read_jsonl(home / "steps.jsonl")
            for measure, key, scale in (("learning rate", "lr", 1 / settings["lr_max"]), ("momentum", "momentum", 1)):
                values = [scale * step[key] for step in steps if key in step]
                if not values:  # a policy that leaves the optimizer's momentum alone
                    continue
                theirs = next(points for label, points in log.items() if label.startswith(measure))
                yield {
                    "part": name, "seed": seed, "measure": measure, "status": "finished",
                    "value": largest_error(values, theirs),
                    "curve": list(enumerate(values))[:: -(-len(values) // POINTS)],
                }  # fmt: skip


def largest_error(values: list[float], log: Points) -> float:
    """The largest relative difference from the values that were logged at some of the updates."""
    if len(values) <= log[-1][0]:
        raise CheckpointError(f"the run has {len(values)} updates, and the log goes to update {log[-1][0]:g}")
    return max(abs(values[int(k)] - value) / value for k, value in log)

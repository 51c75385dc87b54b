"""The runs that a protocol asks for, as records; what is there already is not run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.batch_settings import BATCH_SIZE
from ..errors import CheckpointError, DataError
from ..experiments import plan
from ..experiments.comparison import conduct
from ..experiments.console import Lines
from ..experiments.execute import ended
from ..experiments.options import HERE, Placement
from ..experiments.spec import Spec
from ..jobs.check import check
from ..jobs.job import Job
from ..jobs.run import run
from ..range_test.verdict import LOW, judge
from ..records.curve import Curve
from ..records.files import CHECK, RUN, read_jsonl
from ..schedules.budget import Budget
from ..text import count
from .protocol import Points, Protocol, published

# Accuracy of ten classes by chance: what a run counts for in which training diverged, and how its error begins.
CHANCE, DIVERGED = 0.1, "the loss became"
# Points of a curve that are kept.
POINTS = 200


def gather(
    protocol: Protocol, folder: Path, *, placement: Placement = HERE, verbose: bool = False
) -> list[dict[str, Any]]:
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


def plan_lines(protocol: Protocol, placement: Placement = HERE) -> list[str]:
    """The plan in words: what is run, and about how long each part takes, from a second of training."""
    said = [f"{protocol.title} ({protocol.source})"]
    for name, spec in specs(protocol).items():
        said += [f"{name}:", *[f"  {line}" for line in plan.plan_lines(spec, placement)]]
    if protocol.kind != "comparisons":
        what = count(protocol.seeds, protocol.kind.replace("-", " "))
        try:
            said += [f"{name}: {what}; {plan.time_line(seconds)}" for name, seconds in _seconds(protocol).items()]
        except DataError as error:  # what would be run is known without them
            said += [f"{', '.join(protocol.parts)}: {what} each; how long it takes is not known: {error}"]
    return said


def _seconds(protocol: Protocol) -> dict[str, float]:
    """About how long the range tests or the schedules of each part take."""
    seconds = {}
    for name, job in _jobs(protocol).items():
        speed = plan.measure(job, plan.MEASURED / len(protocol.parts))
        total = protocol.options.get("updates") or protocol.seeds * (Budget.parse(job.budget).updates or 0)
        seconds[name] = speed.start + total * (job.batch_size or BATCH_SIZE) / speed.samples_per_second
    return seconds


def _jobs(protocol: Protocol) -> dict[str, Job]:
    """What each part of range tests or schedules trains, by name."""
    jobs = {}
    for name, part in protocol.parts.items():
        settings = {key: value for key, value in {**protocol.common, **part}.items() if key != "seeds"}
        jobs[name] = Job.from_dict({**plan.UNRESCUED, **settings})
    return jobs


def _comparisons(protocol: Protocol, folder: Path, placement: Placement, verbose: bool) -> Iterator[dict[str, Any]]:
    for name, spec in specs(protocol).items():
        for row in conduct(spec, folder / name, placement=placement, verbose=verbose).table:
            record = {**spec.settings, "part": name, **row, "value": value_of(row)}
            yield record if protocol.by is not None else {**record, "curve": _validation(folder / name / row["run"])}


def value_of(run: Mapping[str, Any]) -> float | None:
    """Test accuracy; None for a run that failed for a reason that is not its settings', such as a full disk.

    >>> value_of({"status": "failed", "error": "the loss became nan at update 3", "test_accuracy": None})
    0.1
    """
    return CHANCE if run["status"] == "failed" and run["error"].startswith(DIVERGED) else run["test_accuracy"]


def _validation(folder: Path) -> Points:
    """Validation accuracy over the updates of a run."""
    epochs = read_jsonl(folder / "epochs.jsonl")
    return [(row["step"] + 1, row["valid_accuracy"]) for row in epochs if "valid_accuracy" in row]


def _range_tests(protocol: Protocol, folder: Path, placement: Placement, verbose: bool) -> Iterator[dict[str, Any]]:
    missing = {name: 1 for name in protocol.parts if not CHECK.exists(folder / name)}
    done = _progress(protocol, "range test", missing, verbose)
    for name, job in _jobs(protocol).items():
        if name in missing:
            check(job, folder / name, **protocol.options)
            done(name)
        for seed, sweep in enumerate(CHECK.read(folder / name)["result"]["curve"]["sweeps"]):
            verdict = judge(Curve.from_dict({"sweeps": [sweep]}))
            silent = verdict.answer == "unclear" and verdict.score <= LOW  # the sweep does not say
            yield {
                "part": name, "seed": seed, "value": None if silent else verdict.score, "status": "finished",
                "curve": list(zip(sweep["valid_lr"], sweep["valid_accuracy"], strict=False)),
            }  # fmt: skip


def _schedules(protocol: Protocol, folder: Path, placement: Placement, verbose: bool) -> Iterator[dict[str, Any]]:
    log, seeds = published(protocol.name), range(protocol.seeds)
    homes = {(name, seed): folder / f"{name}-seed{seed}" for name in protocol.parts for seed in seeds}
    missing = Counter(name for (name, _), home in homes.items() if not ended(home))
    done = _progress(protocol, "run", missing, verbose)
    jobs = _jobs(protocol)
    for (name, seed), home in homes.items():
        job, fresh = jobs[name], not ended(home)
        run(replace(job, seed=seed), home, resume=RUN.exists(home), test=False, report=False)
        if fresh:
            done(f"{name} seed {seed}")
        steps = read_jsonl(home / "steps.jsonl")
        peak = protocol.common["lr_max"]
        for measure, key, scale in (("learning rate", "lr", 1 / peak), ("momentum", "momentum", 1)):
            values = [scale * step[key] for step in steps if key in step]
            if not values:  # a policy that leaves the optimizer's momentum alone
                continue
            theirs = next(points for label, points in log.items() if label.startswith(measure))
            yield {
                "part": name, "seed": seed, "measure": measure, "status": "finished",
                "value": largest_error(values, theirs), "curve": list(enumerate(values))[:: -(-len(values) // POINTS)],
            }  # fmt: skip


def _progress(protocol: Protocol, label: str, missing: Mapping[str, int], verbose: bool) -> Callable[[str], None]:
    """Says what is to be made, so many of each part; what it returns says each as it ends, with the time left."""
    if not verbose or not missing:
        return lambda words: None
    says, seconds = Lines(), _seconds(protocol)
    each = {name: seconds[name] / (n if label == "range test" else protocol.seeds) for name, n in missing.items()}
    says.start(label, [each[name] for name, n in missing.items() for _ in range(n)])
    says.say(
        f"{count(sum(missing.values()), label)}: {plan.time_line(sum(each[name] * n for name, n in missing.items()))}"
    )
    return lambda words: says.done(words, each[words.split(" seed ")[0]], ())


def largest_error(values: list[float], log: Points) -> float:
    """The largest relative difference from the values that were logged at some of the updates."""
    if len(values) <= log[-1][0]:
        raise CheckpointError(f"the run has {len(values)} updates, and the log goes to update {log[-1][0]:g}")
    return max(abs(values[int(k)] - value) / value for k, value in log)

"""Which runs a comparison consists of, and how long they take."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from ..data import load
from ..data.batch_settings import fitting_batch_size
from ..errors import ConfigError, OneCycleError, TrainingError
from ..jobs.job import OFF, Job
from ..jobs.run import prepare
from ..schedules.budget import Budget
from ..schedules.presets import preset
from ..text import duration, listed
from .options import HERE, Placement
from .spec import MODEL_OPTIONS, Spec

Setting = tuple[tuple[str, Any], ...]
# What a run costs beside its training: the validation set after each epoch and the test set, as forward passes.
FORWARD = 1 / 3
# Trial runs have a seed that no measured run has.
TRIAL_SEED = 1_000_000
# Seconds of training in all that speeds are measured by.
MEASURED = 1.0


@dataclass(frozen=True)
class Condition:
    """Runs that differ in their seed alone: a policy at a budget, and the values of the axes."""

    policy: str
    epochs: float
    setting: Setting

    @property
    def name(self) -> str:
        """As part of a file's name: ``one_cycle-4-batch_size64``."""
        return slug([self.policy, f"{self.epochs:g}", *_words(self.setting)])


@dataclass(frozen=True)
class Speed:
    """What was measured of a setting: samples a second in training, and the seconds before it.

    `train` and `held_out` are the samples that an epoch trains on, and that are measured after it.
    """

    samples_per_second: float
    train: int
    held_out: int
    start: float = 0.0

    def seconds(self, epochs: float) -> float:
        """How long a run of so many epochs takes, about."""
        return self.start + epochs * (self.train + FORWARD * self.held_out) / self.samples_per_second


def settings(spec: Spec) -> list[Setting]:
    """Every combination of the values of the axes.

    >>> settings(Spec(axes={"batch_size": (64, 256)}))
    [(('batch_size', 64),), (('batch_size', 256),)]
    """
    return [tuple(zip(spec.axes, values, strict=True)) for values in product(*spec.axes.values())]


def conditions(spec: Spec, setting: Setting) -> list[Condition]:
    """The policies at each budget."""
    return [Condition(policy, epochs, setting) for epochs in spec.epochs for policy in spec.policies]


# A peak at which a run is lost is to be known by that.
UNRESCUED = {"rescue": False}


def job_for(spec: Spec, condition: Condition, lr_max: float, seed: int) -> Job:
    """One run of a condition."""
    base = base_job(spec, condition.setting)
    return replace(base, policy=condition.policy, budget=str(Budget(epochs=condition.epochs)), lr_max=lr_max, seed=seed)


def base_job(spec: Spec, setting: Setting) -> Job:
    """What all runs of a setting have in common."""
    values: dict[str, Any] = {"data": spec.data, "model": spec.model, **UNRESCUED, **spec.settings, **dict(setting)}
    fraction = values.pop("fraction", 1)
    options = {name: values.pop(name) for name in MODEL_OPTIONS if name in values}
    if options:
        values["model_options"] = {**(values.get("model_options") or {}), **options}
    if isinstance(values.get("augment"), str):
        values["augment"] = (values["augment"],)
    job = Job.from_dict({**values, "policy": spec.policies[0]})
    if fraction == 1:
        return job
    return replace(job, limit=max(1, round(fraction * _train_samples(job.data, tuple(job.load_options.items())))))


@dataclass(frozen=True)
class CommonBatchSize:
    """The batch size of all runs where an axis changes how many samples are trained on, and the fewest of those."""

    size: int
    samples: int


def common_batch_size(spec: Spec) -> CommonBatchSize | None:
    """The batch size that fits the fewest samples along `fraction` and `limit`: by default it fits those of each run.

    None where the batch size is given, or there is no such axis.
    """
    if not {"fraction", "limit"} & set(spec.axes) or "batch_size" in {*spec.axes, *spec.settings}:
        return None
    _train_samples.cache_clear()
    fewest = None
    for setting in settings(spec):
        job = base_job(spec, setting)
        samples = _train_samples(job.data, tuple({**job.load_options, "limit": None}.items()))
        samples = samples if job.limit is None else min(samples, job.limit)
        fewest = samples if fewest is None else min(fewest, samples)
    if fewest is None or fewest < 2:  # one sample is refused by itself
        return None
    return CommonBatchSize(fitting_batch_size(fewest), fewest)


def settled(spec: Spec, common: CommonBatchSize | None) -> Spec:
    """What the runs are made by: the specification with the batch size that they have in common, if any."""
    return spec if common is None else replace(spec, settings={**spec.settings, "batch_size": common.size})


def notes(spec: Spec, common: CommonBatchSize | None) -> list[str]:
    """What is decided for all runs."""
    if common is None:
        return []
    axes = listed([name for name in ("fraction", "limit") if name in spec.axes])
    return [
        f"batch size: {common.size} for every {axes}, which fits the fewest training samples, {common.samples:,} "
        "(batch_size, --batch-size: another)"
    ]


def check(spec: Spec) -> None:
    """Validate every run of a comparison before the first one is made.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
    """
    _train_samples.cache_clear()  # what lies at a path may be other data than for the last comparison
    planned = [condition for setting in settings(spec) for condition in conditions(spec, setting)]
    names = [condition.name for condition in planned]
    if len(set(names)) < len(names):
        raise ConfigError(f"two values of an axis look the same in a folder's name: {', '.join(names)}")
    for condition in planned:
        job = job_for(spec, condition, (0.1 if spec.tune else spec.peak(condition.policy)) or 0.0, 0)
        if job.stages or job.tuning != OFF:
            raise ConfigError(
                "a comparison is of runs in one stage, each by its policy, and a pretrained model is fine-tuned in "
                'several: give fine_tune="off" (--fine-tune off), with which all layers are trained from the first '
                "update on"
            )


def measured(spec: Spec) -> dict[Setting, Speed]:
    """The speed of each setting, from a second of training in all.

    Raises:
        OneCycleError: anything that cannot be used: nothing has been written yet.
    """
    check(spec)
    speeds = {}
    for setting in settings(spec):
        try:
            speeds[setting] = measure(base_job(spec, setting), MEASURED / len(settings(spec)))
        except OneCycleError as error:
            fraction = {**spec.settings, **dict(setting)}.get("fraction")
            if fraction is not None:
                error.args = (f"with fraction {fraction:g}: {error}",)
            raise
    return speeds


def measure(job: Job, seconds: float) -> Speed:
    """Train for about so many seconds, and keep nothing of it.

    Raises:
        OneCycleError: anything that cannot be used; what a model of one's own raises in training is a `TrainingError`.
    """
    prepare(Job("digits", model="mlp"))  # what is imported once is no cost of a run
    policy = preset("constant", 1e-4)
    try:
        began = time.perf_counter()
        ready = prepare(replace(job, lr_max=1e-4, seed=TRIAL_SEED))
        start = time.perf_counter() - began
        if ready.data.valid is None:
            raise ConfigError(f"{job.data} has no validation data, which peaks are chosen by: give data that have")
        ready.learner.fit("1 updates", policy)  # the first update pays for what is made once
        result = ready.learner.fit(f"{seconds:.3f} s", policy)
    except OneCycleError:
        raise
    except Exception as error:  # whatever the code of a model raises
        raise TrainingError(f"the model cannot be trained on these data: {type(error).__name__}: {error}") from error
    train, *held_out = ready.facts["samples"]
    return Speed(result.samples_per_second, train, sum(held_out), start)


def expected(spec: Spec, speeds: Mapping[Setting, Speed]) -> float:
    """Seconds for all trial runs and all runs, one after the other; extended grids are not counted."""
    each = spec.seeds + (spec.trials if spec.tune else 0)
    return sum(each * len(spec.policies) * speed.seconds(e) for speed in speeds.values() for e in spec.epochs)


def plan_lines(spec: Spec, placement: Placement = HERE) -> list[str]:
    """The plan of a comparison in words, by a measured second of training.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
    """
    common = common_batch_size(spec)
    return lines(spec, measured(settled(spec, common)), placement, common)


def lines(
    spec: Spec,
    speeds: Mapping[Setting, Speed],
    placement: Placement = HERE,
    common: CommonBatchSize | None = None,
) -> list[str]:
    """The plan in words: what is run, and about how long it takes."""
    n = len(settings(spec)) * len(spec.policies) * len(spec.epochs)
    tuning = (
        f"tuning: {n * spec.trials} trial runs, {spec.trials} for each policy and budget; more where a best peak is at "
        "the edge"
        if spec.tune
        else "tuning: none, peaks as given"
    )
    axes = [f"{name.replace('_', ' ')}: {', '.join(map(in_short, values))}" for name, values in spec.axes.items()]
    return [
        f"compare {', '.join(spec.policies)} on {spec.data}" + (f" with {spec.model}" if spec.model else ""),
        f"epochs: {', '.join(f'{e:g}' for e in spec.epochs)}; seeds: {spec.seeds}",
        *axes,
        *notes(spec, common),
        tuning,
        f"runs: {n * spec.seeds}",
        time_line(expected(spec, speeds), placement),
    ]


def time_line(seconds: float, placement: Placement = HERE) -> str:
    """About how long runs take that need so many seconds one after the other."""
    jobs = placement.jobs
    side_by_side = f" in {jobs} processes" if jobs > 1 else " if one after the other" if placement.on else ""
    return f"time: about {duration(float(f'{seconds / jobs:.2g}'))}{side_by_side}, from a measured second of training"


def slug(words: Sequence[str]) -> str:
    """One name for a folder.

    >>> slug(["one_cycle", "0.5", "model timm:vit"])
    'one_cycle-0.5-model-timm-vit'
    """
    return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)


def in_words(setting: Setting) -> str:
    """``batch size 64, weight decay 0.001``; empty where nothing is varied."""
    return ", ".join(f"{name.replace('_', ' ')} {in_short(value)}" for name, value in setting)


def in_short(value: Any) -> str:
    """``0.0001`` for numbers; the names in a tuple or list joined."""
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(map(in_short, value)) if isinstance(value, tuple | list) else str(value)


def _words(setting: Setting) -> list[str]:
    return [f"{name}{value}" for name, value in setting]


@cache
def _train_samples(data: str, options: tuple[tuple[str, Any], ...]) -> int:
    return len(load(data, **dict(options)).train)

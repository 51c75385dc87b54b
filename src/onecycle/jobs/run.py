"""Train what a job describes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..data import Data, load
from ..data.batch_settings import some_images
from ..data.label_sets import has_label_sets
from ..data.splits import Split, Stream
from ..data.table_columns import target_names
from ..errors import CheckpointError, ConfigError, Interrupted, MissingDependency, TrainingError
from ..interpretation.made import names_in, predictions_of
from ..interpretation.recorded import record
from ..learner import Learner
from ..models import build
from ..models.pretrained import recorded_configuration
from ..optim.build import recipe
from ..optim.choice import AUTO
from ..records import run as runs
from ..records.checkpoint import checkpoints
from ..records.extension import settings_of
from ..records.files import RUN, differing, plain, write_jsonl
from ..records.history import History, Result
from ..records.predictions import Predictions
from ..records.progress import notes
from ..records.read import comparable, main_value
from ..schedules.budget import Budget
from ..schedules.policy import Policy
from ..schedules.stages import HEAD
from ..search.forecast import Forecast, Needed, target_of
from ..text import listed
from ..training.loop import updates_per_epoch
from ..training.metrics import Perplexity
from ..training.options import BEFORE, seconds_of
from ..training.outputs import Outputs
from ..training.ranks import Ranks
from ..training.runtime import Runtime
from ..training.sharing import considerate
from .afford import NET, affordable, as_chosen
from .drawing import draw, write_page
from .job import AUTO_MODEL, FETCHED, OFF, Job, asked_for, completed
from .search import dropouts, search_balance, seconds_before

FIGURE = "curves.png"
# Figure and page of a real run take so many times as long as those of a tiny one, at most.
SLOWER = 1.5
ACCURACY = "accuracy"  # the metric of a forecast, where it is measured


@considerate()
def run(
    job: Job,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    verbose: bool = False,
    test: bool = True,
    report: bool = True,
    began: float | None = None,
    reach: float | None = None,
) -> Result:
    """Train as `job` says, in the folder `out`, and measure the test set once, at the end.

    A job that extends a finished run goes on from its end, in a folder of its own; that run is not changed.
    With `resume`, the run in `out` goes on from its last good checkpoint and ends as if it had never stopped; one that
    has ended gives its result. Without `test` the test set is left alone, as by a run that something is chosen by;
    without `report` no figure and no page is written. A time budget is charged with all of that, from `began` on (by
    `time.perf_counter`; None: from this call on). The budget that is expected to `reach` a value of the validation
    metric is recorded as ``needed``.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    began = time.perf_counter() if began is None else began
    ranks = Runtime.choose(job.device, timeout=seconds_of(job.timeout)).ranks
    with ranks.together(), ExitStack() as stack:
        verbose, report = verbose and ranks.is_main, report and ranks.is_main
        return _run(job, out, resume, verbose, test, report, began, reach, ranks, stack)


def _run(
    job: Job, out: str | Path | None, resume: bool, verbose: bool, test: bool, report: bool, began: float,
    reach: float | None, ranks: Ranks, stack: ExitStack,
) -> Result:  # fmt: skip
    asked = ranks.from_main(lambda: free_folder(job) if out is None else Path(out))
    folder, resume = runs.placed(asked, resume, ranks)
    if not resume:
        ranks.from_main(lambda: RUN.claim(folder))
    extended = None if job.extend is None else ranks.folder(Path(job.extend), resume=True)
    job, data = _with_model(job, folder if resume else extended, began)
    if resume and (result := finished(job, folder, RUN.read(folder))):
        return _asked_later(folder, result, reach, report)
    ready = prepare(job, verbose, data, reach, _with_weights(job, folder if resume else None, extended, ranks))
    learner, test_data = ready.learner, ready.data.test if test else None
    config, facts, note = _as_recorded(ready, folder if resume else None, extended)
    notes([note] * bool(note and verbose))
    policy = job.policy if isinstance(job.policy, str) else Policy.from_dict(job.policy)
    options = job.schedule_options if isinstance(policy, str) else {}
    budget, lr_max = Budget.parse(job.budget), job.lr_max
    began -= seconds_before(folder)
    settings = {} if extended is None else settings_of(RUN.read(folder if resume else extended))
    if job.balance and job.extend is None:
        learner.tracking.check(folder, resume)
        about = {"config": config, "facts": facts, "samples": len(ready.data.train), "began": began}
        searched = ranks.broadcast(search_balance(job, learner, ready.with_settings, folder, **about))
        resume, budget, lr_max = True, searched.budget(budget), searched.peak
        settings = searched.settings
    if settings:
        learner = ready.with_settings(settings)
        learner.verbose = verbose
    tests = Tests(learner, test_data, job.test_flips, names_in(ready.data))
    after = 0.0 if budget.seconds is None else _seconds_after(tests, report, began + budget.seconds)
    after = ranks.broadcast(after)
    stack.enter_context(learner.tracking)  # the test too is to be logged
    try:
        fitted = _fitting(job, learner, budget, policy, lr_max)(
            out=folder, resume=resume, config=config, facts=facts, began=began, after=after, search=job.search,
            **options,
        )  # fmt: skip
    except (TrainingError, Interrupted):
        if report:
            write_page(folder)
        raise
    result = replace(fitted, **(tested := tests.measured()), folder=None)
    learner.tracking.tested(**tested)
    tests.record(folder, result=result.to_dict(), **_needed(folder, result, reach))
    if report:
        draw(folder, FIGURE, partial(learner.history.plot, title=f"{job.data}, {job.policy}, {job.budget}"))
    return replace(result, folder=folder)


def _fitting(
    job: Job, learner: Learner, budget: Budget, policy: str | Policy, lr_max: float | str
) -> Callable[..., Result]:
    """What fits as the job says: at once, on from a finished run, or in stages, which share its budget."""
    asked = {"budget": budget, "policy": policy, "lr_max": lr_max}
    if job.extend is not None:
        return partial(learner.extend, run=job.extend, **asked)
    if job.stages:
        return partial(learner.fine_tune, stages=job.stages)
    if job.tuning == OFF:
        return partial(learner.fit, **asked)
    per_epoch = updates_per_epoch(learner.train, learner.state.accumulate)
    updates, first = budget.total_updates(per_epoch), job.freeze_epochs
    epochs = math.inf if updates is None or not per_epoch else updates / per_epoch
    first = 0.0 if job.tuning == HEAD else min(1.0, epochs / 2) if first is None else first
    if first >= epochs:
        raise ConfigError(f"freeze_epochs={first:g} leave nothing of {budget} for the rest: give fewer, or more in all")
    if first and updates is not None and per_epoch:
        asked["budget"] = Budget(updates=max(1, updates - round(first * per_epoch)))
    return partial(learner.fine_tune, freeze_epochs=first, method=job.tuning, **asked)


@dataclass(frozen=True)
class Tests:
    """What is measured once, after the run: the test set, where there is one, and with `flips` mirrored too."""

    learner: Learner
    data: Split | Stream | None
    flips: bool
    names: Sequence[str] | None = None
    outputs: Outputs = field(default_factory=Outputs)

    def measured(self) -> dict[str, dict[str, float] | None]:
        """``test`` and, with flips, ``flipped``."""
        if self.data is None:
            return {"test": None}
        flipped = {"flipped": self.learner.evaluate(self.data, flips=True)} if self.flips else {}
        return {"test": self.learner.evaluate(self.data, keep=self.outputs), **flipped}

    def record(self, folder: Path, **fields: Any) -> None:
        """Write `fields` into the record of the run, and what the model predicts for the test set into its folder.

        Which samples those are is not shown, so that nothing is chosen by them.
        """
        RUN.update(folder, **fields)
        state = self.learner.state
        made = predictions_of(self.outputs, state.loss, "test", self.names, state.runtime.ranks)
        if isinstance(made, Predictions):
            state.runtime.ranks.from_main(lambda: record(folder, made))

    def seconds(self) -> float:
        """About how long that takes: with flips three passes through the model in place of one."""
        return 0.0 if self.data is None else self.learner.evaluation_seconds(self.data) * (1 + 2 * self.flips)


def _with_model(job: Job, known: str | Path | None, began: float) -> tuple[Job, Data | None]:
    """The job with the model that "auto" stands for, that of a `known` run where it goes on; and data read for that."""
    if job.model != AUTO_MODEL:
        return job, None
    if known is not None:
        return as_chosen(job, completed(RUN.read(known)["config"])), None
    _check_optimizer(job)
    data = load(job.data, seed=job.seed, **job.load_options)
    return affordable(job, data, began, lambda one: prepare(one, data=data).learner)


def _check_optimizer(job: Job) -> None:
    """Refuse an unknown optimizer before the data are read."""
    if isinstance(job.optimizer, str) and job.optimizer != AUTO:
        recipe(job.optimizer)


@dataclass(frozen=True)
class Prepared:
    """What a job comes to: its data, a learner, the model anew from a seed, and what is recorded of them."""

    job: Job
    data: Data
    learner: Learner
    build: Callable[[int], nn.Module]
    config: dict[str, Any]
    facts: dict[str, Any]
    before: Path | None = None  # the run whose weights come to the model

    def with_settings(self, settings: Mapping[str, Any]) -> Learner:
        """A learner for the same data, with the same initial weights, and with these settings: see `BalanceSearch`."""
        others = {name: value for name, value in settings.items() if name != "dropout"}
        learner = prepare(replace(self.job, **others), data=self.data, before=self.before).learner
        for layer in dropouts(learner.model) if "dropout" in settings else ():
            layer.p = settings["dropout"]
        return learner


def prepare(
    job: Job, verbose: bool = False, data: Data | None = None, reach: float | None = None, before: Path | None = None
) -> Prepared:
    """Read the data, where they are not given, and build the model and its learner, which is to `reach` a target.

    Where all weights are to come from the run in the folder `before`, pretrained ones are not looked for, and what that
    run knows of them is taken from there.

    Raises:
        ConfigError: an accuracy is measured, and none can be what is to be reached; or no test images to be mirrored.
        OneCycleError: anything else that cannot be used, see `onecycle.errors`.
    """
    _check_optimizer(job)
    if data is None:
        known = None
        if job.model and (job.with_weights or job.model.startswith("hf:")):
            facts = {} if before is None else RUN.read(before)["facts"]
            known = recorded_configuration(job.model, facts)
        data = load(job.data, seed=job.seed, pretrained=known, **job.load_options)
    if job.test_flips and (data.kind != "image" or data.test is None):
        raise ConfigError(f"test_flips mirrors the images of a test split, and {data!r} has none: leave it out")
    name = _default_model(data) if job.model in (None, AUTO_MODEL) else job.model
    if job.fine_tune not in (None, OFF) and not job.with_weights:
        note = f"fine-tuned are the weights that {name} comes with: pretrained (--pretrained) was not given"
        data = replace(data, notes=(*data.notes, note))
    weights = job.with_weights and (before is None or not name.startswith(FETCHED))
    images = some_images(data.train, data.mean, data.std) if name == NET else None

    def anew(seed: int) -> nn.Module:
        return build(
            name, input_shape=data.input_shape, classes=_outputs(data), columns=data.columns, images=images, seed=seed,
            pretrained=weights, labels=data.classes if weights else None,
            architecture=getattr(data.pretrained, "architecture", None), lora=job.lora, **job.own_model_options,
        )  # fmt: skip

    learner = Learner(anew(job.seed), data, metrics=_metrics(data), verbose=verbose, **job.learner_keywords())
    if reach is not None and ACCURACY in learner.measured:
        target_of(ACCURACY, reach, "reach")
    return Prepared(job, data, learner, anew, {**asked_for(job), "model": name}, plain(_facts(data)), before)


def _with_weights(job: Job, resumed: Path | None, extended: Path | None, ranks: Ranks) -> Path | None:
    """The run whose files have all the weights of the model: that which is extended, or one with a checkpoint of them.

    The checkpoints of a head alone have not.
    """
    if resumed is None or extended is not None or not job.with_weights:
        return resumed or extended
    head = job.tuning == HEAD or any(stage["train"] == HEAD for stage in job.stages[-1:])
    return resumed if not head and ranks.from_main(lambda: bool(checkpoints(resumed / "checkpoints"))) else None


def _metrics(data: Data) -> Any:
    """What is measured beside the loss; None: what goes with it."""
    if data.kind == "text":
        return {"perplexity": Perplexity()}
    targets = data.train.targets
    numbers = data.classes is None and not bool(((targets == 0) | (targets == 1)).all())
    return ["r2", "mae"] if numbers else None


def job_of(folder: str | Path) -> Job:
    """The job of the run in `folder`.

    Raises:
        CheckpointError: no run there, or one that a learner in Python began.
    """
    record = RUN.read(folder)
    if not record["facts"]:
        raise CheckpointError(
            f"the run in {folder} was begun in Python and does not say what its model and data were: go on with it "
            "there, by fit(..., out=..., resume=True)"
        )
    return Job.recorded(record["config"])


def _as_begun(config: dict[str, Any], recorded: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The configuration without the options that came after a run was begun, and a note on those that are as then."""
    changed = [f"{name}={value!r}" for name, value in BEFORE.items() if name not in recorded]
    note = f"begun by an earlier version of onecycle: {listed(changed)}, as it was then" if changed else ""
    return {name: value for name, value in config.items() if name in recorded}, note


def _facts_as_begun(facts: dict[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The facts without what was not kept of the columns of a table when a run was begun."""
    columns, before = facts.get("columns") or {}, recorded.get("columns") or {}
    pairs = list(zip(columns.get("numbers", ()), before.get("numbers", ()), strict=False))
    if len(pairs) != len(columns.get("numbers", ())) or not pairs:
        return facts
    if before["target"] == listed(target_names(columns["target"]), "or"):  # so were several of them kept
        columns = {**columns, "target": before["target"]}
    numbers = [{name: value for name, value in now.items() if name in then} for now, then in pairs]
    return {**facts, "columns": {**columns, "numbers": numbers}}


def _as_recorded(ready: Prepared, resumed: Path | None, extended: Path | None) -> tuple[dict[str, Any], Any, str]:
    """Configuration and facts of a run as they are kept with it, and a note on those that were kept otherwise once."""
    if resumed is None:
        if extended is not None:
            _check_same_data(extended, ready.facts)
        return ready.config, ready.facts, ""
    record = RUN.read(resumed)
    config, note = _as_begun(ready.config, record["config"])
    return config, _facts_as_begun(ready.facts, record["facts"]), note


def _check_same_data(extended: Path, facts: dict[str, Any]) -> None:
    """Check that the data have the facts that those of the run in this folder, which is to be extended, had.

    Raises:
        CheckpointError: they have others; the message names what differs.
    """
    before = RUN.read(extended)["facts"]
    if lines := differing(before, _facts_as_begun(facts, before)):
        raise CheckpointError(
            f"{extended} was trained on other data: {'; '.join(lines)}. Give the data as they were, or begin a new run"
        )


def finished(job: Job, folder: Path, record: Mapping[str, Any]) -> Result | None:
    """The result of the run of this very job in `folder`, with this ``run.json``, if it has come to its end.

    Raises:
        CheckpointError: it is the run of another job.
    """
    config = record["config"]
    if record["facts"]:
        record = {**record, "config": completed(config)}
    if job.model == AUTO_MODEL:
        job = as_chosen(job, completed(config))
    model = job.model or config.get("model")
    try:
        runs.check_same(folder, record, {**record["config"], **asked_for(job), "model": model})
    except CheckpointError as error:
        if record["facts"] and (later := [f"{name}={value!r}" for name, value in BEFORE.items() if name not in config]):
            error.args = (f"{error}. An earlier version of onecycle began it: what it did was {listed(later)}",)
        raise
    return Result(**record["result"], folder=folder) if runs.is_over(record) else None


def _default_model(data: Data) -> str:
    """A model that trains in minutes on a laptop."""
    if data.kind == "image":
        return "small-cnn" if data.input_shape[0] == 1 else "resnet20"
    return {"text": "char-transformer", "table": "tabular", "texts": "text-classifier"}.get(data.kind, "mlp")


def _outputs(data: Data) -> int:
    return data.n_classes or math.prod(data.train.targets.shape[1:])


def _facts(data: Data) -> dict[str, Any]:
    """What a resumed run must find again, and what a prediction needs."""
    return {
        "kind": data.kind,
        "input_shape": data.input_shape,
        "outputs": _outputs(data),
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
        "samples": [0 if split is None else len(split) for split in (data.train, data.valid, data.test)],
        **({"columns": data.columns.to_dict()} if data.columns else {}),
        **_pretraining(data),
        **({"label_sets": True} if has_label_sets(data.train.targets, data.classes) else {}),
    }


def _pretraining(data: Data) -> dict[str, Any]:
    """What the images were, and what it takes to make a model again that only its files describe, at which revision."""
    said = {name: getattr(data.pretrained, name, None) for name in ("architecture", "revision")}
    return {name: value for name, value in {"seen": data.seen, **said}.items() if value is not None}


def free_folder(job: Job) -> Path:
    """``runs/DATA-MODEL-1``, or the next number that is free; ``RUN-extended-1`` of one that extends a run."""
    if job.extend is not None:
        path = Path(job.extend)
        stem = re.sub(r"-extended-\d+$", "", path.name or path.resolve().name)
        return next(new for i in range(1, 10**9) if not (new := path.parent / f"{stem}-extended-{i}").exists())
    model = None if job.model == AUTO_MODEL else job.model
    if model and "." in model.partition(":")[0]:  # of package.module:callable the callable
        model = model.rpartition(":")[2]
    stem = "-".join(Path(part).resolve().stem.replace(":", "-") for part in (job.data, model) if part)
    return next(path for i in range(1, 10**9) if not (path := Path("runs") / f"{stem}-{i}").exists())


def _needed(folder: Path, result: Result, target: float | None) -> dict[str, Any]:
    """``needed``: the budget that reaches a target by the forecast of a run, with its ``line``; nothing without one.

    A target that the metric cannot have is told in the line: the run has ended, and is not to be lost.
    """
    if target is None:
        return {}
    known = RUN.read(folder).get("forecast")
    if known is None:
        measure, _ = main_value(comparable(result.valid or {})) or ("loss", None)
        made = Forecast(measure, reason="no pilots of the peak were made")
    else:
        made = Forecast.from_dict(known)
    try:
        needed = made.budget_for(target)
    except ConfigError as error:
        needed = Needed(made.measure, target, reason=str(error))
    return {"needed": {**asdict(needed), "line": needed.line()}}


def _asked_later(folder: Path, result: Result, target: float | None, report: bool) -> Result:
    """The result of a run that has ended, after what a target needs is in its record and on its page."""
    if target is not None:
        RUN.update(folder, **_needed(folder, result, target))
        if report:
            write_page(folder)
    return result


def _seconds_after(tests: Tests, report: bool, until: float) -> float:
    """About how long what follows the run of a time budget takes: the tests, and figure and page.

    After `until`, by `time.perf_counter`, there is no time to be shared out, and none is taken to measure it.
    """
    return tests.seconds() + (_seconds_to_draw() if report and time.perf_counter() < until else 0.0)


def _seconds_to_draw() -> float:
    """About how long figure and page of a run take, measured on a tiny one, after what is imported for them."""
    steps = [{"step": k, "epoch": 0, "lr": 0.1, "loss": 1.0, "seconds": k} for k in range(2)]
    epochs = [{"epoch": 0, "step": 1, "lr": 0.1, "train_loss": 1.0, "valid_loss": 1.0, "samples": 2, "seconds": 1.0}]
    figure = partial(History(steps, epochs).plot)
    with suppress(MissingDependency):
        figure()
    with TemporaryDirectory() as place:
        folder = runs.create(Path(place) / "run", {})
        write_jsonl(folder / "steps.jsonl", steps)
        write_jsonl(folder / "epochs.jsonl", epochs)
        started = time.perf_counter()
        draw(folder, FIGURE, figure)
        return SLOWER * (time.perf_counter() - started)

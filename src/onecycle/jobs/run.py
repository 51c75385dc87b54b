"""Train what a job describes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..data import Data, load
from ..errors import CheckpointError, Interrupted, MissingDependency, TrainingError
from ..learner import Learner
from ..models import build
from ..optim.build import recipe
from ..records import run as runs
from ..records.files import RUN, plain
from ..records.history import History, Result
from ..schedules.budget import Budget
from ..schedules.policy import Policy
from ..training.objectives import Perplexity
from .job import Job

# Figure and page of a real run take so many times as long as those of a tiny one, at most.
SLOWER = 1.5


def run(
    job: Job,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    verbose: bool = False,
    test: bool = True,
    report: bool = True,
    began: float | None = None,
) -> Result:
    """Train as `job` says, in the folder `out`, and measure the test set once, at the end.

    With `resume`, the run in `out` goes on from its last good checkpoint and ends as if it had never stopped; one that
    has ended gives its result. Without `test` the test set is left alone, as by a run that something is chosen by;
    without `report` no figure and no page is written. A time budget is charged with all of that, from `began` on (by
    `time.perf_counter`; None: from this call on).

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    began = time.perf_counter() if began is None else began
    folder = free_folder(job) if out is None else Path(out)
    if not resume:
        RUN.claim(folder)
    elif result := _finished(folder, job):
        return result
    ready = prepare(job, verbose)
    learner, test_data = ready.learner, ready.data.test if test else None
    policy = job.policy if isinstance(job.policy, str) else Policy.from_dict(job.policy)
    options = job.schedule_options if isinstance(policy, str) else {}
    after = 0.0
    if Budget.parse(job.budget).seconds is not None:
        tested = 0.0 if test_data is None else learner.evaluation_seconds(test_data)
        after = tested + (_seconds_to_draw() if report else 0.0)
    try:
        fitted = learner.fit(
            job.budget, policy, job.lr_max, out=folder, resume=resume, config=ready.config, facts=ready.facts,
            began=began, after=after, **options,
        )  # fmt: skip
    except (TrainingError, Interrupted):
        if report:
            _page(folder)
        raise
    result = replace(fitted, test=None if test_data is None else learner.evaluate(test_data), folder=None)
    RUN.update(folder, result=result.to_dict())
    if report:
        _draw(learner.history, folder, f"{job.data}, {job.policy}, {job.budget}")
    return replace(result, folder=folder)


@dataclass(frozen=True)
class Prepared:
    """What a job comes to: its data, a learner, the model anew from a seed, and what is recorded of them."""

    data: Data
    learner: Learner
    build: Callable[[int], nn.Module]
    config: dict[str, Any]
    facts: dict[str, Any]


def prepare(job: Job, verbose: bool = False) -> Prepared:
    """Read the data and build the model and its learner.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
    """
    if isinstance(job.optimizer, str):
        recipe(job.optimizer)  # before the data are read
    data = load(job.data, seed=job.seed, limit=job.limit, image_size=job.image_size)
    name = job.model or _default_model(data)

    def anew(seed: int) -> nn.Module:
        options = job.model_options or {}
        return build(name, input_shape=data.input_shape, classes=_outputs(data), seed=seed, **options)

    metrics = {"perplexity": Perplexity()} if data.kind == "text" else None
    learner = Learner(anew(job.seed), data, metrics=metrics, verbose=verbose, **job.learner_keywords())
    return Prepared(data, learner, anew, plain({**asdict(job), "model": name}), plain(_facts(data)))


def job_of(folder: str | Path) -> Job:
    """The job of the run in `folder`.

    Raises:
        CheckpointError: no run there, or one that a learner in Python began.
    """
    record = RUN.read(folder)
    if not record["facts"]:
        raise CheckpointError(
            f"the run in {folder} was begun in Python and does not say what its model and data were: go on with it "
            "there, by fit(..., out=..., resume=True), and predict by Learner.load"
        )
    return Job.from_dict(record["config"])


def _finished(folder: Path, job: Job) -> Result | None:
    """The result of the run of this very job, if it has come to its end: the test set is measured last."""
    record = RUN.read(folder)
    model = job.model or record["config"].get("model")
    runs.check_same(folder, {**record["config"], **plain(asdict(job)), "model": model})
    whole = record["status"] == "finished" and "test" in record["result"]
    return Result(**record["result"], folder=folder) if whole else None


def _default_model(data: Data) -> str:
    """A model that trains in minutes on a laptop."""
    if data.kind == "image":
        return "small-cnn" if data.input_shape[0] == 1 else "resnet20"
    return "char-transformer" if data.kind == "text" else "mlp"


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
    }


def free_folder(job: Job) -> Path:
    """``runs/DATA-MODEL-1``, or the next number that is free."""
    stem = "-".join(Path(part).resolve().stem.replace(":", "-") for part in (job.data, job.model) if part)
    return next(path for i in range(1, 10**9) if not (path := Path("runs") / f"{stem}-{i}").exists())


def _draw(history: History, folder: Path, title: str) -> None:
    """The curves and the page, where what they need is installed: a run does not fail for want of a picture."""
    from ..report.matplotlib import save

    with suppress(MissingDependency):
        save(history.plot(title=title), folder / "curves.png")
    _page(folder)


def _seconds_to_draw() -> float:
    """About how long figure and page of a run take, measured on a tiny one; the first time pays for imports."""
    rows = [{"step": k, "epoch": 0, "lr": 0.1, "loss": 1.0, "seconds": k} for k in range(2)]
    epoch = {"epoch": 0, "step": 1, "lr": 0.1, "train_loss": 1.0, "valid_loss": 1.0, "samples": 2, "seconds": 1.0}
    seconds = 0.0
    for _ in range(2):
        with TemporaryDirectory() as place:
            folder, started = runs.create(Path(place) / "run", {}), time.perf_counter()
            _draw(History(rows, [epoch]), folder, "")
            seconds = time.perf_counter() - started
    return SLOWER * seconds


def _page(folder: Path) -> None:
    """The page, where what it needs is installed; a run that broke off before its first record has none."""
    from ..report.page import page

    with suppress(MissingDependency, CheckpointError):
        page([folder], folder / "report.html")

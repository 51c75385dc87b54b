"""One training run as plain data: what the command line, a file or a queue describes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Data, load
from ..errors import CheckpointError, ConfigError, Interrupted, MissingDependency, TrainingError, did_you_mean
from ..learner import Learner
from ..models import build
from ..optim.build import recipe
from ..records import run as runs
from ..records.checkpoint import latest, load_weights
from ..schedules.budget import Budget
from ..schedules.policy import Policy
from ..schedules.presets import preset
from ..training.evaluate import predict


@dataclass(frozen=True)
class Job:
    """Everything that decides how a run goes. None means: the default that fits the rest, which is then said.

    `data` and `model` are names as in `onecycle.load` and `onecycle.models.build`, `model_options` are those of the
    latter, `preset_options` those of the preset, such as ``{"peak_at": 0.3}``; `budget` is read by `Budget.parse`;
    `lr_max` is a number, "auto" for the peak that a range test finds (see `Learner.fit_one_cycle`), or None for the
    optimizer's default; `momentum` is a number or ``(high, low)`` pair for a cycle; `policy` is `Policy.to_dict` data,
    in place of `preset` and `lr_max`. The other fields are arguments of `Learner`.
    """

    data: str = "digits"
    model: str | None = None
    budget: str = "10 epochs"
    lr_max: float | str | None = "auto"
    preset: str = "one_cycle"
    policy: dict[str, Any] | None = None
    optimizer: str = "muon"
    momentum: float | tuple[float, float] | None = None
    weight_decay: float | None = None
    batch_size: int = 64
    smoothing: float | None = None
    augment: tuple[str, ...] | None = None
    accumulate: int = 1
    clip: float | None = None
    seed: int = 0
    limit: int | None = None
    image_size: int | None = None
    precision: str = "fp32"
    device: str | None = None
    compile: bool = False
    model_options: dict[str, Any] | None = None
    preset_options: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """From plain data; unknown keys are a `ConfigError`."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown setting {key!r}: {did_you_mean(key, known)}")
        return cls(**values)


def run(
    job: Job,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    verbose: bool = False,
    test: bool = True,
    draw: bool = True,
) -> dict[str, Any]:
    """Train as `job` says, in the folder `out`, and measure the test set once, at the end.

    Returns the result as plain data, the same as ``result`` in ``run.json``: ``run``, ``train``, ``valid``, ``test``
    (each a loss in nats or squared units and the metrics; None where there is no such split), ``lr_max``, ``epochs``,
    ``updates``, ``seconds`` and ``samples_per_second``. With `resume`, the run in `out` goes on from its last good
    checkpoint and ends as if it had never stopped; one that has ended already gives its result. Without `test` the
    test set is left alone, as by a run that something is chosen by; without `draw` there is no picture and no page.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    folder = _free_folder(job) if out is None else Path(out)
    if not resume:
        runs.check_free(folder)
    elif result := _finished(folder, job):
        return result
    ready = prepare(job, verbose)
    learner, test_data = ready.learner, ready.data.test if test else None
    where: dict[str, Any] = {"out": folder, "resume": resume, "config": ready.config}
    try:
        if job.policy is not None:
            fitted = learner.fit(job.budget, Policy.from_dict(job.policy), **where)
        else:
            fitted = learner.fit_one_cycle(
                budget=job.budget, lr_max=job.lr_max, preset=job.preset, **policy_options(job), **where
            )
    except (TrainingError, Interrupted):
        if draw:
            _page(folder)
        raise
    measured = None if test_data is None else learner.evaluate(test_data)
    result = {"run": str(folder), **asdict(fitted)}
    result = {**{key: result[key] for key in ("run", "train", "valid")}, "test": measured, **result}
    runs.change(folder, result=result)
    if draw:
        _draw(learner, folder, job)
    return result


@dataclass(frozen=True)
class Prepared:
    """What a job comes to: its data, a learner, the model anew from a seed, and the configuration as it is recorded."""

    data: Data
    learner: Learner
    build: Callable[[int], nn.Module]
    config: dict[str, Any]


def prepare(job: Job, verbose: bool = False) -> Prepared:
    """Read the data and build the model and its learner.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
    """
    _check(job)
    data = load(job.data, seed=job.seed, limit=job.limit, image_size=job.image_size)
    name = job.model or _default_model(data)

    def anew(seed: int) -> nn.Module:
        options = job.model_options or {}
        return build(name, input_shape=data.input_shape, classes=_outputs(data), seed=seed, **options)

    learner = _learner(job, data, anew(job.seed), verbose)
    return Prepared(data, learner, anew, _plain({**asdict(job), "model": name, "facts": _facts(data)}))


def job_of(folder: str | Path) -> Job:
    """The job of the run in `folder`.

    Raises:
        CheckpointError: no run there, or one that a learner in Python began.
    """
    config = dict(runs.read(folder)["config"])
    if config.pop("facts", None) is None:
        raise CheckpointError(
            f"the run in {folder} was begun in Python and does not say what its model and data were: go on with it "
            "there, by fit(..., out=..., resume=True), and predict by Learner.load"
        )
    for key in ("momentum", "augment"):
        if isinstance(config.get(key), list):
            config[key] = tuple(config[key])
    return Job.from_dict(config)


def predict_files(folder: str | Path, files: list[str]) -> list[dict[str, Any]]:
    """The class of each image, or the outputs for each row of arrays, by the model of the run in `folder`.

    Returns one dictionary a sample: ``file``, and ``class`` and ``probability``, or ``output`` for a regression.

    Raises:
        CheckpointError: no run, or no weights there.
        DataError: files that cannot be read.
    """
    import torch

    from ..data import read_inputs
    from ..data.batches import ImageTransform, as_batches

    job, facts = job_of(folder), runs.read(folder)["config"]["facts"]
    if facts["kind"] == "text":
        raise ConfigError("predict takes images or arrays; this run was trained on text")
    shape = tuple(facts["input_shape"])
    options = job.model_options or {}
    model = build(job.model or "", input_shape=shape, classes=facts["outputs"], seed=job.seed, **options)
    _load_weights(model, Path(folder))
    inputs = read_inputs(files, kind=facts["kind"], input_shape=shape)
    transform = ImageTransform(tuple(facts["mean"]), tuple(facts["std"])) if facts["mean"] else None
    batches = as_batches((inputs,), min(256, len(inputs)), shuffle=False, transform=transform)
    outputs = predict(model, batches.epoch(0))
    counts = [1] * len(files)
    if len(files) != len(inputs):  # some hold several samples
        counts = [len(read_inputs([file], kind=facts["kind"], input_shape=shape)) for file in files]
    names = [file if n == 1 else f"{file}[{i}]" for file, n in zip(files, counts, strict=True) for i in range(n)]
    if facts["classes"] is None:
        return [{"file": file, "output": row.tolist()} for file, row in zip(names, outputs, strict=True)]
    best = torch.softmax(outputs, -1).max(-1)
    return [
        {"file": file, "class": facts["classes"][i], "probability": p}
        for file, i, p in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """The result of the run of this very job, if it has come to its end: the test set is measured last."""
    record = runs.read(folder)
    model = job.model or record["config"].get("model")
    runs.check_same(folder, {**record["config"], **_plain(asdict(job)), "model": model})
    return record["result"] if record["status"] == "finished" and "test" in record["result"] else None


def _check(job: Job) -> None:
    """Refuse at once what would otherwise come to light when the data are read and the model is built."""
    Budget.parse(job.budget)
    peak = 0.1 if job.lr_max is None or job.lr_max == "auto" else job.lr_max
    if isinstance(peak, str):
        raise ConfigError(f'lr_max is a number, "auto", or None for the optimizer\'s default; received {peak!r}')
    if job.policy is None:
        preset(job.preset, peak, 10**6, **policy_options(job))
    recipe(job.optimizer)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As ``run.json`` gives it back."""
    return json.loads(json.dumps(values))


def policy_options(job: Job) -> dict[str, Any]:
    """What a job says of its preset beside the peak."""
    return {**(job.preset_options or {}), **({} if job.momentum is None else {"momentum": job.momentum})}


def _learner(job: Job, data: Data, model: Any, verbose: bool) -> Learner:
    from ..training.objectives import Perplexity

    momentum = job.momentum[0] if isinstance(job.momentum, tuple) else job.momentum
    return Learner(
        model,
        data,
        optimizer=job.optimizer,
        metrics={"perplexity": Perplexity()} if data.kind == "text" else None,
        batch_size=job.batch_size,
        momentum=momentum,
        weight_decay=job.weight_decay,
        seed=job.seed,
        precision=job.precision,
        device=job.device,
        compile=job.compile,
        accumulate=job.accumulate,
        clip=job.clip,
        augment=job.augment,
        verbose=verbose,
        smoothing=job.smoothing,
    )


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


def _free_folder(job: Job) -> Path:
    """``runs/DATA-MODEL-1``, or the next number that is free."""
    stem = "-".join(Path(part).resolve().stem.replace(":", "-") for part in (job.data, job.model) if part)
    return next(path for i in range(1, 10**9) if not (path := Path("runs") / f"{stem}-{i}").exists())


def _load_weights(model: Any, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if weights.exists():
        load_weights(model, weights)
        return
    saved = latest(folder / "checkpoints")
    if saved is None:
        raise CheckpointError(f"{folder} has neither model.safetensors nor a checkpoint: train it first")
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {folder} cannot be loaded: {error}") from error


def _draw(learner: Learner, folder: Path, job: Job) -> None:
    """The curves and the page, where what they need is installed: a run does not fail for want of a picture."""
    from ..report.figures import save

    with suppress(MissingDependency):
        save(learner.history.plot(title=f"{job.data}, {job.preset}, {job.budget}"), folder / "curves.png")
    _page(folder)


def _page(folder: Path) -> None:
    """The page, where what it needs is installed; a run that broke off before its first record has none."""
    from ..report.page import page

    with suppress(MissingDependency, CheckpointError):
        page([folder], folder / "report.html")

"""The options of a training, each one once: its name, its default, its help and its group in ``--help``.

A `Learner` takes them as keywords, a `onecycle.Job` extends them, and the commands make their options from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Self

from ..checks import flag, is_whole, names, number, one_of, share, unless_none, unwrapped, whole, word
from ..errors import ConfigError, did_you_mean
from ..schedules.budget import Budget
from ..schedules.presets import momenta

PRECISIONS = ("fp32", "bf16", "fp16")
# How the statistics of batch norms come about: measured anew before each evaluation and at the end, or by momentum.
NORM_STATISTICS = ("estimated", "running")
CLASS_WEIGHTS = ("balanced",)
# Those of torch.compile.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# What a run can be sent to, and the word for none of them where a run that is resumed was.
TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")
NO_TRACKER = "none"
TIMEOUT = 600.0  # seconds that one rank waits for another
# What there was before there were options for it, where that is not what is done by default since.
BEFORE = {"standardise": False, "norm_statistics": "running", "rescue": False}


def option(default: Any, help: str, group: str) -> Any:
    """A field of a dataclass of options: `help` is one line, `group` its heading in ``--help``."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the training data are read."""

    batch_size: int | None = option(
        None, "Samples in a batch, where the data are not batched already; by default 64, less for small data.", "Data"
    )
    augment: str | Sequence[str] | None = option(
        None, "flip, crop, cutout, several with commas, or none; by default what suits the data.", "Data"
    )
    standardise: bool = option(
        True,
        "Standardise inputs and targets of a regression that are far from it, such as prices; predictions are in the "
        "old units.",
        "Data",
    )
    workers: int = option(0, "Processes that read data which do not lie in memory.", "Data")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What an update is."""

    optimizer: Any = option(
        "auto",
        "muon, sgd, adam or adamw; auto: muon, and adamw where orthogonal updates would cost too much.",
        "Optimizer",
    )
    momentum: float | tuple[float, float] | None = option(
        None,
        "Momentum of SGD, or beta1: one number, or HIGH,LOW to cycle it against the learning rate; by default the "
        "optimizer's.",
        "Optimizer",
    )
    weight_decay: float | None = option(
        None, "Decay of weights, not of biases and norms; by default the optimizer's.", "Optimizer"
    )
    accumulate: int = option(1, "Batches in each update.", "Optimizer")
    clip: float | None = option(None, "Largest norm of the gradient; by default it is not clipped.", "Optimizer")
    average: float | None = option(
        None,
        "Keep a moving average of the weights, such as 0.999 (the share of itself that it keeps at each update), to "
        "validate and to end with.",
        "Optimizer",
    )
    class_weights: str | None = option(
        None,
        "balanced: classes weigh alike in the default loss, n / (classes x count); by default samples do.",
        "Optimizer",
    )
    smoothing: float | None = option(
        None,
        "Label smoothing of the default cross-entropy, in training; by default 0.1, and 0 for tokens.",
        "Optimizer",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how the run is computed."""

    seed: int = option(0, "What initial weights, batch order, dropout and augmentation are derived from.", "Run")
    precision: str | None = option(
        None, "fp32, bf16 or fp16; by default fp32, and what is faster where the model is chosen by the time.", "Run"
    )
    timeout: str | float = option(
        "10m", "How long one of several ranks waits for another, such as 30s or 1h, before the run ends.", "Run"
    )
    sync_batchnorm: bool = option(
        False, "Of several ranks: batch norms take the statistics of the whole batch, not of each rank's part.", "Run"
    )
    device: Any = option(None, "cpu, cuda, cuda:1 or mps; by default the best one here.", "Run")
    compile: bool | str = option(
        False,
        "Run the model through torch.compile, in its mode reduce-overhead, say, which replays CUDA graphs on a GPU.",
        "Run",
    )
    shard: bool = option(
        False,
        "Share weights, gradients and optimizer state out over the ranks (FSDP2), for a model that does not fit one "
        "device.",
        "Run",
    )
    evaluate_every: int | None = option(
        None, "Validate after each so many updates and at the end; by default at the end of each epoch.", "Run"
    )
    keep_best: str | None = option(
        None, "End with the weights that had the best validation measure of this name, accuracy or loss, say.", "Run"
    )
    rescue: bool = option(
        True,
        "Where the loss is not finite, or the model has unlearned, go back to a good state and on at smaller learning "
        "rates.",
        "Run",
    )
    norm_statistics: str = option(
        "estimated",
        "Of batch norms: estimated anew from training data before each evaluation and at the end, or running means.",
        "Run",
    )
    track: str | Sequence[str] | None = option(
        None,
        "trackio, wandb, tensorboard or mlflow, several with commas: log the run there too, on this machine unless the "
        "tracker's own environment says otherwise; none: no longer, in a run that is resumed.",
        "Run",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions, OptimizerOptions, DataOptions):
    """Everything that a `Learner` takes beside the model, the data and the loss.

    Numbers of numpy and tensors of one number become Python's.

    Raises:
        ConfigError: a value of another type or range.

    >>> TrainingOptions(batch_size=32).learner_keywords()["batch_size"]
    32
    """

    def __post_init__(self) -> None:
        device = self.device if self.device is None or is_whole(self.device, 0) else _device_name(self.device)
        self._keep(
            batch_size=unless_none(whole, "batch_size", self.batch_size, what="the number of samples a batch"),
            augment=unless_none(names, "augment", self.augment, '("crop", "flip") or "none"'),
            workers=whole("workers", self.workers, least=0, what="the number of processes that read data"),
            optimizer=_optimizer(self.optimizer),
            momentum=unless_none(_momentum, "momentum", self.momentum),
            weight_decay=unless_none(number, "weight_decay", self.weight_decay, least=0, example="5e-4"),
            accumulate=whole("accumulate", self.accumulate, what="the number of batches for each update"),
            clip=unless_none(number, "clip", self.clip, above=0, what="the largest norm of the gradient"),
            class_weights=unless_none(one_of, "class_weights", self.class_weights, CLASS_WEIGHTS),
            smoothing=unless_none(share, "smoothing", self.smoothing, of="the target"),
            seed=whole("seed", self.seed, least=0),
            precision=one_of("precision", PRECISIONS[0] if self.precision is None else self.precision, PRECISIONS),
            device=unwrapped(device),
            compile=_compile("compile", self.compile),
            rescue=flag("rescue", self.rescue),
            timeout=checked_timeout(self.timeout),
            sync_batchnorm=flag("sync_batchnorm", self.sync_batchnorm),
            shard=flag("shard", self.shard),
            norm_statistics=one_of("norm_statistics", self.norm_statistics, NORM_STATISTICS),
            track=unless_none(_trackers, "track", self.track),
            average=unless_none(share, "average", self.average, of="itself that a moving average keeps"),
            evaluate_every=unless_none(whole, "evaluate_every", self.evaluate_every, what="the number of updates"),
            keep_best=unless_none(word, "keep_best", self.keep_best, "the name of a validation measure, such as loss"),
        )

    def _keep(self, **checked: Any) -> None:
        """Set fields to what their checks returned."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain data.

        Raises:
            ConfigError: an unknown key.

        >>> TrainingOptions.from_dict({"batchsize": 32})
        Traceback (most recent call last):
        onecycle.errors.ConfigError: unknown option 'batchsize': did you mean batch_size? Known: accumulate, ...
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}: {did_you_mean(str(name), known)}")
        return cls(**values)

    def alike(self) -> dict[str, Any]:
        """What is the same on all ranks of a run, in words."""
        apart = ("device", "timeout", "workers", "track")
        return {f.name: in_words(getattr(self, f.name)) for f in fields(TrainingOptions) if f.name not in apart}

    def learner_keywords(self) -> dict[str, Any]:
        """The keywords of a `Learner`, by name."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingOptions)}


def in_words(value: Any) -> str:
    """A value in words that are the same in another process: functions by their names, without addresses.

    >>> in_words(0.1), in_words(partial(max, 3)), in_words(lambda x: x)
    ('0.1', 'max(3)', '<lambda>')
    """
    if isinstance(value, partial):
        given = [*map(in_words, value.args), *(f"{name}={in_words(one)}" for name, one in value.keywords.items())]
        return f"{in_words(value.func)}({', '.join(given)})"
    return getattr(value, "__qualname__", None) or re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


def checked_timeout(value: Any) -> str | float:
    """A time in words, or seconds."""
    seconds = Budget.parse(value).seconds if isinstance(value, str) else number("timeout", value, above=0)
    if seconds is None:
        raise ConfigError(f"timeout is a time such as 30s or 1h, or a number of seconds; received {value!r}")
    return value


def seconds_of(timeout: str | float) -> float:
    """The seconds of a timeout.

    >>> seconds_of("10m"), seconds_of(30)
    (600.0, 30.0)
    """
    return float(Budget.parse(timeout).seconds or 0.0) if isinstance(timeout, str) else float(timeout)


def _momentum(name: str, value: Any) -> float | tuple[float, float]:
    values = momenta(value)
    return values[0] if len(values) == 1 else (values[0], values[1])


def _trackers(name: str, value: Any) -> tuple[str, ...]:
    """Names of trackers, each once."""
    given = names(name, value, '("trackio", "tensorboard")')
    several = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(one_of("tracker", one.strip(), (*TRACKERS, NO_TRACKER)) for one in several))


def _optimizer(value: Any) -> Any:
    """A name, or what makes an optimizer; the names are known where they are read."""
    if callable(value) or hasattr(value, "param_groups"):
        return value
    return word("optimizer", value, "a name such as sgd, a class of torch.optim, a factory or an instance")


def _compile(name: str, value: Any) -> bool | str:
    """Whether to compile, or torch's mode for it."""
    return (
        one_of("mode of torch.compile", value, COMPILE_MODES, "; or true or false")
        if isinstance(value, str)
        else flag(name, value)
    )


def _device_name(value: Any) -> str:
    """The text that means the device: a `torch.device` is not plain data."""
    named = str(value) if type(value).__name__ == "device" else value
    return word("device", named, "cpu, cuda, cuda:1 or mps")

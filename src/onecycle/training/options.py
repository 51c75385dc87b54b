"""The options of a training, each one once: its name, its default, its help and its group in ``--help``.

A `Learner` takes them as keywords, a `onecycle.Job` extends them, and the commands make their options from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..errors import ConfigError, did_you_mean


def option(default: Any, help: str, group: str) -> Any:
    """A field of a dataclass of options: `help` is one line, `group` its heading in ``--help``."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the training data are read."""

    batch_size: int = option(64, "Samples in a batch, where the data are not batched already.", "Data")
    augment: str | Sequence[str] | None = option(
        None, "flip, crop, cutout, several with commas, or none; by default what suits the data.", "Data"
    )
    workers: int = option(0, "Processes that read data which do not lie in memory.", "Data")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What an update is."""

    optimizer: Any = option("muon", "muon, sgd, adam or adamw.", "Optimizer")
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
    smoothing: float | None = option(
        None,
        "Label smoothing of the default cross-entropy, in training; by default 0.1, and 0 for tokens.",
        "Optimizer",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how the run is computed."""

    seed: int = option(0, "What initial weights, batch order, dropout and augmentation are derived from.", "Run")
    precision: str = option("fp32", "fp32, bf16 or fp16.", "Run")
    device: Any = option(None, "cpu, cuda, cuda:1 or mps; by default the best one here.", "Run")
    compile: bool = option(False, "Run the model through torch.compile.", "Run")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions, OptimizerOptions, DataOptions):
    """Everything that a `Learner` takes beside the model, the data and the loss.

    >>> TrainingOptions(batch_size=32).learner_keywords()["batch_size"]
    32
    """

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
                raise ConfigError(f"unknown option {name!r}: {did_you_mean(name, known)}")
        return cls(**values)

    def learner_keywords(self) -> dict[str, Any]:
        """The keywords of a `Learner`, by name."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingOptions)}

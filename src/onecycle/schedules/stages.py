"""Fine-tuning in stages as plain data: the head of a pretrained model first, then more of it.

Source: Howard & Ruder, 1801.06146, sections 3.2 and 3.3; ``fine_tune`` of fastai is two such stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from ..checks import is_whole, number, one_of
from ..errors import ConfigError, did_you_mean
from .budget import Budget
from .policy import layer_factors
from .presets import PRESETS

HEAD, ALL, DISCRIMINATIVE = "head", "all", "discriminative"
STILL = "still"
METHODS = ("auto", HEAD, DISCRIMINATIVE, "full")
# Discriminative rates: the peak of the last layer group over that of the first.
SPREAD = 100.0
# By method, that ratio of the stage that comes after the head's; "head" leaves the other layer groups as they are.
SPREADS = {DISCRIMINATIVE: SPREAD, "full": 1.0, HEAD: math.inf}
# A head on features that are computed once is trained for so many epochs of them where one of the model is asked for:
# they cost next to nothing.
EPOCHS = 20


@dataclass(frozen=True)
class Stage:
    """A run over some of the layers.

    Args:
        budget: of it, as `Budget.parse` takes it.
        train: "head", "all", or how many of the last layer groups.
        lr_max: the peak, or "auto", see `Learner.fit`; a pair of numbers is spread over the layer groups, from the
            input's to the output's.
        spread: the peak of the last layer group over that of the first, in equal ratios between; "auto": see
            `Learner.fit`.
        policy: the name of a preset.
        options: keywords of the preset.
        norms: "still": batch norms keep the statistics that the model came with, and are in evaluation mode; "trained":
            they have those of the new data, as in `Learner.fit`.

    Raises:
        ConfigError: a value that cannot be used.

    >>> Stage("3 epochs", train="head").name
    'head'
    """

    budget: Any
    train: str | int = ALL
    lr_max: Any = "auto"
    spread: float | str = 1.0
    policy: str = "one_cycle"
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: str = STILL

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not is_whole(self.train):
            one_of("train", self.train, (HEAD, ALL), ", or a number of layer groups")
        spread_of(self.spread)
        one_of("preset", self.policy, PRESETS)
        one_of("norms", self.norms, (STILL, "trained"))
        peaks: Any = self.lr_max
        if isinstance(peaks, list | tuple) and len(peaks) == 2:
            object.__setattr__(self, "lr_max", peaks := slice(*peaks))
        if isinstance(peaks, slice):
            layer_factors(peaks, 2)
            if self.spread != 1:
                raise ConfigError(f"lr_max={peaks} is spread over the layers already: leave out spread")
        elif not isinstance(peaks, str) or peaks not in ("auto", "default"):
            number("lr_max", peaks, above=0, what='the peak, or a pair of them, "auto" or "default"')

    @property
    def name(self) -> str:
        """What is trained, as the name of a folder."""
        return self.train if isinstance(self.train, str) else f"last-{self.train}"

    @classmethod
    def of(cls, given: Any) -> Self:
        """One that is given as such, or as plain data.

        Raises:
            ConfigError: neither, or an unknown key.
        """
        if isinstance(given, cls):
            return given
        known = [f.name for f in fields(cls)]
        if not isinstance(given, Mapping) or "budget" not in given:
            raise ConfigError(f'a stage is {{"budget": "3 epochs", "train": "head", ...}}; received {given!r}')
        for name in given:
            if name not in known:
                raise ConfigError(f"a stage has no {name!r}: {did_you_mean(str(name), known)}")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which `of` takes."""
        values = {**asdict(replace(self, lr_max="auto")), "budget": str(Budget.parse(self.budget))}
        peaks = self.lr_max
        return {**values, "lr_max": [peaks.start, peaks.stop] if isinstance(peaks, slice) else peaks}


def spread_of(given: Any) -> float:
    """A ratio of peaks as a number; of "auto" that which is taken without pilots.

    Raises:
        ConfigError: neither a number of at least 1 nor "auto".
    """
    if given == "auto":
        return SPREAD
    return number("spread", given, least=1, what="the last layer group's peak over the first's, or \"auto\"")


def fine_tuning(
    budget: Any, freeze_epochs: float = 1.0, method: str = "auto", lr_max: Any = "auto", policy: str = "one_cycle", *,
    cached: bool = False,
) -> tuple[Stage, ...]:  # fmt: skip
    """The stages of fine-tuning: the head for `freeze_epochs`, then by `method`, whose last stage has the `budget`.

    "head" trains nothing else; "discriminative" trains all at rates that fall towards the input by `SPREAD`, "full" at
    one rate. "auto" is one of these by pilots, and goes back to where the head ended if that is no better. Where
    features are `cached`, the head is trained for `EPOCHS` epochs of them for each one asked for.

    >>> [(stage.name, stage.budget, stage.spread) for stage in fine_tuning("5 epochs")]
    [('head', '1 epochs', 1.0), ('all', '5 epochs', 'auto')]

    Raises:
        ConfigError: a value that cannot be used.
    """
    one_of("method", method, METHODS)
    number("freeze_epochs", freeze_epochs, least=0, what="the epochs of the head alone")
    if method == HEAD:
        whole = Budget.parse(budget)
        longer = Budget(epochs=EPOCHS * whole.epochs) if cached and whole.epochs else whole
        return (Stage(longer, HEAD, lr_max, policy=policy),)
    spread = 1.0 if isinstance(lr_max, slice | list | tuple) else SPREADS.get(method, "auto")
    epochs = freeze_epochs * (EPOCHS if cached else 1)
    first = [Stage(f"{epochs:g} epochs", HEAD)] if freeze_epochs else []
    return (*first, Stage(budget, ALL, lr_max, spread, policy))

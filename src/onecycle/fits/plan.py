"""What a fit is to do: its budget, the policy that fills it, and the peak of that, where it is not left to pilots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from ..checks import one_of, share
from ..errors import CheckpointError, ConfigError
from ..optim.build import RECIPES, TYPICAL
from ..optim.layers import split_by_layer
from ..range_test.api import kind_of
from ..records.files import RUN
from ..schedules.budget import Budget
from ..schedules.policy import Policy, layer_factors
from ..schedules.presets import PRESETS, preset
from ..schedules.stages import SPREADS, spread_of
from ..search.api import Search, peak_recorded
from ..training.loop import resolve

NO_DEFAULT = "give lr_max: an optimizer of your own has no default peak here"

AsPolicy = str | Policy | Callable[[int | None], Policy]
"""The name of a preset, a policy, or a function from the number of updates to one."""


Shape = Callable[[float, int | None], Policy]
"""From a peak and a number of updates to the policy of a run."""


@dataclass(frozen=True)
class Rates:
    """What there is to know of an optimizer's learning rates before a fit.

    Args:
        optimizer: whose they are.
        layers: makes its layer groups, the input's first.
        default: its default peak; None for an optimizer of somebody's own.
        middle: the peak that pilots are about: the default, or the rate that one of somebody's own begins with.
    """

    optimizer: Optimizer
    layers: Callable[[], Sequence[Sequence[nn.Parameter]]]
    default: float | None
    middle: float

    @classmethod
    def of(
        cls, optimizer: Optimizer, layers: Callable[[], Sequence[Sequence[nn.Parameter]]], asked: Any,
        samples: int | None,
    ) -> Self:  # fmt: skip
        """Those of an optimizer as it is built, which was `asked` for by name or otherwise.

        `samples` are those of an update, None where that is not known.
        """
        default = RECIPES[asked].peak(samples) if isinstance(asked, str) else None
        first = max(float(group["lr"]) for group in optimizer.param_groups)
        return cls(optimizer, layers, default, default or first or TYPICAL[kind_of(optimizer)].lr_max)

    def scaled(self, factor: float) -> Self:
        """The same, where the default peak is to be so many times that."""
        if self.default is None:
            return self
        return replace(self, default=self.default * factor, middle=self.middle * factor)


@dataclass(frozen=True)
class Plan:
    """What a fit is to do.

    Args:
        whole: the budget, that of pilots included.
        per_epoch: the updates of an epoch; None where they are not known.
        shape: from a peak and a number of updates to the policy.
        rates: of the optimizer.
        peak: None where pilots are to find it; NaN for a policy that has its own.
        spent: updates of the budget that pilots took.
        others: the shapes of other methods of fine-tuning, by their names, for pilots to try.
        method: the one of them that it is by; None for `shape`.
    """

    whole: Budget
    per_epoch: int | None
    shape: Shape
    rates: Rates
    peak: float | None
    spent: int = 0
    others: Mapping[str, Shape] = field(default_factory=dict)
    method: str | None = None

    @property
    def budget(self) -> Budget:
        """What pilots left of the budget."""
        return self.whole.without(self.spent, self.per_epoch)

    @property
    def updates(self) -> int | None:
        """The updates of that; None under a time budget."""
        return self.budget.total_updates(self.per_epoch)

    @cached_property
    def policy(self) -> Policy:
        """The policy, as it would be at the middle of the rates as long as the peak is not known."""
        shape = self.shape if self.method is None else self.others[self.method]
        return shape(self.rates.middle if self.peak is None else self.peak, self.updates)

    def after(self, search: Search) -> Plan:
        """The plan with the peak that a search found, and without the updates that it took.

        Raises:
            ConfigError: no pilot was made, and the optimizer has no default.
        """
        if not search.pilots and self.rates.default is None:
            raise ConfigError(f"{NO_DEFAULT}, and {search.reason}")
        return replace(self, peak=search.lr_max, spent=search.updates, method=search.method)

    def resolved(self) -> dict[str, Any]:
        """What is recorded of it, as plain data: nothing as long as the peak is not known."""
        return {} if self.peak is None else come_to(self.policy, self.updates)


def planned(
    whole: Budget, policy: AsPolicy, lr_max: Any, rates: Rates, per_epoch: int | None, *, options: Mapping[str, Any],
    layers: tuple[float, ...] = (), spread: float | str = 1.0, search: float, resumed: Path | None = None,
) -> Plan:  # fmt: skip
    """Plan a fit from the arguments of `Learner.fit`; `layers` are the factors of layer groups that it goes on with.

    Raises:
        ConfigError: a policy, a peak or a share that cannot be used.
        CheckpointError: the folder of the run that is `resumed` holds none.
    """
    ratio, others = spread_of(spread), dict[str, Shape]()
    if ratio != 1:
        if isinstance(lr_max, slice) or not isinstance(policy, str):
            raise ConfigError(f"spread={spread} is for one peak of a preset, which lr_max is not here: leave it out")
        *before, last = ([p.requires_grad for p in layer] for layer in rates.layers())
        groups = len(before) + 1
        layers = _rising(ratio, groups)
        if spread == "auto" and any(map(any, before)) and any(last):
            of = {name: _rising(one, groups) for name, one in SPREADS.items() if one != ratio}
            others = {name: _shape(policy, lr_max, options, rates, factors) for name, factors in of.items()}
    shape = _shape(policy, lr_max, options, rates, layers)
    peak, spent, method = _known_peak(policy, lr_max, rates, search, resumed)
    if method is not None and method not in others:
        raise CheckpointError(
            f'the run in {resumed} is trained by "{method}", which pilots chose: resume it as it was begun, with '
            'spread="auto" (fine_tune="auto") and the same layers frozen'
        )
    return Plan(whole, per_epoch, shape, rates, peak, spent, others, method)


def _rising(ratio: float, groups: int) -> tuple[float, ...]:
    """The factors of layer groups whose last is so many times the first; infinitely many: the last alone."""
    if math.isinf(ratio):
        return (0.0,) * (groups - 1) + (1.0,)
    return layer_factors(slice(1 / ratio, 1.0), groups)[1]


def _shape(policy: AsPolicy, lr_max: Any, options: Mapping[str, Any], rates: Rates, layers: tuple[float, ...]) -> Shape:
    """From a peak and a number of updates to the policy of a run; one of your own has its peak."""
    if not isinstance(policy, str):
        if lr_max != "auto" or options:
            asked = {"lr_max": lr_max, **options}
            given = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value != "auto")
            raise ConfigError(f"a policy of your own has its peak and its shape: leave out {given}")
        return lambda peak, updates: resolve(policy, updates)
    one_of("preset", policy, PRESETS)
    if isinstance(lr_max, slice):
        _, layers = layer_factors(lr_max, len(rates.layers()))
    if layers:
        split_by_layer(rates.optimizer, rates.layers(), layers)

    def shape(peak: float, updates: int | None) -> Policy:
        made = preset(policy, peak, updates, **options)
        return replace(made, layers=layers) if layers else made

    return shape


def _known_peak(
    policy: AsPolicy, lr_max: Any, rates: Rates, search: float, resumed: Path | None
) -> tuple[float | None, int, str | None]:
    """The peak as a number, None where it is to be searched, the updates of the budget that it took, and the method."""
    share("search", search, of="the budget")
    if not isinstance(policy, str):
        return math.nan, 0, None
    if isinstance(lr_max, slice):
        return layer_factors(lr_max, len(rates.layers()))[0], 0, None
    if lr_max in ("auto", "default") and resumed is not None:
        return peak_recorded(RUN.read(resumed)["resolved"])
    if lr_max == "auto" and search > 0:
        return None, 0, None
    if lr_max in ("auto", "default"):
        if rates.default is None:
            raise ConfigError(NO_DEFAULT)
        return rates.default, 0, None
    if isinstance(lr_max, str) or lr_max is None:
        raise ConfigError(f'lr_max is a number, a slice, "auto" or "default"; received {lr_max!r}')
    return lr_max, 0, None


def come_to(policy: Policy, updates: int | None) -> dict[str, Any]:
    """What a policy comes to in so many updates, as plain data: of a part that is a function there is none."""
    schedule = {name: part for name, part in policy.to_dict().items() if not isinstance(part, str)}
    return {"lr_max": policy.peak, "updates": updates, "schedule": schedule}

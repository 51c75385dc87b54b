"""A policy says what each hyper-parameter of the optimizer is at each moment of a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim import Optimizer

from .errors import CheckpointError, ConfigError
from .schedules import Piecewise, Schedule, constant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Policy:
    """A schedule for each scheduled hyper-parameter: ``{"lr": schedule, "momentum": schedule, ...}``.

    A name is a key of the optimizer's parameter groups (``lr``, ``weight_decay``, ...). ``momentum`` means the key
    of that name or, where the groups have ``betas``, their first element; the others stay as they are. A number stands
    for a constant. What is not named is left alone.

    A group's value is the scheduled one times the group's ratio, ``group["lr_ratio"]`` and so on: `bind` derives the
    ratios from the values that the groups have, the largest being 1. So discriminative learning rates keep their
    proportions, groups without weight decay stay without, and so does an optimizer without momentum. A group added
    later takes part in full, unless it comes with a ratio, or without weight decay or momentum of its own.

    >>> policy = Policy({"lr": Piecewise(((0, 0.1), (1, 0))), "momentum": 0.9})
    >>> policy(0.5)
    {'lr': 0.05, 'momentum': 0.9}

    Raises:
        ConfigError: no ``lr``, or a schedule that is neither a number nor callable.
    """

    schedules: Mapping[str, Schedule]

    def __post_init__(self) -> None:
        if not isinstance(self.schedules, Mapping) or "lr" not in self.schedules:
            raise ConfigError(f'a policy names at least "lr", as in Policy({{"lr": 0.1}}); received {self.schedules!r}')
        checked = {name: _as_schedule(name, value) for name, value in self.schedules.items()}
        object.__setattr__(self, "schedules", checked)

    def __call__(self, progress: float) -> dict[str, float]:
        """The value of each hyper-parameter at `progress`, 0 at the first update and 1 at the last."""
        return {name: schedule(progress) for name, schedule in self.schedules.items()}

    def with_(self, **schedules: Schedule | float) -> Policy:
        """The same policy with some schedules replaced or added.

        >>> Policy({"lr": 0.1}).with_(weight_decay=1e-4)(0)
        {'lr': 0.1, 'weight_decay': 0.0001}
        """
        return Policy({**self.schedules, **schedules})  # type: ignore[arg-type]

    def bind(self, optimizer: Optimizer) -> None:
        """Give the groups their ratios, once: groups that have one keep it.

        Raises:
            ConfigError: a name that no group has.
        """
        for name in self.schedules:
            _unshare(optimizer, name)
            _bind(optimizer, name)

    def write(self, optimizer: Optimizer, progress: float) -> dict[str, float]:
        """Write the values at `progress` into every parameter group, in place where they are tensors; return them."""
        values = self(progress)
        for group in optimizer.param_groups:
            for name, value in values.items():
                if name + "_ratio" not in group:
                    self.bind(optimizer)
                _write(group, name, value * group[name + "_ratio"])
        return values

    def attach(self, optimizer: Optimizer, updates: int) -> Driver:
        """Let the policy drive `optimizer` in a loop of your own: see `Driver`."""
        return Driver(self, optimizer, updates)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a configuration file; `from_dict` is its inverse where every schedule is a `Piecewise`."""
        return {name: s.to_dict() if isinstance(s, Piecewise) else repr(s) for name, s in self.schedules.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """From ``{"lr": {"points": [[0, 0.1], [1, 0]], "easing": "cosine"}, "momentum": 0.9}``."""
        return cls({k: Piecewise.from_dict(v) if isinstance(v, Mapping) else v for k, v in data.items()})

    def plot(self, updates: int = 1000, *, updates_per_epoch: int | None = None, title: str | None = None) -> Figure:
        """Draw learning rate, momentum and the rest against updates, and epochs where `updates_per_epoch` is given."""
        from .report.figures import policy_figure

        rows = [self(position(k, updates)) for k in range(updates)]
        return policy_figure(rows, updates_per_epoch=updates_per_epoch, title=title)


def position(step: int, updates: int) -> float:
    """Progress of update `step` (from 0) of `updates`: ``step / (updates - 1)``, so that both ends are met.

    >>> position(0, 11), position(10, 11), position(0, 1)
    (0.0, 1.0, 0.0)
    """
    return step / (updates - 1) if updates > 1 else 0.0


class Driver:
    """A policy at work on an optimizer, in anyone's loop: each `optimizer.step()` uses the values of its position.

    The position is the number of updates applied. It is counted by the optimizer's own hooks: a step that
    `torch.amp.GradScaler` skips, or a batch that only accumulates gradients, does not move it. Past the end the
    values stay at the last ones, with one warning. Only the position is state, so that a restored run goes on
    exactly, whatever is loaded first.

    >>> parameter = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([parameter], lr=1.0)
    >>> driver = Policy({"lr": Piecewise(((0, 0.5), (1, 0.0)))}).attach(optimizer, updates=3)
    >>> for _ in range(3):
    ...     parameter.sum().backward()
    ...     optimizer.step()
    ...     print(driver.position, optimizer.param_groups[0]["lr"])
    1 0.5
    2 0.25
    3 0.0

    Raises:
        ConfigError: fewer than one update, or a policy already attached to this optimizer.
    """

    def __init__(self, policy: Policy, optimizer: Optimizer, updates: int):
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
            raise ConfigError(f"updates is the number of updates of the whole run, at least 1; received {updates!r}")
        if getattr(optimizer, "_onecycle_driver", None) is not None:
            raise ConfigError("this optimizer already has a policy attached: call driver.detach() on the old one first")
        self.policy, self.optimizer, self.updates = policy, optimizer, updates
        self.position = 0
        self._warned = False
        policy.bind(optimizer)
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )
        optimizer._onecycle_driver = self  # type: ignore[attr-defined]

    @property
    def values(self) -> dict[str, float]:
        """The values that the next update will use."""
        return self.policy(self._progress())

    def _progress(self) -> float:
        return position(min(self.position, self.updates - 1), self.updates)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.position >= self.updates and not self._warned:
            self._warned = True
            warnings.warn(
                f"update {self.position + 1} of a policy over {self.updates}: the values stay at their last "
                f"({self.values}). Attach the policy with the true number of updates to use all of it.",
                stacklevel=3,
            )
        self.policy.write(optimizer, self._progress())

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.position += stepped(optimizer)

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        for hook in self._hooks:
            hook.remove()
        self.optimizer._onecycle_driver = None  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, int]:
        """``{"position": updates applied}``: all there is to save."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: not what `state_dict` returns.
        """
        applied = state.get("position") if isinstance(state, Mapping) else None
        if isinstance(applied, bool) or not isinstance(applied, int) or applied < 0:
            raise CheckpointError(f'a policy at work is saved as {{"position": updates applied}}; received {state!r}')
        self.position = applied


def stepped(optimizer: Optimizer) -> bool:
    """Whether the step that is just over changed anything: for a hook after `optimizer.step()`.

    A fused optimizer is handed GradScaler's verdict and skips inside its own step.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is None or not bool(found_inf)


def _as_schedule(name: str, value: Any) -> Schedule:
    if callable(value):
        return cast(Schedule, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return constant(value)
    raise ConfigError(f"the schedule of {name} is a number, a Piecewise or a function of progress; received {value!r}")


def _read(group: dict[str, Any], name: str) -> Any:
    if name == "momentum" and name not in group and "betas" in group:
        return group["betas"][0]
    return group.get(name)


def _bind(optimizer: Optimizer, name: str) -> None:
    groups, key = optimizer.param_groups, name + "_ratio"
    if name != "momentum" and all(_read(group, name) is None for group in groups):
        raise ConfigError(f"no parameter group has {name!r}; they have {sorted(set(groups[0]) - {'params'})}")
    new = [group for group in groups if key not in group]
    numbers = [float(_read(group, name) or 0.0) for group in new]
    largest = max(numbers, default=0.0)
    for group, number in zip(new, numbers, strict=True):
        if len(new) < len(groups):
            # The others are somewhere on their schedule, so there is nothing to compare with.
            group[key] = float(name == "lr" or number > 0)
        else:
            group[key] = number / largest if largest > 0 else float(name != "momentum")


def _unshare(optimizer: Optimizer, name: str) -> None:
    """A tensor for each group, where torch gives one to all: written in place, it could hold one value only."""
    seen: set[int] = set()
    for group in optimizer.param_groups:
        value = group.get(name)
        if isinstance(value, torch.Tensor):
            if id(value) in seen:
                group[name] = value.clone()
            seen.add(id(value))


def _write(group: dict[str, Any], name: str, value: float) -> None:
    if name == "momentum" and name not in group:
        if "betas" in group:
            group["betas"] = _with_first(group["betas"], value)
        return
    if isinstance(group.get(name), torch.Tensor):
        group[name].fill_(value)
    elif name in group:
        group[name] = value


def _with_first(betas: Any, value: float) -> Any:
    if isinstance(betas[0], torch.Tensor):
        betas[0].fill_(value)
        return betas
    return (value, *betas[1:])

"""A policy over a time, for trainers that take a scheduler of torch."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer

from ..checks import is_number, number
from ..errors import CheckpointError, ConfigError, warn
from ..optim.driver import attach, attached, inner, release
from ..optim.groups import bind, write
from ..schedules.policy import Policy
from ..text import duration


class TimedScheduler:
    """A policy over a time budget, in place of a scheduler of torch: each update uses the values of the time passed.

    The time begins when it is made; evaluations and checkpoints are in it. Past its end the values stay. The state is
    the seconds that have passed, and the budget. A copy, or what is read from a pickle, goes on at the time that had
    passed.

    Args:
        optimizer: any of torch, with no other policy attached to it.
        policy: a schedule for each name, such as ``onecycle.one_cycle(0.1)``.
        seconds: the budget.

    >>> import torch
    >>> from onecycle import one_cycle
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = TimedScheduler(optimizer, one_cycle(0.1), seconds=0.001)
    >>> while scheduler.share < 1: pass
    >>> optimizer.step()
    >>> scheduler.get_last_lr()
    [0.0001]

    Raises:
        ConfigError: no optimizer, no policy, no time above 0, another policy attached to this optimizer, or a name that
            no group has.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, seconds: float):
        if not isinstance(policy, Policy):
            raise ConfigError(f"policy is a Policy, such as onecycle.one_cycle(0.1); received {policy!r}")
        self.budget = number("seconds", seconds, above=0, what="the time of the whole run", example="1800")
        self.optimizer, self.policy = inner(optimizer), policy
        attach(self.optimizer, self)
        self._before, self._started, self._at_work = 0.0, time.monotonic(), True
        self._to_say: str | None = None
        try:
            bind(policy, self.optimizer)
        except ConfigError:
            release(self.optimizer, self)
            raise
        self._hook()
        self._write()

    def _hook(self) -> None:
        """Write before each update; the optimizer does not keep the scheduler alive."""
        self._hooked = self.optimizer.register_step_pre_hook(partial(_before, weakref.ref(self)))

    def _write(self) -> None:
        if self._at_work:
            write(self.policy, self.optimizer, min(1.0, self.share))

    @property
    def seconds(self) -> float:
        """The time that has passed, before a resume too."""
        return self._before + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Of the budget, the part that has passed; above 1 past its end."""
        return self.seconds / self.budget

    @property
    def finished(self) -> bool:
        """Whether the time is over."""
        return self.share >= 1

    def step(self) -> None:
        """Do nothing, but for saying once that a resumed run has another time: time passes by itself."""
        if self._to_say is not None:  # a Trainer catches what is said while it loads
            warn(self._to_say)
            self._to_say = None

    def get_last_lr(self) -> list[float]:
        """The learning rates that the last update used."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        self._hooked.remove()
        self._at_work = False
        release(self.optimizer, self)

    def state_dict(self) -> dict[str, float]:
        """``{"seconds": those that have passed, "budget": those of the whole run}``."""
        return {"seconds": self.seconds, "budget": self.budget}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go on from the seconds that had passed, at their share of this budget; that it was another is said.

        Raises:
            CheckpointError: not what `state_dict` returns.
        """
        known: Mapping[str, Any] = state_dict if isinstance(state_dict, Mapping) else {}
        passed, budget = known.get("seconds", ""), known.get("budget", self.budget)
        if "position" in known:
            raise CheckpointError(
                f"the state is of a policy over updates, at update {known['position']} of {known.get('total', '?')}, "
                f"and this one is over a time, {duration(self.budget)}: go on without a budget, or begin one without "
                "this state"
            )
        if not is_number(passed) or float(passed) < 0 or not is_number(budget):
            raise CheckpointError(
                'a policy over a time is saved as {"seconds": 90.0, "budget": 600.0}, and nothing else can be gone on '
                f"from: begin without it. Received {state_dict!r}"
            )
        self._before, self._started = float(passed), time.monotonic()
        if budget != self.budget:
            self._to_say = (
                f"the checkpoint was made after {duration(self._before)} of {duration(budget)}, and this training has "
                f"{duration(self.budget)} in all: the policy goes on at the share of that, and its values jump"
            )

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key not in ("_hooked", "_started")}
        return {**kept, "_before": self.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _started=time.monotonic())
        if self._at_work and attached(self.optimizer) is None:
            attach(self.optimizer, self)
        self._at_work = attached(self.optimizer) is self
        self._hook()


def _before(scheduler: weakref.ref[TimedScheduler], optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if (me := scheduler()) is not None:
        me._write()

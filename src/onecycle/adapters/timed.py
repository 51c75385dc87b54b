"""A policy over a time, for trainers that take a scheduler of torch."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch.optim import Optimizer

from ..checks import is_number
from ..errors import CheckpointError, ConfigError
from ..optim.driver import attach, release
from ..optim.groups import bind, write
from ..schedules.policy import Policy


class TimedScheduler:
    """A policy over a time budget, in place of a scheduler of torch: each update uses the values of the time passed.

    The time begins when it is made; evaluations and checkpoints are in it. Past its end the values stay. The state is
    the seconds that have passed.

    >>> import torch
    >>> from onecycle import one_cycle
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = TimedScheduler(optimizer, one_cycle(0.1), seconds=0.001)
    >>> while scheduler.share < 1: pass
    >>> optimizer.step()
    >>> scheduler.get_last_lr()
    [0.0001]

    Raises:
        ConfigError: another policy attached to this optimizer, or a name that no group has.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, seconds: float):
        attach(optimizer, self)
        self.optimizer, self.policy, self.budget = optimizer, policy, seconds
        self._before, self._started = 0.0, time.monotonic()
        try:
            bind(policy, optimizer)
        except ConfigError:
            release(optimizer, self)
            raise
        self._hook = optimizer.register_step_pre_hook(lambda *_: self._write())
        self._write()

    def _write(self) -> None:
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
        """Do nothing: time passes by itself."""

    def get_last_lr(self) -> list[float]:
        """The learning rates that the last update used."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        self._hook.remove()
        release(self.optimizer, self)

    def state_dict(self) -> dict[str, float]:
        """``{"seconds": those that have passed}``."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go on from the seconds that had passed.

        Raises:
            CheckpointError: not what `state_dict` returns.
        """
        passed = state_dict.get("seconds")
        if passed is None or not is_number(passed):
            raise CheckpointError(f'a policy over a time is saved as {{"seconds": ...}}; received {dict(state_dict)!r}')
        self._before, self._started = float(passed), time.monotonic()

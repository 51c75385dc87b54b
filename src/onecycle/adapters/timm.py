"""A policy as a scheduler of timm's training loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from ..checks import unless_none, whole
from ..errors import ConfigError
from ..optim.driver import attach, release
from ..optim.groups import bind, write
from ..schedules.policy import WHOLE_RUN, Policy, progress_after
from .common import host, saved_position

scheduler = host("timm.scheduler.scheduler", "timm", "0.9")


class PolicyUpdateScheduler(scheduler.Scheduler):
    """Any policy where timm's train.py has its ``lr_scheduler``: by updates, with momentum and the rest.

    ``step_update(num_updates)`` writes the values that the next update uses: after n updates those of position n.
    ``step(epoch)``, at the end of each epoch, does nothing, unless `updates_per_epoch` says what an epoch is. Past the
    end the values stay. timm's ``lr_scale`` of a parameter group (layer decay) is part of its share.

    Args:
        optimizer: its groups keep their proportions, see `onecycle.optim.groups.bind`.
        policy: such as ``onecycle.one_cycle(0.1)``.
        updates: of the whole run: epochs times updates in each.
        updates_per_epoch: for a loop that resumes by ``step(start_epoch)`` alone.

    Raises:
        ConfigError: no number of updates, or another policy attached to this optimizer.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, updates: int, updates_per_epoch: int | None = None):
        whole("updates", updates, what=WHOLE_RUN)
        unless_none(whole, "updates_per_epoch", updates_per_epoch)
        self.policy, self.updates, self.updates_per_epoch, self.position = policy, updates, updates_per_epoch, 0
        attach(optimizer, self)
        try:
            super().__init__(optimizer, "lr", t_in_epochs=False)
            _share(policy, optimizer, self.base_values)
        except ConfigError:
            release(optimizer, self)
            raise
        self.step_update(0)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Write the values that the next update uses, after `num_updates`."""
        self.position = whole("num_updates", num_updates, least=0)
        write(self.policy, self.optimizer, progress_after(self.position, self.updates))

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Write the values that epoch `epoch` begins with, where an epoch has a known number of updates."""
        if self.updates_per_epoch is not None:
            self.step_update(epoch * self.updates_per_epoch)

    def _get_lr(self, t: int) -> list[float]:
        progress = progress_after(t, self.updates)
        return [self.policy(progress)["lr"] * group["lr_ratio"] for group in self.optimizer.param_groups]

    @property
    def finished(self) -> bool:
        """Whether all updates are applied."""
        return self.position >= self.updates

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        release(self.optimizer, self)

    def state_dict(self) -> dict[str, Any]:
        """``{"position": updates applied}``: all there is to save."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: not what `state_dict` returns.
        """
        self.step_update(saved_position(state_dict, "a scheduler"))


def _share(policy: Policy, optimizer: Optimizer, base: Sequence[Any]) -> None:
    """The groups' shares: their proportions times timm's own scale. Groups of a loaded optimizer have theirs."""
    new = [
        (group, float(lr)) for group, lr in zip(optimizer.param_groups, base, strict=True) if "lr_ratio" not in group
    ]
    bind(policy, optimizer)
    for group, lr in new:
        group["lr_ratio"] = lr / float(max(base)) * group.get("lr_scale", 1.0)

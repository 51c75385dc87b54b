"""A policy at work on an optimizer, in anyone's loop."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from torch.optim import Optimizer

from ..checks import is_whole, whole
from ..errors import CheckpointError, ConfigError
from ..schedules.policy import Policy, position
from .groups import bind, write


class Driver:
    """A policy at work on an optimizer, in anyone's loop: each `optimizer.step()` uses the values of its position.

    The position is the number of updates applied. It is counted by the optimizer's own hooks: a step that
    `torch.amp.GradScaler` skips, or a batch that only accumulates gradients, does not move it. Past the end the
    values stay at the last ones, with one warning. Only the position is state, so that a restored run goes on
    exactly, whatever is loaded first.

    >>> import torch
    >>> from onecycle import Piecewise, Policy
    >>> parameter = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([parameter], lr=1.0)
    >>> driver = Driver(Policy({"lr": Piecewise(((0, 0.5), (1, 0.0)))}), optimizer, updates=3)
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
        whole("updates", updates, what="the number of updates of the whole run")
        attach(optimizer, self)
        self.policy, self.optimizer, self.updates = policy, optimizer, updates
        self.position = 0
        self._warned = False
        try:
            bind(policy, optimizer)
        except ConfigError:
            release(optimizer, self)
            raise
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

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
        write(self.policy, optimizer, self._progress())

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.position += stepped(optimizer)

    @property
    def finished(self) -> bool:
        """Whether all updates are applied."""
        return self.position >= self.updates

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        for hook in self._hooks:
            hook.remove()
        release(self.optimizer, self)

    def state_dict(self) -> dict[str, int]:
        """``{"position": updates applied}``: all there is to save."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: not what `state_dict` returns.
        """
        applied = state.get("position") if isinstance(state, Mapping) else None
        if applied is None or not is_whole(applied, 0):
            raise CheckpointError(f'a policy at work is saved as {{"position": updates applied}}; received {state!r}')
        self.position = applied


class Attached(Protocol):
    """What writes a policy's values into an optimizer, until it is detached."""

    @property
    def finished(self) -> bool:
        """Whether it is past its last update."""
        ...

    def detach(self) -> None:
        """Let go of the optimizer."""
        ...


# What drives each optimizer that is driven; nothing is set on the optimizer itself, and neither is kept alive by this.
_ATTACHED: WeakKeyDictionary[Optimizer, ref[Attached]] = WeakKeyDictionary()


def attach(optimizer: Optimizer, who: Attached) -> None:
    """Note that `who` writes a policy's values into `optimizer`: one alone may. One that has finished is detached.

    Raises:
        ConfigError: another does, and is not at its end.
    """
    if (other := attached(optimizer)) is not None and other is not who:
        if not other.finished:
            raise ConfigError(
                f"this optimizer already has a policy attached, by a {type(other).__name__}, and two would write over "
                "each other: call its detach() first"
            )
        other.detach()
    _ATTACHED[optimizer] = ref(who)


def attached(optimizer: Optimizer) -> Attached | None:
    """What writes a policy's values into `optimizer`, if anything does."""
    known = _ATTACHED.get(optimizer)
    return None if known is None else known()


def release(optimizer: Optimizer, who: Attached) -> None:
    """Note that `who` no longer does; `optimizer` may have another by now."""
    if attached(optimizer) is who:
        del _ATTACHED[optimizer]


def stepped(optimizer: Optimizer) -> bool:
    """Whether the step that is just over changed anything: for a hook after `optimizer.step()`.

    A fused optimizer is handed GradScaler's verdict and skips inside its own step.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is None or not bool(found_inf)

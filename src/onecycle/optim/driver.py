"""A policy at work on an optimizer, in anyone's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from torch import Tensor
from torch.optim import Optimizer

from ..checks import is_number, is_whole, whole
from ..errors import CheckpointError, ConfigError, warn
from ..schedules.policy import WHOLE_RUN, Policy, progress_after
from .groups import bind, keep_scales, scales_of, write


class Driver:
    """A policy at work on an optimizer, in anyone's loop: each `optimizer.step()` uses the values of its position.

    The position is the number of updates applied. It is counted by the optimizer's own hooks: a step that
    `torch.amp.GradScaler` skips, or a batch that only accumulates gradients, does not move it. Past the end the
    values stay at the last ones, with one warning. Only the position is state, so that a restored run goes on
    exactly, whatever is loaded first. (A step without gradients for which all learning rates were set to 0 since the
    last is not one of a training, and is left alone: torch.distributed.checkpoint makes it before it loads an
    optimizer.)

    Of several optimizers, the learning rates keep their proportions over all, the first one's largest being the
    policy's; a second cycle has those of the first, kept in the groups as ``optimizer_ratio``. An update is then a
    step of each; where one of them steps again before another has, that begins the next.

    Args:
        policy: names and their schedules.
        optimizer: the optimizer, or several (as of a GAN, or Muon beside AdamW).
        updates: of the whole run; or a function from the number of updates applied to the progress of the next one,
            0 to 1, such as an elapsed share of time.

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
        ConfigError: fewer than one update, no optimizer, or a policy already attached to one.
    """

    def __init__(
        self, policy: Policy, optimizer: Optimizer | Sequence[Optimizer], updates: int | Callable[[int], float]
    ):
        self.policy = policy
        self.updates = updates if callable(updates) else whole("updates", updates, what=WHOLE_RUN)
        self.optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        if not self.optimizers or not all(isinstance(one, Optimizer) for one in self.optimizers):
            raise ConfigError(f"optimizer is a torch optimizer, or several; received {optimizer!r}")
        self.optimizers = tuple(map(inner, self.optimizers))
        self.position: int = 0
        self._scales = scales_of(self.optimizers)
        self._stepped: set[Optimizer] = set()  # in the update under way
        self._warned = self._left_alone = False
        self._moves = {one: _moves(one) for one in self.optimizers}  # as they were written or loaded last
        try:
            for one in self.optimizers:
                attach(one, self)
                bind(policy, one)
        except ConfigError:
            self._release()
            raise
        keep_scales(self.optimizers, self._scales)
        self._hooks = [one.register_step_pre_hook(self._before) for one in self.optimizers]
        self._hooks += [one.register_step_post_hook(self._after) for one in self.optimizers]
        self._hooks += [one.register_load_state_dict_post_hook(self._loaded) for one in self.optimizers]

    @property
    def optimizer(self) -> Optimizer:
        """The first of the optimizers, whose largest learning rate is the policy's."""
        return self.optimizers[0]

    @property
    def values(self) -> dict[str, float]:
        """The values that the next update will use."""
        return self.policy(self._progress())

    def write(self) -> None:
        """Write the values of the next update into the optimizers: for what looks at them there before it."""
        for optimizer in self.optimizers:
            self._write(optimizer)

    def _write(self, optimizer: Optimizer) -> None:
        values = write(self.policy, optimizer, self._progress(), self._scales[self.optimizers.index(optimizer)])
        self._moves[optimizer] = values["lr"] != 0

    def _progress(self) -> float:
        if isinstance(self.updates, int):
            return progress_after(self.position, self.updates)
        return min(1.0, max(0.0, self.updates(self.position)))

    def _loaded(self, optimizer: Optimizer) -> None:
        self._moves[optimizer] = _moves(optimizer)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        set_to_zero = self._moves[optimizer] and not _moves(optimizer)
        with_closure = any(each is not None for each in (*args[1:], *kwargs.values()))  # which makes the gradients
        self._left_alone = set_to_zero and not with_closure and not _has_gradients(optimizer)
        if self._left_alone:
            return
        if optimizer in self._stepped:
            self._end_update()
        if isinstance(self.updates, int) and self.position >= self.updates and not self._warned:
            self._warned = True
            warn(
                f"update {self.position + 1} of a policy over {self.updates}: the values stay at their last "
                f"({self.values}). Attach the policy with the true number of updates to use all of it."
            )
        self._write(optimizer)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if stepped(optimizer) and not self._left_alone:
            self._stepped.add(optimizer)
        if len(self._stepped) == len(self.optimizers):
            self._end_update()

    def _end_update(self) -> None:
        self.position += 1
        self._stepped.clear()

    @property
    def finished(self) -> bool:
        """Whether all updates are applied, or the progress is at its end."""
        if isinstance(self.updates, int):
            return self.position >= self.updates
        return self._progress() >= 1.0

    def detach(self) -> None:
        """Let go of the optimizers; their values stay as they are."""
        for hook in self._hooks:
            hook.remove()
        self._release()

    def _release(self) -> None:
        for optimizer in self.optimizers:
            release(optimizer, self)

    def state_dict(self) -> dict[str, Any]:
        """``{"position": updates applied}``: all there is to save of one optimizer.

        Of several also ``"scales"``, their shares of the learning rate, and ``"stepped"``, which of them (from 0) have
        stepped in an update that others have yet to end.
        """
        if len(self.optimizers) == 1:
            return {"position": self.position}
        stepped = [i for i, optimizer in enumerate(self.optimizers) if optimizer in self._stepped]
        return {"position": self.position, "scales": list(self._scales), "stepped": stepped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: not what `state_dict` returns, or of another number of optimizers.
        """
        known: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        applied, scales, stepped = known.get("position", ""), known.get("scales", [1.0]), known.get("stepped", [])
        count = len(self.optimizers)
        if (
            not is_whole(applied, 0)
            or not (isinstance(scales, list) and len(scales) == count and all(map(is_number, scales)))
            or not (isinstance(stepped, list) and all(i in range(count) for i in stepped))
        ):
            more = "" if count == 1 else f", scales and what stepped of {count} optimizers"
            what = f'{{"position": updates applied{more}}}'
            raise CheckpointError(f"a policy at work is saved as {what}; received {state!r}")
        self.position, self._scales = int(applied), list(scales)
        keep_scales(self.optimizers, self._scales)
        self._stepped = {self.optimizers[i] for i in stepped}


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


def inner(optimizer: Any) -> Optimizer:
    """The optimizer that makes the updates, inside wrappers such as Accelerate's.

    Raises:
        ConfigError: no optimizer of torch.
    """
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer is an optimizer of torch, such as torch.optim.SGD(...); received {optimizer!r}")
    while "_optimizer_step_post_hooks" not in vars(optimizer) and isinstance(
        within := getattr(optimizer, "optimizer", None), Optimizer
    ):
        optimizer = within
    return optimizer


def _moves(optimizer: Optimizer) -> bool:
    """Whether a learning rate is not 0; what is on another device is not looked at."""
    rates = (group["lr"] for group in optimizer.param_groups)
    return any((isinstance(lr, Tensor) and lr.device.type != "cpu") or lr != 0 for lr in rates)


def _has_gradients(optimizer: Optimizer) -> bool:
    """Whether a gradient is not 0 all over; on several ranks, on any of them."""
    for group in optimizer.param_groups:
        for gradient in (p.grad for p in group["params"] if p.grad is not None):
            if gradient.is_sparse:
                return True
            some: Any = gradient.any()
            if bool(some.full_tensor() if hasattr(some, "full_tensor") else some):
                return True
    return False


def stepped(optimizer: Optimizer) -> bool:
    """Whether the step that is just over changed anything: for a hook after `optimizer.step()`.

    A fused optimizer is handed GradScaler's verdict and skips inside its own step.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is None or not bool(found_inf)

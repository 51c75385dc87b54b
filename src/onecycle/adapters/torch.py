"""A policy as a scheduler of torch, for every trainer that takes one, and torch's OneCycleLR without its traps.

Both are a `torch.optim.lr_scheduler.LRScheduler`, so that Lightning, Accelerate, Transformers and others take them.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checks import is_number, is_whole, whole
from ..errors import CheckpointError, ConfigError
from ..optim.driver import attach, attached, release, stepped
from ..optim.groups import bind, write
from ..schedules.policy import Policy
from ..text import count

# GradScaler halves its scale at each overflow: so many updates that it skips in a row take 2 ** 24 to 1.
SKIPPED_AT_MOST = 24
# Of a run that ends before this share of its schedule, it is said.
ENDED = 0.95


@dataclass(slots=True)
class _Place:
    """Where a scheduler is. It outlives the scheduler, so that an end in the middle of a cycle can be told."""

    total: int
    built: int  # the total that the scheduler was made with
    position: int = 0
    counted: int = 0  # the position without the steps that no update has confirmed yet
    stretched_at: int = 0  # from here on, and this progress, the rest of the curve takes the rest of the updates
    stretched_progress: float = 0.0
    pending: int = 0  # updates since the last step of the scheduler
    updated: bool = False  # whether the optimizer has made an update since the scheduler was made or loaded
    tentative: bool = False  # whether `position` is ahead of `counted`
    sparse: bool = False  # whether it was stepped after several updates
    saved: int | None = None
    told_of_end: bool = False

    def progress(self) -> float:
        if self.position >= self.total:
            return self._progress(self.total - 1)
        return self._progress(max(self.position, 0))

    def _progress(self, position: int) -> float:
        left = self.total - 1 - self.stretched_at
        if left <= 0:
            return self.stretched_progress
        return self.stretched_progress + (position - self.stretched_at) / left * (1 - self.stretched_progress)

    def move_to(self, position: int) -> None:
        self.position = self.counted = position
        self.pending, self.updated, self.tentative = 0, False, False


class PolicyScheduler(LRScheduler):
    """Any policy as a scheduler of torch: `step()` after each update, as with torch's own.

    `position` is the number of updates applied. A `step()` that no update came before does not move it: not after a
    step that `GradScaler` skipped, not between the batches of one update, and not when Accelerate steps several times
    for one. As long as the optimizer has made no update at all, `step()` moves it tentatively, so that a schedule
    can be plotted; the first update goes by the count of updates. Past the end the values stay, with one warning.

    The groups hold the values of the next update at any time, and `get_last_lr` is what they hold. Each gets its
    share of the policy's values, see `onecycle.optim.groups.bind`; a group that is added later takes part. Learning
    rates and betas that are tensors are written in place. The state is numbers alone, and the next update is the same
    in whatever order optimizer and scheduler are made and loaded.

    Args:
        optimizer: any of torch, with no other policy attached to it.
        policy: a schedule for each name, such as ``onecycle.one_cycle(0.1)``.
        total: the updates of the whole run (or the epochs, where `step` is called once an epoch).
        last_epoch: the updates made before, less one, as torch counts them; -1 at the beginning.

    >>> import torch
    >>> from onecycle import Piecewise, Policy
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = PolicyScheduler(optimizer, Policy({"lr": Piecewise(((0, 0.5), (1, 0.0)))}), total=3)
    >>> for _ in range(3):
    ...     print(scheduler.position, scheduler.get_last_lr())
    ...     optimizer.step()
    ...     scheduler.step()
    0 [0.5]
    1 [0.25]
    2 [0.0]

    Raises:
        ConfigError: no optimizer, no policy, fewer than one update, or another policy attached to this optimizer.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, total: int, last_epoch: int = -1):
        if not isinstance(policy, Policy):
            raise ConfigError(f"policy is a Policy, such as onecycle.one_cycle(0.1); received {policy!r}")
        self._start(optimizer, policy, whole("total", total, what="the updates of the whole run"), last_epoch)

    def _start(self, optimizer: Optimizer, policy: Policy, total: int, last_epoch: int) -> None:
        whole("last_epoch", last_epoch, least=-1)
        attach(inner(optimizer), self)
        self.optimizer, self.policy = optimizer, policy
        self._place = _Place(total, total)
        self._caller = _caller()
        try:
            self._bind()
        except ConfigError:
            release(inner(optimizer), self)
            raise
        self._hook()
        self._go(last_epoch + 1)

    # What torch and trainers read

    @property
    def position(self) -> int:
        """The number of updates applied: the next one uses the values at ``position / (total - 1)`` of the curve."""
        return self._place.position

    @property
    def total(self) -> int:
        """The updates of the whole run."""
        return self._place.total

    @property
    def finished(self) -> bool:
        """Whether all updates are applied: another policy may be attached then."""
        return self._place.position + (self._place.pending > 0) >= self._place.total

    @property
    def last_epoch(self) -> int:
        """What torch calls the position."""
        return self._place.position

    @last_epoch.setter
    def last_epoch(self, value: int) -> None:  # SequentialLR takes back the first step of its schedulers
        self._place.position = self._place.counted = value

    @property
    def _step_count(self) -> int:
        return self._place.position + 1

    @_step_count.setter
    def _step_count(self, value: int) -> None:
        """Accelerate counts batches here: they are no updates."""

    @property
    def base_lrs(self) -> list[float | Tensor]:
        """The ``initial_lr`` of each group."""
        return [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    @property
    def _last_lr(self) -> list[float | Tensor]:
        return [_plain(group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rates that the groups hold, which the next update uses; tensors are copies."""
        return self._last_lr

    def get_lr(self) -> list[float | Tensor]:
        """Write the values at `last_epoch` and return the learning rates, for what sets `last_epoch` itself."""
        self._write()
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next update, if there was one; or to update `epoch`, counted from 0."""
        if epoch is not None or self._is_initial:
            self._go(self.last_epoch + 1 if epoch is None else whole("epoch", epoch, least=0))
            return
        place = self._place
        if place.pending and place.position >= place.total and not place.told_of_end:
            place.told_of_end = True
            warnings.warn(_BEYOND.format(place.total), stacklevel=2)
        updates, place.pending = place.pending, 0
        if updates:
            place.updated = True
            place.counted += 1
            place.position = place.counted
            if updates > 1 and not place.sparse:
                place.sparse = True
                warnings.warn(_SPARSE.format(count(updates, "updates"), count(place.total, "steps")), stacklevel=2)
        elif place.updated:
            return
        else:
            place.position, place.tentative = place.position + 1, True
        self._write()

    def _update_lr(self, epoch: int | None = None) -> None:  # SequentialLR calls it where its next one begins
        self.step(epoch)

    def extend(self, total_steps: int) -> None:
        """Stretch the rest of the curve over what remains of `total_steps` in all: it goes on from its present value.

        Raises:
            ConfigError: no number of updates above those applied, or nothing of the curve is left.
        """
        place = self._place
        if place.progress() >= 1 or place.position >= place.total:
            raise ConfigError(
                f"nothing is left to stretch after {place.position} of {place.total} updates: attach "
                'PolicyScheduler(optimizer, onecycle.preset("extension", lr_max), updates) to go on from the end'
            )
        whole("total_steps", total_steps, least=place.position + 1, what="the updates of the whole run")
        place.stretched_progress, place.stretched_at, place.total = place.progress(), place.position, int(total_steps)

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are, and `step` does nothing more."""
        release(inner(self.optimizer), self)
        for hook in self._hooks:
            hook.remove()
        self._told.detach()

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """The position, the total and where the curve was stretched: plain numbers."""
        place = self._place
        # Between an update and its step the next update is one further; not where one step stands for many updates.
        position = place.counted + (place.pending == 1 and not place.sparse)
        place.saved = position
        return {
            "position": position,
            "total": place.total,
            "stretched": [place.stretched_at, place.stretched_progress],
            "built": place.built,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position, of this class or of torch's OneCycleLR.

        The saved total holds, as it may have been extended. Where this scheduler was made with another total than the
        saved one was, the rest of the curve is stretched over that, as by `extend`.

        Raises:
            CheckpointError: no such state, or one beyond this scheduler's total.
        """
        position, total, (at, progress), built = _read(state_dict, self._place.built)
        place = self._place
        if place.built != built and position < total and place.built <= position:
            raise CheckpointError(
                f"the state is at update {position} of {total}, and this scheduler was made for {place.built} in all: "
                "give the number of updates of the whole run, those before included"
            )
        place.total, place.stretched_at, place.stretched_progress = total, at, progress
        self._go(position)
        if place.built != built and place.progress() < 1:
            self.extend(place.built)
        place.saved = position

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_hooks", "_told")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._place.saved = self._place.counted  # a copy that is dropped is no end of a run
        if attached(inner(self.optimizer)) is None:
            attach(inner(self.optimizer), self)
        self._hook()

    # On the optimizer

    def _hook(self) -> None:
        """Count updates; write values again where the optimizer was loaded or has new groups."""
        optimizer = inner(self.optimizer)
        me: Any = weakref.ref(self)
        self._hooks = (
            optimizer.register_step_pre_hook(partial(_before, me)),
            optimizer.register_step_post_hook(partial(_after, me)),
            optimizer.register_load_state_dict_post_hook(partial(_loaded, me)),
        )
        self._told = weakref.finalize(self, _tell, self._place, self._caller, self._hooks)

    @property
    def _at_work(self) -> bool:
        return attached(inner(self.optimizer)) is self

    def _go(self, position: int) -> None:
        self._place.move_to(position)
        self._write()

    def _bind(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", _plain(group["lr"]))
        bind(self.policy, self.optimizer)

    def _write(self) -> None:
        if self._place.position >= 0 and self._at_work:
            self._groups = len(self.optimizer.param_groups)
            write(self.policy, self.optimizer, self._place.progress())


_BEYOND = (
    "stepped past the end of a schedule over {}: the values stay at their last. Give the true number of updates; to go "
    'on from the end attach PolicyScheduler(optimizer, onecycle.preset("extension", lr_max), updates)'
)
_SPARSE = (
    "stepped once after {}: a step of the scheduler stands for one update, so that the schedule over {} goes by that "
    'much more slowly. Call step() after each update (interval="step" in Lightning, step_every="batch" in skorch), '
    "unless the schedule was meant to count epochs"
)


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


# The hooks hold the scheduler weakly, and read nothing that changes from update to update: torch.compile traces them.


def _before(scheduler: weakref.ref[PolicyScheduler], optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if (me := scheduler()) is None:
        return
    if me._place.tentative:
        _take_back(me._place)
        me._write()
    elif me._groups != len(optimizer.param_groups):
        me._write()


def _after(scheduler: weakref.ref[PolicyScheduler], optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if (me := scheduler()) is not None:
        me._place.pending += stepped(optimizer)


def _loaded(scheduler: weakref.ref[PolicyScheduler], optimizer: Optimizer) -> None:
    if (me := scheduler()) is not None:
        me._bind()
        me._write()


def _take_back(place: _Place) -> None:
    """Steps before the first update moved a position that no update confirms."""
    if (ahead := place.position - place.counted) > SKIPPED_AT_MOST:
        warnings.warn(
            f"the scheduler was stepped {ahead} times before the first update, and updates alone move it: it uses "
            f"the values of position {place.counted}. To begin elsewhere give last_epoch, or load a state",
            stacklevel=4,
        )
    place.position, place.tentative = place.counted, False


def _tell(place: _Place, caller: tuple[str, int], hooks: tuple[Any, ...]) -> None:
    """What is done when a scheduler ends: its hooks go, and an end in the middle of its cycle is said."""
    for hook in hooks:
        hook.remove()
    position = place.counted + (place.pending > 0)
    made = place.updated or place.pending
    if made and position < ENDED * place.total and place.saved != position and not hasattr(sys, "last_value"):
        warnings.warn_explicit(
            f"training ended at {position} of {place.total} steps of its schedule, at values that it was not to end "
            "with. Give the true number of updates, or save the scheduler's state to go on",
            UserWarning,
            *caller,
        )


def _caller() -> tuple[str, int]:
    """The line outside of this module that makes a scheduler."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _read(state: Any, built: int) -> tuple[int, int, tuple[int, float], int]:
    """Position, total, where it was stretched, and the total that it was made with."""
    if isinstance(state, Mapping) and "last_epoch" in state and "position" not in state:  # torch's own
        total = state.get("total_steps", built)
        state = {"position": state["last_epoch"], "total": total, "stretched": [0, 0.0], "built": total}
    try:
        position, total, (at, progress), built = (state[key] for key in ("position", "total", "stretched", "built"))
        if is_whole(position, 0) and is_whole(total) and is_whole(at, 0) and is_number(progress) and is_whole(built):
            return position, total, (at, progress), built
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(
        'a scheduler is saved as {"position": 5, "total": 10, "stretched": [0, 0.0], "built": 10}, or as torch\'s own '
        f"OneCycleLR is; received {state!r}"
    )


def _plain(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value

"""A policy as a scheduler of torch, for every trainer that takes one, and torch's OneCycleLR without its traps.

Both are a `torch.optim.lr_scheduler.LRScheduler`, so that Lightning, Accelerate, Transformers and others take them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checks import flag, number, one_of, share, whole
from ..errors import ConfigError, users_frame, warn
from ..optim.driver import attach, attached, inner, release
from ..optim.groups import bind, write
from ..schedules import presets
from ..schedules.policy import WHOLE_RUN, Policy
from ..text import count
from .place import ONWARDS, Place, of_torch


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

    _onwards = ONWARDS  # how to train on from the end, said where nothing is left to stretch
    _others: Sequence[tuple[Policy, Sequence[int]]] = ()  # policies of some groups, by number, and which these are

    def __init__(self, optimizer: Optimizer, policy: Policy, total: int, last_epoch: int = -1):
        if not isinstance(policy, Policy):
            raise ConfigError(f"policy is a Policy, such as onecycle.one_cycle(0.1); received {policy!r}")
        self._start(optimizer, policy, whole("total", total, what=WHOLE_RUN), last_epoch)

    def _start(self, optimizer: Optimizer, policy: Policy, total: int, last_epoch: int) -> None:
        whole("last_epoch", last_epoch, least=-1)
        attach(inner(optimizer), self)
        self._at_work = True
        self.optimizer, self.policy = optimizer, policy
        self._place = Place(total, total, onwards=self._onwards)
        frame = users_frame()
        self._caller = frame.f_code.co_filename, frame.f_lineno
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
        elif (progress := self._place.step()) is not None:
            self._write_at(progress)

    def _update_lr(self, epoch: int | None = None) -> None:  # SequentialLR calls it where its next one begins
        self.step(epoch)

    def extend(self, total_steps: int) -> None:
        """Stretch the rest of the curve over what remains of `total_steps` in all: it goes on from its present value.

        Raises:
            ConfigError: no number of updates above those applied, or nothing of the curve is left.
        """
        self._place.extend(total_steps)

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are, and `step` does nothing more."""
        release(inner(self.optimizer), self)
        self._at_work = False
        for hook in self._hooks:
            hook.remove()
        self._told.detach()

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """The position, the total and where the curve was stretched: plain numbers."""
        self._look()
        state = self._place.save()
        return state if self._place.handed_over is None else {**state, "handed_over": self._held()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position, of this class or of torch's OneCycleLR.

        The saved total holds, as it may have been extended. Where this scheduler was made with another total than the
        saved one was, the rest of the curve is stretched over that, as by `extend`. Of torch's OneCycleLR its position
        is taken; that its learning rates were others there than they are here is said.

        Raises:
            CheckpointError: no such state, or one beyond this scheduler's total.
            ConfigError: this scheduler was detached; or it was made for more updates than the state, and nothing of
                the curve is left to stretch over them.
        """
        if not self._at_work:
            raise ConfigError(
                "this scheduler was detached from its optimizer: make a new one, and load the state there"
            )
        self._place.load(state_dict)
        self._write()
        if "handed_over" in state_dict:
            self._leave(state_dict["handed_over"])
        if of_torch(state_dict) and 0 <= self.position < self.total == state_dict["total_steps"]:
            self._compare(state_dict.get("_last_lr") or [])

    def _compare(self, rates: Sequence[float | Tensor]) -> None:
        """Say where torch's OneCycleLR had other learning rates at this position."""
        before, here = [float(rate) for rate in rates], self._rates()
        if len(before) == len(here) and not all(map(_near, before, here)):
            warn(
                f"the state is of a OneCycleLR of torch that was at {before}, and this schedule is at {here} there, "
                f"after {self.position} of {self.total} updates: give it the same arguments for the same curve"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_hooks", "_told")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Where it is dropped, that is no end of a run.
        self._place = replace(self._place, saved=self._place.counted)
        if self._at_work and attached(inner(self.optimizer)) is None:
            attach(inner(self.optimizer), self)
        self._at_work = attached(inner(self.optimizer)) is self
        self._hook()

    # On the optimizer

    def _hook(self) -> None:
        """Count updates; write values again where the optimizer was loaded or has new groups."""
        optimizer, place = inner(self.optimizer), self._place
        me: Any = weakref.ref(self)

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if place.tentative or place.groups != len(optimizer.param_groups):
                _before(me, optimizer)

        self._hooks = (
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(place.updates),
            optimizer.register_load_state_dict_post_hook(partial(_loaded, me)),
        )
        self._told = weakref.finalize(self, _end, place, self._caller, self._hooks)

    def _go(self, position: int) -> None:
        self._place.move_to(position)
        self._write()

    def _bind(self) -> None:
        groups = self.optimizer.param_groups
        for group in groups:
            group.setdefault("initial_lr", _plain(group["lr"]))
        bind(self.policy, self.optimizer)
        self._place.groups = len(groups)

    def _rates(self) -> list[float]:
        """The learning rate of each group at this position."""
        lr, layers = self.policy(self._place.progress())["lr"], self.policy.layers
        return [
            lr * (layers[group["layer"]] if layers else group.get("lr_ratio", 1.0))
            for group in self.optimizer.param_groups
        ]

    def _held(self) -> list[float]:
        """The learning rate that each group has."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _look(self) -> None:
        """See whether another scheduler has written since the last update: in SequentialLR its turn has come."""
        if self._place.pending and self._at_work and not all(map(_near, self._held(), self._rates())):
            self._place.hand_over()

    def _leave(self, rates: Sequence[float]) -> None:
        """Give the groups the learning rates of another scheduler, which went on from here, and leave them to it."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._place.handed_over = self._place.position

    def _write(self) -> None:
        if self._place.position >= 0 and self._place.handed_over is None:
            self._write_at(self._place.progress())

    def _write_at(self, progress: float) -> None:
        if not self._at_work:
            return
        groups = self.optimizer.param_groups
        if self._place.groups != len(groups):
            self._bind()
        write(self.policy, self.optimizer, progress, 1.0, groups)
        for policy, which in self._others:
            write(policy, self.optimizer, progress, 1.0, [groups[i] for i in which])


class OneCycleLR(PolicyScheduler):
    """torch's `OneCycleLR` as a `PolicyScheduler`: the same arguments, defaults and values, and none of its traps.

    Where torch's makes an extra step that rebounds and then raises, this one holds its end. It resumes in any order of
    loading, and can be extended. A group that is added later takes the largest `max_lr`, or its own share of it,
    ``lr_ratio``.

    Momentum is cycled by default, as torch does it: the momentum of SGD and RMSprop, beta1 of Adam's kin, whatever
    they were; `cycle_momentum` False leaves them alone. An optimizer that has neither is scheduled without.

    Args:
        optimizer: any of torch.
        max_lr: the peak, or one for each parameter group.
        total_steps: the updates of the whole run; or instead of it both
        epochs: their number, and
        steps_per_epoch: the updates of each.
        pct_start: the share of the run on the way up.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether momentum moves against the learning rate.
        base_momentum: its value at the peak, or one for each group.
        max_momentum: its value at both ends, or one for each group.
        div_factor: the first learning rate is the peak divided by it.
        final_div_factor: the last one is the first divided by it.
        three_phase: whether the way down to the first learning rate is as long as the way up, with a tail after it.
        last_epoch: the updates made before, less one; -1 at the beginning.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    >>> scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    >>> for _ in range(10):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()  # torch's is back at 0.025 by now
    [2e-06]

    Raises:
        ConfigError: an argument that cannot be used, or another policy attached to this optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        inner(optimizer)
        total = _total(total_steps, epochs, steps_per_epoch)
        rates = [number("max_lr", each, least=0) for each in _each("max_lr", max_lr, optimizer)]
        peak = number("max_lr", max(rates, default=0.0), above=0, what="the peak learning rate", example="0.1")
        number("div_factor", div_factor, above=0)
        number("final_div_factor", final_div_factor, above=0)
        one_of("anneal_strategy", anneal_strategy, ("cos", "linear"))
        share("pct_start", pct_start, of="the run", one=True)
        flag("three_phase", three_phase)
        momenta = _momenta(optimizer, flag("cycle_momentum", cycle_momentum), base_momentum, max_momentum)
        made = partial(
            presets.torch,
            peak,
            total,
            peak_at=pct_start,
            lr_start=peak / div_factor,
            lr_end=peak / div_factor / final_div_factor,
            easing={"cos": "cosine"}.get(anneal_strategy, anneal_strategy),
            three_phase=three_phase,
        )
        self._ratios = [rate / peak for rate in rates]
        self._start_lr = peak / div_factor
        self._cycles = bool(momenta)
        # A policy for each pair of momenta, of which most have one; that of the first is for groups to come too.
        first, *others = dict.fromkeys(momenta or [None])
        self._others = [(made(momentum=pair), [i for i, each in enumerate(momenta) if each == pair]) for pair in others]
        self._start(optimizer, made(momentum=first), total, last_epoch)

    @property
    def total_steps(self) -> int:
        """What torch calls the total."""
        return self._place.total

    def _bind(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            if i < len(self._ratios):
                group["lr_ratio"], group["initial_lr"] = self._ratios[i], self._start_lr * self._ratios[i]
            if self._cycles:
                group["momentum_ratio"] = 1.0
        super()._bind()


# The hooks hold the scheduler weakly, and read nothing that changes from update to update: torch.compile traces them.


def _before(scheduler: weakref.ref[PolicyScheduler], optimizer: Optimizer) -> None:
    if (me := scheduler()) is None:
        return
    if me._place.tentative:
        me._place.take_back()
    else:
        me._look()
    me._write()


def _loaded(scheduler: weakref.ref[PolicyScheduler], optimizer: Optimizer) -> None:
    if (me := scheduler()) is not None:
        me._look()
        me._place.pending = 0  # torch.distributed.checkpoint makes a step, of no weight, before it loads
        me._bind()
        me._write()


def _end(place: Place, caller: tuple[str, int], hooks: tuple[Any, ...]) -> None:
    for hook in hooks:
        hook.remove()
    place.end(caller)


def _total(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    """The updates of the whole run, given as such or as epochs of so many."""
    given = (total_steps is not None, epochs is not None, steps_per_epoch is not None)
    if given not in ((True, False, False), (False, True, True)):
        raise ConfigError(
            "give total_steps, or epochs and steps_per_epoch; received "
            f"total_steps={total_steps!r}, epochs={epochs!r}, steps_per_epoch={steps_per_epoch!r}"
        )
    if total_steps is not None:
        return whole("total_steps", total_steps, what=WHOLE_RUN)
    return whole("epochs", epochs) * whole("steps_per_epoch", steps_per_epoch, what="the updates of an epoch")


def _each(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """A value for each parameter group."""
    groups = len(optimizer.param_groups)
    several = list(value) if isinstance(value, list | tuple) else [value] * groups
    if len(several) != groups:
        raise ConfigError(
            f"{name} is one number, or one for each of the {count(groups, 'parameter groups')}; received {value!r}"
        )
    return several


def _momenta(optimizer: Optimizer, cycled: bool, base: Any, top: Any) -> list[tuple[float, float]]:
    """The high and the low momentum of each group; none where momentum is left alone."""
    if not cycled:
        return []
    highs, lows = (
        [number(name, each, least=0, below=1) for each in _each(name, value, optimizer)]
        for name, value in (("max_momentum", top), ("base_momentum", base))
    )
    if any(key in group for group in optimizer.param_groups for key in ("momentum", "betas")):
        return list(zip(highs, lows, strict=True))
    if (base, top) != (0.85, 0.95):
        raise ConfigError(
            f"{type(optimizer).__name__} has no momentum to cycle; received base_momentum={base!r}, "
            f"max_momentum={top!r}: leave them out"
        )
    return []


def _near(a: float, b: float) -> bool:
    """Whether they are one learning rate, in single precision too."""
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-12)


def _plain(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value

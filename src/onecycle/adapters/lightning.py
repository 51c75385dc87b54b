"""Lightning: a policy over the updates that a Trainer really makes, for `lightning.pytorch` and `pytorch_lightning`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from ..checks import unless_none, whole
from ..errors import ConfigError, warn
from ..optim.driver import Driver
from ..range_test.api import RangeTest, range_test
from ..schedules.policy import WHOLE_RUN, Policy, position
from ..schedules.presets import peak_number, preset
from ..search.api import Search, search
from ..text import count, percent
from .common import host
from .lightning_step import run_apart
from .place import ENDED

PACKAGES = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch-lightning"}
AVERAGING = "StochasticWeightAveraging"


def _hosts() -> list[Any]:
    """Those of the two packages that the program has imported; where it has none yet, those that are installed."""
    imported = [name for name in PACKAGES if name in sys.modules]
    installed = [name for name in PACKAGES if find_spec(name.partition(".")[0]) is not None]
    return [host(name, PACKAGES[name], "2.4") for name in imported or installed or ["lightning.pytorch"]]


HOSTS = _hosts()


class LightningPolicy(*(lightning.Callback for lightning in HOSTS)):
    """A callback that writes a policy's values before each update that the Trainer makes.

    Update k of T (from 0) uses the policy at ``k / (T - 1)``. T is what the Trainer will do, by its epochs and batches
    (the last ones of an epoch make an update, however few are left to accumulate), `limit_train_batches`,
    `accumulate_grad_batches` and its scheduler, and `max_steps`; a step that fp16 skips is no update. Under `max_time`
    or a `Timer` progress is the elapsed share of that time; of several limits the one nearest to its end counts.
    In manual optimization, where a module steps when it likes, progress is the batch's share of all, or that of
    `max_steps`; the learning rates of several optimizers keep their proportions, the first one's largest being the
    policy's.

    The position is in Lightning's checkpoints: with ``fit(ckpt_path=...)`` each update is that of an unbroken run. Over
    another number of updates than before, the rest of the curve takes the rest of them, which is said. From a
    checkpoint without this callback it goes on at `global_step`. A training that ends in the middle of the policy is
    said too.

    Args:
        policy: the name of a preset, a `Policy`, or a function from the number of updates to one (from None, where only
            the time is limited).
        lr_max: the peak of a preset.
        updates: of the whole run; None: those of the Trainer.
        options: keywords of the preset.

    Raises:
        ConfigError: no policy; before the first update: a run without limits, an optimizer that has another policy, a
            policy that is at its end already, or a StochasticWeightAveraging beside it.
    """

    def __init__(
        self,
        policy: str | Policy | Callable[[int | None], Policy] = "one_cycle",
        lr_max: float | None = None,
        *,
        updates: int | None = None,
        **options: Any,
    ):
        super().__init__()
        self.updates = unless_none(whole, "updates", updates, what=WHOLE_RUN)
        self.policy, self.lr_max, self.options = policy, lr_max, options
        self.driver: Driver | None = None
        self._state: dict[str, Any] | None = None
        if isinstance(policy, str):
            self._policy_over(2)
        elif not callable(policy) or lr_max is not None or options:
            given = {"lr_max": lr_max, **options}
            raise ConfigError(
                "policy is a Policy, a function from the number of updates to one, or the name of a preset with its "
                f"lr_max; received {policy!r} with {given}"
            )

    def _policy_over(self, updates: int | None) -> Policy:
        if isinstance(self.policy, str):
            return preset(self.policy, peak_number(self.lr_max), updates, **self.options)
        policy = self.policy if isinstance(self.policy, Policy) else self.policy(updates)
        if not isinstance(policy, Policy):
            raise ConfigError(f"policy returns a Policy for {updates} updates; received {policy!r}")
        return policy

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin anew with a new Trainer; a checkpoint is loaded after this."""
        if stage == "fit" and any(c.__name__ == AVERAGING for each in trainer.callbacks for c in type(each).__mro__):
            raise ConfigError(
                f"{AVERAGING} has learning rates of its own (swa_lrs), which the policy would overwrite: leave one of "
                "the two out. Lightning's WeightAveraging averages the weights and leaves the learning rates alone"
            )
        if stage == "fit" and not trainer.global_step:
            self._state = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the policy to the optimizers, where the run before a checkpoint left it."""
        updates, timed = self.updates or planned_updates(trainer), _elapsed(trainer) is not None
        if updates is None and not timed:
            raise ConfigError(
                f"the number of updates is not known: training batches {trainer.num_training_batches}, "
                f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, no max_time. Give the Trainer "
                'max_steps=1000 or max_time="00:01:00:00", or LightningPolicy(..., updates=1000)'
            )
        policy, state = self._policy_over(updates), self._state or {}
        _check_ranks(trainer, [updates, *(policy(i / 16) for i in range(17))])
        self._updates, self._share = updates, 0.0
        self._by_batches = not (pl_module.automatic_optimization or self.updates)
        self._stretched = tuple(state.get("stretched", (0.0, 0.0)))
        self._goes_on_at = _left_at(state, updates)
        whole_curve = self._goes_on_at is None and not any(self._stretched)
        counted = None if timed or self._by_batches or not whole_curve else updates
        self.driver = Driver(policy, trainer.optimizers, counted or self._progress)
        if state:
            self.driver.load_state_dict(state)
        else:
            self.driver.position = trainer.global_step // len(trainer.optimizers)
        if trainer.is_global_zero:
            _warn(trainer, state, updates)

    def _passed(self, applied: int) -> float:
        """The share of the run that lies before the next update."""
        counted = 0.0 if self._by_batches or self._updates is None else position(applied, self._updates)
        return min(1.0, max(self._share, counted))

    def _progress(self, applied: int) -> float:
        """The share of the curve: from where it was stretched on, its rest takes the rest of the run."""
        at, progress = self._stretched
        return progress + (self._passed(applied) - at) / (1 - at) * (1 - progress) if at < 1 else progress

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look how far the run is, and write the values that the update will use, for monitors to see."""
        if self.driver is not None:
            batches = _share_of_batches(trainer, batch_idx) if self._by_batches else 0.0
            self._share = max(_elapsed(trainer) or 0.0, batches)
            if self._goes_on_at is not None:
                self._stretched = self._passed(self.driver.position), self._goes_on_at
                self._goes_on_at = None
            self.driver.write()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the optimizers, and say it where the training ended in the middle of the policy."""
        if self.driver is not None:
            elapsed, applied = _elapsed(trainer), self.driver.position
            self._share = max(self._share, elapsed or 0.0)
            if elapsed is not None or self._by_batches or self._updates is None:
                passed = self._passed(applied)
                after = percent(passed)
            else:
                passed = applied / self._updates
                after = f"{applied} of {count(self._updates, 'updates')}"
            if passed < ENDED and trainer.is_global_zero:
                warn(
                    f"training ended after {after} of its policy, at values that it was not to end with: give the true "
                    "number of updates or the true time, or go on from a checkpoint"
                )
        self.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the optimizers."""
        self.detach()

    def detach(self) -> None:
        """Let go of the optimizers; their values stay as they are."""
        self._state = self.state_dict()
        if self.driver is not None:
            self.driver.detach()
            self.driver = None

    def state_dict(self) -> dict[str, Any]:
        """As plain numbers: the position, as `Driver` has it, the updates that the run was to have, and its progress.

        From ``"stretched"[0]`` of the run on, the curve beyond ``"stretched"[1]`` takes the rest.
        """
        if self.driver is None:
            return self._state or {}
        how_far = {"progress": self._progress(self.driver.position), "stretched": list(self._stretched)}
        return {**self.driver.state_dict(), "updates": self._updates, **how_far}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there when training starts."""
        self._state = dict(state_dict)


def lr_find(
    trainer: Any,
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    **options: Any,
) -> RangeTest:
    """`onecycle.range_test` of a module as `trainer` would train it: the peak, and whether it can super-converge.

    Updates are made by Lightning's own loop, with the module's `training_step`, hooks, optimizers (several too), the
    Trainer's precision, accumulation and clipping, without its callbacks and the module's schedulers. Held out is what
    `validation_step` logs or returns of up to 512 samples, by the shortest name with "loss" in it, and with "acc". It
    trains a copy of the module on one device; module, Trainer, data and generators stay as they are, and no file is
    written.

    Args:
        train_dataloaders, val_dataloaders, datamodule: as for ``trainer.fit``, a datamodule in the first place too.
        options: those of `onecycle.range_test`, such as ``updates=200, epochs=30``.

    Raises:
        ConfigError: a module that cannot be copied, several loaders, a Trainer that trains nothing, or no loss.
    """
    test = _apart(range_test, trainer, module, train_dataloaders, val_dataloaders, datamodule, options=options)
    if trainer.world_size == 1:
        return test
    note = f"a batch of the test is that of one rank: an update of the Trainer takes {trainer.world_size} of them"
    return replace(test, notes=(*test.notes, note))


def lr_search(
    trainer: Any,
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    updates: int,
    **options: Any,
) -> Search:
    """`onecycle.search` of a module as `trainer` would train it, over `updates`: the peak, by short runs of pilots.

    As `lr_find` in all else.
    """
    options["updates"] = updates
    return _apart(search, trainer, module, train_dataloaders, val_dataloaders, datamodule, options=options)


def _apart(test: Callable[..., Any], trainer: Any, module: Any, *data: Any, options: Mapping[str, Any]) -> Any:
    train, valid, datamodule = data
    if hasattr(train, "train_dataloader") and datamodule is None:
        train, datamodule = None, train
    if datamodule is not None and not (train is valid is None):
        raise ConfigError("give the datamodule or loaders; received both")
    return run_apart(trainer, module, datamodule, train, valid, lambda **parts: test(**parts, **options))


def planned_updates(trainer: Any) -> int | None:
    """The updates of a Trainer that is about to train, in manual optimization of each optimizer; None without a limit.

    `trainer.estimated_stepping_batches` is inf or -1 where there is no limit, leaves a scheduler of accumulation out,
    and mixes batches with steps of every optimizer in manual optimization.
    """
    module, batches, totals = trainer.lightning_module, trainer.num_training_batches, list[int]()
    scheduled = [c for c in trainer.callbacks if hasattr(c, "get_accumulate_grad_batches")]
    if math.isfinite(batches) and trainer.max_epochs >= 0:
        factor = scheduled[0].get_accumulate_grad_batches if scheduled else lambda _: trainer.accumulate_grad_batches
        totals.append(sum(math.ceil(batches / factor(epoch)) for epoch in range(trainer.max_epochs)))
    if trainer.max_steps >= 0:
        totals.append(math.ceil(trainer.max_steps / (1 if module.automatic_optimization else len(trainer.optimizers))))
    return max(1, min(totals)) if totals else None


def _share_of_batches(trainer: Any, batch_idx: int) -> float:
    """How far manual optimization is as a batch begins: it is at 1 in the last one."""
    batches, shares = trainer.num_training_batches, [0.0]
    if math.isfinite(batches) and trainer.max_epochs >= 0:
        shares.append(position(trainer.current_epoch * batches + batch_idx, batches * trainer.max_epochs))
    if trainer.max_steps >= 0:  # which counts the steps of all optimizers
        shares.append(trainer.global_step / max(1, trainer.max_steps - len(trainer.optimizers)))
    return max(shares)


def _elapsed(trainer: Any) -> float | None:
    """The share of its time that has passed, by the clock of the main rank; None without such a limit."""
    timers = [c for c in trainer.callbacks if hasattr(c, "time_remaining") and c.time_remaining() is not None]
    if not timers:
        return None
    times = [(timer.time_elapsed(), timer.time_remaining()) for timer in timers]
    return trainer.strategy.broadcast(max(past / (past + left) if left > 0 else 1.0 for past, left in times))


def _check_ranks(trainer: Any, values: Any) -> None:
    if trainer.world_size > 1 and not trainer.strategy.reduce_boolean_decision(
        values == trainer.strategy.broadcast(values), all=True
    ):
        raise ConfigError(
            "the ranks have different policies: call lr_find in a callback's on_fit_start, where they share a result, "
            "or hand that of rank 0 to all, as trainer.strategy.broadcast(lr_max) does"
        )


def _left_at(state: Mapping[str, Any], updates: int | None) -> float | None:
    """The progress of a run that has another number of updates now; None where it has the same.

    Raises:
        ConfigError: nothing is left to stretch, or no updates to stretch it over.
    """
    before = state.get("updates", updates)
    if before == updates:
        return None
    if state["progress"] >= 1 or (before is not None and state["position"] >= before):
        raise ConfigError(
            f"nothing is left to stretch after {state['position']} of {before} updates: to train on from the end, fit "
            'the trained module with a new Trainer, without ckpt_path, and LightningPolicy("extension", lr_max)'
        )
    if updates is not None and state["position"] >= updates:
        raise ConfigError(
            f"training goes on after update {state['position']}, and updates={updates} are those of the whole run: "
            "count those before too"
        )
    return state["progress"]


def _warn(trainer: Any, state: Mapping[str, Any], updates: int | None) -> None:
    names = sorted({type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs})
    if names:
        warn(
            f"the policy wins over {' and '.join(names)} of configure_optimizers: what it writes is overwritten before "
            "each update, but for values that the policy does not have. Leave it out"
        )
    if _left_at(state, updates) is not None:
        before, now = (f"{each} in all" if each else "a limit of time alone" for each in (state["updates"], updates))
        warn(
            f"training goes on after update {state['position']} and has {now}; before it had {before}: the rest of the "
            "schedule is stretched over the rest of the training"
        )

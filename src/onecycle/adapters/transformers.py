"""The Trainer of Transformers: a policy as its schedule, and the peak for it, found by the Trainer's own step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import text
from ..errors import CheckpointError, ConfigError, warn
from ..optim.driver import attached, inner
from ..range_test.api import RangeTest
from ..range_test.api import range_test as range_test_of_step
from ..schedules.budget import SHARE, Budget
from ..schedules.policy import Policy
from ..schedules.presets import preset
from ..search.api import Search
from ..search.api import search as search_of_step
from .common import host
from .place import ENDED
from .timed import TimedScheduler
from .torch import PolicyScheduler
from .trainer_step import LEAST, TrainerStep, learning_rate


def with_policy(
    trainer: Any, policy: Policy | str = "one_cycle", lr_max: float | None = None, *, budget: Any = None, **options: Any
) -> Any:
    """Have a `Trainer` train by a policy, in place of the scheduler of its arguments; the same trainer comes back.

    The policy is over the updates that the Trainer itself counts when it begins to train: by epochs or `max_steps`,
    with accumulation, the last batch and ranks. Each `train` begins it anew; one with `resume_from_checkpoint` goes on
    exactly where the checkpoint was made, and over another number of updates the rest of the curve is stretched, which
    is said. Call this before ``trainer.train(resume_from_checkpoint=...)``, with a `budget` if the checkpoint had one.
    A step that fp16 skips does not move it.

    Args:
        trainer: a `transformers.Trainer`, or one of its kin.
        policy: a policy, or the name of a preset, with its `options`.
        lr_max: the peak of a preset; None: the learning rate of the trainer's optimizer, which is the `learning_rate`
            of its arguments where it makes the optimizer itself.
        budget: a time to train for, such as "30m": the policy goes by the share of it that has passed, and the
            training ends with it. The Trainer's own epochs or `max_steps` have to be more than fit into it.

    Raises:
        ConfigError: arguments that cannot be used, or a trainer with a scheduler of its own; before the first update
            of a resumed training: a checkpoint at the end of its policy, where there are more updates now.
        CheckpointError: before the first update: a checkpoint of another scheduler.
        MissingDependency: Transformers is not installed, or too old.
    """
    host("transformers", "transformers", LEAST)
    seconds = None if budget is None else _seconds(budget)
    peak = _learning_rate(trainer) if lr_max is None else lr_max
    if isinstance(policy, Policy) and (options or lr_max is not None):
        raise ConfigError("lr_max and other options are those of a preset, and a Policy has its own: leave them out")

    def policy_over(updates: int) -> Policy:
        return policy if isinstance(policy, Policy) else preset(policy, peak, updates, **options)

    policy_over(1000)  # what cannot be used is said before the training
    _check_schedulers(trainer)

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        if trainer.lr_scheduler is None:
            stepped = inner(trainer.optimizer if optimizer is None else optimizer)
            if isinstance(before := attached(stepped), TrainerScheduler | TimedScheduler):  # of the last training
                before.detach()
            whole = policy_over(num_training_steps)
            if seconds is None:
                trainer.lr_scheduler = TrainerScheduler(stepped, whole, num_training_steps)
            else:
                trainer.lr_scheduler = TimedScheduler(stepped, whole, seconds)
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler

    trainer.create_scheduler = create_scheduler
    if seconds is not None:
        trainer.add_callback(_end_in_time(trainer))
    return trainer


def search(
    trainer: Any,
    *,
    lr_max: float | None = None,
    share: float = SHARE,
    policy: str = "one_cycle",
    seed: int | None = None,
) -> Search:
    """Choose the peak for a `Trainer` by pilots: short runs of its own training step that leave no trace.

    As `onecycle.search`, over the trainer's data set, collator, optimizer and loss, each pilot judged on a part of its
    evaluation data. Nothing is set: give `with_policy` the `lr_max` that comes back. The pilots are beside the
    training, which keeps all of its updates.

    Args:
        trainer: a `transformers.Trainer`, or one of its kin, in one process on one device.
        lr_max: the peak that is left only for evidence; None: the learning rate of the trainer's optimizer, which is
            the `learning_rate` of its arguments where it makes the optimizer itself.
        share: of the training's updates, so many may the pilots take beside it; above a tenth short trainings have
            pilots too, from 150 updates on with a share of .8.
        policy: the name of a preset.
        seed: of the order and of what the step draws; None: that of the trainer's arguments.

    Raises:
        ConfigError, DataError: as `onecycle.search`, or a trainer of several processes or devices.
        MissingDependency: Transformers is not installed, or too old.
    """
    _check_free(trainer)
    step = TrainerStep.of(trainer, seed)
    peak = step.learning_rate if lr_max is None else lr_max
    return search_of_step(**step.parts, updates=step.updates, lr_max=peak, share=share, policy=policy)


def range_test(trainer: Any, *, seed: int | None = None, **options: Any) -> RangeTest:
    """Make a range test of a `Trainer`'s own training step, which leaves no trace.

    It says what a model bears. For fine-tuning its peak was 12 times too large where it was measured: see `search`.

    Args:
        trainer, seed: as for `search`.
        options: of `onecycle.range_test`: `updates`, `repeats`, `lr_low`, `lr_high`, ...

    Raises:
        ConfigError, DataError, TrainingError: as `onecycle.range_test`, or a trainer of several processes or devices.
        MissingDependency: Transformers is not installed, or too old.
    """
    _check_free(trainer)
    step = TrainerStep.of(trainer, seed)
    return range_test_of_step(**step.parts, **{"epochs": step.epochs, **options})


class TrainerScheduler(PolicyScheduler):
    """A policy at work in a Trainer: a `PolicyScheduler` that says where a resumed training has another length."""

    _onwards = (
        "make a Trainer of the trained model, with the updates that come, and call with_policy(trainer, "
        '"extension", lr_max) and train() without resume_from_checkpoint'
    )
    _to_say: str | None = None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `PolicyScheduler`."""
        if "seconds" not in state_dict and "position" not in state_dict:
            raise CheckpointError(
                f"the checkpoint was made without with_policy, after {state_dict.get('last_epoch')} updates by another "
                f"scheduler, and this training goes by a policy over {self.total}: resume it without with_policy, or "
                "make a Trainer of its model and train without resume_from_checkpoint"
            )
        super().load_state_dict(state_dict)
        before = state_dict["total"]
        self._place.past_end = self.finished  # from the end of max_steps the Trainer makes an update more
        if before != self.total:
            self._to_say = (
                f"the checkpoint was made at update {self.position} of {before}, and this training has {self.total} in "
                "all: the rest of the schedule is stretched over the rest of the updates"
            )

    def step(self, epoch: int | None = None) -> None:
        """See `PolicyScheduler`."""
        if self._to_say is not None:  # the Trainer catches what is said while it loads
            warn(self._to_say)
            self._to_say = None
        super().step(epoch)


def _check_schedulers(trainer: Any) -> None:
    """Say which scheduler wins, where the trainer has another."""
    if trainer.is_deepspeed_enabled:
        raise ConfigError("DeepSpeed steps a scheduler of its own: name it in its configuration")
    if trainer.lr_scheduler is not None and not trainer._created_lr_scheduler:
        raise ConfigError(
            f"the trainer was given a {type(trainer.lr_scheduler).__name__} by optimizers=, and two schedulers would "
            "write over each other: give it optimizers=(optimizer, None)"
        )
    kind, warmup = trainer.args.lr_scheduler_type, trainer.args.warmup_steps
    asked = [] if kind == "linear" else [f"lr_scheduler_type={getattr(kind, 'value', kind)!r}"]
    asked += [f"warmup_steps={warmup:g}"] if warmup else []
    if asked:
        warn(f"the policy wins over {' and '.join(asked)} of the trainer's arguments")


def _learning_rate(trainer: Any) -> float:
    """That of the trainer's optimizer, or the one that it will be made with."""
    optimizer = trainer.optimizer
    return trainer.args.learning_rate if optimizer is None else learning_rate(inner(optimizer))


def _check_free(trainer: Any) -> None:
    """Say how the policy of a training that stopped early is let go.

    Raises:
        ConfigError: it is still attached to the optimizer.
    """
    scheduler = trainer.lr_scheduler
    if isinstance(scheduler, TrainerScheduler | TimedScheduler) and attached(scheduler.optimizer) is scheduler:
        raise ConfigError(
            "the policy of the last training is attached to the trainer's optimizer: call "
            "trainer.lr_scheduler.detach() first"
        )


def _seconds(budget: Any) -> float:
    seconds = Budget.parse(budget).seconds
    if seconds is None:
        raise ConfigError(
            f'budget is a time such as "30m"; received {budget!r}: epochs and updates are num_train_epochs and '
            "max_steps of the trainer's arguments"
        )
    return seconds


def _end_in_time(trainer: Any) -> Any:
    """A callback that ends a training with the time of its scheduler."""

    class EndInTime(host("transformers", "transformers", LEAST).TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= self._share(otherwise=0.0) >= 1

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if (share := self._share(otherwise=1.0)) < ENDED:
                warn(
                    f"training ended after {text.percent(share)} of its time, at values that it was not to end with: "
                    "give it more num_train_epochs, or max_steps"
                )

        def _share(self, otherwise: float) -> float:
            """`otherwise` where the trainer has got another policy since."""
            scheduler = trainer.lr_scheduler
            return scheduler.share if isinstance(scheduler, TimedScheduler) else otherwise

    return EndInTime()

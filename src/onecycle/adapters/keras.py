"""A policy in Keras 3: a callback of `model.fit` for all of it, or a schedule for the learning rate of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import unless_none, whole
from ..errors import ConfigError, warn
from ..optim.driver import attach, attached, release
from ..schedules.policy import WHOLE_RUN, Policy, progress_after
from .arrays import in_arrays
from .common import host

keras = host("keras", "keras", "3.0")


class PolicyCallback(keras.callbacks.Callback):
    """Have `policy` set learning rate, momentum and the rest before each update of ``model.fit(callbacks=[...])``.

    It goes over the epochs 0 to ``epochs`` of the call of `fit`, counted in updates that the optimizer applied: batches
    that only accumulate (``gradient_accumulation_steps``), or that a loss scale skips, do not count. With
    ``initial_epoch``, or after `keras.callbacks.BackupAndRestore`, it goes on where that epoch begins: there is nothing
    to save.

    Args:
        policy: ``momentum`` is the optimizer's ``momentum`` or ``beta_1``; one that is 0 or absent stays so. Other
            names are attributes of the optimizer, such as ``weight_decay``.
        updates: of the whole run; None: from the epochs and the batches in one.

    Raises:
        ConfigError: as training begins: an unknown number of batches, an optimizer with a schedule of its own or with
            another policy, a name that it does not have, or one besides the learning rate where the step is compiled.
    """

    def __init__(self, policy: Policy, updates: int | None = None):
        super().__init__()
        if policy.layers:
            raise ConfigError(f"a Keras optimizer has no layer groups: a policy without layers; received {policy!r}")
        unless_none(whole, "updates", updates, what=WHOLE_RUN)
        self.policy, self.updates, self.position = policy, updates, 0
        self._start: int | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Check that the optimizer takes the policy, for as many updates as there will be."""
        optimizer, other = self.model.optimizer, attached(self.model.optimizer)
        self._names, self._total = _attributes(self.policy, self.model), _total(self.updates, self.params, self.model)
        self._start, self._warned = None, False
        try:
            optimizer.learning_rate = float(optimizer.learning_rate)
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"the optimizer has a schedule already: give it a number, such as 0.1 ({error})"
            ) from error
        if isinstance(other, PolicyCallback) and other.params is not self.params:
            other.detach()  # of a fit that was broken off
        attach(optimizer, self)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Take the position where the first epoch of this fit begins."""
        if self._start is None:
            optimizer, steps = self.model.optimizer, self.params.get("steps")
            applied, batches, accumulated = int(optimizer.iterations), _batches(optimizer), _accumulated(optimizer)
            due = epoch * steps // accumulated if steps else applied * bool(epoch)
            # A restored optimizer knows how many updates were skipped; a new one, or one of an earlier fit, does not:
            # the batches that such a fit left without an update are in the first one of this.
            if self.updates is None and not 0 < batches < epoch * steps:
                left = (batches % accumulated + (self.params["epochs"] - epoch) * steps) // accumulated
                self._total = max(1, due + left)
            self._start = applied - (min(applied, due) if applied else due)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Write the values of the update that this batch makes, or takes part in."""
        optimizer = self.model.optimizer
        self._count()
        values = self.policy(progress_after(self.position, self._total))
        optimizer.learning_rate = values["lr"]
        for name, attribute in self._names.items():
            setattr(_unscaled(optimizer), attribute, values[name])

    def _count(self) -> None:
        """Take the number of updates applied; those past the end are said once."""
        self.position = int(self.model.optimizer.iterations) - (self._start or 0)
        if self.position > self._total and not self._warned:
            self._warned = True
            last = self.policy(progress_after(self.position, self._total))
            warn(f"past the {self._total} updates of the policy: the values stay at {last}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add the learning rate to the history."""
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Let go of the optimizer."""
        self._count()
        self.detach()

    @property
    def finished(self) -> bool:
        """Whether the last update has its values."""
        return self._start is not None and self.position + 1 >= self._total

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        if self.model is not None:
            release(self.model.optimizer, self)


@keras.saving.register_keras_serializable(package="onecycle")
class PolicySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of `policy` as a schedule: ``keras.optimizers.SGD(PolicySchedule(policy, updates))``.

    It is saved with the model and goes on with the optimizer's count; it can be compiled. Momentum is not scheduled so.

    Args:
        policy: of a learning rate alone, a `Piecewise`.
        updates: of the whole run.
        accumulate: the optimizer's ``gradient_accumulation_steps``: Keras counts batches for a schedule, not updates.

    Raises:
        ConfigError: anything else.
    """

    def __init__(self, policy: Policy, updates: int, accumulate: int = 1):
        more = {*policy.schedules, *["layers"] * bool(policy.layers)} - {"lr"}
        if more:
            raise ConfigError(
                f"a Keras schedule is of the learning rate alone, the policy has {', '.join(sorted(more))} too: use a "
                'PolicyCallback, or onecycle.Policy({"lr": policy.schedules["lr"]})'
            )
        whole("updates", updates, what=WHOLE_RUN)
        whole("accumulate", accumulate, what="the batches of an update")
        self.policy, self.updates, self.accumulate = policy, updates, accumulate
        self._value = in_arrays(keras.ops, "lr", policy.schedules["lr"], updates)

    def __call__(self, step: Any) -> Any:
        """The learning rate after `step` batches."""
        return self._value(keras.ops.floor_divide(keras.ops.convert_to_tensor(step), self.accumulate))

    def get_config(self) -> dict[str, Any]:
        """Plain data for a saved model; `from_config` is its inverse."""
        return {"policy": self.policy.to_dict(), "updates": self.updates, "accumulate": self.accumulate}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PolicySchedule:
        """From what `get_config` returns."""
        return cls(**{**config, "policy": Policy.from_dict(config["policy"])})


def _unscaled(optimizer: Any) -> Any:
    """The optimizer that a `LossScaleOptimizer` has inside."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _batches(optimizer: Any) -> int:
    """The batches that it was handed since it was made: its updates, and those that it accumulates."""
    return next(int(each) for each in _unscaled(optimizer).variables if each.name == "iteration")


def _accumulated(optimizer: Any) -> int:
    return getattr(_unscaled(optimizer), "gradient_accumulation_steps", None) or 1


def _total(updates: int | None, params: Mapping[str, Any], model: Any) -> int:
    """The updates of the whole run."""
    if model.steps_per_execution > 1:
        raise ConfigError(
            f"with steps_per_execution={model.steps_per_execution} Keras calls no callback before each update: compile "
            "with steps_per_execution=1, or give the optimizer a PolicySchedule as its learning rate"
        )
    if updates is not None:
        return updates
    if not params.get("steps"):
        raise ConfigError(
            "the number of batches in an epoch is not known: give fit its steps_per_epoch, or PolicyCallback(policy, "
            f"updates=...) {WHOLE_RUN}"
        )
    total = params["epochs"] * params["steps"] // _accumulated(model.optimizer)
    return whole("updates", total, what="epochs x batches / gradient_accumulation_steps")


def _attributes(policy: Policy, model: Any) -> dict[str, str]:
    """The attributes of the optimizer by the policy's names but lr; none for momentum where there is no momentum."""
    optimizer, names = _unscaled(model.optimizer), {}
    for name in set(policy.schedules) - {"lr"}:
        known = ("momentum", "beta_1") if name == "momentum" else (name,)
        has = [each for each in known if isinstance(getattr(optimizer, each, None), float) and getattr(optimizer, each)]
        if has:
            names[name] = has[0]
        elif name != "momentum":
            raise ConfigError(f"the optimizer {optimizer.name} has no {name} that is a number above 0, to be scheduled")
    if names and not model.run_eagerly and (model.jit_compile or keras.backend.backend() != "torch"):
        raise ConfigError(
            f"a compiled step keeps the {', '.join(names.values())} that it was compiled with: compile the model with "
            "run_eagerly=True, or leave them out of the policy (momentum=None in a preset)"
        )
    return names

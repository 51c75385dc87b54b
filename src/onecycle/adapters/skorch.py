"""A policy as a callback of skorch: over the updates of a net's epochs, and on where its history ends."""

from __future__ import annotations

from typing import Any

from ..checks import unless_none, whole
from ..errors import ConfigError
from ..optim.driver import Driver
from ..schedules.policy import WHOLE_RUN, Policy
from .common import host

callbacks = host("skorch.callbacks", "skorch", "1.0")

# The column of the history that says how many updates of the policy were applied.
UPDATES = "updates"


class PolicyDriver(callbacks.Callback):
    """Have `policy` drive the optimizer of a skorch net, update by update: ``NeuralNetClassifier(callbacks=[...])``.

    It goes over ``net.max_epochs`` epochs. The position is in the history, as ``updates``: `partial_fit` goes on from
    there, with a net that was stopped and with one whose optimizer and history were loaded. After the end it begins
    anew, and so does `fit`.

    Args:
        policy: such as ``onecycle.one_cycle(0.1)``.
        updates: of the whole run; None: the epochs of the net times its batches. Needed where `partial_fit` is called
            with other epochs, or a net makes an update of several batches.
        optimizer: the name of the optimizer in the net.

    Raises:
        ConfigError: as training begins: an `LRScheduler` in the net, an unknown number of batches, or a policy that is
            attached to the optimizer already.
    """

    def __init__(self, policy: Policy, updates: int | None = None, optimizer: str = "optimizer"):
        self.policy = policy
        self.updates = updates
        self.optimizer = optimizer

    def initialize(self) -> PolicyDriver:
        """Begin without a position: for skorch, which calls it with every `fit`."""
        unless_none(whole, "updates", self.updates, what=WHOLE_RUN)
        self.detach()
        self.driver_: Driver | None = None
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Read the position from the history; the number of batches is known when the first epoch begins."""
        for name, callback in net.callbacks_:
            if isinstance(callback, callbacks.LRScheduler):
                raise ConfigError(
                    f"the net has the LRScheduler {name!r} too: give one of the two, set_params({name}=None)"
                )
        applied = next((epoch[UPDATES] for epoch in reversed(net.history) if UPDATES in epoch), 0)
        self.position_ = self.driver_.position if self.driver_ else applied
        self.begun_ = False

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, **kwargs: Any) -> None:
        """Attach the policy in the first epoch of a fit."""
        if self.begun_:
            return
        self.begun_ = True
        self.detach()
        total = self.updates or _updates(net, dataset_train)
        self.driver_ = Driver(self.policy, getattr(net, f"{self.optimizer}_"), total)
        self.driver_.load_state_dict({"position": self.position_ if self.position_ < total else 0})

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Write the position and the learning rate of the last update into the history."""
        driver = self.driver_
        if driver is not None and net.history:
            net.history.record(UPDATES, driver.position)
            net.history.record("event_lr", float(driver.optimizer.param_groups[-1]["lr"]))

    on_train_end = on_epoch_end  # an epoch that was broken off too

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        if getattr(self, "driver_", None) is not None:
            self.driver_.detach()  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        """Without the driver, which is made anew from the history."""
        return {name: None if name == "driver_" else value for name, value in vars(self).items()}


def _updates(net: Any, dataset: Any) -> int:
    """The batches of all epochs of the net."""
    try:
        batches = len(net.get_iterator(dataset, training=True))
    except TypeError as error:
        raise ConfigError(
            "the number of batches in an epoch is not known: PolicyDriver(policy, updates=...) of the whole run"
        ) from error
    return whole("updates", net.max_epochs * batches, what="max_epochs x batches")

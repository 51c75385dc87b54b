"""A policy as a handler of Ignite: over the iterations of an engine's run, and on with its checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from ..checks import unless_none, whole
from ..errors import ConfigError
from ..optim.driver import Driver
from ..schedules.policy import WHOLE_RUN, Policy
from ..text import count
from .common import host, saved_position
from .place import ENDED


class PolicyHandler:
    """Have `policy` drive an optimizer through each run of an Ignite engine: ``PolicyHandler(...).attach(trainer)``.

    It goes over ``max_epochs`` times ``epoch_length`` iterations, or ``max_iters``, counted in steps that the optimizer
    made. Ignite's `Checkpoint` saves it with the trainer, ``{"trainer": trainer, "policy": handler, ...}``. A run that
    was terminated goes on, and so does one whose trainer alone was loaded, by its iteration. A new run is a new cycle.
    A run that ends before 95 % of its policy, and was not terminated, is said.

    Args:
        policy: such as ``onecycle.one_cycle(0.1)``.
        optimizer: the one that the engine steps, or several.
        updates: of the whole run; None: from the engine.
        accumulate: iterations of an update: ``gradient_accumulation_steps`` of `create_supervised_trainer`.

    Raises:
        ConfigError: as a run begins: an unknown length, or a policy that is attached to the optimizer already.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer | Sequence[Optimizer],
        updates: int | None = None,
        accumulate: int = 1,
    ):
        unless_none(whole, "updates", updates, what=WHOLE_RUN)
        whole("accumulate", accumulate, what="the iterations of an update")
        self.policy, self.optimizer, self.updates, self.accumulate = policy, optimizer, updates, accumulate
        self.driver: Driver | None = None
        self._loaded: dict[str, Any] | None = None

    def attach(self, engine: Any) -> None:
        """Take part in each run of `engine`.

        Raises:
            MissingDependency: Ignite is not installed, or too old.
        """
        events = host("ignite.engine", "pytorch-ignite", "0.4").Events
        engine.add_event_handler(events.STARTED, self)
        engine.add_event_handler(events.COMPLETED, self._end)

    def __call__(self, engine: Any) -> None:
        """Attach the policy to the optimizer, at the position where the run begins."""
        state, before = engine.state, self._loaded
        if before is None and self.driver is not None and state.iteration:
            before = self.driver.state_dict()
        self.detach()
        self._total = self.updates or _updates(state, self.accumulate)
        self.driver = Driver(self.policy, self.optimizer, self._total)
        if before is None:
            self.driver.position = state.iteration // self.accumulate
        else:
            self.driver.load_state_dict(before)
        self._loaded = None

    def _end(self, engine: Any) -> None:
        if self.driver is None:
            return
        if self.driver.finished:
            self.detach()
        elif not engine.should_terminate and self.driver.position < ENDED * self._total:
            after = f"{self.driver.position} of {count(self._total, 'updates')}"
            warnings.warn(
                f"the run ended after {after} of its policy, at values that "
                "it was not to end with: give the updates that there are, or the accumulate of the trainer",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """``{"position": updates applied}``, and of several optimizers what else a `Driver` saves; empty before a run.

        Loaded before that, it is what was loaded.
        """
        return self.driver.state_dict() if self.driver else self._loaded or {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: not what `state_dict` returns; of another number of optimizers, as the run begins.
        """
        if state != {}:
            saved_position(state, "a handler")
        self._loaded = dict(state) or None
        if self.driver is not None and state:
            self.driver.load_state_dict(state)

    def detach(self) -> None:
        """Let go of the optimizer; its values stay as they are."""
        if self.driver is not None:
            self.driver.detach()


def _updates(state: Any, accumulate: int) -> int:
    """The updates of the run that begins."""
    iterations = getattr(state, "max_iters", None)
    if iterations is None and state.epoch_length is None:
        raise ConfigError(
            "the number of iterations in an epoch is not known: give run its epoch_length, or "
            "PolicyHandler(policy, optimizer, updates=...) of the whole run"
        )
    iterations = state.max_epochs * state.epoch_length if iterations is None else iterations
    return whole("updates", iterations // accumulate, what="max_epochs x epoch_length / accumulate")

"""A short run that leaves no trace: what a state would come to under a policy within a small budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..data.batches import Batches
from ..errors import NonFiniteLoss
from ..schedules.policy import Policy
from ..training.loop import Update, train
from ..training.restore import untouched
from ..training.signals import StopRequest
from ..training.state import TrainState

# What a training changes in a state, beside modules, optimizer and scaler; and what a trial sets.
CHANGED = ("at", "begun", "means", "averages", "best", "watch", "kept", "rescue")


class OutOfTime(Exception):
    """A trial took longer than it may."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to: its last training loss, what was measured on held-out batches, and what it took.

    Where `lost`, the loss or a weight became NaN or infinite after so many `updates`: `loss` is NaN and `valid` None.
    `pace` are the seconds of an update, the first one aside where there are others.
    """

    loss: float
    valid: dict[str, float] | None
    updates: int
    seconds: float
    lost: bool
    pace: float


def trial(
    state: TrainState,
    batches: Batches | Iterable[Any],
    budget: Any,
    policy: Policy | Callable[[int | None], Policy],
    evaluate: Callable[[], dict[str, float]] | None = None,
    stop: StopRequest | None = None,
    until: float = math.inf,
) -> TrialResult:
    """Train from `state` within a budget, by the whole of a policy, and put everything back as it was, bit for bit.

    Put back are the model with its buffers and modes, the optimizer, the gradient scaler, the position of the run under
    way and the global generators, also after an error and on Ctrl-C. Two trials of one state with the same arguments
    give the same numbers.

    Args:
        state: what is trained; a run under way in it goes on afterwards as if there had been no trial.
        batches, budget, policy: as for `onecycle.train`.
        evaluate: called once, at the end, for the `valid` of the result.
        stop: where a signal came, the trial is left after the update under way.
        until: by `time.perf_counter`; later than that it is broken off.

    Raises:
        ConfigError, DataError: as for `onecycle.train`.
        Interrupted: `stop` has a signal.
        OutOfTime: it took too long; everything is as before.

    >>> import onecycle, torch
    >>> model = torch.nn.Linear(2, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), onecycle.Supervised(torch.nn.MSELoss()))
    >>> before, data = model.weight.clone(), [(torch.ones(4, 2), torch.zeros(4, 1))] * 5
    >>> result = trial(state, data, "3 updates", onecycle.preset("linear", 0.1))
    >>> result.updates, result.lost, bool((model.weight == before).all())
    (3, False, True)
    """
    forward = [state.forward] if isinstance(state.forward, nn.Module) else []
    scaler = [] if state.scaler is None else [state.scaler]
    before = {name: getattr(state, name) for name in CHANGED}
    start, first, last, lost, valid = time.perf_counter(), None, None, False, None
    with untouched([state.optimizer], [*state.modules, *forward], scaler):
        try:
            state.at, state.rescue = copy(state.at), False  # a lost trial is a result
            state.end_run()
            for event in train(state, batches, budget, policy, stop=stop):
                last = event if isinstance(event, Update) else last
                first = last if first is None else first
                if until < math.inf and state.runtime.ranks.broadcast(time.perf_counter() > until):
                    raise OutOfTime
            state.check_finite()
            valid = None if evaluate is None else evaluate()
        except NonFiniteLoss:
            lost = True
        finally:
            for name, value in before.items():
                setattr(state, name, value)
    loss = math.nan if last is None or lost else last.loss
    updates = 0 if last is None else last.step + 1
    result = TrialResult(loss, valid, updates, time.perf_counter() - start, lost, _pace(first, last))
    return state.runtime.ranks.broadcast(result)


def _pace(first: Update | None, last: Update | None) -> float:
    """The seconds of an update, the first one aside where there are others."""
    if first is None or last is None:
        return 0.0
    return (last.seconds - first.seconds) / last.step if last.step else last.seconds

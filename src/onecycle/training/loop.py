"""The training loop: a generator of frozen events. Stopping is `break`; going on is calling it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.batches import Batches, as_batches
from ..data.seeds import derive_seed, seeded
from ..errors import ConfigError, DataError
from ..optim.groups import bind, write
from ..schedules.budget import Budget
from ..schedules.policy import Policy, position
from .state import Position, RunningMeans, TrainState
from .step import update


@dataclass(frozen=True, slots=True)
class Update:
    """One update was applied. `step` counts from 0 within the run; `values` are those the update used."""

    step: int
    updates: int | None
    epoch: int
    progress: float
    values: dict[str, float]
    loss_tensor: Tensor
    metrics: dict[str, Tensor]
    samples: int
    seconds: float

    @property
    def loss(self) -> float:
        """The mean training loss of the update's samples; reading it waits for an accelerator."""
        return self.loss_tensor.item()

    @property
    def lr(self) -> float:
        """The learning rate that the update used."""
        return self.values["lr"]


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """An epoch, or the last piece of one, is over. `step` is the number of updates so far in the run."""

    epoch: int
    step: int
    train: dict[str, float]
    valid: dict[str, float] | None
    values: dict[str, float]
    samples: int
    seconds: float


Event = Update | EpochEnd
# On an accelerator a loss is looked at once in so many updates, since looking waits for it.
LOOK_EVERY = 50


def train(
    state: TrainState,
    batches: Batches | Iterable[Any],
    policy: Policy | Callable[[int | None], Policy],
    budget: Any = 1,
) -> Iterator[Event]:
    """Train inside a budget, one event an update and one at the end of each epoch.

    Update k of N (k from 0) uses the policy at ``k / (N - 1)``; under a time budget, at the elapsed share of it. After
    a `break`, an exception or a restored state, calling `train` again goes on with the run under way, exactly;
    `TrainState.end_run` gives it up. Batch order, dropout and augmentation are derived from ``state.seed`` and the
    position, and the caller's global generators are as they were whenever the loop's body runs.

    Args:
        state: the model in training; changed in place.
        batches: anything that `onecycle.as_batches` takes.
        policy: a policy, or a function from the number of updates (None if unknown) to one.
        budget: see `Budget.parse`.

    Raises:
        ConfigError: a budget or a policy that does not fit.
        DataError: no batch, or fewer than the run needs.
        NonFiniteLoss: the loss became NaN or infinite.

    >>> import onecycle, torch
    >>> model = torch.nn.Linear(2, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), onecycle.Supervised(torch.nn.MSELoss()))
    >>> data = [(torch.ones(4, 2), torch.zeros(4, 1))] * 5
    >>> policy = onecycle.presets.linear(0.5)
    >>> [event.lr for event in train(state, data, policy, "3 updates") if isinstance(event, Update)]
    [0.5, 0.25, 0.0]
    """
    source, limit = as_batches(batches, seed=state.seed), Budget.parse(budget)
    total = limit.total_updates(updates_per_epoch(source, state.accumulate))
    policy = resolve(policy, total)
    bind(policy, state.optimizer)
    return _run(state, source, policy, limit, total)


def resolve(policy: Policy | Callable[[int | None], Policy], updates: int | None) -> Policy:
    """The policy itself, or what a function from the number of updates makes.

    Raises:
        ConfigError: neither of them.
    """
    made = policy if isinstance(policy, Policy) or not callable(policy) else policy(updates)
    if not isinstance(made, Policy):
        raise ConfigError(f"a policy is a Policy, such as onecycle.one_cycle(0.1); received {made!r}")
    return made


def updates_per_epoch(batches: Batches, accumulate: int = 1) -> int | None:
    """The number of updates of one pass, the ragged last group counted; None where the batches have no length."""
    try:
        return -(-len(batches) // accumulate)
    except TypeError:
        return None


class _Clock:
    """How far a run is: by updates of a known number, or by time."""

    def __init__(self, state: TrainState, begun: Position, limit: Budget, total: int | None):
        self._state, self._begun, self._limit, self._total = state, begun, limit.seconds, total
        self._zero = time.perf_counter() - (state.at.seconds - begun.seconds)

    @property
    def updates(self) -> int:
        return self._state.at.step - self._begun.step

    def seconds(self, now: float) -> float:
        return now - self._zero

    def share(self) -> float:
        if self._limit is None:
            return position(self.updates, self._total or 1)
        return min(1.0, self.seconds(time.perf_counter()) / self._limit)

    def finished(self) -> bool:
        if self._limit is None:
            return self.updates >= (self._total or 0)
        return self.updates > 0 and self.share() >= 1.0  # however short, it holds one update


def _run(state: TrainState, source: Batches, policy: Policy, limit: Budget, total: int | None) -> Iterator[Event]:
    begun = state.begun = state.begun or Position(**vars(state.at))
    clock = _Clock(state, begun, limit, total)
    look_every = 1 if state.runtime.device.type == "cpu" else LOOK_EVERY
    if not all(module.training for module in state.model.modules()):  # a tenth of the cost of train()
        state.model.train()
    values = policy(state.at.progress)
    # A state saved between the last update and the end of its epoch still owes that end.
    while (unfinished := not clock.finished()) or state.at.batch:
        started = time.perf_counter()
        rest = source.epoch(state.at.epoch, state.at.batch) if unfinished else iter(())
        for group in groups_of(rest, state.accumulate):
            step, progress = clock.updates, clock.share()
            values = write(policy, state.optimizer, progress)
            with seeded(state.generators, derive_seed(state.seed, "update", state.at.step)):
                loss, metrics, samples = update(state, [state.runtime.move(batch) for batch in group])
            state.means.add(step, values["lr"], samples, loss, metrics)
            if len(state.means.pending) >= look_every:
                state.means.read()
            now = time.perf_counter()
            state.means.seconds += now - started
            state.at.advance(len(group), begun.seconds + clock.seconds(now), progress)
            yield Update(
                step, total, state.at.epoch - begun.epoch, progress, values, loss, metrics, samples, clock.seconds(now)
            )
            if clock.finished():
                break
            started = time.perf_counter()
        if state.at.batch == 0:
            raise DataError("there are no batches to train on (an iterator can be gone through only once)")
        yield _end_epoch(state, begun, values)
    state.begun = None


def _end_epoch(state: TrainState, begun: Position, values: dict[str, float]) -> EpochEnd:
    means, samples, seconds = state.means.means(), state.means.samples, state.means.seconds
    state.means = RunningMeans()
    state.at.epoch, state.at.batch = state.at.epoch + 1, 0
    epoch = state.at.epoch - 1 - begun.epoch
    return EpochEnd(epoch, state.at.step - begun.step, means, None, values, samples, seconds)


def groups_of(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """The batches of each update: `size` of them, and what is left at the end."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

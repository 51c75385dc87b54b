"""The training loop: a generator of frozen events. Stopping is `break`; going on is calling it again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from ..checks import whole
from ..data.batches import Batches, as_batches, length_of
from ..errors import ConfigError, DataError, Interrupted, StopTraining
from ..optim.groups import bind
from ..schedules.budget import Budget
from ..schedules.policy import Policy, position
from .guard import LOOK_EVERY, Guard
from .means import Reading
from .norms import SHARE, estimate_statistics
from .rescue import Rescue
from .signals import StopRequest
from .state import Position, TrainState


@dataclass(frozen=True, slots=True)
class Update:
    """One update was applied. `step` counts from 0 within the run; `values` are those that the update used.

    `valid` is what `evaluate` returned after it, where ``evaluate_every`` said so. `seconds` are those since the run's
    first update, the evaluations and what the events' receivers did among them. `rescue` says that the run was lost,
    and went back to a good state right before this update.
    """

    step: int
    updates: int | None
    epoch: int
    progress: float
    values: dict[str, float]
    samples: int
    seconds: float
    reading: Reading
    valid: dict[str, float] | None = None
    rescue: Rescue | None = None

    @property
    def loss(self) -> float:
        """The mean training loss of the update's samples; reading it waits for an accelerator."""
        return self.reading.numbers["loss"]

    @property
    def metrics(self) -> dict[str, float]:
        """The means of the metrics over the update's samples."""
        return {name: value for name, value in self.reading.numbers.items() if name != "loss"}

    @property
    def is_read(self) -> bool:
        """Whether loss and metrics have been read, so that asking for them waits for nothing."""
        return self.reading.is_read

    @property
    def lr(self) -> float:
        """The learning rate that the update used."""
        return self.values["lr"]

    @property
    def row(self) -> dict[str, Any]:
        """The update as a flat record, made once: step, epoch, values, loss, metrics, ``valid_*`` and seconds.

        Of an update before which the run was rescued also ``rescue_back_to``, ``rescue_loss`` and ``rescue_factor``.
        """
        if self.reading.row is None:
            self.reading.row = {
                "step": self.step, "epoch": self.epoch, **self.values, **self.reading.numbers,
                **{f"valid_{name}": value for name, value in (self.valid or {}).items()},
                **(self.rescue.row if self.rescue else {}), "seconds": round(self.seconds, 6),
            }  # fmt: skip
        return self.reading.row


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """An epoch, or the last piece of one, is over. `step` is the number of updates so far in the run.

    `train` are means over the epoch's samples, in training mode; `valid` is what `evaluate` returned, if it was called.
    `seconds` are those of the epoch's updates alone.
    """

    epoch: int
    step: int
    train: dict[str, float]
    valid: dict[str, float] | None
    values: dict[str, float]
    samples: int
    seconds: float

    @property
    def is_read(self) -> bool:
        """Whether its numbers have been read: they have."""
        return True

    @property
    def row(self) -> dict[str, Any]:
        """The epoch as a flat record: its last step, values, ``train_*`` and ``valid_*`` means, samples, seconds."""
        means = {f"train_{name}": value for name, value in self.train.items()}
        means |= {f"valid_{name}": value for name, value in (self.valid or {}).items()}
        return {
            "epoch": self.epoch, "step": self.step - 1, **self.values, **means, "samples": self.samples,
            "seconds": self.seconds,
        }  # fmt: skip


Event = Update | EpochEnd
# How much the latest update counts in the running mean of what one takes.
LATEST = 0.25
# So many updates in a row that all take that much longer tell that everything does, and not some of them by chance.
LASTING, LONGER = 3, 1.5


@dataclass(frozen=True)
class Charges:
    """What a time budget pays beside its updates, in seconds: what was spent before, one evaluation, what comes after.

    `began` is when it began, by `time.perf_counter`; None: with the first update. `evaluation` is an estimate, which
    the first evaluation replaces.
    """

    began: float | None = None
    evaluation: float = 0.0
    after: float = 0.0


def train(
    state: TrainState,
    batches: Batches | Iterable[Any],
    budget: Any,
    policy: Policy | Callable[[int | None], Policy],
    evaluate: Callable[[], dict[str, float]] | None = None,
    *,
    evaluate_every: int | None = None,
    stop: StopRequest | None = None,
    charges: Charges = Charges(),
) -> Iterator[Event]:
    """Train inside a budget, one event an update and one at the end of each epoch.

    Update k of N (k from 0) uses the policy at ``k / (N - 1)``. Under a time budget it is at the share that has elapsed
    of the time up to the last update: what remains is kept for what follows that, by the measured time of an update, of
    an evaluation, and by `charges`. After a `break`, an exception or a restored state, calling `train` again goes on
    with the run under way, exactly; `TrainState.end_run` gives it up. Batch order, dropout and augmentation are derived
    from ``state.seed`` and the position, and the caller's global generators are as they were whenever the loop's body
    runs.

    Args:
        state: the model in training; changed in place.
        batches: anything that `onecycle.as_batches` takes.
        budget: see `Budget.parse`.
        policy: a policy, or a function from the number of updates (None if unknown) to one.
        evaluate: called at the end of each epoch, for the ``valid`` of its event.
        evaluate_every: call it after each so many updates instead, for the ``valid`` of theirs, and at the end.
        stop: where it says so, the run is left after the event under way, or ended.
        charges: what a time budget pays beside the updates.

    Raises:
        ConfigError: a budget or a policy that does not fit.
        DataError: no batch, or fewer than the run needs.
        NonFiniteLoss: the loss became NaN or infinite, and the run could not be rescued or was not to be.
        Interrupted: `stop` has a signal.

    >>> import onecycle, torch
    >>> model = torch.nn.Linear(2, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), onecycle.Supervised(torch.nn.MSELoss()))
    >>> data = [(torch.ones(4, 2), torch.zeros(4, 1))] * 5
    >>> policy = onecycle.preset("linear", 0.5)
    >>> [event.lr for event in train(state, data, "3 updates", policy) if isinstance(event, Update)]
    [0.5, 0.25, 0.0]
    """
    if not any(p.requires_grad for group in state.optimizer.param_groups for p in group["params"]):
        raise ConfigError("all weights of the optimizer are frozen: unfreeze what is to be trained")
    source, limit = as_batches(batches, seed=state.seed), Budget.parse(budget)
    state.reads(source)
    total = limit.total_updates(updates_per_epoch(source, state.accumulate))
    policy = resolve(policy, total)
    bind(policy, state.optimizer)
    if evaluate_every is not None:
        whole("evaluate_every", evaluate_every, what="the number of updates from one evaluation to the next")
    clock = _Clock(state, limit, total, charges, stop)
    run = _run(state, source, policy, clock, _Evaluations(state, source, clock, evaluate, evaluate_every))
    return run if stop is None else _stoppable(run, state, stop)


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
    length = length_of(batches)
    return None if length is None else -(-length // accumulate)


def samples_per_update(batch_size: int | None, accumulate: int, batches: int | None) -> int | None:
    """The samples of an update: those of the batches accumulated for it, no more than the `batches` of an epoch.

    None where the size of a batch is not known; `batches` may be None too.

    >>> samples_per_update(64, 4, 10), samples_per_update(64, 64, 2), samples_per_update(64, 4, None)
    (256, 128, 256)
    """
    if batch_size is None:
        return None
    return batch_size * (accumulate if batches is None else min(accumulate, batches))


class _Clock:
    """How far a run is: by updates of a known number, or by time."""

    def __init__(self, state: TrainState, limit: Budget, total: int | None, charges: Charges, stop: StopRequest | None):
        self._state, self._seconds, self.total, self._charges = state, limit.seconds, total, charges
        self._stop = stop
        self._latest: deque[float] = deque(maxlen=LASTING)  # seconds of updates
        self._usual: float | None = None  # of those, when what follows the last update was measured
        ranks = state.runtime.ranks  # which all go by the time of the main one
        self._main = ranks if limit.seconds is not None and ranks.world > 1 else None
        self._told = 0.0

    def now(self) -> float:
        """The time, which is the same on all ranks of a run in a time budget: that of their last `look`."""
        return time.perf_counter() if self._main is None else self._told

    def look(self) -> float:
        """The time as it is now."""
        if self._main is None:
            return time.perf_counter()
        self._told = self._main.now()
        return self._told

    def start(self) -> None:
        """Begin the run, or go on with the one under way."""
        at, now = self._state.at, self.look()
        if self._state.begun is None:
            began = self._charges.began
            at.progress, at.pace, at.charged = 0.0, 0.0, 0.0 if began is None else now - began
            at.ending = self._charges.evaluation + self._charges.after
            if self._main is not None:
                at.charged, at.ending = self._main.broadcast((at.charged, at.ending))
            self._state.begun = Position(**asdict(at))
        self.begun = self._state.begun
        self._zero = now - (at.seconds - self.begun.seconds)

    @property
    def updates(self) -> int:
        return self._state.at.step - self.begun.step

    def seconds(self, now: float) -> float:
        return now - self._zero

    def share(self) -> float:
        """Of the run, where the next update would be: above 1 for one more than there is time for."""
        if self._seconds is None:
            return position(self.updates, self.total or 1)
        at = self._state.at
        spent, last = at.charged + self.seconds(self.now()), self._seconds - self._ending() - at.pace
        return spent / last if last > 0 else 2.0

    def _ending(self) -> float:
        """The seconds that what follows the last update takes by now: more where the machine has become slower."""
        slower = 1.0 if self._usual is None else min(self._latest) / self._usual
        return self._state.at.ending * (slower if slower > LONGER else 1.0)

    def finished(self) -> bool:
        if self._stop is not None and self._stop.reason is not None:
            return True
        if self._seconds is None:
            return self.updates >= (self.total or 0)
        return self.updates > 0 and self.share() > 1.0  # however short, it holds one update

    def updated(self, batches: int, started: float, progress: float) -> float:
        """Move the position past an update that began at `started`; the seconds since the run's start."""
        now, at = self.look(), self._state.at
        if self._seconds is not None:
            at.pace += (now - started - at.pace) * (LATEST if at.pace else 1.0)
            self._latest.append(now - started)
            if self._usual is None and len(self._latest) == LASTING:
                self._usual = min(self._latest) or None
        self._state.means.seconds += now - started
        at.advance(batches, self.begun.seconds + self.seconds(now), progress)
        return self.seconds(now)

    def evaluated(self, started: float, statistics: float) -> None:
        """An evaluation that began at `started` is over: one more is to fit in after the last update.

        It began with the statistics of batch norms, which took `statistics` seconds and will be of all batches then.
        """
        more = statistics * (1 / SHARE - 1)
        self._state.at.ending = self.look() - started + more + self._charges.after
        self._usual = min(self._latest) if len(self._latest) == LASTING else None


class _Evaluations:
    """When a run is evaluated: at the end of each epoch, or after each so many updates and at its end."""

    def __init__(
        self,
        state: TrainState,
        source: Batches,
        clock: _Clock,
        evaluate: Callable[[], dict[str, float]] | None,
        every: int | None,
    ):
        self._state, self._source, self._clock, self._evaluate, self._every = state, source, clock, evaluate, every
        self._last: tuple[int, dict[str, float]] | None = None
        self._more = False  # whether statistics of batch norms are left to the end of the epoch
        self._closed = False  # by the end of an epoch that was known to be the last

    def after_update(self) -> dict[str, float] | None:
        """What was measured, where it is time."""
        return self._measure(within=True) if self._every is not None and self._is_due() else None

    def after_epoch(self) -> dict[str, float] | None:
        """What was measured, where it is time; not twice for the same weights."""
        self._closed = self._clock.finished()
        if self._evaluate is None and self._closed:
            estimate_statistics(self._state, self._source)
        return self._measure() if self._closed or self._is_due() else None

    def after_run(self) -> None:
        """Measure the statistics of batch norms where an epoch turned out to be the last after its end was seen.

        So it is when an observer asks for the end there, or the rest of the time went by meanwhile.
        """
        if not self._closed and self._clock.updates and (self._evaluate is None or not self._is_due()):
            estimate_statistics(self._state, self._source, epoch=self._state.at.epoch - 1)

    def _is_due(self) -> bool:
        return self._every is None or self._clock.updates % self._every == 0

    def _measure(self, within: bool = False) -> dict[str, float] | None:
        if self._evaluate is None:
            return None
        step = self._state.at.step
        if self._last is None or self._last[0] != step or (self._more and not within):
            started = self._clock.look()
            last = self._clock.finished()
            self._more = estimate_statistics(self._state, self._source, last=last, within=within)
            statistics = self._clock.look() - started
            self._last = step, self._evaluate()
            self._clock.evaluated(started, statistics)
        return self._last[1]


def _run(
    state: TrainState, source: Batches, policy: Policy, clock: _Clock, evaluations: _Evaluations
) -> Generator[Event, None, None]:
    clock.start()
    begun, guard = clock.begun, Guard(state, source, policy, clock.total)
    state.training_mode()
    guard.begin()
    values = policy(state.at.progress)
    values["lr"] *= guard.factor
    # A state saved between the last update and the end of its epoch still owes that end.
    while (unfinished := not clock.finished()) or state.at.batch:
        started = clock.now()
        rest = state.runtime.epoch(source, state.at.epoch, state.at.batch) if unfinished else iter(())
        with closing(groups_of(rest, state.accumulate)) as groups:
            del rest  # what reads ends with the block, with the processes of a loader, and not with a traceback
            for group in groups:
                step, progress = clock.updates, min(1.0, max(clock.share(), state.at.progress))
                values, samples, reading, rescue = guard.apply(step, progress, group)
                seconds = clock.updated(len(group), started, progress)
                state.follow()
                yield Update(
                    step, clock.total, state.at.epoch - begun.epoch, progress, values, samples, seconds, reading,
                    evaluations.after_update(), rescue,
                )  # fmt: skip
                if clock.finished():
                    break
                started = clock.now()
        if state.at.batch == 0:
            raise DataError("there are no batches to train on (an iterator can be gone through only once)")
        yield _end_epoch(state, clock, values, evaluations, guard)
    evaluations.after_run()
    state.begun = state.watch = None
    state.kept = []


def _end_epoch(
    state: TrainState, clock: _Clock, values: dict[str, float], evaluations: _Evaluations, guard: Guard
) -> EpochEnd:
    valid = evaluations.after_epoch()
    means, samples, seconds = state.means.means(), state.means.samples, state.means.seconds
    guard.end_epoch(clock.finished())
    epoch = state.at.epoch - clock.begun.epoch
    state.at.epoch, state.at.batch = state.at.epoch + 1, 0
    return EpochEnd(epoch, clock.updates, means, valid, values, samples, seconds)


def _stoppable(events: Generator[Event, None, None], state: TrainState, stop: StopRequest) -> Iterator[Event]:
    state.stop = stop
    with closing(events):
        for event in events:
            yield event
            if stop.ranks.world > 1:
                update = isinstance(event, Update)
                stop.hear(state.heard if update else None, due=update and event.step % LOOK_EVERY == LOOK_EVERY - 1)
            if stop.signal is not None:
                raise Interrupted(f"stopped by {stop.name} after update {state.step - 1}", signal=stop.signal)


def groups_of(batches: Iterator[Any], size: int) -> Generator[list[Any], None, None]:
    """The batches of each update: `size` of them, and what is left at the end."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def watch(
    events: Iterable[Event], observers: Sequence[Callable[[Event], Any]], measured: Sequence[Any], stop: StopRequest
) -> None:
    """Show each event to each of the observers; one of them may ask for the end.

    Before the first event those that have a `begin` are told what was `measured` before.
    """
    for observer in observers:
        if hasattr(observer, "begin"):
            _show(observer.begin, measured, stop)
    stop.agree()
    for event in events:
        for observer in observers:
            _show(observer, event, stop)


def _show(observer: Callable[[Any], Any], what: Any, stop: StopRequest) -> None:
    """Call an observer, whose `StopTraining` is a request."""
    try:
        observer(what)
    except StopTraining as asked:
        stop.reason = str(asked) or "an observer asked for it"

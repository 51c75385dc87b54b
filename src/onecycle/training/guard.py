"""One update of a run that is watched: where the run is lost, it goes back to a good state first, and on from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from ..data.batches import Batches
from ..data.seeds import seeded
from ..errors import NonFiniteLoss
from ..optim.groups import write
from ..schedules.policy import Policy
from ..text import count
from .balance import targets_of, trivial_loss
from .means import Reading, RunningMeans, diverged
from .norms import keeps_its_place
from .objectives import Supervised
from .rescue import BLOCK, MOST, Rescue, Watch, is_dead, smaller
from .state import TrainState
from .step import compute, update

# On an accelerator a loss is looked at once in so many updates, since looking waits for it.
LOOK_EVERY = 50
# Places of a run at which its largest learning rate to come is looked for.
PLACES = 200


class Applied(NamedTuple):
    """What an update was: the values that it used, its samples, its loss and metrics, and the rescue before it."""

    values: dict[str, float]
    samples: int
    reading: Reading
    rescue: Rescue | None


class Lost(NamedTuple):
    """Where a run was lost: its update, learning rate and loss; and the error, where it cannot go on as it is."""

    step: int
    lr: float
    loss: float
    error: NonFiniteLoss | None = None


class Guard:
    """The updates of a run, and the watch over it where `TrainState.rescue` asks for one.

    All that is decided follows from the losses and the number of updates, never from the time, so that a run that is
    resumed decides alike.
    """

    def __init__(self, state: TrainState, source: Batches, policy: Policy, updates: int | None):
        self._state, self._source, self._policy, self._updates = state, source, policy, updates
        self._on_cpu = state.runtime.device.type == "cpu"
        self._every = BLOCK if self._on_cpu else LOOK_EVERY
        self._places: dict[int, tuple[int, int]] = {}  # of updates that were not looked at, on an accelerator

    def begin(self) -> None:
        """Begin a run, or go on with the one under way."""
        state = self._state
        if not state.rescue:
            state.watch, state.kept, state.means.watched = None, [], None
            return
        state.means.watched = state.means.watched or []
        if state.watch is None:
            level = trivial_loss(state.loss, targets_of(self._source))
            state.watch = Watch.of_run(self._updates, level, judged=isinstance(state.loss, Supervised))
            state.keep(proven=True)

    @property
    def factor(self) -> float:
        """What the learning rates of the policy are multiplied with."""
        return 1.0 if self._state.watch is None else self._state.watch.factor

    def apply(self, step: int, progress: float, group: Sequence[Any]) -> Applied:
        """Apply update `step` of the run to a group of batches, after a rescue where the run is lost by now.

        An update whose own loss is not finite is made again after the rescue, on the same batches.

        Raises:
            NonFiniteLoss: the run is lost, and cannot be rescued or is not to be.
        """
        state, rescue, first = self._state, self._look(step, progress), None
        if not self._on_cpu:
            self._places[step] = state.at.epoch, state.at.batch
        at_once = self._on_cpu or (self._updates is not None and step == self._updates - 1)
        while True:
            values = write(self._policy, state.optimizer, progress, self.factor)
            try:
                with seeded(state.generators, state.draws(state.at.step)):
                    means = update(state, [state.runtime.move(batch) for batch in group])
                reading = state.means.add(step, values["lr"], means)
                if at_once or (step + 1) % LOOK_EVERY == 0:
                    state.means.read()
            except NonFiniteLoss as error:  # where nobody watches, or the gradients are not finite at any scale of fp16
                if state.watch is None:
                    raise
                lost = Lost(step, values["lr"], math.nan, error)
            else:
                lost = self._not_finite() if at_once and state.watch is not None else None
                if lost is None:
                    if state.watch is not None and (step + 1) % self._every == 0:
                        state.watch.dead = self._is_dead(state.watch)
                    return Applied(values, means.samples, reading, rescue)
                state.means.samples -= means.samples
            again, first = first is not None, first or lost
            rescue = self._rescue(first, step, progress, of_data=again)

    def end_epoch(self, last: bool) -> None:
        """Go on to the means of the next epoch.

        Raises:
            NonFiniteLoss: it was the `last` one, and the run is lost.
        """
        state = self._state
        state.means.read()
        if last and state.watch is not None:
            if (lost := self._not_finite()) is not None and lost.error is not None:
                raise lost.error
            state.check_finite()
        state.means = RunningMeans(watched=state.means.watched)

    def _not_finite(self) -> Lost | None:
        """The first loss that is not finite among those that were read and not looked at."""
        watched = self._state.means.watched or ()
        if self._on_cpu and (not watched or math.isfinite(watched[-1][2])):  # those before were looked at
            return None
        return next((Lost(*one, diverged(one[2], *one[:2])) for one in watched if not math.isfinite(one[2])), None)

    def _look(self, step: int, progress: float) -> Rescue | None:
        """Look at the losses of the updates before `step`, where it is time; keep a good state, or rescue the run."""
        state, watch = self._state, self._state.watch
        if watch is None or step % self._every:
            return None
        state.means.read()
        watched, state.means.watched = state.means.watched or [], []
        for number, lr, loss in watched:
            if not math.isfinite(loss):
                lost = Lost(number, lr, loss, diverged(loss, number, lr))
                return self._rescue(lost, step, progress, of_data=self._of_data(number))
            if watch.take(loss, lr):
                return self._rescue(Lost(number, watch.lr, watch.mean), step, progress)
        self._places.clear()
        if watch.dead:
            return self._rescue(Lost(step - 1, 0.0, watch.mean), step, progress)
        since = watch.losses - state.kept[-1].watch.losses if state.kept else watch.every
        if since >= 2 * BLOCK and watch.is_well:
            state.prove()
            if since >= watch.every:
                state.keep()
        return None

    def _is_dead(self, watch: Watch) -> bool:
        """Whether a run that should have learned something by now cannot, by the gradients of its latest update."""
        pieces, into = divmod(watch.losses, watch.lasting)
        if not watch.judged or watch.has_learned or pieces < 2 or into >= self._every:
            return False
        return is_dead(p for group in self._state.optimizer.param_groups for p in group["params"])

    def _rescue(self, lost: Lost, step: int, progress: float, *, of_data: bool = False) -> Rescue | None:
        """Bring back the last good state, with smaller learning rates from here on.

        None where that cannot be, and the run can go on as it is.

        Raises:
            NonFiniteLoss: it cannot go on: there is no such state, it would be lost alike, or it was tried too often.
        """
        state, watch = self._state, self._state.watch
        possible = watch is not None and any(one.proven and one.step < step for one in state.kept)
        if watch is None or not possible or (lost.error is None and len(watch.rescued) >= MOST):
            if lost.error is not None:
                raise lost.error
            return None
        kept = state.go_back()
        if lost.error is not None and (of_data or len(watch.rescued) >= MOST):
            raise _explained(lost.error, of_data, kept.step, watch)
        to_come = max(self._policy.schedules["lr"](progress + (1 - progress) * i / PLACES) for i in range(PLACES + 1))
        times = watch.times + 1 if watch.back_to == kept.step else 1
        factor = watch.factor * smaller(lost.lr, watch.factor * to_come, times)
        rescued = [*watch.rescued, step]
        state.watch = replace(kept.watch, factor=factor, rescued=rescued, back_to=kept.step, times=times)
        state.means.watched = []
        self._places.clear()
        return Rescue(step, kept.step, lost.loss, factor)

    def _of_data(self, number: int) -> bool:
        """Whether the batches of update `number` give no finite loss in a good state either, where they can be read."""
        state, place = self._state, self._places.get(number)
        if place is None or not any(one.proven and one.step < number for one in state.kept):
            return False
        if not keeps_its_place(self._source, place[1]):
            return False
        state.go_back()
        begun = state.at if state.begun is None else state.begun
        ranks, runtime = state.runtime.ranks, state.runtime
        with torch.no_grad(), seeded(state.generators, state.draws(begun.step + number)):
            parts = ranks.parts(list(islice(runtime.epoch(self._source, *place), state.accumulate)))
            losses = [compute(state.loss, state.model, runtime.move(part.batch), runtime).loss for part in parts]
        return ranks.any(not all(bool(torch.isfinite(loss)) for loss in losses))


def _explained(error: NonFiniteLoss, of_data: bool, back_to: int, watch: Watch) -> NonFiniteLoss:
    """The error, with what was tried against it."""
    if of_data:
        said = (
            f"The weights after {back_to} updates, which were good, give no finite loss for these batches either: look "
            "at their inputs and targets"
        )
    else:
        updates = ", ".join(map(str, watch.rescued))
        said = (
            f"It was rescued {count(len(watch.rescued), 'time')} before, at updates {updates}, the last time at "
            f"{watch.factor:.2g} times the learning rates. The weights are those after {back_to} updates"
        )
    return NonFiniteLoss(f"{error}. {said}", step=error.step, lr=error.lr)

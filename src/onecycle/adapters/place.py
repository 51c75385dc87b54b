"""Where a scheduler is in its schedule: counted by updates, stretched, saved, and told when it ends too early."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer

from ..checks import is_number, is_whole, whole
from ..errors import CheckpointError, ConfigError, warn
from ..optim.driver import stepped
from ..schedules.policy import WHOLE_RUN
from ..text import count, duration

# GradScaler halves its scale at each overflow: so many updates that it skips in a row take 2 ** 24 to 1.
SKIPPED_AT_MOST = 24
# Of a run that ends before this share of its schedule, it is said.
ENDED = 0.95
ONWARDS = 'attach PolicyScheduler(optimizer, onecycle.preset("extension", lr_max), updates)'


@dataclass(slots=True)
class Place:
    """The position of a scheduler, which outlives it, so that an end in the middle of a cycle can be told.

    `position` is ahead of `counted`, the updates, by steps that no update has confirmed yet: only before the first.
    From `stretched_at` on, where the progress was `stretched_progress`, the rest of the curve takes the rest of the
    `total` updates.

    >>> place = Place(total=11, built=11, position=5)
    >>> place.progress()
    0.5
    >>> place.extend(16)
    >>> place.move_to(6)
    >>> place.progress()
    0.55
    """

    total: int
    built: int  # the total that the scheduler was made with
    position: int = 0
    counted: int = 0
    stretched_at: int = 0
    stretched_progress: float = 0.0
    pending: int = 0  # updates since the last step of the scheduler
    updated: bool = False  # whether the optimizer has made an update since the scheduler was made or loaded
    tentative: bool = False  # whether `position` is ahead of `counted`
    sparse: bool = False  # whether one step has stood for several updates
    past_end: bool = False  # whether it was said that the end is past
    saved: int | None = None  # the position when the state was saved or loaded last
    handed_over: int | None = None  # the position from which another scheduler goes on, as in SequentialLR
    groups: int = 0  # the parameter groups that have their values
    onwards: str = ONWARDS  # how to train on from the end

    def progress(self) -> float:
        """What share of the curve lies before the next update: from 0 to 1."""
        at, before, position = self.stretched_at, self.stretched_progress, self.position
        left = self.total - 1 - at
        if left <= 0:
            return before
        if position > left + at:
            return 1.0
        return before + ((position if position > 0 else 0) - at) / left * (1 - before)

    def move_to(self, position: int) -> None:
        """Be at `position`, whatever was before."""
        self.position = self.counted = position
        self.pending, self.updated, self.tentative, self.handed_over = 0, False, False, None

    def updates(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Count an update: a hook after the steps of the optimizer."""
        self.pending += stepped(optimizer)

    def step(self) -> float | None:
        """Go on by one, if there was an update since the last step, or none at all so far; the progress if it did."""
        updates, self.pending, self.handed_over = self.pending, 0, None
        if not updates:
            self.tentative = not self.updated
            self.position += self.tentative
            return self.progress() if self.tentative else None
        if updates > 1 or self.counted >= self.total:
            self._warn_of(updates)
        self.position = self.counted = position = self.counted + 1
        self.updated = True
        if position < self.total and not self.stretched_at:  # as mostly, without a call
            return position / (self.total - 1)
        return self.progress()

    def _warn_of(self, updates: int) -> None:
        """Say once that a step stands for several updates, and that there are more than the total."""
        if updates > 1 and not self.sparse:
            self.sparse = True
            warn(
                f"stepped once after {count(updates, 'updates')}: a step stands for one update, so that the schedule "
                f'over {self.total} goes by that much more slowly. Call step() after each update (interval="step" in '
                'Lightning, step_every="batch" in skorch), unless the schedule was meant to count epochs'
            )
        if self.counted >= self.total and not self.past_end:
            self.past_end = True
            warn(
                f"stepped past the end of a schedule over {self.total}: the values stay at their last. Give the true "
                f"number of updates; to go on from the end {self.onwards}"
            )

    def take_back(self) -> None:
        """Before the first update: be where the updates are, whatever steps there were."""
        if (ahead := self.position - self.counted) > SKIPPED_AT_MOST:
            warn(
                f"the scheduler was stepped {ahead} times before the first update, and updates alone move it: it uses "
                f"the values of position {self.counted}. To begin elsewhere give last_epoch, or load a state"
            )
        self.position, self.tentative = self.counted, False

    def extend(self, total: Any) -> None:
        """Stretch what is left of the curve over the rest of `total` updates in all.

        Raises:
            ConfigError: no number of updates above those applied, or nothing of the curve is left.
        """
        progress = self.progress()
        if self.position >= self.total or progress >= 1:
            raise ConfigError(
                f"nothing of the curve is left to stretch over {total} updates in all, after {self.position} of "
                f"{self.total}: to go on from the end {self.onwards}"
            )
        self.total = whole("total_steps", total, least=self.position + 1, what=WHOLE_RUN)
        self.stretched_progress, self.stretched_at = progress, max(0, self.position)

    def _next(self) -> int:
        """The position of the next update: one further between an update and its step, if steps go by updates."""
        if self.counted < 0:  # its turn is yet to come
            return self.counted
        if self.handed_over is not None:
            return self.handed_over
        return self.counted + ((self.pending == 1 and not self.sparse) or self._left_alone())

    def _left_alone(self) -> bool:
        """Whether several updates came without a step, after steps for one each: another scheduler's turn has come."""
        return self.pending > 1 and self.updated and not self.sparse

    def hand_over(self) -> None:
        """Note that another scheduler has written since the last update: its values are to stay."""
        if self.handed_over is None and self.counted >= 0:
            self.handed_over = self.counted + 1

    def save(self) -> dict[str, Any]:
        """As plain numbers."""
        self.saved = self._next()
        return {
            "position": self.saved,
            "total": self.total,
            "stretched": [self.stretched_at, self.stretched_progress],
            "built": self.built,
        }

    def load(self, state: Any) -> None:
        """Be where the state is, and stretch the rest over the total that this was made with, if that is another.

        Raises:
            CheckpointError: what is neither saved by `save` nor by torch's OneCycleLR, or is beyond the total.
            ConfigError: nothing of the curve is left to stretch over a larger total.
        """
        position, total, at, progress, built = _read(state, self.built)
        if self.built != built and self.built <= position < total:
            raise CheckpointError(
                f"the state is at update {position} of {total}, and this scheduler was made for {self.built} in all: "
                "give the number of updates of the whole run, those before included"
            )
        place = replace(self, total=total, stretched_at=at, stretched_progress=progress)
        place.move_to(position)
        if self.built != built and self.built > position:
            place.extend(self.built)
        self.total, self.stretched_at = place.total, place.stretched_at
        self.stretched_progress = place.stretched_progress
        self.move_to(position)
        self.saved = position

    def end(self, caller: tuple[str, int]) -> None:
        """Say that training ended in the middle of the cycle, if it did and the position was not saved."""
        position = self._next()
        others = position < 0 or self.handed_over is not None or self._left_alone()
        made = not others and (self.updated or self.pending)
        if made and position < ENDED * self.total and self.saved != position and not hasattr(sys, "last_value"):
            warnings.warn_explicit(
                f"training ended at {position} of {self.total} steps of its schedule, at values that it was not to end "
                "with: give the true number of updates, or save the scheduler's state to go on",
                UserWarning,
                *caller,
            )


def _read(state: Any, built: int) -> tuple[int, int, int, float, int]:
    """Position, total, where it was stretched and at what progress, and the total that it was made with."""
    if isinstance(state, Mapping) and "position" not in state:
        if of_torch(state):
            total = state["total_steps"]
            state = {"position": state["last_epoch"], "total": total, "stretched": [0, 0.0], "built": total}
        else:
            _refuse_another(state, built)
    try:
        position, total, (at, progress), built = (state[key] for key in ("position", "total", "stretched", "built"))
        if is_whole(position, -1) and is_whole(total) and is_whole(at, 0) and is_number(progress) and is_whole(built):
            return position, total, at, progress, built
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(
        'a scheduler is saved as {"position": 5, "total": 10, "stretched": [0, 0.0], "built": 10}, or as torch\'s own '
        f"OneCycleLR is; received {state!r}"
    )


def of_torch(state: Mapping[str, Any]) -> bool:
    """Whether it is the state of torch's OneCycleLR."""
    return {"last_epoch", "total_steps", "_schedule_phases"} <= set(state)


def _refuse_another(state: Mapping[str, Any], built: int) -> None:
    """Say how to go on from the state of a scheduler of another kind.

    Raises:
        CheckpointError: it is one.
    """
    if is_number(passed := state.get("seconds")):
        raise CheckpointError(
            f"the state is of a policy over a time, {duration(float(passed or 0))} of which have passed, and this "
            f"scheduler is over {count(built, 'updates')}: go on with the time (in a Trainer "
            "with_policy(..., budget=...)), or begin a schedule over updates without this state"
        )
    if is_whole(at := state.get("last_epoch", ""), 0):
        arguments = [key for key in state if not key.startswith("_") and key not in ("last_epoch", "base_lrs")]
        raise CheckpointError(
            f"the state is of another scheduler of torch, after {count(int(at), 'updates')}, with "
            f"{', '.join(arguments[:3]) or 'no arguments'}: its curve is not this one's. Load weights and optimizer "
            f"alone; to begin this schedule at that place, make it with last_epoch={int(at) - 1}"
        )

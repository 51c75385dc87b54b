"""A learner's run on disk: started or resumed, recorded, checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, Interrupted, NonFiniteLoss
from ..training.state import TrainState
from . import checkpoint
from . import run as runs
from .history import Checkpointer, History, Observer, Recorder, read_history


@dataclass
class Recording:
    """The folder of a run that is under way, and who writes into it."""

    folder: Path
    history: History
    recorder: Recorder
    checkpointer: Checkpointer

    @classmethod
    def start(
        cls,
        folder: Path,
        state: TrainState,
        config: Mapping[str, Any],
        notes: list[str],
        stack: ExitStack,
        lr_max: float | None = None,
    ) -> Recording:
        """A new run in `folder`, whose peak is `lr_max`.

        Raises:
            CheckpointError: the folder holds another run, or cannot be written.
        """
        runs.create(folder, config, notes, lr_max)
        return cls._open(folder, state, History(), stack)

    @classmethod
    def resume(cls, folder: Path, state: TrainState, config: Mapping[str, Any], stack: ExitStack) -> Recording:
        """The run in `folder`, with `state` as its last good checkpoint has it; from the start where there is none yet.

        Raises:
            CheckpointError: no run there, one with another configuration, only damaged checkpoints, or none for a
                model that is no longer as it began.
        """
        runs.check_same(folder, config)
        saved = checkpoint.latest(folder / "checkpoints")
        steps = epochs = 0
        if saved is None and state.step:
            raise CheckpointError(
                f"{folder} has no checkpoint yet, and this model has been trained since: give a fresh one to begin the "
                "run anew"
            )
        if saved is not None:
            state.load_state_dict(saved)
            begun = state.begun or state.at
            steps, epochs = state.at.step - begun.step, state.at.epoch - begun.epoch
        runs.truncate_records(folder / "steps.jsonl", "step", steps)
        runs.truncate_records(folder / "epochs.jsonl", "epoch", epochs)
        runs.change(folder, status="running", error=None)
        return cls._open(folder, state, read_history(folder), stack)

    @classmethod
    def _open(cls, folder: Path, state: TrainState, history: History, stack: ExitStack) -> Recording:
        recorder = Recorder(folder)
        stack.callback(recorder.close)
        return cls(folder, history, recorder, Checkpointer(state, folder / "checkpoints", before=recorder.sync))

    @property
    def watchers(self) -> list[Observer]:
        """The recorder first: what a checkpoint relies on is then written."""
        return [self.recorder, self.checkpointer]

    def failed(self, error: BaseException) -> None:
        """Keep what can be kept, and say in the error and in ``run.json`` where it is."""
        if isinstance(error, Interrupted):
            self.checkpointer.save()
            error.args = (f"{error}. A checkpoint is written; go on with --resume {self.folder}",)
        elif isinstance(error, KeyboardInterrupt):
            error.args = (f"stopped at once. Go on with --resume {self.folder}. {self.last_good()}",)
        elif isinstance(error, NonFiniteLoss):
            error.args = (f"{error}. {self.last_good()}",)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(CheckpointError):
            runs.change(self.folder, status=status, error=str(error) or type(error).__name__)

    def last_good(self) -> str:
        """In words, where the last checkpoint is."""
        found = checkpoint.checkpoints(self.folder / "checkpoints")
        return f"The last good checkpoint is {found[-1]}" if found else "There is no checkpoint yet"

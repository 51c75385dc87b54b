"""One run on disk: ``run.json``, ``steps.jsonl``, ``epochs.jsonl``, ``checkpoints/``, ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, ConfigError, Interrupted, NonFiniteLoss
from ..text import count
from ..training.launched import launch, restarts
from ..training.options import BEFORE
from ..training.ranks import ALONE, Ranks
from ..training.sharded import Weights, held_by_main, in_one_piece
from ..training.state import TrainState
from . import checkpoint
from .checkpoint import load_weights, save_weights
from .files import PILOTS, RUN, SUMMARY, WEIGHTS, differing, lock, plain, read_jsonl, rounded, write_jsonl
from .history import Checkpointer, History, Observer, Recorder, Result, named
from .origin import origin

# Of what the options of a run came to, that which decides how it goes on, and that no checkpoint brings back.
COME_TO = (
    "lr_max", "updates", "schedule", "batch_size", "accumulate", "clip", "loss", "class_weights", "smoothing",
    "parameters", "precision",
)  # fmt: skip

LONG = 200  # characters of one such difference


def placed(folder: Path, resume: bool, ranks: Ranks) -> tuple[Path, bool]:
    """Where this rank has the folder of a run, and whether that is to be resumed.

    So it is where torchrun has started ranks anew after one was lost, and the run there is one that it began: not an
    older one, for which the first start was refused. Each machine counts for itself how often that was.
    """
    resume = resume or (ranks.any(restarts() > 0) and ranks.from_main(lambda: _is_of_this_launch(folder)))
    return ranks.folder(folder, resume=resume), resume


def _is_of_this_launch(folder: Path) -> bool:
    """Whether there is a run that the torchrun which started this process has begun."""
    return launch() is not None and RUN.exists(folder) and RUN.read(folder).get("launch") == launch()


def create(
    folder: str | Path, config: Mapping[str, Any], *, facts: Mapping[str, Any] | None = None,
    resolved: Mapping[str, Any] | None = None, notes: Iterable[str] = (), prediction: Mapping[str, Any] | None = None,
    extends: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Make `folder` the home of a new run and write its ``run.json``.

    Args:
        config: what was asked for, exactly: a resumed run must ask for the same.
        facts: of the data, which a resumed run must find again.
        resolved: what the configuration came to, such as the peak learning rate that was found.
        notes: sentences about what was decided.
        prediction: what it takes to predict with the model, where `config` and `facts` do not say it.
        extends: what it goes on from, see `onecycle.records.extension`.

    Raises:
        CheckpointError: the folder holds another run or other files, or cannot be written.
    """
    record = {"status": "running", "config": dict(config), "resolved": dict(resolved or {}), "facts": dict(facts or {})}
    if prediction is not None:
        record["prediction"] = dict(prediction)
    if extends is not None:
        record["extends"] = dict(extends)
    if (name := launch()) is not None:
        record["launch"] = name
    folder = RUN.claim(folder)
    RUN.write(folder, {**record, "notes": list(notes), **origin(), "result": None, "error": None})
    return folder


def check_same(
    folder: str | Path, record: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any] | None = None,
    resolved: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Check that the run in `folder`, of this `record`, has this configuration, and data with these facts if any.

    So it is with what the options are `resolved` to: it may be something else by other data or options of a run in
    Python, or by another version.

    Raises:
        CheckpointError: it has others; the message names what differs.
    """
    before, now = record["config"], plain(dict(config))
    if facts:
        before, now = {**before, "facts": record["facts"]}, {**now, "facts": plain(facts)}
    if lines := differing(before, now):
        raise CheckpointError(
            f"{folder} was started with another configuration: {'; '.join(lines)}. Resume with the same one, or "
            "start a new run"
        )
    if lines := [*other_optimizer(record, resolved), *options_differing(record, resolved)]:
        raise CheckpointError(
            f"{folder} cannot be continued like this: its options came to something else, {'; '.join(lines)}. Give the "
            "data and the options that it was begun with, go on with the version of onecycle that began it, or start a "
            "new run"
        )


def other_optimizer(record: Mapping[str, Any], resolved: Mapping[str, Any] | None) -> list[str]:
    """What the default optimizer of a run came to, where that is another now; once "muon" was the default always."""
    parts = (record["resolved"], resolved or {})
    before, now = ((one.get("optimizer"), one.get("matrices_by_adamw", 0)) for one in parts)
    if before == now or not {before[0], now[0]} <= {"muon", "adamw"}:
        return []
    said = [repr(name) + (f" with AdamW for {count(left, 'matrices')}" if left else "") for name, left in (before, now)]
    mend = "" if before[1] else f": give optimizer={before[0]!r}"
    return [f"optimizer {said[0]}, now {said[1]}{mend}"]


def options_differing(
    record: Mapping[str, Any],
    resolved: Mapping[str, Any] | None,
    *,
    leave: Iterable[str] = (),
    more: Iterable[str] = (),
) -> list[str]:
    """What the options of a run came to and are `resolved` to now, where that differs; nothing where neither is known.

    Compared is `COME_TO`, but what is in `leave`, and what is in `more`.
    """
    names = [name for name in (*COME_TO, *more) if name not in leave]
    known = [name for name in names if name in record["resolved"] and name in (resolved or {})]
    known += ["scales"] if resolved else []
    before, now = ({name: rounded(one.get(name)) for name in known} for one in (record["resolved"], resolved or {}))
    norms = (
        record["resolved"].get("norm_statistics", BEFORE["norm_statistics"]),
        (resolved or {}).get("norm_statistics"),
    )
    if before and all(norms):  # earlier versions had running means alone; a model without norms has none
        before["norm_statistics"], now["norm_statistics"] = norms
    return [line if len(line) <= LONG else f"{line[:LONG]} ..." for line in differing(before, now)]


def is_over(record: Mapping[str, Any]) -> bool:
    """Whether the run of a ``run.json`` has come to its end: its test set is measured last, and the result has it."""
    return record["status"] == "finished" and "test" in record["result"]


def result_before_test(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run that is not over: without the test set's part."""
    return {name: value for name, value in result.items() if name not in ("test", "flipped")}


def _check_left(folder: Path) -> None:
    """Check that no other process writes the run in `folder`.

    Raises:
        CheckpointError: one does.
    """
    with suppress(FileNotFoundError), (folder / "steps.jsonl").open("r+", encoding="utf-8") as file:
        if not lock(file):
            raise CheckpointError(
                f"{folder} is being written by another process, which still trains: wait for its end, or stop it "
                "(Ctrl-C) before you go on with it"
            )


def truncate_records(path: Path, key: str, end: int) -> None:
    """Keep the records whose `key` is below `end`: a resumed run writes the others again.

    Raises:
        CheckpointError: there are not `end` of them, one is damaged, or the file cannot be written.
    """
    kept = [record for record in read_jsonl(path) if record[key] < end]
    if len(kept) != end:
        raise CheckpointError(
            f"{path} holds {len(kept)} of the {end} records up to the last good checkpoint: restore it, or remove the "
            "folder checkpoints beside it to begin the run anew"
        )
    write_jsonl(path, kept)


@dataclass
class Recording:
    """The folder of a run that is under way, and what writes into it."""

    folder: Path
    history: History
    recorder: Recorder
    checkpointer: Checkpointer
    ranks: Ranks = ALONE
    resumed: bool = False
    other_ranks: str = ""  # a note, where it was begun by more or fewer of them

    @classmethod
    def start(
        cls, folder: Path, state: TrainState, stack: ExitStack, *, config: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None, resolved: Mapping[str, Any] | None = None, notes: Iterable[str] = (),
        history: History | None = None, prediction: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda note: None, extends: Mapping[str, Any] | None = None,
    ) -> Recording:  # fmt: skip
        """Begin a new run in `folder`; `stack` closes its files. The other arguments are those of `create`.

        One that `extends` another has its first checkpoint at once, and needs nothing of that one from then on.
        `history` is where the run's records are kept beside those of other fits; a new one at default. `say` is told
        what becomes one more note.

        Raises:
            CheckpointError: the folder holds another run, or cannot be written; the disk has no room for
                one checkpoint and the weights.
        """
        notes = list(notes)

        def begin() -> str | None:
            RUN.claim(folder)
            now = state.state_dict() if whole is None else whole
            checkpoint.check_readable(now)
            model = state.model if whole is None else Weights(whole["model"])
            return checkpoint.try_out(now, model, folder, growth=checkpoint.growth(state.optimizer))

        whole = state.state_dict() if state.is_sharded else None  # which takes all ranks
        if note := state.runtime.ranks.from_main(begin):
            notes.append(note)
            say(note)
        state.runtime.ranks.empty(folder)
        create(
            folder, config, facts=facts, resolved=resolved, notes=notes, prediction=prediction, extends=extends
        )  # fmt: skip
        recording = cls._open(folder, state, history or History(), stack)
        if extends is not None:
            recording.checkpointer.save()
        return recording

    @classmethod
    def resume(
        cls, folder: Path, state: TrainState, stack: ExitStack, *, config: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None, resolved: Mapping[str, Any] | None = None,
        history: History | None = None,
    ) -> Recording:  # fmt: skip
        """Go on with the run in `folder`, bringing `state` to its last good checkpoint, or from the start without one.

        Raises:
            CheckpointError: no run there, one with another configuration or that another process writes, only damaged
                checkpoints, or none for a model that is no longer as it began.
        """
        check_same(folder, record := RUN.read(folder), config, facts, resolved)
        make, ranks = partial(checkpoint.latest, folder / "checkpoints"), state.runtime.ranks
        ranks.from_main(lambda: _check_left(folder))
        saved = held_by_main(make, ranks) if state.is_sharded else ranks.from_main(make)
        steps = epochs = 0
        if saved is None and state.step != (record.get("extends") or {}).get("updates", 0):
            raise CheckpointError(
                f"{folder} has no checkpoint yet, and this model has been trained since: give a fresh one to begin the "
                "run anew"
            )
        if saved is not None:
            state.load_state_dict(saved)
            steps, epochs = state.updates, state.at.epoch - (state.begun or state.at).epoch
        truncate_records(folder / "steps.jsonl", "step", steps)
        truncate_records(folder / "epochs.jsonl", "epoch", epochs)
        before, now = record["resolved"].get("ranks", 1), state.runtime.ranks.world
        others = {} if before == now else {"resolved": {**record["resolved"], "ranks": now}}
        RUN.update(folder, status="running", error=None, **others)
        recorded = history or History()
        recorded.extend(read_jsonl(folder / "steps.jsonl"), read_jsonl(folder / "epochs.jsonl"))
        note = (
            f"{folder} was trained by {count(before, 'rank')} and is by {count(now, 'rank')} from here on: the last "
            "digits of sums and the draws of dropout are others"
        )
        return replace(cls._open(folder, state, recorded, stack), resumed=True, other_ranks=note if others else "")

    @classmethod
    def _open(cls, folder: Path, state: TrainState, history: History, stack: ExitStack) -> Recording:
        recorder = Recorder(folder)
        stack.callback(recorder.close)
        checkpointer = Checkpointer(state, folder / "checkpoints", before=recorder.sync, background=True)
        return cls(folder, history, recorder, checkpointer, state.runtime.ranks)

    def pilots(self) -> list[dict[str, Any]]:
        """The pilots that were made for the run, also before it was broken off."""
        return read_jsonl(self.folder / PILOTS)

    def keep_pilot(self, pilot: Mapping[str, Any]) -> None:
        """Add one."""
        write_jsonl(self.folder / PILOTS, [*self.pilots(), pilot])

    def decided(self, resolved: Mapping[str, Any], notes: Iterable[str]) -> None:
        """Record what the options of a run came to once its peak is known."""
        RUN.update(self.folder, resolved=dict(resolved), notes=list(notes))

    @property
    def watchers(self) -> list[Observer]:
        """The recorder first: what a checkpoint relies on is then written."""
        return [self.recorder, self.checkpointer]

    def measured_at_end(self, valid: Mapping[str, float]) -> None:
        """See `History.measured_at_end`; of the file, once the recorder is closed."""
        path = self.folder / "epochs.jsonl"
        *before, last = read_jsonl(path)
        write_jsonl(path, [*before, {**last, **named(valid, "valid_")}])

    @contextmanager
    def kept(self) -> Iterator[None]:
        """At the end of the block all checkpoints are written.

        After an error within it, what can be kept is, and the error and ``run.json`` say where.
        """
        try:
            yield
            self.checkpointer.wait()
        except BaseException as error:
            told = self.ranks.told(error)
            self._failed(told)
            if told is error:
                raise
            raise told from error

    def finished(
        self, result: Result, state: TrainState, model: nn.Module, metadata: Mapping[str, str], notes: Iterable[str],
        forecast: Mapping[str, Any] | None = None,
    ) -> Result:  # fmt: skip
        """The result of the run with its folder, after the weights, the result and the `forecast` are written there.

        The weights are those of `model`, which that of the state may be a part of.
        """
        kept = in_one_piece(model, state.runtime.ranks)
        state.runtime.ranks.from_main(lambda: save_weights(kept, self.folder / WEIGHTS, metadata))
        rescues = map(str, self.history.rescues())  # those before a kill too
        said = list(dict.fromkeys([*RUN.read(self.folder)["notes"], *rescues, *notes]))
        RUN.update(
            self.folder, status="finished", result=result_before_test(result.to_dict()), notes=said,
            position={"updates": state.at.step, "passes": state.at.epoch},
            **({} if forecast is None else {"forecast": dict(forecast)}),
        )  # fmt: skip
        return replace(result, folder=self.folder)

    def _failed(self, error: BaseException) -> None:
        with suppress(CheckpointError):
            self.checkpointer.wait()
        if isinstance(error, Interrupted):
            with suppress(NonFiniteLoss):  # in the very update that was interrupted: it is made again
                self.checkpointer.save()
                error.args = (f"{error}. A checkpoint is written",)
        elif isinstance(error, KeyboardInterrupt):
            error.args = (f"stopped at once. {self.last_good()}",)
        elif isinstance(error, NonFiniteLoss):
            error.args = (f"{error}. {self.last_good()}",)
        if isinstance(error, ConfigError) and self._is_empty():
            abandon(self.folder)
            return
        self.broken_off(error)

    def broken_off(self, error: BaseException) -> None:
        """Record how the run stands after an error, where that can be written."""
        broken_off(self.folder, error)

    def _is_empty(self) -> bool:
        """Whether the run was begun by this call, and nothing was tried in it yet."""
        kept = checkpoint.checkpoints(self.folder / "checkpoints")
        return not (self.resumed or self.history.trained or kept or self.pilots())

    def last_good(self) -> str:
        """In words, where the last checkpoint is."""
        saved = checkpoint.checkpoints(self.folder / "checkpoints")
        return f"The last good checkpoint is {saved[-1]}" if saved else "There is no checkpoint yet"


def load_trained(model: nn.Module, folder: Path) -> tuple[str, ...]:
    """Load the weights of the end of the run in `folder`, or else of its last checkpoint; and notes on those.

    Raises:
        CheckpointError: no run there, no weights yet, or weights of another model.
    """
    record, weights = RUN.read(folder), folder / WEIGHTS
    if weights.exists():
        load_weights(model, weights)
        return ()
    finish = f"onecycle train --resume {folder}" if record["facts"] else "fit(..., resume=True)"
    saved = checkpoint.latest(folder / "checkpoints")
    if saved is None:
        begun = "it is in its first updates yet, wait" if record["status"] == "running" else f"finish it by {finish}"
        raise CheckpointError(f"{folder} has neither model.safetensors nor a checkpoint: {begun}")
    if "frozen" in record["resolved"] and len(saved["model"]) < len(model.state_dict()):
        raise CheckpointError(
            f"{folder} has not come to its end ({record['status']}), and its checkpoints are of the head alone: finish "
            f"it by {finish}"
        )
    try:
        model.load_state_dict({**saved["model"], **(saved.get("averages") or {})})
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the weights in {folder} are of another model: {error}. Give the one that was trained, load_run(..., "
            "model=...)"
        ) from error
    return (f"{folder} has not come to its end ({record['status']}): the weights are those of its last checkpoint",)


def abandon(folder: Path) -> None:
    """Remove a run in which nothing was tried yet, so that the folder is free for the call once it is mended."""
    for name in (RUN.file, SUMMARY.file, "steps.jsonl", "epochs.jsonl"):
        (folder / name).unlink(missing_ok=True)


def broken_off(folder: Path, error: BaseException) -> None:
    """Record how the run in `folder` stands after an error, where that can be written."""
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    with suppress(CheckpointError):
        RUN.update(folder, status=status, error=str(error) or type(error).__name__)

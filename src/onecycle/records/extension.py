"""What an extension goes on from: the end of a finished run on disk, or of the fits of a learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..schedules.budget import Budget
from ..text import count, percent
from ..training.state import Position, TrainState
from .checkpoint import checkpoints, fingerprint
from .files import CHECK, COMPARISON, REPRODUCTION, RUN, WEIGHTS, read_jsonl, runs_before
from .history import Result
from .run import is_over, options_differing, other_optimizer

Load = Callable[[Path], None]


@dataclass(frozen=True)
class Extended:
    """The end that an extension goes on from.

    `updates`, `passes` and `epochs` are those of the model's whole life: passes over the data are counted whole, so
    that the next one has an order of its own, and epochs as what was trained. `lr_max` is the peak of before (None: it
    had none; of a short extension the whole one), and `layers` its factors by layer group. `run` is the folder, None of
    fits without one, and `sha256` that of the weights in it. `settings` are those that its pilots moved
    from their defaults, by name.
    """

    run: str | None
    updates: int
    passes: int
    epochs: float
    lr_max: float | None
    layers: tuple[float, ...] = ()
    sha256: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the ``extends`` of a ``run.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Extended:
        """From what `to_dict` gave."""
        return cls(**{**values, "layers": tuple(values.get("layers", ()))})

    def peak(self, updates: int | None) -> float:
        """The peak of an extension of so many `updates`: that of before, less where it is much shorter than what was.

        Raises:
            ConfigError: there was none.
        """
        if self.lr_max is None:
            raise ConfigError("give lr_max: what is extended had no peak, its learning rate was a function of its own")
        return self.lr_max * (1.0 if updates is None else share_of_peak(updates, self.updates))

    def goes_on(self, budget: Budget, per_epoch: int | None, lowered: bool = False) -> str:
        """A sentence: what was before, and where it is known what it is with the budget's epochs and updates more.

        Where the peak may be `lowered`, so is that.

        >>> Extended("runs/first", 400, 20, 20.0, 0.1).goes_on(Budget(epochs=10), 20)
        'goes on from runs/first: 20 epochs and 400 updates before, 30 epochs and 600 updates in all'
        """
        known = [(self.epochs, self.updates, "before")]
        more = budget.total_updates(per_epoch)
        if more is not None and per_epoch:
            known += [(self.epochs + more / per_epoch, self.updates + more, "in all")]
        said = [f"{count(epochs, 'epoch')} and {count(updates, 'update')} {when}" for epochs, updates, when in known]
        share = 1.0 if more is None else share_of_peak(more, self.updates)
        short = f"; so short an extension goes up to {percent(share, 0)} of the peak" if lowered and share < 1 else ""
        return f"goes on from {self.run or 'the fit before'}: {', '.join(said)}{short}"


def share_of_peak(more: int, before: int) -> float:
    """The share of the peak that `more` updates go up to, after so many `before`: 1.5 times their ratio, at most all.

    What is much shorter has not the time to make good for a whole peak (docs/log.md, "Going on from a finished run").

    >>> share_of_peak(300, 300), round(share_of_peak(60, 300), 3)
    (1.0, 0.3)
    """
    return min(1.0, 1.5 * more / before)


def ended(
    state: TrainState, result: Result, extends: Extended | None, lr_max: float | None, layers: tuple[float, ...]
) -> Extended:
    """The end of a fit that came to this `result`, with its peak and factors; `extends` is what it went on from."""
    epochs = state.step * result.epochs / result.updates
    run = None if result.folder is None else str(result.folder)
    peak = lr_max if extends is None or extends.lr_max is None else extends.lr_max
    return Extended(run, state.step, state.at.epoch, epochs, _rescued(peak, result.rescues), layers)


def prepare(
    state: TrainState, resolved: Mapping[str, Any], run: str | Path | None, resumed: Path | None, load: Load
) -> Extended:
    """Bring a fresh `state` to the end of the finished `run`, whose weights `load` reads; what is gone on from.

    An extension that is `resumed` says itself what that is, and where it has a checkpoint nothing is brought anywhere.

    Raises:
        ConfigError: the state was trained before, or the run trained less of the model.
        CheckpointError: the run is not finished, has been changed since, or came from another model, data or options.
    """
    if state.step:
        raise ConfigError("this learner was trained before: give one as new, or leave out run to extend its own fit")
    extends, ranks = finished_run(run or "") if resumed is None else _begun_from(resumed), state.runtime.ranks
    if resumed is not None:
        if ranks.from_main(lambda: bool(checkpoints(resumed / "checkpoints"))):
            return extends
        ranks.from_main(lambda: _check_unchanged(extends))
    weights = Path(extends.run or "")
    _check_alike(weights, ranks.from_main(lambda: RUN.read(weights)), resolved)
    if any(module.state_dict() for module in state.modules[1:]):
        raise CheckpointError(
            f"the loss has parameters of its own, which {weights / WEIGHTS} does not hold: extend the learner that was "
            "trained, or load its weights and fit"
        )
    load(weights / WEIGHTS)
    state.end_run()
    state.at = Position(step=extends.updates, epoch=extends.passes)
    return extends


def finished_run(folder: str | Path) -> Extended:
    """The end of the finished run in `folder`.

    Raises:
        CheckpointError: no run there, or one that did not come to its end; the message says what to do.
    """
    folder = Path(folder)
    others = [kind.what for kind in (COMPARISON, CHECK, REPRODUCTION) if kind.exists(folder)]
    if others and not RUN.exists(folder):
        raise CheckpointError(f"{folder} holds a {others[0]}, and what can be extended is one run: name its folder")
    record = RUN.read(folder)
    _check_finished(folder, record)
    result, before = record["result"], record.get("extends") or {}
    counted = {
        "updates": before.get("updates", 0) + result["updates"],
        "passes": before.get("passes", 0) + len(read_jsonl(folder / "epochs.jsonl")),
    }
    at, schedule = record.get("position") or counted, record["resolved"].get("schedule") or {}
    epochs = before.get("epochs", 0) + result["epochs"]
    peak = _rescued(before.get("lr_max") or record["resolved"].get("lr_max"), result.get("rescues", ()))
    sha256 = fingerprint(folder / WEIGHTS)["sha256"]
    layers, settings = tuple(schedule.get("layers", ())), settings_of(record)
    return Extended(str(folder), at["updates"], at["passes"], epochs, peak, layers, sha256, settings)


def settings_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that pilots of the run of this ``run.json``, or of the one that it extends, moved, by name."""
    return (record.get("extends") or record["resolved"].get("search") or {}).get("settings", {})


def _rescued(lr_max: float | None, rescues: Sequence[Mapping[str, Any]]) -> float | None:
    """The peak as the rescues of a run left it."""
    return lr_max * rescues[-1]["factor"] if lr_max and rescues else lr_max


def _check_finished(folder: Path, record: Mapping[str, Any]) -> None:
    in_python = not record["facts"]
    finish = f"fit(..., out={str(folder)!r}, resume=True)" if in_python else f"onecycle train --resume {folder}"
    status = record["status"]
    if status == "failed":
        raise CheckpointError(
            f"{folder} failed ({record.get('error')}), and an extension goes on from a finished run: mend that and "
            f"finish it by {finish}, or begin a new run"
        )
    if status != "finished" or (not in_python and not is_over(record)):
        how = "was interrupted" if status == "interrupted" else "is under way in another process, or was killed"
        raise CheckpointError(
            f"{folder} is not finished: it {how}. An extension goes on from a finished run: finish it by {finish}"
        )
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} has no {WEIGHTS}, which an extension begins with: restore it, or train anew")


def of_a_part(what: object) -> ConfigError:
    """That `what` is to be extended trained a part of its model alone."""
    return ConfigError(
        f"{what} trained a part of its model, and an extension trains all of it: fine-tune anew, with "
        'fine_tune="auto" (--fine-tune auto) and a larger budget; in Python a model with the same layers frozen is '
        "extended by run=FOLDER"
    )


def _check_alike(folder: Path, record: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    """Check that the options of a learner came to what those of the run in `folder` came to, which it is to go on from.

    `record` is its ``run.json``.

    Raises:
        ConfigError: a run of a part of the model, and the learner trains more of it.
        CheckpointError: they came to something else; it is named.
    """
    of_schedule = ("lr_max", "updates", "schedule")
    if record["resolved"].get("frozen", 0) > resolved.get("frozen", 0):
        raise of_a_part(folder)
    lines = options_differing(record, resolved, leave=of_schedule, more=("optimizer",))
    if lines := lines or other_optimizer(record, resolved):
        raise CheckpointError(
            f"{folder} cannot be extended like this: its options came to something else, {'; '.join(lines)}. Give the "
            "model, the data and the options that it had; or load its weights and fit"
        )


def _begun_from(folder: str | Path) -> Extended:
    """What the extension in `folder` goes on from.

    Raises:
        CheckpointError: no run there, or one that is no extension.
    """
    record = RUN.read(folder)
    if not record.get("extends"):
        raise CheckpointError(f"{folder} is no extension: go on with it by fit(..., resume=True), as it began")
    return Extended.from_dict(record["extends"])


def _check_unchanged(extended: Extended) -> None:
    """Check that the weights of a run that is to be gone on from are those that they were.

    Raises:
        CheckpointError: they are others, or are no longer there.
    """
    path = Path(extended.run or "") / WEIGHTS
    if extended.run is None or not path.exists() or fingerprint(path)["sha256"] != extended.sha256:
        what = "the fit before it was not kept" if extended.run is None else f"{path} is not what it was"
        raise CheckpointError(
            f"this extension was killed before its first checkpoint, and {what}: remove its folder and extend again"
        )


def records_before(extended: Extended) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The records of updates and of epochs of the runs before, the first run's first; of those that are still there."""
    for folder in runs_before({"extends": extended.to_dict()}):
        yield read_jsonl(folder / "steps.jsonl"), read_jsonl(folder / "epochs.jsonl")

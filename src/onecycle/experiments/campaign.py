"""A comparison under way: its trials and runs, and ``compare.json`` as it grows."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DataError, Interrupted, TrainingError
from ..jobs.run import prepare
from ..optim.build import recipe
from ..records.files import COMPARISON, RUN, read_json, sync_folder, write_json
from ..records.origin import origin
from ..records.read import main_value
from ..search.grid import Score, at_edge, best, tuned
from ..text import count
from ..text import measure as in_text
from . import plan, results
from .console import Silent
from .execute import Outcome, PlannedRun, Work, ended, known
from .plan import CommonBatchSize, Condition, Setting, Speed
from .spec import Spec

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

# Data that were given as arrays.
DATA = "data.npz"


class Campaign:
    """A comparison under way: its runs, and the record that is kept of them."""

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        speeds: Mapping[Setting, Speed],
        says: Silent,
        work: Work,
        common: CommonBatchSize | None = None,
    ):
        self.common, self._settled = common, plan.settled(_as_begun(spec, folder), common)
        self.spec, self.folder, self.speeds, self.says, self.work = spec, folder, speeds, says, work
        self.groups = [plan.conditions(spec, setting) for setting in plan.settings(spec)]
        self.conditions = [condition for group in self.groups for condition in group]
        self.peaks: dict[Condition, float | None] = {c: spec.peak(c.policy) for c in self.conditions}
        self.outcomes: dict[tuple[Condition, int], Outcome] = {}
        self.trials: list[tuple[Condition, dict[str, Any]]] = []
        self.notes: list[str] = plan.notes(spec, common)
        self.origin = origin()
        self._under_way: tuple[str, Sequence[PlannedRun]] = ("run", ())

    def recall(self) -> None:
        """Take down the runs that have finished before, so that they show while the peaks are found again."""
        for condition, seed in self._keys():
            folder = self.folder / self._run(condition, seed)
            if outcome := ended(folder):
                self.outcomes[condition, seed], self.peaks[condition] = outcome, RUN.read(folder)["resolved"]["lr_max"]

    def tune(self) -> None:
        """Find each condition's own peak by trial runs."""
        if not self.spec.tune:
            return
        centres = {condition: self._centre(condition) for condition in self.conditions}
        for condition, scores in tuned(self.groups, centres, self.spec.trials, self._try_all).items():
            self.peaks[condition] = best(scores)
            if at_edge(scores):
                self.notes.append(
                    f"{condition.name}: the best peak is at the edge of the grid, though that was extended"
                )

    def measure(self) -> None:
        """Make the runs, seed by seed, so that what is there at any time is comparable."""
        planned: dict[Path, tuple[PlannedRun, Condition, int]] = {}
        for condition, seed in self._keys():
            peak = self.peaks[condition]
            if peak is None:
                self.outcomes[condition, seed] = Outcome("failed", error="no trial run of this policy finished")
                continue
            folder = self.folder / self._run(condition, seed)
            planned[folder] = PlannedRun(folder, plan.job_for(self._settled, condition, peak, seed)), condition, seed

        def take_down(run: PlannedRun, outcome: Outcome) -> str:
            _, condition, seed = planned[run.folder]
            self.outcomes[condition, seed] = outcome
            return f"{condition.name} seed {seed}"

        self._make("run", [(run, condition) for run, condition, _ in planned.values()], take_down)

    def _try_all(self, wanted: Mapping[Condition, Sequence[float]]) -> dict[Condition, dict[float, Score | None]]:
        scores: dict[Condition, dict[float, Score | None]] = {condition: {} for condition in wanted}
        planned: dict[Path, tuple[PlannedRun, Condition, float]] = {}
        for condition, rates in wanted.items():
            for lr in rates:
                folder = self.folder / f"trials/{condition.name}-lr{lr:g}"
                job = plan.job_for(self._settled, condition, lr, plan.TRIAL_SEED)
                planned[folder] = PlannedRun(folder, job, trial=True), condition, lr

        def take_down(run: PlannedRun, outcome: Outcome) -> str:
            _, condition, lr = planned[run.folder]
            scores[condition][lr] = _score(outcome)
            name = str(run.folder.relative_to(self.folder))
            self.trials.append((condition, results.run_record(condition, plan.TRIAL_SEED, lr, name, outcome)))
            return f"{condition.name} peak {lr:g}"

        self._make("trial", [(run, condition) for run, condition, _ in planned.values()], take_down)
        return scores

    def _make(
        self,
        label: str,
        planned: Sequence[tuple[PlannedRun, Condition]],
        take_down: Callable[[PlannedRun, Outcome], str],
    ) -> None:
        """Make the runs that are missing; `take_down` keeps the outcome of each and names the run.

        Raises:
            Interrupted: a run was stopped, though not by a stop of the comparison; the others have been made.
        """
        before = self._under_way[1] if label == self._under_way[0] else []
        self._under_way = label, [*before, *(run for run, _ in planned)]
        seconds: dict[Path, float] = {}
        missing = []
        for run, condition in planned:
            if (outcome := known(run)) is None:
                missing.append(run)
                seconds[run.folder] = self._seconds(condition)
            else:
                take_down(run, outcome)
        if not missing:
            return
        if len(missing) < len(planned):
            self.says.say(f"{self.standing(len(before) + len(planned) - len(missing))} are there already")
        to_come = [condition for condition, seed in self._keys() if (condition, seed) not in self.outcomes]
        after = 0.0 if label == "run" else sum(map(self._seconds, to_come))
        self.says.start(label, list(seconds.values()), after)
        stopped = 0
        for run, outcome in self.work(missing):
            if outcome.status == "interrupted":
                stopped += 1
                continue
            words = take_down(run, outcome)
            if outcome.note is not None:
                self.notes.append(f"{words}: {outcome.note}")
            self.write("running")
            rows = [record for _, record in self.trials] if run.trial else self.table()
            failed = outcome.status == "failed" and not run.trial
            said = f"{words}: {_said(outcome, 'valid' if run.trial else 'test')}"
            self.says.done(said, seconds[run.folder], rows, failed)
        if stopped:
            raise Interrupted(f"{count(stopped, label)} stopped", signal=signal.SIGINT)

    def standing(self, done: int | None = None) -> str:
        """How many of the runs under way are there, in the words that going on begins with: ``3 of 20 runs``."""
        label, planned = self._under_way
        done = sum(known(run) is not None for run in planned) if done is None else done
        return f"{done} of {count(len(planned), label)}"

    def _centre(self, condition: Condition) -> float:
        """About which peaks are tried: the range test's, else the optimizer's default."""
        peaks, default = self._range_test(condition.setting)
        return peaks.get(f"{condition.epochs:g}") or default

    def _range_test(self, setting: Setting) -> tuple[dict[str, float | None], float]:
        """What the range test of a setting suggests for each budget, and the default peak; kept, as it was at first."""
        name = plan.slug(["range", *(f"{key}{value}" for key, value in setting)])
        path = self.folder / "trials" / f"{name}.json"
        job = plan.base_job(self._settled, setting)
        if path.exists():
            return _peaks_in(path, job.optimizer)
        ready = prepare(replace(job, lr_max="default", seed=plan.TRIAL_SEED))
        learner = ready.learner
        record: dict[str, Any] = {
            "peaks": {}, "default": learner.default_peak, "optimizer": learner.resolved["optimizer"],
        }  # fmt: skip
        try:
            test = learner.range_test(build=ready.build)
        except (DataError, TrainingError) as error:  # the trials tell as much, from another centre
            line = f"no range test, so the trials are about the optimizer's default peak: {error}"
        else:
            record["peaks"] = {f"{epochs:g}": test.peak(epochs) for epochs in self.spec.epochs}
            record |= test.to_dict()
            line = test.line()
        write_json(path, record)
        self.says.say(f"{plan.in_words(setting)}: {line}".removeprefix(": "))
        return record["peaks"], learner.default_peak

    def table(self) -> list[dict[str, Any]]:
        """A record a run."""
        return [
            results.run_record(c, seed, self.peaks[c], self._run(c, seed), self.outcomes.get((c, seed)))
            for c, seed in self._keys()
        ]

    def write(self, status: str) -> None:
        """Keep everything as it stands."""
        table = self.table()
        speed_ups = results.speed_ups(self.spec, table) if status != "running" else []
        record = {
            "status": status, **self.origin, "config": self.spec.to_dict(),
            "common_batch_size": None if self.common is None else asdict(self.common), "notes": self.notes,
            "summary": results.sentences(self.spec, table, speed_ups) if status != "running" else [],
            "table": table, "speed_up": results.speed_up_records(speed_ups),
            "tuning": [{**record, "chosen": record["lr_max"] == self.peaks[c]} for c, record in self.trials],
        }  # fmt: skip
        COMPARISON.write(self.folder, record)

    def _keys(self) -> list[tuple[Condition, int]]:
        return [(condition, seed) for seed in range(self.spec.seeds) for condition in self.conditions]

    def _seconds(self, condition: Condition) -> float:
        return self.speeds[condition.setting].seconds(condition.epochs)

    def _run(self, condition: Condition, seed: int) -> str:
        return f"runs/{condition.name}-seed{seed}"


@contextmanager
def data_kept(arrays: Arrays | None, folder: Path) -> Iterator[None]:
    """Within the block data that were given as arrays are in the folder; afterwards too, if a comparison began there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if arrays is None or COMPARISON.exists(folder):
        yield
        return
    import numpy as np

    fresh, beside = not folder.exists(), folder / f".writing-{DATA}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(beside, **arrays)  # type: ignore[arg-type]
        beside.replace(folder / DATA)  # in one step: a reader finds all of it or nothing
        sync_folder(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write the data to {folder}: {error}. Give another folder") from error
    try:
        yield
    finally:
        if not COMPARISON.exists(folder):
            (folder / DATA).unlink()
            if fresh:
                folder.rmdir()


def _as_begun(spec: Spec, folder: Path) -> Spec:
    """The comparison with Muon for all of its runs, where it was begun when that was the default."""
    if "optimizer" in spec.settings or "optimizer" in spec.axes:
        return spec
    begun = next((RUN.read(path.parent)["config"] for path in sorted(folder.glob("*/**/run.json"))), {})
    tested = [path.read_text() for path in folder.glob("trials/range*.json")]
    if begun.get("optimizer") != "muon" and all('"optimizer"' in text for text in tested):
        return spec
    return replace(spec, settings={**spec.settings, "optimizer": "muon"})


def _peaks_in(path: Path, optimizer: str) -> tuple[dict[str, float | None], float]:
    """The peaks that are kept in `path`, and the default one: the optimizer's, as before it was kept."""
    try:
        record = read_json(path)
        default = record["default"] if "default" in record else recipe(optimizer).lr_max
        return dict(record["peaks"]), float(default)
    except (CheckpointError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}. Remove it to test anew") from error


def _score(outcome: Outcome) -> Score | None:
    """Accuracy on validation data, and of equals the smaller loss; None for a run that failed."""
    valid = (outcome.result or {}).get("valid")
    if not valid:
        return None
    values = [valid["accuracy"]] if "accuracy" in valid else []
    values += [-valid["loss"]] if math.isfinite(valid.get("loss", math.nan)) else [-math.inf]
    return tuple(values) if math.isfinite(values[0]) else None


def _said(outcome: Outcome, split: str) -> str:
    """The outcome in words."""
    if outcome.result is None:
        return f"failed: {outcome.error}"
    name = split if outcome.result.get(split) else "valid"
    measured = main_value(outcome.result.get(name) or {})
    return "finished" if measured is None else f"{name} {measured[0].replace('_', ' ')} {in_text(*measured)}"

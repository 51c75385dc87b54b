"""A comparison under way: its trials and runs, and ``compare.json`` as it grows."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, Interrupted, TrainingError
from ..jobs.run import prepare
from ..optim.build import recipe
from ..records.files import COMPARISON, RUN, read_json, write_json
from ..records.origin import origin
from ..search.grid import Score, at_edge, best, tuned
from . import plan
from . import results as tables
from .console import Silent
from .execute import Outcome, PlannedRun, Work, ended, known
from .plan import Cell, Setting, Speed
from .spec import Spec


class Campaign:
    """A comparison under way: its records, and how they are kept."""

    def __init__(self, spec: Spec, folder: Path, speeds: Mapping[Setting, Speed], says: Silent, work: Work):
        self.spec, self.folder, self.speeds, self.says, self.work = spec, folder, speeds, says, work
        self.cells = {setting: plan.cells(spec, setting) for setting in plan.settings(spec)}
        self.peaks: dict[Cell, float | None] = {
            cell: spec.peak(cell.policy) for group in self.cells.values() for cell in group
        }
        self.outcomes: dict[tuple[Cell, int], Outcome] = {}
        self.trials: list[tuple[Cell, dict[str, Any]]] = []
        self.notes: list[str] = []
        self.origin = origin()

    def recall(self) -> None:
        """Take down the runs that have come to their end before, so that they show while the peaks are found again."""
        for cell, seed in self._keys():
            folder = self.folder / self._run(cell, seed)
            if outcome := ended(folder):
                self.outcomes[cell, seed], self.peaks[cell] = outcome, RUN.read(folder)["resolved"]["lr_max"]

    def tune(self) -> None:
        """Find each cell's own peak by trial runs."""
        if not self.spec.tune:
            return
        centres = {cell: self._centre(cell) for group in self.cells.values() for cell in group}
        trials = tuned(list(self.cells.values()), centres, self.spec.trials, self._try_all)
        for cell, found in trials.items():
            self.peaks[cell] = best(found)
            if at_edge(found):
                self.notes.append(f"{cell.name}: the best peak is at the edge of the grid, though that was extended")

    def measure(self) -> None:
        """Make the runs, seed by seed, so that what is there at any time is comparable."""
        tasks, keys = [], {}
        for cell, seed in self._keys():
            peak = self.peaks[cell]
            if peak is None:
                self.outcomes[cell, seed] = Outcome("failed", error="no trial run of this policy came to its end")
                continue
            task = PlannedRun(self.folder / self._run(cell, seed), plan.job_for(self.spec, cell, peak, seed))
            keys[task.folder] = cell, seed
            tasks.append(task)

        def note(task: PlannedRun, outcome: Outcome) -> str:
            cell, seed = keys[task.folder]
            self.outcomes[cell, seed] = outcome
            self._note(cell, seed, outcome)
            return f"{cell.name} seed {seed}: {_said(outcome, 'test')}"

        self._make("run", tasks, {task.folder: keys[task.folder][0] for task in tasks}, note)

    def _try_all(self, wanted: Mapping[Cell, Sequence[float]]) -> dict[Cell, dict[float, Score | None]]:
        found: dict[Cell, dict[float, Score | None]] = {cell: {} for cell in wanted}
        keys = {
            self.folder / f"trials/{cell.name}-lr{lr:g}": (cell, lr) for cell, rates in wanted.items() for lr in rates
        }
        tasks = [
            PlannedRun(f, plan.job_for(self.spec, cell, lr, plan.TRIAL_SEED), True) for f, (cell, lr) in keys.items()
        ]

        def note(task: PlannedRun, outcome: Outcome) -> str:
            cell, lr = keys[task.folder]
            found[cell][lr] = _score(outcome)
            self._note(cell, plan.TRIAL_SEED, outcome)
            row = tables.row(cell, plan.TRIAL_SEED, lr, str(task.folder.relative_to(self.folder)), outcome)
            self.trials.append((cell, row))
            return f"{cell.name} peak {lr:g}: {_said(outcome, 'valid')}"

        self._make("trial", tasks, {folder: cell for folder, (cell, _) in keys.items()}, note)
        return found

    def _make(
        self,
        label: str,
        tasks: Sequence[PlannedRun],
        cells: Mapping[Path, Cell],
        note: Callable[[PlannedRun, Outcome], str],
    ) -> None:
        """Make the runs that are missing; `note` takes down each and says it in words.

        Raises:
            Interrupted: a run was stopped, though not by a stop of the comparison; the others have been made.
        """
        missing = []
        for task in tasks:
            if (outcome := known(task)) is None:
                missing.append(task)
            else:
                note(task, outcome)
        if not missing:
            return
        if len(missing) < len(tasks):
            self.says.say(f"{len(tasks) - len(missing)} of {len(tasks)} {label}s are there already")
        seconds = {task.folder: self._seconds(cells[task.folder]) for task in missing}
        to_come = [cell for cell, seed in self._keys() if (cell, seed) not in self.outcomes]
        after = 0.0 if label == "run" else sum(map(self._seconds, to_come))
        self.says.start(label, list(seconds.values()), after)
        stopped = []
        for task, outcome in self.work(missing):
            if outcome.status == "interrupted":
                stopped.append(task)
            else:
                words = note(task, outcome)
                self.write("running")
                rows = [row for _, row in self.trials] if task.trial else self.table()
                failed = outcome.status == "failed" and not task.trial
                self.says.done(words, seconds[task.folder], rows, failed)
        if stopped:
            raise Interrupted(f"{len(stopped)} of {len(tasks)} {label}s were stopped", signal=signal.SIGINT)

    def _centre(self, cell: Cell) -> float:
        """About which peaks are tried: the range test's, else the optimizer's default."""
        found = self._range_test(cell.setting).get(f"{cell.epochs:g}")
        return found or recipe(plan.base_job(self.spec, cell.setting).optimizer).lr_max

    def _range_test(self, setting: Setting) -> dict[str, float | None]:
        """What the range test of a setting suggests for each budget; kept, so that it is made once."""
        name = plan.slug(["range", *(f"{key}{value}" for key, value in setting)])
        path = self.folder / "trials" / f"{name}.json"
        if path.exists():
            return _peaks_in(path)
        ready = prepare(replace(plan.base_job(self.spec, setting), lr_max="default", seed=plan.TRIAL_SEED))
        record: dict[str, Any] = {"peaks": {}}
        try:
            test = ready.learner.range_test(build=ready.build)
        except (DataError, TrainingError) as error:  # the trials tell as much, from another centre
            line = f"no range test, so the trials are about the optimizer's default peak: {error}"
        else:
            record = {"peaks": {f"{epochs:g}": test.peak(epochs) for epochs in self.spec.epochs}, **test.to_dict()}
            line = test.line()
        write_json(path, record)
        self.says.say(f"{plan.in_words(setting)}: {line}".removeprefix(": "))
        return record["peaks"]

    def table(self) -> list[dict[str, Any]]:
        """A row a run."""
        return [
            tables.row(cell, seed, self.peaks[cell], self._run(cell, seed), self.outcomes.get((cell, seed)))
            for cell, seed in self._keys()
        ]

    def write(self, status: str) -> None:
        """Keep everything as it stands."""
        rows = self.table()
        found = tables.speed_ups(self.spec, rows) if status != "running" else []
        record = {
            "status": status, **self.origin, "config": self.spec.to_dict(), "notes": self.notes,
            "summary": tables.sentences(self.spec, rows, found) if status != "running" else [],
            "table": rows, "speed_up": tables.speed_up_rows(found),
            "tuning": [{**row, "chosen": row["lr_max"] == self.peaks[cell]} for cell, row in self.trials],
        }  # fmt: skip
        COMPARISON.write(self.folder, record)

    def _keys(self) -> list[tuple[Cell, int]]:
        return [(cell, seed) for seed in range(self.spec.seeds) for group in self.cells.values() for cell in group]

    def _note(self, cell: Cell, seed: int, outcome: Outcome) -> None:
        if outcome.note is not None:
            self.notes.append(f"{cell.name} seed {seed}: {outcome.note}")

    def _seconds(self, cell: Cell) -> float:
        return self.speeds[cell.setting].seconds(cell.epochs)

    def _run(self, cell: Cell, seed: int) -> str:
        return f"runs/{cell.name}-seed{seed}"


def _peaks_in(path: Path) -> dict[str, float | None]:
    try:
        return dict(read_json(path)["peaks"])
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
    from ..records.read import main_value
    from ..text import measure

    if outcome.result is None:
        return f"failed: {outcome.error}"
    name = split if outcome.result.get(split) else "valid"
    found = main_value(outcome.result.get(name) or {})
    return "finished" if found is None else f"{name} {found[0].replace('_', ' ')} {measure(*found)}"

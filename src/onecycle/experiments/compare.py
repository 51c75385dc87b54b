"""A fair comparison of training policies: tuned alike, run over seeds, kept in a folder that can be gone on with."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import runs
from ..checkpoint import check_schema, write_json
from ..errors import CheckpointError, ConfigError
from ..job import prepare
from ..optimizers import recipe
from ..range_test import EPOCHS
from . import plan, tables
from .execute import Outcome, Work, known, workers
from .live import Lines, LiveTable, Silent
from .plan import Cell, Setting, Speed, Task
from .spec import Spec
from .tuning import Score, at_edge, best, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
FILE = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """A comparison in its folder: what is in ``compare.json``."""

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Comparison:
        """The comparison in `folder`.

        Raises:
            CheckpointError: there is none, or it cannot be read, or it is of another version.
        """
        path = Path(folder) / FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"no comparison in {folder} (it has no {FILE}): name the folder of one") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        return cls(Path(folder), check_schema(path, record, SCHEMA))

    @property
    def table(self) -> list[dict[str, Any]]:
        """Tidy records, one a run: `pandas.DataFrame(comparison.table)` is a table."""
        return self.record["table"]

    @property
    def summary(self) -> list[str]:
        """What came out, in sentences."""
        return self.record["summary"]

    def plot(self) -> Figure:
        """Accuracy against the budget, a line a policy with 95 % intervals; a panel for each setting.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        from .figure import comparison_figure

        return comparison_figure(self.record)

    def report(self, path: str | Path | None = None) -> Path:
        """Write a page about it, by default ``report.html`` in its folder.

        Raises:
            MissingDependency: jinja2 or plotly is not installed.
        """
        from ..report.page import page

        return page([self.folder], self.folder / "report.html" if path is None else path)


def compare(
    model: str | Callable[..., Any] | None = None,
    data: str | Path = "digits",
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    verbose: bool = True,
    **options: Any,
) -> Comparison:
    """Compare training policies fairly: each with its own tuned peak, over the same seeds; the test set is read once.

    Args:
        model: a name as in `build_model`, or a function or class at the top of a module, called with those of
            ``input_shape`` and ``classes`` that it takes.
        data: a name or path as in `load`.
        out: folder of the comparison; called again with the same one and the same arguments, only what is missing is
            done. Default: ``comparisons/DATA-MODEL-1``, or the next number that is not another comparison's.
        jobs: processes that make runs side by side, and divide the threads between them.
        verbose: say the plan and the progress.
        options: of `Spec`: policies, epochs, seeds, axes, tune, lr_max, trials; and any field of a `Job` with its
            value, or with a list of values, which makes it an axis.

    Raises:
        OneCycleError: anything that cannot be used, before the first run; see `onecycle.errors`.
        Interrupted: stopped by a signal; called again it goes on.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     comparison = compare(
    ...         "mlp", policies=["one_cycle", "step"], epochs=[1], seeds=2, tune=False, lr_max=0.05, optimizer="sgd",
    ...         limit=320, out=folder, verbose=False,
    ...     )
    >>> [(row["policy"], row["seed"], row["status"]) for row in comparison.table]
    [('one_cycle', 0, 'finished'), ('step', 0, 'finished'), ('one_cycle', 1, 'finished'), ('step', 1, 'finished')]
    """
    spec = Spec.from_dict({"data": str(data), "model": _name_of(model), **options})
    return conduct(spec, out, jobs=jobs, verbose=verbose)


def conduct(spec: Spec, out: str | Path | None = None, *, jobs: int = 1, verbose: bool = False) -> Comparison:
    """Make the comparison that `spec` describes, or what is missing of it. Arguments and errors as for `compare`."""
    folder = _home(out, spec)
    if _is_done(folder, spec):
        return Comparison.read(folder)
    with workers(jobs) as work:  # refuses its argument first; processes start with the first run
        speeds = measured(spec)
        says = _voice(spec, jobs, verbose)
        for line in lines(spec, speeds, jobs):
            says.say(line)
        book = _Book(spec, folder, speeds, says, work)
        try:
            book.write("running")
            book.tune()
            book.measure()
        except KeyboardInterrupt as stop:
            book.write("interrupted")
            stop.args = (f"stopped; what is done is kept in {folder}: give the same command again to go on",)
            raise
        finally:
            says.close()
    book.write("finished")
    return Comparison.read(folder)


def measured(spec: Spec) -> dict[Setting, Speed]:
    """The speed of each setting, from a second of training in all.

    Raises:
        OneCycleError: anything that cannot be used: nothing has been written yet.
    """
    plan.check(spec)
    found = plan.settings(spec)
    return {setting: plan.measure(plan.base_job(spec, setting), 1 / len(found)) for setting in found}


def lines(spec: Spec, speeds: Mapping[Setting, Speed], jobs: int = 1) -> list[str]:
    """The plan in words: what is run, and about how long it takes."""
    from ..report.page_words import duration

    measured_runs, trials = plan.counts(spec)
    tuning = (
        f"tuning: {trials} trial runs, {spec.trials} for each policy and budget; more where a best peak is at the edge"
        if spec.tune
        else "tuning: none, peaks as given"
    )
    axes = [f"{name.replace('_', ' ')}: {', '.join(map(str, values))}" for name, values in spec.axes.items()]
    seconds = plan.expected(spec, speeds)
    return [
        f"compare {', '.join(spec.policies)} on {spec.data}" + (f" with {spec.model}" if spec.model else ""),
        *[f"epochs: {', '.join(f'{e:g}' for e in spec.epochs)}; seeds: {spec.seeds}", *axes],
        tuning,
        f"runs: {measured_runs}",
        f"time: about {duration(float(f'{seconds / jobs:.2g}'))}"
        + (f" in {jobs} processes" if jobs > 1 else "")
        + ", from a measured second of training",
    ]


class _Book:
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
        self.origin = runs.origin()

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
            task = Task(self.folder / self._run(cell, seed), plan.job_for(self.spec, cell, peak, seed))
            keys[task.folder] = cell, seed
            tasks.append(task)

        def note(task: Task, outcome: Outcome) -> str:
            cell, seed = keys[task.folder]
            self.outcomes[cell, seed] = outcome
            return f"{cell.name} seed {seed}: {_said(outcome, 'test')}"

        self._make("run", tasks, {task.folder: keys[task.folder][0] for task in tasks}, note)

    def _try_all(self, wanted: Mapping[Cell, Sequence[float]]) -> dict[Cell, dict[float, Score | None]]:
        found: dict[Cell, dict[float, Score | None]] = {cell: {} for cell in wanted}
        keys = {
            self.folder / f"trials/{cell.name}-lr{lr:g}": (cell, lr) for cell, rates in wanted.items() for lr in rates
        }
        tasks = [Task(f, plan.job_for(self.spec, cell, lr, plan.TRIAL_SEED), True) for f, (cell, lr) in keys.items()]

        def note(task: Task, outcome: Outcome) -> str:
            cell, lr = keys[task.folder]
            found[cell][lr] = _score(outcome)
            row = tables.row(cell, plan.TRIAL_SEED, lr, str(task.folder.relative_to(self.folder)), outcome)
            self.trials.append((cell, row))
            return f"{cell.name} peak {lr:g}: {_said(outcome, 'valid')}"

        self._make("trial", tasks, {folder: cell for folder, (cell, _) in keys.items()}, note)
        return found

    def _make(
        self, label: str, tasks: Sequence[Task], cells: Mapping[Path, Cell], note: Callable[[Task, Outcome], str]
    ) -> None:
        """Make the runs that are missing; `note` takes down each and says it in words."""
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
        seconds = {t.folder: self.speeds[cells[t.folder].setting].seconds(cells[t.folder].epochs) for t in missing}
        self.says.start(label, list(seconds.values()))
        for task, outcome in self.work(missing):
            if outcome.status != "interrupted":
                words = note(task, outcome)
                self.says.done(words, seconds[task.folder], self.table())
                self.write("running")

    def _centre(self, cell: Cell) -> float:
        """About which peaks are tried: the range test's, else the optimizer's default."""
        found = self._range_test(cell.setting).get(f"{cell.epochs:g}")
        return found or recipe(plan.base_job(self.spec, cell.setting).optimizer).lr_max

    def _range_test(self, setting: Setting) -> dict[str, float | None]:
        """What the range test of a setting suggests for each budget; kept, so that it is made once."""
        name = plan.slug(["range", *(f"{key}{value}" for key, value in setting)])
        path = self.folder / "trials" / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["peaks"]
        ready = prepare(replace(plan.base_job(self.spec, setting), lr_max=None, seed=plan.TRIAL_SEED))
        test = ready.learner.range_test(build=ready.build, epochs=EPOCHS)
        peaks = {f"{epochs:g}": test.peak(epochs) for epochs in self.spec.epochs}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"peaks": peaks, **test.to_dict()})
        self.says.say(f"{plan.in_words(setting)}: {test.line()}".removeprefix(": "))
        return peaks

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
            "schema": SCHEMA, "status": status, **self.origin, "config": self.spec.to_dict(), "notes": self.notes,
            "summary": tables.sentences(self.spec, rows, found) if status != "running" else [],
            "table": rows, "speed_up": tables.speed_up_rows(found),
            "tuning": [{**row, "chosen": row["lr_max"] == self.peaks[cell]} for cell, row in self.trials],
        }  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FILE, record)
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {self.folder}: {error}. Give a folder that can be written"
            ) from error

    def _keys(self) -> list[tuple[Cell, int]]:
        return [(cell, seed) for seed in range(self.spec.seeds) for group in self.cells.values() for cell in group]

    def _run(self, cell: Cell, seed: int) -> str:
        return f"runs/{cell.name}-seed{seed}"


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
    from ..report.page_words import main_value, measure

    if outcome.result is None:
        return f"failed: {outcome.error}"
    name = split if outcome.result.get(split) else "valid"
    found = main_value(outcome.result.get(name) or {})
    return "finished" if found is None else f"{name} {measure(*found)}"


def _voice(spec: Spec, jobs: int, verbose: bool) -> Silent:
    if not verbose:
        return Silent()
    return LiveTable(list(spec.axes), jobs) if sys.stderr.isatty() else Lines(jobs)


def _home(out: str | Path | None, spec: Spec) -> Path:
    """The folder of the comparison: a free one, or the one in which it was begun.

    Raises:
        CheckpointError: it holds another comparison, or something else.
    """
    if out is None:
        stem = plan.slug([Path(spec.data).stem, *([spec.model] if spec.model else [])])
        folders = (Path("comparisons") / f"{stem}-{i}" for i in range(1, 10**9))
        return next(f for f in folders if not f.exists() or ((f / FILE).exists() and not _other(f, spec)))
    folder = Path(out)
    if (folder / FILE).exists():
        if different := _other(folder, spec):
            raise CheckpointError(
                f"{folder} holds another comparison: {'; '.join(different)}. Give the same arguments to go on with it, "
                "or another --out"
            )
    elif folder.exists() and (not folder.is_dir() or any(p.name != f".writing-{FILE}" for p in folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty and holds no comparison: give another --out")
    return folder


def _other(folder: Path, spec: Spec) -> list[str]:
    """In what a comparison that was begun differs; it may get more seeds."""
    config, wanted = Comparison.read(folder).record["config"], json.loads(json.dumps(spec.to_dict()))
    if spec.seeds > config["seeds"]:
        config = {**config, "seeds": spec.seeds}
    return runs.differing(config, wanted)


def _is_done(folder: Path, spec: Spec) -> bool:
    """Whether nothing is left to do."""
    if not (folder / FILE).exists():
        return False
    record = Comparison.read(folder).record
    ended = record["status"] == "finished" and all(row["status"] == "finished" for row in record["table"])
    return ended and record["config"]["seeds"] == spec.seeds


def _name_of(model: str | Callable[..., Any] | None) -> str | None:
    """By which a model is found again, in another process too."""
    if model is None or isinstance(model, str):
        return model
    name, module = getattr(model, "__qualname__", None), getattr(model, "__module__", None)
    if not module or not name or not name.isidentifier():
        raise ConfigError(
            f"model is a name, or a function or class at the top of a module, so that each run can make it anew; "
            f"received {model!r}"
        )
    return f"{module}:{name}"

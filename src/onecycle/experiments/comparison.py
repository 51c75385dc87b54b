"""A fair comparison of training policies: tuned alike, run over seeds, kept in a folder that can be gone on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import runs
from ..checkpoint import check_schema
from ..errors import CheckpointError, ConfigError
from . import plan
from .book import FILE, SCHEMA, Book
from .execute import workers
from .live import Lines, LiveTable, Silent
from .plan import Setting, Speed
from .spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    if not isinstance(data, str | Path):
        raise ConfigError(
            f"data is a name or a path, as in onecycle.load, so that each run can read it anew; received a "
            f"{type(data).__name__}: save arrays with numpy.savez, and give the path of the .npz"
        )
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
        book = Book(spec, folder, speeds, says, work)
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
    axes = [f"{name.replace('_', ' ')}: {', '.join(map(plan.in_short, values))}" for name, values in spec.axes.items()]
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

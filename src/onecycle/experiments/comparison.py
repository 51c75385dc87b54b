"""A fair comparison of training policies: tuned alike, run over seeds, kept in a folder that can be gone on with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import loading_once
from ..errors import CheckpointError, ConfigError
from ..records.files import COMPARISON, differing, plain
from ..text import count, html_table
from . import plan
from .campaign import DATA, Campaign, data_kept
from .console import Lines, LiveTable, Silent
from .options import HERE, Placement
from .plan import CommonBatchSize, common_batch_size, lines, measured, settled
from .results import means, to_targets
from .spec import Spec, command_of
from .workers import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .campaign import Arrays


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
        return cls(Path(folder), COMPARISON.read(folder))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what is in ``compare.json``, and the ``folder``."""
        return {"folder": str(self.folder), **self.record}

    def __repr__(self) -> str:
        finished = sum(run["status"] == "finished" for run in self.table)
        policies = ", ".join(self.record["config"]["policies"])
        return f"Comparison({policies}: {finished} of {count(len(self.table), 'runs')} finished, in {self.folder})"

    def _repr_html_(self) -> str:
        columns, cells = means(self.record)
        return html_table(cells, columns) + html_table([[sentence] for sentence in self.summary])

    @property
    def table(self) -> list[dict[str, Any]]:
        """Tidy records, one a run: `pandas.DataFrame(comparison.table)` is a table."""
        return self.record["table"]

    @property
    def summary(self) -> list[str]:
        """What came out, in sentences."""
        return self.record["summary"]

    def to_target(self, target: float) -> list[dict[str, Any]]:
        """Epochs and seconds until the validation accuracy first was at `target`.

        A record for each policy, budget and setting, with medians over runs and 95 % intervals: ``{"needed": {"epochs":
        {"median", "low", "high", "reached", "n", ...}, "seconds": ...}}``. Runs that never got there count: they needed
        more than their budget.

        Raises:
            ConfigError: a target outside (0, 1).
            CheckpointError: the records of a run cannot be read.
        """
        return to_targets(self.folder, self.record, target)

    def plot(self) -> Figure:
        """Accuracy against the budget, a line a policy with 95 % intervals; a panel for each setting.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        from ..report.draw_comparison import comparison_figure

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
    data: Any = "digits",
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    on: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    storage: str | None = None,
    verbose: bool = True,
    **options: Any,
) -> Comparison:
    """Compare training policies fairly: each with its own tuned peak, over the same seeds; the test set is read once.

    Args:
        model: a name as in `build_model`, or a function or class at the top of a module, called with those of
            ``input_shape`` and ``classes`` that it takes.
        data: a name or path as in `load`; or a `Data`, ``(inputs, targets)``, or ``{"train": (inputs, targets)}`` with
            "valid" and "test" beside it, of arrays or tensors, which are kept in ``data.npz`` for the runs to read.
        out: folder of the comparison; called again with the same one and the same arguments, only what is missing is
            done. Default: ``comparisons/DATA-MODEL-1``, or the next number that is not another comparison's.
        jobs: processes that make runs side by side, and divide the threads between them.
        on: instead of `jobs`, "ray" for the Ray cluster that runs here, else a new one on this machine; or the address
            of one, "ray://HOST:10001".
        cpus: on Ray, the CPUs of a run, which has as many threads; default 1.
        gpus: on Ray, the share of a GPU of a run, such as 0.25; default a whole one, where there are any.
        storage: on Ray, a folder that all nodes share or an address such as "s3://BUCKET/FOLDER", where runs keep their
            checkpoints: one whose node dies goes on from there; default none, and it starts anew.
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
    placement = Placement(jobs=jobs, on=on, cpus=cpus, gpus=gpus, storage=storage)
    named, arrays = (str(data), None) if isinstance(data, str | Path) else ("data", _arrays(data))
    spec = Spec.from_dict({"data": named, "model": _name_of(model, placement), **options})
    return conduct(spec, out, placement=placement, verbose=verbose, arrays=arrays)


def conduct(
    spec: Spec,
    out: str | Path | None = None,
    *,
    placement: Placement = HERE,
    verbose: bool = False,
    arrays: Arrays | None = None,
) -> Comparison:
    """Make the comparison that `spec` describes, or what is missing of it. Errors as for `compare`.

    `arrays` are data that have no name or path, which then take the place of ``spec.data``.
    """
    folder = _home(out, spec, arrays)
    spec = _with_data(spec, arrays, folder)
    if _is_done(folder, spec):
        return Comparison.read(folder)
    with workers(placement) as work, data_kept(arrays, folder), loading_once():
        common = _common_batch_size(folder, spec)
        speeds = measured(settled(spec, common))
        says = _voice(spec, placement.jobs, verbose)
        for line in lines(spec, speeds, placement, common):
            says.say(line)
        campaign = Campaign(spec, folder, speeds, says, work, common)
        try:
            campaign.recall()
            campaign.write("running")
            campaign.tune()
            campaign.measure()
        except KeyboardInterrupt as stop:
            campaign.write("interrupted")
            command = command_of(spec, folder, placement) or "call compare again with the same arguments"
            stop.args = (f"stopped after {campaign.standing()}, kept in {folder}. To go on: {command}",)
            raise
        finally:
            says.close()
    campaign.write("finished")
    return Comparison.read(folder)


def _common_batch_size(folder: Path, spec: Spec) -> CommonBatchSize | None:
    """That of the runs that are there; of comparisons that began before there was one, each run's fits its own data."""
    if not COMPARISON.exists(folder):
        return common_batch_size(spec)
    known = Comparison.read(folder).record.get("common_batch_size")
    return None if known is None else CommonBatchSize(**known)


def _voice(spec: Spec, jobs: int, verbose: bool) -> Silent:
    if not verbose:
        return Silent()
    return LiveTable(list(spec.axes), jobs) if sys.stderr.isatty() else Lines(jobs)


def _home(out: str | Path | None, spec: Spec, arrays: Arrays | None = None) -> Path:
    """The folder of the comparison: a free one, or the one in which it was begun.

    Raises:
        CheckpointError: it holds another comparison, or something else.
    """
    if out is None:
        stem = plan.slug([Path(spec.data).stem, *([spec.model] if spec.model else [])])
        folders = (Path("comparisons") / f"{stem}-{i}" for i in range(1, 10**9))
        return next(f for f in folders if not f.exists() or (COMPARISON.exists(f) and not _other(f, spec, arrays)))
    folder = Path(out)
    if not COMPARISON.exists(folder):
        return COMPARISON.claim(folder, leftovers=[DATA])
    if different := _other(folder, spec, arrays):
        raise CheckpointError(
            f"{folder} holds another comparison: {'; '.join(different)}. Give the same arguments to go on with it, "
            "or another --out"
        )
    return folder


def _other(folder: Path, spec: Spec, arrays: Arrays | None) -> list[str]:
    """In what a comparison that was begun differs; it may get more seeds."""
    spec = _with_data(spec, arrays, folder)
    config, wanted = Comparison.read(folder).record["config"], plain(spec.to_dict())
    if spec.seeds > config["seeds"]:
        config = {**config, "seeds": spec.seeds}
    if (different := differing(config, wanted)) or arrays is None:
        return different
    from ..data import npz  # with numpy

    return npz.differing(arrays, folder / DATA)


def _with_data(spec: Spec, arrays: Arrays | None, folder: Path) -> Spec:
    return spec if arrays is None else replace(spec, data=str((folder / DATA).resolve()))


def _is_done(folder: Path, spec: Spec) -> bool:
    """Whether nothing is left to do."""
    if not COMPARISON.exists(folder):
        return False
    record = Comparison.read(folder).record
    ended = record["status"] == "finished" and all(row["status"] == "finished" for row in record["table"])
    return ended and record["config"]["seeds"] == spec.seeds


def _arrays(data: Any) -> Arrays:
    from ..data.npz import to_arrays  # with numpy

    return to_arrays(data)


def _name_of(model: str | Callable[..., Any] | None, placement: Placement) -> str | None:
    """By which a model is found again, in another process too.

    Raises:
        ConfigError: it cannot be found by a name; or in this process alone, and there are to be others.
    """
    if model is None or isinstance(model, str):
        return model
    name, module = getattr(model, "__qualname__", None), getattr(model, "__module__", None)
    found = getattr(sys.modules.get(module or ""), name or "", None)
    if not module or not name or found is not model:
        raise ConfigError(
            f"model is a name, or a function or class at the top of a module, so that each run can make it anew; "
            f"received {model!r}: write def build(input_shape, classes): ... at the top of a file or notebook cell"
        )
    if module == "__main__" and (
        placement.on or (placement.jobs != 1 and not hasattr(sys.modules[module], "__file__"))
    ):
        raise ConfigError(
            f"the model {name!r} is defined in this session, where other processes cannot find it: put it into a file, "
            f"such as models.py, and import it from there; or leave out {'on' if placement.on else 'jobs'}"
        )
    return f"{module}:{name}"

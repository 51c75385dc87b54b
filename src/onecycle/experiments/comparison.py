"""A fair comparison of training policies: tuned alike, run over seeds, kept in a folder that can be gone on with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import held
from ..errors import CheckpointError, ConfigError, OneCycleError
from ..records.files import COMPARISON, differing, plain
from . import own_data, plan
from .campaign import Campaign
from .console import Lines, LiveTable, Silent
from .options import Placement
from .plan import Setting, Speed
from .spec import Spec
from .targets import to_targets
from .workers import workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .own_data import Arrays

HERE = Placement()


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
    named, own = (str(data), None) if isinstance(data, str | Path) else ("data", _arrays(data))
    spec = Spec.from_dict({"data": named, "model": _name_of(model, placement), **options})
    return conduct(spec, out, placement=placement, verbose=verbose, own=own)


def conduct(
    spec: Spec,
    out: str | Path | None = None,
    *,
    placement: Placement = HERE,
    verbose: bool = False,
    own: Arrays | None = None,
) -> Comparison:
    """Make the comparison that `spec` describes, or what is missing of it. Arguments and errors as for `compare`.

    `own` are the arrays of data that have no name or path, which then takes the place of `spec.data`.
    """
    folder = _home(out, spec, own)
    spec = _with_data(spec, own, folder)
    if _is_done(folder, spec):
        return Comparison.read(folder)
    with workers(placement) as work, own_data.kept(own, folder), held():
        speeds = measured(spec)
        says = _voice(spec, placement.jobs, verbose)
        for line in lines(spec, speeds, placement):
            says.say(line)
        campaign = Campaign(spec, folder, speeds, says, work)
        try:
            campaign.recall()
            campaign.write("running")
            campaign.tune()
            campaign.measure()
        except KeyboardInterrupt as stop:
            campaign.write("interrupted")
            stop.args = (f"stopped; what is done is kept in {folder}: give the same command again to go on",)
            raise
        finally:
            says.close()
    campaign.write("finished")
    return Comparison.read(folder)


def measured(spec: Spec) -> dict[Setting, Speed]:
    """The speed of each setting, from a second of training in all.

    Raises:
        OneCycleError: anything that cannot be used: nothing has been written yet.
    """
    plan.check(spec)
    found = plan.settings(spec)
    return {setting: _measured(spec, setting, 1 / len(found)) for setting in found}


def _measured(spec: Spec, setting: Setting, seconds: float) -> Speed:
    try:
        return plan.measure(plan.base_job(spec, setting), seconds)
    except OneCycleError as error:
        fraction = {**spec.settings, **dict(setting)}.get("fraction")
        if fraction is not None:
            error.args = (f"with fraction {fraction:g}: {error}",)
        raise


def lines(spec: Spec, speeds: Mapping[Setting, Speed], placement: Placement = HERE) -> list[str]:
    """The plan in words: what is run, and about how long it takes."""
    from ..text import duration

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
        f"time: about {duration(float(f'{seconds / placement.jobs:.2g}'))}"
        + (f" in {placement.jobs} processes" if placement.jobs > 1 else "")
        + (" if one after the other" if placement.on else "")
        + ", from a measured second of training",
    ]


def _voice(spec: Spec, jobs: int, verbose: bool) -> Silent:
    if not verbose:
        return Silent()
    return LiveTable(list(spec.axes), jobs) if sys.stderr.isatty() else Lines(jobs)


def _home(out: str | Path | None, spec: Spec, own: Arrays | None = None) -> Path:
    """The folder of the comparison: a free one, or the one in which it was begun.

    Raises:
        CheckpointError: it holds another comparison, or something else.
    """
    if out is None:
        stem = plan.slug([Path(spec.data).stem, *([spec.model] if spec.model else [])])
        folders = (Path("comparisons") / f"{stem}-{i}" for i in range(1, 10**9))
        return next(f for f in folders if not f.exists() or (COMPARISON.exists(f) and not _other(f, spec, own)))
    folder = Path(out)
    if not COMPARISON.exists(folder):
        return COMPARISON.claim(folder, leftovers=[own_data.DATA])
    if different := _other(folder, spec, own):
        raise CheckpointError(
            f"{folder} holds another comparison: {'; '.join(different)}. Give the same arguments to go on with it, "
            "or another --out"
        )
    return folder


def _other(folder: Path, spec: Spec, own: Arrays | None) -> list[str]:
    """In what a comparison that was begun differs; it may get more seeds."""
    spec = _with_data(spec, own, folder)
    config, wanted = Comparison.read(folder).record["config"], plain(spec.to_dict())
    if spec.seeds > config["seeds"]:
        config = {**config, "seeds": spec.seeds}
    return differing(config, wanted) or own_data.differing(own, folder)


def _with_data(spec: Spec, own: Arrays | None, folder: Path) -> Spec:
    return spec if own is None else replace(spec, data=own_data.path_in(folder))


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

"""A range test as plain data: what the command line, a file or a queue asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import flag, unwrapped
from ..errors import DataError
from ..range_test.api import RangeTest
from ..range_test.plan import EPOCHS, check_plan
from ..range_test.verdict import judge
from ..records.curve import Curve
from ..records.files import CHECK
from ..records.progress import notes
from ..schedules.budget import Budget
from ..training.options import seconds_of
from ..training.runtime import Runtime
from ..training.sharing import considerate
from .drawing import written
from .job import OFF, Job
from .run import prepare


@considerate()
def check(
    job: Job,
    out: str | Path | None = None,
    *,
    updates: int | None = None,
    repeats: int = 2,
    lr_low: float | None = None,
    lr_high: float | None = None,
    full: bool = False,
    verbose: bool = False,
    report: bool = True,
) -> RangeTest:
    """Test the learning rates of what `job` describes: which peak it takes, and if large ones keep its accuracy.

    Of the job count the data, the model, the optimizer and what changes an update, and the epochs of its budget, 10
    where it is not in epochs; its peak and its policy do not. The sweep's ends, `lr_low` and `lr_high`, are chosen
    where they are not given. Each repeat has initial weights of its own. With `full`, the sharpness is measured along
    the first repeat: several times the cost.

    The test that is returned has the `command` that trains at its peak. With `out` it has that `folder`, in which
    ``check.json`` holds it with configuration, versions and hardware, ``check.png`` its figure, where matplotlib is
    installed, and ``report.html`` its page, where plotly and jinja2 are; without `report`, neither of the two.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`; as `Learner.range_test`.
        Interrupted: stopped by a signal; nothing is written.

    >>> test = check(Job("digits", model="mlp"), repeats=1)
    >>> test.verdict.answer in ("possible", "not possible", "unclear"), 0.01 < test.lr_max < 2
    (True, True)
    """
    updates, repeats, lr_low, lr_high = map(unwrapped, (updates, repeats, lr_low, lr_high))
    check_plan(updates, repeats, lr_low=lr_low, lr_high=lr_high)
    flag("full", full)
    options = {"updates": updates, "repeats": repeats, "lr_low": lr_low, "lr_high": lr_high, "full": full}
    ranks = Runtime.choose(job.device, timeout=seconds_of(job.timeout)).ranks
    with ranks.together():
        folder = None if out is None else ranks.from_main(lambda: CHECK.claim(out))
        return _checked(job, options, folder if ranks.is_main else None, verbose and ranks.is_main, report)


def _checked(job: Job, options: dict[str, Any], folder: Path | None, verbose: bool, report: bool) -> RangeTest:
    ready = prepare(job, verbose)
    test = ready.learner.range_test(
        **options,
        epochs=Budget.parse(job.budget).epochs or EPOCHS,
        build=ready.build,
        title=f"{job.data}, {ready.config['model']}, {ready.learner.resolved['optimizer']}",
    )
    timed = Budget.parse(job.budget).seconds is not None
    named = replace(job, model=ready.config["model"]) if timed else job  # train would take one that suits the time
    told, peak = list(ready.learner.notes), test.lr_max or "default"
    if job.stages or job.tuning != OFF:
        peak = job.lr_max
        told.append(
            "the test is of all layers at one rate from the first update on, and no guide to fine-tuning in stages, "
            "whose peaks pilots choose"
        )
        notes(told[-1:] if verbose else [])
    test = replace(test, notes=tuple(told), folder=folder, command=named.command(lr_max=peak))
    resolved = {"lr_max": test.lr_max, **ready.learner.resolved, "model": ready.config["model"]}
    return written(
        CHECK, test, report, config={**ready.config, **options}, resolved=resolved, facts=ready.facts,
        notes=list(test.notes),
    )  # fmt: skip


def check_curve(path: str | Path, out: str | Path | None = None, *, report: bool = True) -> RangeTest:
    """Judge the log of a range test: a CSV file with the columns ``lr`` and ``test_accuracy``.

    Nothing is trained. Of a log that goes on after its highest learning rate, only the rise counts. Returns and writes
    what `check` does, without a peak and a command.

    Raises:
        DataError: no such table, or one without accuracies.
        CheckpointError: the folder `out` cannot be written, or has a check.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "curve.csv"
    ...     _ = path.write_text("lr,test_accuracy\\n0.1,0.7\\n0.5,0.8\\n1,0.8\\n2,0.78\\n3,0.75\\n")
    ...     check_curve(path).lr_max is None
    True
    """
    folder = None if out is None else CHECK.claim(out)
    curve = Curve.from_csv(path)
    if not curve.valid_accuracy.lr:
        raise DataError(f"{path} has no values in a column test_accuracy, which the verdict is read from")
    test = RangeTest(curve, judge(curve), title=Path(path).name, folder=folder)
    return written(CHECK, test, report, config={"curve": str(path)}, resolved={}, facts={}, notes=list(test.notes))

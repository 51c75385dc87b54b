"""Looking into a finished run, by its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..interpretation.api import Interpretation
from ..interpretation.looked import Looked
from ..learner import Learner
from ..records.files import WEIGHTS
from ..records.predictions import read_predictions
from ..records.progress import notes
from ..records.run import load_trained
from .run import job_of, prepare


def interpret_run(folder: str | Path, data: Any = None, *, verbose: bool = True) -> Interpretation:
    """Look into the run in `folder`: the predictions for its validation data that it kept, or those for other `data`.

    A run of an earlier version kept none, and one that has not come to its end has none yet, or is in the hands of
    another process: they are computed, of the latter with the weights of its last checkpoint, which is said. What needs
    the model and the data again, the importance of columns and further heat maps, reads them when it is asked for.

    Raises:
        CheckpointError: no run there, damaged predictions; or, where model and data are needed, a run begun in Python.
        OneCycleError: the run's data can't be read any more.

    >>> from tempfile import TemporaryDirectory
    >>> from onecycle import Job, run
    >>> with TemporaryDirectory() as place:
    ...     _ = run(Job("digits", model="mlp", budget="1 epochs", limit=200), f"{place}/run", report=False)
    ...     interpret_run(f"{place}/run")
    Interpretation(Predictions(valid: 144 samples, 10 classes), as the run kept them)
    """
    folder = Path(folder)
    kept = read_predictions(folder)
    if data is None and "valid" in kept:

        def look() -> Looked:
            learner, of_run, _ = _learner(folder)
            return Looked.of(learner.model, learner.state, learner._setup, learner.valid, of_run.valid)  # type: ignore[arg-type]

        return Interpretation(kept["valid"], "as the run kept them", look)
    learner, _, said = _learner(folder)
    if data is None:
        said = (*said, f"{folder} has kept no predictions: they are computed for its validation data")
    notes(said if verbose else [])
    return learner.interpret(data)


def _learner(folder: Path) -> tuple[Learner, Any, tuple[str, ...]]:
    """The learner of a run with the weights that it ended with, or of its last checkpoint; its data, and notes."""
    ready = prepare(job_of(folder), before=folder)
    said, weights = (), folder / WEIGHTS
    if weights.exists():
        ready.learner.load(weights)  # and the units that they were trained in
    else:
        said = load_trained(ready.learner.model, folder)
    return ready.learner, ready.data, said

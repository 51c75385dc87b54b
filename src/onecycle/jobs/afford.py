"""What a time budget affords: the net, its width, batch and precision that suit the images and the seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..data import Data
from ..learner import Learner
from ..models.fast import LEAST
from ..profiling.machine import support
from ..schedules.budget import Budget
from ..schedules.presets import preset
from ..search.trial import trial
from .job import Job

NET = "fast-cnn"
CHOSEN = ("model", "model_options", "batch_size", "precision")
WIDTHS = (8, 16, 32, 48, 64)
# The widest net is taken that goes through the data so many times, in so many updates.
EPOCHS, UPDATES = 4.0, 800
# Of a batch: a power of 2, with so many of them in an epoch, between these.
AN_EPOCH, SMALLEST, LARGEST = 40, 32, 256
TRAINING = 0.9  # the part of the seconds that updates are made in
CHOOSING = 0.05  # the part of them that may go into the choice
TRIED, TURNS = 4, 2  # updates, to see how long they take, and how often
FASTER = 1.1  # bf16 is taken where updates are so many times as fast with it


def affordable(job: Job, data: Data, began: float, learner_of: Callable[[Job], Learner]) -> tuple[Job, Data]:
    """The job with what "auto" stands for as its model, and the data with a note that says what was chosen.

    Images of classes in a time budget get a `fast_cnn`: the widest that goes through the training data `EPOCHS` times,
    and makes `UPDATES` updates, in the time that is left, by what a few of them take on this machine. The size of its
    batches and the precision are chosen with it, where the job does not give them. All else gets the model that suits
    the data, in float32.

    A timing decides, so that another machine, or this one when it is busy, may come to another net.

    Args:
        began: when the time budget began, by `time.perf_counter`.
        learner_of: makes the learner of a job for these data.
    """
    seconds = Budget.parse(job.budget).seconds
    if seconds is None or data.kind != "image" or data.classes is None or min(data.input_shape[1:]) < LEAST:
        return replace(job, model=None), data
    started, samples = time.perf_counter(), len(data.train)
    left, until = TRAINING * (seconds - (started - began)), started + CHOOSING * seconds
    batch = job.batch_size or min(LARGEST, max(SMALLEST, _power_of_two(samples / AN_EPOCH)), samples)
    chosen, pace = job, 0.0
    for tried, taken in _timed(job, batch, learner_of):
        if pace and (taken * max(UPDATES, EPOCHS * samples / batch) > left or time.perf_counter() > until):
            break
        chosen, pace = tried, taken
    options = chosen.model_options or {}
    note = (
        f"model auto: {NET} of width {options['width']} in {chosen.precision}, batches of {batch}: about "
        f"{max(0.0, left) / pace * batch / samples:.2g} epochs in the time"
    )
    return chosen, replace(data, notes=(*data.notes, note))


def _timed(job: Job, batch: int, learner_of: Callable[[Job], Learner]) -> Iterator[tuple[Job, float]]:
    """The job with nets of each width, narrow ones first, in the faster precision, and the seconds of an update."""
    given, precision = job.model_options or {}, job.precision
    for width in [given["width"]] if "width" in given else WIDTHS:
        options = {**given, "width": width}
        tried = replace(job, model=NET, model_options=options, batch_size=batch, precision=precision or "fp32")
        learner = learner_of(replace(tried, compile=False))
        learners = [learner]
        if precision is None and support(learner.runtime.device).get("bf16"):
            learners.append(learner_of(replace(tried, compile=False, precision="bf16")))
        # In turns, since a machine is not as fast at each moment.
        taken, *narrow = map(min, zip(*([_pace(one) for one in learners] for _ in range(TURNS)), strict=True))
        if narrow and FASTER * narrow[0] < taken:
            precision = "bf16"
            tried, taken = replace(tried, precision=precision), narrow[0]
        yield tried, taken


def _pace(learner: Learner) -> float:
    """The seconds of an update, which leaves no trace."""
    return trial(learner.state, learner.train, f"{TRIED} updates", preset("linear", 1e-4)).pace


def _power_of_two(most: float) -> int:
    """The largest power of two that is not above `most`; 1 where that is below 1."""
    return 1 << max(0, int(most).bit_length() - 1)

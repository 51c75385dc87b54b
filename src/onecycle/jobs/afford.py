"""What a time budget affords: the net, its width, batch and precision that suit the images and the seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from ..data import Data
from ..learner import Learner
from ..models.fast import LEAST, fast_cnn
from ..profiling.machine import support
from ..schedules.budget import Budget
from ..schedules.presets import preset
from ..search.trial import OutOfTime, trial
from ..text import number as in_words
from ..training.ranks import Ranks
from .job import Job

NET = "fast-cnn"
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
    and makes `UPDATES` updates, in the time that is left, judged by a few updates on this machine. The size of its
    batches and the precision are chosen with it, where the job does not give them. All else gets the model that suits
    the data, in float32; so do options that `fast_cnn` does not have.

    A timing decides, so that another machine, or this one when it is busy, may come to another net.

    Args:
        began: when the time budget began, by `time.perf_counter`.
        learner_of: makes the learner of a job for these data.

    Raises:
        OneCycleError: options of the job that no learner can be made with.
    """
    seconds, options = Budget.parse(job.budget).seconds, job.model_options or {}
    if seconds is None or not _suits(data) or not set(options) <= set(signature(fast_cnn).parameters):
        return replace(job, model=None), data
    started, samples = time.perf_counter(), len(data.train)
    left, until = TRAINING * (seconds - (started - began)), started + CHOOSING * seconds
    left = Ranks.here().broadcast(left)
    batch = job.batch_size or min(LARGEST, max(SMALLEST, _power_of_two(samples / AN_EPOCH)), samples)
    an_epoch = samples / (batch * job.accumulate)  # updates
    narrowest = {"width": WIDTHS[0], **options}
    chosen = replace(job, model=NET, model_options=narrowest, batch_size=batch, precision=job.precision or "fp32")
    about = f"not timed, which would take more than {CHOOSING:.0%} of the time"
    for i, (tried, taken) in enumerate(_timed(chosen, job.precision, options, learner_of, until)):
        if i and taken * max(UPDATES, EPOCHS * an_epoch) > left:
            break
        chosen, epochs = tried, max(0.0, left) / taken / an_epoch
        about = f"about {in_words(float(f'{epochs:.2g}'))} epochs in the time"
    width = (chosen.model_options or {})["width"]
    note = f"model auto: {NET} of width {width} in {chosen.precision}, batches of {batch}: {about}"
    return chosen, replace(data, notes=(*data.notes, note))


def as_chosen(job: Job, config: Mapping[str, Any]) -> Job:
    """The job with what a run with this configuration chose where "auto" leaves it open."""
    left_open = {name: config[name] for name in ("batch_size", "precision") if getattr(job, name) is None}
    options = {**(config["model_options"] or {}), **(job.model_options or {})} or None
    return replace(job, model=config["model"], model_options=options, **left_open)


def _suits(data: Data) -> bool:
    """Whether a `fast_cnn` can be trained on these data."""
    return data.kind == "image" and data.classes is not None and min(data.input_shape[1:]) >= LEAST


def _timed(
    job: Job, given: str | None, options: Mapping[str, Any], learner_of: Callable[[Job], Learner], until: float
) -> Iterator[tuple[Job, float]]:
    """The job with nets of each width, narrow ones first, in the faster precision, and the seconds of an update.

    It ends where the time is over, by `time.perf_counter`.
    """
    precision = job.precision
    for width in [options["width"]] if "width" in options else WIDTHS:
        tried = replace(job, model_options={**options, "width": width}, precision=precision)
        learners = [learner_of(replace(tried, compile=False))]
        if given is None and precision == "fp32" and support(learners[0].runtime.device).get("bf16"):
            learners.append(learner_of(replace(tried, compile=False, precision="bf16")))
        try:  # in turns, since a machine is not as fast at each moment
            turns = [[_pace(learner, until) for learner in learners] for _ in range(TURNS)]
        except OutOfTime:
            return
        taken, *narrow = map(min, zip(*turns, strict=True))
        if narrow and FASTER * narrow[0] < taken:
            precision, taken = "bf16", narrow[0]
        yield replace(tried, precision=precision), taken


def _pace(learner: Learner, until: float) -> float:
    """The seconds of an update, which leaves no trace.

    Raises:
        OutOfTime: the updates are not over by then.
    """
    return trial(learner.state, learner.train, f"{TRIED} updates", preset("linear", 1e-4), until=until).pace


def _power_of_two(most: float) -> int:
    """The largest power of two that is not above `most`; 1 where that is below 1."""
    return 1 << max(0, int(most).bit_length() - 1)

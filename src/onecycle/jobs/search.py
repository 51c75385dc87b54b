"""Pilots for a job: which peak, and whether weight decay, dropout, batch size or label smoothing beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ..errors import Interrupted, OneCycleError
from ..fits.plan import come_to
from ..learner import Learner
from ..records.files import PILOTS, RUN, SUMMARY, read_jsonl
from ..records.run import Recording
from ..schedules.budget import Budget
from ..schedules.policy import Policy
from ..schedules.presets import preset
from ..search.api import OUT_OF_TIME, PilotRecord, search_of, updates_within
from ..search.balance import Candidate, Trial, balance, candidates, length
from ..search.pilots import JUDGING, Pilot, StatePilots, pilot
from ..search.trial import OutOfTime
from ..text import count, percent
from ..training.loop import updates_per_epoch
from ..training.signals import StopRequest, stop_requests
from .job import Job

# Of the training samples, the share that a batch may be.
LARGEST = 1 / 8

Build = Callable[[Mapping[str, Any]], Learner]
"""From settings by name to a learner for the same data, with the same initial weights."""


@dataclass(frozen=True)
class BalanceSearch:
    """What the pilots of a job found out.

    Args:
        lr_max: the peak to train with; None for a policy that has its own.
        settings: those that are not left at their defaults, by name.
        reason: why these, in words.
        updates: what the pilots cost, of the default batch size and evaluations counted as updates.
        of: those that run and pilots have together, about.
        left: the updates that the run has; None under a time budget.
        seconds: what it took.
        pilots: a record each: setting, lr_max, updates, loss, accuracy, kept, why.
    """

    lr_max: float | None
    settings: Mapping[str, Any]
    reason: str
    updates: int
    of: int
    left: int | None
    seconds: float
    pilots: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @classmethod
    def of_run(cls, folder: Path) -> Self | None:
        """That of the run in `folder`; None where its pilots are not all made yet."""
        known = RUN.read(folder)["resolved"].get("search")
        return cls(**known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "settings": dict(self.settings), "pilots": [dict(row) for row in self.pilots]}

    def line(self) -> str:
        """The result in a line."""
        chosen = ", ".join(str(Candidate(*one)) for one in self.settings.items()) or "settings: the defaults"
        if not self.pilots:
            chosen = f"peak and {chosen}"
        spent = f" ({count(len(self.pilots), 'pilot')}, {percent(self.updates / self.of, 1)} of the budget)"
        return f"{chosen}{spent if self.pilots else ''}: {self.reason}"

    @property
    def peak(self) -> float | str:
        """The peak as `Learner.fit` takes it."""
        return "auto" if self.lr_max is None else self.lr_max

    def budget(self, whole: Budget) -> Budget:
        """What is left of the budget: of time all of it, whose clock has run on."""
        return whole if self.left is None else Budget(updates=self.left)


def dropouts(model: nn.Module) -> list[_DropoutNd]:
    """The dropout layers of a model."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd)]


def dropout_of(model: nn.Module) -> float | None:
    """The share that its dropout layers drop; None where there are none, or it is not one."""
    shares = {module.p for module in dropouts(model)}
    return shares.pop() if len(shares) == 1 else None


def defaults(job: Job, learner: Learner) -> dict[str, Any]:
    """The settings that may be moved, by name: those that the job leaves open."""
    known = learner.resolved
    by_updates = Budget.parse(job.budget).updates is not None
    open_ = {
        "batch_size": known["batch_size"] if job.batch_size is None and not by_updates else None,
        "weight_decay": known["weight_decay"] if job.weight_decay is None else None,
        "dropout": dropout_of(learner.model) if "dropout" not in (job.model_options or {}) else None,
        "smoothing": known["smoothing"] if job.smoothing is None else None,
    }
    return {name: value for name, value in open_.items() if value is not None}


def search_balance(
    job: Job, learner: Learner, build: Build, folder: Path, *, samples: int, began: float, **about: Any
) -> BalanceSearch:
    """Begin the run of `job` in `folder`, or go on with it, and make its pilots; each is kept there as it is made.

    Where they are all made, what they found out is read from there.

    `learner` has the default settings and so many training `samples`, `build` makes one with others, and `about` are
    the configuration and the facts of the run.

    Raises:
        Interrupted: stopped by a signal, after the update under way; the pilots that were made stay.
        CheckpointError: the folder holds another run, or cannot be written.
    """
    begun = RUN.exists(folder)
    if begun and (known := BalanceSearch.of_run(folder)):
        return known
    with ExitStack() as stack:
        stop = stack.enter_context(stop_requests(learner.runtime.ranks))
        make = Recording.resume if begun else Recording.start
        more = {} if begun else {"notes": learner.notes, "say": learner.notes.append}
        named = {"model": about["config"]["model"]}
        known = {**learner.resolved, **named}
        recording = make(folder, learner.state, stack, resolved=known, **about, **more)  # type: ignore[operator]
        stack.enter_context(_kept(recording))
        if not begun:
            learner.runtime.ranks.from_main(lambda: SUMMARY.write(folder, learner._setup.summary()) and None)
        searching = _Searching(job, learner, build, samples, recording, stop)
        searched = searching.search(began)
        chosen = build(searched.settings) if searched.settings else learner
        left = searched.budget(searching.whole).total_updates(_per_epoch(chosen))
        plan = come_to(searching.policy(searched.lr_max, left), left)
        resolved = {**plan, **chosen.resolved, **named, "search": searched.to_dict()}
        recording.decided(resolved, [*RUN.read(folder)["notes"], searched.line()])
    learner._say(searched.line())
    return searched


def seconds_before(folder: Path) -> float:
    """What the search of the run in `folder` took before now; 0 where there is none."""
    if not RUN.exists(folder):
        return 0.0
    record = RUN.read(folder)
    if known := record["resolved"].get("search"):
        return known["seconds"]
    return sum(row["seconds"] for row in read_jsonl(folder / PILOTS)) if record["config"].get("balance") else 0.0


@contextmanager
def _kept(recording: Recording) -> Iterator[None]:
    """After an error within the block, ``run.json`` says how the run stands."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Interrupted):
            error.args = (f"{error}. The pilots that were made are kept",)
        recording.broken_off(error)
        raise


class _Searching:
    """The pilots of one job, those of before it was broken off among them."""

    def __init__(self, job: Job, learner: Learner, build: Build, samples: int, recording: Recording, stop: StopRequest):
        self.job, self.learner, self.build, self.samples = job, learner, build, samples
        self.recording, self.stop = recording, stop
        self.before = recording.pilots()
        self.whole = Budget.parse(job.budget)
        self.default = defaults(job, learner)
        self.spent, self.rows = 0.0, list[dict[str, Any]]()
        self._peaks: dict[Any, float] = {}  # the default ones by batch size

    def policy(self, lr_max: float | None, updates: int | None) -> Policy:
        if lr_max is None or not isinstance(self.job.policy, str):
            return Policy.from_dict(self.job.policy)  # type: ignore[arg-type]
        return preset(self.job.policy, lr_max, updates, **self.job.schedule_options)

    def search(self, began: float) -> BalanceSearch:
        started = time.perf_counter() - sum(row["seconds"] for row in self.before)
        seconds = self.whole.seconds
        self.until = math.inf if seconds is None else started + self.job.search * seconds
        state, train = self.learner.state, self.learner.train
        self.of = self.before[0]["of"] if self.before else updates_within(
            state, train, self.whole, time.perf_counter() - began
        )  # fmt: skip
        peak = self._peak()
        chosen, why = self._balance(peak)
        settings = {} if chosen is None else {chosen.name: chosen.value}
        cost = round(self.spent)
        peak = None if peak is None else self._peak_for(peak, chosen)
        return BalanceSearch(
            peak, settings, why, cost, self.of, self._left(cost, chosen),
            time.perf_counter() - started, tuple(self.rows),
        )  # fmt: skip

    def _peak(self) -> float | None:
        """The peak for the default settings; None for a policy of its own."""
        job = self.job
        if not isinstance(job.policy, str):
            return None
        if not isinstance(job.lr_max, str):
            return job.lr_max
        usual = self.learner.default_peak
        default = self.before[0]["lr_max"] if self.before else usual  # at which the first is always made
        if job.lr_max == "default" or not job.search:
            return default
        made = search_of(
            self.learner.state, self.learner.train, self.learner.valid, self.of, default, share=job.search,
            policy=self.policy, record=PilotRecord.kept_in(self.recording), stop=self.stop,
            seconds=self.whole.seconds or math.inf,
        )  # fmt: skip
        self.spent += made.updates
        for one in made.pilots:
            kept = one.lr_max == made.lr_max
            why = one.lost or ("the peak" if kept else made.reason)
            trial = Trial(None, one.lr_max, one.updates, one.loss, one.valid.get("accuracy"))
            self.rows.append(_row(None, trial, kept, why))
        if made.pilots:
            self.learner._say(made.line())
        return made.lr_max

    def _balance(self, peak: float | None) -> tuple[Candidate | None, str]:
        if not self.job.search:
            return None, "no pilots are asked for"
        known = {name: value for name, value in self.default.items() if name != "batch_size" or peak is not None}
        tried = candidates(known, int(LARGEST * self.samples))
        each, n = length(self.job.search * self.of - self.spent, len(tried), JUDGING)
        if not each:
            return None, "the budget is too small for pilots that can tell"
        held = StatePilots(
            self.learner.state, self.learner.train, self.learner.valid, self.policy, self.of, each, self.stop,
            self.until,
        )  # fmt: skip

        def run(candidate: Candidate | None, updates: int) -> Trial:
            made = self._pilot(candidate, updates, peak, held)
            self.spent += updates + held.evaluation
            return Trial(
                candidate, made.lr_max, made.updates, made.loss, made.valid.get("accuracy"), why=made.lost or ""
            )

        try:
            chosen, why, trials = balance(run, held.levels().nothing, tried[:n], each)
        except OutOfTime:
            return None, OUT_OF_TIME
        self.spent += held.evaluation
        self.rows += [_row(one.candidate, one, one.kept, one.why) for one in trials]
        return chosen, why

    def _pilot(self, candidate: Candidate | None, updates: int, peak: float | None, held: StatePilots) -> Pilot:
        """A pilot, or what is known of it."""
        setting = _setting(candidate)
        lr_max = self._peak_of_policy() if peak is None else self._peak_for(peak, candidate)
        mine = max(1, round(updates / self._ratio(candidate)))
        for row in self.before:
            if "setting" in row and (row["setting"], row["updates"], row["lr_max"]) == (setting, mine, lr_max):
                return Pilot(**{name: value for name, value in row.items() if name != "setting"})
        made = self._made(candidate, lr_max, mine, held)
        self.recording.keep_pilot({**made.to_dict(), "setting": setting})
        return made

    def _made(self, candidate: Candidate | None, lr_max: float, updates: int, held: StatePilots) -> Pilot:
        started = time.perf_counter()

        def run() -> tuple[Mapping[str, float] | None, int]:
            learner = self.build(_setting(candidate)) if candidate else self.learner
            make = StatePilots(
                learner.state, learner.train, learner.valid, self.policy, self.of, updates, self.stop, self.until,
                held_out=held.held_out,
            )  # fmt: skip
            one = make(lr_max, updates)
            if one.lost == "out of memory":
                raise MemoryError
            return (None if one.lost else one.valid), updates

        try:
            return pilot(lr_max, updates, self.of, run)
        except OneCycleError as error:  # such as a batch that the model does not take
            if self.learner.runtime.ranks.world > 1:  # it may be of this rank alone
                raise
            return Pilot(lr_max, updates, None, {}, time.perf_counter() - started, self.of, str(error))

    def _ratio(self, candidate: Candidate | None) -> float:
        """How many times as large as the default the batch is."""
        return candidate.value / self.default["batch_size"] if candidate and candidate.name == "batch_size" else 1.0

    def _peak_of_policy(self) -> float:
        return self.policy(None, None).peak  # type: ignore[return-value]

    def _peak_for(self, peak: float, candidate: Candidate | None) -> float:
        """The peak goes with the batch as the default one does."""
        if candidate is None or candidate.name != "batch_size":
            return peak
        if candidate.value not in self._peaks:
            self._peaks[candidate.value] = self.build(_setting(candidate)).default_peak
        return float(f"{peak * self._peaks[candidate.value] / self.learner.default_peak:.3g}")

    def _left(self, spent: int, chosen: Candidate | None) -> int | None:
        total = self.whole.total_updates(_per_epoch(self.learner))
        return None if total is None else max(1, round((total - spent) / self._ratio(chosen)))


def _per_epoch(learner: Learner) -> int | None:
    return updates_per_epoch(learner.train, learner.state.accumulate)


def _setting(candidate: Candidate | None) -> dict[str, Any]:
    return {} if candidate is None else {candidate.name: candidate.value}


def _row(candidate: Candidate | None, one: Trial, kept: bool, why: str) -> dict[str, Any]:
    return {
        "setting": _setting(candidate), "lr_max": one.lr_max, "updates": one.updates, "loss": one.loss,
        "accuracy": one.accuracy, "kept": kept, "why": why,
    }  # fmt: skip

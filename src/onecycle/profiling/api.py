"""A profile: the present setting and others in turn, inside a budget of time, and everything as before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .. import text
from ..checks import cores, flag
from ..data.batches import Batches, OneShotBatches, peeked
from ..data.standardise import untransformed
from ..errors import ConfigError, DataError, Interrupted, OneCycleError
from ..range_test.api import sampler_kept
from ..schedules.budget import Budget
from ..training.loop import updates_per_epoch
from ..training.restore import untouched
from ..training.signals import StopRequest, stop_requests
from ..training.state import TrainState
from . import advice
from .machine import free_memory, is_out_of_memory, support
from .measure import LEAST, SECONDS, WARM, Timing, Visit, failure, timing, visit
from .result import Profile
from .settings import Setting, of_loader, samples_at_most, samples_of_first, setting_of

BUDGET = "1m"
# Of the budget: what the present setting takes at first, and what is kept for the settings that gained, together.
FIRST, TOGETHER = 0.15, 0.1
# Goes at each setting: what differs between them is told from what differs between moments.
ROUNDS = 2
# Batches of so many times the present size are tried; on the CPU within this share of the memory that is free.
SIZES = (2, 4, 0.5, 8)
ROOM = 0.5
# Another precision is tried with other batches where it has this share of the samples a second. Compiling is tried
# without being asked for where so many seconds are left at the end.
WORTH, COMPILING = 0.9, 120.0
# Batches that can be gone through once: so many are read, and gone through again.
PEEKED = 16


@dataclass
class _Profiler:
    """The measurements of one profile as they come in."""

    state: TrainState
    batches: Batches
    until: float
    stop: StopRequest
    visits: dict[Setting, list[Visit]] = field(default_factory=dict)
    failed: dict[Setting, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.present = setting_of(self.state, self.batches)
        self.base = self.present  # what others are told from: less than that where it does not fit
        self.samples = self.present.batch_size or samples_of_first(self.batches)
        self.fresh = not self.state.optimizer.state

    @property
    def left(self) -> float:
        return self.until - time.perf_counter()

    def measure(self, setting: Setting, seconds: float, until: float | None = None, least: int = 1) -> bool:
        """Have a go at a setting, of so many updates at least; whether that came to something."""
        began = time.perf_counter()
        relaid = setting.channels_last != self.present.channels_last
        if relaid:  # what the optimizer keeps lies as the weights do
            self.state.optimizer.state.clear()
        try:
            until = self.until if until is None else until
            least = 2 if setting == self.base else least
            made = visit(setting, self.state, self.batches, seconds, until, self.stop, least=least)
        except Interrupted:
            raise
        except (OneCycleError, RuntimeError, MemoryError) as error:
            if setting == self.base and not is_out_of_memory(error):
                raise
            self.failed[setting] = "out of memory" if is_out_of_memory(error) else _first_line(error)
            error.__traceback__ = None  # whose frames hold what was computed
            made = None
        else:
            if made is None:
                spent = text.duration(time.perf_counter() - began)
                self.left_out.append(f"{setting.words(self.present)}: no update was over after {spent}")
        finally:
            if relaid:
                self.state.optimizer.state.clear()
            if self.state.runtime.device.type != "cpu":  # what another setting left is not free else
                torch.get_device_module(self.state.runtime.device).empty_cache()
        if made is not None:
            self.visits.setdefault(setting, []).append(made)
        return made is not None

    def expected(self, setting: Setting) -> float:
        """About the seconds of a shortest go at a setting."""
        base = self.visits[self.base][-1]
        times = (setting.batch_size or 1) / (self.base.batch_size or 1)
        pace = base.pace * max(1.0, times)
        return max(2 * pace, min((WARM + LEAST) * pace, 2 * SECONDS)) + max(base.starts, default=0.0)

    def try_all(self, settings: Sequence[Setting], reserve: float) -> None:
        """Have a go at each of the settings, as far as time and memory allow."""
        for k, setting in enumerate(settings):
            have, goes = self.left - reserve, (len(settings) - k) * ROUNDS + ROUNDS
            if self.expected(setting) > have:
                self.left_out.append(f"{setting.words(self.present)}: no time was left")
            elif why := self._too_large(setting):
                self.left_out.append(f"{setting.words(self.present)}: {why}")
            else:
                self.measure(setting, min(SECONDS, have / goes), self.until - reserve)

    def _too_large(self, setting: Setting) -> str | None:
        """Why a batch is not tried on the CPU: it could take more memory than is free."""
        each, free = self.bytes_per_sample(), free_memory(self.state.runtime.device)
        if self.state.runtime.device.type != "cpu" or each is None or free is None:
            return None
        more = each * max(0, (setting.batch_size or 0) - (self.base.batch_size or 0))
        return (
            f"it may take {text.size(round(more))} of {text.size(free)} that are free" if more > ROOM * free else None
        )

    def bytes_per_sample(self) -> float | None:
        """The memory of a sample: from two sizes of batches, or at most what the first go took."""
        of_size = {
            one.batch_size: max(visit.memory or 0 for visit in self.visits[one])
            for one in self.visits
            if one.batch_size and {*one.changes(self.base)} <= {"batch_size"}
        }
        small, large = min(of_size, default=0), max(of_size, default=0)
        if large > small and of_size[small] and of_size[large] > of_size[small]:
            return (of_size[large] - of_size[small]) / (large - small)
        first = self.visits.get(self.base, [None])[0]
        if first is None or first.memory is None or first.before is None or len(of_size) > 1:
            return None
        return max(0, first.memory - first.before) / self.samples

    def timings(self, per_epoch: int | None) -> list[Timing]:
        """All that was measured, in its order."""
        made = []
        for setting, visits in self.visits.items():
            times = (self.present.batch_size or 1) / (setting.batch_size or 1)
            made.append(timing(visits, per_epoch and per_epoch * times))
        return made + [failure(setting, why) for setting, why in self.failed.items() if setting not in self.visits]


def profile_of(
    state: TrainState,
    train: Batches,
    *,
    budget: Any = BUDGET,
    compile: bool = False,
    began: float | None = None,
    title: str = "",
    shell: bool = False,
    say: Callable[[str], None] | None = None,
) -> Profile:
    """Measure where the time of an update of `state` on `train` goes, and which settings make it faster.

    The updates are made as a fit makes them, with a learning rate at which no weight moves. Their time is split into
    data, forward (with loss and metrics), backward, optimizer (with clipping) and ours, which is all the rest. Other
    batch sizes, precisions, numbers of threads and workers and memory layouts are tried in turn, as far as data,
    device, memory and the budget allow.

    Args:
        budget: a time for all of it, such as "30s".
        compile: try ``torch.compile`` too, whose compiling may take longer than the budget.
        began: when the budget began, by `time.perf_counter`; None: now.
        title: what is profiled, in words.
        shell: say what to change in options of the command.
        say: told in a line how long it takes.

    Raises:
        ConfigError: a budget that is no time, or several ranks.
        DataError: not even a batch of one sample fits into the memory.
        Interrupted: a signal came; everything is as before.
    """
    began = time.perf_counter() if began is None else began
    seconds = budget_seconds(budget)
    flag("compile", compile)
    device, ranks = state.runtime.device, state.runtime.ranks
    if ranks.world > 1:
        raise ConfigError(
            f"a profile is of one process, which tries what it has time for, and this is {ranks.name}: start it "
            "without torchrun (instead of a model in shards: a smaller one of the same layers)"
        )
    if say is not None:
        say(f"profile: takes about {text.duration(seconds)}")
    notes: list[str] = []
    if isinstance(untransformed(train), OneShotBatches):
        train = peeked(train, PEEKED)
        notes.append(
            f"the batches can be gone through only once: {PEEKED} were read before, and their reading is not timed"
        )
    scaler = [] if state.scaler is None else [state.scaler]
    loader = getattr(untransformed(train), "iterable", None)
    with stop_requests() as stop, sampler_kept(loader), untouched([state.optimizer], state.modules, scaler):
        profiler = _Profiler(state, train, began + seconds, stop)
        late = time.perf_counter() - began
        if late > 0.2 * seconds:
            notes.append(f"{text.duration(late)} of the budget went by before: reading the data, building the model")
        if hasattr(os, "getloadavg") and device.type == "cpu" and (load := os.getloadavg()[0]) > cores():
            busy = f"load {load:.1f} on {text.count(cores(), 'core')}"
            notes.append(f"this machine is busy ({busy}): times are longer, and less sure, than on a quiet one")
        _measure(profiler, compile, notes)
        per_epoch = updates_per_epoch(train, state.accumulate)
        timings = profiler.timings(per_epoch)
        largest = _largest(profiler)
    present = next((one for one in timings if one.setting == profiler.present), None) or failure(
        profiler.present, "no time was left"
    )
    of_data = of_loader(train)
    change = advice.changes(profiler.base, profiler.visits, timings, present, shell=shell, of_loader=of_data)
    others = sorted((one for one in timings if one is not present), key=lambda one: _order(one, present.setting))
    return Profile(
        present, tuple(others), change, largest, tuple(profiler.left_out),
        tuple(notes), str(device), support(device), cores(), per_epoch, seconds, time.perf_counter() - began, title,
    )  # fmt: skip


def _order(one: Timing, present: Setting) -> tuple[Any, ...]:
    """Batch sizes come together, by precision; all else before them."""
    setting, changed = one.setting, one.setting.changes(present)
    if "batch_size" not in changed:
        return False, len(changed)
    return True, setting.precision != present.precision, setting.precision, setting.batch_size or 0


def budget_seconds(budget: Any) -> float:
    """The seconds that a profile may take.

    Raises:
        ConfigError: a budget that is no time.
    """
    seconds = Budget.parse(budget).seconds
    if seconds is None:
        raise ConfigError(f'the budget of a profile is a time, such as "1m" or "30s"; received {budget!r}')
    return seconds


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _measure(profiler: _Profiler, compile: bool, notes: list[str]) -> None:
    """The present setting, the others in two rounds, and at last those that gained, together."""
    _measure_base(profiler)
    if not profiler.visits:
        return
    reserve = TOGETHER * max(0.0, profiler.left)
    first, others = _candidates(profiler, notes)
    profiler.try_all(first, reserve + 0.35 * profiler.left)
    base = profiler.visits[profiler.base][0]
    for one in [setting for setting in first if setting.precision != profiler.base.precision]:
        if one in profiler.visits and _rate(profiler.visits[one][0]) > WORTH * _rate(base):
            others += [
                replace(other, precision=one.precision) for other in others if _differs(other, one, "batch_size")
            ]
    profiler.try_all(others, reserve + 0.3 * profiler.left)
    again = list(profiler.visits)
    for k, setting in enumerate(again):
        have = (profiler.left - reserve) / (len(again) - k)
        if profiler.expected(setting) < have:
            profiler.measure(setting, min(SECONDS, have), profiler.until - reserve)
    _compile(profiler, compile)
    if together := advice.together(profiler.base, profiler.visits):
        if profiler.expected(together) < profiler.left:
            profiler.measure(together, min(SECONDS, profiler.left / 2))
        else:
            profiler.left_out.append(f"{together.words(profiler.present)} together: no time was left")


def _compile(profiler: _Profiler, asked: bool) -> None:
    """Try torch.compile, which may take longer than the budget where it was asked for."""
    if profiler.base.compile:
        return
    if asked:
        profiler.measure(replace(profiler.base, compile=True), SECONDS, least=WARM + LEAST)
    elif profiler.left > COMPILING:
        profiler.measure(replace(profiler.base, compile=True), SECONDS)
    else:
        profiler.left_out.append("torch.compile: not asked for, and compiling takes long")


def _differs(setting: Setting, other: Setting, name: str) -> bool:
    return {*setting.changes(replace(other, precision=setting.precision))} == {name}


def _rate(visit: Visit) -> float:
    return visit.samples / visit.pace


def _measure_base(profiler: _Profiler) -> None:
    """The present setting; where it does not fit into the memory, the half, quarter, ... of its batch that does.

    Raises:
        DataError: no batch fits.
    """
    while True:
        base = profiler.base
        if profiler.measure(base, FIRST * max(0.0, profiler.left)):
            return
        if base.batch_size is None or base.batch_size < 2:
            raise DataError(
                f"not even a batch of {profiler.samples if base.batch_size is None else 1} fits into the memory of "
                f"{profiler.state.runtime.device}: give smaller batches, inputs or a smaller model"
            )
        profiler.base = replace(base, batch_size=base.batch_size // 2)


def _candidates(profiler: _Profiler, notes: list[str]) -> tuple[list[Setting], list[Setting]]:
    """The settings to try: those that change no training, then the sizes of batches."""
    base, device = profiler.base, profiler.state.runtime.device
    first: list[Setting] = []
    if base.compile:
        notes.append("a compiled model is compiled anew for another setting: only that without compiling was tried")
        return [replace(base, compile=False)], []
    if base.workers is not None:
        few = {w for w in (0, 1, 2, cores() - 1, cores()) if 0 <= w <= max(2, cores())}
        first += [replace(base, workers=w) for w in sorted(few) if w != base.workers]
    first += [replace(base, precision=p) for p in ("fp32", *support(device)) if p != base.precision]
    if base.threads is not None:
        powers = {2**k for k in range(16) if 2**k < cores()} | {cores()}
        first += [replace(base, threads=n) for n in sorted(powers) if n != base.threads]
    if base.channels_last is not None and profiler.fresh:
        first.append(replace(base, channels_last=not base.channels_last))
    if base.batch_size is None:
        notes.append("the batches come as they are: no other sizes were tried")
        return first, []
    most = samples_at_most(profiler.batches) or base.batch_size
    sizes = [int(times * base.batch_size) for times in SIZES]
    return first, [replace(base, batch_size=n) for n in sizes if 0 < n <= most and n != base.batch_size]


def _largest(profiler: _Profiler) -> dict[str, Any] | None:
    """The largest batch that fits: on an accelerator by trying, on the CPU by an estimate."""
    base, device = profiler.base, profiler.state.runtime.device
    if base.batch_size is None or not profiler.visits:
        return None
    each, free = profiler.bytes_per_sample(), free_memory(device)
    each = round(each or 0)
    if not each or free is None:
        return None
    estimate = base.batch_size + int(free / each)
    if device.type == "cpu":
        known = samples_at_most(profiler.batches)
        most, how = (estimate, "estimated") if known is None or estimate < known else (known, "all")
        return {"batch_size": most, "how": how, "bytes_per_sample": each, "free": free}
    fits, how = _tried(profiler, base.batch_size, estimate)
    return {"batch_size": fits, "how": how, "bytes_per_sample": each, "free": free}


def _tried(profiler: _Profiler, size: int, estimate: int) -> tuple[int, str]:
    """The largest batch that fits, within an eighth, and whether a larger one was seen to fail.

    After doubling, the `estimate` is tried where it lies between what fits and what does not, and then the middle.
    """
    fits, fails = _bracket(profiler, size)
    while fails is not None and fails - fits > max(1, fits // 8) and profiler.left > profiler.expected(profiler.base):
        middle = estimate if fits < estimate < fails else (fits + fails) // 2
        fitting = profiler.measure(replace(profiler.base, batch_size=middle), 0.0)
        fits, fails, estimate = (middle, fails, 0) if fitting else (fits, middle, 0)
    return fits, "at least" if fails is None else "measured"


def _bracket(profiler: _Profiler, size: int) -> tuple[int, int | None]:
    """The largest batch that was seen to fit, and the smallest that was not, by doubling as far as data and time go."""
    fits = max((one.batch_size or 0 for one in profiler.visits), default=size)
    fails = min((one.batch_size or 0 for one, why in profiler.failed.items() if why == "out of memory"), default=None)
    most = samples_at_most(profiler.batches) or fits
    while fails is None and 2 * fits <= most:
        larger = replace(profiler.base, batch_size=2 * fits)
        if profiler.expected(larger) > profiler.left:
            break
        if profiler.measure(larger, 0.0):
            fits *= 2
        elif larger in profiler.failed:
            fails = 2 * fits
        else:
            break
    return fits, fails

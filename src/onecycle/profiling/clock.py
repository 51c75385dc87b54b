"""Where the time of an update goes: a clock that is switched from part to part while the training loop runs.

The loop is the real one. What it is given is wrapped: its batches, so that waiting for one is *data*; and its runtime,
whose `move` is *data* too, whose `autocast` is *forward* (with loss and metrics), and whose `stepping` is *optimizer*
(with clipping). From the end of a forward pass to whatever comes next is *backward*. All else is *ours*: the loop, the
watch over the losses, the reading of the loss, and the observers. Every moment belongs to one part, so that the parts
of an update sum to it.

On a CUDA device the moments are events in its stream: a part is what passes on the device, and what the host does
while the device is busy costs nothing, as in a training. Other accelerators are waited for at each switch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from ..data.batches import Batches
from ..training.runtime import Runtime

DATA, FORWARD, BACKWARD, OPTIMIZER, OURS = "data", "forward", "backward", "optimizer", "ours"
PARTS: tuple[str, ...] = (DATA, FORWARD, BACKWARD, OPTIMIZER, OURS)
END = object()


class HostTime:
    """Moments on the host's clock, after everything on the device `waited` for, where one is given."""

    def __init__(self, waited: torch.device | None = None):
        self._module = None if waited is None else getattr(torch, waited.type)

    def now(self) -> float:
        """This moment."""
        if self._module is not None:
            self._module.synchronize()
        return time.perf_counter()

    def between(self, start: float, end: float) -> float:
        """The seconds between two moments."""
        return end - start

    def wait(self, moment: float) -> None:
        """Wait until a moment has come."""


class EventTime:
    """Moments in the stream of a CUDA device."""

    def __init__(self, device: torch.device):
        self._device = device

    def now(self) -> Any:
        """The moment when the device has done all that it was given so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, start: Any, end: Any) -> float:
        """The seconds between two moments, which is waited for."""
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def wait(self, moment: Any) -> None:
        """Wait until a moment has come."""
        moment.synchronize()


def time_of(device: torch.device) -> HostTime | EventTime:
    """What tells the time of computations on `device`."""
    if device.type == "cuda":
        return EventTime(device)
    return HostTime(None if device.type == "cpu" else device)


@dataclass
class PartClock:
    """Which part of an update each moment belongs to.

    >>> clock = PartClock()
    >>> clock.switch("forward"), clock.switch("ours"), clock.cut()
    (None, None, None)
    >>> sorted(clock.seconds()[0])
    ['backward', 'data', 'forward', 'optimizer', 'ours']
    """

    time: Any = field(default_factory=HostTime)
    starts: list[float] = field(default_factory=list)  # seconds that the first batch of an epoch was waited for
    begins: set[int] = field(default_factory=set)  # the updates in which an epoch begins
    _marks: list[tuple[str, Any]] = field(default_factory=list)
    _cuts: list[int] = field(default_factory=list)

    def switch(self, part: str) -> None:
        """From here on the time belongs to `part`."""
        self._marks.append((part, self.time.now()))

    def cut(self) -> None:
        """End an update here; the next one begins in what is ours."""
        self.switch(OURS)
        self._cuts.append(len(self._marks) - 1)
        if len(self._cuts) > 2:  # so that the host runs ahead, as in a training, but not out of reach
            self.time.wait(self._marks[self._cuts[-3]][1])

    @property
    def updates(self) -> int:
        """How many updates have ended."""
        return len(self._cuts)

    def seconds(self) -> list[dict[str, float]]:
        """The seconds of each part of each update."""
        first, updates = 0, []
        for last in self._cuts:
            parts = dict.fromkeys(PARTS, 0.0)
            for (part, start), (_, end) in zip(self._marks[first:last], self._marks[first + 1 : last + 1], strict=True):
                parts[part] += self.time.between(start, end)
            updates.append(parts)
            first = last
        return updates


@dataclass(frozen=True)
class TimedRuntime(Runtime):
    """A runtime that switches a clock where an update comes by."""

    clock: PartClock = field(default_factory=PartClock)

    @classmethod
    def around(cls, runtime: Runtime, clock: PartClock) -> TimedRuntime:
        """One that does what `runtime` does."""
        return cls(runtime.device, runtime.precision, runtime.channels_last, clock=clock)

    @property
    def _plain(self) -> Runtime:
        return Runtime(self.device, self.precision, self.channels_last)

    def move(self, batch: Any) -> Any:
        """See `Runtime.move`."""
        self.clock.switch(DATA)
        moved = self._plain.move(batch)
        self.clock.switch(OURS)
        return moved

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """See `Runtime.autocast`."""
        self.clock.switch(FORWARD)
        with self._plain.autocast():
            yield
        self.clock.switch(BACKWARD)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """See `Runtime.stepping`."""
        self.clock.switch(OPTIMIZER)
        yield
        self.clock.switch(OURS)


@dataclass(frozen=True)
class TimedBatches:
    """The batches of epoch after epoch as one that has no end, waiting for which is timed."""

    batches: Batches
    clock: PartClock

    def __len__(self) -> int:
        raise TypeError("batches without an end have no length")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`."""
        for number in count(epoch):
            began, empty = time.perf_counter(), True
            self.clock.switch(DATA)
            batches = self.batches.epoch(number, start)
            while (batch := next(batches, END)) is not END:
                if empty:
                    self.clock.starts.append(time.perf_counter() - began)
                    self.clock.begins.add(self.clock.updates)
                empty = False
                self.clock.switch(OURS)
                yield batch
                self.clock.switch(DATA)
            self.clock.switch(OURS)
            if empty and not start:
                return
            start = 0

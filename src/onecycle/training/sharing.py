"""Cores that other processes are busy on too: beside them the threads of a computation give way instead of spinning.

Threads wait for each other several hundred times an update. GNU's OpenMP, which the builds of torch for Linux bring,
has them spin for up to 7 ms before they sleep. Alone that is fastest. Beside other work a thread that spins takes the
turn of the one that it waits for: an update takes up to a hundred times as long. While there are more threads of
OpenMP than cores, they spin for 100 turns only, some microseconds (libgomp's manual, ``GOMP_SPINCOUNT``): so idle
threads turn the spinning off, and their end turns it on again. That changes no bit of any result.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from ..checks import cores

# Where one of these is set, it is said already how threads wait.
SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Seconds from one look at the cores to the next, and how much what it sees counts in the running mean.
EVERY, LATEST = 0.5, 0.6
# Of the cores that a computation has threads for, what others use where its threads are to give way, and where they
# are to spin again.
CROWDED, ALONE = 0.3, 0.1
ELEMENTS = 1 << 16  # of a tensor, for each thread, that torch works on in all of them


class Usage(NamedTuple):
    """Seconds so far: by the clock, of the cores in all processes together, and in this one."""

    at: float
    all: float
    own: float


def usage() -> Usage | None:
    """How much the cores that this process may run on were used; None where the system does not tell.

    Time that a virtual machine waited for its cores counts as used.
    """
    try:
        allowed = {f"cpu{i}" for i in os.sched_getaffinity(0)}
        lines = map(str.split, Path("/proc/stat").read_text(encoding="ascii").splitlines())
        busy = [sum(int(line[i]) for i in (1, 2, 3, 6, 7, 8)) for line in lines if line and line[0] in allowed]
    except (AttributeError, OSError, ValueError, IndexError):
        return None
    return Usage(time.perf_counter(), sum(busy) / os.sysconf("SC_CLK_TCK"), time.process_time()) if busy else None


def others(before: Usage, now: Usage) -> float:
    """The cores that other processes used between two looks, in the mean.

    >>> others(Usage(0.0, 10.0, 5.0), Usage(2.0, 13.0, 7.0))
    0.5
    """
    return max(0.0, (now.all - before.all) - (now.own - before.own)) / max(now.at - before.at, 1e-9)


def gives_way(busy: float, threads: int, cores: int, before: bool) -> bool:
    """Whether `threads` are to give way beside others that keep so many `cores` busy, as they did `before` or not.

    >>> [gives_way(busy, 2, 2, before=False) for busy in (0.2, 0.4)], gives_way(0.2, 2, 2, before=True)
    ([False, True], True)
    >>> gives_way(4.0, 8, 16, before=False), gives_way(1.0, 1, 2, before=False)
    (False, False)
    """
    return threads > 1 and busy - (cores - threads) > (ALONE if before else CROWDED)


def teams(threads: int, cores: int) -> int:
    """How many idle teams of so many threads make more of them than there are cores, beside one that works.

    >>> teams(2, 2), teams(8, 8), teams(8, 16), teams(2, 4)
    (1, 1, 2, 3)
    """
    return max(1, math.ceil((cores + 1 - threads) / (threads - 1)))


class Neighbours:
    """Looks at the cores again and again, and lets the threads of this process give way while others need them."""

    def __init__(self, look: Callable[[], Usage | None] = usage):
        self._look, self._busy, self._deciding = look, 0.0, threading.Lock()
        self._threads = torch.get_num_threads()  # each thread has a number of its own: that of the one that computes
        self._ended, self._idle = threading.Event(), threading.Event()
        self._parked: list[_Idle] = []
        self._watch = threading.Thread(target=self._keep_looking, name="onecycle-neighbours", daemon=True)

    @property
    def giving_way(self) -> bool:
        """Whether the threads of this process give way now."""
        return bool(self._parked)

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._watch.start()

    def end(self) -> None:
        """Look no more; threads wait as they did before."""
        self._ended.set()
        self._watch.join()

    def _keep_looking(self) -> None:
        before, busy = self._look(), 0.0
        while before is not None and not self._ended.wait(EVERY):
            if (now := self._look()) is None:
                break
            busy += LATEST * (others(before, now) - busy)
            before = now
            self.take(busy)
        with self._deciding:
            self._give_way(0)

    def take(self, busy: float) -> None:
        """Decide by the cores that others keep busy."""
        with self._deciding:
            self._busy = busy
            self._decide()

    def computes_in(self, threads: int) -> None:
        """Decide anew for so many threads of the computation."""
        with self._deciding:
            self._threads = threads
            if not self._ended.is_set():
                self._decide()

    def _decide(self) -> None:
        asked = gives_way(self._busy, self._threads, cores(), self.giving_way)
        self._give_way(self._threads if asked else 0)

    def _give_way(self, threads: int) -> None:
        """Have teams of so many threads idle; 0: none."""
        if self._parked and self._parked[0].threads != threads:
            self._idle.set()
            for thread in self._parked:
                thread.join()
            self._parked = []
        if threads and not self._parked:
            self._idle.clear()
            self._parked = [_Idle(threads, self._idle) for _ in range(teams(threads, cores()))]


class _Idle(threading.Thread):
    """Has worked on something in parallel once, and is idle until it is told to end: till then its team sleeps."""

    def __init__(self, threads: int, told: threading.Event):
        super().__init__(name="onecycle-idle", daemon=True)
        self.threads, self._told, self._worked = threads, told, threading.Event()
        self.start()
        self._worked.wait()

    def run(self) -> None:
        """Work, and wait."""
        try:
            torch.zeros(self.threads * ELEMENTS, device="cpu").add_(1)
        finally:
            self._worked.set()
        self._told.wait()


_lock, _within = threading.Lock(), 0
_neighbours: Neighbours | None = None


def compute_in(threads: int) -> None:
    """Have torch compute in so many threads from here on, which give way as `considerate` says, at once."""
    torch.set_num_threads(threads)
    if (neighbours := _neighbours) is not None:
        neighbours.computes_in(threads)


@contextmanager
def considerate(*, changing: bool = False) -> Iterator[None]:
    """Within the block, threads of this process that wait for each other give way while other processes need the cores.

    Nothing is done where the environment says how threads wait, where there is one thread, where the system does not
    tell what the cores do, and in a block within another. Where the number is `changing`, by `compute_in`, one thread
    is enough to look at the cores, so that what they do is known when there are more.
    """
    global _within, _neighbours
    with _lock:
        first = _within == 0
        _within += 1
    neighbours = Neighbours() if first and _may_help(changing) else None
    try:
        if neighbours is not None:
            neighbours.start()
            _neighbours = neighbours
        yield
    finally:
        if neighbours is not None:
            _neighbours = None
            neighbours.end()
        with _lock:
            _within -= 1


def _may_help(changing: bool) -> bool:
    several = changing or torch.get_num_threads() > 1
    return several and not any(name in os.environ for name in SET) and usage() is not None

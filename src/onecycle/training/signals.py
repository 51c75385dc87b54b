"""Ctrl-C and SIGTERM wait for the update under way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from .ranks import ALONE, Ranks

CAUGHT = (signal.SIGINT, signal.SIGTERM)
# Seconds in which a launcher passes a signal on that has come to the ranks already.
REPEATED = 5.0
# Seconds between two looks at whether something has happened that no signal tells of.
LOOK = 0.2


@dataclass(eq=False)
class StopRequest:
    """What asked for a stop: `signal` is the number of a signal, `reason` that of an observer; None while nothing did.

    A signal interrupts the run; a reason ends it, with the end of its last epoch.
    """

    signal: int | None = None
    reason: str | None = None
    came: int | None = None  # a signal that not all ranks know of
    ranks: Ranks = ALONE
    observed: bool = True  # whether somebody beside signals may ask, who is obeyed at once

    @property
    def flags(self) -> list[int]:
        """Which signal came, as numbers that are summed over the ranks with the gradients of an update."""
        return [int(self.came == one) for one in CAUGHT]

    def hear(self, flags: Tensor | None, due: bool) -> None:
        """Take notice of the summed flags of all ranks, where they are on an accelerator only if it is `due`."""
        if self.observed or flags is None:
            self.agree()
        elif due or flags.is_cpu:
            self.signal = next((one for one, came in zip(CAUGHT, flags.tolist(), strict=True) if came), None)

    def receive(self, number: int) -> None:
        """Take note of a signal."""
        self.came = number
        if self.ranks.world == 1:
            self.signal = number

    def agree(self) -> None:
        """Make what came on some of several ranks known to all of them."""
        if self.ranks.world == 1:
            return
        signal, reasons = self.ranks.largest(self.came or 0, int(self.reason is not None))
        self.signal = signal or None
        if reasons:
            self.reason = next(reason for reason in self.ranks.gather(self.reason) if reason is not None)

    @property
    def name(self) -> str | None:
        """The name of the signal, such as SIGINT."""
        return None if self.signal is None else signal.Signals(self.signal).name


_ELSEWHERE: list[StopRequest] = []


def ask(number: int) -> None:
    """Ask for a stop, as by a signal, what runs in threads beside the main one, which no signal reaches."""
    for request in list(_ELSEWHERE):
        request.receive(number)


@contextmanager
def stop_requests(ranks: Ranks | None = None) -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM only sets a flag; a second one interrupts at once.

    Of several `ranks` (None: those that there are) each stops where it is known to all, see `StopRequest.agree`; what
    their launcher sends again right afterwards is the same request. Outside the main thread, where signals cannot be
    caught, only `ask` is heard. The handlers before are put back.
    """
    ranks = Ranks.here() if ranks is None else ranks
    request, came_at = StopRequest(ranks=ranks), [0.0]
    if threading.current_thread() is not threading.main_thread():
        _ELSEWHERE.append(request)
        try:
            yield request
        finally:
            _ELSEWHERE.remove(request)
        return

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.came is not None and (ranks.world == 1 or now - came_at[0] > REPEATED):
            raise KeyboardInterrupt
        if request.came is None:
            came_at[0] = now
        request.receive(number)

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in CAUGHT}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

"""Ctrl-C and SIGTERM wait for the update under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class StopRequest:
    """What asked for a stop: `signal` is the number of a signal, `reason` that of an observer; None while nothing did.

    A signal interrupts the run; a reason ends it, with the end of its last epoch.
    """

    signal: int | None = None
    reason: str | None = None

    @property
    def name(self) -> str | None:
        """The name of the signal, such as SIGINT."""
        return None if self.signal is None else signal.Signals(self.signal).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM only sets a flag; a second one interrupts at once.

    Outside the main thread, where signals cannot be caught, nothing is changed. The handlers before are put back.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

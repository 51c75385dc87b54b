"""What is written beside a training, by a thread that brings a copy of its state to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import thread_time
from typing import Any

# Parts of a state whose tensors are replaced as a whole, and never changed.
NEVER_CHANGED = ("best", "rescue")


class Writing(threading.Thread):
    """A call in a thread of its own, and the `error` that it raised. The program does not end before it."""

    def __init__(self, call: Callable[[], Any]):
        super().__init__(name="onecycle-checkpoint")
        self._call = call
        self.error: BaseException | None = None
        self._seconds = 0.0
        self.start()

    def run(self) -> None:
        """Make the call."""
        began = thread_time()
        try:
            self._call()
        except BaseException as error:
            self.error = error
        self._seconds = thread_time() - began

    def end(self) -> float:
        """Wait for its end, raise what it raised, and return the seconds that it kept a core busy."""
        self.join()
        if self.error is not None:
            raise self.error
        return self._seconds

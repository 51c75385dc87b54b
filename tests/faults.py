"""Runs that are killed at a moment of one's choice, or are slow, in processes of their own."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from onecycle import Job
from onecycle.jobs import run as job_run
from onecycle.records import checkpoint
from onecycle.records import history as observers
from onecycle.records import run as runs


def run(work: Job, out: str, resume: bool, faults: dict[str, Any]) -> None:
    """Make a run; `die`, `die_in_file`, `die_beside`, `slow_writing` and `often` are what `test_resume` asks for."""
    job_run.draw = lambda *_: None  # not what this is about, and it takes longer than the training
    delay = faults.get("slow_writing", 0)
    os.fsync = lambda _: time.sleep(delay)  # a kill, unlike a power cut, leaves what is written to the system
    if faults.get("often", True):
        runs.Checkpointer = functools.partial(observers.Checkpointer, every=0.0, share=1e9)
    if die := faults.get("die"):
        _die(*die)
    if half := faults.get("die_in_file"):
        _die_in_file(half)
    if beside := faults.get("die_beside"):
        _die_beside(beside)
    job_run.run(work, out, resume=resume)


def _owner(name: str) -> tuple[Any, str]:
    """The object that holds ``package.module.attribute`` or ``package.module.Class.attribute``."""
    if name.startswith("safetensors."):
        import safetensors.torch as owner

        return owner, name.rpartition(".")[2]
    if name.startswith("os."):
        return os, name.removeprefix("os.")
    *path, last = name.split(".")
    ends = (i for i in range(len(path), 0, -1) if "onecycle." + ".".join(path[:i]) in sys.modules)
    end = next(ends)
    return functools.reduce(getattr, path[end:], sys.modules["onecycle." + ".".join(path[:end])]), last


def _before(name: str, action: Callable[[], None], after: bool = False) -> None:
    owner, attribute = _owner(name)
    original = getattr(owner, attribute)

    def replaced(*args: Any, **keywords: Any) -> Any:
        if after:
            result = original(*args, **keywords)
            action()
            return result
        action()
        return original(*args, **keywords)

    setattr(owner, attribute, replaced)


def _die(name: str, call: int, when: str) -> None:
    """A kill -9 right before or after the given call (from 1) of a function."""
    calls = iter(range(1, 10**9))
    _before(name, lambda: _kill() if next(calls) == call else None, after=when == "after")


def _die_in_file(call: int) -> None:
    """A kill -9 when half a checkpoint's file is written."""
    original, calls = torch.save, iter(range(1, 10**9))

    def save(state: Any, file: Any) -> None:
        if next(calls) < call:
            return original(state, file)
        whole = io.BytesIO()
        original(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        return _kill()

    torch.save = save


def _die_beside(call: int) -> None:
    """A kill -9 at the end of the update that is made while the given checkpoint (from 1) is written."""
    written, asked, held, original = iter(range(10**9)), iter(range(1, 10**9)), threading.Event(), checkpoint.sync_file
    due: list[bool] = []

    def sync(file: Any) -> None:
        if next(written) == call:  # the first one is a trial
            held.set()
            threading.Event().wait()
        original(file)

    def end() -> None:
        if due:
            assert held.wait(300)
            _kill()

    checkpoint.sync_file = sync
    _before(
        "records.history.Checkpointer._begin", lambda: due.append(True) if next(asked) == call else None, after=True
    )
    _before("training.guard.Guard.apply", end, after=True)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

"""What several ranks say to each other, in the store where they met, when one of them cannot go on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, NamedTuple

# Seconds in which ranks that are still there answer, and between two looks whether they did.
PATIENCE, LOOK = 5.0, 0.02


class Failure(NamedTuple):
    """The error of a rank, in words; `machine` is where that runs, by the launcher's number."""

    rank: int
    said: str
    machine: str


class RollCall(NamedTuple):
    """What came of a call: the error that was told first, how many ranks had the same, and who did not answer."""

    first: Failure | None
    alike: int
    absent: list[int]


def machine() -> str:
    """Which machine of a launcher's this is."""
    return os.environ.get("GROUP_RANK", "0")


def call_roll(
    store: Any, name: str, rank: int, world: int, said: str | None, leave: Callable[[], None], *, meets: bool = False,
    late: float = 0.0,
) -> RollCall:  # fmt: skip
    """Tell the others what this rank `said`, None where it only waited for others, and hear what they say.

    An error that all ranks may have met (`meets`) leaves nothing undone where they did. Else this one calls `leave`, so
    that others do not wait for it, and stays a while for the sake of what it may hold: the store itself. Ranks that may
    have begun to wait `late` seconds after this one have as long to answer, unless one fails. It is all done
    by a thread, as the error of a loader's worker comes by a signal, at any line of the main one.
    """
    answer: list[RollCall] = []
    told = store, name, rank, world, said, leave, meets, late
    thread = Thread(target=lambda: answer.append(_called(*told)), daemon=True)
    with suppress(Exception):
        thread.start()
    while thread.is_alive():
        with suppress(Exception):
            thread.join()
    return answer[0] if answer else _called(*told)


def _called(
    store: Any,
    name: str,
    rank: int,
    world: int,
    said: str | None,
    leave: Callable[[], None],
    meets: bool,
    late: float,
) -> RollCall:
    try:
        if said is not None:
            told = store.compare_set(f"{name}/first", "", json.dumps(Failure(rank, said, machine())))
            if Failure(*json.loads(told)).said == said:
                store.add(f"{name}/alike", 1)
        store.set(f"{name}/here/{rank}", "")
        store.add(f"{name}/count", 1)
        if not (meets and _came(store, name, world) and store.add(f"{name}/alike", 0) >= world):
            leave()
            if not _came(store, name, world) and not store.check([f"{name}/first"]):
                _came(store, name, world, late)
        first = Failure(*json.loads(store.get(f"{name}/first"))) if store.check([f"{name}/first"]) else None
        absent = [] if first else [r for r in range(world) if not store.check([f"{name}/here/{r}"])]
        return RollCall(first, store.add(f"{name}/alike", 0), absent)
    except Exception:  # the store is gone, and whoever had it: the main rank, or the launcher
        leave()
        of_main = rank and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        return RollCall(None if said is None else Failure(rank, said, machine()), 1, [0] if of_main else [])


def _came(store: Any, name: str, world: int, patience: float | None = None) -> bool:
    """Whether all ranks answer in time."""
    until = time.monotonic() + (PATIENCE if patience is None else patience)
    while not (all_of_them := store.add(f"{name}/count", 0) >= world) and time.monotonic() < until:
        time.sleep(LOOK)
    return all_of_them

"""Where ranks meet: a store of torch.distributed that holds nothing of an earlier start.

That of torchrun outlives the ranks. Those that it starts anew would find the addresses of the ones that are gone there,
and wait for them (pytorch/pytorch#135712): by its count of restarts they cannot be told apart, as each machine has its
own. So ranks ask the main one for the name of their start, by a word that is theirs alone.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from .. import text

LOOK = 0.005  # seconds between two looks of the main rank for the others


def meet(timeout: float) -> tuple[Any, int, int]:
    """The store of this start, the number of this rank, and how many there are, by what the launcher said.

    Raises:
        RuntimeError: not all came within `timeout` seconds.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # not in each build of torch
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    store.set_timeout(timedelta(seconds=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # it is the main rank's, and as new
        return store, rank, world
    lasting = PrefixStore("onecycle", store)
    start = _asked(lasting, rank) if rank else _answered(lasting, world, timeout)
    return PrefixStore(f"onecycle/{start}", store), rank, world


def _asked(store: Any, rank: int) -> str:
    """The name of this start, from the main rank."""
    store.set(f"asks/{rank}", word := uuid4().hex)
    start = store.get(f"start/{word}").decode()
    store.set(f"there/{start}/{rank}", "")
    return start


def _answered(store: Any, world: int, timeout: float) -> str:
    """The name of this start, once all others have it; words of ranks that are gone are answered for nothing."""
    start, until = uuid4().hex, time.monotonic() + timeout
    words: dict[int, bytes] = {}
    missing = list(range(1, world))
    while missing := [rank for rank in missing if not store.check([f"there/{start}/{rank}"])]:
        for rank in missing:
            if store.check([f"asks/{rank}"]) and (word := store.get(f"asks/{rank}")) != words.get(rank):
                store.set(f"start/{word.decode()}", start)
                words[rank] = word
        if time.monotonic() > until:
            raise RuntimeError(f"{text.listed([f'rank {rank}' for rank in missing])} did not come")
        time.sleep(LOOK)
    return start

"""The memory that a rank takes where a model is in shards over two ranks, beside one rank that has it whole.

    python bench/shard_memory.py [--ranks 2] [--width 768] [--depth 12] [--accumulate 1] [--updates 3]

A transformer of 100 million parameters, AdamW, a `Learner` each; ranks are processes on this machine with one thread
each, over gloo. Counted are the bytes of what a rank holds after an update: its parameters, their gradients and the
optimizer's state; and the most that the process had in memory during the updates beyond what it had before there was a
model, which has the activations, the blocks that are gathered and what is sent.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import socket
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

import onecycle
from onecycle.models.transformer import char_transformer
from onecycle.optim.shared import local
from onecycle.training.loop import Update

CHARACTERS, CONTEXT = 10_000, 64
MB = 1e6


def held(learn: onecycle.Learner) -> dict[str, float]:
    """The megabytes that this rank holds of parameters, gradients and the optimizer's state."""
    parameters = list(learn.model.parameters())
    kept = [value for state in learn.optimizer.state.values() for value in state.values()]
    parts: dict[str, list[Any]] = {
        "parameters": parameters, "gradients": [p.grad for p in parameters if p.grad is not None], "optimizer": kept,
    }  # fmt: skip
    return {name: sum(local(t.detach()).nbytes for t in tensors) / MB for name, tensors in parts.items()}


def in_memory(which: str) -> float:
    """Megabytes that the process has (VmRSS), or has had at most since `forget_peak` (VmHWM)."""
    return int(re.findall(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / MB


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def rank_of(rank: int, ranks: int, port: int, asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    alike = {"WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in alike.items()})
    ids = torch.randint(0, CHARACTERS, (asked.samples, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    warm(ids, ranks)
    gc.collect()
    before = in_memory("VmRSS")
    model = char_transformer(input_shape=(CONTEXT,), classes=CHARACTERS, width=asked.width, depth=asked.depth, heads=12)
    learn = learner(model, ids, ranks, asked.accumulate)
    del model
    gc.collect()
    forget_peak()
    moments: list[float] = []
    kept: dict[str, float] = {}

    def look(event: Any) -> None:
        if isinstance(event, Update):
            moments.append(time.perf_counter())
            kept.update(held(learn))

    learn.fit(f"{asked.updates} updates", "constant", 1e-4, observers=[look])
    seconds = statistics.median(b - a for a, b in pairwise(moments))
    count = sum(p.numel() for p in learn.model.parameters()) / 1e6
    said = " + ".join(f"{name} {megabytes:.0f}" for name, megabytes in kept.items())
    peak = in_memory("VmHWM") - before
    print(
        f"rank {rank} of {ranks}, {count:.1f} million parameters: {said} = {sum(kept.values()):.0f} MB; at most "
        f"{peak:.0f} MB beyond {before:.0f} MB; {seconds:.1f} s an update", flush=True,
    )  # fmt: skip


def warm(ids: torch.Tensor, ranks: int) -> None:
    """Load all that a fit loads, on a small model."""
    small = char_transformer(input_shape=(CONTEXT,), classes=CHARACTERS, width=24, depth=2, heads=12)
    learner(small, ids, ranks, 1).fit("2 updates", "constant", 1e-4)


def learner(model: nn.Module, ids: torch.Tensor, ranks: int, accumulate: int) -> onecycle.Learner:
    return onecycle.Learner(
        model, (ids[:, :-1], ids[:, 1:]), optimizer="adamw", batch_size=4, shard=ranks > 1, verbose=False,
        accumulate=accumulate, rescue=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**17)  # so that what is given back is no longer counted
    for ranks in (1, asked.ranks):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        spawn(rank_of, (ranks, port, asked), nprocs=ranks)


if __name__ == "__main__":
    main()

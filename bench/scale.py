"""What several ranks bring and cost on this machine: gloo, a thread each, the same global batch.

    python bench/scale.py [--launches 5] [--blocks 5] [--worlds 1 2 3]

Raw: the loop that one would write by hand: each rank takes its slice of a shuffled batch of float32 tensors in memory,
`torch.nn.parallel.DistributedDataParallel`, SGD with momentum, a learning rate from a list; on one rank the same
without the wrapper. Ours: the loop `onecycle.train` with the same model, optimizer, batch and updates. Each launch
makes blocks of updates of both in turns; launches with each number of ranks take turns too. Per block the time of the
slowest rank counts (barriers before and after). Printed: updates a second, ours over raw at the same number of ranks,
what several ranks make of one, and what an update of ours takes beyond raw's; medians, with the range over launches.
A rank needs a core: with more ranks than cores they wait for each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from overhead import model_of, sgd
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import onecycle

# Name, global batch, updates of a block.
CASES = {"small-cnn, batch 256": ("small-cnn", 256, 12), "mlp, batch 128": ("mlp", 128, 150)}


def raw(model: nn.Module, x: torch.Tensor, y: torch.Tensor, size: int, updates: int) -> None:
    """The loop by hand, of one rank or of several."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    net = DistributedDataParallel(model) if world > 1 else model
    optimizer, done = sgd(model.parameters()), 0
    rates = [0.1 * (1 - k / updates) for k in range(updates)]
    while done < updates:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(done))
        for i in range(0, len(x) - size + 1, size):
            index = order[i + size * rank // world : i + size * (rank + 1) // world]
            for group in optimizer.param_groups:
                group["lr"] = rates[done]
            loss = F.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == updates:
                break


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor, size: int, updates: int) -> None:
    loss = onecycle.Supervised(F.cross_entropy)
    state = onecycle.TrainState(model, sgd(model.parameters()), loss, norm_statistics="running")
    batches = onecycle.as_batches((x, y), size, drop_last=True)
    for _ in onecycle.train(state, batches, onecycle.Budget(updates=updates), onecycle.one_cycle(0.1)):
        pass


def seconds(run: Callable[[], None]) -> float:
    """What the slowest rank takes."""
    if dist.is_initialized():
        dist.barrier()
    started = time.perf_counter()
    run()
    if dist.is_initialized():
        dist.barrier()
    return time.perf_counter() - started


def one_rank(case: str, blocks: int) -> None:
    """What a launch does on each rank; the main one prints the seconds of an update in each block."""
    torch.set_num_threads(1)
    onecycle.Runtime.choose("cpu")  # the ranks meet
    name, size, updates = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, 1, 28, 28, generator=generator), torch.randint(10, (4096,), generator=generator)
    took: dict[str, list[float]] = {"ours": [], "raw": []}
    for i in range(blocks + 1):
        for kind, loop in (("ours", ours), ("raw", raw)) if i % 2 else (("raw", raw), ("ours", ours)):
            model = model_of(name).train()
            taken = seconds(lambda loop=loop, model=model: loop(model, x, y, size, updates)) / updates
            if i:
                took[kind].append(taken)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(took))


def launch(case: str, world: int, blocks: int) -> dict[str, float]:
    """The medians over the blocks of one launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said |= {"OMP_NUM_THREADS": 1}
    words = [sys.executable, __file__, "--rank", case, "--blocks", str(blocks)]
    started = [
        subprocess.Popen(words, env={**os.environ, **{k: str(v) for k, v in said.items()}, "RANK": str(rank)},
                         stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    out = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{case} failed on {world} ranks")
    return {kind: statistics.median(values) for kind, values in json.loads(out[0].splitlines()[-1]).items()}


def spread(values: list[float], format: str = ".3f") -> str:
    return f"{statistics.median(values):{format}} ({min(values):{format}} to {max(values):{format}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        one_rank(given.rank, given.blocks)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"load {os.getloadavg()[0]:.1f}, n = {given.launches} launches of {given.blocks} blocks")  # fmt: skip
    own: dict[int, float] = {}
    for case in given.cases:
        took: dict[int, list[dict[str, float]]] = {world: [] for world in given.worlds}
        for i in range(given.launches):
            for world in given.worlds if i % 2 else given.worlds[::-1]:
                took[world].append(launch(case, world, given.blocks))
        for world, launches in took.items():
            report(case, world, launches, took.get(1, []), own)
    if given.cases[-1] == list(CASES)[-1]:
        print("the library's own part of an update, for bench/simulate_scale.py --own:")
        print(json.dumps({str(world): round(value, 9) for world, value in own.items()}))


def report(
    case: str, world: int, launches: list[dict[str, float]], one: list[dict[str, float]], own: dict[int, float]
) -> None:  # fmt: skip
    ratios = [taken["raw"] / taken["ours"] for taken in launches]
    more = [(taken["ours"] - taken["raw"]) * 1e6 for taken in launches]
    own[world] = statistics.median(more) / 1e6
    line = f"{case}, {world} rank(s): ours {spread([1 / t['ours'] for t in launches], '.1f')} updates/s, "
    line += f"ours/raw {spread(ratios)}, beyond raw {spread(more, '.0f')} us an update"
    if world > 1 and one:
        of_one: Any = [a["ours"] / b["ours"] for a, b in zip(one, launches, strict=True)]
        by_hand = [a["raw"] / b["raw"] for a, b in zip(one, launches, strict=True)]
        line += f"; against one rank: ours {spread(of_one, '.2f')}, raw {spread(by_hand, '.2f')}"
    print(line, flush=True)


if __name__ == "__main__":
    main()

"""A step of Muon whose products two ranks share, beside one in which each rank makes all of them.

    python bench/muon_ranks.py [--ranks 2] [--pairs 9] [--patience 300] [--sharded]

Ranks are processes on this machine with one thread each, over gloo. The two steps are taken in turns by the same
processes: alone, while the other ranks wait, and by all of them together, which lasts as long as the slowest. All is
shared that can be; whether it is without being told, is said. The ratio by the clock wants a core for each rank and
nothing else there: pairs during which other processes had more than a tenth of a core are left out, where enough are
without. That of the processor's seconds (of the rank with most) does not, but leaves out what ranks wait.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from onecycle.optim import shared
from onecycle.optim.muon import Muon
from onecycle.optim.orthogonal import matrix_shape, products_of_orthogonal

QUIET = 0.1
SETS: dict[str, list[tuple[int, ...]]] = {
    "transformer: 24 of 512x512, 12 of 512x2048": [(512, 512)] * 24 + [(512, 2048)] * 12,
    "transformer: 16 of 256x256, 8 of 256x1024": [(256, 256)] * 16 + [(256, 1024)] * 8,
    "transformer: 8 of 128x128, 4 of 128x512": [(128, 128)] * 8 + [(128, 512)] * 4,
    "transformer: 8 of 64x64, 4 of 64x256": [(64, 64)] * 8 + [(64, 256)] * 4,
    "mlp: 4 of 100x100": [(100, 100)] * 4,
    "mlp: 2 of 128x128": [(128, 128)] * 2,
    "resnet20: 3x3, 16, 32 and 64 channels": [(c, c, 3, 3) for c in (16, 32, 64) for _ in range(6)],
    "resnet18: 3x3, 64 to 512 channels": [(c, c, 3, 3) for c in (64, 128, 256, 512) for _ in range(4)],
}


def seconds(work: Callable[[], object], times: int) -> list[float]:
    """Of one of so many calls, by the clock and of the processor."""
    start = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return [(time.perf_counter() - start[0]) / times, (time.process_time() - start[1]) / times]


def busy() -> float:
    """The seconds that the machine's processors have worked for anything, since it was started."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def rank_of(rank: int, ranks: int, pairs: int, patience: float, sharded: bool) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, shapes in SETS.items():
        weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        parts = [shards_of(weight, ranks) for weight in weights] if sharded else weights
        one, several = (Muon([{"params": p, "momentum": 0.8, "weight_decay": 0.1}]) for p in (weights, parts))
        several.share(dist.group.WORLD)
        sent = several._sharing._types(weights, dist.group.WORLD)
        default = any(shared.worth_sharing(weights, sent, ranks))
        with everything_shared():
            times = measured(one.step, several.step, pairs, time.monotonic() + patience)
        if rank == 0:
            size = sum(w.numel() * dtype.itemsize for w, dtype in zip(weights, sent, strict=True))
            report(name, sum(products_of_orthogonal(matrix_shape(w)) for w in weights), size, times, default)
    dist.destroy_process_group()


def shards_of(weight: nn.Parameter, ranks: int) -> nn.Parameter:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (ranks,))
    part, gradient = (distribute_tensor(x, mesh, [Shard(0)]) for x in (weight.detach(), weight.grad))
    part = nn.Parameter(part)
    part.grad = gradient
    return part


@contextmanager
def everything_shared() -> Iterator[None]:
    before = [dict(of) for of in (shared.PRODUCTS_A_BYTE, shared.PRODUCTS_A_GATHER)]
    shared.PRODUCTS_A_BYTE["cpu"], shared.PRODUCTS_A_GATHER["cpu"] = 0.0, -1.0
    yield
    shared.PRODUCTS_A_BYTE, shared.PRODUCTS_A_GATHER = before


def measured(alone: Callable[[], Any], together: Callable[[], Any], pairs: int, until: float) -> list[list[float]]:
    """By the clock and of the processor, alone and together; and the share of a core that others had meanwhile."""
    for step in (alone, together, together):  # for memory, and what is laid down once
        step()
    first = torch.tensor(seconds(alone, 1))
    dist.all_reduce(first, dist.ReduceOp.MAX)
    times, taken = max(1, int(0.3 / float(first[1]))), []
    while sum(others < QUIET for *_, others in taken) < pairs:
        late = torch.tensor(int(not wait_for_quiet(until)) if dist.get_rank() == 0 else 0)
        dist.broadcast(late, 0)
        if late and len(taken) >= pairs:
            break
        start, before, own = time.perf_counter(), busy(), time.process_time()
        mine = seconds(alone, times) if dist.get_rank() == 0 else [0.0, 0.0]
        dist.barrier()
        both = torch.tensor([*mine, *seconds(together, times)])
        dist.all_reduce(both, dist.ReduceOp.MAX)
        ours = torch.tensor(time.process_time() - own)
        dist.all_reduce(ours)
        others = torch.tensor((busy() - before - float(ours)) / (time.perf_counter() - start))
        dist.broadcast(others, 0)
        taken.append([*both.tolist(), float(others)])
    quiet = [some for some in taken if some[-1] < QUIET]
    return quiet if len(quiet) == pairs else taken


def wait_for_quiet(until: float) -> bool:
    """Whether the machine did nothing for half a second, before that time."""
    while time.monotonic() < until:
        before = busy()
        time.sleep(0.5)
        if busy() - before < QUIET / 2:
            return True
    return False


def report(name: str, products: float, size: int, times: list[list[float]], default: bool) -> None:
    alone, _, together, _, others = (1e3 * statistics.median(some) for some in zip(*times, strict=True))
    wall = spread([together / alone for alone, _, together, *_ in times])
    processor = spread([together / alone for _, alone, _, together, _ in times])
    print(
        f"| {name} | {products / 1e9:.2f} | {size / 1e6:.2f} | {alone:.1f} | {together:.1f} | {wall} | {processor} "
        f"| {'yes' if default else 'no'} | {len(times)}, {others / 10:.0f} % |",
        flush=True,
    )


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for a quiet machine, for each set")
    parser.add_argument("--sharded", action="store_true", help="the ranks have shards of the matrices, as with FSDP2")
    given = parser.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    print(
        "| matrices | products, GFLOP | gathered, MB | alone, ms | shared, ms | ratio by the clock "
        "| of the processor | by default | n, others' share of a core |\n|" + " --- |" * 9,
        flush=True,
    )
    spawn(rank_of, (given.ranks, given.pairs, given.patience, given.sharded), nprocs=given.ranks)


if __name__ == "__main__":
    main()

"""A step of Muon whose products two ranks share, beside one in which each rank makes all of them.

    python bench/muon_ranks.py [--ranks 2] [--pairs 9]

Ranks are processes on this machine with one thread each, over gloo. The two steps are taken in turns by the same
processes: alone, while the other ranks wait, and by all of them together, which lasts as long as the slowest. All is
shared that can be; the last column says whether it is by default.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from onecycle.optim import shared
from onecycle.optim.muon import Muon
from onecycle.optim.orthogonal import matrix_shape, products_of_orthogonal

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


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rank_of(rank: int, ranks: int, pairs: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    by_default = dict(shared.PRODUCTS_A_BYTE), dict(shared.PRODUCTS_A_GATHER)
    for name, shapes in SETS.items():
        weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = Muon([{"params": weights, "momentum": 0.8, "weight_decay": 0.1}])
        times: list[tuple[float, float]] = []
        for _ in range(pairs + 2):
            optimizer.share(None)
            dist.barrier()
            alone = seconds(optimizer.step) if rank == 0 else 0.0
            shared.PRODUCTS_A_BYTE["cpu"], shared.PRODUCTS_A_GATHER["cpu"] = 0.0, -1.0
            optimizer.share(group)
            optimizer._sharing._types(weights, group)  # what is agreed on once
            dist.barrier()
            together = torch.tensor(seconds(optimizer.step))
            dist.all_reduce(together, dist.ReduceOp.MAX)
            times.append((alone, float(together)))
            shared.PRODUCTS_A_BYTE, shared.PRODUCTS_A_GATHER = map(dict, by_default)
        sent = optimizer._sharing._types(weights, group)
        default = any(shared.worth_sharing(weights, sent, ranks))
        if rank == 0:
            report(name, weights, sent, times[2:], default)
    dist.destroy_process_group()


def report(name: str, weights: list, sent: list, times: list, default: bool) -> None:
    products = sum(products_of_orthogonal(matrix_shape(w)) for w in weights)
    size = sum(w.numel() * dtype.itemsize for w, dtype in zip(weights, sent, strict=True))
    alone, together = (1e3 * statistics.median(some) for some in zip(*times, strict=True))
    ratios = sorted(b / a for a, b in times)
    spread = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    print(
        f"| {name} | {products / 1e9:.2f} | {size / 1e6:.2f} | {alone:.1f} | {together:.1f} | {spread} "
        f"| {'yes' if default else 'no'} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    given = parser.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1"}
    print("| matrices | products, GFLOP | gathered, MB | alone, ms | shared, ms | shared / alone | by default |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    spawn(rank_of, (given.ranks, given.pairs), nprocs=given.ranks)


if __name__ == "__main__":
    main()

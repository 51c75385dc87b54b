"""What bench/simulate_scale.py takes from this machine, measured: a few minutes, mostly on one core.

    python bench/simulate_costs.py [--out bench/out/simulate_costs.json]

What ranks agree on, the main rank's clock and a sum go through gloo on the loopback, medians over 300 after 30; the
processes are forks of one that has imported torch. With more processes than cores it is their waiting for a core that
is measured; so is it, and the one store that all of them ask, in the seconds to join a group. An update's own part is
that of a `Learner` beyond a hand-written loop with the same model, in turns. Orders: one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.distributed as dist
from overhead import model_of, plain, sgd

import onecycle
from onecycle.data.orders import FeistelOrder, epoch_order
from onecycle.records.files import read_jsonl
from onecycle.training.ranks import Ranks

WORLDS, EXCHANGING, ROUNDS = (2, 3, 4, 8, 16, 32, 64, 96), 16, 330


def seconds_of(call: Callable[[], object], repeats: int = 5) -> float:
    """The median over so many calls."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def member(rank: int, world: int, port: int, rounds: int, ready, results) -> None:
    """A process of a gloo group: seconds to join it once all have reached the store, to agree, of a clock, a sum."""
    store = dist.TCPStore("127.0.0.1", port, world, is_master=rank == 0)
    ready.wait()
    start = time.perf_counter()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    joined, ranks = time.perf_counter() - start, Ranks(rank, world, dist.group.WORLD)
    calls: dict[str, Callable[[], object]] = {
        "agreed": lambda: ranks.largest(0, 0), "told": ranks.now, "summed": lambda: ranks.sum(torch.ones(()))
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            dist.barrier()
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    results.put((joined, {name: statistics.median(times[rounds // 11 :]) for name, times in taken.items()}))
    if world == 2:
        much = torch.zeros(10**8, dtype=torch.uint8)
        results.put(seconds_of(lambda: (dist.broadcast(much, 0), dist.barrier())) / len(much))
    dist.barrier()
    dist.destroy_process_group()


def groups() -> dict[str, dict[str, float]]:
    """By the number of ranks: seconds until all have joined a group, to agree, of a clock and of a sum."""
    made, forks = {}, multiprocessing.get_context("fork")
    for world in WORLDS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        results, rounds = forks.SimpleQueue(), ROUNDS if world <= EXCHANGING else 1
        given = (world, port, rounds, forks.Barrier(world), results)
        ranks = [forks.Process(target=member, args=(rank, *given)) for rank in range(world)]
        for process in ranks:
            process.start()
        joined, taken = zip(*(results.get() for _ in ranks), strict=True)
        sending = {"a byte sent": max(results.get() for _ in ranks)} if world == 2 else {}
        for process in ranks:
            process.join()
        made[str(world)] = {"join": max(joined), **sending}
        if rounds > 1:
            made[str(world)] |= {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    return made


def orders() -> dict[str, float]:
    """Seconds a sample, drawn as a whole at two sizes, and computed for batches of two sizes."""
    drawn = {f"drawn of {n:.0e}": seconds_of(lambda n=n: torch.randperm(n), 3) / n for n in (10**7, 10**8)}
    order = epoch_order(10**10, 0, 0)
    assert isinstance(order, FeistelOrder)
    at: Iterator[int] = iter(range(0, 10**9, 2**17))

    def batches(size: int) -> None:
        first = next(at)
        for i in range(2**17 // size):
            order[first + i * size : first + (i + 1) * size]

    computed = {f"computed in {size}": seconds_of(lambda size=size: batches(size)) / 2**17 for size in (32, 256)}
    return drawn | computed


def own_part(pairs: int = 7, updates: int = 1500) -> dict[str, float]:
    """Seconds of an update: of a small net in a hand-written loop, and what a Learner takes beyond it."""
    x, y = torch.randn(4096, 1, 28, 28), torch.randint(10, (4096,))
    raw, beyond = [], []
    for _ in range(pairs + 1):
        model = model_of("mlp").train()
        rate = plain(model, lambda model=model: sgd(model.parameters()), 32, updates, x, y)
        learn = onecycle.Learner(
            model_of("mlp"), (x, y), batch_size=32, optimizer="sgd", smoothing=0, verbose=False,
            norm_statistics="running",
        )  # fmt: skip
        learn.valid = None
        start = time.process_time()
        learn.fit_one_cycle(budget=onecycle.Budget(updates=updates), lr_max=0.01)
        raw.append(32 / rate)
        beyond.append((time.process_time() - start) / updates - 32 / rate)
    return {"raw": statistics.median(raw[1:]), "own": statistics.median(beyond[1:])}


def compute() -> dict[str, float]:
    """Seconds a sample of forward and backward of small-cnn, batch 128, one thread."""
    model, size = model_of("small-cnn").train(), 128
    x, y = torch.randn(size, 1, 28, 28), torch.randint(10, (size,))

    def update() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()

    update()
    return {"small-cnn": seconds_of(update, 15) / size}


def records(updates: int = 4000) -> dict[str, float]:
    """Bytes of an update on disk and in memory, and seconds to read it again."""
    x, y = torch.randn(1024, 8), torch.randint(2, (1024,))
    with tempfile.TemporaryDirectory() as folder:
        learn = onecycle.Learner(torch.nn.Linear(8, 2), (x, y), batch_size=64, optimizer="sgd", verbose=False)
        learn.fit_one_cycle(budget=onecycle.Budget(updates=updates), lr_max=0.01, out=f"{folder}/run")
        path = Path(folder, "run", "steps.jsonl")
        size = path.stat().st_size
        reading = seconds_of(lambda: read_jsonl(path))
        tracemalloc.start()
        again = onecycle.Learner(torch.nn.Linear(8, 2), (x, y), batch_size=64, optimizer="sgd", verbose=False)
        before = tracemalloc.get_traced_memory()[0]
        again.fit_one_cycle(budget=onecycle.Budget(updates=updates), lr_max=0.01)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return {"bytes": size / updates, "memory": held / updates, "read": reading / updates}


def start() -> dict[str, float]:
    """Seconds to an imported torch, and to an imported learner."""
    lines = {"torch": "import torch", "onecycle": "import torch, onecycle; onecycle.Learner"}
    return {
        name: seconds_of(lambda line=line: subprocess.run([sys.executable, "-c", line], check=True))
        for name, line in lines.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "simulate_costs.json")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    costs = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "load": os.getloadavg()[0],
        "group": groups(),
        "order": orders(),
        "update": own_part(),
        "compute": compute(),
        "records": records(),
        "start": start(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(costs, indent=1))


if __name__ == "__main__":
    main()

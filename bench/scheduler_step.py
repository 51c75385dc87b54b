"""What a step of a scheduler costs: ours beside torch's OneCycleLR, and the evaluation of a policy.

    python bench/scheduler_step.py

An optimizer whose update does nothing is stepped in blocks: alone, with torch's scheduler, with ours, with a scheduler
of torch that leaves its learning rates as they are, and with our count of updates alone; in turns in one process, on
one thread. The cost of a scheduler is what a block takes beyond that of the optimizer alone, so that what it does
inside of the optimizer's step (torch's wrapper, our hooks) is in it. Of a round the fastest block of each counts, as
other work on the machine only adds; rounds are what is repeated.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
import warnings

import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR

from onecycle import preset
from onecycle.adapters.torch import OneCycleLR

TOTAL = 10**7
REPEATS = 9  # rounds
BLOCKS = 15  # of each in a round


class Idle(LRScheduler):
    """What torch's schedulers cost before they compute anything."""

    def get_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]


def still(cls) -> type:
    """The optimizer class with an update that does nothing."""
    return type(f"Still{cls.__name__}", (cls,), {"step": lambda self, closure=None: None})


def optimizer(kind: str, groups: int):
    made = {"sgd": still(SGD), "adamw": still(AdamW)}[kind]
    each = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    return made(each, lr=0.1, **({"momentum": 0.9} if kind == "sgd" else {}))


def block(optimizer, scheduler, steps: int) -> float:
    """Seconds of CPU time for each step."""
    start = time.process_time()
    if scheduler is None:
        for _ in range(steps):
            optimizer.step()
    else:
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
    return (time.process_time() - start) / steps


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def compare(kind: str, groups: int, momentum: bool, rates: str) -> None:
    """Print the microseconds of a step, torch's, ours and of what either does at least, and ratios, block by block."""
    steps = max(5, 200 // groups)
    peak = 0.1 if rates == "one" else [0.1 * (1 + i / groups) for i in range(groups)]
    alone, theirs, ours, idle, counted = (optimizer(kind, groups) for _ in range(5))
    their = TorchOneCycleLR(theirs, peak, TOTAL, cycle_momentum=momentum)
    our = OneCycleLR(ours, peak, TOTAL, cycle_momentum=momentum)
    hooks = OneCycleLR(counted, peak, TOTAL, cycle_momentum=momentum)
    pairs = (theirs, their), (ours, our), (idle, Idle(idle)), (counted, None)
    rows = []
    for _ in range(REPEATS + 1):
        blocks = [[block(*pair, steps) for pair in ((alone, None), *pairs)] for _ in range(BLOCKS)]
        bare, *others = (1e6 * min(times) for times in zip(*blocks, strict=True))
        rows.append([time - bare for time in others])
    hooks.detach()
    rows = rows[1:]
    cells = [quartiles([row[i] for row in rows]) for i in range(4)]
    ratios = [quartiles([row[i] / row[0] for row in rows]) for i in (1, 2, 3)]
    words = [kind, f"{groups:,}", "with" if momentum else "without", rates, *cells, *ratios]
    print(f"| {' | '.join(words)} |", flush=True)


def by_itself(kind: str, momentum: bool) -> None:
    """Print what `scheduler.step()` takes without the optimizer's, whose update is counted by hand; one group."""
    made = [optimizer(kind, 1) for _ in range(3)]
    schedulers = [
        make(each, 0.1, TOTAL, cycle_momentum=momentum)
        for make, each in zip((TorchOneCycleLR, OneCycleLR), made[:2], strict=True)
    ]
    schedulers.append(Idle(made[2]))
    rows = []
    for _ in range(REPEATS):
        fastest = [math.inf] * 3
        for _ in range(20 * BLOCKS):
            for i, scheduler in enumerate(schedulers):
                start = time.process_time()
                for _ in range(100):
                    if i == 1:
                        scheduler._place.pending = 1
                    scheduler.step()
                fastest[i] = min(fastest[i], (time.process_time() - start) * 1e4)
        rows.append(fastest)
    cells = [quartiles([row[i] for row in rows]) for i in range(3)]
    ratios = [quartiles([row[i] / row[0] for row in rows]) for i in (1, 2)]
    times = ", ".join(f"{who} {cell} us" for who, cell in zip(("torch", "ours", "idle"), cells, strict=True))
    words = f"{kind}, {'with' if momentum else 'without'} momentum, step() by itself"
    print(f"{words}: {times}; ours / torch {ratios[0]}, idle / torch {ratios[1]}", flush=True)


def evaluation() -> None:
    """Print the microseconds of a policy's values at a progress."""
    policies = {name: preset(name, 0.1, 1000) for name in ("one_cycle", "torch", "fastai", "wsd")}
    for name, policy in policies.items():
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            for k in range(2000):
                policy(k / 1999)
            times.append(1e6 * (time.process_time() - start) / 2000)
        print(f"policy {name}, {len(policy.schedules)} schedules: {quartiles(times)} us")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds = f"n = {REPEATS} rounds of {BLOCKS} blocks of each, medians (quartiles)"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {rounds}")
    columns = ["optimizer", "groups", "momentum", "max_lr", "torch, us", "ours, us", "idle, us", "our hooks, us"]
    print(f"| {' | '.join([*columns, 'ours / torch', 'idle / torch', 'hooks / torch'])} |")
    print("| --- " * 11 + "|")
    for kind in ("sgd", "adamw"):
        for groups in (1, 10, 100, 1000):
            for momentum in (True, False):
                compare(kind, groups, momentum, "one")
    compare("sgd", 100, True, "one each")
    for kind in ("sgd", "adamw"):
        for momentum in (True, False):
            by_itself(kind, momentum)
    evaluation()


if __name__ == "__main__":
    main()

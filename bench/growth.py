"""How the cost of an update grows: with parameters, parameter tensors, parameter groups and rows of data.

    python bench/growth.py [--blocks 9] [--seconds 0.3] [--figure docs/images/growth.png]

Ours: the updates of `onecycle.train`, with a history in memory, as `Learner.fit` makes them. Raw: the loop that one
would write by hand, with an order by `torch.randperm` an epoch, `torch.optim.SGD` with momentum, and a learning rate
that is written into each group. Same model, same data, same batches of 32, one thread. Both go in turn in one
process, a block of updates each; of a block the time is that of the processor, so that other processes on the machine
weigh less. A line of the table is the median over blocks, and the ratio that of neighbours, with its range. Memory
and the time up to the first update are each measured in a process of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import onecycle
from onecycle.training.state import TrainState

FEATURES, CLASSES, BATCH = 64, 10, 32
AXES = {
    "parameters": [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000],
    "parameter tensors": [10, 30, 100, 300, 1000],
    "parameter groups": [1, 4, 16, 64, 256],
    "rows": [1_000, 10_000, 100_000, 1_000_000, 10_000_000],
}
ENDLESS = 10**6


def wide(parameters: int) -> nn.Module:
    """Two hidden layers with about so many weights."""
    both = FEATURES + CLASSES + 2
    width = max(1, round((-both + (both**2 + 4 * parameters) ** 0.5) / 2))
    sizes = (FEATURES, width, width, CLASSES)
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())))[:-1]


def deep(tensors: int, width: int = 16) -> nn.Module:
    """Linear layers of few weights, two tensors each."""
    layers = [nn.Linear(width, width) for _ in range(max(0, tensors // 2 - 2))]
    inner = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), *inner, nn.Linear(width, CLASSES))


def case(axis: str, size: int) -> tuple[nn.Module, Tensor, Tensor, int]:
    """The model, its data, and the number of parameter groups."""
    torch.manual_seed(0)
    rows, groups, model = 10_000, 1, None
    if axis == "parameters":
        model = wide(size)
    elif axis == "parameter tensors":
        model = deep(size)
    elif axis == "parameter groups":
        model, groups = deep(512), size
    else:
        model, rows = wide(10_000), size
    features = FEATURES if axis != "rows" else 8
    if axis == "rows":
        model[0] = nn.Linear(features, model[0].out_features)
    return model, torch.randn(rows, features), torch.randint(CLASSES, (rows,)), groups


def optimizer_of(model: nn.Module, groups: int) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    parts = [parameters[i::groups] for i in range(groups)]
    return torch.optim.SGD([{"params": part} for part in parts], lr=0.01, momentum=0.9)


def raw(model: nn.Module, x: Tensor, y: Tensor, groups: int) -> Iterator[None]:
    optimizer, done = optimizer_of(model, groups), 0
    model.train()
    while True:
        order = torch.randperm(len(x))
        for i in range(0, len(x) - BATCH + 1, BATCH):
            index = order[i : i + BATCH]
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - done / ENDLESS)
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # which is looked at, as ours is
            done += 1
            yield


def ours(model: nn.Module, x: Tensor, y: Tensor, groups: int) -> Iterator[None]:
    learn = onecycle.Learner(
        model, (x, y), optimizer=optimizer_of(model, groups), batch_size=BATCH, smoothing=0, metrics=[], verbose=False,
        device="cpu",
    )  # fmt: skip
    history = onecycle.History()
    history.begin_fit()
    state: TrainState = learn.state
    for event in onecycle.train(state, learn.train, f"{ENDLESS} updates", onecycle.preset("linear", 0.01, ENDLESS)):
        history(event)
        if isinstance(event, onecycle.Update):
            yield


LOOPS = {"raw": raw, "ours": ours}


def block(loop: Iterator[None], updates: int) -> float:
    """The processor's seconds of an update."""
    began = time.process_time()
    for _ in range(updates):
        next(loop)
    return (time.process_time() - began) / updates


def compared(axis: str, size: int, blocks: int, seconds: float) -> dict:
    loops = {}
    for name, make in LOOPS.items():
        model, x, y, groups = case(axis, size)
        loops[name] = make(model, x, y, groups)
        block(loops[name], 2)
    updates = max(2, min(2000, int(seconds / block(loops["raw"], 3))))
    times: dict[str, list[float]] = {name: [] for name in LOOPS}
    for i in range(blocks):
        for name in sorted(LOOPS, reverse=bool(i % 2)):
            times[name].append(block(loops[name], updates))
    ratios = sorted(a / b for a, b in zip(times["ours"], times["raw"], strict=True))
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        "axis": axis, "size": size, "updates": updates, **middle, "ratio": statistics.median(ratios),
        "low": ratios[0], "high": ratios[-1],
    }  # fmt: skip


ALONE = """
import json, sys, time
sys.path.insert(0, {bench!r})
import torch, onecycle
import growth
torch.set_num_threads(1)
model, x, y, groups = growth.case({axis!r}, {size})
onecycle.Learner, onecycle.History, onecycle.train, onecycle.preset
began = time.process_time()
loop = growth.LOOPS[{name!r}](model, x, y, groups)
next(loop)
first = time.process_time() - began
for _ in range(60 if {size} < 10**8 else 4):
    next(loop)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([first, int(status["VmHWM"].split()[0]) * 1024]))
"""


def alone(axis: str, size: int) -> dict[str, list[float]]:
    """Seconds up to the end of the first update, and the most memory, of each loop in a process of its own."""
    made = {}
    for name in LOOPS:
        code = ALONE.format(bench=str(Path(__file__).parent), axis=axis, size=size, name=name)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        made[name] = json.loads(done.stdout)
    return made


def drawn(results: list[dict], path: Path) -> None:
    from onecycle.report.matplotlib import draw, save
    from onecycle.report.spec import Figure, Key, Plots, Series, style

    plots = Plots()
    key = plots.key(Key("ours / raw, median of the blocks", *style(0)))
    for axis in AXES:
        rows = [row for row in results if row["axis"] == axis]
        columns = {name: [row[name] for row in rows] for name in ("size", "ratio", "low", "high")}
        line = Series(key, columns["size"], columns["ratio"], columns["low"], columns["high"], mode="lines+markers")
        about = f"by {axis}", "", axis, "time of an update, ours / raw", "log", [line]
        plots.figure(Figure(*about, level=1.0, frame=(0.8, 1.5), bands="lowest to highest of the blocks"))
    save(draw(plots, plots.figures, title="How the cost of an update grows", across=2), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="about how long a block takes")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--axis", choices=AXES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {given.blocks} blocks of each\n")
    print("| | | ours, ms | raw, ms | ours / raw | range | first update, s: ours, raw | memory over raw |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for axis in [given.axis] if given.axis else AXES:
        for size in AXES[axis]:
            row = compared(axis, size, given.blocks, given.seconds)
            by_itself = alone(axis, size)
            first, memory = zip(by_itself["ours"], by_itself["raw"], strict=True)
            results.append(row | {"first": first, "memory": memory})
            more = (memory[0] - memory[1]) / 1e6
            print(
                f"| {axis} | {size:,} | {1e3 * row['ours']:.3f} | {1e3 * row['raw']:.3f} | {row['ratio']:.3f} | "
                f"{row['low']:.3f} to {row['high']:.3f} | {first[0]:.3f}, {first[1]:.3f} | {more:+.0f} MB |",
                flush=True,
            )
    if given.figure:
        drawn(results, given.figure)


if __name__ == "__main__":
    main()

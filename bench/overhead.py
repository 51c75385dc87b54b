"""What the machinery costs: samples a second against a hand-written loop, interleaved, one thread.

    python bench/overhead.py [--pairs 9] [--seconds 2]

Raw: the plain PyTorch that one would write: float32 tensors in memory, a shuffled index an epoch, `torch.optim.SGD`
with Nesterov momentum, a learning rate written from a list. Ours: `Learner.fit_one_cycle` with optimizer "sgd", records
and checkpoints on disk, history in memory and a progress bar drawn. Same model, same data (Fashion-MNIST, held as
uint8 by ours), same loss, same updates. The ratio is ours over raw in samples a second: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import onecycle
from onecycle.records.progress import Progress

CASES = {"mlp, batch 128": ("mlp", 128), "mlp, batch 512": ("mlp", 512), "small-cnn, batch 128": ("small-cnn", 128)}


def model_of(name: str) -> nn.Module:
    options = {"hidden": (32,)} if name == "mlp" else {}
    return onecycle.build_model(name, input_shape=(1, 28, 28), classes=10, seed=0, **options)


def raw(name: str, size: int, updates: int, x: torch.Tensor, y: torch.Tensor) -> float:
    model = model_of(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rates = [0.1 * (1 - k / updates) for k in range(updates)]
    start, done = time.perf_counter(), 0
    while done < updates:
        order = torch.randperm(len(x))
        for i in range(0, len(x) - size + 1, size):
            index = order[i : i + size]
            for group in optimizer.param_groups:
                group["lr"] = rates[done]
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == updates:
                break
    return updates * size / (time.perf_counter() - start)


def ours(name: str, size: int, updates: int, data: onecycle.data.Data, folder: Path | None) -> float:
    with open(os.devnull, "w") as nowhere, Progress(epochs=None, stream=nowhere, terminal=True) as progress:
        learn = onecycle.Learner(
            model_of(name), data, batch_size=size, optimizer="sgd", smoothing=0, augment="none", verbose=False
        )
        learn.valid = None  # as in the raw loop
        budget = onecycle.Budget(updates=updates)
        start = time.perf_counter()
        learn.fit_one_cycle(budget=budget, lr_max=0.1, out=folder, observers=[progress])
        return updates * size / (time.perf_counter() - start)


def compare(
    name: str, size: int, updates: int, pairs: int, data: onecycle.data.Data, xy: tuple, record: bool
) -> list[float]:
    ratios = []
    for i in range(pairs + 1):
        folder = Path(tempfile.mkdtemp()) / "run" if record else None
        a, b = partial(ours, name, size, updates, data, folder), partial(raw, name, size, updates, *xy)
        (first, second) = (a, b) if i % 2 else (b, a)
        one, two = first(), second()
        ratios.append(one / two if i % 2 else two / one)
        if folder is not None:
            shutil.rmtree(folder.parent)
    return ratios[1:]  # the first pair warms up


def start_up(code: str, runs: int = 7) -> list[float]:
    """Seconds of `python -c code` over those of `import torch`, pair by pair."""
    times = []
    for _ in range(runs):
        pair = []
        for what in ("import torch", code):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", what], check=True, stdout=subprocess.DEVNULL)
            pair.append(time.perf_counter() - start)
        times.append(pair[1] - pair[0])
    return times


def line(name: str, values: list[float], unit: str = "") -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"| {name} | {middle:.3f}{unit} | {low:.3f} ... {high:.3f} | {len(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each run takes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = onecycle.load("fashion-mnist")
    x = ((data.train.inputs.float() / 255 - data.mean[0]) / data.std[0]).contiguous()
    xy = (x, data.train.targets)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {arguments.pairs} pairs a row\n")
    print("| case | ratio ours / raw, median | min ... max | n |\n| --- | --- | --- | --- |")
    for case, (name, size) in CASES.items():
        updates = max(20, int(raw(name, size, 50, *xy) * arguments.seconds / size))
        print(line(case, compare(name, size, updates, arguments.pairs, data, xy, record=True)), flush=True)
    for case, (name, size) in CASES.items():
        ratios = compare(name, size, 1, 10 * arguments.pairs, data, xy, record=False)
        print(line(f"one update, {case}", ratios), flush=True)
    print(line("import onecycle - import torch", start_up("import onecycle"), " s"))
    help_code = "import sys; sys.argv = ['onecycle', '--help']; from onecycle.commands.app import main; main()"
    print(line("onecycle --help - import torch", start_up(help_code), " s"))


if __name__ == "__main__":
    main()

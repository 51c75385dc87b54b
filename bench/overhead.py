"""What the machinery costs: samples a second of CPU time against a hand-written loop, interleaved, one thread.

    python bench/overhead.py [--pairs 9] [--seconds 2]

Raw: the plain PyTorch that one would write: float32 tensors in memory, a shuffled index an epoch, `torch.optim.SGD`
with Nesterov momentum, a learning rate written from a list. Ours, with the same model, loss and updates, and what it
takes to make its optimizer or its Learner: `Learner.fit_one_cycle` with optimizer "sgd", records and checkpoints on
disk, history in memory and a progress bar drawn (Fashion-MNIST, held as uint8); the same of raw's float32 tensors, in
memory; and the loop `onecycle.train` with raw's optimizer and tensors. Runs of one update are Learners in memory, and
with a folder. Last, the loop with models of many small tensors and parameter groups. The ratio is ours over raw in
samples a second: above 1, ours is faster. Raw leaves the statistics of batch norms as running means, and so do ours;
"estimated" has what a Learner does unless it is told otherwise: to measure them anew at the end, on 512 samples.
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import onecycle
from onecycle.records.progress import Progress

CASES = {"mlp, batch 128": ("mlp", 128), "mlp, batch 512": ("mlp", 512), "small-cnn, batch 128": ("small-cnn", 128)}
# Parameter tensors and groups.
MANY = ((10, 1), (100, 1), (1000, 1), (1000, 100))


def model_of(name: str) -> nn.Module:
    options = {"hidden": (32,)} if name == "mlp" else {}
    return onecycle.build_model(name, input_shape=(1, 28, 28), classes=10, seed=0, **options)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)


def plain(
    model: nn.Module, make: Callable[[], torch.optim.Optimizer], size: int, updates: int, x: torch.Tensor,
    y: torch.Tensor,
) -> float:  # fmt: skip
    """The hand-written loop; samples a second."""
    start, done = time.process_time(), 0
    optimizer = make()
    rates = [0.1 * (1 - k / updates) for k in range(updates)]
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
    return updates * size / (time.process_time() - start)


def raw(name: str, size: int, updates: int, x: torch.Tensor, y: torch.Tensor) -> float:
    model = model_of(name).train()
    return plain(model, lambda: sgd(model.parameters()), size, updates, x, y)


def ours(name: str, size: int, updates: int, data: Any, folder: Path | None, bar: bool = True, **options: Any) -> float:
    """A Learner's samples a second."""
    model = model_of(name)
    options = {"norm_statistics": "running", **({} if isinstance(data, tuple) else {"augment": "none"}), **options}
    with open(os.devnull, "w") as nowhere, Progress(epochs=None, stream=nowhere, terminal=True) as progress:
        start = time.process_time()
        learn = onecycle.Learner(model, data, batch_size=size, optimizer="sgd", smoothing=0, verbose=False, **options)
        learn.valid = None  # as in the raw loop
        budget = onecycle.Budget(updates=updates)
        learn.fit_one_cycle(budget=budget, lr_max=0.1, out=folder, observers=[progress] if bar else [])
        return updates * size / (time.process_time() - start)


def loop(
    model: nn.Module, make: Callable[[], torch.optim.Optimizer], size: int, updates: int, x: torch.Tensor,
    y: torch.Tensor, channels_last: bool = False,
) -> float:  # fmt: skip
    """The loop `onecycle.train` over a user's model and optimizer; samples a second."""
    start = time.process_time()
    runtime = onecycle.Runtime.of(model, channels_last=channels_last)
    loss = onecycle.Supervised(F.cross_entropy)
    state = onecycle.TrainState(model, make(), loss, runtime, norm_statistics="running")
    batches = onecycle.as_batches((x, y), size, drop_last=True)
    for _ in onecycle.train(state, batches, onecycle.Budget(updates=updates), onecycle.one_cycle(0.1)):
        pass
    return updates * size / (time.process_time() - start)


def train(name: str, size: int, updates: int, x: torch.Tensor, y: torch.Tensor, channels_last: bool = False) -> float:
    model = model_of(name)
    return loop(model, lambda: sgd(model.parameters()), size, updates, x, y, channels_last)


def interleaved(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[float]:
    """The ratios of what both return, in turns; the first pair warms up."""
    ratios = []
    for i in range(pairs + 1):
        a, b = (first(), second()) if i % 2 else reversed((second(), first()))
        ratios.append(a / b)
    return ratios[1:]


def on_disk(run: Callable[..., float]) -> float:
    """What `run` returns for a folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp())
    try:
        return run(folder=folder / "run")
    finally:
        shutil.rmtree(folder)


class Many(nn.Module):
    """Adds up so many small tensors, and one layer after that."""

    def __init__(self, tensors: int):
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(4) / 10) for _ in range(tensors - 2)])
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + torch.stack(list(self.parts)).sum(0))


def many(tensors: int, groups: int, make: Callable[[Any], torch.optim.Optimizer], ours: bool, updates: int) -> float:
    torch.manual_seed(0)
    x, y = torch.randn(2048, 4), torch.randint(0, 3, (2048,))
    model = Many(tensors).train()
    parameters = list(model.parameters())
    split = [{"params": parameters[i::groups]} for i in range(groups)]
    return (loop if ours else plain)(model, lambda: make(split), 32, updates, x, y)


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


def say(name: str, values: Sequence[float], unit: str = "") -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"| {name} | {middle:.3f}{unit} | {low:.3f} ... {high:.3f} | {len(values)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each run takes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs, data = arguments.pairs, onecycle.load("fashion-mnist")
    x = ((data.train.inputs.float() / 255 - data.mean[0]) / data.std[0]).contiguous()
    xy = (x, data.train.targets)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {pairs} pairs a row\n")
    print("| case | ratio ours / raw, median | min ... max | n |\n| --- | --- | --- | --- |")
    for case, (name, size) in CASES.items():
        raw(name, size, 50, *xy)  # the first run takes ten times as long as the others
        updates = max(20, int(raw(name, size, 50, *xy) * arguments.seconds / size))
        other = partial(raw, name, size, updates, *xy)
        say(f"Learner, {case}", interleaved(partial(on_disk, partial(ours, name, size, updates, data)), other, pairs))
        in_memory = partial(ours, name, size, updates, xy, None, bar=False)
        say(f"Learner of float32 tensors, {case}", interleaved(in_memory, other, pairs))
        say(f"train(), {case}", interleaved(partial(train, name, size, updates, *xy), other, pairs))
        if name == "small-cnn":
            last = partial(train, name, size, updates, *xy, channels_last=True)
            say(f"train(), channels last, {case}", interleaved(last, other, pairs))
            usual = partial(ours, name, size, updates, data, None, norm_statistics="estimated")
            say(f"Learner, estimated, {case}", interleaved(usual, other, pairs))
    for case, (name, size) in CASES.items():
        one, once = partial(raw, name, size, 1, *xy), partial(ours, name, size, 1, data, bar=False)
        say(f"one update, {case}", interleaved(partial(once, None), one, 10 * pairs))
        say(f"one update on disk, {case}", interleaved(partial(on_disk, once), one, 3 * pairs))
    for make in (sgd, adamw):
        for tensors, groups in MANY:
            updates = 4000 // tensors if tensors < 1000 else 40
            run, other = (partial(many, tensors, groups, make, ours, updates) for ours in (True, False))
            say(f"train(), {make.__name__}, {tensors} tensors in {groups} groups", interleaved(run, other, pairs))
    say("import onecycle - import torch", start_up("import onecycle"), " s")
    help_code = "import sys; sys.argv = ['onecycle', '--help']; from onecycle.commands.app import main; main()"
    say("onecycle --help - import torch", start_up(help_code), " s")


if __name__ == "__main__":
    main()

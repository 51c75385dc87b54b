"""Ours beside other tools: samples a second of CPU time against a hand-written loop, interleaved, one thread.

    python3.11 -m venv peers-venv
    peers-venv/bin/pip install -c constraints.txt torch
    peers-venv/bin/pip install --no-deps -r bench/peers-requirements.txt
    OMP_NUM_THREADS=1 PYTHONPATH=src peers-venv/bin/python bench/peers.py [--pairs 7]

Every tool trains the same model on the same data (Fashion-MNIST, float32 tensors in memory) with the same loss, for as
many updates, by SGD with Nesterov momentum up to a learning rate of 0.1; making its optimizer, loaders and trainer
counts, the model and the imports do not. Each is used as its documentation shows it, without validation data, with
progress bars, loggers and checkpoints off, and has torch's SGD and OneCycleLR, but that fastai and ours have schedules
of their own, raw in memory a list of rates, and Keras its SGD (decoupled weight decay) and a cosine with a warm-up;
Keras takes the module in a `TorchModuleWrapper`.

What each is given: a `DataLoader` of a `TensorDataset` as PyTorch ships it, no workers (skorch makes one of its own
data set); batches in memory, cut by one shuffled index (ours are given the tensors, and cut them so); or arrays, which
Keras cuts. Each run has one of raw in memory beside it, which is the 1 of every ratio: above 1 is faster. The loss
after a run, on 1,024 training images, shows that all have trained. A tool that is not installed is a row that says so.

fastai is installed without torchvision and spaCy, which what is used of it here (`fastai.basics`, `callback.schedule`)
does not import. Statistics of batch norms are running means everywhere, but where it says "estimated".
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from overhead import CASES, interleaved, loop, model_of, plain, sgd
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import onecycle

PEAK = 0.1
MEMORY, LOADER, ARRAYS = "batches in memory", "DataLoader", "arrays"
PACKAGES = ("torch", "fastai", "lightning", "skorch", "accelerate", "keras")
# Updates of a run, at the most: one epoch, and less of what takes long.
LONGEST = {"mlp": 500, "small-cnn": 60}


@dataclass(frozen=True)
class Task:
    """What is to be done with a model: so many updates, at most one epoch, on batches of the data as `given`."""

    x: torch.Tensor
    y: torch.Tensor
    size: int
    updates: int
    given: str = MEMORY

    def sampler(self) -> RandomSampler:
        return RandomSampler(range(len(self.x)), num_samples=self.updates * self.size)

    def batches(self) -> Iterable[Any]:
        if self.given == MEMORY:
            return InMemory(self)
        return DataLoader(TensorDataset(self.x, self.y), batch_size=self.size, sampler=self.sampler())


@dataclass(frozen=True)
class InMemory:
    """The batches of a task, cut by one shuffled index as the raw loop cuts them."""

    task: Task

    def __len__(self) -> int:
        return self.task.updates

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order, size = torch.randperm(len(self.task.x)), self.task.size
        for i in range(0, len(self) * size, size):
            index = order[i : i + size]
            yield self.task.x[index], self.task.y[index]


def scheduled(optimizer: torch.optim.Optimizer, updates: int) -> OneCycleLR:
    return OneCycleLR(optimizer, PEAK, total_steps=updates)


def by_hand(model: nn.Module, batches: Iterable[Any], optimizer: Any, schedule: Any, backward: Any) -> None:
    for inputs, targets in batches:
        optimizer.zero_grad()
        backward(F.cross_entropy(model(inputs), targets))
        optimizer.step()
        schedule.step()


# A function for each tool: it trains the model in place.


def raw(model: nn.Module, task: Task) -> None:
    if task.given == MEMORY:
        plain(model.train(), lambda: sgd(model.parameters()), task.size, task.updates, task.x, task.y)
        return
    optimizer = sgd(model.train().parameters())
    by_hand(model, task.batches(), optimizer, scheduled(optimizer, task.updates), torch.Tensor.backward)


def learner(model: nn.Module, task: Task, norm_statistics: str = "running") -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "smoothing": 0, "norm_statistics": norm_statistics, "verbose": False}
    if task.given == MEMORY:
        learn = onecycle.Learner(model, (task.x, task.y), batch_size=task.size, **options)
    else:
        learn = onecycle.Learner(model, task.batches(), **options)
    learn.fit_one_cycle(onecycle.Budget(updates=task.updates), PEAK)


def train(model: nn.Module, task: Task) -> None:
    if task.given == MEMORY:
        loop(model, lambda: sgd(model.parameters()), task.size, task.updates, task.x, task.y)
        return
    loss, runtime = onecycle.Supervised(F.cross_entropy), onecycle.Runtime.of(model)
    state = onecycle.TrainState(model, sgd(model.parameters()), loss, runtime, norm_statistics="running")
    batches = onecycle.as_batches(task.batches())
    for _ in onecycle.train(state, batches, onecycle.Budget(updates=task.updates), onecycle.one_cycle(PEAK)):
        pass


def fastai(model: nn.Module, task: Task) -> None:
    basics, _ = importlib.import_module("fastai.basics"), importlib.import_module("fastai.callback.schedule")
    loaders = basics.DataLoaders(task.batches(), [], device=torch.device("cpu"))
    optimizer = partial(basics.OptimWrapper, opt=lambda parameters, lr: sgd(parameters))
    learn = basics.Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), opt_func=optimizer)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, PEAK)


@cache
def lightning_module() -> Callable[[nn.Module, int], Any]:
    package = importlib.import_module("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(package.LightningModule):
        def __init__(self, model: nn.Module, updates: int):
            super().__init__()
            self.model, self.updates = model, updates

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            inputs, targets = batch
            return F.cross_entropy(self.model(inputs), targets)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = sgd(self.parameters())
            schedule = {"scheduler": scheduled(optimizer, self.updates), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return Classifier


def lightning(model: nn.Module, task: Task) -> None:
    made = lightning_module()(model.train(), task.updates)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = importlib.import_module("lightning").Trainer(max_epochs=1, accelerator="cpu", devices=1, **off)
    trainer.fit(made, task.batches())


def skorch(model: nn.Module, task: Task) -> None:
    package, callbacks = importlib.import_module("skorch"), importlib.import_module("skorch.callbacks")
    schedule = callbacks.LRScheduler(OneCycleLR, max_lr=PEAK, total_steps=task.updates, step_every="batch")
    iterator = {"iterator_train__batch_size": task.size, "iterator_train__sampler": task.sampler()}
    if task.given == MEMORY:
        iterator = {"iterator_train": lambda dataset, batch_size: task.batches()}
    options = {"max_epochs": 1, "train_split": None, "verbose": 0, "callbacks": [schedule], **iterator}
    net = package.NeuralNetClassifier(model, criterion=nn.CrossEntropyLoss, optimizer=lambda p, lr: sgd(p), **options)
    net.fit(task.x, task.y)


def accelerate(model: nn.Module, task: Task) -> None:
    accelerator = importlib.import_module("accelerate").Accelerator(cpu=True)
    optimizer = sgd(model.train().parameters())
    parts = model, task.batches(), optimizer, scheduled(optimizer, task.updates)
    by_hand(*accelerator.prepare(*parts), accelerator.backward)


def keras(model: nn.Module, task: Task) -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    package, updates = importlib.import_module("keras"), task.updates
    wrapped = package.layers.TorchModuleWrapper(model, output_shape=(None, 10))
    net, rise = package.Sequential([package.Input(task.x.shape[1:]), wrapped]), max(1, 3 * updates // 10)
    cosine = package.optimizers.schedules.CosineDecay(
        PEAK / 25, max(1, updates - rise), alpha=1e-5, warmup_target=PEAK, warmup_steps=rise
    )
    optimizer = package.optimizers.SGD(cosine, momentum=0.9, nesterov=True, weight_decay=5e-4)
    net.compile(optimizer, package.losses.SparseCategoricalCrossentropy(from_logits=True))
    if task.given == ARRAYS:
        net.fit(task.x, task.y, batch_size=task.size, steps_per_epoch=updates, verbose=0)
    elif task.given == MEMORY:
        net.fit(iter(task.batches()), steps_per_epoch=updates, verbose=0)
    else:
        net.fit(task.batches(), verbose=0)


Tool = Callable[[nn.Module, Task], None]
TOOLS: dict[str, Tool] = {
    "raw loop": raw, "Learner": learner, "onecycle.train()": train, "fastai": fastai, "Lightning": lightning,
    "skorch": skorch, "Accelerate": accelerate, "Keras": keras,
}  # fmt: skip
ROWS: tuple[tuple[str, Tool, str], ...] = (
    *((name, tool, MEMORY) for name, tool in TOOLS.items()),
    ("Learner, statistics estimated (its default)", partial(learner, norm_statistics="estimated"), MEMORY),
    ("Keras", keras, ARRAYS),
    *((name, tool, LOADER) for name, tool in TOOLS.items()),
)


def speed(tool: Tool, name: str, task: Task, losses: list[float]) -> float:
    """Samples a second of one training; appends the loss after it, on the first of the training data."""
    model = model_of(name)
    gc.collect()
    start = time.process_time()
    tool(model, task)
    taken = time.process_time() - start
    with torch.no_grad():
        losses.append(F.cross_entropy(model.eval()(task.x[:1024]), task.y[:1024]).item())
    return task.updates * task.size / taken


def measured(tool: Tool, name: str, task: Task, pairs: int) -> str:
    """A cell: the ratio to raw in memory, its median and range, and the loss after a run; or what is not installed."""
    losses: list[float] = []
    try:
        speed(tool, name, replace(task, updates=1), [])
    except ImportError as error:
        return f"not installed: {error.name}"
    gc.freeze()  # what other tools have imported is not searched for garbage in the runs of this one
    other = partial(speed, raw, name, replace(task, given=MEMORY), [])
    ratios = interleaved(partial(speed, tool, name, task, losses), other, pairs)
    gc.unfreeze()
    cell = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return cell if task.updates == 1 else f"{cell}, loss {statistics.median(losses):.2f}"


def setting() -> str:
    """The processor and all versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    present = {package.name: package.version for package in metadata.distributions()}
    versions = ", ".join(f"{package} {present.get(package, 'not installed')}" for package in PACKAGES)
    return f"{processor}, one thread; Python {platform.python_version()}, {versions}"


def load() -> str:
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="of a run; three times as many of one update")
    parser.add_argument("--updates", type=int, default=500, help="of a run, at the most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    before, data = load(), onecycle.load("fashion-mnist")
    x = ((data.train.inputs.float() / 255 - data.mean[0]) / data.std[0]).contiguous()
    columns: dict[str, tuple[str, Task, int]] = {}
    for case, (name, size) in CASES.items():
        updates = min(arguments.updates, LONGEST[name], len(x) // size)
        task = Task(x, data.train.targets, size, updates)
        columns[f"{case}, {updates} updates"] = name, task, arguments.pairs
        columns[f"{case}, one update"] = name, replace(task, updates=1), 3 * arguments.pairs
    table = [["", "given", *columns], ["---"] * (2 + len(columns))]
    for label, tool, given in ROWS:
        table.append([label, given])
        for column, (name, task, pairs) in columns.items():
            table[-1].append(measured(tool, name, replace(task, given=given), pairs))
            print(f"{label}, {given}, {column}: {table[-1][-1]}", file=sys.stderr, flush=True)
    print(f"{setting()}; load {before} before, {load()} after; n = {arguments.pairs}, thrice that for one update\n")
    print("\n".join(f"| {' | '.join(cells)} |" for cells in table))


if __name__ == "__main__":
    main()

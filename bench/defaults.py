"""Does the default optimizer hold up away from the net it was found on? Muon, SGD and AdamW at half, once and twice
their default peaks, batch 64, 3 seeds, on validation data.

    python bench/defaults.py          # some minutes; one line a case, one column an optimizer and peak
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import torch

import onecycle
from onecycle.optim.build import RECIPES

# data, model, training samples, epochs, metric
CASES = [
    ("digits", "mlp", None, 10, "accuracy"),
    ("digits", "small-cnn", None, 10, "accuracy"),
    ("fashion-mnist", "mlp", 5000, 4, "accuracy"),
    ("fashion-mnist", "lenet", 5000, 4, "accuracy"),
    ("cifar10", "small-cnn", 5000, 4, "accuracy"),
    ("cifar10", "resnet20", 2000, 4, "accuracy"),
    ("text", "char-transformer", 4000, 2, "loss"),
]


def source_text(folder: Path) -> Path:
    """A text that every Python brings along: some of its own modules."""
    import argparse
    import inspect
    import os
    import typing

    path = folder / "source.txt"
    path.write_text("".join(inspect.getsource(module) for module in (argparse, os, typing, inspect)))
    return path


def score(
    data: onecycle.data.Data, model: str, epochs: float, optimizer: str, lr: float, seed: int, metric: str
) -> float:
    net = onecycle.build_model(model, input_shape=data.input_shape, classes=data.n_classes or 1, seed=seed)
    learn = onecycle.Learner(net, data, optimizer=optimizer, seed=seed, verbose=False)
    learn.valid = None
    try:
        learn.fit_one_cycle(epochs, lr)
    except onecycle.errors.NonFiniteLoss:
        return float("nan")
    return learn.evaluate(data.valid)[metric]


def cell(values: list[float], scale: int) -> str:
    """Mean and standard deviation over seeds, or how many of them diverged."""
    lost = sum(math.isnan(value) for value in values)
    if lost:
        return f"{lost} of {len(values)} diverged"
    return f"{scale * statistics.mean(values):.2f} ± {scale * statistics.stdev(values):.2f}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    columns = [(name, RECIPES[name].lr_max * factor) for name in ("muon", "sgd", "adamw") for factor in (0.5, 1, 2)]
    print(f"| case | {' | '.join(f'{name} {lr:g}' for name, lr in columns)} |\n|{' --- |' * (len(columns) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, model, limit, epochs, metric in CASES:
            data = onecycle.load(source_text(Path(folder)) if name == "text" else name, limit=limit)
            cells = []
            for optimizer, lr in columns:
                values = [score(data, model, epochs, optimizer, lr, seed, metric) for seed in range(3)]
                cells.append(cell(values, 100 if metric == "accuracy" else 1))
            print(f"| {name}, {model}, {epochs} epochs, {metric} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Which shape of the 1cycle is the best default? Every shape at its own best peak, on small subsets, with seeds.

    python bench/shapes.py run --part 0/2 & python bench/shapes.py run --part 1/2    # about an hour on 2 cores
    python bench/shapes.py table                                                     # Markdown, for docs/log.md

Protocol: 4,000 training images, small-cnn, batch 64, no augmentation; 2,000 other training images choose the peak
from a grid with ratio 2 (mean accuracy of 2 seeds, climbing from the middle until the best is inside the grid); 5 seeds
at that peak give the test accuracy, on 4,000 test images. Seeds are the same for all: differences are paired.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

import onecycle
from onecycle import Piecewise, Policy
from onecycle.data.batches import ImageTransform, TensorBatches
from onecycle.models import build
from onecycle.schedules import presets
from onecycle.training.losses import cross_entropy
from onecycle.training.metrics import accuracy
from onecycle.training.objectives import Supervised

OUT = Path(__file__).parent / "out" / "shapes.jsonl"
DATA, OPTIMIZERS, EPOCHS = ("fashion-mnist", "cifar10"), ("sgd", "adamw"), (2, 8)
MIDDLE = {"sgd": 0.4, "adamw": 0.008}
TUNING_SEEDS, SEEDS = (0, 1), (0, 1, 2, 3, 4)
CYCLED, CONSTANT = (0.95, 0.85), 0.9


def triangle(lr, updates, *, momentum, at):
    """Linear from a twenty-fifth of the peak up to it at the share `at`, and down to zero."""
    high, low = momentum if isinstance(momentum, tuple) else (momentum, momentum)
    momenta = Piecewise(((0, high), (at, low), (1, high)))
    return Policy({"lr": Piecewise(((0, lr / 25), (at, lr), (1, 0))), "momentum": momenta})


def shapes():
    """Name, kind of momentum, and a function from the peak and the number of updates to a policy."""
    makers = {"paper": presets.paper, "fastai": presets.fastai, "torch": presets.torch}
    makers |= {f"linear {at}%": partial(triangle, at=at / 100) for at in (5, 15, 25, 40)}
    for (name, make), momentum in itertools.product(makers.items(), (CYCLED, CONSTANT)):
        yield name, "cycled" if momentum is CYCLED else "constant", partial(make, momentum=momentum)


def subsets(name):
    data = onecycle.load(name)
    pick = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))
    tests = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))[:4000]
    parts = [(data.train, pick[:4000]), (data.train, pick[4000:6000]), (data.test, tests)]
    return data, [(split.inputs[index], split.targets[index]) for split, index in parts]


def run(data, parts, optimizer, epochs, make, peak, seed):
    """One training; the accuracies on the images that choose and on the test images."""
    transform = ImageTransform(data.mean, data.std)
    train, *others = [
        TensorBatches(part, size, seed, shuffle=i == 0, drop_last=i == 0, transform=transform)
        for i, (part, size) in enumerate(zip(parts, (64, 250, 250), strict=True))
    ]
    model = build("small-cnn", input_shape=data.input_shape, classes=10, seed=seed).to(
        memory_format=torch.channels_last
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    if optimizer == "sgd":
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0}]
        opt = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True, fused=True)
    else:
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0}]
        opt = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99), fused=True)
    state = onecycle.TrainState(model, opt, Supervised(cross_entropy), seed=seed)
    try:
        for _ in onecycle.train(state, train, epochs, lambda updates: make(peak, updates)):
            pass
    except onecycle.errors.NonFiniteLoss:
        return 0.0, 0.0
    model.eval()
    with torch.inference_mode():
        return tuple(
            sum(accuracy(model(x), y).item() * len(y) for x, y in batches.epoch(0)) / len(batches.tensors[0])
            for batches in others
        )


def main_run(part):
    torch.set_num_threads(1)
    OUT.parent.mkdir(exist_ok=True)
    done = {key(row): row for row in rows()}
    index, parts = map(int, part.split("/"))
    cells = sorted(itertools.product(EPOCHS, DATA, OPTIMIZERS))
    loaded = {name: subsets(name) for name in DATA}
    for cell in cells:
        middle = MIDDLE[cell[2]]
        for shape in itertools.islice(shapes(), index, None, parts):
            measured = partial(measure, done, loaded[cell[1]], cell, shape)
            middle = climb(lambda peak, m=measured: statistics.mean(m(peak, seed) for seed in TUNING_SEEDS), middle)
            for seed in SEEDS:
                measured(middle, seed)
            print(*cell, *shape[:2], middle, flush=True)


def measure(done, loaded, cell, shape, peak, seed):
    """The accuracy that chooses, from the file or from a run that is then written into it."""
    (epochs, name, optimizer), (shape_name, momentum, make) = cell, shape
    row = {"data": name, "optimizer": optimizer, "epochs": epochs, "shape": shape_name, "momentum": momentum}
    row |= {"peak": peak, "seed": seed}
    if key(row) not in done:
        row["valid"], row["test"] = run(*loaded, optimizer, epochs, make, peak, seed)
        done[key(row)] = row
        with OUT.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return done[key(row)]["valid"]


def climb(score, middle, ratio=2):
    """The best peak of a grid around `middle`, extended until the best has a neighbour on both sides."""
    scores = {}
    while True:
        for peak in (middle / ratio, middle, middle * ratio):
            if peak not in scores:
                scores[peak] = score(peak)
        best = max(scores, key=scores.__getitem__)
        if best == middle:
            return middle
        middle = best


def key(row):
    return tuple(row[k] for k in ("data", "optimizer", "epochs", "shape", "momentum", "peak", "seed"))


def rows():
    return [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []


def chosen():
    """(data, optimizer, epochs) -> (shape, momentum) -> (peak, [test accuracy by seed]) for finished cells."""
    cells = {}
    for row in rows():
        cell = cells.setdefault((row["data"], row["optimizer"], row["epochs"]), {})
        cell.setdefault((row["shape"], row["momentum"]), {}).setdefault(row["peak"], {})[row["seed"]] = row
    result = {}
    for where, table in cells.items():
        for what, peaks in table.items():
            peak = max(
                peaks, key=lambda p: statistics.mean(peaks[p][s]["valid"] for s in TUNING_SEEDS if s in peaks[p])
            )
            if set(SEEDS) <= set(peaks[peak]):
                result.setdefault(where, {})[what] = peak, [100 * peaks[peak][s]["test"] for s in SEEDS]
    return result


def main_table():
    """Mean and 95 % interval by cell, and the mean difference to the cell's average over shapes, paired by seed."""
    from scipy import stats

    cells = chosen()
    columns = sorted(cells, key=lambda c: (c[2], c[0], c[1]))
    every = [(shape, momentum) for shape, momentum, _ in shapes()]
    full = [c for c in columns if set(every) <= set(cells[c])]
    heads = [f"{data} {optimizer} {epochs} ep" for data, optimizer, epochs in columns]
    print(f"| shape | momentum | {' | '.join(heads)} | difference to the mean of all [95 %] |")
    print("|" + " --- |" * (len(columns) + 3))
    lines = []
    for what in every:
        texts, differences = [], []
        for c in columns:
            if what not in cells[c]:
                texts.append("")
                continue
            peak, values = cells[c][what]
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            texts.append(f"{statistics.mean(values):.2f} ± {half:.2f} (at {peak:g})")
            if c in full:
                differences += [v - statistics.mean(cells[c][w][1][i] for w in every) for i, v in enumerate(values)]
        mean = statistics.mean(differences) if differences else float("nan")
        half = (
            stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences) if len(differences) > 1 else float("nan")
        )
        lines.append((-mean, f"| {what[0]} | {what[1]} | {' | '.join(texts)} | {mean:+.2f} ± {half:.2f} |"))
    print("\n".join(line for _, line in sorted(lines)))
    print(f"\nn = {len(SEEDS)} seeds a cell, {len(full)} full cells of {len(columns)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--part", default="0/1", help="which share of the shapes this process takes, as 0/2")
    arguments = parser.parse_args()
    sys.exit(main_run(arguments.part) if arguments.what == "run" else main_table())

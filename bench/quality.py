"""Test accuracy by budget: ours at its defaults against torch's OneCycleLR at its best peak.

    python bench/quality.py [--seeds 3]        # about a quarter of an hour on one core

Fashion-MNIST, 20,000 training images, small-cnn (77,754 parameters), no augmentation. Ours: `Learner` and
`fit_one_cycle(epochs)` with nothing chosen. OneCycleLR: SGD with momentum .9 (cycled, as it does by default), weight
decay 5e-4, batch 128, its peak chosen for each budget from .05 ... .8 on 5,000 other training images, one seed of its
own.
The 10,000 test images are read once a run, at the end. Every run is a line of bench/out/quality.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch.nn import functional as F

import onecycle

OUT = Path(__file__).parent / "out" / "quality.jsonl"
EPOCHS = (1, 2, 4, 8)
PEAKS = (0.05, 0.1, 0.2, 0.4, 0.8)
TUNING_SEED = 100
# Printed elsewhere for the same net and protocol, other software, median of 3 seeds.
ORIENTATION = {
    "fastai, its own lr_find (valley)": (82.9, 85.7, 87.9, 89.3),
    "fastai, best of a grid (Adam)": (84.9, 87.5, 89.3, 90.6),
    "AdamW, cosine with warm-up, best of a grid": (85.0, 87.7, 89.6, 90.4),
}


def model_of(seed: int) -> torch.nn.Module:
    return onecycle.build_model("small-cnn", input_shape=(1, 28, 28), classes=10, seed=seed)


def parts(data: onecycle.data.Data) -> tuple[onecycle.data.Split, onecycle.data.Split]:
    """20,000 images to train on and 5,000 others to choose with."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    take = [order[:20000], order[20000:25000]]
    return tuple(onecycle.data.Split(data.train.inputs[i], data.train.targets[i]) for i in take)


def ours(train: onecycle.data.Split, judge: onecycle.data.Split, epochs: int, seed: int, **options) -> float:
    learn = onecycle.Learner(model_of(seed), train, seed=seed, verbose=False, **options)
    learn.fit_one_cycle(epochs)
    return 100 * learn.evaluate(judge)["accuracy"]


def one_cycle_lr(train: onecycle.data.Split, judge: onecycle.data.Split, epochs: int, seed: int, peak: float) -> float:
    """Plain PyTorch, with nothing of ours but the initial weights."""
    mean, std = train.inputs.float().mean() / 255, train.inputs.float().std() / 255
    x, z = ((split.inputs.float() / 255 - mean) / std for split in (train, judge))
    model = model_of(seed).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, epochs * (len(x) // 128))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for i in range(0, len(x) - 127, 128):
            index = order[i : i + 128]
            loss = F.cross_entropy(model(x[index]), train.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in z.split(500)])
    return 100 * (guesses == judge.targets).float().mean().item()


def record(**row) -> float:
    with OUT.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)
    return row["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("")
    data = onecycle.load("fashion-mnist")
    train, select = parts(data)
    rows: dict[str, list[list[float]]] = {"ours, defaults": [], "ours, optimizer sgd": [], "OneCycleLR, best peak": []}
    for epochs in EPOCHS:
        for what, options in (("ours, defaults", {}), ("ours, optimizer sgd", {"optimizer": "sgd"})):
            rows[what].append(
                [
                    record(
                        what=what, epochs=epochs, seed=seed, accuracy=ours(train, data.test, epochs, seed, **options)
                    )
                    for seed in seeds
                ]
            )
        tried = {}
        for peak in PEAKS:
            accuracy = one_cycle_lr(train, select, epochs, TUNING_SEED, peak)
            tried[peak] = record(
                what="OneCycleLR, tuning", epochs=epochs, seed=TUNING_SEED, peak=peak, accuracy=accuracy
            )
        best = max(tried, key=tried.__getitem__)
        rows["OneCycleLR, best peak"].append(
            [
                record(
                    what="OneCycleLR", epochs=epochs, seed=seed, peak=best,
                    accuracy=one_cycle_lr(train, data.test, epochs, seed, best),
                )
                for seed in seeds
            ]
        )  # fmt: skip
    print(f"\n| policy | {' | '.join(f'{e} epochs' for e in EPOCHS)} |\n|{' --- |' * 5}")
    for what, cells in rows.items():
        texts = [f"{statistics.median(c):.2f} [{min(c):.2f}, {max(c):.2f}]" for c in cells]
        print(f"| {what} | {' | '.join(texts)} |")
    for what, numbers in ORIENTATION.items():
        print(f"| {what}, printed | {' | '.join(map(str, numbers))} |")


if __name__ == "__main__":
    main()

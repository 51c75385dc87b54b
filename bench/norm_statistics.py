"""Statistics of batch norms, estimated anew before each validation or by running means: accuracy, loss and CPU time.

    python bench/norm_statistics.py [--seeds 3] [--updates 30 100 1000] [--models small-cnn resnet20]

Fashion-MNIST, 5,000 training images (320 for 30 updates, 1,000 for 100, so that each run has several epochs), 2,000 to
validate, batch 64 (32 up to 100 updates), all else at default. Pairs are interleaved on one thread; CPU time is the
process's, of training with its validations.
Every run is a line of bench/out/norm_statistics.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import onecycle

OUT = Path(__file__).parent / "out" / "norm_statistics.jsonl"
IMAGES = {30: (320, 32), 100: (1000, 32), 1000: (5000, 64)}  # training images and batch size, by updates


def run(model: str, updates: int, seed: int, how: str, data: onecycle.data.Data) -> dict[str, object]:
    images, batch_size = IMAGES.get(updates, (5000, 64))
    order = torch.randperm(len(data.train.targets), generator=torch.Generator().manual_seed(seed))[:images]
    train = onecycle.data.Split(data.train.inputs[order], data.train.targets[order])
    valid = onecycle.data.Split(data.valid.inputs[:2000], data.valid.targets[:2000])
    net = onecycle.build_model(model, input_shape=data.input_shape, classes=data.n_classes, seed=seed)
    learn = onecycle.Learner(
        net, train, valid, batch_size=batch_size, seed=seed, augment="none", norm_statistics=how, verbose=False
    )
    began = time.process_time()
    result = learn.fit(f"{updates} updates", lr_max="default")
    measured = [row["valid_accuracy"] for row in learn.history.epochs if "valid_accuracy" in row]
    half = measured[: max(1, len(measured) // 2)]
    return {
        "model": model, "updates": updates, "seed": seed, "how": how, "cpu": time.process_time() - began,
        "accuracy": result.valid["accuracy"], "loss": result.valid["loss"], "first_half": statistics.mean(half),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, nargs="+", default=[30, 100, 1000])
    parser.add_argument("--models", nargs="+", default=["small-cnn", "resnet20"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = onecycle.load("fashion-mnist")
    OUT.parent.mkdir(exist_ok=True)
    for updates in options.updates:
        for model in options.models:
            rows: dict[str, list[dict[str, object]]] = {"estimated": [], "running": []}
            for seed in range(options.seeds):
                for how in ("estimated", "running") if seed % 2 == 0 else ("running", "estimated"):
                    row = run(model, updates, seed, how, data)
                    rows[how].append(row)
                    with OUT.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            for how, found in rows.items():
                print(model, updates, how, *(
                    f"{name} {' '.join(f'{row[name]:.3f}' for row in found)}"
                    for name in ("accuracy", "loss", "first_half", "cpu")
                ), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

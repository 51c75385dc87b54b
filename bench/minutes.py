"""What the ingredients of a short training of images give, one by one, in a loop of its own.

    python bench/minutes.py cifar10 --width 16 --epochs 4 --seeds 2
    python bench/minutes.py cifar10 --width 16 --epochs 4 --seeds 2 --not-whitened --flips random
    python bench/minutes.py fashion-mnist --width 16 --seconds 48 --crop 2 --resize 0.72:0.6

The recipe is that of airbench94_muon (arXiv 2404.00498; github.com/KellerJordan/cifar10-airbench) as far as it
is of use here: `fast-cnn`, a whitened first layer, Muon, alternating flips, label smoothing. The rest is our default:
the policy one_cycle and its peak. The budget is in epochs, which no load changes, or in seconds of training.

Prints test accuracies in percent as they are, with the mean over mirror images, and with that over images moved by a
pixel too (the paper's six views); and images a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import onecycle
from onecycle.optim.build import build_optimizer
from onecycle.optim.groups import bind, write

LAST = torch.channels_last


def normalised(images: Tensor, data: onecycle.Data) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=LAST)


def mirrored_first(n: int, seed: int) -> Tensor:
    """Which images alternating flips mirror in the first epoch, and in every second one after it."""
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5


def cropped(x: Tensor, padding: int, draw: torch.Generator) -> Tensor:
    """Windows of the images' size, at drawn places of their reflected surroundings."""
    n, _, height, width = x.shape
    padded, out = F.pad(x, (padding,) * 4, "reflect"), torch.empty_like(x)
    top, left = (torch.randint(2 * padding + 1, (n,), generator=draw) for _ in range(2))
    for i in range(2 * padding + 1):
        for j in range(2 * padding + 1):
            chosen = ((top == i) & (left == j)).nonzero()[:, 0]
            out[chosen] = padded[chosen, :, i : i + height, j : j + width]
    return out


def batches(data: onecycle.Data, options: argparse.Namespace, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled and augmented, without end; a ragged last batch is left out."""
    inputs, targets = data.train.inputs, data.train.targets
    draw, first = torch.Generator().manual_seed(seed), mirrored_first(len(inputs), seed)
    epoch = 0
    while True:
        order = torch.randperm(len(inputs), generator=draw)
        for i in range(len(inputs) // options.batch):
            chosen = order[i * options.batch : (i + 1) * options.batch]
            x = normalised(inputs[chosen], data)
            if options.flips != "none":
                alternating = first[chosen] ^ bool(epoch % 2)
                flip = alternating if options.flips == "alternating" else torch.rand(len(x), generator=draw) < 0.5
                x = torch.where(flip[:, None, None, None], x.flip(3), x)
            yield (cropped(x, options.crop, draw) if options.crop else x), targets[chosen]
        epoch += 1


def resized(x: Tensor, resize: str, progress: float) -> Tensor:
    """Smaller images as long as the run is within the share that ``SCALE:SHARE`` says."""
    scale, share = map(float, resize.split(":"))
    if scale == 1 or progress > share:
        return x
    side = round(x.shape[-1] * scale)
    return F.interpolate(x, size=side, mode="bilinear", antialias=True).contiguous(memory_format=LAST)


def run(data: onecycle.Data, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One training; accuracies, epochs, updates, seconds of training and images a second."""
    images = None if options.not_whitened else normalised(data.train.inputs[:2000], data)
    model = onecycle.build_model(
        "fast-cnn", input_shape=data.input_shape, classes=data.n_classes or 1, width=options.width, seed=seed,
        images=images,
    ).to(memory_format=LAST)  # fmt: skip
    called = torch.compile(model, dynamic=False) if options.compile else model
    optimizer, _ = build_optimizer("muon", model)
    policy = onecycle.one_cycle(options.peak)
    bind(policy, optimizer)
    narrow: Callable[[], contextlib.AbstractContextManager[object]] = (
        (lambda: torch.autocast("cpu", torch.bfloat16)) if options.precision == "bf16" else contextlib.nullcontext
    )
    an_epoch = len(data.train) // options.batch
    total = round((options.epochs or 0) * an_epoch)
    started, updates = time.perf_counter(), 0
    for x, y in batches(data, options, seed):
        spent = time.perf_counter() - started
        progress = updates / max(1, total - 1) if total else spent / options.seconds
        if progress > 1:
            break
        write(policy, optimizer, progress)
        with narrow():
            outputs = called(resized(x, options.resize, progress))
            loss = F.cross_entropy(outputs, y, label_smoothing=options.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        updates += 1
    seconds = time.perf_counter() - started
    with narrow():
        accuracies = tested(model, data)
    epochs = updates / an_epoch
    rate = updates * options.batch / seconds
    return {**accuracies, "epochs": epochs, "updates": updates, "seconds": seconds, "images/s": rate}


@torch.no_grad()
def tested(model: nn.Module, data: onecycle.Data) -> dict[str, float]:
    """Test accuracies in percent, after the statistics of the norms were measured on 5,000 training images."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for part in data.train.inputs[:5000].split(1000):
        model(normalised(part, data))
    model.eval()
    right = dict.fromkeys(("plain", "mirrored", "six views"), 0)
    assert data.test is not None
    for part, y in zip(data.test.inputs.split(1000), data.test.targets.split(1000), strict=True):
        x = normalised(part, data)
        padded = F.pad(x, (1,) * 4, "reflect")
        moved = [padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]]
        plain, *others = (model(v).float() for view in (x, *moved) for v in (view, view.flip(3)))
        mirrored = plain + others[0]
        for name, outputs in zip(right, (plain, mirrored, mirrored + sum(others[1:]) / 2), strict=True):
            right[name] += int((outputs.argmax(1) == y).sum())
    return {name: 100 * count / len(data.test) for name, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--epochs", type=float)
    budget.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--peak", type=float, default=0.04)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--flips", choices=("alternating", "random", "none"), default="alternating")
    parser.add_argument("--crop", type=int, default=0, help="pixels of padding")
    parser.add_argument("--resize", default="1:0", help="SCALE:SHARE, the scale of images up to a share of the run")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--not-whitened", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    data = onecycle.load(options.data, limit=options.limit)
    for seed in range(options.seeds):
        result = run(data, options, seed)
        print(seed, json.dumps({name: round(value, 2) for name, value in result.items()}), *sys.argv[1:], flush=True)


if __name__ == "__main__":
    main()

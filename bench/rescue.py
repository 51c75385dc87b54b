"""Whether a lost run is rescued, whether a healthy one is left alone, and what it costs.

    python bench/rescue.py peaks    # runs at multiples of the best peak, with rescues and without
    python bench/rescue.py healthy  # runs at and below the best peak, and second fits: how many were rescued
    python bench/rescue.py cost     # CPU time of a healthy run with and without, interleaved
    python bench/rescue.py table    # what was recorded, in Markdown

Small nets of 300 updates, with norms and without, on images, tables, sequences and text. The best peak of each is that
of a grid with ratio 2 around the recipe's, by validation accuracy, one seed. Lost: an error, or an accuracy that is
nearer to that of one class than to the best by three quarters of the way.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from functools import cache

import torch
from pairs import Pair, PostNorm, drawn_from, fashion, keep, rows, text
from torch import nn

import onecycle
from onecycle.optim.build import RECIPES

UPDATES, SEEDS, MULTIPLES = "300 updates", (1, 2, 3), (2, 4, 8, 16, 32)
GRID = [2.0**k for k in range(-4, 4)]
NEAR = 0.02


@cache
def table():
    """Five classes of four clouds each in 20 dimensions."""
    draws = torch.Generator().manual_seed(0)
    centres, clouds = 1.6 * torch.randn(20, 20, generator=draws), torch.arange(4000) % 20
    x = centres[clouds] + 1.3 * torch.randn(4000, 20, generator=draws)
    order = torch.randperm(4000, generator=draws)
    x, y = x[order], (clouds % 5)[order]
    return tuple((x[a:b], y[a:b]) for a, b in ((0, 2400), (2400, 3200), (3200, 4000)))


@cache
def digits():
    """8x8 digits, from -1 to 1; those to train on in a fixed order, and half of them to choose with."""
    data = onecycle.load("digits")
    x, y = data.train.inputs.float() / 127.5 - 1, data.train.targets.long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return tuple((x[a:b], y[a:b]) for a, b in ((0, 700), (700, len(x)), (700, len(x))))


def plain(seed, *, layers=4, width=96):
    """A multi-layer perceptron without norms."""
    with drawn_from(seed):
        inner = [m for _ in range(layers - 1) for m in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(nn.Linear(20, width), nn.ReLU(), *inner, nn.Linear(width, 5))


class Gru(nn.Module):
    """The rows of an image, one after the other."""

    def __init__(self, width=48):
        super().__init__()
        self.body, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(x[:, 0])[0][:, -1])


def gru(seed):
    with drawn_from(seed):
        return Gru()


def post_norm(seed):
    characters = int(max(part.max() for split in text() for part in split)) + 1
    with drawn_from(seed):
        return PostNorm(characters, width=32, depth=2)


PLAIN = Pair("plain mlp, table", table, 2400, plain, {}, 32)
GRU = Pair("gru, digits", digits, 700, gru, {}, 32)
MLP = Pair("mlp, fashion-mnist 14x14", fashion(14), 2000, "mlp", {"hidden": (64,)}, 32)
CNN = Pair("small-cnn, fashion-mnist 14x14", fashion(14), 2000, "small-cnn", {}, 32)
TEXT = Pair("post-norm transformer, text", text, 1200, post_norm, {}, 16)


@dataclass(frozen=True)
class Cell:
    """A pair with an optimizer, and the multiples of its best peak that are tried."""

    pair: Pair
    optimizer: str
    multiples: tuple = MULTIPLES

    @property
    def name(self):
        return f"{self.pair.name}, {self.optimizer}"


CELLS = [
    *(Cell(PLAIN, name) for name in ("sgd", "adamw", "muon")),
    *(Cell(GRU, name) for name in ("sgd", "adamw", "muon")),
    *(Cell(MLP, name) for name in ("sgd", "adamw", "muon")),
    Cell(CNN, "sgd"),
    Cell(TEXT, "adamw", (4, 16)),
]


def accuracy_of(learn):
    return learn.evaluate()["accuracy"]


def trained(cell, peak, seed, *, fits=1, **options):
    """A row: accuracy, None after an error; rescues of all fits; CPU seconds."""
    learn = cell.pair.learner(seed, cell.optimizer, **options)
    started, rescues, accuracy = time.process_time(), [], None
    try:
        for _ in range(fits):
            rescues += learn.fit_one_cycle(budget=UPDATES, lr_max=peak).rescues
        accuracy = accuracy_of(learn)
    except onecycle.errors.NonFiniteLoss:
        pass
    seconds = time.process_time() - started
    return {"peak": peak, "seed": seed, "accuracy": accuracy, "rescues": rescues, "seconds": round(seconds, 2)}


def best_peak(cell):
    """That of the grid, which is extended where its end is the best."""
    for row in rows("rescue"):
        if row["kind"] == "best" and row["cell"] == cell.name:
            return row["peak"]
    grid = [RECIPES[cell.optimizer].lr_max * m for m in GRID]
    measured = {peak: trained(cell, peak, 0, rescue=False)["accuracy"] or 0.0 for peak in grid}
    while (best := max(measured, key=measured.get)) in (min(measured), max(measured)) and len(measured) < 12:
        further = best / 2 if best == min(measured) else best * 2
        measured[further] = trained(cell, further, 0, rescue=False)["accuracy"] or 0.0
    keep("rescue", {"kind": "best", "cell": cell.name, "peak": best})
    return best


def peaks(cells):
    for cell in cells:
        best = best_peak(cell)
        for seed in SEEDS:
            keep("rescue", {"kind": "at best", "cell": cell.name, **trained(cell, best, seed, rescue=False)})
            for multiple in cell.multiples:
                for rescue in (False, True):
                    row = trained(cell, best * multiple, seed, rescue=rescue)
                    keep("rescue", {"kind": "at", "cell": cell.name, "multiple": multiple, "rescue": rescue, **row})


def healthy(cells):
    for cell in cells:
        best = best_peak(cell)
        for seed in SEEDS:
            for multiple, fits in ((1 / 4, 1), (1 / 2, 1), (1, 2)):
                row = trained(cell, best * multiple, seed, fits=fits)
                keep("rescue", {"kind": "healthy", "cell": cell.name, "multiple": multiple, "fits": fits, **row})


def cost(pairs=15):
    for cell, peak in ((Cell(PLAIN, "sgd"), 0.1), (Cell(MLP, "sgd"), 0.1), (Cell(CNN, "sgd"), 0.1)):
        trained(cell, peak, 0)
        for i in range(pairs):
            seconds = {}
            for rescue in (True, False) if i % 2 else (False, True):
                learn = cell.pair.learner(0, cell.optimizer, rescue=rescue)
                started = time.process_time()
                learn.fit_one_cycle(budget="1000 updates" if cell.pair is not CNN else "200 updates", lr_max=peak)
                seconds[rescue] = time.process_time() - started
            keep("rescue", {"kind": "cost", "cell": cell.name, "ratio": seconds[True] / seconds[False]})


def is_lost(row, cell, best):
    _, (_, targets), _ = cell.pair.splits()
    share = float(targets.flatten().bincount().max()) / targets.numel()
    return row["accuracy"] is None or row["accuracy"] < best - 0.75 * (best - share)


def in_table():
    every = rows("rescue")
    print("| net, data, optimizer | best peak | its accuracy | times it | lost | points off when rescued | within 2 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    total = within = 0
    for cell in CELLS:
        of_cell = [row for row in every if row["cell"] == cell.name]
        at_best = {row["seed"]: row["accuracy"] for row in of_cell if row["kind"] == "at best"}
        if not at_best:
            continue
        mean = statistics.fmean(at_best.values())
        for multiple in cell.multiples:
            at = [row for row in of_cell if row["kind"] == "at" and row["multiple"] == multiple]
            lost = [row["seed"] for row in at if not row["rescue"] and is_lost(row, cell, mean)]
            off = [mean - (row["accuracy"] or 0) for row in at if row["rescue"] and row["seed"] in lost]
            total, within = total + len(off), within + sum(gap <= NEAR for gap in off)
            peak = next(row["peak"] for row in of_cell if row["kind"] == "best")
            points = ", ".join(f"{100 * gap:.1f}" for gap in off) or "-"
            near = f"{sum(gap <= NEAR for gap in off)} of {len(off)}" if off else "-"
            print(f"| {cell.name} | {peak:.3g} | {100 * mean:.1f} | {multiple} | {len(lost)} of {len(at) // 2} | "
                  f"{points} | {near} |")  # fmt: skip
    print(f"\nLost runs that end within 2 points of the best when they are rescued: {within} of {total}.")
    rest = [row for row in every if row["kind"] == "healthy"]
    print(f"Healthy runs that were rescued: {sum(bool(row['rescues']) for row in rest)} of {len(rest)}.")
    for name in dict.fromkeys(row["cell"] for row in every if row["kind"] == "cost"):
        ratios = sorted(row["ratio"] for row in every if row["kind"] == "cost" and row["cell"] == name)
        print(f"CPU time with over without, {name}: median {statistics.median(ratios):.4f}, from {ratios[0]:.3f} to "
              f"{ratios[-1]:.3f}, quartiles {ratios[len(ratios) // 4]:.3f} and {ratios[-len(ratios) // 4]:.3f}, "
              f"n = {len(ratios)}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *names = sys.argv[1:]
    chosen = [cell for cell in CELLS if not names or any(name in cell.name for name in names)]
    if what == "table":
        in_table()
    elif what == "cost":
        cost()
    else:
        {"peaks": peaks, "healthy": healthy}[what](chosen)

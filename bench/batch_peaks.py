"""How does the best peak of one cycle move with the batch size, at equal epochs?

    python bench/batch_peaks.py run [--half design] [--part 0/2]    a quarter of an hour
    python bench/batch_peaks.py table [--half design]               best peaks, and what rules of scaling lose

Pairs of search_pairs.py at batches of 64 to 1,024. A grid with ratio 2, climbed until the best is inside it; two seeds;
judged on validation data, by the test metric.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys

import torch
from pairs import keep, rows
from search_pairs import DESIGN, JUDGE
from shapes import climb

import onecycle
from onecycle.optim.build import RECIPES

HALVES = {
    "design": (
        "wide mlp, table of 8 classes", "thin resnet, cifar10 16x16", "mlp, price of diamonds",
        "residual mlp, table of 3 classes with noise",
    ),
    "judge": (
        "1-D cnn with batch norms, shapes of waves", "SELU mlp, table of 12 classes with noise",
        "mixer, fashion-mnist 14x14", "SiLU mlp, Friedman's third function",
    ),
}  # fmt: skip
OPTIMIZERS, BATCHES, EPOCHS, SEEDS = ("sgd", "adamw", "muon"), (64, 256, 1024), 6, (0, 1)
LOST = 25.0  # what a run counts for, in points or percent, of whose neighbours on the grid one was lost
POWERS = {"gradient": (0.0, 0.5, 0.75, 1.0), "others": (0.0, 0.25, 0.5, 0.75)}


def pairs(half):
    return [pair for name in HALVES[half] for pair in (*DESIGN, *JUDGE) if pair.name == name]


def train(pair, optimizer, batch, peak, seed):
    """Validation and test metric; None where the run was lost."""
    learn = pair.learner(seed, optimizer, batch_size=batch, rescue=False)
    valid, learn.valid = learn.valid, None
    try:
        learn.fit(EPOCHS, "one_cycle", peak)
    except onecycle.errors.NonFiniteLoss:
        return None
    return learn.evaluate(valid)[pair.measure], pair.test(learn)


class Cell:
    """One pair under one optimizer and batch size; what was run is read from the file."""

    def __init__(self, pair, optimizer, batch):
        self.pair, self.optimizer, self.batch = pair, optimizer, batch
        self.key = {"pair": pair.name, "optimizer": optimizer, "batch": batch}
        mine = [r for r in rows("batch_peaks") if all(r[k] == v for k, v in self.key.items())]
        self.done = {(r["power"], r["seed"]): r["measured"] for r in mine}

    def measure(self, power, seed):
        if (power, seed) not in self.done:
            peak = RECIPES[self.optimizer].lr_max * 2.0**power
            self.done[power, seed] = train(self.pair, self.optimizer, self.batch, peak, seed)
            keep("batch_peaks", {**self.key, "power": power, "seed": seed, "measured": self.done[power, seed]})
        return self.done[power, seed]

    def values(self, which):
        """By power of 2 about the default: the mean metric, higher is better; validation is 0, test 1."""
        sign = -1 if self.pair.measure == "loss" else 1
        by = {}
        for (power, _), measured in self.done.items():
            by.setdefault(power, []).append(-math.inf if measured is None else sign * measured[which])
        return {p: statistics.mean(v) for p, v in sorted(by.items()) if len(v) == len(SEEDS)}

    def climb(self):
        """The best power of 2 about the default."""

        def score(factor):
            power = round(math.log2(factor))
            for seed in SEEDS:
                self.measure(power, seed)
            return self.values(0)[power]

        return round(math.log2(climb(score, 2.0 ** round(math.log2(self.batch / 64) / 2))))


def main_run(half, part):
    index, parts = map(int, part.split("/"))
    cells = itertools.product(pairs(half), OPTIMIZERS, BATCHES)
    for pair, optimizer, batch in itertools.islice(cells, index, None, parts):
        cell = Cell(pair, optimizer, batch)
        best = cell.climb()
        print(pair.name, optimizer, batch, best, f"{cell.values(1)[best]:.4g}", flush=True)


def main_table(half):
    """The best power of 2 about the default for each cell; then the mean regret of lr ~ (batch / 64) ** a."""
    regrets = {}
    print("| pair | optimizer | " + " | ".join(f"batch {b:,}" for b in BATCHES) + " |")
    print("|" + " --- |" * (2 + len(BATCHES)))
    for pair, optimizer in itertools.product(pairs(half), OPTIMIZERS):
        shown = []
        for batch in BATCHES:
            cell = Cell(pair, optimizer, batch)
            chosen, tests = cell.values(0), cell.values(1)
            if len(tests) < 3:
                shown.append("")
                continue
            best = max(chosen, key=chosen.__getitem__)
            shown.append(f"{best:+d} ({abs(tests[best]):.4g})")
            for a in POWERS["gradient" if optimizer == "sgd" else "others"]:
                lost = regret(pair, tests, tests[best], a * math.log2(batch / 64))
                regrets.setdefault((optimizer, a), []).append(lost)
        print(f"| {pair.name} | {optimizer} | {' | '.join(shown)} |")
    print("\n| optimizer | a | mean regret | worst | cells |\n" + "|" + " --- |" * 5)
    for (optimizer, a), lost in sorted(regrets.items()):
        print(f"| {optimizer} | {a:g} | {statistics.mean(lost):.2f} | {max(lost):.2f} | {len(lost)} |")


def regret(pair, known, best, power):
    """Points of accuracy or percent of the loss, at most `LOST`: in lines between peaks, beyond them as at the last."""
    at = min(max(power, min(known)), max(known))
    below, above = max(p for p in known if p <= at), min(p for p in known if p >= at)
    if -math.inf in (known[below], known[above]):
        return LOST
    share = 0 if above == below else (at - below) / (above - below)
    value = known[below] + share * (known[above] - known[below])
    return min(LOST, 100 * (best - value) / abs(best) if pair.measure == "loss" else best - value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--half", default="design", choices=HALVES)
    parser.add_argument("--part", default="0/1", help="which share of the cells this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit(main_run(arguments.half, arguments.part) if arguments.what == "run" else main_table(arguments.half))

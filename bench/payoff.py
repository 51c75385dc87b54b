"""From how many updates on does one cycle pay against tuned standard schedules? small-cnn on all of CIFAR-10.

    python bench/payoff.py run      held-out loss of each policy at each length, over a grid of peaks (half an hour)
    python bench/payoff.py table    the best of each, and the speed-up S

Settings as in onecycle reproduce accuracy --size cpu: SGD, batches of 512, weight decay 1e-4. Peaks are powers of 3
about SGD's default; S is what the best of constant and cosine needs for one cycle's loss, over its updates, in a line
over the logarithm of the updates.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys

import torch
from pairs import keep, rows

import onecycle
from onecycle.optim.build import RECIPES

LENGTHS, POWERS, SEEDS = (27, 54, 109, 218, 435, 870), (-1, 0, 1, 2), (0, 1)
STANDARD = ("constant", "cosine")


def train(data, policy, updates, power, seed):
    """Held-out loss and accuracy; None where the run was lost."""
    model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=10, seed=seed)
    options = {"batch_size": 512, "weight_decay": 1e-4, "smoothing": 0.0, "rescue": False, "verbose": False}
    learn = onecycle.Learner(model, data, optimizer="sgd", seed=seed, **options)
    learn.valid = None
    try:
        learn.fit(f"{updates} updates", policy, RECIPES["sgd"].lr_max * 3.0**power)
    except onecycle.errors.NonFiniteLoss:
        return None
    return learn.evaluate(data.valid)


def main_run():
    data, done = onecycle.load("cifar10"), {key(row) for row in rows("payoff")}
    for updates, seed, policy, power in itertools.product(LENGTHS, SEEDS, ("one_cycle", *STANDARD), POWERS):
        row = {"policy": policy, "updates": updates, "power": power, "seed": seed}
        if key(row) not in done and not (policy == "one_cycle" and updates == LENGTHS[-1]):
            keep("payoff", {**row, "measured": train(data, policy, updates, power, seed)})
            print(row, flush=True)


def key(row):
    return row["policy"], row["updates"], row["power"], row["seed"]


def best(policy, updates):
    """The lowest mean loss over the peaks, and that peak's power; None where nothing has run."""
    by = {}
    for row in rows("payoff"):
        if (row["policy"], row["updates"]) == (policy, updates):
            by.setdefault(row["power"], []).append(row["measured"]["loss"] if row["measured"] else math.inf)
    means = {statistics.mean(losses): power for power, losses in by.items()}
    return (min(means), means[min(means)]) if means else None


def main_table():
    print("| updates | one cycle | constant | cosine | S |\n" + "|" + " --- |" * 5)
    for updates in LENGTHS:
        cells = [best(policy, updates) for policy in ("one_cycle", *STANDARD)]
        texts = ["" if cell is None else f"{cell[0]:.3f} (3^{cell[1]})" for cell in cells]
        print(f"| {updates} | {' | '.join(texts)} | {speed_up(updates)} |")


def speed_up(updates):
    """S in words, at one and two lengths of the standard schedules."""
    ours = best("one_cycle", updates)
    now, later = ([b for p in STANDARD if (b := best(p, n))] for n in (updates, 2 * updates))
    if not (ours and now and later):
        return ""
    target, near, far = ours[0], min(now)[0], min(*now, *later)[0]
    if near <= target or far > target:
        return "at most 1" if near <= target else "more than 2"
    return f"{2 ** ((near - target) / (near - far)):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit(main_run() if arguments.what == "run" else main_table())

"""How good is the suggested peak? Range tests against the best of a grid of peaks, each trained to the end.

    python bench/range_test.py truth [--part 0/2]     the grid: every peak, trained (hours)
    python bench/range_test.py suggest [--part 0/2]   range tests, ours and the rules of other tools
    python bench/range_test.py table                  spread and regret

Results go to bench/out; what is there is not run again. Set ONECYCLE_DATA to a folder with cifar10.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import rivals
import torch
from pairs import PEAK_PAIRS

import onecycle
from onecycle.steps import update

OUT = Path(__file__).parent / "out"
OPTIMIZERS, EPOCHS, SEEDS, TEST_SEEDS = ("sgd", "adamw", "muon"), (2, 8), (0, 1, 2), (100, 101, 102, 103, 104)
MIDDLE = {"sgd": 0.2, "adamw": 0.008, "muon": 0.04}
COLUMNS = ("pair", "optimizer", "epochs", "peak", "seed", "test")
NEAR = 0.02  # peaks that the first seed has this close to the best are measured with all seeds


def rows(name):
    path = OUT / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(name, row):
    OUT.mkdir(exist_ok=True)
    with (OUT / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def cells(part="0/1"):
    index, parts = map(int, part.split("/"))
    every = itertools.product(OPTIMIZERS, PEAK_PAIRS)
    return itertools.islice(every, index, None, parts)


def train(pair, optimizer, epochs, peak, seed):
    """Test accuracy of one training; 0 where it diverged."""
    learn = pair.learner(seed, optimizer)
    learn.valid = None
    try:
        learn.fit_one_cycle(epochs, peak)
    except onecycle.NonFiniteLoss:
        return 0.0
    return learn.evaluate(pair.splits()[2])["accuracy"]


def main_truth(part):
    for optimizer, pair in cells(part):
        for epochs in EPOCHS:
            done = {(r["pair"], r["optimizer"], r["epochs"], r["peak"], r["seed"]): r["test"] for r in rows("truth")}

            def measure(peak, seed, cell=(pair.name, optimizer, epochs), done=done, pair=pair):
                if (*cell, peak, seed) not in done:
                    accuracy = train(pair, cell[1], cell[2], peak, seed)
                    keep("truth", dict(zip(COLUMNS, (*cell, peak, seed, accuracy), strict=True)))
                    done[(*cell, peak, seed)] = accuracy
                return done[(*cell, peak, seed)]

            grid = widen({MIDDLE[optimizer] * 2.0**i for i in range(-2, 3)}, measure)
            best = max(measure(peak, 0) for peak in grid)
            near = [peak for peak in grid if measure(peak, 0) >= best - NEAR]
            for seed, peak in itertools.product(SEEDS[1:], near):
                measure(peak, seed)
            means = {peak: round(100 * statistics.mean(measure(peak, seed) for seed in SEEDS), 2) for peak in near}
            print(pair.name, optimizer, epochs, means, flush=True)


def main_suggest(part):
    """Range tests at their defaults, with fresh weights, and the sweeps that other rules read; the rules come later."""
    done = {(r["pair"], r["optimizer"], r["seed"]) for r in rows("curves")}
    for seed, (optimizer, pair) in itertools.product(TEST_SEEDS, list(cells(part))):
        if (pair.name, optimizer, seed) in done:
            continue
        test = pair.learner(seed, optimizer).range_test(build=pair.build)
        row = {"pair": pair.name, "optimizer": optimizer, "seed": seed, "cost": test.cost, "test": test.to_dict()}
        started = time.perf_counter()
        row["fastai"] = rival_sweep(pair, optimizer, seed, rivals.FASTAI)
        row["torch-lr-finder"] = rival_sweep(pair, optimizer, seed, rivals.TORCH_LR_FINDER, validated=True)
        row["Lightning"] = rival_sweep(pair, optimizer, seed, rivals.LIGHTNING)
        keep("curves", row | {"rival_seconds": round(time.perf_counter() - started, 2)})
        print(pair.name, optimizer, seed, test.line(), test.cost, flush=True)


def rival_sweep(pair, optimizer, seed, spec, validated=False):
    """Rates, training losses, and held-out losses on 500 samples (a whole validation set would take hours)."""
    learn = pair.learner(seed, optimizer)
    stream = itertools.chain.from_iterable(learn.train.epoch(e) for e in itertools.count())
    held_out = [tuple(part[:500] for part in pair.splits()[1])]
    policy = onecycle.Policy({"lr": lambda lr: lr})

    def step(lr):
        policy.write(learn.optimizer, lr)
        if not learn.model.training:
            learn.model.train()
        return update(learn.state, [next(stream)])[0].item()

    def validate():
        return onecycle.evaluate(learn.model, held_out, learn.state.loss)["loss"]

    return rivals.record(step, *spec, validate if validated else None)


def widen(grid, measure):
    """The grid, ratio 2, extended until the best has two neighbours on both sides, or a diverged one."""
    while True:
        ordered = sorted(grid)
        best = max(ordered, key=lambda peak: measure(peak, 0))
        low, high = [p for p in ordered if p < best], [p for p in ordered if p > best]
        more = set()
        if len(low) < 2:
            more.add(ordered[0] / 2)
        if len(high) < 2 and measure(ordered[-1], 0) > 0.5 * measure(best, 0):
            more.add(ordered[-1] * 2)
        if not more:
            return ordered
        grid = set(grid) | more


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "suggest", "table"))
    parser.add_argument("--part", default="0/1", help="which share of the cells this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "truth":
        sys.exit(main_truth(arguments.part))
    if arguments.what == "suggest":
        sys.exit(main_suggest(arguments.part))

"""Does what short runs say of one cycle hold in whole ones: does it pay against a tuned standard schedule?

    python bench/payoff.py truth [--part 0/2]     tuned standard schedules at one and two lengths (an hour)
    python bench/payoff.py pilots [--part 0/2]    short runs of all policies, at lengths and peaks on a grid
    python bench/payoff.py table                  S in whole runs beside what pilots of each length say

Cases: the six pairs of cooldowns.py with SGD, 8 epochs, whose runs of one_cycle it takes from there, those of
onecycle reproduce at the size cpu, and the cases of verdict.py, whose S stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from functools import cache

import cooldowns
import torch
from cooldowns import SEEDS, STANDARD, Cell
from pairs import CASES, keep, rows

import onecycle
from onecycle.optim.build import RECIPES
from onecycle.schedules import presets

EPOCHS, TIMES = 8, (1, 2)
# Of the pilots: lengths as shares of the run, peaks as powers of 3 about the optimizer's default, and repeats.
LENGTHS, POWERS, REPEATS = (1 / 16, 1 / 8, 1 / 4), (-1, 0, 1, 2), 2
FEWEST = 28  # updates of a pilot
# The cases of onecycle reproduce accuracy and limited-data at the size cpu: images, epochs, batch size.
WHOLE = ((45_000, 5, 512), (4500, 37.6471, 256))
JUDGED = 1000  # held-out samples
POLICIES = {"one_cycle": presets.one_cycle, "constant": presets.constant, "cosine": presets.cosine}


def cases():
    """Name -> (learner by seed, the measure, updates of a run, the optimizer)."""
    found = {}
    for pair in cooldowns.PAIRS:
        found[pair.name] = (lambda seed, pair=pair: pair.learner(seed, "sgd", rescue=False)), EPOCHS, "sgd"
    for case in CASES:

        def learner(seed, case=case):
            return case.pair.learner(seed, case.optimizer, rescue=False, **case.settings)

        found[case.name] = learner, case.epochs, case.optimizer
    for images, epochs, batch in WHOLE:

        def learner(seed, images=images, batch=batch):
            data = cifar(images)
            model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=10, seed=seed)
            options = {"batch_size": batch, "weight_decay": 1e-4, "smoothing": 0.0, "rescue": False}
            return onecycle.Learner(model, data, optimizer="sgd", seed=seed, verbose=False, **options)

        found[f"small-cnn, {images:,} images of cifar10"] = learner, epochs, "sgd"
    return found


@cache
def cifar(images):
    return onecycle.load("cifar10", limit=images)


def main_truth(part):
    index, parts = map(int, part.split("/"))
    for pair in itertools.islice(cooldowns.PAIRS, index, None, parts):
        for times, policy in itertools.product(TIMES, ("one_cycle", *STANDARD)):
            if policy == "one_cycle" and times > 1:
                continue
            cell = Cell(pair, "sgd", times * EPOCHS, policy)
            peak = cell.best()
            tests = [cell.measure(peak, seed) for seed in SEEDS]
            shown = statistics.mean([t["0"][1] for t in tests if t] or [0])
            print(pair.name, policy, times * EPOCHS, peak, f"{shown:.4g}", flush=True)


def main_pilots(part, only):
    index, parts = map(int, part.split("/"))
    done = {(r["case"], r["policy"], r["length"], r["power"], r["seed"]) for r in rows("payoff")}
    for seed, (name, case) in itertools.product(range(REPEATS), itertools.islice(cases().items(), index, None, parts)):
        if only in name:
            learner, epochs, optimizer = case
            learn = learner(seed)
            valid, learn.valid = learn.valid, None
            updates = round(epochs * len(learn.train))
            if updates * LENGTHS[0] < FEWEST:
                continue
            for length, policy, power in itertools.product(LENGTHS, POLICIES, POWERS):
                if (name, policy, length, power, seed) in done or (policy == "one_cycle" and length > 1 / 8):
                    continue
                peak = RECIPES[optimizer].lr_max * 3.0**power
                row = {"case": name, "policy": policy, "length": length, "power": power, "seed": seed}
                row |= {"updates": round(length * updates), **run(learner(seed), valid, policy, peak, row, updates)}
                keep("payoff", row)
        print(name, flush=True)


def run(learn, valid, policy, peak, row, updates):
    """Held-out loss and accuracy of a pilot; None where it was lost."""
    learn.valid = None
    try:
        learn.fit(f"{max(2, round(row['length'] * updates))} updates", lambda n: POLICIES[policy](peak, n))
    except onecycle.errors.NonFiniteLoss:
        return {"loss": None}
    measured = onecycle.evaluate(learn.model, held_out(valid), learn.state.loss)
    return {key: measured[key] for key in ("loss", "accuracy") if key in measured}


def held_out(valid):
    """The first batches, of so many samples."""
    samples = 0
    for batch in valid.epoch(0):
        yield batch
        samples += len(batch[1])
        if samples >= JUDGED:
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "pilots", "table"))
    parser.add_argument("--part", default="0/1", help="which share of the cases this process takes, as 0/2")
    parser.add_argument("--only", default="", help="pilots of the cases with this in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "truth":
        sys.exit(main_truth(arguments.part))
    sys.exit(main_pilots(arguments.part, arguments.only))

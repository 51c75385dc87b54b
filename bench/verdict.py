"""Does the verdict of a range test tell where super-convergence pays? The truth, measured; then the verdict against it.

    python bench/verdict.py truth [--part 0/2]     1cycle and three tuned standard schedules on every case (hours)
    python bench/verdict.py curves [--part 0/2]    the range tests
    python bench/verdict.py table                  S with intervals, confusion, AUC

S is the number of epochs that the best tuned standard schedule (constant, step, cosine, each with its own grid of
learning rates at each budget, chosen on validation data) needs for the test accuracy that 1cycle reaches in a run of
4 or 16 epochs, over those epochs. Results go to bench/out; what is there is not run again. Set ONECYCLE_DATA to a
folder with cifar10.
"""

import argparse
import itertools
import statistics
import sys

import torch
from pairs import CASES, keep, rows
from scipy import stats
from shapes import climb

import onecycle
from onecycle.experiments.statistics import speed_up
from onecycle.range_test.verdict import judge
from onecycle.records.curve import Curve

# Of the standard schedules, in lengths of the 1cycle run; the last only where they have not got there before.
BUDGETS, ENOUGH = (1, 1.5, 2), 1.5
STANDARD = ("constant", "step", "cosine")
TUNING_SEEDS, SEEDS = (0,), (0, 1, 2, 3)
LENGTHS, TEST_SEEDS = (120, 400), (100, 101)
MIDDLE = {"sgd": 0.1, "adamw": 0.004, "muon": 0.03}


def train(case, preset, epochs, peak, seed):
    """Accuracy on the data that choose and on the test data, of one training; zeros where it diverged."""
    learn = case.pair.learner(seed, case.optimizer, **case.settings)
    valid, learn.valid = learn.valid, None
    try:
        learn.fit(epochs, preset, peak)
    except onecycle.errors.NonFiniteLoss:
        return 0.0, 0.0
    test = tuple(part[:4000] for part in case.pair.splits()[2])
    return learn.evaluate(valid)["accuracy"], learn.evaluate(test)["accuracy"]


class Cell:
    """One case under one schedule and budget; what was run before is read from the file."""

    def __init__(self, case, preset, epochs):
        self.case, self.key = case, (case.name, preset, epochs)
        self.done = {
            (r["peak"], r["seed"]): r for r in rows("verdict") if (r["case"], r["preset"], r["epochs"]) == self.key
        }

    def measure(self, peak, seed):
        if (peak, seed) not in self.done:
            valid, test = train(self.case, *self.key[1:], peak, seed)
            row = dict(zip(("case", "preset", "epochs"), self.key, strict=True))
            self.done[peak, seed] = row | {"peak": peak, "seed": seed, "valid": valid, "test": test}
            keep("verdict", self.done[peak, seed])
        return self.done[peak, seed]

    def tune(self, middle):
        """The best peak of a grid with ratio 2, extended until it has a neighbour on both sides; all seeds there."""

        def score(peak):
            return statistics.mean(self.measure(peak, seed)["valid"] for seed in TUNING_SEEDS)

        middle = climb(score, middle)
        return middle, [self.measure(middle, seed)["test"] for seed in SEEDS]


def main_truth(part):
    index, parts = map(int, part.split("/"))
    for case in itertools.islice(CASES, index, None, parts):
        middle, goal = Cell(case, "one_cycle", case.epochs).tune(MIDDLE[case.optimizer])
        print(case.name, "one_cycle", case.epochs, middle, f"{100 * statistics.mean(goal):.2f}", flush=True)
        middles = dict.fromkeys(STANDARD, middle / 2)
        reached = False
        for times in BUDGETS:
            if times > ENOUGH and reached:
                break
            epochs = round(times * case.epochs)
            for preset in STANDARD:
                middles[preset], tests = Cell(case, preset, epochs).tune(middles[preset])
                reached |= statistics.mean(tests) >= statistics.mean(goal)
                print("   ", preset, epochs, middles[preset], f"{100 * statistics.mean(tests):.2f}", flush=True)


def main_curves(part):
    """Range tests of every case, short ones and long ones."""
    index, parts = map(int, part.split("/"))
    done = {(r["case"], r["updates"], r["seed"]) for r in rows("verdict-curves")}
    for updates, seed in itertools.product(LENGTHS, TEST_SEEDS):
        for case in itertools.islice(CASES, index, None, parts):
            if (case.name, updates, seed) in done:
                continue
            learn = case.pair.learner(seed, case.optimizer, **case.settings)
            test = learn.range_test(build=case.pair.build, updates=updates, epochs=case.epochs)
            row = {"case": case.name, "updates": updates, "seed": seed, "lr_max": test.lr_max, "reason": test.reason}
            keep("verdict-curves", row | {"cost": test.cost, "curve": test.curve.to_dict()})
            print(case.name, updates, seed, test.line(), flush=True)


def tuned(case, preset, epochs):
    """Test accuracy by seed at the peak that the tuning seeds' validation data choose; None where not all has run."""
    cell = Cell(case, preset, epochs)
    peaks = {}
    for (peak, seed), row in cell.done.items():
        peaks.setdefault(peak, {})[seed] = row
    full = {p: by for p, by in peaks.items() if set(SEEDS) <= set(by)}
    if not full:
        return None
    best = max(full, key=lambda p: statistics.mean(full[p][s]["valid"] for s in TUNING_SEEDS))
    return {seed: row["test"] for seed, row in full[best].items()}


def truths():
    """Case -> its speed-up, for the cases that were run to their end."""
    found = {}
    for case in CASES:
        ours = tuned(case, "one_cycle", case.epochs)
        budgets = [round(times * case.epochs) for times in BUDGETS]
        standard = {p: {b: by for b in budgets if (by := tuned(case, p, b))} for p in STANDARD}
        if ours and all(round(ENOUGH * case.epochs) in cells for cells in standard.values()):
            found[case.name] = speed_up({case.epochs: ours}, standard)[case.epochs]
    return found


def main_table():
    found = truths()
    halves = {case.name: "tune" if i % 2 == 0 else "test" for i, case in enumerate(CASES)}
    print("| case | 1cycle | S [95 %] | best standard | score at 120 and 400 updates | answers |")
    print("|" + " --- |" * 6)
    answers = []
    for name, s in found.items():
        scores, said = {}, []
        for r in rows("verdict-curves"):
            if r["case"] == name:
                verdict = judge(Curve.from_dict(r["curve"]))
                scores.setdefault(r["updates"], []).append(verdict.score)
                said.append(f"{verdict.answer}")
                answers.append((name, halves[name], r["updates"], verdict, possible(s), s))
        shown = ", ".join(f"{statistics.mean(v):.2f}" for _, v in sorted(scores.items()))
        print(f"| {name} | {s.target} | {words(s)} | {s.policy} | {shown} | {', '.join(said)} |")
    print(f"\n{len(found)} cases, n = {len(SEEDS)} seeds; possible: {sum(map(possible, found.values()))}")
    for half, updates in itertools.product(("tune", "test"), LENGTHS):
        part = [a for a in answers if a[1] == half and a[2] == updates]
        counts = {}
        for _, _, _, verdict, truth, _ in part:
            counts[verdict.answer, truth] = counts.get((verdict.answer, truth), 0) + 1
        said = [f"said {a}, is {'possible' if t else 'not'}: {n}" for (a, t), n in sorted(counts.items())]
        print(f"{half} half, {updates} updates: {'; '.join(said)}")
    for updates in LENGTHS:
        part = [a for a in answers if a[2] == updates and a[5].s is not None]
        rank = stats.spearmanr([a[3].score for a in part], [min(2.0, a[5].s) for a in part])
        text = f"{rank.statistic:.2f} (p = {rank.pvalue:.2f}, {len(part)} tests)"
        print(f"{updates} updates: rank correlation of score and S {text}")


def possible(s):
    """S of at least 1.5 with its interval above 1."""
    return s.s is not None and s.s >= 1.5 and s.low is not None and s.low > 1 and not s.at_most


def words(s):
    sign = "more than " if s.more_than else "at most " if s.at_most else ""
    low, high = ("" if end is None else f"{end:.2f}" for end in (s.low, s.high))
    return f"{sign}{s.s:.2f} [{low or '...'}, {high or '...'}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "curves", "table"))
    parser.add_argument("--part", default="0/1", help="which share of the cases this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "truth":
        sys.exit(main_truth(arguments.part))
    if arguments.what == "curves":
        sys.exit(main_curves(arguments.part))
    main_table()

"""How good is the suggested peak? Range tests against the best of a grid of peaks, each trained to the end.

    python bench/range_test.py truth [--part 0/2]     the grid: every peak, trained (hours)
    python bench/range_test.py suggest [--part 0/2]   range tests, ours and the rules of other tools
    python bench/range_test.py cost                   its time beside that of a training
    python bench/range_test.py table                  spread and regret
    python bench/range_test.py judged                 the same by three lengths of the test, on made pairs that no
                                                      constant was fitted to (a quarter of an hour)

Results go to bench/out; what is there is not run again. Set ONECYCLE_DATA to a folder with cifar10, and ONECYCLE_TAG to
keep the judged tests of two versions apart.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import time

import numpy as np
import rivals
import torch
from judged_pairs import JUDGED_PAIRS
from pairs import PEAK_PAIRS, keep, rows

import onecycle
from onecycle.optim.groups import write
from onecycle.range_test import peak as suggestion
from onecycle.range_test.peak import suggest
from onecycle.records.curve import Curve
from onecycle.training.step import update

OPTIMIZERS, EPOCHS, SEEDS, TEST_SEEDS = ("sgd", "adamw", "muon"), (2, 8), (0, 1, 2), (100, 101, 102, 103, 104)
MIDDLE = {"sgd": 0.2, "adamw": 0.008, "muon": 0.04}
KINDS = {"sgd": "gradient", "adamw": "adaptive", "muon": "orthogonal"}
COLUMNS = ("pair", "optimizer", "epochs", "peak", "seed", "test")
NEAR = 0.02  # peaks that the first seed has this close to the best are measured with all seeds


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
    except onecycle.errors.NonFiniteLoss:
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
        write(policy, learn.optimizer, lr)
        if not learn.model.training:
            learn.model.train()
        return update(learn.state, [next(stream)]).loss.item()

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


def main_cost():
    """Seconds of a range test over those of 10 epochs, one of which is trained right after it; n = 5 in turn."""
    for pair in PEAK_PAIRS[:3]:
        shares = []
        for seed in range(6):
            learn = pair.learner(seed, "sgd")
            seconds = learn.range_test(build=pair.build).cost["seconds"]
            learn.valid = None
            shares.append(seconds / (10 * learn.fit_one_cycle(1, 0.02).seconds))
        shares = sorted(shares[1:])  # the first one warms up
        print(f"{pair.name}: {statistics.median(shares):.1%} ({shares[0]:.1%} to {shares[-1]:.1%}, n = {len(shares)})")


class Truth:
    """Regret over the peak, in points of accuracy, for each cell (pair, optimizer, epochs)."""

    def __init__(self):
        cells = {}
        for r in rows("truth"):
            cells.setdefault((r["pair"], r["optimizer"], r["epochs"]), {}).setdefault(r["peak"], {})[r["seed"]] = r[
                "test"
            ]
        self.cells = {cell: self._regrets(peaks) for cell, peaks in cells.items()}

    def _regrets(self, peaks):
        """Peaks with one seed are as far below the best as that seed has them."""
        full = {p: 100 * statistics.mean(v.values()) for p, v in peaks.items() if len(v) == len(SEEDS)}
        if not full:
            return None
        shift = statistics.mean(full[p] - 100 * peaks[p][0] for p in full)
        means = {p: full.get(p, 100 * v[0] + shift) for p, v in peaks.items()}
        grid = sorted(means)
        return np.log10(grid), max(means.values()) - np.array([means[p] for p in grid])

    def regret(self, cell, peak):
        """By straight lines over the logarithm; beyond the grid that of its end, which flatters."""
        return float(np.interp(math.log10(peak), *self.cells[cell]))


def ours(row, epochs):
    test = row["test"]
    kind = KINDS[row["optimizer"]]
    return suggest(Curve.from_dict(test["curve"]), epochs=epochs, kind=kind, batch_norm=test["batch_norm"]).lr_max


def theirs(name):
    rival = rivals.RIVALS[name]
    sweep = "torch-lr-finder" if name.startswith("torch") else name.split()[0]
    return lambda row, epochs: rival.suggest(row[sweep][0], row[sweep][2 if rival.validated else 1])


def main_table():
    truth, curves = Truth(), rows("curves")
    methods = {"onecycle": ours, **{name: theirs(name) for name in rivals.RIVALS}}
    print("| rule | cells | spread, decades: median, largest | regret, points: mean, median of cells, worst | none |")
    print("|" + " --- |" * 5)
    for optimizer in (None, *OPTIMIZERS):
        for name, rule in methods.items():
            found = judged(truth, [r for r in curves if optimizer in (None, r["optimizer"])], rule)
            if found:
                print(line(name + (f", {optimizer}" if optimizer else ""), found))
        print("|" + " |" * 5)
    print("\n| pair | optimizer | epochs | best | within .3 points | suggested | spread | mean regret | worst |")
    print("|" + " --- |" * 9)
    for (pair, optimizer, epochs), (peaks, spread, regrets, _) in judged(truth, curves, ours).items():
        grid, lost = truth.cells[pair, optimizer, epochs]
        good = [10**x for x, r in zip(grid, lost, strict=True) if r <= 0.3]
        best = 10 ** grid[int(lost.argmin())]
        print(
            f"| {pair} | {optimizer} | {epochs} | {best:.2g} | {min(good):.2g} to {max(good):.2g} | "
            f"{statistics.median(peaks):.2g} | {spread:.2f} | {statistics.mean(regrets):.2f} | {max(regrets):.2f} |"
        )
    print("\nThe rule's constants fitted without the pair that they are judged on:", left_out(truth, curves))
    shares = [r["cost"]["share"] for r in curves]
    print(f"Updates as a share of 10 epochs: {min(shares):.1%} to {max(shares):.1%}, n = {len(shares)} tests")


def judged(truth, curves, rule):
    """(pair, optimizer, epochs) -> (suggestions, their robust deviation in decades, regrets, how many had none)."""
    result = {}
    for cell in truth.cells:
        tests = [r for r in curves if (r["pair"], r["optimizer"]) == cell[:2]]
        if truth.cells[cell] is None or not tests:
            continue
        peaks = [rule(r, cell[2]) for r in tests]
        known = [p for p in peaks if p]
        if known:
            logs = np.log10(known)
            spread = 1.4826 * float(np.median(abs(logs - np.median(logs))))
            result[cell] = known, spread, [truth.regret(cell, p) for p in known], len(peaks) - len(known)
    return result


def line(name, found):
    spreads = [spread for _, spread, _, _ in found.values()]
    regrets = [r for _, _, many, _ in found.values() for r in many]
    means = [statistics.mean(many) for _, _, many, _ in found.values()]
    none = sum(n for *_, n in found.values())
    spread = f"{statistics.median(spreads):.2f}, {max(spreads):.2f}"
    regret = f"{statistics.mean(regrets):.2f}, {statistics.median(means):.2f}, {max(regrets):.1f}"
    return f"| {name} | {len(found)} | {spread} | {regret} | {none} of {len(regrets) + none} |"


def left_out(truth, curves):
    """Mean and median regret where factor and exponents come from the other pairs alone, by a grid of both."""
    bases = []  # pair, kind, batch norm, epochs, cell, log of what the factor multiplies
    for cell, (_, _, _, _) in judged(truth, curves, ours).items():
        for r in curves:
            if (r["pair"], r["optimizer"]) == cell[:2] and (peak := ours(r, 4)):
                kind = KINDS[r["optimizer"]]
                base = math.log10(peak / suggestion.RULES[kind].factor)
                bases.append((cell[0], kind, r["test"]["batch_norm"], cell[2], cell, base))
    cells: dict = {}
    for pair in {b[0] for b in bases}:
        for kind in KINDS.values():
            others = [b for b in bases if b[0] != pair and b[1] == kind]
            if not others:
                continue
            factor, norm, plain = fitted(truth, others)
            for _, _, normed, epochs, cell, base in (b for b in bases if b[0] == pair and b[1] == kind):
                peak = 10 ** (base + factor + (norm if normed else plain) * math.log10(epochs / 4))
                cells.setdefault(cell, []).append(truth.regret(cell, peak))
    means = [statistics.mean(many) for many in cells.values()]
    return (
        f"mean regret {statistics.mean(means):.2f}, median of cells {statistics.median(means):.2f}, {len(means)} cells"
    )


def fitted(truth, bases):
    """The factor, as a logarithm, and the exponents with and without batch norms, of the least mean regret."""

    def cost(factor, power, normed):
        part = [b for b in bases if b[2] is normed]
        return sum(min(5, truth.regret(b[4], 10 ** (b[5] + factor + power * math.log10(b[3] / 4)))) for b in part)

    powers, best = np.arange(-0.5, 1.01, 0.1), None
    for factor in np.arange(-1.5, 1.51, 0.05):
        costs = [min((cost(factor, power, normed), power) for power in powers) for normed in (True, False)]
        total = costs[0][0] + costs[1][0]
        if best is None or total < best[0]:
            best = total, factor, costs[0][1], costs[1][1]
    return best[1:]


# Of the judged pairs: updates of a test, epochs of a training, and the share of what is learned that a good one loses.
LENGTHS, JUDGED_EPOCHS, JUDGED_SEEDS, GOOD = (64, 150, 400), 4, TEST_SEEDS[:3], 0.02
TAG = os.environ.get("ONECYCLE_TAG", "now")


def main_judged():
    scores = {}
    for optimizer, pair in itertools.product(OPTIMIZERS, JUDGED_PAIRS):
        scores[pair.name, optimizer] = judged_truth(pair, optimizer)
        judged_tests(pair, optimizer)
    print("| pair | optimizer | best, good | updates | suggested: median (none) | spread | to the best | off good |")
    print("|" + " --- |" * 8)
    every = {}
    for (pair, optimizer), peaks in scores.items():
        best = max(peaks, key=peaks.__getitem__)
        good = [p for p in peaks if peaks[p] >= peaks[best] - GOOD * (peaks[best] - min(peaks.values()))]
        for length in LENGTHS:
            cell = pair, optimizer, length
            tests = [r for r in rows(f"judged-{TAG}") if (r["pair"], r["optimizer"], r["length"]) == cell]
            tests = [r for r in tests if r["seed"] in JUDGED_SEEDS]
            logs = [math.log10(r["test"]["lr_max"]) for r in tests if r["test"]["lr_max"]]
            if not logs:
                print(f"| {pair} | {optimizer} | {best:.2g} | {length} | none of {len(tests)} |")
                continue
            spread = statistics.stdev(logs) if len(logs) > 1 else math.nan
            off = [max(x - math.log10(max(good)), math.log10(min(good)) - x, 0) for x in logs]
            to_best = [x - math.log10(best) for x in logs]
            every.setdefault((optimizer, length), []).append((spread, to_best, off, len(tests) - len(logs)))
            print(
                f"| {pair} | {optimizer} | {best:.2g}, {min(good):.2g} to {max(good):.2g} | {length} | "
                f"{10 ** statistics.median(logs):.2g} ({len(tests) - len(logs)}) | {spread:.2f} | "
                f"{10 ** statistics.median(to_best):.2f} | {statistics.mean(off):.2f} |"
            )
    print("\n| optimizer | updates | cells | spread: median, largest | to the best: mean | off it | off good | none |")
    print("|" + " --- |" * 8)
    for (optimizer, length), cells in every.items():
        spreads = [c[0] for c in cells]
        to_best, off = ([x for c in cells for x in c[i]] for i in (1, 2))
        print(
            f"| {optimizer} | {length} | {len(cells)} | {statistics.median(spreads):.2f}, {max(spreads):.2f} | "
            f"{10 ** statistics.mean(to_best):.2f} | {statistics.mean(map(abs, to_best)):.2f} | "
            f"{statistics.mean(off):.2f} | {sum(c[3] for c in cells)} of {len(to_best) + sum(c[3] for c in cells)} |"
        )


def judged_truth(pair, optimizer):
    """Score over the peak: accuracy, or less the loss of a regression, in the mean over two seeds."""
    done = {
        (r["peak"], r["seed"]): r["score"]
        for r in rows("judged-truth")
        if (r["pair"], r["optimizer"]) == (pair.name, optimizer)
    }

    def measure(peak, seed):
        if (peak, seed) not in done:
            learn = pair.learner(seed, optimizer)
            learn.valid = None
            before = learn.evaluate(pair.splits()[2])
            try:
                learn.fit_one_cycle(JUDGED_EPOCHS, peak)
                score = learn.evaluate(pair.splits()[2])
            except onecycle.errors.NonFiniteLoss:
                score = before
            name, sign = ("accuracy", 1) if "accuracy" in before else ("loss", -1)
            done[peak, seed] = sign * score[name] if math.isfinite(score[name]) else sign * before[name]
            done[peak, seed] = max(done[peak, seed], sign * before[name])
            row = {"pair": pair.name, "optimizer": optimizer, "peak": peak, "seed": seed, "score": done[peak, seed]}
            keep("judged-truth", row)
        return done[peak, seed]

    grid = {MIDDLE[optimizer] * 2.0**i for i in range(-3, 4)}
    while True:
        ordered = sorted(grid)
        means = {p: statistics.mean(measure(p, seed) for seed in SEEDS[:2]) for p in ordered}
        at = ordered.index(max(means, key=means.__getitem__))
        more = {ordered[0] / 2} if at < 2 else {ordered[-1] * 2} if at > len(ordered) - 3 else set()
        if not more:
            return means
        grid |= more


def judged_tests(pair, optimizer):
    done = {(r["pair"], r["optimizer"], r["length"], r["seed"]) for r in rows(f"judged-{TAG}")}
    for length, seed in itertools.product(LENGTHS, JUDGED_SEEDS):
        if (pair.name, optimizer, length, seed) not in done:
            test = pair.learner(seed, optimizer).range_test(build=pair.build, updates=length, epochs=JUDGED_EPOCHS)
            row = {"pair": pair.name, "optimizer": optimizer, "length": length, "seed": seed, "test": test.to_dict()}
            keep(f"judged-{TAG}", row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("truth", "suggest", "cost", "table", "judged"))
    parser.add_argument("--part", default="0/1", help="which share of the cells this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "truth":
        sys.exit(main_truth(arguments.part))
    if arguments.what == "cost":
        sys.exit(main_cost())
    if arguments.what == "suggest":
        sys.exit(main_suggest(arguments.part))
    if arguments.what == "judged":
        sys.exit(main_judged())
    main_table()

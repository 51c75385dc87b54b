"""one_cycle beside long cooldowns, each with and without a late average of the weights, and each at its own best peak.

    python bench/cooldowns.py run --part 0/2 & python bench/cooldowns.py run --part 1/2   # half an hour on 2 cores
    python bench/cooldowns.py table                                                         # Markdown

Six pairs of search_pairs.py, three optimizers, 2 and 8 epochs. A grid with ratio 3 about the optimizer's default peak,
extended until the best is inside it, is judged on validation data with a seed of its own; five other seeds at the best
peak give the test metric. Averages are exponential, with a time constant of a share of the run; all are of the same
runs, so they cost nothing and are paired to the bit.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from functools import partial

import torch
from pairs import OUT, keep, rows
from search_pairs import DESIGN, JUDGE, SearchPair
from shapes import climb

import onecycle
from onecycle import Piecewise, Policy
from onecycle.optim.build import RECIPES
from onecycle.schedules import presets
from onecycle.training.loop import Update
from onecycle.training.norms import estimate_statistics

NAMES = (
    "1-D cnn with batch norms, shapes of waves",
    "residual mlp, table of 3 classes with noise",
    "cnn with batch norms, photos of 4 animals",
    "tanh mlp, Friedman's first function",
    "SELU mlp, table of 12 classes with noise",
    "bag of words, speakers of plays",
)
PAIRS = [pair for name in NAMES for pair in (*DESIGN, *JUDGE) if pair.name == name]
OPTIMIZERS, EPOCHS = ("sgd", "adamw", "muon"), (2, 8)
TUNING, SEEDS, RATIO = 100, (0, 1, 2, 3, 4), 3.0
HORIZONS = (0.02, 0.05, 0.1)


def trapezoid(lr, updates=None):
    """Up within a twentieth of the run, then level, and down to zero in a line over the last 60 %."""
    return Policy({"lr": Piecewise(((0, 0), (0.05, lr), (0.4, lr), (1, 0)))})


SHAPES = {
    "one_cycle": presets.one_cycle,
    "linear to zero": partial(presets.linear, warmup=0.05),
    "wsd, 60 % linear": trapezoid,
    "wsd, 60 % 1 - sqrt": partial(presets.wsd, decay=0.6),
}


class Averages:
    """Exponential averages of a model's weights, one a horizon in updates."""

    def __init__(self, model, horizons):
        self.model, self.kept = model, {}
        self.horizons, self.seen = horizons, 0

    def __call__(self, event):
        if not isinstance(event, Update):
            return
        now = {name: t for name, t in self.model.state_dict().items() if isinstance(t, torch.Tensor)}
        for horizon in self.horizons:
            if horizon not in self.kept:
                self.kept[horizon] = {name: t.clone() for name, t in now.items()}
                continue
            share = max(1 / horizon, 1 / (1 + self.seen))
            average = self.kept[horizon]
            real = [name for name, t in now.items() if t.is_floating_point()]
            torch._foreach_lerp_([average[n] for n in real], [now[n] for n in real], share)
        self.seen += 1


@torch.no_grad()
def train(pair: SearchPair, optimizer: str, epochs: int, shape: str, peak: float, seed: int):
    """What validation and test data say of the weights at the end, and of their averages; None where it was lost."""
    learn = pair.learner(seed, optimizer, rescue=False)
    valid, learn.valid = learn.valid, None
    updates = epochs * len(learn.train)
    averages = Averages(learn.model, [max(1.0, share * updates) for share in HORIZONS])
    try:
        with torch.enable_grad():
            learn.fit(epochs, lambda n: SHAPES[shape](peak, n), observers=[averages])
    except onecycle.errors.NonFiniteLoss:
        return None
    learn.valid = valid

    result = {"0": (learn.evaluate(valid)[pair.measure], pair.test(learn))}
    for share, kept in zip(HORIZONS, averages.kept.values(), strict=True):
        learn.model.load_state_dict(kept)
        estimate_statistics(learn.state, learn.train)
        result[f"{share:g}"] = None, pair.test(learn)
    return result


class Cell:
    """One shape in one setting: what was run is read from the file."""

    def __init__(self, pair, optimizer, epochs, shape):
        self.pair, self.what = pair, (optimizer, epochs, shape)
        self.key = {"pair": pair.name, "optimizer": optimizer, "epochs": epochs, "shape": shape}
        self.done = {
            (r["peak"], r["seed"]): r["measured"]
            for r in rows("cooldowns")
            if all(r[k] == v for k, v in self.key.items())
        }

    def measure(self, peak, seed):
        if (peak, seed) not in self.done:
            self.done[peak, seed] = train(self.pair, *self.what, peak, seed)
            keep("cooldowns", {**self.key, "peak": peak, "seed": seed, "measured": self.done[peak, seed]})
        return self.done[peak, seed]

    def score(self, peak):
        """Higher is better, of the weights at the end, on validation data."""
        measured = self.measure(peak, TUNING)
        if measured is None:
            return -float("inf")
        value = measured["0"][0]
        return -value if self.pair.measure == "loss" else value

    def best(self):
        return climb(self.score, RECIPES[self.what[0]].lr_max, RATIO)


def main_run(part):
    index, parts = map(int, part.split("/"))
    cells = list(itertools.product(PAIRS, EPOCHS, OPTIMIZERS))
    for pair, epochs, optimizer in itertools.islice(cells, index, None, parts):
        for shape in SHAPES:
            cell = Cell(pair, optimizer, epochs, shape)
            peak = cell.best()
            values = [cell.measure(peak, seed) for seed in SEEDS]
            tests = [v["0"][1] for v in values if v is not None]
            print(pair.name, epochs, optimizer, shape, peak, f"{statistics.mean(tests or [0]):.4g}", flush=True)


def gathered():
    """(pair, epochs, optimizer) -> (shape, average) -> [test by seed], and the peak of each shape."""
    seeds, peaks = {}, {}
    for r in rows("cooldowns"):
        if r["pair"] not in NAMES:
            continue
        setting = r["pair"], r["epochs"], r["optimizer"]
        peaks.setdefault((setting, r["shape"]), {}).setdefault(r["peak"], {})[r["seed"]] = r["measured"]
    chosen = {}
    for (setting, shape), by_peak in peaks.items():
        full = {p: s for p, s in by_peak.items() if set(SEEDS) <= set(s) and all(s[seed] for seed in SEEDS)}
        for peak, by_seed in full.items():
            chosen[setting, shape] = peak
            for share in ("0", *(f"{h:g}" for h in HORIZONS)):
                seeds.setdefault(setting, {})[shape, share] = [by_seed[seed][share][1] for seed in SEEDS]
    return seeds, chosen


def main_table():
    """Mean difference to one_cycle without an average: points of accuracy; 4 % of a loss count as a point."""
    from scipy import stats

    measures = {pair.name: pair.measure for pair in PAIRS}
    cells, chosen = gathered()
    full = {s: by for s, by in cells.items() if len(by) == len(SHAPES) * (1 + len(HORIZONS))}
    print(f"{len(full)} full settings of {len(PAIRS) * len(EPOCHS) * len(OPTIMIZERS)}, n = {len(SEEDS)} seeds each\n")
    kinds = ("0", *(f"{h:g}" for h in HORIZONS))

    def gain(setting, what):
        """By seed, in points."""
        base, values = full[setting]["one_cycle", "0"], full[setting][what]
        if measures[setting[0]] == "loss":
            return [25 * (b - v) / b for b, v in zip(base, values, strict=True)]
        return [v - b for b, v in zip(base, values, strict=True)]

    groups = [(e, o) for e in EPOCHS for o in OPTIMIZERS]
    heads = [f"{o}, {e} epochs" for e, o in groups]
    print(f"| shape | average over | {' | '.join(heads)} | all [95 %] | settings better, worse |")
    print("|" + " --- |" * (len(heads) + 4))
    for shape, kind in itertools.product(SHAPES, kinds):
        texts, means = [], []
        for epochs, optimizer in groups:
            these = [statistics.mean(gain(s, (shape, kind))) for s in full if s[1:] == (epochs, optimizer)]
            means += these
            texts.append(f"{statistics.mean(these):+.2f}" if these else "")
        half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means) if len(means) > 1 else float("nan")
        better, worse = sum(m > 0 for m in means), sum(m < 0 for m in means)
        name = "none" if kind == "0" else f"{100 * float(kind):g} %"
        said = f"{statistics.mean(means):+.2f} ± {half:.2f}"
        print(f"| {shape} | {name} | {' | '.join(texts)} | {said} | {better}, {worse} |")
    print("\n| pair | epochs | optimizer | " + " | ".join(f"peak of {shape}" for shape in SHAPES) + " |")
    print("|" + " --- |" * (3 + len(SHAPES)))
    for setting in full:
        print(f"| {' | '.join(map(str, setting))} | " + " | ".join(f"{chosen[setting, s]:g}" for s in SHAPES) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--part", default="0/1", help="which share of the settings this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    sys.exit(main_run(arguments.part) if arguments.what == "run" else main_table())

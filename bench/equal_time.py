"""Accuracy in equal time: AdamW, SGD, Muon for all inner matrices, the default, and SOAP.

    python bench/equal_time.py cost     # what an update costs: CPU time, interleaved
    python bench/equal_time.py run      # about an hour of one core
    python bench/equal_time.py table    # Markdown
    python bench/equal_time.py sizes    # what an update of wide and narrow nets costs

Ten pairs: tables, text, images, a regression, fine-tuning, wide and narrow. A budget is the time of 200, 600 and
1,800 updates of AdamW; each optimizer makes as many updates as its measured cost leaves it, a pilot's and an
evaluation's not counted. The peak is the best of a grid with ratio 3 for each budget, extended until the best is inside
it, on validation data with a seed of its own; test data are read with five other seeds. SOAP is that of
pytorch-optimizer, for sides of up to 512 (`pip install --no-deps pytorch-optimizer`); without it its rows are left out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from copy import deepcopy
from functools import cache, partial

import torch
from pairs import OUT, keep, rows
from search_pairs import DESIGN, JUDGE, SearchPair, convs, mlp, pictures
from shapes import climb
from torch import nn

import onecycle
from onecycle.optim.build import RECIPES

BUDGETS = 200, 600, 1800
TUNING, SEEDS, RATIO = 100, (0, 1, 2, 3, 4), 3.0
REPEATS, EACH = 7, 30


@cache
def others(kept: tuple[int, ...], train: int):
    """CIFAR-10 at 16 pixels, some of its classes, `train` images at most."""
    parts = []
    for (x, y), n in zip(pictures("cifar10", 16, 20_000), (train, 1000, 4000), strict=True):
        rows = (y[:, None] == torch.tensor(kept)).any(1).nonzero().flatten()[:n]
        parts.append((x[rows], torch.searchsorted(torch.tensor(kept), y[rows])))
    return tuple(parts)


@cache
def trained_before() -> dict[str, torch.Tensor]:
    """Weights of a network that was trained on six other classes."""
    torch.manual_seed(0)
    model = convs([3, 24, 48, 96], 6, nn.BatchNorm2d)
    train, valid, _ = others((0, 1, 2, 3, 4, 5), 12_000)
    onecycle.Learner(model, train, valid, optimizer="adamw", verbose=False).fit_one_cycle(4, 0.007)
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.shape[:1] != (6,)}


def fine_tuned():
    model = convs([3, 24, 48, 96], 4, nn.BatchNorm2d)
    model.load_state_dict(trained_before(), strict=False)
    return model


NAMES = (
    "wide mlp, table of 8 classes",
    "residual mlp, tenth of the price of diamonds",
    "transformer, tinyshakespeare",
    "cnn with group norms, cifar10 16x16",
    "bag of words, speakers of plays",
    "mlp, price of diamonds",
    "tanh mlp, Friedman's first function",
    "residual mlp, table of 3 classes with noise",
)
PAIRS = [
    *(pair for name in NAMES for pair in (*DESIGN, *JUDGE) if pair.name == name),
    SearchPair(
        "mlp 784-512-512, fashion-mnist",
        partial(pictures, "fashion-mnist", 28, 12_000, True),
        partial(mlp, 784, 512, 512, 10),
    ),
    SearchPair("fine-tuning a cnn, 600 images of 4 classes", partial(others, (6, 7, 8, 9), 600), fine_tuned),
]


def optimizers():
    """By name: what a learner is given, and a peak to begin with."""
    known = {name: (name, RECIPES[name].lr_max) for name in ("adamw", "muon")}
    known |= {"default": ("auto", None), "sgd": ("sgd", RECIPES["sgd"].lr_max)}
    try:
        from pytorch_optimizer import SOAP
    except ImportError:
        return known
    return {
        **known,
        "soap": (partial(SOAP, weight_decay=0.01, precondition_frequency=10, max_precondition_dim=512), 0.003),
    }


def learner(pair: SearchPair, name: str, seed: int) -> onecycle.Learner:
    return pair.learner(seed, optimizers()[name][0], rescue=False)


def comes_to(pair: SearchPair) -> str:
    """What the default is for a pair: "adamw", "muon", or "default" where it is some of both."""
    resolved = learner(pair, "default", 0).resolved
    return "default" if "matrices_by_adamw" in resolved else resolved["optimizer"]


def main_cost():
    """CPU seconds of an update, the optimizers in turns; kept as multiples of AdamW's, medians."""
    for pair in PAIRS:
        names = [name for name in optimizers() if name != "default" or comes_to(pair) == "default"]
        learners, times = {name: learner(pair, name, 0) for name in names}, {name: [] for name in names}
        for turn, name in itertools.product(range(REPEATS + 1), names):
            learners[name].valid = None
            started = time.process_time()
            learners[name].fit(f"{EACH} updates", lr_max=1e-4, search=0)
            if turn:
                times[name].append((time.process_time() - started) / EACH)
        ratios = {
            name: statistics.median(mine / adamw for mine, adamw in zip(values, times["adamw"], strict=True))
            for name, values in times.items()
        }
        row = {"pair": pair.name, "default": comes_to(pair), "adamw": min(times["adamw"]), "ratios": ratios}
        keep("equal_time_cost", row)
        print(row, flush=True)


def main_sizes():
    """Microseconds of an update of an MLP 64-h-h-10 on batches of 64, in turns: the least CPU time of so many turns."""
    x, y = torch.randn(6400, 64), torch.randint(0, 10, (6400,))
    names = ("sgd", "adamw", "auto", "muon")
    print(f"| parameters | raw SGD | {' | '.join(names)} | auto / adamw |\n|{' --- |' * 7}")
    for width in (70, 280, 960):
        torch.manual_seed(0)
        model = mlp(64, width, width, 10)
        learners = {
            name: onecycle.Learner(deepcopy(model), (x, y), optimizer=name, batch_size=64, verbose=False)
            for name in names
        }
        runs = {"raw": partial(raw, deepcopy(model), x, y)}
        runs |= {name: partial(one.fit, f"{EACH} updates", lr_max=1e-4, search=0) for name, one in learners.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _, (name, run) in itertools.product(range(REPEATS), runs.items()):
            started = time.process_time()
            run()
            times[name].append((time.process_time() - started) / EACH)
        pairs = [a / b for a, b in zip(times["auto"], times["adamw"], strict=True)]
        texts = [f"{1e6 * min(values):.0f}" for values in times.values()]
        spread = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} ... {max(pairs):.2f})"
        size = sum(p.numel() for p in model.parameters())
        print(f"| {size:,} | {' | '.join(texts)} | {spread} |", flush=True)


def raw(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    """The loop of a few lines that one would write."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    for index in torch.randperm(len(x)).split(64)[:EACH]:
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def costs():
    return {row["pair"]: row for row in rows("equal_time_cost")}


class Cell:
    """One optimizer on one pair."""

    def __init__(self, pair: SearchPair, name: str):
        self.pair, self.name, self.ratio = pair, name, costs()[pair.name]["ratios"][name]
        self.done = {
            (r["budget"], r["peak"], r["seed"]): r["measured"]
            for r in rows("equal_time")
            if (r["pair"], r["optimizer"]) == (pair.name, name)
        }

    def measure(self, budget: int, peak: float, seed: int):
        """On validation and test data at the end; None where the run was lost."""
        key = budget, peak, seed
        if key not in self.done:
            learn = learner(self.pair, self.name, seed)
            valid, learn.valid = learn.valid, None
            try:
                learn.fit(f"{max(10, round(budget / self.ratio))} updates", lr_max=peak)
                self.done[key] = learn.evaluate(valid)[self.pair.measure], self.pair.test(learn)
            except onecycle.errors.NonFiniteLoss:
                self.done[key] = None
            setting = {"pair": self.pair.name, "optimizer": self.name, "budget": budget, "peak": peak, "seed": seed}
            keep("equal_time", {**setting, "measured": self.done[key]})
        return self.done[key]

    def score(self, budget: int, peak: float) -> float:
        measured = self.measure(budget, peak, TUNING)
        if measured is None:
            return -float("inf")
        return -measured[0] if self.pair.measure == "loss" else measured[0]

    def best(self, budget: int) -> float:
        first = optimizers()[self.name][1] or learner(self.pair, self.name, 0).default_peak
        return climb(partial(self.score, budget), first, RATIO)


def main_run(part: str):
    index, parts = map(int, part.split("/"))
    for name, pair in itertools.product(optimizers(), PAIRS[index::parts]):
        if name in costs()[pair.name]["ratios"]:
            cell = Cell(pair, name)
            for budget in BUDGETS:
                peak = cell.best(budget)
                tests = [v[1] for seed in SEEDS if (v := cell.measure(budget, peak, seed))]
                print(pair.name, name, budget, peak, f"{statistics.mean(tests or [0]):.4g}", flush=True)


def main_table():
    """Differences to AdamW in equal time: points of accuracy, or percent of the loss; 95 % intervals over seeds."""
    from scipy import stats

    names = ("muon", "default", "sgd", "soap")
    heads = ("pair", f"an update, AdamW = 1: {', '.join(names)}", "the default", "updates of AdamW", "AdamW", *names)
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for pair in PAIRS:
        row = costs()[pair.name]
        tests: dict[tuple[str, int], list[float]] = {}
        for name in row["ratios"]:
            cell = Cell(pair, name)
            for budget in BUDGETS:
                if any(known == (budget, TUNING) for known in ((b, seed) for b, _, seed in cell.done)):
                    values = [cell.done.get((budget, cell.best(budget), seed)) for seed in SEEDS]
                    tests[name, budget] = [value[1] for value in values if value]
        for budget in BUDGETS:
            base, texts = tests.get(("adamw", budget)), []
            for name in names:
                values = tests.get((name, budget))
                if base is None or values is None:
                    texts.append("")
                    continue
                loss = pair.measure == "loss"
                gains = [100 * (b - v) / b if loss else v - b for b, v in zip(base, values, strict=True)]
                half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
                texts.append(f"{statistics.mean(gains):+.2f} ± {half:.2f}")
            ratios = ", ".join(f"{row['ratios'].get(name, float('nan')):.2f}" for name in names)
            mean = "" if base is None else f"{statistics.mean(base):.4g}"
            print(f"| {pair.name} | {ratios} | {row['default']} | {budget} | {mean} | {' | '.join(texts)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "run", "table", "sizes"))
    parser.add_argument("--part", default="0/1", help="which share of the pairs this process takes, as 0/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    mains = {"cost": main_cost, "run": partial(main_run, arguments.part), "table": main_table, "sizes": main_sizes}
    sys.exit(mains[arguments.what]())

"""Going on from a finished run: which state to begin with, and which schedule, to come where a longer run comes?

    ONECYCLE_DATA=FOLDER python bench/extend.py run [--seeds 3] [--pairs ...] [--factor 1]    # minutes, one thread
    python bench/extend.py table [--factor 1]                                                  # Markdown

A first run of N updates by the default schedule at the optimizer's own peak; then `factor` N updates more by each of
the candidates, from a state of that run; beside it one run of (1 + factor) N updates from scratch. Seeds, initial
weights and data orders are the same: differences are paired. Test accuracy (R2 for the regression) in percent, read at
the end.
Every run is a line of bench/out/extend.jsonl; what is there is not run again.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from pairs import Pair, cifar, digits, drawn_from, fashion, keep, plain, rows, text, windows_of
from torch import nn

import onecycle
from onecycle import Piecewise, Policy
from onecycle.optim.build import recipe


@cache
def classification(features=20, informative=8, classes=5, clusters=3, noise=0.05):
    """A table of clusters at random, several a class, mixed linearly, with irrelevant columns and some wrong labels."""
    draw = torch.Generator().manual_seed(0)
    n = 12_000
    centers = 1.6 * torch.randn(classes * clusters, informative, generator=draw)
    cluster = torch.randint(classes * clusters, (n,), generator=draw)
    mixing = torch.randn(classes * clusters, informative, informative, generator=draw) / informative**0.5
    noises = torch.randn(n, informative, generator=draw)
    useful = centers[cluster] + torch.einsum("ni,nij->nj", noises, mixing[cluster])
    x = torch.cat([useful, torch.randn(n, features - informative, generator=draw)], 1)
    x, y = (x - x.mean(0)) / x.std(0), cluster % classes
    wrong = torch.rand(n, generator=draw) < noise
    y = torch.where(wrong, torch.randint(classes, (n,), generator=draw), y)
    return (x[:6000], y[:6000]), (x[6000:7000], y[6000:7000]), (x[7000:], y[7000:])


@cache
def friedman():
    """Friedman's first function of 10 columns, with noise of 1, in standard units."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(12_000, 10, generator=draw)
    y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(len(x), generator=draw)
    x, y = (x - 0.5) * 12**0.5, ((y - y.mean()) / y.std())[:, None]
    return (x[:4000], y[:4000]), (x[4000:5000], y[4000:5000]), (x[5000:], y[5000:])


@cache
def shakespeare(length=32):
    """Windows of the characters of a play, each to be told from those before it."""
    return windows_of((Path(os.environ["ONECYCLE_DATA"]) / "text/tinyshakespeare.txt").read_text(), length, 500)


class Recurrent(nn.Module):
    """A gated recurrent unit over characters."""

    def __init__(self, characters=65, width=64):
        super().__init__()
        self.embed, self.body = nn.Embedding(characters, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        return self.head(self.body(self.embed(x))[0])


def made(make):
    """A builder: the model from a seed."""

    def build(seed):
        with drawn_from(seed):
            return make()

    return build


def perceptron(inputs, outputs, width=64, dropout=0.0):
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


@dataclass(frozen=True)
class Case:
    """A pair under an optimizer, and the epochs of its first run."""

    pair: Pair
    optimizer: str
    epochs: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.pair.name}, {self.optimizer}"


TRANSFORMER = {"width": 64, "depth": 2, "heads": 4}
SMALL = Pair("small-cnn, fashion-mnist 14x14", fashion(14), 4000, "small-cnn")
NORMS = Pair("6 layers with norms, cifar10 16x16", cifar(16), 4000, partial(plain, layers=6, norm=True))
TABLE = Pair("mlp, table of 5 classes", classification, 6000, made(partial(perceptron, 20, 5)))
PLAY = Pair("gru, tinyshakespeare", shakespeare, 6000, made(Recurrent), {}, 32)
CURVE = Pair("mlp, Friedman's function (R2)", friedman, 4000, made(partial(perceptron, 10, 1)))
CASES = [
    Case(TABLE, "muon", 6),
    Case(CURVE, "adamw", 8),
    Case(Pair("small-cnn, digits", digits, 1000, "small-cnn", {}, 32), "sgd", 12),
    Case(Pair("mlp, fashion-mnist 14x14", fashion(14), 8000, "mlp"), "adamw", 5),
    Case(PLAY, "muon", 3),
    Case(SMALL, "muon", 6),
    Case(NORMS, "sgd", 8),
    Case(NORMS, "muon", 4),
    Case(Pair("char-transformer, text", text, 6000, "char-transformer", TRANSFORMER, 16), "muon", 1),
]


def line(*points):
    """A function from the peak to a policy through points, given as shares of the peak."""
    return lambda peak: Policy({"lr": Piecewise(tuple((x, y * peak) for x, y in points))})


# Each begins with the state after a share of the first run, with or without the optimizer's state.
AT_PEAK, AT_6, AT_75, AT_END = 0.45, 0.6, 0.75, 1.0
CANDIDATES = {
    "peak, hold 30 %, down": (AT_PEAK, line((0, 1), (0.3, 1), (1, 0.001))),
    "peak, hold 60 %, down": (AT_PEAK, line((0, 1), (0.6, 1), (1, 0.001))),
    "peak, down": (AT_PEAK, line((0, 1), (1, 0.001))),
    "middle (.6), back to the peak, down": (AT_6, line((0, 0.7), (0.1, 1), (0.2, 1), (1, 0.001))),
    "middle (.75), half the peak, down": (AT_75, line((0, 0.45), (0.3, 0.5), (1, 0.001))),
    "end, up to the peak, down": (AT_END, line((0, 0.05), (0.1, 1), (1, 0.001))),
    "end, up to .5, down": (AT_END, line((0, 0.05), (0.1, 0.5), (1, 0.001))),
    "end, up to .3, down": (AT_END, line((0, 0.05), (0.1, 0.3), (1, 0.001))),
    "end, .5, down": (AT_END, line((0, 0.5), (1, 0.001))),
    "end, fresh optimizer, up to the peak, down": (AT_END, line((0, 0.05), (0.1, 1), (1, 0.001))),
    "end, up to the peak, hold 20 %, down": (AT_END, line((0, 0.05), (0.1, 1), (0.3, 1), (1, 0.001))),
    "end, up to the peak in 25 %, down": (AT_END, line((0, 0.05), (0.25, 1), (1, 0.001))),
    "end, the peak, down": (AT_END, line((0, 1), (1, 0.001))),
    "a second cycle": (AT_END, onecycle.one_cycle),
}
# What is left when a first seed has shown the others to be worse, or no better.
CORE = (
    "end, up to the peak, down", "end, fresh optimizer, up to the peak, down", "end, the peak, down",
    "end, up to .5, down", "a second cycle", "peak, hold 60 %, down", "middle (.6), back to the peak, down",
)  # fmt: skip

ENDS = (*CORE[:2], "end, up to the peak, hold 20 %, down")
TWICE = "end, up to the peak, down, and that twice"


def fresh(learn):
    """The learner's state without what its optimizer remembers."""
    learn.optimizer.state.clear()


def learner(case, seed):
    learn = case.pair.learner(seed, case.optimizer, **case.settings)
    learn.valid = None
    return learn


def trained(learn, updates, make, keep_at=()):
    """Train by a policy of the default peak; the states after so many updates."""
    learn.state.end_run()
    policy, states = make(recipe(learn.options.optimizer).lr_max), {}
    for event in onecycle.train(learn.state, learn.train, f"{updates} updates", policy):
        if isinstance(event, onecycle.Update) and event.step + 1 in keep_at:
            states[event.step + 1] = copy.deepcopy(learn.state.state_dict())
    states[updates] = copy.deepcopy(learn.state.state_dict())
    return states


def measure(case, learn):
    """Loss and accuracy (or R2) on the test data, in percent."""
    _, _, (x, y) = case.pair.splits()
    if y.is_floating_point():
        learn.model.eval()
        with torch.no_grad():
            error = (learn.model(x) - y).square().mean()
        return {"loss": error.item(), "score": 100 * (1 - error / y.var(unbiased=False)).item()}
    got = learn.evaluate((x, y))
    return {"loss": got["loss"], "score": 100 * got["accuracy"]}


def run(case, seed, factor, ways, done):
    base = learner(case, seed)
    per_epoch = len(base.train)
    first, more = case.epochs * per_epoch, max(1, round(case.epochs * factor * per_epoch))
    row = {"case": case.name, "seed": seed, "factor": factor, "updates": first}

    def note(way, learn, began):
        keep("extend", {**row, "way": way, **measure(case, learn), "cpu": time.process_time() - began})

    def missing(way):
        return (case.name, seed, factor, way) not in done

    wanted = [way for way in ways if missing(way)]
    if not wanted and not missing("from scratch"):
        return
    began = time.process_time()
    shares = {share: round(share * first) for share, _ in CANDIDATES.values()}
    states = trained(base, first, onecycle.one_cycle, set(shares.values()))
    if missing("first run alone"):
        note("first run alone", base, began)
    if missing("from scratch"):
        began = time.process_time()
        trained(learn := learner(case, seed), first + more, onecycle.one_cycle)
        note("from scratch", learn, began)
    for way in wanted:
        share, make = CANDIDATES[CORE[0] if way == TWICE else way]
        began = time.process_time()
        learn = learner(case, seed)
        learn.state.load_state_dict(states[shares[share]])
        if "fresh" in way:
            fresh(learn)
        for part in (more // 2, more - more // 2) if way == TWICE else (more,):
            trained(learn, part, make)
        note(way, learn, began)


def main_run(options):
    torch.set_num_threads(1)
    done = {(r["case"], r["seed"], r["factor"], r["way"]) for r in rows("extend")}
    for i, case in enumerate(CASES):
        for seed in range(options.seeds):
            if options.pairs and i not in options.pairs:
                continue
            began = time.process_time()
            ways = (
                (TWICE, CORE[0])
                if options.twice
                else ENDS
                if options.end
                else CORE
                if options.core or seed
                else tuple(CANDIDATES)
            )
            run(case, seed, options.factor, ways, done)
            print(seed, case.name, f"{time.process_time() - began:.1f} s of CPU", flush=True)


def main_table(options):
    """Score by case, and the difference to the run from scratch, paired by seed: mean, and spread over the cases."""
    found = {}
    for row in rows("extend"):
        if row["factor"] == options.factor:
            found.setdefault(row["case"], {}).setdefault(row["way"], {})[row["seed"]] = row["score"]
    cases = [case.name for case in CASES if "from scratch" in found.get(case.name, {})]
    print(f"| way | {' | '.join(cases)} | mean | worst | within .3 |")
    print("|" + " --- |" * (len(cases) + 4))
    ways = list(dict.fromkeys(way for case in cases for way in found[case]))
    for way in ways:
        cells, means = [], []
        for case in cases:
            scratch, mine = found[case]["from scratch"], found[case].get(way, {})
            if not (shared := sorted(scratch.keys() & mine.keys())):
                cells.append("")
                continue
            differences = [mine[seed] - scratch[seed] for seed in shared]
            mean = statistics.mean(differences)
            spread = statistics.stdev(differences) if len(shared) > 1 else float("nan")
            means.append(mean)
            if way == "from scratch":
                scores = [mine[seed] for seed in shared]
                spread = statistics.stdev(scores) if len(shared) > 1 else float("nan")
                cells.append(f"{statistics.mean(scores):.2f} (sd {spread:.2f}, n {len(shared)})")
            else:
                cells.append(f"{mean:+.2f} (sd {spread:.2f})")
        good = sum(mean >= -0.3 for mean in means)
        print(
            f"| {way} | {' | '.join(cells)} | {statistics.mean(means):+.2f} | {min(means):+.2f} | {good}/{len(means)} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, nargs="+", help="which of the cases, by number from 0")
    parser.add_argument("--core", action="store_true", help="only the ways that the first seeds left")
    parser.add_argument(
        "--end",
        action="store_true",
        help="only from the end up to the peak, in three ways",
    )
    parser.add_argument("--twice", action="store_true", help="only in one extension and in two of half its length")
    parser.add_argument("--factor", type=float, default=1.0, help="the extension, in times the first run")
    arguments = parser.parse_args()
    sys.exit(main_run(arguments) if arguments.what == "run" else main_table(arguments))

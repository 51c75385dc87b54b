"""How good is the peak that pilots find, with their whole cost inside the budget?

python bench/search.py truth --half design --seed 0     the best peak of a grid, for each pair, optimizer and length
python bench/search.py pilots --half design --seed 0    short runs at several peaks and lengths, to design with
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from statistics import mean, median

import numpy as np
import rivals
import torch
from pairs import keep, rows
from search_pairs import DESIGN, JUDGE, SearchPair

import onecycle
from onecycle.data.batches import first_batch
from onecycle.optim.build import RECIPES
from onecycle.optim.groups import write
from onecycle.schedules.presets import preset
from onecycle.search.trial import trial
from onecycle.training.norms import estimate_statistics
from onecycle.training.step import update

OPTIMIZERS, LENGTHS = ("sgd", "adamw", "muon"), (500, 2000)
PILOTS, FACTORS = (16, 32, 64, 128), tuple(3.0**k for k in (-3, -2, -1, 0, 1, 2))
FREE = ("Prodigy, cosine", "D-Adapt Adam, cosine", "D-Adapt SGD, cosine", "Schedule-Free AdamW", "Schedule-Free SGD")


def loss_of(learn: onecycle.Learner) -> float:
    return learn.evaluate()["loss"]


def full(pair: SearchPair, optimizer: str, updates: int, lr: float, seed: int) -> dict:
    """One training to its end; NaN where it was lost."""
    learn = pair.learner(seed, optimizer)
    valid, learn.valid = learn.valid, None
    try:
        learn.fit(f"{updates} updates", "one_cycle", lr)
    except onecycle.errors.NonFiniteLoss:
        return {"valid": math.nan, "test": math.nan}
    learn.valid = valid
    measured = learn.evaluate()
    return {
        "valid": 100 * measured["accuracy"] if pair.measure == "accuracy" else measured["loss"],
        "test": pair.test(learn),
    }


def better(pair: SearchPair, row: dict) -> float:
    value = row["valid"]
    return -math.inf if math.isnan(value) else value if pair.measure == "accuracy" else -value


def main_truth(pairs: list[SearchPair], seed: int) -> None:
    """A grid about the default peak with ratio 4, then between; wider until the best is within."""
    done = {(r["pair"], r["optimizer"], r["updates"], r["lr"], r["seed"]): r for r in rows("search_truth")}
    for updates, pair, optimizer in itertools.product(reversed(LENGTHS), pairs, OPTIMIZERS):

        def measure(k: int, updates=updates, pair=pair, optimizer=optimizer) -> float:
            lr = RECIPES[optimizer].lr_max * 2.0**k
            cell = (pair.name, optimizer, updates, lr, seed)
            if cell not in done:
                started = time.process_time()
                row = dict(zip(("pair", "optimizer", "updates", "lr", "seed"), cell, strict=True))
                done[cell] = (
                    row | full(pair, optimizer, updates, lr, seed) | {"k": k, "cpu": time.process_time() - started}
                )
                keep("search_truth", done[cell])
            return better(pair, done[cell])

        tried = {k: measure(k) for k in (-2, 0, 2)}
        while (best := max(tried, key=tried.__getitem__)) in (min(tried), max(tried)):
            if best == min(tried) and best > -10:
                tried[best - 2] = measure(best - 2)
            elif best == max(tried) and best < 8:
                tried[best + 2] = measure(best + 2)
            else:
                break
        for k in (best - 1, best + 1):
            tried[k] = measure(k)
        print(pair.name, optimizer, updates, seed, tried, flush=True)


def main_pilots(pairs: list[SearchPair], seed: int) -> None:
    done = {(r["pair"], r["optimizer"], r["seed"]) for r in rows("search_pilots")}
    for pair, optimizer in itertools.product(pairs, OPTIMIZERS):
        if (pair.name, optimizer, seed) in done:
            continue
        learn = pair.learner(seed, optimizer)
        valid, learn.valid = learn.valid, None
        learn.valid = valid
        row = {
            "pair": pair.name,
            "optimizer": optimizer,
            "seed": seed,
            "start": learn.evaluate(),
            "line": line(learn),
            "pilots": [],
        }
        for t, factor in itertools.product(PILOTS, FACTORS):
            lr = RECIPES[optimizer].lr_max * factor
            result = trial(learn.state, learn.train, f"{t} updates", preset("one_cycle", lr), learn.evaluate)
            row["pilots"].append(
                {"t": t, "factor": factor, "loss": result.loss, "valid": result.valid, "seconds": result.seconds}
            )
        keep("search_pilots", row)
        print(pair.name, optimizer, seed, flush=True)


def line(learn: onecycle.Learner) -> list[float]:
    """The loss of another batch along the first update, at the default peak times powers of 2."""
    optimizer = RECIPES[learn.options.optimizer]
    batches = [batch for _, batch in zip(range(2), learn.train.epoch(0), strict=False)]
    parameters = list(learn.model.parameters())
    before = [p.detach().clone() for p in parameters]
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    losses: list[float] = []
    moved: list[torch.Tensor] = []

    def look() -> dict[str, float]:
        moved.extend(p.detach() - b for p, b in zip(parameters, before, strict=True))
        return {}

    trial(learn.state, [first_batch(learn.train)] * 2, "1 updates", preset("constant", optimizer.lr_max), look)
    with torch.no_grad():
        for k in range(-8, 9):
            for p, b, d in zip(parameters, before, moved, strict=True):
                p.copy_(b + 2.0**k * d)
            learn.model.train()
            value = learn.state.loss(learn.model, batches[-1])
            losses.append(float(value[0] if isinstance(value, tuple) else value))
        for p, b in zip(parameters, before, strict=True):
            p.copy_(b)
    learn.model.load_state_dict(state)
    return losses


def main_auto(pairs: list[SearchPair], seed: int) -> None:
    """The whole of a run with its peak from pilots, all inside the budget."""
    done = {(r["pair"], r["optimizer"], r["updates"], r["seed"]) for r in rows("search_auto")}
    for updates, pair, optimizer in itertools.product(reversed(LENGTHS), pairs, OPTIMIZERS):
        cell = (pair.name, optimizer, updates, seed)
        if cell in done:
            continue
        learn = pair.learner(seed, optimizer, evaluate_every=10**6)
        row = dict(zip(("pair", "optimizer", "updates", "seed"), cell, strict=True))
        started = time.process_time()
        try:
            result = learn.fit(f"{updates} updates", "one_cycle")
            row |= {"lr": result.lr_max, "trained": result.updates, "test": pair.test(learn)}
        except onecycle.errors.NonFiniteLoss:
            row |= {"lr": math.nan, "trained": 0, "test": math.nan}
        line = next((note for note in learn.notes if note.startswith("peak")), "")
        keep("search_auto", row | {"line": line, "cpu": time.process_time() - started})
        print(row, line, flush=True)


def main_rivals(pairs: list[SearchPair], seed: int) -> None:
    """The peaks that finders suggest, and what optimizers without a learning rate reach."""
    done = {(r["pair"], r["optimizer"], r["seed"]) for r in rows("search_rivals")}
    for pair, optimizer in itertools.product(pairs, OPTIMIZERS):
        if (pair.name, optimizer, seed) in done:
            continue
        test = pair.learner(seed, optimizer).range_test()
        peaks = {"range test": {str(u): test.peak(u / len(pair.learner(seed, optimizer).train)) for u in LENGTHS}}
        for spec in dict.fromkeys(rival.sweep for rival in rivals.RIVALS.values()):
            lrs, losses, held_out = rival_sweep(pair, optimizer, seed, spec)
            for name, rival in rivals.RIVALS.items():
                if rival.sweep == spec:
                    peaks[name] = rival.suggest(lrs, held_out if rival.validated else losses)
        keep("search_rivals", {"pair": pair.name, "optimizer": optimizer, "seed": seed, "peaks": peaks})
        print(pair.name, optimizer, seed, peaks, flush=True)
    done = {(r["pair"], r["what"], r["updates"], r["seed"]) for r in rows("search_free")}
    for updates, pair, what in itertools.product(LENGTHS, pairs, FREE):
        if (pair.name, what, updates, seed) in done:
            continue
        try:
            value = free(pair, what, updates, seed)
        except onecycle.errors.NonFiniteLoss:
            value = math.nan
        keep("search_free", {"pair": pair.name, "what": what, "updates": updates, "seed": seed, "test": value})
        print(pair.name, what, updates, seed, value, flush=True)


def rival_sweep(pair: SearchPair, optimizer: str, seed: int, spec: rivals.Sweep) -> tuple[list, list, list]:
    """Rates, training losses, and held-out losses on 500 samples after each update."""
    learn = pair.learner(seed, optimizer)
    stream = itertools.chain.from_iterable(learn.train.epoch(e) for e in itertools.count())
    held_out = [tuple(part[:500] for part in pair.data()[1])]
    policy = onecycle.Policy({"lr": lambda lr: lr})

    def step(lr: float) -> float:
        write(policy, learn.optimizer, lr)
        learn.model.train()
        return update(learn.state, [next(stream)]).loss.item()

    def validate() -> float:
        return onecycle.evaluate(learn.model, held_out, learn.state.loss)["loss"]

    return rivals.record(step, *spec, validate)


def free(pair: SearchPair, what: str, updates: int, seed: int) -> float:
    """An optimizer that needs no learning rate, as its authors say it is used."""
    import dadaptation
    import prodigyopt
    import schedulefree

    cosine = onecycle.Policy({"lr": onecycle.Piecewise(((0, 1.0), (1, 1e-6)), easing="cosine")})
    make, policy = {
        "Prodigy, cosine": (prodigyopt.Prodigy, cosine),
        "D-Adapt Adam, cosine": (dadaptation.DAdaptAdam, cosine),
        "D-Adapt SGD, cosine": (dadaptation.DAdaptSGD, cosine),
        "Schedule-Free AdamW": (schedulefree.AdamWScheduleFree, onecycle.Policy({"lr": 0.0025})),
        "Schedule-Free SGD": (schedulefree.SGDScheduleFree, onecycle.Policy({"lr": 1.0})),
    }[what]
    learn = pair.learner(seed, lambda groups: make([p for g in groups for p in g["params"]]), evaluate_every=10**6)
    learn.valid = None
    if "Free" in what:
        learn.optimizer.train()
    learn.fit(f"{updates} updates", policy)
    if "Free" in what:
        learn.optimizer.eval()
        estimate_statistics(learn.state, learn.train)
    return pair.test(learn)


LOST = {"accuracy": 80.0, "loss": 100.0}


class Truth:
    """What runs at the peaks of the grid reached, for each cell (pair, optimizer, updates)."""

    def __init__(self, pairs: list[SearchPair]):
        self.measures = {pair.name: pair.measure for pair in pairs}
        self.cells: dict[tuple[str, str, int], dict[float, list[dict]]] = {}
        for row in rows("search_truth"):
            cell = row["pair"], row["optimizer"], row["updates"]
            if row["pair"] in self.measures:
                self.cells.setdefault(cell, {}).setdefault(row["k"], []).append(row)

    def best(self, cell: tuple[str, str, int]) -> tuple[float, float]:
        """The best peak by validation, as a power of 2 of the default, and the mean test of its runs."""
        sign = 1 if self.measures[cell[0]] == "accuracy" else -1
        means = {
            k: (mean(r["valid"] for r in runs), mean(r["test"] for r in runs)) for k, runs in self.cells[cell].items()
        }
        k = max((k for k in means if not math.isnan(means[k][0])), key=lambda k: sign * means[k][0])
        return k, means[k][1]

    def regret(self, cell: tuple[str, str, int], test: float) -> float:
        """Of a test result."""
        measure = self.measures[cell[0]]
        if math.isnan(test):
            return LOST[measure]
        reference = self.best(cell)[1]
        return min(LOST[measure], reference - test if measure == "accuracy" else 100 * (test / reference - 1))

    def at(self, cell: tuple[str, str, int], lr: float | None) -> float:
        """The regret at a peak, between those of the grid in straight lines, beyond them as at its end."""
        lr = lr or RECIPES[cell[1]].lr_max  # no suggestion: the default
        k, ks = math.log2(lr / RECIPES[cell[1]].lr_max), sorted(self.cells[cell])
        regrets = [self.regret(cell, mean(r["test"] for r in self.cells[cell][one])) for one in ks]
        return float(np.interp(k, ks, regrets))


def regrets_of(truth: Truth) -> dict[str, dict[tuple[str, str, int], list[float]]]:
    """By what chose the peak, the regrets of each cell."""
    columns: dict[str, dict[tuple[str, str, int], list[float]]] = {}

    def add(what: str, cell: tuple[str, str, int], lr: float | None = None, test: float | None = None) -> None:
        if cell in truth.cells:
            regret = truth.at(cell, lr) if test is None else truth.regret(cell, test)
            columns.setdefault(what, {}).setdefault(cell, []).append(regret)

    for cell in truth.cells:
        add("the default peak", cell)
    for row in rows("search_auto"):
        add("pilots (auto)", (row["pair"], row["optimizer"], row["updates"]), test=row["test"])
    for row, updates in itertools.product(rows("search_rivals"), LENGTHS):
        for what, found in row["peaks"].items():
            lr = found[str(updates)] if isinstance(found, dict) else found
            add(what, (row["pair"], row["optimizer"], updates), lr)
    for row, optimizer in itertools.product(rows("search_free"), OPTIMIZERS):
        add(row["what"], (row["pair"], optimizer, row["updates"]), test=row["test"])
    return columns


def main_table(pairs: list[SearchPair], seed: int) -> None:
    truth = Truth(pairs)
    columns = regrets_of(truth)
    for updates, measure in itertools.product(reversed(LENGTHS), ("accuracy", "loss")):
        print(f"\n{updates} updates, {measure}\n| | {' | '.join(OPTIMIZERS)} |\n|{' --- |' * (1 + len(OPTIMIZERS))}")
        for what, regrets in columns.items():
            texts = []
            for optimizer in OPTIMIZERS:
                cells = [(pair.name, optimizer, updates) for pair in pairs if pair.measure == measure]
                values = [mean(regrets[cell]) for cell in cells if cell in regrets]
                texts.append(f"{mean(values):.2f} / {median(values):.2f} / {max(values):.1f}" if values else "")
            print(f"| {what} | {' | '.join(texts)} |")


WHAT = {"truth": main_truth, "pilots": main_pilots, "auto": main_auto, "rivals": main_rivals, "table": main_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(WHAT))
    parser.add_argument("--half", choices=("design", "judge"), default="design")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="of the pairs, such as 0/2")
    given = parser.parse_args()
    index, parts = map(int, given.part.split("/"))
    torch.set_num_threads(1)
    pairs = (DESIGN if given.half == "design" else JUDGE)[index::parts]
    WHAT[given.what](pairs, given.seed)


if __name__ == "__main__":
    main()

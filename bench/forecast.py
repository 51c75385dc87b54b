"""Do forecasts hold? Runs of 250 to 2,000 updates: what their ends and pilots say, beside what longer ones came to.

python bench/forecast.py runs --half design     runs at the default peak, and pilots about it
python bench/forecast.py fit                    the constants of onecycle.search.forecast, from the design half
python bench/forecast.py table --half judge     coverage and width of the intervals by factor, how far off values are
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from pairs import keep, rows
from search import OPTIMIZERS, full
from search_pairs import DESIGN, JUDGE, SearchPair

from onecycle.optim.build import RECIPES
from onecycle.schedules.presets import preset
from onecycle.search.forecast import REPEATS, SPREAD, Forecast, forecast
from onecycle.search.pilots import Pilot
from onecycle.search.trial import trial

LENGTHS, PILOTS, FACTORS = (250, 500, 1000, 2000), (16, 32), (1 / 3, 1.0, 3.0)
SAMPLES = 1000  # of the validation data of each pair


def main_runs(pairs: list[SearchPair], lengths: list[int], seed: int) -> None:
    """Runs at the default peak to their end, and the pilots of each pair."""
    done = {(r["pair"], r["optimizer"], r["updates"]) for r in rows("forecast_runs") if r["seed"] == seed}
    for pair, optimizer, updates in itertools.product(pairs, OPTIMIZERS, (0, *lengths)):
        if (pair.name, optimizer, updates) in done:
            continue
        row = {"pair": pair.name, "measure": pair.measure, "optimizer": optimizer, "updates": updates, "seed": seed}
        started, lr = time.process_time(), RECIPES[optimizer].lr_max
        if updates:
            row |= full(pair, optimizer, updates, lr, seed) | {"per_epoch": len(pair.learner(seed, optimizer).train)}
        else:
            row["pilots"] = pilots(pair, optimizer, lr, seed)
        keep("forecast_runs", row | {"cpu": time.process_time() - started})
        print(pair.name, optimizer, updates, flush=True)


def pilots(pair: SearchPair, optimizer: str, default: float, seed: int) -> list[dict]:
    learn, made = pair.learner(seed, optimizer), []
    for t, factor in itertools.product(PILOTS, FACTORS):
        result = trial(learn.state, learn.train, f"{t} updates", preset("one_cycle", default * factor), learn.evaluate)
        made.append({"lr_max": default * factor, "updates": t, "valid": result.valid})
    return made


def share_of(pair: SearchPair, row: dict) -> float:
    """An accuracy as a share, or the loss."""
    return row["valid"] / 100 if pair.measure == "accuracy" else row["valid"]


def without_learning(pair: SearchPair) -> dict | None:
    """The share of the most frequent class."""
    targets = pair.data()[1][1]
    if pair.measure == "loss":
        return None
    return {"measure": "accuracy", "value": int(targets.flatten().bincount().max()) / targets.numel()}


def forecasts(pairs: list[SearchPair], seed: int) -> Iterator[tuple[str, str, int, Forecast, dict[int, float]]]:
    """Of each run one, and what runs of other lengths came to."""
    kept = {(r["pair"], r["optimizer"], r["updates"]): r for r in rows("forecast_runs") if r["seed"] == seed}
    for pair, optimizer in itertools.product(pairs, OPTIMIZERS):
        came = {n: row for n in LENGTHS if (row := kept.get((pair.name, optimizer, n)))}
        made = kept.get((pair.name, optimizer, 0), {"pilots": []})["pilots"]
        for updates, row in came.items():
            each = PILOTS[updates >= 1000]
            pilots = [
                Pilot(p["lr_max"], each, (p["valid"] or {}).get("loss"), p["valid"] or {})
                for p in made if p["updates"] == each
            ]  # fmt: skip
            valid, passes = {pair.measure: share_of(pair, row)}, updates / row["per_epoch"]
            said = forecast(pilots, valid, updates, passes=passes, samples=SAMPLES, nothing=without_learning(pair))
            yield pair.name, optimizer, updates, said, {n: share_of(pair, r) for n, r in came.items()}


def main_table(pairs: list[SearchPair], seed: int) -> None:
    """Coverage of the 90 % intervals, and their width, by metric and factor."""
    cases: dict[tuple[str, float], list[dict[str, float]]] = {}
    reasons: dict[str, int] = {}
    for name, optimizer, updates, said, came in forecasts(pairs, seed):
        if said.reason:
            reasons[said.reason] = reasons.get(said.reason, 0) + 1
        now = came[updates]
        for e in said.expected[1:]:
            value = came.get(round(updates * e.factor))
            if value is None or math.isnan(value):
                continue
            unit = 0.01 if said.measure == "accuracy" else now / 100
            case = {
                "below": value < e.low, "above": value > e.high, "width": (e.high - e.low) / unit,
                "off": abs(value - e.value) / unit, "stays": abs(value - now) / unit,
            }  # fmt: skip
            cases.setdefault((said.measure, e.factor), []).append(case)
            if case["below"] or case["above"]:
                print(f"outside: {name}, {optimizer}, {updates} x {e.factor}: {now:.4g}, {e}, came to {value:.4g}")
    print("metric    factor    n  inside  below  above  median width  off by  off by if nothing changed")
    whole = [case for made in cases.values() for case in made]
    for (measure, factor), made in [*sorted(cases.items()), (("both", 0), whole)]:
        below, above = (sum(case[k] for case in made) / len(made) for k in ("below", "above"))
        width, off, stays = (median(case[k] for case in made) for k in ("width", "off", "stays"))
        print(
            f"{measure:9} {factor or 'all':>6} {len(made):4}  {1 - below - above:6.1%} {below:6.1%} {above:6.1%}"
            f"  {width:12.2f} {off:7.2f} {stays:7.2f}"
        )
    print("accuracies in points, losses in % of that of the run; cannot say:", reasons)


def main_fit(pairs: list[SearchPair], seed: int) -> None:
    """Constants by maximum likelihood of Student's t with 3 degrees; the quantiles of each pair without itself."""
    from scipy.optimize import minimize

    cases = [
        (name, said, math.log(e.factor), math.log(error(said, came[n]) / error(said, came[updates])))
        for name, _, updates, said, came in forecasts(pairs, seed)
        for e in said.expected[1:]
        if (n := round(updates * e.factor)) in came and error(said, came[n]) > 0
    ]
    names = np.array([name for name, *_ in cases])
    power, often = (np.array(v) for v in zip(*((s.power, math.log1p(s.passes)) for _, s, *_ in cases), strict=True))
    more, changed = np.array([c[2] for c in cases]), np.array([c[3] for c in cases])
    ends = np.array([error(s, s.expected[0].value) for _, s, *_ in cases])
    of_accuracy = np.array([s.measure == "accuracy" for _, s, *_ in cases])
    counted = np.where(of_accuracy, (1 - ends) / (ends * SAMPLES), 0)

    def standard(constants: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        goes_on, worn, of_power = constants
        spread = more * (SPREAD + abs(of_power) * power * often)
        deviation = np.sqrt(REPEATS**2 + counted + spread**2)
        return ((changed + more * (goes_on * np.sqrt(power) - worn * often)) / deviation)[which], deviation[which]

    def cost(constants: np.ndarray, which: np.ndarray) -> float:
        z, deviation = standard(constants, which)
        return float(np.sum(np.log(deviation) + 2 * np.log1p(z**2 / 3)))

    def fitted(which: np.ndarray) -> np.ndarray:
        return minimize(cost, [0.3, 0.03, 0.1], (which,), "Nelder-Mead", options={"maxiter": 4000}).x

    z = np.concatenate([standard(fitted(names != name), names == name)[0] for name in dict.fromkeys(names)])
    print(f"n = {len(cases)}; GOES_ON, WORN, OF_POWER: {fitted(names == names).round(4)}")
    print("quantiles .05 and .95 of what is left, each pair by the others:", np.quantile(z, [0.05, 0.95]).round(3))


def error(said: Forecast, value: float) -> float:
    return 1 - value if said.measure == "accuracy" else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "fit", "table"))
    parser.add_argument("--half", choices=("design", "judge"), default="design")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lengths", default="250,500,1000,2000")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = DESIGN if given.half == "design" else JUDGE
    if given.what != "runs":
        {"fit": main_fit, "table": main_table}[given.what](pairs, given.seed)
    else:
        main_runs(pairs, [int(n) for n in given.lengths.split(",")], given.seed)


if __name__ == "__main__":
    main()

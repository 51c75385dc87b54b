"""Is it worth moving weight decay, dropout, batch size or label smoothing by what short pilots say?

    python bench/search_balance.py            # every arm, a JSON line each, then the table

For each pair of model and data and each seed, at equal total cost: the defaults; what pilots choose, in two fifths of
the budget; and the best of all candidates after one epoch of each (2307.15422), with the rest. The peak is the
default one, so that nothing else differs.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from onecycle import Job, run
from onecycle.jobs.run import prepare
from onecycle.jobs.search import defaults
from onecycle.records.files import RUN
from onecycle.search import balance
from onecycle.search.balance import candidates

SEEDS = range(3)
SHARE, SHORTEST = 0.4, 6  # of the pilots here: at these small budgets none would be made otherwise


def noisy(folder: Path) -> dict[str, str]:
    """Six overlapping classes of points, in training one label in seven wrong."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(18, 12))
    for name, n, wrong in (("train", 1600, 0.15), ("test", 1500, 0.0)):
        which = rng.integers(18, size=n)
        labels = np.where(rng.random(n) < wrong, rng.integers(6, size=n), which % 6)
        points = centres[which] + 0.9 * rng.normal(size=(n, 12))
        rows = [",".join([*(f"{x:.3f}" for x in point), f"c{y}"]) for point, y in zip(points, labels, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join([",".join([*(f"x{i}" for i in range(12)), "y"]), *rows]))
    return {"data": str(folder / "train.csv"), "test": str(folder / "test.csv"), "target": "y"}


def pairs(folder: Path) -> dict[str, Job]:
    common = {"lr_max": "default"}
    return {
        "mlp, 400 digits": Job("digits", model="mlp", limit=400, budget="48 epochs", **common),
        "mlp, digits, sgd": Job("digits", model="mlp", optimizer="sgd", budget="30 epochs", **common),
        "tabular, noisy classes": Job(**noisy(folder), budget="20 epochs", **common),
    }


def fitted(ready: Any, settings: dict[str, Any], budget: str) -> dict[str, float]:
    learner = ready.with_settings(settings)
    valid = learner.fit(budget, ready.job.policy, "default").valid
    return {**learner.evaluate(ready.data.test), "valid_loss": valid["loss"], "valid_accuracy": valid["accuracy"]}


def arms(job: Job) -> dict[str, Any]:
    """What each way came to on the test set, with the same cost."""
    ready = prepare(job)
    epochs = float(job.budget.split()[0])
    tried = candidates(defaults(job, ready.learner), len(ready.data.train) // 8)
    default = fitted(ready, {}, job.budget)
    with TemporaryDirectory() as folder:
        balanced = run(replace(job, balance=True, search=SHARE), Path(folder) / "run", report=False)
        search = RUN.read(Path(folder) / "run")["resolved"]["search"]
    one_epoch = {one: fitted(ready, {one.name: one.value}, "1 epochs") for one in tried}
    one_epoch[None] = fitted(ready, {}, "1 epochs")
    best = min(one_epoch, key=lambda one: one_epoch[one]["valid_loss"])
    settings = {} if best is None else {best.name: best.value}
    rival = fitted(ready, settings, f"{epochs - len(one_epoch):g} epochs")
    return {"default": default, "pilots": {**balanced.test, "chose": search["settings"]}, "rows": search["pilots"],
            "one epoch": {**rival, "chose": settings}}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    balance.LEAST = SHORTEST
    results = []
    with TemporaryDirectory() as folder:
        for name, job in pairs(Path(folder)).items():
            for seed in SEEDS:
                started = time.process_time()
                made = {"pair": name, "seed": seed, **arms(replace(job, seed=seed))}
                results.append({**made, "cpu": time.process_time() - started})
                print(json.dumps(results[-1]), flush=True)
    for name in dict.fromkeys(one["pair"] for one in results):
        of = [one for one in results if one["pair"] == name]
        for arm in ("default", "pilots", "one epoch"):
            values = [100 * one[arm]["accuracy"] for one in of]
            losses = [one[arm]["loss"] for one in of]
            print(f"{name:24} {arm:10} {mean(values):6.2f} ± {stdev(values):.2f} %  loss {mean(losses):.4f}",
                  [one[arm].get("chose") for one in of], file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    main()

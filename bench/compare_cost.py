"""What a comparison costs beside its runs, and what two processes gain over one.

    python bench/compare_cost.py [--pairs 7] [--epochs 3] [--rounds 3]

Cost: the same runs made bare and by `compare`, in turn, in one process with one thread.

Bare: what one would write in a notebook. For each policy and seed a model is built, trained by
`Learner.fit_one_cycle` with its validation data measured after each epoch, and evaluated on the test data. Nothing is
written. Ours: `conduct(spec, tune=False)` of the same runs, in a new folder: writes the records, checkpoints and
weights of each run, ``compare.json`` after each, and at the end statistics and sentences. The plan, which reads the
data and trains for a second, is left out of it and given beside: it is the same for 4 runs and for 400. So is reading
the data left out of the bare runs. Imports are done before. Both train the same weights, which is checked. Ratios are
of wall time and of the process's CPU time (which tells more on a machine that others use); below 1.03 is the aim.

Processes: the wall time of the runs of a comparison by one process and by two, which have started before, each with one
thread, and with the threads that PyTorch takes by default, divided between the two.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import onecycle
from onecycle.experiments import comparison, plan
from onecycle.experiments.comparison import conduct
from onecycle.experiments.execute import PlannedRun
from onecycle.experiments.options import Placement
from onecycle.experiments.spec import Spec
from onecycle.experiments.workers import workers

DATA = "fashion-mnist"
POLICIES = ("one_cycle", "cosine")
LR = 0.1


def spec_of(epochs: float, seeds: int, data: str = DATA, limit: int = 3200) -> Spec:
    settings = {"optimizer": "sgd", "limit": limit}
    return Spec(data, "small-cnn", POLICIES, (epochs,), seeds, settings=settings, tune=False, lr_max=LR)


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    return tuple(now - then for now, then in zip(clocks(), start, strict=True))  # type: ignore[return-value]


def bare(spec: Spec) -> tuple[tuple[float, float], list[float]]:
    """Seconds, without reading the data, and the accuracy of each run."""
    # each seed has its own validation cut, as in a comparison
    loaded = [onecycle.load(spec.data, seed=seed, limit=spec.settings["limit"]) for seed in range(spec.seeds)]
    start, found = clocks(), []
    for seed, data in enumerate(loaded):
        for policy in spec.policies:
            model = onecycle.build_model(spec.model, input_shape=data.input_shape, classes=data.n_classes, seed=seed)
            learn = onecycle.Learner(model, data, optimizer="sgd", seed=seed, verbose=False)
            learn.fit(spec.epochs[0], policy, LR)
            found.append(learn.evaluate(data.test)["accuracy"])
    return since(start), found


def ours(spec: Spec, folder: Path) -> tuple[tuple[float, float], list[float]]:
    start = clocks()
    made = conduct(spec, folder)
    spent = since(start)
    return tuple(a - b for a, b in zip(spent, PLANNED, strict=True)), [r["test_accuracy"] for r in made.table]  # type: ignore[return-value]


PLANNED = [0.0, 0.0]
measured = comparison.measured


def timed_plan(spec: Spec):
    start = clocks()
    speeds = measured(spec)
    PLANNED[:] = since(start)
    return speeds


def cost(pairs: int, epochs: float) -> list[str]:
    torch.set_num_threads(1)
    comparison.measured = timed_plan
    spec, small = spec_of(epochs, 1), spec_of(1, 1, "digits", 320)
    walls, cpus, plans, lengths = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        bare(small), ours(small, Path(folder) / "warm")  # imports
        for i in range(pairs):
            arms = [lambda: bare(spec), lambda i=i: ours(spec, Path(folder) / str(i))]
            order = (0, 1) if i % 2 == 0 else (1, 0)
            results = {arm: arms[arm]() for arm in order}
            (raw, mine), (full, its) = results[0], results[1]
            if mine != its:
                raise SystemExit(f"the two train different weights: {mine}, {its}")
            walls.append(full[0] / raw[0])
            cpus.append(full[1] / raw[1])
            plans.append(PLANNED[0])
            lengths.append(raw[0] / len(spec.policies))
            print(f"pair {i + 1}/{pairs}: wall {walls[-1]:.3f}, CPU {cpus[-1]:.3f}", file=sys.stderr)
    name = f"{DATA}, {spec.settings['limit']:,} samples, small-cnn, {epochs:g} epochs"
    return [
        "| runs | seconds a run (bare) | ratio of wall time | ratio of CPU time | the plan, once |",
        "| --- | --- | --- | --- | --- |",
        f"| {len(spec.policies)} x {name} | {statistics.median(lengths):.1f} | {spread(walls)} | {spread(cpus)} | "
        f"{statistics.median(plans):.1f} s |",
    ]


def spread(values: list[float]) -> str:
    low, high = (sorted(values)[0], sorted(values)[-1])
    return f"{statistics.median(values):.3f} ({low:.3f} to {high:.3f}, n = {len(values)})"


def seconds_of(jobs: int, spec: Spec, folder: Path) -> float:
    """Wall time of the runs of `spec`, the processes having started."""
    setting = plan.settings(spec)[0]
    cells = plan.conditions(spec, setting)

    def tasks(name: str, seeds: range, spec: Spec) -> list[PlannedRun]:
        keys = [(cell, seed) for seed in seeds for cell in cells]
        return [PlannedRun(folder / f"{name}-{c.policy}-{s}", plan.job_for(spec, c, LR, s)) for c, s in keys]

    small = spec_of(spec.epochs[0], 1, "digits", 320)
    with workers(Placement(jobs=jobs)) as work:
        list(work(tasks("warm", range(2), small)))
        start = time.perf_counter()
        outcomes = list(work(tasks("run", range(spec.seeds), spec)))
        spent = time.perf_counter() - start
    if any(outcome.status != "finished" for _, outcome in outcomes):
        raise SystemExit(f"a run failed: {outcomes}")
    return spent


def child(jobs: int, threads: int, epochs: float, seeds: int) -> float:
    """The same in a process of its own, whose threads are its parent's business alone."""
    command = [sys.executable, __file__, "--child", f"{jobs},{threads},{epochs},{seeds}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def processes(rounds: int, epochs: float) -> list[str]:
    """Throughput of two processes over that of one."""
    cores = os.cpu_count() or 1
    cases = {"1 thread a process": (1, 2), f"{cores} threads, divided": (cores, cores)}
    rows = ["| threads | one process | two | throughput, two over one |", "| --- | --- | --- | --- |"]
    for name, (one, two) in cases.items():
        singles, doubles = [], []
        for i in range(rounds):
            singles.append(child(1, one, epochs, 2))
            doubles.append(child(2, two, epochs, 2))
            print(f"{name}, round {i + 1}/{rounds}: {singles[-1]:.1f} s, {doubles[-1]:.1f} s", file=sys.stderr)
        ratios = [a / b for a, b in zip(singles, doubles, strict=True)]
        rows.append(
            f"| {name} | {statistics.median(singles):.1f} s | {statistics.median(doubles):.1f} s | {spread(ratios)} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        jobs, threads, epochs, seeds = (float(part) for part in given.child.split(","))
        torch.set_num_threads(int(threads))
        with tempfile.TemporaryDirectory() as folder:
            print(seconds_of(int(jobs), spec_of(epochs, int(seeds)), Path(folder)))
        return
    lines = [*cost(given.pairs, given.epochs), "", *processes(given.rounds, given.epochs / 2)]
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()

"""Test accuracy by wall time, from the start of the command to its end.

    python bench/time_to_accuracy.py fashion-mnist 60s                          # the defaults
    python bench/time_to_accuracy.py cifar10 5m --seeds 5 -- --test-flips
    python bench/time_to_accuracy.py cifar10 5m --seeds 5 -- --model resnet9 --precision bf16

Each run is `onecycle train DATA --budget BUDGET` in a process of its own, with the options after ``--``; its test
accuracy, its updates and epochs, the width of a net chosen by the time, and the seconds of the whole process are
printed, with the load of the machine before it, and their medians and ranges at the end. Nothing else should run beside
it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def trained(data: str, budget: str, seed: int, options: list[str]) -> dict[str, Any]:
    """The record of one run, its ``run.json``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onecycle", "train", data, "--budget", budget, "--seed", str(seed)]
        subprocess.run([*command, *options, "--out", f"{folder}/run"], check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(folder, "run", "run.json").read_text())


def width_of(record: dict[str, Any]) -> int:
    """The width of the net of a run; 0 where it has none."""
    return (record["config"]["model_options"] or {}).get("width", 0)


def words_and_options() -> tuple[list[str], list[str]]:
    """What the shell gave: to the benchmark, and after ``--`` to onecycle train."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end + 1 :]


def run(data: str, budget: str, seed: int, options: list[str]) -> dict[str, float]:
    """One run: accuracy in percent, updates, epochs, width, seconds, and the load before it."""
    load, started = os.getloadavg()[0], time.perf_counter()
    record = trained(data, budget, seed, options)
    seconds, result = time.perf_counter() - started, record["result"]
    flipped = {"flipped": 100 * result["flipped"]["accuracy"]} if "flipped" in result else {}
    return {
        "test": 100 * result["test"]["accuracy"], **flipped, "updates": result["updates"], "epochs": result["epochs"],
        "width": width_of(record), "seconds": seconds, "load": load,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("budget", help='a time, such as "60s" or "5m"')
    parser.add_argument("--seeds", type=int, default=5)
    words, options = words_and_options()
    given = parser.parse_args(words)
    runs = []
    for seed in range(given.seeds):
        runs.append(run(given.data, given.budget, seed, options))
        print(seed, {name: round(value, 2) for name, value in runs[-1].items()}, flush=True)
    for name in runs[0]:
        values = [one[name] for one in runs]
        print(f"{name}: {statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]")


if __name__ == "__main__":
    main()

"""A time budget beside other work: what a command takes against what it was asked to, and the updates that it makes.

    python bench/busy.py [--budget 20] [--load 4] [--repeats 3] [--arguments "train digits"]

The load are so many Python processes that count; they end with each run. "spinning" is the same with the spinning of
GNU's OpenMP as it is by default, which GOMP_SPINCOUNT=300000 says, so that onecycle leaves it alone. Each run is a
process of its own, measured from outside; the two take turns. Nothing is said about the number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT = "import time\nend = time.time() + {seconds}\nwhile time.time() < end:\n    sum(range(100_000))"
WAYS = {"onecycle": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}


def run(arguments: list[str], budget: float, load: int, environment: dict[str, str], most: float) -> tuple[float, str]:
    """The seconds of one command, and what it came to."""
    busy = [subprocess.Popen([sys.executable, "-c", COUNT.format(seconds=most)]) for _ in range(load)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "onecycle", *arguments, "--budget", f"{budget}s", "--out", str(out)]
        began = time.perf_counter()
        try:
            subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=most)
        except subprocess.TimeoutExpired:
            return most, "given up"
        finally:
            seconds = time.perf_counter() - began
            for one in busy:
                one.kill()
                one.wait()
        result = json.loads((out / "run.json").read_text())["result"]
        return seconds, f"{result['updates']} updates, {result['seconds']:.1f} s of them, test {result['test']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=20)
    parser.add_argument("--load", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=float, default=15, help="budgets after which a run is given up")
    parser.add_argument("--arguments", default="train digits")
    given = parser.parse_args()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(given.repeats):
        for way, environment in WAYS.items():
            most = given.most * given.budget
            seconds, came = run(shlex.split(given.arguments), given.budget, given.load, environment, most)
            taken[way].append(seconds / given.budget)
            print(f"{way}: {seconds:.1f} s of {given.budget:g}; {came}", flush=True)
    for way, shares in taken.items():
        low, high = min(shares), max(shares)
        print(f"{way}, load {given.load}: {statistics.median(shares):.2f} ({low:.2f} to {high:.2f}) of the budget")


if __name__ == "__main__":
    main()

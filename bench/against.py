"""This checkout against another one: CPU time of the same training, in processes that take turns.

    python bench/against.py OTHER [--pairs 9] [--updates 400]

OTHER is a checkout of another version, such as a clone of an older commit. Each measurement is a process of its own,
with one thread, which runs `ours` of that checkout's bench/overhead.py after a warm-up. The ratio is this checkout's
CPU seconds over the other's, pair by pair: below 1, this one is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, sys, tempfile, time
from pathlib import Path
root, updates = sys.argv[1], int(sys.argv[2])
sys.path[:0] = [f"{root}/src", f"{root}/bench"]
import torch
torch.set_num_threads(1)
import onecycle, overhead
data = onecycle.load("fashion-mnist", limit=25_600)
def seconds(name, size, n, on_disk):
    with tempfile.TemporaryDirectory() as out:
        began = time.process_time()
        overhead.ours(name, size, n, data, Path(out) / "run" if on_disk else None)
        return time.process_time() - began
taken = {}
for case, (name, size) in overhead.CASES.items():
    seconds(name, size, 5, True)
    for n in (1, updates):
        for on_disk in (False, True):
            what = f"{case}, {n} update{'s' * (n > 1)}, {'on disk' if on_disk else 'in memory'}"
            taken[what] = min(seconds(name, size, n, on_disk) for _ in range(5 if n == 1 else 1))
print(json.dumps(taken))
"""


def measure(root: Path, updates: int) -> dict[str, float]:
    """CPU seconds of each case by the checkout in `root`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    words = [sys.executable, "-c", CHILD, str(root), str(updates)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--updates", type=int, default=400)
    options = parser.parse_args()
    here, other = Path(__file__).resolve().parents[1], options.other.resolve()
    pairs = []
    for i in range(options.pairs):
        taken = {root: measure(root, options.updates) for root in ([here, other] if i % 2 else [other, here])}
        pairs.append((taken[here], taken[other]))
    print("| case | CPU time, this one / the other: median | min ... max | n |\n| --- | --- | --- | --- |")
    for case in pairs[0][0]:
        ratios = [ours[case] / theirs[case] for ours, theirs in pairs]
        middle = statistics.median(ratios)
        print(f"| {case} | {middle:.3f} | {min(ratios):.3f} ... {max(ratios):.3f} | {len(ratios)} |")


if __name__ == "__main__":
    main()

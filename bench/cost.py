"""What a run costs beside its training: checkpoints, memory, and finding the data again.

    python bench/cost.py [--epochs 3]

Each part runs in a process of its own. Checkpoints: seconds spent in saving, as a share of a run of small-cnn on
Fashion-MNIST, at the default frequency. Memory: the largest resident set of training on Fashion-MNIST. Data: seconds
from an empty process (torch imported) to CIFAR-10 ready, the second time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

CHECKPOINTS = """
import sys, time, tempfile, torch, onecycle
from onecycle import observers
spent = []
save = observers.Checkpointer.save
def timed(self):
    start = time.perf_counter()
    path = save(self)
    spent.append(time.perf_counter() - start)
    return path
observers.Checkpointer.save = timed
with tempfile.TemporaryDirectory() as folder:
    job = onecycle.Job(data="fashion-mnist", model="{model}", limit={limit}, budget="{epochs} epochs")
    result = onecycle.run(job, folder + "/run")
share = sum(spent) / result["seconds"]
print(f"{{len(spent)}} checkpoints in {{result['seconds']:.1f}} s: {{100 * share:.2f}} % of the run")
"""
MEMORY = """
import resource, tempfile, onecycle
with tempfile.TemporaryDirectory() as folder:
    onecycle.run(onecycle.Job(data="fashion-mnist", budget="{epochs} epochs"), folder + "/run")
print(f"{{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.3f}} GiB")
"""
DATA = """
import time, torch
start = time.perf_counter()
import onecycle
data = onecycle.load("cifar10")
print(f"{time.perf_counter() - start:.2f} s, {len(data.train) + len(data.valid) + len(data.test):,} images")
"""


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "failed: " + done.stderr.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs
    print(
        "checkpoints, small-cnn, long epochs:", said(CHECKPOINTS.format(model="small-cnn", limit=None, epochs=epochs))
    )
    print(
        "checkpoints, mlp, epochs of a few hundredths of a second:",
        said(CHECKPOINTS.format(model="mlp", limit=640, epochs=100)),
    )
    print("memory:", said(MEMORY.format(epochs=1)))
    print("CIFAR-10 again:", *(said(DATA) for _ in range(4)), sep="\n  ")


if __name__ == "__main__":
    main()

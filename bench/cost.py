"""What a run costs beside its training: checkpoints, memory, and finding the data again.

    python bench/cost.py [--epochs 3]

Each part runs in a process of its own. Checkpoints: seconds that a training waits for them, as a share of a run of
small-cnn on Fashion-MNIST, at the default frequency; and those of a large model, beside a bare torch.save. Memory: the
largest resident set of training on Fashion-MNIST. Data: seconds from an empty process (torch imported) to CIFAR-10
ready, the second time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

CHECKPOINTS = """
import sys, time, tempfile, torch, onecycle
from onecycle.records.history import Checkpointer
spent, saved = [], []
call, save = Checkpointer.__call__, Checkpointer.save
def timed(self, event):
    start = time.perf_counter()
    call(self, event)
    spent.append(time.perf_counter() - start)
Checkpointer.__call__ = timed
Checkpointer.save = lambda self: saved.append(save(self))
with tempfile.TemporaryDirectory() as folder:
    job = onecycle.Job(data="fashion-mnist", model="{model}", limit={limit}, budget="{epochs} epochs")
    result = onecycle.run(job, folder + "/run", report=False)
share = sum(spent) / result.seconds
print(f"{{len(saved)}} checkpoints in {{result.seconds:.1f}} s: {{100 * share:.2f}} % of the run")
"""
# A file as torch.save writes it, the checkpoint, and what a training waits for, in turns; the state is of 50 million
# parameters, with the two moments of AdamW.
LARGE = """
import os, statistics, tempfile, time, torch
from pathlib import Path
from torch import nn
from onecycle import Runtime, Supervised, TrainState
from onecycle.records.checkpoint import save
from onecycle.records.history import Checkpointer
torch.set_num_threads(1)
model = nn.Sequential(*[nn.Linear(2500, 2500) for _ in range(8)])
optimizer = torch.optim.AdamW(model.parameters())
for p in model.parameters():
    p.grad = torch.randn_like(p)
optimizer.step()
state = TrainState(model, optimizer, Supervised(nn.functional.mse_loss), Runtime.choose("cpu"))
def bare(folder):
    with open(folder / "bare.pt", "wb") as file:
        torch.save(state.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())
def timed(call):
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - cpu
taken = {{"torch.save and fsync": [], "checkpoint": [], "the training waits": []}}
with tempfile.TemporaryDirectory(dir=".") as place:
    folder = Path(place)
    checkpointer = Checkpointer(state, folder / "beside")
    checkpointer.save()
    checkpointer.wait()
    for step in range({repeats}):
        taken["torch.save and fsync"].append(timed(lambda: bare(folder)))
        (folder / "bare.pt").unlink()
        taken["checkpoint"].append(timed(lambda: save(state.state_dict(), folder / "here", step, keep=1)))
        taken["the training waits"].append(timed(checkpointer.save))
        checkpointer.wait()
    size = sum(path.stat().st_size for path in (folder / "here").rglob("*.pt"))
print(f"{{size / 1e6:.0f}} MB, n = {repeats}; seconds, and of a core, median (least to most)")
for name, pairs in taken.items():
    said = [f"{{statistics.median(v):.2f}} ({{min(v):.2f}} to {{max(v):.2f}})" for v in zip(*pairs)]
    print(f"  {{name}}: {{said[0]}}, {{said[1]}}")
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
    print("checkpoints, 50 million parameters:", said(LARGE.format(repeats=7)))
    print("memory:", said(MEMORY.format(epochs=1)))
    print("CIFAR-10 again:", *(said(DATA) for _ in range(4)), sep="\n  ")


if __name__ == "__main__":
    main()

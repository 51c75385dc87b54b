"""What an update costs with a tracker: against the same run without one, interleaved, one thread, on the CPU.

    .venv-hosts/bin/python bench/tracking.py [--pairs 9] [--epochs 40]

The digits, batches of 64, `Learner.fit` in memory without validation, AdamW; a model whose update takes a fraction of a
millisecond and one whose takes a few. What is timed goes from the first update to the last: neither the opening of a
run in the tracker nor its end, with its figures, is in it. The ratio is the CPU time of this process with the tracker
over that without, and the wall time's beside it (another process writes for wandb, whose time only the latter has).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time

import torch

import onecycle
from onecycle.training.options import TRACKERS

CASES = ("mlp", "small-cnn")


def timed(name: str, track: str | None, epochs: int, data: onecycle.Data) -> tuple[float, float, int]:
    """Seconds and CPU seconds of the updates but the first, and how many they are."""
    model = onecycle.build_model(name, input_shape=data.input_shape, classes=data.n_classes, seed=0)
    learn = onecycle.Learner(model, data.train, optimizer="adamw", batch_size=64, track=track, verbose=False)
    first: list[float] = []
    last: list[float] = []

    def clock(event: object) -> None:
        last[:] = [time.perf_counter(), time.process_time()]
        first[:] = first or last

    result = learn.fit(epochs, lr_max=1e-3, observers=[clock])
    return last[0] - first[0], last[1] - first[1], result.updates - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = onecycle.load("digits")
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ["TRACKIO_DIR"] = f"{place}/trackio"
        for name in CASES:
            seen: dict[str, list[tuple[float, float, float]]] = {track: [] for track in TRACKERS}
            plain: list[float] = []
            for pair in range(asked.pairs + 1):
                for track in TRACKERS:
                    order = (None, track) if pair % 2 else (track, None)
                    times = {one: timed(name, one, asked.epochs, data) for one in order}
                    (wall, cpu, n), (wall_with, cpu_with, _) = times[None], times[track]
                    if pair:  # the first pair imports what is needed
                        seen[track].append((cpu_with / cpu, 1e6 * (cpu_with - cpu) / n, wall_with / wall))
                        plain.append(1e6 * cpu / n)
            print(f"\n{name}: {statistics.median(plain):.0f} us of CPU an update without a tracker, n = {asked.pairs}")
            for track, pairs in seen.items():
                ratios, more, walls = (sorted(column) for column in zip(*pairs, strict=True))
                print(
                    f"{track:12} CPU x {statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]  "
                    f"+{statistics.median(more):.0f} us [{more[0]:.0f}, {more[-1]:.0f}]  "
                    f"wall x {statistics.median(walls):.3f} [{walls[0]:.3f}, {walls[-1]:.3f}]"
                )
            sys.stdout.flush()


if __name__ == "__main__":
    main()

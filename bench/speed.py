"""What each setting gives on this machine: the profile of four pairs of model and data, a line each.

    ONECYCLE_DATA=FOLDER python bench/speed.py [--budget 3m] [--processor] [--only NAME]

FOLDER has cifar10, tables/diamonds.csv and text/tinyshakespeare.txt. One thread. With `--processor` times are the
processor's, for a machine that others use too: the ratios are about those of a quiet one.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

import onecycle
from onecycle.jobs.run import prepare
from onecycle.profiling import api, measure
from onecycle.profiling.clock import PARTS, HostTime
from onecycle.profiling.measure import Timing
from onecycle.profiling.result import Profile
from onecycle.text import short_duration

PAIRS = {
    "small-cnn, digits": {"data": "digits", "model": "small-cnn"},
    "tabular, diamonds": {"data": "tables/diamonds.csv", "target": "price", "model": "tabular", "limit": 20000},
    "mlp, diamonds": {"data": "tables/diamonds.csv", "target": "price", "model": "mlp", "limit": 20000},
    "char-transformer, Shakespeare": {"data": "text/tinyshakespeare.txt"},
    "resnet9, CIFAR-10": {"data": "cifar10", "model": "resnet9", "limit": 5000},
}


class ProcessorTime(HostTime):
    """The time that this process computes."""

    def now(self) -> float:
        return time.process_time()


def times(profile: Profile, **changes: object) -> str:
    """How many times the samples a second of the present setting, by updates; a gap where it was not measured."""
    for one in profile.others:
        if one.setting.changes(profile.present.setting) == changes and not one.failed:
            return f"{_pace(one) / _pace(profile.present):.2f}"
    return "-"


def _pace(one: Timing) -> float:
    return one.samples / one.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--only", choices=PAIRS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.processor:
        measure.time_of, api.cores = lambda device: ProcessorTime(), lambda: 1
    print(f"| | update | {' | '.join(PARTS)} | bf16 | channels first | batch 1/2 | 2 | 4 | 8 |\n| {'--- | ' * 13}")
    for name in [given.only] if given.only else PAIRS:
        options = dict(PAIRS[name])
        inside = Path(os.environ.get("ONECYCLE_DATA", ".")) / str(options["data"])
        learn = prepare(
            onecycle.Job(**{**options, "data": str(inside) if inside.exists() else options["data"]})
        ).learner
        made = learn.profile(given.budget)
        size, shares = made.present.setting.batch_size or 0, made.present.shares
        cells = [short_duration(made.present.seconds), *(f"{100 * shares[part]:.0f} %" for part in PARTS)]
        cells += [times(made, precision="bf16"), times(made, channels_last=False)]
        cells += [times(made, batch_size=int(factor * size)) for factor in (0.5, 2, 4, 8)]
        optimizer = learn.resolved["optimizer"]
        print(f"| {name}, {optimizer}, batch {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

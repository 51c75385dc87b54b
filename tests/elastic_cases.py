"""What a rank that torchrun starts does in the tests: the command or a script, with faults in its first start."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import faults
import torch
from ranks_makers import short_pilots

from onecycle.commands.app import main
from onecycle.records import history as observers
from onecycle.records import run as runs
from onecycle.training.launched import restarts

RANK = int(os.environ.get("RANK", "0"))
PIDS = Path("pids")  # a folder where each rank says which process it is, where there is one
NETS = """
from torch import nn

def net(input_shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(256, classes),
    )
"""


def command(
    words: list[str], *, die: tuple[str, int, str] | None = None, half: int | None = None, of: int = 0,
    slow: float = 0.0, often: bool = True,
) -> None:  # fmt: skip
    """The command with these words: a checkpoint after each update if it may, each `slow` to be written.

    In the first start the rank `of` is killed as `die` or `half` say, see `faults`.
    """
    torch.set_num_threads(1)
    short_pilots()
    if PIDS.exists():
        (PIDS / str(RANK)).write_text(str(os.getpid()))
    os.fsync = lambda _: time.sleep(slow)  # a kill, unlike a power cut, leaves what is written to the system
    if often:
        runs.Checkpointer = functools.partial(observers.Checkpointer, every=0.0, share=1e9)
    if restarts() == 0 and of == RANK:
        if die:
            faults._die(*die)
        if half:
            faults._die_in_file(half)
    main(words)


def script(out: str, **faulty: Any) -> None:
    """A script with a learner, which does not know of ranks."""
    from onecycle import Learner, build_model, load

    if restarts() == 0 and RANK == 1:
        faults._die(*faulty["die"]) if "die" in faulty else None
    runs.Checkpointer = functools.partial(observers.Checkpointer, every=0.0, share=1e9)
    torch.set_num_threads(1)
    data = load("digits", limit=320)
    model = build_model("mlp", input_shape=data.input_shape, classes=10, dropout=0.2)
    learner = Learner(model, data, batch_size=32, verbose=False)
    learner.fit(3, lr_max=0.02, out=out)

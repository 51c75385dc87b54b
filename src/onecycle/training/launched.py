"""What a launcher, such as torchrun, says of several ranks in the environment."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError

# Beside WORLD_SIZE.
NUMBERS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")


def world_asked() -> int:
    """How many ranks a launcher says that there are.

    Raises:
        ConfigError: WORLD_SIZE is no number, or of several ranks another variable that a launcher sets is none.
    """
    said = os.environ.get("WORLD_SIZE", "1") or "1"
    if not said.isdecimal() or not int(said):
        raise ConfigError(f"WORLD_SIZE is the number of ranks, from 1; received {said!r}: set it right, or unset it")
    for name in NUMBERS if int(said) > 1 else ():
        if not (number := os.environ.get(name, "0")).isdecimal():
            raise ConfigError(f"{name} is a whole number, from 0; received {number!r}: set it right, or unset it")
    return int(said)


def restarts() -> int:
    """How often torchrun has restarted the ranks by now."""
    said = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(said) if said.isdecimal() else 0


def launch() -> str | None:
    """The name of this start by torchrun, which the restarts that it makes have too; None where it has none.

    It is what --rdzv-id says, where that was given; else the folder that this torchrun keeps for its ranks.
    """
    said, file = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RUN_ID", "ERROR_FILE"))
    if said and said != "none":
        return said
    return str(Path(file).parents[2]) if file and len(Path(file).parents) > 2 else None


def is_main_rank() -> bool:
    """Whether this process is the only rank, or rank 0."""
    return world_asked() == 1 or os.environ.get("RANK", "0") == "0"


def accelerate_started_one() -> bool:
    """Whether `accelerate launch` was asked for several processes, and started this one alone."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ

"""What a launcher, such as torchrun, says of several ranks in the environment."""

from __future__ import annotations

import os

from ..errors import ConfigError


def world_asked() -> int:
    """How many ranks a launcher says that there are.

    Raises:
        ConfigError: WORLD_SIZE is no number.
    """
    said = os.environ.get("WORLD_SIZE", "1") or "1"
    if not said.isdecimal() or not int(said):
        raise ConfigError(f"WORLD_SIZE is the number of ranks, from 1; received {said!r}: set it right, or unset it")
    return int(said)


def restarts() -> int:
    """How often torchrun has restarted the ranks by now."""
    said = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(said) if said.isdecimal() else 0


def is_main_rank() -> bool:
    """Whether this process is the only rank, or rank 0."""
    return world_asked() == 1 or os.environ.get("RANK", "0") == "0"


def accelerate_started_one() -> bool:
    """Whether `accelerate launch` was asked for several processes, and started this one alone."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ

"""Where a record is from: when it was made, by which command, with which versions and on which hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def origin() -> dict[str, Any]:
    """The time, command, versions, hardware and git commit of this process, as plain data.

    What stays as it is, the hardware and the commit of a folder, is asked for once a process.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {"onecycle": _version(), "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "system": _system(),
        },
        "git_commit": _git_commit(os.getcwd()),
    }


@cache
def _version() -> str:
    try:
        return version("onecycle")
    except PackageNotFoundError:
        return "source"


@cache
def _system() -> str:
    return platform.platform()


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def _git_commit(folder: str) -> str | None:
    """The commit of a folder, as it was when it was first asked for; None outside a checkout.

    The code that runs is that of then: a process goes on with what it has loaded.
    """
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, cwd=folder)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""What a machine has for an update: memory that is free, memory that was used, hardware for a precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
# GPUs from this capability on compute in fp16, and from this in bf16, faster than in float32.
TENSOR_CORES = {"fp16": (7, 0), "bf16": (8, 0)}


def support(device: torch.device) -> dict[str, str | None]:
    """What computes each narrow precision on `device`, in words; None where nothing does, so that it is emulated.

    Precisions that cannot be used there are left out.
    """
    if device.type == "cpu":
        units = [
            name
            for name, query in (("AMX", "_is_amx_tile_supported"), ("avx512_bf16", "_is_avx512_bf16_supported"))
            if getattr(torch.cpu, query, lambda: False)()
        ]
        with suppress(AttributeError, RuntimeError):  # of processors without x86's
            if (
                not units
                and os.uname().machine not in ("x86_64", "AMD64")
                and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            ):
                units = ["mkldnn"]
        return {"bf16": " and ".join(units) or None}
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return {kind: f"{name}" if capability >= least else None for kind, least in TENSOR_CORES.items()}
    return dict.fromkeys(("fp16", "bf16"), device.type)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free: of the device, or of this machine and what limits this process; None where none says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [_available(), _limited()]
    return min((n for n in known if n is not None), default=None) if device.type == "cpu" else None


def _available() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None


def _limited() -> int | None:
    """What a control group leaves, where one limits this process."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            return int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
    return None


@dataclass
class Peak:
    """The bytes in use at the start and the most within a block; None where that is not known."""

    start: int | None = None
    most: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure within the block the most memory in use: of the device, or of this process on Linux."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        peak.start = torch.cuda.memory_allocated(device)
    elif device.type == "cpu":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the most is what it is now
            peak.start = _status("VmRSS")
    try:
        yield peak
    finally:
        if device.type == "cuda":
            peak.most = torch.cuda.max_memory_allocated(device)
        elif peak.start is not None:
            peak.most = _status("VmHWM")


def _status(name: str) -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left; torch's allocator on the CPU has no class for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)

"""What a machine has for training, and what it lacks: packages, device, cores, memory, how threads wait, the folder."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ..checks import cores
from ..text import count, listed, size

OK, ADVICE, FAULT = "ok", "advice", "fault"
NEEDED = ("torch", "numpy", "safetensors", "pyarrow", "pillow", "cyclopts", "rich", "scipy")
COMPILED = ("torchvision", "timm")  # torchvision is for one version of torch, and timm imports it
LEFT_OUT = ("dev", "all")  # extras: of those who change onecycle, and what is all of the others
FREE = 2**30  # bytes of memory, and of the disk, below which there is advice
SPIN = 0.002  # seconds of a core that waiting threads take after a computation, from which on they spin


@dataclass(frozen=True)
class HealthFinding:
    """One thing that was looked at: its `status` is "ok", "advice" or "fault", with what to do about it."""

    name: str
    status: str
    found: str
    mend: str = ""


def diagnose(folder: str | Path = ".") -> list[HealthFinding]:
    """Look at what is installed, at the machine, and at `folder`, where runs are to be written; nothing stays there."""
    findings = [_python(), *_packages(), _extras(), *_imports()]
    parts: list[Callable[[], HealthFinding]] = [_torch, _device, _cores, _memory, _threads, _training]
    for part in parts if not any(one.status == FAULT for one in findings) else ():
        try:
            findings.append(part())
        except Exception as error:  # whatever a broken installation raises is what was looked for
            said = str(error).partition("\n")[0] or type(error).__name__
            findings.append(HealthFinding(part.__name__[1:], FAULT, f"fails: {type(error).__name__}: {said}", _again()))
    return [*findings, _folder(Path(folder))]


def _again() -> str:
    return "pip install --force-reinstall torch, as https://pytorch.org/get-started says for this machine"


def _python() -> HealthFinding:
    return HealthFinding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[HealthFinding]:
    there = {name: _version(name) for name in NEEDED}
    missing = [name for name, found in there.items() if found is None]
    yield HealthFinding("onecycle", OK, _version("onecycle") or "from its sources")
    known = ", ".join(f"{name} {found}" for name, found in there.items() if found)
    if missing:
        yield HealthFinding("packages", FAULT, f"missing: {listed(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield HealthFinding("packages", OK, known)


def _extras() -> HealthFinding:
    """The optional packages, by the extra that brings them."""
    try:
        lines = requires("onecycle") or []
    except PackageNotFoundError:
        return HealthFinding("extras", ADVICE, "unknown: onecycle runs from its sources", "pip install -e '.[all]'")
    lacking: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", line)
        named = re.match(r"[\w.-]+", line)
        if extra and named and extra[1] not in LEFT_OUT and _version(named[0]) is None:
            lacking.setdefault(extra[1], []).append(named[0])
    if not lacking:
        return HealthFinding("extras", OK, "all are installed")
    said = ", ".join(f"{extra} ({', '.join(names)})" for extra, names in lacking.items())
    return HealthFinding("extras", ADVICE, f"not installed: {said}", f"pip install 'onecycle[{','.join(lacking)}]'")


def _imports() -> Iterator[HealthFinding]:
    """Those of `COMPILED` that are installed and fail when they are imported."""
    for name in COMPILED:
        try:
            if _version(name) is not None:
                import_module(name)
        except Exception as error:  # whatever a library of another version raises
            said = str(error).partition("\n")[0]
            found = f"{name} {_version(name)} is installed, but cannot be imported: {type(error).__name__}: {said}"
            mend = "pip install --force-reinstall torch torchvision: both at once, from the same index"
            yield HealthFinding("import", ADVICE, found, mend)


def _torch() -> HealthFinding:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if getattr(torch.version, "hip", None):
        build = f"ROCm {torch.version.hip}"
    found = f"{torch.__version__}, built for {build}"
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        return HealthFinding("torch", ADVICE, f"{found}, and this machine has NVIDIA's tools", _again())
    return HealthFinding("torch", OK, found)


def _device() -> HealthFinding:
    import torch

    from ..profiling.machine import support
    from ..training.runtime import Runtime

    device = Runtime.choose().device
    fast = {name: by for name, by in support(device).items() if by}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    by = "; ".join(f"{precision} by {unit}" for precision, unit in fast.items())
    found = f"{name}, fp32" + (f"; {by} (--precision)" if by else "; narrower precisions are emulated, and slower")
    if torch.version.cuda and device.type == "cpu":
        return HealthFinding(
            "device", ADVICE, f"{found}; torch sees no GPU", "look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"
        )
    return HealthFinding("device", OK, found)


def _cores() -> HealthFinding:
    import torch

    here, there, threads = cores(), os.cpu_count() or 1, torch.get_num_threads()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    found = f"{count(here, 'core')} of {there} for this process, {count(threads, 'thread')}; load {busy:.1f}"
    if threads > here:
        return HealthFinding("cores", ADVICE, f"{found}: threads outnumber cores", f"OMP_NUM_THREADS={here}")
    if busy > 1.5 * there:
        return HealthFinding(
            "cores", ADVICE, f"{found}: other processes want them", "fewer at once; a time budget is for all"
        )
    return HealthFinding("cores", OK, found)


def _memory() -> HealthFinding:
    from ..profiling.machine import free_memory
    from ..training.runtime import Runtime

    device = Runtime.choose().device
    free = free_memory(device)
    if free is None:
        return HealthFinding("memory", OK, "not known here")
    found = f"{size(free)} free{'' if device.type == 'cpu' else f' on {device}'}"
    mend = "a smaller batch_size with accumulate; data beyond memory stay encoded"
    return HealthFinding("memory", OK, found) if free >= FREE else HealthFinding("memory", ADVICE, found, mend)


def _threads() -> HealthFinding:
    """How threads of a computation wait, and what that takes of the cores, measured after a computation in all."""
    import torch

    from ..training.sharing import ELEMENTS, SET

    said = [f"{name}={os.environ[name]}" for name in (*SET, "KMP_BLOCKTIME") if name in os.environ]
    threads = torch.get_num_threads()
    if threads == 1:
        return HealthFinding("threads", OK, f"one: none waits for another{f' ({listed(said)})' if said else ''}")
    spun = min(spinning_seconds(ELEMENTS * threads) for _ in range(5))
    found = f"{threads}; after a computation those that wait take {1000 * spun:.1f} ms of a core"
    if said:
        return HealthFinding("threads", OK, f"{found}, as {listed(said)} says")
    if spun < SPIN:
        return HealthFinding("threads", OK, f"{found}: they sleep")
    why = "they spin, which is fastest alone; beside other work the runs of onecycle have them sleep"
    return HealthFinding("threads", OK, f"{found}: {why} (for other programs: GOMP_SPINCOUNT=0)")


def spinning_seconds(elements: int) -> float:
    """Seconds of the cores that this process takes while it sleeps, right after torch computed in all its threads."""
    import torch

    values = torch.ones(elements)
    for _ in range(3):
        values.mul_(1.0)
    before = time.process_time()
    time.sleep(0.05)
    return time.process_time() - before


def _training() -> HealthFinding:
    """Two updates of a tiny model, as a run does them."""
    import torch

    from ..training.runtime import Runtime

    device = Runtime.choose().device
    model = torch.nn.Linear(4, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(torch.ones(8, 4, device=device)), torch.zeros(8, device=device).long()
        )
        loss.backward()
        optimizer.step()
    if not bool(torch.isfinite(loss)):
        return HealthFinding("training", FAULT, f"the loss of a tiny model on {device} is {float(loss)}", _again())
    return HealthFinding("training", OK, f"a tiny model learns on {device}")


def _folder(folder: Path) -> HealthFinding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        mend = "go to a folder that can be written: runs are made in runs/ there, or in --out"
        return HealthFinding("folder", FAULT, f"{folder.resolve()} cannot be written: {error.strerror}", mend)
    found = f"{folder.resolve()} can be written, {size(free)} free"
    if free < FREE:
        return HealthFinding(
            "folder", ADVICE, found, "free some space: a run keeps checkpoints of its model and optimizer"
        )
    return HealthFinding("folder", OK, found)


def plain(findings: list[HealthFinding]) -> dict[str, Any]:
    """The findings as plain data."""
    return {"findings": [vars(one) for one in findings], "ready": not any(one.status == FAULT for one in findings)}

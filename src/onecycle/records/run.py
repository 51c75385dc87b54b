"""One run on disk: ``run.json``, ``steps.jsonl``, ``epochs.jsonl``, ``checkpoints/``, ``model.safetensors``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, did_you_mean
from .checkpoint import check_schema, write_json, write_record

SCHEMA = 1


def create(
    folder: str | Path, config: Mapping[str, Any], notes: list[str] | None = None, lr_max: float | None = None
) -> Path:
    """Make `folder` the home of a new run and write its ``run.json``.

    Raises:
        CheckpointError: the folder holds another run or other files, or cannot be written.
    """
    folder = check_free(folder)
    record = {
        "schema": SCHEMA,
        "status": "running",
        "config": dict(config),
        "notes": notes or [],
        "lr_max": lr_max,
        **origin(),
        "result": None,
        "error": None,
    }
    write_record(folder / "run.json", record)
    return folder


def origin() -> dict[str, Any]:
    """When, by which command, with which versions and on which hardware something is made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": _versions(),
        "hardware": _hardware(),
        "git_commit": _git_commit(),
    }


def check_free(folder: str | Path) -> Path:
    """The folder as a path, where a new run may live in it.

    Raises:
        CheckpointError: it holds another run or other files.
    """
    folder = Path(folder)
    if (folder / "run.json").exists():
        raise CheckpointError(
            f"{folder} holds another run: go on with it through --resume {folder}, or give another --out"
        )
    # A run that was killed while it wrote its run.json left nothing else.
    if folder.is_dir() and any(path.name != ".writing-run.json" for path in folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty and holds no run: give another --out")
    return folder


def read(folder: str | Path) -> dict[str, Any]:
    """The contents of a run's ``run.json``.

    Raises:
        CheckpointError: no run there, or one of a newer version.
    """
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [p.parent.name for p in Path(folder).parent.glob("*/run.json")]
        near = did_you_mean(Path(folder).name, beside) if beside else "there is no run beside it either"
        raise CheckpointError(f"no run in {folder} (it has no run.json): {near}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return check_schema(path, record, SCHEMA)


def change(folder: str | Path, **fields: Any) -> None:
    """Replace fields of ``run.json``, in one step."""
    try:
        write_json(Path(folder) / "run.json", {**read(folder), **fields})
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error}. The run's records so far are intact") from error


def check_same(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` that names what differs, where the run in `folder` has another configuration."""
    different = differing(read(folder)["config"], config)
    if different:
        raise CheckpointError(
            f"{folder} was started with another configuration: {'; '.join(different)}. Resume with the same one, or "
            "start a new run"
        )


def differing(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two configurations differ, each with both values.

    >>> differing({"seed": 0, "facts": {"kind": "image", "n": 5}}, {"seed": 1, "facts": {"kind": "image", "n": 6}})
    ['seed: 0, now 1', 'facts.n: 5, now 6']
    """
    found = []
    for key in (*config, *(key for key in other if key not in config)):
        mine, its = config.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(its, Mapping):
            found += [f"{key}.{line}" for line in differing(mine, its)]
        elif mine != its:
            found.append(f"{key}: {mine!r}, now {its!r}")
    return found


def listing(folder: str | Path) -> list[dict[str, Any]]:
    """The runs in `folder` and below it, one flat row each; one whose ``run.json`` cannot be read has its error.

    Raises:
        CheckpointError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: name one that holds runs")
    rows = []
    for path in sorted(folder.rglob("run.json")):
        row: dict[str, Any] = {"run": str(path.parent)}
        try:
            record, error = read(path.parent), None
        except CheckpointError as unreadable:
            record, error = {"status": "unreadable", "config": {}}, str(unreadable)
        config, result = record["config"], record.get("result") or {}
        row |= {key: record.get(key) for key in ("created", "status")}
        row |= {key: config.get(key) for key in ("data", "model", "optimizer", "budget")}
        row["lr_max"] = result.get("lr_max") or record.get("lr_max")
        for split in ("valid", "test"):
            means = result.get(split) or {}
            row[split] = means.get("accuracy", means.get("loss"))
        rows.append({**row, "seconds": result.get("seconds"), "error": error or record.get("error")})
    return rows


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.jsonl`` file; a last line that was cut off by a crash is left out.

    Raises:
        CheckpointError: the file cannot be read, or a line in it is damaged.
    """
    return [record for record, _ in _records(path)]


def truncate_records(path: Path, key: str, end: int) -> None:
    """Keep the records whose `key` is below `end`: a resumed run writes the others again.

    Raises:
        CheckpointError: there are not `end` of them, one is damaged, or the file cannot be written.
    """
    kept = [line for record, line in _records(path) if record[key] < end]
    if len(kept) != end:
        raise CheckpointError(
            f"{path} holds {len(kept)} of the {end} records up to the last good checkpoint: restore it, or remove the "
            "folder checkpoints beside it to begin the run anew"
        )
    beside = path.with_name(f".writing-{path.name}")
    try:
        beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}. Nothing of it is lost") from error


def _records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Each whole line with what it says; none where there is no file."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [(json.loads(line), line) for line in lines]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Restore it, or begin a new run") from error


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("onecycle")
    except PackageNotFoundError:
        own = "source"
    return {"onecycle": own, "torch": torch.__version__, "python": platform.python_version()}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_commit() -> str | None:
    """The commit of the folder that the command was started in; None outside a checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""Several ranks, each a process of its own, over gloo on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import forked

from onecycle.search import peak

PREFIX = "RESULT "


def environments(world: int, **more: str) -> list[dict[str, str]]:
    """What a launcher sets for each of so many ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alike = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    alike |= {"PYTHONPATH": os.path.dirname(__file__) + os.pathsep + os.environ.get("PYTHONPATH", "")}
    return [
        {**os.environ, **{k: str(v) for k, v in alike.items()}, "RANK": str(i), "LOCAL_RANK": str(i), **more}
        for i in range(world)
    ]  # fmt: skip


def short_pilots() -> None:
    """Let shorter runs than others have pilots, for the rest of this process."""
    peak.LENGTH = 1 / 14
    peak.LEAST.update(dict.fromkeys(peak.LEAST, 6))


def start(words: Sequence[str], world: int, **keywords: Any) -> list[subprocess.Popen[str]]:
    """A process for each rank with these words for an interpreter."""
    more = keywords.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [forked.Popen(list(words), env=env, **pipes, **keywords) for env in environments(world, **more)]


def run(words: Sequence[str], world: int, **keywords: Any) -> list[subprocess.CompletedProcess[str]]:
    """What each rank came to."""
    processes = start(words, world, **keywords)
    ends = []
    for process in processes:
        with process:
            out, err = process.communicate(timeout=120)
        ends.append(subprocess.CompletedProcess(list(words), process.returncode, out, err))
    return ends


def on_ranks(code: str, world: int, **keywords: Any) -> list[Any]:
    """What ``result(...)`` was called with in `code` on each rank, as JSON has it."""
    code = f"import json\ndef result(x): print({PREFIX!r} + json.dumps(x), flush=True)\n" + code
    ends = run(["-c", code], world, **keywords)
    failed = [f"rank {i} ended with {e.returncode}\n{e.stdout}\n{e.stderr}" for i, e in enumerate(ends) if e.returncode]
    assert not failed, "\n".join(failed)
    return [_said(end.stdout) for end in ends]


def _said(out: str) -> Any:
    lines = [line.removeprefix(PREFIX) for line in out.splitlines() if line.startswith(PREFIX)]
    return json.loads(lines[-1]) if lines else None

"""Ranks that are killed at random moments, under torchrun: does each run end with the bits of an undisturbed one?

    python bench/faults.py [--kills 100] [--seed 0] [--world 2] [--real] [--keep FOLDER]

In each trial one rank of a training of the digits is killed by SIGKILL, one time in three again after the restart:
after so many seconds, in the pilots, after an update, or while a checkpoint is written. torchrun starts the ranks
again, and the run goes on by itself. Weights (model.safetensors) and records (steps.jsonl and epochs.jsonl but for
seconds) are then held against those of an undisturbed run with as many ranks. Ranks are forks of torchrun's process,
which import nothing again; with --real they are interpreters, as for users. Checkpoints are written after each update
where the one before is on disk. Exit code 1 where a run is not equal or did not come to its end.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # where another file is called faults

from elastic_cases import NETS, PIDS
from elastic_makers import torchrun

from onecycle.records.files import read_jsonl

SLOW = 0.005  # seconds of each fsync
PATIENCE = 300.0
WORDS = [
    "train", "digits", "--model", "nets:net", "--budget", "90 updates", "--limit", "480", "--batch-size", "32",
    "--augment", "crop", "--search", "0.4", "--out", "run", "--no-report",
]  # fmt: skip
RUN = Path("run")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="ranks that are interpreters, and no forks")
    parser.add_argument("--keep", type=Path, help="where to leave the folders of runs that are not equal")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("nets.py").write_text(NETS)
        PIDS.mkdir()
        return trials(options)


def trials(options: argparse.Namespace) -> int:
    draws, counts, done, number = random.Random(options.seed), Counter[str](), 0, 0
    began = time.monotonic()
    _, code, said = trial([], 0, options)
    if code:
        print(said)
        return 1
    whole = records(RUN)
    seconds = time.monotonic() - began
    RUN.rename("whole")
    print(f"undisturbed: {seconds:.1f} s, {len(whole[1])} updates, {updates('whole/pilots.jsonl')} pilots", flush=True)
    while done < options.kills:
        number += 1
        shutil.rmtree(RUN, ignore_errors=True)
        moments = [moment(draws, seconds, len(whole[1])) for _ in range(1 + (draws.random() < 1 / 3))]
        killed, code, said = trial(moments, draws.randrange(options.world), options)
        if not killed:  # it was over before
            counts["over before"] += 1
            continue
        end = "equal" if code == 0 and records(RUN) == whole else f"NOT EQUAL, exit code {code}"
        done += len(killed)
        counts[end] += len(killed)
        print(f"{done}: {'; '.join(killed)}: {end}", flush=True)
        if end != "equal":
            print(said[-4000:])
            if options.keep:
                shutil.copytree(RUN, options.keep / str(number), dirs_exist_ok=True)
    print(f"{done} kills in {time.monotonic() - began:.0f} s: {dict(counts)}")
    return 0 if set(counts) <= {"equal", "over before"} else 1


def moment(draws: random.Random, seconds: float, last: int) -> tuple[str, Callable[[], bool], float]:
    """When to kill: in words, what to wait for, and the seconds after it."""
    kind = draws.choice(["seconds", "seconds", "update", "pilot", "writing", "writing", "begun"])
    if kind == "seconds":
        wait = draws.uniform(0, seconds)
        return f"after {wait:.2f} s", lambda: True, wait
    more = draws.uniform(0, 0.06)
    if kind == "update":
        number = draws.randrange(last)
        return f"after update {number}", lambda: updates(RUN / "steps.jsonl") > number, more
    if kind == "pilot":
        number = draws.randrange(3)
        return f"after pilot {number}", lambda: updates(RUN / "pilots.jsonl") >= number and RUN.exists(), more
    if kind == "begun":
        return "before a checkpoint", lambda: (RUN / "run.json").exists(), more
    number = draws.randrange(last)
    return (
        f"writing a checkpoint after update {number}",
        lambda: updates(RUN / "steps.jsonl") > number and any(RUN.glob("checkpoints/.writing-*")),
        draws.uniform(0, 2 * SLOW),
    )


def trial(moments: list[Any], rank: int, options: argparse.Namespace) -> tuple[list[str], int | None, str]:
    """The kills of a run, in words, its exit code, and what it said."""
    killed: list[str] = []
    with tempfile.TemporaryFile("w+") as said:
        for path in PIDS.iterdir():
            path.unlink()
        process = start(said, options)
        until = time.monotonic() + PATIENCE
        for words, reached, more in moments:
            while process.poll() is None and not (len(list(PIDS.iterdir())) == options.world and reached()):
                time.sleep(0.001)
            time.sleep(more)
            if process.poll() is not None:
                break
            with suppress(ProcessLookupError, FileNotFoundError):
                done = updates(RUN / "steps.jsonl")
                pid = int((PIDS / str(rank)).read_text())
                for path in PIDS.iterdir():
                    path.unlink()
                os.kill(pid, signal.SIGKILL)
                killed.append(f"rank {rank} {words}, {done} on disk")
        try:
            process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
        said.seek(0)
        return killed, process.returncode, said.read()


def start(said: Any, options: argparse.Namespace) -> subprocess.Popen[str]:
    code = f"import elastic_cases; elastic_cases.command({WORDS!r}, slow={SLOW})"
    return torchrun(["-c", code], options.world, real=options.real, stdout=subprocess.DEVNULL, stderr=said)


def updates(path: Path | str) -> int:
    with suppress(OSError):
        return Path(path).read_bytes().count(b"\n")
    return 0


def records(folder: Path) -> tuple[bytes, Any, Any]:
    """What is to be equal."""
    if not (folder / "model.safetensors").exists():
        return b"", None, None
    steps, epochs = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(folder / f"{name}.jsonl")]
        for name in ("steps", "epochs")
    )
    return (folder / "model.safetensors").read_bytes(), steps, epochs


if __name__ == "__main__":
    sys.exit(main())

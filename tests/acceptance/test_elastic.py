"""Ranks that are killed under torchrun: it starts them again, and the run ends as one that nothing happened to."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from elastic_cases import NETS
from elastic_makers import torchrun
from ranks_makers import run

from onecycle.records.files import RUN, read_jsonl

WORDS = ["train", "digits", "--model", "nets:net", "--budget", "45 updates", "--limit", "160", "--batch-size", "32",
         "--search", "0.5", "--no-report"]  # fmt: skip


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model lies in the current directory."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the run that nothing happens to comes to."""
    home = tmp_path_factory.mktemp("whole")
    (home / "nets.py").write_text(NETS)
    train("run", cwd=home)
    return records(home / "run")


def train(
    out: str, cwd: Path | None = None, real: bool = False, world: int = 2, *, ends_well: bool = True, **faults: Any
) -> str:
    """What a training by `world` ranks says on its standard error."""
    code = f"import elastic_cases; elastic_cases.command({[*WORDS, '--out', out]!r}, **{faults!r})"
    with torchrun(["-c", code], world, real=real, cwd=cwd) as process:
        _, said = process.communicate(timeout=300)
    assert (process.returncode == 0) is ends_well, said
    return said


def records(folder: Path | str) -> tuple[Any, ...]:
    """What is the same to the bit: weights, records, pilots and result, but for seconds."""
    folder = Path(folder)
    files = [read_jsonl(folder / f"{name}.jsonl") for name in ("steps", "epochs", "pilots")]
    record = RUN.read(folder)
    assert record["status"] == "finished"
    timed = ("seconds", "samples_per_second", "pace", "started")
    files.append([record["result"]])
    plain = [[{k: v for k, v in row.items() if k not in timed} for row in rows] for rows in files]
    return (folder / "model.safetensors").read_bytes(), *plain


def test_a_restart_does_not_take_over_a_run_that_the_first_start_was_refused(whole, tmp_path_factory, tmp_path):
    older = next(tmp_path_factory.getbasetemp().glob("whole*/run"))
    shutil.copytree(older, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    said = train("run", ends_well=False)
    assert said.count("run holds another run") >= 2, said  # in the first start, and in those after
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("when", "faults"),
    {
        "before it meets the others": {"of": 1, "die": ("training.ranks.meet", 1, "before")},
        "in a pilot": {"of": 1, "die": ("training.guard.Guard.apply", 9, "before")},
        "with half a checkpoint written": {"of": 0, "half": 9},
        "before the run is called finished": {"of": 0, "die": ("records.run.save_weights", 1, "after")},
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_killed_rank_costs_only_time(when, faults, whole):
    said = train("run", **faults)
    assert "exitcode: -9" in said, f"never came to what is {when}"
    assert records("run") == whole


@pytest.mark.slow
def test_interpreters_under_torchrun_itself(whole):
    said = train("run", real=True, of=1, die=("training.guard.Guard.apply", 40, "after"))
    assert "exitcode: -9" in said
    assert records("run") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_ends_with_a_checkpoint_and_the_run_goes_on(number, whole):
    """As Slurm and a terminal send it: to the ranks too, which torchrun passes it on to once more."""
    Path("pids").mkdir()
    code = f"import elastic_cases; elastic_cases.command({[*WORDS, '--out', 'run']!r}, slow=0.01)"
    with torchrun(["-c", code], restarts=0) as process:
        while not (steps := Path("run/steps.jsonl")).exists() or steps.read_bytes().count(b"\n") < 8:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        for path in Path("pids").iterdir():
            os.kill(int(path.read_text()), number)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"stopped by {signal.Signals(number).name} after update" in said, said
    assert "A checkpoint is written\nTo go on: onecycle train --resume run" in said, said
    assert said.count("stopped by") == 1 and "stopped at once" not in said
    assert RUN.read("run")["status"] == "interrupted"
    ends = run(["-c", "import elastic_cases; elastic_cases.command(['train', '--resume', 'run', '--no-report'])"], 2)
    assert [end.returncode for end in ends] == [0, 0], ends
    assert records("run") == whole


@pytest.mark.slow
def test_a_script_with_a_learner_goes_on_too():
    weights = []
    for out, faults in (("whole", {}), ("run", {"die": ("training.guard.Guard.apply", 8, "after")})):
        with torchrun(["-c", f"import elastic_cases; elastic_cases.script({out!r}, **{faults!r})"]) as process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0 and ("exitcode: -9" in said) == bool(faults), said
        weights.append((Path(out) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]

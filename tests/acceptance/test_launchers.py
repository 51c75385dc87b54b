"""The same run from other launchers than torchrun: Slurm, Accelerate, a script that makes its process group itself."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import elastic_makers
import forked
import pytest
from ranks_makers import on_ranks

from onecycle.commands.app import main
from onecycle.records.files import RUN

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "train.sbatch"
TESTS = str(Path(__file__).parents[1])
OPTIONS = ["--epochs", "8", "--lr-max", "0.05", "--optimizer", "sgd", "--limit", "320", "--batch-size", "64",
           "--no-report"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), TESTS, os.environ["PYTHONPATH"]]))


def words(model: str, out: str) -> list[str]:
    return ["train", "digits", "--model", f"ray_models:{model}", *OPTIONS, "--out", out]


def assert_as_by_two_ranks(run: str | Path) -> None:
    """A run that ended, of a model like ``quick``, is to the bit that of two ranks that nothing disturbed."""
    on_ranks(f"from onecycle.commands.app import main; main({words('quick', 'whole')!r})", 2)
    assert RUN.read(run)["status"] == "finished"
    assert Path(run, "model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def wait_for(what: Callable[[], Any]) -> None:
    """Until it is so, however busy the machine is; ten minutes are the end of a test that would not end."""
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.01)


# A command of Slurm: it asks the test what to print, and how to end.
COMMAND = f"""#!{sys.executable} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect("slurm.socket")
    there.sendall(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)]).encode() + b"\\n")
    printed, code = json.loads(there.makefile().readline())
print(printed, end="", flush=True)
sys.exit(code)
"""


class Slurm:
    """As much of Slurm as the script asks for, with two nodes that are processes of this machine.

    As true ones do, ``srun`` kills its tasks where a signal comes to it, and ``scancel`` hands one to them alone.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self._tasks: list[subprocess.Popen[str]] = []
        Path("bin").mkdir()
        for name in ("srun", "scontrol", "scancel"):
            Path("bin", name).write_text(COMMAND)
            Path("bin", name).chmod(0o755)
        self._job = free_job()

    @contextmanager
    def there(self) -> Iterator[None]:
        """Within the block its commands are answered."""
        slurm = self

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                name, arguments, environment = json.loads(self.rfile.readline())
                answer = (
                    slurm.srun(self.connection, arguments, environment)
                    if name == "srun"
                    else slurm.answer(name, arguments)
                )
                with suppress(BrokenPipeError):
                    self.wfile.write(json.dumps(answer).encode() + b"\n")

        with socketserver.ThreadingUnixStreamServer("slurm.socket", Answer) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()
        Path("slurm.socket").unlink()

    def sbatch(self, *arguments: str) -> subprocess.Popen[str]:
        """The script, on its first node."""
        environment = {**os.environ, "PATH": f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"SLURM_JOB_ID": str(self._job), "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
        environment |= {"RANKS_PER_NODE": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(["bash", str(SCRIPT), *arguments], env=environment, **pipes)  # type: ignore[call-overload]

    def answer(self, name: str, arguments: list[str]) -> tuple[str, int]:
        self.asked.append([name, *arguments])
        if arguments[:2] == ["show", "hostnames"]:
            return "localhost\nlocalhost\n", 0
        if name == "scancel":
            for task in self._tasks:
                os.kill(task.pid, signal.SIGTERM)
        return "", 0

    def srun(self, connection: socket.socket, arguments: list[str], environment: dict[str, str]) -> tuple[str, int]:
        """Start the task of each node, and wait for their end."""
        name, *flags = arguments
        assert name == "torchrun"
        at = flags.index("-m")
        flags[at:at] = ["--no-python", sys.executable]
        code = f"import elastic_makers; elastic_makers.launch({flags!r})"
        self._tasks = [forked.Popen(["-c", code], env=environment, text=True) for _ in range(2)]
        while any(task.poll() is None for task in self._tasks):
            if select.select([connection], [], [], 0.02)[0]:  # srun is gone
                for task in self._tasks:
                    for pid in (task.pid, *children(task.pid)):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    task.wait()
        return "", max(abs(task.returncode) for task in self._tasks)

    @property
    def run(self) -> Path:
        return Path(f"runs/slurm-{self._job}")


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def free_job() -> int:
    """The number of a job whose ranks can meet at the port that the script makes of it."""
    for job in range(os.getpid() % 10000, 20000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", 20000 + job % 10000))
            return job
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_a_job_whose_time_is_over_queues_itself_and_goes_on():
    slurm = Slurm()
    given = words("slow", "")[1:-2]
    with slurm.there():
        Path("hold").touch()
        with slurm.sbatch(*given) as script:
            wait_for(lambda: list(Path().glob("held-*")))
            script.send_signal(signal.SIGTERM)
            wait_for(lambda: Path("told").exists() or script.poll() is not None)
            Path("hold").unlink()
            said = script.communicate()[0]
        assert script.returncode != 0 and slurm.asked[-1][:2] == ["scontrol", "requeue"], said
        assert RUN.read(slurm.run)["status"] == "interrupted" and "SIGTERM" in RUN.read(slurm.run)["error"], said
        with slurm.sbatch(*given) as script:
            said = script.communicate()[0]
        assert script.returncode == 0, said
        assert [asked[1] for asked in slurm.asked] == ["show", slurm.asked[1][1], "requeue", "show"]
    assert_as_by_two_ranks(slurm.run)


@pytest.mark.skipif(find_spec("accelerate") is None, reason="Accelerate is not installed: pip install accelerate")
def test_accelerate_starts_the_same_ranks():
    launch = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(elastic_makers.free_port()), "-m"]
    code = f"import elastic_makers; elastic_makers.accelerate({[*launch, 'onecycle', *words('quick', 'out')]!r})"
    end = forked.run(["-c", code])
    assert end.returncode == 0, end.stderr
    assert end.stdout.count("The run is in out") == 1
    assert_as_by_two_ranks("out")


def test_one_process_of_accelerate_where_more_were_asked_for_is_said(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    main(["policy", "paper", "--json"])
    assert "note" not in capsys.readouterr().err
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    main(["policy", "paper", "--json"])
    assert "note: accelerate launch started one process, as it does with --cpu" in capsys.readouterr().err


LEARNER = """
import os, torch, torch.distributed as dist
from torch import nn
import onecycle

def train():
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    learn = onecycle.Learner(nn.Linear(6, 2), (x, (x[:, 0] > 0).long()), batch_size=20, optimizer="sgd", verbose=False)
    learn.fit_one_cycle(2, 0.1)
    return learn.model.weight.tolist(), len(learn.notes)

def by_hand(rank, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results[rank] = train()
    assert dist.is_initialized()  # it is the caller's
    dist.destroy_process_group()

if __name__ == "__main__":
    print("RESULT", train(), flush=True)
"""


def test_a_process_group_that_is_there_is_used(tmp_path: Path):
    Path("by_learner.py").write_text(LEARNER)
    by_torchrun = elastic_makers.torchrun(["-m", "by_learner"])
    out, err = by_torchrun.communicate()
    assert by_torchrun.returncode == 0, err
    first, second = [line for line in out.splitlines() if line.startswith("RESULT")]
    code = f"""
import torch, by_learner
results = torch.multiprocessing.get_context("fork").Manager().list([None, None])
arguments = ({elastic_makers.free_port()}, results)
torch.multiprocessing.start_processes(by_learner.by_hand, arguments, 2, start_method="fork")
for result in results: print("RESULT", result)
"""
    by_hand = forked.run(["-c", code])
    assert by_hand.returncode == 0, by_hand.stderr
    assert by_hand.stdout.splitlines() == [first, second] and first == second

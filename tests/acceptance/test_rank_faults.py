"""What goes wrong on one of several ranks, or on all: in words, of the rank whose it is, and once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from elastic_cases import NETS
from ranks_makers import on_ranks, run

from onecycle.records.files import RUN

TRAIN = ["train", "digits", "--model", "nets:net", "--budget", "40 updates", "--limit", "160", "--no-report", "--out",
         "run"]  # fmt: skip
LEARNER = """
import torch
from torch import nn
from ranks_cases import RANK, data, digest, net
from onecycle import Learner
from onecycle.errors import NonFiniteLoss, RankError, StopTraining
torch.set_num_threads(1)
def learner(x=None, **more):
    whole = data() if x is None else (x, data()[1])
    return Learner(net(), whole, (data()[0][:41], data()[1][:41]), **{"optimizer": "sgd", "batch_size": 37,
                   "verbose": False, **more})
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)


def command(*more: str, before: str = "") -> list[subprocess.CompletedProcess[str]]:
    """What two ranks come to by the command, after the code `before`."""
    return run(["-c", f"import os, elastic_cases\n{before}\nelastic_cases.command({[*TRAIN, *more]!r})"], 2)


def errors(ends: list[subprocess.CompletedProcess[str]]) -> list[list[str]]:
    """What each rank says, but for notes and epochs."""
    told = ("note: ", "epoch ")
    return [[line for line in end.stderr.splitlines() if not line.startswith(told)] for end in ends]


def test_no_space_left_for_a_checkpoint_ends_all_ranks():
    full = """
import torch
written, whole = [], torch.save
def save(state, file):
    written.append(1)
    if len(written) > 4:
        raise OSError(28, "No space left on device")
    whole(state, file)
torch.save = save
"""
    ends = command(before=full)
    assert [end.returncode for end in ends] == [2, 2]
    (said,), nothing = errors(ends)
    assert said.startswith("error: rank 0 of 2: cannot write the checkpoint run/checkpoints/step-0000000"), ends
    assert "No space left on device. Free some space or give another folder; what was saved before" in said
    assert nothing == []
    assert RUN.read("run")["status"] == "failed" and "No space left" in RUN.read("run")["error"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_named_by_the_command(rank):
    hangs = f"""
import threading
from onecycle.training import guard, roll_call
roll_call.PATIENCE = 0.5
calls, apply = [], guard.Guard.apply
def hang(*arguments):
    calls.append(1)
    if len(calls) == 20 and os.environ["RANK"] == "{rank}":
        threading.Event().wait(9)
        os._exit(9)
    return apply(*arguments)
guard.Guard.apply = hang
"""
    ends = command("--timeout", "2s", before=hangs)
    said = errors(ends)
    assert [end.returncode for end in ends] == ([9, 2] if rank == 0 else [2, 9]), ends[1 - rank].stderr
    assert said[rank] == []
    (line,) = said[1 - rank]
    assert line.startswith(f"error: rank {rank} of 2 does not answer: hanging, or gone ("), line
    assert line.endswith("give a larger timeout")
    if rank == 1:
        assert RUN.read("run")["error"].startswith("rank 1 of 2 does not answer")


@pytest.mark.slow
def test_a_rank_that_began_to_wait_later_is_not_named_as_hanging():
    code = """
import os, time, torch
from onecycle.training import roll_call
from onecycle.training.ranks import Ranks
roll_call.PATIENCE = 0.2
ranks = Ranks.join("gloo", 2)
with ranks.together():
    ranks.any(False)
    time.sleep([1, 0, 7][ranks.rank])  # the last one hangs
    torch.distributed.recv(torch.zeros(1), 2)
"""
    first, second, _ = run(["-c", code], 3)
    for end in (first, second):
        assert "RankError: rank 2 of 3 does not answer: hanging" in end.stderr, end.stderr


def test_a_gpu_that_is_not_there():
    for end in command("--device", "cuda"):
        assert end.returncode == 2
        assert end.stderr.startswith("error: cannot use the device 'cuda'; here: cpu"), end.stderr


def test_what_cannot_be_used_is_said_once():
    for words, said in (
        (["--lr-max", "-1"], "error: "),
        (["--optimizer", "sgdd"], "error: unknown optimizer"),
        (["--batch-size", "3"], "error: a batch of 3 samples has fewer than 2 for each of 2 ranks"),
    ):
        ends = command(*words)
        first, second = errors(ends)
        assert [end.returncode for end in ends] == [2, 2] and second == []
        assert first[0].startswith(said), first


def test_a_loss_that_is_lost_on_all_ranks_is_said_once():
    ends = command("--lr-max", "1e30", "--no-rescue", "--optimizer", "sgd")
    (said,), nothing = errors(ends)
    assert [end.returncode for end in ends] == [2, 2] and nothing == []
    assert "There is no checkpoint yet" in said or "The last good checkpoint is run/checkpoints" in said, ends


def test_a_worker_of_a_loader_that_dies_on_one_rank():
    code = (
        LEARNER
        + """
import os
from torch.utils.data import DataLoader, Dataset
class Deadly(Dataset):
    def __len__(self): return 111
    def __getitem__(self, i):
        if RANK == 1 and i > 40: os._exit(3)
        return data()[0][i], data()[1][i]
Learner(net(), DataLoader(Deadly(), 20, num_workers=1), verbose=False).fit(2, lr_max=0.02)
"""
    )
    first, second = run(["-c", code], 2)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "RankError: rank 1 of 2 ended the run: RuntimeError: DataLoader worker (pid" in first.stderr
    assert "DataLoader worker (pid" in second.stderr and "RankError" not in second.stderr


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("making a learner", "learner(torch.zeros(5, 6) if RANK else None)"),
        ("before the first update", """
from onecycle.training import probe
def begin(self): raise OSError("no begin")
from onecycle.training.guard import Guard
if RANK: Guard.begin = begin
learner().fit(1, lr_max=0.02)"""),
        ("an evaluation", """
class Failing(nn.Module):
    def forward(self, x):
        if RANK and not self.training: raise OSError("no evaluation")
        return x
Learner(net(Failing()), data(), data(), optimizer="sgd", batch_size=37, verbose=False).fit(1, lr_max=0.02)"""),
        ("an observer", """
def look(event): raise OSError("seen enough")
learner().fit(1, lr_max=0.02, observers=[look] * (RANK == 1))"""),
        ("an update of a configuration of its own", "learner().fit(1, lr_max=0.02 if RANK else 0.03)"),
    ],
)  # fmt: skip
def test_an_error_of_one_rank_ends_all_wherever_it_is(where, code):
    first, second = run(["-c", LEARNER + code], 2)
    assert (first.returncode, second.returncode) == (1, 1), first.stderr + second.stderr
    if "ConfigError: the ranks were given different runs" not in first.stderr:
        assert "RankError: rank 1 of 2 ended the run: " in first.stderr, first.stderr + second.stderr
        assert "RankError" not in second.stderr


def test_a_loss_that_is_lost_leaves_ranks_that_can_fit_again():
    code = (
        LEARNER
        + """
from ranks_cases import told
one = learner(rescue=False)
try:
    one.fit(2, lr_max=1e30)
    raise SystemExit("not lost")
except NonFiniteLoss as lost:
    said = str(lost)
again = learner()
again.fit(1, lr_max=0.02)
result([said, digest(again.model)])
"""
    )
    (first, weights), (second, others) = on_ranks(code, 2)
    assert first == second and weights == others


@pytest.mark.parametrize("world", [1, 2])
def test_a_process_group_that_there_is_already_is_used_and_left(world):
    code = (
        LEARNER
        + """
import os
import torch.distributed as dist
dist.init_process_group("gloo")
one = learner()
one.fit(2, lr_max=0.02)
dist.barrier()
result([digest(one.model), dist.get_world_size(), one.runtime.ranks.world])
"""
    )
    ends = on_ranks(code, world)
    assert ends == [ends[0]] * world and ends[0][1:] == [world, world]
    whole = on_ranks(LEARNER + "one = learner(); one.fit(2, lr_max=0.02); result(digest(one.model))", world)
    assert whole == [ends[0][0]] * world


def test_ctrl_c_a_second_time_ends_at_once():
    code = (
        LEARNER
        + """
import os, signal
from onecycle.training import signals
from onecycle.training.loop import Update
signals.REPEATED = 0.0
def look(event):
    if isinstance(event, Update) and event.step == 3:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
try:
    learner().fit(50, lr_max=0.02, observers=[look])
except KeyboardInterrupt as stop:
    result([type(stop).__name__, str(stop)])
"""
    )
    assert on_ranks(code, 2) == [["KeyboardInterrupt", ""]] * 2

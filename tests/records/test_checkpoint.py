"""Checkpoints appear whole or not at all, are verified when read, and never run code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch

from onecycle import CheckpointError, Supervised, TrainState
from onecycle.optim.muon import Muon
from onecycle.records.checkpoint import checkpoints, growth, latest, load, save, try_out
from onecycle.records.files import RUN
from onecycle.records.run import Recording


def state(value: float = 1.0) -> dict:
    return {"model": {"weight": torch.full((300,), value)}, "at": {"step": 3}, "begun": None}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def test_what_is_saved_is_loaded(tmp_path):
    path = save(state(), tmp_path / "a/b", 7)
    assert path == tmp_path / "a/b/step-00000007"
    loaded = load(path)
    assert torch.equal(loaded["model"]["weight"], state()["model"]["weight"])
    assert {key: loaded[key] for key in ("at", "begun")} == {"at": {"step": 3}, "begun": None}
    data = (path / "state.pt").read_bytes()
    assert json.loads((path / "manifest.json").read_text()) == {
        "schema": 1, "step": 7, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    assert not hidden(tmp_path)


def test_memory_layout_is_kept(tmp_path):
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert load(save({"x": image}, tmp_path, 0))["x"].stride() == image.stride()


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 5, 9, 12):
        save(state(step), tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009", "step-00000012"]
    assert latest(tmp_path)["model"]["weight"][0] == 12
    save(state(), tmp_path, 100_000_000)
    assert checkpoints(tmp_path)[-1].name == "step-100000000"
    assert not hidden(tmp_path)


def test_a_step_saved_again_replaces_itself(tmp_path):
    for value in (1.0, 2.0):
        save(state(value), tmp_path, 5)
    assert len(checkpoints(tmp_path)) == 1
    assert latest(tmp_path)["model"]["weight"][0] == 2


def test_what_lies_beyond_is_left_behind(tmp_path):
    """A damaged checkpoint ahead of the run must not push good ones out."""
    for step in (10, 20):
        save(state(step), tmp_path, step)
    (tmp_path / "step-00000020/state.pt").write_bytes(b"damaged")
    save(state(15), tmp_path, 15)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000015"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    for name in (".writing-step-00000003", ".removing-step-00000001"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "state.pt").write_bytes(b"half")
    assert checkpoints(tmp_path) == []
    save(state(), tmp_path, 4)
    assert not hidden(tmp_path)


def test_nothing_there(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda path: flip(path / "state.pt"),
    "cut off": lambda path: os.truncate(path / "state.pt", 100),
    "empty": lambda path: os.truncate(path / "state.pt", 0),
    "no state": lambda path: (path / "state.pt").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: os.truncate(path / "manifest.json", 20),
    "a newer version": lambda path: (path / "manifest.json").write_text('{"schema": 2, "step": 9}'),
    "something else": lambda path: (path / "manifest.json").write_text("[1, 2]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_named_and_the_one_before_is_used(damage, tmp_path):
    save(state(1), tmp_path, 1)
    newest = save(state(2), tmp_path, 2)
    damage(newest)
    with pytest.raises(CheckpointError, match="step-00000002"):
        load(newest)
    with pytest.warns(UserWarning, match=r"step-00000002.*Going on from step-00000001, which is good") as warned:
        assert latest(tmp_path)["model"]["weight"][0] == 1
    assert len(warned) == 1


def test_all_damaged_stops_and_names_each(tmp_path):
    for step in (1, 2):
        DAMAGES["cut off"](save(state(), tmp_path, step))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used: .*step-00000002.*step-00000001"):
        latest(tmp_path)


def test_a_foreign_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "step-500").mkdir()
    (tmp_path / "step-500/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*step-500"):
        latest(tmp_path)


def forge(path: Path, data: bytes) -> None:
    """A checkpoint whose manifest fits what is in it."""
    (path / "state.pt").write_bytes(data)
    manifest = {"schema": 1, "step": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


class Malicious:
    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self):
        return os.mkdir, (str(self.touched),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(form, tmp_path):
    path, touched = save(state(), tmp_path / "checkpoints", 1), tmp_path / "touched"
    if form == "torch":
        torch.save({"model": Malicious(touched)}, path / "state.pt")
        data = (path / "state.pt").read_bytes()
    else:
        data = pickle.dumps({"model": Malicious(touched)}, protocol=2)
    forge(path, data)
    with pytest.raises(CheckpointError, match="holds pickled code and is refused"):
        load(path)
    assert not touched.exists()
    torch.load(path / "state.pt", weights_only=False) if form == "torch" else pickle.loads(data)
    assert touched.exists()  # it would have run


def test_tensors_that_are_no_state_are_refused(tmp_path):
    path = save(state(), tmp_path, 1)
    torch.save([1, 2], path / "state.pt")
    forge(path, (path / "state.pt").read_bytes())
    with pytest.raises(CheckpointError, match="holds a list, not the state of a run"):
        load(path)


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_full_disk_keeps_the_ones_before(function, tmp_path, monkeypatch):
    save(state(1), tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*(os, "fsync") if function == "fsync" else (Path, "rename"), full)
    with pytest.raises(CheckpointError, match=r"step-00000002: .*No space left on device.*saved before is intact"):
        save(state(2), tmp_path, 2)
    monkeypatch.undo()
    assert latest(tmp_path)["model"]["weight"][0] == 1
    assert not hidden(tmp_path)


FULL = """
import resource, sys, torch
from onecycle import CheckpointError
from onecycle.records.checkpoint import save
torch.set_num_threads(1)
save({"x": torch.zeros(10)}, sys.argv[1], 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save({"x": torch.zeros(100_000)}, sys.argv[1], 2)
except CheckpointError as error:
    print(error)
"""


def test_a_file_that_may_not_grow(tmp_path):
    """The system itself refuses in the middle of the file, within torch.save."""
    done = forked.run(["-c", FULL, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write the checkpoint {tmp_path}/step-00000002")
    assert "File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert len(load(tmp_path / "step-00000001")["x"]) == 10


# Trying out, before the first update, what a run will write


def test_what_is_tried_out_leaves_nothing(tmp_path):
    (tmp_path / "run/.trial").mkdir(parents=True)
    (tmp_path / "run/.trial/state.pt").write_bytes(b"of a process that was killed")
    for folder in ("run", "new"):
        try_out(state(), torch.nn.Linear(3, 2), tmp_path / folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "run"]


class Overlapping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        rows = torch.zeros(4, 3)
        self.register_buffer("first", rows[:3])
        self.register_buffer("last", rows[1:])


class Unwritable:
    def __reduce__(self):
        raise TypeError("a thread cannot be pickled")


@pytest.mark.parametrize(
    ("content", "model", "said"),
    [
        (state(), Overlapping, "no suitable name"),
        ({"thread": Unwritable()}, lambda: torch.nn.Linear(3, 2), "a thread cannot be pickled"),
        ({"path": Path("here")}, lambda: torch.nn.Linear(3, 2), "holds pickled code"),
    ],
    ids=["weights", "state", "code"],
)
def test_what_cannot_be_written_or_read_back_is_met_there(content, model, said, tmp_path):
    with pytest.raises(CheckpointError, match=rf"cannot be written to {tmp_path}/run and read back: .*{said}"):
        try_out(content, model(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_folders_above_that_were_made_are_removed_too(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        try_out({"thread": Unwritable()}, torch.nn.Linear(3, 2), tmp_path / "a/b/c")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def wide(optimizer) -> TrainState:
    model = torch.nn.Linear(1000, 250, bias=False)
    return TrainState(model, optimizer(model.parameters()), Supervised(torch.nn.functional.mse_loss))


def adamw(parameters):
    return torch.optim.AdamW(parameters)


@pytest.mark.parametrize(
    ("optimizer", "free", "said"),
    [
        (adamw, 9.2e6, None),  # 3 MB each, and two stay beside a third
        (adamw, 8.8e6, "8.8 MB of free space, and its checkpoints will take about 9.01 MB, 2 of 3 MB and one more"),
        (adamw, 4.2e6, "4.2 MB of free space"),
        (adamw, 1e6, None),  # less than was just written: the system does not know
        (partial(torch.optim.SGD, lr=0.1), 3.2e6, None),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 5.8e6, "about 6.01 MB, 2 of 2 MB"),
    ],
)
def test_room_is_for_the_checkpoints_that_stay_and_one_more(optimizer, free, said, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    state, notes = wide(optimizer), []
    with ExitStack() as stack:
        Recording.start(tmp_path / "run", state, stack, config={}, say=notes.append)
    assert RUN.read(tmp_path / "run")["notes"] == notes and len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3.9e6))
    mend = "3.9 MB of free space, and one checkpoint and the weights will take about 4 MB: free some space"
    with pytest.raises(CheckpointError, match=mend), ExitStack() as stack:
        Recording.start(tmp_path / "above/run", wide(adamw), stack, config={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("optimizer", [adamw, partial(torch.optim.SGD, lr=0.1, momentum=0.9), Muon])
def test_the_growth_is_what_the_first_update_adds(optimizer, tmp_path):
    state = wide(optimizer)
    expected = growth(state.optimizer)
    sizes = [(save(state.state_dict(), tmp_path / "before", 1) / "state.pt").stat().st_size]
    state.model(torch.ones(1, 1000)).sum().backward()
    state.optimizer.step()
    sizes.append((save(state.state_dict(), tmp_path / "after", 1) / "state.pt").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(expected, rel=0.01) and growth(state.optimizer) == 0


TRIED = FULL.replace("save({", "try_out({").replace(", sys.argv[1], 1)", ", torch.nn.Linear(3, 2), Path(sys.argv[1]))")
TRIED = TRIED.replace(", sys.argv[1], 2)", ", torch.nn.Linear(3, 2), Path(sys.argv[1]))").replace(
    "import save", "import try_out"
)


def test_a_file_that_may_not_grow_is_met_there(tmp_path):
    done = forked.run(["-c", f"from pathlib import Path\n{TRIED}", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout and "File too large" in done.stdout
    assert list((tmp_path / "run").iterdir()) == []


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save(state(), tmp_path / "file/checkpoints", 1)

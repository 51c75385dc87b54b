"""The archive of a run's folder is the run, and can be resumed at every moment."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from onecycle.errors import ConfigError
from onecycle.jobs.job import Job
from onecycle.jobs.run import run
from onecycle.records import archive as module
from onecycle.records import checkpoint
from onecycle.records.archive import archive, open_storage, read, unpack, write
from onecycle.records.files import RUN
from onecycle.records.run import create

JOB = Job(model="mlp", limit=160, optimizer="sgd", budget="3 epochs", lr_max=0.05)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not being written or removed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(folder)) for path in files}
    return {name: path.read_bytes() for path, name in names.items() if "/." not in f"/{name}"}


def test_a_run_comes_back_as_it_was_and_goes_by_its_new_folder(tmp_path: Path):
    folder, copy = tmp_path / 'a"ü', tmp_path / "runs/b"
    run(JOB, folder, report=False)
    RUN.update(folder, error=f"look into {folder}/checkpoints")
    (folder / ".writing-steps.jsonl").touch()
    unpack(archive(folder, copy), copy)
    its, ours = contents(copy), contents(folder)
    assert {**its, "run.json": b""} == {**ours, "run.json": b""} and ".writing-steps.jsonl" not in its
    assert RUN.read(copy)["error"] == f"look into {copy}/checkpoints"
    checkpoint.save({"step": 9}, copy / "checkpoints", 9)
    unpack(archive(folder, folder), copy)  # in place of what is there, all of it
    assert contents(copy) == ours and [path.name for path in copy.parent.iterdir()] == ["b"]


def test_a_folder_that_cannot_be_unpacked_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, copy = create(tmp_path / "run", {"seed": 0}), tmp_path / "copy"
    files = archive(folder, copy)

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(zipfile.ZipFile, "extractall", full)
        unpack(files, copy)
    assert not copy.exists()
    unpack(files, copy)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(module.os, "fsync", full)
        unpack(files, copy)
    assert contents(copy) == contents(folder)


def test_what_was_archived_while_it_ran_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between any two files that are read another checkpoint may be written, and the run may end."""
    whole = tmp_path / "whole"
    run(JOB, whole, report=False)
    early = tmp_path / "early"
    early.mkdir()
    shutil.copy(whole / "run.json", early)
    RUN.update(early, status="running", result=None)
    real = zipfile.ZipFile.writestr

    def then_ends(self: zipfile.ZipFile, name: str, data: str | bytes) -> None:
        real(self, name, data)
        if name == "run.json":
            shutil.rmtree(early)
            shutil.copytree(whole, early)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", then_ends)
        files = archive(early, early)
    with zipfile.ZipFile(io.BytesIO(files)) as archived:
        names = archived.namelist()
        assert names[0] == "run.json" and "running" in archived.read("run.json").decode()
    assert names.index("steps.jsonl") > max(i for i, name in enumerate(names) if name.startswith("checkpoints/step-"))
    unpack(files, tmp_path / "copy")
    run(JOB, tmp_path / "copy", resume=True, report=False)
    assert contents(tmp_path / "copy")["model.safetensors"] == contents(whole)["model.safetensors"]
    assert json.loads((tmp_path / "copy/run.json").read_text())["status"] == "finished"


def test_a_storage_gives_back_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for address in ("plain", f"file://{tmp_path}/uri"):
        storage = open_storage(address)
        assert read(storage, "run.zip") is None
        write(storage, "run.zip", b"one")
        write(storage, "run.zip", b"other")
        assert read(storage, "run.zip") == b"other"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["plain", "run.zip", "run.zip", "uri"]
    with pytest.raises(ConfigError, match="storage is a folder that all nodes share, or an address such as s3://"):
        open_storage("nowhere://bucket")

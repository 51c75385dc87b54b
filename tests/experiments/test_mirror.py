"""The copy of a run's folder is the original, and can be gone on with at every moment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecycle.experiments import mirror
from onecycle.experiments.mirror import Watch, apply, renamed, whole
from onecycle.jobs.job import Job
from onecycle.jobs.run import run
from onecycle.records import checkpoint
from onecycle.records import run as runs

JOB = Job(model="mlp", limit=160, optimizer="sgd", budget="3 epochs", lr_max=0.05)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not being written or removed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(folder)) for path in files}
    return {name: path.read_bytes() for path, name in names.items() if "/." not in f"/{name}"}


def follow(watch: Watch, copy: Path) -> None:
    if change := watch.change():
        apply(change, copy)


def checkpointed(folder: Path, step: int) -> None:
    checkpoint.save({"step": step}, folder / "checkpoints", step)


def test_what_has_not_changed_is_not_sent(tmp_path: Path):
    watch = Watch(tmp_path / "run")
    assert watch.change() is None
    runs.create(tmp_path / "run", {"seed": 0})
    records = tmp_path / "run/steps.jsonl"
    records.write_text('{"step": 0}\n')
    checkpointed(tmp_path / "run", 5)
    first = watch.change()
    assert first is not None and set(first.files) == {"run.json", "steps.jsonl"} and first.kept == ("step-00000005",)
    assert watch.change() is None
    with records.open("a") as file:
        file.write('{"step": 1}\n')
    checkpointed(tmp_path / "run", 6)
    second = watch.change()
    assert second is not None and second.files == {"steps.jsonl": (12, b'{"step": 1}\n')}
    assert list(second.checkpoints) == ["step-00000006"] and second.kept == ("step-00000005", "step-00000006")
    checkpointed(tmp_path / "run", 7)
    third = watch.change()
    assert third is not None and third.kept == ("step-00000006", "step-00000007")


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["append", "cut", "save", "save again", "status", "look"]), st.integers(0, 9)),
    max_size=20,
)


@settings(max_examples=30, deadline=None)
@given(actions=ACTIONS)
def test_whatever_is_written_the_copy_is_the_same(tmp_path_factory: pytest.TempPathFactory, actions: list):
    home = tmp_path_factory.mktemp("mirror")
    folder, copy = runs.create(home / "run", {"seed": 0}), home / "copy"
    watch, step, lines, clock = Watch(folder), 0, 0, 0
    for action, number in actions:
        if action == "append":
            with (folder / "steps.jsonl").open("a") as file:
                for _ in range(number):
                    file.write(f'{{"step": {lines}, "seconds": {clock}}}\n')
                    lines, clock = lines + 1, clock + 1
        elif action == "cut":
            lines = min(lines, number)
            runs.truncate_records(folder / "steps.jsonl", "step", lines)
        elif action.startswith("save"):
            step += action == "save"
            checkpointed(folder, step)
        elif action == "status":
            runs.change(folder, status=f"running {number}")
        else:
            follow(watch, copy)
            assert contents(copy) == contents(folder)
    follow(watch, copy)
    assert contents(copy) == contents(folder)
    shutil.rmtree(home)


def stop_after(patch: pytest.MonkeyPatch, files: int) -> None:
    """Whoever copies is killed when so many files are written."""
    real, written = mirror._put, []

    def put(*arguments: Any) -> None:
        if len(written) == files:
            raise KeyboardInterrupt
        written.append(1)
        real(*arguments)

    patch.setattr(mirror, "_put", put)


def test_a_new_copy_appears_with_all_of_it_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(JOB, tmp_path / "run", draw=False)
    change = whole(tmp_path / "run")
    assert change is not None
    for files in range(6):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, files)
            apply(change, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    apply(change, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tmp_path / "run")


@pytest.mark.parametrize("files", range(6))
def test_a_copy_is_brought_up_to_date_in_an_order_that_can_be_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
):
    folder, copy = tmp_path / "run", tmp_path / "copy"
    run(JOB, folder, draw=False)
    final = contents(folder)
    early = whole(_begun(folder, tmp_path / "early"))
    assert early is not None
    apply(early, copy)
    change = whole(folder)
    assert change is not None
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, files)
        apply(change, copy)
    result = run(JOB, copy, resume=True, draw=False)
    assert result["updates"] == 6 and runs.read(copy)["status"] == "finished"
    assert contents(copy)["model.safetensors"] == final["model.safetensors"]


def _begun(folder: Path, to: Path) -> Path:
    """The same run as it was right after it began."""
    to.mkdir()
    shutil.copy(folder / "run.json", to)
    runs.change(to, status="running", result=None)
    return to


def test_a_run_in_another_folder_goes_by_that_name(tmp_path: Path):
    runs.create(tmp_path / 'a"ü', {})
    runs.change(tmp_path / 'a"ü', error=f'look into {tmp_path / "a"}"ü/checkpoints')
    change = whole(tmp_path / 'a"ü')
    assert change is not None
    apply(renamed(change, tmp_path / 'a"ü', Path("runs/b")), tmp_path / "b")
    assert runs.read(tmp_path / "b")["error"] == "look into runs/b/checkpoints"
    assert whole(tmp_path / "none") is None

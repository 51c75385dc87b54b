"""Copy a run's folder while the run goes on: what has changed in it as plain data, and how a copy takes that over.

A copy can be gone on with at any time, as the original: the records are there before the checkpoint that relies on
them, a checkpoint appears whole, and ``run.json``, which says that a run has ended, is the last to be replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..records.checkpoint import checkpoints, remove, sync_folder

# Records that were cut off and written anew end in another time: so many bytes tell them from those that only grew.
TAIL = 64


@dataclass(frozen=True)
class Change:
    """What is new in a run's folder.

    `files` are by name: from which byte on, and the bytes from there to the end. `checkpoints` are new ones with all
    their files; `kept` are the names of all that there are.
    """

    files: dict[str, tuple[int, bytes]]
    checkpoints: dict[str, dict[str, bytes]]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """When a file was last changed, how far it was read, and the last bytes before that."""

    modified: tuple[int, int, int]
    end: int
    tail: bytes


class Watch:
    """Sees what changes in the folder of a run, which another process or thread may be writing."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, _Seen] = {}
        self._checkpoints: dict[str, int] = {}
        self._kept: tuple[str, ...] = ()

    def change(self) -> Change | None:
        """What is new since the last call, at first everything; None where nothing is."""
        # What is written first is read last: what a file that was read relies on is then there.
        files = self._new_files(["run.json"])
        fresh, kept = self._new_checkpoints()
        files |= self._new_files(sorted(p.name for p in _visible(self._folder) if p.is_file() and p.name != "run.json"))
        gone, self._kept = set(self._kept) - set(kept), kept
        return Change(files, fresh, kept) if files or fresh or gone else None

    def _new_files(self, names: list[str]) -> dict[str, tuple[int, bytes]]:
        return {name: found for name in names if (found := self._new_bytes(name)) is not None}

    def _new_bytes(self, name: str) -> tuple[int, bytes] | None:
        path, seen = self._folder / name, self._files.get(name)
        try:
            stat = path.stat()
            modified = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if seen is not None and seen.modified == modified:
                return None
            with path.open("rb") as file:
                start = 0
                if seen is not None and name.endswith(".jsonl"):
                    file.seek(seen.end - len(seen.tail))
                    start = seen.end if file.read(len(seen.tail)) == seen.tail else 0
                file.seek(start)
                new = file.read()
        except FileNotFoundError:  # nothing yet, or just replaced: the next look finds it
            return None
        before = seen.tail if seen is not None and start else b""
        self._files[name] = _Seen(modified, start + len(new), (before + new)[-TAIL:])
        return start, new

    def _new_checkpoints(self) -> tuple[dict[str, dict[str, bytes]], tuple[str, ...]]:
        fresh, kept = {}, {}
        for path in checkpoints(self._folder / "checkpoints"):
            try:
                written = (path / "manifest.json").stat().st_mtime_ns
                if self._checkpoints.get(path.name) != written:
                    fresh[path.name] = {file.name: file.read_bytes() for file in path.iterdir()}
            except FileNotFoundError:  # removed while it was read
                fresh.pop(path.name, None)
                continue
            kept[path.name] = written
        self._checkpoints = kept
        return fresh, tuple(kept)


def whole(folder: Path) -> Change | None:
    """Everything in the folder of a run; None where there is none."""
    return Watch(folder).change() if (folder / "run.json").exists() else None


def apply(change: Change, folder: Path) -> None:
    """Do in `folder` what `change` says; a folder that is not there yet appears with all of it.

    Raises:
        OSError: the disk is full or not writable; what was there can still be gone on with.
    """
    if folder.exists():
        _write(change, folder)
        return
    beside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _write(change, beside)
    beside.rename(folder)
    sync_folder(folder.parent)


def renamed(change: Change, old: Path, new: Path) -> Change:
    """The same of a run that lies in another folder: what ``run.json`` says of it is by its new name."""
    if "run.json" not in change.files:
        return change
    start, text = change.files["run.json"]
    before, after = (json.dumps(str(path), ensure_ascii=False)[1:-1].encode() for path in (old, new))
    files = {**change.files, "run.json": (start, text.replace(before, after))}
    return Change(files, change.checkpoints, change.kept)


def _write(change: Change, folder: Path) -> None:
    ends = {name for name in change.files if not name.endswith(".jsonl")}
    for name in sorted(change.files.keys() - ends):
        _put(folder / name, *change.files[name])
    for name, files in change.checkpoints.items():
        _put_checkpoint(folder / "checkpoints" / name, files)
    for path in checkpoints(folder / "checkpoints"):
        if path.name not in change.kept:
            remove(path)
    for name in sorted(ends, key=lambda name: (name == "run.json", name)):
        _put(folder / name, *change.files[name])


def _put(path: Path, start: int, new: bytes) -> None:
    """Replace the file in one step, or what comes after its first `start` bytes."""
    target = path if start else path.with_name(f".writing-{path.name}")
    with target.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
    if not start:
        target.replace(path)


def _put_checkpoint(path: Path, files: dict[str, bytes]) -> None:
    beside = path.with_name(f".writing-{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, data in files.items():
        _put(beside / name, 0, data)
    if path.exists():
        remove(path)
    beside.rename(path)
    sync_folder(path.parent)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []

"""Records on disk: the one reader and writer of JSON and JSON lines, and every kind of record with its schema.

Standard library only. A file is replaced in one step: a reader finds the old one or the new one, never a piece.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..errors import CheckpointError, did_you_mean
from ..text import listed

# In the folder of a run, its weights at the end.
WEIGHTS = "model.safetensors"
# The short runs before it, a line each.
PILOTS = "pilots.jsonl"
# And a folder of the stages before the last, where there were several.
STAGES = "stages"
BY_CLASSES = ("mean", "std", "seen")  # facts that change with the classes of the data


@dataclass(frozen=True)
class Kind:
    """A kind of record: its file in a folder, the version of its schema, and what it records.

    `needs` are the fields that a record cannot do without. A `shared` kind may lie beside other files; the others have
    a folder to themselves. `mend` is what to do about a folder that has such a record already. `leftovers` are what
    else a process may have left there if it was killed before its first record.
    """

    file: str
    schema: int
    what: str
    needs: tuple[str, ...] = ()
    shared: bool = False
    mend: str = "give another --out, or remove {path}"
    leftovers: tuple[str, ...] = ()

    def path(self, folder: str | Path) -> Path:
        """The record's file in `folder`."""
        return Path(folder) / self.file

    def exists(self, folder: str | Path) -> bool:
        """Whether `folder` has such a record."""
        return self.path(folder).exists()

    def claim(self, folder: str | Path, leftovers: Iterable[str] = ()) -> Path:
        """Check that a new record may be written into `folder`, and return it as a path; nothing is written.

        `leftovers` are those of the kind, and more.

        Raises:
            CheckpointError: the folder has such a record already, holds something else, or cannot be written.
        """
        folder = Path(folder)
        if self.exists(folder):
            mend = self.mend.format(folder=folder, path=self.path(folder))
            raise CheckpointError(f"{folder} holds another {self.what}: {mend}")
        allowed = {file for name in (self.file, *self.leftovers, *leftovers) for file in (name, f".writing-{name}")}
        if not self.shared and folder.is_dir() and any(path.name not in allowed for path in folder.iterdir()):
            raise CheckpointError(f"{folder} is not empty and holds no {self.what}: give another --out")
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise CheckpointError(f"cannot write to {folder}: give a folder that can be written; {nearest} cannot")
        return folder

    def read(self, folder: str | Path) -> dict[str, Any]:
        """The record in `folder`.

        Raises:
            CheckpointError: there is none, it cannot be read, it is of another version, or fields are missing.
        """
        path = self.path(folder)
        if not path.exists():
            below = sorted(str(other.parent) for other in Path(folder).glob(f"*/{self.file}"))
            beside = [other.parent.name for other in Path(folder).parent.glob(f"*/{self.file}")]
            near = did_you_mean(Path(folder).name, beside) if beside else f"there is no {self.what} beside it either"
            near = f"name one that is in it, such as {below[0]}" if below else near
            raise CheckpointError(f"no {self.what} in {folder} (it has no {self.file}): {near}")
        record = read_json(path)
        schema = record.get("schema") if isinstance(record, dict) else None
        if schema != self.schema:
            newer = isinstance(schema, int) and schema > self.schema
            mend = "a newer one wrote it: pip install --upgrade onecycle" if newer else "name a folder that it has made"
            raise CheckpointError(f"{path} has schema {schema!r}; this version of onecycle reads {self.schema}: {mend}")
        if missing := [name for name in self.needs if name not in record]:
            raise CheckpointError(
                f"{path} is damaged: it has no {', '.join(missing)}. Restore it, or give another folder"
            )
        return record

    def write(self, folder: str | Path, record: Mapping[str, Any]) -> Path:
        """Write `record`, its schema first, into `folder`, which is made if need be; return the file's path.

        Raises:
            CheckpointError: it cannot be written.
        """
        write_json(self.path(folder), {"schema": self.schema, **record})
        return self.path(folder)

    def update(self, folder: str | Path, **fields: Any) -> None:
        """Replace fields of the record in `folder`, in one step.

        Raises:
            CheckpointError: it cannot be read or written; the record stays as it was.
        """
        self.write(folder, {**self.read(folder), **fields})


TRIAL = ".trial"  # what is written into the folder of a run to see whether it can be, and is removed at once
TRACKED = ("tensorboard", "wandb")  # folders of trackers, which stay where a run did not get to its first update
RUN = Kind(
    "run.json", 2, "run", ("status", "config", "resolved", "facts"),
    mend="go on with it through --resume {folder}, or give another --out", leftovers=(TRIAL, STAGES, *TRACKED),
)  # fmt: skip
# What the model and the data of a run are, written once at its beginning.
SUMMARY = Kind("summary.json", 1, "summary", ("model", "data"), shared=True)
CHECK = Kind("check.json", 1, "check", shared=True)
PROFILE = Kind("profile.json", 1, "profile", ("result",), shared=True)
COMPARISON = Kind("compare.json", 1, "comparison", ("config", "status", "table", "summary"))
REPRODUCTION = Kind("reproduction.json", 1, "reproduction", ("protocol",))
CHECKPOINT = Kind("manifest.json", 1, "checkpoint")


def records_below(root: str | Path, *kinds: Kind, within: bool = True) -> Iterator[tuple[Path, list[Kind]]]:
    """The folders in `root` and below that hold records of these `kinds`, in order, and which.

    Checkpoints, hidden folders and the stages of a run are none; nor is what lies in a comparison below `root`, unless
    it is asked for what is `within`.
    """
    for place, folders, names in os.walk(root):
        if held := [kind for kind in kinds if kind.file in names]:
            yield Path(place), held
        left = ("checkpoints", *[STAGES] * (RUN.file in names))
        folders[:] = sorted(name for name in folders if name not in left and not name.startswith("."))
        if not within and COMPARISON.file in names and Path(place) != Path(root):
            folders.clear()


def stages_of(folder: str | Path) -> list[Path]:
    """The folders of the stages before the last of the run in `folder`, in their order: those that have begun."""
    stages = Path(folder) / STAGES
    begun = [path for path in stages.iterdir() if RUN.exists(path)] if stages.is_dir() else []
    return sorted(begun, key=lambda path: int("0" + path.name.partition("-")[0]))


def stage_names(record: Mapping[str, Any], begun: Iterable[Path]) -> list[str]:
    """What each stage of the run of a ``run.json`` trains, as `Stage.name` has it; of an early version, of those begun.

    >>> stage_names({}, [Path("one/stages/1-head")])
    ['head', 'all']
    """
    return record.get("stages") or [*(path.name.partition("-")[2] for path in begun), "all"]


def runs_before(record: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs that the run of a ``run.json`` goes on from, the first one first: those still there."""
    folders: list[Path] = []
    while (run := (record.get("extends") or {}).get("run")) and RUN.exists(run) and Path(run) not in folders:
        folders.insert(0, Path(run))
        record = RUN.read(run)
    return folders


def lock(file: TextIO) -> bool:
    """Lock an open file for this process, until it is closed or the process ends; False where another one has it.

    Where files cannot be locked, such as on Windows and some shared disks, nothing is.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:
        return True
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two records differ, each with both values.

    >>> differing({"seed": 0, "facts": {"kind": "image", "n": 5}}, {"seed": 1, "facts": {"kind": "image", "n": 6}})
    ['seed: 0, now 1', 'facts.n: 5, now 6']
    """
    lines = []
    for key in dict.fromkeys((*old, *new)):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += [f"{key}.{line}" for line in differing(before, now)]
        elif key == "classes" and (change := _names_changed(before, now)) is not None:
            lines.append(f"{key}: {change}")
        elif before != now and not (key in BY_CLASSES and old.get("classes") != new.get("classes")):
            short = [repr(rounded(one, 3) if isinstance(one, list) else one) for one in (before, now)]
            before, now = short if short[0] != short[1] else (repr(before), repr(now))
            lines.append(f"{key}: {before}, now {now}")
    return lines


def rounded(value: Any, digits: int = 6) -> Any:
    """`value` with its floating-point numbers to so many digits.

    >>> rounded([0.123456789, {"mean": 2.0, "n": 5}], 3)
    [0.123, {'mean': 2.0, 'n': 5}]
    """
    if isinstance(value, Mapping):
        return {name: rounded(one, digits) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [rounded(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _names_changed(before: Any, now: Any) -> str | None:
    """Which names of two lists are in one of them alone; None where these are no such lists, or have the same names."""
    if not all(isinstance(one, list) and one and all(isinstance(name, str) for name in one) for one in (before, now)):
        return None
    said = {
        "no longer": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
    }
    changes = [f"{listed(map(repr, names), most=5)} {word}" for word, names in said.items() if names]
    return f"{', '.join(changes)} ({len(before)}, now {len(now)})" if changes else None


def plain(data: Any) -> Any:
    """`data` as JSON gives it back: tuples become lists, keys become text.

    >>> plain({"momentum": (0.95, 0.85), 1: None})
    {'momentum': [0.95, 0.85], '1': None}
    """
    return json.loads(json.dumps(data))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {reason}. Restore it, or give another folder") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as JSON, in one step, into a folder that is made if need be.

    Raises:
        CheckpointError: it cannot be written; what was there is intact.
    """
    replace_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, tell: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where there is no file. A last line that a crash cut off is left out.

    With `tell`, the records before the first damaged line are returned, and `tell` is called with a sentence about
    it, and about a line that was cut off.

    Raises:
        CheckpointError: the file cannot be read, or a line is damaged and there is no `tell`.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"line {number} is no record")
        except ValueError as error:
            if tell is None:
                raise CheckpointError(f"{path} is damaged: {error}. Restore it, or begin a new run") from error
            tell(f"{path.name} breaks off in line {number}, and is shown up to there")
            return records
        records.append(record)
    if lines[-1] and tell is not None:
        tell(f"{path.name} breaks off in line {len(lines)}, and is shown up to there")
    return records


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records, a line each, in one step.

    Raises:
        CheckpointError: it cannot be written; what was there is intact.
    """
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one step, so that it outlives a power cut.

    Raises:
        CheckpointError: it cannot be written; what was there is intact.
    """
    beside = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A path can hold bytes that are no text: "\udcff" in Python, and so in JSON.
        with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            sync_file(file)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise CheckpointError(
            f"cannot write to {path.parent}: {error.strerror or error}. Free some space or give a folder that can be "
            f"written; {path.name} is as it was"
        ) from error


def sync_file(file: TextIO | Any) -> None:
    """Bring all of an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

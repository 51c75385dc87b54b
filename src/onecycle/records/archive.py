"""The folder of a run as one zip file, and a storage for such files: how runs travel between machines."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .checkpoint import remove
from .files import STAGES, sync_folder


def archive(folder: Path, name: Path) -> bytes:
    """The files of a run, which may be under way; in its ``run.json`` it goes by the folder `name`.

    Whatever is written first is read last, so that what a file relies on is in the archive too.

    Raises:
        OSError: a file cannot be read; FileNotFoundError: one was removed meanwhile, as old checkpoints are.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as files:
        files.writestr("run.json", renamed((folder / "run.json").read_text(encoding="utf-8"), folder, name))
        for pattern in ("checkpoints/step-*/*", "predictions/**/*", f"{STAGES}/**/*", "*"):
            for path in folder.glob(pattern):
                if path.is_file() and not path.name.startswith(".") and path.name != "run.json":
                    files.writestr(path.relative_to(folder).as_posix(), path.read_bytes())
    return data.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Make `folder` what was archived, in one step.

    Raises:
        OSError: the disk is full or not writable; what was there is as it was.
    """
    beside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(files)) as archived:
        archived.extractall(beside)
    for path in filter(Path.is_file, beside.rglob("*")):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    if folder.exists():
        remove(folder)
    beside.rename(folder)
    sync_folder(folder.parent)


def renamed(text: str, old: Path, new: Path) -> str:
    """JSON in which the folder `old` is called `new`.

    >>> renamed('{"run": "/tmp/x/run"}', Path("/tmp/x/run"), Path("out/a"))
    '{"run": "out/a"}'
    """
    before, after = (json.dumps(str(path), ensure_ascii=False)[1:-1] for path in (old, new))
    return text.replace(before, after)


def open_storage(address: str) -> Any:
    """The file system at a folder or an address.

    Raises:
        ConfigError: nothing can be written there.
    """
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(address if "://" in address else str(Path(address).resolve()))
        system.create_dir(path)
        storage = fs.SubTreeFileSystem(path, system)
        write(storage, "probe", b"")
        storage.delete_file("probe")
    except (OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            "storage is a folder that all nodes share, or an address such as s3://BUCKET/FOLDER, that can be written; "
            f"received {address!r}: {error}"
        ) from error
    return storage


def write(storage: Any, key: str, data: bytes) -> None:
    """Write in one step: a reader finds what was there before, or all of it."""
    with storage.open_output_stream(f"{key}.writing") as file:
        file.write(data)
    storage.move(f"{key}.writing", key)


def read(storage: Any, key: str) -> bytes | None:
    with suppress(FileNotFoundError), storage.open_input_stream(key) as file:
        return file.read()

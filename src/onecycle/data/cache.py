"""Decoded images on disk, found again by the content of the files they came from.

An entry is one safetensors file named by a SHA-256 over the bytes of the source files, the decode options and the
format version. It is written beside its place and renamed, and carries a CRC-32 of every tensor: an entry that is
damaged counts as absent and is written anew. The directory is ``$ONECYCLE_CACHE``, else ``onecycle`` under
``$XDG_CACHE_HOME`` (``~/.cache``); it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

VERSION = 1  # raise it when decoding changes what it yields


def directory() -> Path:
    """Where the entries lie."""
    if own := os.environ.get("ONECYCLE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "onecycle"


def key(files: Mapping[str, Sequence[Path]], options: Mapping[str, object]) -> str:
    """The name of the entry for these files (by split, in order) decoded with these options."""
    with ThreadPoolExecutor(2) as pool:
        digests = {split: list(pool.map(_digest, paths)) for split, paths in files.items()}
    content = {"version": VERSION, "files": digests, "options": dict(options)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(name: str) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """The tensors and notes stored under `name`, or None when there is no entry or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_path(name), framework="pt") as file:
            header = json.loads(file.metadata()["onecycle"])
            tensors = {split: file.get_tensor(split) for split in header["crc32"]}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    whole = all(_crc32(tensor) == header["crc32"][split] for split, tensor in tensors.items())
    return (tensors, tuple(header["notes"])) if whole else None


def write(name: str, tensors: Mapping[str, Tensor], notes: Sequence[str]) -> tuple[str, ...]:
    """Store the tensors and notes under `name`; returns a note when the directory cannot be written, else ()."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {"crc32": {split: _crc32(tensor) for split, tensor in tensors.items()}, "notes": list(notes)}
    beside = None
    try:
        directory().mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=directory(), suffix=".part")
        os.close(handle)
        save_file(dict(tensors), beside, metadata={"onecycle": json.dumps(header)})
        os.replace(beside, _path(name))
    except (OSError, SafetensorError) as error:
        if beside:
            Path(beside).unlink(missing_ok=True)
        return (f"the cache {directory()} cannot be written, so every start decodes anew ({error})",)
    return ()


def _path(name: str) -> Path:
    return directory() / f"{name}.safetensors"


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().data)

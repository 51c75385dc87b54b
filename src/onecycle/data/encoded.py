"""Splits of images that are not decoded yet: decoded into memory by way of a cache on disk, or streamed.

An entry of the cache is one safetensors file named by a SHA-256 over the bytes of the source files, the decode options
and the format version. It is written beside its place and renamed, and carries a CRC-32 of every tensor: a damaged
entry counts as absent and is written anew. The directory is ``$ONECYCLE_CACHE``, else ``onecycle`` under
``$XDG_CACHE_HOME`` (``~/.cache``); it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .images import Item, decode_many, each, is_grey, open_image, undecodable
from .splits import Split, Stream

DEFAULT_SIZE = 64
VERSION = 1  # of the cache: raise it when decoding changes what it yields


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One split of images that are not decoded yet.

    `files` are what the items are stored in; `read` gives all items at once, `stream` a picklable sequence that
    fetches one when indexed; `name(i)` says which image that is; `targets` is int64 [n].
    """

    targets: Tensor
    files: tuple[Path, ...]
    read: Callable[[], Sequence[Item]]
    stream: Callable[[], Sequence[Item]]
    name: Callable[[int], str]


@dataclass(frozen=True)
class DecodingPlan:
    """The shape (channels, height, width) that all images get, and the images whose header cannot be read."""

    shape: tuple[int, int, int]
    notes: tuple[str, ...]
    bad: dict[str, str]


def build(
    encoded: Mapping[str, EncodedImages], *, image_size: int | None, in_memory_bytes: int
) -> tuple[dict[str, Split | Stream], tuple[str, ...]]:
    """Decode every split into memory, by way of the cache, or leave it a `Stream` when it is too large for that.

    Returns the splits and the notes. Raises DataError that lists all images that do not decode.
    """
    images = sum(len(part.targets) for part in encoded.values())
    on_disk = sum(file.stat().st_size for part in encoded.values() for file in set(part.files))

    def fits(plan: DecodingPlan) -> bool:
        return images * math.prod(plan.shape) <= in_memory_bytes

    plan = scan(encoded, image_size, stream=True) if on_disk > in_memory_bytes else None
    if plan is None or fits(plan):
        key = _key(encoded, image_size)
        if key and (entry := read_cache(key)):
            return {name: Split(entry[0][name], part.targets) for name, part in encoded.items()}, entry[1]
        plan = plan or scan(encoded, image_size, stream=False)
        if fits(plan):
            tensors = _decode_all(encoded, plan)
            unwritten = write_cache(key, tensors, plan.notes) if key else ()
            return {name: Split(tensors[name], part.targets) for name, part in encoded.items()}, plan.notes + unwritten
    if plan.bad:
        raise undecodable(plan.bad)
    size = "x".join(map(str, plan.shape))
    note = f"{images} images of {size} are more than {in_memory_bytes / 2**20:.0f} MiB decoded: they stream"
    return {name: Stream(part.stream(), part.targets, plan.shape) for name, part in encoded.items()}, (
        *plan.notes,
        note,
    )


def scan(encoded: Mapping[str, EncodedImages], image_size: int | None, *, stream: bool) -> DecodingPlan:
    """Read every header: one channel when all are grey, and their own size when all have the same."""
    sizes: set[tuple[int, int]] = set()
    greys: set[bool] = set()
    bad: dict[str, str] = {}
    for part in encoded.values():
        items = part.stream() if stream else part.read()

        def header(index: int, items: Sequence[Item] = items) -> None:
            with open_image(items[index]) as image:
                sizes.add(image.size)
                greys.add(is_grey(image))

        bad |= {part.name(index): reason for index, reason in each(header, len(part.targets)).items()}
    if not sizes:
        raise undecodable(bad)
    width, height = next(iter(sizes)) if len(sizes) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)
    notes = ()
    if image_size is not None:
        height = width = image_size
    elif len(sizes) > 1:
        notes = (f"images of {len(sizes)} sizes: each resized and center-cropped to {height}x{width} (image_size)",)
    if len(greys) > 1:
        notes += ("grey and colour images are mixed: all become RGB",)
    return DecodingPlan((1 if greys == {True} else 3, height, width), notes, bad)


def _decode_all(encoded: Mapping[str, EncodedImages], plan: DecodingPlan) -> dict[str, Tensor]:
    tensors, bad = {}, {}
    for name, part in encoded.items():
        tensors[name], failed = decode_many(part.read(), plan.shape)
        bad |= {part.name(index): reason for index, reason in failed.items()}
    if bad:
        raise undecodable(bad)
    return tensors


def cache_directory() -> Path:
    """The directory of the cache's entries."""
    if chosen := os.environ.get("ONECYCLE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "onecycle"


def _key(encoded: Mapping[str, EncodedImages], image_size: int | None) -> str | None:
    """The name of the entry for these files decoded to this size; None where files cannot identify it."""
    if not all(part.files for part in encoded.values()):
        return None  # made in memory
    try:
        with ThreadPoolExecutor(2) as pool:
            digests = {split: list(pool.map(_digest, part.files)) for split, part in encoded.items()}
    except OSError:
        return None  # a file that cannot be read: decoding lists it, with all others
    content = {"version": VERSION, "files": digests, "options": {"image_size": image_size}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_cache(name: str) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """The tensors and notes of the entry `name`, or None when there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_path(name), framework="pt") as file:
            header = json.loads(file.metadata()["onecycle"])
            tensors = {split: file.get_tensor(split) for split in header["crc32"]}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    intact = all(_crc32(tensor) == header["crc32"][split] for split, tensor in tensors.items())
    return (tensors, tuple(header["notes"])) if intact else None


def write_cache(name: str, tensors: Mapping[str, Tensor], notes: Sequence[str]) -> tuple[str, ...]:
    """Write the entry `name`; returns a note when the directory cannot be written, else ()."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {"crc32": {split: _crc32(tensor) for split, tensor in tensors.items()}, "notes": list(notes)}
    beside = None
    try:
        cache_directory().mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=cache_directory(), suffix=".part")
        os.close(handle)
        save_file(dict(tensors), beside, metadata={"onecycle": json.dumps(header)})
        os.replace(beside, _path(name))
    except (OSError, SafetensorError) as error:
        if beside:
            Path(beside).unlink(missing_ok=True)
        return (f"the cache {cache_directory()} cannot be written, so every start decodes anew ({error})",)
    return ()


def _path(name: str) -> Path:
    return cache_directory() / f"{name}.safetensors"


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().data)

"""Splits of images that are not decoded yet: decoded into memory by way of a cache on disk, or streamed.

An entry of the cache is one safetensors file named by a SHA-256 over the bytes of the source files, the decode options
and the format version; images that do not decode are named in it. It is written beside its place and renamed, and
carries a CRC-32 of every tensor: a damaged entry counts as absent and is written anew. The directory is
``$ONECYCLE_CACHE``, else ``onecycle`` under ``$XDG_CACHE_HOME`` (``~/.cache``); it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ..text import count, listed, percent
from .described import NamedBy
from .images import Item, cropped_away, decode, decode_many, each, formats, headers, undecodable
from .splits import Split, Stream, take

KEPT = 224  # a size that nearly all images have is kept up to this shorter side
LARGEST = 128  # the shorter side of images whose size is chosen here, see docs/log.md
ALIKE = 0.75  # the share of images of one size from which on it is the size of all
CROPPED = 0.25  # the share of a typical image that a crop may lose unsaid
VERSION = 3  # of the cache: raise it when decoding, the choice of a size or what is said about them changes
MIXED = ("grey and colour images are mixed: all become RGB",)
Bad = dict[str, dict[int, str]]  # {split: {index: why it does not decode}}


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
class Decoding:
    """How images are decoded.

    `image_size` is the side of square images, None the size that is common in the data; `fit` how others are brought to
    it; `skip_damaged` leaves out what does not decode; more than `in_memory_bytes` of pixels become a `Stream`.
    """

    image_size: int | None = None
    fit: str = "crop"
    skip_damaged: bool = False
    in_memory_bytes: int = 2**31


@dataclass(frozen=True)
class DecodingPlan:
    """The shape (channels, height, width) that all images get, and the images whose header cannot be read."""

    shape: tuple[int, int, int]
    notes: tuple[str, ...]
    bad: Bad


def build(encoded: Mapping[str, EncodedImages], how: Decoding) -> tuple[dict[str, Split | Stream], tuple[str, ...]]:
    """Decode every split into memory, by way of the cache, or leave it a `Stream` when it is too large for that.

    Returns the splits and the notes. Raises DataError that lists all images that do not decode.
    """
    images = sum(len(part.targets) for part in encoded.values())
    on_disk = sum(file.stat().st_size for part in encoded.values() for file in set(part.files))

    def fits(plan: DecodingPlan) -> bool:
        return images * math.prod(plan.shape) <= how.in_memory_bytes

    plan = scan(encoded, how, stream=True) if on_disk > how.in_memory_bytes else None
    if plan is None or fits(plan):
        digests = _digests(encoded)
        key = _key(digests, how)
        unwritten: tuple[str, ...] = ()
        entry = read_cache(key) if key else None
        if entry is None:
            plan = plan or scan(encoded, how, stream=False)
            if fits(plan):
                entry = _decode_all(encoded, plan, how)
                unwritten = write_cache(key, *entry) if key else ()
        if entry is not None:
            tensors, bad, notes = entry
            parts, skipped = _without(bad, encoded, how, _decoded(tensors))
            return parts, (*notes, *copies(encoded, digests), *skipped, *unwritten)
    plan = plan or scan(encoded, how, stream=True)
    bad = _undecodable_in_streams(encoded, plan, how) if how.skip_damaged else plan.bad
    size = "x".join(map(str, plan.shape))
    note = f"{images} images of {size} are more than {how.in_memory_bytes / 2**20:.0f} MiB decoded: they stream"
    parts, skipped = _without(
        bad, encoded, how,
        lambda _, part: Stream(part.stream(), part.targets, plan.shape, fit=how.fit, about=NamedBy(part.name)),
    )  # fmt: skip
    return parts, (*plan.notes, *copies(encoded, _digests(encoded, likely=True)), *skipped, note)


def _decoded(tensors: Mapping[str, Tensor]) -> Callable[[str, EncodedImages], Split]:
    """A split from its name and its images, which are in `tensors`."""

    def split(name: str, part: EncodedImages) -> Split:
        return Split(tensors[name], part.targets, torch.arange(len(part.targets)), NamedBy(part.name))

    return split


def scan(encoded: Mapping[str, EncodedImages], how: Decoding, *, stream: bool) -> DecodingPlan:
    """Read every header: one channel when all are grey, and the size that is common among them."""
    sizes: Counter[tuple[int, int]] = Counter()
    greys: Counter[bool] = Counter()
    bad: Bad = {}
    for name, part in encoded.items():
        some, shades, bad[name] = headers(part.stream() if stream else part.read())
        sizes += some
        greys += shades
    if not sizes:
        raise undecodable(_named(bad, encoded))
    (height, width), notes = common_size(sizes) if how.image_size is None else ((how.image_size,) * 2, ())
    if how.fit == "crop":
        notes += crop_notes(sizes, (height, width))
    if len(greys) > 1:
        notes += MIXED
    return DecodingPlan((3 if greys[False] else 1, height, width), notes, bad)


def common_size(sizes: Mapping[tuple[int, int], int]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """(height, width) for images of these sizes (a count for each), and what there is to say about it.

    It is the size of nearly all where there is one, `KEPT` at most on the shorter side; else the median shorter side,
    `LARGEST` at most, as a square where the proportions differ. Few odd ones change neither.

    >>> common_size({(100, 100): 2059, (3024, 3024): 3})
    ((100, 100), ('images of 2 sizes become 100x100, the size of most; image_size chooses another',))
    >>> common_size({(3024, 4032): 60})[0], common_size({(28, 28): 60})
    ((128, 171), ((28, 28), ()))
    """
    (height, width), most = max(sizes.items(), key=lambda item: (item[1], item[0]))
    many = f"images of {len(sizes)} sizes" if len(sizes) > 1 else f"images of {height}x{width}"
    alike, why = most >= ALIKE * sum(sizes.values()), "the size of most"
    if alike and min(height, width) <= KEPT:
        mend = "image_size chooses another"
        return (height, width), (f"{many} become {height}x{width}, {why}; {mend}",) if len(sizes) > 1 else ()
    if not alike:
        height = width = int(median([min(size) for size, n in sizes.items() for _ in range(n)]))
        why = "the median of their shorter sides"
    if (short := min(height, width)) <= LARGEST:
        return (height, width), (f"{many} become {height}x{width}, {why}; image_size chooses another",)
    height, width = (max(LARGEST, round(side * LARGEST / short)) for side in (height, width))
    return (height, width), (
        f"{many} become {height}x{width}, to train in minutes: image_size=224 (--image-size 224) for the size that "
        "pretrained models expect",
    )


def crop_notes(sizes: Mapping[tuple[int, int], int], wanted: tuple[int, int]) -> tuple[str, ...]:
    """A note where a center crop to `wanted` loses much of a typical image; `sizes` are counted, (height, width)."""
    lost = median([cropped_away(size, wanted) for size, n in sizes.items() for _ in range(n)])
    if round(lost, 2) <= CROPPED:
        return ()
    return (
        f'the center crop loses {percent(lost, 0)} of a typical image: fit="pad" (--fit pad) keeps all of it, '
        'fit="squash" changes its proportions instead',
    )


def _decode_all(
    encoded: Mapping[str, EncodedImages], plan: DecodingPlan, how: Decoding
) -> tuple[dict[str, Tensor], Bad, tuple[str, ...]]:
    """The tensors, where those that do not decode are black; which those are; and the notes."""
    tensors, bad, digests = {}, {}, {}
    for name, part in encoded.items():
        items = part.read()
        tensors[name], bad[name] = decode_many(items, plan.shape, how.fit)
        digests[name] = [hashlib.sha256(item).hexdigest() if isinstance(item, bytes) else None for item in items]
    return tensors, bad, plan.notes + copies(encoded, digests)


def _undecodable_in_streams(encoded: Mapping[str, EncodedImages], plan: DecodingPlan, how: Decoding) -> Bad:
    bad: Bad = {}
    for name, part in encoded.items():
        items = part.stream()

        def whole(index: int, items: Sequence[Item] = items) -> None:
            decode(items[index], plan.shape, how.fit)

        bad[name] = each(whole, len(part.targets))
    return bad


def _without(
    bad: Bad,
    encoded: Mapping[str, EncodedImages],
    how: Decoding,
    split: Callable[[str, EncodedImages], Split | Stream],
) -> tuple[dict[str, Split | Stream], tuple[str, ...]]:
    """The splits without what does not decode, and the note on that; without `skip_damaged` it is an error."""
    named = _named(bad, encoded)
    if named and not how.skip_damaged:
        raise undecodable(named)
    parts = {name: split(name, part) for name, part in encoded.items()}
    for name, failed in bad.items():
        if failed:
            whole = torch.ones(len(parts[name]), dtype=torch.bool)
            whole[list(failed)] = False
            parts[name] = take(parts[name], whole.nonzero().flatten())
    if not named:
        return parts, ()
    images = sum(len(part.targets) for part in encoded.values())
    reasons = Counter(named.values()).most_common()
    why = listed((f"{n} {reason}" for reason, n in reasons), most=3)
    said = (
        f"{len(named)} of {count(images, 'image')} do not decode and are left out, such as {next(iter(named))}: {why}"
    )
    return parts, (said,)


def _named(bad: Bad, encoded: Mapping[str, EncodedImages]) -> dict[str, str]:
    """{image: reason}."""
    return {encoded[name].name(index): why for name, failed in bad.items() for index, why in failed.items()}


# Copies

Digests = Mapping[str, Sequence[str | None]]  # of the content of each image, by split; None: not known


def _digests(encoded: Mapping[str, EncodedImages], likely: bool = False) -> dict[str, list[str | None]] | None:
    """The SHA-256 of each file, by split; with `likely` only of those files whose size is not unique.

    None where files cannot identify the images: they were made in memory, or cannot be read.
    """
    if not all(part.files for part in encoded.values()):
        return None
    try:
        sizes = Counter(file.stat().st_size for part in encoded.values() for file in part.files) if likely else {}
        with ThreadPoolExecutor(2) as pool:

            def digest(path: Path) -> str | None:
                return None if likely and sizes[path.stat().st_size] == 1 else _digest(path)

            return {split: list(pool.map(digest, part.files)) for split, part in encoded.items()}
    except OSError:
        return None  # a file that cannot be read: decoding lists it, with all others


def copies(encoded: Mapping[str, EncodedImages], digests: Digests | None) -> tuple[str, ...]:
    """Notes on images that are in the training data and in another split, twice in training, or in two classes."""
    if digests is None or any(len(digests[name]) != len(part.targets) for name, part in encoded.items()):
        return ()  # files of many images: their content was compared when they were decoded
    train, seen = encoded["train"], {}
    notes, again, unlike = [], [], []
    for index, digest in enumerate(digests["train"]):
        if digest is not None and (first := seen.setdefault(digest, index)) != index:
            again.append((index, first))
            if not torch.equal(train.targets[index], train.targets[first]):
                unlike.append((index, first))

    def pair(one: str, other: int) -> str:
        return f"{one} is {train.name(other)}"

    for name, part in encoded.items():
        both = [(index, seen[digest]) for index, digest in enumerate(digests[name]) if digest in seen]
        if name != "train" and both:
            split = "validation" if name == "valid" else name
            notes.append(
                f"{len(both)} of {len(part.targets)} {split} images are copies of training images "
                f"({pair(part.name(both[0][0]), both[0][1])}): on those, what was learnt by heart is measured"
            )
    if again and "valid" not in encoded:
        notes.append(
            f"{len(again)} of {len(train.targets)} training images are copies of others "
            f"({pair(train.name(again[0][0]), again[0][1])}): the validation cut may hold copies of what is trained on"
        )
    if unlike:
        notes.append(
            f"{count(len(unlike), 'training image')} {'is' if len(unlike) == 1 else 'are'} in two classes "
            f"({pair(train.name(unlike[0][0]), unlike[0][1])}): remove the wrong ones"
        )
    return tuple(notes)


# The cache


def cache_directory() -> Path:
    """The directory of the cache's entries."""
    if chosen := os.environ.get("ONECYCLE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "onecycle"


def _key(digests: Digests | None, how: Decoding) -> str | None:
    """The name of the entry for these files decoded so; None where files cannot identify it."""
    if digests is None:
        return None
    options = {"image_size": how.image_size, "fit": how.fit, "chosen": [KEPT, LARGEST, ALIKE, CROPPED]}
    content = {"version": VERSION, "formats": formats(), "files": digests, "options": options}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_cache(name: str) -> tuple[dict[str, Tensor], Bad, tuple[str, ...]] | None:
    """What `write_cache` was given for the entry `name`, or None when there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_path(name), framework="pt") as file:
            header = json.loads(file.metadata()["onecycle"])
            tensors = {split: file.get_tensor(split) for split in header["crc32"]}
            bad = {split: {int(index): why for index, why in failed.items()} for split, failed in header["bad"].items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    intact = all(_crc32(tensor) == header["crc32"][split] for split, tensor in tensors.items())
    return (tensors, bad, tuple(header["notes"])) if intact else None


def write_cache(name: str, tensors: Mapping[str, Tensor], bad: Bad, notes: Sequence[str]) -> tuple[str, ...]:
    """Write the entry `name`; returns a note when the directory cannot be written, else ()."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {"crc32": {split: _crc32(tensor) for split, tensor in tensors.items()}, "bad": bad, "notes": list(notes)}
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

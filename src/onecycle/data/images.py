"""Encoded images to uint8 tensors: one shape and one number of channels for all, decoded by Pillow in two threads."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from . import cache
from .splits import Split, Stream, listed

DEFAULT_SIZE = 64
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
Item = str | Path | bytes  # a path or the encoded image itself


@dataclass(frozen=True, eq=False)
class Encoded:
    """One split of images that are not decoded yet.

    `files` are what the items are stored in; `read` gives all items at once, `stream` a picklable sequence that
    fetches one when indexed; `name(i)` says which image that is; `targets` is int64 [n].
    """

    targets: Tensor
    files: tuple[Path, ...]
    read: Callable[[], Sequence[Item]]
    stream: Callable[[], Sequence[Item]]
    name: Callable[[int], str]


def build(
    encoded: Mapping[str, Encoded], *, image_size: int | None, in_memory_bytes: int
) -> tuple[dict[str, Split | Stream], tuple[str, ...]]:
    """Decode every split into memory, by way of the cache, or leave it a `Stream` when it is too large for that.

    Returns the splits and the notes. Raises DataError that lists all images that do not decode.
    """
    count = sum(len(part.targets) for part in encoded.values())
    on_disk = sum(file.stat().st_size for part in encoded.values() for file in set(part.files))
    plan = scan(encoded, image_size, stream=True) if on_disk > in_memory_bytes else None
    if plan is None or count * math.prod(plan.shape) <= in_memory_bytes:
        key = _key(encoded, image_size)
        if key and (stored := cache.read(key)):
            return {name: Split(stored[0][name], part.targets) for name, part in encoded.items()}, stored[1]
        plan = plan or scan(encoded, image_size, stream=False)
        if count * math.prod(plan.shape) <= in_memory_bytes:
            tensors = _decode_all(encoded, plan)
            unwritten = cache.write(key, tensors, plan.notes) if key else ()
            return {name: Split(tensors[name], part.targets) for name, part in encoded.items()}, plan.notes + unwritten
    if plan.bad:
        raise undecodable(plan.bad)
    note = f"{count} images of {_by(plan.shape)} are more than {in_memory_bytes / 2**20:.0f} MiB decoded: they stream"
    streams = {name: Stream(part.stream(), part.targets, plan.shape) for name, part in encoded.items()}
    return dict(streams), (*plan.notes, note)


def _key(encoded: Mapping[str, Encoded], image_size: int | None) -> str | None:
    if not all(part.files for part in encoded.values()):
        return None  # not from files (a data set made in memory): nothing to know it by
    try:
        return cache.key({name: part.files for name, part in encoded.items()}, {"image_size": image_size})
    except OSError:
        return None  # a file that cannot be read: decoding lists it, with all others


@dataclass(frozen=True)
class Plan:
    """The shape (channels, height, width) that all images get, and the images whose header cannot be read."""

    shape: tuple[int, int, int]
    notes: tuple[str, ...]
    bad: dict[str, str]


def scan(encoded: Mapping[str, Encoded], image_size: int | None, *, stream: bool) -> Plan:
    """Read every header: grey stays one channel when all are grey, and the size stays when all are equal."""
    sizes: set[tuple[int, int]] = set()
    greys: set[bool] = set()
    bad: dict[str, str] = {}
    for part in encoded.values():
        items = part.stream() if stream else part.read()

        def header(index: int, items: Sequence[Item] = items) -> None:
            with _open(items[index]) as image:
                sizes.add(image.size)
                greys.add(_grey(image))

        bad |= {part.name(index): reason for index, reason in _each(header, len(part.targets)).items()}
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
    return Plan((1 if greys == {True} else 3, height, width), notes, bad)


def _decode_all(encoded: Mapping[str, Encoded], plan: Plan) -> dict[str, Tensor]:
    tensors, bad = {}, {}
    for name, part in encoded.items():
        tensors[name], failed = decode_many(part.read(), plan.shape)
        bad |= {part.name(index): reason for index, reason in failed.items()}
    if bad:
        raise undecodable(bad)
    return tensors


def decode_many(items: Sequence[Item], shape: Sequence[int]) -> tuple[Tensor, dict[int, str]]:
    """All images as uint8 [n, *shape], and {index: reason} of those that do not decode."""
    images = np.zeros((len(items), *shape), np.uint8)

    def one(index: int) -> None:
        images[index] = decode(items[index], shape)

    bad = _each(one, len(items))
    return torch.from_numpy(images), bad


def decode(item: Item, shape: Sequence[int]) -> np.ndarray:
    """One image as uint8 [channels, height, width]: resized to cover that size, then center-cropped to it."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    with _open(item) as opened:
        opened.draft(None, (2 * width, 2 * height))  # a large JPEG is decoded at a half, a quarter or an eighth
        image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
        image = _convert(image, "L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1).copy()


def decode_or_raise(item: Item, shape: Sequence[int], name: str) -> np.ndarray:
    """`decode`, with a DataError that names the image when it does not decode."""
    try:
        return decode(item, shape)
    except Exception as error:
        raise undecodable({name if isinstance(item, bytes) else str(item): _reason(error)}) from error


def resize(images: Tensor, size: int) -> Tensor:
    """Images uint8 [n, c, h, w] with the shorter side resized to `size`, then center-cropped: [n, c, size, size]."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    new = (max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = (new[0] - size) // 2, (new[1] - size) // 2

    def chunk(part: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(part.float(), size=new, mode="bilinear", antialias=True)
        return large[:, :, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)

    return torch.cat([chunk(part) for part in images.split(1024)])


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [n, c, h, w] in units of 255; a constant channel has std 1.

    The sums are of integers in float64, hence exact: the result does not depend on the order of the samples.
    """
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for part in images.split(512):
        values = part.flatten(2).numpy().astype(np.float64)
        total += values.sum((0, 2))
        squares += np.einsum("nci,nci->c", values, values)
    pixels = images.numel() // images.shape[1]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0)) / 255
    std[std == 0] = 1
    return tuple((mean / 255).tolist()), tuple(std.tolist())


def _open(item: Item) -> Any:
    from PIL import Image

    if item is None:
        raise ValueError("no image here")
    return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)


def _grey(image: Any) -> bool:
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _convert(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _each(work: Callable[[int], None], count: int, chunk: int = 256) -> dict[int, str]:
    """Call `work` for 0..count-1 in two threads: Pillow decodes without the interpreter's lock.

    Returns {index: why it failed}, by index.
    """
    failed: dict[int, str] = {}

    def several(start: int) -> None:
        for index in range(start, min(start + chunk, count)):
            try:
                work(index)
            except MemoryError:
                raise
            except Exception as error:  # Pillow's formats raise whatever they like on damaged files
                failed[index] = _reason(error)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(several, range(0, count, chunk)):
            pass
    return dict(sorted(failed.items()))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return str(error) or type(error).__name__


def undecodable(bad: Mapping[str, str]) -> DataError:
    """The error that lists all the images that do not decode, with the reason."""
    lines = listed([f"  {name}: {reason}" for name, reason in bad.items()], separator="\n")
    return DataError(
        f"{len(bad)} {'image does' if len(bad) == 1 else 'images do'} not decode. Mend or remove:\n{lines}"
    )


def _by(shape: Iterable[int]) -> str:
    return "x".join(str(n) for n in shape)

"""Encoded images to uint8 tensors of one shape: decoded by Pillow in two threads, resized, measured by channel."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..text import count

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
Item = str | Path | bytes  # a path or the encoded image itself


def decode_many(items: Sequence[Item], shape: Sequence[int]) -> tuple[Tensor, dict[int, str]]:
    """All images as uint8 [n, *shape], and {index: reason} of those that do not decode."""
    images = np.zeros((len(items), *shape), np.uint8)

    def one(index: int) -> None:
        images[index] = decode(items[index], shape)

    bad = each(one, len(items))
    return torch.from_numpy(images), bad


def decode(item: Item, shape: Sequence[int]) -> np.ndarray:
    """One image as uint8 [channels, height, width]: resized to cover that size, then center-cropped to it."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    with open_image(item) as opened:
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


def open_image(item: Item) -> Any:
    """The image with its header read."""
    from PIL import Image

    if item is None:
        raise ValueError("no image here")
    return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)


def is_grey(image: Any) -> bool:
    """Whether a Pillow image has no colours."""
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


def each(work: Callable[[int], None], n: int, chunk: int = 256) -> dict[int, str]:
    """Call `work` for 0..n-1 in two threads: Pillow decodes without the interpreter's lock.

    Returns {index: why it failed}, by index.
    """
    failed: dict[int, str] = {}

    def several(start: int) -> None:
        for index in range(start, min(start + chunk, n)):
            try:
                work(index)
            except MemoryError:
                raise
            except Exception as error:  # Pillow's formats raise whatever they like on damaged files
                failed[index] = _reason(error)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(several, range(0, n, chunk)):
            pass
    return dict(sorted(failed.items()))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return str(error) or type(error).__name__


def undecodable(bad: Mapping[str, str], most: int = 20) -> DataError:
    """The error that lists the images that do not decode, with the reason."""
    lines = [f"  {name}: {reason}" for name, reason in bad.items()]
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return DataError(
        f"{count(len(bad), 'image')} {'does' if len(bad) == 1 else 'do'} not decode. Mend or remove:\n"
        + "\n".join(lines[:most])
        + more
    )

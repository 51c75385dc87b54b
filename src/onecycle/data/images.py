"""Encoded images to uint8 tensors of one shape: decoded by Pillow in several threads, resized, measured by channel."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import cores
from ..errors import DataError
from ..text import count

SUFFIXES = frozenset(
    {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
    }
    | {".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)
# Those that not every Pillow reads: what is in such a file decides.
DOUBTFUL = frozenset({".heic", ".heif", ".avif"})
# What is decoded, whatever a file is called; no formats that start other programs, such as PostScript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF", "HEIF")
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC"}
BRANDS |= {b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
MENDS = {
    "HEIC": "pip install pillow-heif, or convert them to JPEG",
    "AVIF": "pip install --upgrade pillow, or convert them to JPEG",
}
FITS = ("crop", "pad", "squash")
# Threads that decode, at most, and images that one of them takes at once.
THREADS, CHUNK = 16, 256
ORIENTATION = 0x0112  # of Exif: which way up an image is, 1 where it is as it is stored
Item = str | Path | bytes  # a path or the encoded image itself


def decode_many(
    items: Sequence[Item], shape: Sequence[int], fit: str = "crop", workers: int | None = None
) -> tuple[Tensor, dict[int, str]]:
    """All images as uint8 [n, *shape], and {index: reason} of those that do not decode; `workers` as of `each`."""
    images = np.zeros((len(items), *shape), np.uint8)

    def one(index: int) -> None:
        images[index] = decode(items[index], shape, fit)

    bad = each(one, len(items), workers)
    return torch.from_numpy(images), bad


def decode(item: Item, shape: Sequence[int], fit: str = "crop", most: int | None = None) -> np.ndarray:
    """One image as uint8 [channels, height, width], upright, on white where it is transparent.

    One of another size is resized by `fit`: "crop" covers the size and crops the center, "pad" shows all of the image
    and repeats its border, "squash" changes its proportions.
    Of more than `most` pixels none is decoded: that is a ValueError.
    """
    channels, height, width = shape
    with open_image(item) as opened:
        if most is not None and opened.width * opened.height > most:
            raise ValueError(f"its {opened.width} x {opened.height} pixels are more than {most:,}: make it smaller")
        opened.draft(None, (2 * width, 2 * height))  # a large JPEG is decoded at a half, a quarter or an eighth
        return pixels(opened, shape if channels in (1, 3) else (3, height, width), fit)


def pixels(image: Any, shape: Sequence[int], fit: str = "crop") -> np.ndarray:
    """A Pillow image as uint8 [channels, height, width], as `decode` gives it."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    with suppress(Exception):  # damaged Exif data are none; damaged pixels are met below
        if image.getexif().get(ORIENTATION, 1) != 1:  # else it would be a copy
            image = ImageOps.exif_transpose(image)
    image = _convert(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if fit == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif fit == "squash":
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            scale = min(width / image.width, height / image.height)
            inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(inner, Image.Resampling.BILINEAR)
    array = np.asarray(image)
    array = array[None].copy() if channels == 1 else array.transpose(2, 0, 1).copy()
    if array.shape[1:] == (height, width):
        return array
    return np.pad(array, ((0, 0), *_borders(array.shape[1:], (height, width))), mode="edge")


def decode_or_raise(item: Item, shape: Sequence[int], name: str, fit: str = "crop") -> np.ndarray:
    """`decode`, with a DataError that names the image when it does not decode."""
    try:
        return decode(item, shape, fit)
    except Exception as error:
        raise undecodable({name if isinstance(item, bytes) else str(item): _reason(error)}) from error


def resize(images: Tensor, size: int, fit: str = "crop") -> Tensor:
    """Images uint8 [n, c, h, w] brought to [n, c, size, size] by `fit`, as `decode` does it."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    scale = size / (max if fit == "pad" else min)(height, width)
    new = (max(1, round(height * scale)), max(1, round(width * scale))) if fit != "squash" else (size, size)
    top, left = max(0, new[0] - size) // 2, max(0, new[1] - size) // 2
    (above, below), (before, after) = _borders(new, (size, size))

    def chunk(part: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(part.float(), size=new, mode="bilinear", antialias=True)
        large = torch.nn.functional.pad(large, (before, after, above, below), mode="replicate")
        return large[:, :, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)

    return torch.cat([chunk(part) for part in images.split(1024)])


def _borders(size: Sequence[int], wanted: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) by dimension: how much to add to `size` so that it is in the middle of what is `wanted`."""
    missing = [max(0, most - side) for side, most in zip(size, wanted, strict=True)]
    return [(gap // 2, gap - gap // 2) for gap in missing]


def cropped_away(size: tuple[int, int], wanted: tuple[int, int]) -> float:
    """The share of an image of `size` (height, width) that a center crop to the proportions of `wanted` loses.

    >>> cropped_away((300, 400), (64, 64)), cropped_away((100, 100), (64, 64))
    (0.25, 0.0)
    """
    ratio = size[0] * wanted[1] / (size[1] * wanted[0])
    return 1 - min(ratio, 1 / ratio)


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
    """The image with its header read; ValueError where it is none that can be read here."""
    from PIL import Image, UnidentifiedImageError

    if item is None:
        raise ValueError("no image here")
    try:
        return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=formats())
    except UnidentifiedImageError:
        kind = unreadable(item)
        raise ValueError(f"{kind}: {MENDS[kind]}" if kind else "not an image") from None


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that the installed Pillow reads, HEIC among them where pillow-heif is installed."""
    from PIL import Image

    Image.init()
    with suppress(ImportError):
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opens(path: Path) -> bool:
    """Whether Pillow can read the header of the file, whatever its name is."""
    try:
        with open_image(path):
            return True
    except Exception:
        return False


def brand(item: Item) -> str | None:
    """ "HEIC" or "AVIF" where the file or the bytes say that they are that, else None."""
    try:
        if isinstance(item, bytes):
            head = item[:64]
        else:
            with open(item, "rb") as file:
                head = file.read(64)
    except OSError:
        return None
    if head[4:8] != b"ftyp":
        return None
    kind = BRANDS.get(head[8:12])
    return "AVIF" if kind and b"avif" in head[12:] else kind  # "mif1" is either


def unreadable(item: Item) -> str | None:
    """ "HEIC" or "AVIF" where it is that and the installed Pillow does not read it, else None."""
    kind = brand(item)
    return kind if kind and {"HEIC": "HEIF"}.get(kind, kind) not in formats() else None


def headers(items: Sequence[Item]) -> tuple[Counter[tuple[int, int]], Counter[bool], dict[int, str]]:
    """How many images are of which size (height, width) and grey or not, and {index: why not} by their headers."""
    sizes: list[tuple[int, int]] = []
    greys: list[bool] = []

    def header(index: int) -> None:
        with open_image(items[index]) as image:
            sizes.append(upright_size(image))
            greys.append(is_grey(image))

    bad = each(header, len(items))
    return Counter(sizes), Counter(greys), bad


def upright_size(image: Any) -> tuple[int, int]:
    """(height, width) of an image as it is to be seen, from its header."""
    width, height = image.size
    turned = False
    with suppress(Exception):  # damaged Exif data are none
        turned = "exif" in image.info and image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def is_grey(image: Any) -> bool:
    """Whether a Pillow image has no colours."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _convert(image: Any, mode: str) -> Any:
    """Of the mode "L" or "RGB"; what is transparent becomes white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert(image.mode.upper())
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def each(work: Callable[[int], None], n: int, workers: int | None = None) -> dict[int, str]:
    """Call `work` for 0..n-1 in so many threads, one for each core at default: Pillow decodes without the GIL.

    Returns {index: why it failed}, by index.
    """
    failed: dict[int, str] = {}
    threads = workers or max(2, min(THREADS, cores()))
    chunk = max(1, min(CHUNK, n // (4 * threads)))  # else few images would be decoded in one of them

    def several(start: int) -> None:
        for index in range(start, min(start + chunk, n)):
            try:
                work(index)
            except MemoryError:
                raise
            except Exception as error:  # Pillow's formats raise whatever they like on damaged files
                failed[index] = _reason(error)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(several, range(0, n, chunk)):
            pass
    return dict(sorted(failed.items()))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def undecodable(bad: Mapping[str, str], most: int = 20) -> DataError:
    """The error that lists the images that do not decode, with the reason."""
    lines = [f"  {name}: {reason}" for name, reason in bad.items()]
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    do = "does" if len(bad) == 1 else "do"
    return DataError(
        f"{count(len(bad), 'image')} {do} not decode. Mend, remove or skip (skip_damaged=True, --skip-damaged):\n"
        + "\n".join(lines[:most])
        + more
    )

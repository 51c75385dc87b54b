"""Small pictures of images, and of heat maps over them, as files for a page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 112  # of the longer side in pixels; smaller images stay as they are
TINY = 64  # of images that are shown by their pixels, without loss
HEAT = 128  # the side that tiny images are brought to under a heat map


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether a sample of this shape is an image: [1 or 3 channels, height, width], of some size."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4


def thumbnail(image: Tensor) -> Image:
    """An image [c, h, w] as a small picture; numbers that are no uint8 are stretched from the least to the largest."""
    from PIL import Image

    pixels = np.ascontiguousarray(image.detach().cpu().numpy().transpose(1, 2, 0))
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float64)
        low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        pixels = np.nan_to_num(255 * (pixels - low) / ((high - low) or 1.0)).astype(np.uint8)
    made = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    made.thumbnail((SIDE, SIDE))
    return made


def encoded(picture: Image) -> tuple[str, bytes]:
    """The end of a file's name, and its bytes: PNG for tiny pictures, JPEG for others."""
    file = io.BytesIO()
    if max(picture.size) <= TINY:
        picture.save(file, "PNG", optimize=True)
        return ".png", file.getvalue()
    picture.save(file, "JPEG", quality=80, optimize=True)
    return ".jpg", file.getvalue()


def with_heat(picture: Image, heat: Tensor) -> Image:
    """The picture in grey, and over it in colours from red to yellow where `heat` [h, w] in 0 to 1 is."""
    from PIL import Image

    width, height = picture.size
    factor = max(1, HEAT // max(picture.size)) if max(picture.size) <= TINY else 1
    size = (width * factor, height * factor)
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.NEAREST), dtype=np.float64)[..., None]
    small = Image.fromarray((255 * heat.numpy()).astype(np.uint8))
    share = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)[..., None] / 255
    colours = np.concatenate([np.full_like(share, 255.0), 235 * share**1.5, 40 * share], axis=2)
    mixed = grey * (1 - 0.7 * share) + 0.7 * share * colours
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))

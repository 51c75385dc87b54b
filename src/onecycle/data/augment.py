"""Batched augmentation of images on their own device: flip, crop and cutout.

Drawing and applying are apart: `Augmenter.draw` consumes the generator, `Augmenter.apply` is a pure function of the
images and of what was drawn. Flip and crop only say which source pixel each target pixel shows, so both together cost
one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import whole
from ..errors import ConfigError, did_you_mean

NAMES = ("flip", "crop", "cutout")


@dataclass(frozen=True)
class Draws:
    """What was drawn for one batch of n images: tensors of shape [n], or None where an augmentation is off.

    `flip` is bool. `crop` is (top, left) of the window inside the padded image, each in 0..2 * padding.
    `cutout` is (top, left) of the square inside the image.
    """

    flip: Tensor | None = None
    crop: tuple[Tensor, Tensor] | None = None
    cutout: tuple[Tensor, Tensor] | None = None

    def of(self, span: slice) -> Draws:
        """Those of some of the images."""
        crop, cutout = (pair and (pair[0][span], pair[1][span]) for pair in (self.crop, self.cutout))
        return Draws(None if self.flip is None else self.flip[span], crop, cutout)


@dataclass(frozen=True)
class Augmenter:
    """Flips, crops and cuts out, in this order, a batch of images; made by `augmenter`.

    `padding` (pixels, for crop) and `size` (side of the cutout square, pixels) of None follow the image size.
    """

    names: tuple[str, ...]
    padding: int | None = None
    size: int | None = None

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(x, self.draw(x, generator))

    def of_part(self, x: Tensor, generator: torch.Generator, n: int, span: slice) -> Tensor:
        """The images x at `span` of a batch of `n`, as they are in the whole batch."""
        return self.apply(x, self.draw(x, generator, n).of(span))

    def draw(self, x: Tensor, generator: torch.Generator, n: int | None = None) -> Draws:
        """Draw for every image of x, in the order flip, crop (top, left), cutout (top, left); for `n` like them."""
        if x.ndim != 4:
            raise ConfigError(
                f"augmentation {', '.join(self.names)} needs images of shape [n, c, h, w], got {list(x.shape)}; "
                "use augmentation 'none' for other data"
            )
        h, w = x.shape[-2:]
        n = len(x) if n is None else n

        def below(limit: int) -> Tensor:
            # Drawn where the generator lives, so a generator on the CPU gives the same images on every device.
            return torch.randint(limit, (n,), generator=generator, device=generator.device).to(x.device)

        flip = crop = cutout = None
        if "flip" in self.names:
            flip = below(2).bool()
        if "crop" in self.names:
            padding = _padding(self.padding, h, w)
            crop = below(2 * padding + 1), below(2 * padding + 1)
        if "cutout" in self.names:
            size = _size(self.size, h, w)
            cutout = below(h - size + 1), below(w - size + 1)
        return Draws(flip, crop, cutout)

    def apply(self, x: Tensor, draws: Draws) -> Tensor:
        """A new batch of the shape, type, device and memory format of x; x is left as it was."""
        h, w = x.shape[-2:]
        if draws.flip is None and draws.crop is None:
            out = x.clone(memory_format=_memory_format(x))
        else:
            out = _gather(x, *_sources(x, draws, _padding(self.padding, h, w) if draws.crop else 0))
        if draws.cutout is not None:
            _fill(out, *draws.cutout, _size(self.size, h, w))
        return out


def augmenter(names: Sequence[str], *, padding: int | None = None, size: int | None = None) -> Augmenter | None:
    """A function (images, generator) -> augmented images, or None for ``["none"]`` and for no name at all.

    Whatever the order of the names, the order of work is:

    - ``flip``: left to right, each image with probability 1/2.
    - ``crop``: pads by `padding` pixels (default an eighth of the shorter side: 4 of 32, 3 of 28, 1 of 8) by
      reflection, then cuts a window of the original size at a uniformly drawn place, as He et al. do
      (arXiv 1512.03385, section 4.2), there with zeros.
    - ``cutout``: sets one square of side `size` to zero, placed uniformly inside the image (DeVries and Taylor,
      arXiv 1708.04552). They use 16 of 32 over 200 epochs; the default here, a quarter of the shorter side (8 of 32,
      7 of 28), is what Page uses for short budgets (cifar10-fast). Zero is the mean of normalised images; in raw
      uint8 images it is black.

    Images are float or uint8, shape [n, c, h, w], contiguous or channels_last, on any device. The result has the
    same shape, type, device and memory format. Every draw comes from `generator`: on the device of the images it
    costs no transfer, on the CPU it gives the same draws for every device.

    Raises ConfigError for an unknown name, `padding` without ``crop``, `size` without ``cutout``, and, when called,
    for data that are not images and for padding or squares that do not fit into them.

    >>> import torch
    >>> augment = augmenter(["flip", "crop"])
    >>> images = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    >>> augment(images, torch.Generator().manual_seed(0)).shape
    torch.Size([16, 3, 32, 32])
    >>> augmenter(["none"]) is None
    True
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in (*NAMES, "none"):
            raise ConfigError(f"unknown augmentation {name!r}: {did_you_mean(str(name), (*NAMES, 'none'))}")
        if names.count(name) > 1:
            raise ConfigError(f"augmentation {name!r} is given twice in {list(names)}; name each once")
    if "none" in names and len(names) > 1:
        raise ConfigError(f"augmentation 'none' stands alone, got {list(names)}; drop 'none' or the others")
    _check_option("padding", padding, "crop", names)
    _check_option("size", size, "cutout", names)
    if names in ((), ("none",)):
        return None
    return Augmenter(tuple(name for name in NAMES if name in names), padding, size)


def _check_option(option: str, value: int | None, name: str, names: tuple[str, ...]) -> None:
    if value is None:
        return
    if name not in names:
        raise ConfigError(f"{option}={value!r} belongs to {name!r}, which is not among {list(names)}; drop it")
    whole(option, value, what="a number of pixels")


def _padding(padding: int | None, h: int, w: int) -> int:
    shorter = min(h, w)
    padding = max(1, shorter // 8) if padding is None else padding
    if padding >= shorter:
        raise ConfigError(
            f"'crop' by {padding} pixels needs images larger than that, got {h}x{w}: a reflection must fit into "
            f"the image; use padding <= {shorter - 1} or leave 'crop' out"
        )
    return padding


def _size(size: int | None, h: int, w: int) -> int:
    shorter = min(h, w)
    size = max(1, shorter // 4) if size is None else size
    if size > shorter:
        raise ConfigError(f"the 'cutout' square of side {size} is larger than the images, {h}x{w}; use <= {shorter}")
    return size


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _sources(x: Tensor, draws: Draws, padding: int) -> tuple[Tensor, Tensor]:
    """The source row of each target row, [1 or n, h], and the source column of each target column, [1 or n, w]."""
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(side, device=x.device)[None] for side in (h, w))
    if draws.crop is not None:
        top, left = (offset[:, None] - padding for offset in draws.crop)
        rows, columns = _reflect(rows + top, h), _reflect(columns + left, w)
    if draws.flip is not None:
        # Crop comes after flip: the window lies in the flipped image, the mirror leads back to the original.
        columns = torch.where(draws.flip[:, None], w - 1 - columns, columns)
    return rows, columns


def _reflect(position: Tensor, side: int) -> Tensor:
    # Reflection about the first and the last pixel, which are not repeated. Padding then looks like the image;
    # zeros draw an edge, and are the mean only after normalisation. As an index it also serves uint8, which
    # torch.nn.functional.pad does not reflect.
    last = side - 1
    return last - (last - position.abs()).abs()


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    n, c, h, w = x.shape
    pixels = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
    out = torch.empty_like(x, memory_format=_memory_format(x))
    torch.gather(x.flatten(2), 2, pixels, out=out.view(n, c, h * w))  # into out: keeps channels_last
    return out


def _fill(x: Tensor, top: Tensor, left: Tensor, size: int) -> None:
    n, c, h, w = x.shape
    side = torch.arange(size, device=x.device)
    pixels = (top[:, None] + side)[:, :, None] * w + (left[:, None] + side)[:, None, :]
    x.view(n, c, h * w).scatter_(2, pixels.view(n, 1, size * size).expand(n, c, size * size), 0)

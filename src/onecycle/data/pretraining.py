"""Data as a pretrained model takes them: size, channels and normalisation of images, tokens of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import DataError
from ..text import listed, number, percent, size
from .splits import Data, RawData, Split, Stream, shape_of


class Pretraining(Protocol):
    """What the data need to know of a pretrained model: `onecycle.models.pretrained.PretrainedConfig`."""

    @property
    def source(self) -> str: ...
    @property
    def input_size(self) -> tuple[int, int, int] | None: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def crop(self) -> float: ...
    @property
    def tokenizer(self) -> tuple[str, int, int] | None: ...
    def order(self, classes: Sequence[str] | None) -> tuple[int, ...] | None: ...


@dataclass(frozen=True)
class Fitted:
    """How data become what a model was `pretrained` on; the images are `image_size` pixels a side, where that is given.

    Without a model all stays as it is.
    """

    pretrained: Pretraining | None
    image_size: int | None = None

    @property
    def side(self) -> int | None:
        """The side of the images: as given, else that of pretraining, where its images were square."""
        shape = None if self.pretrained is None else self.pretrained.input_size
        if self.image_size is not None or shape is None:
            return self.image_size
        _, height, width = shape
        return height if height == width else None

    def check(self, name: str, raw: RawData, in_memory_bytes: int) -> None:
        """Refuse data of a kind that the model was not pretrained on, and images that would be too large in memory.

        Raises:
            DataError: such data.
        """
        known = self.pretrained
        if known is None:
            return
        if known.tokenizer is not None and raw.kind != "texts":
            mend = "; say which column has the texts, text_column=NAME (--text-column NAME)" * (raw.kind == "table")
            raise DataError(f"{known.source} was pretrained on texts, and {name} is {raw.kind}{mend}")
        if known.input_size is not None and raw.kind != "image":
            raise DataError(f"{known.source} was pretrained on images, and {name} is {raw.kind}: give images")
        if self.side is None or self.image_size is not None or raw.kind != "image":
            return
        held = [part for part in raw.parts.values() if isinstance(part, Split)]
        needed = sum(len(part) for part in held) * shape_of(raw.parts["train"])[0] * self.side**2
        if needed > in_memory_bytes:
            raise DataError(
                f"{known.source} takes images of {self.side}x{self.side}, as which those of {name} need "
                f"{size(needed)} of memory: give a smaller size, such as image_size=64 (--image-size 64)"
            )

    def of(self, data: Data) -> Data:
        """The data with the channels and the normalisation of pretraining, and notes on these.

        Raises:
            DataError: images of more channels than the model takes.
        """
        known = self.pretrained
        if known is None:
            return data
        if known.order(data.classes) is not None:
            kept = f"the head of {known.source} is kept: its own classes are those of the data"
            data = replace(data, notes=(*data.notes, kept))
        if known.input_size is None:
            return replace(data, pretrained=known)
        channels, (here, height, width) = known.input_size[0], data.input_shape
        said = []
        if self.image_size is None and self.side is not None:
            said.append(f"images become {height}x{width} (image_size, --image-size: another size)")
        if here == 1 and channels > 1:
            said.append(f"their one channel is repeated for the {channels} that the model takes")
            data = _each_split(data, lambda part: _repeated(part, channels))
        elif here != channels:
            raise DataError(
                f"{known.source} takes images of {channels} channels, and those of {data.name} have {here}: convert "
                "them, or give a model that takes them"
            )
        if known.mean:
            mean, std = (each if len(each) == channels else each[:1] * channels for each in (known.mean, known.std))
            seen = None
            if data.mean:
                seen = (data.mean * (channels // here), data.std * (channels // here))
            data = replace(data, mean=mean, std=std, seen=seen)
            said.append(f"normalised by the mean {listed(map(number, mean))} and std {listed(map(number, std))}")
        said += _otherwise(known)
        note = f"as {known.source} was pretrained: {'; '.join(said)}"
        return replace(data, notes=(*data.notes, note) if said else data.notes, pretrained=known)


def _otherwise(known: Pretraining) -> list[str]:
    """What is done with images in another way than there, in words."""
    said = []
    if known.crop < 1:
        said.append(f"their shorter side is taken whole, where that was its middle {percent(known.crop, 1)}")
    if known.interpolation not in ("", "bilinear"):
        said.append(f"resized bilinearly, where that was {known.interpolation}")
    return said


def _each_split(data: Data, change: Callable[[Split | Stream], Split | Stream]) -> Data:
    test = None if data.test is None else change(data.test)
    return replace(data, train=change(data.train), valid=change(data.valid), test=test)


def _repeated(part: Split | Stream, channels: int) -> Split | Stream:
    """Grey images with so many channels, all alike, which take no more memory."""
    if isinstance(part, Stream):
        return Stream(part.items, part.targets, (channels, *part.shape[1:]), part.indices, part.fit)
    return Split(part.inputs.expand(-1, channels, -1, -1), part.targets)

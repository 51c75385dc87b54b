"""What is given to a trained model, as the samples that it was trained on; anything else is refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.arrays import as_tensor
from ..data.csv_files import Cells
from ..data.images import DOUBTFUL, SUFFIXES, opens, pixels
from ..data.inputs import ARRAYS
from ..data.npz import as_inputs
from ..data.table_columns import TableColumns
from ..data.table_folders import is_table
from ..data.tables import as_table, is_frame
from ..data.text_tokens import TextTokens
from ..errors import DataError
from ..text import count, listed, number
from ..training.probe import described

FEW_LEVELS = 2  # values that an image may have, and be normalised all the same, though they are whole numbers
SHOWN = 60  # characters of what is taken for a path
Say = Callable[[str], None]


@dataclass(frozen=True)
class Accepted:
    """What a model was trained on, and so what it takes.

    `fitted` says that images of other sizes were brought to one, by `fit`; `normalised` that uint8 images are.
    """

    kind: str
    shape: tuple[int, ...] | None
    columns: TableColumns | TextTokens | None
    fit: str
    fitted: bool
    normalised: bool

    def __str__(self) -> str:
        shape = f"[n, {', '.join(map(str, self.shape))}]" if self.shape else "[n, ...]"
        if self.kind == "image":
            return f"images: uint8 {shape} from 0 to 255, or paths of image files and of folders of them"
        if isinstance(self.columns, TextTokens):
            return f"texts: a data frame or a table file with the column {self.columns.column}, or .txt files"
        if self.columns is not None:
            names = listed(self.columns.names)
            return f"the rows of a data frame, or of a .csv, .tsv or .parquet file, with the columns {names}"
        if self.kind == "text":
            return f"the codes of characters: int64 {shape}"
        return f"arrays {shape}, or paths of .npy and .npz files of them"

    def refused(self, given: str, mend: str = "") -> DataError:
        """The error about what was `given`."""
        return DataError(f"this run cannot predict for {given}{mend and f' ({mend})'}. It takes {self}")

    def samples(self, inputs: Any, say: Say) -> Any:
        """`inputs` as data that are batched, or batches; `say` is told what is done to them.

        Raises:
            DataError: they are not what the model takes.
        """
        if self.columns is not None and (isinstance(inputs, Mapping | Cells) or is_frame(inputs)):
            return (self._rows(inputs, self.columns, say),)
        if isinstance(inputs, Mapping):
            if self.kind != "array":
                raise self.refused(f"a {type(inputs).__name__}")
            return [inputs]
        if isinstance(inputs, list | tuple | set | frozenset):
            return self._listed(inputs)
        if is_frame(inputs) and self.kind != "array":
            raise self.refused(f"a {type(inputs).__name__}")
        if hasattr(inputs, "inputs") and hasattr(inputs, "targets"):
            return (self._tensor(inputs.inputs, say),)
        if hasattr(inputs, "shape"):
            return (self._tensor(inputs, say),)
        if isinstance(inputs, Iterable) and not isinstance(inputs, bytes) and not hasattr(inputs, "tobytes"):
            return inputs
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__") and not isinstance(inputs, bytes):
            return inputs
        raise self.refused(_named(inputs))

    def _rows(self, frame: Any, columns: TableColumns | TextTokens, say: Say) -> Tensor:
        if getattr(frame, "ndim", 2) == 1:
            raise self.refused(f"a {type(frame).__name__}", "give it as a column, series.to_frame()")
        if isinstance(frame, Mapping) and not all(hasattr(column, "__len__") for column in frame.values()):
            raise self.refused("one value a column", 'give lists: {"name": [value]}')
        table = as_table(frame, columns.notations).table
        for note in unused(table.column_names, columns):
            say(note)
        rows = columns.encode(table, "the table")
        for note in columns.unlike(rows):
            say(note)
        return rows

    def _listed(self, inputs: Any) -> Any:
        if not inputs or isinstance(inputs, set | frozenset):
            raise self.refused(_named(inputs))
        if all(hasattr(part, "shape") for part in inputs):
            if self.shape and all(tuple(part.shape) == self.shape for part in inputs):
                raise self.refused(
                    f"a {type(inputs).__name__} of {count(len(inputs), 'sample')}", "give np.stack(x) or torch.stack(x)"
                )
            return (as_tensor(inputs[0]), *inputs[1:]) if isinstance(inputs, tuple) else [*map(as_tensor, inputs)]
        if isinstance(inputs[0], Mapping) and self.kind == "array":
            return inputs
        if isinstance(inputs[0], tuple | list) and len(inputs[0]) and hasattr(inputs[0][0], "shape"):
            return inputs
        mend = "give pd.DataFrame(rows)" if isinstance(inputs[0], Mapping) else "give np.array(x)"
        raise self.refused(_named(inputs), mend if self.columns is None or isinstance(inputs[0], Mapping) else "")

    def _tensor(self, inputs: Any, say: Say) -> Tensor:
        tensor = as_tensor(inputs)
        if not tensor.ndim or not len(tensor):
            raise self.refused(f"{described(tensor)}, which has no samples")
        if self.shape is None:
            return tensor
        if self.kind == "image":
            return self._images(tensor, self.shape, say)
        if tuple(tensor.shape) == self.shape:
            raise self.refused(f"{described(tensor)}, which is one sample", "give x[None]")
        table = self.kind == "table" and tensor.is_floating_point()
        if tensor.ndim != len(self.shape) + 1 or (table and tuple(tensor.shape[1:]) != self.shape):
            raise self.refused(described(tensor))
        if isinstance(self.columns, TableColumns):
            say(f"{described(tensor)} is taken for rows that onecycle.load encoded; others are given as a data frame")
        return tensor

    def _images(self, images: Tensor, shape: tuple[int, ...], say: Say) -> Tensor:
        """Images [n, c, h, w] as in training: those of another size are brought to that, as files are."""
        if images.dtype != torch.uint8:
            self._check_normalised(images, shape)
            if self.normalised:
                say(_taken_for_normalised(images))
            return images
        if images.ndim not in (3, 4) or (tuple(images.shape) == shape and shape[0] > 1):
            raise self.refused(described(images), "give x[None]" if tuple(images.shape) == shape else "")
        if not (images.ndim == 4 and images.shape[1] == shape[0]):
            images = as_inputs(images.cpu().numpy(), "the batch of images")[1]
        if tuple(images.shape[1:]) == shape:
            return images
        given, wanted = ("x".join(map(str, size)) for size in (images.shape[1:], shape))
        if self.fitted:
            say(f"{count(len(images), 'image')} of {given} brought to {wanted}, as files are ({self.fit})")
            return _brought(images, shape, self.fit)
        if images.shape[1] != shape[0]:
            raise self.refused(described(images))
        say(f"images of {given}, and those of training had {wanted}")
        return images

    def _check_normalised(self, images: Tensor, shape: tuple[int, ...]) -> None:
        """Raise a DataError for images that are not uint8 and are not normalised ones either."""
        if not images.is_floating_point():
            raise self.refused(described(images), "give x.to(torch.uint8)")
        if images.ndim != 4 or images.shape[1] != shape[0] or (self.fitted and tuple(images.shape[1:]) != shape):
            raise self.refused(described(images))
        if self.normalised and (mend := _as_uint8(images)):
            low, high = float(images.min()), float(images.max())
            raise self.refused(f"{described(images)} from {number(low)} to {number(high)}", f"give {mend}")

    def check_files(self, paths: Iterable[str | Path]) -> None:
        """Raise a DataError for a file that is plainly of another kind than the model takes."""
        for path in map(str, paths):
            suffix, there = Path(path).suffix.lower(), os.path.isfile(path)
            if self.columns is not None:
                if os.path.isdir(path):
                    raise self.refused(f"{path}, a folder")
                if not there:
                    texts = isinstance(self.columns, TextTokens)
                    mend = f"give a text itself as {{{self.columns.names[0]!r}: [text]}}" if texts else ""
                    raise self.refused(f"{_short(path)!r}, which is no file", mend)
                if suffix in ARRAYS or suffix in SUFFIXES | DOUBTFUL or opens(Path(path)):
                    raise self.refused(f"{path}, {'an array' if suffix in ARRAYS else 'an image'}")
            elif is_table(Path(path)) and there:
                raise self.refused(f"{path}, a table")
            elif self.kind == "array" and suffix not in ARRAYS and there:
                raise self.refused(f"{path}, {'an image' if opens(Path(path)) else 'which is no array'}")


def unused(names: Iterable[str], columns: TableColumns | TextTokens) -> list[str]:
    """A note on the columns of a table that are not looked at, but for the target; none where there are none."""
    more = [name for name in names if name not in (*columns.names, *columns.target)]
    return [
        f"not looked at: {listed(more)} (the model was not trained on {'it' if len(more) == 1 else 'them'})"
    ] * bool(more)


def _as_uint8(images: Tensor) -> str:
    """How images that plainly are no normalised ones become uint8; empty where they may be.

    Those of 0 to 255, and those divided by 255, have whole numbers alone, or multiples of 1/255. Of a few of them, as
    in a white image, that may be by chance.
    """
    low, high = float(images.min()), float(images.max())
    if not 0 <= low <= high <= 255:
        return ""
    levels, mend = (
        (images, "x.round().to(torch.uint8)") if high > 1 else (images * 255, "(x * 255).round().to(torch.uint8)")
    )
    whole = bool((levels - levels.round()).abs().max() < 1e-3)
    return mend if whole and len(levels.round().unique()) > FEW_LEVELS else ""


def _taken_for_normalised(images: Tensor) -> str:
    """The note on images that are no uint8; with their range where none of them is below the mean."""
    low, high = float(images.min()), float(images.max())
    doubt = f"; from {number(low)} to {number(high)}, they may be others: give uint8" if low >= 0 else ""
    return f"{described(images)} is taken for images that are normalised already; uint8 ones are by predict{doubt}"


def _brought(images: Tensor, shape: tuple[int, ...], fit: str) -> Tensor:
    from PIL import Image

    channels = shape[0]
    if channels not in (1, 3) or images.shape[1] not in (1, 3, 4):
        raise DataError(
            f"{described(images)} cannot be brought to {list(shape)}: this is done for images of 1, 3 or 4 channels. "
            "Bring them to this size yourself"
        )
    each = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    made = (Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in each)
    return torch.from_numpy(np.stack([pixels(one, shape, fit) for one in made]))


def _short(path: str) -> str:
    return path if len(path) <= SHOWN else f"{path[:SHOWN]} ..."


def _named(value: Any) -> str:
    """A thing in words: its type, and of a list what is in it."""
    if isinstance(value, list | tuple | set | frozenset):
        kind = type(next(iter(value))).__name__ if value else ""
        return f"a {type(value).__name__} of {count(len(value), kind)}" if value else f"an empty {type(value).__name__}"
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"

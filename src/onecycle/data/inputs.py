"""Files to predict on: images and arrays as batches, and in what they are unlike the training data."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..text import count, listed, number, percent
from .encoded import CROPPED
from .folders import image_files
from .images import Item, channel_statistics, cropped_away, decode_many, headers, undecodable
from .npz import as_inputs, load_arrays
from .splits import check_finite

ARRAYS = (".npy", ".npz")
CHUNK = 1024  # files that are read at once, at most
MEMORY = 2**25  # bytes of samples that are
FEW = 8  # fewer images may differ by chance
Batch = tuple[list[str], Tensor, dict[str, str]]
Part = TypeVar("Part")


def matching(paths: Sequence[str | Path]) -> list[str | Path]:
    """The paths, and in place of a pattern such as ``photos/*.jpg`` or ``**/*.png`` the files that match, sorted.

    Raises:
        DataError: a pattern that no file matches.
    """
    found: list[str | Path] = []
    for path in paths:
        pattern = os.path.expanduser(path)
        if os.path.lexists(pattern) or not glob.has_magic(pattern):
            found.append(path)
        elif matches := sorted(glob.glob(pattern, recursive=True)):
            found += matches
        else:
            raise DataError(f"no file matches {str(path)!r}: give the path of a file, or a pattern that some match")
    return found


def input_files(paths: Sequence[str | Path], kind: str = "image") -> tuple[list[Path], tuple[str, ...]]:
    """The files among `paths` and, of folders, the images in them, however deep; and notes on what is left out.

    Raises:
        DataError: paths that do not exist, folders without images, or no paths.
    """
    places = [Path(path).expanduser() for path in paths]
    if not places:
        raise DataError("No files to predict on. Give at least one.")
    if missing := [str(place) for place in places if not os.path.exists(place)]:  # also where it is too long for a path
        raise DataError(
            f"{len(missing)} of {count(len(places), 'file')} {'does' if len(missing) == 1 else 'do'} not exist: "
            + listed(missing)
            + "."
        )
    files, notes = [], []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        if kind != "image":
            raise DataError(f"{place} is a folder, and the model was trained on {kind}s. Give files.")
        inside, left_out = image_files(place)
        if not inside:
            raise DataError(" ".join([f"No images in {place}.", *(f"({note}.)" for note in left_out)]))
        files += inside
        notes += left_out
    return files, tuple(notes)


def read_batches(
    files: Sequence[Path], kind: str, input_shape: tuple[int, ...], fit: str = "crop", workers: int | None = None
) -> Iterator[Batch]:
    """Read images or arrays, some files at a time: the name of each sample, the samples, and {image: why not}.

    They are `CHUNK` files, or so many whose images take about `MEMORY`; `workers` threads decode them.
    Samples are as in `read_inputs`. Raises DataError for arrays that cannot be used, and for all but images where the
    model takes no arrays.
    """
    size = samples_at_once(input_shape)
    group: list[tuple[list[str], Tensor | Path]] = []
    samples = 0
    for path in files:
        if path.suffix.lower() in ARRAYS:
            parts: Iterable[tuple[list[str], Tensor | Path]] = _array(path, kind, input_shape, size)
        elif kind == "array":
            raise DataError(f"{path} is not a .npy or .npz file, and the model was trained on arrays. Give arrays.")
        else:
            parts = [([str(path)], path)]
        for names, part in parts:
            group.append((names, part))
            samples += len(names)
            if samples >= size:
                yield _decoded(group, input_shape, fit, workers)
                group, samples = [], 0
    if group:
        yield _decoded(group, input_shape, fit, workers)


def samples_at_once(input_shape: Sequence[int]) -> int:
    """How many samples of a shape are read at once."""
    return max(1, min(CHUNK, MEMORY // math.prod(input_shape)))


def _decoded(
    group: Sequence[tuple[list[str], Tensor | Path]], shape: tuple[int, ...], fit: str, workers: int | None
) -> Batch:
    """A group of arrays and of paths of images as one batch."""
    paths = [part for _, part in group if isinstance(part, Path)]
    images, failed = decode_many(paths, shape, fit, workers) if paths else (torch.empty(0), {})
    bad = {str(paths[index]): why for index, why in failed.items()}
    decoded = iter(images)
    names, samples = [], []
    for names_of, part in group:
        made = next(decoded)[None] if isinstance(part, Path) else part
        if names_of[0] not in bad:
            names += names_of
            samples.append(made)
    return names, torch.cat(samples) if samples else torch.empty(0, *shape), bad


def read_inputs(paths: Sequence[str | Path], *, kind: str, input_shape: tuple[int, ...], fit: str = "crop") -> Tensor:
    """Read images or arrays as one batch, in the order of `paths`; of a folder all images in it.

    Image files are converted to the channels of `input_shape` and brought to its height and width by `fit`, as in
    `load`: uint8 [n, c, h, w]. A ``.npy`` or ``.npz`` (key ``x``, or its only one) holds one sample or a batch of them
    and must have the shape already: uint8 for images, float32 [n, *input_shape] for arrays.

    Raises DataError for files that are missing, do not decode (all of them are listed) or have another shape, and
    ConfigError for a `kind` other than "image" and "array".

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("RGB", (40, 30)).save(file.name)
    ...     read_inputs([file.name], kind="image", input_shape=(1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """
    if kind not in ("image", "array"):
        raise ConfigError(f"Files of kind {kind!r} cannot be read for a prediction. Allowed are 'image' and 'array'.")
    files, _ = input_files(paths, kind)
    read = list(read_batches(files, kind, input_shape, fit))
    if bad := {name: why for _, _, failed in read for name, why in failed.items()}:
        raise undecodable(bad)
    return torch.cat([samples for _, samples, _ in read])


def ahead(parts: Iterator[Part]) -> Iterator[Part]:
    """The parts, each made in a thread while the one before it is used.

    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(next, parts, end)
        while (part := made.result()) is not end:
            made = pool.submit(next, parts, end)
            yield part  # type: ignore[misc]


def unlike_training(
    files: Sequence[Item],
    images: Tensor,
    fit: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[str, ...]:
    """Notes on how image `files`, read as uint8 `images` [n, c, h, w], are far from what a model was trained on.

    In place of a file may be what is in one. `mean` and `std` are those of the training images by channel, in units
    where 255 is 1.
    """
    notes = []
    channels, height, width = images.shape[1:]
    sizes, greys, _ = headers(
        [one for one in files if isinstance(one, bytes) or Path(one).suffix.lower() not in ARRAYS]
    )
    if greys[False] and channels == 1:
        has = "has" if greys[False] == 1 else "have"
        notes.append(
            f"{greys[False]} of {count(greys.total(), 'image')} {has} colours, and those of training were grey"
        )
    if greys and not greys[False] and channels == 3:
        notes.append("the images are grey, and those of training had colours")
    each = list(sizes.elements())
    if each and (side := median(map(min, each))) < min(height, width) / 2:
        notes.append(f"a typical image has {side:g} pixels on its shorter side, and the model takes {height}x{width}")
    if each and fit == "crop" and (lost := median(cropped_away(size, (height, width)) for size in each)) > 2 * CROPPED:
        notes.append(f"the center crop loses {percent(lost, 0)} of a typical image")
    if len(images) and mean:
        means, _ = channel_statistics(images)
        apart = max(abs(here - there) / spread for here, there, spread in zip(means, mean, std, strict=True))
        if apart > (1 if len(images) >= FEW else 2):
            notes.append(
                f"they are much {'darker' if sum(means) < sum(mean) else 'brighter'}: the mean by channel is "
                f"{listed(map(_brief, means))}, there {listed(map(_brief, mean))}"
            )
    return tuple(f"unlike the training images: {note}" for note in notes)


def _brief(value: float) -> str:
    return number(value, 2)


def _array(path: Path, kind: str, shape: tuple[int, ...], size: int) -> Iterator[tuple[list[str], Tensor]]:
    """The samples of a file of arrays, `size` of them at a time, and their names."""
    arrays = _mapped(path) or load_arrays(path)
    array = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if array is None:
        raise DataError(f"{path} has the keys {listed(sorted(arrays))}. Store the samples under x.")
    if kind == "image" and array.dtype != "uint8":
        raise DataError(f"{path} is {array.dtype}. Images are uint8, 0 to 255.")
    single = array.shape in (shape, shape[1:], (*shape[1:], shape[0])) if kind == "image" else array.shape == shape
    all_of_it = array[None] if single else array
    n = len(all_of_it) if all_of_it.ndim else 0
    for start in range(0, max(1, n), size):
        part = np.array(all_of_it[start : start + size] if all_of_it.ndim else all_of_it)
        read_as, inputs = as_inputs(part, str(path))
        if read_as != kind or tuple(inputs.shape[1:]) != shape:
            raise DataError(f"{path} has shape {list(array.shape)}; needed is {list(shape)}, or a batch of that.")
        check_finite(inputs, f"values in {path}")
        yield [str(path)] if n == 1 else [f"{path}[{i}]" for i in range(start, start + len(inputs))], inputs


def _mapped(path: Path) -> dict[str, np.ndarray] | None:
    """The array of a ``.npy``, whose numbers are read where they are used; None of others, and of damaged ones."""
    try:
        return {"x": np.load(path, mmap_mode="r", allow_pickle=False)} if path.suffix.lower() == ".npy" else None
    except (OSError, ValueError, EOFError):
        return None  # it is said what is wrong where all of it is read

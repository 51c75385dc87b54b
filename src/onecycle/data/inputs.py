"""Files to predict on: images and arrays as batches, and in what they are unlike the training data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

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
CHUNK = 1024  # files that are read at once
FEW = 8  # fewer images may differ by chance
Batch = tuple[list[str], Tensor, dict[str, str]]


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


def read_batches(files: Sequence[Path], kind: str, input_shape: tuple[int, ...], fit: str = "crop") -> Iterator[Batch]:
    """Read images or arrays, `CHUNK` files at a time: the name of each sample, the samples, and {image: why not}.

    Samples are as in `read_inputs`. Raises DataError for arrays that cannot be used, and for all but images where the
    model takes no arrays.
    """
    for start in range(0, len(files), CHUNK):
        part = files[start : start + CHUNK]
        arrays = {path: _array(path, kind, input_shape) for path in part if path.suffix.lower() in ARRAYS}
        others = [path for path in part if path not in arrays]
        if others and kind == "array":
            raise DataError(
                f"{others[0]} is not a .npy or .npz file, and the model was trained on arrays. Give arrays."
            )
        images, failed = decode_many(others, input_shape, fit) if others else (torch.empty(0), {})
        bad = {str(others[index]): why for index, why in failed.items()}
        decoded = iter(images)
        names, samples = [], []
        for path in part:
            if path in arrays:
                n = len(arrays[path])
                names += [str(path)] if n == 1 else [f"{path}[{i}]" for i in range(n)]
                samples.append(arrays[path])
                continue
            image = next(decoded)
            if str(path) not in bad:
                names.append(str(path))
                samples.append(image[None])
        yield names, torch.cat(samples) if samples else torch.empty(0, *input_shape), bad


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
        notes.append(f"{greys[False]} of {count(greys.total(), 'image')} have colours, and those of training were grey")
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


def _array(path: Path, kind: str, shape: tuple[int, ...]) -> Tensor:
    arrays = load_arrays(path)
    array = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if array is None:
        raise DataError(f"{path} has the keys {listed(sorted(arrays))}. Store the samples under x.")
    if kind == "image" and array.dtype != "uint8":
        raise DataError(f"{path} is {array.dtype}. Images are uint8, 0 to 255.")
    single = array.shape in (shape, shape[1:], (*shape[1:], shape[0])) if kind == "image" else array.shape == shape
    read_as, inputs = as_inputs(array[None] if single else array, str(path))
    if read_as != kind or tuple(inputs.shape[1:]) != shape:
        raise DataError(f"{path} has shape {list(array.shape)}; needed is {list(shape)}, or a batch of that.")
    check_finite(inputs, f"values in {path}")
    return inputs

"""Files to predict on: read to the shape that a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, DataError


def read_inputs(paths: Sequence[str | Path], *, kind: str, input_shape: tuple[int, ...]) -> Tensor:
    """Read images or arrays as one batch, in the order of `paths`.

    Image files are converted to the channels of `input_shape`, resized and center-cropped to its height and width:
    uint8 [n, c, h, w]. A ``.npy`` or ``.npz`` (key ``x``, or its only one) holds one sample or a batch of them and must
    have the shape already: uint8 for images, float32 [n, *input_shape] for arrays.

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
    files = [Path(path) for path in paths]
    if not files:
        raise DataError("No files to predict on. Give at least one.")
    if missing := [str(path) for path in files if not path.is_file()]:
        raise DataError(f"{len(missing)} of {len(files)} files do not exist: {', '.join(missing[:20])}.")
    arrays = {path: _array(path, kind, input_shape) for path in files if path.suffix.lower() in (".npy", ".npz")}
    others = [path for path in files if path not in arrays]
    if others and kind == "array":
        raise DataError(f"{others[0]} is not a .npy or .npz file, and the model was trained on arrays. Give arrays.")
    images = dict(zip(others, _images(others, input_shape), strict=True)) if others else {}
    return torch.cat([arrays[path] if path in arrays else images[path][None] for path in files])


def _images(paths: Sequence[Path], shape: tuple[int, ...]) -> Tensor:
    from .images import decode_many, undecodable

    tensor, bad = decode_many(paths, shape)
    if bad:
        raise undecodable({str(paths[index]): reason for index, reason in bad.items()})
    return tensor


def _array(path: Path, kind: str, shape: tuple[int, ...]) -> Tensor:
    import numpy as np

    from .arrays import as_inputs, load_arrays

    arrays = load_arrays(path)
    array = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if array is None:
        raise DataError(f"{path} has the keys {', '.join(sorted(arrays))}. Store the samples under x.")
    if kind == "image" and array.dtype != np.uint8:
        raise DataError(f"{path} is {array.dtype}. Images are uint8, 0 to 255.")
    single = array.shape in (shape, shape[1:], (*shape[1:], shape[0])) if kind == "image" else array.shape == shape
    found, inputs = as_inputs(array[None] if single else array, str(path))
    if found != kind or tuple(inputs.shape[1:]) != shape:
        raise DataError(f"{path} has shape {list(array.shape)}; needed is {list(shape)}, or a batch of that.")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        raise DataError(f"{path} has NaN or infinite values. Remove or fill them in.")
    return inputs

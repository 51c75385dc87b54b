"""Tensors of what people have their samples in: arrays, and the frames and series of pandas, polars and others."""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Iterable
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..text import listed


def as_tensor(values: Any) -> Tensor:
    """A tensor of a tensor, array, data frame [n, columns] or series [n]; float64 as float32, but of tensors.

    Frames and series are taken by position, whatever their index; what is missing or masked in them is NaN. Unsigned
    whole numbers of 16 bits and more, which torch hardly knows, become signed ones that hold them. Arrays in memory
    maps, ``np.load(file, mmap_mode="r")``, stay in their files where torch has their type; write to no such tensor.

    Raises:
        DataError: something that does not consist of numbers.
    """
    if isinstance(values, Tensor):
        unsigned = values.dtype in (torch.uint16, torch.uint32, torch.uint64)
        return as_tensor(values.numpy(force=True)).to(values.device) if unsigned else values
    if hasattr(values, "to_numpy"):
        values = _frame_values(values) if getattr(values, "ndim", len(values.shape)) == 2 else _series_values(values)
    if hasattr(values, "__array_interface__"):
        values = _plain_array(values)
    if getattr(getattr(values, "dtype", None), "kind", "") in ("U", "S"):
        raise DataError(
            "an array of words is no array of numbers: of classes give their numbers, names, y = np.unique(y, "
            "return_inverse=True); or let a frame be encoded, with onecycle.load(frame, target=...)"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable", UserWarning)  # a memory map: batches are copies of it
            tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot make a tensor of a {type(values).__name__}: {error}. Give numbers") from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _plain_array(array: Any) -> Any:
    """The numbers of a numpy array in a layout and of a type that torch takes; words and others as they are."""
    import numpy as np

    if isinstance(array, np.ma.MaskedArray):
        mask, array = np.ma.getmaskarray(array), array.data
        array = np.where(mask, np.nan, array.astype(np.float64)) if mask.any() else array
    array = np.asarray(array)
    if array.dtype == object:
        array = _of_objects(array)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size > 1:
        if size == 8 and array.size and int(array.max()) >= 2**63:
            raise DataError(f"an array of uint64 with {int(array.max())} in it: torch has int64, give smaller numbers")
        array = array.astype(np.int64 if size > 2 else np.int32)
    elif kind == "f" and (size > 8 or not array.dtype.isnative):
        with np.errstate(over="ignore"):  # what is beyond float64 is infinite
            array = array.astype(f"f{min(size, 8)}")
    elif kind in "iu" and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    frozen = not array.flags.writeable and not _is_mapped(array)
    if kind in "fiub" and (frozen or any(stride < 0 for stride in array.strides)):
        array = array.copy()
    return array


def _is_mapped(array: Any) -> bool:
    """Whether an array lies in a memory map of a file."""
    base = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base is not None


def _of_objects(array: Any) -> Any:
    """The numbers in an array of objects, NaN where None is."""
    import numpy as np

    flat = _with_nan(array.ravel().tolist())
    if not all(isinstance(value, Number) for value in flat):
        if all(isinstance(value, str) for value in flat):
            return array.astype(str)
        raise DataError(
            "an array of objects is no array of numbers: give x.astype(float) where each is a number, np.stack(x) "
            "where they are arrays of one shape"
        )
    plain = np.array(flat).reshape(array.shape)
    return plain if plain.dtype != object else array.astype(np.float64)


def in_memory(data: Any) -> tuple[Tensor | None, Tensor | None]:
    """Inputs and targets of data that lie in memory as a tuple or a split; None for what there is not."""
    if hasattr(data, "inputs") and hasattr(data, "targets"):
        data = (data.inputs, data.targets)
    if not (isinstance(data, tuple) and data and all(hasattr(part, "shape") for part in data)):
        return None, None
    return as_tensor(data[0]), as_tensor(data[1]) if len(data) == 2 else None


def _frame_values(frame: Any) -> Any:
    """The values [n, columns] of a data frame; a DataError that names the columns which are no numbers."""
    import numpy as np

    names = [str(name) for name in frame.columns]
    columns = [frame.iloc[:, i] if hasattr(frame, "iloc") else frame[:, i] for i in range(len(names))]
    values = [_numbers(column) for column in columns]
    words = [name for name, column in zip(names, values, strict=True) if column is None]
    if words:
        raise DataError(
            f"{len(words)} of {len(names)} columns are no numbers: {listed(words)}. Let them be encoded, with "
            f"data = onecycle.load(frame, target=...), or leave them out: frame.drop(columns={words!r})"
        )
    return np.stack([column for column in values if column is not None], 1)


def _series_values(series: Any) -> Any:
    values = _numbers(series)
    if values is None:
        name = getattr(series, "name", None)
        raise DataError(
            f"a series of {series.dtype} values{f', {name!r},' if name is not None else ''} is none of numbers. Give "
            "whole numbers for classes, series.astype('category').cat.codes; or the frame with this column, as "
            "onecycle.load(frame, target=...)"
        )
    return values.copy()  # which torch may write to


def _numbers(column: Any) -> Any:
    """An array of the numbers in a series, None where it holds others."""
    import numpy as np

    values = np.asarray(column.to_numpy())
    if values.dtype.kind in "fiub":
        return values
    if values.dtype != object or "categor" in str(column.dtype).lower():
        return None
    known = _with_nan(values)
    return np.array(known, np.float64) if all(isinstance(value, Number) for value in known) else None


def _with_nan(values: Iterable[Any]) -> list[Any]:
    """The values, NaN in place of None and of the NA of pandas."""
    return [math.nan if value is None or type(value).__name__ == "NAType" else value for value in values]

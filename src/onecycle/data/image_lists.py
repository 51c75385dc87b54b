"""Images that a table lists: a column of paths, beside the column that is to be predicted."""

from __future__ import annotations

import functools
import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..errors import DataError
from ..text import count, listed
from .encoded import Decoding, EncodedImages, build
from .images import SUFFIXES
from .splits import RawData
from .table_columns import plain_column
from .tables import LISTED, TableOptions, TableSplits

LOOKED_AT = 20  # rows that tell whether a column lists images


def listed_images(given: TableSplits, path: Path, options: TableOptions, how: Decoding) -> RawData | None:
    """The images that the table at `path` lists, with classes or numbers as targets; None where it lists none.

    Paths are relative to the folder of the table that lists them; those in a frame, to that of the training table.

    Raises:
        DataError: images that do not exist.
    """
    tables, classes = given.tables, given.classes
    names = [name for name in tables["train"].column_names if name not in (*given.target, *options.leave_out)]
    column = next((name for name in names if _lists_images(tables["train"][name], path.parent)), None)
    if column is None:
        return None
    sources: Mapping[str, Any] = {"train": path, "valid": options.valid, "test": options.test}
    encoded, said = {}, [f"{LISTED} {column}"]
    for split, table in tables.items():
        source = sources[split]
        folder = Path(source).expanduser().parent if isinstance(source, str | Path) else path.parent
        if column not in table.column_names:
            raise DataError(f"The {split} table has no column {column!r}, which lists the images. Add it.")
        listing = plain_column(table[column]).cast(pa.string())
        there = torch.from_numpy(listing.is_valid().to_numpy(zero_copy_only=False))
        paths = [str(folder / name) for name in map(_with_slashes, listing.drop_null().to_pylist())]
        if len(paths) < len(listing):
            said.append(
                f"{split}: left out {count(len(listing) - len(paths), 'row')} of {len(listing):,} without a path"
            )
        if missing := [name for name in paths if not Path(name).is_file()]:
            raise DataError(
                f"{len(missing)} of {count(len(paths), 'image')} in the {split} table do not exist: "
                f"{listed(missing, most=5)}. Mend the paths, which begin at the table's folder, or leave the rows out."
            )
        items = functools.partial(list, paths)
        encoded[split] = EncodedImages(
            given.targets[split][there], tuple(map(Path, paths)), items, items, paths.__getitem__
        )
    parts, more = build(encoded, how)
    if rest := [name for name in names if name != column]:
        said.append(f"left out: {listed(rest)} (beside images)")
    return RawData("image", parts, classes, str(path), (*given.notes, *said, *more), ("flip",))


def _lists_images(column: Any, folder: Path) -> bool:
    column = plain_column(column)
    if not pa.types.is_string(column.type):
        return False
    names = [_with_slashes(name) for name in column.drop_null()[:LOOKED_AT].to_pylist()]
    # os.path takes texts that are too long for a path; pathlib raises.
    return all(Path(name).suffix.lower() in SUFFIXES for name in names) and any(
        os.path.isfile(folder / name) for name in names
    )


def _with_slashes(name: str) -> str:
    """A path as it is written on Windows, with slashes."""
    return name.replace("\\", "/")

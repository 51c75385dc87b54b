"""Images that a table lists: a column of paths, beside the column that is to be predicted."""

from __future__ import annotations

import functools
import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import DataError
from ..text import count, listed
from .encoded import Decoding, EncodedImages, build
from .images import SUFFIXES
from .splits import RawData, Stream
from .table_columns import plain_column
from .tables import TableOptions, TableSplits

LOOKED_AT = 20  # rows that tell whether a column lists images


def listed_images(given: TableSplits, path: Path, options: TableOptions, how: Decoding) -> RawData | None:
    """The images that the table at `path` lists, with classes or numbers as targets; None where it lists none.

    Paths are relative to the folder of the table that lists them; those in a frame, to that of the training table.

    Raises:
        DataError: images that do not exist.
    """
    tables, classes = given.tables, given.classes
    names = [name for name in tables["train"].column_names if name not in (given.target, *options.leave_out)]
    column = next((name for name in names if _lists_images(tables["train"][name], path.parent)), None)
    if column is None:
        return None
    sources: Mapping[str, Any] = {"train": path, "valid": options.valid, "test": options.test}
    encoded = {}
    for split, table in tables.items():
        source = sources[split]
        folder = Path(source).expanduser().parent if isinstance(source, str | Path) else path.parent
        paths = [str(folder / str(name)) for name in plain_column(table[column]).to_pylist()]
        if missing := [name for name in paths if not Path(name).is_file()]:
            raise DataError(
                f"{len(missing)} of {count(len(paths), 'image')} in the {split} table do not exist: "
                f"{listed(missing, most=5)}. Mend the paths, which begin at the table's folder, or leave the rows out."
            )
        items = functools.partial(list, paths)
        encoded[split] = EncodedImages(given.targets[split], tuple(map(Path, paths)), items, items, paths.__getitem__)
    parts, more = build(encoded, how)
    if classes is None and any(isinstance(part, Stream) for part in parts.values()):
        raise DataError("Images with numbers as targets are held in memory, and these are too large: give image_size.")
    said = [f"images listed in the column {column}"]
    if rest := [name for name in names if name != column]:
        said.append(f"left out: {listed(rest)} (beside images)")
    return RawData("image", parts, classes, str(path), (*given.notes, *said, *more), ("flip",))


def _lists_images(column: Any, folder: Path) -> bool:
    column = plain_column(column)
    if not pa.types.is_string(column.type):
        return False
    names = [name for name in column[:LOOKED_AT].to_pylist() if name is not None]
    # os.path takes texts that are too long for a path; pathlib raises.
    return all(Path(name).suffix.lower() in SUFFIXES for name in names) and any(
        os.path.isfile(folder / name) for name in names
    )

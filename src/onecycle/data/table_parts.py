"""Table files part by part, so that one of any length is never in memory as a whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from .csv_files import (
    Cells,
    cells_in,
    cells_of,
    encodings_of,
    not_text,
    of_tabs,
    separator_of,
    unreadable,
    without_rows,
)

BLOCK = 2**23  # bytes of separated values that are read at once
ROWS = 2**16  # of a Parquet file that are
MOST = 16  # blocks without the end of a row, from which on a quote is taken to be one that is never closed
Part = TypeVar("Part")


def with_more(parts: Iterable[Part]) -> Iterator[tuple[Part, bool]]:
    """Each part, and whether another one follows.

    >>> list(with_more("ab"))
    [('a', True), ('b', False)]
    """
    iterator = iter(parts)
    for part in iterator:
        for following in iterator:
            yield part, True
            part = following
        yield part, False


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Within the block, what pyarrow finds wrong with a Parquet file is a DataError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}. Fetch it again.") from error


def parquet_parts(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file, as pyarrow tables.

    Raises:
        DataError: it cannot be read, or has no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading_parquet(path), pq.ParquetFile(path) as file:
        if file.metadata.num_rows == 0:
            raise without_rows(path)
        for batch in file.iter_batches(ROWS):
            yield pa.Table.from_batches([batch])


def cell_parts(path: Path) -> Iterator[Cells]:
    """The cells of a file of separated values, read as `read_cells` reads them; its first rows tell what separates it.

    Raises:
        DataError: as `read_cells`; messages about a later part name the row that it begins with.
    """
    import pyarrow as pa

    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            start = stream.read(BLOCK)
            whole = len(start) < BLOCK
        if whole:
            yield cells_of(start, path, path.name, tabs=of_tabs(path))
        else:
            yield from _long(path, _encoding(path))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def _long(path: Path, encoding: str) -> Iterator[Cells]:
    head, separator, rows, left = "", None, 0, ""
    for text, more in with_more(_texts(path, encoding)):
        if "\0" in text:
            raise not_text(path)
        left += text
        cut = end_of_rows(left, literal=len(left) > MOST * BLOCK) if more else len(left)
        part, left = left[:cut], left[cut:]
        if not part.strip():
            continue
        if not head:
            announced = re.match(r'"?sep=(.)"?\r?\n', part)
            begin = announced.end() if announced else 0
            separator = announced[1] if announced else separator_of(part, tabs=of_tabs(path))
            head, part = part[begin : begin + _first_row(part[begin:])], part[begin + _first_row(part[begin:]) :]
        place = f"{path}, from row {rows + 1:,} on," if rows else path
        cells = cells_in(head + part, encoding, place, path.name, separator=separator)
        rows += cells.table.num_rows
        yield cells


def _texts(path: Path, encoding: str) -> Iterator[str]:
    import pyarrow as pa

    decoder = codecs.getincrementaldecoder(encoding)()
    with pa.input_stream(str(path), compression="detect") as stream:
        while raw := stream.read(BLOCK):
            yield decoder.decode(raw)
    yield decoder.decode(b"", True)


def _encoding(path: Path) -> str:
    """The encoding of all of a file."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as stream:
        candidates = encodings_of(stream.read(64 * 64))
    for encoding in candidates:
        try:
            for _ in _texts(path, encoding):
                pass
        except UnicodeDecodeError:
            continue
        return encoding
    raise not_text(path)


def end_of_rows(text: str, *, literal: bool = False) -> int:
    """Where the last row of a text that is whole ends: at a line's end outside of quotes; 0 where there is none.

    With `literal`, quotes are taken as they are.

    >>> end_of_rows("a,b\\n1,2\\n3"), end_of_rows('a\\n"x\\ny'), end_of_rows('"x\\ny', literal=True)
    (8, 2, 3)
    """
    odd, end = text.count('"') % 2, len(text)
    while (at := text.rfind("\n", 0, end)) >= 0:
        odd ^= text.count('"', at, end) % 2
        if literal or not odd:
            return at + 1
        end = at
    return 0


def _first_row(text: str) -> int:
    end = at = text.find("\n") + 1
    while at and text.count('"', 0, end) % 2:
        at = text.find("\n", end) + 1
        end = at or end
    return end

"""Files of separated values as tables of words: their encoding, their separator, their header."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..text import listed
from .table_cells import compute, numbers_of

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SEPARATORS = ",;\t|"
LOOKED_AT = 50  # rows that tell what separates the columns
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # which begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # at the beginning of a file, which name its encoding
NAMES = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "cp1252": "Windows-1252", "latin-1": "Latin-1"}


@dataclass(frozen=True, eq=False)
class Cells:
    """A table of a file whose cells are all words, what separates its columns, and notes on how it was read."""

    table: Any
    separator: str
    notes: tuple[str, ...]


def is_table_file(path: Path) -> bool:
    """Whether the name of a file is that of comma- or tab-separated values."""
    return path.name.lower().endswith(SUFFIXES)


def read_cells(path: Path) -> Cells:
    """The cells of a file of separated values, which has the names of its columns in the first line.

    Raises:
        DataError: a file that is no text, rows of several lengths, a quote that is not closed, or a header that cannot
            be used.
    """
    import pyarrow as pa

    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            raw = stream.read()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    return cells_of(raw, path, path.name, tabs=of_tabs(path))


def of_tabs(path: Path) -> bool:
    """Whether the name of a file says that tabs separate its values."""
    return path.name.lower().endswith((".tsv", ".tsv.gz"))


def unreadable(path: Path, error: Exception) -> DataError:
    """The error about a file that the system, or what unpacks it, cannot read."""
    return DataError(f"{path} cannot be read: {error}.")


def not_text(place: str | Path) -> DataError:
    """The error about bytes that are no text."""
    return DataError(f"{place} is not text that can be read. Save it as UTF-8.")


def cells_of(raw: bytes, place: str | Path, name: str = "", *, tabs: bool = False) -> Cells:
    r"""The cells of separated values in memory, as `read_cells` has those of a file.

    `place` and its short `name` are what messages and notes call it, `tabs` says that it was called one of tabs.

    >>> cells_of(b"x;y\n1,5;a\n", "the body").table.to_pylist()
    [{'x': '1,5', 'y': 'a'}]

    Raises:
        DataError: as `read_cells`.
    """
    decoded = decoded_text(raw)
    if decoded is None:
        raise not_text(place)
    return cells_in(*decoded, place, name, tabs=tabs)


def cells_in(
    text: str, encoding: str, place: str | Path, name: str = "", *, tabs: bool = False, separator: str | None = None
) -> Cells:
    """The cells of separated values, which were in this `encoding`; None: what separates them is found out."""
    announced = re.match(r'"?sep=(.)"?\r?\n', text)  # as Excel writes and reads it
    text = text[announced.end() :] if announced else text
    if not text.partition("\n")[0].strip():
        raise DataError(f"{place} has nothing in its first line. Put the names of its columns there.")
    if separator is None:
        separator = str(announced[1]) if announced else separator_of(text, tabs=tabs)
    table, literal = _with_literal_quotes(_parsed(place, text, separator), text, separator)
    header, table = [str(column[0].as_py()).strip() for column in table.columns], table.slice(1)
    kept = [i for i, name in enumerate(header) if name or any(map(str.strip, table.column(i).to_pylist()))]
    header, table = [header[i] for i in kept], table.select(kept)  # spreadsheets end with empty columns
    _check_header(place, header, table)
    if not literal:
        _check_quotes(place, table, text)
    notes = [f"{name or place} is not UTF-8: read as {NAMES[encoding]}"] if encoding in NAMES else []
    notes += [f"columns are separated by {separator!r}"] if separator not in ",\t" else []
    notes += ["quotes within cells are taken as they are: every line is a row"] if literal else []
    return Cells(table.rename_columns(header), separator, tuple(notes))


def _parsed(path: str | Path, text: str, separator: str) -> Any:
    """The cells of a text as a table of words, the header in the first row."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    raw = text.encode()
    read = arrow_csv.ReadOptions(
        autogenerate_column_names=True, block_size=min(2**31 - 1, max(2**20, 2 * len(raw))), encoding="utf-8"
    )
    parse = arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    width = len(_records(text, separator, 1)[0])
    convert = arrow_csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(width + 1)})
    try:
        return arrow_csv.read_csv(pa.BufferReader(raw), read, parse, convert)
    except (pa.ArrowException, OSError) as error:
        if "Empty CSV" in str(error):
            raise without_rows(path) from error
        quote = ' A quote (") may be left open there.' if "\n" in str(error) else ""
        raise DataError(
            f"{path} cannot be read as a table: {error}.{quote} Its columns seem to be separated by {separator!r}. "
            "Mend this line, or save the file again."
        ) from error


def separator_of(text: str, tabs: bool = False) -> str:
    r"""What separates the columns, by the first rows: what makes all of them equally long, and then the longest.

    `tabs` says that the file is called one of tabs: it has them, unless its header has none and something else fits.

    >>> separator_of("name;size, in cm\nash;1,5\n"), separator_of("a\tb\n1,5\t2\n"), separator_of("one\n1\n")
    (';', '\t', ',')
    >>> separator_of("one\n1,5\n", tabs=True), separator_of("a,b\n1,5\n", tabs=True)
    ('\t', ',')
    """
    records = {separator: _records(text, separator, LOOKED_AT) for separator in SEPARATORS}
    lengths = {separator: [len(record) for record in each if record] for separator, each in records.items()}
    alike = {separator: each[0] for separator, each in lengths.items() if len(set(each)) == 1 and each[0] > 1}
    if tabs and ("\t" in text.partition("\n")[0] or not alike):
        return "\t"
    if alike:  # a comma may be within numbers and words too
        return max(alike, key=lambda separator: (alike[separator], separator != ","))
    return max(SEPARATORS, key=lambda separator: len(records[separator][0]))


def _records(text: str, separator: str, most: int) -> list[list[str]]:
    """The first records that are whole."""
    head = text[: 2**18]
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    records = []
    try:
        for record in reader:
            records.append(record)
            if len(records) > most:
                break
    except csv.Error:
        pass  # a cell that is too long for it
    cut = len(records) > 1 and (len(head) < len(text) or len(records) > most)
    return (records[:-1] if cut else records) or [[""]]


def decoded_text(raw: bytes) -> tuple[str, str] | None:
    """The text of bytes and its encoding: the one that a mark at the beginning names, UTF-16, UTF-8 or Latin-1.

    None where they are no text.

    >>> decoded_text("\u00e9".encode("latin-1")), decoded_text("no".encode("utf-16")), decoded_text(b"no\\0")
    (('\u00e9', 'latin-1'), ('no', 'utf-16'), None)
    """
    for encoding in encodings_of(raw):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            return None
        if encoding == "cp1252" and not any(0x80 <= byte < 0xA0 for byte in raw):
            encoding = "latin-1"
        return text, encoding
    return None


def encodings_of(head: bytes) -> tuple[str, ...]:
    """The encodings that a text with these first bytes may have, the first that decodes all of it is its own."""
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    head = head[: 2**12]
    if marked is None and head.count(0) > len(head) // 4:
        marked = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    return (marked,) if marked else ("utf-8", "cp1252", "latin-1")


def without_rows(path: str | Path) -> DataError:
    """The error about a file that has a header at most."""
    return DataError(f"{path} has no rows below its header. Give a table with rows.")


def check_names(place: str, names: Sequence[str]) -> None:
    """Raise a DataError for columns of one name."""
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(f"{place} has several columns called {listed(map(repr, twice))}. Give each its own name.")


def _check_header(path: str | Path, header: list[str], table: Any) -> None:
    if table.num_rows == 0:
        raise without_rows(path)
    check_names(str(path), header)
    if all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", name) for name in header):
        raise DataError(f"{path} has numbers in its first line: {listed(header)}. Put the names of its columns there.")


def _with_literal_quotes(table: Any, text: str, separator: str) -> tuple[Any, bool]:
    """The table with a row for each line, where a quote in a text made one cell of several such lines; and whether.

    Such quotes begin words of one column and are not closed in their line, nor do others end there.
    """
    import pyarrow as pa

    pc = compute()
    if not any(pc.any(pc.match_substring(column, "\n")).as_py() for column in table.columns):
        return table, False
    rows = [line.removesuffix("\r").split(separator) for line in text.split("\n") if line.strip()]
    odd = {(i, cell[:1] == '"') for row in rows for i, cell in enumerate(row) if cell.count('"') % 2}
    if any(len(row) != table.num_columns for row in rows) or len(odd) != 1 or not all(begins for _, begins in odd):
        return table, False
    cells = [pa.array([_unquoted(cell) for cell in column], pa.string()) for column in zip(*rows, strict=True)]
    ((at, _),) = odd
    if np.isfinite(numbers_of(pa.array([row[at].strip('"') for row in rows[1:]]))).mean() > 0.5:
        return table, False
    return pa.table(cells, names=table.column_names), True


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _check_quotes(path: str | Path, table: Any, text: str) -> None:
    """Raise a DataError where a quote that is never closed has swallowed the rows below it."""
    last = str(table.columns[-1][-1].as_py())
    if "\n" in last and not text.rstrip().endswith('"'):
        raise DataError(
            f'{path} has a quote (") that is not closed, in row {table.num_rows} below its header: {last[:60]!r} is '
            "one cell. Close it, or write two of them for one within a cell."
        )

"""Files of separated values: encodings, separators, headers."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from onecycle.data.csv_files import read_cells
from onecycle.errors import DataError

TEXT = "Stadt,y\nKöln,1\nBonn,2\n"


def read(path: Path, raw: bytes | str):
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return read_cells(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (TEXT.encode(), None),
        (codecs.BOM_UTF8 + TEXT.encode(), None),
        (TEXT.encode("utf-16"), None),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), None),
        (TEXT.encode("utf-32"), None),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("latin-1"), "Latin-1"),
        (TEXT.replace("Bonn", "5 €").encode("cp1252"), "Windows-1252"),
    ],
    ids=str,
)
def test_encodings(tmp_path, raw, said):
    cells = read(tmp_path / "a.csv", raw)
    assert cells.table.column_names == ["Stadt", "y"] and cells.table["Stadt"].to_pylist()[0] == "Köln"
    assert cells.notes == (() if said is None else (f"a.csv is not UTF-8: read as {said}",))


@pytest.mark.parametrize(
    ("text", "separator", "first"),
    [
        ("a,b\n1,2\n", ",", ["1", "2"]),
        ("a\tb\n1,5\t2,5\n", "\t", ["1,5", "2,5"]),
        ("a|b\n1,5|2,5\n", "|", ["1,5", "2,5"]),
        ("a;size, in cm\n1,5;2,5\n", ";", ["1,5", "2,5"]),
        ('"a;x";"b"\n1;2\n', ";", ["1", "2"]),
        ("path,label\n1.png,cat;dog\n2.png,owl;cat\n", ",", ["1.png", "cat;dog"]),
        ("a,b\n1,x;y;z\n", ",", ["1", "x;y;z"]),
        ("sep=;\na;b\n1;2\n", ";", ["1", "2"]),
        ("a, b\n1, 2\n", ",", ["1", " 2"]),
        ('a,b\n1,"two\nlines, ""quoted"""\n', ",", ["1", 'two\nlines, "quoted"']),
        ("a,b\r\n\r\n1,2\r\n\r\n", ",", ["1", "2"]),
        ("a,b,,\n1,2,,\n", ",", ["1", "2"]),
    ],
)
def test_separators(tmp_path, text, separator, first):
    cells = read(tmp_path / "a.csv", text)
    assert cells.separator == separator
    assert [column[0].as_py() for column in cells.table.columns] == first


@pytest.mark.parametrize(
    ("text", "separator", "columns"),
    [
        ("size\n1,5\n2,5\n", "\t", 1),
        ("a,b\tc\n1,5\t2,5\n3,5\t4,5\n", "\t", 2),
        ("a,b\n1,2\n", ",", 2),
        ("a;b\n1,5;2\n", ";", 2),
    ],
)
def test_a_file_by_the_name_of_tabs_is_split_at_them(tmp_path, text, separator, columns):
    cells = read(tmp_path / "a.tsv", text)
    assert (cells.separator, cells.table.num_columns) == (separator, columns)


def test_quotes_that_are_part_of_a_text(tmp_path):
    """A quote that begins a text and is not closed in its line would make one cell of many rows."""
    lines = [f"{'ab'[i % 2]}\t{chr(34) * (i in (3, 9))}text {i}" for i in range(20)]
    lines.append('b\t"a whole ""cell"" in quotes"')
    cells = read(tmp_path / "a.tsv", "y\ttext\r\n" + "\r\n".join(lines))
    texts = cells.table["text"].to_pylist()
    assert len(texts) == 21 and texts[3] == '"text 3' and texts[4] == "text 4"
    assert texts[-1] == 'a whole "cell" in quotes'
    assert cells.notes == ("quotes within cells are taken as they are: every line is a row",)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\2", "is not text that can be read"),
        (b"a,b\n1,\0\0\n", "is not text that can be read"),
        ("a,b\n1,2\n1\n", "Expected 2 columns, got 1.*separated by ','"),
        ("a,a \n1,2\n", "several columns called 'a'"),
    ],
)
def test_what_cannot_be_read(tmp_path, raw, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv", raw)

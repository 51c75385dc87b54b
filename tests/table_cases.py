"""Tables as they may be, made at random with known contents, and what was read held against those."""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from onecycle import OneCycleError, load
from onecycle.data.table_columns import MISSING, UNKNOWN, TableColumns
from onecycle.data.tables import read_rows

WORDS = (
    "ash", "Zoë", "Straße", "a, b", 'say "hi"', "two\nlines", "semi;colon", "tab\there", "pipe|d", "no", "yes", "it's",
    "-5 °C", "=1+1", "1 or 2", "x" * 60, "0x1F", "é", "#1", "100 m",
)  # fmt: skip
WIDE = ("東京", "Ω", "naïve 😀")  # not in Latin-1
NULLS = ("", "", "", "NA", "NaN", "null", "?", "N/A", "None", " ")
NO_NUMBERS = ("-", "--", "NaT", "<NA>")  # missing among numbers, dates and truth values; words among words
DATES = {
    "%Y-%m-%d": True, "%Y-%m-%d %H:%M:%S": True, "%Y-%m-%dT%H:%M": True, "%Y/%m/%d": True, "%d.%m.%Y": True,
    "%d.%m.%Y %H:%M": True, "%d/%m/%Y": False, "%m/%d/%Y": False, "%m/%d/%Y %H:%M": False, "%d-%m-%Y": False,
    "%m/%d/%Y %I:%M %p": False, "%d/%m/%y": False, "%Y-%m-%d %H:%M:%S+00:00": True,
}  # fmt: skip
FRAMES = ("frame", "objects", "categories", "nullable", "arrow", "parquet")
BROKEN = ("ragged", "twice", "infinite", "quote", "name", "constant", "unlabelled")
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")


@dataclass
class Column:
    """A column: what it truly holds (None where missing), how its cells are written, and what it should become."""

    name: str
    kind: str  # numbers, words, dates, truths, nothing
    truth: list[Any]
    cells: list[str]


@dataclass
class Case:
    """A table, how it is written, and the words that say what its target is; `broken` says what is wrong with it."""

    seed: int
    columns: list[Column]
    target: Column
    task: str | None
    classes: tuple[str, ...] | None
    splits: dict[str, slice]
    form: str
    separator: str = ","
    encoding: str = "utf-8"
    broken: str = ""

    @property
    def all_columns(self) -> list[Column]:
        return [*self.columns, self.target]

    def write(self, root: Path) -> dict[str, Any]:
        """The sources by split: paths, or frames."""
        return {split: self._written(root / f"{split}{self._suffix}", part) for split, part in self.splits.items()}

    @property
    def _suffix(self) -> str:
        return ".parquet" if self.form in FRAMES else self.form

    def _written(self, path: Path, part: slice) -> Any:
        if self.form in FRAMES:
            made = pd.DataFrame({c.name: native(c)[part] for c in self.all_columns})
            if self.form == "parquet":
                made.to_parquet(path)
                return path
            return pa.Table.from_pandas(made) if self.form == "arrow" else in_other_types(made, self.form)
        text = self.text(part)
        if path.suffix == ".gz":
            import gzip

            path.write_bytes(gzip.compress(text.encode(self.encoding)))
        else:
            path.write_bytes(text.encode(self.encoding))
        return path

    def text(self, part: slice) -> str:
        """The file of some rows."""
        r = random.Random(self.seed)
        end = r.choice(("\n", "\n", "\r\n"))
        always = r.random() < 0.2
        lines = [[c.name for c in self.all_columns]]
        lines += [list(row) for row in zip(*(c.cells[part] for c in self.all_columns), strict=True)]
        if self.broken == "ragged":
            lines[r.randrange(1, len(lines))].append("more")
        if self.broken == "twice":
            lines[0][-1] = lines[0][0]
        if self.broken == "infinite":
            lines[r.randrange(1, len(lines))][0] = r.choice(("inf", "-Infinity"))
        quoted = [self.separator.join(quote(cell, self.separator, always) for cell in line) for line in lines]
        if r.random() < 0.2:
            quoted.insert(r.randint(1, len(quoted)), "")
        if self.broken == "quote":
            quoted[-2] = '"' + quoted[-2].replace('"', "")
            quoted[-1] = quoted[-1].replace('"', "")
        return end.join(quoted) + (end if r.random() < 0.9 else "")


def native(column: Column) -> Any:
    """The values of a column as a frame has them."""
    if column.kind == "nothing":
        return np.full(len(column.truth), np.nan)
    if column.kind == "dates":
        return pd.to_datetime(pd.Series(column.truth, dtype=object))
    if column.kind == "numbers" and any(value is None for value in column.truth):
        return np.array([np.nan if value is None else value for value in column.truth], np.float64)
    if column.kind == "truths":
        return pd.array(column.truth, "boolean")
    if column.kind == "long":
        return pd.array(column.truth, "Int64")
    return pd.Series(column.truth)


def in_other_types(frame: pd.DataFrame, form: str) -> pd.DataFrame:
    """A frame whose columns are objects, categories or of nullable types, with an index that says nothing."""
    frame = frame.set_index(pd.Index(range(len(frame))[::-1]))
    if form == "objects":
        return frame.astype(object).where(frame.notna(), None)
    if form == "categories":
        words = [
            name for name in frame if not pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype.kind != "M"
        ]
        return frame.astype(dict.fromkeys(words, "category"))
    return frame.convert_dtypes() if form == "nullable" else frame


def quote(cell: str, separator: str, always: bool) -> str:
    special = any(ch in cell for ch in (separator, '"', "\n", "\r"))
    return '"' + cell.replace('"', '""') + '"' if special or always else cell


# Making


def draw(seed: int) -> Case:
    """The table of a seed."""
    r = random.Random(seed)
    n = r.choice((12, 25, 40, 80, 150, 300))
    form = r.choice((*(".csv",) * 6, ".tsv", ".csv.gz", *FRAMES))
    encoding = "utf-8" if form in FRAMES else r.choice(ENCODINGS)
    separator = {".tsv": "\t"}.get(form) or r.choice(",,,;;|\t")
    comma = separator != "," and r.random() < 0.5
    words = WORDS if encoding in ("latin-1", "cp1252") else WORDS + WIDE
    maker = Maker(r, n, words, comma, separator)
    made = [maker.key()]
    names = ["a", "two words", "naïve", "Größe", 'the "x"', "b;c", "d,e", "id_of", "0x"]
    for i in range(r.randint(1, 6)):
        kind = r.choice(KINDS)
        made.append(kind(maker, f"{r.choice(names)}{i}"))
    target, task, classes = maker.target()
    splits = {"train": slice(0, n)}
    if r.random() < 0.4 and n >= 40:
        a, b = n * 6 // 10, n * 8 // 10
        splits = {"train": slice(0, a), "valid": slice(a, b), "test": slice(b, n)}
        if r.random() < 0.5:
            splits = {"train": slice(0, b), "valid": slice(b, n)}
    broken = r.choice(BROKEN) if r.random() < 0.08 else ""
    if form in FRAMES and broken in ("ragged", "twice", "quote", "infinite"):
        broken = ""
    if broken == "constant":
        target.truth, target.cells = [target.truth[0] or 0] * n, [target.cells[0] or "0"] * n
    if broken == "unlabelled":
        target.truth, target.cells = [None] * n, [""] * n
    return Case(seed, made, target, task, classes, splits, form, separator, encoding, broken)


class Maker:
    """Columns of `n` rows."""

    def __init__(self, r: random.Random, n: int, words: tuple[str, ...], comma: bool, separator: str):
        self.r, self.n, self.words, self.comma, self.separator = r, n, words, comma, separator

    def key(self) -> Column:
        """A number that every row has to itself; of decimal commas the first row alone is proof."""
        order = list(range(self.n))
        self.r.shuffle(order)
        truth = [i + 0.125 for i in order]
        truth[0] += 0.125
        return Column("key", "numbers", truth, [self.written(value) for value in truth])

    def written(self, value: float, digits: int | None = None) -> str:
        text = repr(value) if digits is None else f"{value:.{digits}f}"
        return text.replace(".", ",") if self.comma else text

    def gaps(self, column: Column, share: float | None = None) -> Column:
        """The column with some of its cells missing."""
        if self.r.random() < 0.4 or share:
            known = NULLS if column.kind == "words" and not self._are_codes(column) else NULLS + NO_NUMBERS
            nulls = [self.r.choice(known) for _ in range(self.r.randint(1, 3))]
            for i in range(self.n):
                if self.r.random() < (share or 0.15):
                    column.truth[i], column.cells[i] = None, self.r.choice(nulls)
        return column

    def _are_codes(self, column: Column) -> bool:
        return all(value.isdecimal() for value in column.truth)

    def floats(self, name: str) -> Column:
        r = self.r
        scale = 10 ** r.uniform(-6, 8)
        digits = r.choice((None, None, 1, 2, 3, 4))
        how = r.choice(("plain", "plain", "plain", "exponent", "thousands", "money"))
        values = [r.gauss(r.choice((0, 1, 5)), 1) * scale for _ in range(self.n)]
        values = [round(value, digits) if digits is not None else value for value in values]
        if how == "exponent" and not self.comma:
            cells = [f"{value:.6e}" for value in values]
            values = [float(cell) for cell in cells]
        elif how in ("thousands", "money") and not self.comma:
            cells = [("$" if how == "money" else "") + f"{value:,.2f}" for value in values]
            values = [round(value, 2) for value in values]
        elif how == "thousands" and self.separator == ";":
            cells = [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in values]
            values = [round(value, 2) for value in values]
        else:
            cells = [self.written(value, digits) for value in values]
            if self.comma:
                cells = [repr(v) if "e" in repr(v) else c for v, c in zip(values, cells, strict=True)]
        return self.gaps(Column(name, "numbers", values, cells))

    def ints(self, name: str) -> Column:
        most = self.r.choice((3, 9, 50, 10**6, 10**12))
        values = [self.r.randint(-most // 3, most) for _ in range(self.n)]
        return self.gaps(Column(name, "numbers", values, [str(value) for value in values]))

    def long(self, name: str) -> Column:
        start, most = 2**53 + self.r.randint(0, 2**60), self.r.choice((2, 4, 8))
        values = [start + self.r.randint(0, most) for _ in range(self.n)]
        return self.gaps(Column(name, "long", values, [str(value) for value in values]))

    def categories(self, name: str) -> Column:
        some = self.r.sample(self.words, self.r.randint(2, 8))
        values = [self.r.choice(some) for _ in range(self.n)]
        spaced = self.r.random() < 0.2
        return self.gaps(Column(name, "words", values, [f" {v} " if spaced and '"' not in v else v for v in values]))

    def codes(self, name: str) -> Column:
        width = self.r.randint(2, 5)
        some = [str(self.r.randint(0, 10 ** (width - 1) - 1)).zfill(width) for _ in range(self.r.randint(2, 6))]
        values = [self.r.choice(some) for _ in range(self.n)]
        return self.gaps(Column(name, "words", values, list(values)))

    def dates(self, name: str) -> Column:
        r = self.r
        notation = r.choice(list(DATES))
        start = datetime.datetime(r.choice((1970, 1999, 2019)), 1, 1)
        days = 12 if r.random() < 0.1 else r.choice((60, 900, 10_000))
        values = [start + datetime.timedelta(r.randint(0, days), 60 * r.randint(0, 1439)) for _ in range(self.n)]
        if not DATES[notation] and notation.startswith("%d"):
            values[0] = values[0].replace(day=r.randint(13, 28))
        if "H" not in notation and "I" not in notation:
            values = [value.replace(hour=0, minute=0) for value in values]
        if "y" in notation:
            values = [value.replace(year=value.year if 1969 <= value.year < 2069 else 2000) for value in values]
        cells = [value.strftime(notation) for value in values]
        proof = values[0], cells[0]
        column = self.gaps(Column(name, "dates", values, cells))
        column.truth[0], column.cells[0] = proof
        return column

    def truths(self, name: str) -> Column:
        values = [self.r.random() < 0.4 for _ in range(self.n)]
        no, yes = self.r.choice((("False", "True"), ("false", "true"), ("FALSE", "TRUE")))
        return self.gaps(Column(name, "truths", values, [yes if value else no for value in values]))

    def answers(self, name: str) -> Column:
        no, yes = self.r.choice((("no", "yes"), ("N", "Y"), ("f", "t"), ("-", "+"), ("--", "++"), ("NaT", "day")))
        values = [yes if self.r.random() < 0.4 else no for _ in range(self.n)]
        return self.gaps(Column(name, "words", values, list(values)))

    def constant(self, name: str) -> Column:
        return Column(name, "constant", [7] * self.n, ["7"] * self.n)

    def nothing(self, name: str) -> Column:
        null = self.r.choice(NULLS + NO_NUMBERS)
        return Column(name, "nothing", [None] * self.n, [null] * self.n)

    def free(self, name: str) -> Column:
        values = [f"{self.r.choice(self.words)} {i} {self.r.choice(self.words)}" for i in range(self.n)]
        return Column(name, "words", values, list(values))

    def dirty(self, name: str) -> Column:
        """Numbers with a word or two among them."""
        column = self.floats(name)
        while len(set(column.cells)) < 25:
            if self.n < 40:
                return column
            column = self.floats(name)
        for _ in range(self.n // 60):
            i = self.r.randrange(self.n)
            column.truth[i], column.cells[i] = None, self.r.choice(("unknown", "see note", "n. a."))
        return column

    def target(self) -> tuple[Column, str | None, tuple[str, ...] | None]:
        """The target, the task that is asked for, and the classes in order."""
        r = self.r
        kind = r.choice(("words", "ints", "truths", "codes", "long", "floats", "many", "float ints", "asked"))
        task = None
        if kind == "floats":
            column = Column("y", "numbers", [r.gauss(5, 2) for _ in range(self.n)], [])
            column.cells = [self.written(value) for value in column.truth]
        elif kind == "many":
            column = Column("y", "numbers", [r.randint(0, 9999) for _ in range(self.n)], [])
            column.cells = [str(value) for value in column.truth]
        elif kind == "asked":
            column, task = Column("y", "numbers", [i % 3 for i in range(self.n)], []), "regression"
            column.cells = [str(value) for value in column.truth]
        else:
            some: list[Any] = {
                "words": r.sample((*self.words, "-", "<NA>"), 2 + (self.n > 30)), "ints": [-1, 3, 12],
                "truths": [False, True],
                "codes": ["007", "07", "7x"][: 2 + (self.n > 30)], "long": [2**60 + 1, 2**60 + 2], "float ints": [0, 1],
            }[kind]  # fmt: skip
            if kind == "ints" and self.n < 30:
                some = [-1, 12]
            values = [some[i % len(some)] for i in range(self.n)]
            r.shuffle(values)
            written = {"truths": str, "float ints": lambda v: self.written(float(v))}.get(kind, str)
            kinds = {"truths": "truths", "words": "words", "codes": "words", "long": "long"}
            column = Column("y", kinds.get(kind, "numbers"), values, [written(value) for value in values])
        if r.random() < 0.3:
            self.gaps(column, 0.05)
        known = {value for value in column.truth if value is not None}
        classes = None
        if kind not in ("floats", "many", "asked"):
            classes = tuple(str(name).lower() if kind == "truths" else str(name) for name in sorted(known))
        return column, task, classes


KINDS: tuple[Callable[[Maker, str], Column], ...] = (
    Maker.floats, Maker.floats, Maker.ints, Maker.ints, Maker.long, Maker.categories, Maker.categories, Maker.codes,
    Maker.dates, Maker.dates, Maker.truths, Maker.answers, Maker.constant, Maker.nothing, Maker.free, Maker.dirty,
)  # fmt: skip


# Comparing


def check(case: Case, root: Path) -> str:
    """What came of it: "read", or "refused: WHY" of what is broken.

    An AssertionError says how what was read differs from what is there.
    """
    sources = case.write(root)
    further = {split: source for split, source in sources.items() if split != "train"}
    try:
        data = load(
            sources["train"],
            target="Y" if case.broken == "name" else "y",
            task=case.task,
            seed=case.seed % 7,
            **further,
        )
    except OneCycleError as error:
        return f"{'refused' if case.broken else 'fault: refused'}: {error}"
    assert not case.broken, f"what is broken ({case.broken}) is read"
    y = case.target.truth
    labelled = [i for i, value in enumerate(y) if value is not None]
    assert data.classes == case.classes, f"classes {data.classes}, expected {case.classes}"
    rows = _rows(case, data, labelled)
    for split, numbers in rows.items():
        part = getattr(data, split)
        for i, value in zip(numbers, part.targets.tolist(), strict=True):
            if data.classes is None:
                assert abs(value - y[i]) <= 1e-5 * abs(y[i]) + 1e-6, f"target of row {i}: {value}, expected {y[i]}"
            else:
                word = str(y[i]).lower() if case.target.kind == "truths" else str(y[i])
                assert data.classes[value] == word, f"target of row {i}: {data.classes[value]}, expected {word}"
    gaps = len(y) - len(labelled)
    said = sum(int(n) for note in data.notes for n in re.findall(r"left out (\d+) rows? of .* without a value", note))
    assert said == gaps, f"{gaps} rows have no target, and {said} are said"
    columns = data.columns
    assert isinstance(columns, TableColumns)
    encoded = np.concatenate([getattr(data, split).inputs.numpy() for split in rows])
    order = [i for numbers in rows.values() for i in numbers]
    left = next((note for note in data.notes if note.startswith("left out: ")), "")
    for column in case.columns:
        assert column.name in columns.names or f"{column.name} (" in left, f"nothing is said of {column.name!r}"
        _check_column(column, columns, encoded, order, rows["train"])
    again, _ = read_rows([_file(case, root)], columns)
    assert np.array_equal(again.numpy()[order], encoded), "predicting reads other rows than training did"
    few = read_rows([_file(case, root, slice(1, 3))], columns)[0].numpy()
    assert np.array_equal(few, again.numpy()[1:3]), "two rows alone are read differently"
    return "read"


def _file(case: Case, root: Path, part: slice = slice(None)) -> Path:
    path = root / f"new{case._suffix}"
    if case.form in FRAMES:
        pd.DataFrame({c.name: native(c)[part] for c in case.all_columns}).to_parquet(path)
        return path
    return case._written(path, part)


def _rows(case: Case, data: Any, labelled: list[int]) -> dict[str, list[int]]:
    """The numbers of the rows in each split, known by their keys; each row with a target is there once."""
    column = next(c for c in data.columns.numbers if c.name == "key")
    keys = column.encode(np.array(case.columns[0].truth)).astype(np.float32)
    at = [c.name for c in data.columns.numbers].index("key")
    rows = {}
    for split in ("train", "valid", "test"):
        part = getattr(data, split)
        if part is not None:
            distance = np.abs(keys[None] - part.inputs[:, at].numpy()[:, None])
            assert (distance.min(1) < 1e-6).all(), f"a key in {split} is in no row"
            rows[split] = distance.argmin(1).tolist()
    together = sorted(i for numbers in rows.values() for i in numbers)
    assert together == labelled, f"{len(together)} rows are read, expected {len(labelled)}"
    if len(case.splits) > 1:
        for split, part in case.splits.items():
            assert rows[split] == [i for i in labelled if part.start <= i < part.stop], f"rows of {split}"
    return rows


def _check_column(
    column: Column, columns: TableColumns, encoded: np.ndarray, order: list[int], train: list[int]
) -> None:
    """The cells of one column, undone."""
    truth = [column.truth[i] for i in order]
    known = [column.truth[i] for i in train if column.truth[i] is not None]
    for at, number in enumerate(columns.numbers):
        if number.name != column.name or number.part == "year":
            continue
        assert column.kind in ("numbers", "dates"), f"{column.name!r} holds {column.kind}, and is read as numbers"
        values = [None if v is None else _days(v) if column.kind == "dates" else float(v) for v in truth]
        middle = np.median([_days(v) if column.kind == "dates" else v for v in known])
        assert np.isclose(number.median, middle, rtol=1e-6, atol=1e-9), f"median of {column.name!r}"
        expected = number.encode(np.array([np.nan if v is None else v for v in values]))
        off = ~np.isclose(encoded[:, at], expected, rtol=1e-4, atol=1e-5)
        assert not off.any(), f"{column.name!r}: {encoded[off, at][0]}, expected {expected[off][0]}"
        if number.flag:
            flags = [c.name + c.part for c in columns.numbers if c.flag]
            flag = encoded[:, len(columns.numbers) + flags.index(number.name + number.part)]
            assert flag.tolist() == [v is None for v in truth], f"flags of {column.name!r}"
    used = {c.name for c in columns.numbers}
    if column.kind in ("numbers", "dates") and len(set(known)) > 1:
        assert column.name in used or column.kind == "dates", f"{column.name!r} holds {column.kind}, and is not read so"
    for at, category in enumerate(columns.categories, len(columns.numbers) + columns.flags):
        if category.name != column.name or category.part:
            continue
        for code, value in zip(encoded[:, at].astype(int).tolist(), truth, strict=True):
            word = str(value).lower() if column.kind == "truths" else str(value)
            word = str(int(value)) if column.kind == "numbers" and value is not None else word
            if value is None:
                assert code == MISSING, f"{column.name!r}: {code} where nothing is"
            elif code == UNKNOWN:
                assert word not in category.values, f"{column.name!r}: {word!r} is unknown"
            else:
                assert category.values[code - 2] == word, f"{column.name!r}: {category.values[code - 2]!r} for {word!r}"


def _days(value: datetime.datetime) -> float:
    return (value - datetime.datetime(1970, 1, 1)).total_seconds() / 86_400


def run(seed: int, root: Path) -> str:
    """What came of the case of a seed: "read", "refused: ..." or "fault: ..."."""
    return outcome(lambda: check(draw(seed), root))


def outcome(check: Callable[[], str]) -> str:
    """What a check says, or "fault: ..." where it fails."""
    try:
        return check()
    except AssertionError as error:
        return f"fault: {error}"
    except Exception as error:
        return f"fault: {type(error).__name__}: {error}"

"""The columns of a table as one vector a row: numbers, flags of missing ones, codes of categories; fitted on train."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..text import count, listed
from .table_cells import ALL_KEPT, NO_NUMBERS, Notation, are_codes, compute, dates_of, numbers_of

FEW = 10  # different whole numbers that are categories too
RARE = 3  # of a category of more than `ALL_KEPT` values, those in fewer rows share the code of unknown ones
BINS = 16
LONG_TEXT = 40  # characters on average from which on words that differ are texts
PARTS = {"year": "year", "month": "month", "weekday": "day_of_week", "hour": "hour"}  # of a date, by pyarrow's name
BOOLEANS = (("true", "1"), ("false", "0"), ("1", "true"), ("0", "false"))  # as files say it, and as training rows did
FAR = 10.0  # scales from the center from which on a number is unlike those of training
TOLD = 2.995  # of a squeezed number, up to which float32 tells what it was
HUGE = 1e18  # scales, from where on a number is squeezed to 3: its square is a float32 yet
UNKNOWN, MISSING = 0, 1  # the codes of what was not in the training rows, and of what is not there


@dataclass(frozen=True)
class NumberColumn:
    """Numbers, or a part of dates: missing ones are the `median`, ``(x - center) / scale`` is squeezed into -3 to 3.

    Attributes:
        name: in the table.
        part: of a date, "days" or "year"; "" for the number itself.
        center, scale: median and interquartile range / 1.35 of the training rows, or mean and standard deviation where
            more than half of them are one value.
        flag: whether a flag says which are missing: some were in the training rows.
        edges: quantiles of the result, rising.
        words: whether words that are no numbers were among those of the training table: they count as missing.
        comma: whether decimal numbers have a comma in files and in words; None: each table is asked.
    """

    name: str
    part: str
    median: float
    center: float
    scale: float
    flag: bool
    edges: tuple[float, ...] = ()
    words: bool = False
    comma: bool | None = None

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Float64 [n], NaN where missing, as the numbers that a model sees. Squeezed as in Holzmueller, 2407.04491."""
        with np.errstate(over="ignore"):  # what is beyond all numbers is squeezed too
            return squeezed((np.where(np.isnan(values), self.median, values) - self.center) / self.scale)

    @property
    def limits(self) -> tuple[float, float] | None:
        """About the least and the largest number of the training rows, from the edges; None where they do not tell.

        >>> NumberColumn("x", "", 3.0, 3.0, 2.0, False, (-0.94868, 0.0, 0.94868)).limits
        (1.0, 5.0)
        """
        if not self.edges or max(map(abs, (self.edges[0], self.edges[-1]))) > TOLD:
            return None
        low, high = (self.center + self.scale * z / np.sqrt(1 - (z / 3) ** 2) for z in (self.edges[0], self.edges[-1]))
        digits = 2 - math.floor(math.log10(self.scale))
        return round(float(low), digits), round(float(high), digits)


@dataclass(frozen=True)
class CategoryColumn:
    """Words, few whole numbers, or a part of dates: code 0 is unknown or rare, 1 is missing, i + 2 is ``values[i]``.

    `words` says whether the column holds words, which may look like numbers.
    """

    name: str
    part: str
    values: tuple[str, ...]
    words: bool

    @property
    def notation(self) -> Notation:
        """What words stand for in a further table."""
        import pyarrow as pa

        if not self.words:
            return Notation("truths")
        kept = tuple(value for value in self.values if value in NO_NUMBERS)
        return Notation("words", kept=kept, codes=are_codes(pa.array(self.values, pa.string())))

    def encode(self, values: Any) -> np.ndarray:
        """The codes int64 [n] of an array of words, null where missing."""
        import pyarrow as pa

        pc = compute()
        if not self.words:
            values = pc.utf8_lower(values)
            for said, meant in BOOLEANS:
                if meant in self.values and said not in self.values:
                    values = pc.if_else(pc.equal(values, said), meant, values)
        codes = pc.index_in(values, value_set=pa.array(self.values, pa.string())).to_numpy(zero_copy_only=False)
        codes = np.where(np.isnan(codes.astype(np.float64)), UNKNOWN - 2, codes).astype(np.int64) + 2
        return np.where(values.is_null().to_numpy(zero_copy_only=False), MISSING, codes)


@dataclass(frozen=True)
class TableColumns:
    """What a table's columns become, learned from its training rows alone.

    A row is float32 [numbers, flags of the missing ones, codes of the categories]. Of the dates `day_first` 3/4/2021 is
    in April. `target` names what is predicted.
    """

    target: tuple[str, ...]
    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    day_first: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        table: Any,
        target: tuple[str, ...],
        leave_out: Sequence[str] = (),
        notations: Mapping[str, Notation] | None = None,
    ) -> tuple[Self, tuple[str, ...]]:
        """The columns of a pyarrow table of training rows, and notes that say what was done with them.

        `notations` say what was decided of columns that were words, see `table_cells.typed`.
        """
        notations = notations or {}
        numbers: list[NumberColumn] = []
        categories: list[CategoryColumn] = []
        dropped: dict[str, str] = dict.fromkeys(leave_out, "as asked")
        for name in table.column_names:
            if name in target or name in leave_out:
                continue
            found = _fit_column(name, table[name])
            notation = notations.get(name, _ISO)
            numbers += (replace(column, words=notation.lenient, comma=notation.comma) for column in found.numbers)
            categories += found.categories
            if found.why_not:
                dropped[name] = found.why_not
        used = {column.name for column in numbers if column.part}
        day_first = tuple(name for name in table.column_names if name in used and notations.get(name, _ISO).day_first)
        columns = cls(target, tuple(numbers), tuple(categories), day_first)
        if not (numbers or categories):
            raise DataError(f"No column is left to learn from beside {listed(target)}: {_reasons(dropped)}.")
        return columns, tuple(_summary(columns, table, dropped))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table that are used."""
        return tuple(dict.fromkeys(column.name for column in (*self.numbers, *self.categories)))

    @cached_property
    def notations(self) -> dict[str, Notation]:
        """What the words of each column stand for in a file, or in a frame."""
        kinds = {column.name: column.notation for column in self.categories}
        kinds |= {each.name: Notation("numbers", lenient=each.words, comma=each.comma) for each in self.numbers}
        dates = {column.name: column.words for column in self.numbers if column.part}
        dates |= {column.name: dates.get(column.name, False) for column in self.categories if column.part}
        return kinds | {name: Notation("dates", name in self.day_first, lenient) for name, lenient in dates.items()}

    @property
    def flags(self) -> int:
        """How many numbers have a flag."""
        return sum(column.flag for column in self.numbers)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each category has."""
        return tuple(len(column.values) + 2 for column in self.categories)

    @property
    def edges(self) -> tuple[tuple[float, ...], ...]:
        """Quantiles of each number, as a model sees it."""
        return tuple(column.edges for column in self.numbers)

    def encode(self, table: Any, place: str = "the table") -> Tensor:
        """The rows of a pyarrow table as float32 [n, numbers + flags + categories].

        Raises:
            DataError: columns that are missing, or that hold something else than the training rows did.
        """
        return self.rows(*self.values(table, place))

    def values(self, table: Any, place: str = "the table") -> tuple[np.ndarray, np.ndarray]:
        """The numbers and the categories of a pyarrow table, before they are standardised.

        These are float64 [n, numbers], NaN where missing, and codes int64 [n, categories].

        Raises:
            DataError: columns that are missing, or that hold something else than the training rows did.
        """
        if missing := [name for name in self.names if name not in table.column_names]:
            raise DataError(
                f"{place} lacks {count(len(missing), 'column')} that the model was trained on: {listed(missing)}. "
                f"Its columns are {listed(table.column_names)}."
            )
        numbers = [
            _numbers(table[each.name], each.part, each.name, place, each.words, each.comma) for each in self.numbers
        ]
        codes = [each.encode(_words(table[each.name], each.part, place)) for each in self.categories]
        nothing = np.empty((table.num_rows, 0))
        return (
            np.stack(numbers, 1).astype(np.float64, copy=False) if numbers else nothing,
            np.stack(codes, 1) if codes else nothing.astype(np.int64),
        )

    def rows(self, numbers: np.ndarray, codes: np.ndarray) -> Tensor:
        """What `values` gave as float32 [n, numbers + flags + categories]."""
        parts = [column.encode(each) for column, each in zip(self.numbers, numbers.T, strict=True)]
        parts += [np.isnan(each) for column, each in zip(self.numbers, numbers.T, strict=True) if column.flag]
        return torch.from_numpy(np.stack([part.astype(np.float32) for part in (*parts, *codes.T)], 1))

    def unlike(self, rows: Tensor) -> tuple[str, ...]:
        """Notes on what is unlike the training rows in `rows` that `encode` gave: unknown words, numbers far off."""
        return strange_notes(self.strange(rows), len(rows))

    def strange(self, rows: Tensor) -> dict[str, int]:
        """How many values of `rows` are unlike those of the training rows, by what about them is."""
        numbers, codes = rows[:, : len(self.numbers)], rows[:, rows.shape[1] - len(self.categories) :]
        strange: dict[str, int] = {}
        for column, each in zip(self.categories, codes.T, strict=True):
            if column.words and (unknown := int((each == UNKNOWN).sum())):
                strange[f"value of {column.name} unknown, or rare, in training"] = unknown
        for column, each in zip(self.numbers, numbers.T, strict=True):
            if far := int((each.abs() > squeezed(np.float64(FAR))).sum()):
                strange[f"value of {column.name} far from all that was seen in training"] = far
        return strange

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        values = {**asdict(self), "target": plain_target(self.target)}
        return values if self.day_first else {name: one for name, one in values.items() if name != "day_first"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave.

        >>> columns = TableColumns(("y",), (NumberColumn("x", "", 0.0, 0.0, 1.0, False, (0.0, 1.0)),), ())
        >>> TableColumns.from_dict(columns.to_dict()) == columns
        True
        """
        return cls(
            target_names(values["target"]),
            tuple(NumberColumn(**{**each, "edges": tuple(each["edges"])}) for each in values["numbers"]),
            tuple(CategoryColumn(**{**each, "values": tuple(each["values"])}) for each in values["categories"]),
            tuple(values.get("day_first", ())),
        )


def strange_notes(strange: Mapping[str, int], rows: int) -> tuple[str, ...]:
    """Notes on what the method `strange` of columns has found in so many rows.

    >>> strange_notes({"value of x unknown, or rare, in training": 3}, 20)
    ('3 of 20 values of x unknown, or rare, in training',)
    """
    words = ((n, *what.partition(" ")[::2]) for what, n in strange.items())
    return tuple(f"{n} of {count(rows, unit)} {what}" for n, unit, what in words)


def squeezed(z: Any) -> Any:
    """Standardised numbers brought smoothly into -3 to 3."""
    z = z.clip(-HUGE, HUGE)  # of arrays and of tensors
    return z / (1 + (z / 3) ** 2) ** 0.5


_ISO = Notation("dates")


def plain_target(names: tuple[str, ...]) -> str | tuple[str, ...]:
    """The names of the targets as a record has them: of one, the name."""
    return names[0] if len(names) == 1 else names


def target_names(recorded: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the targets from what `plain_target` gave.

    >>> target_names(plain_target(("sea",))), target_names(plain_target(("sea", "snow")))
    (('sea',), ('sea', 'snow'))
    """
    return (recorded,) if isinstance(recorded, str) else tuple(recorded)


# What one column becomes


@dataclass(frozen=True)
class _Fitted:
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()
    why_not: str = ""


def _fit_column(name: str, column: Any) -> _Fitted:
    import pyarrow as pa

    column = plain_column(column)
    kind, rows = column.type, len(column)
    if column.null_count == rows:
        return _Fitted(why_not="no value in the training rows")
    if pa.types.is_string(kind):
        return _fit_words(name, column)
    if pa.types.is_boolean(kind):
        return _fit_category(name, column, words=False)
    if pa.types.is_timestamp(kind):
        return _fit_dates(name, column)
    if pa.types.is_floating(kind):
        return _fit_numbers(name, column)
    return _Fitted(why_not=f"{kind} values")


def plain_column(column: Any) -> Any:
    """A column as float64, bool, timestamp or string, null where missing; others stay as they are."""
    import pyarrow as pa

    pc = compute()
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_column(column.dictionary_decode())
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit))  # of UTC, as files of them are read
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        column = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.equal(column, ""), None, column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = pc.add(column.cast(pa.float64(), safe=False), 0.0)  # which makes -0 the same as 0
        return pc.if_else(pc.is_nan(column), None, column)
    return column


def _fit_numbers(name: str, column: Any) -> _Fitted:
    import pyarrow as pa

    values = _numbers(column, "", name, "the training rows")
    known = values[~np.isnan(values)]
    different = np.unique(known)
    if len(different) == 1 and len(known) == len(values):
        return _Fitted(why_not="one value in all training rows")
    whole = bool((known == np.floor(known)).all())
    if whole and len(different) == len(values) > FEW and _names_rows(name):
        return _Fitted(why_not="it numbers the rows")
    few = whole and len(different) <= FEW and len(known) >= FEW * len(different)
    category = _fit_category(name, pa.array(known), words=False).categories if few else ()
    return _Fitted((_number(name, "", values),), category)


def _names_rows(name: str) -> bool:
    plain = name.strip()
    return plain.lower() in ("", "id", "index", "row", "unnamed: 0") or bool(re.search(r"([_ -]id|[a-z]I[dD])$", plain))


def _number(name: str, part: str, values: np.ndarray) -> NumberColumn:
    """What the training rows `values`, NaN where missing, say of a column of numbers."""
    known = values[~np.isnan(values)]
    low, median, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    center, scale = (median, (high - low) / 1.35) if high > low else (float(known.mean()), float(known.std()) or 1.0)
    column = NumberColumn(name, part, median, center, scale, len(known) < len(values))
    edges = np.unique(np.quantile(column.encode(known), np.linspace(0, 1, BINS + 1)).astype(np.float32))
    return NumberColumn(name, part, median, center, scale, column.flag, tuple(edges.tolist()))


def _fit_words(name: str, column: Any) -> _Fitted:
    pc = compute()
    known = column.drop_null()
    different, rows = pc.count_distinct(known).as_py(), len(known)
    if different > max(ALL_KEPT, rows / 2):
        length = pc.mean(pc.utf8_length(known)).as_py()
        what = f"{different:,} different words"
        if length > LONG_TEXT:
            what = f"free text of {length:.0f} characters, see text_column (--text-column),"
        return _Fitted(why_not=f"{what} in {count(rows, 'row')}")
    return _fit_category(name, column, words=True)


def _fit_category(name: str, column: Any, *, words: bool, part: str = "") -> _Fitted:
    pc = compute()
    each = pc.value_counts(_words(column, part, "the training rows").drop_null())
    counts = dict(zip(each.field("values").to_pylist(), each.field("counts").to_pylist(), strict=True))
    if len(counts) == 1 and column.null_count == 0:
        return _Fitted(why_not="one value in all training rows")
    kept = [value for value, rows in counts.items() if len(counts) <= ALL_KEPT or rows >= RARE]
    if not kept:
        return _Fitted(why_not=f"{len(counts):,} different words, none of them in {RARE} rows")
    return _Fitted(categories=(CategoryColumn(name, part, tuple(sorted(kept)), words),))


def _fit_dates(name: str, column: Any) -> _Fitted:
    numbers, categories = [], []
    for part in ("days", "year"):
        values = _numbers(column, part, name, "the training rows")
        if len(np.unique(values[~np.isnan(values)])) > 1:
            numbers.append(_number(name, part, values))
    for part in ("month", "weekday", "hour"):
        categories += _fit_category(name, column, words=False, part=part).categories
    return _Fitted(tuple(numbers), tuple(categories), "" if numbers or categories else "one date in all training rows")


# A column as an array


def _numbers(
    column: Any, part: str, name: str, place: str, words: bool = False, comma: bool | None = None
) -> np.ndarray:
    """Float64 [n], NaN where missing; with `words`, words that are no numbers are missing too."""
    import pyarrow as pa

    pc = compute()
    column = plain_column(column)
    kind = column.type
    if part:
        column = _dates(column, name, place)
        if part == "days":
            seconds = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
            return seconds.cast(pa.float64()).to_numpy(zero_copy_only=False) / 86_400_000
        column = getattr(pc, PARTS[part])(column).cast(pa.float64())
    elif pa.types.is_string(kind):
        column = _parsed_column(column, strictly_of="" if words else f"{name} in {place}", comma=bool(comma))
    elif pa.types.is_null(kind) or pa.types.is_boolean(kind):
        column = column.cast(pa.uint8()).cast(pa.float64()) if pa.types.is_boolean(kind) else column.cast(pa.float64())
    elif not pa.types.is_floating(kind):
        raise DataError(f"Column {name} holds {kind} values in {place}, and numbers in the training rows.")
    values = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    if np.isinf(values).any():
        raise DataError(
            f"Column {name} of {place} has {count(int(np.isinf(values).sum()), 'infinite value')}, the first in row "
            f"{int(np.isinf(values).argmax()) + 1}. Leave these cells empty, or mend them."
        )
    return values


def _words(column: Any, part: str, place: str) -> Any:
    """An array of words, null where missing; whole numbers without a point."""
    import pyarrow as pa

    pc = compute()
    column = plain_column(column)
    if part:
        column = getattr(pc, PARTS[part])(_dates(column, part, place))
    elif pa.types.is_floating(column.type):
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))
        without_point = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())
        return pc.if_else(whole, without_point, column.cast(pa.string()))
    return column.cast(pa.string())


def _dates(column: Any, name: str, place: str) -> Any:
    import pyarrow as pa

    pc = compute()
    if pa.types.is_timestamp(column.type):
        return column
    if pa.types.is_null(column.type):
        return column.cast(pa.timestamp("us"))
    made = dates_of(column) if pa.types.is_string(column.type) else None
    if made is None or made.null_count > column.null_count:
        strange = [] if made is None else column.filter(pc.and_(made.is_null(), column.is_valid())).to_pylist()
        what = f"{column.type} values" if made is None else f"words that are none, such as {strange[0]!r}"
        raise DataError(f"Column {name} holds dates in the training rows, and {what} in {place}. Mend these cells.")
    return made


def _parsed_column(column: Any, strictly_of: str = "", comma: bool = False) -> Any:
    """Words as numbers, null where they are none; with `strictly_of`, a DataError about those."""
    import pyarrow as pa

    values = numbers_of(column, comma)
    strange = np.isnan(values) & ~column.is_null().to_numpy(zero_copy_only=False)
    if strictly_of and strange.any():
        first, n = int(strange.argmax()), int(strange.sum())
        raise DataError(
            f"Column {strictly_of} has {count(n, 'cell')} that {'is no number' if n == 1 else 'are no numbers'}, the "
            f"first in row {first + 1}: {column[first].as_py()!r}. The training rows have numbers there."
        )
    return pa.array(values, from_pandas=True)


# What is said


def _summary(columns: TableColumns, table: Any, dropped: Mapping[str, str]) -> list[str]:
    dates = {column.name for column in (*columns.numbers, *columns.categories) if column.part}
    numbers = {column.name for column in columns.numbers} - dates
    words = {column.name for column in columns.categories} - dates - numbers
    kinds = {"number": len(numbers), "category": len(words), "date": len(dates)}
    notes = ["columns: " + listed([count(n, kind) for kind, n in kinds.items() if n])]
    if both := [column.name for column in columns.categories if column.name in numbers]:
        notes.append(f"numbers that are categories too, of at most {FEW} values: {listed(both)}")
    gaps = {name: plain_column(table[name]).null_count for name in columns.names}
    if any(gaps.values()):
        said = listed([f"{name} {n:,}" for name, n in gaps.items() if n])
        notes.append(
            f"missing in {count(table.num_rows, 'training row')}: {said}; numbers are the median with a flag, words a "
            "category of their own"
        )
    return [*notes, *([f"left out: {_reasons(dropped)}"] if dropped else [])]


def _reasons(dropped: Mapping[str, str]) -> str:
    return listed([f"{name} ({why})" for name, why in dropped.items()])

"""Cells that are words as numbers, dates and truth values: what a column holds is decided once, over all its rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..text import count, listed

NULLS = ("?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")  # among words in a file, beside ""
NO_NUMBERS = (*NULLS, "<NA>", "NaT", "Null", "-", "--")  # among numbers, dates and truth values, in frames too
PARSED = 0.95  # of the words of a column: so many are numbers, or dates, and it is a column of those
ALL_KEPT = 20  # different words up to which a column of words stays one, although most of them are numbers
EXACT = 2**53  # the whole numbers up to here are floats too

PLAIN = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"  # as programs write numbers
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
INFINITE = r"^[+-]?([iI]nf|INF|[iI]nfinity)$"
COMMA = r"(^|[^\d,])(0,\d+|\d+,(\d{1,2}|\d{4,})|\d{4,},\d+)$|\d\.\d{3},\d+$"  # which nothing but a decimal one is
POINT = r"^[+-]?(0\.\d+|\d+\.(\d{1,2}|\d{4,}))$"  # so is this point
TIME = r"^(?P<h>\d{1,3}):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d(?:\.\d+)?))?$"
DATE = (
    r"^(?P<a>\d{1,4})(?P<by>[./-])(?P<b>\d{1,2})(?P<again>[./-])(?P<c>\d{4}|\d{2}|\d)"
    r"(?:(?:[T ]|, ?)(?P<h>\d{1,2}):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d)(?:[.,](?P<f>\d{1,9}))?)?)?"
    r" ?(?:(?P<half>[aApP])\.?[mM]\.?)?(?P<zone>Z|UTC|[+-]\d{2}:?\d{2})?$"
)


_LONG = "{}: whole numbers beyond 2^53, taken as words"


@dataclass(frozen=True)
class Notation:
    """What the words of a column stand for.

    Attributes:
        kind: "words", "numbers", "dates" or "truths".
        day_first: of dates such as 03/04/2021, whether that is in April.
        lenient: of numbers, whether words that are none were among them: they are missing.
        comma: of numbers, whether a comma is in decimal ones; None where nothing told: each further table is asked.
        kept: of words, those that would be missing elsewhere, such as "NA" for a region.
        codes: of words, whether all of them are numbers, such as 007: what is missing is as among numbers.
    """

    kind: str
    day_first: bool = False
    lenient: bool = False
    comma: bool | None = None
    kept: tuple[str, ...] = ()
    codes: bool = False


_WORDS = Notation("words")


@dataclass(frozen=True, eq=False)
class Typed:
    """A table whose cells have types, what was decided of its columns of words, and notes on that.

    Of a further table, `commas` says which columns of numbers were read with decimal commas, for what follows in it.
    """

    table: Any
    notations: dict[str, Notation]
    notes: tuple[str, ...] = ()
    commas: Mapping[str, bool] = field(default_factory=dict)


def typed(
    table: Any,
    known: Mapping[str, Notation] | None = None,
    *,
    separator: str | None = None,
    place: str = "",
    allow: float = 0.0,
    exact: Collection[str] = (),
    task: str | None = None,
) -> Typed:
    """A table whose columns of words are numbers, dates or truth values where they stand for such.

    Without `known` it is decided what each column holds; with it, columns are read as that, and are left as words where
    more than a share `allow` of them is something else. `separator` is that of a file, whose whole numbers are numbers
    however few; None: of a frame. The columns `exact` are to be predicted: codes and long numbers stay words there, and
    so does all but plain numbers and truth values where the `task` that is asked for is not "regression".
    """
    columns = {name: table[name] for name in table.column_names}
    words = {name: trimmed(column) for name, column in columns.items() if _is_string(column)}
    if known is None:
        return _decided(columns, words, separator, exact, task)
    return _as_known(columns, words, known, separator, place, allow)


def trimmed(column: Any) -> Any:
    """An array of words without the space around them, null where they are empty."""
    import pyarrow as pa

    pc = compute()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return _without(pc.utf8_trim_whitespace(column.cast(pa.string())), ("",))


def numbers_of(words: Any, comma: bool = False) -> np.ndarray:
    """Float64 [n] of words such as 12, 1,234.5, $5, 30%, (3) and 12:30; NaN where they are no numbers.

    `comma` says that a comma is in decimal numbers, and a point between thousands.
    """
    import pyarrow as pa

    pc = compute()
    if not comma and (plain := pc.all(pc.match_substring_regex(words, PLAIN)).as_py()) is not False:
        numbers = (words if plain else pa.nulls(len(words), pa.string())).cast(pa.float64())
        return np.array(numbers.to_numpy(zero_copy_only=False), np.float64)  # of most columns
    sub = pc.replace_substring_regex
    plain = sub(sub(words, r"^([+-]?)[$€£¥]\s*|\s*[$€£¥%]$", r"\1"), "\u2212", "-")
    plain = sub(plain, r"^\((.*)\)$", r"-\1")
    spaced = pc.match_substring_regex(plain, r"^[+-]?\d{1,3}([ \x{a0}\x{202f}]\d{3})+([.,]\d*)?$")
    plain = pc.if_else(spaced, sub(plain, r"[ \x{a0}\x{202f}]", ""), plain)
    if comma:
        thousands = pc.match_substring_regex(plain, r"^[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?$")
        plain = pc.if_else(thousands, pc.replace_substring(plain, ".", ""), plain)
        plain = pc.if_else(pc.match_substring_regex(plain, r"^[^,.]*,[^,.]*$"), sub(plain, ",", "."), plain)
    else:
        thousands = pc.match_substring_regex(plain, r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?$")
        plain = pc.if_else(thousands, pc.replace_substring(plain, ",", ""), plain)
    valid = pc.or_(pc.match_substring_regex(plain, NUMBER), pc.match_substring_regex(plain, INFINITE))
    numbers = pc.if_else(valid, sub(plain, r"^\+", ""), None).cast(pa.float64())
    numbers = np.array(numbers.to_numpy(zero_copy_only=False), np.float64)
    times = pc.extract_regex(words, TIME)
    if times.null_count < len(times):
        h, m, s = (np.nan_to_num(_field(times, part)) for part in "hms")
        there = times.is_valid().to_numpy(zero_copy_only=False)
        numbers = np.where(there, 3600 * h + 60 * m + s, numbers)
    return numbers


def dates_of(words: Any, day_first: bool = False) -> Any:
    """Timestamps of words such as 2021-04-03, 2021/4/3 12:30, 03.04.2021 and 3/4/2021; null where they are none.

    Those with a time zone are in UTC. `day_first` says that 3/4/2021 is in April.
    """
    import pyarrow as pa

    encoded = words.dictionary_encode(null_encoding="encode")
    words = encoded.dictionary
    parts = compute().extract_regex(words, DATE)
    a, b, c = (_field(parts, name) for name in "abc")
    year_first, year_last, _ = _order(parts)
    with np.errstate(invalid="ignore"):
        short = np.where(c < 69, 2000 + c, 1900 + c)
        year = np.where(year_first, a, np.where(c < 100, short, c))
        month = np.where(year_first | day_first, b, a)
        day = np.where(year_first, c, np.where(day_first, a, b))
        h, m, s = (np.nan_to_num(_field(parts, name)) for name in "hms")
        half = parts.field("half").to_numpy(zero_copy_only=False).astype(str)
        afternoon, morning = np.char.lower(half) == "p", np.char.lower(half) == "a"
        h = np.where(afternoon & (h < 12), h + 12, np.where(morning & (h == 12), 0, h))
        good = (
            (year_first | year_last) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (year >= 1) & (h < 24)
        )
    whole = [np.where(good, part, 1).astype(np.int64) for part in (year, month, day)]
    months = ((whole[0] - 1970) * 12 + whole[1] - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (whole[2] - 1)
    good &= days.astype("datetime64[M]") == months  # there is no 30 February
    seconds = days.astype("datetime64[s]").astype(np.int64) + (3600 * h + 60 * m + s - _zones(parts)).astype(np.int64)
    micros = np.array([int((f or "").ljust(6, "0")[:6]) for f in parts.field("f").to_pylist()], np.int64)
    return pa.array(1_000_000 * seconds + micros, pa.timestamp("us"), mask=~good).take(encoded.indices)


# What a column holds


def _decided(
    columns: Mapping[str, Any],
    words: Mapping[str, Any],
    separator: str | None,
    exact: Collection[str],
    task: str | None,
) -> Typed:
    """The columns of a training table, each as what it holds."""
    import pyarrow as pa

    cells = {name: _without(column, NO_NUMBERS) for name, column in words.items()}
    between = separator in (None, ",")  # so that a comma within a cell says nothing of the other columns
    others = {name: each for name, each in cells.items() if name not in exact}
    commas = _with_commas(others, separator)
    if task == "regression" or (task is None and (commas or not between)):  # else 1,3 may be two labels
        commas = _with_commas(cells, separator)
    made, notations, notes = {}, {}, []
    for name, column in columns.items():
        if name in words:
            stay = name in exact and task not in (None, "regression")
            made[name], notations[name], said = _decided_column(
                name, words[name], cells[name], name in commas, separator is not None, name in exact, stay
            )
        else:
            long = _long_numbers(column)
            made[name], notations[name] = (column, Notation(_kind(column.type))) if long is None else (long, _WORDS)
            said = [] if long is None else [_LONG.format(name)]
        notes += said
    numbers = [name for name in words if notations[name].kind == "numbers"]
    telling = {name for name in numbers if _any(cells[name], r"[.,]")}
    for name in numbers:
        if name in telling or (telling and not between):
            notations[name] = replace(notations[name], comma=name in commas)
    if read := [name for name in words if name in commas and _any(cells[name], r"^[^,]*\d,\d+$")]:
        notes.insert(0, f"a comma in decimal numbers: {listed(read)}")
    return Typed(pa.table(list(made.values()), names=list(made)), notations, tuple(notes))


def _as_known(
    columns: Mapping[str, Any],
    words: Mapping[str, Any],
    known: Mapping[str, Notation],
    separator: str | None,
    place: str,
    allow: float,
) -> Typed:
    """The columns of a further table, read as those of the training table are."""
    import pyarrow as pa

    cells = {name: _without(column, NO_NUMBERS) for name, column in words.items()}
    commas = _with_commas(cells, separator)
    sign = _decimal_comma(cells[name] for name in words if known.get(name, _WORDS).kind == "numbers")
    made, notations, notes, otherwise = dict(columns), dict(known), [], []
    read: dict[str, bool] = {}
    for name, column in columns.items():
        notation = known.get(name, _WORDS)
        if name in words:
            if notation.comma is None:
                notation = replace(notation, comma=name in commas)
            elif sign is not None and sign is not notation.comma:
                notation = replace(notation, comma=sign)
                otherwise.append(name)
            made[name], said = _read(name, words[name], notation, place, allow)
            if notation.kind == "numbers":
                read[name] = bool(notation.comma)
            if said:
                notations[name] = replace(known[name], lenient=True)
            notes += said
        elif name in known and notation.kind == "words" and pa.types.is_integer(column.type):
            made[name] = column.cast(pa.string())  # to the last digit
    if otherwise:
        notes.append(f"a {'comma' if sign else 'point'} in decimal numbers, unlike in training: {listed(otherwise)}")
    return Typed(pa.table(list(made.values()), names=list(made)), notations, tuple(notes), read)


def _decided_column(
    name: str, words: Any, cells: Any, comma: bool, file: bool, exact: bool, stay: bool
) -> tuple[Any, Notation, list[str]]:
    """A column, what its words stand for, and notes; `cells` are null where `words` are no numbers, such as "-".

    With `stay`, words other than plain numbers and truth values stay words.
    """
    import pyarrow as pa

    pc = compute()
    known = cells.drop_null()
    distinct = known.unique()
    rows, different = len(known), len(distinct)
    if rows == 0 and (file or words.null_count == len(words)):
        return pa.nulls(len(cells)), Notation("numbers"), []
    if file and 0 < different <= 4 and set(pc.utf8_lower(distinct).to_pylist()) <= {"true", "false"}:
        return _truths(cells), Notation("truths"), []
    repeated = different <= max(ALL_KEPT, rows / 2)
    codes = (exact or repeated) and _any(distinct, r"^[+-]?0\d+$")
    if rows == 0 or codes or (stay and not pc.all(pc.match_substring_regex(distinct, PLAIN)).as_py()):
        return *_words(words, cells, file), []
    if repeated and _any(distinct, r"^[+-]?\d{16,}$") and _beyond(distinct.to_pylist()):
        return *_words(words, cells, file), [_LONG.format(name)]
    numbers = numbers_of(cells, comma)
    strange = int((np.isnan(numbers) & cells.is_valid().to_numpy(zero_copy_only=False)).sum())
    plain = file and not (exact and _any(distinct, r"[^-+\d.,eEinftyINFTY]"))
    if (strange == 0 and plain) or (strange <= (1 - PARSED) * rows and different > ALL_KEPT):
        notation = Notation("numbers", lenient=strange > 0)
        return pa.array(numbers, from_pandas=True), notation, _strange(name, strange, rows, "number")
    return _dates(name, cells) or (*_words(words, cells, file), [])


def _words(words: Any, cells: Any, file: bool) -> tuple[Any, Notation]:
    """A column of words, null where nothing is said: in a frame that is null already, but among codes."""
    if are_codes(cells):
        return cells, Notation("words", codes=True)
    made = _without(words, NULLS) if file else words
    return made, Notation("words", kept=tuple(word for word in made.unique().to_pylist() if word in NO_NUMBERS))


def are_codes(words: Any) -> bool:
    """Whether all words of an array are numbers."""
    distinct = words.drop_null().unique()
    parts = (distinct[:ALL_KEPT], distinct)  # of most words the first ones tell
    return len(distinct) > 0 and not any(np.isnan(numbers_of(part)).any() for part in parts)


def _without(words: Any, nulls: Collection[str]) -> Any:
    """Words, null where they are one of `nulls`."""
    import pyarrow as pa

    pc = compute()
    return pc.if_else(pc.is_in(words, value_set=pa.array(nulls, pa.string())), None, words)


def _dates(name: str, cells: Any) -> tuple[Any, Notation, list[str]] | None:
    """A column of dates and what says which part is the day; None where it holds none."""
    known = cells.drop_null()
    parts = compute().extract_regex(known, DATE)
    if parts.null_count > (1 - PARSED) * len(known):
        return None
    a, b = _field(parts, "a"), _field(parts, "b")
    _, year_last, point = _order(parts)
    by_day, by_month = int((year_last & (a > 12)).sum()), int((year_last & (b > 12)).sum())
    day_first = by_day > by_month or (by_day == by_month and int((year_last & point).sum()) > int(year_last.sum()) / 2)
    made = dates_of(cells, day_first)
    strange = made.null_count - cells.null_count
    if strange > (1 - PARSED) * len(known):
        return None
    notes = _strange(name, strange, len(known), "date")
    unusual = year_last & ~(point & day_first)
    if unusual.any():
        first = known[int(unusual.argmax())].as_py()
        order = "day/month" if day_first else "month/day"
        proof = max(by_day, by_month)
        why = (
            f"as {count(proof, 'date')} can only be" if proof else "though none of them tells: write YYYY-MM-DD if not"
        )
        notes.insert(0, f"{name}: dates such as {first} are read as {order}, {why}")
    return made, Notation("dates", day_first, strange > 0), notes


def _read(name: str, words: Any, notation: Notation, place: str, allow: float) -> tuple[Any, list[str]]:
    """A column of another table, read as `notation` says; as words where it does not hold that."""
    import pyarrow as pa

    if notation.kind == "words":
        return _without(words, [null for null in NO_NUMBERS if null not in notation.kept]), []
    cells = _without(words, NO_NUMBERS)
    if cells.null_count == len(cells):
        return pa.nulls(len(cells)), []
    if notation.kind == "truths":
        lower = compute().utf8_lower(cells)
        return (_truths(cells) if set(lower.drop_null().to_pylist()) <= {"true", "false"} else cells), []
    if notation.kind == "numbers":
        made = pa.array(numbers_of(cells, bool(notation.comma)), from_pandas=True)
    else:
        made = dates_of(cells, notation.day_first)
    strange, rows = made.null_count - cells.null_count, len(cells) - cells.null_count
    if strange > allow * rows and not (strange and notation.lenient):
        return cells, []
    said = _strange(name, strange, rows, notation.kind[:-1])
    return made, [f"{place}: {note}" if place else note for note in said]


def _strange(name: str, strange: int, rows: int, what: str) -> list[str]:
    return [f"{name}: no {what} in {count(strange, 'cell')} of {rows:,}, taken as missing"] if strange else []


def _long_numbers(column: Any) -> Any:
    """Whole numbers beyond 2^53 as words, where they are repeated; None of other columns."""
    import pyarrow as pa

    kind = column.type
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    if not whole or kind.bit_width < 64:
        return None
    known = column.drop_null()
    different = known.unique()
    if len(different) > max(ALL_KEPT, len(known) / 2) or not _beyond(different.to_pylist()):
        return None
    return column.cast(pa.string())


def _kind(kind: Any) -> str:
    """The kind of notation that says what a column of such a type holds."""
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "truths"
    return "dates" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else "numbers"


def _beyond(values: list[Any]) -> bool:
    """Whether all values are whole numbers, and some too long for a float."""
    digits = [re.fullmatch(r"[+-]?\d+", str(value)) for value in values]
    return all(digits) and any(abs(int(value)) > EXACT for value in values)


def _with_commas(columns: Mapping[str, Any], separator: str | None) -> set[str]:
    """The columns whose numbers have decimal commas.

    A column that can be read in no other way has them; in a file whose columns are not separated by commas, one such
    column speaks for all. Where the columns are separated by semicolons, any comma within a number will do.
    """
    pc = compute()
    every = columns
    columns = {name: words for name, words in columns.items() if pc.any(pc.match_substring(words, ",")).as_py()}
    if any(_any(words, r"^\D{0,3}\d{1,3}(,\d{3})+(\.\d+|,\d{3})$") for words in columns.values()):
        return set()
    proof = r"\d,\d+$" if separator == ";" else COMMA
    proven = {name for name, words in columns.items() if _any(words, proof) and _mostly_numbers(words)}
    if separator in (None, ",") or not proven:
        return proven
    points = any(_any(words, POINT) for words in every.values())
    return proven if points else set(every)


def _decimal_comma(columns: Iterable[Any]) -> bool | None:
    """Whether decimal numbers have a comma in a table, where its cells prove that they do, or that they do not."""
    columns = list(columns)
    commas, points = (any(_any(words, pattern) for words in columns) for pattern in (COMMA, POINT))
    return None if commas == points else commas


def _mostly_numbers(words: Any) -> bool:
    return bool((~np.isnan(numbers_of(words.drop_null(), True))).mean() >= PARSED)


def _is_string(column: Any) -> bool:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _truths(cells: Any) -> Any:
    return compute().equal(compute().utf8_lower(cells), "true")


def _any(words: Any, pattern: str) -> bool:
    pc = compute()
    return bool(pc.any(pc.match_substring_regex(words, pattern)).as_py())


# The parts of dates


def _field(parts: Any, name: str) -> np.ndarray:
    """Numbers float64 [n] of a group of a pattern, NaN where it is empty."""
    import pyarrow as pa

    pc = compute()
    words = parts.field(name)
    words = pc.if_else(pc.equal(words, ""), None, words)
    words = pc.if_else(parts.is_valid(), words, None)
    return np.asarray(words.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _order(parts: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which dates begin with the year, which end with it, and which have points, so that the day is first."""
    pc = compute()
    by, again, c = (parts.field(name) for name in ("by", "again", "c"))
    a = parts.field("a")
    alike = pc.equal(by, again).fill_null(False).to_numpy(zero_copy_only=False)
    digits_a, digits_c = (pc.utf8_length(part).fill_null(0).to_numpy(zero_copy_only=False) for part in (a, c))
    point = pc.equal(by, ".").fill_null(False).to_numpy(zero_copy_only=False)
    year_first = alike & (digits_a == 4) & (digits_c <= 2)
    slash = pc.equal(by, "/").fill_null(False).to_numpy(zero_copy_only=False)
    year_last = alike & (digits_a <= 2) & ((digits_c == 4) | ((digits_c == 2) & (digits_a == 2) & (point | slash)))
    return year_first, year_last, point


def _zones(parts: Any) -> np.ndarray:
    """Seconds from UTC."""
    zones = parts.field("zone").to_pylist()
    signs = [(-1 if (zone or "").startswith("-") else 1) for zone in zones]
    digits = ["".join(ch for ch in zone or "" if ch.isdigit()) or "0000" for zone in zones]
    return np.array([sign * (3600 * int(d[:2]) + 60 * int(d[2:])) for sign, d in zip(signs, digits, strict=True)])


def compute() -> Any:
    """pyarrow's functions, which it makes as it is imported."""
    import pyarrow.compute

    return pyarrow.compute

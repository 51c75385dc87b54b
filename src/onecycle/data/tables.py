"""Tables: CSV and Parquet files, and data frames, with one column to be predicted from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import is_whole, one_of
from ..errors import ConfigError, DataError, did_you_mean
from ..text import count, listed, number
from .csv_files import Cells, check_names, read_cells, without_rows
from .described import RowsOf
from .label_sets import MULTI_LABEL, label_sets, target_columns
from .pretraining import Pretraining
from .splits import Encoded, RawData, Split, Stream
from .table_cells import Notation, Typed, compute, numbers_of, typed
from .table_columns import TableColumns, plain_column
from .table_folders import TableFolder
from .table_parts import cell_parts, parquet_parts, reading_parquet, with_more
from .text_folders import TextFolder, read_texts
from .text_tokens import TextTokens, text_column

TASKS = ("classification", "regression", MULTI_LABEL)
STRANGE = 0.5  # of the words of a column in a further table: so many may be no numbers, where those of the first are
CLASSES = 20  # whole numbers of at most so many values are classes
LISTED = "images listed in the column"  # the beginning of a note
LEAK = 100  # rows from which on a column that gives the class away is worth a note


@dataclass(frozen=True)
class TableOptions:
    """The keywords of `load` for tables: what to predict, from which further files, and without which columns."""

    target: str | tuple[str, ...] | None = None
    valid: Any = None
    test: Any = None
    task: str | None = None
    leave_out: tuple[str, ...] = ()
    text_column: str | None = None

    def __post_init__(self) -> None:
        if self.task is not None:
            one_of("task", self.task, TASKS)

    @property
    def given(self) -> list[str]:
        """The keywords that are given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return [name for name, value in values.items() if value is not None and (name != "leave_out" or value)]


def column_name(name: Any) -> Any:
    """The name of a column as a table has it, or of several: the columns of pandas may be numbers."""
    if isinstance(name, list | tuple):
        return tuple(map(column_name, name))
    return str(name) if is_whole(name, least=0) else name


def is_frame(data: Any) -> bool:
    """Whether `data` is a table in memory: of pandas, polars, pyarrow, or a `datasets.Dataset` that holds no images."""
    return hasattr(data, "__arrow_c_stream__") or (hasattr(data, "columns") and hasattr(data, "iloc"))


@dataclass(frozen=True, eq=False)
class TableSplits:
    """The tables of the splits, and what is to be predicted in them; `classes` is None for a regression.

    `notations` say what the words of each column stand for, `numbers` which row of its file or frame each is, from 1
    on, and `names` what the rows of a table that no file holds are called.
    """

    tables: dict[str, Any]
    target: tuple[str, ...]
    targets: dict[str, Tensor]
    classes: tuple[str, ...] | None
    origin: str
    notes: tuple[str, ...]
    notations: Mapping[str, Notation]
    numbers: Mapping[str, np.ndarray]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_table(data: Any, options: TableOptions, pretrained: Pretraining | None = None) -> RawData:
    """The splits of a table: one file or frame, or those of its own that `options` name.

    Raises:
        DataError: no such target, or files and columns that cannot be used.
    """
    return encoded_table(table_splits(data, options), options, pretrained)


def table_splits(data: Any, options: TableOptions, beside: TableFolder | None = None) -> TableSplits:
    """The tables and targets of `read_table`, as they were read.

    Those that lay `beside` the training table are left out where they have no target, with a note.

    Raises:
        DataError: no such target, or files that cannot be used.
    """
    train = as_table(data, exact=_names(options.target), task=options.task)
    tables, notations = {"train": train.table}, train.notations
    notes = [*(beside.notes if beside else ()), *train.notes]
    for split, source in {"valid": options.valid, "test": options.test}.items():
        if source is not None:
            further = as_table(source, notations, place=split, allow=STRANGE)
            if beside and source == beside.splits.get(split) and not _is_measurable(further.table, options.target):
                what = options.target if isinstance(options.target, str) else listed(options.target or (), "or")
                notes.append(f"left out: {source.name} (no {what} to measure by; onecycle predict takes it)")
                continue
            tables[split], notations = further.table, further.notations
            notes += (note for note in further.notes if note not in notes)
    origin = str(data) if isinstance(data, str | Path) else "Python"
    return _with_targets(tables, options, origin, notes, notations)


def read_text_folder(root: Path, folder: TextFolder, pretrained: Pretraining | None = None) -> RawData:
    """The texts in a folder by class."""
    import pyarrow as pa

    tables: dict[str, Any] = {}
    files: dict[str, list[str]] = {}
    for split, classes in folder.splits.items():
        paths = [path for one in classes.values() for path in one]
        files[split] = [str(path) for path in paths]
        names = [name for name, one in classes.items() for _ in one]
        tables[split] = pa.table({"text": pa.array(read_texts(paths), pa.string()), "class": names})
    options = TableOptions("class", text_column="text")
    given = _with_targets(tables, options, str(root), [*folder.notes], {})
    return encoded_table(replace(given, names=files), options, pretrained)


def _with_targets(
    tables: dict[str, Any],
    options: TableOptions,
    origin: str,
    notes: list[str],
    notations: Mapping[str, Notation],
) -> TableSplits:
    names = _target(tables, options.target, origin)
    for name in options.leave_out:
        if name not in tables["train"].column_names or name in names:
            raise ConfigError(f"leave_out names no column beside the target: {name!r}. {_columns_of(tables['train'])}")
    numbers: dict[str, np.ndarray] = {}
    for split, table in tables.items():
        tables[split], numbers[split], said = _with_target(table, names, split)
        notes += said
    if len(names) == 1:
        made = _targets({split: table[names[0]] for split, table in tables.items()}, options.task)
    else:
        each = {split: {name: table[name] for name in names} for split, table in tables.items()}
        made = target_columns(each, options.task)
        tables = {split: table.drop_columns(list(names)) for split, table in tables.items()}
    targets, classes, said = made
    return TableSplits(tables, names, targets, classes, origin, (*notes, said), notations, numbers)


def encoded_table(given: TableSplits, options: TableOptions, pretrained: Pretraining | None = None) -> RawData:
    """The samples of tables, which are made once it is known which rows are for training.

    A `pretrained` model of texts has tokens of its own.
    """
    tables, target, classes = given.tables, given.target, given.classes
    parts = _numbered_rows(tables, given.targets)
    column = options.text_column or text_column(tables["train"], target, options.leave_out)
    if column is not None and (column not in tables["train"].column_names or column in target):
        raise ConfigError(f"text_column names no column beside the target: {column!r}. {_columns_of(tables['train'])}")

    def encode(parts: Mapping[str, Split | Stream]) -> Encoded:
        chosen, about = {}, {}
        for split, part in parts.items():
            chosen[split], about[split] = _rows(given, part)
        columns, more = (
            TableColumns.fit(chosen["train"], target, options.leave_out, given.notations)
            if column is None
            else _tokens(chosen["train"], target, column, pretrained)
        )
        table = isinstance(columns, TableColumns)
        given_away = _leaks(columns, chosen["train"], parts["train"].targets) if classes and table else []
        encoded = {}
        for split, part in parts.items():
            rows = columns.encode(chosen[split], f"the {split} split")
            known = None if split == "train" else about[split].seen(columns.names, not table)
            encoded[split] = Split(rows, part.targets, torch.arange(len(rows)), known)
        return Encoded(encoded, columns, (*more, *given_away))

    kind = "table" if column is None else "texts"
    return RawData(kind, parts, classes, given.origin, given.notes, encode=encode)


def _tokens(
    train: Any, target: tuple[str, ...], column: str, pretrained: Pretraining | None
) -> tuple[TextTokens, tuple[str, ...]]:
    if pretrained is None or pretrained.tokenizer is None:
        return TextTokens.fit(train, target, column)
    return TextTokens.of_pretrained(train, target, column, pretrained.tokenizer, pretrained.source)


# Files and frames


def as_table(
    source: Any,
    known: Mapping[str, Notation] | None = None,
    *,
    place: str = "",
    allow: float = 0.0,
    exact: Sequence[str] = (),
    task: str | None = None,
) -> Typed:
    """The pyarrow table of a file, its cells, or a frame, its columns of words read as `table_cells.typed` says.

    Raises:
        DataError: what cannot be read.
    """
    import pyarrow as pa

    separator, notes = None, ()
    if isinstance(source, str | Path):
        source = _of_file(Path(source).expanduser())
    if isinstance(source, Cells):
        table, separator, notes = source.table, source.separator, source.notes
    else:
        table = _of_frame(source)
    check_names("The table", table.column_names)
    try:
        made = typed(table, known, separator=separator, place=place, allow=allow, exact=exact, task=task)
    except pa.ArrowException as error:
        raise DataError(
            f"The table has values that cannot be read: {error}. Give each column values of one kind."
        ) from error
    return replace(made, notes=(*notes, *made.notes))


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise _no_file(path)
    return read_cells(path) if path.suffix.lower() != ".parquet" else _read_parquet(path)


def _no_file(path: Path) -> DataError:
    return DataError(f"{path} does not exist, or is no file. Give a .csv, .tsv or .parquet file.")


def _of_frame(frame: Any) -> Any:
    import pyarrow as pa

    try:
        if isinstance(frame, pa.Table):
            return frame
        if hasattr(frame, "iloc"):  # pandas, whose index is no column
            return pa.Table.from_pandas(frame, preserve_index=False)
        return pa.table(frame)
    except OverflowError as error:
        raise DataError(
            f"This {type(frame).__name__} has whole numbers beyond 64 bits: {error}. Give them as words, .astype(str)."
        ) from error
    except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"This {type(frame).__name__} cannot be read as a table: {error}. Give each column values of one kind."
        ) from error


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    with reading_parquet(path):
        table = pq.read_table(path)
    if table.num_rows == 0:
        raise without_rows(path)
    return table


# The target


def _columns_of(table: Any) -> str:
    return f"The columns are {listed(table.column_names)}."


def _names(target: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The columns that may be meant: one, or several with commas between them."""
    if target is None or isinstance(target, tuple):
        return tuple(dict.fromkeys(target or ()))
    return tuple(dict.fromkeys((target, *map(str.strip, str(target).split(",")))))


def _target(tables: Mapping[str, Any], target: str | tuple[str, ...] | None, origin: str) -> tuple[str, ...]:
    """The columns that are to be predicted."""
    columns = tables["train"].column_names
    place = "This frame" if origin == "Python" else origin
    if not target:
        raise DataError(
            f"{place} is a table: say which column is to be predicted, target={columns[-1]!r} "
            f"(--target {columns[-1]}). {_columns_of(tables['train'])}"
        )
    if target in columns:
        return (str(target),)
    names = _names(target)[1 if isinstance(target, str) and "," in target else 0 :]
    for name in names:
        if name not in columns:
            raise DataError(f"{place} has no column {name!r}: {did_you_mean(str(name), columns)}")
    return names


def _is_measurable(table: Any, target: str | tuple[str, ...] | None) -> bool:
    """Whether a table has some of the values of the target."""
    there = [name for name in _names(target) if name in table.column_names]
    return any(table[name].null_count < table.num_rows for name in there)


def _with_target(table: Any, target: Sequence[str], split: str) -> tuple[Any, np.ndarray, list[str]]:
    """The rows that have a target, or all of several, and their numbers from 1 on."""
    import pyarrow as pa

    pc = compute()
    what = listed(map(repr, target), "or")
    if missing := [name for name in target if name not in table.column_names]:
        raise DataError(
            f"The {split} table has no column {missing[0]!r}, so it cannot be measured on. Leave it out, and let the "
            f"run predict it: onecycle predict RUN FILE. {_columns_of(table)}"
        )
    valid: Any = None
    for name in target:
        column = plain_column(table[name])
        table = table.set_column(table.column_names.index(name), name, pa.chunked_array([column]))
        valid = column.is_valid() if valid is None else pc.and_(valid, column.is_valid())
    left = table.filter(valid)
    gaps = table.num_rows - left.num_rows
    if left.num_rows == 0:
        raise DataError(
            f"The {split} table has no value of {what} in any of its {gaps:,} rows. "
            + ("Give one that has." if split == "train" else "Leave it out: onecycle predict RUN FILE predicts it.")
        )
    said = f"{split}: left out {count(gaps, 'row')} of {table.num_rows:,} without a value of {listed(target, 'or')}"
    numbers = np.flatnonzero(valid.to_numpy(zero_copy_only=False)) + 1
    return (left, numbers, [said]) if gaps else (table, numbers, [])


def _targets(columns: Mapping[str, Any], task: str | None) -> tuple[dict[str, Tensor], tuple[str, ...] | None, str]:
    """The targets of each split, the classes (None for a regression), and a note that says which it is and why."""
    import pyarrow as pa

    columns = {split: column.combine_chunks() for split, column in columns.items()}
    kinds = {split: column.type for split, column in columns.items()}
    name = "the target"
    if len({str(kind) for kind in kinds.values()}) > 1:
        raise DataError(f"{name} has values of several kinds: {', '.join(f'{k} in {s}' for s, k in kinds.items())}.")
    kind = kinds["train"]
    if pa.types.is_string(kind) and (task == "regression" or (task is None and _are_numbers(columns))):
        columns = {split: pa.array(numbers_of(column)) for split, column in columns.items()}
        if any(np.isnan(column.to_numpy()).any() for column in columns.values()):
            raise DataError(f"{name} holds words, and a regression needs numbers. Give task='classification', or none.")
        kind = pa.float64()
    if pa.types.is_floating(kind):
        return _number_targets({split: column.to_numpy() for split, column in columns.items()}, task)
    if task == "regression" or not (pa.types.is_string(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{name} holds {kind} values. A regression needs numbers; classes are words or whole numbers.")
    words = {split: column.cast(pa.string()).to_pylist() for split, column in columns.items()}
    if pa.types.is_string(kind) and (several := label_sets(words, task)):
        return several
    return _class_targets(words, _sorted({word for each in words.values() for word in each}), "words")


def _are_numbers(columns: Mapping[str, Any]) -> bool:
    """Whether words are numbers, too many for classes, and no codes with zeros in front."""
    words = {word for column in columns.values() for word in column.unique().to_pylist()}
    codes = any(word[:1] == "0" and word[1:2].isdigit() for word in words)
    return len(words) > CLASSES and not codes and not any(np.isnan(numbers_of(c)).any() for c in columns.values())


def _sorted(words: Set[str]) -> list[str]:
    """Words by letter; whole numbers by size."""
    whole = all(word.removeprefix("-").isdecimal() and word.isascii() for word in words)
    return sorted(words, key=(lambda word: (int(word), word)) if whole else None)


def _number_targets(
    columns: Mapping[str, np.ndarray], task: str | None
) -> tuple[dict[str, Tensor], tuple[str, ...] | None, str]:
    known = np.concatenate(list(columns.values()))
    finite = np.abs(known) <= np.finfo(np.float32).max
    if not finite.all():
        infinite = count(int((~finite).sum()), "value")
        raise DataError(f"the target has {infinite} infinite, or too large for float32. Remove these rows, or rescale.")
    different = np.unique(known)
    if len(np.unique(columns["train"])) == 1:
        raise DataError(f"the target is {number(known[0])} in all {len(known):,} rows: there is nothing to be learned.")
    whole = bool((different == np.floor(different)).all())
    few = whole and len(different) <= min(CLASSES, max(2, len(known) // 10))
    if task == MULTI_LABEL or (task == "classification" and not whole):
        what = "is numbers, and labels are words" if task == MULTI_LABEL else "has fractions, so it cannot be classes"
        raise DataError(f"the target {what}. Leave out task, or mend it.")
    if task == "classification" or (task is None and few):
        names = [str(int(value)) for value in different]
        words = {split: [str(int(value)) for value in values] for split, values in columns.items()}
        why = "as asked" if task else "whole numbers; for a regression give task='regression', --task regression"
        return _class_targets(words, names, why)
    why = "as asked" if task else count(len(different), "different number")
    targets = {split: torch.from_numpy(values.astype(np.float32)) for split, values in columns.items()}
    return targets, None, f"a regression ({why}), from {number(different[0])} to {number(different[-1])}"


def _class_targets(
    words: Mapping[str, Sequence[str]], names: Sequence[str], why: str
) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    rows = sum(map(len, words.values()))
    if len(names) > max(CLASSES, rows / 4):
        comma = "where a comma is a decimal one, task='regression'; " if "," in names[0] else ""
        raise DataError(
            f"the target has {len(names):,} different values in {rows:,} rows, too many for classes: the first are "
            f"{listed(map(repr, names[:3]))}. Give a column of numbers, or of few words; {comma}where a cell has "
            f"several labels, task={MULTI_LABEL!r}."
        )
    label = {name: i for i, name in enumerate(names)}
    targets = {split: torch.tensor([label[word] for word in each]) for split, each in words.items()}
    return targets, tuple(names), f"a classification ({why}): {count(len(names), 'class')}"


# Rows


def _numbered_rows(tables: Mapping[str, Any], targets: Mapping[str, Tensor]) -> dict[str, Split | Stream]:
    """Splits whose inputs are the numbers of rows, counted over all tables."""
    parts: dict[str, Split | Stream] = {}
    start = 0
    for split, table in tables.items():
        parts[split] = Split(torch.arange(start, start + table.num_rows), targets[split])
        start += table.num_rows
    return parts


def _rows(given: TableSplits, part: Any) -> tuple[Any, RowsOf]:
    """The rows of one split, which all lie in one table, and what they were called there."""
    start, first = 0, int(part.inputs[0])
    for split, table in given.tables.items():
        if first < start + table.num_rows:
            places = (part.inputs - start).numpy()
            rows = table.take(places)
            return rows, RowsOf(rows, given.numbers[split][places], names=given.names.get(split))
        start += table.num_rows
    raise IndexError(first)


def _leaks(columns: TableColumns, train: Any, targets: Tensor) -> list[str]:
    """A note on each category that gives the class away: one of its values for each class, or several, and no other."""
    if len(targets) < LEAK or targets.ndim > 1:
        return []
    codes = columns.encode(train)[:, len(columns.numbers) + columns.flags :].long()
    leaks = []
    for column, code in zip(columns.categories, codes.T, strict=True):
        pairs = torch.stack([code, targets], 1).unique(dim=0)
        if len(pairs) == len(code.unique()) <= CLASSES:
            leaks.append(column.name)
    return (
        [
            f"{listed(leaks)} alone tells {listed(columns.target)} in every training row: if it is not known "
            f"beforehand, leave it out, leave_out={leaks!r} (--leave-out {','.join(leaks)})"
        ]
        if leaks
        else []
    )


# Rows to predict


def read_rows(
    files: Sequence[str | Path],
    columns: TableColumns | TextTokens,
    tell: Callable[[Sequence[str]], None] = lambda names: None,
) -> tuple[Tensor, list[int]]:
    """The rows of table files as a model sees them, [n, ...], and how many there are in each; a text file is one row.

    Columns beside those that the model was trained on are not looked at; `tell` gets the names of all.

    Raises:
        DataError: files that cannot be read, or that lack a column.
    """
    parts = list(rows_of(files, columns, tell))
    counts = dict.fromkeys(range(len(files)), 0)
    for place, _, rows in parts:
        counts[place] += len(rows)
    return torch.cat([rows for _, _, rows in parts]), list(counts.values())


def rows_of(
    files: Sequence[str | Path],
    columns: TableColumns | TextTokens,
    tell: Callable[[Sequence[str]], None] = lambda names: None,
) -> Iterator[tuple[int, bool, Tensor]]:
    """What `read_rows` gives, part by part: the place of a file among `files`, whether it has more rows, and rows.

    Texts of small files are read together with those that follow. At the end `tell` gets the names of all columns.

    Raises:
        DataError: as `read_rows`, where the part in question is read.
    """
    if not files:
        raise DataError("No files to predict on. Give at least one.")
    names: dict[str, None] = {}
    for place, file in enumerate(map(Path, files)):
        path, known = file.expanduser(), columns.notations
        if isinstance(columns, TextTokens) and path.suffix.lower() == ".txt" and path.is_file():
            yield place, False, columns.encode(_as_row(path, columns.column), str(file))
            names[columns.column] = None
            continue
        for part, more in with_more(table_parts(path)):
            made = as_table(part, known, place=str(file))
            known = {name: replace(one, comma=made.commas.get(name, one.comma)) for name, one in known.items()}
            names |= dict.fromkeys(made.table.column_names)
            yield place, more, columns.encode(made.table, str(file))
    tell(list(names))


def table_parts(path: Path) -> Iterator[Any]:
    """The rows of a table file, part by part as `as_table` takes them: what fits into memory easily is one part.

    Raises:
        DataError: a file that is missing, or cannot be read.
    """
    if not path.is_file():
        raise _no_file(path)
    if path.suffix.lower() != ".parquet":
        return cell_parts(path)
    return parquet_parts(path)


def _as_row(path: Path, column: str) -> Any:
    import pyarrow as pa

    return pa.table({column: read_texts([path])})


def columns_of(known: Mapping[str, Any]) -> TableColumns | TextTokens | None:
    """What the columns of a table or the texts became, from the facts of a run; None where it had none."""
    columns = known.get("columns")
    if not columns:
        return None
    return TextTokens.from_dict(columns) if "tokenizer" in columns else TableColumns.from_dict(columns)

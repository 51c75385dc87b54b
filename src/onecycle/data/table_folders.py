"""Folders of tables: train.csv beside valid.csv and test.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..text import listed
from .csv_files import is_table_file
from .folders import SPLIT_NAMES


@dataclass(frozen=True)
class TableFolder:
    """The tables of a folder by split, "train" first, and notes on what is left out."""

    splits: Mapping[str, Path]
    notes: tuple[str, ...]


def table_folder(root: Path) -> TableFolder | None:
    """The tables in a folder: by name, or the only one; None where there is none that is for training.

    Raises:
        DataError: several tables for one split.
    """
    tables = [
        path for path in sorted(root.iterdir()) if path.is_file() and not path.name.startswith(".") and is_table(path)
    ]
    named = {path: SPLIT_NAMES.get(path.name.lower().partition(".")[0]) for path in tables}
    splits = {split: [path for path in tables if named[path] == split] for split in ("train", "valid", "test")}
    if twice := next((paths for paths in splits.values() if len(paths) > 1), None):
        names = listed(path.name for path in twice)
        raise DataError(f"{root} has {names}, which are one split. Keep one, or give the table by its own path.")
    if not splits["train"] and len(tables) != 1:
        return None
    splits["train"] = splits["train"] or tables
    used = {split: paths[0] for split, paths in splits.items() if paths}
    others = [path.name for path in tables if path not in used.values()]
    notes = [f"tables: {listed(path.name for path in used.values())} of {root}"] if len(used) > 1 else []
    notes += [f"left out: {listed(others)} beside the splits of {root}"] if others else []
    return TableFolder(used, tuple(notes))


def is_table(path: Path) -> bool:
    """Whether the name of a file is that of a table."""
    return is_table_file(path) or path.suffix.lower() == ".parquet"

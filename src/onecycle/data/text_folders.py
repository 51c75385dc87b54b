"""Folders of text files by class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..text import count, listed
from .csv_files import decoded_text
from .folders import HIDDEN_FILES, HIDDEN_FOLDERS, SPLIT_NAMES

TEXT = ".txt"


@dataclass(frozen=True)
class TextFolder:
    """The text files of each class by split, and notes on what is left out."""

    splits: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]


def text_folder(root: Path) -> TextFolder | None:
    """The text files of a folder that is laid out by class; None where it is another folder."""
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and not _is_hidden(child.name)]
    splits_of = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    named = {split: folder for folder, split in splits_of.items()}
    by_split = "train" in named and any(child.is_dir() for child in named["train"].iterdir())
    if by_split and len(named) < len(splits_of):
        twice = next(split for split in named if list(splits_of.values()).count(split) > 1)
        names = listed(folder.name for folder, split in splits_of.items() if split == twice)
        raise DataError(f"{root} has {names}, which are one split. Keep one, or bring their texts together.")
    splits, notes = {}, []
    for split, place in (named if by_split else {"train": root}).items():
        splits[split], said = _by_class(place)
        notes += said
        if split != "train" and not splits[split]:
            notes.append(f"left out: {place} (no text files by class)")
            del splits[split]
    if others := [folder.name for folder in folders if by_split and folder not in named.values()]:
        notes.append(f"left out: {listed(others)} beside the splits of {root}")
    return TextFolder(splits, tuple(notes)) if splits["train"] else None


def _by_class(place: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The text files in each folder, where most of its files are texts, and notes on what is left out."""
    classes, no_class = {}, []
    left_out = [path for path in sorted(place.iterdir()) if path.is_file() and path.suffix.lower() == TEXT]
    for folder in sorted(child for child in place.iterdir() if child.is_dir() and not _is_hidden(child.name)):
        texts, others, hidden = _files(folder)
        if len(texts) > len(others):
            classes[folder.name] = texts
            left_out += [*others, *hidden]
        elif texts or others:
            no_class.append(folder.name)
    notes = [f"left out: {listed(no_class)} of {place} (few or no text files)"] if no_class else []
    if left_out:
        notes.append(f"left out {count(len(left_out), 'file')} of {place}, such as {left_out[0].relative_to(place)}")
    return classes, notes


def _files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The text files in a folder, however deep, its other files, and its text files that are hidden; sorted."""
    texts, others, hidden = [], [], []
    for parent, _, names in os.walk(folder):
        inside = any(map(_is_hidden, parent.removeprefix(str(folder)).split(os.sep)))
        for name in names:
            text, out_of_sight = name.lower().endswith(TEXT), inside or _is_hidden(name)
            if text or not out_of_sight:
                (hidden if out_of_sight else texts if text else others).append(Path(parent, name))
    return sorted(texts), sorted(others), sorted(hidden)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN_FOLDERS or name.lower() in HIDDEN_FILES


def read_texts(files: Sequence[Path]) -> list[str]:
    """The contents of text files in UTF-8, UTF-16 or else Latin-1.

    Raises:
        DataError: files that are no text.
    """
    decoded = [(path, decoded_text(path.read_bytes())) for path in files]
    if bad := [str(path) for path, text in decoded if text is None]:
        raise DataError(
            f"{len(bad)} of {count(len(files), 'text file')} {'is' if len(bad) == 1 else 'are'} no text that can be "
            f"read: {listed(bad, most=5)}. Save them as UTF-8."
        )
    return [text[0] for _, text in decoded if text]

"""Folders of text files by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .folders import SPLIT_NAMES


def text_folder(root: Path) -> dict[str, dict[str, list[Path]]] | None:
    """The text files of each class by split, of a folder laid out by class; None where it is another folder."""
    folders = {child.name: child for child in sorted(root.iterdir()) if child.is_dir()}
    splits = {SPLIT_NAMES[name.lower()]: place for name, place in folders.items() if name.lower() in SPLIT_NAMES}
    by_split = splits if "train" in splits and any(p.is_dir() for p in splits["train"].iterdir()) else {"train": root}
    found = {split: _by_class(place) for split, place in by_split.items()}
    return found if found["train"] else None


def _by_class(place: Path) -> dict[str, list[Path]]:
    """The text files in each folder, where there are more of them than of other files."""
    classes = {}
    for folder in sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith(".")):
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        texts = sorted(path for path in files if path.suffix.lower() == ".txt")
        if 2 * len(texts) > len(files):
            classes[folder.name] = texts
    return classes


def read_texts(files: Sequence[Path]) -> list[str]:
    """The contents of text files, UTF-8 or else Latin-1."""
    texts = []
    for path in files:
        raw = path.read_bytes()
        try:
            texts.append(raw.decode("utf-8-sig"))
        except UnicodeDecodeError:
            texts.append(raw.decode("latin-1"))
    return texts

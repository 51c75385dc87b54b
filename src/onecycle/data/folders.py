"""Folders of images by class: ``class/image.png``, or ``train/class/image.png`` beside ``valid`` and ``test``."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from ..errors import DataError
from ..text import listed
from .encoded import EncodedImages
from .images import SUFFIXES

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_folder(root: Path) -> tuple[dict[str, EncodedImages], tuple[str, ...], tuple[str, ...]]:
    """The splits, the class names (sorted) and notes. Raises DataError when the folder is not laid out by class."""
    places, left_out = _split_folders(root)
    images_of = {split: _classes(place) for split, place in places.items()}
    classes = tuple(sorted({name for images in images_of.values() for name in images}))
    missing = [
        f"{name!r} not in {places[split]}"
        for split, images in images_of.items()
        for name in classes
        if name not in images
    ]
    if missing:
        raise DataError(f"Classes differ between splits: {listed(missing)}. Every split needs images of every class.")
    encoded = {split: _encoded(images, classes) for split, images in images_of.items()}
    notes = (f"left out: {listed(left_out)} (no split or image by its name)",) if left_out else ()
    return encoded, classes, notes


def _split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """{split: folder}, and the names of what lies beside the split folders and is not used."""
    folders = _folders(root)
    splits = {SPLIT_NAMES[path.name.lower()]: path for path in folders if path.name.lower() in SPLIT_NAMES}
    if "train" in splits and _folders(splits["train"]):  # otherwise "train" is a class: beside "bus" and "car"
        in_order = {split: splits[split] for split in ("train", "valid", "test") if split in splits}
        return in_order, [path.name for path in folders if path not in splits.values()]
    if folders and len(splits) == len(folders) and all(_folders(path) for path in folders):
        raise DataError(f"{root} has {listed([path.name for path in folders])} but no train folder. Add one.")
    return {"train": root}, []


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _classes(place: Path) -> dict[str, list[Path]]:
    """{class: its images, sorted by path}, deeper folders included."""
    images = {folder.name: _images(folder) for folder in _folders(place)}
    if not images:
        loose = sum(path.suffix.lower() in SUFFIXES for path in place.iterdir())
        raise DataError(
            (f"{place} has {loose} images but no class folders." if loose else f"No images in {place}.")
            + " Put the images of each class into a folder named after it."
        )
    if empty := [repr(name) for name, paths in images.items() if not paths]:
        raise DataError(
            f"No images in {listed(empty)} of {place}. Add some or remove the folder. Images end in "
            f"{' '.join(sorted(SUFFIXES))}."
        )
    return images


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _encoded(images: dict[str, list[Path]], classes: tuple[str, ...]) -> EncodedImages:
    paths = [str(path) for name in classes for path in images[name]]
    counts = torch.tensor([len(images[name]) for name in classes])
    targets = torch.arange(len(classes)).repeat_interleave(counts)
    items = functools.partial(list, paths)
    return EncodedImages(targets, tuple(map(Path, paths)), items, items, paths.__getitem__)

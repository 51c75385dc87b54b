"""Folders of images by class: ``class/image.png``, or ``train/class/image.png`` beside ``valid`` and ``test``."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import DataError
from ..text import count, listed
from .encoded import EncodedImages
from .images import DOUBTFUL, MENDS, SUFFIXES, opens, unreadable

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What systems and programs put beside a user's files; what begins with a dot is hidden as well.
HIDDEN_FOLDERS = frozenset({"__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin"})
HIDDEN_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


@dataclass(frozen=True)
class Folder:
    """A folder as it was found: its images, and of its other files why they are left out; no hidden ones."""

    path: Path
    folders: tuple[Folder, ...] = ()
    images: tuple[Path, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()  # (reason, an example or suffix) of each file

    @property
    def name(self) -> str:
        """Its name as text, in one spelling of accents."""
        return unicodedata.normalize("NFC", os.fsencode(self.path.name).decode("utf-8", "replace"))

    @property
    def split(self) -> str | None:
        """The split that its name says it is."""
        return SPLIT_NAMES.get(self.name.lower())

    @property
    def filled(self) -> list[Folder]:
        """The folders in it that have images, however deep."""
        return [folder for folder in self.folders if next(folder.walk_images(), None)]

    def walk(self) -> Iterator[Folder]:
        """It and all folders in it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def walk_images(self) -> Iterator[Path]:
        """Its images, however deep."""
        return (path for folder in self.walk() for path in folder.images)


@dataclass(frozen=True)
class Labelled:
    """The images of each class by split, and notes."""

    splits: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]


def read_folder(root: Path) -> tuple[dict[str, EncodedImages], tuple[str, ...], tuple[str, ...]]:
    """The splits, the class names (sorted) and notes. Raises DataError when the folder is not laid out by class."""
    labelled = labelled_images(read_tree(root))
    classes = tuple(sorted(labelled.splits["train"]))
    strange = [
        f"{name!r} in {split}" for split, images in labelled.splits.items() for name in images if name not in classes
    ]
    if strange:
        raise DataError(
            f"Classes differ between splits: {listed(strange)} of {root}, never in train, which has "
            f"{listed(map(repr, classes))}. Add training images of them, mend the name, or leave the folders out."
        )
    return {split: _encoded(images, classes) for split, images in labelled.splits.items()}, classes, labelled.notes


def image_files(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """All images in a folder, however deep, sorted, and notes on what is left out."""
    tree = read_tree(root)
    return sorted(tree.walk_images()), _left_out(tree.walk())


# Reading the tree


def read_tree(path: Path, above: tuple[tuple[int, int], ...] = ()) -> Folder:
    """The folder at `path`; links are followed, but not to a folder they are in: `above`, by device and inode."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        inside = (*above, _identity(os.stat(path)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Allow it, or remove the folder.") from error
    folders, images, left_out = [], [], []
    for entry in entries:
        name, place = entry.name.lower(), Path(entry.path)
        if place.is_dir():
            if entry.is_symlink() and _identity(place.stat()) in inside:
                left_out.append(("link to a folder around it", entry.name))
            elif name.startswith(".") or name in HIDDEN_FOLDERS:
                left_out += [("hidden image", entry.name)] * _pictures_below(place)
            else:
                folders.append(read_tree(place, inside))
        elif name.startswith(".") or name in HIDDEN_FILES:
            left_out += [("hidden image", entry.name)] * (place.suffix.lower() in SUFFIXES | DOUBTFUL)
        elif (reason := _unusable(place)) is None:
            images.append(place)
        else:
            left_out.append(reason)
    return Folder(path, tuple(folders), tuple(images), tuple(left_out))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _pictures_below(folder: Path) -> int:
    return sum(Path(file).suffix.lower() in SUFFIXES | DOUBTFUL for _, _, files in os.walk(folder) for file in files)


def _unusable(path: Path) -> tuple[str, str] | None:
    """Why a file is no image to be used, and an example or its suffix; None for one that is."""
    if not path.is_file():
        return ("broken link" if path.is_symlink() else "special file"), path.name
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None  # damaged ones are met when they are decoded
    if kind := unreadable(path):
        return kind, suffix
    return None if opens(path) or suffix in DOUBTFUL else ("no image", suffix or path.name)


def _left_out(folders: Iterable[Folder]) -> tuple[str, ...]:
    """One note on the files that are left out, by reason; () where there are none."""
    reasons: dict[str, Counter[str]] = {}
    for folder in folders:
        for reason, example in folder.left_out:
            reasons.setdefault(reason, Counter())[example] += 1
    if not reasons:
        return ()
    said = []
    for reason, examples in reasons.items():
        n = examples.total()
        if reason in MENDS:
            said.append(f"{count(n, f'{reason} image')} ({MENDS[reason]})")
        else:
            what = (
                f"{n} that {'is no image' if n == 1 else 'are no images'}" if reason == "no image" else count(n, reason)
            )
            said.append(f"{what} ({listed(sorted(examples, key=lambda name: (-examples[name], name)), most=3)})")
    total = sum(examples.total() for examples in reasons.values())
    return (f"left out {count(total, 'file')}: {', '.join(said)}",)


# Reading the layout


def labelled_images(tree: Folder) -> Labelled:
    """The splits and classes of a folder, with what there is to say about how it was read."""
    notes: list[str] = []
    tree = _descended(tree, (), notes)
    places, others = _split_folders(tree)
    if others:
        notes.append(f"left out: {listed(folder.name for folder in others)} beside the splits of {tree.path}")
    splits: dict[str, dict[str, list[Path]]] = {}
    for split, place in list(places.items()):
        known = tuple(splits.get("train", ()))
        places[split] = place = _descended(place, known, notes)
        if known and (unlabelled := _unlabelled(place, known)):
            notes.append(unlabelled)
            del places[split]
        else:
            splits[split], empty = _classes(place)
            notes += [f"left out: {listed(empty)} of {place.path} (no images in it)"] if empty else []
    whole = {folder.path: folder for folder in (replace(tree, folders=()), *places.values())}.values()
    for folder in whole:
        if folder.images:
            loose = count(len(folder.images), "image")
            notes.append(f"left out: {loose} beside the folders of {folder.path}, such as {folder.images[0].name}")
    notes += _deeper([folder for place in places.values() for folder in place.filled])
    notes += _left_out(folder for place in whole for folder in place.walk())
    return Labelled(splits, tuple(notes))


def _descended(tree: Folder, classes: Sequence[str], notes: list[str]) -> Folder:
    """The folder in `tree` that its images lie in by class, which is said; not into one of the known `classes`."""
    while (inner := _only_folder(tree)) is not None and inner.name not in classes:
        notes.append(f"read from {inner.path}, the only folder with images in {tree.path}")
        beside = (replace(tree, folders=()), *(folder for folder in tree.folders if folder is not inner))
        left_out = (each for folder in beside for below in folder.walk() for each in below.left_out)
        tree = replace(inner, left_out=(*left_out, *inner.left_out))
    return tree


def _only_folder(tree: Folder) -> Folder | None:
    """The one folder that holds all images of `tree`, in folders of its own; None where there is no such."""
    filled = tree.filled
    if tree.images or len(filled) != 1 or filled[0].split:
        return None
    return filled[0] if not filled[0].images and filled[0].filled else None


def _split_folders(tree: Folder) -> tuple[dict[str, Folder], list[Folder]]:
    """{split: folder}, "train" first, and the folders beside them that are not used."""
    named = {
        split: [folder for folder in tree.folders if folder.split == split] for split in ("train", "valid", "test")
    }
    named = {split: folders for split, folders in named.items() if folders}
    others = [folder for folder in tree.folders if not folder.split]
    classes = {folder.name for folder in others if folder in tree.filled}
    inside = max((len(_descended(folder, (), []).filled) for folder in named.get("train", ())), default=0)
    with_classes = inside > 1 or (inside == 1 and not classes)  # a class called train may hold its images in a folder
    if not with_classes and classes:  # the classes lie at the top, perhaps with a test folder beside them
        named = {split: [f for f in folders if _beside(f, classes)] for split, folders in named.items()}
        named = {split: folders for split, folders in named.items() if folders}
    for folders in named.values():
        if len(folders) > 1:
            names = listed(folder.path.name for folder in folders)
            raise DataError(f"{tree.path} has {names}, which are one split. Keep one, or bring their images together.")
    places = {split: folder for split, (folder,) in named.items()}
    if with_classes:
        return places, others
    if classes:
        rest = tuple(folder for folder in tree.folders if folder not in places.values())
        return {"train": replace(tree, folders=rest), **places}, []
    if places and "train" not in places:
        raise DataError(f"{tree.path} has {listed(f.path.name for f in places.values())} but no train folder. Add one.")
    return {"train": tree, **places}, []


def _beside(folder: Folder, classes: set[str]) -> bool:
    """Whether a folder with a split's name is that split, where the training `classes` lie beside it, and no class."""
    if folder.split == "train":
        return False
    inner = {child.name for child in folder.filled}
    return inner <= classes if inner & classes or len(inner) > 1 else len(classes) > 1


def _unlabelled(place: Folder, classes: Iterable[str]) -> str | None:
    """A note on the images of a split that are in no class: loose ones, or all in one folder; None for others."""
    inner = place.filled
    if len(inner) > 1 or (len(inner) == 1 and (inner[0].name in classes)):
        return None
    if not inner and not place.images:
        return f"left out: {place.path} (no images in it)"
    n = sum(1 for _ in place.walk_images())
    return (
        f"left out: {count(n, 'image')} in {inner[0].path if inner else place.path}, which are in no class folders: "
        f'nothing is measured on them; "onecycle predict RUN {place.path}" says what is in them'
    )


def _classes(place: Folder) -> tuple[dict[str, list[Path]], list[str]]:
    """{class: its images, sorted by path}, deeper folders included, and the folders without images."""
    images: dict[str, list[Path]] = {}
    for folder in place.filled:
        images.setdefault(folder.name, []).extend(folder.walk_images())
    empty = [folder for folder in place.folders if folder.name not in images]
    unread = [
        note for folder in empty for note in _left_out(folder.walk()) if any(mend in note for mend in MENDS.values())
    ]
    if unread:
        raise DataError(f"No image of {listed(repr(f.name) for f in empty)} in {place.path} can be read: {unread[0]}.")
    if not images:
        loose = count(len(place.images), "image")
        raise DataError(
            (f"{place.path} has {loose} but no class folders." if place.images else f"No images in {place.path}.")
            + " Put the images of each class into a folder named after it."
            + "".join(f" ({note.capitalize()}.)" for note in _left_out(place.walk()))
        )
    return {name: sorted(paths) for name, paths in images.items()}, [folder.path.name for folder in empty]


def _deeper(classes: list[Folder]) -> tuple[str, ...]:
    """A note where class folders have their images in folders of their own: those are not the classes."""
    deeper = [folder for folder in classes if not folder.images]
    if not deeper:
        return ()
    inner = dict.fromkeys(child.name for folder in deeper for child in folder.filled)
    return (
        f"the classes are {listed(dict.fromkeys(repr(f.name) for f in classes), most=5)}: the images in "
        f"{listed(map(repr, inner), most=5)} inside are theirs. If those are the classes, give a folder that has them "
        "at its top",
    )


def _encoded(images: dict[str, list[Path]], classes: tuple[str, ...]) -> EncodedImages:
    paths = [str(path) for name in classes for path in images.get(name, ())]
    counts = torch.tensor([len(images.get(name, ())) for name in classes])
    targets = torch.arange(len(classes)).repeat_interleave(counts)
    items = functools.partial(list, paths)
    return EncodedImages(targets, tuple(map(Path, paths)), items, items, paths.__getitem__)

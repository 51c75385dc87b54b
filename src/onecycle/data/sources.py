"""From a name, a path or ``hub:OWNER/NAME`` to a `Data` that is ready to train on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checks import number, one_of, share, whole
from ..errors import ConfigError, DataError, did_you_mean, nearest
from ..text import listed
from .csv_files import is_table_file
from .encoded import Decoding
from .images import FITS
from .label_sets import has_label_sets
from .pretraining import Fitted, Pretraining
from .splits import (
    LIMIT,
    STATS,
    VALID,
    Data,
    Encoded,
    RawData,
    Split,
    Stream,
    check,
    choose,
    cut,
    shape_of,
    take,
    unmeasured,
)
from .table_folders import TableFolder, table_folder
from .tables import (
    LISTED,
    TableOptions,
    column_name,
    encoded_table,
    is_frame,
    read_table,
    read_text_folder,
    table_splits,
)
from .text_folders import text_folder

KEPT_BYTES = 2**28  # of a split that is kept in memory by `loading_once`
SYSTEM = Path("/usr/share/datasets")  # where the packages of Debian put data sets


@dataclass(frozen=True)
class NamedDataset:
    """A data set that has a name here; its `licence` is as its authors state it, None where that is not known here."""

    summary: str
    hub: str | None = None
    classes: tuple[str, ...] | None = None  # for the formats that do not carry the names
    augment: tuple[str, ...] = ()
    licence: str | None = None


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KNOWN = {
    "digits": NamedDataset("1,797 grey 8x8 images of handwritten digits, inside the package", licence="CC BY 4.0"),
    "mnist": NamedDataset(
        "70,000 grey 28x28 images of handwritten digits", "ylecun/mnist", tuple("0123456789"), augment=("crop",)
    ),
    "fashion-mnist": NamedDataset(
        "70,000 grey 28x28 images of clothes, 10 classes",
        "zalando-datasets/fashion_mnist",
        _CLOTHES,
        augment=("flip",),
        licence="MIT",
    ),
    "cifar10": NamedDataset("60,000 colour 32x32 images, 10 classes", "uoft-cs/cifar10", augment=("flip", "crop")),
    "cifar100": NamedDataset("60,000 colour 32x32 images, 100 classes", "uoft-cs/cifar100", augment=("flip", "crop")),
}
NAMES = tuple(KNOWN)
ACCEPTED = (
    "a folder of images by class, a folder or file of Parquet, IDX or original CIFAR files, .csv, .tsv, .npz, .txt, "
    "hub:OWNER/NAME"
)


@dataclass(frozen=True)
class LoadOptions:
    """The keywords of `load`, each within its bounds."""

    seed: int
    limit: int | None
    valid_fraction: float
    image_size: int | None
    in_memory_bytes: int
    context: int
    table: TableOptions
    fit: str = "crop"
    skip_damaged: bool = False
    pretrained: Pretraining | None = None

    def __post_init__(self) -> None:
        share("valid_fraction", self.valid_fraction, of="the training data", zero=False)
        whole("seed", self.seed, least=0)
        if self.limit is not None:
            whole("limit", self.limit, what="the number of training samples")
        if self.image_size is not None:
            whole("image_size", self.image_size, what="the side of the images in pixels")
        number("in_memory_bytes", self.in_memory_bytes, least=1)
        one_of("fit", self.fit, FITS)
        whole("context", self.context, what="the length of a window in characters")


FOLDERS = ("folder", "texts", None)  # the layouts of folders that a target makes folders of tables

# What was read within `loading_once`; None outside.
_kept: dict[tuple[str | Path, LoadOptions], tuple[str, RawData]] | None = None


def load(
    data: Any = "digits",
    *,
    target: str | Sequence[str] | None = None,
    valid: Any = None,
    test: Any = None,
    task: str | None = None,
    leave_out: Sequence[str] = (),
    text_column: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    valid_fraction: float = 0.1,
    image_size: int | None = None,
    in_memory_bytes: int = 2**31,
    context: int = 64,
    fit: str = "crop",
    skip_damaged: bool = False,
    pretrained: Pretraining | None = None,
) -> Data:
    """Load a data set by name, path or ``hub:OWNER/NAME``, or a data frame, checked and with a validation split.

    Args:
        data: one of `NAMES`; a folder of images by class (with or without train, valid and test inside); a folder or
            file of Parquet in the Hugging Face layout; IDX or original CIFAR files; a ``.npz``; a ``.txt``; the hub;
            or, with `target`, a table: a ``.csv``, ``.tsv`` or ``.parquet`` file, a folder with ``train.csv`` (and
            ``valid.csv``, ``test.csv``), a data frame of pandas or polars.
        target: of a table: the column to be predicted from the others. Words and few whole numbers are classes, other
            numbers a regression. Several columns, in a sequence or with commas: labels of 0 and 1, or numbers.
        valid, test: of a table: further files or frames with the same columns; a test set is measured at the end.
        task: of a table: "classification", "regression" or "multi-label", where the target could be several of them.
        leave_out: of a table: columns that are not to be learned from.
        text_column: of a table: the column of texts to be learned from, and no other.
        seed: of the validation cut and of `limit`; the same seed gives the same samples on every machine.
        limit: keep only so many training samples, every class in its share; valid and test stay whole.
        valid_fraction: cut from train when the source has no validation split, stratified where there are classes.
        image_size: make images square, this many pixels a side; by default they get the size that is common among
            them, and large photos 128 pixels on the shorter side, which is said in a note.
        in_memory_bytes: images that need more when decoded become a `Stream`.
        context: length of the windows of a text, in characters.
        fit: how images of other proportions are brought to that size: "crop" cuts the center out, "pad" shows all of
            them and repeats their border, "squash" changes their proportions.
        skip_damaged: leave out images that do not decode, with a note, in place of an error that lists them.
        pretrained: how a model was pretrained, by `onecycle.models.pretrained.configuration`: images get its size,
            unless `image_size` says otherwise, its channels and its normalisation, texts its tokens.

    Raises:
        ConfigError: an unknown name or an option out of range.
        DataError: what is in the data cannot be used, or cannot be found; the message says where and how to mend it.
        MissingDependency: the hub is needed and `datasets` is not installed.

    >>> digits = load("digits", limit=200)
    >>> digits.train
    Split(inputs=uint8 [200, 1, 8, 8], targets=int64 [200])
    >>> len(digits.valid), len(digits.test), digits.n_classes
    (144, 359, 10)
    """
    names = (leave_out,) if isinstance(leave_out, str) else tuple(map(column_name, leave_out))
    table = TableOptions(column_name(target), valid, test, task, names, column_name(text_column))
    fitted = Fitted(pretrained, image_size)
    options = LoadOptions(
        seed, limit, valid_fraction, image_size, in_memory_bytes, context, table, fit, skip_damaged, pretrained
    )  # fmt: skip
    options = replace(options, image_size=fitted.side)
    name, raw = _read_once(data, options)
    fitted.check(name, raw, in_memory_bytes)
    if image_size is not None and raw.kind != "image":
        raise ConfigError(f"image_size = {image_size} is for images, and {name} is {raw.kind}. Leave it out.")
    if fitted.side is not None and raw.kind == "image":
        raw = _resized(raw, fitted.side, fit)
    listing = any(note.startswith(LISTED) for note in raw.notes)
    if table.given and raw.kind not in ("table", "texts") and not listing:
        raise ConfigError(f"{listed(table.given)}: for tables alone, and {name} is {raw.kind}. Leave it out.")
    return fitted.of(_prepare(name, raw, options))


@contextmanager
def loading_once() -> Iterator[None]:
    """Within the block what `load` reads stays in memory, for those that load the same data many times.

    One data set does, of up to `KEPT_BYTES` a split; changes to its files are not noticed.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def find(name: str) -> str | None:
    """The place that a known data set or a path would be read from; None when it is not on this machine.

    >>> find("digits")
    'the package'
    """
    known = _known(name)
    if known is None:
        if Path(name).exists():
            return name
        raise ConfigError(f"Unknown data set {name!r}: {did_you_mean(name, NAMES)}.")
    if known == "digits":
        return "the package"
    return next((str(place) for place in _places(known) if _layout(place)), None)


def describe(name: str) -> str:
    """One line about a known data set.

    >>> describe("cifar10")
    '60,000 colour 32x32 images, 10 classes'
    """
    known = canonical(name)
    if known is None:
        raise ConfigError(f"Unknown data set {name!r}: {did_you_mean(name, NAMES)}.")
    return KNOWN[known].summary


def canonical(name: str) -> str | None:
    """The known name that is meant, whatever its case and hyphens ("CIFAR-10", "fashion_mnist"), else None."""

    def letters(text: str) -> str:
        return re.sub("[-_ ]", "", text.lower())

    return next((known for known in NAMES if letters(known) == letters(name)), None)


def _known(data: Any) -> str | None:
    """The known data set that is meant; what exists under another spelling is a path."""
    if isinstance(data, str) and data in NAMES:
        return str(data)
    return None if isinstance(data, Path) or Path(data).expanduser().exists() else canonical(data)


def _read_once(data: Any, options: LoadOptions) -> tuple[str, RawData]:
    sources = (data, options.table.valid, options.table.test)
    if _kept is None or not all(source is None or isinstance(source, str | Path) for source in sources):
        return _find_and_read(data, options)
    key = (data, replace(options, seed=0, limit=None))  # these two concern what is done with the samples
    if key not in _kept:
        _kept.clear()
        name, raw = _find_and_read(data, options)
        if not all(isinstance(part, Split) and part.inputs.nbytes <= KEPT_BYTES for part in raw.parts.values()):
            return name, raw
        _kept[key] = name, raw
    return _kept[key]


def _find_and_read(data: Any, options: LoadOptions) -> tuple[str, RawData]:
    if is_frame(data):
        return "table", read_table(data, options.table, options.pretrained)
    if not isinstance(data, str | Path):
        raise DataError(
            f"load reads names, paths and data frames; received a {type(data).__name__}. Give arrays, loaders and data "
            "sets of your own to Learner as they are."
        )
    if isinstance(data, str) and data.startswith("hub:"):
        return data.rpartition("/")[2], _from_hub(data.removeprefix("hub:"), options)
    path = Path(data).expanduser()
    if known := _known(data):
        return known, _read_known(known, options)
    if not path.exists():
        if isinstance(data, Path) or path.suffix or len(path.parts) > 1:
            raise DataError(f"{path} does not exist{_near(path)}. Give {ACCEPTED}, or one of {', '.join(NAMES)}.")
        raise ConfigError(
            f"Unknown data set {data!r}: {did_you_mean(str(data), NAMES)}. No file or folder of that name is in "
            f"{Path.cwd()}{_near(path)}: give {ACCEPTED}."
        )
    name = path.resolve().name if path.is_dir() else path.stem
    return name, _read_path(path, options)


def _near(path: Path) -> str:
    """The file or folder beside a path that is not there which may be meant, in words."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    near = nearest(path.name, sorted(one.name for one in beside if not one.name.startswith(".")))
    return f" (did you mean {path.parent / near}?)" if near else ""


def _places(name: str) -> list[Path]:
    chosen = os.environ.get("ONECYCLE_DATA")
    return [*([Path(chosen).expanduser() / name] if chosen else []), SYSTEM / name]


def _read_known(name: str, options: LoadOptions) -> RawData:
    from .npz import read_digits

    known = KNOWN[name]
    if name == "digits":
        return replace(read_digits(), augment=known.augment)
    if place := find(name):
        return _named(_read_path(Path(place), options), known)
    try:
        return _named(_from_hub(str(known.hub), options), known)
    except DataError as error:
        looked = ", ".join(str(place) for place in _places(name))
        raise DataError(
            f"{name} was not found in {looked}; then: {error} Put its files (Parquet, IDX or the original ones) into a "
            f"folder {name} and set ONECYCLE_DATA to the folder above it, or connect to the network."
        ) from error


def _named(raw: RawData, known: NamedDataset) -> RawData:
    """Add what is known of the data set; names that the files themselves have come first."""
    unnamed = raw.classes is not None and all(name.isdigit() for name in raw.classes)
    enough = known.classes is not None and len(known.classes) >= len(raw.classes or ())
    return replace(raw, classes=known.classes if unnamed and enough else raw.classes, augment=known.augment)


def _layout(path: Path) -> str | None:
    """What kind of source a path is, None when nothing here reads it."""
    from .idx_cifar import ARCHIVES, find_cifar, find_idx
    from .parquet import parquet_files

    if path.is_dir():
        layouts = {"parquet": parquet_files, "idx": find_idx, "cifar": find_cifar}
        folders = any(child.is_dir() for child in path.iterdir())
        other = "texts" if folders and text_folder(path) else "folder" if folders else None
        other = other or ("table" if table_folder(path) else None)
        return next((name for name, look in layouts.items() if look(path)), other)
    if path.is_file():
        suffixes = {".parquet": "parquet", ".npz": "npz", ".txt": "text"}
        return (
            "archive"
            if path.name in ARCHIVES
            else "table"
            if is_table_file(path)
            else suffixes.get(path.suffix.lower())
        )
    return None


def _read_path(path: Path, options: LoadOptions) -> RawData:
    from . import idx_cifar, npz, text
    from .image_lists import listed_images

    layout = _layout(path)
    if layout == "table" or (layout in (*FOLDERS, "parquet") and options.table.target):
        options, path, beside = _with_tables_beside(path, options)
        given = table_splits(path, options.table, beside)
        images = listed_images(given, path, options.table, _decoding(options))
        return images or encoded_table(given, options.table, options.pretrained)
    if layout == "texts" and (texts := text_folder(path)):
        return read_text_folder(path, texts, options.pretrained)
    if layout in ("folder", "parquet") or (layout is None and path.is_dir()):
        raw = _read_images(path, layout or "folder", options)
    elif layout == "idx":
        raw = idx_cifar.read_idx_folder(path)
    elif layout == "archive":
        raw = idx_cifar.read_cifar(idx_cifar.ARCHIVES[path.name], path)
    elif layout == "cifar" and (original := idx_cifar.find_cifar(path)):
        raw = idx_cifar.read_cifar(*original)
    elif layout == "npz":
        raw = npz.read_npz(path)
    elif layout == "text":
        raw = text.read_text(
            path,
            context=options.context,
            valid_fraction=options.valid_fraction,
            in_memory_bytes=options.in_memory_bytes,
        )
    else:
        raise DataError(f"{path} is not a file that can be read here. Give {ACCEPTED}.")
    known = KNOWN.get(path.resolve().name)
    return _named(raw, known) if known else raw


def _with_tables_beside(path: Path, options: LoadOptions) -> tuple[LoadOptions, Path, TableFolder | None]:
    """The options with the tables of a folder as splits, the training table, and the folder; a file stays one.

    Raises:
        DataError: a folder without a training table.
    """
    if path.is_file():
        return options, path, None
    beside = table_folder(path)
    if beside is None:
        raise DataError(
            f"{path} has no table to train on, though target={options.table.target!r} names a column: put train.csv "
            "there, beside valid.csv and test.csv; or leave out target"
        )
    further = {split: getattr(options.table, split) or beside.splits.get(split) for split in ("valid", "test")}
    return replace(options, table=replace(options.table, **further)), beside.splits["train"], beside


def _read_images(path: Path, layout: str, options: LoadOptions) -> RawData:
    from .encoded import build
    from .folders import read_folder
    from .parquet import read_parquet

    encoded, classes, notes = read_folder(path) if layout == "folder" else (*read_parquet(path), ())
    parts, more = build(encoded, _decoding(options))
    return RawData("image", parts, classes, str(path), notes + more, ("flip",) if layout == "folder" else ())


def _from_hub(repository: str, options: LoadOptions) -> RawData:
    from .encoded import build
    from .parquet import read_hub

    encoded, classes = read_hub(repository)
    parts, notes = build(encoded, _decoding(options))
    return RawData("image", parts, classes, f"hub:{repository}", notes)


def _decoding(options: LoadOptions) -> Decoding:
    return Decoding(options.image_size, options.fit, options.skip_damaged, options.in_memory_bytes)


def _resized(raw: RawData, size: int, fit: str) -> RawData:
    from .encoded import crop_notes
    from .images import resize

    height, width = shape_of(raw.parts["train"])[1:]
    notes = crop_notes({(height, width): 1}, (size, size)) if fit == "crop" else ()
    parts = {
        name: part if isinstance(part, Stream) else replace(part, inputs=resize(part.inputs, size, fit))
        for name, part in raw.parts.items()
    }
    return replace(raw, parts=parts, statistics=None, notes=raw.notes + notes)


def _prepare(name: str, raw: RawData, options: LoadOptions) -> Data:
    """Check, cut a validation split where there is none, keep `limit` samples, and measure the channels."""
    parts, notes = dict(raw.parts), list(raw.notes)
    check(parts, raw.classes, text=raw.kind == "text")
    several = has_label_sets(parts["train"].targets, raw.classes)
    if "valid" not in parts:
        fraction = options.valid_fraction
        parts["train"], parts["valid"] = cut(parts["train"], fraction, (options.seed, VALID), raw.classes)
        how = "stratified, " if raw.classes and not several else ""
        notes.append(f"validation: {100 * fraction:g} % of train, {how}seed {options.seed} (no validation split found)")
    if raw.classes is not None and raw.kind != "text":
        notes += unmeasured(parts, raw.classes)
    if options.limit is not None:
        parts["train"] = _limited(parts["train"], options.limit, raw, options.seed)
        notes.append(f"train: limited to {options.limit} samples, seed {options.seed}")
    encoded = raw.encode(parts) if raw.encode else Encoded(parts)
    parts = encoded.parts
    mean, std, measured = (*raw.statistics, ()) if raw.statistics else _statistics(parts["train"], raw.kind)
    return Data(
        name, raw.kind, parts["train"], parts["valid"], parts.get("test"), raw.classes, mean, std, raw.augment,
        raw.origin, (*notes, *encoded.notes, *measured), options.fit, encoded.columns,
    )  # fmt: skip


def _limited(train: Split | Stream, limit: int, raw: RawData, seed: int) -> Split | Stream:
    stratify = raw.classes is not None and raw.kind != "text" and not has_label_sets(train.targets, raw.classes)
    least = len(train.targets.unique()) if stratify else 1
    if not least <= limit <= len(train):
        why = f"of {least} classes" if stratify else "of one kind"
        raise DataError(
            f"limit = {limit}: the training split has {len(train)} samples {why}. Use {least} to {len(train)}."
        )
    return take(train, choose(train, limit, (seed, LIMIT), stratify=stratify))


def _statistics(
    train: Split | Stream, kind: str, most: int = 4096
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Mean and std per channel of the training images and a note; of a stream, over a fixed choice of samples."""
    from .images import channel_statistics, decode_many, undecodable

    if kind != "image":
        return (), (), ()
    if isinstance(train, Split):
        return (*channel_statistics(train.inputs), ())
    chosen = train.indices[choose(train, min(most, len(train)), (0, STATS), stratify=False)].tolist()
    images, bad = decode_many([train.items[index] for index in chosen], train.shape, train.fit)
    if bad:
        raise undecodable({f"training image {chosen[index]}": reason for index, reason in bad.items()})
    return (*channel_statistics(images), (f"mean and std: of {len(chosen)} training images",))

"""From a name, a path or ``hub:OWNER/NAME`` to a `Data` that is ready to train on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigError, DataError, did_you_mean
from .splits import LIMIT, STATS, VALID, Data, Found, Split, Stream, check, choose, cut, take

HELD = 2**28  # bytes of a split that is kept in memory by `held`
SYSTEM = Path("/usr/share/datasets")  # where the packages of Debian put data sets


@dataclass(frozen=True)
class Known:
    """A data set that has a name here."""

    summary: str
    hub: str | None = None
    classes: tuple[str, ...] | None = None  # for the formats that do not carry the names
    augment: tuple[str, ...] = ()


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KNOWN = {
    "digits": Known("1,797 grey 8x8 images of handwritten digits, inside the package"),
    "mnist": Known(
        "70,000 grey 28x28 images of handwritten digits", "ylecun/mnist", tuple("0123456789"), augment=("crop",)
    ),
    "fashion-mnist": Known(
        "70,000 grey 28x28 images of clothes, 10 classes", "zalando-datasets/fashion_mnist", _CLOTHES, augment=("flip",)
    ),
    "cifar10": Known("60,000 colour 32x32 images, 10 classes", "uoft-cs/cifar10", augment=("flip", "crop")),
    "cifar100": Known("60,000 colour 32x32 images, 100 classes", "uoft-cs/cifar100", augment=("flip", "crop")),
}
NAMES = tuple(KNOWN)
ACCEPTED = (
    "a folder of images by class, a folder or file of Parquet, IDX or original CIFAR files, .npz, .txt, hub:OWNER/NAME"
)


@dataclass(frozen=True)
class Options:
    """The keywords of `load`."""

    seed: int
    limit: int | None
    valid_fraction: float
    image_size: int | None
    in_memory_bytes: int
    context: int


# What was read within `held`; None outside.
_held: dict[tuple[str | Path, Options], tuple[str, Found]] | None = None


def load(
    data: str | Path = "digits",
    *,
    seed: int = 0,
    limit: int | None = None,
    valid_fraction: float = 0.1,
    image_size: int | None = None,
    in_memory_bytes: int = 2**31,
    context: int = 64,
) -> Data:
    """Load a data set by name, path or ``hub:OWNER/NAME``, checked and with a validation split.

    Args:
        data: one of `NAMES`; a folder of images by class (with or without train, valid and test inside); a folder or
            file of Parquet in the Hugging Face layout; IDX or original CIFAR files; a ``.npz``; a ``.txt``; the hub.
        seed: of the validation cut and of `limit`; the same seed gives the same samples on every machine.
        limit: keep only so many training samples, every class in its share; valid and test stay whole.
        valid_fraction: cut from train when the source has no validation split, stratified where there are classes.
        image_size: make images square, this many pixels a side; by default they stay as they are, and images of
            several sizes become 64x64.
        in_memory_bytes: images that need more when decoded become a `Stream`.
        context: length of the windows of a text, in characters.

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
    options = Options(seed, limit, valid_fraction, image_size, in_memory_bytes, context)
    _check_options(options)
    name, found = _read_once(data, options)
    if image_size is not None:
        if found.kind != "image":
            raise ConfigError(f"image_size = {image_size} is for images, and {name} is {found.kind}. Leave it out.")
        found = _resized(found, image_size)
    return _prepare(name, found, options)


@contextmanager
def held() -> Iterator[None]:
    """Within the block what `load` reads stays in memory, for those that load the same data many times.

    One data set does, of up to `HELD` bytes; that its files change is not seen.
    """
    global _held
    before, _held = _held, {}
    try:
        yield
    finally:
        _held = before


def find(name: str) -> str | None:
    """Where a known data set or a path would be read from; None when it would have to be fetched or is not there.

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


def _known(data: str | Path) -> str | None:
    """The known data set that is meant; what exists under another spelling is a path."""
    if data in NAMES:
        return str(data)
    return None if isinstance(data, Path) or Path(data).expanduser().exists() else canonical(data)


def _check_options(options: Options) -> None:
    if not 0 < options.valid_fraction < 1:
        raise ConfigError(f"valid_fraction = {options.valid_fraction}: it is a share between 0 and 1, such as 0.1.")
    for name in ("limit", "image_size", "context"):
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{name} = {value!r}: it is a whole number.")
    for name in ("image_size", "in_memory_bytes", "context"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}: it is at least 1.")
    if options.seed < 0:
        raise ConfigError(f"seed = {options.seed}: it is 0 or more.")


def _read_once(data: str | Path, options: Options) -> tuple[str, Found]:
    if _held is None:
        return _find_and_read(data, options)
    key = (data, replace(options, seed=0, limit=None))  # which are of what is done with it
    if key not in _held:
        _held.clear()
        name, found = _find_and_read(data, options)
        if not all(isinstance(part, Split) and part.inputs.nbytes <= HELD for part in found.parts.values()):
            return name, found
        _held[key] = name, found
    return _held[key]


def _find_and_read(data: str | Path, options: Options) -> tuple[str, Found]:
    if isinstance(data, str) and data.startswith("hub:"):
        return data.rpartition("/")[2], _from_hub(data.removeprefix("hub:"), options)
    path = Path(data).expanduser()
    if known := _known(data):
        return known, _read_known(known, options)
    if not path.exists():
        if isinstance(data, Path) or path.suffix or len(path.parts) > 1:
            raise DataError(f"{path} does not exist. Give {ACCEPTED}, or one of {', '.join(NAMES)}.")
        raise ConfigError(f"Unknown data set {data!r}: {did_you_mean(str(data), NAMES)}. Or give {ACCEPTED}.")
    name = path.resolve().name if path.is_dir() else path.stem
    return name, _read_path(path, options)


def _places(name: str) -> list[Path]:
    own = os.environ.get("ONECYCLE_DATA")
    return [*([Path(own).expanduser() / name] if own else []), SYSTEM / name]


def _read_known(name: str, options: Options) -> Found:
    from .arrays import read_digits

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


def _named(found: Found, known: Known) -> Found:
    """Add what is known of the data set; names that the files themselves have come first."""
    bare = found.classes is not None and all(name.isdigit() for name in found.classes)
    classes = (
        known.classes if bare and known.classes and len(known.classes) >= len(found.classes or ()) else found.classes
    )
    return replace(found, classes=classes, augment=known.augment)


def _layout(path: Path) -> str | None:
    """What kind of source a path is, None when nothing here reads it."""
    from .idx_cifar import ARCHIVES, find_cifar, find_idx
    from .parquet import parquet_files

    if path.is_dir():
        layouts = {"parquet": parquet_files, "idx": find_idx, "cifar": find_cifar}
        folders = any(child.is_dir() for child in path.iterdir())
        return next((name for name, look in layouts.items() if look(path)), "folder" if folders else None)
    if path.is_file():
        suffixes = {".parquet": "parquet", ".npz": "npz", ".txt": "text"}
        return "archive" if path.name in ARCHIVES else suffixes.get(path.suffix.lower())
    return None


def _read_path(path: Path, options: Options) -> Found:
    from . import arrays, text
    from . import idx_cifar as originals

    layout = _layout(path)
    if layout in ("folder", "parquet") or (layout is None and path.is_dir()):
        found = _read_images(path, layout or "folder", options)
    elif layout == "idx":
        found = originals.read_idx_folder(path)
    elif layout == "archive":
        found = originals.read_cifar(originals.ARCHIVES[path.name], path)
    elif layout == "cifar" and (original := originals.find_cifar(path)):
        found = originals.read_cifar(*original)
    elif layout == "npz":
        found = arrays.read_npz(path)
    elif layout == "text":
        found = text.read_text(
            path,
            context=options.context,
            valid_fraction=options.valid_fraction,
            in_memory_bytes=options.in_memory_bytes,
        )
    else:
        raise DataError(f"{path} is not a file that can be read here. Give {ACCEPTED}.")
    known = KNOWN.get(path.resolve().name)
    return _named(found, known) if known else found


def _read_images(path: Path, layout: str, options: Options) -> Found:
    from .folders import read_folder
    from .images import build
    from .parquet import read_parquet

    encoded, classes, notes = read_folder(path) if layout == "folder" else (*read_parquet(path), ())
    parts, more = build(encoded, image_size=options.image_size, in_memory_bytes=options.in_memory_bytes)
    return Found("image", parts, classes, str(path), notes + more, ("flip",) if layout == "folder" else ())


def _from_hub(repository: str, options: Options) -> Found:
    from .images import build
    from .parquet import read_hub

    encoded, classes = read_hub(repository)
    parts, notes = build(encoded, image_size=options.image_size, in_memory_bytes=options.in_memory_bytes)
    return Found("image", parts, classes, f"hub:{repository}", notes)


def _resized(found: Found, size: int) -> Found:
    from .images import resize

    def square(part: Split | Stream) -> Split | Stream:
        return part if isinstance(part, Stream) else Split(resize(part.inputs, size), part.targets)

    return replace(found, parts={name: square(part) for name, part in found.parts.items()}, statistics=None)


def _prepare(name: str, found: Found, options: Options) -> Data:
    """Check, cut a validation split where there is none, keep `limit` samples, and measure the channels."""
    parts, notes = dict(found.parts), list(found.notes)
    check(parts, found.classes, text=found.kind == "text")
    if "valid" not in parts:
        fraction = options.valid_fraction
        parts["train"], parts["valid"] = cut(parts["train"], fraction, (options.seed, VALID), found.classes)
        how = "stratified, " if found.classes else ""
        notes.append(f"validation: {100 * fraction:g} % of train, {how}seed {options.seed} (no validation split found)")
    if options.limit is not None:
        parts["train"] = _limited(parts["train"], found, options)
        notes.append(f"train: limited to {options.limit} samples, seed {options.seed}")
    mean, std, measured = (*found.statistics, ()) if found.statistics else _statistics(parts, found.kind)
    return Data(
        name=name,
        kind=found.kind,
        train=parts["train"],
        valid=parts["valid"],
        test=parts.get("test"),
        classes=found.classes,
        mean=mean,
        std=std,
        augment=found.augment,
        origin=found.origin,
        notes=(*notes, *measured),
    )


def _limited(train: Split | Stream, found: Found, options: Options) -> Split | Stream:
    limit, stratify = int(options.limit or 0), found.classes is not None and found.kind != "text"
    least = len(train.targets.unique()) if stratify else 1
    if not least <= limit <= len(train):
        why = f"{least} classes are in them" if stratify else "there must be some"
        raise DataError(
            f"limit = {limit}: the training split has {len(train)} samples, and {why}. Use {least} to {len(train)}."
        )
    return take(train, choose(train, limit, (options.seed, LIMIT), stratify=stratify))


def _statistics(
    parts: Mapping[str, Split | Stream], kind: str, most: int = 4096
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Mean and std per channel of the training images and a note; of a stream, over a fixed choice of samples."""
    from .images import channel_statistics, decode_many, undecodable

    train = parts["train"]
    if kind != "image":
        return (), (), ()
    if isinstance(train, Split):
        return (*channel_statistics(train.inputs), ())
    rows = train.rows[choose(train, min(most, len(train)), (0, STATS), stratify=False)].tolist()
    images, bad = decode_many([train.items[row] for row in rows], train.shape)
    if bad:
        raise undecodable({f"training image {rows[index]}": reason for index, reason in bad.items()})
    return (*channel_statistics(images), (f"mean and std: of {len(rows)} training images",))

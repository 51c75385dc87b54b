"""The original files of MNIST and its relatives (IDX) and of CIFAR-10 and CIFAR-100 (pickled or binary, or a tar)."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .splits import RawData, Split, numbered

IDX = re.compile(r"(?:^|-)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?$")
CIFAR = {  # layout: (files of train, files of test, file of the class names, their key in a pickle)
    "cifar-10-batches-py": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta", "label_names"),
    "cifar-10-batches-bin": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], "batches.meta.txt", ""),
    "cifar-100-python": (["train"], ["test"], "meta", "fine_label_names"),
    "cifar-100-binary": (["train.bin"], ["test.bin"], "fine_label_names.txt", ""),
}
ARCHIVES = {
    "cifar-10-python.tar.gz": "cifar-10-batches-py",
    "cifar-10-binary.tar.gz": "cifar-10-batches-bin",
    "cifar-100-python.tar.gz": "cifar-100-python",
    "cifar-100-binary.tar.gz": "cifar-100-binary",
}


def find_idx(folder: Path) -> dict[tuple[str, str], Path]:
    """{(split, "images" or "labels"): file} of the IDX files in a folder, not in those below it."""
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if match := IDX.search(path.name):
            files.setdefault(("train" if match[1] == "train" else "test", match[2]), path)
    return files


def read_idx_folder(folder: Path) -> RawData:
    """Images and labels in IDX files, gzipped or not."""
    files = find_idx(folder)
    parts: dict[str, Split] = {}
    for split in sorted({split for split, _ in files}, reverse=True):
        missing = [what for what in ("images", "labels") if (split, what) not in files]
        if missing:
            raise DataError(
                f"{folder} has IDX files of the {split} split but not its {missing[0]}. Fetch that file too."
            )
        images, labels = read_idx(files[split, "images"]), read_idx(files[split, "labels"])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{folder}: the {split} images are {list(images.shape)} and the labels {list(labels.shape)}. "
                "Needed are [n, height, width] and [n]."
            )
        parts[split] = Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))
    if "train" not in parts:
        raise DataError(f"{folder} has no train-images IDX file. Fetch train-images-idx3-ubyte.gz and its labels.")
    return RawData("image", dict(parts), numbered(parts["train"].targets), str(folder))


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes: 0, 0, type 8, the number of dimensions, each as big-endian uint32, the values."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    dims = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims]) if dims and len(raw) >= 4 + 4 * dims else ()
    values = np.frombuffer(raw, np.uint8)[4 + 4 * dims :]
    if not shape or values.size != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{path} is not a whole IDX file of bytes ({len(raw)} bytes, shape {list(shape)}). Fetch it again."
        )
    return values.reshape(shape).copy()


def find_cifar(folder: Path) -> tuple[str, Path] | None:
    """(layout, folder or archive) of the original CIFAR files: the folder itself, or what lies in it."""
    if folder.name in CIFAR:
        return folder.name, folder
    places = [(name, folder / name) for name in CIFAR]
    places += [(name, folder / archive) for archive, name in ARCHIVES.items()]
    return next(((name, place) for name, place in places if place.exists()), None)


def read_cifar(layout: str, place: Path) -> RawData:
    """The original files of one layout, from its folder or archive; only plain arrays are unpickled."""
    train, test, meta, names_key = CIFAR[layout]
    get = _from_archive(place, {*train, *test, meta}) if place.is_file() else _from_folder(place)
    decode = _pickled if names_key else _binary
    parts = {}
    for split, names in (("train", train), ("test", test)):
        batches = [decode(get(name), f"{place}: {name}", "100" in layout) for name in names]
        images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
        parts[split] = Split(
            torch.from_numpy(images), torch.from_numpy(np.concatenate([labels for _, labels in batches]))
        )
    raw = get(meta)
    classes = _unpickled(raw, f"{place}: {meta}")[names_key] if names_key else raw.decode().split()
    return RawData("image", parts, tuple(classes), str(place))


def _from_folder(folder: Path) -> Callable[[str], bytes]:
    def get(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror}. Unpack the archive again.") from error

    return get


def _from_archive(path: Path, wanted: set[str]) -> Callable[[str], bytes]:
    try:
        with tarfile.open(path, "r:*") as archive:
            members = [m for m in archive if m.isfile() and Path(m.name).name in wanted]
            files = {Path(m.name).name: extracted.read() for m in members if (extracted := archive.extractfile(m))}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    if missing := sorted(wanted - set(files)):
        raise DataError(f"{path} lacks {', '.join(missing)}. Fetch it again.")
    return files.__getitem__


def _binary(raw: bytes, name: str, fine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one label byte (CIFAR-100: coarse, then fine) and 3,072 pixels, channel by channel."""
    labels = 2 if fine else 1
    if not raw or len(raw) % (labels + 3072):
        raise DataError(
            f"{name} has {len(raw)} bytes, not a whole number of {labels + 3072}-byte rows. Fetch it again."
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, labels + 3072)
    return records[:, labels:], records[:, labels - 1].astype(np.int64)


def _pickled(raw: bytes, name: str, fine: bool) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickled(raw, name)
    try:
        images, labels = content["data"], np.array(content["fine_labels" if fine else "labels"], np.int64)
        if images.shape != (len(labels), 3072) or images.dtype != np.uint8:
            raise ValueError(f"data is {images.dtype} {list(images.shape)} for {len(labels)} labels")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{name} is not a CIFAR batch: {error}. Fetch it again.") from error
    return images, labels


class _PlainArrays(pickle.Unpickler):
    """An unpickler that can build numpy arrays and nothing else: no other function is ever called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is refused because it can run code")


def _unpickled(raw: bytes, name: str) -> dict[str, Any]:
    try:
        return _PlainArrays(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise whatever the byte at hand leads to
        raise DataError(f"{name} cannot be unpickled: {error}. Fetch it again from a place you trust.") from error

"""Tiny data sets on disk in every format, for the tests of the sources."""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def image_folder(
    root: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 5, shape: tuple[int, ...] = (6, 6, 3)
):
    """root/class/0.png ...; returns {class: uint8 [each, *shape]}."""
    made = {}
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        made[name] = pixels(each, *shape, seed=number)
        for index, array in enumerate(made[name]):
            Image.fromarray(array).save(root / name / f"{index}.png")
    return made


def parquet(
    path: Path, images: np.ndarray, labels: Sequence, names: Sequence[str] | None, image="image", label="label"
):
    """One file in the Hugging Face layout; with `names` the schema metadata tells the features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(array), "path": f"{i}.png"} for i, array in enumerate(images)]
    column = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({image: column, label: pa.array(labels)})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=4)


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def idx_folder(folder: Path, count: int = 40, gz: str = ".gz") -> tuple[np.ndarray, np.ndarray]:
    images, labels = pixels(count, 5, 4), (np.arange(count) % 10).astype(np.uint8)
    for split in ("train", "t10k"):
        idx(folder / f"{split}-images-idx3-ubyte{gz}", images)
        idx(folder / f"{split}-labels-idx1-ubyte{gz}", labels)
    return images, labels


def python2_pickle(images: np.ndarray, labels: Sequence[int], key: str) -> bytes:
    """The opcodes that Python 2 wrote for {"data": array, key: list}: byte strings everywhere, and numpy.core."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    dtype = (
        b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    )
    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    data = images.tobytes()
    array = made + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    items = b"](" + b"".join(number(label) for label in labels) + b"e"
    raw = b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + items + b"u."
    pickletools.dis(raw, out=io.StringIO())  # raises when the opcodes do not make a pickle
    return raw


def names_pickle(key: str, names: Sequence[str]) -> bytes:
    words = b"".join(b"U" + bytes([len(name)]) + name.encode() for name in names)
    return b"\x80\x02}(U" + bytes([len(key)]) + key.encode() + b"](" + words + b"eu."


def tar_of(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)

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

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def image_folder(
    root: Path,
    classes: Sequence[str] = ("cat", "dog"),
    each: int = 5,
    shape: tuple[int, ...] = (6, 6, 3),
    seed: int = 0,
):
    """root/class/0.png ..., others for each seed; returns {class: uint8 [each, *shape]}."""
    made = {}
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        made[name] = pixels(each, *shape, seed=number + 100 * seed)
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


def cifar_python(folder: Path, *, hundred: bool = False):
    folder.mkdir(parents=True)
    images, labels = pixels(40, 3072), np.arange(40) % 10
    key, names_key, meta = (
        ("fine_labels", "fine_label_names", "meta") if hundred else ("labels", "label_names", "batches.meta")
    )
    batches = {"train": slice(None)} if hundred else {f"data_batch_{i + 1}": slice(8 * i, 8 * i + 8) for i in range(5)}
    for name, rows in batches.items():
        (folder / name).write_bytes(python2_pickle(images[rows], labels[rows].tolist(), key))
    (folder / ("test" if hundred else "test_batch")).write_bytes(python2_pickle(images[:10], labels[:10].tolist(), key))
    (folder / meta).write_bytes(names_pickle(names_key, CIFAR10))
    return images.reshape(-1, 3, 32, 32), labels


def cifar_binary(folder: Path, *, hundred: bool = False):
    folder.mkdir(parents=True)
    images, labels = pixels(40, 3072), (np.arange(40) % 10).astype(np.uint8)
    columns = [labels[:, None], images]
    rows = np.concatenate([np.full((40, 1), 77, np.uint8), *columns] if hundred else columns, axis=1)
    names = ["train.bin"] if hundred else [f"data_batch_{i}.bin" for i in range(1, 6)]
    for name, part in zip(names, np.split(rows, len(names)), strict=True):
        (folder / name).write_bytes(part.tobytes())
    (folder / ("test.bin" if hundred else "test_batch.bin")).write_bytes(rows[:10].tobytes())
    meta = "fine_label_names.txt" if hundred else "batches.meta.txt"
    (folder / meta).write_text("\n".join(CIFAR10) + "\n\n")
    return images.reshape(-1, 3, 32, 32), labels

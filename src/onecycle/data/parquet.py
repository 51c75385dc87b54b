"""Images in the Hugging Face layout: Parquet files, and data sets that the `datasets` library brings from the hub.

One column holds the image, a struct {bytes, path} or the bytes alone; another the label. Which ones, and the names of
the classes, is read from the features that the library keeps in the schema metadata, else from the types.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError, MissingDependency
from ..text import listed
from .encoded import EncodedImages, cache_directory
from .folders import SPLIT_NAMES
from .images import Item
from .splits import numbered

LABELS = ("label", "labels", "fine_label", "target", "class")


@dataclass(frozen=True)
class Columns:
    """Which columns to read, and the class names when the features have them."""

    image: str
    label: str
    classes: tuple[str, ...] | None


def columns(schema: Any, features: Mapping[str, Any], origin: str) -> Columns:
    """Find the image column and the label column of a pyarrow schema; DataError when there is none or a choice."""
    import pyarrow as pa

    def typed(kind: str) -> list[str]:
        return [
            name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind
        ]

    def holds_images(field: Any) -> bool:
        if pa.types.is_struct(field.type):
            return {"bytes", "path"} <= {child.name for child in field.type}
        return pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)

    images = typed("Image") or [field.name for field in schema if holds_images(field)]
    named = typed("ClassLabel")
    labels = named if len(named) == 1 else [name for name in LABELS if name in (named or schema.names)][:1]
    for what, candidates in (("image", images), ("label", labels)):
        if len(candidates) != 1:
            raise DataError(
                f"{origin} has {len(candidates) or 'no'} {what} columns; its columns are {listed(schema.names)}. "
                "Needed are one image column (struct of bytes and path) and one label column (ClassLabel, or named "
                "label)."
            )
    names = features[labels[0]].get("names") if labels[0] in named else None
    return Columns(images[0], labels[0], tuple(names) if names else None)


def read_parquet(path: Path) -> tuple[dict[str, EncodedImages], tuple[str, ...]]:
    """The splits, by the prefix of the file name (train-, validation-, test-) or its folder, and the class names."""
    import pyarrow.parquet as pq

    files = _by_split(path)
    first = _try(pq.read_schema, files["train"][0])
    described = json.loads((first.metadata or {}).get(b"huggingface", b"{}"))
    chosen = columns(first, described.get("info", {}).get("features", {}), str(path))
    labels = {}
    for split, paths in files.items():
        labels[split] = [_try(pq.read_table, file, columns=[chosen.label])[chosen.label] for file in paths]
    targets, classes = _targets(
        {split: [v for c in parts for v in c.to_pylist()] for split, parts in labels.items()}, chosen
    )
    encoded = {}
    for split, paths in files.items():
        starts = list(accumulate((len(part) for part in labels[split]), initial=0))
        encoded[split] = EncodedImages(
            torch.from_numpy(targets[split]),
            tuple(paths),
            functools.partial(_read_images, paths, chosen.image),
            functools.partial(_memory_mapped, paths, chosen.image),
            functools.partial(_row_name, paths, starts),
        )
    return encoded, classes


def read_hub(repository: str) -> tuple[dict[str, EncodedImages], tuple[str, ...]]:
    """The splits and class names of a data set on the hub, fetched once into the cache of the `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            f"hub:{repository} needs the datasets library. Install it: pip install 'onecycle[hub]'"
        ) from error
    try:
        dataset = datasets.load_dataset(repository)
    except Exception as error:  # unreachable, unknown, gated, needs a configuration: the library says which
        raise DataError(
            f"hub:{repository} cannot be loaded ({type(error).__name__}: {str(error).partition(chr(10))[0]})."
        ) from error
    splits = {SPLIT_NAMES[str(name)]: part for name, part in dataset.items() if str(name) in SPLIT_NAMES}
    if "train" not in splits:
        raise DataError(f"hub:{repository} has no train split; it has {listed(list(map(str, dataset)))}.")
    features = splits["train"].features
    chosen = columns(features.arrow_schema, dict(features.to_dict()), f"hub:{repository}")
    labels = {split: _arrow(part, chosen.label).to_pylist() for split, part in splits.items()}
    targets, classes = _targets(labels, chosen)
    encoded = {
        split: EncodedImages(
            torch.from_numpy(targets[split]),
            tuple(Path(file["filename"]) for file in part.cache_files),
            functools.partial(_read_hub_images, part, chosen.image),
            functools.partial(EncodedColumn, part, chosen.image),
            functools.partial("hub:{} {} row {}".format, repository, split),
        )
        for split, part in splits.items()
    }
    return encoded, classes


class EncodedColumn(Sequence):
    """The encoded images of a memory-mapped `datasets.Dataset`, one at a time; picklable."""

    def __init__(self, dataset: Any, column: str):
        import datasets

        self.dataset = dataset.select_columns([column])
        if not isinstance(dataset.features[column], datasets.Value):  # plain bytes stay as they are
            self.dataset = self.dataset.cast_column(column, datasets.Image(decode=False))
        self.column = column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return encoded_item(self.dataset[int(index)][self.column])


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, at most two levels down, sorted."""
    return sorted(file for pattern in ("*", "*/*", "*/*/*") for file in path.glob(f"{pattern}.parquet"))


def _by_split(path: Path) -> dict[str, list[Path]]:
    if path.is_file():
        return {"train": [path]}
    files: dict[str, list[Path]] = {}
    for file in parquet_files(path):
        words = [re.split(r"[-_.]", part)[0].lower() for part in file.relative_to(path).parts]
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
        files.setdefault(split, []).append(file)
    if set(files) == {""}:
        return {"train": files[""]}
    if "" in files or "train" not in files:
        strange = files.get("") or [file for part in files.values() for file in part]
        raise DataError(
            f"{path}: no train split, or a split that cannot be told: {listed([file.name for file in strange])}. Begin "
            "the file names with train-, validation- or test-."
        )
    return {split: files[split] for split in ("train", "valid", "test") if split in files}


def _try(read: Callable[..., Any], file: Path, **options: Any) -> Any:
    import pyarrow as pa

    try:
        return read(file, **options)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file} is not a Parquet file that can be read: {error}. Fetch it again.") from error


def _targets(labels: Mapping[str, list[Any]], columns: Columns) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """int64 labels by split and the class names; labels that are words are numbered in their sorted order."""
    for split, values in labels.items():
        if None in values:
            raise DataError(
                f"The {split} split has no label (null) in row {values.index(None)}. Fill it in or drop the row."
            )
    if all(isinstance(value, str) for values in labels.values() for value in values):
        classes = columns.classes or tuple(sorted({value for values in labels.values() for value in values}))
        number = {name: index for index, name in enumerate(classes)}
        return {
            split: np.array([number.get(v, -1) for v in values], np.int64) for split, values in labels.items()
        }, classes
    targets = {split: np.array(values) for split, values in labels.items()}
    if any(values.dtype.kind not in "iub" for values in targets.values()):
        raise DataError(
            f"Column {columns.label!r} holds {targets['train'].dtype} values. Labels are integers or words."
        )
    classes = columns.classes or numbered(torch.from_numpy(targets["train"].astype(np.int64)))
    return {split: values.astype(np.int64) for split, values in targets.items()}, classes


def _read_images(paths: Sequence[Path], column: str) -> list[Item]:
    import pyarrow.parquet as pq

    return [item for file in paths for item in _items(_try(pq.read_table, file, columns=[column])[column])]


def _memory_mapped(paths: Sequence[Path], column: str) -> EncodedColumn:
    import datasets

    files: list[Any] = [str(file) for file in paths]
    made = datasets.Dataset.from_parquet(files, cache_dir=str(cache_directory() / "datasets"), columns=[column])
    return EncodedColumn(made, column)


def _arrow(dataset: Any, column: str) -> Any:
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def _read_hub_images(dataset: Any, column: str) -> list[Item]:
    return _items(_arrow(dataset, column))


def _items(column: Any) -> list[Any]:
    return [encoded_item(value) for chunk in column.chunks for value in chunk.to_pylist()]


def encoded_item(value: Any) -> Any:
    """The encoded bytes, else the path, of one cell."""
    return (value["bytes"] or value["path"]) if isinstance(value, dict) else value


def _row_name(paths: Sequence[Path], starts: Sequence[int], index: int) -> str:
    file = max(i for i, start in enumerate(starts) if start <= index)
    return f"{paths[file]} row {index - starts[file]}"

"""Tables that list images, made at random with known contents, and what was read held against those."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from PIL import Image
from table_cases import outcome, quote

from onecycle import OneCycleError, load

LABELS = ("cat", "dog", "owl", "Bär", "red fox")


@dataclass
class Case:
    """The rows of a list: a path or None, and what is said of it."""

    rows: list[tuple[str | None, Any]]
    kind: str  # classes, numbers, cells, columns
    labels: tuple[str, ...]
    between: str
    splits: dict[str, slice]
    frame: bool


def draw(seed: int) -> Case:
    """The list of a seed."""
    r = random.Random(seed)
    n = r.choice((20, 48))
    kind = r.choice(("classes", "numbers", "cells", "columns"))
    labels = tuple(sorted(r.sample(LABELS, r.randint(2, 4))))
    between = r.choice((";", "|", "; ")) if r.random() < 0.8 else ","
    rows: list[tuple[str | None, Any]] = []
    for i in range(n):
        name = f"{r.choice(('', 'images/', 'Ünder/more/'))}{i}.{r.choice(('png', 'BMP'))}"
        path = None if i > 8 and r.random() < 0.08 else name
        several = set(r.sample(labels, r.randint(0 if kind == "columns" else 1, len(labels))))
        if i < 2 * len(labels):  # each label is there alone, and all of them are
            several = {labels[i // 2]} if i % 2 else set(labels)
        said = {"classes": labels[i % len(labels)], "numbers": i + 0.5}.get(kind, several)
        rows.append((path, None if i > 8 and r.random() < 0.08 and kind != "columns" else said))
    splits = {"train": slice(0, n)}
    if r.random() < 0.4:
        splits = {"train": slice(0, n * 3 // 4), "valid": slice(n * 3 // 4, n)}
    return Case(rows, kind, labels, between, splits, frame=r.random() < 0.3)


def colour(i: int) -> tuple[int, int, int]:
    """What tells image `i` from the others."""
    return 15 * (i % 16), 15 * (i // 16), 90


def columns(case: Case, part: slice, r: random.Random) -> dict[str, list[str]]:
    """The cells of some rows by column."""
    slashes = "\\" if r.random() < 0.2 else "/"
    rows = case.rows[part]
    table = {"path": ["" if path is None else path.replace("/", slashes) for path, _ in rows]}
    if case.kind == "columns":
        no, yes = r.choice((("0", "1"), ("False", "True"), ("no", "yes"), ("0.0", "1.0")))
        return table | {label: [yes if label in said else no for _, said in rows] for label in case.labels}
    if case.kind == "cells":
        return table | {"y": ["" if said is None else case.between.join(sorted(said)) for _, said in rows]}
    return table | {"y": ["" if said is None else str(said) for _, said in rows]}


def write(case: Case, root: Path, seed: int) -> dict[str, Any]:
    """The images, and the sources by split: paths of files, or a frame for validation."""
    r = random.Random(seed)
    for i, (path, _) in enumerate(case.rows):
        if path is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour(i)).save(root / path)
    sources: dict[str, Any] = {}
    separator = r.choice((",", ",", "\t", ";"))
    if separator == ";" and case.kind == "cells":
        separator = ","
    for split, part in case.splits.items():
        table = columns(case, part, r)
        if case.frame and split == "valid":
            sources[split] = pd.DataFrame(table)
            continue
        lines = [list(table), *map(list, zip(*table.values(), strict=True))]
        text = "\n".join(separator.join(quote(cell, separator, False) for cell in line) for line in lines)
        sources[split] = root / f"{split}.csv"
        sources[split].write_bytes(text.encode(r.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1"))))
    return sources


def check(seed: int, root: Path) -> str:
    """ "read" or "refused: WHY"; an AssertionError says how what was read differs from what is there."""
    case = draw(seed)
    sources = write(case, root, seed)
    target = list(case.labels) if case.kind == "columns" else "y"
    further = {"valid": sources["valid"]} if "valid" in sources else {}
    with mock.patch.dict(os.environ, {"ONECYCLE_CACHE": str(root / "cache")}):
        try:
            data = load(sources["train"], target=target, in_memory_bytes=seed % 5 or 2**30, **further)
        except OneCycleError as error:
            return f"fault: refused: {error}"
    known = {colour(i): said for i, (path, said) in enumerate(case.rows) if path is not None and said is not None}
    assert data.kind == "image" and data.classes == (None if case.kind == "numbers" else case.labels), data.classes
    seen = set()
    for name in ("train", "valid"):
        part = getattr(data, name)
        images = part.inputs if hasattr(part, "inputs") else [part[i][0] for i in range(len(part))]
        for image, value in zip(images, part.targets.tolist(), strict=True):
            shade = tuple(int(15 * round(level / 15)) for level in image.float().mean((1, 2)).tolist())
            seen.add(shade)
            said = known[shade]
            if case.kind == "numbers":
                assert value == said, f"{value}, expected {said}"
            elif case.kind == "classes":
                assert case.labels[value] == said, f"{case.labels[value]}, expected {said}"
            else:
                there = {label for label, one in zip(case.labels, value, strict=True) if one}
                assert there == said, f"{there}, expected {said}"
    assert seen == set(known) and len(data.train) + len(data.valid) == len(known), "each image is there once"
    gaps = sum(path is None and said is not None for path, said in case.rows)
    noted = sum(int(note.split("left out ")[1].split()[0]) for note in data.notes if "without a path" in note)
    assert noted == gaps, f"{noted} rows without a path are said, and there are {gaps}"
    return "read"


def run(seed: int, root: Path) -> str:
    """What came of the case of a seed: "read" or "fault: ..."."""
    return outcome(lambda: check(seed, root))

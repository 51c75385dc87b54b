"""Samples predicted a second: onecycle against a loop by hand in torch, on images in files and on the rows of a table.

    python bench/predict.py [--rounds 5] [--images 2000] [--rows 200000]

The variants are interleaved in one process, with one thread for the model. By hand: an image is opened, resized and
normalised in a `Dataset` of a `DataLoader` (in this process, and with two workers), a table is read and encoded at
once; both go through the same model in batches as large as in training, and names and probabilities are written as CSV.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from onecycle import Job, load_run, run
from onecycle.data.tables import as_table
from onecycle.jobs.predictions import write_predictions


def photos(root: Path, n: int, side: int = 96) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 200, (6, 8, 3), dtype=np.uint8) + 50 * (i % 2)
        image = Image.fromarray(coarse.astype(np.uint8)).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg", quality=90)
    return root


def table(path: Path, rows: int) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 10)).round(4)
    kinds = rng.choice(["red", "green", "blue"], rows)
    answers = np.where(x[:, 0] + x[:, 1] > 0, "yes", "no")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(10)), "kind", "answer"])
        writer.writerows([*map(str, row), kind, answer] for row, kind, answer in zip(x, kinds, answers, strict=True))
    return path


class Photos(Dataset[torch.Tensor]):
    """Image files as a reader of torch's tutorials would open them."""

    def __init__(self, files: list[str], side: int, mean: torch.Tensor, std: torch.Tensor):
        self.files, self.side, self.mean, self.std = files, side, mean, std

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.files[i]) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        least = min(width, height)
        box = ((width - least) / 2, (height - least) / 2, (width + least) / 2, (height + least) / 2)
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std


def written_by_hand(out: Path, names: list[str], classes: Any, batches: Any, model: Any) -> None:
    with out.open("w", newline="") as file, torch.no_grad():
        writer, at = csv.writer(file), 0
        writer.writerow(["file", "class", "probability"])
        for batch in batches:
            best = model(batch).softmax(1).max(1)
            labels = [classes[label] for label in best.indices.tolist()]
            writer.writerows(zip(names[at : at + len(labels)], labels, best.values.tolist(), strict=True))
            at += len(labels)


def timed(variants: dict[str, Callable[[], Any]], samples: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant()
            if round_:  # the first one warms up
                rates[name].append(samples / (time.perf_counter() - began))
    first = median(next(iter(rates.values())))
    for name, each in rates.items():
        low, middle, high = min(each), median(each), max(each)
        print(f"  {name:42} {middle:10,.0f} /s ({low:,.0f} to {high:,.0f}, n = {rounds})  x {middle / first:.2f}")


def images(place: Path, n: int, rounds: int) -> None:
    root = photos(place / "photos", n)
    run(
        Job(str(root), model="resnet9", budget="2 updates", lr_max=0.01, image_size=64, limit=64),
        place / "images",
        report=False,
    )
    trained = load_run(place / "images", device="cpu", verbose=False)
    files = sorted(map(str, root.rglob("*.jpg")))
    known: Any = trained.batching.normalise
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (known.mean, known.std))
    data, size = Photos(files, 64, mean, std), trained.batching.batch_size

    def by_hand(workers: int) -> Callable[[], None]:
        return lambda: written_by_hand(
            place / "hand.csv", files, trained.classes, DataLoader(data, size, num_workers=workers), trained.model
        )

    def ours() -> None:
        write_predictions(trained, [root], place / "ours.csv")

    print(f"{n:,} JPEG of 128 x 96, resnet9 at 64 x 64:")
    timed(
        {"by hand, in one process": by_hand(0), "by hand, 2 workers": by_hand(2), "onecycle predict": ours}, n, rounds
    )
    alike(place)


def rows(place: Path, n: int, rounds: int) -> None:
    path = table(place / "rows.csv", n)
    run(Job(str(path), target="answer", budget="2 updates", lr_max=0.01, limit=5000), place / "rows", report=False)
    trained = load_run(place / "rows", device="cpu", verbose=False)
    columns: Any = trained.columns
    size = trained.batching.batch_size

    def by_hand() -> None:
        encoded = columns.encode(as_table(path, columns.notations).table)
        names = [f"{path}[{i}]" for i in range(len(encoded))]
        written_by_hand(place / "hand.csv", names, trained.classes, encoded.split(size), trained.model)

    def ours() -> None:
        write_predictions(trained, [path], place / "ours.csv")

    print(f"{n:,} rows of 11 columns, tabular:")
    timed({"by hand, all in memory": by_hand, "onecycle predict": ours}, n, rounds)
    alike(place)


def alike(place: Path) -> None:
    read = [list(csv.reader((place / name).open())) for name in ("hand.csv", "ours.csv")]
    same = sum(a[1] == b[1] for a, b in zip(*read, strict=True)) / len(read[0])
    print(f"  the same class for {same:.2%}; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("rounds", 5), ("images", 2000), ("rows", 200_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        images(Path(place), given.images, given.rounds)
        rows(Path(place), given.rows, given.rounds)


if __name__ == "__main__":
    main()

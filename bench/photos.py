"""What share of what the cores can decode a folder of photos reaches, and what a second use takes.

    python bench/photos.py [--photos 300] [--rounds 5]

JPEGs of 500 x 375 (as of ImageNet) and of 4,000 x 3,000 pixels (as of a phone) in two classes, drawn with the detail
of photos. The yardstick is Pillow alone in a loop over the files in as many threads as ours: opened, decoded at the
scale that suits (`draft`), converted, resized to the same size. Beside it the same without `draft`, with
`reducing_gap`, and the decoding alone. Ours is `onecycle.load` of the folder, the first time (which also reads each
file for its digest, looks for copies, and writes the cache) and the second; and epochs of a stream, without workers
and with two. Times are the processor's over all threads and children, so that other processes weigh less; photos a
second of one core.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

import onecycle
from onecycle.data.images import decode

SIZES = {"500 x 375": (500, 375), "4,000 x 3,000": (4000, 3000)}
SIDE = 128


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise of all scales, as that of photos, which a JPEG has to keep."""
    generator = np.random.default_rng(seed)
    image = np.zeros((size[1], size[0], 3))
    for scale in (4, 16, 64, 256):
        small = generator.normal(size=(size[1] // scale + 2, size[0] // scale + 2, 3)) * scale**0.5
        rough = Image.fromarray(np.uint8(np.clip(127 + 12 * small, 0, 255))).resize(size, Image.Resampling.BICUBIC)
        image += np.asarray(rough, dtype=float) - 127
    return Image.fromarray(np.uint8(np.clip(127 + image, 0, 255)))


def written(folder: Path, size: tuple[int, int], n: int) -> list[Path]:
    """`n` photos in two classes; many are crops of few, as drawing takes long."""
    few, paths = [photo((size[0] + 64, size[1] + 64), seed) for seed in range(min(n, 6))], []
    for i in range(n):
        path = folder / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = 7 * i % 64, 11 * i % 64
        few[i % len(few)].crop((left, top, left + size[0], top + size[1])).save(path, quality=88)
        paths.append(path)
    return paths


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """The processor's seconds, those of ended children among them, and the seconds of the wall clock."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + used.ru_utime + used.ru_stime

    began, at = now(), time.perf_counter()
    work()
    return now() - began, time.perf_counter() - at


def with_draft(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR))


def with_least_draft(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (SIDE, SIDE))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR))


def without_draft(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR))


def with_gap(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        short = min(image.size)
        box = (
            (image.width - short) // 2,
            (image.height - short) // 2,
            (image.width + short) // 2,
            (image.height + short) // 2,
        )
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box, reducing_gap=2.0))


def decoded(path: Path) -> None:
    with Image.open(path) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        image.load()


def ours_each(path: Path) -> np.ndarray:
    return decode(path, (3, SIDE, SIDE))


def threaded(one: Callable[[Path], object], paths: list[Path]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(one, paths):
            pass


def of_folder(folder: Path) -> None:
    onecycle.load(str(folder), image_size=SIDE)


def streamed(folder: Path, workers: int) -> None:
    """An epoch of the training images, each decoded when it is asked for."""
    for _ in onecycle.as_batches(streams(folder), 8, workers=workers).epoch(0):
        pass


@cache
def streams(folder: Path) -> Any:
    return onecycle.load(str(folder), image_size=SIDE, in_memory_bytes=1, valid_fraction=0.1).train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"Pillow {Image.__version__}, {os.cpu_count()} cores, photos a second of one core, n = {given.rounds} rounds\n"
    )
    print("| | " + " | ".join(SIZES) + " |\n| --- | --- | --- |")
    rates: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["ONECYCLE_CACHE"] = str(Path(place) / "cache")
        for name, size in SIZES.items():
            n = given.photos if size[0] < 1000 else max(12, given.photos // 10)
            folder = Path(place) / name.replace(" ", "")
            paths = written(folder, size, n)
            work: dict[str, Callable[[], object]] = {
                "Pillow, draft to twice the size (the yardstick)": lambda paths=paths: threaded(with_draft, paths),
                "Pillow, draft to the size": lambda paths=paths: threaded(with_least_draft, paths),
                "Pillow, no draft": lambda paths=paths: threaded(without_draft, paths),
                "Pillow, no draft, reducing_gap=2": lambda paths=paths: threaded(with_gap, paths),
                "Pillow, draft, decoding alone": lambda paths=paths: threaded(decoded, paths),
                "ours: decode() of each": lambda paths=paths: threaded(ours_each, paths),
                "ours: onecycle.load, first use": lambda folder=folder: (
                    shutil.rmtree(os.environ["ONECYCLE_CACHE"], ignore_errors=True), of_folder(folder),
                ),
                "ours: onecycle.load, second use": lambda folder=folder: of_folder(folder),
                "ours: an epoch of a stream": lambda folder=folder: streamed(folder, 0),
                "ours: an epoch of a stream, two workers": lambda folder=folder: streamed(folder, 2),
            }  # fmt: skip
            times: dict[str, list[float]] = {what: [] for what in work}
            for _ in range(given.rounds):
                for what, do in work.items():
                    times[what].append(spent(do)[0])
            for what, seconds in times.items():
                n = len(streams(folder)) if "stream" in what else len(paths)
                rates.setdefault(what, []).append(
                    f"{n / statistics.median(seconds):,.0f} ({n / max(seconds):,.0f} to {n / min(seconds):,.0f})"
                )
    for what, cells in rates.items():
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

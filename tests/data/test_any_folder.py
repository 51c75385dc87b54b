"""Folders of images as they may be, made at random with known contents: exactly those are read, or it is an error."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onecycle import OneCycleError, load

FORMATS = {"PNG": (".png", ".PNG", "", ".dat"), "BMP": (".bmp",), "TIFF": (".tif", ".TIFF"), "JPEG": (".jpg", ".jfif")}
GREYS, COLOURS = ("L", "LA", "I;16"), ("RGB", "RGBA", "P", "CMYK")
HIDDEN = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git")


class Maker:
    """Writes files below a folder, each image of a colour of its own, and keeps what should be read from them."""

    def __init__(self, seed: int, root: Path):
        self.random, self.root = random.Random(seed), root
        self.made = self.damaged = 0
        self.known: Counter[tuple[str, str, tuple[int, ...]]] = Counter()  # (split, class, colour)

    def image(self, folder: Path, mode: str | None = None) -> tuple[int, ...]:
        """Write one image somewhere below `folder`; its colour, in steps of 15."""
        draw = self.random
        kind = draw.choice(list(FORMATS))
        mode = mode or draw.choice([m for m in GREYS + COLOURS if usable(m, kind)])
        self.made += 1
        code = (self.made % 16, self.made // 16 % 16, 16)
        colour = tuple(15 * part for part in code)
        size = (draw.randint(1, 40), draw.randint(1, 40))
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        if kind == "JPEG" and draw.random() < 0.5:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = draw.randint(1, 8)
        if mode in GREYS:
            level = 15 * (self.made % 17)
            colour = (level,) * 3
            value = {"L": level, "LA": (level, 255), "I;16": level * 257}[mode]
            image = Image.new(mode, size, value)
        else:
            image = Image.new("RGB", size, colour)
            image = image.quantize(2) if mode == "P" else image.convert(mode)
        if draw.random() < 0.3 and folder.name != "train":  # two of these look like classes
            folder = folder / draw.choice(("more", "a/b"))
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{self.made}{draw.choice(FORMATS[kind])}", format=kind, **options)
        return colour

    def labelled(self, split: str, name: str, place: Path, least: int) -> None:
        """A class folder: its images, and what lies among them."""
        draw = self.random
        for _ in range(draw.randint(least, 5)):
            self.known[split, name, self.image(place)] += 1
        for _ in range(draw.randint(0, 2) * (draw.random() < 0.5)):
            self.image(place / draw.choice(HIDDEN))
        if draw.random() < 0.3:
            (place / "notes.txt").write_text("P2 of them are old")
        if draw.random() < 0.3:
            (place / "Thumbs.db").write_bytes(b"\0")
        if draw.random() < 0.2:
            (place / "IMG.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
        if draw.random() < 0.2:
            (place / "around").symlink_to(self.root)
        if draw.random() < 0.15:
            self.damaged += 1
            (place / f"damaged{draw.choice(('.png', '.jpg'))}").write_bytes(
                draw.choice((b"", b"\x89PNG\r\n\x1a\nrest"))
            )

    def folder(self) -> None:
        """The whole folder, in one of the layouts that there are."""
        draw = self.random
        top = self.root / draw.choice((".", ".", "animals", "a/b"))
        names = draw.sample(("cat", "dog", "owl", "train", "Caf\u00e9", "__unknown__", "0"), draw.randint(2, 4))
        layout = draw.choice(("classes", "splits", "beside"))
        if layout != "classes":
            names = [name for name in names if name != "train"] + ["ant", "bee"]
        for name in names:
            self.labelled("train", name, top / ("train" if layout == "splits" else "") / name, 2)
        if layout == "splits" and draw.random() < 0.6:
            for name in draw.sample(names, draw.randint(2, len(names))):
                self.labelled("valid", name, top / "val" / name, 1)
        if layout != "classes" and draw.random() < 0.7:
            if draw.random() < 0.5:
                self.image(top / "test", "RGB")
            else:
                for name in draw.sample(names, 2):
                    self.labelled("test", name, top / "test" / name, 1)
        self.cut = layout != "splits" or not any(split == "valid" for split, _, _ in self.known)


def usable(mode: str, kind: str) -> bool:
    return mode in {"PNG": GREYS + COLOURS[:3], "BMP": ("L", "RGB", "P"), "TIFF": GREYS + COLOURS}.get(
        kind, ("L", "RGB")
    )


def contents(data, cut: bool) -> Counter:
    """What was read, as `Maker.known` has it; what was cut off for validation counts as training."""
    read: Counter = Counter()
    for split in ("train", "valid", "test"):
        part = getattr(data, split)
        for image, label in zip(part.inputs, part.targets.tolist(), strict=True) if part else ():
            colour = [int(15 * round(value / 15)) for value in image.float().mean((1, 2)).tolist()]
            colour = tuple(colour if len(colour) == 3 else colour * 3)
            read["train" if cut and split == "valid" else split, data.classes[label], colour] += 1
    return read


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), fit=st.sampled_from(("crop", "pad", "squash")))
def test_what_is_read_is_what_is_there(seed, fit, monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setenv("ONECYCLE_CACHE", f"{place}/cache")
        maker = Maker(seed, Path(place) / "root")
        maker.root.mkdir()
        maker.folder()
        if maker.damaged:
            with pytest.raises(OneCycleError, match="not decode"):
                load(maker.root, image_size=4, fit=fit)
        data = load(maker.root, image_size=4, fit=fit, skip_damaged=maker.damaged > 0)
        assert contents(data, maker.cut) == maker.known
        again = load(maker.root, image_size=4, fit=fit, skip_damaged=True, in_memory_bytes=1)
        assert again.train.targets.tolist() == data.train.targets.tolist()

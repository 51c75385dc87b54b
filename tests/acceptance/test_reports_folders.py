"""Folders of images as people have them: what public reports say goes wrong elsewhere, with the right value here."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_makers import image_folder, pixels
from PIL import Image, ImageFile, features

from onecycle import load
from onecycle.commands.app import main
from onecycle.data import images as decoding
from onecycle.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, seed: int = 99, size: tuple[int, int] = (6, 6), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, *size, 3, seed=seed)[0]).save(path, **options)
    return path


def total(data) -> int:
    return sum(len(split) for split in (data.train, data.valid, data.test) if split)


def note(data, words: str) -> str:
    """The one note with these words."""
    (said,) = [said for said in data.notes if words in said]
    return said


# What is read


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails"])
def test_hidden_folders_inside_a_class_vision_2831(tmp_path, hidden):
    root = tmp_path / "pets"
    image_folder(root, each=6)
    for name in ("0", "1"):
        write(root / "cat" / hidden / f"{name}.png")
    write(root / hidden / "dog" / "9.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"\0")
    (root / ".DS_Store").write_bytes(b"\0")
    data = load(root)
    assert (data.classes, total(data)) == (("cat", "dog"), 12)
    assert note(data, "left out") == f"left out 3 files: 3 hidden images ({hidden})"


def test_unlabelled_files_of_systems_are_not_worth_a_note(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "pets" / "dog" / "desktop.ini").write_bytes(b"\0")
    assert not [said for said in load(tmp_path / "pets").notes if "left out" in said]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_suffixes_of_phones(tmp_path):
    root = tmp_path / "phone"
    for number, name in enumerate(("cat", "dog")):
        for index, file in enumerate(("a.JPG", "b.jfif", "c.jpe", "d", "e.PNG", "f.mpo", "g.heic")):
            kind = {"e.PNG": "PNG", "f.mpo": "MPO"}.get(file, "JPEG")  # g: a JPEG that was only renamed
            write(root / name / file, seed=10 * number + index, format=kind)
        (root / name / "h.HEIC").write_bytes(HEIC)
        (root / name / "notes.txt").write_text("P1 of these were taken in the garden")
        (root / name / "labels.xml").write_text("<cat/>")
    data = load(root)
    assert total(data) == 14
    assert note(data, "left out") == (
        "left out 6 files: 2 HEIC images (pip install pillow-heif, or convert them to JPEG), 4 that are no images "
        "(.txt and .xml)"
    )


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_can(tmp_path):
    image_folder(tmp_path / "a")
    write(tmp_path / "a" / "cat" / "x.avif")
    assert total(load(tmp_path / "a")) == 11


class HeifFile(ImageFile.ImageFile):
    """Six rows of six pixels, whatever the file."""

    format = "HEIF"

    def _open(self) -> None:
        self._size, self._mode = (6, 6), "RGB"

    def load(self):
        self.im = Image.new("RGB", self.size, "red").im
        return super(ImageFile.ImageFile, self).load()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    def register_heif_opener():
        Image.register_open("HEIF", HeifFile, lambda head: head[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    decoding.formats.cache_clear()
    try:
        image_folder(tmp_path / "a")
        (tmp_path / "a" / "cat" / "x.heic").write_bytes(HEIC)
        assert total(load(tmp_path / "a")) == 11
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
        decoding.formats.cache_clear()


def test_a_class_of_unreadable_pictures_is_no_empty_folder(tmp_path):
    image_folder(tmp_path / "a")
    (tmp_path / "a" / "owl").mkdir()
    (tmp_path / "a" / "owl" / "1.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"No image of 'owl' in .*1 HEIC image \(pip install pillow-heif"):
        load(tmp_path / "a")


def test_a_folder_without_images_is_no_class(tmp_path):
    image_folder(tmp_path / "a")
    (tmp_path / "a" / "annotations").mkdir()
    (tmp_path / "a" / "annotations" / "1.xml").write_text("<cat/>")
    data = load(tmp_path / "a")
    assert data.classes == ("cat", "dog")
    assert note(data, "annotations").endswith("(no images in it)")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_and_circles_are_not(tmp_path):
    image_folder(tmp_path / "store", ("tabby",), each=3, seed=1)
    image_folder(tmp_path / "a")
    (tmp_path / "a" / "cat" / "more").symlink_to(tmp_path / "store" / "tabby")
    (tmp_path / "a" / "cat" / "x.png").symlink_to(write(tmp_path / "elsewhere" / "x.png"))
    (tmp_path / "a" / "dog" / "around").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "dog" / "itself").symlink_to("itself")
    (tmp_path / "a" / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    data = load(tmp_path / "a")
    assert total(data) == 14
    assert note(data, "left out") == (
        "left out 3 files: 1 link to a folder around it (around), 2 broken links (gone.png and itself)"
    )


# Layouts


@pytest.mark.parametrize("unlabelled", ["test/{}.png", "test/unknown/{}.png", "testing/test1/{}.png"])
def test_unlabelled_test_images_fastai_1552(tmp_path, unlabelled):
    image_folder(tmp_path / "train")
    for index in range(3):
        write(tmp_path / unlabelled.format(index), seed=50 + index)
    data = load(tmp_path)
    assert (data.classes, data.test, total(data)) == (("cat", "dog"), None, 10)
    said = note(data, "left out")
    assert "3 images" in said and "onecycle predict RUN" in said


def test_unlabelled_test_images_beside_the_classes_fastai_1552(tmp_path):
    image_folder(tmp_path)
    write(tmp_path / "test" / "0.png")
    data = load(tmp_path)
    assert (data.classes, data.test) == (("cat", "dog"), None)
    assert "1 image in" in note(data, "left out")


def test_a_test_split_beside_the_classes(tmp_path):
    image_folder(tmp_path, each=5)
    image_folder(tmp_path / "test", each=2, seed=1)
    data = load(tmp_path)
    assert (data.classes, len(data.train) + len(data.valid), len(data.test or ())) == (("cat", "dog"), 10, 4)


def test_loose_images_in_train_are_no_class(tmp_path):
    write(tmp_path / "train" / "cat.0.png")
    write(tmp_path / "test" / "1.png")
    with pytest.raises(DataError, match="train has 1 image but no class folders"):
        load(tmp_path)


def test_a_class_missing_in_validation_ultralytics_13936(tmp_path):
    image_folder(tmp_path / "train", ("ant", "bee", "cat"), each=4)
    image_folder(tmp_path / "val", ("ant", "cat"), each=2, seed=1)
    image_folder(tmp_path / "test", ("bee",), each=2, seed=2)
    data = load(tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    assert data.valid.targets.tolist() == [0, 0, 2, 2]
    assert data.test is not None and data.test.targets.tolist() == [1, 1]
    assert note(data, "validation") == "validation: no samples of 'bee' (1 of 3 classes), not measured there"
    assert note(data, "test") == "test: no samples of 'ant' and 'cat' (2 of 3 classes), not measured there"


def test_a_class_of_one_image_fastai_3703(tmp_path):
    image_folder(tmp_path, each=10)
    image_folder(tmp_path, ("owl",), each=1, seed=1)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog", "owl")
    assert data.train.targets.bincount().tolist() == [9, 9, 1]
    assert data.valid.targets.bincount(minlength=3).tolist() == [1, 1, 0]
    assert note(data, "owl") == "validation: no samples of 'owl' (1 of 3 classes), not measured there"


@pytest.mark.parametrize("place", ["animals", "archive/animals", "photos/train", "photos/train/all"])
def test_classes_one_folder_down_datasets_4015(tmp_path, place):
    image_folder(tmp_path / "root" / place)
    data = load(tmp_path / "root")
    assert (data.classes, total(data)) == (("cat", "dog"), 10)
    assert any("read from" in said for said in data.notes)


def test_two_levels_of_folders_datasets_4015(tmp_path):
    image_folder(tmp_path / "mammals", ("cat", "dog"))
    image_folder(tmp_path / "birds", ("owl",))
    data = load(tmp_path)
    assert (data.classes, total(data)) == (("birds", "mammals"), 15)
    assert note(data, "the classes are").startswith(
        "the classes are 'birds' and 'mammals': the images in 'owl', 'cat' and 'dog' inside are theirs."
    )


def test_two_folders_for_one_split_are_refused(tmp_path):
    for seed, split in enumerate(("train", "val", "validation")):
        image_folder(tmp_path / split, seed=seed)
    with pytest.raises(DataError, match="has val and validation, which are one split"):
        load(tmp_path)


def test_one_spelling_of_accents(tmp_path):
    image_folder(tmp_path / "train", ("caf\u00e9", "tea"))
    image_folder(tmp_path / "test", ("cafe\u0301", "tea"), seed=1)
    data = load(tmp_path)
    assert data.classes == ("caf\u00e9", "tea") and data.test is not None and len(data.test) == 10


# Damage and copies


def damaged(root: Path) -> Path:
    image_folder(root, each=10)
    file = root / "cat" / "3.png"
    file.write_bytes(file.read_bytes()[:-40])  # its header is fine
    (root / "dog" / "7.png").write_bytes(b"")
    return root


@pytest.mark.parametrize("options", [{}, {"in_memory_bytes": 100}])
def test_damaged_images_are_left_out_when_asked(tmp_path, options):
    root = damaged(tmp_path / "a")
    with pytest.raises(DataError, match=r"images? do(es)? not decode"):
        load(root, **options)
    for _ in range(2):  # decoded, and from the cache
        data = load(root, skip_damaged=True, **options)
        assert total(data) == 18
        said = note(data, "do not decode")
        assert said.startswith(f"2 of 20 images do not decode and are left out, such as {root / 'cat' / '3.png'}: ")
        assert "1 not an image" in said
    with pytest.raises(DataError, match=r"images? do(es)? not decode"):
        load(root, **options)


def test_the_right_images_are_left_out(tmp_path):
    made = image_folder(tmp_path / "a", each=10)
    for name, index in (("cat", 0), ("cat", 9), ("dog", 4)):
        (tmp_path / "a" / name / f"{index}.png").write_bytes(b"junk")
        made[name][index] = 0
    data = load(tmp_path / "a", skip_damaged=True)
    for label, name in enumerate(("cat", "dog")):
        want = {array.transpose(2, 0, 1).tobytes() for array in made[name] if array.any()}
        parts = (data.train, data.valid)
        got = {image.numpy().tobytes() for part in parts for image in part.inputs[part.targets == label]}
        assert got == want


def test_damaged_images_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damaged(tmp_path / "pets")
    words = ["train", "pets", "--model", "mlp", "--epochs", "1", "--batch-size", "8", "--no-report", "--out", "run"]
    with pytest.raises(SystemExit):
        main(words)
    assert "2 images do not decode" in capsys.readouterr().err
    main([*words, "--skip-damaged", "--fit", "pad"])
    assert "2 of 20 images do not decode and are left out" in capsys.readouterr().err
    main(["data", "pets", "--skip-damaged"])
    assert "2 of 20 images do not decode and are left out" in capsys.readouterr().out
    plan = ["compare", "pets", "--model", "mlp", "--batch-size", "8", "--epochs", "1", "--seeds", "2", "--plan"]
    with pytest.raises(SystemExit):
        main(plan)
    assert "2 images do not decode" in capsys.readouterr().err
    main([*plan, "--skip-damaged", "--fit", "pad,squash"])
    assert "fit: pad, squash" in capsys.readouterr().out
    main(
        ["check", "pets", "--model", "mlp", "--batch-size", "8", "--updates", "40", "--repeats", "1", "--skip-damaged"]
    )
    capsys.readouterr()


def test_copies_of_training_images_in_test(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "test", seed=1)
    for index in range(2):
        shutil.copy(tmp_path / "train" / "cat" / f"{index}.png", tmp_path / "test" / "cat" / f"copy{index}.png")
    want = "2 of 12 test images are copies of training images"
    for options in ({}, {}, {"in_memory_bytes": 100}):
        said = note(load(tmp_path, **options), "copies")
        assert said.startswith(want) and f"{tmp_path / 'test/cat/copy0.png'} is {tmp_path / 'train/cat/0.png'}" in said


def test_copies_within_the_training_images(tmp_path):
    image_folder(tmp_path)
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "dog" / "copy.png")
    data = load(tmp_path)
    assert note(data, "copies of others").startswith("1 of 11 training images are copies of others")
    assert note(data, "two classes").startswith("1 training image is in two classes")

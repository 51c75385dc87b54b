"""Folders of images, decoding, streaming and the cache."""

from __future__ import annotations

import io
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from data_makers import image_folder, parquet, pixels
from PIL import Image

from onecycle.data import Split, Stream, load
from onecycle.data import encoded as encoding
from onecycle.data.images import SUFFIXES, brand, channel_statistics, decode, resize
from onecycle.data.images import each as call_each
from onecycle.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path / "cache"))


def test_few_images_are_decoded_side_by_side_too():
    """Each waits for another one: in one thread they would wait for ever."""
    both, done = threading.Barrier(2, timeout=60), []

    def work(index: int) -> None:
        both.wait()
        done.append(index)

    assert call_each(work, 16) == {} and sorted(done) == list(range(16))


def test_grey_images_can_be_written_to():
    assert decode(_png(Image.new("L", (8, 8))), (1, 8, 8)).flags.writeable


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# Folders


def test_folder_by_class(tmp_path):
    made = image_folder(tmp_path / "pets", ("cat", "dog"), each=5)
    data = load(tmp_path / "pets")
    assert (data.name, data.kind, data.classes, data.augment) == ("pets", "image", ("cat", "dog"), ("flip",))
    assert (data.input_shape, len(data.train), len(data.valid), data.test) == ((3, 6, 6), 8, 2, None)
    assert isinstance(data.train, Split) and isinstance(data.valid, Split)
    got = torch.cat([data.train.inputs, data.valid.inputs])
    labels = torch.cat([data.train.targets, data.valid.targets])
    for label, name in enumerate(("cat", "dog")):
        want = {array.transpose(2, 0, 1).tobytes() for array in made[name]}
        assert {image.numpy().tobytes() for image in got[labels == label]} == want


@pytest.mark.parametrize("name", ["valid", "val", "Validation", "dev"])
def test_folder_with_splits(tmp_path, name):
    for seed, (split, each) in enumerate((("train", 4), (name, 2), ("test", 3))):
        image_folder(tmp_path / split, each=each, seed=seed)
    data = load(tmp_path)
    assert (len(data.train), len(data.valid), len(data.test or ())) == (8, 4, 6)
    assert data.notes == ()


def test_a_class_may_be_called_train(tmp_path):
    image_folder(tmp_path, ("bus", "train"))
    assert load(tmp_path).classes == ("bus", "train")


def test_what_lies_around_the_folder_that_is_read_is_counted(tmp_path):
    image_folder(tmp_path / "archive", each=3)
    (tmp_path / "licence").mkdir()
    for file in ("readme.md", "licence/a.md", "archive/b.md"):
        (tmp_path / file).write_text("not an image")
    (tmp_path / "._0.png").write_bytes(b"of a file manager")
    (note,) = [note for note in load(tmp_path).notes if note.startswith("left out")]
    assert note == "left out 4 files: 1 hidden image (._0.png), 3 that are no images (.md)"


def test_deeper_folders_hidden_files_and_others(tmp_path):
    image_folder(tmp_path / "train", each=3)
    (tmp_path / "train" / "cat" / "more").mkdir()
    shutil.move(tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / "cat" / "more" / "x.PNG")
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"of a file manager")
    (tmp_path / "train" / "cat" / "readme.md").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "sketches").mkdir()
    data = load(tmp_path)
    assert len(data.train) + len(data.valid) == 6
    assert data.notes[0] == f"left out: sketches beside the splits of {tmp_path}"


def test_grey_stays_grey_and_mixed_becomes_rgb(tmp_path):
    image_folder(tmp_path / "grey", shape=(6, 6))
    assert load(tmp_path / "grey").input_shape == (1, 6, 6)
    image_folder(tmp_path / "mixed", shape=(6, 6))
    image_folder(tmp_path / "mixed" / "dog" / "more", ("x",), shape=(6, 6, 3))
    data = load(tmp_path / "mixed")
    assert data.input_shape == (3, 6, 6)
    assert "grey and colour images are mixed: all become RGB" in data.notes


def test_sizes(tmp_path):
    image_folder(tmp_path / "a", shape=(6, 9, 3))
    assert load(tmp_path / "a").input_shape == (3, 6, 9)
    assert load(tmp_path / "a", image_size=4).input_shape == (3, 4, 4)
    image_folder(tmp_path / "a" / "cat" / "more", ("x",), shape=(7, 9, 3))
    data = load(tmp_path / "a")
    assert data.input_shape == (3, 6, 6)
    assert data.notes[0] == (
        "images of 2 sizes become 6x6, the median of their shorter sides; image_size chooses another"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "No images in .*folder named after it"),
        (lambda root: (root / "a").mkdir(), "No images in .*folder named after it"),
        (lambda root: Image.new("L", (2, 2)).save(root / "a.png"), "has 1 image but no class folders"),
        (lambda root: image_folder(root, ("only",)), "only one class: 'only'"),
        (
            lambda root: [image_folder(root / split) for split in ("valid", "test")],
            "has valid and test but no train folder",
        ),
        (
            lambda root: [image_folder(root / "train", "ab"), image_folder(root / "test", "bc")],
            r"Classes differ between splits: 'c' in test of .*, never in train, which has 'a' and 'b'\.",
        ),
        (
            lambda root: image_folder(root, each=1),
            "cannot be cut from one sample of each class",
        ),
    ],
)
def test_folder_refuses(tmp_path, make, message):
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=message):
        load(root)


def test_all_images_that_do_not_decode_are_listed(tmp_path):
    image_folder(tmp_path, each=30)
    whole = (tmp_path / "cat" / "3.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (tmp_path / "dog" / "7.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 images do not decode") as raised:
        load(tmp_path)
    assert f"{tmp_path / 'cat' / '3.png'}: " in str(raised.value)
    assert f"{tmp_path / 'dog' / '7.png'}: not an image" in str(raised.value)
    for index in range(30):
        (tmp_path / "dog" / f"{index}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"31 images do not decode(.|\n)*and 11 more$"):
        load(tmp_path)
    with pytest.raises(DataError, match="30 images do not decode"):  # a stream reads headers alone
        load(tmp_path, in_memory_bytes=10)


def test_a_file_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    image_folder(tmp_path)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(encoding, "_digest", denied)
    assert len(load(tmp_path).train) == 8, "only the cache is passed over"
    (tmp_path / "cat" / "1.png").unlink()
    (tmp_path / "cat" / "1.png").mkdir()
    assert len(load(tmp_path).train) == 7, "a folder with that name is none of the images"


# Decoding


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_decodes(mode):
    grey = mode in ("1", "L", "LA", "I;16")
    image = Image.new("L", (4, 3), 128).convert(mode) if mode != "I;16" else Image.new(mode, (4, 3), 128 * 256)
    raw = encoded(image, format="TIFF" if mode == "CMYK" else "PNG")
    got = decode(raw, (1 if grey else 3, 3, 4))
    assert (got.dtype, got.shape) == (np.uint8, (1 if grey else 3, 3, 4))
    assert np.abs(got.astype(int) - 128).max() <= 1 or (mode == "1" and set(np.unique(got)) <= {0, 255})
    assert decode(raw, (3, 3, 4)).shape == (3, 3, 4)


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="no known range"):
        decode(encoded(Image.new("F", (4, 3), 0.5), format="TIFF"), (1, 3, 4))


def test_transparent_palette_decodes_without_a_warning():
    image = Image.new("P", (4, 4))
    image.info["transparency"] = b"\0\x80"
    assert decode(encoded(image, transparency=b"\0\x80"), (3, 4, 4)).shape == (3, 4, 4)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))  # white left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: white on top
    got = decode(encoded(image, format="JPEG", exif=exif, quality=95), (3, 8, 4))
    assert got[:, :3].min() > 200 and got[:, 5:].max() < 50


def test_resize_and_center_crop():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the middle third
    assert (decode(encoded(Image.fromarray(wide)), (3, 8, 8)) == 200).all()
    tensor = torch.from_numpy(wide.transpose(2, 0, 1).copy())[None]
    assert (resize(tensor, 8) == 200).all()
    small = resize(torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16), 4)
    means = torch.arange(0, 256).float().view(4, 4, 4, 4).mean((1, 3))
    assert small.shape == (1, 1, 4, 4) and (small[0, 0] - means).abs().max() < 12
    assert resize(small, 4) is small


def test_large_jpeg_is_near_the_full_decode():
    gradient = np.linspace(0, 255, 512, dtype=np.uint8)[None].repeat(512, 0)
    got = decode(encoded(Image.fromarray(gradient), format="JPEG", quality=95), (1, 16, 16))[0].astype(float)
    want = gradient.reshape(16, 32, 16, 32).mean((1, 3))
    assert np.abs(got - want).max() < 6


def test_channel_statistics_equal_numpy():
    array = pixels(600, 3, 5, 4)
    array[:, 2] = 7
    mean, std = channel_statistics(torch.from_numpy(array))
    flat = (array / 255).transpose(1, 0, 2, 3).reshape(3, -1)
    assert mean == pytest.approx(flat.mean(1))
    assert std == pytest.approx([*flat[:2].std(1), 1.0])
    order = np.random.default_rng(1).permutation(600)
    assert channel_statistics(torch.from_numpy(array[order])) == (mean, std)


# Streams


def test_a_stream_gives_what_memory_gives(tmp_path):
    root = tmp_path / "images"
    image_folder(root, shape=(6, 9, 3), each=6)
    whole, data = load(root, seed=3, limit=8), load(root, seed=3, limit=8, in_memory_bytes=100)
    assert isinstance(data.train, Stream) and isinstance(data.valid, Stream) and isinstance(whole.train, Split)
    assert (data.mean, data.std, data.input_shape) == (whole.mean, whole.std, whole.input_shape)
    assert torch.equal(data.train.targets, whole.train.targets)
    assert any("they stream" in note for note in data.notes)
    for index, (image, target) in enumerate(data.train):
        assert torch.equal(image, whole.train.inputs[index]) and target == int(whole.train.targets[index])
        if index == len(whole.train) - 1:
            break
    assert torch.equal(pickle.loads(pickle.dumps(data.train))[2][0], whole.train.inputs[2])
    batch, targets = next(iter(torch.utils.data.DataLoader(data.train, batch_size=4)))
    assert batch.shape == (4, 3, 6, 9) and torch.equal(targets, whole.train.targets[:4])


def test_a_stream_names_the_image_that_does_not_decode(tmp_path):
    image_folder(tmp_path)
    data = load(tmp_path, in_memory_bytes=100)
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"1 image does not decode(.|\n)*/cat/\d.png"):
        data.train[0]


# The cache


def counted(monkeypatch) -> list[int]:
    """The number of images of every call that decodes."""
    calls, real = [], encoding.decode_many
    monkeypatch.setattr(encoding, "decode_many", lambda items, *how: calls.append(len(items)) or real(items, *how))
    return calls


def entries(tmp_path):
    return sorted((tmp_path / "cache").glob("*"))


def test_decoded_once(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    image_folder(tmp_path / "a")
    first, second = load(tmp_path / "a"), load(tmp_path / "a")
    assert calls == [10]
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert (first.notes, first.mean) == (second.notes, second.mean)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    load(tmp_path / "b")
    assert calls == [10], "the content counts, not the place"
    load(tmp_path / "a", image_size=4)
    assert calls == [10, 10]
    Image.new("RGB", (6, 6)).save(tmp_path / "a" / "cat" / "0.png")
    assert load(tmp_path / "a").mean != first.mean
    assert calls == [10, 10, 10]
    assert len(entries(tmp_path)) == 3 and all(path.suffix == ".safetensors" for path in entries(tmp_path))


def test_parquet_is_cached(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    parquet(tmp_path / "p" / "train-0.parquet", pixels(20, 4, 4), [0, 1] * 10, ["a", "b"])
    first, second = load(tmp_path / "p"), load(tmp_path / "p")
    assert calls == [20] and torch.equal(first.train.inputs, second.train.inputs)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_entry_is_made_anew(tmp_path, monkeypatch, damage):
    image_folder(tmp_path / "a")
    first = load(tmp_path / "a")
    (entry,) = entries(tmp_path)
    raw = bytearray(entry.read_bytes())
    raw[-5] ^= 1
    entry.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-9]), "empty": b"", "foreign": b"{}" * 50}[damage])
    calls = counted(monkeypatch)
    assert torch.equal(load(tmp_path / "a").train.inputs, first.train.inputs)
    load(tmp_path / "a")
    assert calls == [10]


def test_an_unwritable_cache_is_noted(tmp_path, monkeypatch):
    image_folder(tmp_path / "a")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path / "file"))
    data = load(tmp_path / "a")
    assert len(data.train) == 8
    assert any("cannot be written, so every start decodes anew" in note for note in data.notes)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert "No space left" in encoding.write_cache("name", {"train": torch.zeros(3)}, {}, [])[0]
    assert entries(tmp_path) == []


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("ONECYCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert encoding.cache_directory() == tmp_path / "onecycle"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", None),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", None),
        (b"", None),
    ],
)
def test_what_a_file_says_it_is(tmp_path, head, kind):
    (tmp_path / "x").write_bytes(head)
    assert brand(head) == brand(tmp_path / "x") == kind


def test_suffixes_are_ones_that_pillow_reads():
    assert set(Image.registered_extensions()) >= SUFFIXES

"""Images of any size and mode: what public reports say goes wrong elsewhere, each with the right value here."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from data_makers import image_folder, pixels
from PIL import Image

from onecycle import load
from onecycle.data.encoded import common_size
from onecycle.data.images import decode, resize
from onecycle.errors import ConfigError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ONECYCLE_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("sizes", "want"),
    [
        ({(100, 100): 2059, (3024, 3024): 3}, (100, 100)),  # a few odd ones
        ({(100, 100): 2059, (8, 8): 3}, (100, 100)),
        ({(28, 40): 10}, (28, 40)),
        ({(3024, 4032): 60}, (128, 171)),
        ({(4032, 3024): 60, (10, 10): 1}, (171, 128)),
        ({(480, 640): 50, (640, 480): 50}, (128, 128)),
        ({(90, 120): 3, (100, 150): 4, (120, 110): 3}, (100, 100)),
        ({(224, 224): 5}, (224, 224)),  # made so on purpose
        ({(224, 300): 50, (90, 90): 2}, (224, 300)),
        ({(256, 256): 5}, (128, 128)),
        ({(1, 5000): 2}, (1, 5000)),
    ],
)
def test_the_common_size(sizes, want):
    size, notes = common_size(sizes)
    assert size == want
    assert bool(notes) == (len(sizes) > 1 or size not in sizes)
    assert all(f"become {want[0]}x{want[1]}" in said for said in notes)


def test_few_odd_sizes_do_not_shrink_all(tmp_path):
    image_folder(tmp_path, each=12, shape=(20, 20, 3))
    image_folder(tmp_path / "cat" / "odd", ("x",), each=2, shape=(300, 310, 3))
    data = load(tmp_path)
    assert data.input_shape == (3, 20, 20)
    assert data.notes[0] == "images of 2 sizes become 20x20, the size of most; image_size chooses another"


def test_large_photos_are_made_smaller(tmp_path):
    image_folder(tmp_path, each=2, shape=(300, 600, 3))
    data = load(tmp_path)
    assert data.input_shape == (3, 128, 256)
    assert data.notes[0].startswith("images of 300x600 become 128x256, to train in minutes: image_size=224")
    assert load(tmp_path, image_size=300, fit="squash").input_shape == (3, 300, 300)


def test_turned_photos_count_by_what_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.fromarray(pixels(1, 10, 20, 3, seed=index)[0]).save(tmp_path / name / f"{index}.jpg", exif=exif)
    assert load(tmp_path).input_shape == (3, 20, 10)


def test_a_crop_that_loses_much_is_said(tmp_path):
    image_folder(tmp_path, shape=(20, 60, 3))
    assert not any("crop" in said for said in load(tmp_path).notes)
    (said,) = [said for said in load(tmp_path, image_size=20).notes if "crop" in said]
    assert said.startswith('the center crop loses 67 % of a typical image: fit="pad" (--fit pad)')
    assert not any("crop" in said for said in load(tmp_path, image_size=20, fit="pad").notes)
    x, y = pixels(20, 20, 60), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    assert any("crop loses 67 %" in said for said in load(tmp_path / "a.npz", image_size=20).notes)


def test_an_unknown_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown fit 'stretch': .*Known: crop, pad, squash"):
        load(fit="stretch")


BANDS = np.repeat(np.array([[10, 60, 110, 160, 210, 250]], np.uint8), 2, 0).repeat(4, 1).repeat(4, 0)  # 8 x 24


@pytest.mark.parametrize("make", [lambda: decode(encoded(Image.fromarray(BANDS)), (1, 8, 8), "pad")[0]])
def test_pad_shows_all_and_repeats_the_border(make):
    got = make()
    assert got.shape == (8, 8)
    assert (got[:3] == got[3]).all() and (got[5:] == got[4]).all()
    assert got[3, 0] < 40 and got[3, -1] > 220


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_arrays_are_fitted_as_files_are(fit):
    want = decode(encoded(Image.fromarray(BANDS)), (1, 8, 8), fit)[0].astype(int)
    got = resize(torch.from_numpy(BANDS.copy())[None, None], 8, fit)[0, 0].numpy().astype(int)
    assert np.abs(got - want).max() <= 2


# Modes


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_drawings_are_on_white(mode, channels):
    """A black square on a transparent ground whose hidden colour is black too."""
    drawing = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (4, 4, 8, 8))
    options = {}
    if mode == "P":
        image = Image.new("P", (12, 12), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (4, 4, 8, 8))
        options = {"transparency": 0}
    elif mode in ("L", "RGB"):  # one colour counts as transparent
        image = Image.new(mode, (12, 12), "red" if mode == "RGB" else 77)
        image.paste(0, (4, 4, 8, 8))
        options = {"transparency": (255, 0, 0) if mode == "RGB" else 77}
    else:
        image = drawing.convert(mode)
    got = decode(encoded(image, **options), (channels, 12, 12))
    assert got[:, 0, 0].tolist() == [255] * channels
    assert got[:, 6, 6].tolist() == [0] * channels


def test_half_transparent_is_half_white():
    got = decode(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 128))), (3, 2, 2))[:, 0, 0]
    assert np.abs(got.astype(int) - [227, 127, 127]).max() <= 1


def test_grey_drawings_with_transparency_stay_grey(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(pixels(1, 6, 6, 2, seed=index)[0], "LA").save(tmp_path / name / f"{index}.png")
    assert load(tmp_path).input_shape == (1, 6, 6)


def test_sixteen_bits_cmyk_and_one_bit_keep_their_values():
    deep = np.array([[0, 25700, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(deep)), (1, 1, 3))[0, 0].tolist() == [0, 100, 255]
    ink = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    red = decode(encoded(ink, format="TIFF"), (3, 2, 2))[:, 0, 0]
    assert red.tolist() == [255, 0, 0]
    bits = Image.new("1", (4, 4), 1)
    assert decode(encoded(bits), (1, 4, 4)).min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_damaged_photo():
    whole = encoded(Image.new("RGB", (6, 6), "red"), format="JPEG", exif=b"Exif\0\0MM\0*junk")
    assert decode(whole, (3, 6, 6))[0].min() > 200

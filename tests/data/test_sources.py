"""Loading by name, the options, files to predict on, and the contact sheet."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from data_makers import idx_folder, image_folder, pixels
from PIL import Image

from onecycle.data import NAMES, Data, Split, contact_sheet, describe, find, load, loading_once, read_inputs, sources
from onecycle.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


# The digits


def test_digits(digits):
    assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1294, 144, 359]
    assert (digits.input_shape, digits.classes, digits.origin) == ((1, 8, 8), tuple("0123456789"), "the package")
    assert digits.train.inputs.dtype == torch.uint8 and digits.train.inputs.max() == 255
    assert digits.train.targets.bincount().min() > 120
    assert (digits.mean, digits.std) == (pytest.approx((0.305,), abs=0.002), pytest.approx((0.3756,), abs=0.002))


def test_digits_are_those_of_the_source(digits):
    whole = torch.cat([part.inputs for part in (digits.train, digits.valid, digits.test)]).double()
    values = (whole * 16 / 255).round()
    assert values.sum() == 561718  # of the original file: 1,797 images, values 0 to 16
    labels = torch.cat([part.targets for part in (digits.train, digits.valid, digits.test)])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_seed_moves_the_validation_cut_and_not_the_test_split(digits):
    other, again = load("digits", seed=1), load("digits", seed=0)
    assert torch.equal(again.valid.inputs, digits.valid.inputs)
    assert torch.equal(other.test.inputs, digits.test.inputs)
    assert not torch.equal(other.valid.inputs, digits.valid.inputs)


def test_cut_is_pinned(digits):
    # the same images on every machine: runs are compared and resumed across machines
    weights = torch.arange(1, 65).view(1, 8, 8)
    assert int((digits.valid.inputs.long() * weights).sum()) == 22960108
    assert int((digits.test.inputs.long() * weights).sum()) == 58399253


def test_limit(digits):
    few = load("digits", limit=100)
    assert len(few.train) == 100 and few.train.targets.bincount().tolist() == [10] * 10
    assert torch.equal(few.valid.inputs, digits.valid.inputs) and torch.equal(few.test.inputs, digits.test.inputs)
    assert "train: limited to 100 samples, seed 0" in few.notes
    assert torch.equal(load("digits", limit=1294).train.inputs, digits.train.inputs)
    rows = {image.numpy().tobytes() for image in digits.train.inputs}
    assert all(image.numpy().tobytes() in rows for image in few.train.inputs)
    assert load("digits", limit=10).train.targets.tolist().count(3) == 1


@pytest.mark.parametrize("limit", [9, 1295])
def test_limit_out_of_range(limit):
    with pytest.raises(DataError, match=f"limit = {limit}: .*1294 samples of 10 classes. Use 10 to 1294"):
        load("digits", limit=limit)


def test_image_size_resizes_arrays_of_images_too():
    assert load("digits", image_size=12).input_shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": 0}, "valid_fraction is a share of the training data.*received 0"),
        ({"valid_fraction": 1.5}, "above 0 and below 1; received 1.5"),
        ({"valid_fraction": float("nan")}, "valid_fraction .* received nan"),
        ({"image_size": 0}, "image_size .* received 0"),
        ({"context": 0}, "context .* received 0"),
        ({"in_memory_bytes": 0}, "in_memory_bytes .* received 0"),
        ({"seed": -1}, "seed .* received -1"),
        ({"limit": 0}, "limit is the number of training samples, a whole number of at least 1; received 0"),
        ({"limit": -1}, "limit .* received -1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        load("digits", **options)


def test_image_size_without_images(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 2)), y=np.arange(20) % 2)
    with pytest.raises(ConfigError, match="image_size = 8 is for images, and x is array"):
        load(tmp_path / "x.npz", image_size=8)


# Names and places


def test_unknown_names():
    with pytest.raises(ConfigError, match="Unknown data set 'cifar': did you mean cifar10"):
        load("cifar")
    with pytest.raises(ConfigError, match=r"No file or folder of that name is in /.*: give a folder"):
        load("photos")
    with pytest.raises(ConfigError, match="Unknown data set 'x': Known: cifar10, cifar100, digits"):
        find("x")
    with pytest.raises(ConfigError):
        describe("x")


def test_of_a_misspelt_folder_the_one_beside_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "titanic.csv").touch()
    with pytest.raises(ConfigError, match=r"in .* \(did you mean photos\?\): give a folder"):
        load("phtos")
    with pytest.raises(DataError, match=r"titanc.csv does not exist \(did you mean titanic.csv\?\)\. Give"):
        load("titanc.csv")


def test_every_name_is_described():
    assert all(describe(name) for name in NAMES)


def test_missing_and_foreign_paths(tmp_path):
    for missing in (tmp_path / "no", str(tmp_path / "no"), "no.npz", "no/where"):
        with pytest.raises(DataError, match=r"no.* does not exist"):
            load(missing)
    (tmp_path / "x.doc").write_text("a,b")
    with pytest.raises(DataError, match=r"x.doc is not a file that can be read here. Give a folder"):
        load(tmp_path / "x.doc")


@pytest.mark.parametrize("spelling", ["fashion-mnist", "Fashion-MNIST", "fashion_mnist", "FashionMNIST"])
def test_spellings_and_the_order_of_places(tmp_path, monkeypatch, spelling):
    monkeypatch.setattr("onecycle.data.sources.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("ONECYCLE_DATA", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    assert find(spelling) is None
    idx_folder(tmp_path / "system" / "fashion-mnist")
    (tmp_path / "own" / "fashion-mnist").mkdir(parents=True)  # empty: looked at and passed over
    assert find(spelling) == str(tmp_path / "system" / "fashion-mnist")
    idx_folder(tmp_path / "own" / "fashion-mnist")
    assert find(spelling) == load(spelling).origin == str(tmp_path / "own" / "fashion-mnist")
    assert load(spelling).name == "fashion-mnist"


def test_a_path_that_is_spelled_like_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "CIFAR-10")
    assert load("CIFAR-10").classes == ("cat", "dog")
    image_folder(tmp_path / "digits")
    assert load("digits").origin == "the package"
    assert load("./digits").classes == ("cat", "dog")
    assert find("CIFAR-10") is not None


def test_fashion_mnist(fashion_mnist):
    data = load(fashion_mnist)
    assert [len(part) for part in (data.train, data.valid, data.test or ())] == [54000, 6000, 10000]
    assert data.valid.targets.bincount().tolist() == [600] * 10
    assert data.classes is not None and data.classes[0] == "T-shirt/top"
    assert data.mean == pytest.approx((0.286,), abs=0.001)


def test_loading_is_lazy():
    code = "import sys, onecycle.data as d; d.NAMES; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"PIL", "pyarrow", "datasets", "safetensors", "matplotlib"} & set(loaded)


# Files to predict on


def test_read_images(tmp_path):
    made = image_folder(tmp_path, shape=(6, 6, 3), each=2)
    paths = [tmp_path / "dog" / "1.png", str(tmp_path / "cat" / "0.png")]
    batch = read_inputs(paths, kind="image", input_shape=(3, 6, 6))
    assert batch.dtype == torch.uint8
    assert (batch.permute(0, 2, 3, 1).numpy() == np.stack([made["dog"][1], made["cat"][0]])).all()
    assert read_inputs(paths, kind="image", input_shape=(1, 4, 5)).shape == (2, 1, 4, 5)


def test_read_images_and_arrays_in_order(tmp_path):
    images = pixels(3, 6, 6)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", images[1])
    np.savez(tmp_path / "c.npz", images[1:])
    paths = [tmp_path / name for name in ("b.npy", "a.png", "c.npz")]
    got = read_inputs(paths, kind="image", input_shape=(1, 6, 6))
    assert (got[:, 0].numpy() == images[[1, 0, 1, 2]]).all()


def test_read_arrays(tmp_path):
    array = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "batch.npy", array)
    np.savez(tmp_path / "one.npz", x=array[0], y=1)
    got = read_inputs([tmp_path / "one.npz", tmp_path / "batch.npy"], kind="array", input_shape=(2,))
    assert got.tolist() == [[0, 1], [0, 1], [2, 3], [4, 5]]


def test_read_inputs_refuses(tmp_path):
    with pytest.raises(ConfigError, match="kind 'text' cannot be read"):
        read_inputs(["x"], kind="text", input_shape=(3,))
    with pytest.raises(DataError, match="No files"):
        read_inputs([], kind="image", input_shape=(1, 2, 2))
    with pytest.raises(DataError, match="2 of 2 files do not exist: a and b"):
        read_inputs(["a", "b"], kind="image", input_shape=(1, 2, 2))
    bad = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in bad:
        path.write_text("junk")
    with pytest.raises(DataError, match=r"2 images do not decode(.|\n)*a.png(.|\n)*b.png"):
        read_inputs(bad, kind="image", input_shape=(1, 2, 2))
    with pytest.raises(DataError, match=r"a.png is not a .npy or .npz"):
        read_inputs(bad, kind="array", input_shape=(2,))
    for name, array, kind, message in (
        ("x.npy", np.zeros(3), "array", r"has shape \[3\]; needed is \[2\]"),
        ("x.npy", np.array([0, np.nan]), "array", "NaN or infinite"),
        ("x.npy", np.zeros((4, 4)), "image", "is float64. Images are uint8"),
        ("x.npy", np.zeros((5, 5), np.uint8), "image", r"has shape \[5, 5\]"),
        ("x.npy", np.zeros(5, np.uint8), "image", r"has shape \[5\]"),
        ("x.npy", np.array({}), "array", "pickled objects"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(DataError, match=message):
            read_inputs([tmp_path / name], kind=kind, input_shape=(2,) if kind == "array" else (1, 4, 4))
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.zeros(2))
    with pytest.raises(DataError, match="has the keys a and b"):
        read_inputs([tmp_path / "x.npz"], kind="array", input_shape=(2,))


# The contact sheet


def test_contact_sheet_shows_the_samples(tmp_path, digits):
    path = contact_sheet(digits, tmp_path / "new" / "sheet.png", n=20)
    with Image.open(path) as image:
        picture = np.asarray(image)
    three = digits.train.inputs[(digits.train.targets == 3).nonzero()[0, 0], 0].numpy()
    tile = np.kron(three, np.ones((7, 7), np.uint8))[..., None].repeat(3, 2)
    row = picture[20 + 58 + 3 * 60 :][:56]  # below the margin, the title and the rows of 0, 1 and 2
    spots = [row[:, x : x + 56] for x in range(row.shape[1] - 55)]
    assert sum(np.array_equal(spot, tile) for spot in spots) == 1
    assert path == tmp_path / "new" / "sheet.png"


def made(classes, targets, shape=(3, 9, 5)) -> Data:
    split = Split(torch.zeros(len(targets), *shape, dtype=torch.uint8), targets)
    return Data("made", "image", split, split, None, classes, (0.0,) * 3, (1.0,) * 3, (), "here", ())


def test_contact_sheet_of_many_classes_and_of_none(tmp_path):
    many = made(tuple(f"a class with quite a long name {i}" for i in range(100)), torch.arange(100))
    few = made(None, torch.linspace(0, 1, 7)[:, None], shape=(4, 90, 50))
    for data in (many, few):
        with Image.open(contact_sheet(data, tmp_path / "x.png")) as image:
            assert image.size[0] > 200


def test_contact_sheet_of_a_stream(tmp_path):
    image_folder(tmp_path / "a")
    data = load(tmp_path / "a", in_memory_bytes=10)
    in_memory = load(tmp_path / "a")
    first = contact_sheet(data, tmp_path / "x.png").read_bytes()
    assert first == contact_sheet(in_memory, tmp_path / "y.png").read_bytes()


def test_contact_sheet_refuses(tmp_path, digits):
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 2)), y=np.arange(20) % 2)
    with pytest.raises(ConfigError, match="shows images, and x is array"):
        contact_sheet(load(tmp_path / "x.npz"), tmp_path / "x.png")
    with pytest.raises(ConfigError, match="n is the number of images"):
        contact_sheet(digits, tmp_path / "x.png", n=0)
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet(digits, tmp_path / "x.npz" / "x.png")


# Loading many times


def test_what_is_loaded_often_is_read_once_and_comes_out_the_same(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a.npz", "b.npz")]
    for i, path in enumerate(paths):
        np.savez(path, x=np.full((40, 2), i, np.float32), y=np.arange(40) % 2)
    options = ({"seed": 1}, {"seed": 2, "limit": 10})
    plain = [load(paths[0], **each) for each in options]
    read, real = [], sources._find_and_read
    monkeypatch.setattr(sources, "_find_and_read", lambda data, options: read.append(data) or real(data, options))
    with loading_once():
        for each, expected in zip(options, plain, strict=True):
            found = load(paths[0], **each)
            assert torch.equal(found.train.targets, expected.train.targets) and found.notes == expected.notes
            assert torch.equal(found.valid.inputs, expected.valid.inputs)
        assert read == paths[:1]
        assert load(paths[1]).train.inputs.max() == 1
        monkeypatch.setattr(sources, "KEPT_BYTES", 10)
        assert load(paths[0]).train.inputs.max() == 0 and load(paths[0], seed=3).train.inputs.max() == 0
        assert read == [*paths, paths[0], paths[0]]
    load(paths[0]), load(paths[0])
    assert len(read) == 6

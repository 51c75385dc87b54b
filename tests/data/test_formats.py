"""Every file format that a data set can come in, read from tiny files."""

from __future__ import annotations

import pickle
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from data_makers import CIFAR10, cifar_binary, cifar_python, idx, idx_folder, parquet, pixels, tar_of

from onecycle.data import Stream, load
from onecycle.errors import DataError, MissingDependency


def all_samples(data) -> list[tuple[bytes, int]]:
    """The training and validation samples in one sorted list, to compare with what was written."""
    parts = [data.train, data.valid]
    return sorted(
        (x.numpy().tobytes(), int(y)) for part in parts for x, y in zip(part.inputs, part.targets, strict=True)
    )


def written(images: np.ndarray, labels) -> list[tuple[bytes, int]]:
    """The same list of [n, c, h, w] images as they were written."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


# Parquet


def test_parquet_with_features(tmp_path):
    images, labels = pixels(20, 4, 4, 3), np.arange(20) % 2
    parquet(tmp_path / "train-00000-of-00002.parquet", images[:10], labels[:10], ["no", "yes"], "img", "fine_label")
    parquet(tmp_path / "train-00001-of-00002.parquet", images[10:], labels[10:], ["no", "yes"], "img", "fine_label")
    more = pixels(3, 4, 4, 3, seed=1)
    parquet(tmp_path / "test-00000-of-00001.parquet", more, labels[:3], ["no", "yes"], "img", "fine_label")
    data = load(tmp_path)
    assert data.classes == ("no", "yes")
    assert all_samples(data) == written(images.transpose(0, 3, 1, 2), labels)
    assert data.test is not None and torch.equal(data.test.inputs, torch.from_numpy(more.transpose(0, 3, 1, 2)))
    assert data.notes == ("validation: 10 % of train, stratified, seed 0 (no validation split found)",)


def test_parquet_without_features_and_with_words(tmp_path):
    images = pixels(8, 4, 4)
    parquet(tmp_path / "data" / "train.parquet", images, ["b", "a"] * 4, None)
    parquet(tmp_path / "data" / "validation.parquet", images[:2], ["b", "a"], None)
    data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert data.train.targets.tolist() == [1, 0] * 4
    assert data.valid.targets.tolist() == [1, 0]
    assert data.input_shape == (1, 4, 4)


def test_one_parquet_file(tmp_path):
    parquet(tmp_path / "some.parquet", pixels(8, 4, 4), [0, 1] * 4, None)
    data = load(str(tmp_path / "some.parquet"))
    assert (data.name, len(data.train), len(data.valid), data.test) == ("some", 6, 2, None)


def test_parquet_that_does_not_fit_streams(tmp_path):
    images, labels = pixels(20, 4, 4, 3), np.arange(20) % 2
    parquet(tmp_path / "train-0.parquet", images, labels, ["no", "yes"])
    whole, data = load(tmp_path), load(tmp_path, in_memory_bytes=100)
    assert isinstance(data.train, Stream)
    again = pickle.loads(pickle.dumps(data.train))
    for index in (0, len(data.train) - 1):
        assert torch.equal(again[index][0], whole.train.inputs[index])
        assert again[index][1] == int(whole.train.targets[index])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 5, 0], ["a", "b"], "out of range in the train split: 1 of 4, the first is 5"),
        ([0, 1, -1, 0], ["a", "b"], "the first is -1 at index 2"),
        ([0, None, 1, 0], ["a", "b"], r"no label \(null\) in row 1"),
        ([0.5, 1.0, 1.0, 2.0], None, "holds float64 values"),
        ([0, 3, 0, 3], None, "first missing is 1"),
    ],
)
def test_parquet_refuses_labels(tmp_path, labels, names, message):
    parquet(tmp_path / "train-0.parquet", pixels(4, 4, 4), labels, names)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_parquet_refuses_files(tmp_path):
    parquet(tmp_path / "x.parquet", pixels(4, 4, 4), [0, 1, 0, 1], None, label="weight")
    with pytest.raises(DataError, match="no label columns; its columns are image and weight"):
        load(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"x.parquet is not a Parquet file"):
        load(tmp_path)
    (tmp_path / "x.parquet").rename(tmp_path / "test-0.parquet")
    with pytest.raises(DataError, match=r"no train split, or a split that cannot be told: test-0.parquet"):
        load(tmp_path)


def test_parquet_lists_all_images_that_do_not_decode(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "train-0.parquet"
    parquet(file, pixels(6, 4, 4), [0, 1] * 3, None)
    cells = pq.read_table(file)["image"].to_pylist()
    cells[2]["bytes"], cells[5]["bytes"] = b"junk", cells[5]["bytes"][:60]
    cells[3] = None
    table = pa.table({"image": pa.array(cells), "label": [0, 1] * 3})
    pq.write_table(table, file)
    with pytest.raises(DataError, match="3 images do not decode") as raised:
        load(tmp_path)
    assert re.findall(r"train-0.parquet row (\d)", str(raised.value)) == ["2", "3", "5"]


# The hub, by way of local files


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`datasets.load_dataset` answers with Parquet files of this test instead of going to the network."""
    datasets = pytest.importorskip("datasets")
    real, asked = datasets.load_dataset, []
    images, labels = pixels(20, 4, 4, 3), np.arange(20) % 10
    for split in ("train", "test"):
        parquet(tmp_path / "remote" / f"{split}-0.parquet", images, labels, CIFAR10, "img", "label")

    def load_dataset(name):
        asked.append(name)
        files = {split: str(tmp_path / "remote" / f"{split}-0.parquet") for split in ("train", "test")}
        return real("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked, images, labels


def test_hub(hub):
    asked, images, labels = hub
    data = load("hub:someone/some-data")
    assert asked == ["someone/some-data"]
    assert (data.name, data.origin, data.classes) == ("some-data", "hub:someone/some-data", tuple(CIFAR10))
    assert all_samples(data) == written(images.transpose(0, 3, 1, 2), labels)
    streamed = load("hub:someone/some-data", in_memory_bytes=100)
    assert isinstance(streamed.train, Stream)
    assert torch.equal(pickle.loads(pickle.dumps(streamed.train))[1][0], data.train.inputs[1])


def test_known_name_goes_to_the_hub_last(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("ONECYCLE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr("onecycle.data.sources.SYSTEM", tmp_path / "nothing")
    data = load("cifar10")
    assert hub[0] == ["uoft-cs/cifar10"]
    assert (data.augment, data.origin) == (("flip", "crop"), "hub:uoft-cs/cifar10")


def test_hub_out_of_reach_names_all_places(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("ONECYCLE_DATA", str(tmp_path / "own"))
    monkeypatch.setattr("onecycle.data.sources.SYSTEM", tmp_path / "system")
    with pytest.raises(DataError) as raised:
        load("cifar100")
    for part in (
        tmp_path / "own" / "cifar100",
        tmp_path / "system" / "cifar100",
        "hub:uoft-cs/cifar100",
        "ONECYCLE_DATA",
    ):
        assert str(part) in str(raised.value)


def test_hub_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install 'onecycle\[hub\]'"):
        load("hub:someone/some-data")


# IDX


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_idx(tmp_path, monkeypatch, gz):
    images, labels = idx_folder(tmp_path / "fashion-mnist", gz=gz)
    monkeypatch.setenv("ONECYCLE_DATA", str(tmp_path))
    data = load("fashion-mnist")
    assert all_samples(data) == written(images[:, None], labels)
    assert data.classes is not None and data.classes[9] == "Ankle boot"
    assert (data.input_shape, data.augment, len(data.test or ())) == ((1, 5, 4), ("flip",), 40)
    assert data.origin == str(tmp_path / "fashion-mnist")


def test_idx_by_path_has_numbers_for_names(tmp_path):
    idx_folder(tmp_path / "kuzushiji")
    assert load(tmp_path / "kuzushiji").classes == tuple("0123456789")


def test_idx_refuses_files(tmp_path):
    idx_folder(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="IDX files of the train split but not its images"):
        load(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x05")
    with pytest.raises(DataError, match="not a whole IDX file"):
        load(tmp_path)
    idx(tmp_path / "train-images-idx3-ubyte", pixels(7, 5, 4))
    with pytest.raises(DataError, match=r"images are \[7, 5, 4\] and the labels \[40\]"):
        load(tmp_path)


# The original CIFAR files


@pytest.mark.parametrize(
    ("make", "name", "folder", "archive"),
    [
        (cifar_python, "cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
        (cifar_binary, "cifar10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        (cifar_python, "cifar100", "cifar-100-python", "cifar-100-python.tar.gz"),
        (cifar_binary, "cifar100", "cifar-100-binary", "cifar-100-binary.tar.gz"),
    ],
)
def test_original_cifar(tmp_path, monkeypatch, make, name, folder, archive):
    place = tmp_path / name
    images, labels = make(place / folder, hundred=name == "cifar100")
    monkeypatch.setenv("ONECYCLE_DATA", str(tmp_path))
    data = load(name)
    assert data.classes == tuple(CIFAR10)
    assert all_samples(data) == written(images, labels)
    assert len(data.test or ()) == 10
    assert all_samples(load(place / folder)) == all_samples(data)
    tar_of(place / folder, place / archive)
    shutil.rmtree(place / folder)
    assert all_samples(load(name)) == all_samples(load(place / archive)) == all_samples(data)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_with_code_are_refused(tmp_path, capsys, protocol):
    cifar_python(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Evil()}, protocol))
    with pytest.raises(DataError, match=r"data_batch_3 cannot be unpickled.*print, which is refused"):
        load(tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_cifar_refuses_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    cifar_binary(folder)
    (folder / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_2.bin has 5 bytes, not a whole number of 3073-byte rows"):
        load(tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2.bin cannot be read: No such file"):
        load(tmp_path)
    tar_of(folder, tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match=r"lacks data_batch_2.bin"):
        load(tmp_path / "cifar-10-binary.tar.gz")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz cannot be read"):
        load(tmp_path / "cifar-10-binary.tar.gz")


# npz


@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw"])
def test_npz_images(tmp_path, layout):
    first = pixels(20, 3, 5, 6) if layout != "nhw" else pixels(20, 1, 5, 6)
    stored = {"nhw": first[:, 0], "nhwc": first.transpose(0, 2, 3, 1), "nchw": first}[layout]
    labels = np.arange(20) % 2
    np.savez(tmp_path / "x.npz", x=stored, y=labels)
    data = load(tmp_path / "x.npz")
    assert (data.kind, data.name, data.classes) == ("image", "x", ("0", "1"))
    assert all_samples(data) == written(first, labels)


def test_npz_arrays_with_all_splits_and_names(tmp_path):
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2] * 2, np.uint8)
    np.savez(
        tmp_path / "x.npz", x_train=x, y_train=y, x_valid=x, y_valid=y, x_test=x, y_test=y[:, None], classes=list("abc")
    )
    data = load(tmp_path / "x.npz")
    assert (data.kind, data.classes, data.mean, data.std, data.notes) == ("array", ("a", "b", "c"), (), (), ())
    for part in (data.train, data.valid, data.test):
        assert part is not None and part.inputs.dtype == torch.float32
        assert torch.equal(part.inputs, torch.from_numpy(x).float()) and part.targets.tolist() == y.tolist()


def test_npz_regression(tmp_path):
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)[:, None]
    np.savez(tmp_path / "x.npz", x=x, y=y)
    data = load(tmp_path / "x.npz", limit=4)
    assert (data.classes, data.n_classes, len(data.train), len(data.valid)) == (None, None, 4, 1)
    assert data.train.targets.shape == (4, 1) and data.train.targets.dtype == torch.float32
    assert torch.equal(data.train.inputs[:, 0], 2 * data.train.targets[:, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, {}, 1])}, "pickled objects can run code"),
        ({"x": np.zeros((4, 2))}, "has x but no y"),
        ({"a": np.zeros(3)}, "has the keys a"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3, int)}, r"x is float64 \[4, 2\] and y is int64 \[3\]"),
        (
            {"x": np.full((4, 2), np.nan), "y": np.array([0, 1, 0, 1])},
            "NaN or infinite inputs in the train split: 4 of 4",
        ),
        ({"x": np.zeros((4, 2)), "y": np.eye(4, dtype=int)}, "of one-hot labels take"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, -1, 1])}, "the first is -1 at index 2"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, 1, 3])}, "the first missing is 2"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4, int)}, "only one class"),
        ({"x": np.array(["a"] * 4), "y": np.array([0, 1, 0, 1])}, "has dtype <U1"),
        ({"x": np.zeros((4, 5, 5, 2), np.uint8), "y": np.array([0, 1, 0, 1])}, r"\[4, 5, 5, 2\]. Images are"),
        (
            {"x_train": np.zeros((4, 2)), "y_train": [0, 1, 0, 1], "x_test": np.zeros((4, 3)), "y_test": [0, 1, 0, 1]},
            r"shape \[2\] in the train split and \[3\] in the test split",
        ),
    ],
)
def test_npz_refuses(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.npz")


def test_npz_that_is_none(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match=r"x.npz cannot be read"):
        load(tmp_path / "x.npz")


# Text


def test_text(tmp_path):
    text = "abcdefghij\n" * 20 + "ü" * 30
    (tmp_path / "some.txt").write_text(text, encoding="utf-8")
    data = load(tmp_path / "some.txt", context=7, valid_fraction=0.2)
    assert (data.kind, data.name, data.input_shape, data.n_classes) == ("text", "some", (7,), 12)
    assert data.classes is not None and data.classes == tuple(sorted(set(text)))
    read = "".join(data.classes[i] for i in data.train.inputs.flatten().tolist())
    assert read == text[: len(read)] and 200 - 7 < len(read) <= 200
    assert "".join(data.classes[i] for i in data.train.targets.flatten().tolist()) == text[1 : len(read) + 1]
    assert "".join(data.classes[i] for i in data.valid.inputs[0].tolist()) == text[200:207]
    assert data.notes == ("validation: the last 20 % of the text",)
    assert len(load(tmp_path / "some.txt", context=7, valid_fraction=0.2, limit=5).train) == 5


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"aaaa" * 99, "one distinct character only: 'a'"),
        (b"abc\xff\xfe" * 99, "not UTF-8 text: byte 3"),
        (b"short text", "10 characters, 9 of them for the train split; one window needs 65"),
        (b"too long " * 2000, "more than in_memory_bytes"),
    ],
)
def test_text_refuses(tmp_path, raw, message):
    (tmp_path / "x.txt").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.txt", in_memory_bytes=100_000)


def test_damaged_cells_of_parquet_are_listed_or_left_out(tmp_path):
    images, labels = pixels(20, 4, 4, 3), [0, 1] * 10
    path = tmp_path / "p" / "train-0.parquet"
    parquet(path, images, labels, ["no", "yes"])
    table = pq.read_table(path)
    cells = table["image"].to_pylist()
    cells[3], cells[8] = {"bytes": b"junk", "path": None}, None
    pq.write_table(table.set_column(0, table.schema.field("image"), [cells]), path)
    with pytest.raises(DataError, match=r"2 images do not decode(.|\n)*row 3: not an image(.|\n)*row 8: no image here"):
        load(tmp_path / "p")
    for options in ({}, {"in_memory_bytes": 10}):
        data = load(tmp_path / "p", skip_damaged=True, **options)
        assert len(data.train) + len(data.valid) == 18
        assert any("2 of 20 images do not decode and are left out" in note for note in data.notes)

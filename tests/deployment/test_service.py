"""A run over HTTP: real servers, asked over sockets, answer as its model predicts; bad samples are told in words."""

from __future__ import annotations

import gzip
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from service_makers import check_classes, digit, encoded, form, model_of

from onecycle import load

# Each kind answers as its model predicts


def test_images(at, digits):
    trained = model_of(at, "digits")
    shares = trained.predict(load("digits").test.inputs[:3])
    files = [encoded(digit(i)) for i in range(3)]
    check_classes(digits.predictions(files[0], "image/png"), shares[:1], trained.classes)
    body, media = form(*(("a.png", "image/png", data) for data in files))
    check_classes(digits.predictions(body, media), shares, trained.classes)
    (one,) = digits.predictions(files[0], "image/png", "/predict?top_k=10")
    assert len(one["top"]) == 10 and sum(each["probability"] for each in one["top"]) == pytest.approx(1, abs=1e-4)
    (one,) = digits.predictions(files[0], "image/png", "/predict?top_k=1")
    assert len(one["top"]) == 1


def test_images_are_decoded_as_files_are(at, digits, tmp_path):
    """Of another size, upside down by Exif, of four inks, of 16 bits, animated, transparent, with a palette."""
    trained = model_of(at, "digits")
    big = Image.fromarray(digit(5)).resize((40, 32))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.fromarray(digit(i)) for i in (1, 2)]
    made = {
        "size.png": encoded(big), "exif.jpg": encoded(big, "JPEG", exif=turned),
        "inks.jpg": encoded(big.convert("CMYK"), "JPEG"), "deep.png": encoded(digit(7).astype(np.uint16) * 256),
        "moves.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "alpha.png": encoded(Image.merge("LA", [big, big])), "palette.png": encoded(big.convert("RGB").quantize(8)),
        "list.tif": encoded(big, "TIFF", compression="tiff_lzw"),
    }  # fmt: skip
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        shares = trained.predict(tmp_path / name)
        check_classes(digits.predictions(data, "image/jpeg"), shares, trained.classes)  # what it is, not what it says


def test_images_as_arrays(at, digits):
    trained = model_of(at, "digits")
    stack = load("digits").test.inputs[:4].numpy()
    for array in (stack, stack[:, 0], stack[0], stack[0, 0]):
        stream = io.BytesIO()
        np.save(stream, array)
        got = digits.predictions(stream.getvalue(), "application/octet-stream")
        check_classes(got, trained.predict(stack[: len(got)]), trained.classes)


def test_rows(at, people):
    trained = model_of(at, "people")
    rows = [
        {"age": 30, "city": "Oslo", "joined": "2021-03-04"}, {"age": 71.5, "city": "Nowhere", "joined": None},
        {"age": "44", "city": None, "joined": "2021-12-31"},
    ]  # fmt: skip
    frame = {name: [row[name] for row in rows] for name in rows[0]} | {"age": ["30", "71.5", "44"]}
    shares = trained.predict(frame)
    check_classes(people.predictions(rows), shares, trained.classes)
    check_classes(people.predictions(rows[1]), shares[1:2], trained.classes)
    status, answer = people.ask({**rows[1], "shoes": 43})
    assert status == 200 and answer["notes"] == [
        "not looked at: shoes (the model was not trained on it)", "1 of 1 value of city unknown, or rare, in training",
    ]  # fmt: skip
    lines = b"age;city;joined\n30;Oslo;2021-03-04\n71,5;Nowhere;\n44;;2021-12-31\n"
    check_classes(people.predictions(lines, "text/csv"), shares, trained.classes)
    body, media = form(("x.csv", "application/vnd.ms-excel", lines))
    check_classes(people.predictions(body, media), shares, trained.classes)
    body, media = form(("x.json", "application/octet-stream", json.dumps(rows).encode()))
    check_classes(people.predictions(body, media), shares, trained.classes)


def test_the_csv_of_training_is_answered_as_the_file(at, people):
    trained = model_of(at, "people")
    data = (at / "people.csv").read_bytes()
    check_classes(people.predictions(data, "text/csv"), trained.predict(at / "people.csv"), trained.classes)


def test_a_regression_in_the_units_of_its_target(at, service):
    rows = [{"age": 20, "city": "Bern"}, {"age": 80, "city": "Oslo"}]
    frame = {"age": [20, 80], "city": ["Bern", "Oslo"]}
    values = model_of(at, "rent").predict(frame)
    got = service("rent").predictions(rows)
    assert got == [{"value": pytest.approx(value.item(), rel=1e-5)} for value in values]
    assert 400 < got[0]["value"] < got[1]["value"] < 900
    values = model_of(at, "both").predict(frame)
    assert service("both").predictions(rows) == [
        {"values": {"rent": pytest.approx(rent, rel=1e-5), "size": pytest.approx(size, rel=1e-5)}}
        for rent, size in values.tolist()
    ]


def test_label_sets(at, service):
    trained = model_of(at, "tags")
    shares = trained.predict({"a": [1.0, -2.0], "b": [1.5, -2.0]})
    got = service("tags").predictions([{"a": 1, "b": 1.5}, {"a": -2, "b": -2}])
    for one, each in zip(got, shares.tolist(), strict=True):
        assert list(one["probabilities"]) == ["none", "sea", "snow"] == list(trained.classes)
        assert list(one["probabilities"].values()) == pytest.approx(each, abs=1e-5)
        assert one["labels"] == [label for label, share in one["probabilities"].items() if share > 0.5]
    assert got[0]["labels"] == ["sea", "snow"]
    assert "several labels" in service("tags").refusal(400, {"a": 1, "b": 1}, path="/predict?top_k=2")


def test_texts(at, service):
    pytest.importorskip("tokenizers")
    trained = model_of(at, "moods")
    texts = ["the film was truly lovely and superb", "awful, poor and dreadful \U0001f622"]
    shares, moods = trained.predict({"review": texts}), service("moods")
    for body in ({"text": texts}, texts, [{"text": text} for text in texts]):
        check_classes(moods.predictions(body), shares, trained.classes)
    check_classes(moods.predictions({"text": texts[1]}), shares[1:], trained.classes)
    check_classes(moods.predictions(texts[1].encode(), "text/plain; charset=utf-8"), shares[1:], trained.classes)
    body, media = form(*(("a.txt", "text/plain", text.encode()) for text in texts))
    check_classes(moods.predictions(body, media), shares, trained.classes)
    assert "send {" in moods.refusal(422, {"text": 5})
    assert "no text" in moods.refusal(422, b"a\0b", "text/plain")


def test_arrays(at, service):
    trained, array = model_of(at, "array"), service("array")
    x = np.array([[1.0, -2.0, 0.5], [0.0, 0.25, 3.0]], np.float32)
    expected = [{"value": pytest.approx(value, rel=1e-4)} for value in trained.predict(x).flatten().tolist()]
    assert array.predictions(x.tolist()) == expected and array.predictions(x[1].tolist()) == expected[1:]
    for kind in (np.float32, np.float64, ">f4", np.float16):
        stream = io.BytesIO()
        np.save(stream, x.astype(kind))
        assert array.predictions(stream.getvalue(), "application/octet-stream") == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([[1, 2], [3]], "several lengths"), ([1, 2], "cannot predict for"), (["a", "b", "c"], "not of numbers alone"),
        ([1, None, 2], "not of numbers alone"), (5, "a number that is not of numbers"), ([], "not of numbers alone"),
        (b"[1, 1e999, 2]", "NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_no_array(service, body, words):
    assert words in service("array").refusal(422, body)


def test_npy_files_that_are_none(service):
    array, stream = service("array"), io.BytesIO()
    np.save(stream, np.array([{"a": 1}, None, 2], object), allow_pickle=True)
    assert "dtype object" in array.refusal(422, stream.getvalue(), "application/octet-stream")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    assert "holds 12 bytes" in array.refusal(422, stream.getvalue() + b"\0" * 12, "application/octet-stream")
    assert "no .npy file" in array.refusal(422, b"\x93NUMPY\x01\x00junk", "application/octet-stream")


# What cannot be used


def bomb(side: int) -> bytes:
    """A PNG of so many pixels a side, all of them black, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_images_that_are_none(digits):
    whole = encoded(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    assert "truncated" in digits.refusal(422, whole[: len(whole) // 2], "image/png")
    assert "not an image" in digits.refusal(422, b"<svg onload=alert(1)>", "image/svg+xml")
    for side in (11_000, 60_000):  # above what is allowed, and what Pillow refuses by itself
        assert "pixels" in digits.refusal(422, bomb(side), "image/png")
    assert "float pixels" in digits.refusal(422, encoded(np.ones((8, 8), np.float32), "TIFF"), "image/tiff")
    body, media = form(("a.png", "image/png", encoded(digit(0))), ("b.png", "image/png", b"junk"))
    assert "image 2 of 2 does not decode" in digits.refusal(422, body, media)


def test_other_media_types(digits, people):
    said = digits.refusal(415, {"image": "..."})
    assert said.startswith("received Content-Type application/json; this model of images takes image/*")
    assert "application/octet-stream" in people.refusal(415, b"x", "")
    assert "text/html" in people.refusal(415, b"x", "text/html")
    packed = gzip.compress(b'{"age": 1}')
    said = people.refusal(415, packed, Content_Encoding="gzip")
    assert said == "received a body that is encoded, as 'gzip'; send it as it is, without Content-Encoding"
    assert people.headers["accept-encoding"] == "identity"
    assert people.ask({"age": 1, "city": "Oslo", "joined": None}, Content_Encoding="identity")[0] == 200


@pytest.mark.parametrize("media", ["image/png", "multipart/form-data; boundary=cut"])
def test_an_empty_body(digits, media):
    assert "received" in digits.refusal(400, b"", media)
    assert "empty body" in digits.refusal(400, *form(("a.png", "image/png", b"")))


@pytest.mark.parametrize(
    "body", [b"junk", b"--cut\r\n", b"--cut\r\n\r\nx", b"--cut\r\nContent-Type: image/png\r\n\r\n" + b"x" * 500]
)
def test_a_form_without_its_end(digits, body):
    digits.refusal(400, body, "multipart/form-data; boundary=cut")
    digits.refusal(400, body, "multipart/form-data")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"age": ', "cannot be read as JSON"), (400, b'{"age": NaN}', "NaN is no JSON; give null"),
        (400, b'{"age": -Infinity}', "-Infinity is no JSON"), (400, b"\xff\xfe\xff", "JSON"),
        (400, b"[" * 100_000, "nested too deeply"), (400, b'{"age": 1, "age": 2}', "2 names, and only 1 different"),
        (400, b'{"age": "\\ud800"}', "no Unicode"), (400, b'{"age": ' + b"9" * 5000 + b"}", "JSON"),
        (422, {"age": 3}, "lacks 2 columns that the model was trained on: joined and city"),
        (422, {"age": [3], "city": "x", "joined": None}, "Column age has a list in a row"),
        (422, {"age": {"a": 1}, "city": "x", "joined": None}, "Column age has an object in a row"),
        (422, {"age": "old", "city": "x", "joined": None}, "1 cell that is no number"),
        (422, b'{"age": 1e999, "city": "x", "joined": null}', "1 infinite value"),
        (422, {"age": 1, "city": "x", "joined": "some day"}, "dates in the training rows"),
        (422, {}, "lacks 3 columns"), (422, [], "a list of 0 values; send a row"), (422, "x", "a text; send a row"),
        (413, {f"k{i}": i for i in range(10_001)}, "more than 10,000 columns"),
        (422, None, "null"), (422, [1, 2], "a list of 2 values"),
    ],
)  # fmt: skip
def test_rows_that_are_none(people, status, body, words):
    assert words in people.refusal(status, body)


@pytest.mark.parametrize(
    "data", [b"age,city,joined\n", b"\n", b"age,city,joined\n1,2,3,4\n", b'age,city\n"a,b\n', b"\0"]
)
def test_a_csv_that_is_none(people, data):
    people.refusal(422, data, "text/csv")


def test_a_csv_of_a_million_columns(people):
    assert "more than 10,000 columns" in people.refusal(413, b"," * 1_000_000 + b"\n1\n", "text/csv")


def test_more_samples_than_are_allowed(people):
    rows = [{"age": 1, "city": "x", "joined": None}] * 1001
    assert "1,001 samples; a request has at most 1,000" in people.refusal(413, rows)
    assert len(people.predictions(rows[:1000])) == 1000
    body, media = form(*(("a", "text/csv", b"x"),) * 1001)
    assert "1,000 parts" in people.refusal(413, body, media)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top_k=0", "at least 1"), ("top_k=3", "this run has 2 classes"), ("top_k=-1", "a whole number"),
        ("top_k=two", "a whole number"), ("top_k=1&top_k=2", "received '1, 2'"), ("topk=1", "did you mean top_k?"),
    ],
)  # fmt: skip
def test_queries_that_cannot_be_used(people, query, words):
    assert words in people.refusal(400, {"age": 1, "city": "x", "joined": None}, path=f"/predict?{query}")


def test_routes_and_methods(people):
    for path in ("/nowhere", "/predict/", "/../../etc/passwd", "/templates/page.js", "/%2e%2e/run.json"):
        assert "there are GET /" in people.refusal(404, None, None, path=path)
    for method, path, allowed in (
        ("GET", "/predict", "POST"),
        ("DELETE", "/model", "GET"),
        ("OPTIONS", "/predict", "POST"),
    ):
        status, answer = people.ask(method=method, path=path)
        assert (status, list(answer)) == (405, ["error"]) and allowed in people.headers["allow"]
        assert not [name for name in people.headers if name.startswith("access-control")]


def test_what_the_model_is(at, people, digits, service):
    status, about = people.ask(path="/model", method="GET")
    assert status == 200 and about["classes"] == ["high", "low"] and about["target"] == ["income"]
    age, joined, city = about["input"]["columns"]
    assert (age["type"], age["range"]) == ("number", [18, 89])
    assert (city["values"], joined["type"]) == (["Bern", "Oslo", "Zürich"], "date")
    assert joined["range"][0].startswith("2021-01-") and about["data"] == "people.csv"
    assert str(at) not in json.dumps(about)
    assert people.predictions(about["example"])
    assert (
        about["result"]["valid"]["accuracy"]
        == json.loads((at / "people/run.json").read_text())["result"]["valid"]["accuracy"]
    )
    assert people.ask(path="/health", method="GET") == (200, {"status": "ok", "requests": 0})
    assert digits.ask(path="/model", method="GET")[1]["limits"] == {"bytes": 200_000, "samples": 1000, "seconds": 20}

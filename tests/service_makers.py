"""Runs of each kind of data, servers of them in processes of their own, and what is sent to these."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import signal
import socket
import subprocess
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from PIL import Image

from onecycle import Job, load, load_run, run

HOSTILE = "</script><b>bad</b>{{script}}"  # the name of a class
SHORT = {"budget": "30 updates", "batch_size": 32, "search": 0.0}
JOBS = {
    "digits": Job("digits", model="mlp", limit=300, **SHORT),
    "people": Job("people.csv", target="income", **SHORT),
    "rent": Job("rent.csv", target="rent", task="regression", leave_out=("size",), **SHORT),
    "both": Job("rent.csv", target="rent,size", task="regression", **SHORT),
    "tags": Job("tags.csv", target="tags", task="multi-label", **SHORT),
    "array": Job("x.npz", **SHORT),
    "moods": Job("moods.csv", target="mood", **SHORT),
}


class Served:
    """A server process, which listens at any port that is free, and how to ask it."""

    def __init__(self, words: list[str], at: Path, log: Path):
        self.log = log
        with log.open("wb") as errors:
            self.process = forked.Popen(words, cwd=at, stdout=subprocess.PIPE, stderr=errors, text=True)
        said = self.process.stdout.readline()
        assert "http://127.0.0.1:" in said, said + log.read_text()
        self.port = int(said.partition("127.0.0.1:")[2].partition("/")[0])

    def ask(self, body=None, media="application/json", path="/predict", method="POST", **headers):
        """The status and the answer, JSON read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            body = json.dumps(body) if media == "application/json" and not isinstance(body, bytes) else body
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {**({"Content-Type": media} if media else {}), **names})
            answer = connection.getresponse()
            self.headers = answer.headers
            text = answer.read().decode()
            return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text

    def predictions(self, body, media="application/json", path="/predict"):
        status, answer = self.ask(body, media, path)
        assert status == 200, answer
        return answer["predictions"]

    def refusal(self, status, body, media="application/json", path="/predict", **headers):
        got, answer = self.ask(body, media, path, **headers)
        assert (got, list(answer)) == (status, ["error"]), answer
        assert "Traceback" not in answer["error"]
        return answer["error"]

    def raw(self, data: bytes) -> bytes:
        """All that comes back for bytes that are sent as they are."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as sent:
            sent.sendall(data)
            return b"".join(iter(lambda: sent.recv(65536), b""))

    def stop(self, number=signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        status = self.process.wait()
        self.process.stdout.close()
        return status, self.log.read_text()


def write_csv(path: Path, names: list[str], rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def write_data(at: Path) -> None:
    """The data of all jobs but those of the package."""
    rng = np.random.default_rng(0)
    age, city = rng.integers(18, 90, 200), rng.choice(["Bern", "Oslo", "Zürich"], 200)
    days = np.datetime64("2021-01-01") + rng.integers(0, 400, 200)
    write_csv(at / "people.csv", ["age", "city", "joined", "income"],
              zip(age, city, days, np.where(age > 50, "high", "low"), strict=True))  # fmt: skip
    write_csv(at / "rent.csv", ["age", "city", "rent", "size"],
              zip(age, city, 500 + 3.5 * age + rng.normal(size=200), 30.0 + age, strict=True))  # fmt: skip
    words = (["lovely", "great", "superb", "happy"], ["awful", "poor", "dreadful", "sad"])
    texts = [" ".join(["the film was truly", *rng.choice(words[i % 2], 5), "and long", str(i)]) for i in range(120)]
    write_csv(at / "moods.csv", ["review", "mood"], zip(texts, ["good", HOSTILE] * 60, strict=True))
    values = rng.normal(size=(200, 2)).round(3)
    sets = [
        ";".join(name for name, one in zip(("sea", "snow"), row, strict=True) if one > 0) or "none" for row in values
    ]
    write_csv(at / "tags.csv", ["a", "b", "tags"], ((*row, one) for row, one in zip(values, sets, strict=True)))
    x = rng.normal(size=(100, 3)).astype(np.float32)
    np.savez(at / "x.npz", x=x, y=x.sum(1))


def trained(at: Path, name: str) -> Path:
    """The folder of a run of the job by that name, which is trained once."""
    folder = at / name
    if not folder.exists():
        if name == "moods":
            pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'onecycle[text]')")
        with contextlib.chdir(at):
            run(JOBS[name], name, report=False)
    return folder


def model_of(at: Path, name: str):
    """The model of the run by that name, in this process."""
    return load_run(trained(at, name), verbose=False)


def encoded(image, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def digit(i: int) -> np.ndarray:
    return load("digits").test.inputs[i, 0].numpy()


def form(*parts: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A form of files, each a name, a type and bytes; and its media type."""
    made = [
        f'--cut\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
        + f"Content-Type: {media}\r\n\r\n".encode() + data + b"\r\n"
        for name, media, data in parts
    ]  # fmt: skip
    return b"".join(made) + b"--cut--\r\n", "multipart/form-data; boundary=cut"


def check_classes(predictions, shares: torch.Tensor, classes) -> None:
    for prediction, each in zip(predictions, shares, strict=True):
        best = each.argsort(descending=True)
        assert [one["class"] for one in prediction["top"]] == [classes[i] for i in best[: len(prediction["top"])]]
        got = [one["probability"] for one in prediction["top"]]
        assert got == pytest.approx(each[best][: len(got)].tolist(), abs=1e-5)
        assert (prediction["class"], prediction["probability"]) == (classes[best[0]], got[0])

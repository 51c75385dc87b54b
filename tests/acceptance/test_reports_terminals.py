"""Terminals that hold ASCII alone, and names that are no text: no traceback in any command (fastai/fastai#1377)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_makers import image_folder

from onecycle.commands.app import main

CLASSES = ("caf\u00e9", "\u65e5\u672c", "smile \u263a")
TRAIN = ("train", "d\u00e4ta", "--model", "mlp", "--epochs", "1", "--batch-size", "4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "d\u00e4ta", CLASSES, each=6)
    return tmp_path


class Terminal:
    """Standard output and error in an encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str = "ascii"):
        self.encoding = encoding
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict"))
        self.streams = (sys.stdout, sys.stderr)

    def run(self, *words: str) -> tuple[str, str]:
        code = 0
        try:
            main(list(words))
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = []
        for stream in self.streams:
            stream.flush()
            assert isinstance(stream, io.TextIOWrapper) and stream.errors == "strict", "as it was"
            said.append(stream.buffer.getvalue().decode(self.encoding))  # type: ignore[attr-defined]
            stream.seek(0)
            stream.truncate()
        assert code in (0, 2), said
        return said[0], said[1]


def test_every_command_fastai_1377(folder, monkeypatch):
    terminal = Terminal(monkeypatch)
    out, err = terminal.run(*TRAIN, "--out", "r\u00fcn")
    assert "r?n" not in out + err and "run" in out
    picture = str(Path("d\u00e4ta") / CLASSES[1] / "0.png")
    out, _ = terminal.run("predict", "r\u00fcn", picture)
    assert "data/??/0.png" in out
    out, _ = terminal.run("predict", "r\u00fcn", picture, "--json")
    assert json.loads(out)["predictions"][0]["class"] in CLASSES, "escaped, and whole"
    assert "cafe" in terminal.run("data", "d\u00e4ta")[0]
    for words in (
        ("data",),
        ("runs", "."),
        ("report", "r\u00fcn"),
        ("policy",),
        ("policy", "paper", "--lr-max", "0.1", "--epochs", "2", "--steps-per-epoch", "10"),
        ("check", "d\u00e4ta", "--model", "mlp", "--batch-size", "4", "--updates", "36", "--repeats", "1"),
        ("compare", "d\u00e4ta", "--model", "mlp", "--batch-size", "4", "--epochs", "1", "--seeds", "2", "--plan"),
        ("train", "n\u00f6where"),
        ("--help",),
        ("train", "--help"),
    ):
        out, err = terminal.run(*words)
        assert out or err


@pytest.mark.skipif(os.name != "posix", reason="paths are text there")
def test_names_that_are_no_text(folder, monkeypatch):
    image_folder(folder / os.fsdecode(b"d\xff"), ("a", os.fsdecode(b"b\xfe")), each=6)
    terminal = Terminal(monkeypatch, "utf-8")
    for words in (("train", "", *TRAIN[2:], "--out", "run"), ("data", ""), ("runs", "."), ("report", "run")):
        terminal.run(*(os.fsdecode(b"d\xff") if word == "" else word for word in words))
    record = json.loads((folder / "run" / "run.json").read_bytes())
    assert (record["config"]["data"], record["status"]) == (os.fsdecode(b"d\xff"), "finished")
    assert record["facts"]["classes"] == ["a", "b\ufffd"]


def test_the_plain_locale_fastai_1377(folder):
    environment = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "onecycle", "data", "d\u00e4ta".encode()]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert b"note" in done.stdout and done.stdout.isascii()

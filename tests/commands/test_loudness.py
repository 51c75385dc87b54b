"""What commands say beside their results: a few notes, all of them, or nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from onecycle import Job, Learner, build_model, load, run
from onecycle.commands.app import main
from onecycle.records.files import RUN
from onecycle.records.progress import NoteBlock
from onecycle.text import folded

TRAIN = ["train", "digits", "--model", "mlp", "--budget", "2 updates", "--lr-max", "0.01", "--no-report"]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noted(err: str) -> list[str]:
    """The notes before the first line of an epoch."""
    return [line for line in err.partition("epoch 1")[0].splitlines() if line.startswith("note: ")]


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data about which there is much to note."""
    odd = tuple(f"odd thing {i}" for i in range(9))
    monkeypatch.setattr("onecycle.jobs.run.load", lambda *words, **options: replace(load(*words, **options), notes=odd))


def test_a_block_has_five_lines_and_what_is_beyond_is_counted_and_recorded(talkative, capsys):
    main([*TRAIN, "--out", "run"])
    lines = noted(capsys.readouterr().err)[:5]  # what pilots found comes after them
    all_of_them = RUN.read("run")["notes"]
    assert len(lines) == 5 and lines[:4] == [f"note: {note}" for note in all_of_them[:4]]
    more = len([note for note in all_of_them if "odd" in note]) - 4
    assert lines[4].endswith("more: in run/run.json and on its page, or --verbose")
    assert int(lines[4].split()[2]) >= more and {f"odd thing {i}" for i in range(9)} <= set(all_of_them)


def test_verbose_prints_all_notes_and_quiet_none(talkative, capsys):
    main([*TRAIN, "--out", "loud", "--verbose"])
    loud = capsys.readouterr()
    assert {f"note: odd thing {i}" for i in range(9)} <= set(noted(loud.err)) and "more:" not in loud.err
    assert "ONECYCLE_NOTES" not in os.environ
    main(["--quiet", *TRAIN, "--out", "still"])
    still = capsys.readouterr()
    assert still.err == "" and still.out.splitlines()[0] == loud.out.splitlines()[0]


def test_quiet_commands_still_say_what_is_wrong(capsys):
    for words in (["predict", "nowhere", "x.png", "--quiet"], [*TRAIN[:1], "nowhere", "--quiet"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        main([*TRAIN, "--quiet", "--verbose"])
    assert "give --quiet or --verbose, one of them" in capsys.readouterr().err


def test_a_learner_in_python_says_where_the_others_are(capsys):
    data = load("digits", limit=100)
    learn = Learner(build_model("mlp", input_shape=data.input_shape, classes=10), data)
    learn._note(*(f"thing {i}" for i in range(8)))
    learn.fit("2 updates", lr_max=0.01)
    err = capsys.readouterr().err
    assert len(noted(err)) == 5 and err.count("more: learn.notes has them") == 1


@pytest.mark.parametrize(("letters", "said"), [("abc", "abc"), ("abcde", "abcde"), ("abcdef", "abcd")])
def test_room_that_is_left_is_filled(letters, said, capsys):
    block = NoteBlock()
    block.add(*letters)
    block.close("nowhere")
    more = ["note: and 2 more: nowhere"] if said != letters else []
    assert capsys.readouterr().err.splitlines() == [*(f"note: {letter}" for letter in said), *more]


def test_on_a_terminal_lines_are_broken_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    terminal = SimpleNamespace(isatty=lambda: True)
    words = "note: images of 36 sizes become 128x128, to train in minutes"
    assert folded(words, terminal).splitlines() == [
        "note: images of 36 sizes",
        "  become 128x128, to train in",
        "  minutes",
    ]
    command = "stopped\nTo go on: onecycle train --resume runs/photos-resnet20-1"
    assert folded(command, terminal) == command, "what is to be copied stays whole"
    assert folded(words, SimpleNamespace(isatty=lambda: False)) == words


def test_the_peak_is_among_the_five(capsys):
    main(["search", "digits", "--model", "mlp", "--epochs", "1", "--limit", "200", "--no-report", "--out", "searched"])
    block = capsys.readouterr().err.partition("epoch 1")[0]
    assert 0 < block.count("note: ") <= 5 and block.count("too small for pilots") == 1
    assert "peak and settings: the defaults" in block


def test_where_a_run_goes_on_is_said_among_the_five(talkative, capsys, monkeypatch):
    main([*TRAIN, "--out", "run", "--quiet"])
    from onecycle.records.files import RUN as record

    record.update("run", status="interrupted", result=None)
    main(["train", "--resume", "run", "--no-report"])
    lines = noted(capsys.readouterr().err)[:5]
    assert any("goes on after 2 updates" in line for line in lines) and "more:" in lines[4]


def test_a_run_without_a_voice_keeps_its_notes():
    run(Job("digits", model="mlp", budget="2 updates", lr_max=0.01, limit=100), "run", report=False)
    assert RUN.read("run")["notes"]

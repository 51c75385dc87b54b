"""The commands that look back: what has been run, and the page and figures made from the records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onecycle.commands.app import main
from onecycle.errors import CheckpointError
from onecycle.jobs.job import Job
from onecycle.jobs.run import run
from onecycle.records.run import listing

TINY = Job("digits", model="mlp", budget="2 updates", limit=200)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for i, optimizer in enumerate(("sgd", "adamw")):
        run(Job(**{**vars(TINY), "optimizer": optimizer, "seed": i}), folder / "runs" / optimizer)
    damaged = folder / "runs" / "deep" / "damaged"
    damaged.mkdir(parents=True)
    (damaged / "run.json").write_text("{")
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def said(capsys, *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def test_a_listing_has_every_run_and_says_which_cannot_be_read():
    rows = {Path(row["run"]).name: row for row in listing("runs")}
    assert set(rows) == {"sgd", "adamw", "damaged"}
    assert rows["sgd"]["status"] == "finished" and rows["sgd"]["lr_max"] == 0.2 and 0 <= rows["sgd"]["test"] <= 1
    assert rows["damaged"]["status"] == "unreadable" and "cannot be read" in rows["damaged"]["error"]
    with pytest.raises(CheckpointError, match="there is no folder nowhere"):
        listing("nowhere")


def test_runs_is_a_table_that_sorts(capsys):
    main(["runs"])
    lines, why = (stream.splitlines() for stream in capsys.readouterr())
    assert len(why) == 1 and why[0].startswith("note: runs/deep/damaged/run.json cannot be read: ")
    assert lines[0].split()[:3] == ["run", "created", "status"] and len(lines) == 4
    by_peak = json.loads(said(capsys, "runs", "--sort", "lr_max", "--json"))["runs"]
    assert [row["lr_max"] for row in by_peak] == [0.007, 0.2, None]
    by_name = json.loads(said(capsys, "runs", "--sort", "run", "--json"))["runs"]
    assert [Path(row["run"]).name for row in by_name] == ["adamw", "damaged", "sgd"]


def test_report_writes_a_page_figures_or_markdown(capsys):
    assert "written: p.html" in said(capsys, "report", "runs/sgd", "runs/adamw", "--out", "p.html")
    assert "adamw" in Path("p.html").read_text(encoding="utf-8")
    assert "written: runs/sgd/report.html" in said(capsys, "report", "runs/sgd")
    assert said(capsys, "report", "runs/sgd", "--markdown").startswith(
        "# mlp on digits, 2 updates\n\n- sgd: test accuracy "
    )
    for format, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        said(capsys, "report", "runs/adamw", "--format", format)
        assert Path(f"runs/adamw/curves.{format}").read_bytes().startswith(start)


def test_records_of_a_newer_version_are_named(tmp_path, capsys):
    for name, schema in (("run.json", 2), ("check.json", 1), ("compare.json", 1)):
        folder = tmp_path / name[:-5]
        folder.mkdir()
        (folder / name).write_text('{"schema": 9, "status": "finished", "config": {}}')
        with pytest.raises(SystemExit):
            main(["report", str(folder)])
        assert f"{name} has schema 9; this version of onecycle reads {schema}: a newer one" in capsys.readouterr().err
    main(["runs", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "unreadable" in out and "schema 9" in err


def test_a_run_that_is_cut_off_or_differs_is_reported_with_a_note(tmp_path, capsys):
    shutil.copytree("runs/sgd", tmp_path / "cut")
    steps = tmp_path / "cut/steps.jsonl"
    steps.write_bytes(steps.read_bytes()[:-9])
    run(Job(**{**vars(TINY), "limit": 300}), tmp_path / "less")
    text = said(capsys, "report", str(tmp_path / "cut"), str(tmp_path / "less"), "--markdown")
    assert "cut: steps.jsonl breaks off in line 2, and is shown up to there." in text
    assert "differ in their data, so their measures can't be compared: limit 200 (cut), 300 (less)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "name at least one folder"),
        (["report", "runs/sgdd"], "nothing to report in runs/sgdd"),
        (["report", "runs/sgd", "--format", "pgn"], "unknown format 'pgn': did you mean png?"),
        (["report", "runs/sgd", "--format", "pdf", "--out", "p"], "with --format no page is written, and --out would"),
        (["report", "runs/sgd", "--format", "pdf", "--markdown", "--open"], "and --markdown and --open would be"),
        (["report", "runs/sgd", "--markdown", "--out", "p"], "with --markdown no page is written, and --out would"),
        (["report", "runs/sgd", "--markdown", "--self-contained"], "no page is written, and --self-contained would"),
        (["report", "runs/sgd", "--markdown", "--open"], "with --markdown no page is written, and --open would"),
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["runs", "runs/deep/damaged/.."], ""),
        (["runs", "--sort", "seed"], "unknown column 'seed'"),
    ],
)
def test_bad_input(words, message, capsys):
    if not message:
        assert "unreadable" in said(capsys, *words)
        return
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_an_empty_folder_has_no_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path)])
    assert "there is no run in" in capsys.readouterr().err

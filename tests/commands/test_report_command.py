"""The commands that look back: what has been run, and the page and figures made from the records."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import forked
import pytest
from page_makers import write_check, write_comparison, write_run

from onecycle.commands.app import main
from onecycle.commands.runs import listing
from onecycle.errors import CheckpointError
from onecycle.jobs.job import Job
from onecycle.jobs.run import run

TINY = Job("digits", model="mlp", budget="2 updates", limit=200, batch_size=64)


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
    rows = {Path(row["run"]).name: row for row in listing([Path("runs")])["runs"]}
    assert set(rows) == {"sgd", "adamw", "damaged"}
    assert rows["sgd"]["status"] == "finished" and rows["sgd"]["lr_max"] == 0.2 and 0 <= rows["sgd"]["test"] <= 1
    assert rows["damaged"]["status"] == "unreadable" and "cannot be read" in rows["damaged"]["error"]
    with pytest.raises(CheckpointError, match="there is no folder nowhere"):
        listing([Path("nowhere")])


def test_runs_is_a_table_that_sorts(capsys):
    main(["runs"])
    lines, why = (stream.splitlines() for stream in capsys.readouterr())
    assert len(why) == 1 and why[0].startswith("note: runs/deep/damaged/run.json cannot be read: ")
    assert lines[0] == "Runs, by valid accuracy, the best first:"
    assert lines[1].split()[:3] == ["run", "data", "model"] and len(lines) == 5
    best = json.loads(said(capsys, "runs", "--json"))["runs"]
    assert best[0]["valid"] >= best[1]["valid"] and best[2]["status"] == "unreadable"
    by_peak = json.loads(said(capsys, "runs", "--sort", "lr_max", "--json"))["runs"]
    assert [row["lr_max"] for row in by_peak] == [0.007, 0.2, None]
    by_name = json.loads(said(capsys, "runs", "--sort", "run", "--json"))["runs"]
    assert [Path(row["run"]).name for row in by_name] == ["adamw", "damaged", "sgd"]


def test_runs_lists_comparisons_and_checks_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/one"))
    write_check(Path("runs/tested"))
    write_comparison(Path("comparisons/all"))
    listed = json.loads(said(capsys, "runs", "--json"))
    assert {kind: [one[kind[:-1]] for one in listed[kind]] for kind in listed} == {
        "runs": ["runs/one"], "comparisons": ["comparisons/all"], "checks": ["runs/tested"]
    }  # fmt: skip
    inside = json.loads(said(capsys, "runs", "comparisons/all", "--json"))
    assert inside["runs"] and len(inside["comparisons"]) == 1
    lines = said(capsys, "runs").splitlines()
    assert [line for line in lines if line.endswith(":")] == [
        "Runs, by valid accuracy, the best first:", "Comparisons:", "Checks:"
    ]  # fmt: skip
    assert any(line.split()[0] == "comparisons/all" and " of " in line for line in lines if line)


def test_runs_without_any_measurement_are_not_said_to_be_sorted_by_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/one"), result=None, status="interrupted")
    heading, columns, _ = said(capsys, "runs").splitlines()
    assert heading == "Runs:" and "valid" not in columns and "test" not in columns
    assert said(capsys, "runs", "--sort", "model").startswith("Runs, by model:")


def test_runs_says_the_names_that_were_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, resolved = {"data": "digits", "optimizer": "muon"}, {"model": "small-cnn", "optimizer": "Muon"}
    write_run(Path("runs/one"), config=config, resolved=resolved)
    run = json.loads(said(capsys, "runs", "--json"))["runs"][0]
    assert (run["model"], run["optimizer"]) == ("small-cnn", "muon")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_runs_fits_the_terminal(width, tmp_path, monkeypatch):
    """The least important columns are left out first, and the metrics stay."""
    write_run(tmp_path / "runs" / "a-name-that-is-rather-long-and-says-much-of-the-run" / "seed-1", model="resnet20")
    mine, its = pty.openpty()
    with forked.Popen(
        ["-m", "onecycle", "runs", "runs"], stdin=its, stdout=its, stderr=subprocess.DEVNULL,
        cwd=tmp_path, env={**os.environ, "COLUMNS": str(width), "TERM": "xterm"},
    ):  # fmt: skip
        os.close(its)
        text = b""
        with suppress(OSError):
            while data := os.read(mine, 4096):
                text += data
    os.close(mine)
    lines = re.sub(r"\x1b\[\d*m|\r", "", text.decode()).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= width
    assert "valid accuracy" in lines[1] and "created" not in lines[1] and ("model" in lines[1]) == (width == 120)
    assert "80.00 %" in lines[2] and "seed-1" in lines[2]


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
    assert not Path("runs/adamw/forecast.png").exists()


def test_several_runs_are_ranked_and_a_page_is_written_where_asked(tmp_path, capsys, monkeypatch):
    folders = [write_run(tmp_path / name, optimizer=name) for name in ("sgd", "adam")]
    (tmp_path / "plotly-1.min.js").write_text("")  # which RUNS/* names too
    text = said(capsys, "report", *map(str, (*folders, tmp_path / "plotly-1.min.js")))
    assert text.startswith("By validation accuracy sgd is first of 2: 80.00 %")
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["run", "sgd", "adam"]
    assert "optimizer" in text and "model" not in text and "add --out FILE.html" in text
    assert not list(tmp_path.glob("**/report.html"))
    text = said(capsys, "report", *map(str, folders), "--out", str(tmp_path / "p.html"))
    assert "is first of 2" in text and text.splitlines()[-1] == f"written: {tmp_path / 'p.html'}"
    assert [bool(line) for line in text.splitlines()[-3:]] == [True, False, True]  # one line apart, no more
    assert "Ranked by validation accuracy" in (tmp_path / "p.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["report", *map(str, folders), "--open"])
    assert "add --out FILE.html" in capsys.readouterr().err


def test_a_forecast_is_drawn_for_print(tmp_path, capsys):
    expected = [{"factor": f, "updates": 8 * f, "value": 0.8, "low": 0.7, "high": 0.9} for f in (1, 2)]
    folder = write_run(tmp_path / "a", forecast={"measure": "accuracy", "expected": expected})
    out = said(capsys, "report", str(folder), "--format", "png")
    assert out.splitlines() == [f"drawn in {folder / name}.png" for name in ("curves", "forecast")]
    assert (folder / "forecast.png").read_bytes().startswith(b"\x89PNG")


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

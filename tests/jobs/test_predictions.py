"""Predictions are written as they come, from files of any length: to files that are whole or not there, to pipes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import image_folder

from onecycle import ConfigError, DataError, Interrupted, Job, Learner, build_model, load_run, run
from onecycle.commands.app import main
from onecycle.jobs.predictions import predict_files, write_predictions
from onecycle.records.files import RUN


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pets() -> None:
    image_folder(Path("pets"), each=10, shape=(12, 20, 3))
    run(Job("pets", model="small-cnn", budget="1 epochs", batch_size=4, image_size=8), "run", report=False)


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


TABLE = [f"{i % 17 / 4},{'abc'[i % 3]},{'high' if i % 17 > 8 else 'low'}" for i in range(120)]


def a_table(name: str = "table.csv", times: int = 1) -> str:
    Path(name).write_text("\n".join(["x,kind,y", *TABLE * times]) + "\n")
    return name


def of_a_table() -> None:
    run(Job(a_table(), target="y", budget="1 epochs", batch_size=16), "run", report=False)


def test_csv_and_json_lines_say_the_same(capsys):
    pets()
    main(["predict", "run", "pets", "--out", "a.csv", "--top-k", "2"])
    main(["predict", "run", "pets", "--out", "a.jsonl", "--top-k", "2"])
    capsys.readouterr()
    main(["predict", "run", "pets", "--out", "-", "--format", "jsonl", "--top-k", "2"])
    with open("a.csv", newline="") as file:
        of_csv = list(csv.DictReader(file))
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines("a.jsonl") == printed == predict_files("run", ["pets"], top_k=2)
    assert [{name: str(value) for name, value in row.items()} for row in printed] == of_csv
    assert sorted(os.listdir()) == ["a.csv", "a.jsonl", "pets", "run"]


def test_a_pattern_is_for_all_that_match():
    pets()
    dogs = predict_files("run", ["pets/dog/*.png"])
    assert [row["file"] for row in dogs] == [f"pets/dog/{i}.png" for i in range(10)]
    assert predict_files("run", ["pets/**/*.png"]) == predict_files("run", ["pets"])
    with pytest.raises(DataError, match=r"no file matches 'pets/\*\.jpg'"):
        predict_files("run", ["pets/*.jpg"])
    Path("pets/odd[1].png").write_bytes(Path("pets/dog/1.png").read_bytes())
    assert predict_files("run", ["pets/odd[1].png"])[0]["file"] == "pets/odd[1].png", "what is there is no pattern"


def test_workers_change_no_prediction():
    pets()
    assert predict_files("run", ["pets"], workers=1) == predict_files("run", ["pets"], workers=5)
    with pytest.raises(ConfigError, match="workers is the number of threads that decode images"):
        predict_files("run", ["pets"], workers=0)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_long_table_is_read_part_by_part_and_predicted_as_a_whole(suffix, monkeypatch):
    of_a_table()
    path = a_table("long.csv", times=9)
    if suffix == ".csv.gz":
        import gzip

        path = "long.csv.gz"
        Path(path).write_bytes(gzip.compress(Path("long.csv").read_bytes()))
    if suffix == ".parquet":
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv(path), path := "long.parquet")
    whole = predict_files("run", [path, "table.csv"])
    monkeypatch.setattr("onecycle.data.table_parts.BLOCK", 1000)
    monkeypatch.setattr("onecycle.data.table_parts.ROWS", 100)
    trained = load_run("run")
    parts = list(trained.of_files([path, "table.csv"]))
    assert len(parts) > 9
    pieces = list(trained.predictions([path, "table.csv"]))
    assert [row["file"] for row in pieces] == [row["file"] for row in whole]
    assert [row["file"] for row in whole][:2] == [f"{path}[0]", f"{path}[1]"] and len(whole) == 1200
    assert [row["class"] for row in pieces] == [row["class"] for row in whole]
    assert [row["probability"] for row in pieces] == pytest.approx([row["probability"] for row in whole], abs=1e-6)


def test_what_is_odd_in_a_long_table_is_read_as_in_a_whole_one(monkeypatch):
    rows = [f'{i % 17},"said ""{i}""\nand so"' + (",\u00fcber" if i > 60 else ",plain") for i in range(120)]
    text = "sep=,\nx,words,kind\n" + "\n".join(rows)
    from onecycle.data.csv_files import read_cells
    from onecycle.data.table_parts import cell_parts

    for encoding in ("utf-8", "cp1252", "utf-16"):
        Path("odd.csv").write_bytes(text.encode(encoding))
        whole = read_cells(Path("odd.csv")).table.to_pylist()
        assert whole[70] == {"x": "2", "words": 'said "70"\nand so', "kind": "\u00fcber"}
        with monkeypatch.context() as context:
            context.setattr("onecycle.data.table_parts.BLOCK", 333)
            parts = [part.table.to_pylist() for part in cell_parts(Path("odd.csv"))]
        assert len(parts) > 5 and [row for part in parts for row in part] == whole


def test_an_error_far_down_names_its_row_and_leaves_nothing(monkeypatch):
    of_a_table()
    path = a_table("long.csv", times=9)
    with open(path, "a") as file:
        file.write("high,a,low\n")
    monkeypatch.setattr("onecycle.data.table_parts.BLOCK", 1000)
    Path("out.csv").write_text("before")
    with pytest.raises(DataError, match=r"Column x in long\.csv has 1 cell that is no number.*'high'"):
        write_predictions(load_run("run"), [path], Path("out.csv"))
    assert Path("out.csv").read_text() == "before" and not list(Path().glob(".writing*"))


def test_arrays_are_read_where_they_are_used(monkeypatch):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    learn = Learner(build_model("mlp", input_shape=(3,), classes=2), (x, x[:, :2]), batch_size=8, verbose=False)
    learn.fit_one_cycle(1, 0.01, out="run")
    np.save("x.npy", x.numpy())
    monkeypatch.setattr("onecycle.data.inputs.CHUNK", 7)
    trained = load_run("run")
    assert [len(names) for names, _ in trained.of_files(["x.npy"])] == [7] * 7 + [1]
    assert torch.allclose(trained.predict("x.npy"), learn.predict(x), atol=1e-6)
    write_predictions(trained, ["x.npy"], Path("out.csv"))
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "output_1", "output_2"] and rows[49]["file"] == "x.npy[49]"
    assert float(rows[49]["output_2"]) == pytest.approx(learn.predict(x)[49, 1].item(), abs=1e-6)


def test_a_number_that_is_none_is_null_in_json():
    x = torch.randn(50, 3)
    learn = Learner(build_model("mlp", input_shape=(3,), classes=1), (x, x.sum(1)), batch_size=8, verbose=False)
    learn.fit_one_cycle(1, 0.01, out="run")
    trained = load_run("run")
    with torch.no_grad():
        next(trained.model.parameters()).fill_(torch.nan)
    np.save("x.npy", x.numpy())
    write_predictions(trained, ["x.npy"], Path("out.jsonl"))
    assert lines("out.jsonl")[0] == {"file": "x.npy[0]", "output": [None]}


def test_a_stop_keeps_what_was_predicted_and_says_where(monkeypatch):
    of_a_table()
    monkeypatch.setattr("onecycle.data.table_parts.BLOCK", 500)
    done: list[int] = []

    def after_two(so_far):
        done.append(so_far.rows)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped after \d+ samples: what .* is in out\.csv\.partial"):
        write_predictions(load_run("run"), [a_table("long.csv", 9)], Path("out.csv"), follow=after_two)
    assert len(done) == 2 and not Path("out.csv").exists()
    assert len(Path("out.csv.partial").read_text().splitlines()) == done[1] + 1


def test_a_reader_that_has_enough_gets_no_traceback():
    of_a_table()
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        command = [sys.executable, "-m", "onecycle", "predict", "run", "table.csv", "--out", "-"]
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 141 and "Traceback" not in ended.stderr and "Error" not in ended.stderr


def test_the_temperature_of_a_run_calibrates(capsys):
    of_a_table()
    plain = load_run("run")
    own = plain.predict("table.csv")
    RUN.update("run", calibration={"temperature": 2.0, "metric": "nll", "n": 20})
    trained = load_run("run")
    assert trained.temperature == 2.0 and torch.equal(trained.predict("table.csv"), own)
    calibrated = trained.predict("table.csv", calibrated=True)
    assert torch.allclose(calibrated, (own.log() / 2).softmax(1), atol=1e-6) and not torch.allclose(calibrated, own)
    assert next(trained.predictions("table.csv"))["probability"] == pytest.approx(calibrated[0].max().item(), abs=1e-6)
    capsys.readouterr()
    main(["predict", "run", "table.csv", "--json"])
    main(["predict", "run", "table.csv", "--json", "--no-calibrated"])
    said, _ = capsys.readouterr()
    first, second = (json.loads(part + "}") for part in said.rstrip()[:-1].split("\n}\n"))
    assert first["notes"] == second["notes"] == []
    assert first["predictions"][0]["probability"] == pytest.approx(calibrated[0].max().item(), abs=1e-6)
    assert second["predictions"][0]["probability"] == pytest.approx(own[0].max().item(), abs=1e-6)


def test_a_run_that_still_trains_predicts_by_its_last_checkpoint(capsys):
    of_a_table()
    (Path("run") / "model.safetensors").unlink()
    RUN.update("run", status="running")
    main(["predict", "run", "table.csv", "--json"])
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "run has not come to its end (running): the weights are those of its last checkpoint"
    ]
    RUN.update("run", calibration=None)
    main(["predict", "run", "table.csv", "--json"])
    assert json.loads(capsys.readouterr().out)["notes"][0] == (
        "probabilities are the model's own: this run has no calibration"
    )


def test_a_device_is_written_to_as_it_is():
    of_a_table()
    written = write_predictions(load_run("run"), ["table.csv"], Path("/dev/null"), format="csv")
    assert written.rows == 120 and not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.txt"], "the ending of a.txt tells of no format: name it a.csv or a.jsonl"),
        (["--out", "a.csv", "--format", "xml"], "unknown format 'xml'"),
        (["--format", "csv"], "--format is that of --out"),
        (["--out", "a.csv", "--json"], "leave out --out, or --json"),
        (["--out", "--json"], '--out is a file, or "-" for standard output; received --json'),
        (["--top-k", "3"], "top_k = 3: this run has 2 classes"),
    ],
)
def test_what_the_command_refuses(capsys, words, message):
    of_a_table()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", "run", "table.csv", *words])
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["run", "table.csv"]

"""Tables from file to prediction, as whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import onecycle
from onecycle.commands.app import main
from onecycle.errors import DataError
from onecycle.jobs.predictions import predict_files


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys):
    """What a command printed as JSON."""

    def run(*words: str):
        main([*words, "--json", *(["--no-report"] if words[0] == "train" else [])])
        return json.loads(capsys.readouterr().out)

    return run


def birds(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Two measures in their own units, a category and gaps, from which the species follows."""
    rng = np.random.default_rng(seed)
    species = rng.choice(["auk", "gull", "tern"], n)
    mass = rng.normal(0, 150, n) + pd.Series(species).map({"auk": 1200, "gull": 3500, "tern": 3600}).to_numpy()
    bill = rng.normal(0, 1, n) + pd.Series(species).map({"auk": 20, "gull": 30, "tern": 45}).to_numpy()
    frame = pd.DataFrame({"mass": mass, "bill": bill, "coast": rng.choice(["north", "south"], n), "species": species})
    return frame.assign(mass=frame["mass"].where(rng.random(n) > 0.03))


def test_a_csv_of_measures_and_words_is_trained_on_and_predicted(said):
    """As the penguins in their own units, which a plain network does not learn."""
    birds().to_csv("birds.csv", index=False)
    new = birds(60, seed=1)
    new.drop(columns="species").assign(more=1).to_csv("new.csv", index=False)
    result = said("train", "birds.csv", "--target", "species", "--epochs", "10", "--out", "run")
    assert result["valid"]["accuracy"] > 0.9
    predictions = said("predict", "run", "new.csv")["predictions"]
    assert [p["file"] for p in predictions[:2]] == ["new.csv[0]", "new.csv[1]"]
    assert np.mean([p["class"] for p in predictions] == new["species"].to_numpy()) > 0.95
    facts = json.loads(Path("run/run.json").read_text())["facts"]
    assert facts["kind"] == "table" and facts["columns"]["target"] == "species"


def test_any_model_of_arrays_and_a_test_file(said):
    birds().to_csv("birds.csv", index=False)
    birds(90, seed=1).to_csv("valid.csv", index=False)
    birds(80, seed=2).to_csv("test.csv", index=False)
    result = said(
        "train", "birds.csv", "--target", "species", "--valid", "valid.csv", "--test", "test.csv", "--model", "mlp",
        "--epochs", "10", "--out", "run",
    )  # fmt: skip
    assert result["test"]["accuracy"] > 0.9
    assert json.loads(Path("run/run.json").read_text())["facts"]["samples"] == [300, 90, 80]


def test_a_frame_in_python():
    data = onecycle.load(birds(), target="species")
    model = onecycle.build_model("tabular", input_shape=data.input_shape, classes=data.n_classes, columns=data.columns)
    learn = onecycle.Learner(model, data, verbose=False)
    assert learn.fit_one_cycle(10).valid["accuracy"] > 0.9


def test_codes_that_are_taken_for_numbers_are_said():
    data = onecycle.load(birds(), target="species")
    model = onecycle.build_model("mlp", input_shape=data.input_shape, classes=data.n_classes)
    notes = onecycle.Learner(model, data, verbose=False).notes
    assert any("takes the codes of 1 category for numbers" in note and "columns=data.columns" in note for note in notes)


def test_a_run_goes_on_from_its_checkpoint(said):
    birds().to_csv("birds.csv", index=False)
    words = ("train", "birds.csv", "--target", "species", "--leave-out", "coast", "--epochs", "2", "--out", "run")
    first = said(*words)
    assert said("train", "--resume", "run")["valid"] == first["valid"]
    assert json.loads(Path("run/run.json").read_text())["facts"]["columns"]["categories"] == []


def test_a_folder_with_a_table_for_each_split(said):
    Path("birds").mkdir()
    birds().to_csv("birds/train.csv", index=False)
    birds(90, seed=1).to_csv("birds/val.csv", index=False)
    birds(80, seed=2).to_csv("birds/Test.csv", index=False)
    Path("birds/sample_submission.csv").write_text("id,species\n1,auk\n")
    result = said("train", "birds", "--target", "species", "--epochs", "10", "--out", "run")
    assert result["test"]["accuracy"] > 0.9
    record = json.loads(Path("run/run.json").read_text())
    assert record["facts"]["samples"] == [300, 90, 80]
    assert "tables: train.csv, val.csv and Test.csv of birds" in record["notes"]
    assert "left out: sample_submission.csv beside the splits of birds" in record["notes"]
    assert onecycle.load("birds", target="species", valid="birds/Test.csv").valid.targets.shape == (80,)


def test_tables_without_a_target_in_a_folder_are_for_predicting():
    Path("birds").mkdir()
    birds().to_csv("birds/train.csv", index=False)
    birds(80, seed=2).drop(columns="species").to_csv("birds/test.csv", index=False)
    birds(80, seed=2).assign(species=None).to_csv("birds/valid.csv", index=False)
    data = onecycle.load("birds", target="species")
    assert data.test is None and len(data.valid) == 30
    for name in ("test.csv", "valid.csv"):
        assert f"left out: {name} (no species to measure by; onecycle predict takes it)" in data.notes


def test_folders_of_tables_that_cannot_be_told():
    Path("birds").mkdir()
    birds().to_csv("birds/all.csv", index=False)
    assert len(onecycle.load("birds", target="species").train) == 270
    birds().to_csv("birds/more.csv", index=False)
    with pytest.raises(
        DataError, match=r"no table to train on, though target='species' names a column: put train\.csv"
    ):
        onecycle.load("birds", target="species")
    for name in ("train.csv", "training.tsv"):
        birds().to_csv(f"birds/{name}", index=False)
    with pytest.raises(DataError, match=r"has train\.csv and training\.tsv, which are one split"):
        onecycle.load("birds", target="species")


def test_a_folder_of_tables_asks_for_its_target():
    Path("birds").mkdir()
    birds().to_csv("birds/train.csv", index=False)
    with pytest.raises(DataError, match=r"train\.csv is a table: say which column is to be predicted"):
        onecycle.load("birds")


def test_numbers_that_are_too_many_to_be_binned_are_said():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 130))).assign(y=["a", "b"] * 30)
    for columns, said in ((130, ["130 numbers a row are too many to be binned: taken as they are"]), (20, [])):
        data = onecycle.load(frame[[*range(columns), "y"]], target="y")
        model = onecycle.build_model("tabular", input_shape=data.input_shape, classes=2, columns=data.columns)
        notes = onecycle.Learner(model, data, verbose=False).notes
        assert [note for note in notes if "binned" in note] == said


def test_rows_unlike_those_of_training_are_said():
    rows = [f"{number / 10},{'uvw'[number % 3]},{'no' if number % 2 else 'yes'}" for number in range(120)]
    Path("train.csv").write_text("\n".join(["size,kind,answer", *rows]))
    onecycle.run(onecycle.Job("train.csv", target="answer", budget="1 epochs"), "run", verbose=False, report=False)
    Path("new.csv").write_text("size,kind\n3,u\n4,zz\n9000,v\n,w\n")
    said: list[str] = []
    assert len(predict_files("run", ["new.csv"], say=said.append)) == 4
    assert said == [
        "1 of 4 values of kind unknown, or rare, in training",
        "1 of 4 values of size far from all that was seen in training",
    ]
    said.clear()
    predict_files("run", ["train.csv"], say=said.append)
    assert not said


def sizes(sign: str, rows: range) -> list[str]:
    return [f"{number / 8:.3f}".replace(".", sign) for number in rows]


def test_a_table_that_proves_another_decimal_sign_is_read_by_it():
    def text(separator: str, sign: str, rows: range) -> str:
        lines = [f"{size}{separator}{number / 4}" for size, number in zip(sizes(sign, rows), rows, strict=True)]
        return "\n".join(
            [f"size{separator}price", *(lines if sign == "." else [line.replace(".", ",") for line in lines])]
        )

    Path("semi.csv").write_text(text(";", ",", range(1, 200)))
    Path("dot.csv").write_text(text(",", ".", range(1, 60)))
    data = onecycle.load("semi.csv", target="price", valid="dot.csv")
    alike = onecycle.load("dot.csv", target="price", valid="dot.csv")
    assert data.valid.targets.tolist() == alike.valid.targets.tolist() == [number / 4 for number in range(1, 60)]
    assert any("point in decimal numbers, unlike in training: size and price" in note for note in data.notes)
    whole = onecycle.load("semi.csv", target="price", valid="semi.csv")
    assert (data.valid.inputs == whole.valid.inputs[:59]).all()


def test_a_target_has_decimal_commas_where_another_column_proves_them():
    frame = pd.DataFrame({"area": sizes(",", range(1, 200)), "price": [f"{n % 17},{n % 10}" for n in range(1, 200)]})
    assert onecycle.load(frame, target="price").classes is None
    with pytest.raises(DataError, match=r"where a comma is a decimal one, task='regression'"):
        onecycle.load(frame.assign(area=range(1, 200)), target="price")


def test_what_is_missing_among_words_of_training_is_so_in_a_frame_to_predict():
    rows = [f"{number},{('x', 'NA', 'z')[number % 3]},{number % 3}" for number in range(90)]
    Path("train.csv").write_text("\n".join(["n,kind,y", *rows]))
    onecycle.run(onecycle.Job("train.csv", target="y", budget="1 epochs"), "run", verbose=False, report=False)
    trained = onecycle.load_run("run")
    given = pd.DataFrame({"n": [3, 4], "kind": ["x", "NA"]})
    given.to_csv("new.csv", index=False)
    assert trained.predict(given).tolist() == trained.predict("new.csv").tolist()


def test_the_cell_that_is_no_number_is_named():
    Path("semi.csv").write_text(
        "\n".join(["size;y", *(f"{size};{n % 2}" for n, size in enumerate(sizes(",", range(90))))])
    )
    onecycle.run(onecycle.Job("semi.csv", target="y", budget="1 epochs"), "run", verbose=False, report=False)
    Path("new.csv").write_text(
        "size\n1,5\nx\n3,5\n".replace("size", "size;n").replace("\n", ";1\n").replace("n;1", "n", 1)
    )
    with pytest.raises(DataError, match=r"1 cell that is no number, the first in row 2: 'x'"):
        predict_files("run", ["new.csv"])

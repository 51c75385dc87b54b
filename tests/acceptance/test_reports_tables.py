"""Tables from file to prediction, as whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import onecycle
from onecycle.commands.app import main


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

"""Texts by class: folders of text files, and a column of a table, from training to prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import onecycle
from onecycle.commands.app import main
from onecycle.errors import ConfigError, DataError
from onecycle.jobs.predictions import predict_files

pytest.importorskip("tokenizers")

WORDS = {"sea": "ship sail wave harbour anchor tide", "wood": "tree leaf root branch moss fern"}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def texts(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Sentences of common words with two or three of a class."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        topic = ("sea", "wood")[i % 2]
        common = rng.choice(["the", "a", "of", "and", "was", "there", "then", "one", "day", "we", "saw", "it"], 14)
        mixed = rng.permutation([*common, *rng.choice(WORDS[topic].split(), 3)])
        rows.append({"review": " ".join(mixed) + ".", "topic": topic})
    return pd.DataFrame(rows)


def folder(root: Path, frame: pd.DataFrame) -> None:
    for i, row in enumerate(frame.to_dict("records")):
        place = root / row["topic"] / f"{i}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(row["review"], encoding="utf-8")


def test_a_column_of_texts_from_file_to_prediction(capsys):
    texts().to_csv("texts.csv", index=False)
    new = texts(40, seed=1)
    new.drop(columns="topic").to_csv("new.csv", index=False)
    Path("one.txt").write_text("Then we saw the tree, a leaf and a root!")
    quick = ["--epochs", "6", "--batch-size", "16", "--no-report", "--json"]
    main(["train", "texts.csv", "--target", "topic", "--out", "run", *quick])
    assert json.loads(capsys.readouterr().out)["valid"]["accuracy"] > 0.9
    main(["predict", "run", "new.csv", "one.txt", "--json"])
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    assert np.mean([p["class"] for p in predictions] == [*new["topic"], "wood"]) > 0.9
    assert predictions[-1]["file"] == "one.txt" and predictions[-1]["class"] == "wood"
    said: list[str] = []
    predict_files("run", ["new.csv"], say=said.append)
    assert not said
    Path("greek.txt").write_text("τότε είδαμε το δέντρο")
    predict_files("run", ["one.txt", "greek.txt"], say=said.append)
    assert said == ["1 of 2 texts mostly of characters unknown in training"]
    facts = json.loads(Path("run/run.json").read_text())["facts"]
    assert facts["kind"] == "texts" and facts["columns"]["column"] == "review"
    assert onecycle.load_run("run").predict(new).shape == (40, 2)


@pytest.mark.parametrize("ending", ["", ".jpg"])
def test_texts_of_a_file_that_are_longer_than_a_path_may_be(ending):
    frame = texts()
    frame["review"] = (frame["review"] + " ") * 5 + ending
    frame.to_csv("texts.csv", index=False)
    assert onecycle.load("texts.csv", target="topic").kind == "texts"


def test_what_is_left_out_of_a_folder_of_texts_is_said():
    folder(Path("topics") / "train", texts())
    for file in ("sea/.ipynb_checkpoints/0-checkpoint.txt", "sea/notes.md", "lake/1.md", "lake/2.md", "loose.txt"):
        place = Path("topics/train") / file
        place.parent.mkdir(exist_ok=True)
        place.write_text("of no class")
    for file in ("test/unknown.txt", "more/sea/1.txt"):
        (Path("topics") / file).parent.mkdir(parents=True)
        (Path("topics") / file).write_text("of no class")
    data = onecycle.load("topics")
    assert (data.classes, len(data.train) + len(data.valid), data.test) == (("sea", "wood"), 120, None)
    train = Path("topics/train")
    assert {
        f"left out: lake of {train} (few or no text files)",
        f"left out 3 files of {train}, such as loose.txt",
        f"left out 1 file of {Path('topics/test')}, such as unknown.txt",
        f"left out: {Path('topics/test')} (no text files by class)",
        "left out: more beside the splits of topics",
    } <= set(data.notes)


def test_a_folder_of_text_files_by_class():
    for split, n, seed in (("train", 120, 0), ("test", 20, 1)):
        folder(Path("topics") / split, texts(n, seed))
    data = onecycle.load("topics")
    assert (data.kind, data.classes, len(data.train), len(data.test)) == ("texts", ("sea", "wood"), 108, 20)
    model = onecycle.build_model("text-classifier", input_shape=data.input_shape, classes=2, columns=data.columns)
    learn = onecycle.Learner(model, data, batch_size=16, verbose=False)
    learn.fit_one_cycle(6)
    assert learn.evaluate(data.test)["accuracy"] > 0.9
    folder(Path("flat"), texts())
    assert onecycle.load("flat").kind == "texts"


def test_tokens_are_learned_from_the_training_texts_alone():
    frame = texts()
    held_out = texts(20, 1).assign(review=lambda f: f["review"] + " zyzzyva zyzzyva")
    data = onecycle.load(frame, target="topic", valid=held_out)
    assert data.columns == onecycle.load(frame, target="topic", valid=texts(20, 1)).columns
    assert "zyzzyva" not in data.columns.tokenizer
    assert data.train.inputs.dtype == torch.int64 and (data.train.inputs[:, 0] == 2).all()
    assert int(data.train.inputs.max()) < data.columns.vocabulary


def test_texts_beside_other_columns_are_chosen_by_name():
    frame = texts().assign(stars=range(120))
    table = onecycle.load(frame, target="topic")
    assert table.kind == "table" and any("review (free text" in note and "text_column" in note for note in table.notes)
    assert onecycle.load(frame, target="topic", text_column="review").kind == "texts"
    with pytest.raises(ConfigError, match="text_column names no column beside the target: 'reviews'"):
        onecycle.load(frame, target="topic", text_column="reviews")


def test_empty_and_long_texts_are_counted():
    frame = texts().assign(review=lambda f: f["review"].where(f.index != 3, ""))
    frame.loc[4, "review"] = "the day " * 400
    data = onecycle.load(frame, target="topic", text_column="review", valid=texts(20, 1))
    assert any("1 training text of 120 without a word" in note for note in data.notes)
    assert any("of 120 cut off after" in note for note in data.notes)
    model = onecycle.build_model("text-classifier", input_shape=data.input_shape, classes=2, columns=data.columns)
    assert torch.isfinite(model(data.train.inputs[:8])).all()


def test_padding_changes_nothing():
    data = onecycle.load(texts(), target="topic")
    model = onecycle.build_model("text-classifier", input_shape=data.input_shape, classes=2, columns=data.columns)
    ids = data.train.inputs[:1, :8].clone()
    padded = torch.cat([ids, torch.zeros(1, data.columns.length - 8, dtype=torch.int64)], 1)
    assert torch.allclose(model.eval()(ids), model(padded), atol=1e-6)


def test_a_missing_column_is_refused():
    columns = onecycle.load(texts(), target="topic").columns
    import pyarrow as pa

    with pytest.raises(DataError, match="lacks the column of texts that the model was trained on: review"):
        columns.encode(pa.table({"text": ["a"]}))


def test_two_folders_for_one_split_are_refused():
    for split in ("train", "val", "valid"):
        folder(Path("root") / split, texts(12))
    with pytest.raises(DataError, match="root has val and valid, which are one split"):
        onecycle.load("root")


def test_texts_in_utf_16(tmp_path):
    folder(Path("root"), texts(40))
    first = next(Path("root/sea").iterdir())
    plain = onecycle.load("root").train.inputs
    first.write_text(first.read_text(), encoding="utf-16")
    assert torch.equal(onecycle.load("root").train.inputs, plain)
    first.write_bytes(b"\x89PNG\0\0\1\2")
    with pytest.raises(DataError, match="1 of 40 text files is no text that can be read"):
        onecycle.load("root")

"""Tables: what each column becomes, learned from the training rows alone, and what is said and refused."""

import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from onecycle.data import load
from onecycle.data.table_cells import typed
from onecycle.data.table_columns import CategoryColumn, NumberColumn, TableColumns
from onecycle.data.tables import read_rows
from onecycle.errors import ConfigError, DataError


def fit(columns: dict, target: str = "y") -> tuple[TableColumns, tuple[str, ...]]:
    read = typed(pa.table(columns))
    made, notes = TableColumns.fit(read.table, (target,), notations=read.notations)
    return made, (*read.notes, *notes)


def squeezed(z: float) -> float:
    return z / math.sqrt(1 + (z / 3) ** 2)


def houses(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    area = rng.uniform(30, 200, n)
    town = rng.choice(["Bonn", "Ulm", "Köln"], n)
    price = 1e5 + 2000 * area + 5e4 * (town == "Köln") + rng.normal(0, 1e4, n)
    return pd.DataFrame({"area": area, "town": town, "price": price})


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


# What a column becomes


def test_numbers_are_centred_scaled_and_squeezed():
    columns, _ = fit({"x": [0.0, 1.0, 2.0, 3.0, 4.0], "y": [0, 1, 0, 1, 0]})
    number = columns.numbers[0]
    assert (number.median, number.center, number.scale, number.flag) == (2, 2, pytest.approx(2 / 1.35), False)
    encoded = columns.encode(pa.table({"x": [2.0, 1e9]}))[:, 0].tolist()
    assert encoded == [0, pytest.approx(3, abs=1e-5)]
    assert columns.encode(pa.table({"x": [4]}))[0, 0].item() == pytest.approx(squeezed(2 / (2 / 1.35)))


@pytest.mark.parametrize("far", [1e200, -1e300, 1.7e308])
def test_a_number_beyond_all_others_is_squeezed_and_told(far):
    columns, _ = fit({"x": [0.0, 1e-3, 2e-3, 3e-3, 4e-3], "y": [0, 1, 0, 1, 0]})
    rows = columns.encode(pa.table({"x": [far, 2e-3]}))
    assert rows[:, 0].tolist() == [math.copysign(3, far), 0]
    assert columns.unlike(rows) == ("1 of 2 values of x far from all that was seen in training",)


def test_of_numbers_that_are_mostly_one_value_mean_and_deviation():
    columns, _ = fit({"x": [0.0] * 8 + [0.5, 9.5], "y": [0, 1] * 5})
    assert columns.numbers[0].center == 1 and columns.numbers[0].scale == pytest.approx(np.std([0] * 8 + [0.5, 9.5]))


def test_missing_numbers_are_the_median_with_a_flag():
    columns, notes = fit({"x": [1.5, None, 3.5, 5.5], "y": [0, 1, 0, 1]})
    assert columns.flags == 1
    assert columns.encode(pa.table({"x": pa.array([None, 3.5], pa.float64())})).tolist() == [[0, 1], [0, 0]]
    assert any(note.startswith("missing in 4 training rows: x 1;") for note in notes)


def test_categories_have_codes_unknown_and_missing_ones_too():
    columns, _ = fit({"c": ["b", "a", None, "a"], "y": [0, 1, 0, 1]})
    assert columns.categories == (CategoryColumn("c", "", ("a", "b"), True),)
    assert columns.encode(pa.table({"c": ["a", " b ", None, "new", ""]}))[:, 0].tolist() == [2, 3, 1, 0, 1]
    assert columns.cardinalities == (4,)


def test_rare_words_of_many_share_the_code_of_unknown_ones():
    words = [f"w{i}" for i in range(30) for _ in range(4)] + ["once"] * 2
    columns, _ = fit({"c": words, "y": [0, 1] * 61})
    assert len(columns.categories[0].values) == 30
    assert columns.encode(pa.table({"c": ["once", "w0"]}))[:, 0].tolist() == [0, 2]


def test_few_whole_numbers_are_numbers_and_categories():
    doors = [2, 4, 5] * 20
    columns, notes = fit({"doors": doors, "y": [0, 1] * 30})
    assert [column.name for column in columns.numbers] == ["doors"]
    assert columns.categories[0].values == ("2", "4", "5")
    codes = columns.encode(pa.table({"doors": [4.0, 7.0, None]}))[:, -1].tolist()  # as pandas gives them with a gap
    assert codes == [3, 0, 1]
    assert any("numbers that are categories too" in note and "doors" in note for note in notes)


def test_booleans_are_categories():
    columns, _ = fit({"b": [True, False, None, True], "y": [0, 1, 0, 1]})
    assert columns.categories[0].values == ("false", "true")
    assert columns.encode(pa.table({"b": [True, False, None]}))[:, 0].tolist() == [3, 2, 1]


def test_what_a_row_becomes_does_not_depend_on_the_others():
    large = [3.0, 1e11, 2e11, 1e20] * 30
    columns, _ = fit({"n": large, "y": list(range(120))})
    alone, among = columns.encode(pa.table({"n": large[:4]})), columns.encode(pa.table({"n": [*large[:4], 0.5]}))
    assert torch.equal(alone, among[:4]) and sorted(alone[:, 1].tolist()) == [2, 3, 4, 5] and among[4, 1] == 0


def test_booleans_are_the_same_as_words_and_as_numbers():
    truths = [True, False, None] * 40
    columns, _ = fit({"b": truths, "y": list(range(120))})
    codes = columns.encode(pa.table({"b": truths[:3]}))
    for same in (["True", "FALSE", ""], [1, 0, None], ["1", "0", None]):
        assert torch.equal(columns.encode(pa.table({"b": same})), codes)
    columns, _ = fit({"b": [1, 0, None] * 40, "y": list(range(120))})
    assert torch.equal(columns.encode(pa.table({"b": truths})), columns.encode(pa.table({"b": [1, 0, None] * 40})))


def test_dates_with_a_time_zone_are_the_same_in_a_file(tmp_path):
    when = pd.date_range("2020-01-01", periods=200, freq="7h", tz="Europe/Berlin")
    frame = pd.DataFrame({"when": when, "y": np.arange(200.0)})
    columns = load(frame, target="y").columns
    frame.to_csv(tmp_path / "when.csv", index=False)
    assert torch.equal(columns.encode(pa.Table.from_pandas(frame)), read_rows([tmp_path / "when.csv"], columns)[0])


def test_dates_are_days_year_month_weekday():
    dates = pd.to_datetime(["2020-01-06", "2020-02-04", "2021-03-03", "2021-03-04"])  # Mon, Tue, Wed, Thu
    columns, notes = fit({"d": dates, "y": [0, 1, 0, 1]})
    assert [(c.name, c.part) for c in columns.numbers] == [("d", "days"), ("d", "year")]
    assert {c.part: c.values for c in columns.categories} == {
        "month": ("1", "2", "3"), "weekday": ("0", "1", "2", "3"),
    }  # fmt: skip
    assert columns.numbers[0].median == pytest.approx((pd.Timestamp("2020-08-18 12:00") - pd.Timestamp(0)).days, abs=1)
    row = columns.encode(pa.table({"d": ["2021-03-03"]}))[0].tolist()  # words that are dates
    assert row[2:] == [4, 4]
    assert "columns: 1 date" in notes


def test_words_that_are_numbers_are_read_as_numbers():
    prices = [f"${i},{i:03d}.5" for i in range(1, 60)] + ["unknown"]
    columns, notes = fit({"p": prices, "y": [0, 1] * 30})
    assert columns.numbers[0].median == pytest.approx(30_030.5) and columns.numbers[0].flag
    assert "p: no number in 1 cell of 60, taken as missing" in notes


def test_a_word_among_numbers_is_missing_in_every_split_and_file(tmp_path):
    prices = [f"${i}.50" for i in range(200)]
    prices[7] = prices[150] = "ask"
    data = load(pd.DataFrame({"p": prices, "y": np.arange(200) / 3}), target="y")
    assert any("taken as missing" in note for note in data.notes)
    assert sum(float(part.inputs[:, 1].sum()) for part in (data.train, data.valid)) == 2
    inputs, _ = read_rows([write(tmp_path / "new.csv", "p\n$3.50\nask\n")], data.columns)
    assert inputs[:, 1].tolist() == [0, 1]


def test_what_cannot_be_learned_from_is_left_out_and_said():
    n = 40
    _, notes = fit({
        "PassengerId": list(range(n)),
        "name": [f"Ms {i}" for i in range(n)],
        "review": ["a long text of a person who was here, number " + str(i) for i in range(n)],
        "same": [7] * n,
        "none": pa.array([None] * n, pa.float64()),
        "list": [[1, 2]] * n,
        "x": np.linspace(0, 1, n),
        "y": [0, 1] * 20,
    })  # fmt: skip
    said = next(note for note in notes if note.startswith("left out: "))
    for words in (
        "PassengerId (it numbers the rows)", "name (40 different words in 40 rows)", "review (free text of 47",
        "same (one value in all training rows)", "none (no value in the training rows)", "list (list<",
    ):  # fmt: skip
        assert words in said, said


def test_columns_survive_plain_data():
    columns, _ = fit({"x": [1.5, None, 2.5], "c": ["a", "b", "a"], "y": [0, 1, 0]})
    assert TableColumns.from_dict(columns.to_dict()) == columns
    assert isinstance(columns.numbers[0], NumberColumn)


def test_only_training_rows_are_learned_from():
    frame = houses()
    data = load(frame, target="price")
    train = frame.iloc[_rows_of(data.train.inputs[:, 0], frame["area"], data.columns)]
    assert data.columns.numbers[0].median == pytest.approx(train["area"].median())
    assert len(train) == 180 and train["area"].median() != frame["area"].median()


def _rows_of(encoded, area, columns) -> list[int]:
    every = torch.from_numpy(columns.numbers[0].encode(area.to_numpy()).astype(np.float32))
    return [int((every == value).nonzero()[0]) for value in encoded]


# Files


def test_a_file_and_a_frame_give_the_same(tmp_path):
    frame = houses()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write(frame.to_csv(index=False))
    first = load(frame, target="price")
    assert (first.kind, first.classes, first.name) == ("table", None, "table")
    for name in ("a.csv", "a.tsv", "a.parquet", "b.csv.gz"):
        data = load(tmp_path / name, target="price")
        numbers = tuple(replace(column, comma=None) for column in data.columns.numbers)  # a frame has none
        assert replace(data.columns, numbers=numbers) == first.columns, name
        assert torch.equal(data.train.inputs, first.train.inputs) and torch.equal(
            data.valid.targets, first.valid.targets
        )


def test_semicolons_and_commas_of_a_european_file_in_latin_1(tmp_path):
    text = "stadt;preis;zimmer\n" + "".join(f"K\u00f6ln;{i},5;{i % 4}\nBonn;{i},25;{i % 3}\n" for i in range(50))
    data = load(write(tmp_path / "a.csv", text, "latin-1"), target="stadt")
    assert data.classes == ("Bonn", "K\u00f6ln")
    assert data.columns.numbers[0].median == pytest.approx(24.9, abs=2)
    assert "a.csv is not UTF-8: read as Latin-1" in data.notes
    assert {"columns are separated by ';'", "a comma in decimal numbers: preis"} <= set(data.notes)


def test_a_column_whose_name_is_latin_1(tmp_path):
    lines = "\n".join(f"{i};{i % 7},5" for i in range(40))
    data = load(write(tmp_path / "g.csv", f"Größe;Preis\n{lines}\n", "latin-1"), target="Preis", task="regression")
    assert data.columns.names == ("Größe",) and "g.csv is not UTF-8: read as Latin-1" in data.notes


def test_rows_are_not_read_from_an_image(tmp_path):
    columns, _ = fit({"a": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]})
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    with pytest.raises(DataError, match=r"red\.png"):
        read_rows([tmp_path / "red.png"], columns)


def test_further_files_are_the_other_splits(tmp_path):
    for name, seed, n in (("train", 0, 200), ("valid", 1, 30), ("test", 2, 20)):
        houses(n, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    data = load(
        tmp_path / "train.csv", target="price", valid=str(tmp_path / "valid.csv"), test=tmp_path / "test.csv"
    )  # fmt: skip
    assert data.test is not None and (len(data.train), len(data.valid), len(data.test)) == (200, 30, 20)
    assert data.columns.numbers[0].median == pytest.approx(houses()["area"].median())


def test_codes_with_zeros_in_front_stay_words(tmp_path):
    write(tmp_path / "train.csv", "zip,y\n" + "01a,0\n02,1\n" * 30)
    write(tmp_path / "valid.csv", "zip,y\n" + "02,1\n02,1\n02,0\n")
    data = load(tmp_path / "train.csv", target="y", valid=tmp_path / "valid.csv")
    assert data.valid.inputs[:, 0].tolist() == [3, 3, 3]
    assert read_rows([write(tmp_path / "new.csv", "zip\n02\n")], data.columns)[0].tolist() == [[3]]


# The target


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["no", "yes"] * 20, ("no", "yes")),
        ([True, False] * 20, ("false", "true")),
        ([3, 1] * 20, ("1", "3")),
        ([3.0, 1.0] * 20, ("1", "3")),
        ([0.5, 1.0] * 20, None),
        (list(range(40)), None),
    ],
    ids=str,
)
def test_classes_or_regression_by_the_target(values, classes):
    data = load(pd.DataFrame({"x": np.linspace(0, 1, 40), "y": values}), target="y")
    assert data.classes == classes
    assert data.train.targets.dtype == (torch.float32 if classes is None else torch.int64)
    assert any(note.startswith("a regression" if classes is None else "a classification") for note in data.notes)


def test_a_task_that_is_asked_for():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40), "y": [3, 5] * 20})
    assert load(frame, target="y", task="regression").classes is None
    assert load(frame, target="y").classes == ("3", "5")
    with pytest.raises(DataError, match="fractions"):
        load(frame.assign(y=np.linspace(0, 1, 40)), target="y", task="classification")
    with pytest.raises(ConfigError, match="unknown task 'regress': did you mean regression"):
        load(frame, target="y", task="regress")


def test_rows_without_a_target_are_left_out_and_counted():
    frame = houses().assign(price=lambda f: f["price"].where(f.index >= 3))
    data = load(frame, target="price")
    assert len(data.train) + len(data.valid) == 197
    assert "train: left out 3 rows of 200 without a value of price" in data.notes


def test_a_column_that_gives_the_target_away_is_said():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 200), "alive": ["no", "yes"] * 100, "y": [0, 1] * 100})
    data = load(frame, target="y")
    said = [note for note in data.notes if "alone tells y" in note]
    assert said and "--leave-out alive" in said[0]
    without = load(frame, target="y", leave_out=["alive"])
    assert without.columns.names == ("x",) and "left out: alive (as asked)" in without.notes
    assert not any("alone tells" in note for note in without.notes)


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "no rows below its header"),
        ("a,b", "no rows below its header"),
        ("a,b\n1,2\n1,2,3\n", "Expected 2 columns, got 3"),
        ("a,a,y\n1,2,3\n", "several columns called 'a'"),
        ("1,2,3\n4,5,6\n", "numbers in its first line"),
        ('y,a\n1,"5\n2,6\n3,7\n', 'has a quote \\("\\) that is not closed, in row 1'),
        ("a b c\n1 2 3\n", "no column 'y'"),
        ("a,Y\n1,2\n", "no column 'y': did you mean Y"),
        ("\n", "nothing in its first line"),
        ("a,b\n1,2\n", "no column 'y'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "a.csv", text), target="y")


def test_columns_of_pandas_may_be_numbers():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)))
    columns = load(frame, target=3, leave_out=[1]).columns
    assert (columns.target, columns.names) == (("3",), ("0", "2"))
    with pytest.raises(DataError, match=r"This frame has no column '4'.* Known: 0, 1, 2, 3"):
        load(frame, target=4)


def test_a_table_needs_a_target(tmp_path):
    houses().to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"is a table: .* target='price' \(--target price\).*area, town and price"):
        load(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no column 'prise': did you mean price"):
        load(tmp_path / "a.csv", target="prise")


def test_options_of_tables_are_refused_elsewhere(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=[0, 1, 0, 1])
    with pytest.raises(ConfigError, match="target: for tables alone, and a is array"):
        load(tmp_path / "a.npz", target="y")
    with pytest.raises(ConfigError, match="target: for tables alone, and digits is image"):
        load("digits", target="y")


def test_infinite_values_are_refused_by_name():
    frame = houses().assign(area=lambda f: f["area"].where(f.index != 7, np.inf))
    with pytest.raises(DataError, match="Column area of the valid split has 1 infinite value, the first in row 2"):
        load(frame, target="price")


def test_missing_columns_and_other_values_are_refused_by_name(tmp_path):
    columns = load(houses(), target="price").columns
    with pytest.raises(DataError, match="lacks 1 column that the model was trained on: town"):
        read_rows([write(tmp_path / "a.csv", "area,more\n3,4\n")], columns)
    with pytest.raises(DataError, match=r"Column area in .*a.csv has 1 cell that is no number, .* row 2: 'big'"):
        read_rows([write(tmp_path / "a.csv", "area,town\n3,Ulm\nbig,Ulm\n")], columns)


def test_a_target_with_too_many_words_is_refused():
    frame = pd.DataFrame({"x": range(60), "y": [f"w{i}" for i in range(60)]})
    with pytest.raises(DataError, match="60 different values in 60 rows, too many for classes"):
        load(frame, target="y")


def test_parquet_tables(tmp_path):
    pq.write_table(pa.Table.from_pandas(houses()), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", target="town").classes == ("Bonn", "Köln", "Ulm")

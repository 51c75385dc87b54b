"""Cells that are words as numbers, dates and truth values."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from onecycle.data import load
from onecycle.data.csv_files import read_cells
from onecycle.data.table_cells import dates_of, numbers_of, typed
from onecycle.data.tables import read_rows
from onecycle.errors import DataError


def column(values: list, separator: str | None = ",", **options):
    """What a column of words becomes: its values, and the notes."""
    made = typed(pa.table({"c": values}), separator=separator, **options)
    return made.table["c"].to_pylist(), made.notes


@pytest.mark.parametrize(
    ("words", "comma", "numbers"),
    [
        (["12", "+1", "-0.5", ".5", "5.", "1e3", "1E-2"], False, [12, 1, -0.5, 0.5, 5, 1000, 0.01]),
        (["1,234", "1,234,567.8", "$1,200.50", "30%", "1 234", "(3)", "\u22124", "€5"], False,
         [1234, 1234567.8, 1200.5, 30, 1234, -3, -4, 5]),
        (["1,5", "1.234,5", "1.234.567", "0,25", "-3,0", "1.5", "12"], True, [1.5, 1234.5, 1234567, 0.25, -3, 1.5, 12]),
        (["12:30", "01:02:03.5"], False, [45_000, 3723.5]),
        (["0x1F", "1-2", "a", "1,5", "12:75", "1.2.3", "--1", "e"], False, [np.nan] * 8),
        (["1_1", "1 2", "1 2 3", "3%4", "1 23", "-", "$"], False, [np.nan] * 7),
        (["1 234 567,5", "-$3", "€ 5", "12 %"], True, [1234567.5, -3, 5, 12]),
        (["inf", "-inf"], False, [np.inf, -np.inf]),
    ],
)  # fmt: skip
def test_numbers(words, comma, numbers):
    np.testing.assert_array_equal(numbers_of(pa.array(words), comma), np.array(numbers, float))


def test_what_a_column_of_a_file_holds():
    assert column(["1", "2", ""]) == ([1.0, 2.0, None], ())
    assert column(["True", "FALSE", " NA "]) == ([True, False, None], ())
    assert column(["yes", "no", "?"]) == (["yes", "no", None], ())
    assert column(["007", "07", "7"])[0] == ["007", "07", "7"]
    assert column(["", "NA"])[0] == [None, None]
    assert column(["1,5", "2,25"])[0] == [1.5, 2.25], "quoted cells in a file with commas"
    assert column(["1,500", "2,250"])[0] == [1500, 2250]
    assert column(["1,500", "2,250"], ";")[0] == [1.5, 2.25]
    assert column(["1.500", "2.250"], ";")[0] == [1.5, 2.25]


def test_whole_numbers_beyond_floats_are_not_merged(tmp_path):
    ids = [2**60 + 1, 2**60 + 2]
    frame = pd.DataFrame({"x": np.arange(80.0), "id": ids * 40, "y": ids[::-1] * 40})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.csv", tmp_path / "a.parquet", frame):
        data = load(source, target="y")
        assert data.classes == tuple(map(str, ids))
        assert data.columns.categories[0].values == tuple(map(str, ids))
        assert "id: whole numbers beyond 2^53, taken as words" in data.notes
        assert (data.train.inputs[:, 1] - 2 + data.train.targets == 1).all()
        rows, _ = read_rows([tmp_path / "a.parquet"], data.columns)
        assert sorted(rows[:, 1].unique().tolist()) == [2, 3]


@pytest.mark.parametrize(
    ("words", "day_first", "dates"),
    [
        (["2021-04-03", "2021/4/3", "2021-04-03T00:00Z"], False, ["2021-04-03"] * 3),
        (["03.04.2021", "03/04/2021", "3-4-2021", "03/04/21"], True, ["2021-04-03"] * 4),
        (["04/03/2021", "4/3/2021 12:30 PM", "04/03/2021, 00:10"], False,
         ["2021-04-03", "2021-04-03T12:30", "2021-04-03T00:10"]),
        (["2021-04-03 01:30:00+02:00", "2021-04-03 12:00:00.25", "04/03/2021 12:05 am"], False,
         ["2021-04-02T23:30", "2021-04-03T12:00:00.25", "2021-04-03T00:05"]),
        (["2021-02-30", "2021-13-01", "31/12/2021", "1.2.3", "2021", "x", "03/04-2021"], False, [None] * 7),
        (["03/04/69", "03/04/68"], True, ["1969-04-03", "2068-04-03"]),
    ],
)  # fmt: skip
def test_dates(words, day_first, dates):
    expected = [None if date is None else datetime.datetime.fromisoformat(date) for date in dates]
    assert dates_of(pa.array(words), day_first).to_pylist() == expected


@pytest.mark.parametrize(
    ("words", "second", "said"),
    [
        (
            ["03/04/2021", "13/04/2021"],
            "2021-04-13",
            "c: dates such as 03/04/2021 are read as day/month, as 1 date can",
        ),
        (
            ["03/04/2021", "04/13/2021"],
            "2021-04-13",
            "c: dates such as 03/04/2021 are read as month/day, as 1 date can",
        ),
        (["03/04/2021", "04/05/2021"], "2021-04-05", "read as month/day, though none of them tells"),
        (["03.04.2021", "04.05.2021"], "2021-05-04", None),
        (["2021-04-03", "2021-05-04"], "2021-05-04", None),
    ],
)
def test_the_day_is_where_the_data_prove_it(words, second, said):
    values, notes = column(words)
    assert values[1].date().isoformat() == second
    assert [said in note for note in notes] == ([] if said is None else [True])


def test_dates_that_contradict_each_other_are_words():
    assert column(["13/04/2021", "04/13/2021"] * 9)[0][0] == "13/04/2021"


def test_a_file_to_predict_has_its_days_where_training_had_them(tmp_path):
    days = pd.date_range("2021-01-01", periods=90)
    frame = pd.DataFrame({"when": days.strftime("%d/%m/%Y"), "y": np.arange(90.0)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    columns = load(tmp_path / "a.csv", target="y").columns
    (tmp_path / "new.csv").write_text("when\n03/02/2021\n")
    (tmp_path / "iso.csv").write_text("when\n2021-02-03\n")
    new, iso = (read_rows([tmp_path / name], columns)[0] for name in ("new.csv", "iso.csv"))
    assert torch.equal(new, iso)
    assert type(columns).from_dict(columns.to_dict()) == columns
    by_frame = load(frame, target="y").columns
    assert by_frame == columns, "dates in words in a frame"
    with pytest.raises(DataError, match=r"when holds dates in the training rows, and words .* such as 'soon'"):
        (tmp_path / "new.csv").write_text("when\nsoon\n")
        read_rows([tmp_path / "new.csv"], columns)


@pytest.mark.parametrize("seed", range(4))
def test_a_word_among_numbers_is_missing_whatever_the_cut(seed, tmp_path):
    prices = [f"{i / 4}" for i in range(100)]
    prices[17] = "ask"
    frame = pd.DataFrame({"p": prices, "x": np.arange(100.0), "y": np.arange(100) / 3})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for source in (frame, tmp_path / "a.csv"):
        data = load(source, target="y", seed=seed)
        assert "p: no number in 1 cell of 100, taken as missing" in data.notes
        assert [c.name for c in data.columns.numbers] == ["p", "x"]


def test_a_word_in_a_further_table_is_missing_and_counted():
    train = pd.DataFrame({"p": np.arange(60) / 4, "y": np.arange(60.0)})
    valid = pd.DataFrame({"p": ["1.5", "ask", "2.5"], "y": [1.0, 2.0, 3.0]})
    data = load(train, target="y", valid=valid)
    assert "valid: p: no number in 1 cell of 3, taken as missing" in data.notes
    with pytest.raises(DataError, match="Column p in the valid split has 2 cells that are no numbers"):
        load(train, target="y", valid=valid.assign(p=["ask", "ask", "2.5"]))


def test_targets_in_words(tmp_path):
    dollars = pd.DataFrame({"x": np.arange(60.0), "y": [f"${1000 + i:,}" for i in range(60)]})
    data = load(dollars, target="y")
    assert data.classes is None and sorted([*data.train.targets, *data.valid.targets])[0] == 1000
    zeros = pd.DataFrame({"x": range(60), "y": ["01", "1", "02"] * 20})
    zeros.to_csv(tmp_path / "a.csv", index=False)
    assert load(tmp_path / "a.csv", target="y").classes == ("01", "1", "02")
    assert load(zeros, target="y", task="regression").classes is None
    with pytest.raises(DataError, match="holds words, and a regression needs numbers"):
        load(zeros.assign(y=["a", "b"] * 30), target="y", task="regression")


def test_a_target_that_is_always_the_same_is_refused():
    frame = pd.DataFrame({"x": np.arange(60.0), "y": [2.5] * 60})
    with pytest.raises(DataError, match=r"the target is 2\.5 in all 60 rows: there is nothing to be learned"):
        load(frame, target="y")
    with pytest.raises(DataError, match="only one class: 'a'"):
        load(frame.assign(y="a"), target="y")


def test_tables_without_a_target_are_to_be_predicted():
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) / 7})
    with pytest.raises(DataError, match=r"valid table has no column 'y'.*onecycle predict RUN FILE"):
        load(frame, target="y", valid=frame[["x"]])
    with pytest.raises(DataError, match=r"test table has no value of 'y' in any of its 60 rows.*onecycle predict"):
        load(frame, target="y", test=frame.assign(y=np.nan))
    with pytest.raises(DataError, match=r"train table has no value of 'y' in any of its 60 rows\. Give one that has"):
        load(frame.assign(y=None), target="y")


def test_a_zero_is_a_zero_whatever_its_sign():
    frame = pd.DataFrame({"x": [0.0, -0.0, 1.0] * 20, "y": np.arange(60.0)})
    assert load(frame, target="y").columns.categories[0].values == ("0", "1")


def test_tables_with_two_columns_of_one_name_are_refused():
    table = pa.table([[1.0, 2.0], [3.0, 4.0], [1, 2]], names=["a", "a", "y"])
    with pytest.raises(DataError, match="several columns called 'a'"):
        load(table, target="y")


def test_points_in_a_file_with_decimal_commas():
    """Between thousands where nothing else has a point; decimal where some other column proves them to be."""
    whole = {"a": ["1.200", "1.300"], "b": ["1,5", "2,25"]}
    made = typed(pa.table(whole), separator=";")
    assert made.table["a"].to_pylist() == [1200, 1300] and made.table["b"].to_pylist() == [1.5, 2.25]
    made = typed(pa.table({**whole, "c": ["0.5", "2.25"]}), separator=";")
    assert made.table["a"].to_pylist() == [1.2, 1.3] and made.table["b"].to_pylist() == [1.5, 2.25]
    made = typed(pa.table({"a": ["1,5", "2,25"], "b": ["0.123", "1.456"]}), separator=";")
    assert made.table["a"].to_pylist() == [1.5, 2.25] and made.table["b"].to_pylist() == [0.123, 1.456]


def test_numbers_too_large_for_what_they_are_trained_in():
    frame = pd.DataFrame({"x": np.arange(40.0), "y": np.arange(40.0)})
    with pytest.raises(DataError, match=r"the target has 39 values infinite, or too large for float32"):
        load(frame.assign(y=frame["y"] * 1e300), target="y")
    with pytest.raises(DataError, match=r"whole numbers beyond 64 bits.*\.astype\(str\)"):
        load(frame.assign(x=[2**70 + i for i in range(40)]), target="y")
    with pytest.raises(DataError, match="This Series cannot be read as a table"):
        load(frame["x"], target="y")


def file(path: Path, cells: dict[str, list], separator: str = ",") -> Path:
    pd.DataFrame(cells).to_csv(path, index=False, sep=separator)
    return path


def test_decimal_commas_are_those_of_the_training_table(tmp_path):
    """Whatever a further table would prove by itself: in 1,234 the comma may be between thousands."""
    sizes = ["5,123", "1,5"] * 20
    train = file(tmp_path / "t.tsv", {"size": sizes, "y": sizes}, "\t")
    valid = file(tmp_path / "v.tsv", {"size": ["1,234", "12,340"], "y": ["1,234", "12,340"]}, "\t")
    data = load(train, target="y", valid=valid)
    assert data.valid.targets.tolist() == pytest.approx([1.234, 12.34])
    number = data.columns.numbers[0]
    expected = number.encode(np.array([1.234, 12.34])).astype(np.float32)
    assert number.comma and data.valid.inputs[:, 0].tolist() == expected.tolist()
    kept = type(data.columns).from_dict(data.columns.to_dict())
    assert read_rows([valid], kept)[0][:, 0].tolist() == expected.tolist()
    points = file(tmp_path / "p.csv", {"size": ["1,234.5", "2.5"] * 20, "y": range(40)})
    other = file(tmp_path / "o.csv", {"size": ["1,234"], "y": [1]}, ";")
    data = load(points, target="y", valid=other)
    assert data.columns.numbers[0].comma is False
    assert data.valid.inputs[0, 0] == np.float32(data.columns.numbers[0].encode(np.array([1234.0]))[0])


def test_where_training_has_no_comma_and_no_point_each_table_is_asked(tmp_path):
    train = file(tmp_path / "t.csv", {"size": range(40), "y": range(40)}, ";")
    valid = file(tmp_path / "v.csv", {"size": ["1,5", "2,25"], "y": [1, 2]}, ";")
    data = load(train, target="y", valid=valid)
    number = data.columns.numbers[0]
    assert number.comma is None
    assert data.valid.inputs[:, 0].tolist() == number.encode(np.array([1.5, 2.25])).astype(np.float32).tolist()
    record = data.columns.to_dict()
    for column in record["numbers"]:
        del column["comma"]
    assert type(data.columns).from_dict(record) == data.columns, "as a run recorded it before"


def test_words_that_mean_nothing_among_numbers_are_words_among_words(tmp_path):
    signs = {"x": np.arange(60.0), "y": ["+", "-", "--"] * 20}
    assert load(file(tmp_path / "a.csv", signs), target="y").classes == ("+", "-", "--")
    numbers = file(tmp_path / "b.csv", {"x": ["1.5", "-", "NaT"] * 20, "d": ["2021-04-03", "-", "<NA>"] * 20})
    made = typed(read_cells(numbers).table, separator=",").table
    assert made["x"].to_pylist()[:3] == [1.5, None, None] and made["d"].null_count == 40
    codes = file(tmp_path / "c.csv", {"x": np.arange(60.0), "y": ["007", "07", "-"] * 20})
    assert load(codes, target="y").classes == ("007", "07")


def test_a_word_in_a_frame_is_a_word():
    y = ["None", "Brick"] * 30
    assert load(pd.DataFrame({"x": np.arange(60.0), "y": y}), target="y").classes == ("Brick", "None")
    regions = pd.DataFrame({"region": ["NA", "EU", "US", ""] * 15, "y": np.arange(60.0) / 7})
    data = load(regions, target="y", valid=regions[:4])
    assert data.columns.categories[0].values == ("EU", "NA", "US")
    assert data.valid.inputs[:, 0].tolist() == [3, 2, 4, 1]
    assert load(regions, target="region", valid=regions[:4]).classes == ("EU", "NA", "US")


def test_a_word_that_was_known_in_training_is_one_at_prediction(tmp_path):
    frame = pd.DataFrame({"region": ["NA", "EU", "US"] * 20, "y": np.arange(60.0) / 7})
    columns = load(frame, target="y").columns
    rows, _ = read_rows([file(tmp_path / "a.csv", {"region": ["NA", "EU", "null"]})], columns)
    assert rows[:, 0].tolist() == [3, 2, 1]
    in_file = load(file(tmp_path / "b.csv", {"sign": ["+", "-", "NA"] * 20, "y": frame["y"]}), target="y").columns
    rows, _ = read_rows([file(tmp_path / "c.csv", {"sign": ["-", "+", "NA"]})], in_file)
    assert rows[:, 0].tolist() == [3, 2, 1]


def test_cells_of_numbered_labels_are_no_decimal_numbers(tmp_path):
    cells = {"x": np.arange(60.0), "y": ["1,3", "1", "3", "2,3", "2"] * 12}
    labels = file(tmp_path / "a.csv", cells)
    for task in (None, "multi-label"):
        assert load(labels, target="y", task=task).classes == ("1", "2", "3")
    several = file(tmp_path / "b.csv", cells, ";")
    assert load(several, target="y", task="multi-label").classes == ("1", "2", "3")
    assert load(several, target="y", task="classification").classes == ("1", "1,3", "2", "2,3", "3")
    assert load(labels, target="y", task="classification").classes == ("1", "1,3", "2", "2,3", "3")
    for source in (labels, several):
        data = load(source, target="y", task="regression", valid=source)
        assert data.valid.targets[:2].tolist() == pytest.approx([1.3, 1])
    numbers = file(tmp_path / "c.csv", {"x": np.arange(60.0), "y": ["1.0", "0.0"] * 30})
    assert load(numbers, target="y", task="classification").classes == ("0", "1")


def test_numbers_to_be_predicted_with_decimal_commas_have_to_be_asked_for(tmp_path):
    prices = file(tmp_path / "a.csv", {"x": np.arange(60.0), "y": [f"{i},75" for i in range(60)]})
    with pytest.raises(DataError, match=r"too many for classes.*where a comma is a decimal one, task='regression'"):
        load(prices, target="y")
    assert load(prices, target="y", task="regression", valid=prices).valid.targets[:2].tolist() == [0.75, 1.75]
    halves = [f"{i},5" for i in range(60)]
    several = file(tmp_path / "b.csv", {"x": np.arange(60.0), "y": halves, "z": halves})
    with pytest.raises(DataError, match=r"y holds '0,5'.*where a comma is a decimal one, with task='regression'"):
        load(several, target="y,z")
    assert load(several, target="y,z", task="regression").train.targets.shape == (54, 2)

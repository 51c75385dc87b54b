"""Several runs ranked: by which metric, with which intervals, what is apart, and the settings in which they differ."""

from __future__ import annotations

import pytest
from page_makers import write_run

from onecycle.records.read import read
from onecycle.records.statistics import student, wilson
from onecycle.report.page import html, markdown
from onecycle.report.ranking import ranking_table, rankings


def result(valid: float | None, metric: str = "accuracy") -> dict:
    means = None if valid is None else {"loss": 0.5, metric: valid}
    return {"train": {"loss": 0.4}, "valid": means, "test": None, "updates": 8, "seconds": 3.0}


def runs_in(folder, **valid: float):
    return [
        write_run(folder / name, optimizer=name, result=result(value)) for name, value in valid.items()
    ]  # fmt: skip


def test_the_best_run_is_first_with_the_interval_of_its_samples(tmp_path):
    runs = read(runs_in(tmp_path, sgd=72 / 144, muon=140 / 144, adam=138 / 144)).runs
    (ranking,), left = rankings(runs)
    assert [one.group.label for one in ranking.ranked] == ["muon", "adam", "sgd"] and left == []
    assert ranking.ranked[0].interval == wilson(140, 144) and ranking.ranked[0].n == "144 samples"
    assert ranking.names == ["optimizer"]
    assert ranking.sentence == (
        "By validation accuracy muon is first of 3: 97.22 %; the interval of adam overlaps its own, so that the order "
        "may be chance."
    )
    table = ranking_table(ranking)
    assert table.columns == ["run", "place", "valid accuracy", "95 % interval", "n", "optimizer", "time"]
    assert [cell.text for cell in table.rows[2]] == [
        "sgd", "3", "50.00 %", "41.94 % to 58.06 %", "144 samples", "sgd", "3 s",
    ]  # fmt: skip


def test_seeds_are_one_row_with_the_interval_of_their_mean(tmp_path):
    values = [0.8, 0.82, 0.87]
    folders = [write_run(tmp_path / f"a{i}", seed=i, result=result(v)) for i, v in enumerate(values)]
    folders.append(write_run(tmp_path / "b", model="cnn", result=result(0.9)))
    (ranking,), _ = rankings(read(folders).runs)
    first, second = ranking.ranked
    assert first.group.label == "b" and second.n == "3 seeds"
    mean, *ends = student(values, within=(0, 1))
    assert (second.value, second.interval) == (pytest.approx(mean), tuple(ends))
    assert ranking.names == ["model"]


def test_a_loss_is_better_where_it_is_smaller_and_has_no_interval(tmp_path):
    folders = [write_run(tmp_path / n, optimizer=n, result=result(v, "mae")) for n, v in (("sgd", 2.0), ("adam", 1.0))]
    (ranking,), _ = rankings(read(folders).runs)
    assert ranking.metric == "mae" and [one.group.label for one in ranking.ranked] == ["adam", "sgd"]
    assert [row[3].text for row in ranking_table(ranking).rows] == ["-", "-"]
    assert "overlap" not in ranking.sentence


def test_a_share_that_counts_no_samples_has_no_interval(tmp_path):
    folders = runs_in(tmp_path, sgd=0.7531, adam=0.5)
    (ranking,), _ = rankings(read(folders).runs)
    assert ranking.ranked[0].interval is None  # 108.4 of 144
    assert ranking.ranked[1].interval == wilson(72, 144)


def test_other_data_and_other_metrics_are_ranked_apart(tmp_path):
    folders = runs_in(tmp_path, sgd=0.5, adam=0.75)
    folders += [write_run(tmp_path / f"c{i}", data="cifar10", optimizer=str(i), result=result(i / 4)) for i in (1, 2)]
    folders.append(write_run(tmp_path / "f", result=result(0.9, "f1")))
    made, left = rankings(read(folders).runs)
    assert [[one.group.label for one in ranking.ranked] for ranking in made] == [["adam", "sgd"], ["c2", "c1"]]
    assert left == ["f is not ranked with the others, of other data or another metric: validation f1 0.9."]
    said = markdown(folders)
    assert left[0].replace("_", r"\_") in said and said.count("Ranked by validation accuracy") == 2
    assert "differ in their data, so their measures can't be compared" in said


def test_sizes_of_images_and_models_are_settings_that_are_ranked(tmp_path):
    facts = {"kind": "image", "outputs": 10, "samples": [1294, 144, 359]}
    folders = [
        write_run(
            tmp_path / str(size), config={"data": "digits", "model": f"net{size}", "image_size": size},
            facts={**facts, "input_shape": [1, size, size]}, result=result(size / 64),
        )
        for size in (16, 32)
    ]  # fmt: skip
    (ranking,), left = rankings(read(folders).runs)
    assert [one.group.label for one in ranking.ranked] == ["32", "16"] and left == []
    assert ranking.names == ["model", "image_size"]


def test_runs_without_an_end_or_a_measure_are_said(tmp_path):
    folders = runs_in(tmp_path, sgd=0.5, adam=0.75)
    folders.append(write_run(tmp_path / "live", status="running", result=None))
    folders.append(write_run(tmp_path / "lost", status="failed", error="the loss is NaN", result=None))
    folders.append(write_run(tmp_path / "bare", result=result(None)))
    (ranking,), left = rankings(read(folders).runs)
    assert len(ranking.ranked) == 2
    assert left == [
        "live is not ranked: it is still being written, or was killed, after 8 updates. Its last validation accuracy "
        "is 80.00 %.",
        "lost is not ranked: it failed: the loss is NaN; 8 updates are recorded. Its last validation accuracy is "
        "80.00 %.",
        "bare is not ranked: nothing was measured on validation data.",
    ]
    text = html(read(folders), plotly="")
    assert '<h2 id="ranking">Ranking</h2>' in text and "live is not ranked" in text


def test_one_run_alone_is_not_ranked(tmp_path):
    records = read(runs_in(tmp_path, sgd=0.5))
    assert rankings(records.runs) == ([], [])
    assert "Ranking" not in html(records, plotly="")


def test_runs_begun_in_python_say_that_their_data_are_not_known(tmp_path):
    folders = [
        write_run(
            tmp_path / name, config={"budget": "3 epochs"}, resolved={"optimizer": name}, result=result(value),
            prediction={"kind": "array", "form": "classes"},
        )
        for name, value in (("sgd", 0.5), ("adam", 0.75))
    ]  # fmt: skip
    (ranking,), _ = rankings(read(folders).runs)
    assert ranking.ranked[0].group.label == "adam" and ranking.ranked[0].n == "1 seed"
    assert ranking.names == ["optimizer"]
    assert ranking.sentence.endswith("These were begun in Python and do not say what their data were.")

"""A run that was made in stages on its page: a row for each, their curves in a row, and with which it ends."""

from __future__ import annotations

import pytest
from page_makers import write_run

from onecycle.records.read import read
from onecycle.report.content import Group, groups, notices, summary
from onecycle.report.draw_run import draw_runs
from onecycle.report.page import html
from onecycle.report.spec import Plots
from onecycle.report.tables import stages_table

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

HEAD = {"parameters": 77_754, "frozen": 77_104, "lr_max": 0.007}
RISING = {"parameters": 77_754, "lr_max": 0.001, "schedule": {"layers": [0.01, 0.1, 1.0]}}


def in_stages(folder, *, valid, head=None, **record):
    """A head of 12 updates, then 8 of all layers that end at a validation accuracy of 80 %; `valid` is the result's."""
    result = {"valid": valid, "updates": 8, "seconds": 2.7}  # those of both
    write_run(folder, resolved=RISING, stages=["head", "all"], result=result, **record)
    of_head = {"valid": head or {"loss": 0.4, "accuracy": 0.85}, "lr_max": 0.007, "updates": 12, "seconds": 2.0}
    write_run(folder / "stages" / "1-head", updates=12, resolved=HEAD, result=of_head)
    (run,) = read([folder]).runs
    return run


def cells(run) -> list[list[str]]:
    return [[cell.text for cell in row] for row in stages_table(run).rows]


def test_a_row_a_stage(tmp_path):
    run = in_stages(tmp_path / "ft", valid={"loss": 0.3, "accuracy": 0.9})
    assert stages_table(run).columns == ["stage", "trained", "updates", "peak", "valid loss", "valid accuracy", "time"]
    assert cells(run) == [
        ["1", "the head, 650 parameters", "12", "0.007", "0.4", "85.00 %", "2 s"],
        ["2", "all layers, peaks that rise 100 times towards the output", "8", "0.001", "0.3", "90.00 %", "0.7 s"],
    ]
    page = html(read([run.folder]), plotly="")
    assert '<h2 id="stages">Stages</h2>' in page and "Epochs of ft, stage 1" in page
    assert "It has 2 stages, with 20 updates in all." in summary(read([run.folder]), groups([run]))[0]
    assert "head&#39;s stage" not in page


def test_a_run_that_ends_with_the_weights_of_its_head_says_so(tmp_path):
    head = {"loss": 0.4, "accuracy": 0.85}
    run = in_stages(tmp_path / "ft", valid=head, head=head)
    assert cells(run)[1][4:6] != cells(run)[0][4:6] and cells(run)[1][5] == "80.00 %", "what the last stage came to"
    said = "ended with the weights of the head's stage"
    assert said in stages_table(run).note and said in summary(read([run.folder]), groups([run]))[0]


def test_a_run_in_one_piece_has_none_of_it(tmp_path):
    folder = write_run(tmp_path / "one")
    page = html(read([folder]), plotly="")
    assert 'id="stages"' not in page and "stages, with" not in page


def test_curves_follow_each_other_and_the_next_stage_is_marked(tmp_path):
    run, plots = in_stages(tmp_path / "ft", valid={"loss": 0.3, "accuracy": 0.9}), Plots()
    drawn = draw_runs(plots, [Group("ft", (run,), {})])
    for i in (*drawn["figures"], *drawn["schedules"]):
        figure = plots.figures[i]
        assert (figure.marks, figure.names) == ((12.0,), ("stage 2",))
    (rate, *_) = (plots.figures[i] for i in drawn["schedules"])
    assert rate.series[0].x == list(range(20))


def test_while_the_head_is_trained_its_curves_are_shown(tmp_path):
    folder = write_run(tmp_path / "ft", updates=0, status="running", result=None, stages=["head", "all"])
    write_run(folder / "stages" / "1-head", updates=5, status="running", result=None, resolved=HEAD)
    page, records = html(read([folder]), plotly=""), read([folder])
    assert "No update is recorded yet" not in page
    assert "It has no end yet; 5 updates are recorded" in summary(records, groups(records.runs))[0]
    assert [row[2] for row in cells(records.runs[0])] == ["5", "0"]


def test_a_damaged_stage_is_named_and_the_rest_shown(tmp_path):
    run = in_stages(tmp_path / "ft", valid={"loss": 0.3, "accuracy": 0.9})
    (run.folder / "stages" / "1-head" / "run.json").write_text("{")
    (said,) = notices(read([run.folder]))
    assert said.startswith("ft: stage 1: ") and "cannot be read" in said
    assert 'id="stages"' not in html(read([run.folder]), plotly="")


@pytest.mark.parametrize(
    ("names", "words"), [(["last-2", "all"], "the last 2 layer groups"), (["last-1", "all"], "the last 1 layer group")]
)
def test_stages_of_ones_own_by_what_they_train(tmp_path, names, words):
    folder = write_run(tmp_path / "ft", stages=names)
    write_run(folder / "stages" / f"1-{names[0]}")
    (run,) = read([folder]).runs
    assert [row[1] for row in cells(run)] == [words, "all layers"]

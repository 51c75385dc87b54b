from __future__ import annotations

import io
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from onecycle.records.progress import LOOK, Progress, notes, summary
from onecycle.training.loop import EpochEnd, Update
from onecycle.training.means import Reading

RESULT = {
    "folder": "runs/digits", "train": {"loss": 0.0412, "accuracy": 0.9987}, "valid": {"loss": 0.05, "accuracy": 0.98},
    "test": None, "lr_max": 0.06, "epochs": 2.0, "updates": 1200, "seconds": 83.0, "samples_per_second": 15999.7,
}  # fmt: skip
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def of(width):
        monkeypatch.setenv("COLUMNS", str(width))
        return Terminal()

    return of


class Unread:
    """A loss that nobody may look at."""

    def item(self):
        raise AssertionError("the loss was read")


def update(step, seconds, updates=100, loss=1.0, momentum=True, progress=0.5):
    values = {"lr": 0.0125} | ({"momentum": 0.9} if momentum else {})
    tensor = loss if isinstance(loss, Unread) else torch.tensor(loss)
    return Update(step, updates, 0, progress, values, 128, seconds, Reading({"loss": tensor}))


def epoch_end(epoch=0, valid=True):
    held = {"loss": 0.75, "accuracy": 0.8125} if valid else None
    return EpochEnd(epoch, 40, {"loss": 0.91, "accuracy": 0.7}, held, {"lr": 0.1}, 5120, 2.54)


def text(stream):
    """What the terminal was sent, a line each, without codes."""
    return [line for line in re.split(r"[\r\n]+", ANSI.sub("", stream.getvalue())) if line.strip()]


def test_a_plain_stream_gets_one_line_an_epoch_and_no_codes():
    stream = io.StringIO()
    progress = Progress(epochs=10, stream=stream)
    for k in range(40):
        progress(update(k, seconds=float(k), loss=Unread()))
    progress(epoch_end())
    progress(epoch_end(9, valid=False))
    progress.table(RESULT)
    assert stream.getvalue().splitlines() == [
        "epoch  1/10  train loss 0.9100  valid loss 0.7500  valid accuracy 0.8125  2.5 s",
        "epoch 10/10  train loss 0.9100  train accuracy 0.7000  2.5 s",
        *summary(RESULT),
    ]


@pytest.mark.parametrize(("epochs", "label"), [(None, "epoch 3  "), (2.5, "epoch 3/3  "), (3, "epoch 3/3  ")])
def test_the_line_says_which_epoch_of_how_many(epochs, label):
    stream = io.StringIO()
    Progress(epochs=epochs, stream=stream)(epoch_end(2))
    assert stream.getvalue().startswith(label)


def test_the_bar_shows_all_there_is(terminal):
    stream = terminal(110)
    progress = Progress(epochs=1, stream=stream, unit="images")
    progress(update(0, 0.0))
    for k in range(1, 25):
        progress(update(k, k * 0.1))
    progress.close()
    # The last look is at update 24, or the one before: every second update is a look.
    last = text(stream)[-1]
    assert re.search(r"━ +2[45]/100  loss 1\.0000  lr 0\.0125    momentum 0\.900  1,280 images/s  \d+ s left", last)


def test_the_loss_is_a_running_mean_and_is_read_at_looks_alone(terminal):
    stream = terminal(100)
    progress = Progress(epochs=1, stream=stream)
    progress(update(0, LOOK, loss=1.0))
    for k in range(1, 50):
        progress(update(k, LOOK * 1.5, loss=Unread()))
    progress(update(50, LOOK * 2.1, loss=2.0))
    progress.close()
    assert "loss 1.3000" in text(stream)[-1]
    progress(update(51, LOOK * 9, loss=float("nan")))
    progress(update(52, LOOK * 18, loss=0.5))
    progress.close()
    assert "loss 0.5000" in text(stream)[-1]


def test_a_run_that_is_over_at_once_draws_no_bar(terminal):
    stream = terminal(100)
    progress = Progress(epochs=1, stream=stream)
    progress(update(0, LOOK / 2, updates=1, loss=Unread()))
    progress(epoch_end())
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_evaluation_and_the_time_before_a_resumption_do_not_count_in_the_rate(terminal):
    stream = terminal(100)
    progress = Progress(epochs=2, stream=stream)
    progress(update(50, 1000.0))
    progress(update(51, 1000.25))
    progress(epoch_end())
    progress(update(52, 1060.0))
    progress(update(53, 1060.25))
    progress.close()
    rates = {rate for line in text(stream) for rate in re.findall(r"(\S+) samples/s", line)}
    assert rates == {"512"}


def test_under_a_time_budget_the_share_of_it_is_shown(terminal):
    stream = terminal(80)
    progress = Progress(epochs=None, stream=stream)
    progress(update(70, 30.0, updates=None, momentum=False, progress=0.25))
    progress.close()
    last = text(stream)[-1]
    assert " 25%  loss 1.0000" in last
    assert last.rstrip().endswith("1 min 30 s left")
    assert "momentum" not in last


@pytest.mark.parametrize("width", [20, 40, 44, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(terminal, width):
    stream = terminal(width)
    progress = Progress(epochs=12, stream=stream, unit="images")
    for k in range(5):
        progress(update(k, 100.0 + k, updates=100_000))
        progress(epoch_end(k))
    progress.table({**RESULT, "folder": None})
    lines = text(stream)
    assert max(map(len, lines)) <= width
    assert any("100,000" in line for line in lines)
    if width >= 40:
        assert any(line.rstrip() == "epoch  5/12  valid accuracy 0.8125" for line in lines) == (width == 40)
        assert any("loss 1.0000" in line for line in lines)


def test_the_cursor_comes_back_when_training_is_interrupted(terminal):
    stream = terminal(80)
    with pytest.raises(KeyboardInterrupt), Progress(epochs=1, stream=stream) as progress:
        progress(update(0, 1.0))
        assert HIDE in stream.getvalue() and SHOW not in stream.getvalue()
        raise KeyboardInterrupt
    assert stream.getvalue().rindex(SHOW) > stream.getvalue().rindex(HIDE)
    progress.close()


def test_no_color_is_respected(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = terminal(80)
    with Progress(epochs=1, stream=stream) as progress:
        progress(update(0, 1.0))
    colours = [code for code in re.findall(r"\x1b\[([\d;]+)m", stream.getvalue()) if re.search(r"[34]8|[39]\d", code)]
    assert "loss" in stream.getvalue() and colours == []


def test_a_dumb_terminal_gets_the_lines_alone(terminal, monkeypatch):
    stream = terminal(80)
    monkeypatch.setenv("TERM", "dumb")
    with Progress(epochs=1, stream=stream) as progress:
        progress(update(0, 1.0))
        progress(epoch_end())
    assert ["2.5 s" in line for line in text(stream)] == [True]
    assert not ANSI.search(stream.getvalue())


def test_the_closing_table():
    assert summary({**RESULT, "test": {"loss": 1e-5}}, unit="images") == [
        "            loss  accuracy",
        "train     0.0412    0.9987",
        "valid     0.0500    0.9800",
        "test   1.000e-05          ",
        "1,200 updates (2 epochs) in 1 min 23 s, 16,000 images/s, peak learning rate 0.06",
        "The run is in runs/digits",
    ]
    assert summary({**RESULT, "folder": None, "seconds": 7265.0, "samples_per_second": 3.25})[-1] == (
        "1,200 updates (2 epochs) in 2 h 01 min, 3.25 samples/s, peak learning rate 0.06"
    )


def test_a_narrow_table_has_fewer_columns():
    lines = summary({**RESULT, "train": {"loss": 1.0, "accuracy": 0.5, "top_5_accuracy_by_class": 0.5}}, width=30)
    assert lines[0] == "         loss  accuracy"
    assert max(map(len, lines)) <= 30


def test_notes_are_lines():
    stream = io.StringIO()
    notes(["one", "two"], stream)
    assert stream.getvalue() == "note: one\nnote: two\n"


def test_the_training_loss_is_shown_without_label_smoothing(terminal):
    smoothed = {"loss": 0.91, "loss_unsmoothed": 0.51, "accuracy": 0.7}
    stream = io.StringIO()
    Progress(epochs=1, stream=stream)(EpochEnd(0, 40, smoothed, {"loss": 0.75}, {"lr": 0.1}, 5120, 2.54))
    assert stream.getvalue() == "epoch 1/1  train loss 0.5100  valid loss 0.7500  2.5 s\n"
    assert "0.5100" in summary({**RESULT, "train": smoothed})[1] and "unsmoothed" not in summary(RESULT)[0]
    stream = terminal(100)
    with Progress(epochs=1, stream=stream) as progress:
        tensors = {"loss": torch.tensor(0.91), "loss_unsmoothed": torch.tensor(0.5)}
        progress(Update(0, 10, 0, 0.5, {"lr": 0.1}, 128, 1.0, Reading(tensors)))
    assert "loss 0.5000" in text(stream)[-1]


def test_one_update_of_one_epoch():
    said = summary({**RESULT, "folder": None, "updates": 1, "epochs": 1.0})[-1]
    assert said.startswith("1 update (1 epoch) in 1 min 23 s, ")


@pytest.fixture
def notebook(monkeypatch):
    """What is shown under a cell, one text a change: a kernel as IPython tells of it."""
    shown, config = [], {"IPKernelApp": {}}

    class Handle:
        def update(self, data, raw):
            assert raw
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        assert raw and display_id and not shown
        shown.append(data["text/plain"])
        return Handle()

    shell = SimpleNamespace(config=config)
    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, module.display = lambda: shell, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return SimpleNamespace(shown=shown, config=config)


def test_in_a_notebook_the_bar_is_replaced_in_place(notebook, capsys):
    progress = Progress(epochs=2)
    for k in range(0, 50, 10):
        progress(update(k, LOOK * (k + 1)))
    assert notebook.shown[-1].startswith("━" * 16 + "┄" * 24 + "   41/100  loss 1.0000  lr 0.0125")
    progress(epoch_end())
    progress(update(60, LOOK * 100))
    line, bar = notebook.shown[-1].splitlines()
    assert line == "epoch 1/2  train loss 0.9100  valid loss 0.7500  valid accuracy 0.8125  2.5 s"
    assert bar.startswith("━" * 24) and len(bar) <= 100
    progress.table(RESULT)
    assert notebook.shown[-1].splitlines() == [line, *summary(RESULT)]
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_not_a_terminal_with_ipython(notebook, capsys):
    notebook.config.clear()
    Progress(epochs=1)(epoch_end())
    assert not notebook.shown and "epoch 1/1" in capsys.readouterr().err


def test_a_stream_that_is_given_is_used_in_a_notebook_too(notebook):
    stream = io.StringIO()
    Progress(epochs=1, stream=stream)(epoch_end())
    assert not notebook.shown and stream.getvalue().startswith("epoch 1/1")

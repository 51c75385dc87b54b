"""Looking into a result in Python, on its page and in the terminal."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onecycle import Job, Learner, load, load_run, run
from onecycle.errors import CheckpointError, ConfigError
from onecycle.interpretation.classes import Confusion
from onecycle.interpretation.heat_maps import heat_maps
from onecycle.interpretation.importance import permutation_importance, places_of
from onecycle.models import build
from onecycle.records.files import RUN
from onecycle.records.predictions import PREDICTIONS, Predictions
from onecycle.report.draw_predictions import matrix_of, predictions_text
from onecycle.report.page import page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "digits"
    run(Job("digits", model="small-cnn", budget="1 epochs", lr_max=0.05), place, report=False)
    return place


def test_a_run_is_looked_into_by_what_it_kept(folder):
    looked = load_run(folder, verbose=False).interpret()
    assert looked.how == "as the run kept them"
    assert looked.confusion.accuracy.value == pytest.approx(RUN.read(folder)["result"]["valid"]["accuracy"])
    assert "accuracy" in str(looked) and "<img" in looked._repr_html_()


def test_a_run_without_recorded_predictions_computes_them_and_says_so(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(PREDICTIONS.path(tmp_path / "run").parent)
    kept, made = load_run(folder).interpret(), load_run(tmp_path / "run").interpret()
    assert made.how == "computed now" and "has kept no predictions" in capsys.readouterr().err
    assert np.allclose(kept.predictions.outputs, made.predictions.outputs, atol=1e-4)
    assert kept.confusion.counts.tolist() == made.confusion.counts.tolist()


def test_a_run_begun_in_python_needs_its_learner(tmp_path):
    x = torch.randn(32, 3)
    learn = Learner(nn.Linear(3, 2), (x, (x[:, 0] > 0).long()), verbose=False)
    learn.fit(1, lr_max=0.1, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="begun in Python"):
        load_run(tmp_path / "run", model=nn.Linear(3, 2)).interpret()
    assert learn.interpret((x, (x[:, 0] > 0).long())).confusion.accuracy.n == 32


def test_nothing_to_look_at_is_said():
    x = torch.randn(32, 3)
    learn = Learner(nn.Linear(3, 1), (x, x.sum(1)), verbose=False)
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        learn.interpret()
    looked = learn.interpret((x, x.sum(1)))
    for asked, words in (("confusion", "look at residuals"), ("by_class", "numbers"), ("calibration", "residuals")):
        with pytest.raises(ConfigError, match=words):
            getattr(looked, asked)
    assert looked.residuals[0].n == 32


def test_a_heat_map_is_where_the_class_is_seen():
    """A net whose one channel is the brightness, for which class 1 speaks: the bright corner is hot."""

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.last = nn.Linear(1, 2)
            with torch.no_grad():
                self.conv.weight.fill_(1.0), self.conv.bias.zero_()
                self.last.weight.copy_(torch.tensor([[-1.0], [1.0]])), self.last.bias.zero_()

        def forward(self, x):
            return self.last(self.conv(x).mean((2, 3)))

    images = torch.zeros(2, 1, 6, 6)
    images[0, 0, :2, 4:] = 2.0
    images[1, 0, 5, 0] = 1.0
    first, second = heat_maps(Bright().eval(), images, [1, 1])
    assert torch.equal(first, (images[0, 0] > 0).float()) and torch.equal(second, (images[1, 0] > 0).float())
    assert heat_maps(Bright().eval(), images, [0, 0])[0].sum() == 0


def test_the_last_feature_map_is_found_by_running():
    class Backwards(nn.Module):
        """Its modules are registered in another order than they run in."""

        def __init__(self):
            super().__init__()
            self.head, self.second, self.first = nn.Linear(3, 2), nn.Conv2d(4, 3, 3, stride=2), nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.head(self.second(self.first(x)).amax((2, 3)))

    (heat,) = heat_maps(Backwards().eval(), torch.randn(1, 1, 12, 12), [0])
    assert heat.shape == (4, 4)  # (12 - 2 - 3) // 2 + 1
    assert heat_maps(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), torch.randn(1, 1, 4, 4), [0]).endswith("dimensions")


def test_a_heat_map_leaves_the_model_as_it_was(folder):
    looked = load_run(folder, verbose=False).interpret()
    learner = looked._looked()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    heat = looked.heat_map(3)
    assert heat.ndim == 2 and heat.min() >= 0 and heat.max() <= 1
    assert all(torch.equal(before[name], value) for name, value in learner.model.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    with pytest.raises(ConfigError, match="from 0 to 143"):
        looked.heat_map(999)


def test_permutation_importance_of_a_function_that_is_known():
    """y = 2 a: shuffling a makes the mean error that of 2 (a - a') for another sample's a', 8 / 3 of (-1, 0, 1)."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(-1, 2, 3000), rng.integers(-1, 2, 3000)], 1).astype(np.float32)

    def predicted(given):
        outputs, targets = 2 * given[:, :1], 2 * rows[:, :1]
        return Predictions("valid", "numbers", outputs, targets, ("y",), np.arange(len(rows)), len(rows))

    a, b = permutation_importance(rows, {"b": [1], "a": [0]}, predicted)
    # of nine equally likely pairs four differ by 1 and two by 2: (4 * 1 + 2 * 2) / 9, times 2
    assert (a.column, b.column) == ("a", "b") and a.mean == pytest.approx(16 / 9, abs=0.06)
    assert (b.mean, b.low, b.high) == (0, 0, 0) and a.low <= a.mean <= a.high


def test_the_parts_of_a_column_are_shuffled_together(tmp_path):
    path = tmp_path / "table.csv"
    lines = [f"{'' if i % 5 == 0 else i % 7},{'uvw'[i % 3]},{i % 2}" for i in range(120)]
    path.write_text("number,word,y\n" + "\n".join(lines) + "\n")
    columns = load(path, target="y").columns  # few whole numbers are taken for a category too
    assert places_of(columns, 4) == {"number": [0, 1, 2], "word": [3]}


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_matrix_of_a_page_says_what_it_leaves_out(classes):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    confusion = Confusion(counts, tuple(f"c{i}" for i in range(classes)))
    matrix = matrix_of(confusion)
    assert len(matrix.names) == min(classes, 12)
    for name, row in zip(matrix.names, matrix.rows, strict=True):
        assert sum(cell.count for cell in row[:-1]) == row[-1].count == counts[confusion.classes.index(name)].sum()
    assert ("88 classes" in matrix.caption) == (classes == 100)


def test_the_page_has_the_section_and_stays_small(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    text = page([tmp_path / "run"], tmp_path / "run" / "report.html", inline=False).read_text()
    assert "Looking into the result: validation" in text and "The most wrong" in text
    assert text.count("data:image/") > 10 and len(text) < 1_000_000
    assert "Looking into the result: test" in text and text.count("The most wrong") == 1


def test_a_page_of_damaged_predictions_says_so_and_has_the_rest(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "predictions" / "valid.npz").write_bytes(b"PK")
    text = page([tmp_path / "run"], tmp_path / "run" / "report.html", inline=False).read_text()
    assert "predictions in" in text and "are damaged" in text and "Over time" in text
    assert predictions_text(tmp_path / "run") == []


def test_what_the_terminal_says_is_short_and_true(folder):
    lines = predictions_text(folder)
    assert 0 < len(lines) <= 5 and all(line.startswith("validation: ") for line in lines)
    accuracy = RUN.read(folder)["result"]["valid"]["accuracy"]
    assert re.search(r"accuracy ([\d.]+) %", lines[0]).group(1) == f"{100 * accuracy:.1f}"


def test_names_of_files_are_escaped_on_the_page(tmp_path):
    data = load("digits", limit=100)
    learn = Learner(build("mlp", input_shape=data.input_shape, classes=10), data, verbose=False)
    learn.fit(1, lr_max=0.05, out=tmp_path / "run")
    path = PREDICTIONS.path(tmp_path / "run")
    path.write_text(re.sub(r'"name": "sample \d+"', '"name": "<script>alert(1)</script>"', path.read_text()))
    text = page([tmp_path / "run"], Path(tmp_path / "run" / "report.html"), inline=False).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text

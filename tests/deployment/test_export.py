"""Exported models predict what their run does: torch.export, what travels with them, and what cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path

import export_makers as makers
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from onecycle import CheckpointError, ConfigError, Learner, load, load_run
from onecycle.commands.app import main
from onecycle.data.tables import as_table
from onecycle.deployment import compare, export
from onecycle.deployment.graph import PredictionGraph
from onecycle.errors import ExportError, MissingDependency
from onecycle.records.files import RUN


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> makers.Runs:
    return makers.Runs(tmp_path_factory)


def program(path: Path):
    """A program without gradients, and its description."""
    extra = {"onecycle.json": ""}
    module = torch.export.load(path, extra_files=extra).module()

    def predict(*inputs: torch.Tensor):
        with torch.no_grad():
            return module(*inputs)

    return predict, json.loads(extra["onecycle.json"])


@pytest.mark.parametrize("kind", makers.KINDS)
def test_a_run_of_each_kind(kind, runs, tmp_path):
    exported = export(runs[kind], "torch-export", tmp_path / "model.pt2")
    assert exported.agreement.difference <= 1e-6 * exported.agreement.largest
    predict, about = program(exported.path)
    trained = load_run(runs[kind], device="cpu", verbose=False)
    graph = PredictionGraph(trained).eval()
    for n in (1, 7):
        inputs = graph.samples(n, seed=5)
        assert torch.allclose(predict(*inputs), graph.predicted(inputs), rtol=1e-5, atol=1e-6)
        assert [list(each.shape) for each in inputs] == [[n, *each["shape"][1:]] for each in about["inputs"]]
    assert about["classes"] == (None if trained.classes is None else list(trained.classes))
    assert about["run"]["name"] == kind and about["run"]["created"] and about["versions"]["onecycle"]
    assert str(runs[kind].parent) not in json.dumps(about), "paths of this machine travel with the model"


def test_images_are_taken_as_they_are(runs, tmp_path):
    path = export(runs["digits"], "torch-export", tmp_path / "digits.pt2").path
    images = load("digits").test.inputs[:20]
    predict, about = program(path)
    assert images.dtype == torch.uint8 and about["inputs"][0]["dtype"] == "uint8"
    assert torch.allclose(predict(images), load_run(runs["digits"]).predict(images), atol=1e-6)
    assert about["outputs"] == [
        {"name": "probabilities", "dtype": "float32", "shape": ["batch", 10], "about": "by class"}
    ]


def test_rows_of_a_table_are_numbers_and_codes(runs, tmp_path):
    rows = [*makers.houses(30, seed=1), [None, None, None, "2021-05-11"], [99.5, 3.0, "Atlantis", "2021-05-11"]]
    frame = pa.table({name: list(column) for name, column in zip(makers.HOUSES, zip(*rows, strict=True), strict=True)})
    trained = load_run(runs["houses"], verbose=False)
    predict, about = program(export(runs["houses"], "torch-export", tmp_path / "houses.pt2").path)
    numbers, codes = trained.columns.values(as_table(frame, trained.columns.notations).table)
    prices = predict(torch.from_numpy(numbers), torch.from_numpy(codes))
    assert torch.allclose(prices, trained.predict(frame), rtol=1e-6) and prices.mean() > 1000
    assert [each["name"] for each in about["inputs"]] == ["numbers", "codes"]
    assert {each["name"]: each["values"] for each in about["columns"]["categories"]}["town"] == ["Bonn", "Kiel", "Ulm"]
    assert numbers.dtype == np.float64 and np.isnan(numbers[-2]).any() and 0 in codes[-1]


def test_the_tokenizer_beside_texts_gives_what_the_model_takes(runs, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    exported = export(runs["reviews"], "torch-export", tmp_path / "mood.pt2")
    assert [file.name for file in exported.files] == ["mood.pt2", "mood.tokenizer.json"]
    texts = ["A wonderful FILM", "", "the plot " * 40, "\u2603 was no story"]
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "mood.tokenizer.json"))
    ids = torch.tensor([each.ids for each in tokenizer.encode_batch(texts)])
    trained = load_run(runs["reviews"], verbose=False)
    assert torch.equal(ids, trained.columns.encode(pa.table({"text": texts})))
    predict, _ = program(exported.path)
    assert torch.allclose(predict(ids), trained.predict({"text": texts}), atol=1e-6)


def test_a_model_of_ones_own_in_the_units_of_its_targets(tmp_path):
    x, y = makers.numbers()
    run = makers.own_run(tmp_path / "run", nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), x, y)
    with pytest.raises(CheckpointError, match="model="):
        export(run, "torch-export")
    own = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    exported = export(run, "torch-export", model=own)
    predict, about = program(run / "model.pt2")
    assert exported.path == run / "model.pt2" and exported.agreement.largest > 100
    assert torch.allclose(predict(x), load_run(run, model=own).predict(x))
    assert (about["outputs"][0]["name"], about["outputs"][0]["about"]) == ("values", "in the units of the targets")
    assert "written: " in exported.line() and "the same predictions as the run (20 samples" in exported.line()


def test_a_prediction_for_each_pixel(tmp_path):
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 128).long()
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    run = makers.own_run(tmp_path / "run", net, images, masks)
    predict, about = program(export(run, "torch-export", model=net).path)
    shares = predict(images[:5])
    assert shares.shape == (5, 2, 8, 8) and torch.allclose(shares.sum(1), torch.ones(5, 8, 8))
    assert about["outputs"][0]["shape"] == ["batch", 2, 8, 8]


def test_inputs_by_name_are_those_of_an_example(tmp_path):
    ids, x, y = torch.randint(0, 20, (40, 3)), torch.randn(40, 1), torch.randint(0, 2, (40,))
    batches = DataLoader([{"ids": i, "x": a, "y": b} for i, a, b in zip(ids, x, y, strict=True)], batch_size=10)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["ids"], batch["x"])["scores"], batch["y"])

    net = makers.Named()
    Learner(net, batches, loss=loss, verbose=False).fit(1, lr_max=0.01, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"does not know the shape of its inputs.*example=x"):
        export(tmp_path / "run", "torch-export", model=net)
    path = export(tmp_path / "run", "torch-export", model=net, example={"ids": ids, "x": x}).path
    predict, about = program(path)
    assert [each["name"] for each in about["inputs"]] == ["ids", "x"]
    assert [each["name"] for each in about["outputs"]] == ["scores", "twice"]
    assert torch.equal(predict(ids[:3], x[:3])["twice"], 2 * x[:3])


@pytest.mark.parametrize(("model", "says"), [
    (makers.Deciding, r"cannot trace Deciding: .*export_makers\.py:\d+ .*torch\.where"),
    (makers.ForPairs, r"cannot trace ForPairs: its forward computes for one number of samples alone"),
])  # fmt: skip
def test_what_cannot_be_traced_is_named(model, says, tmp_path):
    run = makers.own_run(tmp_path / "run", model(), *makers.numbers())
    with pytest.raises(ExportError, match=f"(?s){says}.*--to folder"):
        export(run, "torch-export", model=model())
    assert not list(run.glob("*.pt2")) and not list(run.glob(".writing-*"))


def test_predictions_that_differ_are_not_written(runs, tmp_path, monkeypatch):
    wrong = PredictionGraph.forward

    def slightly(self, *inputs):
        return wrong(self, *inputs) + 1e-3

    monkeypatch.setattr(PredictionGraph, "forward", slightly)
    with pytest.raises(ExportError, match=r"differ by up to 0\.001.*Nothing was written"):
        export(runs["digits"], "torch-export", tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
    assert export(runs["digits"], "torch-export", tmp_path / "model.pt2", tolerance=0.01).path.exists()


def test_numbers_that_are_none_agree_with_each_other_alone():
    nan, inf = torch.tensor([[torch.nan, 1.0, torch.inf]]), torch.tensor([[torch.nan, 1.5, torch.inf]])
    assert compare._difference(nan, inf).tolist() == [0, 0.5, 0]
    assert compare._difference(nan, torch.tensor([[0.0, 1.0, 2.0]])).tolist() == [torch.inf, 0, torch.inf]


def test_targets_in_other_units_are_compared_each_by_itself(tmp_path, monkeypatch):
    x, _ = makers.numbers()
    net = nn.Linear(6, 2)
    run = makers.own_run(tmp_path / "run", net, x, torch.stack([1e4 * x[:, 0], 1e-3 * x[:, 1]], 1))
    right = PredictionGraph.forward
    monkeypatch.setattr(PredictionGraph, "forward", lambda self, *x: right(self, *x) + torch.tensor([0, 1e-3]))
    with pytest.raises(ExportError, match="predicts something else"):
        export(run, "torch-export", model=net)


def test_a_run_in_half_precision_is_exported_in_float32(tmp_path, capsys):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    run = makers.own_run(tmp_path / "run", net, *makers.numbers(), precision="bf16")
    exported = export(run, "torch-export", model=net)
    assert exported.notes == (
        "the run computed in bf16, and the exported model does in float32: they differ by the rounding of bf16",
    )
    assert exported.agreement.difference == 0 and "rounding of bf16" in capsys.readouterr().err


def test_what_cannot_be_asked_for(runs, tmp_path, monkeypatch):
    run, out = runs["digits"], tmp_path / "model.pt2"
    with pytest.raises(ConfigError, match="torch-export"):
        export(run, "torchexport", out)
    with pytest.raises(ConfigError, match=r"ends in \.pt2"):
        export(run, "torch-export", tmp_path / "model.onnx")
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists, and nothing is overwritten"):
        export(run, "torch-export", out)
    assert out.read_text() == "mine"
    with pytest.raises(ConfigError, match=r"none, which is not there: give out .* in a folder that can be written"):
        export(run, "torch-export", tmp_path / "none" / "model.pt2")
    with pytest.raises(ConfigError, match="leave out example"):
        export(runs["houses"], "torch-export", tmp_path / "b.pt2", example=torch.zeros(2, 3))
    with pytest.raises(CheckpointError, match="no run in"):
        export(tmp_path, "torch-export", tmp_path / "b.pt2")
    monkeypatch.setattr("onecycle.deployment.onnx.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r'pip install "onecycle\[onnx\]"'):
        export(run, "onnx", tmp_path / "model.onnx")


def test_a_run_without_weights_is_not_exported(runs, tmp_path):
    RUN.write(tmp_path / "run", RUN.read(runs["digits"]))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor a checkpoint"):
        export(tmp_path / "run", "torch-export")


def test_a_run_that_has_not_ended_is_not_exported(runs, tmp_path):
    RUN.write(tmp_path / "run", {**RUN.read(runs["digits"]), "status": "interrupted"})
    with pytest.raises(CheckpointError, match=r"is interrupted.*onecycle train --resume"):
        export(tmp_path / "run", "torch-export")


def test_the_command(runs, tmp_path, capsys):
    main(["export", str(runs["digits"]), "--to", "torch-export", "--out", str(tmp_path / "a.pt2")])
    assert f"written: {tmp_path / 'a.pt2'}" in capsys.readouterr().out
    main(["export", str(runs["digits"]), "--to", "torch-export", "--out", str(tmp_path / "b.pt2"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["to"], said["samples"], said["agreement"]["difference"]) == ("torch-export", 20, 0.0)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(runs["digits"]), "--to", "coreml"])
    assert stopped.value.code == 2 and "coreml" in capsys.readouterr().err

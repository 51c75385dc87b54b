"""Exports to ONNX, run by onnxruntime."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import export_makers as makers
import pytest
import torch
from torch import nn

from onecycle import ConfigError, Learner, load, load_run
from onecycle.deployment import export
from onecycle.deployment.graph import PredictionGraph
from onecycle.errors import ExportError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def opened(path: Path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}

    def predict(*inputs):
        arrays = dict(zip(names, (each.numpy() for each in inputs), strict=True))
        return [torch.from_numpy(each) for each in session.run(None, arrays)]

    return predict, about, session


@pytest.mark.parametrize("kind", ["digits", "colours", "houses", "reviews"])
def test_a_run_of_each_kind(kind, tmp_path, capfd):
    run = makers.make_run(kind, tmp_path)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = export(run, "onnx", tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", ""), "the exporter is not silent"
    assert exported.agreement.difference < 1e-5 * exported.agreement.largest
    onnx.checker.check_model(exported.path)
    assert [(one.domain, one.version) for one in onnx.load(exported.path).opset_import if not one.domain] == [("", 18)]
    predict, about, session = opened(exported.path)
    trained = load_run(run, device="cpu", verbose=False)
    graph = PredictionGraph(trained).eval()
    inputs = graph.samples(9, seed=5)
    assert torch.allclose(predict(*inputs)[0], graph.predicted(inputs), rtol=1e-4, atol=1e-5)
    assert [[each.name, each.shape[0]] for each in session.get_inputs()] == [
        [each["name"], "batch"] for each in about["inputs"]
    ]
    assert session.get_outputs()[0].name == about["outputs"][0]["name"]
    if kind == "digits":
        images = load("digits").test.inputs
        assert torch.allclose(predict(images)[0], trained.predict(images), atol=1e-5)
    assert about["classes"] == (None if trained.classes is None else list(trained.classes))


def test_an_operation_that_onnx_does_not_have_is_named(tmp_path):
    run = makers.own_run(tmp_path / "run", makers.Inverse(), *makers.numbers())
    with pytest.raises(ExportError, match=r"opset 18\): it has no aten\.linalg_inv_ex.*--to torch-export"):
        export(run, "onnx", model=makers.Inverse())
    assert not list(run.glob("*.onnx")) and not list(run.glob(".writing-*"))
    assert export(run, "torch-export", model=makers.Inverse()).path.exists()


def test_large_weights_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr("onecycle.deployment.onnx.BESIDE", 1000)
    net = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 1))
    x, y = makers.numbers()
    run = makers.own_run(tmp_path / "run", net, x, y)
    exported = export(run, model=net)
    assert [file.name for file in exported.files] == ["model.onnx", "model.onnx.data"]
    assert torch.allclose(opened(exported.path)[0](x)[0], load_run(run, model=net).predict(x), rtol=1e-4)
    exported.path.unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx\.data exists"):
        export(run, model=net)


def test_several_inputs_and_outputs_by_name(tmp_path):
    ids, x = torch.randint(0, 20, (40, 3)), torch.randn(40, 1)
    net = makers.Named()
    data = torch.utils.data.DataLoader([{"ids": i, "x": a} for i, a in zip(ids, x, strict=True)], batch_size=10)

    def loss(model, batch):
        return model(batch["ids"], batch["x"])["scores"].square().mean()

    Learner(net, data, loss=loss, verbose=False).fit(1, lr_max=0.01, out=tmp_path / "run")
    path = export(tmp_path / "run", model=net, example={"ids": ids, "x": x}).path
    predict, about, session = opened(path)
    assert [each.name for each in session.get_outputs()] == ["scores", "twice"] == [o["name"] for o in about["outputs"]]
    scores, twice = predict(ids[:5], x[:5])
    with torch.no_grad():
        assert torch.equal(twice, 2 * x[:5]) and torch.allclose(scores, net.eval()(ids[:5], x[:5])["scores"], atol=1e-6)


def test_doubles_stay_doubles(tmp_path):
    net = nn.Sequential(nn.Linear(6, 1)).double()
    x, y = (part.double() for part in makers.numbers())
    run = makers.own_run(tmp_path / "run", net, x, y)
    predict, _, session = opened(export(run, model=net).path)
    assert session.get_inputs()[0].type == "tensor(double)"
    assert torch.allclose(predict(x)[0], load_run(run, model=net).predict(x), rtol=1e-10)

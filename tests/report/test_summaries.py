"""The summaries of model and data: what is counted, what is recorded once with a run, and what its page says of it."""

from __future__ import annotations

import json

import pytest
import torch
from page_makers import write_run
from torch import nn

from onecycle.data import load
from onecycle.data.splits import Split
from onecycle.data.summary import CLASSES, data_summary, repetitions
from onecycle.jobs.job import Job
from onecycle.jobs.run import run
from onecycle.records.files import SUMMARY
from onecycle.records.read import read
from onecycle.report.page import html
from onecycle.report.summaries import repeated_sentences, summaries
from onecycle.training.runtime import Runtime
from onecycle.training.summary import FIRST, LAST, model_summary

CPU = Runtime(torch.device("cpu"))


def of(model: nn.Module, inputs: torch.Tensor) -> dict:
    return model_summary(model, (inputs, torch.zeros(len(inputs))), CPU)


def test_layers_in_run_order_with_shapes_parameters_and_flops():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)  # registered first, run last
            self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
            self.pool, self.act, self.flat = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Flatten()

        def forward(self, x):
            return self.head(self.flat(self.pool(self.act(self.conv(x)))))

    model = Net()
    found = of(model, torch.zeros(5, 2, 6, 6))
    assert [(row["name"], row["kind"], row["shape"], row["parameters"]) for row in found["layers"]] == [
        ("conv", "Conv2d", [4, 6, 6], 72), ("pool", "AdaptiveAvgPool2d", [4, 1, 1], 0), ("flat", "Flatten", [4], 0),
        ("head", "Linear", [3], 15),
    ]  # fmt: skip
    assert [row["flops"] for row in found["layers"]] == [2 * 72 * 36, 0, 0, 2 * 12]
    assert (found["parameters"], found["trained"], found["flops"], found["others"]) == (87, 87, 2 * 72 * 36 + 24, 1)


def test_a_summary_leaves_the_model_and_the_generators_as_they_were():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    of(model, torch.randn(4, 3))
    torch.set_rng_state(state)
    of(model, torch.ones(4, 3))
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_of_many_layers_the_first_and_the_last_are_kept():
    many = FIRST + LAST + 9
    found = of(nn.Sequential(*(nn.Linear(2, 2) for _ in range(many))), torch.zeros(1, 2))
    assert len(found["layers"]) == FIRST + LAST and (found["left_out"], found["left_out_after"]) == (9, FIRST)
    assert found["layers"][FIRST]["name"] == str(many - LAST) and found["flops"] == 8 * many


def test_a_model_that_does_not_take_a_batch_has_its_totals():
    found = of(nn.Linear(3, 2), torch.zeros(4, 5))
    assert found["parameters"] == 8 and "layers" not in found and "by itself" in found["reason"]


def test_repetitions_within_a_split_and_from_training():
    x = torch.tensor([[1.0], [2.0], [1.0], [1.0]])
    train = Split(x, torch.tensor([0, 1, 0, 1]))
    valid = Split(torch.tensor([[2.0], [5.0], [5.0], [1.0]]), torch.tensor([1, 0, 0, 1]))
    found = repetitions({"train": train, "valid": valid})
    assert found["train"] == {"within": 2, "in_train": 0, "other_target": 1}
    assert found["valid"] == {"within": 1, "in_train": 2, "other_target": 1}
    assert repeated_sentences(found) == [
        "2 training samples are copies of another one there (1 of them with another target).",
        "1 validation sample is a copy of another one there, and 2 validation samples are in the training data too "
        "(1 of them with another target).",
    ]


def test_the_digits_as_they_are():
    data = load("digits")
    found = data_summary(data)
    assert found["samples"] == {"train": 1294, "valid": 144, "test": 359} and found["shape"] == [1, 8, 8]
    assert sum(row["train"] for row in found["classes"]) == 1294 and found["classes_left_out"] == 0
    counts = [row["train"] for row in found["classes"]]
    assert counts == sorted(counts, reverse=True) and found["notes"] == list(data.notes)
    assert len(found["classes"]) <= CLASSES


def test_a_run_has_its_summary_once_and_its_page_shows_it(tmp_path):
    job = Job("digits", model="mlp", budget="2 updates", limit=200, batch_size=64)
    folder = run(job, tmp_path / "a", report=False).folder
    record = SUMMARY.read(folder)
    assert record["model"]["parameters"] == json.loads((folder / "run.json").read_text())["resolved"]["parameters"]
    assert SUMMARY.path(folder).stat().st_size < 20_000
    text = html(read([folder]), plotly="")
    assert ">Model</h2>" in text and ">Data</h2>" in text and "FLOPs for a sample" in text
    assert "200 training, 144 validation and 359 test images, each 1 x 8 x 8" in text


def test_runs_without_a_summary_and_damaged_ones(tmp_path):
    old = write_run(tmp_path / "old")
    assert summaries(read([old]).runs) == ([], [])
    SUMMARY.write(old, {"model": {"parameters": "many", "layers": [1]}, "data": {}})
    made, said = summaries(read([old]).runs)
    assert made == [] and "summary.json is damaged" in said[0]
    SUMMARY.path(old).write_text("{")
    assert "summary.json cannot be read" in summaries(read([old]).runs)[1][0]
    assert "summary.json cannot be read" in html(read([old]), plotly="")


@pytest.mark.parametrize("known", [{"reason": "why"}, {}])
def test_what_is_not_known_of_repetitions_is_said(known):
    assert repeated_sentences(known) == (
        ["Samples that occur more than once were not looked for: why."] if known else []
    )

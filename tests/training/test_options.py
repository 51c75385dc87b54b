"""The types and ranges of options: what is refused, before any data are read, and what becomes plain Python."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from training_makers import blobs, seeded_net

from onecycle import Budget, ConfigError, Job, Learner, OneCycleError, Policy, one_cycle
from onecycle.commands.app import main
from onecycle.experiments.spec import Spec
from onecycle.jobs import run as job_run
from onecycle.optim.build import build_optimizer
from onecycle.training.options import TrainingOptions

WRONG = [
    ({"batch_size": 0}, "batch_size is the number of samples a batch, a whole number of at least 1; received 0"),
    ({"batch_size": 2.0}, "batch_size is the number of samples a batch, a whole number of at least 1; received 2.0"),
    ({"workers": -1}, "workers is the number of processes that read data, a whole number of at least 0; received -1"),
    ({"augment": 3}, 'augment has names, such as ("crop", "flip") or "none"; received 3'),
    ({"optimizer": 3}, "optimizer is a name such as sgd"),
    ({"momentum": "high"}, "momentum is a number, or two (high, low), at least 0 and below 1"),
    ({"momentum": 1.5}, "such as (0.95, 0.85); received 1.5"),
    ({"weight_decay": -1}, "weight_decay is a finite number of at least 0, such as 5e-4; received -1"),
    ({"accumulate": True}, "accumulate is the number of batches for each update, a whole number of at least 1"),
    ({"clip": "1"}, "clip is the largest norm of the gradient, a finite number above 0; received '1': leave out the q"),
    ({"smoothing": 1}, "smoothing is a share of the target, at least 0 and below 1; received 1"),
    ({"seed": -1}, "seed is a whole number of at least 0; received -1"),
    ({"precision": "bf61"}, "unknown precision 'bf61': did you mean bf16?"),
    ({"device": 3.5}, "device is cpu, cuda, cuda:1 or mps; received 3.5"),
    ({"compile": 3}, "compile is true or false; received 3"),
    (
        {"compile": "reduced-overhead"},
        "unknown mode of torch.compile 'reduced-overhead': did you mean reduce-overhead?",
    ),
]
WRONG_IN_A_JOB = [
    ({"data": 3}, "data is a name or a path; received 3"),
    ({"model": 3}, "model is a name, or package.module:callable; received 3"),
    ({"model_options": [1]}, 'model_options has a value for each name, such as {"dropout": 0.2}; received [1]'),
    ({"model_options": {"act": nn.ReLU()}}, "model_options holds numbers, texts, lists and mappings"),
    ({"policy_options": 3}, 'policy_options has a value for each name, such as {"peak_at": 0.3}; received 3'),
    ({"policy_options": {"peek_at": 3}}, "the preset one_cycle has no option 'peek_at': did you mean peak_at?"),
    ({"policy": 3}, 'policy has a value for each name, such as {"lr": 0.1}, or is the name of a preset; received 3'),
    ({"lr_max": None}, "lr_max is the peak learning rate, a finite number above 0, such as 0.1; received None"),
    ({"budget": None}, "cannot read the budget None"),
    ({"limit": 0}, "limit is the number of training samples, a whole number of at least 1; received 0"),
    (
        {"image_size": "32"},
        "image_size is the side of the images in pixels, a whole number of at least 1; received '32'",
    ),
    ({"target": 3}, "target is the name of a column; received 3"),
    ({"leave_out": [3]}, 'leave_out has names, such as ("id", "name"); received [3]'),
    ({"fit": 3}, "fit is crop, pad or squash; received 3"),
    ({"skip_damaged": "no"}, "skip_damaged is true or false; received 'no'"),
    ({"optimizer": torch.optim.SGD}, "optimizer is a name such as sgd; received"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=lambda value: next(iter(value)) if value is dict else "")
def test_a_learner_refuses_them(options, said):
    with pytest.raises(ConfigError) as error:
        Learner(seeded_net(), blobs(), verbose=False, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(("options", "said"), [*WRONG, *WRONG_IN_A_JOB])
def test_a_job_refuses_them(options, said):
    with pytest.raises(ConfigError) as error:
        Job(**options)
    assert said in str(error.value)


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("toml", "words", "said"),
    [
        ("clip = '1'", [], "received '1': leave out the quotes"),
        ("data = 3", [], "data is a name or a path; received 3"),
        ("compile = 'no'", [], "or true or false"),
        ("", ["--compile", "reduce"], 'Choose from: "default", "reduce-overhead", "max-autotune"'),
        ("", ["--workers", "-1"], "a whole number of at least 0; received -1"),
        ("", ["--clip", "0"], "a finite number above 0; received 0.0"),
    ],
)
def test_from_a_file_or_the_shell_they_are_refused_too(command, toml, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "load", lambda *_, **__: pytest.fail("the data were read"))
    Path("run.toml").write_text(toml)
    with pytest.raises(SystemExit) as stop:
        main([command, "run.toml", *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def saved_and_loaded(state: dict) -> None:
    """As a checkpoint: nothing in it needs pickled code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    torch.load(file, weights_only=True)


@pytest.mark.parametrize("number", [np.float64, np.float32, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_numbers_of_numpy_and_tensors_of_one_are_numbers(number):
    learn = Learner(
        seeded_net(), blobs(), verbose=False, batch_size=np.int64(16), weight_decay=number(0.5), momentum=number(0.5),
        clip=number(0.5), smoothing=number(0.25), optimizer="sgd", seed=np.int64(3), compile=np.bool_(False),
    )  # fmt: skip
    learn.fit_one_cycle(number(0.5), number(0.5), momentum=(number(0.75), number(0.5)))
    saved_and_loaded(learn.state.state_dict())
    assert type(learn.options.weight_decay) is float and type(learn.options.seed) is int
    saved_and_loaded(
        build_optimizer("sgd", seeded_net(), weight_decay=number(0.5), momentum=number(0.5))[0].state_dict()
    )
    assert (Budget.parse(number(0.5)), type(Budget.parse(number(0.5)).epochs)) == (Budget(epochs=0.5), float)
    assert Policy({"lr": number(0.5)}) == Policy({"lr": 0.5}) and one_cycle(number(0.5)) == one_cycle(0.5)
    job = Job(weight_decay=number(0.5), lr_max=number(0.5), budget=number(0.5), model_options={"dropout": number(0.5)})
    assert job == Job(weight_decay=0.5, lr_max=0.5, budget="0.5 epochs", model_options={"dropout": 0.5})
    assert json.loads(json.dumps(asdict(job)))["model_options"] == {"dropout": 0.5}
    spec = Spec.from_dict(
        {"epochs": [number(2)], "tune": False, "lr_max": number(0.5), "weight_decay": [number(0.5), 1]}
    )
    assert spec == Spec(epochs=(2,), tune=False, lr_max=0.5, axes={"weight_decay": (0.5, 1)})


def test_a_path_and_a_device_become_text():
    job = Job(Path("some/folder"), device=torch.device("cpu"))
    assert (job.data, job.device) == ("some/folder", "cpu") and json.dumps(asdict(job))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=2)
    | st.sampled_from([object(), 1j, np.float32(0.5), np.int64(2), np.nan, np.zeros(2), torch.tensor(3), torch.zeros(2),
                       nn.Linear(1, 1), Path("a"), slice(0, 1), int])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2),
)


@example("stages", None)
@settings(deadline=None, max_examples=300)
@given(st.sampled_from([one.name for one in fields(Job)]), VALUES)
def test_whatever_is_given_to_a_job_is_plain_data_or_refused(name, value):
    try:
        job = Job(**{name: value})
    except OneCycleError:
        return
    plain = json.loads(json.dumps(asdict(job)))
    assert isinstance(job.command(), str)
    if value == value:  # not NaN
        Job.from_dict(plain)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([one.name for one in fields(TrainingOptions)]), VALUES)
def test_whatever_is_given_to_a_training_is_taken_or_refused(name, value):
    try:
        TrainingOptions(**{name: value})
    except OneCycleError:
        return


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from([one.name for one in fields(Spec)]), VALUES, min_size=1, max_size=2))
def test_whatever_is_given_to_a_comparison_is_taken_or_refused(values):
    try:
        Spec.from_dict(values)
    except OneCycleError:
        return

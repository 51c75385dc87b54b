"""A comparison as plain data: what is read, what is refused, and which runs it comes to."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from onecycle.commands.app import command_line
from onecycle.errors import ConfigError
from onecycle.experiments import comparison, plan
from onecycle.experiments.options import Placement
from onecycle.experiments.spec import Spec, command_of

TOML = """
data = "digits"
model = "mlp"
policies = ["one_cycle", "cosine"]
epochs = [1, 2.5]
seeds = 3
batch_size = [32, 64]
momentum = [0.8, [0.95, 0.85]]
optimizer = "sgd"
"""


def test_a_file_says_the_same_as_keywords(tmp_path: Path):
    (tmp_path / "spec.toml").write_text(TOML)
    spec = Spec.read(tmp_path / "spec.toml")
    assert spec == Spec(
        model="mlp", policies=("one_cycle", "cosine"), epochs=(1, 2.5), seeds=3,
        axes={"batch_size": (32, 64), "momentum": (0.8, (0.95, 0.85))}, settings={"optimizer": "sgd"},
    )  # fmt: skip
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"polices": ["step"]}, "unknown axis 'polices': did you mean policies"),
        ({"search": 0.2}, "search is no axis of a comparison, which tunes the peak of each policy itself"),
        ({"settings": {"balance": True}}, "balance is no axis"),
        ({"axes": {"lr_max": [0.1, 0.2]}}, "lr_max is no axis"),
        ({"batchsize": [1, 2]}, "unknown axis 'batchsize': did you mean batch_size"),
        ({"policies": ["one_cycl"]}, "unknown policy 'one_cycl': did you mean one_cycle"),
        ({"policies": []}, "policies needs at least one value"),
        ({"epochs": [2, 2]}, "epochs has a value twice"),
        ({"batch_size": []}, "batch_size needs at least one value"),
        ({"seeds": 0}, "seeds is the number of runs of each condition, a whole number of at least 1; received 0"),
        ({"seeds": True}, "seeds is the number of runs"),
        ({"trials": 2}, "trials is the number of .* a whole number of at least 3"),
        ({"seed": [1, 2]}, "seed is no axis of a comparison: its values are given as seeds"),
        ({"budget": "5m"}, "given as epochs"),
        ({"model_options": [{"dropout": 0.1}]}, "varied by their own names, such as dropout"),
        ({"fraction": [1, 1.5]}, "above 0 and at most 1; received 1.5"),
        ({"fraction": "half"}, "above 0 and at most 1; received 'half'"),
        ({"axes": {"clip": [1, 2]}, "clip": 1.0}, "clip has one value and several"),
        ({"tune": False}, "without tuning, one_cycle, step, cosine, constant has no peak"),
        ({"tune": False, "lr_max": {"one_cycle": 1.0}, "policies": ["one_cycle", "step"]}, "tuning, step has no peak"),
        ({"tune": False, "lr_max": {"stepp": 1.0}, "policies": ["step"]}, "lr_max has a peak for 'stepp'"),
        ({"lr_max": 0.1}, "peaks are tuned, or given by lr_max; received 0.1"),
        ({"tune": "no"}, "tune is true or false; received 'no'"),
        ({"data": 3}, "data is a name or a path; received 3"),
        ({"model": ["mlp"]}, r"model is a name, or package.module:callable; received \['mlp'\]"),
        ({"axes": 3}, "axes has a value for each hyper-parameter, by name; received 3"),
        ({"settings": ["clip"]}, "settings has a value for each hyper-parameter"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Spec.from_dict(values)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    (tmp_path / "spec.toml").write_text("policies = [")
    for name in ("spec.toml", "none.toml"):
        with pytest.raises(ConfigError, match=f"cannot read the TOML file .*{name}"):
            Spec.read(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": [-1]}, "epochs is a finite number above 0; received -1"),
        ({"epochs": ["two"]}, "epochs is a finite number above 0; received 'two'"),
        ({"epochs": [1e-9]}, "cannot read the budget '1e-09 epochs'"),
        ({"momentum": (0.95, 0.85), "policies": ["one_cycle", "step"]}, "no cycle for momentum to follow"),
        ({"tune": False, "lr_max": -0.1}, "lr_max is the peak learning rate, a finite number above 0"),
        ({"augment": [["a b"], ["a-b"]]}, "two values of an axis look the same in a folder's name"),
    ],
)
def test_what_no_run_can_be_made_of_is_refused_before_the_first(values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        plan.check(Spec.from_dict(values))


def test_the_runs_of_all_policies_differ_in_policy_and_peak_alone():
    spec = Spec.from_dict({"batch_size": [32, 64], "dropout": 0.2, "policies": ["one_cycle", "step"], "model": "mlp"})
    assert plan.settings(spec) == [(("batch_size", 32),), (("batch_size", 64),)]
    group = plan.conditions(spec, plan.settings(spec)[1])
    assert [cell.name for cell in group[:3]] == ["one_cycle-2-batch_size64", "step-2-batch_size64",
                                                 "one_cycle-4-batch_size64"]  # fmt: skip
    ours, theirs = (plan.job_for(spec, cell, lr, 3) for cell, lr in zip(group, (0.4, 0.1), strict=False))
    assert (ours.policy, ours.lr_max, theirs.policy, theirs.lr_max) == ("one_cycle", 0.4, "step", 0.1)
    same = ("data", "model", "budget", "seed", "batch_size", "model_options", "augment", "limit")
    assert all(getattr(ours, name) == getattr(theirs, name) for name in same)
    assert (ours.batch_size, ours.model_options, ours.budget) == (64, {"dropout": 0.2}, "2 epochs")


def test_large_budgets_keep_their_digits():
    spec = Spec(epochs=(1_000_000, 1 / 3))
    jobs = [plan.job_for(spec, cell, 0.1, 0) for cell in plan.conditions(spec, ())]
    assert {job.budget for job in jobs} == {"1,000,000 epochs", "0.333333333333 epochs"}


def test_a_fraction_is_of_the_training_samples():
    spec = Spec.from_dict({"fraction": [1, 0.25], "limit": 400})
    assert [plan.base_job(spec, setting).limit for setting in plan.settings(spec)] == [400, 100]
    spec = Spec.from_dict({"fraction": [1, 0.5]})
    assert [plan.base_job(spec, setting).limit for setting in plan.settings(spec)] == [None, 647]


def test_names_of_columns_are_one_value_and_lists_of_them_an_axis():
    spec = Spec.from_dict({"leave_out": ["id", "street"]})
    assert (spec.settings, dict(spec.axes)) == ({"leave_out": ("id", "street")}, {})
    assert Spec.from_dict(spec.to_dict()) == spec and plan.base_job(spec, ()).leave_out == ("id", "street")
    assert command_of(spec, Path("out")) == "onecycle compare digits --leave-out id,street --out out"
    spec = Spec.from_dict({"leave_out": [["id"], ["id", "street"]]})
    assert [plan.base_job(spec, setting).leave_out for setting in plan.settings(spec)] == [("id",), ("id", "street")]
    assert command_of(spec, Path("out")) is None


@pytest.mark.parametrize(
    ("axes", "limits", "sizes", "note"),
    [
        ({"fraction": [1, 0.25], "limit": 400}, [400, 100], [8, 8], "8 for every fraction, which fits the fewest "
         "training samples, 100 ("),
        ({"limit": [200, 400, 5000]}, [200, 400, 5000], [16] * 3, "16 for every limit, "),
        ({"fraction": [1, 0.25], "batch_size": 32}, [None, 324], [32, 32], None),
        ({"fraction": [1, 0.25], "batch_size": [32, 64]}, [None, None, 324, 324], [32, 64, 32, 64], None),
        ({"dropout": [0.0, 0.1], "limit": 100}, [100, 100], [None, None], None),
        ({"fraction": 0.25}, [324], [None], None),
    ],
)  # fmt: skip
def test_the_batch_size_is_one_where_the_number_of_samples_varies(axes, limits, sizes, note):
    spec = Spec.from_dict(axes)
    common = plan.common_batch_size(spec)
    jobs = [plan.base_job(plan.settled(spec, common), setting) for setting in plan.settings(spec)]
    assert [(job.limit, job.batch_size) for job in jobs] == list(zip(limits, sizes, strict=True))
    said = plan.notes(spec, common)
    assert said == [] if note is None else note in said[0] and len(said) == 1
    lines = plan.lines(spec, dict.fromkeys(plan.settings(spec), plan.Speed(1.0, 1, 1)), common=common)
    assert all(each in lines for each in said)


def test_the_plan_counts_runs_and_seconds():
    spec = Spec(policies=("one_cycle", "step"), epochs=(1, 3), seeds=5, axes={"batch_size": (32, 64)}, trials=4)
    said = plan.lines(spec, dict.fromkeys(plan.settings(spec), plan.Speed(1.0, 1, 1)))
    assert "runs: 40" in said and said[3].startswith("tuning: 32 trial runs, 4 for each policy and budget")
    speeds = {setting: plan.Speed(100.0, 250, 150, 0.5) for setting in plan.settings(spec)}
    # 2 settings x 2 policies x 9 runs, of .5 s and 3 s an epoch: 250 samples, and 150 at a third
    assert plan.expected(spec, speeds) == pytest.approx(2 * 2 * 9 * ((0.5 + 3) + (0.5 + 9)))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data": "my data/set.npz", "model": "pkg.nets:build", "policies": ["wsd"], "epochs": [0.5], "seeds": 2},
        {"tune": False, "lr_max": 0.1 + 0.2, "batch_size": [64]},
        {"tune": False, "lr_max": {"one_cycle": 1e-3, "step": 2}, "policies": ["one_cycle", "step"]},
        {
            "weight_decay": [0, 5e-4],
            "optimizer": ["sgd", "adamw"],
            "compile": True,
            "clip": None,
            "width": 2,
            "trials": 7,
        },
    ],
)
def test_the_command_of_a_comparison_makes_that_comparison(values: dict, monkeypatch: pytest.MonkeyPatch):
    spec, made = Spec.from_dict(values), []
    monkeypatch.setattr(comparison, "conduct", lambda spec, out, **options: made.append((spec, out, options)) or 1 / 0)
    placement = Placement(on="ray", gpus=0.25, storage="s3://b/c")
    command = command_of(spec, Path("my out"), placement)
    with pytest.raises(ZeroDivisionError):
        command_line()(shlex.split(str(command))[1:])
    [(same, out, options)] = made
    assert (same, out, options["placement"]) == (spec, Path("my out"), placement)


@pytest.mark.parametrize("values", [{"momentum": (0.95, 0.85)}, {"augment": "16"}, {"model_options": {"width": 2}}])
def test_values_that_no_shell_can_give_have_no_command(values: dict):
    assert command_of(Spec.from_dict(values), Path("out")) is None

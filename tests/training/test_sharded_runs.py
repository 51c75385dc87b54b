"""Fits, runs in folders, range tests and commands of models in shards: as on one rank, and from any number to any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks_makers import on_ranks, start
from ranks_makers import run as run_all

BEGIN = "import torch; torch.set_num_threads(1); import sharded_cases; "


def case(call: str, world: int) -> Any:
    """What a function of `sharded_cases` comes to on the main rank; the others have the same but for the weights."""
    first, *others = on_ranks(f"{BEGIN}result(sharded_cases.{call})", world)
    if isinstance(first, dict):
        assert all({**other, "weights": 0} == {**first, "weights": 0} for other in others)
    else:
        assert all(other == first for other in others)
    return first


def assert_near(one: Any, other: Any, within: float = 2e-5) -> None:
    """Two structures of numbers differ by roundings of float32 at most."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_near(one[name], other[name], within)
    elif isinstance(one, list):
        assert one == pytest.approx(other, rel=within, abs=within)
    else:
        assert one == (pytest.approx(other, rel=within, abs=within) if isinstance(one, float) else other)


@pytest.mark.parametrize(
    ("options", "world"),
    [
        ("optimizer='sgd', clip=0.1, accumulate=2", 2),
        ("optimizer='steady', average=0.9", 3),
        ("optimizer='auto'", 2),
    ],
)
def test_a_fit_in_shards_is_that_of_one_rank_but_for_rounding(options, world):
    one, several = (case(f"fitted({options})", ranks) for ranks in (1, world))
    assert_near(one, several)


def test_a_run_goes_on_to_the_bit_and_on_any_number_of_ranks(tmp_path):
    def run(folder: str, world: int, more: str = "") -> Any:
        return case(f"run({str(tmp_path / folder)!r}, optimizer='steady'{more})", world)

    straight = run("straight", 2)
    killed = start(
        ["-c", f"{BEGIN}sharded_cases.run({str(tmp_path / 'killed')!r}, optimizer='steady', killed_at=6)"], 2
    )
    said = [process.communicate() for process in killed]
    assert killed[0].returncode == 9 and killed[1].returncode, said
    for folder in ("on 1", "on 3"):
        shutil.copytree(tmp_path / "killed", tmp_path / folder)
    assert run("killed", 2, ", resume=True") == straight, "to the bit"
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("straight", "killed")]
    assert weights[0] == weights[1]
    for world in (1, 3):
        assert_near(run(f"on {world}", world, ", resume=True"), straight)
    whole = run("of one", 1)
    assert_near(whole, straight)
    records = [json.loads(line) for line in (tmp_path / "killed" / "steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(12)), "the main rank alone has written"


def test_a_run_of_one_rank_goes_on_in_shards(tmp_path):
    out = str(tmp_path / "run")
    with pytest.raises(AssertionError, match="ended with 9"):
        case(f"run({out!r}, optimizer='steady', killed_at=6)", 1)
    resumed = case(f"run({out!r}, optimizer='steady', resume=True)", 2)
    assert_near(resumed, case(f"run({str(tmp_path / 'straight')!r}, optimizer='steady')", 1))


@pytest.mark.slow
def test_a_range_test_and_a_pilot_are_those_of_one_rank_and_leave_no_trace():
    assert_near(case("tried()", 1), case("tried()", 2))


def test_weights_are_saved_whole_and_loaded_into_shards(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    first, second = case(f"saved_and_loaded({path!r})", 2)
    assert first == second
    assert_near(first, case(f"saved_and_loaded({str(tmp_path / 'one.safetensors')!r})", 1)[0])


def test_a_part_that_weighs_nothing_brings_nothing():
    assert_near(case("weighted()", 1), case("weighted()", 2))


def test_a_criterion_with_less_than_a_weight_for_each_rank_is_trained_too():
    one, two = case("with_criterion()", 1), case("with_criterion()", 2)
    assert_near(one["losses"], two["losses"])
    assert_near(one["weights"][0], two["weights"][0])
    assert one["weights"] != [[1.0]]


def test_weights_that_no_rank_uses_have_no_gradient_and_no_state():
    kept = case("partly_used()", 2)
    assert not any(kept[f"{name}.weight"] for name in ("never", "layers.1")) and kept["some.weight"]
    assert {name: bool(of) for name, of in kept.items()} == {
        name: bool(of) for name, of in case("partly_used()", 1).items()
    }


def test_weights_are_applied_to_as_many_positions_as_whole_ones():
    assert case("positions()", 1) == case("positions()", 2) != []


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("weights", "ConfigError: shard gathers the weights of a module while it is called"),
        ("part", "ConfigError: shard gathers the weights of a module while it is called"),
        ("sharpness", "ConfigError: sharpness needs second derivatives, and a model in shards has none"),
        ("profile", "ConfigError: a profile is of one process"),
        ("optimizer", "ConfigError: Adafactor cannot update these parameters"),
        ("sharded", "ConfigError: CharTransformer is in shards by now"),
        ("lazy", "ConfigError: Sequential has 0.weight, which gets its shape from the first batch"),
    ],
)
def test_what_cannot_be_is_said_on_all_ranks(what, says):
    assert all(said.startswith(says) for said in on_ranks(f"{BEGIN}result(sharded_cases.refused({what!r}))", 2))


def test_the_command_shards_where_torchrun_started_it_and_says_how_where_it_did_not(tmp_path):
    words = [
        "-m",
        "onecycle",
        "train",
        "digits",
        "--limit",
        "200",
        "--model",
        "mlp",
        "--epochs",
        "2",
        "--lr-max",
        "0.02",
    ]
    words += ["--no-report"]
    (alone,) = run_all([*words, "--shard", "--out", str(tmp_path / "alone")], 1, cwd=tmp_path)
    assert alone.returncode == 2 and "start them with torchrun --nproc-per-node=N -m onecycle train" in alone.stderr
    assert not (tmp_path / "alone").exists()
    ends = run_all([*words, "--shard", "--out", str(tmp_path / "two")], 2, cwd=tmp_path)
    assert [end.returncode for end in ends] == [0, 0], ends
    assert run_all([*words, "--out", str(tmp_path / "one")], 1, cwd=tmp_path)[0].returncode == 0
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert records[1]["resolved"].pop("shards") == 2
    assert records[0]["config"] == records[1]["config"], "so that one goes on as the other"
    assert_near(*(_losses(tmp_path / name) for name in ("one", "two")))
    more = ["-m", "onecycle", "train", "--extend", "two", "--epochs", "1", "--no-report", "--shard", "--out", "more"]
    assert [end.returncode for end in run_all(more, 2, cwd=tmp_path)] == [0, 0]


@pytest.mark.slow
def test_a_check_with_weights_of_its_own_for_each_repeat_is_that_of_one_rank(tmp_path):
    words = [
        "-m",
        "onecycle",
        "check",
        "digits",
        "--limit",
        "200",
        "--model",
        "mlp",
        "--updates",
        "64",
        "--no-report",
        "--json",
    ]
    one, two = (run_all([*words, *more], world, cwd=tmp_path)[0] for more, world in (([], 1), (["--shard"], 2)))
    assert one.returncode == two.returncode == 0, two.stderr
    first, second = (json.loads(end.stdout)["curve"]["sweeps"] for end in (one, two))
    assert [sweep["loss"][:8] for sweep in first] == [pytest.approx(sweep["loss"][:8], rel=1e-4) for sweep in second]


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]

"""Several ranks: real processes that train one model together, over gloo."""

from __future__ import annotations

import math
import os
import shutil
from typing import Any

import pytest
from ranks_makers import on_ranks, run

from onecycle import ConfigError, Learner
from onecycle.training.ranks import Ranks


def case(call: str, world: int) -> list[Any]:
    """What a function of `ranks_cases` comes to on each rank."""
    return on_ranks(f"import torch; torch.set_num_threads(1); import ranks_cases; result(ranks_cases.{call})", world)


def alike(call: str, world: int) -> Any:
    """The same, which all ranks must have to the bit."""
    first, *others = case(call, world)
    assert all({**other, "notes": 0} == {**first, "notes": 0} for other in others)
    return first


def near(a: Any, b: Any, within: float = 1e-5) -> bool:
    """Whether two structures of numbers differ by roundings of float32 at most."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[k], b[k], within) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(near(x, y, within) for x, y in zip(a, b, strict=True))
    return math.isclose(a, b, rel_tol=within, abs_tol=within) if isinstance(a, int | float) else a == b


def assert_as_one(call: str, worlds: tuple[int, ...] = (2, 3), leave: tuple[str, ...] = ("digest", "notes")) -> None:
    """Any number of ranks come to what one does."""

    def plain(told: dict[str, Any]) -> dict[str, Any]:
        return {k: plain(v) if isinstance(v, dict) else v for k, v in told.items() if k not in leave}

    one = plain(alike(call, 1))
    for world in worlds:
        several = plain(alike(call, world))
        for name in one:
            assert near(one[name], several[name]), (world, name, one[name], several[name])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer": "muon", "average": 0.9},
        {"optimizer": "adamw", "accumulate": 2, "clip": 0.1},
        {"norm": True, "sync_batchnorm": True},
        {"norm": True, "sync_batchnorm": True, "norm_statistics": "running", "accumulate": 2},
    ],
    ids=str,
)
def test_any_number_of_ranks_train_as_one(options):
    assert_as_one(f"classify(**{options})")


def test_a_rank_reads_its_part_alone():
    first, second = case("read_by_a_rank()", 2)
    assert first["read"] + second["read"] == 2 * 111


@pytest.mark.parametrize("loader", ["list", "dataset", "loader", "workers", "stream"])
def test_data_of_any_form_come_in_the_same_batches(loader):
    assert_as_one(f"classify(loader={loader!r})", (2,))


@pytest.mark.parametrize("call", ["tokens()", "parts_of_a_model()", "trained_loss()", "augmented()"])
def test_any_loss_and_any_batch_count_as_on_one_rank(call):
    assert_as_one(call)


def test_metrics_and_meters_are_over_all_samples():
    assert_as_one("metered()")
    (note,) = [note for note in alike("metered()", 2)["notes"] if note.startswith("metrics: ")]
    assert "what wrapped and most of the ranks measured cannot be put together" in note


def test_a_meter_is_given_what_its_rank_computed():
    first, second = case("fed()", 2)
    assert {name: first[name] + second[name] for name in first} == {"ours": 41, "accuracy": 41, "most": 2 * 41}


def test_all_ranks_have_the_same_weights_whatever_each_draws():
    alike("classify(norm=True, dropout=True, norm_statistics='running')", 2)
    alike("classify(norm=True, dropout=True)", 3)
    alike("parts_of_a_model(by_rank=True)", 2)


def test_a_loader_made_for_ranks_is_taken_as_it_is():
    told = alike("sampled()", 2)
    assert told["samples"] == [110, 110]  # 55 of 111 on each rank


def test_loaders_of_ranks_may_have_batches_of_other_sizes():
    told = alike("unequal()", 2)
    assert told["sought"] and len(told["losses"]) > 250


def test_batches_are_whole_throughout_where_the_first_one_cannot_be_cut():
    assert_as_one("time_first()", (2,))


def test_what_is_decided_by_losses_is_one_decision():
    told = alike("chosen()", 2)
    assert told["untouched"] and told["sought"] and told["test"]
    one = alike("chosen()", 1)
    assert told["peak"] == one["peak"]  # from losses that differ by the draws of dropout alone


def test_a_lost_run_is_rescued_alike_on_all_ranks():
    told = alike("lost()", 2)
    assert told["rescues"] and all(map(math.isfinite, told["losses"]))


def test_a_step_that_overflows_is_skipped_by_all_ranks():
    told = alike("half()", 2)
    assert told["scale"] < 2.0**40 and len(told["losses"]) == 6


def test_extensions_and_weights_are_the_main_ranks_files(tmp_path):
    for rank in range(2):
        (tmp_path / f"disk-{rank}").mkdir()
    first, second = case(f"extended({str(tmp_path)!r})", 2)
    assert first["seen"] == ["more", "run", "weights.safetensors"] and not second["seen"]
    assert first["loaded"] and second["loaded"] and first["digest"] == second["digest"]


def test_an_extension_that_was_stopped_goes_on_by_the_main_ranks_files(tmp_path):
    for rank in range(2):
        (tmp_path / f"disk-{rank}").mkdir()
    first, second = case(f"extension_resumed({str(tmp_path)!r})", 2)
    assert first["digest"] == second["digest"] and first["same"] and second["same"]
    assert first["stopped"] < len(first["losses"])


def test_a_job_is_extended_by_the_main_ranks_files(tmp_path):
    for rank in range(2):
        (tmp_path / f"disk-{rank}").mkdir()
    first, second = case(f"jobs_extended({str(tmp_path)!r})", 2)
    assert first["valid"] == second["valid"] and first["seen"] == ["more", "run"] and not second["seen"]


def test_a_folder_that_was_removed_has_a_new_run_on_all_ranks(tmp_path):
    first, second = case(f"begun_twice({str(tmp_path)!r})", 2)
    assert first == second and first["updates"] == 6


def test_files_come_to_all_ranks_in_pieces(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(range(250)) * 10)
    (first, most), (second, _) = case(f"pieces({str(tmp_path)!r}, 1000)", 2)
    assert first == second == (bytes(range(250)) * 10).hex() and most == 1000


def test_a_budget_of_time_ends_at_one_update_on_all_ranks():
    assert alike("timed(1.5)", 2)["updates"] > 3


def test_a_stop_that_one_rank_is_asked_for_is_one_of_all():
    told = alike("stopped('observer')", 2)
    assert told["said"] == "3: stopped after 3 updates: rank 1 has seen enough"
    assert "stopped by SIGTERM after update 2" in alike("stopped('signal')", 3)["said"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("loader", "RuntimeError: DataLoader timed out after 2 seconds"),
        ("error", "OSError: the disk with sample 7 is gone"),
        ("memory", "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_an_error_of_one_rank_ends_all_with_its_message(how, said):
    first, second = run(["-c", f"import ranks_cases; ranks_cases.failing({how!r})"], 2)
    assert (first.returncode, second.returncode) == (1, 1)
    assert f"RankError: rank 1 of 2 ended the run: {said}" in first.stderr
    assert said.partition(": ")[2] in second.stderr and "RankError" not in second.stderr


def test_memory_that_one_rank_lacks_in_a_pilot_ends_all():
    first, second = run(["-c", "import ranks_cases; ranks_cases.memory_in_a_pilot()"], 2)
    assert "rank 1 of 2 ended the run: OutOfMemoryError" in first.stderr, first.stderr
    assert "out of memory" in second.stderr


def test_what_sums_gradients_is_freed_and_functions_are_compared_by_name():
    assert case("freed()", 2) == [{"freed": True}] * 2
    alike("functions()", 2)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named():
    from ranks_makers import start

    main, hanging = start(["-c", "import ranks_cases; ranks_cases.failing('hang', timeout=2)"], 2)
    with main, hanging:
        try:
            said = main.communicate(timeout=60)[1]
        finally:
            main.kill()
            hanging.kill()
    assert "RankError: rank 1 of 2 does not answer: hanging, or gone" in said, said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("seed", "seed is '0' on rank 0, and '1' on rank 1 of 2"),
        ("data", "the first batch is"),
        ("data", "DataLoader with a DistributedSampler, or by datasets.distributed.split_dataset_by_node"),
        ("valid", "the first validation batch is"),
        ("model", "the model is"),
        ("budget", "budget is '1 epoch' on rank 0, and '2 epochs' on rank 1 of 2"),
        ("batch", "a batch of 3 samples has fewer than 2 for each of 2 ranks"),
    ],
)
def test_ranks_that_were_given_different_things_say_so_before_training(what, said):
    for end in run(["-c", f"import ranks_cases; ranks_cases.unlike({what!r})"], 2):
        assert end.returncode == 1
        assert "ConfigError: " in end.stderr and said in end.stderr, end.stderr


def test_only_the_main_rank_writes_and_a_run_goes_on_with_any_number_of_ranks(tmp_path):
    for rank in range(3):
        (tmp_path / f"disk-{rank}").mkdir()
    whole = case(f"recorded({str(tmp_path)!r})", 2)
    assert [one["seen"] for one in whole] == [["run"], []]
    assert whole[0]["digest"] == whole[1]["digest"]
    (tmp_path / "disk-0" / "run").rename(tmp_path / "whole")
    ends = run(["-c", f"import ranks_cases; ranks_cases.recorded({str(tmp_path)!r}, die=17)"], 2)
    assert ends[1].returncode == -9 and "rank 1 of 2 does not answer" in ends[0].stderr
    saved = tmp_path / "saved"
    (tmp_path / "disk-0" / "run").rename(saved)
    for world in (2, 1, 3):
        os.system(f"cp -r {saved} {tmp_path}/disk-0/run")
        resumed = case(f"recorded({str(tmp_path)!r}, resume=True)", world)[0]
        os.system(f"rm -r {tmp_path}/disk-0/run")
        if world == 2:
            assert resumed["digest"] == whole[0]["digest"]
        said = [note for note in resumed["notes"] if "from here on" in note]
        assert len(said) == (world != 2), resumed["notes"]
        assert all(f"was trained by 2 ranks and is by {world} rank" in note for note in said)
        assert len(resumed["losses"]) == len(whole[0]["losses"]) and resumed["samples"] == whole[0]["samples"]


@pytest.mark.parametrize("given", ["", "loader=True", "method='head', epochs=1"])
def test_any_number_of_ranks_fine_tune_as_one(given):
    assert_as_one(f"fine_tuned({given})", (2,))


def test_any_number_of_ranks_fall_back_to_the_head():
    leave = ("digest", "notes", "losses", "epochs")  # of a run that is lost roundings grow
    assert_as_one("fine_tuned(lr_max=30.0, method='auto', epochs=1)", (2,), leave)


def test_a_time_budget_of_stages_is_shared_alike_on_all_ranks():
    told = alike("fine_tuned(epochs=None, budget='2s')", 2)
    assert told["updates"] > 2 and any("on features that are computed once" in note for note in told["notes"])


@pytest.mark.slow
def test_a_stage_of_ranks_that_was_killed_is_found_on_the_main_ranks_disk(tmp_path):
    """In the head's 120 updates, and in the 18 of all layers, each from its last checkpoint on."""
    for rank in range(2):
        (tmp_path / f"disk-{rank}").mkdir()
    whole = case(f"fine_tuned({str(tmp_path)!r})", 2)
    assert [one["seen"] for one in whole] == [["run"], []] and whole[0]["updates"] == 138
    assert whole[0]["digest"] == whole[1]["digest"]
    for die, left in ((67, 137), (132, 17)):
        shutil.rmtree(tmp_path / "disk-0" / "run")
        ends = run(["-c", f"import ranks_cases; ranks_cases.fine_tuned({str(tmp_path)!r}, die={die})"], 2)
        assert ends[1].returncode == -9 and "rank 1 of 2 does not answer" in ends[0].stderr
        resumed = case(f"fine_tuned({str(tmp_path)!r}, resume=True)", 2)
        assert [one["digest"] for one in resumed] == [one["digest"] for one in whole]
        assert all(0 < one["updates"] <= left for one in resumed), "of 138"


def test_what_a_launcher_says_is_looked_at(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 and RANK, MASTER_ADDR and MASTER_PORT are not set"):
        Learner(None, None)  # type: ignore[arg-type]
    monkeypatch.setenv("LOCAL_RANK", "")
    with pytest.raises(ConfigError, match="LOCAL_RANK is a whole number, from 0; received ''"):
        Learner(None, None)  # type: ignore[arg-type]
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="the number of ranks, from 1; received 'two'"):
        Learner(None, None)  # type: ignore[arg-type]


def test_one_rank_is_what_it_was():
    assert Ranks.here() == Ranks() and Ranks().gather(3) == [3]

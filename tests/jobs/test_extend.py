"""The job that goes on from a finished run: what it takes from there, and what is asked for that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onecycle import CheckpointError, ConfigError, Job, run
from onecycle.commands.app import main
from onecycle.jobs.extend import extension_of
from onecycle.jobs.run import free_folder, job_of
from onecycle.records.files import RUN, read_jsonl

WORK = Job("digits", model="mlp", budget="2 epochs", limit=160, lr_max=0.03, momentum=(0.9, 0.8), seed=3)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained") / "first"
    run(WORK, folder, report=False)
    return folder


def test_all_but_the_schedule_is_as_it_was(trained):
    job = extension_of(trained, {"budget": "3 epochs"})
    assert job == replace(WORK, budget="3 epochs", policy="extension", lr_max="auto", extend=str(trained))
    own = {"lr": 0.1, "momentum": 0.9}
    assert extension_of(trained, {"budget": "1m", "policy": own}).lr_max == "auto"
    other = extension_of(trained, {"budget": "1m", "policy": "linear", "lr_max": 0.01, "seed": 3, "momentum": None})
    assert (other.policy, other.lr_max) == ("linear", 0.01)


def test_it_runs_from_there_in_a_folder_of_its_own(trained):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    job = extension_of(trained, {"budget": "1 epoch"})
    result = run(job, "more", report=False)
    record = RUN.read("more")
    assert result.test is not None and result.lr_max == 0.75 * 0.03 and result.epochs == 1
    assert record["extends"]["run"] == str(trained) and record["extends"]["epochs"] == 2
    points = record["resolved"]["schedule"]["lr"]["points"]
    assert [x for x, _ in points] == [0, 0.1, 1]
    assert [y for _, y in points] == pytest.approx([0.0225 / 20, 0.0225, 0.0225 / 1000])
    assert record["extends"]["lr_max"] == 0.03 and record["config"]["lr_max"] == "auto"
    assert any(
        note.endswith("so short an extension goes up to 75 % of the peak") and note.startswith("goes on from")
        for note in record["notes"]
    )
    assert len(read_jsonl(Path("more/steps.jsonl"))) == result.updates
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert job_of("more") == job and run(job, "more", resume=True).updates == result.updates


def test_from_the_shell(trained, capsys):
    Path("first").symlink_to(trained)
    main(["train", "--extend", "first", "--epochs", "1", "--no-report"])
    said = capsys.readouterr()
    assert "note: goes on from first: 2 epochs and 40 updates before, 3 epochs and 60 updates in all" in said.err
    assert "The run is in first-extended-1" in said.out
    for more, wanted in (
        (["--extend", "first", "--resume", "first-extended-1"], "give --extend or --resume, one of them"),
        (["--extend", "first", "--budget", "1m", "--model", "lenet"], "model: 'mlp', now 'lenet'"),
        (["digits", "--extend", "first"], "give --epochs, or a --budget"),
        (["--extend", "first", "--epochs", "1", "--out", "first"], "first holds another run"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["train", *more])
        assert stop.value.code == 2 and wanted in capsys.readouterr().err


def test_folders_of_extensions_are_numbered_beside_their_run():
    Path("runs/a-extended-1").mkdir(parents=True)
    for extended in ("runs/a", "runs/a-extended-1"):
        assert free_folder(replace(WORK, extend=extended)) == Path("runs/a-extended-2")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, r"say for how long .* is to go on: give --epochs, or a --budget such as 10m"),
        (
            {"budget": "1 epoch", "batch_size": 16, "data": "mnist"},
            r"batch_size: None, now 16; data: 'digits', now 'mnist'",
        ),
        ({"budget": "1 epoch", "seed": -1}, "seed is a whole number"),
        ({"budget": "1 epoch", "policy": "extention"}, "did you mean extension"),
        ({"budget": "1 epoch", "policy": {"lr": 0.1}, "lr_max": 0.1}, "a policy of your own has its peak"),
    ],
)
def test_what_cannot_be_asked_for(values, said, trained):
    with pytest.raises(ConfigError, match=said):
        extension_of(trained, values)


def test_other_data_under_the_same_name_are_noticed(trained):
    record = RUN.read(trained)
    folder = Path("copy")
    folder.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    RUN.write(folder, {**record, "facts": {**record["facts"], "samples": [161, 144, 359]}})
    with pytest.raises(CheckpointError, match=r"copy was trained on other data: samples: \[161, 144, 359\], now"):
        run(extension_of(folder, {"budget": "1 epoch"}), "more", report=False)
    assert not Path("more/run.json").exists()


def test_a_run_begun_in_python_is_extended_there(trained):
    RUN.write("python", {**RUN.read(trained), "facts": {}})
    Path("python/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"begun in Python .*extend it there, by Learner\(.*run='python'\)"):
        extension_of("python", {"budget": "1 epoch"})

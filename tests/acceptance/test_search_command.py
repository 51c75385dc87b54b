"""onecycle search: pilots of other settings inside the budget, killed in one of them and resumed, lost ones too."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest

from onecycle import Job, run
from onecycle.commands.app import main
from onecycle.jobs import run as job_run
from onecycle.jobs import search as job_search
from onecycle.jobs.run import job_of
from onecycle.jobs.search import defaults
from onecycle.optim.build import RECIPES
from onecycle.records.files import RUN, read_jsonl
from onecycle.records.run import PILOTS, Recording
from onecycle.search import balance
from onecycle.search import forecast as module
from onecycle.search import trial as trials
from onecycle.search.api import OUT_OF_TIME
from onecycle.search.balance import Candidate
from onecycle.search.pilots import Pilot
from onecycle.training import guard

WORDS = ["digits", "--model", "search_nets:net", "--limit", "320", "--batch-size", "32", "--lr-max", "0.04", "--epochs",
         "12", "--search", "0.9", "--no-report"]  # fmt: skip
WORK = Job(model="search_nets:net", limit=320, batch_size=32, lr_max=0.04, budget="12 epochs", search=0.9, balance=True)
SHORTEST = 4
# A small model, and one that has no room for a batch of more than 20
NETS = """
import torch
from torch import nn

def net(input_shape, classes, dropout=0.0):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, classes)
    )

class Greedy(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.body = net(input_shape, classes, 0.1)

    def forward(self, x):
        if self.training and len(x) > 20:
            raise torch.OutOfMemoryError("out of memory")
        return self.body(x)
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("search_nets.py").write_text(NETS)
    monkeypatch.setattr(balance, "LEAST", SHORTEST)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)


def child(resume: bool = False, chosen: Candidate | None = None, out: str = "run", **problems: object) -> int:
    """The exit code of the run in a process of its own, with the problems of `faults.run`; what it is to choose."""
    choice = f"search.balance = lambda run, *_: ({chosen!r}, 'it is', [run(None, 4)]); " if chosen else ""
    code = (
        "from onecycle import Job; import faults; from onecycle.jobs import search; "
        "from onecycle.search import balance; from onecycle.search.balance import Candidate; "
        f"balance.LEAST = {SHORTEST}; {choice}faults.run({WORK!r}, {out!r}, {resume!r}, {problems!r})"
    )
    process = forked.Popen(["-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return process.wait(300)


def plain(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_pilots_of_other_settings_inside_the_budget(capsys):
    main(["search", *WORDS, "--out", "run", "--json"])
    said = json.loads(capsys.readouterr().out)
    search, record = said["search"], RUN.read("run")
    assert search == record["resolved"]["search"] and job_of("run") == WORK
    rows, made = search["pilots"], read_jsonl(Path("run") / PILOTS)
    assert len(rows) == len(made) and [row["updates"] for row in rows] == [row["updates"] for row in made]
    names = {name for row in rows for name in row["setting"]}
    assert names == {"weight_decay", "dropout", "smoothing"}, "the batch size was given"
    assert {"setting", "lr_max", "updates", "loss", "accuracy", "kept", "why"} == set(rows[0])
    assert search["updates"] <= 0.9 * 120
    assert said["updates"] == 120 - search["updates"] == len(read_jsonl(Path("run/steps.jsonl")))
    assert any(note.startswith(("settings: the defaults", "weight decay", "dropout", "smoothing"))
               for note in record["notes"])  # fmt: skip


def test_the_table_of_pilots_and_the_result(capsys):
    main(["search", *WORDS, "--out", "run"])
    out = capsys.readouterr().out
    heads, *lines = out.splitlines()
    assert re.split("  +", heads.strip()) == [
        "setting", "peak", "updates", "held-out loss", "held-out accuracy", "kept", "why"
    ]  # fmt: skip
    assert lines[0].startswith("defaults") and any(line.startswith("weight decay 0.025") for line in lines)
    assert "The run is in run" in out


def test_a_target_is_answered_by_the_forecast_or_with_why_there_is_none(capsys):
    main(["search", *WORDS, "--out", "run", "--reach", "0.99"])
    line = "accuracy 99.00 %: cannot say: no pilots of the peak were made"
    assert line in capsys.readouterr().out
    assert RUN.read("run")["needed"]["line"] == line and RUN.read("run")["needed"]["target"] == 0.99
    forecast = [Pilot(0.1, 32, 1.0, {"loss": 1.0, "accuracy": 0.5})], {"loss": 0.3, "accuracy": 0.9}, 1900
    RUN.update(Path("run"), forecast=module.forecast(*forecast, passes=4.0, samples=5000).to_dict())
    main(["search", "--resume", "run", "--reach", "0.905", "--json"])  # of a run that has ended
    needed = json.loads(capsys.readouterr().out)["needed"]
    assert needed["factor"] == pytest.approx(1.2, abs=0.3)
    assert RUN.read("run")["needed"] == needed and "Dotted: the target, 90.50 %." in Path("run/report.html").read_text()
    with pytest.raises(SystemExit):
        main(["search", *WORDS, "--out", "never", "--reach", "nan"])
    assert "--reach is a value of the validation metric" in capsys.readouterr().err and not Path("never").exists()


def test_a_budget_that_is_too_small_is_said_and_the_defaults_are_taken(capsys):
    main(["search", *WORDS[:-3], "--no-report", "--out", "run"])
    captured = capsys.readouterr()
    assert "settings: the defaults: the budget is too small for pilots that can tell" in captured.err
    assert not (Path("run") / PILOTS).exists() and "setting" not in captured.out
    run(replace(WORK, search=0.1, balance=False), "plain")
    assert Path("run/model.safetensors").read_bytes() == Path("plain/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "die",
    [
        ("training.guard.update", 1, "before"),
        ("training.guard.update", 15, "before"),
        ("records.run.Recording.keep_pilot", 5, "after"),
        ("records.run.Recording.decided", 1, "before"),
        ("records.run.Recording.decided", 1, "after"),
    ],
)
def test_killed_and_resumed_by_either_command(die, whole, capsys):
    assert child(die=die) == -signal.SIGKILL
    main(["runs", ".", "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["status"] == "running"
    command = "search" if die[1] == 1 else "train"
    main([command, "--resume", "run", "--no-report"])
    assert plain(read_jsonl(Path("run") / PILOTS)) == plain(read_jsonl(whole / PILOTS))
    got, wanted = (RUN.read(folder)["resolved"] for folder in ("run", whole))
    assert {**got["search"], "seconds": 0} == {**wanted["search"], "seconds": 0}
    assert Path("run/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    folder = home / "run"
    (home / "search_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(balance, "LEAST", SHORTEST)
        run(WORK, folder, report=False)
    return folder


@pytest.mark.parametrize("chosen", [Candidate("weight_decay", 0.4), Candidate("dropout", 0.2)])
def test_killed_in_the_training_it_goes_on_with_what_was_chosen(chosen):
    assert child(chosen=chosen, out="whole") == 0
    assert child(chosen=chosen, die=("training.loop._end_epoch", 3, "before")) == -signal.SIGKILL
    assert read_jsonl(Path("run/steps.jsonl"))
    assert child(True) == 0, "nothing is chosen again"
    assert RUN.read("run")["resolved"]["search"]["settings"] == {chosen.name: chosen.value}
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_a_pilot_that_runs_out_of_memory_is_lost_and_the_search_goes_on():
    job = replace(WORK, model="search_nets:Greedy", batch_size=None, budget="24 epochs", search=0.5)
    assert run(job, "run", report=False).updates
    rows = RUN.read("run")["resolved"]["search"]["pilots"]
    lost = [row for row in rows if row["loss"] is None]
    assert [(row["setting"], row["kept"], row["why"]) for row in lost] == [({"batch_size": 32}, False, "out of memory")]
    assert {"batch_size": 8} in [row["setting"] for row in rows] and len(rows) > 6


@pytest.mark.parametrize(
    ("chosen", "known"),
    [
        (Candidate("weight_decay", 0.025), {"weight_decay": 0.025}),
        (Candidate("smoothing", 0.2), {"smoothing": 0.2}),
        (Candidate("batch_size", 8), {"batch_size": 8, "lr_max": 0.04}),
        (Candidate("dropout", 0.3), {}),
    ],
)
def test_what_was_chosen_is_trained_with_resumed_and_extended(chosen, known, monkeypatch):
    monkeypatch.setattr(job_search, "balance", lambda run, *_: (chosen, "it is", [run(None, 4)]))
    seen = []
    built = job_run.Prepared.with_settings
    monkeypatch.setattr(
        job_run.Prepared, "with_settings", lambda self, s: seen.append((s, built(self, s))) or seen[-1][1]
    )
    result = run(replace(WORK, batch_size=None), "run", report=False)
    record = RUN.read("run")
    assert record["resolved"]["search"]["settings"] == {chosen.name: chosen.value}
    assert {name: record["resolved"][name] for name in known} == known
    assert {chosen.name: chosen.value} in [settings for settings, _ in seen]
    if chosen.name == "dropout":
        assert job_search.dropout_of(seen[-1][1].model) == 0.3
    spent = record["resolved"]["search"]["updates"]
    ratio = chosen.value / 16 if chosen.name == "batch_size" else 1
    assert result.updates == round((240 - spent) / ratio)
    main(["train", "--extend", "run", "--epochs", "1", "--out", "more", "--no-report"])
    after = RUN.read("more")["resolved"]
    kept = {name: value for name, value in known.items() if name != "lr_max"}  # a short extension goes less high
    assert {name: after[name] for name in kept} == kept and "search" not in after
    assert seen[-1][0] == {chosen.name: chosen.value}


def test_an_extension_goes_on_with_what_was_chosen_when_its_run_is_gone(monkeypatch):
    chosen, seen = Candidate("dropout", 0.3), []
    monkeypatch.setattr(job_search, "balance", lambda run, *_: (chosen, "it is", [run(None, 4)]))
    run(WORK, "run", report=False)
    main(["train", "--extend", "run", "--epochs", "2", "--out", "whole", "--no-report"])
    die = ("records.checkpoint.save", 1, "after")
    code = (
        "from onecycle.jobs.extend import extension_of; import faults; "
        f"faults.run(extension_of('run', {{'budget': '2 epochs'}}), 'more', False, {{'die': {die!r}}})"
    )
    process = forked.Popen(["-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert process.wait(300) == -signal.SIGKILL
    Path("run").rename("elsewhere")
    built = job_run.Prepared.with_settings
    monkeypatch.setattr(job_run.Prepared, "with_settings", lambda self, s: seen.append(s) or built(self, s))
    main(["train", "--resume", "more", "--no-report"])
    assert seen == [{"dropout": 0.3}]
    assert Path("more/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    main(["train", "--extend", "more", "--epochs", "1", "--out", "last", "--no-report"])
    assert seen[1:] == [{"dropout": 0.3}] and RUN.read("last")["extends"]["settings"] == {"dropout": 0.3}


def test_what_is_given_stays(tmp_path):
    ready = job_run.prepare(WORK)
    assert defaults(WORK, ready.learner) == {"weight_decay": 0.1, "dropout": 0.0, "smoothing": 0.1}
    given = replace(WORK, weight_decay=0.1, smoothing=0.1, batch_size=None, model_options={"dropout": 0.2})
    ready = job_run.prepare(given)
    assert defaults(given, ready.learner) == {"batch_size": 16}
    assert defaults(replace(given, budget="500 updates"), ready.learner) == {}, "other batches are more data there"


def test_a_run_without_search_is_not_resumed_by_it(capsys):
    run(replace(WORK, balance=False, budget="4 updates"), "run", report=False)
    with pytest.raises(SystemExit):
        main(["search", "--resume", "run"])
    assert "balance: False, now True" in capsys.readouterr().err


def test_stopped_by_ctrl_c_in_a_pilot(whole, monkeypatch, capsys):
    update, calls = guard.update, iter(range(10**9))

    def interrupted(*args):
        if next(calls) == 15:
            signal.raise_signal(signal.SIGINT)
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(guard, "update", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(["search", *WORDS, "--out", "run"])
    said = capsys.readouterr().err
    assert ended.value.code == 130 and "The pilots that were made are kept" in said
    assert "To go on: onecycle search --resume run" in said
    record, made = RUN.read("run"), read_jsonl(Path("run") / PILOTS)
    assert record["status"] == "interrupted" and 0 < len(made) < len(read_jsonl(whole / PILOTS))
    main(["search", "--resume", "run", "--no-report"])
    assert plain(read_jsonl(Path("run") / PILOTS)) == plain(read_jsonl(whole / PILOTS))
    assert Path("run/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_pilots_of_before_at_another_peak_are_made_again(monkeypatch):
    """Another version may have moved the peak with the batch in another way."""
    job = replace(WORK, batch_size=None, lr_max="default")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recording, "decided", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(job, "run", report=False)
    made = read_jsonl(Path("run") / PILOTS)
    other = [{**row, "lr_max": 0.05, "loss": 0.0} if "batch_size" in row["setting"] else row for row in made]
    assert {row["lr_max"] for row in made} == {0.04} and other != made
    (Path("run") / PILOTS).write_text("".join(f"{json.dumps(row)}\n" for row in other))
    run(job, "run", resume=True, report=False)
    again = [row for row in made if "batch_size" in row["setting"]]
    assert plain(read_jsonl(Path("run") / PILOTS)) == plain([*other, *again])
    search = RUN.read("run")["resolved"]["search"]
    assert {search["lr_max"], *(row["lr_max"] for row in search["pilots"])} == {0.04}


def test_the_default_peak_of_the_pilots_is_that_of_an_update_and_stays_what_it_was(monkeypatch):
    monkeypatch.setattr(job_search, "balance", lambda run, *_: (None, "it is", [run(None, 4)]))
    job = replace(WORK, optimizer="adamw", batch_size=160, accumulate=64, lr_max="default", budget="240 epochs")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recording, "decided", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(job, "run", report=False)
    (made,) = read_jsonl(Path("run") / PILOTS)
    assert made["lr_max"] == RECIPES["adamw"].peak(320), "two batches are an epoch"
    (Path("run") / PILOTS).write_text(json.dumps({**made, "lr_max": 0.007}) + "\n")
    run(job, "run", resume=True, report=False)
    assert RUN.read("run")["resolved"]["search"]["lr_max"] == 0.007 and len(read_jsonl(Path("run") / PILOTS)) == 1


def test_a_policy_of_its_own_has_its_peak_and_its_batch_size():
    policy = {"lr": {"points": [[0, 0.01], [0.3, 0.04], [1, 0]], "easing": "linear"}}
    run(replace(WORK, lr_max="auto", policy=policy, batch_size=None), "run", report=False)
    search = RUN.read("run")["resolved"]["search"]
    assert search["pilots"] and search["lr_max"] is None
    made = read_jsonl(Path("run") / PILOTS)
    assert {row["lr_max"] for row in (*search["pilots"], *made)} == {0.04}, "each goes up to the policy's own"
    assert "batch_size" not in {name for row in search["pilots"] for name in row["setting"]}
    assert RUN.read("run")["resolved"]["lr_max"] == 0.04
    main(["train", "--extend", "run", "--epochs", "1", "--out", "more", "--no-report"])
    assert RUN.read("more")["extends"]["lr_max"] == 0.04


def test_a_time_budget_is_charged_with_the_pilots_of_before():
    """What they took is known from their records, and after them from the run's."""
    run(WORK, "run", report=False)
    search = RUN.read("run")["resolved"]["search"]
    assert job_search.seconds_before(Path("run")) == search["seconds"] > 0
    resolved = {name: value for name, value in RUN.read("run")["resolved"].items() if name != "search"}
    RUN.update("run", resolved=resolved)
    made = [row["seconds"] for row in read_jsonl(Path("run") / PILOTS)]
    assert job_search.seconds_before(Path("run")) == sum(made)
    assert job_search.seconds_before(Path("none")) == 0.0


def test_a_run_with_a_search_records_what_any_run_does():
    run(WORK, "run", report=False)
    run(replace(WORK, balance=False), "plain", report=False)
    got, wanted = (RUN.read(folder)["resolved"] for folder in ("run", "plain"))
    assert set(got) == {*wanted, "search"}
    assert got["updates"] == got["search"]["left"] and got["lr_max"] == 0.04
    assert got["schedule"]["lr"]["points"] == wanted["schedule"]["lr"]["points"]


def test_an_extension_of_a_run_with_a_search_is_resumed_by_train_alone(capsys):
    run(replace(WORK, search=0.0, budget="1 epoch"), "run", report=False)
    main(["train", "--extend", "run", "--epochs", "1", "--out", "more", "--no-report"])
    with pytest.raises(SystemExit):
        main(["search", "--resume", "more"])
    assert "an extension has the settings of its run: onecycle train --resume more" in capsys.readouterr().err


def test_an_extension_searches_nothing(capsys):
    Path("more.toml").write_text('extend = "run"\nepochs = 2\n')
    with pytest.raises(SystemExit):
        main(["search", "more.toml"])
    assert "an extension has the settings of its run: onecycle train --extend run" in capsys.readouterr().err


def test_pilots_that_pass_their_share_of_the_time_are_given_up(monkeypatch):
    """The clock of trials is far ahead: each is out of time after its first update."""
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=lambda: 1e12))
    monkeypatch.setattr(job_search, "updates_within", lambda *_: 4000)  # however slow the machine is
    job = replace(WORK, budget="1s", lr_max="auto", model="mlp")
    result = run(job, "run", report=False)
    known = RUN.read("run")["resolved"]["search"]
    assert known["settings"] == {} and known["reason"] == OUT_OF_TIME and result.updates >= 1

"""`onecycle compare` as a user gives it: planned, stopped, killed, gone on with, refused."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import forked
import pytest

from onecycle.commands.app import main
from onecycle.errors import Interrupted
from onecycle.experiments import workers
from onecycle.experiments.comparison import Comparison
from onecycle.experiments.execute import PlannedRun
from onecycle.experiments.options import Placement
from onecycle.jobs.job import Job

QUICK = [
    "digits",
    "--model",
    "mlp",
    "--limit",
    "160",
    "--batch-size",
    "64",
    "--optimizer",
    "sgd",
    "--policies",
    "one_cycle,step",
]
# Runs that take about a second, to be stopped in the middle of one.
LONG = ["digits", "--model", "mlp", "--optimizer", "sgd", "--policies", "one_cycle,step", "--seeds", "2"]
LONG += ["--epochs", "12", "--no-tune", "--lr-max", "0.1"]
START = "from onecycle.experiments import plan; plan.MEASURED = 0.05; from onecycle.commands.app import main; main()"


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the long comparison comes to where nothing stops it."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    main(["compare", *LONG, "--out", str(folder)])
    return measures(folder)


def measures(folder: Path) -> list:
    rows = Comparison.read(folder).table
    return [(row["policy"], row["seed"], row["test_accuracy"], row["test_loss"], row["status"]) for row in rows]


def began(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command, in a process of its own, after its first run has ended."""
    process = forked.Popen(
        ["-c", START, "compare", *LONG, "--out", str(folder), *words],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("run 1/"):
            return process
    pytest.fail("".join(said))


def test_the_plan_only_prints(capsys, tmp_path: Path):
    quick = [word for word in QUICK if word not in ("--batch-size", "64")]
    main(["compare", *quick, "--batch-size", "32,64", "--dropout", "0,0.2", "--set", "clip=1.0", "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "compare one_cycle, step on digits with mlp",
        "epochs: 2, 4, 8; seeds: 5",
        "dropout: 0, 0.2",
        "batch size: 32, 64",
    ]
    assert lines[4].startswith("tuning: 120 trial runs, 5 for each policy and budget")
    assert lines[5] == "runs: 120" and lines[6].endswith(", from a measured second of training")
    assert list(tmp_path.iterdir()) == []


def test_from_a_specification_to_a_page_and_again(capsys, tmp_path: Path):
    (tmp_path / "spec.toml").write_text(
        'model = "mlp"\nlimit = 160\nbatch_size = 64\noptimizer = "sgd"\npolicies = ["one_cycle", "step"]\n'
        "epochs = [1]\nseeds = 5\n"
    )
    command = ["compare", "spec.toml", "--seeds", "2", "--trials", "3", "--out", "out"]
    main(command)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [["epochs", "policy"], ["1", "one_cycle"], ["1", "step"], []]
    assert "the best tuned standard schedule (step)" in lines[4] and lines[-1] == "The comparison is in out"
    assert lines[-2] == "Its page is out/report.html"
    assert "trial 1/6, about " in err and "run 4/4  step-1 seed 1: test accuracy " in err
    assert "peak learning rate " in err and "\x1b" not in out + err
    main([*command, "--target", "0.99"])
    assert "- step, 1 epoch: more than 1 epoch, more than " in capsys.readouterr().out
    main([*command, "--json"])
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert err == "" and record["folder"] == "out" and record["summary"] == lines[4:-2]
    assert [row["status"] for row in record["table"]] == ["finished"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "one_cycle,stepp"], "unknown policy 'stepp': did you mean step"),
        (["--balance"], "Unknown option: --balance"),
        (["--search", "0.2"], "Unknown option: --search"),
        (["--set", "batchsize=1,2"], "unknown axis 'batchsize': did you mean batch_size"),
        (["--set", "clip"], "a setting is NAME=VALUE"),
        (["--no-tune"], "without tuning, one_cycle, step, cosine, constant has no peak learning rate"),
        (["--lr-max", "0.1"], "peaks are tuned, or given by lr_max"),
        (["--optimizer", "sgd,adamm"], "unknown optimizer 'adamm'"),
        (["--model", "mpl"], "unknown model 'mpl': did you mean mlp"),
        (["--seeds", "0"], "seeds is the number of runs of each condition, a whole number of at least 1; received 0"),
        (["--epochs", "2,x"], "epochs is a finite number above 0; received 'x'"),
        (["--seeds", "2.7"], "--seeds: it is a whole number; received '2.7'"),
        (["--epochs", "0"], "epochs is a finite number above 0; received 0"),
        (["--jobs", "0"], "jobs is the number of processes"),
        (["--jobs", "0", "--plan"], "jobs is the number of processes"),
        (["--fraction", "2"], "fraction is a share of the training data, above 0 and at most 1; received 2"),
        (["--fraction", "1,0.001"], "with fraction 0.001: limit = 1: the training split has"),
        (
            ["--batch-size", "64,0"],
            "batch_size is the number of samples a batch, a whole number of at",
        ),
        (["--weight-decay=-1"], "weight_decay is a finite number of at least 0, such as 5e-4; received -1"),
        (["--model", "small-cnn", "--set", "hidden=8"], "model small-cnn has no option 'hidden'"),
        (["--batch-size", "32", "--set", "batch_size=64"], "batch_size is given twice, as 32 and 64: leave one out"),
        (["--set", "limit=2.5"], "limit is given twice, as 160 and 2.5"),
        (
            ["--set", "image_size=8.5"],
            "image_size is the side of the images in pixels, a whole number",
        ),
        (["--out", "."], "is not empty and holds no comparison"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(capsys, tmp_path: Path, words: list[str], message: str):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["compare", "digits", "--limit", "160", *words])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert os.listdir() == ["mine.txt"]


def test_where_no_run_comes_to_its_end_the_command_fails(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *QUICK, "--epochs", "1", "--seeds", "1", "--no-tune", "--lr-max", "1e30", "--out", "out"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "error: no run came to its end; the first failed with: the loss" in err
    assert "2 of 2 runs failed: the table says why." in out and Path("out/compare.json").exists()


def test_killed_in_the_middle_and_called_again(tmp_path: Path, whole: list, capsys):
    process = began(tmp_path / "out")
    process.kill()
    process.communicate()
    left = Comparison.read(tmp_path / "out").record
    assert left["status"] == "running" and left["table"][0]["status"] == "finished"
    main(["compare", *LONG, "--out", "out"])
    assert (
        f"{sum(r['status'] == 'finished' for r in left['table'])} of 4 runs are there already"
        in capsys.readouterr().err
    )
    assert measures(tmp_path / "out") == whole


@pytest.mark.slow
def test_ctrl_c_with_processes_leaves_a_comparison_to_go_on_with(tmp_path: Path, whole: list):
    """What two processes made, and what one goes on with, is what one process makes: there is one thread each."""
    process = began(tmp_path / "out", "--jobs", "2")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "To go on: onecycle compare " in said.splitlines()[-1] and "Traceback" not in said
    left = Comparison.read(tmp_path / "out").record
    assert left["status"] == "interrupted" and "finished" in [row["status"] for row in left["table"]]
    main(shlex.split(said.splitlines()[-1].partition("To go on: onecycle ")[2]))
    assert measures(tmp_path / "out") == whole


def test_ctrl_c_while_the_processes_start(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch):
    """They do not die of it half-way, and begin nothing of what they were given."""
    tasks = [PlannedRun(tmp_path / str(i), Job(model="mlp", limit=160, seed=i)) for i in range(8)]
    submit, started = workers._Pool._submit, []

    def submit_and_press(pool: workers._Pool, task: PlannedRun) -> Any:
        future = submit(pool, task)
        if len(pool._processes()) == 2 and not started:  # they take seconds to come to their first run
            started.extend(pool._processes())
            os.kill(os.getpid(), signal.SIGINT)
        return future

    monkeypatch.setattr(workers._Pool, "_submit", submit_and_press)
    with pytest.raises(Interrupted), workers.workers(Placement(jobs=2)) as work:
        for _ in work(tasks):
            pass
    assert len(started) == 2
    assert capfd.readouterr().err == ""
    assert sum((task.folder / "run.json").exists() for task in tasks) <= 2


def test_columns_that_are_left_out_are_a_list_and_no_axis(capsys):
    rows = "".join(f"{i},{i % 7},{i % 5},{i % 2}\n" for i in range(200))
    Path("rows.csv").write_text(f"id,a,2,label\n{rows}")
    words = ["compare", "rows.csv", "--set", "target=label", "--plan", "--json"]
    main([*words, "--leave-out", "id,2"])
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["settings"]["leave_out"], config["axes"]) == (["id", "2"], {})
    main([*words, "--leave-out", "id"])
    assert json.loads(capsys.readouterr().out)["config"]["settings"]["leave_out"] == ["id"]


NET = """from torch import nn


def net(input_shape, classes, pretrained=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))


net.pretrained_cfg = {"classifier": "3"}
"""


def test_switches_are_given_as_to_train(capsys):
    Path("tuned.py").write_text(NET)
    words = ["compare", "digits", "--model", "tuned:net", "--pretrained", "--limit", "160", "--seeds", "2", "--json"]
    main([*words, "--fine-tune", "off", "--no-standardise", "--plan"])
    settings = json.loads(capsys.readouterr().out)["config"]["settings"]
    expected = {"pretrained": True, "fine_tune": "off", "standardise": False, "limit": 160}
    assert {name: settings[name] for name in expected} == expected
    main(["compare", *QUICK, "--set", "standardise=true,false", "--plan", "--json"])
    assert json.loads(capsys.readouterr().out)["config"]["axes"] == {"standardise": [True, False]}


@pytest.mark.parametrize(
    "more", [["--pretrained"], ["--fine-tune", "full"], ["--set", "freeze_epochs=1", "--fine-tune", "auto"]]
)
def test_stages_are_not_compared(capsys, more):
    Path("tuned.py").write_text(NET)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "digits", "--model", "tuned:net", *more])
    assert 'give fine_tune="off" (--fine-tune off), with which all layers' in capsys.readouterr().err
    assert not Path("comparisons").exists()

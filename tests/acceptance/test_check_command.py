"""`onecycle check` and `onecycle train --lr-max auto` as a user gives them, on real digits and on bad data."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import forked
import numpy as np
import pytest

from onecycle.commands.app import main
from onecycle.jobs import run as job_run
from onecycle.learner import Learner
from onecycle.range_test.verdict import judge
from onecycle.records.curve import Curve
from onecycle.records.files import RUN, read_jsonl
from onecycle.search import pilots

QUICK = ["--model", "mlp", "--limit", "320", "--batch-size", "64"]
LONG = ["--optimizer", "sgd", "--batch-size", "16", "--budget", "1100 updates", "--augment", "none"]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)  # takes longer than the training


def refused(capsys, *words: str) -> str:
    """What the command says where it stops with 2; it has printed nothing else and written nothing."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["check", *words])
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (stop.value.code, out, len(said)) == (2, "", 1)
    assert sorted(Path.cwd().rglob("*")) == before
    return said[0]


def test_check_and_then_the_command_it_gives(capsys):
    """From an empty machine: a plot, a verdict, numbers, the cost; then the command at the end trains."""
    main(["check", *QUICK, "--optimizer", "sgd", "--epochs", "2"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:2] == ["digits, mlp, sgd", "held-out accuracy by learning rate"]
    assert any(re.match(r"lr_max  \d", line) for line in lines)
    assert any(re.match(r"It took \d+ updates and \d+ measurements in .* \d+ % of the updates", line) for line in lines)
    assert "note: range test: takes about the time of 64 updates" in err
    assert "\x1b" not in out + err
    assert list(Path.cwd().iterdir()) == []
    assert lines[-2] == "To train:"
    main([*shlex.split(lines[-1])[1:], "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["updates"], result["lr_max"]) == (10, float(re.search(r"--lr-max (\S+)", lines[-1])[1]))
    assert result["valid"]["accuracy"] > 0.3  # ten updates


def test_check_json_and_its_folder(capsys):
    pytest.importorskip("matplotlib")
    main(["check", *QUICK, "--full", "--repeats", "1", "--json", "--out", "checks/first"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == "" and result["folder"] == "checks/first"
    record = json.loads(Path("checks/first/check.json").read_text())
    assert record["result"] == {key: value for key, value in result.items() if key != "folder"}
    assert Path("checks/first/check.png").read_bytes().startswith(b"\x89PNG")
    assert len(result["sharpness"]["lr"]) == len(result["curve"]["sweeps"][0]["valid_lr"]) > 5
    assert refused(capsys, *QUICK, "--out", "checks/first").startswith("error: checks/first holds another check")


def test_a_text_is_checked_by_its_loss_and_accuracy(capsys):
    Path("verse.txt").write_text("the quick brown fox jumps over the lazy dog. " * 120)
    main(["check", "verse.txt", "--batch-size", "8", "--optimizer", "adamw", "--repeats", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["title"] == "verse.txt, char-transformer, adamw"
    assert result["curve"]["sweeps"][0]["valid_loss"] and result["lr_max"] > 0


def test_a_curve_in_a_file(capsys):
    rates = np.geomspace(0.01, 3, 30)
    with Path("curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "lr", "test_accuracy"])
        writer.writerows([i, lr, 0.8 - 0.01 * abs(np.log10(lr))] for i, lr in enumerate(rates))
    main(["check", "curve.csv"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[:2] == ["curve.csv", "held-out accuracy by learning rate"]
    assert not any(word in out for word in ("lr_max", "It took", "To train"))
    main(["check", "curve.csv", "--json", "--out", "judged"])
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"]["answer"] == judge(Curve.from_csv("curve.csv")).answer
    assert Path("judged/check.json").exists()


def test_a_table_with_a_target_is_trained_on(capsys):
    lines = [f"{i},{i % 7},{(3 * i) % 11 + i / 100}" for i in range(600)]
    Path("table.csv").write_text("\n".join(["a,b,y", *lines]), encoding="utf-8")
    main(["check", "table.csv", "--target", "y", "--repeats", "1", "--optimizer", "muon", "--json"])
    test = json.loads(capsys.readouterr().out)
    assert test["lr_max"] > 0 and "train table.csv" in test["command"] and "--target y" in test["command"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repeats", "0"], "repeats is the number of sweeps, a whole number of at least 1; received 0"),
        (["--updates", "5"], "5 updates are too few for 2 repeats of a range test: give updates="),
        (["--lr-low", "1", "--lr-high", "0.1"], "from lr_low to lr_high; received 1 and 0.1: swap them"),
        (["--model", "resnet65"], "did you mean resnet56?"),
        (["--epochs", "0"], "epochs is a finite number above 0"),
        (["curve.csv"], "curve.csv is no curve"),
        (["curve.csv", "--model", "mlp"], "nothing is trained: leave out --model"),
        (["--limit", "70", "--batch-size", "70"], "at least 2 batches"),
        (["nan.npz"], "NaN"),
        (["still.npz"], "an update does not move the weights"),
    ],
)
def test_what_cannot_be_checked(words, said, capsys):
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    np.savez("nan.npz", x=np.full_like(x, np.nan), y=np.arange(200) % 2)
    np.savez("still.npz", x=0 * x, y=np.zeros((200, 1), np.float32))
    Path("stuck.py").write_text(
        "import torch\n"
        "class Stuck(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.ones(1, 1))\n"
        "    def forward(self, x):\n"
        "        return x[:, :1] @ self.weight\n"
    )
    if words == ["still.npz"]:
        words = [*words, "--model", "stuck:Stuck"]
    assert said in refused(capsys, *words)


def test_ctrl_c_leaves_nothing(capsys, monkeypatch):
    original, passes = Learner.range_test, []

    def interrupt(*_: object) -> None:
        passes.append(1)
        if len(passes) == 20:
            os.kill(os.getpid(), signal.SIGINT)

    def pressed(self, **options):
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        hook = self.model.register_forward_pre_hook(interrupt)
        try:
            return original(self, **options)
        finally:
            hook.remove()
            assert all((value == before[name]).all() for name, value in self.model.state_dict().items())

    monkeypatch.setattr(Learner, "range_test", pressed)
    with pytest.raises(SystemExit) as stop:
        main(["check", *QUICK, "--out", "here"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (128 + signal.SIGINT, "")
    assert err.splitlines()[-1] == "the range test was stopped by SIGINT; everything is as before"
    assert list(Path.cwd().iterdir()) == []


def test_check_on_a_terminal(columns: int = 60):
    """No line is wider than the terminal; the command at the end can still be copied."""
    mine, its = pty.openpty()
    with forked.Popen(
        ["-m", "onecycle", "check", *QUICK, "--repeats", "1", "--weight-decay", "0.001", "--seed", "1"],
        stdin=its, stdout=its, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(its)
        said = b""
        while data := _read(mine):
            said += data
    os.close(mine)
    assert process.returncode == 0
    lines = said.decode().replace("\r", "").splitlines()
    assert columns - 10 < max(map(len, lines)) <= columns
    command = "\n".join(lines[lines.index("To train:") + 1 :])
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["onecycle", "train"] and words[-4:] == ["--weight-decay", "0.001", "--seed", "1"]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end was closed
        return b""


# train --lr-max auto


def test_train_says_where_its_peak_is_from(capsys):
    main(["train", *QUICK[:-2], *LONG, "--out", "run"])
    out, err = capsys.readouterr()
    resolved = RUN.read("run")["resolved"]
    said = re.search(r"note: peak learning rate (\S+?),? .*from 3 pilots of (\d+) updates", err)
    assert said and f"{resolved['lr_max']:.2g}" == said[1] and 3 * int(said[2]) < resolved["search"]["updates"]
    assert "peak learning rate " in out
    assert RUN.read("run")["config"]["lr_max"] == "auto"


def test_killed_and_resumed_it_keeps_the_peak_that_it_found(capsys, monkeypatch):
    """A real kill -9 in the middle; the same weights as a run that was never stopped, and no second search."""
    words = ["train", *QUICK[:-2], *LONG, "--device", "cpu"]
    halting = "import signal; from onecycle.commands import app; from onecycle.records import history\n"
    halting += "history.Recorder.__call__ = lambda self, event, was=history.Recorder.__call__: "
    halting += "(was(self, event), event.step == 40 and (self.flush(), signal.pause()))\napp.main()"
    process = forked.Popen(["-c", halting, *words, "--out", "cut"], stderr=subprocess.DEVNULL)
    steps = Path("cut/steps.jsonl")
    while process.poll() is None and not (steps.exists() and steps.stat().st_size > 1000):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    main([*words, "--out", "whole"])
    monkeypatch.setattr(pilots, "trial", lambda *_, **__: pytest.fail("searched again"))
    main(["train", "--resume", "cut"])
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    cut, whole = ([r["loss"] for r in read_jsonl(Path(name) / "steps.jsonl")] for name in ("cut", "whole"))
    assert cut == whole and len(cut) == RUN.read("whole")["resolved"]["updates"]
    for key in ("train", "valid", "test", "lr_max", "updates"):
        assert RUN.read("cut")["result"][key] == RUN.read("whole")["result"][key]


def test_a_test_is_no_guide_to_stages(capsys):
    words = ["check", "digits", *QUICK[2:], "--model", "onecycle.models.small:mlp", "--updates", "40", "--repeats", "1"]
    main([*words, "--fine-tune", "full", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert "--fine-tune full --epochs 10 --lr-max auto" in told["command"]
    assert any("no guide to fine-tuning in stages" in note for note in told["notes"])
    said = refused(capsys, "check", "digits", "--stages", "stages.json")
    assert "Unknown option: --stages" in said

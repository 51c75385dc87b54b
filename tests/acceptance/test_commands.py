"""The commands as a user gives them, on real digits and on files of every kind."""

from __future__ import annotations

import json
import os
import pty
import re
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from data_makers import image_folder
from PIL import Image

from onecycle import load
from onecycle.commands.app import main
from onecycle.jobs import run as job_run
from onecycle.optim.build import RECIPES
from onecycle.records.files import RUN, read_jsonl
from onecycle.schedules.presets import PRESETS

KEYS = {"train", "valid", "test", "lr_max", "epochs", "updates", "seconds", "samples_per_second", "baseline", "folder"}
QUICK = ["--model", "mlp", "--epochs", "1", "--limit", "320", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)  # takes longer than the training


@pytest.fixture
def run_json(capsys):
    """The object that a command prints with --json, when it prints nothing else."""

    def run(*words: str) -> dict:
        main([*words, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on the digits, good enough to be asked."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_run, "draw", lambda *_: None)
        main(["train", "digits", "--model", "mlp", "--epochs", "10", "--augment", "none", "--out", str(folder)])
    return folder


def drawings(count: int = 20) -> tuple[list[str], list[str]]:
    """Test digits as image files, and what they are."""
    test = load("digits").test
    names = [f"digit-{i}.png" for i in range(count)]
    for name, pixels in zip(names, test.inputs, strict=False):
        Image.fromarray(pixels[0].numpy()).save(name)
    return names, [str(label) for label in test.targets[:count].tolist()]


# train


def test_train_from_an_empty_machine(capsys):
    """Without any word but the command: digits, a fitting model, a numbered folder, plain lines, a closing table."""
    main(["train", "--epochs", "2"])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("valid accuracy 0." in line for line in lines)
    assert "\x1b" not in out + err and "\r" not in out + err
    table = out.splitlines()
    assert table[0].split() == ["loss", "accuracy"]
    assert [line.split()[0] for line in table[1:4]] == ["train", "valid", "test"]
    assert re.fullmatch(r"valid: always saying '\d' gives accuracy 1\d\.\d\d %", table[4])
    assert table[5].startswith("40 updates (2 epochs) in ")
    assert table[6].startswith("validation: accuracy ")
    assert table[-1] == "The run is in runs/digits-1"
    main(["train", "--epochs", "1"])
    assert RUN.read("runs/digits-2")["status"] == "finished"


def test_train_json_is_the_result_of_run_json(run_json):
    result = run_json("train", "digits", *QUICK, "--out", "here/run")
    assert set(result) == KEYS and result.pop("folder") == "here/run"
    assert result == RUN.read("here/run")["result"]
    assert 0 <= result["test"]["accuracy"] <= 1


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset(name, run_json):
    result = run_json("train", *QUICK, "--policy", name, "--lr-max", "0.05", "--out", "run")
    assert (result["lr_max"], result["updates"]) == (0.05, 5)
    assert 0 < max(row["lr"] for row in read_jsonl(Path("run/steps.jsonl"))) <= 0.05 * (1 + 1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_each_optimizer_at_its_own_peak(name, run_json):
    assert run_json("train", *QUICK, "--optimizer", name)["lr_max"] == RECIPES[name].lr_max


@pytest.mark.parametrize("words", [["--precision", "bf16"], ["--precision", "fp16"], ["--device", "cpu"]])
def test_precision_and_device(words, run_json):
    assert run_json("train", *QUICK, *words)["train"]["loss"] < 5


def test_compile(run_json, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(options) or model)
    monkeypatch.setattr("onecycle.training.compiled._check_tools", lambda device: None)
    assert run_json("train", *QUICK, "--compile")["updates"] == 5
    assert run_json("train", *QUICK, "--compile", "reduce-overhead", "--out", "graphs")["updates"] == 5
    assert compiled == [{"dynamic": False}, {"dynamic": False, "mode": "reduce-overhead"}]
    assert job_run.job_of(Path("graphs")).compile == "reduce-overhead", "as a run that is resumed has it"


def test_a_budget_of_time(run_json):
    result = run_json("train", "--model", "mlp", "--budget", "1s", "--no-report", "--out", "run")
    steps = read_jsonl(Path("run/steps.jsonl"))
    assert result["updates"] == len(steps) > 1
    assert result["epochs"] == pytest.approx(len(steps) / 20)
    assert steps[-1]["lr"] < steps[len(steps) // 2]["lr"]


def test_a_budget_of_updates_and_half_an_epoch(run_json):
    assert run_json("train", *QUICK[:2], "--budget", "7 updates")["updates"] == 7
    assert run_json("train", *QUICK[:2], "--epochs", "0.5")["epochs"] == 0.5


def test_momentum_cycles_against_the_learning_rate(run_json):
    run_json("train", *QUICK, "--momentum", "0.95,0.85", "--out", "run")
    rows = read_jsonl(Path("run/steps.jsonl"))
    highest = max(rows, key=lambda row: row["lr"])
    assert highest["momentum"] == min(row["momentum"] for row in rows) < 0.9
    assert rows[0]["momentum"] == rows[-1]["momentum"] == 0.95


def test_what_the_learner_gets(run_json):
    """Options that only numbers show: more regularisation, fewer updates, other draws."""
    plain = run_json("train", *QUICK)["train"]["loss"]
    for words in (
        ["--batch-size", "32"], ["--weight-decay", "0.5"], ["--smoothing", "0.2"], ["--augment", "flip,cutout"],
        ["--accumulate", "2"], ["--clip", "0.1"], ["--seed", "1"], ["--lr-max", "0.01"], ["--image-size", "12"],
    ):  # fmt: skip
        quick = QUICK[:-2] if words[0] == QUICK[-2] else QUICK
        assert run_json("train", *quick, *words)["train"]["loss"] != plain, words
    assert run_json("train", *QUICK)["train"]["loss"] == plain


def test_a_policy_of_ones_own(run_json):
    Path("mine.json").write_text('{"lr": {"points": [[0, 0.01], [1, 0.1]], "easing": "linear"}}')
    assert run_json("train", *QUICK, "--policy", "mine.json", "--out", "run")["lr_max"] == 0.1
    steps = read_jsonl(Path("run/steps.jsonl"))
    assert [row["lr"] for row in steps] == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])


def test_a_model_of_ones_own(run_json):
    Path("mymodels.py").write_text(
        "from torch import nn\n"
        "def net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], classes))\n"
    )
    assert run_json("train", "--model", "mymodels:net", "--epochs", "1", "--out", "run")["updates"] == 20
    names, _ = drawings(2)
    assert len(run_json("predict", "run", *names)["predictions"]) == 2


def test_a_text_file_trains_the_character_model(capsys):
    """A text that is easy to learn: it repeats itself."""
    Path("verse.txt").write_text("the quick brown fox jumps over the lazy dog. " * 120)
    main(["train", "verse.txt", "--epochs", "4", "--batch-size", "16", "--optimizer", "adamw", "--out", "run"])
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["loss", "perplexity"]
    assert "valid perplexity" in err
    result = RUN.read("run")["result"]
    assert result["test"] is None
    assert result["valid"]["perplexity"] == pytest.approx(np.exp(result["valid"]["loss"]), rel=1e-4)
    assert result["valid"]["perplexity"] < 20  # 28 characters
    assert RUN.read("run")["config"]["model"] == "char-transformer"


def test_arrays_in_an_npz(run_json):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    np.savez("points.npz", x=x, y=(x.sum(1) > 0).astype(int))
    result = run_json("train", "points.npz", "--epochs", "5", "--batch-size", "20", "--out", "run")
    assert result["test"] is None and result["valid"]["accuracy"] > 0.7
    np.save("two.npy", x[:2])
    rows = run_json("predict", "run", "two.npy")["predictions"]
    assert [row["file"] for row in rows] == ["two.npy[0]", "two.npy[1]"]


def test_a_folder_of_images_with_splits(run_json):
    for split, each in (("train", 12), ("valid", 4), ("test", 4)):
        image_folder(Path("pets") / split, each=each)
    result = run_json("train", "pets", "--model", "mlp", "--epochs", "1", "--batch-size", "8", "--out", "run")
    assert RUN.read("run")["facts"]["samples"] == [24, 8, 8]
    assert result["updates"] == 3
    rows = run_json("predict", "run", "pets/test/cat/0.png")["predictions"]
    assert rows[0]["class"] in ("cat", "dog")


def test_resume_of_a_finished_run_prints_it_again(capsys, trained):
    main(["train", "--resume", str(trained)])
    out, _ = capsys.readouterr()
    assert out.splitlines()[-1] == f"The run is in {trained}"
    main(["train", "--resume", str(trained), "--seed", "0", "--json"])  # what was given may be given again
    assert json.loads(capsys.readouterr().out) == {**RUN.read(trained)["result"], "folder": str(trained)}


def test_resume_goes_on_and_says_where(capsys, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onecycle.records.history.History.result", stop)
        with pytest.raises(SystemExit) as stopped:
            main(["train", *QUICK, "--out", "run"])
    assert stopped.value.code == 130
    capsys.readouterr()
    main(["train", "--resume", "run"])
    out, err = capsys.readouterr()
    assert "note: run goes on after 5 updates" in err
    assert out.splitlines()[-1] == "The run is in run"


# predict


def test_predict_says_class_and_probability(trained, capsys, run_json):
    names, truth = drawings()
    result = run_json("predict", str(trained), *names)
    assert result["folder"] == str(trained)
    rows = result["predictions"]
    assert [row["file"] for row in rows] == names
    assert sum(row["class"] == label for row, label in zip(rows, truth, strict=True)) >= 18
    assert all(0.1 <= row["probability"] <= 1 for row in rows)
    main(["predict", str(trained), *names])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "class", "probability"]
    assert lines[1].split() == [names[0], rows[0]["class"], f"{round(rows[0]['probability'], 4):g}"]
    assert len(lines) == 21


def test_predict_takes_photographs_and_arrays_of_any_size(trained, run_json):
    names, truth = drawings(3)
    Image.open(names[0]).convert("RGB").resize((64, 64), Image.Resampling.NEAREST).save("large.png")
    np.save("many.npy", load("digits").test.inputs[:2].numpy())
    rows = run_json("predict", str(trained), "large.png", "many.npy")["predictions"]
    assert [row["file"] for row in rows] == ["large.png", "many.npy[0]", "many.npy[1]"]
    assert [row["class"] for row in rows] == [truth[0], *truth[:2]]


# policy


def test_policy_shows_the_schedule(capsys):
    main(["policy", "paper", "--lr-max", "0.06", "--epochs", "10", "--steps-per-epoch", "100"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["update", "epoch", "lr", "momentum"]
    assert lines[1] == ["0", "0.00", "0.006", "0.95"]
    assert lines[-1] == ["999", "9.99", "6e-5", "0.95"]
    assert any(float(line[2]) == pytest.approx(0.06, rel=0.01) for line in lines[1:])


@pytest.mark.parametrize("name", PRESETS)
def test_policy_json_of_each_preset(name, run_json):
    result = run_json("policy", name, "--lr-max", "0.5", "--epochs", "2", "--steps-per-epoch", "10")
    assert (result["name"], result["updates"]) == (name, 20)
    assert max(value for _, value in result["policy"]["lr"]["points"]) == pytest.approx(0.5)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_policy_draws(suffix, start, capsys):
    pytest.importorskip("matplotlib")
    main(["policy", "--momentum", "0.95,0.85", "--steps-per-epoch", "10", "--out", f"policy.{suffix}"])
    assert Path(f"policy.{suffix}").read_bytes().startswith(start)
    assert capsys.readouterr().out.endswith(f"drawn in policy.{suffix}\n")


# data


def test_data_lists_what_is_known(capsys, run_json):
    main(["data"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    assert lines[1].rstrip().endswith("the package")
    assert [row["name"] for row in run_json("data")["data"]] == [line.split()[0] for line in lines[1:]]


def test_data_of_one_set_with_a_contact_sheet(capsys, run_json):
    main(["data", "digits"])
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if not line.startswith("note"))
    assert {key: facts[key].strip() for key in ("train", "valid", "test", "shape")} == {
        "train": "1,294", "valid": "144", "test": "359", "shape": "1 x 8 x 8",
    }  # fmt: skip
    assert facts["classes"].startswith("10: 0, 1, 2")
    assert facts["samples"].strip() == "drawn in digits-samples.png"
    with Image.open("digits-samples.png") as sheet:
        assert min(sheet.size) > 50
    result = run_json("data", "digits", "--out", "sheet.png")
    assert (result["train"], result["samples"]) == (1294, "sheet.png")
    assert Path("sheet.png").stat().st_size > 1000


def test_data_of_text_and_arrays_has_no_sheet(run_json):
    Path("verse.txt").write_text("to be or not to be\n" * 200)
    assert run_json("data", "verse.txt")["samples"] is None
    assert {path.name for path in Path.cwd().iterdir()} == {"verse.txt"}


# From a shell


def where(folder: str) -> list[str]:
    """The last two lines."""
    pytest.importorskip("plotly")
    return [f"The run is in {folder}", f"Its page is {folder}/report.html"]


def test_the_command_in_a_pipe():
    """Results on stdout, the rest on stderr, nothing that only a terminal understands."""
    done = forked.run(["-m", "onecycle", "train", "digits", *QUICK])
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("epoch 1/1") == 1
    assert done.stdout.splitlines()[-2:] == where("runs/digits-mlp-1")


@pytest.mark.parametrize("columns", [50, 100])
def test_the_command_on_a_terminal(columns):
    """One bar that is gone at the end, a line an epoch, a table: none wider than the terminal."""
    mine, its = pty.openpty()
    with forked.Popen(
        ["-m", "onecycle", "train", "digits", "--model", "small-cnn", "--epochs", "6"],
        stdin=its, stdout=its, stderr=its, env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(its)
        said = b""
        while data := _read(mine):
            said += data
    os.close(mine)
    assert process.returncode == 0
    text = said.decode()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line and not line.startswith("note: ")]
    assert re.search(r"━.*\d+/120  loss ", plain)
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == [f"epoch {i}/6" for i in range(1, 7)]
    assert lines[-2:] == where("runs/digits-small-cnn-1")
    assert max(map(len, lines)) <= columns


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end was closed
        return b""

"""The command's own part: options to settings, exit codes, tables. What the commands do is in acceptance/."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from onecycle import ConfigError, Interrupted, NonFiniteLoss, cli
from onecycle.cli import main


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list:
    """What `onecycle train` hands over, in place of a training run."""
    calls = []

    def run(job, out, *, resume, verbose):
        calls.append((job, out, resume, verbose))
        return {
            "run": "r", "train": {"loss": 1.0}, "valid": None, "test": None, "lr_max": 0.1, "epochs": 1, "updates": 1,
            "seconds": 1.0, "samples_per_second": 1.0,
        }  # fmt: skip

    monkeypatch.setattr("onecycle.job.run", run)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*_, **__):
        raise error

    monkeypatch.setattr("onecycle.job.run", run)


def test_every_option_reaches_its_setting(training):
    main([
        "train", "cifar10", "--model", "resnet9", "--epochs", "2.5", "--lr-max", "0.3", "--preset", "paper",
        "--optimizer", "adamw", "--momentum", "0.95,0.85", "--weight-decay", "0.01", "--batch-size", "128",
        "--smoothing", "0.1", "--augment", "flip, crop", "--accumulate", "2", "--clip", "1", "--seed", "3", "--limit",
        "100", "--image-size", "32", "--precision", "bf16", "--device", "cpu", "--compile", "--out", "here", "--json",
    ])  # fmt: skip
    job, out, resume, verbose = training[0]
    assert vars(job) == {
        "data": "cifar10", "model": "resnet9", "budget": "2.5 epochs", "lr_max": 0.3, "preset": "paper",
        "policy": None, "optimizer": "adamw", "momentum": (0.95, 0.85), "weight_decay": 0.01, "batch_size": 128,
        "smoothing": 0.1, "augment": ("flip", "crop"), "accumulate": 2, "clip": 1.0, "seed": 3, "limit": 100,
        "image_size": 32, "precision": "bf16", "device": "cpu", "compile": True,
    }  # fmt: skip
    assert (out, resume, verbose) == (Path("here"), False, False)


def test_without_options_the_job_is_the_default(training):
    from onecycle import Job

    main(["train"])
    assert training == [(Job(), None, False, True)]


@pytest.mark.parametrize(("text", "value"), [("0.9", 0.9), ("0", 0.0), ("0.95,0.85", (0.95, 0.85))])
def test_momentum(text, value, training):
    main(["train", "--momentum", text])
    assert training[0][0].momentum == value


@pytest.mark.parametrize("text", ["fast", "1", "-0.1", "nan", "0.9,0.8,0.7", "", "0.9,"])
def test_momentum_that_is_none(text, training, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", f"--momentum={text}"])
    assert stop.value.code == 2 and not training
    assert "from 0 to below 1, or HIGH,LOW such as 0.95,0.85; received" in capsys.readouterr().err


def test_a_budget_of_time(training):
    main(["train", "--budget", "5m"])
    assert training[0][0].budget == "5m"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "3", "--budget", "5m"], "give --epochs or --budget, one of them"),
        (["--policy", "p.json", "--preset", "paper"], "leave out --preset and --lr-max"),
        (["--policy", "p.json", "--lr-max", "1"], "leave out --preset and --lr-max"),
        (["--policy", "missing.json"], "cannot read the policy in missing.json"),
        (["--policy", "broken.json"], "cannot read the policy in broken.json"),
        (["--policy", "list.json"], "list.json"),
        (["--policy", "text.json"], "lr is a number, a Piecewise or a function"),
    ],
)
def test_options_that_do_not_go_together_or_cannot_be_read(words, said, training, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in {"p": '{"lr": 0.1}', "broken": "{", "list": "[1]", "text": '{"lr": "high"}'}.items():
        Path(f"{name}.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["train", *words])
    assert stop.value.code == 2 and not training
    assert said in capsys.readouterr().err


def test_a_policy_from_a_file(training, tmp_path):
    policy = {"lr": {"points": [[0.0, 0.01], [0.5, 0.1], [1.0, 0.0]], "easing": "linear"}, "momentum": 0.9}
    (tmp_path / "p.json").write_text(json.dumps(policy))
    main(["train", "--policy", str(tmp_path / "p.json")])
    assert training[0][0].policy["lr"] == policy["lr"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (NonFiniteLoss("wrong", step=1, lr=0.1), 2),
        (Interrupted("wrong", signal=2), 130),
        (Interrupted("wrong", signal=15), 143),
        (KeyboardInterrupt("wrong"), 130),
    ],
)
def test_exit_codes_with_one_line_and_no_traceback(error, code, monkeypatch, capsys):
    failing(monkeypatch, error)
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: wrong\n" if code == 2 else "wrong\n")


def test_a_bare_ctrl_c(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    with pytest.raises(SystemExit):
        main(["train"])
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("where", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(where, monkeypatch):
    failing(monkeypatch, ConfigError("wrong"))
    words = ["train", "digits"]
    with pytest.raises(ConfigError, match="wrong"):
        main([*words[:where], "--debug", *words[where:]])


def test_a_bug_is_not_hidden(monkeypatch):
    failing(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main(["train"])


def test_warnings_are_one_line(monkeypatch, capsys):
    def run(*_, **__):
        warnings.simplefilter("default")
        warnings.warn("step-3 is damaged", stacklevel=1)
        raise ConfigError("wrong")

    monkeypatch.setattr("onecycle.job.run", run)
    with pytest.raises(SystemExit):
        main(["train"])
    assert capsys.readouterr().err == "warning: step-3 is damaged\nerror: wrong\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["train", "--lr-mx", "1"], "Did you mean --lr-max?"),
        (["train", "--lr-max", "big"], 'unable to convert "big" into float'),
        (["train", "--epochs"], "requires an argument"),
        (["train", "digits", "cifar10"], "cifar10"),
        (["policy", "--steps-per-epoch", "0"], "--steps-per-epoch is at least 1"),
        (["predict"], "run"),
        (["predict", "somewhere"], "give at least one file to predict"),
    ],
)
def test_wrong_words(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("error: ") and said.lower() in err.lower() and "Traceback" not in err


@pytest.mark.parametrize("words", [[], ["--help"], ["train", "--help"], ["predict", "-h"], ["data", "--help"]])
def test_help(words, capsys):
    main(words)
    out, err = capsys.readouterr()
    assert out.startswith("Usage: onecycle") and err == ""


def test_the_help_of_train_explains_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["train", "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if line.strip("│ *").startswith("--")]
    assert len(lines) == len(cli.train.__kwdefaults__)
    assert all(len(line.split()) > 3 for line in lines)


def test_the_help_names_the_true_defaults(capsys):
    from onecycle import Job

    main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())  # whatever the width it is drawn for
    job = Job()
    for default in (
        f"{job.optimizer} (default)", f"{job.data} (default)", f"{job.precision} (default)", f"Default: {job.preset}.",
        f"default {job.batch_size}.", f"default {job.accumulate}.", f"default {job.seed}.",
        f"default {job.budget.split()[0]}.",
    ):  # fmt: skip
        assert default in said


def test_tables_fit_pipes_and_terminals(capsys, monkeypatch):
    cli._print_table(["a", "b"], [["x" * 300, "[bold]y"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["x" * 300, "[bold]y"]


def test_class_names_that_are_white_space():
    assert [cli.repr_class(name) for name in ("a", " ", "\n", "T-shirt/top")] == ["a", "' '", "'\\n'", "T-shirt/top"]

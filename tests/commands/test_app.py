"""The command's own part: options to settings, exit codes, tables. What the commands do is in acceptance/."""

from __future__ import annotations

import io
import json
import shlex
import sys
import warnings
from pathlib import Path

import pytest

from onecycle import ConfigError, Interrupted
from onecycle.commands import app as cli
from onecycle.commands import printing as cli_text
from onecycle.commands.app import main
from onecycle.errors import NonFiniteLoss


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

    monkeypatch.setattr("onecycle.jobs.run.run", run)
    return calls


RESULT = {
    "out": None, "train": "onecycle train digits --epochs 10 --lr-max 0.23", "title": "digits, small-cnn, muon",
    "curve": {"sweeps": [{
        "lr": [0.001, 0.01, 0.1, 1.0, 10.0], "loss": [2.3, 2.2, 1.2, 1.0, 5.0],
        "valid_lr": [0.001, 0.1, 1.0, 10.0], "valid_loss": [2.3, 1.1, 0.9, 6.0],
        "valid_accuracy": [0.1, 0.7, 0.8, 0.1], "stopped": "diverged",
    }]},
    "lr_max": 0.23, "lr_min": 0.038, "edge": 3.6, "reason": None, "decades": 0.08, "epochs": 10.0, "notes": [],
    "sharpness": None,
    "verdict": {
        "answer": "possible", "score": 0.93,
        "reasons": ["the accuracy stays within 3 % of its best over 1.2 decades of the learning rate"],
        "advice": ["less weight decay"],
    },
    "cost": {"updates": 1234, "evaluations": 30, "share": 0.0412, "seconds": 12.34},
}  # fmt: skip


@pytest.fixture
def testing(monkeypatch: pytest.MonkeyPatch) -> list:
    """What `onecycle check` hands over, in place of a range test."""
    calls = []

    def check(job, out, **options):
        calls.append((job, out, options))
        return RESULT

    monkeypatch.setattr("onecycle.jobs.check.check", check)
    monkeypatch.setattr("onecycle.jobs.check.check_curve", lambda *words: calls.append(words) or RESULT)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*_, **__):
        raise error

    monkeypatch.setattr("onecycle.jobs.run.run", run)


def test_every_option_reaches_its_setting(training):
    main([
        "train", "cifar10", "--model", "resnet9", "--epochs", "2.5", "--lr-max", "0.3", "--policy", "paper",
        "--optimizer", "adamw", "--momentum", "0.95,0.85", "--weight-decay", "0.01", "--batch-size", "128",
        "--smoothing", "0.1", "--augment", "flip, crop", "--accumulate", "2", "--clip", "1", "--seed", "3", "--limit",
        "100", "--image-size", "32", "--precision", "bf16", "--device", "cpu", "--compile", "--out", "here", "--json",
    ])  # fmt: skip
    job, out, resume, verbose = training[0]
    assert vars(job) == {
        "data": "cifar10", "model": "resnet9", "model_options": None, "policy_options": None, "budget": "2.5 epochs",
        "lr_max": 0.3, "policy": "paper", "optimizer": "adamw", "momentum": (0.95, 0.85),
        "weight_decay": 0.01, "batch_size": 128, "smoothing": 0.1, "augment": ("flip", "crop"), "accumulate": 2,
        "clip": 1.0, "seed": 3, "limit": 100, "image_size": 32, "precision": "bf16", "device": "cpu", "compile": True,
        "workers": 0,
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


@pytest.mark.parametrize(
    ("words", "peak"),
    [([], "auto"), (["auto"], "auto"), (["default"], "default"), (["0.3"], 0.3), (["1e-4"], 1e-4)],
)
def test_the_peak(words, peak, training):
    main(["train", *(["--lr-max", *words] if words else [])])
    assert training[0][0].lr_max == peak


def test_a_budget_of_time(training):
    main(["train", "--budget", "5m"])
    assert training[0][0].budget == "5m"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "3", "--budget", "5m"], "give --epochs or --budget, one of them"),
        (["--policy", "p.json", "--lr-max", "1"], "leave out --lr-max"),
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

    monkeypatch.setattr("onecycle.jobs.run.run", run)
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
        f"{job.optimizer} (default)", f"{job.data} (default)", f"{job.precision} (default)", f"default {job.policy};",
        f"default {job.batch_size}.", f"default {job.accumulate}.", f"default {job.seed}.",
        f"default {job.budget.split()[0]}.",
    ):  # fmt: skip
        assert default in said


def test_tables_fit_pipes_and_terminals(capsys, monkeypatch):
    cli_text.print_table(["a", "b"], [["x" * 300, "[bold]y"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["x" * 300, "[bold]y"]


def test_class_names_that_are_white_space():
    shown = {"a": "a", " ": "' '", "\n": "'\\n'", "T-shirt/top": "T-shirt/top"}
    assert [cli_text.repr_class(name) for name in shown] == list(shown.values())


# check


def test_every_option_of_check_reaches_its_setting(testing):
    from onecycle import Job

    main([
        "check", "cifar10", "--model", "resnet9", "--epochs", "2.5", "--updates", "99", "--repeats", "3", "--full",
        "--lr-low", "0.001", "--lr-high", "2",
        "--optimizer", "adamw", "--momentum", "0.95,0.85", "--weight-decay", "0", "--batch-size", "128",
        "--smoothing", "0", "--augment", "flip, crop", "--accumulate", "2", "--clip", "1", "--seed", "0", "--limit",
        "100", "--image-size", "32", "--precision", "bf16", "--device", "cpu", "--out", "here", "--json",
    ])  # fmt: skip
    job, out, options = testing[0]
    ends = {"lr_low": 0.001, "lr_high": 2.0}
    assert job == Job(
        "cifar10", model="resnet9", budget="2.5 epochs", optimizer="adamw", momentum=(0.95, 0.85), weight_decay=0.0,
        batch_size=128, smoothing=0.0, augment=("flip", "crop"), accumulate=2, clip=1.0, seed=0, limit=100,
        image_size=32,
        precision="bf16", device="cpu",
    )  # fmt: skip
    assert (out, options) == (Path("here"), {**ends, "verbose": False, "updates": 99, "repeats": 3, "full": True})


def test_without_options_the_check_is_the_default(testing):
    from onecycle import Job

    main(["check"])
    assert testing == [(Job(), None, {"verbose": True})]


def test_a_curve_in_a_file_is_judged(testing, capsys):
    main(["check", "some/Curve.CSV", "--out", "here", "--json"])
    assert testing == [("some/Curve.CSV", Path("here"))]
    assert json.loads(capsys.readouterr().out) == RESULT
    with pytest.raises(SystemExit) as stop:
        main(["check", "curve.csv", "--seed", "0", "--batch-size", "9", "--full"])
    assert stop.value.code == 2 and len(testing) == 1
    assert "nothing is trained: leave out --full, --batch-size, --seed" in capsys.readouterr().err


def test_what_a_check_says(testing, capsys):
    main(["check"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0] == "digits, small-cnn, muon"
    for line in (
        "Super-convergence looks possible (score 0.93 of 1).",
        "- the accuracy stays within 3 % of its best over 1.2 decades of the learning rate",
        "- next: less weight decay",
        "lr_max  0.23    the peak for a 1cycle run of 10 epochs (standard error over the repeats: a factor of 1.20)",
        "edge    3.6     training diverges above",
        "It took 1,234 updates and 30 measurements in 12 s, 4.1 % of the updates of a training of 10 epochs. "
        "Everything is as before.",
    ):
        assert line in lines
    assert lines[-2:] == ["To train:", RESULT["train"]]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_what_a_check_says_fits_the_terminal(width, ascii):
    sharpness = {"lr": [0.1, 0.3, 1.0], "largest_eigenvalue": [9.0, 8.0, None], "hessian_free": [None, 0.05, 0.1]}
    cost = {**RESULT["cost"], "sharpness_seconds": 8.0}
    lines = cli_text.check_lines({**RESULT, "sharpness": sharpness, "cost": cost, "out": "here"}, width, ascii=ascii)
    assert max(map(len, lines)) <= max(width, 30)  # a word of the command is not broken
    assert "Hessian-free" in " ".join(lines) and "The check is in here" in lines
    assert not ascii or "".join(lines).isascii()
    command = lines[lines.index("To train:") + 1 :]
    assert shlex.split(" ".join(line.removesuffix("\\") for line in command)) == shlex.split(RESULT["train"])


def test_what_a_check_says_of_a_curve_alone():
    nothing = dict.fromkeys(("lr_max", "lr_min", "edge", "reason", "train"))
    text = "\n".join(cli_text.check_lines({**RESULT, **nothing, "cost": {}}))
    assert "Super-convergence looks possible" in text
    assert not any(word in text for word in ("lr_max", "It took", "To train"))


def test_what_a_check_says_where_there_is_no_peak():
    nothing = dict.fromkeys(("lr_max", "lr_min", "edge")) | {"reason": "the loss never fell clearly below its start"}
    lines = cli_text.check_lines({**RESULT, **nothing, "sharpness": {"lr": []}})
    assert "lr_max  none: the loss never fell clearly below its start" in lines


def test_an_output_that_has_no_braille(testing, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="latin-1"))
    main(["check"])
    sys.stdout.flush()
    assert "held-out accuracy" in written.getvalue().decode("ascii")


def test_the_help_of_check_explains_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["check", "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if line.strip("│ *").startswith("--")]
    assert len(lines) == len(cli.check.__kwdefaults__)
    assert all(len(line.split()) > 2 for line in lines)

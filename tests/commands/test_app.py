"""The command's own part: options to settings, exit codes, tables. What the commands do is in acceptance/."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from onecycle import ConfigError, Interrupted, Job, Result
from onecycle.commands import app
from onecycle.commands import printing as cli_text
from onecycle.commands.app import main
from onecycle.commands.data import printable
from onecycle.errors import NonFiniteLoss


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list:
    """What `onecycle train` hands over, in place of a training run."""
    calls = []

    def run(job, out, *, resume, verbose, report, began):
        calls.append((job, out, resume, verbose, report))
        return Result({"loss": 1.0}, None, lr_max=0.1, epochs=1, updates=1, seconds=1.0, samples_per_second=1.0)

    monkeypatch.setattr("onecycle.jobs.run.run", run)
    return calls


RESULT = {
    "command": "onecycle train digits --epochs 10 --lr-max 0.23", "title": "digits, small-cnn, muon",
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
    test = SimpleNamespace(to_dict=lambda: RESULT)
    monkeypatch.setattr("onecycle.jobs.check.check", lambda job, out, **given: calls.append((job, out, given)) or test)
    monkeypatch.setattr("onecycle.jobs.check.check_curve", lambda *words, **_: calls.append(words) or test)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*_, **__):
        raise error

    monkeypatch.setattr("onecycle.jobs.run.run", run)


def test_every_option_reaches_its_setting(training):
    main([
        "train", "cifar10", "--model", "resnet9", "--epochs", "2.5", "--lr-max", "0.3", "--policy", "fastai",
        "--optimizer", "adamw", "--momentum", "0.95,0.85", "--weight-decay", "0.01", "--batch-size", "128",
        "--smoothing", "0.1", "--augment", "flip, crop", "--accumulate", "2", "--clip", "1", "--seed", "3", "--limit",
        "100", "--image-size", "32", "--fit", "pad", "--skip-damaged", "--precision", "bf16", "--device",
        "cpu", "--compile", "--workers", "2", "--model-options.hidden", "32", "--model-options.dropout", "0.2",
        "--policy-options.peak_at", "0.3", "--search", "0.2", "--balance",
        "--target", "price", "--valid", "v.csv", "--test", "t.csv", "--task",
        "regression", "--leave-out", "id,name", "--text-column", "review",
        "--no-standardise", "--average", "0.99", "--evaluate-every",
        "50", "--keep-best", "loss", "--norm-statistics", "running", "--class-weights", "balanced",
        "--no-rescue", "--test-flips", "--timeout", "1m", "--sync-batchnorm", "--shard", "--track", "none",
        "--no-report", "--out", "here", "--json", "--no-pretrained",
    ])  # fmt: skip
    job, out, resume, verbose, report = training[0]
    assert vars(job) == {
        "data": "cifar10", "model": "resnet9", "model_options": {"hidden": 32, "dropout": 0.2},
        "policy_options": {"peak_at": 0.3}, "budget": "2.5 epochs", "extend": None, "search": 0.2, "balance": True,
        "lr_max": 0.3, "policy": "fastai", "optimizer": "adamw", "momentum": (0.95, 0.85),
        "weight_decay": 0.01, "batch_size": 128, "smoothing": 0.1, "augment": ("flip", "crop"), "accumulate": 2,
        "clip": 1.0, "seed": 3, "limit": 100, "image_size": 32, "fit": "pad", "skip_damaged": True,
        "precision": "bf16", "device": "cpu", "compile": True, "workers": 2,
        "standardise": False, "target": "price", "valid": "v.csv", "test": "t.csv", "task": "regression",
        "leave_out": ("id", "name"), "text_column": "review",
        "average": 0.99, "test_flips": True, "evaluate_every": 50, "keep_best": "loss",
        "norm_statistics": "running", "class_weights": "balanced", "rescue": False,
        "timeout": "1m", "sync_batchnorm": True, "shard": True, "track": ("none",),
        "pretrained": False, "lora": None, "fine_tune": None, "freeze_epochs": None, "stages": (),
    }  # fmt: skip
    assert (out, resume, verbose, report) == (Path("here"), False, False, False)


def test_the_options_of_pretrained_models(training, tmp_path):
    """They do not go together with those above, nor with each other."""
    model = ["train", "photos", "--model", "timm:resnet18", "--pretrained"]
    main([*model, "--lora", "8"])
    main([*model, "--fine-tune", "full", "--freeze-epochs", "0.5"])
    file = tmp_path / "stages.json"
    file.write_text('[{"train": "head", "budget": "2 epochs", "lr_max": [1e-5, 1e-3]}]')
    main([*model, "--stages", str(file)])
    low_rank, tuned, staged = (job for job, *_ in training)
    assert (low_rank.lora, low_rank.pretrained, low_rank.tuning) == (8, True, "off")
    assert (tuned.fine_tune, tuned.freeze_epochs) == ("full", 0.5)
    assert staged.stages[0]["lr_max"] == [1e-5, 1e-3] and staged.stages[0]["train"] == "head"


def test_stages_that_cannot_be_read(training, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--stages", str(tmp_path / "none.json")])
    assert "cannot read the stages in" in capsys.readouterr().err


def test_without_options_the_job_is_the_default(training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train"])
    assert training == [(Job(), Path("runs/digits-1"), False, True, True)]


@pytest.mark.parametrize(("text", "value"), [("0.9", 0.9), ("0", 0.0), ("0.95,0.85", (0.95, 0.85))])
def test_momentum(text, value, training):
    main(["train", "--momentum", text])
    assert training[0][0].momentum == value


@pytest.mark.parametrize("text", ["fast", "1", "-0.1", "nan", "0.9,0.8,0.7", "", "0.9,"])
def test_momentum_that_is_none(text, training, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", f"--momentum={text}"])
    assert stop.value.code == 2 and not training
    assert (
        "momentum is a number, or two (high, low), at least 0 and below 1, such as (0.95, 0.85); received"
        in capsys.readouterr().err
    )


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
        (["--policy", "p.json", "--lr-max", "1"], "leave out lr_max"),
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
        (["train", "--lr-max", "big"], """lr_max is a number, "auto" or "default"; received 'big'"""),
        (["train", "--epochs"], "requires an argument"),
        (["train", "digits", "cifar10"], "cifar10"),
        (["policy", "--steps-per-epoch", "0"], "--steps-per-epoch is a whole number of at least 1"),
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


@pytest.mark.parametrize("name", ["train", "check", "compare", "reproduce"])
def test_the_help_explains_every_option_in_groups(name, capsys):
    main([name, "--help"])
    out = capsys.readouterr().out
    entries = re.split(r"│ (?=--|[A-Z]+ --)", out)[1:]
    assert len(entries) >= 9 and all(len(entry.split()) > 4 for entry in entries)
    assert "─ Output ─" in out and "─ Parameters ─" not in out


def test_every_field_of_a_job_is_an_option_of_train(capsys):
    main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in fields(Job):
        assert f"--{field.name.replace('_', '-')} " in out and f"─ {field.metadata['group']} ─" in out
        assert " ".join(field.metadata["help"].split()[:3]) in out
        if field.default is not None and field.default is not False:
            assert f"[default: {field.default}]" in out


FILE = """
data = "cifar10"
epochs = 2
momentum = [0.95, 0.85]
augment = ["crop", "flip"]
[model_options]
dropout = 0.2
"""


def test_a_file_of_options_which_those_given_replace(training, testing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(FILE)
    main(["train", "run.toml", "--seed", "3", "--lr-max", "0.2"])
    job = Job(
        "cifar10", budget="2 epochs", momentum=(0.95, 0.85), augment=("crop", "flip"), model_options={"dropout": 0.2},
        seed=3, lr_max=0.2,
    )  # fmt: skip
    assert training[0][0] == job
    main(["train", "run.toml", "--budget", "5m", "--momentum", "0.9", "--augment", "none"])
    assert training[1][0] == replace(
        job, budget="5m", momentum=0.9, augment=("none",), seed=0, lr_max="auto", model="auto", precision=None
    )  # fmt: skip
    Path("run.toml").write_text(f"updates = 99\nfull = true\n{FILE}")
    main(["check", "run.toml", "--updates", "70"])
    assert testing[0] == (
        replace(job, seed=0, lr_max="auto"), None, {"verbose": True, "report": True, "updates": 70, "full": True}
    )  # fmt: skip


def test_a_file_may_say_the_folder_too(training, testing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('out = "runs/here"\nno_report = true\n')
    for more, out in (([], Path("runs/here")), (["--out", "there"], Path("there"))):
        main(["train", "run.toml", *more])
        assert (training[-1][1], training[-1][4]) == (out, False)
        main(["check", "run.toml", *more])
        assert (testing[-1][1], testing[-1][2]["report"]) == (out, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out = 3", 'out is the path of a folder, such as "runs/first"; received 3'),
        ("no_report = 'yes'", "no_report is true or false; received 'yes'"),
        ("batchsize = 3", "unknown option 'batchsize': did you mean batch_size?"),
        ("updates = 3", "unknown option 'updates'"),
        ("epochs = 2\nbudget = '5m'", "give --epochs or --budget, one of them"),
        ("epochs = 'many'", "epochs is a finite number above 0; received 'many'"),
        ("lr_max = [1]", "lr_max is the peak learning rate"),
        ("seed = ", "cannot read the TOML file 'run.toml'"),
    ],
)
def test_files_of_options_that_are_refused(text, said, training, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["train", "run.toml"])
    assert stop.value.code == 2 and not training and said in capsys.readouterr().err


def test_the_installed_command():
    script = Path(sys.executable).with_name("onecycle")
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, version("onecycle"), "")


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom onecycle.commands.app import main\n"
        "for words in ([], ['train'], ['check'], ['compare'], ['reproduce'], ['runs']): main([*words, '--help'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "matplotlib", "plotly", "scipy", "pyarrow"} & set(said.splitlines()[-1].split())


def test_completion_is_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["--install-completion", "--shell", "bash"])
    assert any("onecycle" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    capsys.readouterr()


def test_after_a_ctrl_c_the_command_to_go_on_with_is_named(tmp_path, monkeypatch, capsys):
    def run(_, folder, **__):
        folder.mkdir()
        (folder / "run.json").touch()
        raise Interrupted("stopped by SIGINT after update 5", signal=2)

    monkeypatch.setattr("onecycle.jobs.run.run", run)
    with pytest.raises(SystemExit):
        main(["train", "--out", str(tmp_path / "my run")])
    assert capsys.readouterr().err == (
        f"stopped by SIGINT after update 5\nTo go on: onecycle train --resume '{tmp_path}/my run'\n"
    )


def test_tables_fit_pipes_and_terminals(capsys, monkeypatch):
    cli_text.print_table(["a", "b"], [["x" * 300, "[bold]y"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["x" * 300, "[bold]y"]


def test_class_names_that_are_white_space():
    shown = {"a": "a", " ": "' '", "\n": "'\\n'", "T-shirt/top": "T-shirt/top"}
    assert [printable(name) for name in shown] == list(shown.values())


# check


def test_every_option_of_check_reaches_its_setting(testing):
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
        image_size=32, precision="bf16", device="cpu",
    )  # fmt: skip
    said = {"verbose": False, "report": True, "updates": 99, "repeats": 3, "full": True}
    assert (out, options) == (Path("here"), {**ends, **said})


def test_without_options_the_check_is_the_default(testing):
    main(["check"])
    assert testing == [(Job(), None, {"verbose": True, "report": True})]


def test_a_curve_in_a_file_is_judged(testing, capsys):
    main(["check", "some/Curve.CSV", "--out", "here", "--json"])
    assert testing == [("some/Curve.CSV", Path("here"))]
    assert json.loads(capsys.readouterr().out) == RESULT
    with pytest.raises(SystemExit) as stop:
        main(["check", "curve.csv", "--seed", "0", "--batch-size", "9", "--full"])
    assert stop.value.code == 2 and len(testing) == 1
    assert "nothing is trained: leave out --batch-size, --seed, --full" in capsys.readouterr().err


def test_what_a_check_says(testing, capsys):
    main(["check"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0] == "digits, small-cnn, muon"
    for line in (
        "Keeps its accuracy at large learning rates (score 0.93 of 1).",
        "- the accuracy stays within 3 % of its best over 1.2 decades of the learning rate",
        "- next: less weight decay",
        "lr_max  0.23    the peak for a 1cycle run of 10 epochs (standard error over the repeats: a factor of 1.20)",
        "edge    3.6     training diverges above",
        "It took 1,234 updates and 30 measurements in 12.3 s, 4.1 % of the updates of a training of 10 epochs. "
        "Everything is as before.",
    ):
        assert line in lines
    assert lines[-2:] == ["To train:", RESULT["command"]]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_what_a_check_says_fits_the_terminal(width, ascii):
    sharpness = {"lr": [0.1, 0.3, 1.0], "largest_eigenvalue": [9.0, 8.0, None], "hessian_free": [None, 0.05, 0.1]}
    cost = {**RESULT["cost"], "sharpness_seconds": 8.0}
    lines = cli_text.check_lines({**RESULT, "sharpness": sharpness, "cost": cost, "folder": "here"}, width, ascii=ascii)
    assert max(map(len, lines)) <= max(width, 30)  # a word of the command is not broken
    assert "Hessian-free" in " ".join(lines) and "The check is in here" in lines
    assert not ascii or "".join(lines).isascii()
    command = lines[lines.index("To train:") + 1 :]
    assert shlex.split(" ".join(line.removesuffix("\\") for line in command)) == shlex.split(RESULT["command"])


def test_what_a_check_says_of_a_curve_alone():
    nothing = dict.fromkeys(("lr_max", "lr_min", "edge", "reason", "command"))
    text = "\n".join(cli_text.check_lines({**RESULT, **nothing, "cost": {}}))
    assert "Keeps its accuracy at large learning rates" in text
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


def test_a_commands_first_line_is_there_without_its_source(monkeypatch, tmp_path):
    read = [app.first_line(name) for name in app.COMMANDS]
    monkeypatch.setattr(app, "__file__", str(tmp_path / "app.pyc"))
    assert [app.first_line(name) for name in app.COMMANDS] == read and all(read)
    monkeypatch.setattr("onecycle.commands.policy.policy.__doc__", None)  # as with python -OO
    assert app.first_line("policy") == ""

"""Whatever cannot be used gives one clear error, exit code 2, no traceback, and costs nothing that was there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from cyclopts import CycloptsError
from data_makers import image_folder, pixels

from onecycle import OneCycleError
from onecycle.commands.app import main
from onecycle.jobs import run as job_run
from onecycle.records.checkpoint import checkpoints, latest
from onecycle.records.files import RUN

QUICK = ["--model", "mlp", "--epochs", "2", "--limit", "320", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_run, "draw", lambda *_: None)


def contents() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """The error that a command ends with, once it is clear that it is one line, changes no file and is no traceback."""

    def run(*words: str, keeps: bool = True) -> str:
        before = contents()
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        out, err = capsys.readouterr()
        others, _, said = ("\n" + err).partition("\nerror: ")
        assert (stop.value.code, out) == (2, "")
        assert said and not [line for line in others.splitlines() if not re.match("note: |warning: |epoch |$", line)]
        assert "Traceback" not in err
        if keeps:
            assert contents() == before
        with pytest.raises((OneCycleError, CycloptsError)):
            main([*words, "--debug"])
        capsys.readouterr()
        return said.rstrip()

    return run


# Names and numbers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digitz"], r"'digitz': did you mean digits\?"),
        (["fashon-mnist"], r"did you mean fashion-mnist\?"),
        (["nowhere/pets"], "nowhere/pets does not exist"),
        (["--model", "resnet65"], r"'resnet65': did you mean resnet56\?"),
        (["--model", "nomodule:net"], "importing nomodule failed"),
        (["--model", "lenet"], "lenet"),  # the digits are too small for it
        (["--policy", "one_cicle"], r"'one_cicle': did you mean one_cycle\?"),
        (["--optimizer", "sdg"], r"'sdg': did you mean sgd\?"),
        (["--augment", "flop"], r"'flop': did you mean flip\?"),
        (["--precision", "bf61"], r"'bf61': did you mean bf16\?"),
        (["--device", "cuda:99"], "cannot use the device 'cuda:99'"),
        (["--lr-max", "0"], r"lr_max is the peak learning rate, a finite number above 0, such as 0.1; received 0"),
        (["--lr-max", "nan"], "lr_max .* received nan"),
        (["--lr-max", "inf"], "lr_max .* received inf"),
        (["--lr-max", "-1"], "lr_max .* received -1"),
        (["--lr-max", "high"], """lr_max is a number, "auto" or "default"; received 'high'"""),
        (["--epochs", "0"], "epochs is a finite number above 0; received 0"),
        (["--epochs", "-1"], "received -1"),
        (["--epochs", "nan"], "received nan"),
        (["--budget", "soon"], r"cannot read the budget 'soon': give a number of epochs .* such as \"90s\", \"5m\""),
        (["--budget", "0s"], "seconds is a finite number above 0; received 0"),
        (["--budget", "1.5 updates"], "updates are counted in whole numbers"),
        (["--batch-size", "5000"], "batch_size 5000 is larger than the data, 1294 samples"),
        (
            ["--batch-size", "0"],
            "batch_size is the number of samples a batch, a whole number of at least 1; received 0",
        ),
        (["--limit", "3"], "limit = 3"),
        (["--limit", "99999"], "limit = 99999"),
        (["--seed", "-1"], "seed is a whole number of at least 0; received -1"),
        (
            ["--image-size", "0"],
            "image_size is the side of the images in pixels, a whole number of at least 1; received 0",
        ),
        (["--accumulate", "0"], "number of batches for each update, a whole number of at least 1; received 0"),
        (["--clip", "0"], "clip is the largest norm of the gradient, a finite number above 0; received 0"),
        (["--smoothing", "1"], "smoothing is a share of the target, at least 0 and below 1; received 1.0"),
        (["--weight-decay", "-1"], "weight_decay is a finite number of at least 0, such as 5e-4; received -1"),
        (["--momentum", "1.5"], "momentum is a number, or two .*; received 1.5"),
        (["--lr-mx", "1"], "Unknown option: --lr-mx. Did you mean --lr-max"),
        (["--epochs", "3", "--budget", "5m"], "give --epochs or --budget, one of them"),
        (["--resume", "runs/gone"], r"no run in runs/gone \(it has no run.json\)"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_names_and_numbers(words, said, refused):
    assert re.search(said, refused("train", *words))


def test_a_policy_of_what_the_optimizer_does_not_have(refused):
    Path("mine.json").write_text('{"lr": 0.1, "temperature": 0.5}')
    assert "no parameter group has 'temperature'" in refused("train", *QUICK, "--policy", "mine.json")


# Data


def test_an_empty_folder(refused):
    Path("empty").mkdir()
    assert "empty" in refused("train", "empty")


def test_one_class_only(refused):
    image_folder(Path("pets"), classes=["cat"])
    assert re.search("only one class|one class only", refused("train", "pets"))


def test_images_that_do_not_decode_are_all_named(refused):
    image_folder(Path("pets"), each=12)
    for name in ("cat/3.png", "dog/0.png", "dog/7.png"):
        (Path("pets") / name).write_bytes(b"not an image")
    said = refused("train", "pets")
    assert all(f"pets/{name}" in said for name in ("cat/3.png", "dog/0.png", "dog/7.png"))


def test_classes_that_differ_between_splits(refused):
    image_folder(Path("pets/train"), classes=["cat", "dog"])
    image_folder(Path("pets/valid"), classes=["cat", "dgo"])
    assert re.search(r"Classes differ between splits: .*'dgo'", refused("train", "pets"))


def npz(**arrays: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    np.savez("points.npz", **{"x": rng.normal(size=(60, 4)), "y": rng.integers(0, 3, 60), **arrays})
    return "points.npz"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite(bad, refused):
    x = np.zeros((60, 4))
    x[7, 2] = x[20, 0] = bad
    said = refused("train", npz(x=x))
    assert re.search(r"NaN or infinite inputs in the train split: 2 of 60 samples, the first at index 7", said)


def test_labels_out_of_range(refused):
    labels = np.arange(60) % 3
    labels[11] = -4
    assert re.search(r"-4 at index 11. Allowed are 0 to 2", refused("train", npz(y=labels)))
    labels[11] = 7
    names = np.array(["a", "b", "c"])
    assert re.search(r"7 at index 11. Allowed are 0 to 2", refused("train", npz(y=labels, classes=names)))


def test_targets_and_outputs_that_do_not_fit(refused):
    assert re.search(r"y is int64 \[60, 3\]\. Labels are integers", refused("train", npz(y=np.zeros((60, 3), int))))
    Path("narrow.py").write_text(
        "from torch import nn\ndef net(input_shape):\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))\n"
    )
    said = refused("train", npz(), "--model", "narrow:net", "--batch-size", "8")
    assert re.search("labels must lie from 0 to 1, since the model has 2", said)
    Path("wrong.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(4, 1)\n")
    said = refused("train", npz(), "--model", "wrong:net", "--batch-size", "8")
    assert re.search(r"outputs \(8, 1\), targets \(8,\) of int64", said)


def test_a_file_of_another_kind(refused):
    Path("thesis.docx").write_bytes(b"PK")
    assert "thesis.docx is not a file that can be read here" in refused("train", "thesis.docx")
    Path("points.npz").write_bytes(b"PK\x03\x04 and nothing more")
    assert "points.npz cannot be read" in refused("train", "points.npz")
    Path("empty.txt").touch()
    assert "empty.txt is empty" in refused("train", "empty.txt")


# Folders


def test_an_out_folder_that_holds_another_run(refused, capsys):
    main(["train", *QUICK, "--out", "run"])
    capsys.readouterr()
    said = refused("train", *QUICK, "--out", "run")
    assert said == "run holds another run: go on with it through --resume run, or give another --out"


def test_an_out_folder_that_holds_other_files(refused):
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("It was")
    assert "thesis is not empty and holds no run" in refused("train", *QUICK, "--out", "thesis")


def test_where_nothing_can_be_written(refused):
    """Below a regular file: no user may write there, whoever runs this."""
    Path("file").touch()
    assert "cannot write to file/run" in refused("train", *QUICK, "--out", "file/run")
    assert "cannot write to file" in refused("train", *QUICK, "--out", "file")


FULL = """
import resource, sys, torch
from onecycle.commands.app import main
from onecycle.records.history import Checkpointer
torch.set_num_threads(1)
begin = Checkpointer._begin

def then_the_disk_is_full(self):
    begin(self)
    self.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))

Checkpointer._begin = then_the_disk_is_full
Checkpointer.__init__.__kwdefaults__.update(every=0.0, share=1e9)
main(["train", "--model", "mlp", "--epochs", "2", "--limit", "320", "--batch-size", "64", "--out", "run"])
"""


def test_a_disk_that_fills_up():
    """After the first checkpoint no file may grow beyond 10 kB: the run stops, and goes on when there is room."""
    done = forked.run(["-c", FULL, "10000"])
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: cannot write the checkpoint run/checkpoints/step-00000002: ")
    assert "File too large" in said and "Traceback" not in done.stderr
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-00000001"]
    assert latest("run/checkpoints") is not None
    assert (RUN.read("run")["status"], RUN.read("run")["result"]) == ("failed", None)
    main(["train", "--resume", "run"])
    assert RUN.read("run")["result"]["updates"] == 10


# Checkpoints


@pytest.fixture
def broken(monkeypatch) -> Path:
    """A run that stopped on the way, with two checkpoints."""
    from onecycle.records.history import Checkpointer

    with monkeypatch.context() as patch:
        patch.setitem(Checkpointer.__init__.__kwdefaults__, "every", 0.0)
        patch.setitem(Checkpointer.__init__.__kwdefaults__, "share", 1e9)
        patch.setattr("onecycle.records.history.History.result", lambda *_: exit(3))
        with pytest.raises(SystemExit):
            main(["train", *QUICK, "--out", "run"])
    assert len(checkpoints("run/checkpoints")) == 2
    return Path("run")


@pytest.mark.filterwarnings("default")
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(broken, capsys):
    last = checkpoints(broken / "checkpoints")[-1]
    os.truncate(last / "state.pt", 1000)
    capsys.readouterr()
    main(["train", "--resume", "run"])
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    said = "is damaged: state.pt is not what its manifest says. Going on from step-00000009, which is good"
    assert warned == [f"warning: {last} {said}"]
    assert RUN.read("run")["status"] == "finished"


def test_checkpoints_that_are_all_damaged(broken, refused):
    for path in checkpoints(broken / "checkpoints"):
        os.truncate(path / "state.pt", 1000)
    said = refused("train", "--resume", "run")
    assert said.startswith("no checkpoint in run/checkpoints can be used: run/checkpoints/step-00000010 is damaged")
    assert "step-00000009" in said


def replace_state(path: Path, state: object) -> None:
    torch.save(state, path / "state.pt")
    data = (path / "state.pt").read_bytes()
    manifest = {"schema": 1, "step": 9, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("touched",)


def test_a_checkpoint_with_pickled_code_is_refused_and_not_run(broken, refused):
    for path in checkpoints(broken / "checkpoints"):
        replace_state(path, {"model": Malicious()})
    assert "holds pickled code and is refused" in refused("train", "--resume", "run")
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"epoch": 3, "state_dict": {}}, "this is no state of a training"),
        ({"model": {"weight": torch.zeros(3)}, "optimizer": {}}, "this is no state of a training"),
        ([1, 2], "holds a list, not the state of a run"),
    ],
)
def test_a_foreign_checkpoint(state, said, broken, refused):
    for path in checkpoints(broken / "checkpoints"):
        replace_state(path, state)
    assert said in refused("train", "--resume", "run")


def test_a_run_of_a_newer_version(broken, refused):
    record = json.loads((broken / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps({**record, "schema": 3}))
    assert "has schema 3; this version of onecycle reads 2" in refused("train", "--resume", "run")


def test_a_changed_configuration(broken, refused):
    said = refused("train", "--resume", "run", "--seed", "1", "--lr-max", "0.3", "--epochs", "5", "--limit", "320")
    assert re.search(r"seed: 0, now 1; budget: '2 epochs', now '5 epochs'; lr_max: 'auto', now 0.3\. Resume with", said)
    assert "leave out --out elsewhere" in refused("train", "--resume", "run", "--out", "elsewhere")


# While training


def test_a_loss_that_turns_nan(refused):
    said = refused("train", *QUICK, "--lr-max", "1e20", "--no-rescue", "--out", "run", keeps=False)
    match = re.fullmatch(
        r"the loss became (nan|inf) at update (\d+), at learning rate (\S+)\. Try a smaller lr_max \(such as (\S+)\), "
        r"clip=1\.0, or a longer warm-up; .*\. There is no checkpoint yet",
        said,
    )
    assert match, said
    assert float(match[4]) < float(match[3])
    record = RUN.read("run")
    assert (record["status"], record["error"]) == ("failed", said)


def test_a_loss_that_turns_nan_keeps_the_last_good_checkpoint(capsys):
    """A rate that is fine for an epoch and then is not."""
    Path("mine.json").write_text('{"lr": {"points": [[0, 0.05], [0.6, 0.05], [0.61, 1e20], [1, 1e20]]}}')
    with pytest.raises(SystemExit) as stop:
        main(["train", *QUICK, "--policy", "mine.json", "--no-rescue", "--out", "run"])
    assert stop.value.code == 2
    (good,) = checkpoints("run/checkpoints")
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"The last good checkpoint is {good}")
    saved = latest("run/checkpoints")
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    assert saved["at"]["step"] == 5


def test_a_run_that_is_rescued_in_vain_is_an_error(refused):
    """A rate that is far too large up to the last update."""
    Path("mine.json").write_text('{"lr": {"points": [[0, 0.05], [0.6, 0.05], [0.61, 1e20], [1, 1e20]]}}')
    said = refused("train", *QUICK, "--policy", "mine.json", "--out", "run", keeps=False)
    assert re.match(r"the run was rescued \d times and is lost all the same: its validation loss is nan", said)
    assert RUN.read("run")["status"] == "failed"


# predict, policy, data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "nowhere", "a.png"], "no run in nowhere"),
        (["policy", "one_cicle"], r"did you mean one_cycle\?"),
        (["policy", "--lr-max", "0"], "lr_max is the peak learning rate"),
        (["policy", "--epochs", "0"], "epochs is a finite number above 0"),
        (["policy", "--out", "policy.gif"], r"end the name in .png, .svg or .pdf"),
        (["policy", "--out", "nowhere/policy.png"], "nowhere"),
        (["data", "fashon-mnist"], r"did you mean fashion-mnist\?"),
        (["data", "nowhere/pets"], "nowhere/pets does not exist"),
        (["data", "digits", "--out", "taken/sheet.png"], "taken"),
    ],
    ids=" ".join,
)
def test_the_other_commands(words, said, refused):
    Path("taken").touch()
    assert re.search(said, refused(*words))


def test_predict_names_all_files_that_do_not_decode(refused, capsys):
    main(["train", *QUICK, "--out", "run"])
    capsys.readouterr()
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(b"not an image")
    np.save("wrong.npy", pixels(2, 5, 4))
    said = refused("predict", "run", "a.png", "b.png")
    assert "a.png" in said and "b.png" in said
    assert "wrong.npy" in refused("predict", "run", "wrong.npy")


def test_the_command_itself_ends_with_code_2():
    done = subprocess.run([sys.executable, "-m", "onecycle", "train", "digitz"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    fork = forked.run(["-m", "onecycle", "train", "digitz"])
    assert (fork.returncode, fork.stdout, fork.stderr) == (done.returncode, done.stdout, done.stderr)
    debug = forked.run(["-m", "onecycle", "train", "digitz", "--debug"])
    assert "Traceback" in debug.stderr and "ConfigError" in debug.stderr and debug.returncode not in (0, 2)

"""`onecycle profile` as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onecycle.commands.app import main
from onecycle.jobs import drawing
from onecycle.profiling import api, measure

QUICK = ["--model", "mlp", "--limit", "320", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "MOST", 4)
    monkeypatch.setattr(api, "cores", lambda: 1)
    monkeypatch.setattr(drawing, "draw", lambda *_: None)  # takes longer than all else


def test_a_profile_in_the_terminal(capsys):
    main(["profile", "digits", *QUICK, "--optimizer", "sgd"])
    out, err = capsys.readouterr()
    assert out.startswith("mlp on digits, sgd\nAn update takes ")
    for said in ("forward ", "optimizer ", "What to change:", "batch 128", "bf16", "Everything is as before."):
        assert said in out
    assert "note: profile: takes about 1 min" in err and "\x1b" not in out + err
    assert list(Path.cwd().iterdir()) == []


def test_a_profile_as_json_and_in_a_folder(capsys):
    main(["profile", "digits", *QUICK, "--json", "--out", "made", "--budget", "30s"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == "" and result["folder"] == "made" and result["budget"] == 30
    record = json.loads(Path("made/profile.json").read_text())
    assert record["result"] == {name: value for name, value in result.items() if name != "folder"}
    assert record["config"]["batch_size"] == 64 and record["schema"] == 1
    main(["report", "made", "--markdown"])
    assert "An update takes" in capsys.readouterr().out


def test_a_file_of_options_for_a_training(capsys):
    Path("run.toml").write_text('data = "digits"\nmodel = "mlp"\nepochs = 3\nlr_max = 0.1\nlimit = 320\n')
    main(["profile", "run.toml", "--json"])
    assert json.loads(capsys.readouterr().out)["title"].startswith("mlp on digits, ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--budget", "3 epochs"], 'the budget of a profile is a time, such as "1m" or "30s"; received'),
        (["digits", "--budget", "soon"], "cannot read the budget 'soon'"),
        (["nothing-there"], "nothing-there"),
        (["digits", "--out", "taken"], "taken holds another profile: give another --out"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(capsys, words, said):
    Path("taken").mkdir()
    Path("taken/profile.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["profile", *words])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and said in err

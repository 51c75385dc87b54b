"""onecycle doctor: what there is, what is missing with the line that brings it, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from onecycle.commands.app import main
from onecycle.jobs import doctor
from onecycle.jobs.doctor import ADVICE, FAULT, OK, diagnose


def found(folder: str | Path = ".") -> dict[str, doctor.HealthFinding]:
    return {one.name: one for one in diagnose(folder)}


def test_a_machine_that_trains(tmp_path, capsys):
    main(["doctor", str(tmp_path), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] and list(tmp_path.iterdir()) == []
    by_name = {one["name"]: one for one in said["findings"]}
    assert by_name["torch"]["found"].startswith(torch.__version__)
    assert by_name["training"] == {"name": "training", "status": OK, "found": "a tiny model learns on cpu", "mend": ""}
    assert str(tmp_path) in by_name["folder"]["found"]
    main(["doctor", str(tmp_path)])
    assert "ok      torch     " in capsys.readouterr().out


def test_extras_that_are_missing_have_the_line_that_brings_them(monkeypatch):
    there, gone = doctor._version, ("plotly", "jinja2", "uvicorn")
    lines = ["torch>=2.6", "plotly>=6; extra == 'report'", 'jinja2>=3.1; extra == "report"', "rich>=1; extra == 'plot'"]
    lines += ["uvicorn>=0.30; extra == 'serve'", "ruff>=0.12; extra == 'dev'"]
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in gone else there(name))
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    one = found()["extras"]
    assert (one.status, one.mend) == (ADVICE, "pip install 'onecycle[report,serve]'")
    assert one.found == "not installed: report (plotly, jinja2), serve (uvicorn)"


def test_what_training_needs_and_is_not_there_is_a_fault_and_exits_with_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torch" else "1")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "fault   packages  missing: torch" in out and "-> pip install torch" in out


def test_a_torch_that_is_broken_is_a_fault(monkeypatch):
    def broken(*words, **options):
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr("torch.nn.Linear", broken)
    one = found()["training"]
    assert one.status == FAULT and one.found == "fails: RuntimeError: no kernel image is available" and one.mend


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    one = found(tmp_path / "nowhere")["folder"]
    assert one.status == FAULT and "cannot be written" in one.found and "--out" in one.mend
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "nowhere")])
    assert ended.value.code == 1


def test_how_threads_wait_is_measured_and_what_was_set_is_said(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for seconds, words in ((0.0, "0.0 ms of a core: they sleep"), (0.007, "7.0 ms of a core: they spin")):
        monkeypatch.setattr(doctor, "spinning_seconds", lambda elements, seconds=seconds: seconds)
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
        assert words in found()["threads"].found
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert found()["threads"].found.endswith("as GOMP_SPINCOUNT=0 says")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert found()["threads"].found == "one: none waits for another (GOMP_SPINCOUNT=0)"


def test_what_is_installed_and_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name == "timm" else None)
    (one,) = doctor._imports()
    assert one.status == ADVICE and "timm 1.0 is installed, but cannot be imported: RuntimeError: operator" in one.found
    assert "torch torchvision" in one.mend

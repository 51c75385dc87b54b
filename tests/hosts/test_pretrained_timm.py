"""Pretrained models of timm, in the layout that the hub's cache has: its own code makes and loads them.

`import timm` needs a few names of torchvision, which is not at hand: none of them is used by what is run here.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

import onecycle
from onecycle import Job, load_run, run
from onecycle.errors import ConfigError
from onecycle.models import build
from onecycle.models.pretrained import configuration

if find_spec("timm") is None:
    pytest.skip("could not find timm", allow_module_level=True)

NAME = "test_resnet.r160_in1k"


class Stand(ModuleType):
    """A module of torchvision, all of whose names are classes of nothing."""

    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if (within := f"{self.__name__}.{name}") in sys.modules:
            return sys.modules[within]
        made = type(
            name, (nn.Module,), {"BILINEAR": 1, "BICUBIC": 2, "NEAREST": 3, "LANCZOS": 4, "BOX": 5, "HAMMING": 6}
        )
        setattr(self, name, made)
        return made


@pytest.fixture(autouse=True)
def timm(monkeypatch, tmp_path):
    if find_spec("torchvision") is None:
        for name in ("", ".ops", ".ops.misc", ".models", ".models.feature_extraction", ".transforms", ".utils",
                     ".transforms.functional", ".datasets", ".datasets.folder"):  # fmt: skip
            monkeypatch.setitem(sys.modules, f"torchvision{name}", Stand(f"torchvision{name}"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    import timm

    yield timm
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]


def cached(timm, cache: Path):
    """The weights of the model as the hub's cache has them."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    made = timm.create_model("test_resnet", num_classes=1000)
    place = cache / f"models--timm--{NAME}"
    (place / "snapshots" / "a1").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a1")
    save_file(made.state_dict(), place / "snapshots" / "a1" / "model.safetensors")
    return made


def test_a_timm_model_begins_with_its_weights_and_is_made_again_without_them(timm, tmp_path):
    theirs = cached(timm, tmp_path / "cache")
    known = configuration(f"timm:{NAME}")
    assert (known.input_size, known.mean, known.classifier) == ((3, 160, 160), (0.5, 0.5, 0.5), "fc")
    for classes in (2, 1000):
        ours = build(f"timm:{NAME}", input_shape=(3, 32, 32), classes=classes, pretrained=True).state_dict()
        for key, value in theirs.state_dict().items():
            assert (ours[key].shape == value.shape and torch.equal(ours[key], value)) != key.startswith("fc")
    shades = torch.Generator().manual_seed(0)
    for i in range(16):
        place = tmp_path / "photos" / ("a", "b")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 120, (40, 40, 3), generator=shades) + 130 * (i % 2)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{i}.png")
    job = Job(
        str(tmp_path / "photos"), model=f"timm:{NAME}", pretrained=True, image_size=32, budget="1 epochs", lr_max=1e-3
    )
    run(job, tmp_path / "run", report=False)
    shutil.rmtree(tmp_path / "cache")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["facts"]["std"] == [0.5, 0.5, 0.5]
    trained = load_run(tmp_path / "run", device="cpu", verbose=False)
    assert trained.predict(str(tmp_path / "photos")).shape == (16, 2)


def test_absent_and_unknown_weights(timm, tmp_path):
    with pytest.raises(ConfigError) as raised:
        build(f"timm:{NAME}", input_shape=(3, 32, 32), classes=2, pretrained=True)
    said = str(raised.value)
    assert said.startswith(f"the weights of timm:{NAME} are not on this machine, and cannot be fetched")
    assert str(tmp_path / "cache") in said and said.endswith(f"hf download timm/{NAME}")
    with pytest.raises(ConfigError, match=r"timm has no pretrained weights for 'resnet18.nonsense': it has resnet18"):
        configuration("timm:resnet18.nonsense")
    with pytest.raises(ConfigError, match="unknown timm model 'resnt18'"):
        configuration("timm:resnt18")
    data = onecycle.load("digits", pretrained=configuration(f"timm:{NAME}"), image_size=16)
    assert data.input_shape == (3, 16, 16)

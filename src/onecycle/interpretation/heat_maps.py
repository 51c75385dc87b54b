"""Where in an image a convolutional net looked: Grad-CAM on the last feature map that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..text import count

CONVOLUTIONS = (nn.Conv2d, nn.LazyConv2d)


def last_feature_map(model: nn.Module, inputs: Tensor) -> nn.Module | str:
    """The module whose output is the last feature map [n, channels, height, width] in the order of running, of more
    than one place and with convolutions before it; or why there is none, in words.

    A net that goes on with sequences of tokens has none: what it looks at is decided after its patches.
    """
    none = "the net has no feature maps of two dimensions"
    if not any(isinstance(module, CONVOLUTIONS) for module in model.modules()):
        return none
    ran: list[tuple[nn.Module, Tensor]] = []
    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            stack.callback(module.register_forward_hook(_keeping(ran)).remove)
        model(inputs)
    last, convolved = None, False
    for module, outputs in ran:
        convolved = convolved or isinstance(module, CONVOLUTIONS)
        if outputs.ndim == 4 and convolved and outputs.shape[2] * outputs.shape[3] > 1:
            last = module
        elif outputs.ndim == 3 and last is not None and any(True for _ in module.parameters(recurse=False)):
            return "the net goes on with sequences of tokens after its feature maps"
    return none if last is None else last


def heat_maps(model: nn.Module, inputs: Tensor, outputs: Sequence[int]) -> list[Tensor] | str:
    """For each image of `inputs` [n, c, height, width] how much each place speaks for its output, [h, w] in 0 to 1.

    `outputs` is the number of the output that is asked about for each image; of a net with one output, 1 asks what
    speaks for it and 0 what speaks against it. A map has the size of the last feature map that the net makes, and is 0
    where nothing speaks for the output. The model is in evaluation mode; it gets no
    gradients. In place of the maps, why there are none, in words.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    1610.02391, section 3.
    """
    module = last_feature_map(model, inputs[:1])
    if isinstance(module, str):
        return module
    kept: list[tuple[nn.Module, Tensor]] = []
    with torch.enable_grad(), ExitStack() as stack:
        stack.callback(module.register_forward_hook(_keeping(kept)).remove)
        scores = model(inputs.detach().requires_grad_(inputs.is_floating_point()))
        asked, scores = torch.tensor(outputs, device=scores.device), scores.reshape(len(inputs), -1)
        chosen = scores.gather(1, asked[:, None])[:, 0] if scores.shape[1] > 1 else scores[:, 0] * (2 * asked - 1)
        features = kept[-1][1]  # of a module that runs several times, the last
        if len(features) != len(inputs):
            return f"its last feature map has {count(len(features), 'sample')} for {len(inputs)}"
        (gradient,) = torch.autograd.grad(chosen.float().sum(), features, allow_unused=True)
    if gradient is None:
        return "its output does not depend on its last feature map"
    maps = (gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1).relu().float().cpu()
    most = maps.amax((1, 2), keepdim=True)
    return list(torch.where(most > 0, maps / most.clamp_min(torch.finfo(torch.float32).tiny), maps))


def _keeping(kept: list[tuple[nn.Module, Tensor]]) -> Any:
    def hook(module: nn.Module, _inputs: Any, outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            kept.append((module, outputs))

    return hook

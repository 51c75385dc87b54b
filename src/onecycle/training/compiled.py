"""The model through torch.compile, and with it Muon's products where CUDA graphs are replayed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..data.batches import Batches, TensorBatches
from ..data.standardise import untransformed
from ..optim.muon import Muon
from .runtime import Runtime

# The modes that replay CUDA graphs.
GRAPHS = ("reduce-overhead", "max-autotune")


def compiled(model: nn.Module, optimizer: Optimizer, mode: bool | str, batches: Batches, runtime: Runtime) -> Any:
    """The model through ``torch.compile``, which compiles at the first call; `mode` is True or one of torch's.

    Batches of tensors that lie in memory are of two sizes at most, a full one and that of the rest: it is compiled for
    each of them, once. Others may be of any shape: from the second on torch compiles for all. Where CUDA graphs are
    replayed, what Muon does for all matrices becomes one too; a step of the other optimizers is a launch or two.
    """
    options: dict[str, Any] = {} if mode is True else {"mode": mode}
    if mode in GRAPHS and runtime.device.type == "cuda" and isinstance(optimizer, Muon):
        optimizer.compile(**options)
    if isinstance(untransformed(batches), TensorBatches):
        options["dynamic"] = False
    return torch.compile(model, **options)

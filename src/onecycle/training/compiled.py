"""The model through torch.compile, and with it Muon's products where CUDA graphs are replayed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..data.batches import Batches, TensorBatches
from ..data.standardise import untransformed
from ..errors import ConfigError
from ..optim.muon import Muon
from .runtime import Runtime

# The modes that replay CUDA graphs.
GRAPHS = ("reduce-overhead", "max-autotune")


def compiled(model: nn.Module, optimizer: Optimizer, mode: bool | str, batches: Batches, runtime: Runtime) -> Any:
    """The model through ``torch.compile``, which compiles at the first call; `mode` is True or one of torch's.

    Batches of tensors that lie in memory are of two sizes at most, a full one and that of the rest: it is compiled for
    each of them, once. Others may be of any shape: from the second on torch compiles for all. Where CUDA graphs are
    replayed, what Muon does for all matrices becomes one too; a step of the other optimizers is a launch or two.

    Raises:
        ConfigError: what torch compiles with is not here.
    """
    _check_tools(runtime.device)
    options: dict[str, Any] = {} if mode is True else {"mode": mode}
    if mode in GRAPHS and runtime.device.type == "cuda" and isinstance(optimizer, Muon):
        optimizer.compile(**options)
    if isinstance(untransformed(batches), TensorBatches):
        options["dynamic"] = False
    return torch.compile(model, **options)


def _check_tools(device: torch.device) -> None:
    """Look for what torch makes machine code with, rather than in the first update."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ConfigError(
                "compile makes code for a GPU with Triton, which is not installed: install it, as torch on Linux "
                "does, or leave out compile"
            )
        return
    compiler = os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise ConfigError(
            f"compile makes code with a C++ compiler, and there is no {compiler} here: install one, name another in "
            "the variable CXX, or leave out compile"
        )

"""Where and in which precision a run computes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy

from ..checks import one_of
from ..data.batches import Batches
from ..errors import ConfigError
from ..text import count
from .launched import world_asked
from .options import PRECISIONS, TIMEOUT
from .ranks import ALONE, Ranks

# Those of autocast; in fp32 there is none.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NOTHING = nullcontext()


def weights_dtype(model: nn.Module) -> torch.dtype | None:
    """The type of the first floating-point parameter; None where there is none yet."""
    return next((p.dtype for p in model.parameters() if not is_lazy(p) and p.is_floating_point()), None)


@dataclass(frozen=True)
class Runtime:
    """A device, a precision, a memory format, and the ranks; make one with `Runtime.choose` or `Runtime.of`."""

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False
    ranks: Ranks = ALONE

    @classmethod
    def choose(
        cls, device: str | torch.device | None = None, precision: str = "fp32", timeout: float = TIMEOUT
    ) -> Runtime:
        """The given device, or the best one here (CUDA, then Apple's MPS, then the CPU); of several ranks this one's.

        `precision` is "fp32", "bf16" or "fp16": the last two through autocast, fp16 with a gradient scaler; weights
        stay in float32. Where a launcher such as torchrun says that there are several ranks, they meet here, in the
        process group that there is or in a new one, in which one waits `timeout` seconds for another.

        Raises:
            ConfigError: a device that is not here, an unknown precision, or ranks that do not meet.
        """
        one_of("precision", precision, PRECISIONS)
        if world_asked() == 1 and not dist.is_initialized():
            return cls(_device(device), precision)
        chosen = _device(_of_local_rank(device))
        ranks = Ranks.join("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            if ranks.world > 1:
                _check_one_each(ranks, chosen)
        return cls(chosen, precision, ranks=ranks)

    @classmethod
    def of(cls, model: nn.Module, precision: str = "fp32", *, channels_last: bool = False) -> Runtime:
        """The device that `model` is on: its first parameter's or buffer's, the CPU where it has none.

        With `channels_last` a `TrainState` brings the weights of convolutions into that memory format, in which they
        are trained faster; a model that takes a `view` of what they give cannot be, and needs `reshape` there.

        Raises:
            ConfigError: the model is on the meta device, so that its weights have no values; and as `choose`.

        >>> Runtime.of(nn.Linear(2, 1)).device
        device(type='cpu')
        """
        first = next(chain(model.parameters(), model.buffers()), None)
        if first is not None and first.is_meta:
            raise ConfigError(
                f"{type(model).__name__} is on the meta device, where weights have no values: give them some with "
                'model.to_empty(device="cpu") and load_state_dict()'
            )
        return replace(cls.choose("cpu" if first is None else first.device, precision), channels_last=channels_last)

    @property
    def alone(self) -> Runtime:
        """The same for what this rank does by itself."""
        return replace(self, ranks=ALONE)

    def epoch(self, batches: Batches, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch; of several ranks the `Part` of each that this one computes."""
        if self.ranks.world == 1:
            return batches.epoch(epoch, start)
        return self.ranks.shards.epoch(batches, epoch, start)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        dtype = DTYPES.get(self.precision)
        return NOTHING if dtype is None else torch.autocast(self.device.type, dtype)

    def stepping(self) -> AbstractContextManager[Any]:
        """The context of what follows a backward pass: clipping, and the optimizer's step."""
        return NOTHING

    def scaler(self) -> torch.amp.GradScaler | None:
        """A gradient scaler, where the precision needs one."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, convolutions in the memory format that is fastest there.

        Parameters without a shape as yet (of lazy layers) only get the device.
        """
        model = model.to(self.device)
        if self.channels_last and not any(map(is_lazy, chain(model.parameters(), model.buffers()))):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def move(self, batch: Any) -> Any:
        """The batch on the device: tensors, and what has a `to`, in tuples, lists and dicts, however deep."""
        if isinstance(batch, torch.Tensor):
            return batch if batch.device == self.device else batch.to(self.device, non_blocking=True)
        if type(batch) is tuple or type(batch) is list:  # as most are
            return type(batch)([self.move(part) for part in batch])
        if hasattr(batch, "to"):
            return batch.to(self.device)
        if isinstance(batch, Mapping):
            return {key: self.move(value) for key, value in batch.items()}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*map(self.move, batch))
        if isinstance(batch, tuple | list):
            return type(batch)(map(self.move, batch))
        return batch


def generators(*devices: torch.device) -> list[torch.Generator]:
    """torch's global generators that a computation on `devices` draws from: the CPU's, and theirs."""
    drawn_from = [torch.default_generator]
    for device in devices:
        if device.type == "cuda":
            torch.cuda.init()
            drawn_from.append(torch.cuda.default_generators[device.index or 0])
        elif device.type == "mps":
            drawn_from.append(torch.mps._get_default_mps_generator())
    return drawn_from


def _of_local_rank(device: str | torch.device | None) -> str | torch.device | None:
    """The device of this rank: of GPUs the one with its number on this machine, or the only one that it sees.

    Raises:
        ConfigError: more ranks on this machine than GPUs.
    """
    named = None if device is None else torch.device(device)
    if not torch.cuda.is_available():
        return "cpu" if named is None else device  # several ranks cannot share another accelerator
    if named is not None and (named.type != "cuda" or named.index is not None):
        return device
    local, gpus = os.environ.get("LOCAL_RANK") or None, torch.cuda.device_count()
    if gpus == 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):  # each rank was given its own
        return "cuda:0"
    if local is None:
        return f"cuda:{torch.cuda.current_device()}"
    here = max(int(os.environ.get("LOCAL_WORLD_SIZE") or 1), int(local) + 1)
    if here > gpus:
        raise ConfigError(
            f"{here} ranks on this machine, and {count(gpus, 'GPU')}: start as many as there are (torchrun "
            '--nproc-per-node=gpu), or give device="cpu"'
        )
    return f"cuda:{local}"


@cache
def _check_one_each(ranks: Ranks, device: torch.device) -> None:
    """Check that no two ranks have one GPU.

    Raises:
        ConfigError: two have.
    """
    mine = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES"), str(device)
    everyone = ranks.gather(mine)
    if (others := [rank for rank, theirs in enumerate(everyone) if theirs == mine]) != [ranks.rank]:
        raise ConfigError(
            f'ranks {", ".join(map(str, others))} would share {device} of {mine[0]}: give device="cuda", one for each, '
            "by a launcher that sets LOCAL_RANK, or call torch.cuda.set_device in each rank"
        )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(f"cannot use the device {str(device)!r}; here: {', '.join(here)} ({error})") from error
    return torch.device("cuda", torch.cuda.current_device()) if chosen == torch.device("cuda") else chosen

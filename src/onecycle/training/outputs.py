"""What a model gives in an evaluation, kept beside the targets, so that no further pass over the data is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .ranks import ALONE, Ranks

NUMBERS = 2**21  # of the outputs that are kept, 8 MiB as float32


class Outputs:
    """The outputs of a model for the samples of the last evaluation, and their targets, where both are one tensor.

    Of outputs with more than `NUMBERS` numbers those of every second sample are kept, or every third, and so on; where
    it is not known how many there will be, the first.

    Attributes:
        samples: how many the evaluation had.
        stride: every how many one was kept.
        why: why nothing is kept, in words; empty where something is.
    """

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, samples: int | None) -> None:
        """Forget everything; so many samples are to come, where that is known."""
        self._expected, self._numbers = samples, 0
        self._parts: list[tuple[Tensor, Tensor] | None] = []
        self.samples, self.stride, self.why = 0, 1, ""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within the block the outputs of `model`'s calls are seen, for `take`."""
        self._last = None
        handle = model.register_forward_hook(lambda _module, _inputs, outputs: setattr(self, "_last", outputs))
        try:
            yield
        finally:
            handle.remove()
            self._last = None

    def take(self, batch: Any, counts: bool = True) -> None:
        """Keep what the model gave last, and the targets of the `batch`, unless it `counts` for nothing."""
        outputs, self._last = self._last, None
        targets = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            self.why = "the model's outputs and the targets are not one tensor each"
        elif not outputs.ndim or not targets.ndim or len(outputs) != len(targets):
            self.why = "the model does not give as many outputs as there are samples"
        else:
            self._parts.append(self._kept(outputs.detach(), targets) if counts else None)
            self.samples += len(outputs) if counts else 0
            return
        self._parts.append(None)

    def _kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """What is kept of a batch; nothing beyond `NUMBERS`."""
        if self._numbers >= NUMBERS:
            return None
        if not self.samples and self._expected:
            self.stride = -(-self._expected * (outputs.numel() // max(len(outputs), 1)) // NUMBERS) or 1
        kept = slice(-self.samples % self.stride, None, self.stride)
        self._numbers += len(outputs[kept]) * (outputs.numel() // max(len(outputs), 1))
        return _of(outputs, kept, self.stride), _of(targets, kept, self.stride)

    def joined(self, ranks: Ranks = ALONE) -> tuple[Tensor, Tensor] | None:
        """The outputs and targets of all samples that are kept, on the CPU; None where there are none.

        Of several `ranks` all have to call it, and each gets what all of them kept.
        """
        mine = [part and (_plain(part[0]), _plain(part[1])) for part in self._parts]
        if ranks.world > 1:
            each = ranks.gather((mine, self.samples, self.why))
            self.samples = sum(samples for _, samples, _ in each)
            self.why = next((why for *_, why in each if why), "")
            mine = [part for parts in zip(*(parts for parts, *_ in each), strict=True) for part in parts]
        known = [part for part in mine if part is not None]
        if self.why or not known:
            return None
        if len({part[0].shape[1:] for part in known}) > 1 or len({part[1].shape[1:] for part in known}) > 1:
            self.why = "the outputs of its batches differ in their shapes"
            return None
        outputs, targets = (torch.cat(tensors) for tensors in zip(*known, strict=True))
        return outputs, targets


def _of(tensor: Tensor, kept: slice, stride: int) -> Tensor:
    return tensor if stride == 1 else tensor[kept].clone()


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu()
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor

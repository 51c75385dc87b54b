"""Inputs and targets in units that a network can be trained in: which are not, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import DataError
from ..text import count
from .shards import Part, Shards

LARGE, SMALL = 10.0, 0.01  # root mean squares from which on, and up to which, values are not standardised
MARGIN = 0.01  # share of these limits that a rounded root mean square may be off


@dataclass(frozen=True)
class Scale:
    """``(x - mean) / std``, by column of [n, columns], or one for all values.

    >>> scale = Scale((3.0,), (2.0,))
    >>> scale(torch.tensor([1.0, 5.0])), scale.inverse(torch.tensor([-1.0, 1.0]))
    (tensor([-1.,  1.]), tensor([1., 5.]))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, values: Tensor) -> Tensor:
        if values.ndim == 2 and len(self.mean) > 1 and values.shape[1] != len(self.mean):
            raise DataError(
                f"{list(values.shape)} values are standardised column by column, and those of training had "
                f"{len(self.mean)} columns: give as many"
            )
        mean, std = self._on(values := _precise(values))
        return (values - mean) / std

    def inverse(self, values: Tensor) -> Tensor:
        """Back to the units of old."""
        mean, std = self._on(values := _precise(values))
        return values * std + mean

    def _on(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation as the values are."""
        return constant(self.mean, values), constant(self.std, values)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Self | None:
        """From what `to_dict` gave; None from None."""
        return None if values is None else cls(tuple(values["mean"]), tuple(values["std"]))


def scale_of(values: Tensor, what: str) -> tuple[Scale, str] | None:
    """The scale of training values that are clearly not standardised, and which they are, in words; else None.

    Those are values [n, columns] with a column whose root mean square is above 10, or below 0.01 and it is not
    constant; of any other shape, all values count as one column. Constant columns are moved to 0.

    >>> scale_of(torch.tensor([[100.0, 1.0], [300.0, -1.0]]), "inputs")
    (Scale(mean=(200.0, 0.0), std=(100.0, 1.0)), '1 of 2 columns of the inputs')
    >>> scale_of(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), "inputs") is None
    True
    """
    columns = values if values.ndim == 2 else values.reshape(-1, 1)
    if not columns.numel() or values.is_complex():
        return None
    unclear = _unclear(columns)
    if not bool(unclear.any()):
        return None
    if not bool(unclear.all()) and not bool(_measured(columns[:, unclear])[2].any()):
        return None
    mean, std, odd, constant = _measured(columns)
    if not bool(odd.any()):
        return None
    scale = Scale(tuple(mean.tolist()), tuple(std.where(~constant, torch.ones_like(std)).tolist()))
    if values.ndim == 2 and values.shape[1] > 1:
        return scale, f"{int(odd.sum())} of {count(len(odd), 'columns')} of the {what}"
    return scale, f"the {what}"


def _unclear(columns: Tensor) -> Tensor:
    """Which columns may not be in standard units, bool [columns], in a thirtieth of the time that `_measured` takes.

    Root mean squares in float32 are within a thousandth of the true ones; those near a limit, or beyond, are unclear.
    """
    squares = torch.zeros(columns.shape[1], dtype=torch.float64, device=columns.device)
    for part in columns.split(max(1, 2**18 // columns.shape[1])):
        squares += part.to(torch.promote_types(part.dtype, torch.float32)).square().sum(0)
    size = (squares / len(columns)).sqrt()
    return ~((size < LARGE * (1 - MARGIN)) & (size > SMALL * (1 + MARGIN)))  # also where it is NaN


def _measured(columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and standard deviation of columns in float64, which are not in standard units, and which are constant.

    Where a value is not finite, which is refused with words of its own, no column is odd.
    """
    n = len(columns)
    mean = sum((part.sum(0) for part in _parts(columns)), torch.zeros(columns.shape[1], dtype=torch.float64)) / n
    spread = torch.zeros_like(mean)
    for part in _parts(columns):
        spread += (part - mean).square_().sum(0)
    std = (spread / n).sqrt()
    size = (mean.square() + std.square()).sqrt()
    constant = std <= 1e-7 * size
    odd = ((size > LARGE) | ((size < SMALL) & ~constant)) & size.isfinite().all()
    return mean, std, odd, constant


def constant(numbers: tuple[float, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor of the type and on the device of another one, made once and shared: do not write to it.

    A copy at each batch would make an accelerator wait. Beside a tensor of another class, such as the fake ones of a
    trace, it is made anew, since what is kept for others is no use there, nor this for others.
    """
    make = _kept if type(like) is Tensor else torch.tensor
    return make(numbers, dtype=dtype or like.dtype, device=like.device)


@lru_cache(maxsize=32)
def _kept(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # within which it could not be used in training later
        return torch.tensor(numbers, dtype=dtype, device=device)


def _precise(values: Tensor) -> Tensor:
    """In float32 at least: prices in bfloat16 have two digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _parts(columns: Tensor) -> Iterator[Tensor]:
    """The rows in float64 on the CPU, some at a time."""
    for part in columns.split(max(1, 2**22 // columns.shape[1])):
        yield part.to("cpu", torch.float64)


@dataclass(frozen=True)
class InputTransform:
    """The inputs of a batch in the model's type, standardised where there is a scale."""

    dtype: torch.dtype
    scale: Scale | None = None
    draws: ClassVar[bool] = False

    def __call__(self, batch: tuple[Any, ...], generator: torch.Generator | None = None) -> tuple[Any, ...]:
        inputs, *rest = batch
        if not isinstance(inputs, Tensor):
            raise DataError(f"the training inputs are one tensor, and here they are a {type(inputs).__name__}")
        inputs = inputs.to(self.dtype)
        return (inputs if self.scale is None else self.scale(inputs), *rest)


@dataclass(frozen=True)
class TransformedBatches:
    """Batches as they come, with a transform of their inputs."""

    batches: Any
    transform: InputTransform

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Batches.epoch`."""
        yield from map(self._changed, self.batches.epoch(epoch, start))

    def parts(self, shards: Shards, epoch: int, start: int = 0) -> Iterator[Part]:
        """The part of each batch that a rank computes; see `Shards.epoch`."""
        for part in shards.epoch(self.batches, epoch, start):
            yield part._replace(batch=self._changed(part.batch))

    def _changed(self, batch: Any) -> Any:
        pair = isinstance(batch, tuple | list)
        changed = self.transform(tuple(batch) if pair else (batch,))
        return changed if pair else changed[0]


def untransformed(batches: Any) -> Any:
    """The batches within a transform of their inputs; others as they are."""
    return batches.batches if isinstance(batches, TransformedBatches) else batches


def changed_within(batches: Any, change: Callable[[Any], Any]) -> Any:
    """What `change` makes of batches, or of those within a transform of their inputs, which stays around them."""
    if isinstance(batches, TransformedBatches):
        return replace(batches, batches=change(batches.batches))
    return change(batches)


def scaling_note(which: str, how: str) -> str:
    """The note on values that are standardised; `how` says what that means."""
    return (
        f"{which}: root mean square above {LARGE:g} or below {SMALL:g}, standardised by the training data; {how} "
        "(standardise=False, --no-standardise: as they are)"
    )

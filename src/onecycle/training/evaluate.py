"""Loss, metrics and predictions of a model as it stands."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batches, OneShotBatches, first_batch, length_of
from ..data.seeds import derive_seed, seeded
from ..data.shards import samples_in
from ..data.standardise import untransformed
from ..errors import DataError, OneCycleError
from .losses import shape
from .means import RunningMeans, UpdateMeans
from .metrics import SharedMeter, read_meters
from .objectives import Loss, Supervised, loss_module
from .outputs import Outputs
from .runtime import Runtime, generators, weights_dtype
from .sharded import explained
from .step import compute

NO_BATCHES = "there are no batches to evaluate on"
# Seconds of a first batch that need no second one to know how long batches take.
LONG = 1.0
# What torch, timm and transformers say of images of another size than a model takes.
SIZE = ("greater than actual input size", "too small", "doesn't match model")


def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    runtime: Runtime | None = None,
    keep: Outputs | None = None,
) -> dict[str, float]:
    """Mean loss and metrics over all samples of `batches`, in evaluation mode and without gradients.

    Means are weighted by samples, so that a ragged last batch counts for what it is. Meters of `loss` (torchmetrics)
    are reset, fed and read. Without a `runtime`, batches go to the device that the model is on, in float32. The modes
    of the modules and the gradients are left as they were. What the model gives is kept in `keep`, after its `begin`.

    >>> from onecycle import Supervised
    >>> evaluate(nn.Identity(), [(torch.zeros(3, 1), torch.ones(3, 1))], Supervised(nn.functional.mse_loss))
    {'loss': 1.0}

    Raises:
        DataError: no batches.
        ConfigError: the model is on the meta device.
    """
    runtime = runtime or Runtime.of(model).alone
    ranks = runtime.ranks
    loss = loss.counting() if isinstance(loss, Supervised) else loss
    meters, of_loss = getattr(loss, "meters", {}), loss_module(loss)
    for meter in meters.values():
        if hasattr(meter, "to"):
            meter.to(runtime.device)
        meter.reset()
    if ranks.world > 1:
        return _evaluated_together(model, batches, loss, runtime, keep)
    means = RunningMeans()
    with evaluating(runtime, model, *([] if of_loss is None else [of_loss])), _watching(keep, model):
        for i, batch in enumerate(batches):
            batch = runtime.move(batch)
            part = compute(loss, model, batch, runtime)
            if keep is not None:
                keep.take(batch)
            means.add(i, 0.0, UpdateMeans(part.loss, part.metrics, samples_in(batch), part.weights))
    if not means.pending:
        raise DataError(NO_BATCHES)
    return {**means.means(strict=False), **read_meters(meters)}


def _watching(keep: Outputs | None, model: nn.Module) -> AbstractContextManager[None]:
    return nullcontext() if keep is None else keep.watching(model)


def _evaluated_together(
    model: nn.Module, batches: Iterable[Any], loss: Loss, runtime: Runtime, keep: Outputs | None
) -> dict[str, float]:
    """`evaluate` on several ranks: each computes its part of each batch, and feeds it to its meters."""
    ranks, means = runtime.ranks, RunningMeans()
    shared = {name: SharedMeter(meter, ranks) for name, meter in getattr(loss, "meters", {}).items()}
    loss = replace(loss, meters=shared) if shared else loss  # type: ignore[type-var]
    modules = [model, *([] if (of_loss := loss_module(loss)) is None else [of_loss])]
    ranks.align(buffer for module in modules for buffer in module.buffers())
    with evaluating(runtime, *modules), _watching(keep, model):
        for i, batch in enumerate(batches):
            (part,) = ranks.parts([runtime.move(batch)], least=0)
            for meter in shared.values():
                meter.counts = ranks.counts(part)
            made = compute(loss, model, part.batch, runtime)
            if keep is not None:
                keep.take(part.batch, ranks.counts(part))
            weights = {name: weight * part.factor for name, weight in made.weights.items()}
            means.add(i, 0.0, UpdateMeans(made.loss, made.metrics, part.samples, weights))  # type: ignore[arg-type]
    if not means.pending:
        raise DataError(NO_BATCHES)
    means.read(strict=False)
    sums = ranks.sum(torch.tensor([list(means.sums.values()), list(means.weights.values())], dtype=torch.float64))
    means.sums, means.weights = (dict(zip(means.sums, row, strict=True)) for row in sums.tolist())
    for meter in shared.values():
        meter.combine()
    return {**means.means(strict=False), **read_meters({name: meter.meter for name, meter in shared.items()})}


def seconds(model: nn.Module, batches: Batches, loss: Loss, runtime: Runtime) -> float:
    """About how long `evaluate` takes: one batch, after another that pays for what is made once, times their number.

    Where the first takes `LONG`, it counts itself, since what is made once is little beside that. Batches without a
    length count as one.

    Raises:
        DataError: no batches.
    """
    length = length_of(batches)
    number = 1 if length is None else length
    once = isinstance(untransformed(batches), OneShotBatches)
    iterator = iter([first_batch(batches)]) if once else runtime.epoch(batches, 0)
    batch = next(iterator, None)
    if batch is None:
        raise DataError(NO_BATCHES)
    taken = _taken(model, batch, loss, runtime)
    if taken < LONG:
        taken = _taken(model, next(iterator, batch) if number > 2 else batch, loss, runtime)  # the last may be short
    return taken * number


def _taken(model: nn.Module, batch: Any, loss: Loss, runtime: Runtime) -> float:
    """The seconds that a batch takes, as the main rank measures them."""
    started = time.perf_counter()
    evaluate(model, [batch], loss, runtime)
    return runtime.ranks.broadcast(time.perf_counter() - started)


class Mirrored(nn.Module):
    """The mean of what a model gives for images [n, c, h, w] and for their mirror images: test-time flips."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return (self.model(x) + self.model(x.flip(-1))) / 2


def predict(model: nn.Module, batches: Iterable[Any], runtime: Runtime | None = None) -> Any:
    """The outputs of the model for every sample, [n, ...] on the CPU, in evaluation mode and without gradients.

    A batch is the inputs alone, or a tuple or list whose first element they are; of a dictionary the model gets what
    its ``forward`` has arguments for, by name. Outputs in tuples, lists and dictionaries stay so. Without a `runtime`,
    batches go to the device that the model is on.

    >>> predict(nn.Identity(), [(torch.zeros(2, 1), torch.ones(2))]).shape
    torch.Size([2, 1])

    Raises:
        DataError: no batches, or inputs that the model cannot take.
        ConfigError: the model is on the meta device.
    """
    runtime = runtime or Runtime.of(model).alone
    outputs = []
    with evaluating(runtime, model):
        for batch in batches:
            inputs = runtime.move(batch[0] if isinstance(batch, tuple | list) else batch)
            with runtime.autocast(), in_words(model, inputs):
                outputs.append(called(model, inputs))
    if not outputs:
        raise DataError("there is nothing to predict: no batches")
    return _joined(outputs)


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs; entries of a dictionary go to the arguments of their names."""
    if isinstance(inputs, Mapping):
        parameters = inspect.signature(model.forward).parameters
        any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        named = {name: value for name, value in inputs.items() if name in parameters or any_name}
        if named:
            return model(**named)
    return model(inputs)


def _joined(parts: Sequence[Any]) -> Any:
    """The outputs of all batches, in the structure that each of them has; half precision becomes float32."""
    first = parts[0]
    if isinstance(first, Tensor):
        joined = torch.cat([part.cpu() if part.ndim else part.cpu()[None] for part in parts])
        return joined.float() if joined.is_floating_point() and joined.itemsize < 4 else joined
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(_joined, zip(*parts, strict=True)))
    if isinstance(first, tuple | list):
        return type(first)(map(_joined, zip(*parts, strict=True)))
    return None if first is None else list(parts)


@contextmanager
def evaluating(runtime: Runtime, *modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the modes of the modules and the caller's generators are put back."""
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), seeded(generators(runtime.device), derive_seed(0, "evaluate")):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def in_words(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Within the block, where the model is called, an error becomes a `DataError` that says what it was given."""
    try:
        yield
    except (OneCycleError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if said := explained(error):
            raise said from error
        name, said = type(model).__name__, f"{error}{_hint(model, inputs, str(error))}"
        raise DataError(f"{name} cannot take inputs of {described(inputs)}: {said}") from error


def described(value: Any) -> str:
    """The types and shapes of a structure of tensors, in words.

    >>> described({"ids": torch.zeros(2, 3, dtype=torch.int64)}), described((torch.zeros(2), [torch.zeros(1)]))
    ("{'ids': int64 [2, 3]}", '(float32 [2], [float32 [1]])')
    """
    if isinstance(value, Tensor):
        return shape(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        inside = ", ".join(map(described, value))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    return type(value).__name__


def _hint(model: nn.Module, inputs: Any, said: str) -> str:
    """How to mend images of a size that it does not take, with their channels elsewhere, or inputs of another type."""
    if not isinstance(inputs, Tensor):
        return ""
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if inputs.ndim == 4 and inputs.shape[1] != channels == inputs.shape[3]:
        return ". Images are [n, channels, height, width]: give x.permute(0, 3, 1, 2)"
    if inputs.ndim == 4 and any(word in said for word in SIZE):
        height, width = inputs.shape[2:]
        return (
            f". These images have {height} x {width} pixels: give a size that it takes, --image-size (from Python "
            "load(..., image_size=...))"
        )
    if inputs.ndim == 3 and channels is not None and channels in (1, inputs.shape[0]):
        which = "x.unsqueeze(1) of grey ones" if channels == 1 else "x[None] of a single one"
        return f". Images are [n, channels, height, width]: give {which}"
    dtype = weights_dtype(model)
    if dtype is None or inputs.dtype == dtype:
        return ""
    if any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()):
        return ""
    name = str(dtype).removeprefix("torch.")
    return f". The model's weights are {name}: give the inputs as {name}, or the model as model.to(inputs.dtype)"

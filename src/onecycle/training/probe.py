"""One probe batch through a model: what torch would say as a riddle in the middle of a run is met here, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from ..data.batches import Batches, ListBatches, first_batch, last_batch_size
from ..data.standardise import untransformed
from ..errors import DataError, OneCycleError
from ..optim.layers import RunOrder
from ..optim.muon import weights_of
from .evaluate import described, evaluating, in_words
from .objectives import Loss, Supervised, loss_module, means_of, pair
from .restore import untouched
from .runtime import Runtime, weights_dtype
from .sharded import explained, has_shards
from .state import training_mode
from .step import compute, samples_in

FEW = 8
KNOWN = 64  # samples that tell whether a model was trained before


def few(batch: Any, count: int = FEW) -> Any:
    """The first samples of a pair of tensors; any other batch whole."""
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        inputs, targets = batch
        if inputs.ndim and targets.shape[:1] == inputs.shape[:1]:
            return inputs[:count], targets[:count]
    return batch


class FirstBatch:
    """The first batch of training, read once, where a copy of it can be made for each trial: a model may write to it.

    Copies are of tensors in tuples, lists and dictionaries; a batch that holds anything else is read again.
    """

    def __init__(self, batches: Batches):
        self._batches, self._kept = batches, None

    def __call__(self, count: int | None = None) -> Any:
        """The batch, or a pair's first `count` samples."""
        batch = first_batch(self._batches) if self._kept is None else self._kept
        self._kept = batch if _is_plain(batch) else None
        batch = batch if count is None else few(batch, count)
        return batch if self._kept is None else _copied(batch)

    def forget(self) -> None:
        """Give its memory back."""
        self._kept = None


def _is_plain(value: Any) -> bool:
    """Whether there are only tensors, numbers and words in plain containers."""
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value.values()))
    return type(value) in (Tensor, int, float, bool, str, type(None))


def _copied(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {name: _copied(part) for name, part in value.items()}
    return value.clone() if type(value) is Tensor else value


def outputs_of(model: nn.Module, inputs: Any, runtime: Runtime) -> Any:
    """What the model gives for `inputs`, in evaluation mode.

    Raises:
        DataError: it cannot take them.
    """
    with evaluating(runtime, model), runtime.autocast(), in_words(model, inputs):
        return model(inputs)


def dtype_for(model: nn.Module, inputs: Tensor, runtime: Runtime) -> torch.dtype:
    """The type that `inputs` are given in: their own, or the model's where it takes no other."""
    dtype = weights_dtype(model) or inputs.dtype
    if inputs.dtype == dtype or is_unfinished(model):
        return inputs.dtype
    samples = runtime.move(inputs[:FEW])
    try:
        outputs_of(model, samples, runtime)
    except DataError:
        with suppress(OneCycleError):
            outputs_of(model, samples.to(dtype), runtime)
            return dtype
    return inputs.dtype


def predicts_already(model: nn.Module, inputs: Tensor, targets: Tensor, runtime: Runtime) -> bool:
    """Whether the model's outputs are so near to floating-point targets that it must have been trained for them."""
    if not targets.is_floating_point() or is_unfinished(model):
        return False
    some = slice(0, KNOWN)
    try:
        outputs = outputs_of(model, runtime.move(inputs[some]), runtime)
    except DataError:
        return False
    few = runtime.move(targets[some]).reshape(-1).double()
    if not isinstance(outputs, Tensor) or outputs.numel() != few.numel() or few.numel() < 2:
        return False
    return bool((outputs.reshape(-1).double() - few).square().mean() < few.var() / 4)


def check(model: nn.Module, loss: Loss, batch: Any, runtime: Runtime, *, finite: bool = True) -> set[str]:
    """Measure the loss and the metrics of a batch, in evaluation mode; the names of what an evaluation measures.

    An error within a loss `fn(model, batch)` is left as it is.

    Raises:
        DataError: something of it fails, or the loss is not `finite`.
        ConfigError: what the loss returns cannot be used.
    """
    of_loss, meters = loss_module(loss), getattr(loss, "meters", {}).values()
    for meter in meters:
        meter.reset()
    try:
        with evaluating(runtime, model, *([] if of_loss is None else [of_loss])), runtime.autocast():
            means = means_of(loss(model, batch))
    except OneCycleError:
        raise
    except Exception as error:
        if said := explained(error):
            raise said from error
        if not isinstance(loss, Supervised):  # an error of the user's own
            raise
        raise DataError(
            f"the loss cannot be measured on a batch of {described(batch)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for meter in meters:
            meter.reset()
    weight = means.weights.get("loss")
    measured = {"loss", *means.metrics, *getattr(loss, "meters", {})}
    for meter in meters:  # a collection has the names of its own
        measured |= set(meter.keys()) if hasattr(meter, "keys") else set()
    if not (finite and isinstance(loss, Supervised)):
        return measured
    if not bool(torch.isfinite(means.loss)) and (weight is None or bool(weight)):
        raise DataError(
            f"the loss of the first batch is {float(means.loss)}, before any training: look at the inputs, the targets "
            "and the model's outputs for it"
        )
    return measured


class Positions(TorchFunctionMode):
    """Within the block counts to how many positions each weight is applied: `counts`, by parameter.

    A weight is applied to each pixel of a convolution's output, to each of a transposed one's input, and to each vector
    that a product, a linear or a recurrent layer or attention is given. What is made of a weight alone, as by a weight
    norm or a transpose, counts for it. Code that torch has compiled or scripted is not seen.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._weights = {id(p): p for p in weights_of(model)}
        self._named = model.named_parameters if has_shards(model) else None
        self._known = {name: p for name, p in model.named_parameters() if id(p) in self._weights}
        self._made: list[Tensor] = []  # of weights; kept, so that their ids stay theirs
        self.counts: dict[nn.Parameter, float] = {}

    def of_a_sample(self, batch: Any) -> dict[nn.Parameter, float]:
        """The counts for one of the samples of the `batch` that was computed within the block."""
        return {weight: times / max(1, samples_in(batch)) for weight, times in self.counts.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, given = func(*args, **(kwargs or {})), (*args, *(kwargs or {}).values())
        given = [*chain(*(part if isinstance(part, tuple | list) else (part,) for part in given))]
        if self._named and any(type(x) is nn.Parameter and id(x) not in self._weights for x in given):
            for name, gathered in self._named():  # what is in shards has another parameter while its block computes
                if name in self._known:
                    self._weights[id(gathered)] = self._known[name]
        used = [self._weights[id(x)] for x in given if id(x) in self._weights]
        out = result[0] if isinstance(result, tuple) and result else result
        if not used or not isinstance(out, Tensor) or not out.dim():
            return result
        name = getattr(func, "__name__", "")
        if any(part in name for part in _APPLIES):
            for weight in used:
                one = given[0] if "transpose" in name else out
                width = one.shape[1 - weight.dim() if "conv" in name else -1]
                self.counts[weight] = self.counts.get(weight, 0.0) + one.numel() / max(1, width)
        elif out.numel() == used[0].numel():
            self._weights[id(out)] = used[0]
            self._made.append(out)
        return result


def positions_of(model: nn.Module, batch: Any, runtime: Runtime) -> dict[nn.Parameter, float]:
    """To how many positions of a sample the model applies its weights, on the inputs of a batch and without a trace.

    {} where it does not take them by themselves.
    """
    try:
        with untouched([], [model]), Positions(model) as counted:
            outputs_of(model, pair(batch)[0], runtime)
    except Exception:  # it is for the training to meet
        return {}
    return counted.of_a_sample(batch)


def run_order(model: nn.Module, loss: Loss, batch: Any, runtime: Runtime) -> RunOrder:
    """The order in which the modules of the model are run for a batch, without a trace; none where that fails."""
    of_loss = loss_module(loss)

    def run() -> None:
        if isinstance(loss, Supervised):
            outputs_of(model, pair(batch)[0], runtime)
        else:
            with evaluating(runtime, model, *([] if of_loss is None else [of_loss])), runtime.autocast():
                loss(model, batch)

    try:
        with untouched([], [model]):
            return RunOrder.of(model, run)
    except Exception:  # it is for the training to meet
        return RunOrder({})


# In the names of functions that multiply with a weight.
_APPLIES = ("linear", "matmul", "mm", "conv", "einsum", "lstm", "gru", "rnn", "multi_head_attention")


def batch_of_one(batches: Batches, first: Any) -> Any:
    """A batch of one sample that is to come, as far as that can be told without reading; None: none is known of."""
    source = untransformed(batches)
    if isinstance(source, ListBatches):
        i = next((i for i, batch in enumerate(source.batches) if samples_in(batch) == 1), None)
        return None if i is None else next(batches.epoch(0, i))
    if samples_in(first) == 1:
        return first
    return few(first, 1) if last_batch_size(source) == 1 else None


def check_single(model: nn.Module, loss: Loss, batch: Any, runtime: Runtime) -> None:
    """Measure the loss of a batch of one sample in training mode, without a trace.

    Raises:
        DataError: it cannot be a batch of its own, as where a batch norm has one value a channel.
    """
    with _trial_of(model, loss):
        try:
            compute(loss, model, batch, runtime)
        except OneCycleError:
            raise
        except Exception:
            if isinstance(loss, Supervised):
                raise


def trains(model: nn.Module, loss: Loss, batch: Any, runtime: Runtime) -> bool:
    """Whether the loss of a batch and its gradient can be computed; without a trace."""
    with _trial_of(model, loss):
        try:
            compute(loss, model, batch, runtime).loss.backward()
        except Exception:
            return False
    return True


@contextmanager
def _trial_of(model: nn.Module, loss: Loss) -> Iterator[None]:
    """Training mode within the block, and afterwards all as it was."""
    of_loss = loss_module(loss)
    modules = [model] if of_loss is None else [model, of_loss]
    with untouched([], modules):
        for module in modules:
            training_mode(module)
        yield


def is_unfinished(model: nn.Module) -> bool:
    """Whether the model has lazy parameters or buffers, which get their shape from the first batch."""
    return any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))

"""Loss, metrics and predictions of a model as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..data.seeds import derive_seed, seeded
from ..errors import DataError
from .means import RunningMeans
from .objectives import Loss
from .runtime import Runtime, generators
from .step import compute, samples_in


def evaluate(model: nn.Module, batches: Iterable[Any], loss: Loss, runtime: Runtime | None = None) -> dict[str, float]:
    """Mean loss and metrics over all samples of `batches`, in evaluation mode and without gradients.

    Means are weighted by samples, so that a ragged last batch counts for what it is. Meters of `loss` (torchmetrics)
    are reset, fed and read. Without a `runtime`, batches go to the device that the model is on, in float32. The modes
    of the modules and the gradients are left as they were.

    >>> from onecycle import Supervised
    >>> evaluate(nn.Identity(), [(torch.zeros(3, 1), torch.ones(3, 1))], Supervised(nn.functional.mse_loss))
    {'loss': 1.0}

    Raises:
        DataError: no batches.
        ConfigError: the model is on the meta device.
    """
    runtime = runtime or Runtime.of(model)
    meters = getattr(loss, "meters", {})
    for meter in meters.values():
        meter.reset()
    means = RunningMeans()
    with evaluating(model, runtime):
        for i, batch in enumerate(batches):
            batch = runtime.move(batch)
            means.add(i, 0.0, samples_in(batch), *compute(loss, model, batch, runtime))
    if not means.pending:
        raise DataError("there are no batches to evaluate on")
    return {**means.means(strict=False), **{name: float(meter.compute()) for name, meter in meters.items()}}


def predict(model: nn.Module, batches: Iterable[Any], runtime: Runtime | None = None) -> Tensor:
    """The outputs of the model for every sample, [n, ...] on the CPU, in evaluation mode and without gradients.

    A batch is the inputs alone, or a tuple or list whose first element they are. Without a `runtime`, batches go to the
    device that the model is on.

    >>> predict(nn.Identity(), [(torch.zeros(2, 1), torch.ones(2))]).shape
    torch.Size([2, 1])

    Raises:
        DataError: no batches.
        ConfigError: the model is on the meta device.
    """
    runtime = runtime or Runtime.of(model)
    outputs = []
    with evaluating(model, runtime):
        for batch in batches:
            inputs = runtime.move(batch[0] if isinstance(batch, tuple | list) else batch)
            with runtime.autocast():
                outputs.append(model(inputs).float().cpu())
    if not outputs:
        raise DataError("there is nothing to predict: no batches")
    return torch.cat(outputs)


@contextmanager
def evaluating(model: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Evaluation mode without gradients; the modes of the modules and the caller's generators are put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), seeded(generators(runtime.device), derive_seed(0, "evaluate")):
            yield
    finally:
        for module in training:
            module.training = True

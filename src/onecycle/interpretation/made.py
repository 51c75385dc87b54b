"""From what a model gave in an evaluation to its predictions, by what its loss takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..records.predictions import Predictions, names_of
from ..text import count
from ..training.losses import unwrapped
from ..training.objectives import activation
from ..training.outputs import Outputs
from ..training.ranks import ALONE, Ranks

CERTAIN = 1e-7  # a probability that is no nearer to 0 or 1


def names_in(data: Any) -> tuple[str, ...] | None:
    """What the outputs of a model for data of `onecycle.load` are called: its classes, or the columns of its target."""
    classes = getattr(data, "classes", None)
    return classes if classes is not None else getattr(getattr(data, "columns", None), "target", None)


def predictions_of(
    kept: Outputs, loss: Any, split: str, names: Sequence[str] | None = None, ranks: Ranks = ALONE
) -> Predictions | str:
    """The predictions that an evaluation with `loss` on a `split` gave; or why there are none, in words.

    `names` are those of classes, labels or numbers. All `ranks` have to call it.
    """
    joined = kept.joined(ranks)
    if joined is None:
        return kept.why or "nothing was evaluated"
    made = predictions_from(*joined, loss, split, names)
    if isinstance(made, str):
        return made
    return replace(made, numbers=kept.stride * made.numbers, samples=kept.samples)


def predictions_from(
    outputs: Tensor, targets: Tensor, loss: Any, split: str, names: Sequence[str] | None = None
) -> Predictions | str:
    """The same from the outputs of a model for all samples of a split, on the CPU, and their targets."""
    form, sentences = getattr(loss, "form", None), list[str]()
    numbers, samples = torch.arange(len(outputs)), len(outputs)
    if form is None or form.kind == "free":
        return "the loss is one of your own, and does not say what outputs and targets are"
    outputs, targets = form.fit(outputs, targets)
    if outputs.ndim > 2:
        return f"a sample has many targets, in the shape {list(targets.shape[1:])}, rather than one, or a few"
    if form.kind == "classes":
        if targets.is_floating_point():
            targets = targets.argmax(1)
            sentences.append("the targets are distributions over the classes: the most probable one is taken for true")
        counted = form.counted(targets)
        if left := int((~counted).sum()):
            sentences.append(f"{count(left, 'sample')} without a target (ignore_index) left out")
        outputs, targets, numbers, kind = outputs[counted], targets[counted], numbers[counted], "classes"
    else:
        targets = targets.reshape(len(outputs), -1)
        kind = _kind_of(targets, loss)
        targets = targets[:, 0].long() if kind == "classes" else targets
    if not len(outputs) or not bool(outputs.isfinite().all()):
        return "the model's outputs are not finite" if len(outputs) else "no sample has a target"
    made = outputs_as(kind, outputs, loss)
    known = names_of(names, made.shape[1])
    return Predictions(
        split, kind, made, _array(targets), known, numbers.numpy(), samples, sentences=tuple(sentences)
    )  # fmt: skip


def outputs_as(kind: str, outputs: Tensor, loss: Any) -> np.ndarray:
    """The outputs of a model as predictions of a `kind` have them: see `Predictions`."""
    if kind == "classes" and loss.form.kind == "classes":
        return _array(outputs.log_softmax(1))
    outputs = outputs.reshape(len(outputs), -1)
    if kind == "numbers":
        return _array(activation(loss)(outputs))
    logits = outputs.clamp(CERTAIN, 1 - CERTAIN).logit() if _probabilities(loss) else outputs
    return _array(logits if kind == "labels" else F.logsigmoid(torch.cat([-logits, logits], 1)))


def _kind_of(targets: Tensor, loss: Any) -> str:
    """What targets [n, k] are where there is one for each output; one label alone is two classes."""
    binary = _probabilities(loss) or loss.form.activation == "sigmoid"
    if not binary or not bool(((targets == 0) | (targets == 1)).all()):
        return "numbers"
    return "classes" if targets.shape[1] == 1 else "labels"


def _probabilities(loss: Any) -> bool:
    plain = unwrapped(getattr(loss, "criterion", loss))
    return isinstance(plain, nn.BCELoss) or plain is F.binary_cross_entropy


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.numpy() if not tensor.is_floating_point() else tensor.float().numpy()

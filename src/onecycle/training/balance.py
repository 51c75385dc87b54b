"""How the classes are distributed: weights that even them out, and what a model that learned nothing would reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import text
from ..data.batches import Batches, DatasetBatches, ListBatches, targets_in_memory
from ..errors import ConfigError
from .losses import (
    binary_cross_entropy,
    class_weights,
    compares_numbers,
    cross_entropy,
    ends_of,
    mean_squared_error,
    setting,
    spatial_cross_entropy,
    unwrapped,
)
from .metrics import BalancedAccuracy
from .objectives import Loss, Supervised

# The largest class over the smallest from which on classes are called uneven.
UNEVEN = 2.0
# Classes that a note names.
NAMED = 4


def targets_of(batches: Batches | None) -> Tensor | None:
    """All targets of data whose targets lie in memory, on the CPU; None where they are read batch by batch."""
    known = () if batches is None else targets_in_memory(batches)
    alike = len({part.shape[1:] if part.ndim else None for part in known} - {None}) == 1
    if alike and (len(known) == 1 or isinstance(batches, ListBatches)):
        return (known[0] if len(known) == 1 else torch.cat(known)).cpu()
    targets = getattr(batches.dataset, "targets", None) if isinstance(batches, DatasetBatches) else None
    return targets if isinstance(targets, Tensor) else None


def class_counts(loss: Loss, targets: Tensor | None) -> Tensor | None:
    """How often each class occurs among `targets`, int64 [classes]; None where they are no classes.

    Targets of 0 and 1 beside a logit are two classes.
    """
    form = getattr(loss, "form", None)
    if form is None or targets is None:
        return None
    if form.kind == "classes" and not targets.is_floating_point():
        low, high = ends_of(targets) if targets.numel() else (0, 0)
        if form.ignore_index is not None and low <= form.ignore_index <= high:
            targets = targets[form.counted(targets)]
        return targets.flatten().long().bincount()
    if form.activation == "sigmoid" and one_a_sample(targets) and bool(((targets == 0) | (targets == 1)).all()):
        return targets.flatten().long().bincount(minlength=2)
    return None


def one_a_sample(targets: Tensor) -> bool:
    """Whether there is one target a sample, rather than one a token or a pixel."""
    return targets.ndim == 1 or targets.shape[1:] == (1,)


def uneven_note(counts: Tensor, names: Sequence[str] | None) -> str | None:
    """A note with the shares of the classes, where the largest is more than `UNEVEN` times the smallest.

    >>> uneven_note(torch.tensor([90, 10]), ("cat", "dog"))
    "the classes are uneven: 'cat' 90.00 %, 'dog' 10.00 % of the training targets"
    """
    there = counts.nonzero().flatten()
    if len(there) < 2 or counts.max() <= UNEVEN * counts[there].min():
        return None
    order = there[counts[there].argsort(descending=True, stable=True)].tolist()
    shown = order if len(order) <= NAMED else [*order[:2], *order[-2:]]
    said = [f"{name_of(i, names)} {text.percent(int(counts[i]) / int(counts.sum()))}" for i in shown]
    if len(order) > NAMED:
        said.insert(2, "...")
    return f"the classes are uneven: {', '.join(said)} of the training targets"


def name_of(label: int, names: Sequence[str] | None) -> str:
    """A class in words: its name, else its number."""
    return repr(names[label]) if names is not None and label < len(names) else f"class {label}"


def with_balanced_accuracy(loss: Loss) -> Loss:
    """The loss with balanced accuracy measured beside accuracy."""
    if not isinstance(loss, Supervised) or "balanced_accuracy" in {**loss.metrics, **loss.meters}:
        return loss
    return replace(loss, meters={**loss.meters, "balanced_accuracy": BalancedAccuracy(loss.form)})


def balanced(loss: Loss, counts: Tensor | None, targets: Tensor | None, outputs: Tensor) -> tuple[Supervised, str]:
    """The default `loss` with classes that weigh alike, n / (classes x count), and a note with the weights.

    `outputs` are some of the model's, on its device and in the type that the loss is computed in. A class of theirs
    that does not occur weighs 1. Beside a logit, ones weigh the number of zeros over that of ones, and 1 where either
    is missing.

    Raises:
        ConfigError: there are no classes, or the targets cannot be counted.
    """
    if targets is None:
        raise ConfigError(
            'class_weights="balanced" counts the training targets, and those that are read batch by batch '
            "cannot be counted: give the data as (inputs, targets), or loss=nn.CrossEntropyLoss(weight=...)"
        )
    if counts is None or not isinstance(loss, Supervised):
        raise ConfigError(
            'class_weights="balanced" is for classes, and these targets are none: '
            f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        )
    if loss.form.kind != "classes":
        weight = (counts[0] / counts[1] if bool(counts.all()) else torch.ones(())).float().to(outputs.device)
        criterion: Any = partial(binary_cross_entropy, pos_weight=weight)
        return replace(loss, criterion=criterion), f"class_weights: ones weigh {text.number(float(weight), 3)}"
    counts = F.pad(counts, (0, outputs.shape[loss.form.class_axis] - len(counts)))
    there = counts > 0
    weights = torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), 1.0).float()
    said = f"{text.number(float(weights[there].min()), 3)} to {text.number(float(weights[there].max()), 3)}"
    weighed = spatial_cross_entropy if loss.criterion is F.cross_entropy and loss.smoothing else loss.criterion
    criterion = partial(weighed, weight=weights.to(outputs.device, outputs.dtype))
    return replace(loss, criterion=criterion), f"class_weights: from {said}, n / (classes x count)"


@dataclass(frozen=True)
class Baseline:
    """What is reached on validation data without learning: a `measure`, its `value`, `by` what, over so many `samples`.

    `error` is the standard error of what is compared with it, where it does not follow from that.
    """

    measure: str
    value: float
    by: str
    samples: int
    error: float | None = None

    def better(self, value: float) -> bool:
        """Whether `value` is better by more than its standard error."""
        if self.measure == "loss":  # a mean of squares of normal errors
            return value < self.value * (1 - math.sqrt(2 / self.samples))
        error = math.sqrt(max(0.0, value * (1 - value)) / self.samples) if self.error is None else self.error
        return value - self.value > error

    def line(self, value: float) -> str:
        """A measured `value` beside it, in words.

        >>> Baseline("accuracy", 0.95, "always saying 'cat'", 100).line(0.95)
        "validation accuracy 95.00 %; always saying 'cat' gives 95.00 %: not better by more than the standard error"
        """
        name = self.measure.replace("_", " ")
        line = f"validation {name} {text.measure(self.measure, value)}; {self.by} gives "
        line += text.measure(self.measure, self.value)
        return line if self.better(value) else f"{line}: not better by more than the standard error"


def baseline(
    loss: Loss, train: Tensor | None, valid: Tensor | None, names: Sequence[str] | None, *, balanced: bool = False
) -> Baseline | None:
    """What always saying the largest training class, or the mean of the training targets, reaches on validation data.

    Where classes weigh alike (`balanced`), it is balanced accuracy, of which any one answer gets an equal share. None
    where targets are not at hand, or are neither one class a sample nor numbers with squared errors.
    """
    if train is None or valid is None or not isinstance(loss, Supervised):
        return None
    counts, held_out = class_counts(loss, train), class_counts(loss, valid)
    if counts is not None and held_out is not None and one_a_sample(train) and int(counts.sum() * held_out.sum()):
        samples, there = int(held_out.sum()), held_out[held_out > 0]
        if balanced and "balanced_accuracy" in loss.meters:
            share = 1 / len(there)
            error = share * math.sqrt(float((share * (1 - share) / there).sum()))
            return Baseline("balanced_accuracy", share, "always saying one class", samples, error)
        if "accuracy" not in loss.metrics:
            return None
        most = int(counts.argmax())
        share = int(held_out[most]) / samples if most < len(held_out) else 0.0
        return Baseline("accuracy", share, f"always saying {name_of(most, names)}", samples)
    plain = unwrapped(loss.criterion)
    if plain in (mean_squared_error, F.mse_loss) or isinstance(plain, nn.MSELoss):
        if loss.scale is not None:
            train, valid = loss.scale(train), loss.scale(valid)
        spread = (valid.double() - train.double().mean(0)).square().mean()
        return Baseline("loss", float(spread), "the mean of the training targets", len(valid))
    return None


def trivial_loss(loss: Loss, targets: Tensor | None) -> float | None:
    """The training loss of the best answer that is always the same, about; None where that is not known.

    So it is for targets that are one class each, 0 or 1, or numbers, with a criterion that can be asked for it. Numbers
    are answered with their mean.

    >>> targets = torch.tensor([0, 0, 0, 1])
    >>> round(trivial_loss(Supervised(nn.CrossEntropyLoss()), targets), 4)  # the entropy of 3/4 and 1/4
    0.5623
    """
    if not isinstance(loss, Supervised) or targets is None or not len(targets):
        return None
    counts = class_counts(loss, targets)
    try:
        with torch.no_grad():
            if counts is not None:
                return _of_classes(loss, counts)
            if compares_numbers(loss.criterion):
                scaled = targets if loss.scale is None else loss.scale(targets)
                return float(loss.criterion(scaled.double().mean(0).expand(scaled.shape), scaled.double()))
    except Exception:  # a criterion of one's own may ask for anything
        return None
    return None


def _of_classes(loss: Supervised, counts: Tensor) -> float:
    """The mean loss of the answer that fits these counts of classes best, each class as the criterion weighs it."""
    logit = loss.form.kind != "classes"
    weights = setting(loss.criterion, "pos_weight", None) if logit else class_weights(loss.criterion)
    device = weights.device if isinstance(weights, Tensor) else "cpu"
    counts = counts.to(device).double()
    if logit and weights is not None:
        weights = torch.cat([torch.ones_like(weights).reshape(1), weights.reshape(1)])
    elif weights is not None:
        counts = F.pad(counts, (0, len(weights) - len(counts)))
    masses = counts if weights is None else counts * weights
    smoothing = loss.smoothing or setting(loss.criterion, "label_smoothing", 0.0)
    shares = ((1 - smoothing) * masses / masses.sum() + smoothing / len(masses)).clamp(min=1e-30).float()
    answer = (shares[1] / shares[0]).log().reshape(1) if logit else shares.log()[None]
    there = counts.nonzero().flatten()
    module = type(loss.criterion) is nn.CrossEntropyLoss and not loss.smoothing
    if weights is None and (module or loss.criterion in (F.cross_entropy, cross_entropy)):
        each = _cross_entropies(answer[0], there, smoothing)
    else:
        how = {"label_smoothing": loss.smoothing} if loss.smoothing else {}
        each = torch.stack([
            loss.criterion(answer, (i.float() if logit else i).reshape(1), **how) for i in there
        ])  # fmt: skip
    weighs = counts if logit else masses  # a logit's weight of ones is in its loss, not in its mean
    return float((each * weighs[there]).sum() / weighs[there].sum())


def _cross_entropies(logits: Tensor, classes: Tensor, smoothing: float) -> Tensor:
    """The cross-entropy of one vector of logits for each of the classes: at once, since there may be thousands."""
    known = logits.log_softmax(0)
    if not smoothing:
        return -known[classes]
    return -known[classes] * (1 - smoothing) - known.sum() * (smoothing / len(known))

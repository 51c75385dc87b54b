"""Metrics: functions of a batch, meters that gather over an evaluation, and those that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, MissingDependency, did_you_mean
from .losses import IGNORED, Form, cross_entropy, same_shape
from .ranks import Ranks

Metric = Callable[[Tensor, Tensor], Any]
"""From outputs [n, ...] and targets [n, ...] to the batch's mean, a 0-d tensor, or to (mean, weight)."""

Metrics = Mapping[str, Any] | Sequence[Any] | Any


@dataclass(frozen=True)
class Accuracy:
    """The share of targets at which the largest output is; targets may be whole [n, ...] or a distribution [n, C, ...].

    Where there is an `ignore_index`, it comes with the number of targets that are not left out.

    >>> Accuracy()(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])).item()
    0.5
    """

    class_axis: int = -1
    ignore_index: int | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
        """The mean, or (mean, weight)."""
        if targets.is_floating_point():
            targets = targets.argmax(self.class_axis)
        return _share(outputs.argmax(self.class_axis) == targets, targets, self.ignore_index)


@dataclass(frozen=True)
class TopAccuracy:
    """The share of targets that are among the `k` largest outputs."""

    k: int
    class_axis: int = -1
    ignore_index: int | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
        """The mean, or (mean, weight)."""
        if targets.is_floating_point():
            targets = targets.argmax(self.class_axis)
        best = outputs.topk(min(self.k, outputs.shape[self.class_axis]), self.class_axis).indices
        right = (best == targets.unsqueeze(self.class_axis)).any(self.class_axis)
        return _share(right, targets, self.ignore_index)


def _share(right: Tensor, targets: Tensor, ignore_index: int | None) -> Any:
    """The share that is right; of those that are not left out, and their number, where some may be."""
    if ignore_index is None:
        return right.float().mean()
    counted = targets != ignore_index
    number = counted.sum()
    return (right & counted).sum() / number, number


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose largest output, [n, classes], is at the target, int64 [n]; or the same for each token.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])).item()
    0.5
    """
    return Accuracy()(outputs, targets)


def binary_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of logits on the right side of zero for targets of 0 and 1 of the same shape, or [n, 1] and [n].

    >>> binary_accuracy(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])).item()
    0.5
    """
    outputs, targets = same_shape(outputs, targets)
    return ((outputs > 0) == (targets > 0.5)).float().mean()


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error of outputs and targets of the same shape, or [n, 1] and [n]."""
    outputs, targets = same_shape(outputs, targets)
    return (outputs - targets).abs().mean()


class Perplexity:
    """A meter: exp of the mean cross-entropy over all tokens; logits [n, length, classes], targets [n, length].

    Tokens of -100 are left out.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sum, self._tokens = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        if tokens := int((targets != IGNORED).sum()):
            self._sum += cross_entropy(outputs, targets).item() * tokens
            self._tokens += tokens

    def combine(self, meters: Sequence[Perplexity]) -> None:
        """Become what meters that were given different batches are together."""
        self._sum, self._tokens = sum(one._sum for one in meters), sum(one._tokens for one in meters)

    def compute(self) -> float:
        """The perplexity so far; infinite where it is no float, NaN where every token is left out."""
        try:
            return math.exp(self._sum / self._tokens) if self._tokens else math.nan
        except OverflowError:
            return math.inf


class SquaredErrors:
    """A meter of squared errors over all samples: the root of their mean, or R², the share of variance explained.

    R² is 1 - (sum of squared errors) / (sum of squared distances from the mean target), over columns: their mean.
    """

    def __init__(self, measure: str = "r2"):
        self._measure = measure
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._samples, self._errors, self._mean, self._spread = 0, *[torch.zeros((), dtype=torch.float64)] * 3

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        if n := len(targets):
            outputs, targets = (part.detach().cpu().double().reshape(n, -1) for part in same_shape(outputs, targets))
            distances = targets - targets[0]  # which are 0 where targets are constant, as the spread then is
            mean = distances.mean(0)
            errors, spread = (outputs - targets).square().sum(0), (distances - mean).square().sum(0)
            self._add(n, errors, targets[0] + mean, spread)

    def _add(self, samples: int, errors: Tensor, mean: Tensor, spread: Tensor) -> None:
        """Take in more samples: their errors, mean targets and squared distances from these (Chan and others, 1983)."""
        away, before, self._samples = mean - self._mean, self._samples, self._samples + samples
        self._errors = self._errors + errors
        self._spread = self._spread + spread + away.square() * (before * samples / self._samples)
        self._mean = self._mean + away * (samples / self._samples)

    def combine(self, meters: Sequence[SquaredErrors]) -> None:
        """Become what meters that were given different batches are together."""
        parts = [(one._samples, one._errors, one._mean, one._spread) for one in meters if one._samples]
        self.reset()
        for part in parts:
            self._add(*part)

    def compute(self) -> float:
        """The measure so far; R² of constant targets is NaN."""
        if self._measure == "rmse":
            return math.sqrt(float(self._errors.mean()) / self._samples) if self._samples else math.nan
        there = bool((self._spread > 0).all())
        return float((1 - self._errors / self._spread).mean()) if there else math.nan


class BalancedAccuracy:
    """A meter: the mean over the classes that occur of the share of their targets that are predicted."""

    def __init__(self, form: Form):
        self._form = form
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._right, self._all = torch.zeros(0), torch.zeros(0)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        if self._form.kind == "classes":
            classes = outputs.shape[self._form.class_axis]
            predicted = outputs.argmax(self._form.class_axis)
            targets = targets.argmax(self._form.class_axis) if targets.is_floating_point() else targets
        else:
            outputs, targets = same_shape(outputs, targets)
            classes, predicted, targets = 2, (outputs > 0).long(), targets.long()
        counted = self._form.counted(targets)
        predicted, targets = predicted[counted].cpu(), targets[counted].cpu()
        if not len(self._all):
            self._right, self._all = torch.zeros(classes), torch.zeros(classes)
        self._all += targets.bincount(minlength=classes)
        self._right += targets[predicted == targets].bincount(minlength=classes)

    def combine(self, meters: Sequence[BalancedAccuracy]) -> None:
        """Become what meters that were given different batches are together."""
        parts = [(one._right, one._all) for one in meters if len(one._all)]
        if parts:
            self._right, self._all = (torch.stack(counts).sum(0) for counts in zip(*parts, strict=True))

    def compute(self) -> float:
        """The balanced accuracy so far."""
        there = self._all > 0
        return float((self._right[there] / self._all[there]).mean())


def default_metrics(form: Form, ignores: bool) -> dict[str, Metric]:
    """The metrics of a loss of such a form: accuracy where it makes sense."""
    if form.kind == "classes":
        return {"accuracy": Accuracy(form.class_axis, form.ignore_index if ignores else None)}
    return {"accuracy": binary_accuracy} if form.activation == "sigmoid" else {}


# Of torchmetrics: the name of its class after "Multiclass", "Binary" or "Multilabel", and whether it is averaged.
_GATHERED = {
    "f1": ("F1Score", True),
    "precision": ("Precision", True),
    "recall": ("Recall", True),
    "auroc": ("AUROC", True),
    "average_precision": ("AveragePrecision", True),
    "matthews": ("MatthewsCorrCoef", False),
}
NAMES = ("accuracy", "balanced_accuracy", "top5", *_GATHERED, "r2", "mae", "rmse", "perplexity")
"""The metrics that have a name here; "top5" stands for any number."""


def named_metric(name: str, form: Form, ignores: bool, outputs: int) -> Any:
    """The metric called `name` for a loss of such a form over so many `outputs` (classes, or columns).

    Raises:
        ConfigError: an unknown name, or one that does not go with the loss.
        MissingDependency: it needs torchmetrics.
    """
    classes, binary = form.kind == "classes", form.activation == "sigmoid"
    ignored = form.ignore_index if ignores else None
    made: Any = None
    if name == "accuracy":
        made = default_metrics(form, ignores).get("accuracy")
    elif name.startswith("top") and name[3:].isdigit() and int(name[3:]):
        made = TopAccuracy(int(name[3:]), form.class_axis, ignored) if classes else None
    elif name == "balanced_accuracy":
        made = BalancedAccuracy(form) if classes or (binary and outputs == 1) else None
    elif name in _GATHERED:
        made = _of_torchmetrics(name, form, outputs) if classes or binary else None
    elif name in ("r2", "rmse", "mae"):
        made = mean_absolute_error if name == "mae" else SquaredErrors(name)
        made = None if classes or binary else made
    elif name == "perplexity":
        made = Perplexity() if classes and form.class_axis == -1 else None
    else:
        raise ConfigError(f"unknown metric {name!r}: {did_you_mean(name, NAMES)}, or give a function or a meter")
    if made is None:
        kind = "classes" if classes else "targets of 0 and 1" if binary else "numbers"
        raise ConfigError(f"the metric {name!r} does not go with a loss of {kind}")
    return made


def _of_torchmetrics(name: str, form: Form, outputs: int) -> Any:
    try:
        from torchmetrics import classification
    except ImportError as error:
        raise MissingDependency(f'the metric "{name}" needs torchmetrics: pip install torchmetrics') from error
    kind, average = _GATHERED[name]
    if form.kind == "classes":
        options = {"num_classes": outputs, **({"average": "macro"} if average else {})}
        return getattr(classification, f"Multiclass{kind}")(**options)
    if outputs == 1:
        return getattr(classification, f"Binary{kind}")()
    return getattr(classification, f"Multilabel{kind}")(num_labels=outputs)


def split_metrics(
    metrics: Metrics, default: dict[str, Metric], resolve: Callable[[str], Any]
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Functions of a batch, and meters that gather (torchmetrics), by name; `resolve` gives those that are names.

    Raises:
        ConfigError: something that is no metric.
    """
    if metrics is None:
        return default, {}
    given = metrics if isinstance(metrics, Mapping | list | tuple) else [metrics]
    named: dict[str, Any] = dict(given) if isinstance(given, Mapping) else _distinct(given)
    named = {name: resolve(metric) if isinstance(metric, str) else metric for name, metric in named.items()}
    meters = {name: m for name, m in named.items() if is_meter(m)}
    if not all(callable(m) or name in meters for name, m in named.items()) or "loss" in named:
        raise ConfigError(
            "metrics are functions of (outputs, targets), names, or torchmetrics objects, and none is named loss; "
            f"received {metrics!r}"
        )
    return {name: m for name, m in named.items() if name not in meters}, meters


def is_meter(metric: Any) -> bool:
    """Whether `metric` gathers over batches, as torchmetrics' objects do."""
    return not isinstance(metric, type) and all(hasattr(metric, name) for name in ("update", "compute", "reset"))


def _distinct(metrics: Iterable[Any]) -> dict[str, Any]:
    """Metrics by the names that they have; of two with one name the second gets a number."""
    named: dict[str, Any] = {}
    for metric in metrics:
        name = first = metric if isinstance(metric, str) else _name(metric)
        number = 1
        while name in named:
            number += 1
            name = f"{first}_{number}"
        named[name] = metric
    return named


def _name(metric: Any) -> str:
    return getattr(metric, "__name__", type(metric).__name__.lower())


@dataclass
class SharedMeter:
    """A meter on each of several ranks, which measures the same as on one.

    Each rank feeds its own the part of a batch that it computed, unless that `counts` for nothing, and `combine` puts
    them together. One that cannot be put together is given everyone's outputs, in the order of the ranks.
    """

    meter: Any
    ranks: Ranks
    counts: bool = True

    def __post_init__(self) -> None:
        self._combines = can_be_combined(self.meter)

    def fed(self, outputs: Any, targets: Any) -> list[tuple[Any, Any]]:
        """The outputs and targets that the meter of this rank is to be given of a batch."""
        if self._combines:
            return [(outputs, targets)] if self.counts else []
        mine = tuple(part.cpu() if isinstance(part, Tensor) else part for part in (outputs, targets))
        device = outputs.device if isinstance(outputs, Tensor) else None
        return [
            tuple(part.to(device) if device is not None and isinstance(part, Tensor) else part for part in pair)  # type: ignore[misc]
            for pair in self.ranks.gather(mine if self.counts else None) if pair is not None
        ]  # fmt: skip

    def combine(self) -> None:
        """Make the meter that of all that the ranks' were given."""
        if not self._combines:
            return
        if not is_of_torchmetrics(self.meter):
            self.meter.combine(self.ranks.gather(self.meter))
            return
        parts = _parts(self.meter)
        states = self.ranks.gather([(part.update_count, _moved(part.metric_state, "cpu")) for part in parts])
        for part, *of_ranks in zip(parts, *states, strict=True):
            _combine(part, [state for updates, state in of_ranks if updates])
            part._update_count = sum(updates for updates, _ in of_ranks)


def can_be_combined(meter: Any) -> bool:
    """Whether meters that were given different batches can be put together: ours, and most of torchmetrics.

    Of these it is by the states that they declare: not wrappers, which keep more, nor means.
    """
    if not is_of_torchmetrics(meter):
        return hasattr(meter, "combine")
    from torchmetrics import Metric
    from torchmetrics.wrappers.abstract import WrapperMetric

    return all(
        not isinstance(part, WrapperMetric)
        and (not part._reductions or type(part)._sync_dist is Metric._sync_dist)
        and not any(getattr(how, "__name__", "") == "dim_zero_mean" for how in part._reductions.values())
        for part in _parts(meter)
    )


def is_of_torchmetrics(meter: Any) -> bool:
    """Whether a meter is a metric of torchmetrics, or a collection of them."""
    return any(kind.__module__.startswith("torchmetrics.") for kind in type(meter).__mro__)


def _parts(meter: Any) -> list[Any]:
    """The metrics that one of torchmetrics is made of, each with its own states."""
    if not is_of_torchmetrics(meter):
        return [meter]
    if hasattr(meter, "values"):
        meter.values()  # those of a collection that share their states get them
    return [part for part in meter.modules() if hasattr(part, "_reductions")]


@contextmanager
def _by_itself(meter: Any) -> Iterator[None]:
    """Within the block a metric of torchmetrics does not ask other ranks for theirs, as it does to compute."""
    parts = _parts(meter) if is_of_torchmetrics(meter) else []
    before = [part.distributed_available_fn for part in parts]
    try:
        for part in parts:
            part.distributed_available_fn = bool  # which says no
        yield
    finally:
        for part, available in zip(parts, before, strict=True):
            part.distributed_available_fn = available


def _combine(metric: Any, states: Sequence[Mapping[str, Any]]) -> None:
    """Give a metric of torchmetrics the states of several, reduced as it says itself."""
    for name, reduce in metric._reductions.items() if states else ():
        parts = [_moved(state[name], metric.device) for state in states]
        if isinstance(parts[0], list):
            whole: Any = [one for part in parts for one in part]
        else:
            whole = torch.stack(parts) if reduce is None else reduce(torch.stack(parts))
        setattr(metric, name, whole)


def _moved(state: Any, device: Any) -> Any:
    """Tensors, and lists and mappings of them, on another device."""
    if isinstance(state, Mapping):
        return {name: _moved(part, device) for name, part in state.items()}
    return [_moved(part, device) for part in state] if isinstance(state, list) else state.to(device)


def feed(meter: Any, form: Form, outputs: Tensor, targets: Tensor) -> None:
    """Give a batch to a meter: to those of torchmetrics in the shapes and types that they take, else as it is.

    Raises:
        DataError: the meter does not take it.
    """
    if isinstance(meter, SharedMeter):
        for pair in meter.fed(outputs, targets):
            feed(meter.meter, form, *pair)
        return
    if (kind := _kind(meter)) and form.kind != "free":
        outputs, targets = form.fit(outputs, targets)
        if kind == "classification":
            outputs, targets = _for_classification(form, outputs, targets)
            if not len(targets):
                return
    try:
        meter.update(outputs, targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"the metric {type(meter).__name__} does not take outputs of shape {list(outputs.shape)} with targets of "
            f"shape {list(targets.shape)}: {error}"
        ) from error


def _kind(meter: Any) -> str:
    """Of torchmetrics the package that a meter is from ("classification", "regression", ...), "" of any other."""
    if type(meter).__module__ == "torchmetrics.collections":
        return next((_kind(one) for one in meter.values()), "")
    for kind in type(meter).__mro__:
        parts = kind.__module__.split(".")
        if parts[0] == "torchmetrics" and len(parts) > 2:
            return parts[1]
    return ""


def _for_classification(form: Form, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities with the classes along axis 1, whole targets, and nothing that is left out."""
    outputs = form.predict(outputs)
    if form.kind != "classes":
        return outputs, targets.long()
    if targets.is_floating_point():
        targets = targets.argmax(form.class_axis)
    outputs, counted = outputs.movedim(form.class_axis, -1), form.counted(targets)
    if not bool(counted.all()):
        return outputs[counted], targets[counted]
    return outputs.movedim(-1, 1), targets


def read_meters(meters: Mapping[str, Any]) -> dict[str, float]:
    """The meters' numbers by name: those of a collection by their own, those of a vector numbered from 0.

    One of torchmetrics that was given nothing, since all targets were left out, is NaN.
    """
    numbers: dict[str, float] = {}
    for name, meter in meters.items():
        with _by_itself(meter):
            unfed = hasattr(meter, "update_count") and not any(part.update_count for part in _parts(meter))
            value = math.nan if unfed else meter.compute()
        parts = value if isinstance(value, Mapping) else {name: value}
        for part, number in parts.items():
            if getattr(number, "ndim", 0):
                numbers |= {f"{part}_{i}": float(one) for i, one in enumerate(torch.as_tensor(number).flatten())}
            else:
                numbers[part] = float(number)
    return numbers

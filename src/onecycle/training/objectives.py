"""What a model is trained to minimise and measured by: the loss of a batch, with its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import share
from ..data.standardise import Scale
from ..errors import ConfigError, DataError
from ..text import count
from .losses import (
    IGNORED,
    Form,
    binary_cross_entropy,
    check_reduction,
    check_weights,
    class_weights,
    criterion_of,
    cross_entropy,
    denominator,
    ends_of,
    form_of,
    mean_squared_error,
    shape,
)
from .metrics import (
    Accuracy,
    Metric,
    Metrics,
    TopAccuracy,
    accuracy,
    default_metrics,
    feed,
    named_metric,
    split_metrics,
)

# In training, of a classifier; measured in docs/log.md.
SMOOTHING = 0.1
# The name of the training loss without label smoothing, beside the one that is minimised.
UNSMOOTHED = "loss_unsmoothed"


class BatchMeans(NamedTuple):
    """The mean loss of a batch, the means of its metrics, and what those stand for that do not weigh its samples.

    `weights` has, by name ("loss" or a metric's), the number that the mean was divided by.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    weights: dict[str, Tensor]


class Loss(Protocol):
    """From a model and a batch of any structure to the mean loss, with metrics and a weight where there are such.

    That is ``loss``, ``(loss, {metric: batch mean})`` or ``(loss, {metric: batch mean}, weight)``, where the weight is
    what the means were divided by, such as the number of tokens that are not padding; without one it is the number of
    samples. Means over batches are weighted by it.
    """

    def __call__(self, model: nn.Module, batch: Any) -> Tensor | tuple[Any, ...]: ...


@dataclass(frozen=True)
class Supervised:
    """The loss of batches ``(inputs, targets)``: `criterion(model(inputs), targets)`, and metrics beside it.

    Outputs and targets are brought to one shape where the criterion compares them one by one ([n, 1] and [n] are not
    broadcast); targets that a cross-entropy leaves out (`ignore_index`) count nowhere, and the weights of its classes
    do in every mean.

    Label `smoothing` is for a cross-entropy, and in training alone: a model in evaluation mode is judged without it. So
    that both can be compared, the training loss without it is a metric then, ``loss_unsmoothed``.
    `meters` are objects with `update(outputs, targets)`, `compute()` and `reset()`, as in torchmetrics; they are fed in
    evaluation mode alone. Where no target is ever left out, `ignores` may be False, which saves the counting.
    With a `scale` the model's outputs are standardised targets, as in the loss; metrics and meters get both in the
    units of the targets.

    Raises:
        ConfigError: smoothing that is no share, or a criterion that does not give the mean.
        DataError: when called, with outputs and targets that do not fit the criterion.
    """

    criterion: Callable[..., Tensor]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    meters: Mapping[str, Any] = field(default_factory=dict)
    smoothing: float = 0.0
    ignores: bool = True
    scale: Scale | None = None
    form: Form = field(init=False, repr=False, compare=False)
    _weighed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        share("smoothing", self.smoothing, of="the target")
        check_reduction(self.criterion)
        object.__setattr__(self, "form", form_of(self.criterion))
        weighed = self.form.kind == "classes" and (self.ignores or class_weights(self.criterion) is not None)
        object.__setattr__(self, "_weighed", weighed)
        if accuracy in self.metrics.values() and self.form.kind == "classes":  # it knows nothing of the classes' axis
            fitting = default_metrics(self.form, self.ignores)["accuracy"]
            metrics = {name: fitting if metric is accuracy else metric for name, metric in self.metrics.items()}
            object.__setattr__(self, "metrics", metrics)

    def counting(self) -> Supervised:
        """The same for data of which it is not known that no target is left out."""
        if self.ignores or self.form.ignore_index is None:
            return self
        index = self.form.ignore_index
        ours = (Accuracy, TopAccuracy)
        metrics = {n: replace(m, ignore_index=index) if isinstance(m, ours) else m for n, m in self.metrics.items()}
        return replace(self, metrics=metrics, ignores=True)

    def __call__(self, model: nn.Module, batch: Any) -> BatchMeans:
        inputs, targets = pair(batch)
        outputs = model(inputs)
        smoothed = bool(self.smoothing) and model.training
        if self.form.kind != "free":
            outputs, targets = self.form.fit(tensor_of(outputs), targets)
        standard = targets if self.scale is None else self.scale(targets)
        try:
            loss = self.criterion(outputs, standard, **({"label_smoothing": self.smoothing} if smoothed else {}))
            seen = outputs.detach() if isinstance(outputs, Tensor) else outputs
            seen = seen if self.scale is None else self.scale.inverse(seen)
            means = {UNSMOOTHED: self.criterion(seen, targets)} if smoothed else {}
        except (IndexError, RuntimeError) as error:
            if "between 0 and 1" in str(error):
                raise DataError(
                    f"the loss takes probabilities: {error}. End the model with nn.Sigmoid(), or give "
                    "loss=nn.BCEWithLogitsLoss()"
                ) from error
            if ("out of bounds" not in str(error) and "out of range" not in str(error)) or outputs.ndim < 2:
                raise
            most = outputs.shape[self.form.class_axis] - 1
            raise DataError(f"labels must lie from 0 to {most}, one for each output: {error}") from error
        weight = denominator(self.criterion, self.form, targets) if self._weighed else None
        weights = {} if weight is None else dict.fromkeys(("loss", *means), weight)
        if not model.training:
            for meter in self.meters.values():
                feed(meter, self.form, seen, targets)
        for name, metric in self.metrics.items():
            mean = _measured(name, metric, seen, targets)
            if isinstance(mean, tuple):
                mean, weights[name] = mean
            means[name] = mean
        return BatchMeans(loss, means, weights)


@dataclass(frozen=True)
class MeasuredLoss:
    """A loss ``fn(model, batch)`` of the user's, with metrics and meters of what the model gave for ``batch[0]``.

    They are measured in evaluation mode, on the outputs of the model's last call and the targets ``batch[1]``.

    Raises:
        ConfigError: when called, where the loss does not call the model.
        DataError: when called, with a batch that is no pair.
    """

    loss: Loss
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    meters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        if model.training:
            return self.loss(model, batch)
        with _last_outputs(model) as last:
            loss, means, weights = means_of(self.loss(model, batch))
        if not last:
            raise ConfigError("metrics beside loss=fn(model, batch) are of the model's outputs: it was not called")
        outputs, (_, targets) = last[0], pair(batch, "metrics beside loss=fn(model, batch) are of")
        for meter in self.meters.values():
            feed(meter, form_of(None), outputs, targets)
        instead = "; or return it with the loss, as (loss, {name: mean})"
        measured = {n: _measured(n, metric, outputs, targets, instead) for n, metric in self.metrics.items()}
        return BatchMeans(loss, {**means, **measured}, weights)


def _measured(name: str, metric: Metric, outputs: Any, targets: Any, instead: str = "") -> Any:
    """The metric of a batch; a `DataError` that names it where it fails."""
    try:
        return metric(outputs, targets)
    except Exception as error:
        what = shape(outputs) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise DataError(
            f"metric {name!r} fails on the model's outputs, {what}: {type(error).__name__}: {error}. It is a function "
            f"of (outputs, targets) as tensors{instead}"
        ) from error


@contextmanager
def _last_outputs(model: nn.Module) -> Iterator[list[Any]]:
    """What the model gives when it is called within the block: a list with the last outputs, or an empty one."""
    last: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, outputs: last.__setitem__(slice(None), [outputs]))
    try:
        yield last
    finally:
        handle.remove()


def means_of(result: Any) -> BatchMeans:
    """What a loss returned, in one form.

    Raises:
        ConfigError: a loss or a metric that is not one number, or something else than is allowed.
    """
    if isinstance(result, BatchMeans):
        loss, metrics, weights = result
    else:
        loss, metrics, weight = _parts(result)
        weights = {} if weight is None else {name: torch.as_tensor(weight) for name in ("loss", *metrics)}
    if not isinstance(loss, Tensor) or loss.ndim:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ConfigError(f"the loss of a batch is its mean, a tensor without dimensions; received {what}")
    means = {n: mean.detach() if isinstance(mean, Tensor) else torch.as_tensor(mean) for n, mean in metrics.items()}
    for name, mean in means.items():
        if mean.ndim:
            raise ConfigError(
                f"metric {name!r} of a batch is its mean, one number; received a tensor of shape {tuple(mean.shape)}"
            )
    return BatchMeans(loss, means, weights)


def _parts(result: Any) -> tuple[Any, Mapping[str, Any], Any]:
    """The loss, the metrics and the weight of what a loss of the user's returned."""
    if not isinstance(result, tuple):
        return result, {}, None
    loss, metrics, weight, *more = (*result, *({}, None)[max(0, len(result) - 1) :])
    if more or not result or not isinstance(metrics, Mapping):
        raise ConfigError(
            f"a loss returns the mean of its batch, (mean, {{metric: mean}}) or (mean, {{metric: mean}}, weight); "
            f"received a tuple of {len(result)}"
        )
    return loss, metrics, weight


def loss_module(loss: Any) -> nn.Module | None:
    """The module in a loss, with parameters, buffers and a mode of its own; None where there is none.

    >>> loss_module(Supervised(nn.CrossEntropyLoss()))
    CrossEntropyLoss()
    """
    for part in (loss, getattr(loss, "criterion", None), getattr(loss, "loss", None)):
        if isinstance(part, nn.Module):
            return part
    return None


def pair(batch: Any, takes: str = "the default loss takes") -> tuple[Any, Any]:
    """The inputs and targets of a batch; a `DataError` where it is no such pair, which says what `takes` one."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    what = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
    raise DataError(
        f"{takes} batches (inputs, targets); received a {what}. For any other structure give "
        "loss=fn(model, batch), returning the mean loss of the batch, or (loss, {name: mean})"
    )


def tensor_of(value: Any, what: str = "the model's outputs") -> Tensor:
    """The value, which is one tensor.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise DataError(f"{what} are a {type(value).__name__}, not one tensor: give loss=fn(model, batch)")
    return value


@dataclass(frozen=True)
class Seen:
    """What is known when a loss is chosen: the outputs for a few samples, their targets, and other targets at hand.

    `known` are the targets of the data that lie in memory; `complete` says that these are all. With `label_sets` a
    sample may have several labels, although none here has.
    """

    outputs: Any
    targets: Any
    known: Sequence[Tensor] = ()
    complete: bool = False
    label_sets: bool = False

    @property
    def all_targets(self) -> tuple[Tensor, ...]:
        """Those of the few samples, and those at hand."""
        return (self.targets, *self.known)


def pick_task(seen: Seen, metrics: Metrics = None, smoothing: float | None = None) -> tuple[Supervised, str]:
    """The loss for what was seen of outputs and targets, and a note that says what was picked and why.

    * whole-number targets, one dimension fewer than the outputs, or a distribution (one-hot rows too) over the classes:
      cross-entropy, with accuracy; its label smoothing is `smoothing` or, where that is None, 0.1 for one whole target
      a sample and none for tokens, pixels and distributions. Targets of -100 are left out
    * targets that are all 0 or 1, in the outputs' shape: binary cross-entropy on logits, with accuracy
    * other floating-point targets, in the outputs' shape: mean squared error

    Raises:
        DataError: shapes that do not fit, labels out of range, or classes that may lie along two axes.
        ConfigError: smoothing of anything but a cross-entropy, or metrics that do not fit.

    >>> task, note = pick_task(Seen(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])))
    >>> note
    'loss: cross-entropy over 3 classes (the targets are whole numbers), label smoothing 0.1, with accuracy'
    """
    outputs, targets = tensor_of(seen.outputs), tensor_of(seen.targets, "the targets")
    criterion, words, ignores = _default_criterion(seen)
    amount = 0.0
    if form_of(criterion).kind == "classes":
        hard = outputs.ndim == 2 and not targets.is_floating_point() and targets.ndim == 1
        amount = (SMOOTHING if hard else 0.0) if smoothing is None else smoothing
        words += f", label smoothing {amount:g}" if amount else ""
    elif smoothing:
        shapes = f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)}"
        raise ConfigError(f"smoothing is for a cross-entropy, which does not fit here ({shapes}); give smoothing=0")
    task = _with_metrics(criterion, metrics, seen, amount, ignores)
    names = ", ".join([*task.metrics, *task.meters])
    return task, f"loss: {words}" + (names and f", with {names}")


def _default_criterion(seen: Seen) -> tuple[Any, str, bool]:
    """The criterion for such outputs and targets, why, and whether targets may be left out."""
    outputs, targets, everything = seen.outputs, seen.targets, seen.all_targets
    whole = not targets.is_floating_point()
    shapes = f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)} of {str(targets.dtype)[6:]}"
    same = outputs.shape == targets.shape or outputs.shape == (*targets.shape, 1)
    if whole and outputs.ndim == targets.ndim + 1 and (axis := _class_axis(outputs, targets)) is not None:
        classes = outputs.shape[axis]
        ignored = check_labels(everything, classes)
        left_out = f", {count(ignored, 'target')} of {IGNORED} left out" if ignored else ""
        criterion = cross_entropy if axis == outputs.ndim - 1 else F.cross_entropy
        where = "" if criterion is cross_entropy else f" along axis {axis} of the outputs"
        words = f"cross-entropy over {classes} classes{where} (the targets are whole numbers{left_out})"
        return criterion, words, bool(ignored) or not seen.complete
    zeros_and_ones = same and all(bool(((part == 0) | (part == 1)).all()) for part in everything)
    rows = same and outputs.ndim == 2 and outputs.shape[1] > 1 and not seen.label_sets
    if rows and all(map(_is_distribution, everything)):
        of = "one-hot rows" if zeros_and_ones else "rows that sum to 1"
        more = "; for several labels a sample give loss=nn.BCEWithLogitsLoss()" if zeros_and_ones else ""
        return F.cross_entropy, f"cross-entropy over {outputs.shape[1]} classes (the targets are {of}{more})", False
    if zeros_and_ones:
        criterion = binary_cross_entropy if seen.complete else partial(binary_cross_entropy, check=True)
        return criterion, "binary cross-entropy on logits (the targets are all 0 or 1)", False
    if same and not whole:
        return mean_squared_error, f"mean squared error ({shapes})", False
    if whole and same:
        raise DataError(
            f"whole targets beside one output each may be classes or numbers: {shapes}. Give targets.float() or "
            'loss="mse" for numbers, or the model an output for each class'
        )
    raise DataError(
        f"outputs and targets do not fit any default loss: {shapes}. Cross-entropy takes outputs [n, classes] and "
        "whole targets [n]; binary cross-entropy and squared error take equal shapes. Mend the model's last layer "
        "or the targets, or give loss=fn(model, batch)"
    )


def _class_axis(outputs: Tensor, targets: Tensor) -> int | None:
    """The axis of the outputs that the targets do not have, of more than one class: the last, or the first but one.

    Raises:
        DataError: it may be either.
    """
    last, first = outputs.shape[:-1] == targets.shape, (outputs.shape[0], *outputs.shape[2:]) == targets.shape
    if outputs.ndim > 2 and last and first:
        raise DataError(
            f"outputs of shape {list(outputs.shape)} may have their classes along axis 1 or along the last one: give "
            "loss=nn.CrossEntropyLoss() for axis 1, or loss=onecycle.cross_entropy for the last"
        )
    axis = outputs.ndim - 1 if last else 1 if first else None
    return axis if axis is not None and outputs.shape[axis] > 1 else None


def _is_distribution(targets: Tensor) -> bool:
    """Whether rows [n, classes] are shares that sum to 1, within the rounding of their type."""
    if targets.ndim != 2 or not bool(((targets >= 0) & (targets <= 1)).all()):
        return False
    return bool(((targets.double().sum(1) - 1).abs() < 1e-3).all())


def given_loss(loss: Any, metrics: Metrics = None, seen: Callable[[], Seen] | None = None) -> tuple[Loss, list[str]]:
    """The user's loss, and notes: a criterion gets metrics beside it; ``fn(model, batch)`` stays, or is measured too.

    `seen` is asked for outputs and targets, of a criterion alone.

    Raises:
        ConfigError: what cannot be a loss, or metrics that do not fit.
        DataError: outputs or targets that do not fit the criterion.
    """
    criterion = criterion_of(loss)
    if criterion is None:
        if metrics is None:
            return loss, []
        functions, meters = split_metrics(metrics, {}, _not_by_name)
        return (MeasuredLoss(loss, functions, meters) if functions or meters else loss), []
    if seen is None:
        return _with_metrics(criterion, metrics, Seen(torch.zeros(1, 1), torch.zeros(1)), 0.0, True), []
    found, form, notes, ignores = seen(), form_of(criterion), [], True
    if form.kind == "free":
        if tuple(getattr(found.outputs, "shape", ())) == (*getattr(found.targets, "shape", (0,)), 1):
            notes = [
                f"outputs of {shape(found.outputs)} beside targets of {shape(found.targets)}: a loss of your own must "
                "not broadcast them to each other"
            ]
    else:
        fitted, targets = form.fit(tensor_of(found.outputs), tensor_of(found.targets, "the targets"))
        if form.kind == "elements":
            check_weights(criterion, fitted)
        if form.kind == "classes" and not targets.is_floating_point():
            ignored = check_labels(found.all_targets, fitted.shape[form.class_axis], form.ignore_index)
            ignores = bool(ignored) or not found.complete
            notes += [f"{count(ignored, 'target')} of {form.ignore_index} left out"] if ignored else []
    return _with_metrics(criterion, metrics, found, 0.0, ignores), notes


def activated_twice(model: nn.Module, task: Any, outputs: Any) -> list[str]:
    """A note where the outputs of the model have the wrong activation for the loss, by a few of them.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))
    >>> activated_twice(model, Supervised(nn.CrossEntropyLoss()), model(torch.zeros(4, 2)))
    ["the model's outputs are probabilities already; cross-entropy takes logits: leave out softmax"]
    """
    form = getattr(task, "form", None)
    if form is None or not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return []
    if form.activation == "softmax" and outputs.ndim > 1:
        if _is_distribution(outputs.movedim(form.class_axis, -1).flatten(0, -2)):
            return ["the model's outputs are probabilities already; cross-entropy takes logits: leave out softmax"]
    elif form.activation == "exp" and bool((outputs > 0).any()):
        return [
            "the model's outputs are no log-probabilities, which this loss takes: end the model with "
            "nn.LogSoftmax(dim=1), or give loss=nn.CrossEntropyLoss()"
        ]
    last = [*model.modules()][-1]
    if form.activation == "sigmoid" and isinstance(last, nn.Sigmoid) and bool(((outputs >= 0) & (outputs <= 1)).all()):
        return ["the model's outputs are probabilities already; this loss takes logits: leave out sigmoid"]
    return []


def _not_by_name(name: str) -> Any:
    raise ConfigError(
        f"metrics beside loss=fn(model, batch) are functions of (outputs, targets) or meters; received {name!r}, which "
        "is for a criterion. Or return metrics yourself: (loss, {name: mean})"
    )


def _with_metrics(criterion: Any, metrics: Metrics, seen: Seen, smoothing: float, ignores: bool) -> Supervised:
    """The loss by `criterion`, with the metrics that are asked for, or those that go with it."""
    form = form_of(criterion)
    shaped = seen.outputs if isinstance(seen.outputs, Tensor) else torch.zeros(1, 1)
    columns = shaped.shape[form.class_axis] if form.kind == "classes" else shaped[0].numel()

    def resolve(name: str) -> Any:
        return named_metric(name, form, ignores, columns)

    functions, meters = split_metrics(metrics, default_metrics(form, ignores), resolve)
    return Supervised(criterion, functions, meters, smoothing, ignores)


def check_labels(targets: Sequence[Tensor], classes: int, ignore_index: int | None = IGNORED) -> int:
    """How many whole-number targets are `ignore_index`.

    Raises:
        DataError: one of the others is not from 0 to classes - 1.
    """
    ignored, ends = 0, list[tuple[int, int]]()
    for i, part in enumerate(targets):
        if not part.numel():
            continue
        low, high = ends_of(part)
        if ignore_index is not None and low <= ignore_index <= high:
            counted = part[part != ignore_index]
            if i or len(targets) == 1:  # the first are of a few samples of the others
                ignored += part.numel() - counted.numel()
            if not counted.numel():
                continue
            low, high = ends_of(counted)
        ends.append((low, high))
    low = min((low for low, _ in ends), default=0)
    high = max((high for _, high in ends), default=0)
    if low < 0 or high >= classes:
        raise DataError(
            f"labels must lie from 0 to {classes - 1}, since the model has {classes} outputs; found labels from {low} "
            f"to {high}. Mend the labels, or give the model {high + 1} outputs; where such a label is to be left out, "
            f"give loss=nn.CrossEntropyLoss(ignore_index={low if low < 0 else high})"
        )
    return ignored


def activation(loss: Any) -> Callable[[Tensor], Tensor]:
    """From outputs to predictions: probabilities for a cross-entropy, else outputs in the units of the targets."""
    form, scale = getattr(loss, "form", None), getattr(loss, "scale", None)
    if scale is not None:
        return scale.inverse
    return (lambda outputs: outputs) if form is None else form.predict

"""Criteria of outputs and targets: our own, and what is to be known of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, DataError, did_you_mean

IGNORED = -100
"""The target that torch's cross-entropies leave out, where no other is asked for."""


def cross_entropy(
    outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy in nats of logits [n, classes] or [n, length, classes] against integers [n] or [n, length].

    `weight` are those of the classes in the mean, [classes]: a sample weighs what its target does, smoothed or not,
    where torch weighs each class that the smoothing gives a share to, which is mostly that of a rare one.
    """
    if outputs.ndim > 2:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    targets = targets.long()
    if weight is None or not label_smoothing:
        return F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing)
    each = F.cross_entropy(outputs, targets, label_smoothing=label_smoothing, reduction="none")
    counted = targets != IGNORED
    weights = weight[targets.where(counted, 0)] * counted
    return (each * weights).sum() / weights.sum()


def spatial_cross_entropy(
    outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """`cross_entropy` of logits [n, classes, ...], such as those of pixels, against integers [n, ...]."""
    return cross_entropy(outputs.movedim(1, -1), targets, label_smoothing, weight)


def binary_cross_entropy(
    outputs: Tensor, targets: Tensor, pos_weight: Tensor | None = None, check: bool = False
) -> Tensor:
    """Mean binary cross-entropy in nats of logits against targets from 0 to 1 of the same shape, or [n, 1] and [n].

    `pos_weight` is what ones weigh beside zeros. With `check` targets beyond 0 and 1 are a DataError; on an
    accelerator, which an error would have to wait for, the loss is NaN.
    """
    known = targets.device.type == "cpu"
    if check and known and not bool(((targets >= 0) & (targets <= 1)).all()):
        raise DataError(
            f"binary cross-entropy, which the first targets decided for (all 0 or 1), takes targets from 0 to 1; here "
            f'they go from {float(targets.min()):g} to {float(targets.max()):g}: give the loss, such as loss="mse"'
        )
    loss = F.binary_cross_entropy_with_logits(*same_shape(outputs, targets), pos_weight=pos_weight)
    return loss if known or not check else loss.where(((targets >= 0) & (targets <= 1)).all(), torch.nan)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of outputs and targets of the same shape, or [n, 1] and [n]."""
    return F.mse_loss(*same_shape(outputs, targets))


NAMES: dict[str, Any] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "binary_cross_entropy": nn.BCEWithLogitsLoss,
    "mse": nn.MSELoss,
    "mae": nn.L1Loss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "nll": nn.NLLLoss,
    "poisson": nn.PoissonNLLLoss,
}
"""The criteria that have a name here."""

_CROSS = (nn.CrossEntropyLoss, F.cross_entropy, cross_entropy, spatial_cross_entropy)
_LOG_CLASSES = (nn.NLLLoss, F.nll_loss)
_MARGINS = (nn.MultiMarginLoss, F.multi_margin_loss)
_LOGITS = (
    nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, binary_cross_entropy,
    nn.MultiLabelSoftMarginLoss, F.multilabel_soft_margin_loss,
)  # fmt: skip
_ELEMENTS = (
    *_LOGITS, mean_squared_error, nn.MSELoss, F.mse_loss, nn.L1Loss, F.l1_loss, nn.SmoothL1Loss, F.smooth_l1_loss,
    nn.HuberLoss, F.huber_loss, nn.BCELoss, F.binary_cross_entropy, nn.PoissonNLLLoss, F.poisson_nll_loss,
    nn.KLDivLoss, F.kl_div, nn.SoftMarginLoss, F.soft_margin_loss, nn.HingeEmbeddingLoss, F.hinge_embedding_loss,
)  # fmt: skip


_DISTANCES = (
    mean_squared_error, nn.MSELoss, F.mse_loss, nn.L1Loss, F.l1_loss, nn.SmoothL1Loss, F.smooth_l1_loss, nn.HuberLoss,
    F.huber_loss,
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What a criterion takes its outputs and targets for.

    Attributes:
        kind: "classes" (whole targets, one for each vector of scores, or a distribution over the classes), "elements"
            (a target for each output) or "free" (nothing is known).
        class_axis: of the outputs, for "classes": 1 for torch's criteria, the last for our own.
        ignore_index: the target that is left out, for "classes"; None: there is none.
        activation: from outputs to predictions: "softmax", "exp", "sigmoid" or "".
    """

    kind: str = "free"
    class_axis: int = 1
    ignore_index: int | None = None
    activation: str = ""

    def fit(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the shapes and types that the criterion takes.

        Raises:
            DataError: shapes that do not fit.
        """
        if self.kind == "elements":
            return same_shape(outputs, targets)
        if self.kind != "classes":
            return outputs, targets
        if outputs.ndim < 2 or outputs.shape[self.class_axis] < 2:
            raise DataError(
                "a loss of classes takes a score for each of two classes or more, outputs of [n, classes]; received "
                f"{shape(outputs)}. Mend the model's last layer, or give loss=nn.BCEWithLogitsLoss() for one output"
            )
        if targets.is_floating_point() or outputs.shape == targets.shape:
            if outputs.shape != targets.shape:
                raise DataError(
                    f"targets of {shape(targets)} are neither whole numbers (classes) nor a distribution over the "
                    f"classes for outputs of {shape(outputs)}: give targets.long() where they are classes"
                )
            exact = targets.is_floating_point() and targets.dtype != torch.float64
            return outputs, targets if exact else targets.to(outputs.dtype)
        expected = (*outputs.shape[: self.class_axis], *outputs.shape[self.class_axis :][1:])
        if self.class_axis < 0:
            expected = outputs.shape[:-1]
        if targets.shape != expected:
            hint = ": give targets.squeeze(-1)" if targets.shape == (*expected, 1) else ""
            raise DataError(
                f"outputs of {shape(outputs)} have their classes along axis {self.class_axis % outputs.ndim} and take "
                f"targets of shape {list(expected)}; received {shape(targets)}{hint}"
            )
        return outputs, targets if targets.dtype == torch.int64 else targets.long()

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities, where the outputs stand for such; else the outputs."""
        if self.activation == "softmax":
            return outputs.softmax(self.class_axis)
        return getattr(torch, self.activation)(outputs) if self.activation else outputs

    def counted(self, targets: Tensor) -> Tensor:
        """Which of whole targets are not left out, bool."""
        return torch.ones_like(targets, dtype=torch.bool) if self.ignore_index is None else targets != self.ignore_index


def ends_of(numbers: Tensor) -> tuple[int, int]:
    """The smallest and the largest of whole numbers, of which there is at least one."""
    low, high = torch.aminmax(numbers)
    return int(low), int(high)


def form_of(criterion: Any) -> Form:
    """What `criterion` takes its outputs and targets for.

    >>> form_of(nn.CrossEntropyLoss(ignore_index=255))
    Form(kind='classes', class_axis=1, ignore_index=255, activation='softmax')
    >>> form_of(nn.MSELoss()).kind, form_of(partial(F.cross_entropy, ignore_index=0)).ignore_index
    ('elements', 0)
    """
    plain = unwrapped(criterion)
    if _among(plain, _CROSS) or _among(plain, _LOG_CLASSES):
        activation = "softmax" if _among(plain, _CROSS) else "exp"
        axis = -1 if plain is cross_entropy else 1
        return Form("classes", axis, setting(criterion, "ignore_index", IGNORED), activation)
    if _among(plain, _MARGINS):
        return Form("classes")
    if _among(plain, _ELEMENTS):
        return Form("elements", activation="sigmoid" if _among(plain, _LOGITS) else "")
    return Form()


def compares_numbers(criterion: Any) -> bool:
    """Whether a criterion measures how far outputs are from targets of any size: squared, absolute or Huber's error."""
    return _among(unwrapped(criterion), _DISTANCES)


def class_weights(criterion: Any) -> Tensor | None:
    """The weights of the classes in a cross-entropy's mean, [classes], or None."""
    return setting(criterion, "weight", None)


def denominator(criterion: Any, form: Form, targets: Tensor) -> Tensor | None:
    """What a cross-entropy's mean over a batch was divided by: the weights of the targets that are not left out.

    None for targets that are distributions, which all count alike.

    >>> loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    >>> denominator(loss, form_of(loss), torch.tensor([0, 1, -100])).item()
    4.0
    """
    if form.kind != "classes" or targets.is_floating_point():
        return None
    weights = class_weights(criterion)
    if weights is None and form.ignore_index is not None:
        return (targets != form.ignore_index).count_nonzero()
    counted = form.counted(targets)
    return counted.sum() if weights is None else (weights[targets.where(counted, 0)] * counted).sum()


def criterion_of(loss: Any) -> Any:
    """The criterion ``fn(outputs, targets)`` that `loss` names or is; None where it is ``fn(model, batch)``.

    Raises:
        ConfigError: an unknown name, a class in place of an instance, a criterion that does not give the mean, or a
            function of which it cannot be told what it takes.
    """
    if isinstance(loss, str):
        if loss not in NAMES:
            raise ConfigError(
                f"unknown loss {loss!r}: {did_you_mean(loss, NAMES)}, or give a criterion or fn(model, batch)"
            )
        return NAMES[loss]()
    if isinstance(loss, type):
        raise ConfigError(f"loss is a class: give an instance of it, such as {loss.__name__}()")
    if not callable(loss):
        raise ConfigError(f"loss is a criterion fn(outputs, targets), fn(model, batch), or a name; received {loss!r}")
    plain = unwrapped(loss)
    if form_of(loss).kind == "free" and not _takes_outputs(loss, plain):
        return None
    check_reduction(loss)
    return loss


def check_weights(criterion: Any, outputs: Tensor) -> None:
    """Raise a ConfigError for weights of a criterion of elements that do not fit the outputs of one sample."""
    for name in ("weight", "pos_weight"):
        weights = setting(criterion, name, None)
        if not isinstance(weights, Tensor) or weights.numel() == 1:
            continue
        each = outputs.shape[1:]
        fits = weights.ndim <= len(each) and all(
            w in (1, n) for w, n in zip(reversed(weights.shape), reversed(each), strict=False)
        )
        if not fits:
            raise ConfigError(
                f"{name} has shape {list(weights.shape)}, and the outputs of a sample have {list(each)}, in outputs "
                f"of {shape(outputs)}: give one weight for each output, or change the model's last layer"
            )


def check_reduction(criterion: Any) -> None:
    """Raise a ConfigError for a criterion that does not give the mean of its batch."""
    reduction = setting(criterion, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise ConfigError(f'a loss is the mean of its batch: give reduction="mean"; received {reduction!r}')


def same_shape(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape and of the outputs' type: [n, 1] and [n] become [n], either way round.

    Under autocast the targets are float32 at least, as the losses there are.

    Raises:
        DataError: shapes that would be broadcast against each other.
    """
    if outputs.shape != targets.shape:
        if outputs.shape == (*targets.shape, 1):
            outputs = outputs.squeeze(-1)
        elif targets.shape == (*outputs.shape, 1):
            targets = targets.squeeze(-1)
        else:
            raise DataError(
                f"outputs and targets of this loss have one shape, a target for each output; received outputs of "
                f"{shape(outputs)} and targets of {shape(targets)}: mend the model's last layer or the targets"
            )
    if targets.dtype != outputs.dtype and not targets.is_complex():
        narrow = torch.is_autocast_enabled(outputs.device.type)
        targets = targets.to(torch.promote_types(outputs.dtype, torch.float32) if narrow else outputs.dtype)
    return outputs, targets


def shape(tensor: Tensor) -> str:
    """A tensor's type and shape in words.

    >>> shape(torch.zeros(2, 3))
    'float32 [2, 3]'
    """
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def unwrapped(criterion: Any) -> Any:
    """The function within `functools.partial`; anything else as it is."""
    while isinstance(criterion, partial):
        criterion = criterion.func
    return criterion


_MODELS = {"model", "net", "network", "module", "learner", "m"}
_OUTPUTS = {
    "output", "outputs", "out", "input", "inputs", "pred", "preds", "prediction", "predictions", "logits", "logit",
    "scores", "y_pred", "yhat", "y_hat", "ypred", "x", "o", "p",
}  # fmt: skip
_TARGETS = {"target", "targets", "label", "labels", "y", "y_true", "ytrue", "true", "truth", "gt", "t", "tgt"}


def _takes_outputs(loss: Any, plain: Any) -> bool:
    """Whether a callable that is not torch's takes (outputs, targets), rather than (model, batch)."""
    if getattr(plain, "__module__", "").startswith("torch.nn"):
        return _two_arguments(loss) is not None
    names = _two_arguments(loss)
    if names is None:
        return False
    first, second = names
    if first.lower() in _MODELS or second.lower() in ("batch", "b", "data"):
        return False
    if first.lower() in _OUTPUTS or second.lower() in _TARGETS or isinstance(plain, nn.Module):
        return True
    raise ConfigError(
        f"cannot tell what loss takes by its arguments ({first}, {second}): name them (outputs, targets) for a "
        "criterion, or (model, batch) for everything else"
    )


def _two_arguments(loss: Any) -> tuple[str, str] | None:
    """The names of the two arguments that `loss` must be given; None where its signature cannot be read.

    Raises:
        ConfigError: it takes another number of arguments.
    """
    callee = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        parameters = list(inspect.signature(callee).parameters.values())
    except (TypeError, ValueError):
        return None
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in named if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and len(named) < 2:
        return None
    if len(needed) > 2 or len(named) < 2:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise ConfigError(
            f"a loss is called with two arguments, (outputs, targets) or (model, batch); {name} takes "
            f"({', '.join(p.name for p in named)}): wrap it, as in loss=fn(model, batch)"
        )
    return named[0].name, named[1].name


def _among(criterion: Any, known: tuple[Any, ...]) -> bool:
    return any(isinstance(criterion, one) if isinstance(one, type) else criterion is one for one in known)


def setting(criterion: Any, name: str, default: Any) -> Any:
    """A setting of a criterion: an attribute of a module, a keyword of a partial."""
    while isinstance(criterion, partial):
        if name in criterion.keywords:
            return criterion.keywords[name]
        criterion = criterion.func
    return getattr(criterion, name, default) if isinstance(criterion, nn.Module) else default


Criterion = Callable[..., Tensor]

"""What plain torch makes of a training: the losses, the loop and the metrics, as the documentation describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from fuzz_parts import tensors_in
from torch import Tensor, nn
from torch.nn import functional as F

from onecycle.data.seeds import derive_seed
from onecycle.optim.build import build_optimizer


def default_of(outputs: Any, targets: Tensor) -> Any:
    """The loss that the documentation promises for such outputs and such targets of the whole data; None: no one."""
    whole, kept = not targets.is_floating_point(), targets[targets != -100]
    same = outputs.shape == targets.shape or outputs.shape == (*targets.shape, 1)
    for axis in (outputs.ndim - 1, 1):
        classes = outputs.shape[axis] if outputs.ndim > 1 else 1
        if whole and classes > 1 and outputs.ndim > 1 and outputs.select(axis, 0).shape == targets.shape:
            there = not kept.numel() or (int(kept.min()) >= 0 and int(kept.max()) < classes)
            return partial(last_axis if axis == outputs.ndim - 1 else F.cross_entropy) if there else None
    columns = same and outputs.ndim == 2 and outputs.shape[1] > 1 and bool((targets >= 0).all())
    if columns and bool(((targets.double().sum(1) - 1).abs() < 1e-3).all()):
        return F.cross_entropy
    if same and bool(((targets == 0) | (targets == 1)).all()):
        return F.binary_cross_entropy_with_logits
    return F.mse_loss if same and not whole else None


def last_axis(outputs: Tensor, targets: Tensor, weight: Any = None, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the classes along the last axis; a sample weighs what its target does."""
    outputs = outputs.movedim(-1, 1)
    each = F.cross_entropy(outputs, targets, label_smoothing=label_smoothing, reduction="none")
    weights = (targets != -100).to(each.dtype)
    if weight is not None:
        weights = weights * weight.to(each.dtype)[targets.clamp(min=0)]
    return (each * weights).sum() / weights.sum()


def spatial(outputs: Tensor, targets: Tensor, weight: Any = None, label_smoothing: float = 0.0) -> Tensor:
    """The same with the classes along axis 1."""
    return last_axis(outputs.movedim(1, -1), targets, weight, label_smoothing)


spatial.__name__ = "cross_entropy"


@dataclass
class InUnits:
    """A criterion of outputs that are standardised targets."""

    criterion: Any
    scale: Any

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, std = (part.to(wide(outputs)) for part in self.scale)
        return self.criterion(outputs, (targets - mean) / std)


def scale_of(values: Tensor) -> Any:
    """Mean and standard deviation by column where a root mean square is above 10 or below 0.01; else None."""
    columns = (values if values.ndim == 2 else values.reshape(-1, 1)).double()
    mean, std, size = columns.mean(0), columns.std(0, correction=0), columns.square().mean(0).sqrt()
    constant = std <= 1e-7 * size
    if not bool(((size > 10) | ((size < 0.01) & ~constant)).any()):
        return None
    return mean, std.where(~constant, 1.0)


def even_weights(targets: Tensor, classes: int) -> Tensor:
    """Of the classes: n / (classes there x count), 1 for those that are not there."""
    counts = targets[targets != -100].long().bincount(minlength=classes).double()
    weights = counts.sum() / ((counts > 0).sum() * counts)
    return weights.where(counts > 0, 1.0).float()


NAMED = {
    "cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits, "poisson": F.poisson_nll_loss,
    "smooth_l1": F.smooth_l1_loss,
}  # fmt: skip
CLASSES = ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss", "MultiMarginLoss", "last_axis")
FREE = ("Scaled", "plain_criterion", "MultiLabelMarginLoss", "owned", "Focal", "<lambda>")


def name_of(criterion: Any) -> str:
    """The name of the function or class of a criterion."""
    while isinstance(criterion, partial | InUnits):
        criterion = criterion.func if isinstance(criterion, partial) else criterion.criterion
    return "owned" if hasattr(criterion, "owned") else getattr(criterion, "__name__", type(criterion).__name__)


def is_classes(criterion: Any) -> bool:
    """Whether a criterion takes whole targets, or distributions."""
    return name_of(criterion) in CLASSES


def ignored_by(criterion: Any) -> int:
    """The target that is left out."""
    if isinstance(criterion, partial):
        return criterion.keywords.get("ignore_index", ignored_by(criterion.func))
    return getattr(criterion, "ignore_index", -100)


def shaped(criterion: Any, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape, in types that torch takes: what torch would broadcast has no meaning."""
    if name_of(criterion) in FREE:
        return outputs, targets
    if is_classes(criterion):
        soft = targets.shape == outputs.shape
        assert soft or not targets.is_floating_point()
        return outputs, targets.to(wide(outputs)) if soft else targets.long()
    if outputs.numel() == targets.numel() and {outputs.ndim, targets.ndim} == {1, 2}:
        outputs, targets = outputs.flatten(), targets.flatten()
    assert outputs.shape == targets.shape, "not to be broadcast"
    return outputs, targets.to(wide(outputs))


def wide(outputs: Tensor) -> torch.dtype:
    """The type of targets beside such outputs: theirs, and under autocast not less than float32."""
    return torch.promote_types(outputs.dtype, torch.float32) if torch.is_autocast_enabled("cpu") else outputs.dtype


def whole_loss(criterion: Any, model: nn.Module, batches: Sequence[Any]) -> tuple[Tensor, Any, Any]:
    """The loss over all samples of some batches as if they were one, and their outputs and targets."""
    if name_of(criterion) == "owned":
        parts = [criterion(model, batch) for batch in batches]
        sizes = [len(tensors_in(batch)[0]) for batch in batches]
        parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        weights = [part[2] if len(part) == 3 else size for part, size in zip(parts, sizes, strict=True)]
        return weighted(parts, weights), None, None
    both = [shaped(criterion, model(x), y) for x, y in batches]
    with torch.autocast("cpu", enabled=False):
        outputs, targets = (torch.cat(part) for part in zip(*both, strict=True))
    if name_of(criterion) in FREE:
        return weighted([(criterion(*pair),) for pair in both], [len(x) for x, _ in both]), outputs, targets
    loss, counted = criterion(outputs, targets), [(targets != ignored_by(criterion)).any() for _, targets in both]
    if is_classes(criterion) and len(both) > 1 and not all(counted) and any(counted):
        # What has no target that counts is left alone: no gradients, not even of 0
        loss = criterion(*(torch.cat(part) for part in zip(*compress(both, counted), strict=True)))
    assert loss.ndim == 0
    return loss, outputs, targets


def weighted(parts: Sequence[Any], weights: Sequence[Any]) -> Tensor:
    counted = [(part[0].double(), weight) for part, weight in zip(parts, weights, strict=True) if weight]
    if not counted:  # where nothing weighs anything
        return parts[0][0] * torch.nan
    total = sum(weight for _, weight in counted)
    return sum(loss * weight for loss, weight in counted) / total


def optimizer_of(given: dict[str, Any], options: Mapping[str, Any], criterion: Any) -> torch.optim.Optimizer:
    """The optimizer as the documentation describes it: weight decay on weights, none on biases and norms."""
    optimizer, model = given["optimizer"], given["model"]
    if isinstance(optimizer, torch.optim.Optimizer):
        assert any(p is q for group in optimizer.param_groups for p in group["params"] for q in model.parameters())
        return optimizer
    beside = criterion if isinstance(criterion, nn.Module) else None
    if optimizer == "muon":
        return build_optimizer("muon", model, beside=beside, **options)[0]
    names = ("sgd", "adam", "adamw")
    settings: dict[str, Any] = {"lr": 1.0}
    momentum, decay = options.get("momentum"), options.get("weight_decay")
    if optimizer in names:
        momentum = 0.9 if momentum is None else momentum
        decay = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.05}[optimizer] if decay is None else decay
        settings |= {"nesterov": True} if optimizer == "sgd" else {}
        settings |= {"fused": not any(p.is_complex() for p in model.parameters())}  # which half precision notices
        optimizer = dict(zip(names, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW), strict=True))[optimizer]
    takes = isinstance(optimizer, type) and ("momentum" if "Adam" not in optimizer.__name__ else "betas")
    if momentum is not None:
        settings |= {"momentum": momentum} if takes == "momentum" else {"betas": (momentum, 0.99)}
    if not isinstance(optimizer, type):
        assert momentum is None
        settings = {}
    made = optimizer([{"params": []}], **settings)
    decay = made.defaults["weight_decay"] if decay is None else decay
    every = [*model.parameters(), *(beside.parameters() if beside else ())]
    inner = {id(p) for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("original0")}
    weights, rest = [p for p in every if id(p) in inner], [p for p in every if id(p) not in inner]
    return optimizer([{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}], **settings)


def freeze(model: nn.Module, optimizer: Any) -> None:
    """Train the last layer alone: the last child, or the last group of an optimizer that came with several.

    What is frozen as a whole is in evaluation mode: its norms keep their statistics, and nothing is dropped out.
    """
    groups = [group["params"] for group in getattr(optimizer, "param_groups", ())]
    layers = groups if len(groups) > 1 else layers_of(model)
    for p in [p for layer in layers for p in layer]:
        p.requires_grad_(any(p is q for q in layers[-1]))
    frozen_parts(model, False)


def frozen_parts(module: nn.Module, around: bool) -> None:
    """Put into evaluation mode what has no parameter to be trained; what has none at all goes by what is `around`."""
    parameters = list(module.parameters())
    still = not any(p.requires_grad for p in parameters) if parameters else around
    if still:
        module.training = False
    for part in module.children():
        frozen_parts(part, still)


def layers_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each child, or of those of an only child; before them what belongs to none."""
    children = [child for child in model.children() if list(child.parameters())]
    first = list(model.parameters(recurse=False))
    if len(children) == 1 and not first:
        return layers_of(children[0])
    return [first] * bool(first) + [list(child.parameters()) for child in children]


def rate(policy: str, lr: float, k: int, updates: int) -> float:
    """The learning rate of update k."""
    if policy == "constant":
        return lr
    at = k / (updates - 1) if updates > 1 else 0.0
    return float(np.interp(at, [0, 0.45, 0.9, 1], [lr / 10, lr, lr / 10, lr / 1000]))


def training(model: nn.Module) -> None:
    """A model that is in evaluation mode as a whole is trained; parts that are stay so."""
    if not any(module.training for module in model.modules()):
        model.train()
    model.training = True


def plain(
    model, criterion, optimizer, groups, rates, clip, bf16=False, smoothing=0.0, after=None, noise=None
) -> tuple[list[float], list[Any]]:
    """The loop: the losses of the updates, and their metrics.

    `after` is called with the number of updates so far, and `noise` with the parameters before each step.
    """
    losses, metrics = [], []
    smoothed = partial(criterion, **{"label_smoothing": smoothing} if smoothing else {})
    first = [float(group["lr"]) for group in optimizer.param_groups]
    for module in (model, criterion):
        if isinstance(module, nn.Module):
            training(module)
    for k, (batches, lr) in enumerate(zip(groups, rates, strict=True)):
        for group, own_lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * own_lr / max(first)
        torch.manual_seed(derive_seed(0, "update", k))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, outputs, targets = whole_loss(smoothed, model, batches)
        loss.backward()
        if len(batches) > 1 and loss.isnan():  # parts that weigh nothing add nothing, where torch would add NaN
            no_gradients(model)
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        if noise:
            noise([p for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
        optimizer.step()
        losses.append(loss.item())
        metrics.append(metrics_of(criterion, outputs, targets))
        if smoothing:
            metrics[-1]["loss_unsmoothed"] = criterion(outputs.detach(), targets).item()
        if after is not None:
            after(k + 1)
    return losses, metrics


def no_gradients(model: nn.Module) -> None:
    """Zero, where there is a gradient."""
    for p in model.parameters():
        p.grad = None if p.grad is None else torch.zeros_like(p)


class Noise:
    """Gradients that are off by what summing such large ones in another order would make; weights by as much."""

    def __init__(self, ulp: float, seed: int):
        self.ulp, self.generator = ulp, torch.Generator().manual_seed(seed)

    def weights(self, parameters: Iterable[nn.Parameter]) -> None:
        for p in parameters if self.ulp else ():
            p.data.mul_(1 + self.ulp * torch.randn(p.shape, generator=self.generator, dtype=p.dtype))

    def __call__(self, parameters: Sequence[nn.Parameter]) -> None:
        parameters = [p for p in parameters if self.ulp and p.grad is not None and not p.grad.is_sparse]
        largest = max((float(p.grad.abs().max()) for p in parameters), default=0.0)
        for p in parameters:
            p.grad.add_(torch.randn(p.shape, generator=self.generator, dtype=p.dtype), alpha=self.ulp * largest)


class Watching:
    """What goes on beside the loop: a moving average of the weights, validation, and the best weights of it."""

    def __init__(self, model, criterion, validate, dues, average=None, keep_best=None):
        self.of_loss = criterion if isinstance(criterion, nn.Module) else nn.Module()
        self.model, self.validate, self.dues, self.average, self.keep_best = model, validate, dues, average, keep_best
        self.averages: Any = None
        self.valid: dict[int, dict[str, float]] = {}
        self.best: Any = None

    def __call__(self, updates: int) -> None:
        now = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            old, keep = self.averages or now, min(self.average, (1 + updates) / (10 + updates))
            mixed = {name: keep * old[name] + (1 - keep) * t for name, t in now.items() if t.is_floating_point()}
            self.averages = {**now, **mixed}
        if updates not in self.dues:
            return
        self.model.load_state_dict(self.averages or now)
        self.valid[updates] = numbers = self.validate()
        if self.keep_best and (self.best is None or numbers[self.keep_best] < self.best[0]):
            of_loss = {name: tensor.clone() for name, tensor in self.of_loss.state_dict().items()}
            self.best = numbers[self.keep_best], self.averages or now, of_loss
        self.model.load_state_dict(now)

    def end(self) -> None:
        """Give the model what it is to end with."""
        if self.best or self.averages:
            self.model.load_state_dict(self.best[1] if self.best else self.averages)
        if self.best:
            self.of_loss.load_state_dict(self.best[2])


def estimate(model: nn.Module, batches: Sequence[Any], bf16: bool) -> None:
    """Give the batch norms in training the means over these batches of the means and variances of their inputs."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    norms = [m for m in norms if m.running_mean is not None]
    before, seen = {name: tensor.clone() for name, tensor in model.state_dict().items()}, {m: [] for m in norms}

    def look(norm: nn.Module, inputs: Any) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        seen[norm] += [(x.mean(1), x.var(1))] if x.shape[1] > 1 else []

    model.eval()
    hooks = [norm.train().register_forward_pre_hook(look) for norm in norms]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for batch in batches if norms else ():
            with suppress(ValueError):  # of a single sample, which has no variance
                model(batch[0])
    for hook in hooks:
        hook.remove()
    model.load_state_dict(before)
    for norm, both in seen.items():
        means, variances = (torch.stack(part).mean(0) for part in zip(*both, strict=True))
        norm.running_mean.copy_(means)
        norm.running_var.copy_(variances)


def predicted(model: nn.Module, criterion: Any, batches: Sequence[Tensor], bf16: bool) -> Any:
    """Probabilities, where the outputs stand for such; else the outputs, in the units of the targets."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [model.eval()(x) for x in batches]
    if not isinstance(parts[0], Tensor):
        return None
    outputs = torch.cat(parts)
    outputs = outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    if isinstance(criterion, InUnits):
        return outputs * criterion.scale[1].to(outputs.dtype) + criterion.scale[0].to(outputs.dtype)
    name = name_of(criterion)
    if name in ("cross_entropy", "CrossEntropyLoss", "last_axis"):
        return outputs.softmax(-1 if name == "last_axis" else 1)
    if name == "nll_loss" or name == "NLLLoss":
        return outputs.exp()
    return outputs.sigmoid() if "ogits" in name or name == "MultiLabelSoftMarginLoss" else outputs


def measured(model: nn.Module, criterion: Any, batches: Sequence[Any], bf16: bool) -> dict[str, float]:
    """Loss and metrics of all samples, as if they were one batch."""
    parts = [part for top in (model, criterion) if isinstance(top, nn.Module) for part in top.modules()]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, outputs, targets = whole_loss(criterion, model, batches)
    for part, mode in zip(parts, modes, strict=True):
        part.training = mode
    return {"loss": loss.item(), **metrics_of(criterion, outputs, targets)}


def metrics_of(criterion: Any, outputs: Any, targets: Any) -> dict[str, float]:
    """The metrics that have a name, by formulas over one batch."""
    if outputs is None:
        return {}
    outputs, name = outputs.detach(), name_of(criterion)
    if isinstance(criterion, InUnits):
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        outputs = outputs * criterion.scale[1].to(outputs.dtype) + criterion.scale[0].to(outputs.dtype)
    numbers = {"spread": outputs.abs().mean()}
    if is_classes(criterion):
        axis = -1 if name == "last_axis" else 1
        targets = targets.argmax(axis) if targets.shape == outputs.shape else targets
        ignored = ignored_by(criterion)
        counted = targets != ignored if name != "MultiMarginLoss" else targets >= 0
        outputs, targets = outputs.movedim(axis, -1)[counted], targets[counted]
        numbers |= {**of_classes(outputs.argmax(-1), targets), "f1": f1(outputs.argmax(-1), targets)}
        numbers["top2"] = (outputs.topk(2).indices == targets[:, None]).any(1).float().mean()
        numbers["multiclassaccuracy"] = f1(outputs.argmax(-1), targets, beta=1e9)
    elif "logits" in name or "Logits" in name or name == "MultiLabelSoftMarginLoss":
        predicted, targets = (outputs > 0).long(), (targets > 0.5).long()
        numbers |= of_classes(predicted, targets)
        if outputs.ndim < 2 or outputs.shape[1] == 1:
            numbers["f1"] = f1(predicted, targets, [1])
    elif name not in FREE:
        errors, spreads = (outputs - targets).double(), targets.double() - targets.double().mean(0)
        numbers |= {"mae": errors.abs().mean(), "rmse": errors.square().mean().sqrt()}
        numbers["r2"] = (1 - errors.square().sum(0) / spreads.square().sum(0)).mean()
    return {key: float(value) for key, value in numbers.items()}


def of_classes(predicted: Tensor, targets: Tensor) -> dict[str, Any]:
    """The share that is right, and the mean over the classes there of theirs."""
    right = (predicted == targets).float()
    shares = [right[targets == c].mean() for c in targets.unique()]
    return {"accuracy": right.mean(), "balanced_accuracy": torch.stack(shares).mean() if shares else torch.nan}


def f1(predicted: Tensor, targets: Tensor, classes: Sequence[int] | None = None, beta: float = 1.0) -> float:
    """The mean of F-beta over the classes that are targets or predicted; of a large beta, of the recalls."""
    scores = []
    for c in torch.cat([predicted, targets]).unique().tolist() if classes is None else classes:
        hits, given, there = (int(x.sum()) for x in ((predicted == c) & (targets == c), predicted == c, targets == c))
        scores.append((1 + beta**2) * hits / (given + beta**2 * there) if given + there else 0.0)
    return float(np.mean(scores)) if scores else float("nan")

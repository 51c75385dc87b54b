"""What plain torch makes of a training: the losses, the loop and the metrics, as the documentation describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
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


def last_axis(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the classes along the last axis."""
    return F.cross_entropy(outputs.movedim(-1, 1), targets)


NAMED = {
    "cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits, "poisson": F.poisson_nll_loss,
}  # fmt: skip
CLASSES = ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss", "MultiMarginLoss", "last_axis")
FREE = ("Scaled", "plain_criterion", "MultiLabelMarginLoss", "owned")


def name_of(criterion: Any) -> str:
    """The name of the function or class of a criterion."""
    while isinstance(criterion, partial):
        criterion = criterion.func
    return "owned" if hasattr(criterion, "owned") else getattr(criterion, "__name__", type(criterion).__name__)


def is_classes(criterion: Any) -> bool:
    """Whether a criterion takes whole targets, or distributions."""
    return name_of(criterion) in CLASSES


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
        sizes = [len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]) for batch in batches]
        parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        weights = [part[2] if len(part) == 3 else size for part, size in zip(parts, sizes, strict=True)]
        return weighted(parts, weights), None, None
    both = [shaped(criterion, model(x), y) for x, y in batches]
    outputs, targets = (torch.cat(part) for part in zip(*both, strict=True))
    if name_of(criterion) in FREE:
        return weighted([(criterion(*pair),) for pair in both], [len(x) for x, _ in both]), outputs, targets
    loss = criterion(outputs, targets)
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

    Norms without anything to be trained around them keep their statistics.
    """
    groups = [group["params"] for group in getattr(optimizer, "param_groups", ())]
    layers = groups if len(groups) > 1 else layers_of(model)
    for p in [p for layer in layers for p in layer]:
        p.requires_grad_(any(p is q for q in layers[-1]))
    for holder in model.modules():
        for part in (holder, *holder.children()):
            still = list(part.parameters()) or list(holder.parameters())
            if getattr(part, "running_mean", None) is not None and not any(p.requires_grad for p in still):
                part.eval()


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


def plain(model, criterion, optimizer, groups, rates, clip, bf16=False) -> tuple[list[float], list[Any]]:
    """The loop: the losses of the updates, and their metrics."""
    losses, metrics = [], []
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
            loss, outputs, targets = whole_loss(criterion, model, batches)
        loss.backward()
        if len(batches) > 1 and loss.isnan():  # parts that weigh nothing add nothing, where torch would add NaN
            for p in model.parameters():
                p.grad = None if p.grad is None else torch.zeros_like(p)
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        losses.append(loss.item())
        metrics.append(metrics_of(criterion, outputs, targets))
    return losses, metrics


def measured(model: nn.Module, criterion: Any, batches: Sequence[Any], bf16: bool) -> dict[str, float]:
    """Loss and metrics of all samples, as if they were one batch."""
    for module in (model, criterion):
        if isinstance(module, nn.Module):
            module.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, outputs, targets = whole_loss(criterion, model, batches)
    return {"loss": loss.item(), **metrics_of(criterion, outputs, targets)}


def metrics_of(criterion: Any, outputs: Any, targets: Any) -> dict[str, float]:
    """The metrics that have a name, by formulas over one batch."""
    if outputs is None:
        return {}
    outputs, name = outputs.detach(), name_of(criterion)
    numbers = {"spread": outputs.abs().mean()}
    if is_classes(criterion):
        axis = -1 if name == "last_axis" else 1
        targets = targets.argmax(axis) if targets.shape == outputs.shape else targets
        ignored = getattr(criterion, "ignore_index", getattr(criterion, "keywords", {}).get("ignore_index", -100))
        counted = targets != ignored if name != "MultiMarginLoss" else targets >= 0
        outputs, targets = outputs.movedim(axis, -1)[counted], targets[counted]
        numbers |= {**of_classes(outputs.argmax(-1), targets), "f1": f1(outputs.argmax(-1), targets)}
        numbers["top2"] = (outputs.topk(2).indices == targets[:, None]).any(1).float().mean()
        numbers["multiclassaccuracy"] = f1(outputs.argmax(-1), targets, beta=1000)
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

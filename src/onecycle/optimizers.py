"""Optimizers by name, and the parameter groups that they get."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """An optimizer with the settings that are its defaults here: measured, see docs/log.md."""

    make: Callable[..., Optimizer]
    lr_max: float
    momentum: float
    weight_decay: float
    options: dict[str, Any] = field(default_factory=dict)


RECIPES: dict[str, Recipe] = {
    "sgd": Recipe(
        torch.optim.SGD, lr_max=0.4, momentum=0.9, weight_decay=5e-4, options={"nesterov": True, "fused": True}
    ),
    "adam": Recipe(torch.optim.Adam, lr_max=0.005, momentum=0.9, weight_decay=0.0, options={"fused": True}),
    "adamw": Recipe(torch.optim.AdamW, lr_max=0.005, momentum=0.9, weight_decay=0.05, options={"fused": True}),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"unknown optimizer {name!r}: {did_you_mean(str(name), RECIPES)}, or any class of torch.optim"
        )
    return RECIPES[name]


def build_optimizer(
    optimizer: Any,
    model: nn.Module,
    *,
    momentum: float | None = None,
    weight_decay: float | None = None,
    layers: Sequence[Sequence[nn.Parameter]] | None = None,
) -> tuple[Optimizer, list[str]]:
    """An optimizer over the model's parameters, and notes that say what was decided.

    Args:
        optimizer: a name of `RECIPES`, a class of torch.optim, a factory from parameter groups, or an instance, which
            is used as it is.
        momentum: of SGD, or beta1 of Adam's kin; None: the recipe's, or the class's own.
        weight_decay: of weights with two or more dimensions; biases and the scales and shifts of norms get none.
        layers: the layer groups, first to last, that `lr_max=slice(a, b)` is spread over; None: by the model's children.

    Raises:
        ConfigError: an unknown name, or an optimizer of another model.
    """
    if isinstance(optimizer, Optimizer):
        _check_same_model(optimizer, model)
        return optimizer, []
    recipe_ = recipe(optimizer) if isinstance(optimizer, str) else None
    make = recipe_.make if recipe_ else optimizer
    if not callable(make):
        raise ConfigError(f"optimizer is a name, a class, a factory or an instance; received {optimizer!r}")
    momentum = recipe_.momentum if recipe_ and momentum is None else momentum
    decay = recipe_.weight_decay if recipe_ and weight_decay is None else weight_decay
    groups = parameter_groups(model, decay, layers)
    made = make(groups, **_arguments(make, recipe_, momentum))
    if not isinstance(made, Optimizer):
        raise ConfigError(f"the optimizer factory must return a torch optimizer; received {made!r}")
    notes = [f"weight decay {decay:g} on weights, none on biases and norms"] if decay else []
    return made, notes


def parameter_groups(
    model: nn.Module, weight_decay: float | None, layers: Sequence[Sequence[nn.Parameter]] | None = None
) -> list[dict[str, Any]]:
    """Two groups for each layer group, with and without weight decay; the key ``layer`` counts them from the input.

    >>> [(g["layer"], g["weight_decay"]) for g in parameter_groups(nn.Linear(2, 1), 0.1)]
    [(0, 0.1), (0, 0.0)]
    """
    groups: list[dict[str, Any]] = []
    for i, layer in enumerate(layer_groups(model) if layers is None else layers):
        for decayed in (True, False):
            params = [p for p in layer if (p.ndim > 1) is decayed]
            if params:
                group = {"params": params, "layer": i, "lr_ratio": 1.0}
                if weight_decay is not None:
                    group |= {"weight_decay": weight_decay * decayed, "weight_decay_ratio": float(decayed)}
                groups.append(group)
    if not groups:
        raise ConfigError("the model has no parameters to train")
    return groups


def layer_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters by the model's children, from the input on; a single child is looked into.

    Each parameter is in one group only; those that belong to no child come first.
    """
    children = [child for child in model.children() if any(True for _ in child.parameters())]
    own = list(model.parameters(recurse=False))
    if len(children) == 1 and not own:
        return layer_groups(children[0])
    seen: set[int] = set()
    groups = []
    for params in [own, *(list(child.parameters()) for child in children)]:
        fresh = [p for p in params if id(p) not in seen]
        seen.update(map(id, fresh))
        if fresh:
            groups.append(fresh)
    return groups


def spread(optimizer: Optimizer, lowest: float | None, highest: float) -> None:
    """Give the layer groups learning rates from `lowest` to `highest`, in equal ratios; the last gets `highest`.

    Without `lowest`, all but the last get a tenth, as in fastai. Source: Howard & Ruder, 1801.06146, section 3.2.
    """
    layers = [group.get("layer", i) for i, group in enumerate(optimizer.param_groups)]
    last = max(layers)
    for group, layer in zip(optimizer.param_groups, layers, strict=True):
        group.setdefault("lr_ratio_before", group.get("lr_ratio", 1.0))
        if lowest is None:
            group["lr_ratio"] = 1.0 if layer == last else 0.1
        else:
            group["lr_ratio"] = (lowest / highest) ** ((last - layer) / last) if last else 1.0


def gather(optimizer: Optimizer) -> None:
    """Undo `spread`."""
    for group in optimizer.param_groups:
        if "lr_ratio_before" in group:
            group["lr_ratio"] = group.pop("lr_ratio_before")


def _arguments(make: Any, recipe_: Recipe | None, momentum: float | None) -> dict[str, Any]:
    if recipe_ is None:
        names = inspect.signature(make).parameters if momentum is not None else {}
        if momentum is None:
            return {}
    else:
        names = inspect.signature(make).parameters
    own = {"momentum": momentum} if "momentum" in names else {"betas": (momentum, 0.99)}
    return {"lr": recipe_.lr_max, **own, **recipe_.options} if recipe_ else own


def _check_same_model(optimizer: Optimizer, model: nn.Module) -> None:
    own = {id(p) for p in model.parameters()}
    theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not own & theirs:
        raise ConfigError("this optimizer holds no parameter of this model: make it from model.parameters()")

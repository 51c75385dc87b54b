"""Optimizers by name, and the parameter groups that they get."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .. import text
from ..checks import number, one_of, unless_none
from ..data.batch_settings import BATCH_SIZE
from ..errors import ConfigError
from .muon import Muon, inner_matrices, weights_of
from .shared import is_sharded


@dataclass(frozen=True)
class Recipe:
    """An optimizer with the settings that are its defaults here: measured, see docs/log.md.

    `lr_max` is its peak for updates of up to 64 samples; beyond, it grows with that power of them, `grows`.
    """

    make: Callable[..., Optimizer]
    lr_max: float
    momentum: float
    weight_decay: float
    grows: float
    options: dict[str, Any] = field(default_factory=dict)

    def peak(self, samples: int | None) -> float:
        """The default peak for updates of so many samples; None where that is not known.

        >>> [recipe("adamw").peak(samples) for samples in (16, 64, 256, None)]
        [0.007, 0.007, 0.014, 0.007]
        """
        return float(f"{self.lr_max * max(1.0, (samples or BATCH_SIZE) / BATCH_SIZE) ** self.grows:.3g}")


RECIPES: dict[str, Recipe] = {
    "sgd": Recipe(
        torch.optim.SGD,
        lr_max=0.2,
        momentum=0.9,
        weight_decay=5e-4,
        grows=0.0,
        options={"nesterov": True, "fused": True},
    ),
    "adam": Recipe(torch.optim.Adam, lr_max=0.005, momentum=0.9, weight_decay=0.0, grows=0.5, options={"fused": True}),
    "adamw": Recipe(
        torch.optim.AdamW, lr_max=0.007, momentum=0.9, weight_decay=0.05, grows=0.5, options={"fused": True}
    ),
    "muon": Recipe(Muon, lr_max=0.04, momentum=0.8, weight_decay=0.1, grows=0.0),
}

# By how an optimizer makes its update of a gradient.
TYPICAL = {"gradient": RECIPES["sgd"], "adaptive": RECIPES["adamw"], "orthogonal": RECIPES["muon"]}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ConfigError: an unknown name.
    """
    return RECIPES[one_of("optimizer", name, RECIPES, ', "auto", or any class of torch.optim')]


def build_optimizer(
    optimizer: Any,
    model: nn.Module,
    *,
    momentum: float | None = None,
    weight_decay: float | None = None,
    beside: nn.Module | None = None,
    by_adamw: Sequence[nn.Parameter] = (),
) -> tuple[Optimizer, list[str]]:
    """An optimizer over the model's parameters, and notes that say what was decided.

    Args:
        optimizer: a name of `RECIPES`, a class of torch.optim, a factory from parameter groups, or an instance, which
            is used as it is.
        momentum: of SGD, or beta1 of Adam's kin; None: the recipe's, or the class's own.
        weight_decay: of weights with two or more dimensions; None: the recipe's, or the class's own. Biases and the
            scales and shifts of norms get none.
        by_adamw: matrices inside the network that Muon is to leave to its AdamW.
        beside: the module of a loss, whose parameters are trained with the model's, without weight decay.

    Raises:
        ConfigError: an unknown name, what does not make an optimizer, an optimizer of another model, or no parameters.
    """
    _refuse_closures(optimizer)
    if isinstance(optimizer, Optimizer):
        check_same_model(optimizer, model)
        check_steps(optimizer, model)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        left = sum(p.requires_grad and id(p) not in held for p in _parameters(beside))
        return optimizer, [f"the optimizer leaves out {text.count(left, 'parameter')} of the loss"] if left else []
    weight_decay = unless_none(number, "weight_decay", weight_decay, least=0, example="5e-4")
    momentum = unless_none(number, "momentum", momentum)
    named = recipe(optimizer) if isinstance(optimizer, str) else None
    make = named.make if named else optimizer
    if not callable(make):
        raise ConfigError(f"optimizer is a name, a class, a factory or an instance; received {optimizer!r}")
    momentum = named.momentum if named and momentum is None else momentum
    decay = named.weight_decay if named and weight_decay is None else weight_decay
    groups = muon_groups(model, decay, momentum, by_adamw) if make is Muon else parameter_groups(model, decay)
    held = {id(p) for group in groups for p in group["params"]}
    if more := [p for p in _parameters(beside) if id(p) not in held]:
        groups.append({"params": more, "lr_ratio": 1.0, "weight_decay_ratio": 0.0, "weight_decay": 0.0})
    if not groups:
        raise ConfigError("the model has no parameters to train")
    try:
        made = make(groups, **_arguments(make, named, momentum, groups))
    except (TypeError, ValueError) as error:
        name = getattr(make, "__name__", None) or repr(make)
        raise ConfigError(f"{name} cannot be made from the model's parameter groups: {error}") from error
    if not isinstance(made, Optimizer):
        raise ConfigError(f"the optimizer factory must return a torch optimizer; received {made!r}")
    check_steps(made, model)
    return made, _decay_weights_alone(made)


def parameter_groups(model: nn.Module, weight_decay: float | None) -> list[dict[str, Any]]:
    """Weights in one group, and biases, scales and shifts in another, without weight decay.

    >>> [(len(g["params"]), g["weight_decay"]) for g in parameter_groups(nn.Linear(2, 1), 0.1)]
    [(1, 0.1), (1, 0.0)]
    """
    groups: list[dict[str, Any]] = []
    weights = {id(p) for p in weights_of(model)}
    for decayed in (True, False):
        params = [p for p in model.parameters() if (id(p) in weights) is decayed]
        if params:
            decay = {} if weight_decay is None else {"weight_decay": weight_decay * decayed}
            groups.append({"params": params, "lr_ratio": 1.0, "weight_decay_ratio": float(decayed), **decay})
    return groups


def muon_groups(
    model: nn.Module, weight_decay: float | None, momentum: float | None, by_adamw: Sequence[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """The matrices inside the network in a group for Muon; the rest, without weight decay, in one for its AdamW.

    Inner matrices that AdamW is to update decay as the others.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    >>> [(len(g["params"]), g.get("momentum")) for g in muon_groups(model, 0.1, 0.8)]
    [(1, 0.8), (3, None)]
    """
    inside = inner_matrices(model)
    held, left = {id(p) for p in inside}, {id(p) for p in by_adamw}
    rest = [p for p in model.parameters() if id(p) not in held]
    decay, mu = weight_decay or 0.0, RECIPES["muon"].momentum if momentum is None else momentum
    decayed = {"weight_decay": decay, "weight_decay_ratio": 1.0, "lr_ratio": 1.0}
    groups = [
        {"params": [p for p in inside if id(p) not in left], "momentum": mu, **decayed},
        {"params": [p for p in inside if id(p) in left], **decayed},
        {"params": rest, "weight_decay": 0.0, "weight_decay_ratio": 0.0, "lr_ratio": 1.0},
    ]
    return [group for group in groups if group["params"]]


_TAKE_SPARSE = (torch.optim.SGD, torch.optim.SparseAdam, torch.optim.Adagrad)


def check_steps(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer whose `step` would fail at the first update."""
    name = type(optimizer).__name__
    sparse = sparse_layers(model)
    if isinstance(optimizer, torch.optim.SparseAdam):
        held = {id(p) for layer in sparse.values() for p in layer.parameters()}
        if any(id(p) not in held and p.requires_grad for group in optimizer.param_groups for p in group["params"]):
            raise ConfigError(
                f"{name} is for sparse gradients alone, and those of {type(model).__name__} are not all sparse: give "
                "another optimizer, such as torch.optim.SGD(model.parameters(), lr=0.1)"
            )
    if sparse and (not isinstance(optimizer, _TAKE_SPARSE) or _decays_or_fuses(optimizer)):
        raise ConfigError(
            f"the gradients of {next(iter(sparse))} are sparse, which {name} does not take with these "
            "settings: build the embedding with sparse=False, or give an optimizer such as "
            "torch.optim.SGD(model.parameters(), lr=0.1)"
        )


def sparse_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose gradients are sparse, by name: embeddings that are so built, and trained."""
    sparse = [(name, layer) for name, layer in model.named_modules() if getattr(layer, "sparse", False) is True]
    trained = [(name, layer) for name, layer in sparse if any(p.requires_grad for p in layer.parameters())]
    return {name or type(layer).__name__: layer for name, layer in trained}


def check_clip(clip: float | None, model: nn.Module) -> None:
    """Refuse to clip sparse gradients, whose norm torch does not take."""
    if clip is not None and (sparse := sparse_layers(model)):
        raise ConfigError(
            f"clip={clip} is for dense gradients, and those of {next(iter(sparse))} are sparse: leave out clip, or "
            "build the embedding with sparse=False"
        )


def _refuse_closures(optimizer: Any) -> None:
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    if issubclass(kind, torch.optim.LBFGS):
        raise ConfigError(
            f"{kind.__name__} evaluates the loss several times a step, and is not for training in batches: use another "
            'optimizer, such as "adamw"'
        )


def _decays_or_fuses(optimizer: Optimizer) -> bool:
    return any(group.get("weight_decay") or group.get("fused") for group in optimizer.param_groups)


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())


def _arguments(make: Any, named: Recipe | None, momentum: float | None, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What to call an optimizer with: a recipe's settings, and momentum under the name that it has there."""
    settings = {"lr": named.lr_max, **named.options} if named else {}
    params = [p for group in groups for p in group["params"]]
    sharded = make is torch.optim.SGD and any(map(is_sharded, params))
    if settings.get("fused") and (sharded or any(p.is_complex() for p in params)):
        settings["fused"] = False  # whose kernels take real numbers alone, and that of SGD no shards
    if momentum is None or make is Muon:  # whose groups have it
        return settings
    if make is torch.optim.SGD or "momentum" in inspect.signature(make).parameters:
        return {**settings, "momentum": momentum}
    return {**settings, "betas": (momentum, 0.99)}


def _decay_weights_alone(optimizer: Optimizer) -> list[str]:
    """Take a class's own weight decay from biases and norms too; the note that says what is decayed."""
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] *= group.get("weight_decay_ratio", 1.0)
    most = max(float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups)
    return [f"weight decay {most:g} on weights, none on biases and norms"] if most else []


def check_same_model(optimizer: Optimizer, *modules: nn.Module) -> None:
    """Raise a ConfigError for an optimizer of other modules."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for module in modules for p in module.parameters()}:
        raise ConfigError("this optimizer holds no parameter of this model: make it from model.parameters()")

"""Layer groups: the parameters of a model from input to output, and what is trained of them, at which rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import ConfigError

# A child that holds more than this share of a model's parameters gives its place to its children, where asked for.
LARGE = 1 / 3


@dataclass(frozen=True)
class RunOrder:
    """The order in which the modules of a model are run.

    Args:
        places: by module that has parameters of its own, when it was first called; those that never were are not in it.
        last: the modules whose output was that of the model, itself and then the outermost first.
        times: how often each of these was called.
    """

    places: dict[nn.Module, int]
    last: tuple[nn.Module, ...] = ()
    times: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, run: Callable[[], Any]) -> RunOrder:
        """That of `run`, which calls the model."""
        places: dict[nn.Module, int] = {}
        returned: dict[nn.Module, tuple[Any, int]] = {}

        def before(module: nn.Module, inputs: Any) -> None:
            if module._parameters:
                places.setdefault(module, len(places))

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            returned[module] = output, returned.get(module, (None, 0))[1] + 1

        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
            run()
        output = returned.get(model, (None, 0))[0]
        last = [m for m in model.modules() if output is not None and m in returned and returned[m][0] is output]
        return cls(places, tuple(last), tuple(returned[m][1] for m in last))

    def place(self, module: nn.Module) -> float:
        """When the first module within `module` was run; of one that never was before all others."""
        return min((self.places[m] for m in module.modules() if m in self.places), default=-1)


def head_of(model: nn.Module, order: RunOrder, name: str | None = None) -> nn.Module | None:
    """The module that makes the outputs from the features: the one called `name`, or the last that is run.

    That is the outermost one whose output is the model's and that holds less than half of its parameters. None where
    there is none, such as where the outputs are computed from those of several modules, or the module is called more
    than once.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> head_of(model, RunOrder.of(model, lambda: model(torch.ones(1, 4)))) is model[2]
    True
    """
    whole = sum(p.numel() for p in model.parameters())
    named = None if name is None else dict(model.named_modules()).get(name)
    for module, times in zip(order.last, order.times, strict=True):
        size = sum(p.numel() for p in module.parameters())
        if times == 1 and (module is named if named is not None else 0 < size < whole / 2):
            return module
    return None


def layers_of(
    model: nn.Module,
    optimizer: Optimizer,
    given: Sequence[nn.Module] | None = None,
    order: Callable[[], RunOrder] | None = None,
    *,
    deep: bool = False,
) -> list[list[nn.Parameter]]:
    """The layer groups: the user's, those of an optimizer that came with several groups, or `layer_groups`.

    Raises:
        ConfigError: modules that do not hold all of the model.
    """
    if given is None:
        groups = optimizer.param_groups
        by_the_user = len(groups) > 1 and not any("lr_ratio" in group for group in groups)
        if by_the_user:
            return [group["params"] for group in groups]
        return layer_groups(model, order and order(), deep=deep)
    layers = [list(module.parameters()) for module in given]
    held = {id(p) for layer in layers for p in layer}
    missing = [name for name, p in model.named_parameters() if id(p) not in held]
    if missing:
        raise ConfigError(f"layer_groups must hold all of the model; {missing[0]} is in none of them")
    return layers


def layer_groups(model: nn.Module, order: RunOrder | None = None, *, deep: bool = False) -> list[list[nn.Parameter]]:
    """The parameters by the model's children, from the input on; a single child is looked into.

    Each parameter is in one group only; those that belong to no child come first. With the `order` in which modules are
    run, groups come in that, else as they were registered. With `deep`, a child that holds more than `LARGE` of the
    parameters gives its place to its children, as does one of them: so that a network with all its blocks in one
    module has groups of them.
    """
    children = [child for child in model.children() if any(True for _ in child.parameters())]
    direct = list(model.parameters(recurse=False))
    if len(children) == 1 and not direct:
        return layer_groups(children[0], order, deep=deep)
    size = sum(p.numel() for p in model.parameters()) * LARGE if deep else math.inf
    seen: set[int] = set()
    groups = []
    for params in (direct, *(part for child in _in_order(children, order) for part in _parts(child, size, order))):
        fresh = [p for p in params if id(p) not in seen]
        seen.update(map(id, fresh))
        if fresh:
            groups.append(fresh)
    return groups


def _in_order(modules: Iterable[nn.Module], order: RunOrder | None) -> list[nn.Module]:
    return list(modules) if order is None else sorted(modules, key=order.place)


def _parts(module: nn.Module, most: float, order: RunOrder | None) -> Iterator[list[nn.Parameter]]:
    """The parameters of a module, by its children where it has them and more than `most`."""
    params, children = list(module.parameters()), list(module.children())
    if sum(p.numel() for p in params) <= most or not children:
        yield params
        return
    yield list(module.parameters(recurse=False))
    for child in _in_order(children, order):
        yield from _parts(child, most, order)


def split_by_layer(
    optimizer: Optimizer, layers: Sequence[Sequence[nn.Parameter]], factors: Sequence[float] | None = None
) -> None:
    """Split parameter groups in place, so that each is of one layer; its number is the group's key ``layer``.

    Parameters of no layer count as the last's. Groups that have been split stay as they are. Updates are the same, bit
    for bit: a group's settings are those of the group that it came from.

    Raises:
        ConfigError: `factors`, where they are given, are not one for each layer.
    """
    if factors is not None and len(factors) != len(layers):
        raise ConfigError(f"the policy has factors for {len(factors)} layers, and the model {len(layers)} layer groups")
    layer_of = {id(p): i for i, layer in enumerate(layers) for p in layer}
    split = []
    for group in optimizer.param_groups:
        parts: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(layer_of.get(id(parameter), len(layers) - 1), []).append(parameter)
        split += [group] if "layer" in group else [{**group, "params": p, "layer": i} for i, p in parts.items()]
    optimizer.param_groups[:] = split


def freeze(layers: Sequence[Sequence[nn.Parameter]], count: int) -> None:
    """Do not train the first `count` layers, and train the others.

    Raises:
        ConfigError: none would be left to train.
    """
    last = len(layers) - 1
    if not 0 <= count <= last:
        raise ConfigError(f"layers to freeze are 0 to {last}, so that one is left to train; received {count!r}")
    for i, layer in enumerate(layers):
        for parameter in layer:
            parameter.requires_grad_(i >= count)
            parameter.grad = None


@contextmanager
def last_alone(model: nn.Module, layers: Sequence[Sequence[nn.Parameter]]) -> Iterator[None]:
    """Train the last layer alone within the block, with what is before it in evaluation mode; both are put back."""
    trained = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for parameter in (p for layer in layers[:-1] for p in layer):
            parameter.requires_grad_(False)
            parameter.grad = None
        for module in frozen_modules(model):
            module.training = False
        yield
    finally:
        for parameter, before in trained:
            parameter.requires_grad_(before)
        for module, mode in modes:
            module.training = mode


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules all of whose parameters are frozen, with all that is in them; those without any go by what is around.

    >>> model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)), nn.Linear(2, 1))
    >>> freeze(layer_groups(model), 1)
    >>> frozen_modules(model) == [model[0], model[0][0], model[0][1]]
    True
    """
    frozen: list[nn.Module] = []

    def visit(module: nn.Module, around: bool) -> None:
        parameters = list(module.parameters())
        still = not any(p.requires_grad for p in parameters) if parameters else around
        if still:
            frozen.append(module)
        for child in module.children():
            visit(child, still)

    visit(model, False)
    return frozen

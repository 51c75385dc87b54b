"""From a policy to the parameter groups of an optimizer: the share of each value that a group gets, and its writing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from ..checks import unwrapped
from ..errors import ConfigError
from ..schedules.policy import Policy


def bind(policy: Policy, optimizer: Optimizer) -> None:
    """Give the parameter groups their ratios, once: groups that have one keep it.

    A group's value is the scheduled one times the group's ratio, ``group["lr_ratio"]`` and so on. The ratios come from
    the values that the groups have, the largest being 1. So discriminative learning rates keep their proportions,
    groups without weight decay stay without, and so does an optimizer without momentum. A group added later takes part
    in full, unless it comes with a ratio, or without weight decay or momentum of its own. Where the policy has factors
    for `layers`, a group's learning rate goes by these instead, whatever its ratio.

    Raises:
        ConfigError: a name that no group has, or a group of none of the policy's layers.
    """
    count = len(policy.layers)
    if count and not all(group.get("layer") in range(count) for group in optimizer.param_groups):
        raise ConfigError(
            f"a policy with factors for {count} layers needs parameter groups with a key layer, 0 to {count - 1}: "
            "see onecycle.optim.layers.split_by_layer"
        )
    for name in policy.schedules:
        _unshare(optimizer, name)
        _bind(optimizer, name)


# The share of an optimizer among several, kept in its groups as their ratios are: at the end of a policy all are at 0.
AMONG_SEVERAL = "optimizer_ratio"


def scales_of(optimizers: Sequence[Optimizer]) -> list[float]:
    """The largest learning rate of each optimizer as a share of that of the first one; shares that are kept hold."""
    kept = [
        next((group[AMONG_SEVERAL] for group in optimizer.param_groups if AMONG_SEVERAL in group), 0.0)
        for optimizer in optimizers
    ]
    if all(kept):
        return [ratio / kept[0] for ratio in kept]
    peaks = [max((float(g.get("lr") or 0.0) for g in optimizer.param_groups), default=0.0) for optimizer in optimizers]
    return [peak / peaks[0] if peaks[0] else 1.0 for peak in peaks]


def keep_scales(optimizers: Sequence[Optimizer], scales: Sequence[float]) -> None:
    """Keep the shares of several optimizers in their parameter groups, for `scales_of` in the next cycle."""
    if len(optimizers) > 1:
        for optimizer, scale in zip(optimizers, scales, strict=True):
            for group in optimizer.param_groups:
                group[AMONG_SEVERAL] = scale


def write(
    policy: Policy,
    optimizer: Optimizer,
    progress: float,
    factor: float = 1.0,
    groups: Sequence[dict[str, Any]] | None = None,
) -> dict[str, float]:
    """Write the values at `progress` into every parameter group, in place where they are tensors; return them.

    The learning rate is `factor` times the policy's. `groups` are those to write into, where it is not all.

    Values are ``policy(progress)`` to the bit. They are computed here, since calls were most of a scheduler's step, and
    since learning rate and momentum that turn at the same places need one easing between them.
    """
    layers, groups = policy.layers, optimizer.param_groups if groups is None else groups
    values: dict[str, float] = {}
    i, share = 0, 0.0
    for name, ratio, function, turns, spans in policy.plan:
        if function is not None:
            value = function(progress)
        else:
            if turns is not None:
                starts, segments = turns
                i = bisect_right(starts, progress)
                start, width, ease = segments[i]
                share = ease((progress - start) / width)
            a, rise, power = spans[i]
            value = a + rise * share if power is None else a * power**share
        if factor != 1.0 and name == "lr":
            value *= factor
        values[name] = value
        for group in groups:
            if ratio not in group:
                bind(policy, optimizer)
            part = value * (layers[group["layer"]] if layers and name == "lr" else group[ratio])
            if name in group and type(group[name]) is float:  # as most are
                group[name] = part
            else:
                _put(group, name, part)
    return values


def _put(group: dict[str, Any], name: str, value: float) -> None:
    """Write one value: into a tensor in place, and momentum where there is none as the first of the betas."""
    if name in group:
        if isinstance(group[name], torch.Tensor):
            group[name].fill_(value)
        else:
            group[name] = value
    elif name == "momentum" and "betas" in group:
        betas = group["betas"]
        if type(betas[0]) is not float and isinstance(betas[0], torch.Tensor):
            betas[0].fill_(value)
        else:
            group["betas"] = (value, *betas[1:])


def plain_settings(optimizer: Optimizer) -> None:
    """Make numpy's numbers in the parameter groups Python's, as a checkpoint needs them; tensors stay."""
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params":
                group[name] = _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value if isinstance(value, torch.Tensor) else unwrapped(value)


def _read(group: dict[str, Any], name: str) -> Any:
    if name == "momentum" and name not in group and "betas" in group:
        return group["betas"][0]
    return group.get(name)


def _bind(optimizer: Optimizer, name: str) -> None:
    groups, key = optimizer.param_groups, name + "_ratio"
    if name != "momentum" and all(_read(group, name) is None for group in groups):
        raise ConfigError(f"no parameter group has {name!r}; they have {sorted(set(groups[0]) - {'params'})}")
    new = [group for group in groups if key not in group]
    numbers = [float(_read(group, name) or 0.0) for group in new]
    largest = max(numbers, default=0.0)
    for group, number in zip(new, numbers, strict=True):
        if len(new) < len(groups):
            # The others are somewhere on their schedule, so there is nothing to compare with.
            group[key] = float(name == "lr" or number > 0)
        else:
            group[key] = number / largest if largest > 0 else float(name != "momentum")


def _unshare(optimizer: Optimizer, name: str) -> None:
    """A tensor for each group, where torch gives one to all: written in place, it could hold one value only."""
    seen: set[int] = set()
    for group in optimizer.param_groups:
        value = group.get(name)
        if isinstance(value, torch.Tensor):
            if id(value) in seen:
                group[name] = value.clone()
            seen.add(id(value))
        elif name == "momentum" and "betas" in group and isinstance(first := group["betas"][0], torch.Tensor):
            if id(first) in seen:
                group["betas"] = (first.clone(), *group["betas"][1:])
            seen.add(id(first))

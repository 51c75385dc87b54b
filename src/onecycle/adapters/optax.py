"""A policy as schedules of optax, which JAX traces: for `optax.inject_hyperparams`, or wherever optax takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..checks import whole
from ..errors import ConfigError
from ..schedules.policy import WHOLE_RUN, Policy
from .arrays import in_arrays
from .common import host

# What optax's optimizers call the momentum of a policy: the first of these that one has.
MOMENTUM = ("momentum", "b1", "beta", "mu")


def to_optax(
    policy: Policy, updates: int, optimizer: Callable[..., Any] | None = None
) -> dict[str, Callable[[Any], Any]]:
    """The schedules of `policy` over `updates` updates, by optax's names: jittable functions of optax's count.

    optax counts the updates applied, from 0; under `optax.MultiSteps` and `optax.apply_if_finite` too. At each count
    the value is the policy's; past the end it stays.

    Args:
        policy: its schedules are `Piecewise` or numbers. ``lr`` becomes ``learning_rate``; other names stay.
        updates: of the whole run.
        optimizer: the factory that takes them, such as `optax.adamw`: ``momentum`` then becomes the one of
            ``momentum``, ``b1``, ``beta`` and ``mu`` that it has, and is left out where it has none.

    Raises:
        ConfigError: a schedule that is a Python function, factors by layer, or a name that `optimizer` does not take.
        MissingDependency: optax is not installed, or too old.
    """
    jnp = host("jax.numpy", "jax", "0.4.30")
    host("optax", "optax", "0.2")
    whole("updates", updates, what=WHOLE_RUN)
    if policy.layers:
        raise ConfigError(
            "optax has no layer groups: give each its own policy, by optax.multi_transform, instead of factors "
            f"for layers; received {policy.layers}"
        )
    names = {name: _named(name, optimizer) for name in policy.schedules}
    return {
        names[name]: in_arrays(jnp, name, schedule, updates)
        for name, schedule in policy.schedules.items()
        if names[name]
    }


def _named(name: str, optimizer: Callable[..., Any] | None) -> str:
    """What `optimizer` calls `name`; nothing where it has no momentum."""
    plain = "learning_rate" if name == "lr" else name
    if optimizer is None:
        return plain
    known = list(inspect.signature(optimizer).parameters)
    if name == "momentum":
        return next((each for each in MOMENTUM if each in known), "")
    if plain not in known:
        raise ConfigError(f"{getattr(optimizer, '__name__', optimizer)} takes no {plain!r}; it takes {known}")
    return plain

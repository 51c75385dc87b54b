"""Policies as optax's schedules, in optax's own transformations, on JAX's CPU."""

from __future__ import annotations

import numpy as np
import pytest

from onecycle import Piecewise, Policy, one_cycle, preset
from onecycle.adapters.optax import to_optax
from onecycle.errors import ConfigError
from onecycle.schedules.policy import position
from onecycle.schedules.presets import PRESETS

pytest.importorskip("optax")
import jax
import jax.numpy as jnp
import optax

jax.config.update("jax_platforms", "cpu")
LENGTHS = (1, 50)


def exact(schedule, updates, counts):
    return np.array([schedule(position(min(int(k), updates - 1), updates)) for k in counts])


CASES = [
    (f"{name} {key} {updates}", updates, schedule, value)
    for name, make in PRESETS.items()
    for updates in LENGTHS
    for policy in [make(0.3, updates)]
    for schedule, (key, value) in zip(policy.schedules.values(), to_optax(policy, updates).items(), strict=True)
]


@pytest.mark.parametrize("double", [False, True])
def test_every_update_of_every_preset_and_past_the_end(double):
    """In single precision to seven digits, at the small end of a schedule too; in double to the last bit or so."""
    tolerance = {"rtol": 0, "atol": 1e-15} if double else {"rtol": 1e-6, "atol": 1e-12}
    with jax.enable_x64(double):
        got = jax.jit(lambda: {case: jax.vmap(value)(jnp.arange(n + 3)) for case, n, _, value in CASES})()
    for case, updates, schedule, _ in CASES:
        np.testing.assert_allclose(got[case], exact(schedule, updates, range(updates + 3)), **tolerance, err_msg=case)


def test_all_easings_in_a_long_run():
    easings = ("linear", "cosine", "exponential", "one-minus-sqrt", "hold")
    curve = Piecewise(((0, 0.1), (0.2, 1.0), (0.4, 0.5), (0.6, 1e-3), (0.8, 1e-5), (0.9, 2.0)), easings)
    updates = 1_000_003
    counts = np.unique(
        np.concatenate(
            [np.arange(0, updates, 9973), *(int(x * (updates - 1)) + np.arange(-2, 3) for x, _ in curve.points)]
        )
    )
    counts = counts[counts >= 0]
    value = jax.jit(to_optax(Policy({"lr": curve}), updates)["learning_rate"])
    np.testing.assert_allclose(value(jnp.asarray(counts)), exact(curve, updates, counts), rtol=1e-6)


def descend(transformation, updates, gradients=None, state=None, begin=0):
    """The parameter after each step, in jit, and the state at the end."""
    parameter = jnp.asarray(1.0)
    state = transformation.init(parameter) if state is None else state
    step = jax.jit(transformation.update)
    moved = []
    for k in range(begin, updates):
        gradient = jnp.asarray(1.0) if gradients is None else gradients[k]
        change, state = step(gradient, state, parameter)
        moved.append(float(change))
    return moved, state


def test_the_updates_use_the_values_of_their_positions():
    policy = one_cycle(0.5)
    moved, _ = descend(optax.sgd(**to_optax(policy, 10)), 12)
    np.testing.assert_allclose(moved, -exact(policy.schedules["lr"], 10, range(12)), rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "momentum"),
    [
        ("sgd", "momentum"),
        ("rmsprop", "momentum"),
        ("adamw", "b1"),
        ("lion", "b1"),
        ("lamb", "b1"),
        ("sm3", "momentum"),
    ],
)
def test_momentum_goes_by_the_optimizers_own_name(factory, momentum):
    factory = getattr(optax, factory)
    policy = preset("fastai", 0.1)
    values = to_optax(policy, 8, factory)
    assert set(values) == {"learning_rate", momentum}
    injected = optax.inject_hyperparams(factory)(**values)
    state, step = injected.init(jnp.ones(3)), jax.jit(injected.update)
    for k in range(8):
        _, state = step(jnp.ones(3), state, jnp.ones(3))
        want = policy(position(k, 8))
        np.testing.assert_allclose(state.hyperparams["learning_rate"], want["lr"], rtol=1e-6)
        np.testing.assert_allclose(state.hyperparams[momentum], want["momentum"], rtol=1e-6)


def test_an_optimizer_without_momentum_goes_without():
    assert set(to_optax(preset("paper", 0.1), 8, optax.adagrad)) == {"learning_rate"}


def test_weight_decay_is_scheduled_where_the_optimizer_takes_it():
    policy = one_cycle(0.1).with_(weight_decay=Piecewise(((0, 0.1), (1, 0))))
    assert set(to_optax(policy, 8, optax.adamw)) == {"learning_rate", "weight_decay"}
    with pytest.raises(ConfigError, match=r"sgd takes no 'weight_decay'; it takes \['learning_rate'"):
        to_optax(policy, 8, optax.sgd)


def test_a_restored_state_goes_on_exactly():
    """The position is optax's count: it is in the optimizer's state, and nothing else is."""
    made = [optax.inject_hyperparams(optax.adam)(**to_optax(preset("fastai", 0.1), 10, optax.adam)) for _ in range(2)]
    whole, _ = descend(made[0], 10)
    first, state = descend(made[0], 4)
    saved = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    restored = jax.tree.unflatten(jax.tree.structure(state), [jnp.asarray(leaf) for leaf in saved])
    rest, _ = descend(made[1], 10, state=restored, begin=4)
    assert first + rest == whole


def test_accumulated_and_skipped_steps_do_not_count():
    policy = one_cycle(0.5)
    want = -exact(policy.schedules["lr"], 5, range(5))
    sgd = optax.sgd(**to_optax(policy, 5))
    moved, _ = descend(optax.MultiSteps(sgd, every_k_schedule=4).gradient_transformation(), 20)
    np.testing.assert_allclose(moved[3::4], want, rtol=1e-6)
    gradients = [jnp.asarray(float("nan") if k in (1, 4, 5) else 1.0) for k in range(8)]
    moved, _ = descend(optax.apply_if_finite(sgd, 10), 8, gradients)
    np.testing.assert_allclose([m for k, m in enumerate(moved) if k not in (1, 4, 5)], want, rtol=1e-6)


def test_bad_input():
    with pytest.raises(ConfigError, match="schedule of lr is a Python function"):
        to_optax(Policy({"lr": lambda progress: 0.1}), 10)
    with pytest.raises(ConfigError, match="updates is the number of updates of the whole run"):
        to_optax(one_cycle(0.1), None)
    with pytest.raises(ConfigError, match="optax has no layer groups"):
        to_optax(Policy({"lr": 0.1}, layers=(0.1, 1)), 10)


def test_optaxs_own_one_cycle_ends_after_the_last_update():
    """What google-deepmind/optax#1781 says of the end, and where it is reached: why the page says what changes."""
    theirs = optax.cosine_onecycle_schedule(100, 1.0)
    assert float(theirs(100)) == pytest.approx(1 / 25 / 1e4) and float(theirs(99)) == pytest.approx(5.07e-4, rel=1e-2)
    ours = to_optax(preset("fastai", 1.0), 100)["learning_rate"]
    assert float(ours(99)) == pytest.approx(1e-5) and float(ours(100)) == pytest.approx(1e-5)

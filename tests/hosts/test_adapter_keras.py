"""Policies in Keras's own `fit`, on its torch backend; the learning rate on JAX too, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from onecycle import Piecewise, Policy, one_cycle, preset
from onecycle.errors import ConfigError
from onecycle.schedules.policy import position
from onecycle.schedules.presets import PRESETS

pytest.importorskip("keras")
import keras

from onecycle.adapters.keras import PolicyCallback, PolicySchedule

BATCHES = 5


class Seen(keras.callbacks.Callback):
    """Notes what each batch was trained with, and the weight after it."""

    def __init__(self, *names):
        super().__init__()
        self.names, self.values, self.weights = names or ("learning_rate",), [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.values.append([float(getattr(self.model.optimizer, name)) for name in self.names])

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(float(self.model.get_weights()[0][0, 0]))


def outputs(targets, predictions):
    return keras.ops.mean(predictions)


def made(optimizer, **compiled):
    """One weight, at 1, whose gradient is its input, 1: plain SGD moves it by the learning rate."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizer, outputs, **compiled)
    return model


def fit(model, *callbacks, epochs=2, batches=BATCHES, inputs=1.0, **more):
    x = np.full((batches, 1), inputs, "float32")
    return model.fit(x, x, batch_size=1, epochs=epochs, verbose=0, callbacks=list(callbacks), **more)


def values(policy, updates, name="lr"):
    return [policy(position(k, updates))[name] for k in range(updates)]


def moves(seen):
    return -np.diff([1.0, *seen.weights])


def test_each_update_uses_the_value_of_its_position():
    policy, seen = one_cycle(0.1), Seen()
    history = fit(made(keras.optimizers.SGD(1.0)), PolicyCallback(policy), seen)
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 10), rtol=1e-6)
    np.testing.assert_allclose(moves(seen), values(policy, 10), atol=2e-7)
    assert history.history["learning_rate"] == pytest.approx([values(policy, 10)[4], values(policy, 10)[9]])


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (keras.optimizers.SGD(1.0, momentum=0.9), "momentum"),
        (keras.optimizers.RMSprop(1.0, momentum=0.9), "momentum"),
        (keras.optimizers.AdamW(1.0), "beta_1"),
        (keras.optimizers.Lion(1.0), "beta_1"),
    ],
)
def test_momentum_is_cycled_by_the_optimizers_own_name(optimizer, name):
    policy, seen = preset("fastai", 0.1), Seen("learning_rate", name)
    fit(made(optimizer), PolicyCallback(policy), seen)
    want = np.transpose([values(policy, 10), values(policy, 10, "momentum")])
    np.testing.assert_allclose(seen.values, want, rtol=1e-6)


def test_the_momentum_that_is_set_is_used():
    """By hand: v = m v - lr g, w = w + v."""
    policy, seen = preset("fastai", 0.1), Seen()
    fit(made(keras.optimizers.SGD(1.0, momentum=0.9)), PolicyCallback(policy), seen)
    velocity, want = 0.0, []
    for lr, momentum in zip(values(policy, 10), values(policy, 10, "momentum"), strict=True):
        velocity = momentum * velocity + lr
        want.append(velocity)
    np.testing.assert_allclose(moves(seen), want, atol=5e-7)


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD(1.0), keras.optimizers.Adagrad(1.0)])
def test_an_optimizer_without_momentum_stays_without(optimizer):
    model = made(optimizer)
    fit(model, PolicyCallback(preset("paper", 0.1)))
    assert getattr(model.optimizer, "momentum", 0.0) == 0.0


def test_weight_decay_is_scheduled_where_there_is_one():
    policy = one_cycle(0.1).with_(weight_decay=Piecewise(((0, 0.5), (1, 0.1))))
    seen = Seen("weight_decay")
    fit(made(keras.optimizers.AdamW(1.0)), PolicyCallback(policy), seen)
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 10, "weight_decay"))
    with pytest.raises(ConfigError, match="has no weight_decay that is a number"):
        fit(made(keras.optimizers.SGD(1.0)), PolicyCallback(policy))


def test_accumulated_batches_do_not_count():
    """Four batches make an update, across epochs; Keras's schedules count batches, ours are told."""
    policy, batches = one_cycle(0.1), 6
    by_callback, by_schedule = Seen(), Seen()
    fit(
        made(keras.optimizers.SGD(1.0, gradient_accumulation_steps=4)),
        PolicyCallback(policy),
        by_callback,
        batches=batches,
        epochs=4,
    )
    schedule = PolicySchedule(policy, 6, accumulate=4)
    fit(made(keras.optimizers.SGD(schedule, gradient_accumulation_steps=4)), by_schedule, batches=batches, epochs=4)
    for seen in (by_callback, by_schedule):
        np.testing.assert_allclose(moves(seen)[3::4], values(policy, 6), atol=2e-7)
        assert np.count_nonzero(moves(seen)) == 6


def test_batches_that_are_left_without_an_update():
    """Of ten batches nine make three updates; the tenth is in the first update of the next fit, as Keras has it."""
    policy, follow, seen = one_cycle(0.1), PolicyCallback(one_cycle(0.1)), Seen()
    model = made(keras.optimizers.SGD(1.0, gradient_accumulation_steps=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, follow, seen)
        assert follow.position == 3 and follow.finished
        fit(model, follow, seen, batches=11, epochs=1)
        assert follow.position == 4 and follow.finished
        fit(model, PolicyCallback(policy, updates=3), seen)
        fit(model, follow, seen, epochs=3, initial_epoch=1)  # one batch is left: updates after 2, 5 and 8 of ten
        assert follow.position == 4 and follow.finished
    want = values(policy, 3) + values(policy, 4) + values(policy, 3) + values(policy, 4)[1:]
    np.testing.assert_allclose(moves(seen)[moves(seen) != 0], want, atol=3e-7)


def test_the_last_update_has_its_values_as_its_first_batch_begins():
    follow, told = PolicyCallback(one_cycle(0.1)), []

    class Ask(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            told.append(follow.finished)

    fit(made(keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)), follow, Ask())
    assert told == [False] * 6 + [True] * 4


def test_steps_that_a_loss_scale_skips_do_not_count():
    """The scaled gradient overflows three times before the scale is small enough: seven updates of ten batches."""
    policy, seen = one_cycle(0.1), Seen()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0**127)
    follow = PolicyCallback(policy)
    fit(made(optimizer), follow, seen, inputs=8.0)
    moved = moves(seen)[moves(seen) != 0] / 8
    assert len(moved) == 7 and follow.position == 7
    np.testing.assert_allclose(moved, values(policy, 10)[:7], atol=2e-7)


def test_a_run_that_is_broken_off_goes_on_exactly(tmp_path):
    """By Keras's own backup: a new process has a new model, optimizer and callback, and nothing else."""

    class Broken(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 7:
                raise InterruptedError

    def run(*callbacks):
        seen = Seen("learning_rate", "momentum")
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        model = made(keras.optimizers.SGD(1.0, momentum=0.9))
        with suppress(InterruptedError):
            fit(model, PolicyCallback(preset("fastai", 0.1)), backup, seen, *callbacks, epochs=3)
        return seen

    broken = run(Broken())
    resumed = run()
    unbroken = run()
    assert len(broken.weights) == 7 and len(resumed.weights) == 10  # the second epoch again, from its start
    assert broken.values[:5] + resumed.values == unbroken.values
    assert broken.weights[:5] + resumed.weights == unbroken.weights


def test_an_initial_epoch_and_a_second_cycle():
    policy, model, seen = one_cycle(0.1), made(keras.optimizers.SGD(1.0)), Seen()
    fit(model, PolicyCallback(policy), epochs=1)
    fit(model, PolicyCallback(policy), seen, epochs=2)  # from the start, whatever the optimizer has seen
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 10), rtol=1e-6)
    seen = Seen()
    fit(model, PolicyCallback(policy), seen, epochs=2, initial_epoch=1)
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 10)[5:], rtol=1e-6)


def stream():
    while True:
        yield np.ones((1, 1), "float32"), np.ones((1, 1), "float32")


def test_an_unknown_number_of_updates_is_asked_for():
    policy, model = one_cycle(0.1), made(keras.optimizers.SGD(1.0))

    def ending():
        yield from (next(stream()) for _ in range(4))

    with pytest.raises(ConfigError, match=r"give fit its steps_per_epoch, or PolicyCallback\(policy, updates="):
        model.fit(ending(), epochs=1, verbose=0, callbacks=[PolicyCallback(policy)])
    for _ in range(2):  # each fit is a cycle
        seen = Seen()
        model.fit(ending(), epochs=1, verbose=0, callbacks=[PolicyCallback(policy, updates=4), seen])
        np.testing.assert_allclose(np.ravel(seen.values), values(policy, 4), rtol=1e-6)
    seen = Seen()
    model.fit(stream(), steps_per_epoch=4, epochs=1, verbose=0, callbacks=[PolicyCallback(policy), seen])
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 4), rtol=1e-6)


def test_past_the_end_the_values_stay_with_one_warning():
    policy, seen = one_cycle(0.1), Seen()
    with pytest.warns(UserWarning, match="past the 7 updates of the policy: the values stay") as warned:
        fit(made(keras.optimizers.SGD(1.0)), PolicyCallback(policy, updates=7), seen)
    assert len([w for w in warned if "past the 7" in str(w.message)]) == 1
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 7) + [values(policy, 7)[-1]] * 3, rtol=1e-6)
    with pytest.warns(UserWarning, match="past the 9 updates of the policy"):  # by the last one alone
        fit(made(keras.optimizers.SGD(1.0)), PolicyCallback(policy, updates=9))


def test_one_policy_for_an_optimizer_and_no_other_schedule():
    policy, model = one_cycle(0.1), made(keras.optimizers.SGD(1.0))
    first, second = PolicyCallback(policy), PolicyCallback(policy)
    with pytest.raises(ConfigError, match="already has a policy attached, by a PolicyCallback"):
        fit(model, first, second)
    fit(model, second)  # the fit that was broken off is in nobody's way
    with pytest.raises(ConfigError, match="the optimizer has a schedule already: give it a number"):
        fit(made(keras.optimizers.SGD(PolicySchedule(policy, 10))), PolicyCallback(policy))
    with pytest.raises(ConfigError, match="the optimizer has a schedule already: give it a number"):
        fit(made(keras.optimizers.SGD(lambda: 0.1)), PolicyCallback(policy))
    seen, theirs = Seen(), keras.callbacks.LearningRateScheduler(lambda epoch, lr: 7.0)
    fit(model, theirs, PolicyCallback(policy), theirs, seen)  # set at each epoch's begin, and over again by ours
    np.testing.assert_allclose(np.ravel(seen.values), values(policy, 10), rtol=1e-6)


def test_what_a_compiled_step_would_not_see_is_an_error():
    model = made(keras.optimizers.SGD(1.0, momentum=0.9), jit_compile=True)
    with pytest.raises(ConfigError, match="a compiled step keeps the momentum that it was compiled with"):
        fit(model, PolicyCallback(preset("fastai", 0.1)))
    with pytest.raises(ConfigError, match="has no layer groups"):
        PolicyCallback(Policy({"lr": 0.1}, layers=(0.1, 1)))


@pytest.mark.parametrize("name", PRESETS)
def test_a_schedule_is_the_policys_learning_rate(name):
    for updates in (1, 2, 20):
        policy = Policy({"lr": PRESETS[name](0.3, updates).schedules["lr"]})
        schedule = PolicySchedule(policy, updates)
        got = [float(schedule(k)) for k in range(updates + 3)]
        want = values(policy, updates)
        np.testing.assert_allclose(got, want + want[-1:] * 3, rtol=1e-6, atol=1e-12)


def test_a_schedule_is_saved_with_its_model(tmp_path):
    """And a model that is loaded goes on where the one that was saved was."""
    policy, seen = one_cycle(0.1), [Seen(), Seen()]
    model = made(keras.optimizers.SGD(PolicySchedule(policy, 10)))
    fit(model, seen[0], epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"outputs": outputs})
    schedule = loaded.optimizer._learning_rate
    assert isinstance(schedule, PolicySchedule) and schedule.policy == policy and schedule.updates == 10
    fit(loaded, seen[1], epochs=1)
    np.testing.assert_allclose(moves(seen[0]), values(policy, 10)[:5], atol=2e-7)
    np.testing.assert_allclose(np.ravel(seen[1].values), values(policy, 10)[5:], rtol=1e-6)


def test_a_schedule_of_more_than_the_learning_rate_is_refused():
    with pytest.raises(
        ConfigError, match="of the learning rate alone, the policy has momentum too: use a PolicyCallback"
    ):
        PolicySchedule(preset("fastai", 0.1), 10)
    with pytest.raises(ConfigError, match="schedule of lr is a Python function"):
        PolicySchedule(Policy({"lr": lambda progress: 0.1}), 10)
    with pytest.raises(ConfigError, match="updates is the number of updates of the whole run"):
        PolicySchedule(one_cycle(0.1), None)


ON_JAX = """
from test_adapter_keras import *
assert keras.backend.backend() == "jax"
policy = one_cycle(0.1)
for optimizer, callbacks in (
    (keras.optimizers.SGD(1.0), [PolicyCallback(policy)]), (keras.optimizers.SGD(PolicySchedule(policy, 10)), [])
):
    seen = Seen()
    fit(made(optimizer), *callbacks, seen)
    np.testing.assert_allclose(moves(seen), values(policy, 10), atol=2e-7)
with pytest.raises(ConfigError, match="a compiled step keeps the momentum"):
    fit(made(keras.optimizers.SGD(1.0, momentum=0.9)), PolicyCallback(preset("fastai", 0.1)))
with pytest.raises(ConfigError, match="steps_per_execution=2 Keras calls no callback before each update"):
    fit(made(keras.optimizers.SGD(1.0), steps_per_execution=2), PolicyCallback(policy))
"""


@pytest.mark.slow
def test_on_jax():
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ON_JAX], cwd=Path(__file__).parent, env=environment, check=True)

"""A trial leaves no trace, whatever happens in it, and gives the same numbers every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from training_makers import adamw, blobs, differing, global_generators, new_state, sgd, weights

from onecycle import as_batches, evaluate, one_cycle
from onecycle.errors import ConfigError
from onecycle.search.trial import trial
from onecycle.training.loop import Update, train
from onecycle.training.state import TrainState

BATCHES = as_batches(blobs(), 8)
HELD_OUT = as_batches(blobs(seed=1), 24, shuffle=False)
POLICY = one_cycle(0.1)


def everything(state: TrainState) -> list[Any]:
    """The state to the bit: tensors, gradients, modes, settings, position and the global generators."""
    saved = state.state_dict()
    flat = [repr(saved[key]) for key in ("seed", "at", "begun", "means")]
    numbers = [t.tolist() for t in state.model.state_dict().values()]
    numbers += [None if p.grad is None else p.grad.tolist() for p in state.model.parameters()]
    settings = [{k: v for k, v in group.items() if k != "params"} for group in state.optimizer.param_groups]
    moments = [
        {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        for values in state.optimizer.state.values()
    ]
    modes = [module.training for module in state.model.modules()]
    return [flat, numbers, settings, moments, modes, [repr(generator) for generator in global_generators()]]


def measured(state: TrainState) -> dict[str, float]:
    return evaluate(state.model, HELD_OUT.epoch(0), state.loss)


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("updates", [0, 4, 9])
def test_a_trial_leaves_no_trace_in_a_run_under_way(make_optimizer: Callable, updates: int):
    state, alone = new_state(make_optimizer), new_state(make_optimizer)
    for one in (state, alone):
        for _, _event in zip(range(updates), train(one, BATCHES, "3 epochs", POLICY), strict=False):
            pass
    state.model[0].eval()
    alone.model[0].eval()
    before = everything(state)
    result = trial(state, BATCHES, "2 epochs", POLICY, partial(measured, state))
    assert result.updates == 12 and math.isfinite(result.loss) and not result.lost and result.seconds > 0
    assert everything(state) == before
    rest = [[event.loss for event in train(one, BATCHES, "3 epochs", POLICY) if isinstance(event, Update)]
            for one in (state, alone)]  # fmt: skip
    assert rest[0] == rest[1] and differing(weights(state.model), weights(alone.model)) == []


def test_a_trial_is_a_whole_run_of_its_policy_and_the_same_every_time():
    state, alone = new_state(), new_state()
    one, two = (trial(state, BATCHES, "7 updates", POLICY, partial(measured, state)) for _ in range(2))
    assert (one.loss, one.valid, one.updates) == (two.loss, two.valid, two.updates)
    events = [event for event in train(alone, BATCHES, "7 updates", POLICY) if isinstance(event, Update)]
    assert (one.loss, one.updates, one.valid) == (events[-1].loss, 7, measured(alone))
    assert trial(state, BATCHES, "7 updates", POLICY).valid is None
    assert trial(state, BATCHES, "7 updates", one_cycle(0.2)).loss != one.loss


def test_a_trial_that_diverges_is_lost_and_leaves_no_trace():
    state = new_state()
    before = everything(state)
    calls: list[int] = []
    result = trial(state, BATCHES, "5 epochs", one_cycle(1e30), lambda: {"loss": float(calls.append(1) or 0)})
    assert result.lost and math.isnan(result.loss) and result.valid is None and result.updates < 30 and calls == []
    assert everything(state) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("place", ["training", "evaluation"])
def test_an_error_or_ctrl_c_within_a_trial_leaves_no_trace(error: type[BaseException], place: str):
    state = new_state()
    list(train(state, BATCHES, "1 epochs", POLICY))
    before = everything(state)

    def breaks_off() -> dict[str, float]:
        raise error("stop")

    def batches():
        yield from BATCHES.epoch(0, 3)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        if place == "training":
            trial(state, batches(), "5 updates", POLICY)
        else:
            trial(state, BATCHES, "5 updates", POLICY, breaks_off)
    assert everything(state) == before
    with pytest.raises(ConfigError, match="policy"):
        trial(state, BATCHES, "5 updates", 0.1)  # type: ignore[arg-type]
    assert everything(state) == before

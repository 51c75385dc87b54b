"""Pilots of a state and of a step: paired, inside their cost, without a trace; lost ones are lost alone."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from training_makers import blobs, differing, new_state, sgd, weights

import onecycle
from onecycle import as_batches
from onecycle.errors import ConfigError, DataError, Interrupted
from onecycle.schedules.presets import preset
from onecycle.search import api
from onecycle.search import pilots as module
from onecycle.search import trial as trials
from onecycle.search.api import search_of
from onecycle.search.pilots import StatePilots
from onecycle.training import loop as training_loop
from onecycle.training.norms import batch_statistics
from onecycle.training.signals import StopRequest

BATCHES, HELD_OUT = as_batches(blobs(), 8), as_batches(blobs(seed=1), 24, shuffle=False)


def one_cycle(lr_max: float, updates: int) -> onecycle.Policy:
    return preset("one_cycle", lr_max, updates)


def pilots_of(state, valid=HELD_OUT, each=12, stop=None) -> StatePilots:
    return StatePilots(state, BATCHES, valid, one_cycle, 800, each, stop)


def test_a_pilot_is_a_whole_cycle_from_the_same_start_and_leaves_no_trace():
    state = new_state(sgd)
    before = weights(state.model)
    make = pilots_of(state)
    first, other, again = make(0.1, 12), make(0.3, 12), make(0.1, 12)
    assert differing(weights(state.model), before) == [] and state.at.step == 0
    assert first.loss == again.loss != other.loss and first.updates == 12 and first.of == 800 and first.lost is None
    alone = new_state(sgd)
    for _ in onecycle.train(alone, BATCHES, "12 updates", one_cycle(0.1, 12)):
        pass
    with batch_statistics(alone.modules):
        assert first.loss == pytest.approx(onecycle.evaluate(alone.model, make.held_out, alone.loss)["loss"])


def test_without_validation_data_it_is_judged_on_batches_that_no_pilot_trains_on():
    state = new_state(sgd)
    make = pilots_of(state, valid=None, each=2)
    used = [inputs for inputs, _ in list(BATCHES.epoch(0))[:2]]
    assert make.held_out and not any(torch.equal(inputs, one) for inputs, _ in make.held_out for one in used)


def test_judging_costs_at_most_a_quarter_of_the_updates():
    big = as_batches(blobs(4000, seed=1), 500, shuffle=False)
    for each in (12, 32, 100):
        make = StatePilots(new_state(sgd), BATCHES, big, one_cycle, 800, each)
        assert 1 <= make.evaluation <= math.ceil(each / 4)


def test_a_pilot_that_diverges_or_runs_out_of_memory_is_lost_alone(monkeypatch):
    make = pilots_of(new_state(sgd))
    lost = make(1e30, 12)
    assert lost.loss is None and "the loss was lost after" in lost.lost

    def out_of_memory(*args: Any, **keywords: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(module, "trial", out_of_memory)
        assert make(0.1, 12).lost == "out of memory"
    assert make(0.1, 12).loss is not None


def test_what_knowing_nothing_costs_is_that_of_the_best_constant_answer():
    state, make = new_state(sgd), pilots_of(new_state(sgd))
    targets = torch.cat([targets for _, targets in make.held_out])
    shares = targets.bincount() / len(targets)
    assert make.levels()[0] == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5)
    state.loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    own = pilots_of(state)
    assert own.levels()[0] == own.levels()[1]


def test_a_signal_leaves_the_search_and_everything_as_before():
    state = new_state(sgd)
    before = weights(state.model)
    with pytest.raises(Interrupted, match="stopped by SIGINT in a pilot, before the first update"):
        search_of(state, BATCHES, HELD_OUT, 1100, 0.1, policy=one_cycle, stop=StopRequest(signal=2))
    assert differing(weights(state.model), before) == [] and state.begun is None


def test_a_search_says_what_it_rests_on():
    found = search_of(new_state(sgd), BATCHES, HELD_OUT, 1100, 0.1, policy=one_cycle)
    assert len(found.pilots) == 3 and found.updates <= 110 and found.low < found.lr_max < found.high
    assert (
        found.line().startswith(f"peak learning rate {found.lr_max:.2g}") and "3 pilots of 17 updates" in found.line()
    )
    none = search_of(new_state(sgd), BATCHES, HELD_OUT, 100, 0.1, policy=one_cycle)
    assert none.lr_max == 0.1 and not none.pilots and "the default: the budget is too small" in none.line()
    assert "held-out loss" in found._repr_html_() and found.to_dict()["pilots"][0]["lr_max"] == 0.1


# Any loop


def loop(lr: float = 0.01):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step(batch: torch.Tensor) -> torch.Tensor:
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


DATA = list(torch.randn(100, 16, 4, generator=torch.Generator().manual_seed(0)))


def test_any_loop_keeps_its_weights_and_gets_a_peak():
    model, optimizer, step = loop()
    before = weights(model)
    found = onecycle.search(step, optimizer, DATA, updates=1100)
    assert differing(weights(model), before) == [] and optimizer.param_groups[0]["lr"] == 0.01
    assert found.default == 0.01 < found.lr_max and found.updates <= 110
    again = onecycle.search(step, optimizer, DATA, updates=1100)
    assert [p.loss for p in again.pilots] == [p.loss for p in found.pilots]


def test_any_loop_may_bring_its_own_measure():
    model, optimizer, step = loop()
    held_out = torch.cat(DATA[:4])

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float((model(held_out) - held_out.sum(1, keepdim=True)).square().mean())}

    found = onecycle.search(step, optimizer, DATA, updates=1100, lr_max=0.02, evaluate=evaluate)
    assert found.default == 0.02 and all(p.loss is not None for p in found.pilots) and found.updates <= 110


def test_a_larger_share_brings_pilots_to_a_short_run():
    _, optimizer, step = loop()
    short = onecycle.search(step, optimizer, DATA, updates=200)
    assert not short.pilots and "too small" in short.reason
    found = onecycle.search(step, optimizer, DATA, updates=200, share=0.5)
    assert {pilot.updates for pilot in found.pilots} == {16} and found.updates <= 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"updates": 0}, "updates is the number of updates, those of the pilots among them, a whole number"),
        ({"updates": 1000, "share": 2}, "share is a share of the updates"),
        ({"updates": 1000, "lr_max": -1}, "lr_max is the peak without evidence, a finite number above 0"),
        ({"updates": 1000, "policy": "none"}, "unknown preset 'none'"),
    ],
)
def test_bad_arguments_of_any_loop(arguments, said):
    _, optimizer, step = loop()
    with pytest.raises(ConfigError, match=said):
        onecycle.search(step, optimizer, DATA, **arguments)


def test_errors_of_any_loop_speak_of_a_search():
    _, optimizer, step = loop()
    with pytest.raises(DataError, match="a search needs at least 2 batches"):
        onecycle.search(step, optimizer, DATA[:1], updates=1100)

    def stopped(batch):
        signal.raise_signal(signal.SIGTERM)
        return step(batch)

    with pytest.raises(Interrupted, match="the search was stopped by SIGTERM; everything is as before"):
        onecycle.search(stopped, optimizer, DATA, updates=1100)


# What it may cost


def test_where_all_pilots_are_lost_the_share_holds_too():
    state = new_state(sgd)
    state.loss = lambda model, batch: model(batch[0]).square().mean() * 1e12
    for share in (0.05, 0.07, 0.1):
        found = search_of(state, BATCHES, HELD_OUT, 2000, 0.1, share=share, policy=one_cycle)
        assert 0 < found.updates <= share * 2000 and 3 <= len(found.pilots) <= 6 and found.share <= share


def test_large_batches_of_held_out_data_make_pilots_shorter_or_none():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs(400, seed=1)), 80)
    found = search_of(new_state(sgd), BATCHES, as_batches(loader), 2000, 0.1, policy=one_cycle)
    assert found.updates <= 200
    found = search_of(new_state(sgd), BATCHES, as_batches(loader), 1100, 0.1, share=0.06, policy=one_cycle)
    assert found.updates <= 66


def test_pilots_that_take_too_long_are_given_up(monkeypatch):
    now = [0.0]

    def loss(model, batch):
        now[0] += 1.0
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for one in (api, module, trials):
        monkeypatch.setattr(one, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    state = new_state(sgd)
    state.loss = loss
    before = weights(state.model)
    found = search_of(state, BATCHES, HELD_OUT, 2000, 0.1, policy=one_cycle, seconds=200)
    assert now[0] <= 0.1 * 200 + 2 and found.lr_max == found.default and "more than their share" in found.line()
    assert differing(weights(state.model), before) == []


def test_the_pace_is_that_of_updates_after_the_first(monkeypatch):
    """The first update takes 5 s, the others a quarter; what is made around them is not an update's."""
    now, calls = [0.0], []

    def loss(model, batch):
        calls.append(1)
        now[0] += 5.0 if len(calls) == 1 else 0.25
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for one in (api, trials, training_loop):
        monkeypatch.setattr(one, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    state = new_state(sgd)
    state.loss = loss
    assert api.updates_within(state, BATCHES, onecycle.Budget.parse("1000 s"), 0.0) == int((1000 - now[0]) / 0.25)
    calls.clear()
    now[0] = 0.0
    assert api.updates_within(state, BATCHES, onecycle.Budget.parse("20 s"), 0.0) == 3 and len(calls) == 1


def test_the_pace_takes_little_of_the_time_where_updates_suddenly_take_twenty_times_as_long(monkeypatch):
    now, calls = [0.0], []

    def loss(model, batch):
        calls.append(1)
        now[0] += 1.0 if len(calls) <= 2 else 20.0
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for one in (api, trials, training_loop):
        monkeypatch.setattr(one, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    state = new_state(sgd)
    state.loss = loss
    before = weights(state.model)
    assert api.updates_within(state, BATCHES, onecycle.Budget.parse("200 s"), 0.0) == 200 - int(now[0])
    assert now[0] <= 0.2 * 200 and differing(weights(state.model), before) == []

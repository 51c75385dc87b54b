"""What is saved and restored: all of it to the bit, or nothing."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from training_makers import CPU, TASK, adamw, blobs, differing, new_state, seeded_net, sgd, weights

from onecycle import CheckpointError, ConfigError, Runtime, TrainState, Update, train
from onecycle.errors import NonFiniteLoss
from onecycle.schedules import presets
from onecycle.training.means import RunningMeans, UpdateMeans
from onecycle.training.state import Position

X, Y = blobs(24)
BATCHES = [(X[i : i + 6], Y[i : i + 6]) for i in range(0, 24, 6)]
POLICY = presets.one_cycle(0.1)


def run(state: TrainState, updates: int | None = None) -> list:
    """Events up to update `updates`, counted from here; to the end where it is None."""
    events = []
    for event in train(state, BATCHES, 3, POLICY):
        events.append(event)
        if updates is not None and sum(isinstance(e, Update) for e in events) == updates:
            break
    return events


def stored(state: TrainState) -> dict:
    """Through a file, as `weights_only=True` reads it."""
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_stored_state_goes_on_to_the_bit(make):
    whole = new_state(make)
    expected = run(whole)
    begun = new_state(make)
    run(begun, 6)
    other = new_state(make, seed=77)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(1)
    other.load_state_dict(stored(begun))
    events = run(other)
    assert differing(weights(whole.model), weights(other.model)) == []
    assert [e.train for e in events if not isinstance(e, Update)] == [
        e.train for e in expected if not isinstance(e, Update)
    ][1:]
    assert [(e.step, e.lr, e.loss) for e in events if isinstance(e, Update)] == [
        (e.step, e.lr, e.loss) for e in expected if isinstance(e, Update)
    ][6:]


def test_numbers_of_numpy_in_an_optimizer_of_ones_own_can_be_stored():
    model, number = seeded_net(), np.float64
    own = torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(0.5), betas=(number(0.5), number(0.75)), weight_decay=number(0.5)
    )
    state = TrainState(model, own, TASK, CPU, seed=np.int64(3), clip=number(0.5))
    saved = stored(state)
    group = saved["optimizer"]["param_groups"][0]
    assert (group["betas"], group["weight_decay"], saved["seed"]) == ((0.5, 0.75), 0.5, 3)
    assert isinstance(own.param_groups[0]["lr"], torch.Tensor)


def test_a_loaded_state_shares_nothing_with_what_it_came_from():
    state = new_state()
    run(state, 2)
    saved = stored(state)
    kept = copy.deepcopy(saved)
    first = new_state()
    first.load_state_dict(saved)
    a = run(first)
    assert saved["means"] == kept["means"] and saved["at"] == kept["at"] and saved["begun"] == kept["begun"]
    second = new_state()
    second.load_state_dict(saved)
    b = run(second)
    assert [e.train for e in a if hasattr(e, "train")] == [e.train for e in b if hasattr(e, "train")]


def test_the_scale_of_fp16_is_part_of_it():
    model = seeded_net()
    state = TrainState(model, sgd(model), TASK, Runtime.choose("cpu", "fp16"))
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 8.0})
    other = TrainState(model, sgd(model), TASK, Runtime.choose("cpu", "fp16"))
    other.load_state_dict(stored(state))
    assert other.scaler.get_scale() == 8.0


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: (lambda m: TrainState(m, sgd(m), TASK, CPU))(seeded_net(features=5)),
        lambda: (lambda m: TrainState(m, sgd(m), TASK, CPU))(nn.Sequential(seeded_net()[0])),
        lambda: new_state(adamw),
        lambda: (lambda m: TrainState(m, sgd(m[2]), TASK, CPU))(seeded_net()),
    ],
    ids=["shapes", "names", "optimizer", "groups"],
)
def test_a_foreign_state_is_refused_and_changes_nothing(foreign):
    state = new_state()
    run(state, 5)
    before = copy.deepcopy(state.state_dict())
    other = foreign()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(1)
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        state.load_state_dict(other.state_dict())
    after = state.state_dict()
    assert differing(before["model"], after["model"]) == []
    assert before["optimizer"]["param_groups"] == after["optimizer"]["param_groups"]
    assert (before["at"], before["begun"], before["means"]) == (after["at"], after["begun"], after["means"])
    reference = new_state()
    run(reference)
    run(state)
    assert differing(weights(reference.model), weights(state.model)) == [], "it goes on as if nothing had been tried"


def everything(state: TrainState) -> dict:
    return copy.deepcopy(state.state_dict())


def same(one: dict, other: dict) -> bool:
    plain = ("seed", "at", "begun", "means")
    groups = [state["optimizer"]["param_groups"] for state in (one, other)]
    buffers = [[v for s in state["optimizer"]["state"].values() for v in s.values()] for state in (one, other)]
    alike = all(torch.equal(a, b) for a, b in zip(*buffers, strict=True) if isinstance(a, torch.Tensor))
    weights_alike = differing(one["model"], other["model"]) == []
    return alike and weights_alike and groups[0] == groups[1] and all(one[name] == other[name] for name in plain)


def test_a_state_of_before_there_was_more_goes_on():
    begun, whole = new_state(), new_state()
    expected = run(whole)
    run(begun, 6)
    saved = stored(begun)
    assert saved["at"]["batch"], "within an epoch"
    for name in ("averages", "best", "loss"):
        del saved[name]
    del saved["at"]["ending"], saved["begun"]["ending"], saved["means"]["weights"]
    other = new_state()
    other.load_state_dict(saved)
    events = run(other)
    assert differing(weights(whole.model), weights(other.model)) == [] and other.best is other.averages is None
    assert [e.train for e in events if not isinstance(e, Update)] == [
        e.train for e in expected if not isinstance(e, Update)
    ][1:]


BROKEN = {
    "no state": (lambda s: s.clear(), "has no model, optimizer, scaler, seed, at, begun and means"),
    "no seed": (lambda s: s.pop("seed"), "has no seed"),
    "no means": (lambda s: s.pop("means"), "has no means"),
    "a seed of words": (lambda s: s.update(seed="3"), "seed is a str"),
    "no position": (lambda s: s.update(at=None), "at is a NoneType"),
    "a position of words": (lambda s: s["at"].update(step="3"), "at has step='3'"),
    "a later position": (lambda s: s["at"].update(planets=3), "at has planets, which this version"),
    "later means": (lambda s: s["means"].update(pending=[]), "means has pending, which this version"),
    "a module in the loss": (lambda s: s.update(loss=[{}]), "a module in its loss, and here there is no module"),
    "an optimizer's list": (lambda s: s.update(optimizer=[]), "optimizer is a list"),
    "an optimizer's half": (lambda s: s["optimizer"].pop("param_groups"), "another model or optimizer"),
    "an optimizer's other half": (lambda s: s["optimizer"].pop("state"), "another model or optimizer"),
    "buffers of another shape": (
        lambda s: s["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(7)), r"its momentum_buffer is \[7\]",
    ),
    "averages, and none here": (lambda s: s.update(averages=dict(s["model"])), "a moving average.*average=None"),
    "best without weights": (lambda s: s.update(best={"step": 1, "epoch": 0, "valid": {}}), "best has no modules"),
    "best of another model": (
        lambda s: s.update(best={"step": 1, "epoch": 0, "valid": {}, "modules": [{"x": torch.zeros(1)}]}),
        "its best and the model differ in 0.0.bias, 0.0.weight, 0.1.bias, 0.1.num_batches_tracked and",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("breaks", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(breaks, says):
    saved_from = new_state()
    run(saved_from, 6)
    saved = stored(saved_from)
    breaks(saved)
    state = new_state(seed=5)
    run(state, 2)
    before = everything(state)
    with pytest.raises(CheckpointError, match=rf"{says}.*Make model, loss, optimizer and options as they were"):
        state.load_state_dict(saved)
    assert same(before, everything(state))


def test_averages_that_are_missing_or_of_another_shape_are_refused():
    begun, plain = new_state(average=0.9), new_state()
    for state in (begun, plain):
        run(state, 6)
    with pytest.raises(CheckpointError, match=r"no moving average of the weights, and here there is average=0\.9"):
        new_state(average=0.9).load_state_dict(stored(plain))
    saved = stored(begun)
    saved["averages"]["2.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"averages have 2\.bias of \[7\], and here it is \[3\]"):
        new_state(average=0.9).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"it is a list"):
        new_state().load_state_dict([1])


def test_giving_up_a_run_begins_the_next_one_with_an_epoch():
    state = new_state()
    run(state, 6)
    state.end_run()
    assert (state.at, state.begun) == (Position(6, 2, 0, state.at.seconds, 5 / 11), None)
    first, *_, last = run(state)
    assert (first.step, first.epoch, first.updates, last.epoch, last.step) == (0, 0, 12, 2, 12)
    assert last.samples == 24


def test_giving_up_between_epochs_skips_none():
    state = new_state()
    run(state)
    state.end_run()
    assert (state.at.step, state.at.epoch, state.at.batch) == (12, 3, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 0}, "at least 1; received 0"),
        ({"clip": 0.0}, "above 0; received 0.0"),
        ({"clip": float("nan")}, "above 0; received nan"),
    ],
)
def test_settings_that_cannot_be(options, says):
    with pytest.raises(ConfigError, match=says):
        new_state(**options)


def test_means_are_weighted_by_samples_and_do_not_depend_on_when_they_are_read():
    rows = [(0, 0.1, 4, 1.5, 0.25), (1, 0.2, 3, 2.7, 0.5), (2, 0.3, 1, 10.1, 1.0)]
    slow = {
        "loss": sum(r[2] * torch.tensor(r[3]).item() for r in rows) / 8,
        "m": sum(r[2] * r[4] for r in rows) / 8,
    }
    for read_after in ({0, 1, 2}, {1}, set()):
        means = RunningMeans()
        for i, (step, lr, samples, loss, metric) in enumerate(rows):
            means.add(step, lr, UpdateMeans(torch.tensor(loss), {"m": torch.tensor(metric)}, samples, {}))
            if i in read_after:
                means.read()
        assert means.means() == slow and means.samples == 8
    assert RunningMeans().means() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_loss_that_is_not_finite_is_named(value):
    means = RunningMeans()
    for step, loss in enumerate((1.0, value, float("nan"))):
        means.add(step, 0.3 / (step + 1), UpdateMeans(torch.tensor(loss), {}, 1, {}))
    with pytest.raises(
        NonFiniteLoss, match=f"the loss became {value} at update 1, at learning rate 0.15.*0.05"
    ) as found:
        means.read()
    assert (found.value.step, found.value.lr) == (1, 0.15)


def test_a_mean_that_is_only_measured_may_be_infinite():
    means = RunningMeans()
    means.add(0, 0.0, UpdateMeans(torch.tensor(float("inf")), {}, 1, {}))
    assert means.means(strict=False) == {"loss": float("inf")}


def test_weights_that_are_not_finite_are_found():
    state = new_state()
    state.check_finite()
    with torch.no_grad():
        state.model[2].bias[1] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"non-finite weights in 2\.bias"):
        state.check_finite()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_large_weights_are_finite_though_their_sum_is_not(bad):
    state = new_state()
    with torch.no_grad():
        state.model[0][0].weight.fill_(3e38)
        state.model[2].weight.fill_(-3e38)
    state.check_finite()
    with torch.no_grad():
        state.model[2].weight.view(-1)[1] = bad
    with pytest.raises(NonFiniteLoss, match=r"non-finite weights in 2\.weight"):
        state.check_finite()


def test_a_state_with_a_loss_that_is_not_finite_is_not_stored():
    state = new_state()
    state.means.add(0, 0.1, UpdateMeans(torch.tensor(float("nan")), {}, 1, {}))
    with pytest.raises(NonFiniteLoss):
        state.state_dict()


def test_without_a_runtime_the_device_is_the_models():
    model = seeded_net()
    assert TrainState(model, sgd(model), TASK).runtime == Runtime.of(model) == Runtime.choose("cpu")
    with pytest.raises(ConfigError, match="meta device"):
        TrainState(model.to("meta"), sgd(model), TASK)

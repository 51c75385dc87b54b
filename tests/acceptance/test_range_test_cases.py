"""What users of other learning rate finders have run into, one test each, on the whole of this one."""

from __future__ import annotations

import math
import random

import pytest
import torch
from range_makers import Counter, changes, snapshot
from ranks_makers import on_ranks
from torch import nn
from torch.nn import functional as F
from training_makers import blobs, differing, seeded_net, weights

from onecycle import Interrupted, Learner, range_test
from onecycle.range_test.peak import suggest
from onecycle.records.curve import Curve, Sweep

X, Y = blobs(240)
Y = torch.where(torch.arange(240) % 5 == 0, (Y + 1) % 3, Y)
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))
VALID = blobs(96, seed=1)
OPTIMIZERS = ["sgd", "adamw", "muon"]


def learner(train=(X, Y), optimizer="sgd", **options) -> Learner:
    """A seeded model with batch norm and dropout."""
    return Learner(
        seeded_net(), train, VALID, optimizer=optimizer, batch_size=8, verbose=False, device="cpu", **options
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("how", ["once", "twice", "interrupted"])
def test_case_5_a_finder_before_fit_leaves_no_trace_and_the_fit_is_that_without_one(how, optimizer):
    def interrupting(model, batch):
        if interrupt and not model.training:
            raise Interrupted("in the middle of a sweep", signal=2)
        return F.cross_entropy(model(batch[0]), batch[1])

    interrupt = False
    learn, plain = (learner(optimizer=optimizer, loss=interrupting) for _ in range(2))
    interrupt = how == "interrupted"
    before = snapshot([learn.model], [learn.optimizer])
    if interrupt:
        with pytest.raises(KeyboardInterrupt):
            learn.range_test()
    else:
        tests = [learn.range_test() for _ in range(2 if how == "twice" else 1)]
        assert tests[0].curve == tests[-1].curve and tests[0].lr_max == tests[-1].lr_max
    assert changes(before, snapshot([learn.model], [learn.optimizer])) == []
    interrupt = False
    results = [each.fit_one_cycle(2, 0.05) for each in (learn, plain)]
    assert results[0].train == results[1].train and results[0].valid == results[1].valid
    assert differing(weights(learn.model), weights(plain.model)) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_case_6_an_already_trained_model_is_swept_or_the_reason_for_none_is_named(optimizer):
    learn = learner(blobs(240), optimizer)
    learn.fit_one_cycle(15, 0.05)
    before = snapshot([learn.model], [learn.optimizer])
    test = learn.range_test()
    assert min(len(sweep.lr) for sweep in test.curve.sweeps) > 7
    assert (test.lr_max is None) == bool(test.reason) and test.line()
    assert changes(before, snapshot([learn.model], [learn.optimizer])) == []


def test_case_7_a_loss_minus_100_is_tested_as_the_loss_itself():
    def of(shift):
        learn = learner(loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]) + shift)
        return learn.range_test()

    below, plain = of(-100.0), of(0.0)
    assert max(below.curve.loss.mean) < -50
    assert [len(sweep.lr) for sweep in below.curve.sweeps] == [len(sweep.lr) for sweep in plain.curve.sweeps]
    assert min(len(sweep.lr) for sweep in below.curve.sweeps) > 7, "no stop at step 1"
    for one, other in zip(below.curve.sweeps, plain.curve.sweeps, strict=True):
        n = len(one.loss) * 2 // 3  # before the last updates blow rounding up
        assert [loss + 100 for loss in one.loss[:n]] == pytest.approx(other.loss[:n], abs=1e-2)
    assert (below.lr_max is None) == (plain.lr_max is None)
    assert below.lr_max is None or below.lr_max == pytest.approx(plain.lr_max, rel=0.1)


def test_case_7_nan_at_step_30_stops_there_and_only_earlier_points_are_used():
    model, calls = seeded_net(), Counter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    begun = []

    def step(batch):
        calls.count += 1
        begun.append(calls.count)
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss * math.nan if calls.count == 30 else loss

    test = range_test(step, optimizer, BATCHES, updates=400, keep=[calls])
    assert max(begun) == 30, "nothing after it"
    for sweep in test.curve.sweeps:
        assert sweep.stopped == "nan" and len(sweep.lr) == len(sweep.loss) == 29
        assert all(map(math.isfinite, sweep.loss))
    assert test.lr_max is None or test.lr_max <= test.curve.lr[-1]
    assert (test.lr_max is None) == bool(test.reason)


def noisy_drop(noise: float, seed: int):
    draw = random.Random(seed)
    return lambda lr: 1 + 1 / (1 + (lr / 1e-3) ** 2) + draw.gauss(0, noise)


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_case_8_a_noisy_drop_at_a_thousandth_is_found_or_the_reason_for_none_is_named(noise, seed):
    rates = [10 ** (-8 + 8 * k / 99) for k in range(100)]
    loss = noisy_drop(noise, seed)
    found = suggest(Curve((Sweep(rates, [loss(rate) for rate in rates]),)))
    assert bool(found.reason) if found.lr_max is None else 1e-3 / 3 <= found.lr_max <= 3e-3


@pytest.mark.parametrize("noise", [0.002, 0.1])
def test_case_8_the_same_through_a_whole_test_between_given_ends(noise):
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    loss = noisy_drop(noise, 0)

    def step(batch):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        return loss(optimizer.param_groups[0]["lr"])

    test = range_test(step, optimizer, BATCHES, lr_low=1e-8, lr_high=1.0, updates=250)
    assert test.curve.lr[0] == 1e-8 and test.curve.lr[-1] == pytest.approx(1.0)
    assert bool(test.reason) if test.lr_max is None else 1e-3 / 3 <= test.lr_max <= 3e-3


@pytest.mark.parametrize("kind", ["tensors", "list", "iterator"])
def test_case_9_a_dozen_batches_for_a_hundred_updates_are_recycled_and_no_file_is_written(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    data = {"tensors": (X[:96], Y[:96]), "list": BATCHES[:12], "iterator": iter(BATCHES[:12])}[kind]
    learn = learner(data)
    seen = []

    def watch(module, inputs):
        if module.training:
            seen.append(inputs[0])

    learn.model.register_forward_pre_hook(watch)
    test = learn.range_test(updates=100)
    assert 24 < len(seen) == test.cost["updates"] <= 100
    assert len({tuple(x.flatten().tolist()) for batch in seen for x in batch}) == 96
    assert all(sweep.stopped != "end" for sweep in test.curve.sweeps), "it goes as far as it has to"
    assert list(tmp_path.iterdir()) == []


def test_case_9_two_ranks_stop_together_agree_and_write_no_file(tmp_path):
    code = "import torch; torch.set_num_threads(1); import ranks_cases; result(ranks_cases.recycled())"
    first, second = on_ranks(code, 2, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert first == second and 24 < first["updates"] <= 100
    assert all(stopped != "end" for stopped, *_ in first["sweeps"]), "it goes as far as it has to"
    assert (first["peak"] is None) == bool(first["reason"])
    assert list(tmp_path.iterdir()) == []

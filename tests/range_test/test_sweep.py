"""The watch for divergence, the scout's ends, and what counts as an update and as a point."""

from __future__ import annotations

import itertools
import math
import signal
from contextlib import nullcontext

import pytest
import torch
from range_makers import Counter, changes, snapshot
from torch import nn
from torch.nn import functional as F
from training_makers import blobs, seeded_net, weights

from onecycle import ConfigError, DataError, Interrupted, TrainingError
from onecycle.data.batches import as_batches
from onecycle.optim.muon import Muon
from onecycle.range_test import sweep as sweeping
from onecycle.range_test.sweep import STILL, SweptStep, scout, sweep
from onecycle.training.norms import batch_statistics
from onecycle.training.reachable import modules_of
from onecycle.training.signals import StopRequest

X, Y = blobs(96)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 96, 8)]
# A third of the labels is noise, so that no model can be sure of all of them.
HARD = [(x, torch.where(torch.arange(8) % 3 == 0, y.roll(1), y)) for x, y in BATCHES]
RISING = [10 ** (-3 + k / 10) for k in range(40)]


def subject(step, optimizers, batches=BATCHES, evaluate=None, restart=None, keep=(), stop=None, seed=0):
    optimizers = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else optimizers
    modules = modules_of([p for o in optimizers for group in o.param_groups for p in group["params"]], step)
    batches = as_batches(batches, seed=seed)
    return SweptStep(step, optimizers, batches, evaluate, restart, modules, keep, seed, stop or StopRequest())


def supervised(model, optimizer, seen=None):
    def step(batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if seen is not None:
            seen.append(batch[0])
        return loss

    return step


def dummy(lr=0.1, **options):
    """A weight that moves, for steps whose loss is made up."""
    weight = nn.Parameter(torch.ones(2))
    return weight, torch.optim.SGD([weight], lr=lr, **options)


def made_up(weight, optimizer, losses):
    """A step that moves the weight and returns what `losses` gives for the learning rate that it used."""

    def step(batch):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        return losses(float(optimizer.param_groups[0]["lr"]))

    return step


# Updates


def test_groups_and_optimizers_keep_the_ratios_of_their_rates():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(4)]
    first = torch.optim.SGD([{"params": [parameters[0]], "lr": 0.02}, {"params": [parameters[1]], "lr": 0.2}])
    second = torch.optim.Adam([{"params": [parameters[2]], "lr": 0.05}, {"params": [parameters[3]], "lr": 0.0}])
    used = []

    def step(batch):
        sum(p.sum() for p in parameters).backward()
        first.step()
        second.step()
        used.append([g["lr"] for o in (first, second) for g in o.param_groups])
        return 1.0

    with subject(step, [first, second]).begin(0) as run:
        for lr in (1.0, 0.4):
            run.update(lr)
    assert used[0] == pytest.approx([0.1, 1.0, 0.25, 0.0]) and used[1] == pytest.approx([0.04, 0.4, 0.1, 0.0])
    assert [g["lr"] for o in (first, second) for g in o.param_groups] == [0.02, 0.2, 0.05, 0.0]
    assert not any("lr_ratio" in g for o in (first, second) for g in o.param_groups)


def test_a_rate_of_zero_everywhere_is_as_good_as_any():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=0.0)
    step = made_up(parameters[0], optimizer, lambda lr: lr)
    with subject(step, optimizer).begin(0) as run:
        assert run.update(0.5) == 0.5
        assert parameters[0].item() == 0.5
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.0]


def test_accumulation_makes_one_point_of_all_its_batches():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls, stepped = Counter(), []

    def step(batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss / 3).backward()
        calls.count += 1
        if calls.count % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
            stepped.append(calls.count)
        return loss

    tested = subject(step, optimizer, keep=[calls])
    with tested.begin(0) as run:
        plan = list(itertools.islice(tested.batches.epoch(1_000_000), 6))
        first = [F.cross_entropy(model(x), y).item() for x, y in plan[:3]]
        assert run.update(0.1) == pytest.approx(sum(first) / 3) and stepped == [3]
        run.update(0.1)
        assert stepped == [3, 6] and run.updates == 2 and tested.calls_per_update == 3
    assert calls.count == 0


@pytest.mark.parametrize("fused", [False, True], ids=["skipped by the scaler", "skipped inside the fused step"])
def test_updates_that_fp16_skips_are_no_points(fused):
    """The gradient of a sum is the scale: 2^18, 2^17 and 2^16 overflow in fp16, and 2^15 does not."""
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    before = []

    def step(batch):
        before.append(layer.weight.item())
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = layer(torch.ones(1, 1)).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    tested = subject(step, optimizer, keep=[scaler])
    found = sweep(tested, 0, [0.001, 0.002, 0.003], 1)
    assert len(before) == 6 and len(set(before[:4])) == 1 < len(set(before[3:]))
    assert found.lr == (0.001, 0.002, 0.003) and found.stopped == "end"
    assert tested.calls_per_update == 1, "overflows are no accumulation"
    assert scaler.get_scale() == 2.0**18 and layer.weight.item() == before[0]


def test_gradients_that_always_overflow_end_the_sweep():
    weight, optimizer = dummy()
    applied = Counter()

    def step(batch):
        applied.count += 1
        if applied.count <= 10:
            made_up(weight, optimizer, lambda lr: 1.0)(batch)
        return 1.0

    found = sweep(subject(step, optimizer, keep=[applied]), 0, RISING, 4)
    assert found.stopped == "nan" and len(found.lr) == 10


def test_a_gan_whose_parts_train_at_different_paces():
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
    optimizers = [torch.optim.Adam(m.parameters(), lr=lr) for m, lr in ((generator, 1e-4), (critic, 4e-4))]
    turn, seen = Counter(), []

    def step(batch):
        turn.count += 1
        critic.requires_grad_(True)
        fake = generator(torch.randn(8, 2))
        loss = critic(fake.detach()).mean() - critic(batch[0]).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        if turn.count % 5 == 0:
            critic.requires_grad_(False)
            optimizers[0].zero_grad()
            (-critic(generator(torch.randn(8, 2))).mean()).backward()
            optimizers[0].step()
            seen.append([o.param_groups[0]["lr"] for o in optimizers])
        return loss

    before = snapshot([generator, critic], optimizers, [turn])
    tested = subject(step, optimizers, keep=[turn])
    found = sweep(tested, 0, [1e-5, 1e-4, 1e-3], 4)
    assert len(found.lr) == 3 and seen[1] == pytest.approx([1e-4, 4e-4])
    assert changes(before, snapshot([generator, critic], optimizers, [turn])) == []


def test_a_step_that_never_steps_is_named():
    weight, optimizer = dummy()
    with pytest.raises(TrainingError, match=r"6\d calls of the step made no update of every optimizer.*optimizer.step"):
        scout(subject(lambda batch: weight.sum(), optimizer))


@pytest.mark.parametrize(("result", "shown"), [(None, "None"), ("1", "'1'"), (torch.ones(2), "tensor"), ((), r"\(\)")])
def test_a_step_without_a_loss_is_named(result, shown):
    weight, optimizer = dummy()
    with pytest.raises(ConfigError, match=f"a step returns the loss of its batch, one number; received {shown}"):
        scout(subject(made_up(weight, optimizer, lambda lr: result), optimizer))


@pytest.mark.parametrize("result", [1, 1.0, torch.tensor(1.0), torch.tensor([1.0]), (torch.tensor(1.0), {"a": 2})])
def test_a_loss_may_come_in_many_forms(result):
    weight, optimizer = dummy()
    with subject(made_up(weight, optimizer, lambda lr: result), optimizer).begin(0) as run:
        assert run.update(0.1) == 1.0


# Data


def test_batches_are_recycled_and_each_repeat_has_an_order_of_its_own():
    def order(repeat):
        model, seen = seeded_net(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tested = subject(supervised(model, optimizer, seen), optimizer, batches=(X, Y))
        tested.batches = as_batches((X, Y), 32)
        sweep(tested, repeat, [1e-6 * (k + 1) for k in range(8)], 4)
        return torch.cat(seen)

    first = order(0)
    assert len(first) == 8 * 32, "three batches an epoch"
    assert torch.equal(first[:96].sort(0)[0], X.sort(0)[0]) and not torch.equal(first[:96], first[96:192])
    assert torch.equal(first, order(0)) and not torch.equal(first, order(1))


def test_batches_that_cannot_begin_anew_are_named():
    class Once:
        def __init__(self):
            self.iterator = iter(BATCHES)

        def __iter__(self):
            return self.iterator

    model = seeded_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = snapshot([model], [optimizer])
    with pytest.raises(DataError, match=r"ended and cannot be gone through again: give a DataLoader"):
        sweep(subject(supervised(model, optimizer), optimizer, Once()), 0, RISING, 4)
    assert changes(before, snapshot([model], [optimizer])) == []


def test_repeats_begin_at_the_same_weights_or_at_others_where_it_can_be_restarted():
    def first_losses(restart, seed=0):
        model = seeded_net(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def again(seed):
            for layer in (model[0][0], model[2]):
                layer.reset_parameters()  # from the global generator

        whole = [(X, Y)] * 12  # so that the first loss tells the weights alone
        step = supervised(model, optimizer)
        tested = subject(step, optimizer, whole, restart=again if restart else None, seed=seed)
        before = weights(model)
        found = [sweep(tested, repeat, RISING[:3], 4).loss[0] for repeat in range(3)]
        assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(model).values(), strict=True))
        return found

    same = first_losses(restart=False)
    assert same[0] == same[1] == same[2]
    other = first_losses(restart=True)
    assert other[0] == same[0] and len(set(other)) == 3
    torch.manual_seed(77)
    assert first_losses(restart=True) == other, "whatever the caller's generators are at"
    assert first_losses(restart=True, seed=1) != other


def test_what_the_step_draws_is_the_same_each_time():
    model = seeded_net(dropout=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tested = subject(supervised(model, optimizer), optimizer)
    first = sweep(tested, 0, RISING, 4)
    torch.manual_seed(5)
    assert sweep(tested, 0, RISING, 4) == first
    assert sweep(tested, 1, RISING, 4) != first


# The scout

MAKERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.1),
    "muon": lambda model: Muon(
        [{"params": [model[0][0].weight], "momentum": 0.9}, {"params": [model[0][0].bias, *model[2].parameters()]}]
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_scout_finds_its_ends_whatever_the_optimizer(name):
    model = seeded_net(dropout=0.0)
    optimizer = MAKERS[name](model)
    tested = subject(supervised(model, optimizer), optimizer, HARD)
    found = scout(tested)
    assert found.moved and 3 <= math.log10(found.edge / found.still) <= 6.5
    assert tested.updates < 25
    still = sweep(tested, 0, [found.still * (1 + k / 100) for k in range(12)], 4)
    calm = sweep(tested, 0, [found.still * (1 + k / 100) * 1e-3 for k in range(12)], 4)
    assert still.loss == pytest.approx(calm.loss, abs=5e-3), "the loss does not move there"
    growth = (found.edge / found.still) ** (1 / 50)
    assert sweep(tested, 0, [found.still * growth**k for k in range(60)], 4).stopped != "end", "it is lost there"


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_ends_follow_the_scale_of_the_loss(factor):
    def found(factor):
        model = seeded_net(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(batch):
            loss = F.cross_entropy(model(batch[0]), batch[1]) * factor
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return scout(subject(step, optimizer))

    plain, scaled = found(1.0), found(factor)
    assert scaled.still * factor == pytest.approx(plain.still, rel=1e-3)
    assert 0.45 < scaled.edge * factor / plain.edge < 2.2


def test_a_net_that_dies_is_lost_though_its_loss_is_that_of_the_start():
    """Where every unit is off for good, the last bias alone is trained on."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = supervised(model, optimizer)
    losses = []

    def step(batch):
        losses.append(plain(batch))
        if optimizer.param_groups[0]["lr"] > 0.05 and len(losses) > 1:
            with torch.no_grad():
                model[0].bias.fill_(-1e6)
        return losses[-1]

    found = scout(subject(step, optimizer, HARD))
    assert found.lost and 0.05 < found.edge < 0.05 * 2**4
    assert max(losses[-3:]) < 1.5 * losses[1], "by its gradients, not by its loss"
    assert sweep(subject(step, optimizer, HARD), 0, RISING, 4).stopped == "diverged"


def test_the_scout_stops_at_nan_and_calls_that_moved():
    weight, optimizer = dummy()
    found = scout(subject(made_up(weight, optimizer, lambda lr: math.nan if 1e-3 < lr < 0.5 else 1.0), optimizer))
    assert found.moved and 0.5e-3 <= found.edge <= 1e-3


def test_a_loss_that_never_moves_is_told():
    weight, optimizer = dummy()
    tested = subject(made_up(weight, optimizer, lambda lr: 1.0), optimizer)
    assert not scout(tested).moved and tested.updates < 25


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan)])
def test_nan_from_the_start_is_an_error_that_says_where_to_look(loss):
    _, optimizer = dummy()
    calls = []

    def step(batch):
        calls.append(batch)
        return loss  # without an update, as a gradient scaler would skip it

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) before any update: look at the data"):
        scout(subject(step, optimizer))
    assert len(calls) == 1, "at once"


def test_weights_that_do_not_move_or_become_infinite_are_an_error():
    weight, optimizer = dummy()
    for factor in (0.0, math.inf):

        def step(batch, factor=factor):
            optimizer.zero_grad()
            (weight * factor).sum().backward()
            optimizer.step()
            return 1.0

        with pytest.raises(TrainingError, match=r"does not move the weights, or makes them infinite.*frozen"):
            scout(subject(step, optimizer))
    assert weight.tolist() == [1.0, 1.0]


# The sweep


def test_nan_at_step_30_stops_there_and_is_no_point():
    weight, optimizer = dummy()
    calls = Counter()

    def step(batch):
        calls.count += 1
        made_up(weight, optimizer, lambda lr: 1.0)(batch)
        return math.nan if calls.count == 30 else 1.0 + 0.01 * (calls.count % 3)

    found = sweep(subject(step, optimizer, keep=[calls]), 0, RISING, 4)
    assert found.stopped == "nan" and found.lr == tuple(RISING[:29]) and len(found.loss) == 29


def test_a_loss_of_minus_100_does_not_stop_it():
    weight, optimizer = dummy()
    step = made_up(weight, optimizer, lambda lr: -100.0 - 50 * lr / (1 + lr))
    found = sweep(subject(step, optimizer), 0, RISING, 4)
    assert found.stopped == "end" and len(found.lr) == 40 and found.loss[0] < -100


def test_it_is_measured_every_few_updates_and_where_it_diverges():
    weight, optimizer = dummy()
    step = made_up(weight, optimizer, lambda lr: 1.0 if lr < 1 else lr * 5)
    probed = []
    found = sweep(
        subject(step, optimizer, evaluate=lambda: {"loss": 2, "accuracy": torch.tensor(0.5), "other": "x"}),
        0, RISING, 4, lambda lr, due: probed.append((lr, due)),
    )  # fmt: skip
    n = len(found.lr)
    assert found.stopped == "diverged" and 31 < n < 36
    expected = [rate for k, rate in enumerate(RISING[:n]) if k % 4 == 3 or k == n - 1]
    assert found.valid_lr == tuple(expected) == tuple(lr for lr, due in probed if due)
    assert found.valid_loss == (2.0,) * len(expected) and found.valid_accuracy == (0.5,) * len(expected)
    assert [lr for lr, _ in probed] == RISING[:n]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_held_out_loss_that_is_not_finite_stops_it_and_is_no_point(value):
    weight, optimizer = dummy()
    step = made_up(weight, optimizer, lambda lr: 1.0)
    results = iter([1.0, 1.1, value])
    found = sweep(subject(step, optimizer, evaluate=lambda: {"loss": next(results), "accuracy": 0.5}), 0, RISING, 4)
    assert found.stopped == "nan" and len(found.lr) == 12
    assert found.valid_loss == (1.0, 1.1) and found.valid_lr == (RISING[3], RISING[7])


@pytest.mark.parametrize("result", [0.5, None, {}, {"acc": 0.5}])
def test_an_evaluation_that_cannot_be_read_is_named(result):
    weight, optimizer = dummy()
    tested = subject(made_up(weight, optimizer, lambda lr: 1.0), optimizer, evaluate=lambda: result)
    with pytest.raises(ConfigError, match=r'evaluate returns {"loss": \.\.\., "accuracy": \.\.\.}.*received'):
        sweep(tested, 0, RISING, 4)


def test_an_evaluation_that_leaves_the_model_in_evaluation_mode_does_not_change_the_training():
    def losses(evaluate):
        model = seeded_net(dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = supervised(model, optimizer)
        tested = subject(step, optimizer, evaluate=evaluate and (lambda: evaluate(model)))
        return sweep(tested, 0, RISING, 4).loss

    def evaluate(model):
        model.eval()
        torch.rand(1)
        return {"accuracy": float((model(X).argmax(1) == Y).float().mean())}

    assert losses(evaluate) == losses(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_the_update_under_way(number):
    model, stop = seeded_net(), StopRequest()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, seen = snapshot([model], [optimizer]), []
    plain = supervised(model, optimizer, seen)

    def step(batch):
        if len(seen) == 4:
            stop.signal = number
        return plain(batch)

    with pytest.raises(Interrupted, match=f"stopped by {number.name}; everything is as before") as error:
        sweep(subject(step, optimizer, stop=stop), 0, RISING, 4)
    assert error.value.signal == number and len(seen) == 5
    assert changes(before, snapshot([model], [optimizer])) == []


# Batch norm


def accuracy(model):
    model.eval()
    with torch.no_grad():
        return float((model(X).argmax(1) == Y).float().mean())


def test_stale_averages_fake_a_collapse_that_batch_statistics_do_not(monkeypatch):
    def accuracies():
        model = seeded_net(dropout=0.0)
        model[0][1].momentum = 0.02
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = supervised(model, optimizer)
        tested = subject(step, optimizer, evaluate=lambda: {"accuracy": accuracy(model)})
        return sweep(tested, 0, [10 ** (-2 + k / 20) for k in range(40)], 1)

    own = accuracies()
    monkeypatch.setattr(sweeping, "batch_statistics", lambda modules: nullcontext())
    stale = accuracies()
    assert own.loss == stale.loss, "the same training"
    learnt = [a for a in zip(own.valid_accuracy, stale.valid_accuracy, strict=True) if a[0] > 0.95]
    assert len(learnt) > 10 and min(a for _, a in learnt[5:]) < 0.7, "a collapse that is none"


def test_batch_statistics_are_those_of_the_batch_and_leave_nothing():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.BatchNorm1d(4, track_running_stats=False))
    with torch.no_grad():
        model[0].running_mean.fill_(1e3)
    model.eval()
    before = snapshot([model], [])
    with batch_statistics([model, model]):
        torch.testing.assert_close(model[0](X), F.batch_norm(X, None, None, training=True))
        model(X)
    assert changes(before, snapshot([model], [])) == []
    with pytest.raises(ZeroDivisionError), batch_statistics([model]):
        model(X)
        raise ZeroDivisionError
    assert changes(before, snapshot([model], [])) == []
    assert model[0](X).abs().max() > 500 and not model[0]._forward_pre_hooks


def test_a_batch_of_one_sample_has_no_statistics_of_its_own():
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    with batch_statistics([model]):
        torch.testing.assert_close(model(X[:1]), X[:1] / (1 + 1e-5) ** 0.5)
        torch.testing.assert_close(model(X), F.batch_norm(X, None, None, training=True))
        assert torch.isfinite(model(X[:1])).all()


def test_still_is_far_below_what_moves_a_loss():
    assert STILL <= 1e-4

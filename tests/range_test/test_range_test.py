"""The whole test of a step of one's own: its cost, its ends, its answers where there is none, and bad input."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from range_makers import Counter, changes, snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from training_makers import blobs, global_generators, seeded_net

import onecycle
from onecycle import CheckpointError, ConfigError, DataError, Interrupted, TrainingError, range_test
from onecycle.optim.build import build_optimizer
from onecycle.optim.driver import Driver
from onecycle.range_test.api import RangeTest
from onecycle.range_test.plan import SHORTEST, default_updates, sweep_updates
from onecycle.records.curve import Curve
from onecycle.text import count

X, Y = blobs(240)
FLIPPED = torch.where(torch.arange(240) % 5 == 0, (Y + 1) % 3, Y)
BATCHES = [(X[i : i + 8], FLIPPED[i : i + 8]) for i in range(0, 240, 8)]
VALID = blobs(48, seed=1)


class Case:
    """A model with its own loop."""

    def __init__(self, dropout=0.25, make=torch.optim.SGD, lr=0.1, **options):
        self.model = seeded_net(dropout=dropout)
        self.optimizer = make(self.model.parameters(), lr=lr, **options)
        self.batches, self.calls = [], 0

    def step(self, batch):
        self.calls += 1
        self.batches.append(batch)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        return loss

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(VALID[0])
        return {
            "loss": F.cross_entropy(outputs, VALID[1]),
            "accuracy": (outputs.argmax(1) == VALID[1]).float().mean(),
        }

    def snapshot(self):
        return snapshot([self.model], [self.optimizer])

    def test(self, batches=BATCHES, **options) -> RangeTest:
        return range_test(self.step, self.optimizer, batches, **options)


def made_up(losses, batches=BATCHES, lr=0.1, **options) -> RangeTest:
    """The test of a step whose loss is a function of the learning rate."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=lr)

    def step(batch):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        return losses(float(optimizer.param_groups[0]["lr"]))

    return range_test(step, optimizer, batches, **options)


# No trace


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("evaluated", [True, False])
def test_nothing_is_left_and_the_second_time_is_as_the_first(make, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = Case(make=make)
    for batch in BATCHES[:3]:
        case.step(batch)
    before = case.snapshot()
    evaluate = case.evaluate if evaluated else None
    first = case.test(evaluate=evaluate)
    assert changes(before, case.snapshot()) == []
    torch.rand(3), random.random(), np.random.rand()
    second = case.test(evaluate=evaluate)
    assert first.curve == second.curve and first.lr_max == second.lr_max and first.verdict == second.verdict
    assert len(first.curve.sweeps) == 2 and first.curve.sweeps[0].loss != first.curve.sweeps[1].loss
    assert bool(first.curve.valid_accuracy.mean) == bool(first.curve.valid_loss.mean) == evaluated
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 2, 12, 30, 55])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["before the update", "after it", "in the evaluation"])
def test_nothing_is_left_of_one_that_fails_anywhere(where, at, error):
    case = Case(make=torch.optim.Adam)
    before, plain = case.snapshot(), case.step
    measured = itertools.count(1)

    def step(batch):
        if where == "before the update" and case.calls + 1 == at:
            raise error
        loss = plain(batch)
        if where == "after it" and case.calls == at:
            raise error
        return loss

    def evaluate():
        found = case.evaluate()
        if where == "in the evaluation" and next(measured) == min(at, 17):
            raise error
        return found

    case.step = step
    with pytest.raises(error):
        case.test(evaluate=evaluate, updates=100)
    assert changes(before, case.snapshot()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 15, 40])
def test_a_signal_waits_for_the_update_and_leaves_nothing(number, at):
    case = Case()
    before, plain = case.snapshot(), case.step

    def step(batch):
        if case.calls + 1 == at:
            os.kill(os.getpid(), number)
        return plain(batch)

    case.step = step
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as error:
        case.test(updates=100)
    assert error.value.signal == number and case.calls == at, "the update was finished"
    assert changes(before, case.snapshot()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_the_very_last_update_is_not_lost():
    calls = made_up(lambda lr: 1.0 - lr / 100, lr_low=1e-3, lr_high=1e-2, updates=80).cost["updates"]
    seen = itertools.count(1)

    def last(lr):
        if next(seen) == calls:
            os.kill(os.getpid(), signal.SIGINT)
        return 1.0 - lr / 100

    with pytest.raises(Interrupted):
        made_up(last, lr_low=1e-3, lr_high=1e-2, updates=80)


def loaders():
    data = TensorDataset(X, FLIPPED)
    yield "shuffled", DataLoader(data, 8, shuffle=True)
    yield "with a generator", DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(4))
    yield "of several ranks", DataLoader(data, 8, sampler=DistributedSampler(data, 2, 0))


@pytest.mark.parametrize(("name", "loader"), list(loaders()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_loader_goes_on_as_if_it_had_not_been(name, loader):
    def order():
        torch.manual_seed(1)
        return [y.tolist() for _, y in itertools.chain(loader, loader)]

    if loader.generator is not None:
        loader.generator.manual_seed(4)
    expected, state = order(), loader.generator and loader.generator.manual_seed(4).get_state()
    if name == "of several ranks":
        loader.sampler.set_epoch(0)
    torch.manual_seed(9)
    before = global_generators()
    case = Case()
    case.test(loader)
    assert global_generators() == before
    assert state is None or torch.equal(loader.generator.get_state(), state)
    assert order() == expected
    assert len({tuple(y.tolist()) for _, y in case.batches}) > len(loader), "the sweeps see other batches"


def test_what_the_step_keeps_of_its_own_is_put_back():
    case, counter, generator = Case(), Counter(), torch.Generator().manual_seed(2)
    scheduler = torch.optim.lr_scheduler.StepLR(case.optimizer, 2)
    average = torch.optim.swa_utils.AveragedModel(case.model)
    plain = case.step

    def step(batch):
        counter.count += 1
        loss = plain((batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]))
        scheduler.step()
        average.update_parameters(case.model)
        return loss

    case.step = step
    keep = [counter, scheduler, average, generator]
    case.optimizer.step()  # as the scheduler wants it
    before, state = snapshot([case.model, average], [case.optimizer], keep[:3]), generator.get_state()
    test = case.test(keep=keep)
    assert changes(before, snapshot([case.model, average], [case.optimizer], keep[:3])) == []
    assert torch.equal(generator.get_state(), state)
    assert test.curve.lr[-1] > 100 * test.curve.lr[0], "the scheduler does not disturb the sweep"


# Any step


def test_batches_of_any_structure_and_a_loss_below_zero():
    model = nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def step(batch):  # the directions of largest variance, up to a penalty
        z = model(batch["rows"]["x"])
        loss = -z.square().mean() + 0.1 * model.weight.square().sum() ** 2 - 100
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, {"anything": 1}

    before = snapshot([model], [optimizer])
    test = range_test(step, optimizer, [{"rows": {"x": x}, "names": ["a"] * 8} for x, _ in BATCHES])
    assert changes(before, snapshot([model], [optimizer])) == []
    assert max(test.curve.loss.mean[:5]) < -99 and min(test.curve.loss.mean) < test.curve.loss.mean[0] - 1
    assert test.edge is not None and test.curve.sweeps[0].stopped == "diverged"


def test_a_gan_with_two_optimizers():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
    critic = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizers = [
        torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9)),
        torch.optim.SGD(critic.parameters(), lr=4e-3),
    ]
    used = []

    def step(batch):
        fake = generator(torch.randn(len(batch[0]), 2))
        real, made = critic(batch[0]), critic(fake.detach())
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        adversarial = F.softplus(-critic(fake)).mean()
        adversarial.backward()
        optimizers[0].step()
        used.append([o.param_groups[0]["lr"] for o in optimizers])
        return loss.item() + adversarial.item()

    before = snapshot([generator, critic], optimizers)
    test = range_test(step, optimizers, BATCHES)
    assert changes(before, snapshot([generator, critic], optimizers)) == []
    assert all(second == pytest.approx(4 * first) for first, second in used)
    assert test.lr_max is not None or test.reason
    assert test.cost["updates"] == len(used)


def test_accumulation_counts_updates_and_not_batches():
    case, calls = Case(), Counter()
    updates = []

    def step(batch):
        loss = F.cross_entropy(case.model(batch[0]), batch[1])
        (loss / 4).backward()
        calls.count += 1
        if calls.count % 4 == 0:
            case.optimizer.step()
            case.optimizer.zero_grad()
            updates.append(calls.count)
        return loss

    case.step = step
    before = snapshot([case.model], [case.optimizer], [calls])
    test = case.test(keep=[calls], updates=80)
    assert changes(before, snapshot([case.model], [case.optimizer], [calls])) == []
    assert test.cost["updates"] == len(updates) <= 80
    assert test.cost["share"] == pytest.approx(len(updates) / (10 * (30 // 4)))


def test_updates_that_a_scaler_skips_are_no_points():
    case = Case()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    tries, applied = Counter(), []

    def step(batch):
        tries.count += 1
        case.optimizer.zero_grad()
        loss = F.cross_entropy(case.model(batch[0]), batch[1])
        overflows = tries.count in (1, 5, 6)
        scaler.scale(loss * (math.inf if overflows else 1.0)).backward()
        scaler.step(case.optimizer)
        scaler.update()
        applied.append(not overflows)
        return loss

    case.step = step
    before = snapshot([case.model], [case.optimizer], [scaler, tries])
    test = case.test(keep=[scaler, tries], updates=100)
    assert changes(before, snapshot([case.model], [case.optimizer], [scaler, tries])) == []
    assert test.cost["updates"] == sum(applied) < len(applied)
    assert test.cost["share"] == pytest.approx(sum(applied) / 300), "a skipped update is no accumulation"
    for sweep in test.curve.sweeps:
        ratios = {round(b / a, 6) for a, b in itertools.pairwise(sweep.lr)}
        assert len(ratios) == 1, "no learning rate is left out or repeated"


def test_ratios_of_groups_are_kept_and_the_result_is_the_largest():
    case = Case()
    used = []
    layers = [{"params": case.model[0].parameters(), "lr": 0.01}, {"params": case.model[2].parameters(), "lr": 0.1}]
    case.optimizer = torch.optim.SGD(layers)
    case.optimizer.register_step_pre_hook(lambda o, *_: used.append([g["lr"] for g in o.param_groups]))
    test = case.test(updates=100)
    assert all(low == pytest.approx(0.1 * high) for low, high in used)
    assert test.curve.lr[-1] in [high for _, high in used]


# Ends and spacing


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, "muon"])
def test_it_starts_where_the_loss_does_not_move_and_ends_where_it_diverges(make):
    case = Case(dropout=0.0)
    if make == "muon":
        case.optimizer, _ = build_optimizer("muon", case.model)
    else:
        case.optimizer = make(case.model.parameters(), lr=0.1)
    whole = [(X, FLIPPED)] * 30  # without the noise of batches
    test = case.test(whole, updates=150)
    curve, smallest = test.curve, case.test(whole, updates=150, lr_low=1e-9, lr_high=1e-8).curve
    assert {s.stopped for s in curve.sweeps} <= {"diverged", "nan"} and test.edge is not None
    assert curve.lr[-1] > 100 * curve.lr[0] and min(curve.loss.mean) < curve.loss.mean[0] - 0.2
    assert curve.loss.mean[1] == pytest.approx(smallest.loss.mean[1], abs=0.03)


def test_exponential_and_linear_spacing_between_given_ends():
    options = {"lr_low": 1e-4, "lr_high": 1e-2, "updates": 100}
    exponential = made_up(lambda lr: 1 - lr, **options).curve.lr
    ratios = [b / a for a, b in itertools.pairwise(exponential)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) and ratios[0] > 1
    linear = made_up(lambda lr: 1 - lr, spacing="linear", **options).curve.lr
    steps = [b - a for a, b in itertools.pairwise(linear)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    for rates in (exponential, linear):
        assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(1e-2)


def test_a_linear_sweep_that_finds_its_own_ends():
    test = Case(dropout=0.0).test(spacing="linear")
    steps = [b - a for a, b in itertools.pairwise(test.curve.lr)]
    assert steps == pytest.approx([steps[0]] * len(steps)) and test.curve.sweeps[0].stopped == "diverged"


def test_an_upper_end_far_below_where_anything_happens_gives_a_reason():
    test = Case(dropout=0.0).test(lr_high=1e-7)
    assert test.curve.lr[-1] == pytest.approx(1e-7) and test.lr_max is None and test.reason and test.edge is None


# Cost


@pytest.mark.parametrize("told", [60, 100, 250])
@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("repeats", [1, 3])
def test_it_never_costs_more_updates_than_it_is_told(told, evaluated, repeats):
    calls = itertools.count()

    def losses(lr):
        next(calls)
        return 2.0 if lr > 1000 else 1.0  # so late that sweeps go on for as long as they may

    options = {"evaluate": (lambda: {"loss": 1.0}) if evaluated else None, "lr_low": 1e-4, "repeats": repeats}
    if told < 24 + repeats * SHORTEST * 4 / 3:
        with pytest.raises(ConfigError, match="too few"):
            made_up(losses, updates=told, **options)
        return
    test = made_up(losses, updates=told, **options)
    assert test.cost["updates"] == next(calls) <= told
    assert test.cost["updates"] > 0.6 * told
    assert test.cost["evaluations"] == sum(len(s.valid_lr) for s in test.curve.sweeps)


@pytest.mark.parametrize(("batches", "most"), [(130, 0.05), (300, 0.05), (2000, 0.05)])
def test_by_default_it_costs_under_a_twentieth_of_ten_epochs(batches, most):
    data = [torch.zeros(1)] * batches
    test = made_up(lambda lr: 1.0 + lr, data, evaluate=lambda: {"loss": 1.0})
    assert test.cost["share"] == test.cost["updates"] / (10 * batches) <= most


def test_the_default_grows_with_the_data_and_with_the_repeats():
    assert [default_updates(n) for n in (None, 1, 128, 400, 10**6)] == [200, 64, 64, 200, 400]
    assert sweep_updates(None, 64, 20, 2, True) >= SHORTEST
    test = made_up(flat, repeats=6)
    assert test.cost["updates"] > 64 and [len(s.lr) >= SHORTEST for s in test.curve.sweeps] == [True] * 6


def test_the_share_is_unknown_where_an_epoch_has_no_length():
    class Endless:
        def __iter__(self):
            return itertools.repeat((X[:8], Y[:8]))

    test = Case().test(Endless())
    assert "share" not in test.cost and test.cost["updates"] <= 200


def test_a_dozen_batches_are_recycled():
    case = Case()
    test = case.test(BATCHES[:12], updates=100)
    assert case.calls == test.cost["updates"] > 2 * 12
    assert {id(batch) for batch in case.batches} == {id(batch) for batch in BATCHES[:12]}


def test_a_list_has_another_order_in_each_repeat():
    case = Case(dropout=0.0)
    test = case.test(BATCHES, updates=100)
    assert test.curve.sweeps[0].loss[0] != test.curve.sweeps[1].loss[0]


# No number


def flat(lr):
    return 1.0


def only_rises(lr):
    return 1.0 + 10 * lr


def noise_alone():
    draw = random.Random(0)
    return lambda lr: draw.gauss(5, 1)


@pytest.mark.parametrize("loss", [flat, only_rises, noise_alone()], ids=["flat", "only rises", "noise alone"])
@pytest.mark.parametrize("spacing", ["exponential", "linear"])
def test_a_loss_that_does_not_fall_gives_no_number_but_a_reason(loss, spacing):
    test = made_up(loss, spacing=spacing)
    assert test.lr_max is None and test.reason and test.lr_min is None
    assert test.line().startswith("no peak from the range test: ") and test.reason in test.line()


def test_a_loss_that_never_moves_is_told_as_such():
    test = made_up(flat)
    assert "the loss did not move" in test.reason and test.edge is None
    lr = test.curve.lr
    assert lr[0] < 1e-3 and lr[-1] > 10, "all that the scout saw"


def test_a_step_that_trains_something_else_is_told(recwarn):
    trained, tested = seeded_net(), seeded_net()
    optimizer = torch.optim.SGD(tested.parameters(), lr=0.1, weight_decay=0.1)

    def step(batch):
        sum(p.sum() for p in tested.parameters()).backward()
        optimizer.step()
        return F.cross_entropy(trained.eval()(batch[0]), batch[1])

    test = range_test(step, optimizer, [BATCHES[0]] * 20)
    assert test.lr_max is None and "the loss did not move" in test.reason


@pytest.mark.parametrize(
    ("lost", "options", "points"),
    [
        (1.5, {"lr_low": 2.0, "lr_high": 9.0}, 0),
        (2.1, {"lr_low": 2.0, "lr_high": 9.0}, 1),
        (9.0, {"evaluate": lambda: {"loss": math.nan}, "updates": 200}, 4),
    ],
)
def test_a_sweep_that_is_lost_as_soon_as_it_begins_gives_a_reason(lost, options, points):
    test = made_up(lambda lr: math.nan if lr > lost else 1.0, **options)
    assert test.lr_max is None and test.edge is None and len(test.curve.lr) == points
    assert test.reason.startswith(f"after {count(points, 'updates')} the training loss or the held-out loss was NaN")


def test_nan_from_the_start_is_an_error():
    with pytest.raises(TrainingError, match="the loss is nan before any update: look at the data"):
        made_up(lambda lr: math.nan)


def test_a_bounded_loss_whose_scout_sees_little_still_gets_a_sweep():
    """It falls and comes back, but never above its start."""

    def bounded(lr):
        return 1 - 0.9 * math.exp(-((math.log10(lr) + 2) ** 2) * 8)

    test = made_up(bounded, updates=200, lr_low=1e-4, lr_high=1.0)
    assert test.reason is None or "did not move" not in test.reason
    assert min(test.curve.loss.mean) < 0.2 and len(test.curve.lr) > 20


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"updates": 0},
            "updates of the whole test, a whole number of at least 1; received 0",
        ),
        ({"updates": 10.5}, "received 10.5"),
        ({"updates": True}, "received True"),
        ({"repeats": 0}, "repeats is the number of sweeps, a whole number of at least 1; received 0"),
        ({"updates": 30}, r"30 updates are too few for 2 repeats.*give updates=\d+ or more, or fewer repeats"),
        ({"lr_low": 1.0, "lr_high": 0.1}, "rise from lr_low to lr_high; received 1 and 0.1: swap them"),
        ({"lr_low": 0.1, "lr_high": 0.1}, "received 0.1 and 0.1"),
        ({"lr_low": 0.0}, "lr_low is a finite number above 0; received 0.0"),
        ({"lr_high": -1}, "lr_high is a finite number above 0; received -1"),
        ({"lr_high": math.inf}, "received inf"),
        ({"lr_low": "1e-3"}, "received '1e-3'"),
        ({"lr_low": 1e9}, r"lr_low 1e\+09 is not below .*, where training is lost: give a smaller lr_low"),
        ({"epochs": 0}, "epochs is a finite number above 0; received 0"),
        ({"epochs": None}, "epochs is a finite number above 0; received None"),
        ({"lr_low": True}, "lr_low is a finite number above 0; received True"),
        ({"evaluate": lambda: {"loss": "low"}}, "evaluate returns the loss, one number; received 'low'"),
        ({"spacing": "exponentail"}, "unknown spacing 'exponentail': did you mean exponential"),
        ({"keep": [3]}, r"has state_dict\(\) and load_state_dict\(\); received 3"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(options, message):
    case = Case()
    before = case.snapshot()
    with pytest.raises(ConfigError, match=message):
        case.test(**options)
    assert changes(before, case.snapshot()) == []


def test_the_updates_that_the_message_asks_for_are_enough():
    with pytest.raises(ConfigError) as error:
        made_up(only_rises, updates=30)
    need = int(str(error.value).split("updates=")[1].split()[0])
    assert len(made_up(only_rises, updates=need).curve.sweeps) == 2


@pytest.mark.parametrize("optimizer", [[], None, "sgd", [None]])
def test_what_is_no_optimizer_is_named(optimizer):
    with pytest.raises(ConfigError, match="optimizer is a torch optimizer, or several; received"):
        range_test(lambda batch: 1.0, optimizer, BATCHES)


def test_an_optimizer_of_frozen_weights_is_named():
    case = Case()
    case.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight of the optimizer is trained, all are frozen"):
        case.test()


def test_a_length_that_is_none_and_a_path_that_cannot_be_written_are_named(tmp_path):
    test = made_up(only_rises, updates=80)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to .*give a folder"):
        test.save(tmp_path / "file" / "test.json")
    with pytest.raises(ConfigError, match="epochs is a finite number above 0; received -1"):
        replace(test, lr_max=1.0).peak(-1)


@pytest.mark.parametrize("batches", [BATCHES[:1], DataLoader(TensorDataset(X, Y), 240), (X[:64], Y[:64])])
def test_fewer_than_two_batches_are_named(batches):
    with pytest.raises(DataError, match=r"at least 2 batches.*make the batches smaller"):
        Case().test(batches)


def test_an_iterator_is_refused_and_nothing_is_read_of_it():
    iterator = iter(BATCHES)
    with pytest.raises(DataError, match=r"an iterator ends.*give what it was made from"):
        Case().test(iterator)
    assert next(iterator) is BATCHES[0]


def test_an_iterator_in_disguise_is_named():
    class Once:
        def __init__(self):
            self.iterator = iter(BATCHES)

        def __iter__(self):
            return self.iterator

    with pytest.raises(DataError, match="ended and cannot be gone through again"):
        Case().test(Once())


def test_an_attached_policy_is_named():
    case = Case()
    driver = Driver(onecycle.one_cycle(0.1), case.optimizer, 10)
    with pytest.raises(ConfigError, match=r"call its detach\(\) before a range test"):
        case.test()
    driver.detach()
    assert case.test().curve.lr


# The result


def test_the_result_is_plain_data_that_is_saved(tmp_path):
    test = Case(dropout=0.0).test(evaluate=None, epochs=3, title="mine")
    path = test.save(tmp_path / "test.json")
    data = json.loads(path.read_text())
    assert Curve.from_dict(data["curve"]) == test.curve
    assert data["lr_max"] == test.lr_max and data["epochs"] == 3 and data["title"] == "mine"
    assert data["verdict"]["answer"] == test.verdict.answer and data["cost"] == test.cost


def test_it_is_short_in_print_and_a_table_in_a_notebook(tmp_path):
    test = replace(Case(dropout=0.0).test(title="a < b"), lr_max=0.1234, lr_min=0.01, edge=5.678, reason=None)
    updates = test.cost["updates"]
    assert repr(test) == f"RangeTest(lr_max=0.123, verdict={test.verdict.answer!r}, updates={updates})"
    table = test._repr_html_()
    assert "<caption>a &lt; b</caption>" in table and "<td>0.123</td>" in table and "<td>5.68</td>" in table
    assert "its accuracy at large learning rates</td>" in table and "no peak" not in table
    assert "<th>no peak</th><td>why</td>" in replace(test, lr_max=None, reason="why")._repr_html_()
    assert not {"folder", "command"} & set(test.to_dict())
    written = replace(test, folder=tmp_path, command="onecycle train digits").to_dict()
    assert (written["folder"], written["command"]) == (str(tmp_path), "onecycle train digits")


def test_one_line_says_the_peak_and_its_cost():
    test = replace(Case(dropout=0.0).test(), lr_max=0.1234, reason=None, edge=5.678)
    assert "0.12" in test.line() and str(test.cost["updates"]) in test.line() and "diverges at 5.7" in test.line()
    assert "diverges" not in replace(test, edge=None).line() and "\n" not in test.line()
    assert replace(test, lr_max=None, reason="why").line() == "no peak from the range test: why"

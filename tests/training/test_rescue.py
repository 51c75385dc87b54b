"""A lost run goes back to a good state, exactly and within its budget; a healthy one is left alone."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_makers import adamw, blobs, differing, seeded_net, sgd, weights

from onecycle import EpochEnd, Learner, Supervised, TrainState, Update, preset, train
from onecycle.errors import CheckpointError, NonFiniteLoss
from onecycle.search.trial import trial
from onecycle.training import guard
from onecycle.training.balance import trivial_loss
from onecycle.training.losses import cross_entropy
from onecycle.training.rescue import BLOCK, LEAST, MOST, SELDOM, Rescue, Watch, smaller

X, Y = blobs(480)
DATA = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 480, 16)]
NUMBERS = [(x, torch.stack([x.sum(1), x[:, 0] * x[:, 1], x[:, 2]], 1)) for x, _ in DATA]
LOST = preset("one_cycle", 10.0)
HEALTHY = preset("one_cycle", 0.1)
TASK = Supervised(cross_entropy)
SQUARES = Supervised(F.mse_loss)


def plain_state(make=sgd, task=TASK, **options) -> TrainState:
    """Three layers without norms, which a large learning rate breaks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )
    return TrainState(model, make(model), task, **options)


def updates_of(events) -> list[Update]:
    return [event for event in events if isinstance(event, Update)]


def test_a_run_that_has_unlearned_goes_back_and_learns_within_its_budget():
    state = plain_state()
    events = list(train(state, DATA, 5, LOST))
    updates, rescues = updates_of(events), [event.rescue for event in updates_of(events) if event.rescue]
    assert len(updates) == 150 and [event.step for event in updates] == list(range(150)) and 1 <= len(rescues) <= MOST
    assert all(math.isfinite(event.loss) for event in updates)
    factor = 1.0
    for event in updates:
        if event.rescue is not None:
            assert event.rescue.step == event.step > event.rescue.back_to
            assert LEAST * factor <= event.rescue.factor <= factor / 2
            factor = event.rescue.factor
        assert event.lr == LOST(event.step / 149)["lr"] * factor
    assert np.mean([event.loss for event in updates[-10:]]) < 0.5
    assert state.watch is None and state.kept == []
    unrescued = updates_of(train(plain_state(rescue=False), DATA, 5, LOST))
    assert np.mean([event.loss for event in unrescued[-10:]]) > 1


def test_a_loss_that_is_not_finite_goes_back_at_once_and_the_update_is_made_again():
    with pytest.raises(NonFiniteLoss, match=r"the loss became (nan|inf) at update \d+") as lost:
        list(train(plain_state(task=SQUARES, rescue=False), NUMBERS, 5, preset("one_cycle", 1e3)))
    events = list(train(plain_state(task=SQUARES), NUMBERS, 5, preset("one_cycle", 1e3)))
    first = next(event.rescue for event in updates_of(events) if event.rescue)
    assert first.step == lost.value.step and first.back_to == 0 and not math.isfinite(first.loss)
    assert all(math.isfinite(event.loss) for event in updates_of(events))
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [end.samples for end in ends] == [480] * 5 and all(math.isfinite(end.train["loss"]) for end in ends)


def test_a_healthy_run_is_the_same_with_and_without():
    one, other = plain_state(adamw), plain_state(adamw, rescue=False)
    events = [[event.row for event in train(state, DATA, 5, preset("one_cycle", 0.01))] for state in (one, other)]
    for rows in events:
        for row in rows:
            del row["seconds"]
    assert events[0] == events[1] and differing(weights(one.model), weights(other.model)) == []


@pytest.mark.parametrize(
    ("make", "task", "data", "peak"), [(sgd, TASK, DATA, 10.0), (adamw, TASK, DATA, 3.0), (sgd, SQUARES, NUMBERS, 10.0)]
)
def test_it_goes_on_from_any_update_as_if_it_had_not_stopped(make, task, data, peak):
    def losing_state():
        return plain_state(make, task, average=0.9, accumulate=2)

    policy, whole = preset("one_cycle", peak), losing_state()
    expected = [(event.step, event.values, event.row.get("loss"), event.row.get("rescue_factor")) for event in
                updates_of(train(whole, data, "120 updates", policy))]  # fmt: skip
    rescues = [step for step, *_, factor in expected if factor]
    assert rescues
    near = {step + k for step in rescues for k in (-2, -1, 0, 1)}
    first, seen = losing_state(), []  # stopped at each of them, and each time gone on with
    for stop in [*sorted({0, 7, 49, 50, 51, 60, 100, *near} - {120}), 119]:
        for event in train(first, data, "120 updates", policy):
            if isinstance(event, Update):
                seen.append((event.step, event.values, event.row.get("loss"), event.row.get("rescue_factor")))
                if event.step == stop:
                    break
        assert seen == expected[: stop + 1], stop
        again = losing_state()
        again.load_state_dict(copy.deepcopy(first.state_dict()))
        events = updates_of(train(again, data, "120 updates", policy))
        after = [(e.step, e.values, e.row.get("loss"), e.row.get("rescue_factor")) for e in events]
        assert after == expected[stop + 1 :], stop
        assert differing(weights(whole.model), weights(again.model)) == [], stop
    assert differing(weights(whole.model), weights(first.model)) == []


def test_what_it_can_go_back_to_is_checked_before_anything_is_changed():
    first, other = plain_state(), plain_state()
    next(iter(train(first, DATA, 5, HEALTHY)))
    saved, before = first.state_dict(), weights(other.model)
    saved["rescue"]["kept"][0]["modules"][0]["0.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"kept weights have 0\.weight"):
        other.load_state_dict(saved)
    assert differing(before, weights(other.model)) == []


def test_a_state_of_before_there_were_rescues_goes_on():
    first, again = plain_state(), plain_state()
    for event in train(first, DATA, 5, HEALTHY):
        if isinstance(event, Update) and event.step == 70:
            break
    saved = copy.deepcopy(first.state_dict())
    del saved["rescue"]
    again.load_state_dict(saved)
    for state in (first, again):
        list(train(state, DATA, 5, HEALTHY))
    assert differing(weights(first.model), weights(again.model)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_data_are_an_error_at_once(value):
    bad = [(x.clone(), y) for x, y in DATA]
    bad[17][0][3, 2] = value
    state, events = plain_state(), []
    with pytest.raises(NonFiniteLoss, match=r"at update \d+, .*were good.*look at their inputs and targets") as error:
        for event in train(state, bad, 5, HEALTHY):
            events.append(event)
    assert error.value.step == len(events) < 30, "in the first epoch"
    assert all(event.rescue is None for event in events)
    assert all(bool(torch.isfinite(p).all()) for p in state.model.parameters()), "and nothing is lost"


def test_it_is_tried_so_many_times():
    state = plain_state()
    first = state.model[0].weight.detach().clone()

    def loss(model, batch):
        value = TASK(model, batch).loss
        return value if torch.equal(model[0].weight, first) else value * math.nan

    state.loss = loss
    with pytest.raises(NonFiniteLoss, match=f"the loss became nan.* rescued {MOST} times before, at updates 1, 2, 3"):
        list(train(state, DATA, 5, HEALTHY))
    assert torch.equal(state.model[0].weight, first)


def test_losses_that_are_no_criterion_may_rise():
    state, k = plain_state(), iter(range(1000))

    def adversarial(model, batch):
        loss = TASK(model, batch).loss
        return loss - loss.detach() + (1.5 if (step := next(k)) < 20 or step > 60 else 0.1)

    state.loss = adversarial
    assert not any(event.rescue for event in updates_of(train(state, DATA, 5, HEALTHY)))


def test_a_lost_trial_is_a_result():
    state = plain_state()
    state.loss = SQUARES
    assert trial(state, NUMBERS, 5, LOST).lost and state.rescue and state.watch is None


def test_a_learner_says_it_and_counts_it():
    data = (X, Y)
    learn = Learner(plain_state().model, data, optimizer="sgd", batch_size=16, verbose=False)
    result = learn.fit_one_cycle(5, 10.0)
    assert result.rescues and result.rescues == result.to_dict()["rescues"]
    assert f"rescued {len(result.rescues)} time" in repr(result)
    said = [note for note in learn.notes if note.startswith("rescued at update")]
    assert len(said) == len(result.rescues) and f"rescued at update {result.rescues[0]['step']}: " in said[0]
    options = {"optimizer": "sgd", "batch_size": 16, "verbose": False, "rescue": False}
    assert Learner(plain_state().model, data, **options).fit(5, "one_cycle", 10.0).rescues == []


def watched(losses, level, updates=None, **options) -> int | None:
    """The update at which a run of these losses is lost; None: it is not."""
    watch = Watch.of_run(len(losses) if updates is None else updates, level, **options)
    return next((k for k, loss in enumerate(losses) if watch.take(float(loss), 0.1)), None)


DRAWS = np.random.default_rng(0)
NOISE = (DRAWS.standard_normal((400, 8)) ** 2).mean(1)  # the loss of a regression on batches of 8 that knows nothing
FALLING = np.linspace(1, 0.2, 400)
HILL = np.sin(np.linspace(0, np.pi, 400))


@pytest.mark.parametrize(
    ("losses", "level"),
    [
        (math.log(2) + 0.05 * DRAWS.standard_normal(400), math.log(2)),  # a plateau
        (NOISE, 1.0),
        (NOISE, None),
        (FALLING * NOISE, 1.0),
        (FALLING * NOISE, None),
        ((0.2 + 0.5 * HILL) * NOISE, 1.0),  # a second fit, up with the learning rate and down again
        ((0.2 + 0.5 * HILL) * NOISE, None),
        (0.2 - 0.1 * FALLING + HILL, None),  # the same without noise
        (1.7 + FALLING, 2.3),  # that begins above
        (-3 + 2 * DRAWS.standard_normal(400) - 0.01 * np.arange(400), None),
        (1e-12 * DRAWS.standard_normal(400), None),
        (np.where(DRAWS.random(400) < 0.05, 5.0, 0.05), 0.3),  # rare and dear
    ],
)
def test_healthy_losses(losses, level):
    assert watched(losses, level) is None


@pytest.mark.parametrize("level", [2.3, None])
def test_a_run_that_has_unlearned(level):
    learned = np.concatenate([np.linspace(2.3, 0.5, 100), np.full(100, 0.5), np.full(200, 2.31)])
    noise = 0.05 * np.random.default_rng(1).standard_normal(400)
    assert 200 + SHORT <= watched(learned + noise, level) <= 200 + SHORT + 3 * BLOCK
    assert watched(learned + noise, level, judged=False) is None
    short = learned.copy()
    short[215:] = 0.5
    assert watched(short + noise, level) is None


SHORT = 20


def test_a_run_that_blew_up_before_it_learned():
    exploded = np.concatenate([np.full(20, 2.3), np.geomspace(2.3, 1e5, 50), np.full(330, 5.0)])
    assert watched(exploded, 2.3) < 100
    assert watched(exploded, None) is None


def test_where_the_length_is_not_known():
    losses = np.concatenate([np.linspace(2.3, 0.5, 200), np.full(400, 2.31)])
    assert watched(losses, 2.3, updates=0) is not None
    watch = Watch.of_run(None, 2.3)
    assert watch.every == SELDOM
    assert 300 <= next(k for k, loss in enumerate(losses) if watch.take(float(loss), 0.1)) < 340


def test_the_learning_rate_after_it():
    assert smaller(0.05, 0.1) == 0.25 and smaller(1.0, 0.1) == 0.5 and smaller(0.0, 0.1) == LEAST
    assert smaller(0.1, 0.0) == 0.5 and smaller(1.0, 1.0, times=9) == LEAST


def test_in_records_and_in_words():
    for rescue in (Rescue(7, 0, math.nan, 0.5), Rescue(70, 50, 2.25, 0.125)):
        row = {"step": rescue.step, **rescue.row}
        assert str(Rescue.of(row)) == str(rescue) and all(math.isfinite(value) for value in row.values())
    assert Rescue.of({"step": 3}) is None
    assert "back at 2.25" in str(rescue) and "the state after 50 updates, learning rates x 0.125" in str(rescue)


def test_the_loss_of_knowing_nothing():
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    shares = torch.tensor([0.6, 0.3, 0.1])
    entropy = float(-(shares * shares.log()).sum())
    assert trivial_loss(Supervised(nn.CrossEntropyLoss()), targets) == pytest.approx(entropy, rel=1e-5)
    assert trivial_loss(Supervised(cross_entropy), targets) == pytest.approx(entropy, rel=1e-5)
    for criterion in (
        Supervised(nn.CrossEntropyLoss(label_smoothing=0.1)), Supervised(cross_entropy, smoothing=0.1),
        Supervised(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]))),
        Supervised(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]), label_smoothing=0.1)),
    ):  # fmt: skip
        outputs = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")
        how = {"label_smoothing": criterion.smoothing} if criterion.smoothing else {}

        def closure(criterion=criterion, outputs=outputs, optimizer=optimizer, how=how):
            optimizer.zero_grad()
            loss = criterion.criterion(outputs.expand(10, 3), targets, **how)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert trivial_loss(criterion, targets) == pytest.approx(float(closure().detach()), rel=0.02)
    ones = torch.tensor([0.0, 0.0, 0.0, 1.0])
    plain, weighed = nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    assert trivial_loss(Supervised(plain), ones) == pytest.approx(0.5623, abs=1e-3)
    assert trivial_loss(Supervised(weighed), ones) == pytest.approx(6 * math.log(2) / 4, rel=1e-4)
    numbers = torch.tensor([[1.0], [3.0]])
    assert trivial_loss(Supervised(F.mse_loss), numbers) == 1.0
    assert trivial_loss(Supervised(nn.L1Loss()), numbers) == 1.0
    assert trivial_loss(Supervised(lambda outputs, targets: outputs.mean()), numbers) is None
    assert trivial_loss(lambda model, batch: 0, numbers) is None and trivial_loss(Supervised(plain), None) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_knowing_nothing_is_the_same_to_the_bit_of_all_classes_at_once(smoothing):
    targets = torch.randint(0, 300, (1000,), generator=torch.Generator().manual_seed(0))
    one_by_one = trivial_loss(Supervised(partial(F.cross_entropy), smoothing=smoothing), targets)
    assert one_by_one is not None
    for criterion in (Supervised(F.cross_entropy, smoothing=smoothing), Supervised(cross_entropy, smoothing=smoothing),
                      Supervised(nn.CrossEntropyLoss(label_smoothing=smoothing))):  # fmt: skip
        assert trivial_loss(criterion, targets) == one_by_one
    ignoring = Supervised(nn.CrossEntropyLoss(ignore_index=3))
    counted = targets[targets != 3]
    assert trivial_loss(ignoring, targets) == trivial_loss(Supervised(F.cross_entropy), counted)
    assert trivial_loss(ignoring, targets.to(torch.uint8)) is not None
    assert trivial_loss(Supervised(F.cross_entropy), torch.full((3,), -100)) is None


def test_layers_that_get_their_shape_later_are_kept_once_they_have_it():
    model = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))
    state = TrainState(model, torch.optim.SGD(model.parameters(), 0.1), TASK)
    events = train(state, DATA, "70 updates", HEALTHY)
    next(events)
    assert state.kept == []
    for event in events:
        if isinstance(event, EpochEnd) and event.epoch == 1:
            break
    assert [kept.proven for kept in state.kept][-1]


def test_norms_and_their_statistics_come_back_too():
    model = seeded_net()
    state = TrainState(model, sgd(model), TASK)
    for event in train(state, DATA, 5, HEALTHY):
        if isinstance(event, Update) and event.step == 0:
            kept = state.go_back()
            break
    assert differing(weights(seeded_net()), weights(model)) == [] and kept.step == 0 and not state.optimizer.state


@pytest.fixture
def looked_at_seldom(monkeypatch):
    """As on an accelerator, where losses are looked at once in 10 updates."""
    original = guard.Guard.__init__

    def made(self, *given):
        original(self, *given)
        self._on_cpu, self._every = False, 10

    monkeypatch.setattr(guard, "LOOK_EVERY", 10)
    monkeypatch.setattr(guard.Guard, "__init__", made)


@pytest.mark.usefixtures("looked_at_seldom")
def test_where_losses_are_looked_at_seldom():
    peak, whole = preset("one_cycle", 1e3), plain_state(task=SQUARES)
    events = list(train(whole, NUMBERS, 5, peak))
    rescues = [event.rescue for event in updates_of(events) if event.rescue]
    assert rescues and all(rescue.step % 10 == 0 or rescue.step == 149 for rescue in rescues)
    assert all(bool(torch.isfinite(p).all()) for p in whole.model.parameters())
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert all(math.isfinite(end.train["loss"]) for end in ends), "the lost updates are left out of the means"
    for stop in (3, 9, 10, 14):
        first, again = plain_state(task=SQUARES), plain_state(task=SQUARES)
        for event in train(first, NUMBERS, 5, peak):
            if isinstance(event, Update) and event.step == stop:
                break
        again.load_state_dict(copy.deepcopy(first.state_dict()))
        list(train(again, NUMBERS, 5, peak))
        assert differing(weights(whole.model), weights(again.model)) == [], stop


@pytest.mark.usefixtures("looked_at_seldom")
def test_bad_data_are_an_error_where_losses_are_looked_at_seldom():
    bad = [(x.clone(), y) for x, y in DATA]
    bad[17][0][3, 2] = math.nan
    state, steps = plain_state(), []
    with pytest.raises(NonFiniteLoss, match=r"were good.*look at their inputs and targets") as error:
        steps += [event.step for event in train(state, bad, 5, HEALTHY)]
    assert error.value.step < 30
    assert all(bool(torch.isfinite(p).all()) for p in state.model.parameters())

"""The loop against one written out by hand; and that it goes on exactly from wherever it was left."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from training_makers import CPU, TASK, adamw, blobs, differing, global_generators, new_state, seeded_net, sgd, weights

from onecycle import ConfigError, DataError, EpochEnd, Piecewise, Policy, TrainState, Update, one_cycle, preset, train
from onecycle.data.batches import TensorBatches
from onecycle.data.seeds import derive_seed
from onecycle.errors import NonFiniteLoss
from onecycle.training.loop import Charges, resolve, updates_per_epoch

X, Y = blobs(22)
CYCLE = Policy(
    {"lr": Piecewise(((0, 0.01), (0.3, 0.2), (1, 0))), "momentum": Piecewise(((0, 0.95), (0.3, 0.8), (1, 0.9)))}
)
LISTED = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 22, 5)]


def noise(batch, generator):
    x, y = batch
    return x + 0.1 * torch.randn(x.shape, generator=generator), y


def tensors(seed: int = 0) -> TensorBatches:
    return TensorBatches((X, Y), 5, seed, transform=noise)


def seen(events: list) -> list[tuple]:
    """What events tell, but for the seconds, in values that compare to the bit."""

    def plain(e):
        if isinstance(e, Update):
            return ("update", e.step, e.updates, e.epoch, e.progress, e.values, e.loss, e.metrics, e.samples)
        return ("epoch", e.epoch, e.step, e.train, e.valid, e.values, e.samples)

    return [plain(event) for event in events]


def by_hand(make, epochs: int, seed: int):
    """The same run, written out: no state, no events, torch's own global generator."""
    model = seeded_net()
    optimizer = make(model)
    total, step, losses = epochs * 5, 0, []
    with torch.random.fork_rng(devices=[]):
        for epoch in range(epochs):
            torch.manual_seed(derive_seed(seed, "order", epoch))
            order = torch.randperm(22)
            for i in range(5):
                rows = order[5 * i : 5 * i + 5]
                generator = torch.Generator().manual_seed(derive_seed(seed, "augment", epoch, i))
                x, y = noise((X[rows], Y[rows]), generator)
                values = CYCLE(step / (total - 1))
                group = optimizer.param_groups[0]
                group["lr"] = values["lr"]
                if "momentum" in group:
                    group["momentum"] = values["momentum"]
                else:
                    group["betas"] = (values["momentum"], group["betas"][1])
                torch.manual_seed(derive_seed(seed, "update", step))
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append((loss.item(), len(y)))
                step += 1
    return model, losses


@pytest.mark.parametrize("make", [sgd, adamw])
def test_the_loop_is_the_hand_written_one_to_the_bit(make):
    state = new_state(make, seed=3, norm_statistics="running")
    events = list(train(state, tensors(3), 2, CYCLE))
    model, losses = by_hand(make, 2, 3)
    updates = [e for e in events if isinstance(e, Update)]
    assert [(e.loss, e.samples) for e in updates] == losses
    assert differing(weights(model), weights(state.model)) == []
    for epoch, end in enumerate(e for e in events if isinstance(e, EpochEnd)):
        rows = losses[5 * epoch : 5 * epoch + 5]
        assert end.train["loss"] == sum(loss * n for loss, n in rows) / 22 and end.samples == 22


def test_each_update_uses_its_own_values():
    used = []
    state = new_state()
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
    )
    updates = [e for e in train(state, LISTED, 2, CYCLE) if isinstance(e, Update)]
    assert [e.progress for e in updates] == [k / 9 for k in range(10)]
    assert [(e.lr, e.values["momentum"]) for e in updates] == used
    assert used[0] == (0.01, 0.95) and used[-1] == (0.0, 0.9)
    by_formula = [0.01 + 0.19 * k / 2.7 if k < 2.7 else 0.2 * (9 - k) / 6.3 for k in range(10)]
    assert [lr for lr, _ in used] == pytest.approx(by_formula)


def test_events_come_in_the_documented_order():
    events = list(train(new_state(), LISTED, 2.4, CYCLE))
    assert "".join("E" if isinstance(e, EpochEnd) else "u" for e in events) == "uuuuuEuuuuuEuuE"
    updates = [e for e in events if isinstance(e, Update)]
    assert [e.step for e in updates] == list(range(12)) and {e.updates for e in updates} == {12}
    assert [e.epoch for e in updates] == [0] * 5 + [1] * 5 + [2] * 2
    assert [(e.epoch, e.step, e.samples) for e in events if isinstance(e, EpochEnd)] == [
        (0, 5, 22),
        (1, 10, 22),
        (2, 12, 10),
    ]
    assert [e.values for e in events if isinstance(e, EpochEnd)] == [updates[k].values for k in (4, 9, 11)]
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(updates))


@pytest.mark.parametrize(
    ("budget", "updates"), [(1, 5), (0.5, 2), (0.01, 1), ("7 updates", 7), ("3 updates", 3), (1.3, 6), ("2 epochs", 10)]
)
def test_a_budget_is_met_exactly(budget, updates):
    events = list(train(new_state(), LISTED, budget, one_cycle(0.1)))
    found = [e for e in events if isinstance(e, Update)]
    assert len(found) == updates and found[-1].progress == (1.0 if updates > 1 else 0.0)
    assert isinstance(events[-1], EpochEnd) and events[-1].step == updates


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5, 9])
def test_the_number_of_updates_is_known_beforehand(accumulate):
    state = new_state(accumulate=accumulate)
    updates = [e for e in train(state, LISTED, 3, CYCLE) if isinstance(e, Update)]
    assert len(updates) == 3 * -(-5 // accumulate) == updates[0].updates
    assert updates[-1].progress == 1.0 and updates[-1].values == CYCLE(1.0)
    assert sum(e.samples for e in updates) == 66


SOURCES = {
    "tensors": tensors,
    "list": lambda: LISTED,
    "loader": lambda: DataLoader(TensorDataset(X, Y), 5, shuffle=True),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("make", "accumulate", "budget"), [(sgd, 1, 1.6), (adamw, 2, 2)])
def test_a_break_anywhere_changes_nothing(kind, make, accumulate, budget):
    make_data = SOURCES[kind]
    whole = new_state(make, accumulate=accumulate)
    expected = list(train(whole, make_data(), budget, CYCLE))
    for stop in range(1, len(expected)):
        state = new_state(make, accumulate=accumulate)
        events = list(itertools.islice(train(state, make_data(), budget, CYCLE), stop))
        torch.rand(5)
        saved = copy.deepcopy(state.state_dict())
        events += train(state, make_data(), budget, CYCLE)
        assert seen(events) == seen(expected), stop
        assert differing(weights(whole.model), weights(state.model)) == [], stop
        elsewhere = new_state(make, accumulate=accumulate, seed=9)
        elsewhere.load_state_dict(saved)
        assert seen(list(train(elsewhere, make_data(), budget, CYCLE))) == seen(expected[stop:]), stop
        assert differing(weights(whole.model), weights(elsewhere.model)) == [], stop


def test_a_break_at_every_event_changes_nothing():
    whole, state, events = new_state(), new_state(), []
    expected = list(train(whole, tensors(), 2, CYCLE))
    while len(events) < len(expected):
        events.append(next(train(state, tensors(), 2, CYCLE)))
    assert seen(events) == seen(expected) and differing(weights(whole.model), weights(state.model)) == []


def test_after_the_last_event_is_taken_the_run_is_over():
    state = new_state()
    expected = list(train(state, LISTED, 1, CYCLE))
    assert state.begun is None
    left = new_state()
    list(itertools.islice(train(left, LISTED, 1, CYCLE), len(expected)))
    assert list(train(left, LISTED, 1, CYCLE)) == [] and left.begun is None


def test_a_second_run_is_a_new_cycle_over_new_orders():
    state = new_state(norm_statistics="running")
    orders: list[list[float]] = []
    task = lambda model, batch: (orders.append(batch[0][:, 0].tolist()), TASK(model, batch))[1]  # noqa: E731
    state.loss = task
    first = list(train(state, TensorBatches((X, Y), 5), 1, CYCLE))
    second = list(train(state, TensorBatches((X, Y), 5), 2, CYCLE))
    assert [e.values for e in second if isinstance(e, Update)] == [CYCLE(k / 9) for k in range(10)]
    assert [(e.step, e.epoch) for e in second if isinstance(e, EpochEnd)] == [(5, 0), (10, 1)]
    assert len(first) == 6 and state.step == 15
    epochs = [tuple(itertools.chain.from_iterable(orders[i : i + 5])) for i in (0, 5, 10)]
    assert len(set(epochs)) == 3 and len({tuple(sorted(e)) for e in epochs}) == 1


def test_the_callers_generators_stay_and_do_not_matter():
    expected = list(train(new_state(), tensors(), 2, CYCLE))
    before = global_generators()
    events = []
    state = new_state()
    for event in train(state, DataLoader(TensorDataset(X, Y), 5, shuffle=True), 2, CYCLE):
        assert global_generators() == before, event
    for event in train(new_state(), tensors(), 2, CYCLE):
        torch.rand(3)
        events.append(event)
    assert seen(events) == seen(expected)


def test_a_policy_may_be_made_from_the_number_of_updates():
    got = []

    def make(updates):
        got.append(updates)
        return preset("torch", 0.1, updates)

    updates = [e for e in train(new_state(), LISTED, 2, make) if isinstance(e, Update)]
    assert got == [10] and max(e.lr for e in updates) == pytest.approx(0.1)
    assert resolve(CYCLE, 3) is CYCLE


@pytest.mark.parametrize("policy", [0.1, None, lambda updates: 0.1, {"lr": 0.1}])
def test_what_is_not_a_policy(policy):
    with pytest.raises(ConfigError, match="a policy is a Policy"):
        train(new_state(), LISTED, 1, policy)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), "ten", "1.5 updates", None])
def test_a_wrong_budget_is_refused_before_anything_runs(budget):
    with pytest.raises(ConfigError):
        train(new_state(), LISTED, budget, CYCLE)


def test_a_policy_for_what_the_optimizer_has_not():
    with pytest.raises(ConfigError, match="no parameter group has 'alpha'"):
        train(new_state(), LISTED, 1, CYCLE.with_(alpha=1.0))


def test_batches_without_a_length():
    class Endless:
        def __iter__(self):
            return itertools.cycle(LISTED)

    assert updates_per_epoch(Endless()) is None
    with pytest.raises(ConfigError, match="no length"):
        train(new_state(), Endless(), 2, CYCLE)
    events = list(train(new_state(), Endless(), "7 updates", CYCLE))
    assert "".join("E" if isinstance(e, EpochEnd) else "u" for e in events) == "uuuuuuuE"


def test_a_generator_can_be_gone_through_once():
    expected = list(train(new_state(), LISTED, "4 updates", CYCLE))
    assert seen(list(train(new_state(), iter(LISTED), "4 updates", CYCLE))) == seen(expected)
    run = train(new_state(), (batch for batch in LISTED), "8 updates", CYCLE)
    assert len(list(itertools.islice(run, 6))) == 6
    with pytest.raises(DataError, match="an iterator can be gone through only once"):
        next(run)


def test_a_generator_goes_on_after_a_break():
    whole = new_state(norm_statistics="running")
    expected = list(train(whole, LISTED, "5 updates", CYCLE))
    state, source = new_state(), iter(LISTED)  # which cannot be read again for statistics
    events = list(itertools.islice(train(state, source, "5 updates", CYCLE), 2))
    events += train(state, source, "5 updates", CYCLE)
    assert seen(events) == seen(expected) and differing(weights(whole.model), weights(state.model)) == []


def test_no_batches():
    with pytest.raises(DataError, match="no batches to train on"):
        list(train(new_state(), [], "3 updates", CYCLE))


def test_a_loss_that_is_not_finite_stops_there():
    def loss(model, batch):
        value = TASK(model, batch).loss
        return value * float("nan") if state.step == 7 else value

    state = new_state()
    state.loss = loss
    events = []
    with pytest.raises(NonFiniteLoss, match="the loss became nan at update 7, at learning rate") as found:
        for event in train(state, LISTED, 2, CYCLE):
            events.append(event)
    assert (found.value.step, found.value.lr) == (7, CYCLE(7 / 9)["lr"])
    assert [e.step for e in events if isinstance(e, Update)] == list(range(7))


class Clock:
    """Time passes in the forward pass alone: an update takes an eighth of a second, which floats hold exactly."""

    def __init__(self):
        self.ticks = 1234

    def __call__(self) -> float:
        return self.ticks / 8

    def loss(self, model, batch):
        self.ticks += 1
        return TASK(model, batch)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("onecycle.training.loop.time", SimpleNamespace(perf_counter=clock))
    return clock


def timed_state(clock: Clock) -> TrainState:
    model = seeded_net()
    return TrainState(model, sgd(model), clock.loss, CPU)


def test_under_a_time_budget_progress_is_the_elapsed_share(clock):
    events = list(train(timed_state(clock), LISTED, "1.5s", CYCLE))
    updates = [e for e in events if isinstance(e, Update)]
    assert [e.progress for e in updates] == [k / 8 / (1.5 - 0.125) for k in range(12)]  # the last is at the end
    assert [e.values for e in updates] == [CYCLE(e.progress) for e in updates] and updates[-1].progress == 1
    assert [e.seconds for e in updates] == [(k + 1) / 8 for k in range(12)]
    assert updates[0].updates is None
    assert "".join("E" if isinstance(e, EpochEnd) else "u" for e in events) == "uuuuuEuuuuuEuuE"
    assert [e.seconds for e in events if isinstance(e, EpochEnd)] == [0.625, 0.625, 0.25]


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 9])
def test_a_resumed_run_has_the_time_that_was_left(clock, stop):
    expected = seen(list(train(timed_state(clock), LISTED, "1.5s", CYCLE)))
    state = timed_state(clock)
    events = list(itertools.islice(train(state, LISTED, "1.5s", CYCLE), stop))
    clock.ticks += 10**5
    events += train(state, LISTED, "1.5s", CYCLE)
    assert seen(events) == expected


def test_the_end_of_an_epoch_that_is_still_owed_has_the_values_of_its_last_update(clock):
    state = timed_state(clock)
    list(itertools.islice(train(state, LISTED, "0.375s", CYCLE), 3))
    (end,) = train(state, LISTED, "0.375s", CYCLE)
    assert isinstance(end, EpochEnd) and (end.step, end.values) == (3, CYCLE(1))


def test_time_that_others_take_counts(clock):
    updates = 0
    for event in train(timed_state(clock), LISTED, "1.5s", CYCLE):
        updates += isinstance(event, Update)
        if isinstance(event, EpochEnd):
            clock.ticks += 4
    assert updates == 8


@pytest.mark.parametrize("begins", [3.0, 12.0, 25.0, 40.0])
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_machine_that_becomes_twenty_times_as_slow_leaves_a_time_budget_as_it_is(monkeypatch, begins, evaluated):
    """An update takes a quarter of a second, an evaluation two, what follows the run one; then all 20 times that."""
    now = [0.0]

    def takes(seconds: float) -> None:
        now[0] += seconds * (1 if now[0] < begins else 20)

    def loss(model, batch):
        takes(0.25)
        return TASK(model, batch)

    def evaluate() -> dict[str, float]:
        takes(2.0)
        return {"loss": 1.0}

    monkeypatch.setattr("onecycle.training.loop.time", SimpleNamespace(perf_counter=lambda: now[0]))
    model = seeded_net()
    state = TrainState(model, sgd(model), loss, CPU, norm_statistics="running")
    charges = Charges(evaluation=2.0, after=1.0)
    slow = [now[0] >= begins for event in train(
        state, LISTED * 8, "120s", CYCLE, evaluate if evaluated else None, charges=charges
    ) if isinstance(event, Update)]  # fmt: skip
    takes(1.0)
    assert sum(slow) >= 3 and len(slow) - sum(slow) >= 8
    assert now[0] <= 120 + 0.25 * 20


def test_one_slow_update_by_chance_changes_nothing_of_what_is_kept_for_the_end(monkeypatch):
    def updates(slow: float) -> int:
        now, calls = [0.0], []

        def loss(model, batch):
            calls.append(1)
            now[0] += slow if len(calls) == 30 else 0.25
            return TASK(model, batch)

        monkeypatch.setattr("onecycle.training.loop.time", SimpleNamespace(perf_counter=lambda: now[0]))
        model = seeded_net()
        state = TrainState(model, sgd(model), loss, CPU, norm_statistics="running")
        return sum(isinstance(e, Update) for e in train(state, LISTED, "20s", CYCLE, charges=Charges(after=4.0)))

    assert updates(0.25) == 64 and 64 - 9 <= updates(2.25) <= 64 - 8


def test_modes_during_training():
    state = new_state()
    state.model.eval()
    assert all(state.model.training for _ in train(state, LISTED, 1, CYCLE))


def test_time_may_run_out_at_any_moment(monkeypatch):
    for ticks in range(1, 80):
        clock = itertools.count()
        monkeypatch.setattr(
            "onecycle.training.loop.time", SimpleNamespace(perf_counter=lambda clock=clock: float(next(clock)))
        )
        events = list(train(new_state(), LISTED[:2], f"{ticks}s", CYCLE))
        assert isinstance(events[-1], EpochEnd) and events[-1].step == sum(isinstance(e, Update) for e in events) >= 1

"""Every moment of an update belongs to one part, and the timed loop trains as the plain one does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from training_makers import TASK, blobs, differing, new_state, weights

from onecycle import Runtime, TrainState, as_batches, one_cycle, train
from onecycle.profiling import measure
from onecycle.profiling.clock import PARTS, EventTime, HostTime, PartClock, TimedBatches, TimedRuntime, time_of
from onecycle.profiling.settings import setting_of


class Hands:
    """A clock that stands still but for what moves it."""

    def __init__(self):
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def between(self, start: float, end: float) -> float:
        return end - start

    def wait(self, moment: float) -> None:
        assert moment <= self.at


class Slow(nn.Module):
    """Takes 3 seconds forward and 5 backward."""

    def __init__(self, hands: Hands):
        super().__init__()
        self.body, self.hands = nn.Linear(4, 3), hands

    def forward(self, x):
        self.hands.at += 3
        outputs = self.body(x)
        outputs.register_hook(lambda _: setattr(self.hands, "at", self.hands.at + 5))
        return outputs


class SlowSGD(torch.optim.SGD):
    """Takes 7 seconds."""

    hands: Hands

    def step(self, closure=None):
        self.hands.at += 7
        return super().step(closure)


class SlowBatches:
    """A batch takes 11 seconds."""

    def __init__(self, hands: Hands, n: int = 5):
        self.hands, self.n = hands, n

    def __len__(self):
        return self.n

    def epoch(self, epoch, start=0):
        for _ in range(start, self.n):
            self.hands.at += 11
            yield blobs(6)


def slow_state(hands: Hands, accumulate: int = 1) -> TrainState:
    model = Slow(hands)
    optimizer = SlowSGD(model.parameters(), 0.1)
    optimizer.hands = hands
    return TrainState(model, optimizer, TASK, Runtime.choose("cpu"), accumulate=accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_part_is_what_it_says(monkeypatch, accumulate):
    hands = Hands()
    monkeypatch.setattr(measure, "time_of", lambda device: hands)
    monkeypatch.setattr(measure, "MOST", 8)
    monkeypatch.setattr(measure.History, "__call__", lambda self, event: setattr(hands, "at", hands.at + 2))
    state, batches = slow_state(hands, accumulate), SlowBatches(hands)
    made = measure.visit(setting_of(state, batches), state, batches, math.inf, math.inf)
    one = measure.timing([made], 5)
    times = accumulate
    assert one.parts == {"data": 11 * times, "forward": 3 * times, "backward": 5 * times, "optimizer": 7, "ours": 2}
    assert one.seconds == one.low == one.high == sum(one.parts.values())
    assert one.samples == 6 * times and one.shares["optimizer"] == 7 / one.seconds
    assert one.rate == pytest.approx(
        one.samples / one.seconds, rel=1e-3
    )  # the beginning of an epoch is on the host's clock


def test_a_timed_loop_trains_as_the_plain_one():
    def trained(timed: bool) -> dict:
        state, batches, clock = new_state(), as_batches(blobs(48), 8), PartClock()
        if timed:
            state.runtime, batches = TimedRuntime.around(state.runtime, clock), TimedBatches(batches, clock)
        for event in train(state, batches, "12 updates", one_cycle(0.1, 12)):
            if getattr(event, "step", None) == 11:
                break
        return weights(state.model)

    assert differing(trained(True), trained(False)) == []


def test_batches_without_an_end_go_through_the_epochs():
    clock = PartClock()
    batches = TimedBatches(as_batches(blobs(6), 2, shuffle=True), clock).epoch(3, 1)
    orders = [next(batches)[0] for _ in range(5)]
    plain = as_batches(blobs(6), 2, shuffle=True)
    expected = [batch[0] for epoch, start in ((3, 1), (4, 0)) for batch in plain.epoch(epoch, start)]
    assert all(torch.equal(a, b) for a, b in zip(orders, expected, strict=True))
    assert len(clock.starts) == 2
    assert list(TimedBatches(as_batches([]), clock).epoch(0)) == []


def test_events_tell_the_time_of_a_device(monkeypatch):
    """Moments are events in its stream, read when the updates are over; a moment that is long past is waited for."""
    log, streams = [], []

    class Event:
        count = 0

        def __init__(self, enable_timing):
            assert enable_timing
            Event.count += 1
            self.number = Event.count

        def record(self, stream):
            streams.append(stream)

        def synchronize(self):
            log.append(self.number)

        def elapsed_time(self, other):
            return 1000.0 * (other.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = PartClock(time_of(torch.device("cuda:1")))
    assert isinstance(clock.time, EventTime)
    for _ in range(4):
        clock.switch("forward")
        clock.switch("backward")
        clock.cut()
    assert set(streams) == {"stream of cuda:1"}
    assert log == [3, 6]  # the ends of the first two updates, once two more were given
    seconds = clock.seconds()
    assert len(seconds) == 4 and all(set(one) == set(PARTS) for one in seconds)
    assert seconds[1] == {"data": 0, "forward": 1, "backward": 1, "optimizer": 0, "ours": 1}


def test_other_accelerators_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(1))
    time = time_of(torch.device("mps"))
    assert isinstance(time, HostTime) and time.between(time.now(), time.now()) >= 0 and waited == [1, 1]

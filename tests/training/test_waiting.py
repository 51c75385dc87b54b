"""What the host waits for on a device: in an ordinary update nothing at all.

On a CPU everything is there at once. So a run is made as on an accelerator, where losses are looked at once in 50
updates, and all operations that would wait for one are taken down, with the update that they belong to.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from onecycle import Learner, evaluate
from onecycle.data import batches
from onecycle.training import guard, means
from onecycle.training.copies import copied
from onecycle.training.guard import LOOK_EVERY
from onecycle.training.loop import Event, Update
from onecycle.training.norms import estimate_statistics
from onecycle.training.state import SPARED

ATEN = torch.ops.aten
# A number for the host, a result whose size only the device knows, and a tensor made of numbers of the host.
WAITED_FOR = {
    ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.equal, ATEN.nonzero, ATEN.masked_select, ATEN._unique2,
    ATEN.unique_dim, ATEN.unique_consecutive, ATEN.repeat_interleave, ATEN.bincount, ATEN.histc, ATEN.lift_fresh,
}  # fmt: skip
INDEXED = (ATEN.index, ATEN.index_put, ATEN.index_put_)
UPDATES = 120
IMAGES = torch.randint(256, (1500, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(1500) % 10


class Waits(TorchDispatchMode):
    """Takes down what would wait for an accelerator, with the update under way, `at`."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.seen = 0, list[tuple[int, str]]()

    @property
    def updates(self) -> set[int]:
        """The updates in which there was anything."""
        return {at for at, _ in self.seen}

    def follow(self, event: Event) -> None:
        """An observer: what comes belongs to the next update."""
        if isinstance(event, Update):
            self.at = event.step + 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        by_mask = packet in INDEXED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if packet in WAITED_FOR or by_mask:
            self.seen.append((self.at, func.name()))
        return func(*args, **(kwargs or {}))


def learner(device: str = "cpu", **options) -> Learner:
    """Of uint8 images, with augmentation, a batch norm and dropout: batches of 12, 125 an epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(64, 10),
    )  # fmt: skip
    settings = {"batch_size": 12, "augment": ("flip", "crop", "cutout"), "device": device, "verbose": False}
    return Learner(model, (IMAGES, LABELS), **settings, **options)


def fit(learn: Learner, *observers) -> None:
    learn.fit(f"{UPDATES} updates", "one_cycle", 0.01, observers=observers)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    original = guard.Guard.__init__

    def made(self, *given):
        original(self, *given)
        self._on_cpu, self._every = False, LOOK_EVERY

    monkeypatch.setattr(guard.Guard, "__init__", made)


SETTINGS = [
    {"optimizer": "sgd"}, {"optimizer": "adamw"}, {"optimizer": "muon", "precision": "bf16"},
    {"optimizer": "sgd", "clip": 1.0, "average": 0.9, "accumulate": 2},
]  # fmt: skip
LOOKED_AT = {LOOK_EVERY - 1, 2 * LOOK_EVERY - 1, UPDATES - 1}
# The first update makes constants, and what is before it looks at the targets; the last is read, and what follows it.
AT_ENDS = {0, UPDATES}


def seen_in(learn: Learner) -> Waits:
    """What a fit would wait for."""
    with Waits() as waits:
        fit(learn, waits.follow)
    return waits


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_losses_alone_are_waited_for_once_in_many_updates(options):
    waits = seen_in(learner(**options))
    at_ends = AT_ENDS | ({63} if "accumulate" in options else set())  # an epoch has 63 updates then
    assert waits.updates - at_ends - LOOKED_AT == set(), waits.seen
    assert waits.updates >= LOOKED_AT, "the reading of the losses is seen"


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_the_scale_of_fp16_is_waited_for_in_each_update():
    assert seen_in(learner(precision="fp16", optimizer="sgd")).updates >= {*range(UPDATES)}


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_what_each_of_several_batches_weighs_is_waited_for():
    learn = learner(optimizer="sgd", accumulate=2, loss=nn.CrossEntropyLoss())
    learn.state.loss = replace(learn.state.loss, ignores=True)
    assert seen_in(learn).updates >= {*range(UPDATES)} - {62}, "but for the last one of an epoch, which is of one"


def test_evaluations_and_statistics_of_norms_are_read_at_their_end():
    learn = learner(optimizer="sgd")
    calls = []
    learn.model.register_forward_hook(lambda *_: calls.append(0))
    with Waits() as waits:
        estimate_statistics(learn.state, learn.train)
        assert len(calls) > 9 and waits.seen == []
        calls.clear()
        learn.model[-1].register_forward_hook(lambda *_: setattr(waits, "at", len(calls) + 1))
        evaluate(learn.model, learn.train.epoch(0), learn.state.loss, learn.runtime)
    assert waits.updates == {len(calls)} == {125}


def test_the_order_of_an_epoch_comes_from_pinned_memory():
    moved = []
    order = SimpleNamespace(
        pin_memory=lambda: SimpleNamespace(to=lambda *words, **how: moved.append((words, how))),
        to=lambda *words: moved.append(words),
    )  # fmt: skip
    for device in map(torch.device, ("cuda:1", "cpu")):
        batches._placed(order, device)
    assert moved == [((torch.device("cuda:1"),), {"non_blocking": True}), (torch.device("cpu"),)]


def test_small_states_to_go_back_to_stay_on_a_cuda_device(monkeypatch):
    learn = learner(optimizer="sgd")
    parts = {"modules": [learn.model.state_dict()], "step": 3}
    size = sum(t.numel() * t.itemsize for t in learn.model.state_dict().values())
    memory = SimpleNamespace(total_memory=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert not learn.state._is_spared(parts)
    learn.state.runtime = replace(learn.runtime, device=torch.device("cuda"))
    for memory.total_memory in (size / SPARED, size / SPARED - 1):
        assert learn.state._is_spared(parts) is (memory.total_memory == size / SPARED)
    there = torch.zeros(2, device="meta")
    assert copied({"x": there}, stays=True)["x"].is_meta and copied({"x": there}, stays=True)["x"] is not there


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_on_cuda_an_update_waits_for_nothing(options, monkeypatch):
    """In torch's own judgement, which knows the copies between host and device too."""

    def allowed(function):
        def call(*given):
            torch.cuda.set_sync_debug_mode("default")
            try:
                return function(*given)
            finally:
                torch.cuda.set_sync_debug_mode("error")

        return call

    def forbid(event):
        if isinstance(event, Update):
            torch.cuda.set_sync_debug_mode("error" if event.step < UPDATES - 2 else "default")

    learn = learner("cuda", **options)
    fit(learn)  # which makes what is made once
    monkeypatch.setattr(means, "_drain", allowed(means._drain))
    monkeypatch.setattr(guard, "is_dead", allowed(guard.is_dead))
    try:
        fit(learn, forbid)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learn.state.step == 2 * UPDATES

"""The schedulers under the real Accelerate, on two processes of the CPU."""

from __future__ import annotations

import pytest

pytest.importorskip("accelerate")
import accelerate
import torch
from ranks_makers import on_ranks

from onecycle import range_test
from onecycle.schedules import presets

SCRIPT = """
import math
import sys
import warnings
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from onecycle.adapters.torch import OneCycleLR

warnings.simplefilter("error", UserWarning)
EPOCHS, ACCUMULATE, FOLDER = 2, 4, sys.argv[1]


class Loop:
    def __init__(self, seed, scaler=None, after=False, skipped=0):
        torch.manual_seed(seed)
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
        self.accelerator.scaler = scaler  # as mixed precision sets it on a GPU
        x = torch.linspace(-1, 1, 84).reshape(42, 2)
        model, loader = nn.Linear(2, 1), DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer, loader = self.accelerator.prepare(model, optimizer, loader)
        # 21 batches, 11 for each process, in groups of 4, 4 and 3
        self.updates = EPOCHS * math.ceil(len(loader) / ACCUMULATE) - skipped
        if after:
            scheduler = OneCycleLR(optimizer, 0.1, self.updates)
        else:
            scheduler = OneCycleLR(optimizer.optimizer, 0.1, self.updates)
        self.scheduler, self.prepared = scheduler, self.accelerator.prepare(scheduler)
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.used = []
        optimizer.optimizer.register_step_post_hook(self.note)

    def note(self, optimizer, *_):
        group = optimizer.param_groups[0]
        self.used.append([group["lr"], group["momentum"]])

    def epoch(self, overflows=()):
        for k, (x, y) in enumerate(self.loader):
            with self.accelerator.accumulate(self.model):
                loss = (self.model(x) - y).square().mean()
                self.accelerator.backward(loss * math.inf if k in overflows else loss)
                self.optimizer.step()
                self.prepared.step()
                self.optimizer.zero_grad()

    def end(self):
        weights = [p.tolist() for p in self.model.parameters()]
        return {"updates": self.updates, "used": self.used, "position": self.scheduler.position, "weights": weights}


loop = Loop(0)
loop.epoch()
loop.accelerator.save_state(FOLDER)
loop.epoch()
again = Loop(1, after=True)
again.accelerator.load_state(FOLDER)
again.epoch()
skipping = Loop(0, torch.amp.GradScaler("cpu", init_scale=4.0), skipped=2)
skipping.epoch(overflows=(3,))
skipping.epoch(overflows=(7,))
result([loop.end(), again.end(), skipping.end()])
"""


def expected(updates: int) -> list[list[float]]:
    policy = presets.torch(0.1, updates)
    return [list(policy(k / (updates - 1)).values()) for k in range(updates)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list:
    """What each of two processes came to: uninterrupted, from a state in the middle, and with two updates skipped."""
    return on_ranks(f"import sys\nsys.argv = ['', {str(tmp_path_factory.mktemp('state'))!r}]\n" + SCRIPT, 2)


def test_updates_count_with_accumulation_on_two_processes(ranks):
    """Not batches, and not the steps that Accelerate makes for each process."""
    for whole, _, _ in ranks:
        assert whole["updates"] == whole["position"] == 6
        assert whole["used"] == [pytest.approx(values) for values in expected(6)]


def test_a_state_saved_in_the_middle_goes_on_as_if_uninterrupted(ranks):
    for whole, resumed, _ in ranks:
        assert resumed["position"] == 6 and resumed["used"] == whole["used"][3:]
        assert resumed["weights"] == whole["weights"] == ranks[0][0]["weights"]


def test_updates_that_are_skipped_move_nothing(ranks):
    """The first overflows, and one in the middle: 4 of 6 are made."""
    for _, _, skipping in ranks:
        assert skipping["updates"] == skipping["position"] == 4
        assert skipping["used"] == [pytest.approx(values) for values in expected(4)]


def test_the_range_test_takes_prepared_parts():
    accelerator = accelerate.Accelerator(cpu=True)
    net = torch.nn.Linear(4, 1)
    inputs = torch.randn(640, 4, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(inputs, batch_size=32, shuffle=True)
    net, optimizer, loader = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), loader)
    before = [p.clone() for p in net.parameters()]

    def step(batch):
        loss = (net(batch) - batch.sum(1, keepdim=True)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    test = range_test(step, optimizer, loader)
    assert min(len(sweep.lr) for sweep in test.curve.sweeps) > 7
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))

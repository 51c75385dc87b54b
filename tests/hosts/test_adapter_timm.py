"""Policies as a scheduler of timm.

`import timm` needs torchvision, which is not at hand: the package is entered here without its ``__init__``, so that
its own scheduler and optimizer code is what is run. Its train.py is no part of the package: `train` has its calls.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch import nn

from onecycle import Driver, Policy, one_cycle, preset
from onecycle.errors import CheckpointError, ConfigError
from onecycle.schedules.policy import position

if (spec := find_spec("timm")) is None or spec.submodule_search_locations is None:
    pytest.skip("could not find timm", allow_module_level=True)
if find_spec("torchvision") is None:
    sys.modules["timm"] = ModuleType("timm")
    sys.modules["timm"].__spec__ = spec
    sys.modules["timm"].__path__ = list(spec.submodule_search_locations)
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

from onecycle.adapters.timm import PolicyUpdateScheduler

EPOCHS, UPDATES = 3, 5


def made(optimizer=torch.optim.SGD, scales=(1.0,), **more):
    layers = [nn.Linear(2, 1) for _ in scales]
    groups = [{"params": layer.parameters(), "lr_scale": scale} for layer, scale in zip(layers, scales, strict=True)]
    more = more or ({"momentum": 0.9} if optimizer is torch.optim.SGD else {})
    return optimizer(groups, lr=1.0, **more)


def train(optimizer, scheduler, epochs=EPOCHS, start_epoch=0, sched_on_updates=True):
    """The calls of timm's train.py, in their order; the values that each update uses, (lr, momentum) of each group."""
    seen = []
    if start_epoch > 0:
        if sched_on_updates:
            scheduler.step_update(start_epoch * UPDATES)
        else:
            scheduler.step(start_epoch)
    for epoch in range(start_epoch, epochs):
        num_updates = epoch * UPDATES
        for _ in range(UPDATES):
            optimizer.zero_grad()
            sum(p.sum() for group in optimizer.param_groups for p in group["params"]).backward()
            optimizer.step()
            seen.append(
                [(g["lr"], g["betas"][0] if "betas" in g else g.get("momentum")) for g in optimizer.param_groups]
            )
            num_updates += 1
            scheduler.step_update(num_updates=num_updates, metric=0.5)
        scheduler.step(epoch + 1, 0.5)
    return seen


def values(updates=EPOCHS * UPDATES):
    policy = preset("fastai", 0.1)
    return [(v["lr"], v["momentum"]) for v in (policy(position(k, updates)) for k in range(updates))]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_each_update_uses_the_values_of_its_position(optimizer):
    optimizer = made(optimizer)
    scheduler = PolicyUpdateScheduler(optimizer, preset("fastai", 0.1), EPOCHS * UPDATES)
    assert isinstance(scheduler, Scheduler)
    assert train(optimizer, scheduler) == [[value] for value in values()]
    assert train(optimizer, scheduler, epochs=5, start_epoch=3) == [[values()[-1]]] * 10  # past the end


def test_timms_own_scheduler_steps_once_an_epoch():
    """Why the page has a before: as train.py makes it, its values change at the ends of epochs alone."""
    optimizer = made()
    scheduler = CosineLRScheduler(optimizer, t_initial=EPOCHS, lr_min=0.0)
    assert len({lr for ((lr, _),) in train(optimizer, scheduler)}) == EPOCHS


@pytest.mark.parametrize(("sched_on_updates", "per_epoch"), [(True, None), (False, UPDATES)])
def test_a_resumed_run_goes_on_exactly(sched_on_updates, per_epoch):
    optimizer = made()
    train(optimizer, PolicyUpdateScheduler(optimizer, preset("fastai", 0.1), EPOCHS * UPDATES), epochs=2)
    saved, optimizer = optimizer.state_dict(), made()
    optimizer.load_state_dict(saved)
    scheduler = PolicyUpdateScheduler(optimizer, preset("fastai", 0.1), EPOCHS * UPDATES, per_epoch)
    assert train(optimizer, scheduler, start_epoch=2, sched_on_updates=sched_on_updates) == [[v] for v in values()[10:]]


def test_its_state_is_its_position():
    schedulers = [PolicyUpdateScheduler(made(), preset("fastai", 0.1), 15) for _ in range(2)]
    schedulers[0].step_update(7)
    assert schedulers[0].state_dict() == {"position": 7}
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    assert schedulers[1].optimizer.param_groups[0]["lr"] == values()[7][0]
    with pytest.raises(CheckpointError, match="a scheduler is saved as"):
        schedulers[1].load_state_dict({"metric": None})


def test_layer_decay_is_kept():
    """timm's lr_scale, as of create_optimizer_v2(..., layer_decay=0.75); through a load too."""
    optimizer = made(torch.optim.AdamW, scales=(0.25, 0.5))
    scheduler = PolicyUpdateScheduler(optimizer, preset("fastai", 0.1), 15)
    assert train(optimizer, scheduler) == [[(lr * 0.25, m), (lr * 0.5, m)] for lr, m in values()]
    saved, optimizer = optimizer.state_dict(), made(torch.optim.AdamW, scales=(0.25, 0.5))
    optimizer.load_state_dict(saved)
    scheduler = PolicyUpdateScheduler(optimizer, preset("fastai", 0.1), 15)
    assert [group["lr"] for group in optimizer.param_groups] == [values()[0][0] * 0.25, values()[0][0] * 0.5]
    assert scheduler._get_lr(7) == [values()[7][0] * 0.25, values()[7][0] * 0.5]


def test_an_optimizer_without_momentum_stays_without():
    optimizer = made(torch.optim.Adagrad)
    scheduler = PolicyUpdateScheduler(optimizer, preset("paper", 0.1), 15)
    assert {m for ((_, m),) in train(optimizer, scheduler)} == {None}
    optimizer = made(torch.optim.SGD, momentum=0.0)
    scheduler = PolicyUpdateScheduler(optimizer, preset("paper", 0.1), 15)
    assert {m for ((_, m),) in train(optimizer, scheduler)} == {0.0}


def test_bad_input():
    optimizer = made()
    with pytest.raises(ConfigError, match="updates is the number of updates of the whole run"):
        PolicyUpdateScheduler(optimizer, one_cycle(0.1), None)
    with pytest.raises(ConfigError, match="no parameter group has 'rho'"):
        PolicyUpdateScheduler(optimizer, Policy({"lr": 0.1, "rho": 0.1}), 15)
    driver = Driver(one_cycle(0.1), optimizer, updates=15)
    with pytest.raises(ConfigError, match="already has a policy attached, by a Driver"):
        PolicyUpdateScheduler(optimizer, one_cycle(0.1), 15)
    driver.detach()
    scheduler = PolicyUpdateScheduler(optimizer, one_cycle(0.1), 15)
    with pytest.raises(ConfigError, match="already has a policy attached, by a PolicyUpdateScheduler"):
        Driver(one_cycle(0.1), optimizer, updates=15)
    scheduler.detach()

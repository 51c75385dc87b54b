"""Nothing of what happens within the block is left after it, however it ends."""

from __future__ import annotations

import random
import signal
import threading

import numpy as np
import pytest
import torch
from range_makers import Counter, changes, snapshot
from torch import nn
from torch.nn import functional as F
from training_makers import blobs, differing, seeded_net, weights

from onecycle import ConfigError, untouched
from onecycle.optim.muon import Muon

X, Y = blobs(16)


def tensors_as_settings(model):
    """As for a step that is captured or compiled: learning rate and betas are tensors that keep their identity."""
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.05), betas=(torch.tensor(0.9), torch.tensor(0.99)))


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True),
    "adamw with tensors": tensors_as_settings,
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, centered=True),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2),
    "muon": lambda model: Muon(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "momentum": 0.9},
            {"params": [p for p in model.parameters() if p.ndim < 2]},
        ]
    ),
}


def steps(model, optimizer, count=3):
    for _ in range(count):

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        optimizer.step(closure)


def change_everything(model, optimizer, counter):
    """One of each kind of trace that threads about learning rate finders report."""
    steps(model, optimizer)
    for group in optimizer.param_groups:
        group["a key of its own"] = 1
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(7.0)
            group["betas"][0].fill_(0.5)
        else:
            group["lr"] = 7.0
    optimizer.param_groups[0]["lr"] = 3.0
    if not isinstance(optimizer, torch.optim.LBFGS):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})
    optimizer.param_groups.reverse()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
        parameter.requires_grad_(False)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model[0][1].running_mean = torch.ones(8)
    model[0][1].register_buffer("more", torch.ones(1))
    model.eval()
    counter.count += 1
    torch.rand(1), random.random(), np.random.rand()


def prepared(name, with_state=True, with_gradients=True):
    model = seeded_net()
    optimizer = OPTIMIZERS[name](model)
    if with_state:
        steps(model, optimizer)
    model.zero_grad(set_to_none=True)
    if with_gradients:
        F.cross_entropy(model(X), Y).backward()
    model[0].eval()  # a mixture of modes
    return model, optimizer


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("with_state", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_put_back_whatever_happens(name, with_state, ending):
    model, optimizer = prepared(name, with_state, with_gradients=with_state)
    counter = Counter()
    before = snapshot([model], [optimizer], [counter])
    try:
        with untouched([optimizer], keep=[counter]):
            change_everything(model, optimizer, counter)
            changed = changes(before, snapshot([model], [optimizer], [counter]))
            if ending is not None:
                raise ending
    except (ValueError, KeyboardInterrupt) as error:
        assert type(error) is ending
    expected = set(before) - {"lr objects", "hooks"} - ({"state"} if name == "sgd" else set())
    assert set(changed) >= expected, "else this test shows nothing"
    assert changes(before, snapshot([model], [optimizer], [counter])) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_follows_is_as_if_it_had_not_been(name):
    results = []
    for with_block in (True, False):
        torch.manual_seed(3)
        model, optimizer = prepared(name)
        model.train()
        if with_block:
            with untouched([optimizer]):
                change_everything(model, optimizer, Counter())
        steps(model, optimizer)
        results.append(weights(model))
    assert differing(*results) == []


def test_gradients_written_in_place_are_put_back():
    model, optimizer = prepared("momentum")
    before = snapshot([model], [optimizer])
    with untouched([optimizer]):
        F.cross_entropy(model(X), Y).backward()  # accumulates into the same tensors
        assert changes(before, snapshot([model], [optimizer])) == ["gradients", "generators"]
    assert changes(before, snapshot([model], [optimizer])) == []


def test_fewer_groups_than_before_are_put_back():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}])
    groups = list(optimizer.param_groups)
    with untouched([optimizer], modules=[]):
        optimizer.param_groups[:] = [{**groups[0], "params": [a, b]}]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2]
    assert all(now is then for now, then in zip(optimizer.param_groups, groups, strict=True)), "a scheduler holds them"


def test_several_optimizers_and_modules_that_are_named():
    first, second, statistics = nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)
    optimizers = [torch.optim.Adam(module.parameters()) for module in (first, second)]
    before = snapshot([first, second, statistics], optimizers)
    with untouched(optimizers, [first, second, statistics]):
        second(statistics(first(torch.randn(4, 2)))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    assert changes(before, snapshot([first, second, statistics], optimizers)) == []


def test_a_generator_of_ones_own_is_kept():
    generator, optimizer = torch.Generator().manual_seed(1), torch.optim.SGD([nn.Parameter(torch.ones(1))])
    with untouched([optimizer], keep=[generator]):
        first = torch.rand(3, generator=generator)
    assert torch.equal(torch.rand(3, generator=generator), first)


def test_what_cannot_be_kept_is_named_before_anything_runs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    with (
        pytest.raises(ConfigError, match=r"has state_dict\(\) and load_state_dict\(\); received 'scaler'"),
        untouched([optimizer], keep=["scaler"]),
    ):
        pytest.fail("the block ran")


def test_a_scaler_is_ready_again_after_an_update_that_was_broken_off():
    weight = nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu", init_scale=4.0)

    def broken_off():
        with untouched([optimizer], keep=[scaler]):
            scaler.scale(weight.sum()).backward()
            scaler.unscale_(optimizer)
            scaler.update(32.0)
            scaler.unscale_(optimizer)
            raise ValueError

    for _ in range(2):  # the second one starts from a scaler that has been used
        with pytest.raises(ValueError):
            broken_off()
    assert scaler.get_scale() == 4.0
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == pytest.approx([0.9, 0.9])


class Stubborn(Counter):
    """Something whose restoring does `act`."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def load_state_dict(self, state):
        self.act()


def fail():
    raise RuntimeError("cannot be put back")


def test_what_cannot_be_put_back_does_not_keep_the_rest_from_it():
    model, optimizer = prepared("momentum")
    before = snapshot([model], [optimizer])
    with pytest.raises(RuntimeError, match="cannot be put back"), untouched([optimizer], keep=[Stubborn(fail)]):
        change_everything(model, optimizer, Counter())
    assert changes(before, snapshot([model], [optimizer])) == []


def test_a_ctrl_c_while_putting_back_waits_and_is_not_lost():
    model, optimizer = prepared("momentum")
    before = snapshot([model], [optimizer])
    with (
        pytest.raises(KeyboardInterrupt),
        untouched([optimizer], keep=[Stubborn(lambda: signal.raise_signal(signal.SIGINT))]),
    ):
        change_everything(model, optimizer, Counter())
    assert changes(before, snapshot([model], [optimizer])) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_works_outside_the_main_thread():
    model, optimizer = prepared("adamw")
    before = snapshot([model], [optimizer])

    def work():
        with untouched([optimizer]):
            change_everything(model, optimizer, Counter())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert changes(before, snapshot([model], [optimizer])) == []


class Overwritten(torch.Tensor):
    """A gradient in the memory of a CUDA graph, once another graph has been replayed."""

    def copy_(self, *_):
        raise RuntimeError(
            "accessing gradient tensor output of CUDAGraphs that has been overwritten by a subsequent run"
        )


def test_gradients_that_a_cuda_graph_has_overwritten_come_back_too():
    model = seeded_net()
    F.cross_entropy(model(X), Y).backward()
    before, first = {name: p.grad.clone() for name, p in model.named_parameters()}, next(model.parameters())
    first.grad = first.grad.as_subclass(Overwritten)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with untouched([optimizer]):
        steps(model, optimizer)
    assert differing(before, {name: p.grad.as_subclass(torch.Tensor) for name, p in model.named_parameters()}) == []

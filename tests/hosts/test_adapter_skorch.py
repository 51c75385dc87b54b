"""Policies in skorch's own nets."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from onecycle import one_cycle, preset
from onecycle.errors import ConfigError
from onecycle.schedules.policy import position

pytest.importorskip("skorch")
from sklearn.base import clone
from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler

from onecycle.adapters.skorch import PolicyDriver

INPUTS = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
TARGETS = INPUTS[:, :2].argmax(1)


class Steps(Callback):
    """Notes what each step of the optimizer uses."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after

    def initialize(self):
        self.seen_ = []
        return self

    def on_train_begin(self, net, **kwargs):
        self.seen_ = []
        self.hook_ = net.optimizer_.register_step_post_hook(self.note)

    def note(self, optimizer, args, kwargs):
        group = optimizer.param_groups[0]
        self.seen_.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))

    def on_batch_end(self, net, **kwargs):
        if len(self.seen_) == self.stop_after:
            raise KeyboardInterrupt

    def on_train_end(self, net, **kwargs):
        self.hook_.remove()


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, X):
        return self.layer(X).softmax(1)


def made(policy=None, epochs=3, optimizer=torch.optim.SGD, stop_after=None, **more):
    torch.manual_seed(0)
    driver = PolicyDriver(preset("fastai", 0.1) if policy is None else policy, **more)
    settings = {"optimizer__momentum": 0.9} if optimizer is torch.optim.SGD else {}
    callbacks = [("policy", driver), ("steps", Steps(stop_after))]
    return NeuralNetClassifier(
        Body,
        optimizer=optimizer,
        max_epochs=epochs,
        batch_size=8,
        train_split=None,
        verbose=0,
        callbacks=callbacks,
        **settings,
    )


def seen(net):
    return dict(net.callbacks_)["steps"].seen_


def values(updates, begin=0):
    policy = preset("fastai", 0.1)
    return [(v["lr"], v["momentum"]) for v in (policy(position(k, updates)) for k in range(begin, updates))]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_each_update_uses_the_values_of_its_position(optimizer):
    net = made(optimizer=optimizer).fit(INPUTS, TARGETS)
    assert seen(net) == values(15)
    assert net.history[:, "updates"] == [5, 10, 15] and net.history[-1, "event_lr"] == values(15)[-1][0]
    assert seen(net.fit(INPUTS, TARGETS)) == values(15)  # anew


def test_an_optimizer_without_momentum_stays_without():
    net = made(optimizer=torch.optim.Adagrad)
    net.set_params(callbacks__steps=None)
    net.fit(INPUTS, TARGETS)
    assert net.history[-1, "updates"] == 15 and "momentum" not in net.optimizer_.param_groups[0]


def test_partial_fit_goes_on_and_begins_anew_after_the_end():
    net = made(stop_after=7).fit(INPUTS, TARGETS)  # Ctrl-C, which skorch takes as an end
    assert seen(net) == values(15)[:7]
    net.set_params(callbacks__steps__stop_after=None)
    net.partial_fit(INPUTS, TARGETS, epochs=1)
    assert seen(net) == values(15)[7:12]
    with pytest.warns(UserWarning, match="update 16 of a policy over 15: the values stay at their last"):
        net.partial_fit(INPUTS, TARGETS, epochs=1)
    assert seen(net) == values(15)[12:] + values(15)[-1:] * 2
    net.partial_fit(INPUTS, TARGETS)
    assert seen(net) == values(15)


def test_updates_over_many_calls():
    net = made(epochs=1, updates=15)
    for begin in (0, 5, 10):
        net.partial_fit(INPUTS, TARGETS)
        assert seen(net) == values(15)[begin : begin + 5]


def test_a_loaded_net_goes_on_exactly(tmp_path):
    """By skorch's own files, and by pickle."""
    files = {f"f_{name}": tmp_path / name for name in ("params", "optimizer", "history")}
    whole, first = made().fit(INPUTS, TARGETS), made()
    first.partial_fit(INPUTS, TARGETS, epochs=2)
    first.save_params(**files)
    loaded = made().initialize()
    loaded.load_params(**files)
    for net in (loaded, pickle.loads(pickle.dumps(first)), first):
        net.partial_fit(INPUTS, TARGETS, epochs=1)
        assert seen(net) == values(15)[10:]
        assert net.module_.layer.weight.equal(whole.module_.layer.weight)


def test_one_scheduler_for_a_net():
    net = made()
    net.set_params(callbacks=[("policy", PolicyDriver(one_cycle(0.1))), ("theirs", LRScheduler())])
    with pytest.raises(ConfigError, match="the net has the LRScheduler 'theirs' too"):
        net.fit(INPUTS, TARGETS)
    net = made()
    net.set_params(callbacks=[("one", PolicyDriver(one_cycle(0.1))), ("two", PolicyDriver(one_cycle(0.1)))])
    with pytest.raises(ConfigError, match="already has a policy attached, by a Driver"):
        net.fit(INPUTS, TARGETS)


def test_an_unknown_number_of_updates_is_asked_for():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(INPUTS[i], TARGETS[i]) for i in range(40)])

    net = made()
    with pytest.raises(ConfigError, match=r"PolicyDriver\(policy, updates=\.\.\.\)"):
        net.fit(Stream(), None)
    net = made(updates=15).fit(Stream(), None)
    assert seen(net) == values(15)
    with pytest.raises(ConfigError, match="updates is the number of updates of the whole run"):
        made(updates=0).fit(INPUTS, TARGETS)


def test_it_is_cloned_and_searched_as_any_callback():
    net = clone(made())
    net.set_params(callbacks__policy__policy=one_cycle(0.5))
    net.fit(INPUTS, TARGETS)
    assert [lr for lr, _ in seen(net)] == [one_cycle(0.5)(position(k, 15))["lr"] for k in range(15)]


def test_skorchs_own_scheduler_steps_once_an_epoch():
    """Why the page has a before: OneCycleLR in an LRScheduler, as it is, has seen 3 of its 15 steps."""
    scheduler = LRScheduler(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=15)
    net = made()
    net.set_params(callbacks=[("theirs", scheduler), ("steps", Steps())])
    net.fit(INPUTS, TARGETS)
    assert len({lr for lr, _ in seen(net)}) == 3


def test_a_net_of_another_kind():
    net = NeuralNet(
        nn.Linear,
        module__in_features=4,
        module__out_features=1,
        criterion=nn.MSELoss,
        max_epochs=1,
        verbose=0,
        train_split=None,
        callbacks=[PolicyDriver(one_cycle(0.1))],
    )
    net.fit(INPUTS, INPUTS[:, :1])
    assert net.history[-1, "updates"] == 1

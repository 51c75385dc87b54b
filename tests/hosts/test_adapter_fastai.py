"""Policies and range tests in fastai's own Learner, without torchvision: its basics, not its vision."""

from __future__ import annotations

import copy
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from onecycle import Driver, Policy, one_cycle, preset
from onecycle.errors import ConfigError
from onecycle.schedules.policy import position

pytest.importorskip("fastai.basics")
from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Callback, CancelStepException, Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam, OptimWrapper, ranger

from onecycle.adapters.fastai import PolicyParamScheduler, lr_find

INPUTS = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS[:, :4].argmax(1)
TORCH_SGD = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
TORCH_ADAMW = partial(OptimWrapper, opt=torch.optim.AdamW)


def layers(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


def made(opt_func=SGD, bs=40, splitter=layers, loss=None, drop_last=True, **more):
    torch.manual_seed(0)
    random.seed(0)
    train, valid = TensorDataset(INPUTS[:200], TARGETS[:200]), TensorDataset(INPUTS[200:], TARGETS[200:])
    dls = DataLoaders(DataLoader(train, bs=bs, shuffle=True, drop_last=drop_last), DataLoader(valid, bs=50))
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
    return Learner(
        dls, model, loss or nn.CrossEntropyLoss(), opt_func=opt_func, splitter=splitter, metrics=accuracy, **more
    )


def fit(learn, *args, **more):
    with learn.no_bar(), learn.no_logging():
        learn.fit(*args, **more)


class Seen(Callback):
    """Notes the hyper-parameters of each step that the optimizer makes."""

    order, run_valid = 90, False

    def before_step(self):
        self.steps = [*getattr(self, "steps", []), [dict(hyper) for hyper in self.learn.opt.hypers]]

    def of(self, name, group=-1):
        return [hypers[group][name] for hypers in self.steps]


def values(policy, updates, name="lr"):
    return [policy(position(k, updates))[name] for k in range(updates)]


@pytest.mark.parametrize("opt_func", [partial(SGD, mom=0.9), Adam, TORCH_SGD, TORCH_ADAMW, ranger])
def test_each_update_uses_the_values_of_its_position(opt_func):
    policy, seen = preset("fastai", 0.1), Seen()
    learn = made(opt_func)
    fit(learn, 2, cbs=[PolicyParamScheduler(policy), seen])
    assert seen.of("lr") == values(policy, 10) and seen.of("mom") == values(policy, 10, "momentum")
    assert learn.recorder.hps == {"lr": seen.of("lr"), "mom": seen.of("mom")}  # plot_sched draws them


def test_fastais_own_schedule_misses_its_end():
    """The same curve at k / T, to fastai's rounding of pct_train: the 200th of 200 updates is not the end."""
    policy, seen = preset("fastai", 0.1), Seen()
    learn = made(bs=2)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 0.1, cbs=seen)
    np.testing.assert_allclose(seen.of("lr"), [policy(k / 200)["lr"] for k in range(200)], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(seen.of("mom"), [policy(k / 200)["momentum"] for k in range(200)], rtol=1e-5)
    assert seen.of("lr")[-1] > 10 * policy(1)["lr"]


@pytest.mark.parametrize(
    "opt_func", [SGD, partial(OptimWrapper, opt=torch.optim.SGD), partial(OptimWrapper, opt=torch.optim.Adagrad)]
)
def test_an_optimizer_without_momentum_stays_without(opt_func):
    seen = Seen()
    fit(made(opt_func), 1, cbs=[PolicyParamScheduler(preset("paper", 0.1)), seen])
    assert {hypers[-1].get("mom", 0.0) for hypers in seen.steps} == {0.0}


def test_groups_keep_their_proportions_and_weight_decay_is_scheduled():
    policy, seen = one_cycle(0.1).with_(weight_decay=0.3), Seen()
    fit(made(Adam), 1, slice(0.001, 0.1), cbs=[PolicyParamScheduler(policy), seen])
    np.testing.assert_allclose(seen.of("lr", 0), 0.01 * np.array(values(policy, 5)))
    assert seen.of("lr", 1) == values(policy, 5) and seen.of("wd") == [0.3] * 5
    seen = Seen()
    fit(made(Adam), 1, cbs=[PolicyParamScheduler(Policy(policy.schedules, layers=(0.5, 1))), seen])
    np.testing.assert_allclose(seen.of("lr", 0), 0.5 * np.array(values(policy, 5)))
    with pytest.raises(ConfigError, match="factors for 3 layers, the Learner 2 groups"):
        fit(made(Adam), 1, cbs=PolicyParamScheduler(Policy({"lr": 0.1}, layers=(0.1, 0.5, 1))))
    with pytest.raises(ConfigError, match="the parameter groups have no rho"):
        fit(made(Adam), 1, cbs=PolicyParamScheduler(Policy({"lr": 0.1, "rho": 0.1})))


@pytest.mark.parametrize(("drop_last", "collected", "updates"), [(True, 80, 6), (False, 80, 8), (False, 20, 16)])
def test_collected_batches_do_not_count(drop_last, collected, updates):
    """fastai collects samples, over the ends of epochs: of 200 in batches of 60, the last of 20."""
    policy, steps = one_cycle(0.1), []
    learn = made(bs=60, drop_last=drop_last)
    learn.create_opt()
    step = learn.opt.step
    learn.opt.step = lambda: (steps.append(learn.opt.hypers[-1]["lr"]), step())
    fit(learn, 4, cbs=[PolicyParamScheduler(policy), GradientAccumulation(collected)])
    assert steps == values(policy, updates)


class Overflows(Callback):
    """Cancels steps as MixedPrecision does where gradients overflow."""

    order, run_valid = 10, False

    def before_step(self):
        if self.learn.train_iter in (0, 1, 4):
            raise CancelStepException


def test_cancelled_steps_do_not_count():
    policy, seen = one_cycle(0.1), Seen()
    fit(made(), 2, cbs=[PolicyParamScheduler(policy), Overflows(), seen])
    assert seen.of("lr") == values(policy, 10)[:7]


def test_a_fit_goes_on_at_its_epoch():
    policy, seen, learn = preset("fastai", 0.1), Seen(), made(Adam)
    fit(learn, 3, cbs=[PolicyParamScheduler(policy), seen], start_epoch=2)
    assert seen.of("lr") == values(policy, 15)[10:]
    seen = Seen()
    fit(learn, 1, cbs=[PolicyParamScheduler(policy), seen])  # and a second one is a second cycle
    assert seen.of("lr") == values(policy, 5)


def test_one_scheduler_for_a_fit():
    scheduler, theirs = PolicyParamScheduler(one_cycle(0.1)), ParamScheduler({"lr": SchedLin(1, 0)})
    for cbs, name in (
        ([scheduler, theirs], "ParamScheduler"),
        ([scheduler, copy.copy(scheduler)], "PolicyParamScheduler"),
    ):
        with pytest.raises(ConfigError, match=f"{name} schedules this fit already: call learn.fit, with one"):
            fit(made(), 1, cbs=cbs)
    with pytest.raises(ConfigError, match="ParamScheduler schedules this fit already"):
        made().fit_one_cycle(1, cbs=scheduler)
    learn = made(TORCH_SGD)
    learn.create_opt()
    driver = Driver(one_cycle(0.1), learn.opt.opt, updates=10)
    with pytest.raises(ConfigError, match="already has a policy attached, by a Driver"):
        fit(learn, 1, cbs=scheduler)
    driver.detach()


def test_an_unknown_number_of_updates_is_asked_for():
    learn, policy, seen = made(), one_cycle(0.1), Seen()

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(TensorDataset(INPUTS[:200], TARGETS[:200]))

    loader = DataLoader(Endless(), bs=40)
    learn.dls = DataLoaders(loader, learn.dls.valid)
    with pytest.raises(ConfigError, match=r"PolicyParamScheduler\(policy, updates=\.\.\.\)"):
        fit(learn, 1, cbs=PolicyParamScheduler(policy))
    loader.n = 200
    fit(learn, 1, cbs=[PolicyParamScheduler(policy, updates=3), seen])
    assert seen.of("lr") == values(policy, 3) + values(policy, 3)[-1:] * 2


# The range test


def everything(learn):
    """All that may change, as plain data: weights, buffers, gradients, modes, optimizer, loaders, generators."""
    opt = learn.opt
    loaders = [(loader.rng.getstate(), sorted(vars(loader))) for loader in learn.dls.loaders]
    return copy.deepcopy(
        {
            "model": learn.model.state_dict(),
            "gradients": [p.grad for p in learn.model.parameters()],
            "modes": [m.training for m in learn.model.modules()],
            "hypers": None if opt is None else [dict(hyper) for hyper in opt.hypers],
            "state": None if opt is None else [opt.state.get(p) for p in learn.model.parameters()],
            "torch's state": list(getattr(getattr(opt, "opt", None), "state", {}).values()),
            "groups": [
                {**g, "params": len(g["params"])} for g in getattr(getattr(opt, "opt", None), "param_groups", [])
            ],
            "slow": getattr(opt, "slow_weights", None),
            "count": getattr(opt, "count", None),
            "loaders": loaders,
            "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
            "learner": (learn.lr, [type(cb).__name__ for cb in learn.cbs], sorted(k for k in vars(learn))),
        }
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("opt_func", [SGD, Adam, TORCH_SGD, TORCH_ADAMW, partial(ranger, mom=0.9)])
@pytest.mark.parametrize("trained", [False, True])
def test_a_range_test_leaves_no_trace(opt_func, trained, tmp_path):
    """fastai/fastai#3013, #2892 (what is left changed), #1751, #3240 (files)."""
    learn = made(opt_func, path=tmp_path)
    if trained:
        fit(learn, 1)
    before = everything(learn)
    test = lr_find(learn)
    after = everything(learn)
    assert [name for name in before if not same(before[name], after[name])] == []
    assert not list(Path(tmp_path).rglob("*"))
    assert test.cost["updates"] > 10 and test.cost["evaluations"] > 2
    assert test.kind == ("gradient" if opt_func in (SGD, TORCH_SGD) else "adaptive")
    # and so the fit after it is the fit without it
    fit(learn, 1)
    other = made(opt_func, path=tmp_path)
    for _ in range(1 + trained):
        fit(other, 1)
    assert same(dict(learn.model.state_dict()), dict(other.model.state_dict()))


def test_loaders_of_torch_keep_their_generators():
    learn, generators = made(), [torch.Generator().manual_seed(k) for k in range(2)]
    datasets = [learn.dls.train.dataset, learn.dls.valid.dataset]
    learn.dls = DataLoaders(
        *(
            torch.utils.data.DataLoader(dataset, 40, shuffle=True, generator=generator)
            for dataset, generator in zip(datasets, generators, strict=True)
        )
    )
    before = [generator.get_state() for generator in generators]
    assert lr_find(learn).cost["evaluations"] > 2
    assert same(before, [generator.get_state() for generator in generators])


def test_an_error_in_a_range_test_leaves_no_trace(tmp_path):
    calls = []

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) == 9:
            raise KeyError("broken off")
        return nn.functional.cross_entropy(outputs, targets)

    learn = made(Adam, loss=failing, path=tmp_path)
    before = everything(learn)
    with pytest.raises(KeyError, match="broken off"):
        lr_find(learn)
    assert same(before, everything(learn)) and learn.opt is None and not list(Path(tmp_path).rglob("*"))


def test_the_peak_of_a_range_test_trains():
    learn = made(SGD)
    test = lr_find(learn, updates=100)
    assert test.lr_max is not None and 0.01 < test.lr_max < 10, test.line()
    assert test.curve.sweeps[0].valid_accuracy
    fit(learn, 5, test.lr_max, cbs=PolicyParamScheduler(one_cycle(test.lr_max)))
    assert learn.recorder.values[-1][2] > 0.6


def test_negative_and_broken_losses():
    """fastai/fastai#962: a loss below zero stops their finder at once; #3658: NaN never does."""
    shifted = lr_find(made(SGD, loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) - 100))
    plain = lr_find(made(SGD))
    assert shifted.lr_max == pytest.approx(plain.lr_max, rel=0.2)

    def breaking(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss * float("nan") if loss > 3 else loss

    test = lr_find(made(SGD, loss=breaking))
    assert test.lr_max is None or test.lr_max < test.edge


def test_callbacks_take_no_part_and_are_named():
    assert lr_find(made()).notes == ()
    test = lr_find(made(cbs=GradientAccumulation(80)))
    assert test.notes == ("callbacks take no part in a range test: GradientAccumulation",)

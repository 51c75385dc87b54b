"""A policy as a callback of fastai's `Learner.fit`, and a range test of a fastai Learner that leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ..checks import unless_none, whole
from ..errors import ConfigError
from ..optim.driver import attach, release
from ..range_test.api import RangeTest, range_test
from ..schedules.policy import Policy, progress_after
from .common import host

schedule = host("fastai.callback.schedule", "fastai", "2.7")
learner = host("fastai.learner", "fastai", "2.7")
training = host("fastai.callback.training", "fastai", "2.7")

# What fastai calls the names of a policy.
NAMES = {"momentum": "mom", "weight_decay": "wd"}
# What of the validation data a range test measures on, in samples.
HELD_OUT = 512


class PolicyParamScheduler(schedule.ParamScheduler):
    """Have `policy` set learning rate, momentum and the rest before each update: ``learn.fit(n, cbs=...)``.

    It goes over the updates of all `n` epochs, and the last of them uses the end of the policy; fastai's own schedulers
    read their curves at ``k / T`` and miss it. Batches that `GradientAccumulation` collects, and steps that are
    cancelled in fp16, do not count. With ``start_epoch`` it goes on where that epoch begins.

    Each parameter group has its share of the values, by those that it has as the fit begins: ``learn.fit(n,
    slice(1e-4, 1e-2), cbs=...)`` keeps these proportions. ``momentum`` is fastai's ``mom``, and stays away where an
    optimizer has none; ``weight_decay`` is ``wd``.

    Args:
        policy: such as ``onecycle.one_cycle(0.01)``. Factors for layers are those of the parameter groups.
        updates: of the whole fit; None: from its epochs and batches.

    Raises:
        ConfigError: as the fit begins: another scheduler, an unknown number of batches, or a name that no group has.
    """

    def __init__(self, policy: Policy, updates: int | None = None):
        super().__init__({})
        unless_none(whole, "updates", updates, what="the number of updates of the whole fit")
        self.policy, self.updates = policy, updates

    def before_fit(self) -> None:
        """Take the shares of the parameter groups, and count the updates to come."""
        others = [
            type(cb).__name__ for cb in self.learn.cbs if isinstance(cb, schedule.ParamScheduler) and cb is not self
        ]
        if others:
            raise ConfigError(f"{others[0]} schedules this fit already: call learn.fit, with one scheduler in its cbs")
        optimizer = _of_torch(self.learn.opt) or self.learn.opt
        attach(optimizer, self)  # an error where a policy drives it
        release(optimizer, self)
        self.shares = _shares(self.policy, self.learn.opt.hypers)
        self.scheds = {NAMES.get(name, name): self.policy.schedules[name] for name in self.shares}
        self.total = self.updates or _updates(self.learn, self.learn.n_epoch)
        self.applied, self.cancelled, self.begun = 0, False, False
        super().before_fit()

    def before_train(self) -> None:
        """Take the position where the first epoch of this fit begins."""
        if not self.begun and self.learn.epoch:
            self.applied = _updates(self.learn, self.learn.epoch)
        self.begun = True

    def before_batch(self) -> None:
        """Write the values of the update that this batch makes, or takes part in."""
        values = self.policy(progress_after(self.applied, self.total))
        for name, shares in self.shares.items():
            self.learn.opt.set_hyper(NAMES.get(name, name), [values[name] * share for share in shares])

    def after_cancel_step(self) -> None:
        """Note that this step makes no update."""
        self.cancelled = True

    def after_step(self) -> None:
        """Count the update."""
        self.applied += not self.cancelled
        self.cancelled = False


def lr_find(learn: Any, **options: Any) -> RangeTest:
    """Range-test the model, loss, optimizer and data of a fastai Learner, and leave all of them as they were.

    Weights, buffers, the optimizer's state and settings, loaders and global generators come back to the bit, and
    no file is written. The held-out loss is that of up to 512 samples of ``learn.dls.valid``, with the accuracy where
    ``accuracy`` is among the Learner's metrics. Callbacks take no part; those that not every Learner has are named in
    the notes.

    Args:
        learn: a `fastai.learner.Learner`, with an optimizer of fastai or an `OptimWrapper` around one of torch.
        options: of `onecycle.range_test`: ``updates``, ``repeats``, ``lr_low``, ``lr_high``, ``epochs``, ``seed``.

    Raises:
        As `onecycle.range_test` does.
    """
    created, lr = learn.opt is None, learn.lr
    if created:
        learn.create_opt()
    try:
        test = _tested(learn, options)
    finally:
        if created:
            learn.opt, learn.lr = None, lr
    usual = {"TrainEvalCallback", "Recorder", "ProgressCallback", "CastToTensor"}
    left_out = sorted({type(cb).__name__ for cb in learn.cbs} - usual)
    note = (f"callbacks take no part in a range test: {', '.join(left_out)}",) if left_out else ()
    return replace(test, notes=(*test.notes, *note))


def _tested(learn: Any, options: Mapping[str, Any]) -> RangeTest:
    opt = learn.opt
    wrapped = _of_torch(opt)
    optimizer = wrapped or _as_torch(opt)
    kept: list[Any] = [] if wrapped else [_OptimizerState(opt)]

    def step(batch: Any) -> float:
        inputs, targets = _split(learn, batch)
        learn.model.train()
        loss = learn.loss_func(learn.model(*inputs), *targets)
        loss.backward()
        optimizer.step()
        opt.zero_grad()
        return float(loss.detach())

    modules = [each for each in (learn.model, learn.loss_func) if isinstance(each, nn.Module)]
    loaders = [_Reloaded(each) if hasattr(each, "randomize") else each for each in learn.dls.loaders[:2] if len(each)]
    kept += [g for each in loaders if isinstance(g := getattr(each, "generator", None), torch.Generator)]
    evaluate = _HeldOut(learn, loaders[1]) if len(loaders) > 1 else None
    return range_test(step, optimizer, loaders[0], evaluate=evaluate, model=modules, keep=kept, **options)


class _Reloaded:
    """The batches of a loader of fastai, read by a copy each time: reading changes the loader's generator."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader.new())


class _HeldOut:
    """The mean loss, and the accuracy if it is a metric of the Learner, over the first validation batches."""

    def __init__(self, learn: Any, loader: Iterable[Any]):
        self.learn, self.loader = learn, loader
        self.batches: list[tuple[Any, Any]] = []
        self.accuracy = [
            metric.func for metric in learn.metrics if metric.name == "accuracy" and hasattr(metric, "func")
        ]

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        if not self.batches:
            samples = 0
            for batch in self.loader:
                self.batches.append(_split(self.learn, batch))
                if (samples := samples + len(self.batches[-1][0][0])) >= HELD_OUT:
                    break
        self.learn.model.eval()
        sizes = [len(inputs[0]) / sum(len(each[0]) for each, _ in self.batches) for inputs, _ in self.batches]
        means = {"loss": 0.0, **dict.fromkeys(["accuracy"][: len(self.accuracy)], 0.0)}
        for size, (inputs, targets) in zip(sizes, self.batches, strict=True):
            outputs = self.learn.model(*inputs)
            for name, measure in zip(means, [self.learn.loss_func, *self.accuracy], strict=False):
                means[name] += size * float(measure(outputs, *targets))
        return means


class _Stepped(Optimizer):
    """An optimizer of fastai as one of torch: the learning rates of its groups are fastai's as it steps."""

    def __init__(self, opt: Any):
        groups = [{"params": list(group), **hyper} for group, hyper in zip(opt.param_lists, opt.hypers, strict=True)]
        Optimizer.__init__(self, groups, {})
        self.opt = opt

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.opt.set_hyper("lr", [group["lr"] for group in self.param_groups])
        self.opt.step()


class _GradientStepped(_Stepped, SGD):
    """The same of fastai's SGD, whose kind a range test goes by."""


def _of_torch(opt: Any) -> Optimizer | None:
    """The optimizer of torch that an `OptimWrapper` has inside; None where all of it is fastai's."""
    within = getattr(opt, "opt", None)
    return within if isinstance(within, Optimizer) else None


def _as_torch(opt: Any) -> Optimizer:
    steps = {getattr(cb, "__name__", "") for cb in opt.cbs}
    return (_GradientStepped if steps & {"sgd_step", "momentum_step"} else _Stepped)(opt)


class _OptimizerState:
    """All that an optimizer of fastai keeps, in the same objects again when it is loaded."""

    def __init__(self, opt: Any):
        self.opt, self.keys = opt, []

    def state_dict(self) -> dict[str, Any]:
        opt, self.keys = self.opt, list(self.opt.state)
        more = {name: vars(opt)[name] for name in ("count", "slow_weights") if name in vars(opt)}  # of Lookahead
        return {"state": list(opt.state.values()), "hypers": [dict(hyper) for hyper in opt.hypers], "more": more}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.opt.state.clear()
        self.opt.state.update(zip(self.keys, state["state"], strict=True))
        for hyper, before in zip(self.opt.hypers, state["hypers"], strict=True):
            hyper.clear()
            hyper.update(before)
        vars(self.opt).update(state["more"])


def _split(learn: Any, batch: Any) -> tuple[Any, Any]:
    """Inputs and targets on the model's device, as the Learner splits them."""
    batch = learner.to_device(batch, next(learn.model.parameters()).device)
    n = getattr(learn.dls, "n_inp", 1 if len(batch) == 1 else len(batch) - 1)
    return batch[:n], batch[n:]


def _shares(policy: Policy, hypers: Any) -> dict[str, list[float]]:
    """By the policy's names: the share of the value that each parameter group gets, the largest being 1."""
    shares = {}
    for name in policy.schedules:
        numbers = [hyper.get(NAMES.get(name, name)) for hyper in hypers]
        if None in numbers and name != "momentum":
            raise ConfigError(f"the parameter groups have no {NAMES.get(name, name)}; they have {sorted(hypers[0])}")
        if None not in numbers:
            largest = max(numbers)
            shares[name] = [each / largest if largest > 0 else float(name != "momentum") for each in numbers]
    if policy.layers:
        if len(policy.layers) != len(hypers):
            raise ConfigError(
                f"the policy has factors for {len(policy.layers)} layers, the Learner {len(hypers)} groups"
            )
        shares["lr"] = list(policy.layers)
    return shares


def _updates(learn: Any, epochs: int) -> int:
    """The updates that the Learner makes in so many epochs; gradients may be collected over many batches."""
    loader = learn.dls.train
    try:
        batches = len(loader)
    except TypeError as error:
        raise ConfigError(
            "the number of batches in an epoch is not known: PolicyParamScheduler(policy, updates=...) of the whole fit"
        ) from error
    collected = next((cb.n_acc for cb in learn.cbs if isinstance(cb, training.GradientAccumulation)), 1)
    if collected == 1:
        return whole("updates", epochs * batches, what="epochs x batches")
    samples, waiting, updates = len(loader.dataset), 0, 0
    for batch in range(epochs * batches):
        waiting += min(loader.bs, samples - batch % batches * loader.bs)
        if waiting >= collected:
            waiting, updates = 0, updates + 1
    return whole("updates", updates, what=f"epochs x batches, where {collected} samples make an update")

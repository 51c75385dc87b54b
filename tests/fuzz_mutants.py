"""Faults planted into the library, each of which the trainings drawn at random have to bring to light."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from fuzz_cases import Case
from fuzzing import run
from torch import nn

from onecycle.data import standardise
from onecycle.optim import build, groups
from onecycle.records import best
from onecycle.schedules.budget import Budget
from onecycle.training import balance, evaluate, guard, loop, losses, norms, objectives, probe, state, step
from onecycle.training.runtime import Runtime

write, update, backward, apply, means, samples_in = (
    guard.write, step.update, step._backward, step._apply, step._means, step.samples_in,
)  # fmt: skip
make, parameter_groups, bind, measure, draws = (
    build.build_optimizer, build.parameter_groups, groups._bind, evaluate.evaluate, state.TrainState.draws,
)  # fmt: skip
follow, load, few, balanced, standard = (
    state.TrainState.follow, state.TrainState.load_state_dict, norms._few, balance.balanced,
    standardise.Scale.__call__,
)  # fmt: skip
groups_of, total_updates, permutation = loop.groups_of, Budget.total_updates, torch.randperm


def second_group_faster(policy: Any, optimizer: Any, progress: float, factor: float) -> Any:
    values = write(policy, optimizer, progress, factor)
    for group in optimizer.param_groups[1:2]:
        group["lr"] = group["lr"] * 1.01
    return values


def one_more(budget: Budget, per_epoch: int | None) -> int | None:
    return None if (updates := total_updates(budget, per_epoch)) is None else updates + 1


def without_the_tail(batches: Any, size: int) -> Any:
    return (group for group in groups_of(batches, size) if len(group) == size)


def without_the_first(batches: Any, size: int) -> Any:
    next(batches, None)
    return groups_of(batches, size)


def with_old_gradients(to: Any, group: Any) -> Any:
    weights = [p for part in to.optimizer.param_groups for p in part["params"] if p.grad is not None]
    before = [p.grad for p in weights]
    result = backward(to, group)
    for p, old in zip(weights, before, strict=True):
        if p.grad is not None:
            p.grad = p.grad + 0.01 * old
    return result


def clipped_at(factor: float | None) -> Callable[[Any], bool]:
    def clip(to: Any) -> bool:
        before = to.clip
        to.clip = None if factor is None or before is None else before * factor
        try:
            return apply(to)
        finally:
            to.clip = before

    return clip


def moved(by: float) -> Callable[..., Any]:
    def move(to: Any, group: Any) -> Any:
        result = update(to, group)
        for p in to.model.parameters():
            p.data.mul_(1 + by)
        return result

    return move


def made_with(change: Callable[[Any], None]) -> Callable[..., Any]:
    def make_changed(optimizer: Any, model: nn.Module, **options: Any) -> Any:
        made, notes = make(optimizer, model, **options)
        change(made)
        return made, notes

    return make_changed


def decay_more(made: Any) -> None:
    for group in made.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] *= 1.01


def no_nesterov(made: Any) -> None:
    for group in made.param_groups:
        if "nesterov" in group:
            group["nesterov"] = False


def forget_one(made: Any) -> None:
    made.param_groups[-1]["params"] = made.param_groups[-1]["params"][:-1] or made.param_groups[-1]["params"]


def decay_all(model: nn.Module, weight_decay: float | None) -> list[dict[str, Any]]:
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    return [{"params": list(model.parameters()), "lr_ratio": 1.0, "weight_decay_ratio": 1.0, **decay}]


def all_alike(optimizer: Any, name: str) -> None:
    bind(optimizer, name)
    for group in optimizer.param_groups:
        group[f"{name}_ratio"] = 1.0


def without_the_last(model: nn.Module, batches: Any, *rest: Any) -> Any:
    known = list(batches)
    return measure(model, known[:-1] or known, *rest)


def unweighed(parts: Any, sizes: Any) -> Any:
    return means(parts, [1] * len(sizes))


def class_weights_aside(criterion: Any, form: Any, targets: Any) -> Any:
    return form.counted(targets).sum() if form.kind == "classes" and not targets.is_floating_point() else None


def shorter(n: int, *rest: Any, **more: Any) -> Any:
    order = permutation(n, *rest, **more)
    return order.where(order < n - 1, 0) if n > 1 else order


def follow_faster(to: Any) -> None:
    before, to.average = to.average, None if to.average is None else to.average * 0.99
    follow(to)
    to.average = before


def late(evaluations: Any) -> bool:
    every = evaluations._every
    return every is None or (evaluations._clock.updates - 1) % every == 0


def fewer(batches: Any, *rest: Any) -> Any:
    known = list(few(batches, *rest))
    return iter(known[:-1] or known)


def rooted(*given: Any) -> Any:
    loss, note = balanced(*given)
    keywords = {name: value.sqrt() for name, value in loss.criterion.keywords.items()}
    return replace(loss, criterion=partial(loss.criterion.func, **keywords)), note


def scaled(scale: Any, values: Any) -> Any:
    return standard(scale, values) / 1.01


def without_optimizer(to: Any, saved: Any) -> None:
    load(to, {**saved, "optimizer": to.optimizer.state_dict()})


def without_place(to: Any, saved: Any) -> None:
    load(to, {**saved, "at": {**saved["at"], "batch": 0}})


def broadcast(outputs: Any, targets: Any) -> Any:
    return outputs, targets.to(outputs.dtype)


MUTANTS: dict[str, Any] = {
    "the second group's rate is 1 % larger": lambda: patch.object(guard, "write", second_group_faster),
    "the rates of groups are all alike": lambda: patch.object(groups, "_bind", all_alike),
    "the schedule is one update late": lambda: patch.object(loop, "position", lambda k, n: k / max(n, 1)),
    "an update too many": lambda: patch.object(Budget, "total_updates", one_more),
    "a ragged last group is left out": lambda: patch.object(loop, "groups_of", without_the_tail),
    "the first batch of an epoch is skipped": lambda: patch.object(loop, "groups_of", without_the_first),
    "batches of a group weigh alike": lambda: patch.object(step, "samples_in", lambda batch: 1),
    "the weights of a loss count not in a group": lambda: patch.object(step, "_scale_gradients", lambda *_: None),
    "the loss of a group is a mean of means": lambda: patch.object(step, "_means", unweighed),
    "a hundredth of the gradient before is kept": lambda: patch.object(step, "_backward", with_old_gradients),
    "gradients are clipped at 1 % more": lambda: patch.object(step, "_apply", clipped_at(1.01)),
    "gradients are not clipped": lambda: patch.object(step, "_apply", clipped_at(None)),
    "weights grow by 1e-4 an update": lambda: patch.object(guard, "update", moved(1e-4)),
    "weights grow by 1e-5 an update": lambda: patch.object(guard, "update", moved(1e-5)),
    "weight decay is 1 % larger": lambda: patch.object(build, "build_optimizer", made_with(decay_more)),
    "weight decay of biases": lambda: patch.object(build, "parameter_groups", decay_all),
    "no Nesterov momentum": lambda: patch.object(build, "build_optimizer", made_with(no_nesterov)),
    "a parameter is not trained": lambda: patch.object(build, "build_optimizer", made_with(forget_one)),
    "the loss's parameters are not trained": lambda: patch.object(
        build, "build_optimizer", lambda *a, beside=None, **o: make(*a, **o)
    ),
    "modules in evaluation mode are trained": lambda: patch.object(state, "training_mode", nn.Module.train),
    "freeze does nothing": lambda: patch.object(build, "freeze", lambda *_: None),
    "dropout of the update after": lambda: patch.object(state.TrainState, "draws", lambda self, k: draws(self, k + 1)),
    "the caller's generator is drawn from": lambda: patch.object(guard, "seeded", lambda *_: nullcontext()),
    "trying the loss leaves a trace": lambda: patch.object(probe, "untouched", lambda *_: nullcontext()),
    "batches of an evaluation weigh alike": lambda: patch.object(evaluate, "samples_in", lambda batch: 1),
    "an evaluation leaves out its last batch": lambda: patch.object(evaluate, "evaluate", without_the_last),
    "an evaluation is in training mode": lambda: patch.object(evaluate, "evaluating", lambda *_: torch.no_grad()),
    "targets left out count in a mean": lambda: patch.object(objectives, "denominator", lambda *_: None),
    "class weights count not in a mean": lambda: patch.object(objectives, "denominator", class_weights_aside),
    "[n, 1] and [n] are broadcast": lambda: patch.object(losses, "same_shape", broadcast),
    "the last sample of the data is left out": lambda: patch.object(torch, "randperm", shorter),
    "averages keep 1 % less": lambda: patch.object(state.TrainState, "follow", follow_faster),
    "averages are not used in validation": lambda: patch.object(state.TrainState, "averaged", lambda _: nullcontext()),
    "the best is the largest loss": lambda: patch.object(best, "lower_is_better", lambda name: False),
    "an evaluation is late": lambda: patch.object(loop._Evaluations, "_is_due", late),
    "statistics of norms are not estimated": lambda: patch.object(loop, "estimate_statistics", lambda *_, **__: False),
    "statistics of norms leave out a batch": lambda: patch.object(norms, "_few", fewer),
    "a label smoothing of 0.11": lambda: patch.object(objectives, "SMOOTHING", 0.11),
    "class weights are roots": lambda: patch.object(balance, "balanced", rooted),
    "standard deviations are 1 % larger": lambda: patch.object(standardise.Scale, "__call__", scaled),
    "predictions are not in the old units": lambda: patch.object(standardise.Scale, "inverse", lambda _, x: x),
    "predictions are logits": lambda: patch.object(losses.Form, "predict", lambda _, outputs: outputs),
    "the optimizer is not saved": lambda: patch.object(state.TrainState, "load_state_dict", without_optimizer),
    "the batch is not saved": lambda: patch.object(state.TrainState, "load_state_dict", without_place),
    "no autocast": lambda: patch.object(Runtime, "autocast", lambda _: nullcontext()),
}  # fmt: skip


def cases_that_show(plant: Callable[[], Any], cases: Iterable[Case], enough: float = float("inf")) -> list[Case]:
    """Those of the cases, which are equal without it, that are a fault with a planted one: `enough` of them."""
    shown: list[Case] = []
    for case in cases:
        with plant():
            shown += [case] if run(case).is_fault else []
        if len(shown) >= enough:
            break
    return shown

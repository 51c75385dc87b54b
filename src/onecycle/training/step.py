"""What one update does: forward, loss, backward, accumulate, clip, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ..data.shards import Part, samples_in
from ..data.standardise import constant
from ..errors import ConfigError, DataError, NonFiniteLoss, TrainingError
from .means import UpdateMeans
from .objectives import BatchMeans, Loss, means_of
from .runtime import Runtime
from .sharded import explained
from .state import TrainState

OVERFLOWS_ALLOWED = 30
# Errors that are no matter of the optimizer; the second is of torch 2.8 and later.
OF_DEVICE = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


def compute(loss: Loss, model: nn.Module, batch: Any, runtime: Runtime) -> BatchMeans:
    """Loss and metrics of one batch that is on the runtime's device, in its precision.

    Raises:
        ConfigError: a loss that is not one number.
        DataError: a batch norm got one value a channel.
    """
    try:
        with runtime.autocast():
            return means_of(loss(model, batch))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            f"a batch of one sample is one that {type(model).__name__} cannot be trained on ({error}): give the "
            "DataLoader drop_last=True, or another batch size"
        ) from error
    except RuntimeError as error:
        if said := explained(error):
            raise said from error
        raise


def update(state: TrainState, group: Sequence[Any]) -> UpdateMeans:
    """One update from a group of batches: the gradient of the mean loss over all that they hold.

    The mean is over their samples, or over what the loss gives as its weight (tokens, say). A step that overflows in
    fp16 is tried again on the same batches with the smaller scale, so that update k always means the same data.

    On an accelerator the host waits for nothing here, with two exceptions: the scale of fp16, which says whether the
    step was skipped, and, of several batches or on several ranks, whether what its loss gives as a weight is 0.

    Raises:
        TrainingError: the loss has no gradient.
        NonFiniteLoss: the gradients overflow again and again.
    """
    replays = state.may_replay
    for _ in range(OVERFLOWS_ALLOWED):
        if replays:
            for parameter in state.beside_optimizer:
                parameter.grad = None  # or it would be added to, in memory that graphs have overwritten
            torch.compiler.cudagraph_mark_step_begin()  # with all batches of the group within one step
        result = _backward(state, group)
        with state.runtime.stepping():
            applied = _apply(state)
        if applied:
            return result.copied() if replays else result
    raise NonFiniteLoss(
        f"update {state.step} overflowed {OVERFLOWS_ALLOWED} times in a row in fp16: the gradients are not finite at "
        'any scale. Use precision="bf16" or "fp32", a smaller lr_max, or clip=1.0',
        step=state.step, lr=float(state.optimizer.param_groups[0]["lr"]),
    )  # fmt: skip


def _backward(state: TrainState, group: Sequence[Any]) -> UpdateMeans:
    for parameters in state.optimizer.param_groups:
        for parameter in parameters["params"]:  # as zero_grad(), at a tenth of its cost
            parameter.grad = None
    if state.runtime.ranks.world > 1:
        return _shared_backward(state, state.runtime.ranks.parts(group))
    if len(group) == 1:
        part = compute(state.loss, state.forward, group[0], state.runtime)
        _checked(_scaled(part.loss, state)).backward()
        return UpdateMeans(part.loss.detach(), part.metrics, samples_in(group[0]), part.weights)
    sizes = [samples_in(batch) for batch in group]
    total = sum(sizes)
    parts: list[BatchMeans] = []
    for batch, size in zip(group, sizes, strict=True):
        part = compute(state.loss, state.forward, batch, state.runtime)
        scaled = _scaled(part.loss * (_weight(part, size) / total), state)
        if bool(part.weights.get("loss", size)):  # what weighs nothing may be NaN, and have such a gradient
            _checked(scaled).backward()
        parts.append(part._replace(loss=part.loss.detach()))
    means, weights = _means(parts, sizes)
    if "loss" in weights:
        wide = torch.promote_types(means["loss"].dtype, torch.float32)
        _scale_gradients(state, total / weights["loss"].to(wide))
    return UpdateMeans(means.pop("loss"), means, total, weights)


def _weight(part: BatchMeans, samples: float) -> Any:
    """What the mean loss of a batch weighs, in float32 at least: shares of whole numbers are so, whatever the loss is.

    A loss that is scaled by it is so also where that is not needed: a scaler begins with it.
    """
    weight = part.weights.get("loss", samples)
    wide = torch.promote_types(part.loss.dtype, torch.float32)
    return weight.to(wide) if isinstance(weight, Tensor) else weight


def _shared_backward(state: TrainState, group: Sequence[Part]) -> UpdateMeans:
    """The same on several ranks, whose gradients are summed: each computes its part of the batches.

    A loss is scaled by its share of the samples of all ranks. One without any weight there has no gradient, though
    the other ranks wait for it: it brings zeros, or what those before it came to.
    """
    ranks, last = state.runtime.ranks, len(group) - 1
    samples = sum(part.samples for part in group)
    of = [part.of for part in group]
    total = float(ranks.sum(torch.tensor(samples))) if None in of else float(sum(map(int, of)))  # type: ignore[arg-type]
    made, summed = list[BatchMeans](), state.summed(compute)
    for i, part in enumerate(group):
        with summed.computing(last=i == last) as computed:
            means, carrier = computed(part.batch)
            weight = _weight(means, part.samples) * (part.factor if "loss" in means.weights else 1.0)
            scaled = _checked(_scaled(means.loss * (weight / total), state))
            made.append(means._replace(loss=means.loss.detach()))
            if i == last:
                flags = state.stop.flags if state.stop else (0, 0)
                scaled = scaled + summed.carried(carrier, _sums(made, group), flags)
            elif not (bool(weight) or summed.in_each_batch):
                continue
            with nullcontext() if bool(weight) else summed.standing_in():
                scaled.backward()
    names, first = ("loss", *made[0].metrics), made[0].loss.dtype
    (sums, weighed), state.heard = summed.arrived(len(names))
    means = dict(zip(names, (sums / weighed).to(first), strict=True))
    weights = {name: weight for name, weight in zip(names, weighed, strict=True) if name in made[0].weights}
    if "loss" in weights:
        factor = (total / weights["loss"]).float()
        _scale_gradients(state, factor.where(factor.isfinite(), 0.0))  # where nothing weighs anything they are 0
    return UpdateMeans(means.pop("loss"), means, round(total), weights)


def _sums(made: Sequence[BatchMeans], group: Sequence[Part]) -> Tensor:
    """Of the loss and each metric: the sum over the batches of a group, each times what it weighs, and the weights."""
    device, names = made[0].loss.device, ("loss", *made[0].metrics)
    values = torch.stack([
        torch.stack([(one.loss if name == "loss" else one.metrics[name]).to(device, torch.float64) for name in names])
        for one in made
    ])  # fmt: skip
    samples = constant(tuple(part.samples for part in group), values)
    weights = torch.stack([
        torch.stack([
            one.weights[name].to(device, torch.float64) * part.factor if name in one.weights else samples[i]
            for name in names
        ])
        for i, (one, part) in enumerate(zip(made, group, strict=True))
    ])  # fmt: skip
    return torch.stack([(values * weights).where(weights > 0, 0.0).sum(0), weights.sum(0)])


def _scaled(loss: Tensor, state: TrainState) -> Tensor:
    return loss if state.scaler is None else state.scaler.scale(loss)


def _checked(loss: Tensor) -> Tensor:
    """The loss, which must have a gradient."""
    if not loss.requires_grad:
        raise TrainingError(
            "the loss has no gradient: it does not depend on a weight that is trained. Look for detach(), "
            "no_grad(), argmax() or item() on its way from the model's outputs"
        )
    return loss


def _means(parts: Sequence[BatchMeans], sizes: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The means over the batches of a group, and what those weigh that have weights of their own."""
    means, weights = {}, {}
    device = parts[0].loss.device
    wide = torch.promote_types(parts[0].loss.dtype, torch.float32)
    share = constant(tuple(sizes), parts[0].loss, wide) / sum(sizes)
    for name in ("loss", *parts[0].metrics):
        values = torch.stack([part.loss if name == "loss" else part.metrics[name] for part in parts])
        if name not in parts[0].weights:
            means[name] = (values * share).sum()
            continue
        given = torch.stack([part.weights[name].to(device) for part in parts])
        weights[name] = given.sum()  # what weighs nothing may be NaN
        means[name] = (values * given).where(given > 0, 0.0).sum() / weights[name]
    return means, weights


def _scale_gradients(state: TrainState, factor: Tensor) -> None:
    """Multiply all gradients by a number that stays on the device; where nothing weighed anything, they are 0."""
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
            elif parameter.requires_grad and not bool(factor.isfinite()):
                parameter.grad = torch.zeros_like(parameter)


def _apply(state: TrainState) -> bool:
    """Clip and step; False where a gradient scaler skipped the step."""
    scaler, optimizer = state.scaler, state.optimizer
    if state.clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], state.clip)
    _give_momentum(optimizer, scaled=scaler is not None)
    if scaler is None:
        _step(optimizer.step, optimizer)
        return True
    before, fresh = scaler.get_scale(), not optimizer.state
    _step(partial(scaler.step, optimizer), optimizer)
    scaler.update()
    applied = not scaler.get_scale() < before
    if fresh and not applied:  # torch's fused SGD leaves a momentum buffer that was never written to
        optimizer.state.clear()
    return applied


def _give_momentum(optimizer: Optimizer, scaled: bool) -> None:
    """Give weights that are trained later than others a momentum, which torch's fused SGD does not do by itself.

    It begins the momentum of a group for all of its weights at once, and fails where some have one already: after
    `Learner.freeze` and `Learner.unfreeze`, or where a part of a model is used in some batches alone. A weight
    begins with its gradient g, undampened: momentum b + (1 - dampening) g = g for b = dampening g / momentum.
    Gradients that are still `scaled` are not known yet: with them b is 0, which is the same without dampening.
    """
    if not isinstance(optimizer, SGD):
        return
    fused = [group for group in optimizer.param_groups if group["fused"] and group["momentum"]]
    if not fused or not 0 < len(optimizer.state) < sum([len(group["params"]) for group in optimizer.param_groups]):
        return
    for group in fused:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter not in optimizer.state:
                buffer = torch.zeros_like(parameter.grad)
                if group["dampening"] and not scaled:
                    gradient = -parameter.grad if group["maximize"] else parameter.grad
                    gradient = gradient.add(parameter.detach(), alpha=group["weight_decay"])
                    buffer = gradient * (group["dampening"] / group["momentum"])
                optimizer.state[parameter]["momentum_buffer"] = buffer


def _step(step: Callable[[], Any], optimizer: Optimizer) -> None:
    """One step of an optimizer, which may be for other parameters or gradients: complex, sparse, dense, on a device."""
    fresh = not optimizer.state
    try:
        step()
    except (RuntimeError, ValueError) as error:
        of_worker = str(error).startswith("DataLoader worker")  # that died meanwhile, as a signal handler of torch says
        if not fresh or of_worker or isinstance(error, OF_DEVICE):
            raise
        name = type(optimizer).__name__
        raise ConfigError(f"{name} cannot update these parameters: {error}. Give another optimizer") from error

"""Statistics of batch norms: those of the batch for one measurement, and those that fit the weights as they are."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.batches import Batches, OneShotBatches, length_of
from ..data.loaders import LoaderBatches
from ..data.shards import Part, samples_in
from ..data.standardise import untransformed
from .batch_norm import BatchNorm, batch_norms, over_ranks
from .evaluate import evaluating
from .objectives import Supervised, pair
from .restore import untouched
from .state import TrainState

# Samples that they are measured on; before an evaluation in mid-run at most such a share of an epoch's batches.
SAMPLES, SHARE = 512, 1 / 4


def estimate_statistics(
    state: TrainState, batches: Batches, *, last: bool = True, epoch: int | None = None, within: bool = False
) -> bool:
    """Measure the statistics of the batch norms in training for the weights as they are, on batches of training data.

    Running means lag behind weights that change fast, and in short runs still hold some of where they began. Here they
    are means over the first batches of an epoch, by default the one at hand, all alike and without gradients: on
    `SAMPLES` samples, unless it is the `last` time on at most `SHARE` of an epoch's batches. All else is in evaluation
    mode (dropout is off), but for a loss ``fn(model, batch)``, which is called as in training. A norm in evaluation
    mode keeps what it has; what cannot be read again, such as an iterator, leaves running means; a model without norms
    costs nothing. `within` an epoch, what may lose its place when it is read again is left alone.

    Returns whether that is so: at the end of the epoch there is more to be measured.
    """
    if not _estimates(state, batches):
        return False
    if within and not keeps_its_place(batches, state.at.batch):
        return True
    few = _few(state, batches, state.at.epoch if epoch is None else epoch, last)
    if state.averages is None:
        _estimate(state, few)
        return False
    with state.averaged():
        _estimate(state, few)
        for name, part in state.model.named_modules():
            for which in ("running_mean", "running_var") if isinstance(part, BatchNorm) else ():
                if (kept := state.averages.get(f"{name}.{which}" if name else which)) is not None:
                    kept.copy_(getattr(part, which))
    return False


def _estimates(state: TrainState, batches: Batches) -> bool:
    """Whether there is anything to be measured, and on what."""
    once = isinstance(untransformed(batches), OneShotBatches) or _moves(batches)
    return state.norm_statistics != "running" and not once and bool(trained(state.model))


def keeps_its_place(batches: Batches, begun: int) -> bool:
    """Whether batches can be read again after `begun` of an epoch, which then goes on as if they had not been.

    An iterable may keep its place on itself, and workers that stay would begin the epoch anew.
    """
    iterable = getattr(untransformed(batches), "iterable", None)
    if iterable is None or begun >= _count(batches):
        return True
    return isinstance(iterable, DataLoader) and not iterable.persistent_workers and not _moves(batches)


def _moves(batches: Batches) -> bool:
    """Whether the data themselves have the place that a loader is at."""
    plain = untransformed(batches)
    return isinstance(plain, LoaderBatches) and plain.moves_its_data


def _count(batches: Batches) -> float:
    """The batches of an epoch, infinite where that is not known."""
    length = length_of(batches)
    return math.inf if length is None else length


def _estimate(state: TrainState, batches: Iterable[Any]) -> None:
    norms = trained(state.model)
    supervised = isinstance(state.loss, Supervised)
    training = norms if supervised else [part for module in state.modules for part in module.modules() if part.training]
    before = [(norm, norm.momentum, _value(norm.num_batches_tracked)) for norm in norms]
    with evaluating(state.runtime, *state.modules):
        for part in training:
            part.training = True
        for norm in norms:
            norm.reset_running_stats()
        try:
            with _all_alike(norms):
                for batch in batches:
                    moved = state.runtime.move(batch)
                    with state.runtime.autocast(), _single_left_out():
                        _ = state.model(pair(moved)[0]) if supervised else state.loss(state.model, moved)
            state.runtime.ranks.mean(
                [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
            )
        finally:
            for norm, momentum, tracked in before:
                norm.momentum = momentum
                if norm.num_batches_tracked is not None and tracked is not None:
                    norm.num_batches_tracked.copy_(tracked)


@contextmanager
def _all_alike(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Within the block running statistics are means over the batches since they were reset, all alike.

    That is what ``momentum=None`` does, which reads a counter from the device in each call, and so waits for it.
    """
    calls: Counter[BatchNorm] = Counter()

    def weigh(norm: BatchNorm, inputs: Any) -> None:
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]

    with _before_each(norms, weigh):
        yield


@contextmanager
def _before_each(norms: Iterable[BatchNorm], act: Callable[[BatchNorm, Any], None]) -> Iterator[None]:
    """Within the block `act` gets each of the norms and its inputs before it is called."""
    hooks = [norm.register_forward_pre_hook(act) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _single_left_out() -> Iterator[None]:
    """A batch of one value a channel, which a run that ended before it never came to, is left out."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise


def seconds(state: TrainState, batches: Batches) -> float:
    """How long `estimate_statistics` takes at the end of a run, measured without a trace; 0 where there is none."""
    if not _estimates(state, batches):
        return 0.0
    started = time.perf_counter()
    with untouched([], state.modules):
        estimate_statistics(state, batches)
    return time.perf_counter() - started


def trained(*modules: nn.Module) -> list[BatchNorm]:
    """The batch norms in training mode that keep running statistics."""
    return [norm for norm in batch_norms(modules) if norm.training and norm.running_mean is not None]


def _value(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _few(state: TrainState, batches: Batches, epoch: int, last: bool) -> Iterator[Any]:
    """The first batches of an epoch, until there are enough samples; of several ranks, the parts of this one."""
    ranks = state.runtime.ranks
    most, samples = _count(batches) * (1 if last else SHARE), 0
    for i, batch in enumerate(state.runtime.epoch(batches, epoch), 1):
        (part,) = ranks.parts([batch]) if ranks.world > 1 else [Part(batch, n := samples_in(batch), n)]
        yield part.batch
        samples += float(ranks.sum(torch.tensor(float(part.samples)))) if part.of is None else part.of
        if samples >= SAMPLES or i + 1 > most:
            return


@contextmanager
def batch_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block batch norms in evaluation mode use the statistics of their batch.

    At a large learning rate running means make a good model look broken. They stay in use for a batch of one value a
    channel, which has no variance.
    """
    before: Mapping[Any, tuple[Any, Any]] = {n: (n.running_mean, n.running_var) for n in batch_norms(modules)}

    def choose(norm: BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        many = inputs[0].numel() > inputs[0].shape[1] or over_ranks(norm)
        norm.running_mean, norm.running_var = (None, None) if many else before[norm]

    try:
        with _before_each(before, choose):
            yield
    finally:
        for norm, (mean, variance) in before.items():
            norm.running_mean, norm.running_var = mean, variance

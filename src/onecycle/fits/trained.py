"""What a fit trains: all of a model on its data, or its head alone on the features that a frozen body gives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Subset

from ..data.batches import Batches, DatasetBatches, TensorBatches, first_batch
from ..data.by_number import samples_in_all
from ..data.seeds import derive_seed
from ..data.shards import Part
from ..data.standardise import untransformed
from ..optim.build import build_optimizer
from ..optim.layers import RunOrder, head_of
from ..training import evaluate as evaluation
from ..training.objectives import Supervised, loss_module, pair
from ..training.outputs import Outputs
from ..training.probe import few
from ..training.ranks import Ranks
from ..training.setup import TrainingSetup
from ..training.state import TrainState
from .plan import Rates

# Bytes that the features of all samples may take.
MOST = 2**31


@dataclass(frozen=True)
class Trained:
    """What a fit trains.

    Args:
        state: what is trained.
        train, valid: the batches; None where nothing is held out.
        evaluate: measures the state on `valid`, and keeps what the model gives in `keep`.
        rates: of its optimizer.
        model: what the weights at the end are of; the state's model may be a part of it.
        samples: how many the features are of, where those of all would have taken too long.
        spent: seconds that were spent before, such as on features, which count to the result.
    """

    state: TrainState
    train: Batches
    valid: Batches | None
    evaluate: Callable[..., dict[str, float]]
    rates: Rates
    model: nn.Module
    samples: int | None = None
    spent: float = 0.0


def classifier_of(model: nn.Module) -> str | None:
    """The name of the module that a pretrained model's configuration calls its classifier, where it has one."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    return name if isinstance(name, str) else None


@dataclass(frozen=True)
class HeadAlone:
    """The head of a model, which can be trained on what its body gives for each sample.

    Args:
        head: the module.
        state, setup: of the whole model.
    """

    head: nn.Module
    state: TrainState
    setup: TrainingSetup

    @classmethod
    def of(cls, state: TrainState, setup: TrainingSetup, order: RunOrder) -> Self | str:
        """That of the model of `state`, whose modules are run in this `order`; or in words why it has none."""
        head, loss = head_of(state.model, order, classifier_of(state.model)), state.loss
        of_loss = loss_module(loss)
        parts = [_samples(batches) for batches in (setup.train, setup.valid) if batches is not None]
        if head is None:
            return "its outputs are not those of one module, called once"
        if not isinstance(loss, Supervised) or (of_loss is not None and any(True for _ in of_loss.parameters())):
            return "the loss is not of outputs and targets alone"
        if not isinstance(setup.chosen.optimizer, str):
            return "the optimizer is one of your own"
        if setup.options.shard:
            return "the model is in shards"
        if any(part is None for part in parts):
            return "the samples come in batches of your own"
        made = cls(head, state, setup)
        return state.runtime.ranks.broadcast(made._unfit(parts)) or made

    def _unfit(self, parts: Sequence[Any]) -> str:
        """Why features of these samples cannot be computed once, in words; "" where they can."""
        setup, model, head = self.setup, self.state.model, self.head
        given = _given_alone(model, head, self.state.runtime.move(few(first_batch(setup.train))), self.state)
        if given is None:
            return "its head does not take one tensor alone"
        samples = sum(len(part[0] if isinstance(part, tuple) else part) for part in parts)
        if (size := given.nbytes // len(given) * samples) > MOST:
            return f"the features would take {size / 2**30:.1f} GB"
        inside = set(head.modules())
        held = {id(tensor) for module in inside for tensor in _tensors(module)}
        if any(id(tensor) in held for module in model.modules() if module not in inside for tensor in _tensors(module)):
            return "its head shares weights with what comes before it"
        for data in parts:
            if not isinstance(data, tuple) and not _reads_alike(setup.batching.batches(data, training=False)):
                return "the samples are others each time that they are read"
        return ""

    @property
    def held(self) -> list[nn.Parameter]:
        """Its parameters."""
        return list(self.head.parameters())

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(p.numel() for p in self.held)

    @property
    def left_out(self) -> list[str]:
        """What there would be in a training of the whole model, and is not for features that are computed once."""
        inside, batching = set(self.head.modules()), self.setup.batching
        before = [m for m in self.state.model.modules() if isinstance(m, _DropoutNd) and m not in inside and m.p]
        augmented = getattr(batching.augment, "augment", None) is not None
        return ["augmentation"] * augmented + ["the dropout before it"] * bool(before)

    def trained(self, seconds: float | None = None, samples: int | None = None) -> Trained:
        """What a fit of it trains, the features computed now.

        The body is in evaluation mode, and the samples are as they are measured, without augmentation. The head has an
        optimizer of its own, of the kind of the whole model's.

        Args:
            seconds: for the features, where they are limited: as many samples as fit are drawn at random.
            samples: so many are drawn, as they were before.
        """
        setup, state, options = self.setup, self.state, self.setup.options
        batching = replace(setup.batching, normalise=None, augment=None)
        if seconds is not None and setup.valid is not None:
            both = [samples_in_all(batches) or 0 for batches in (setup.train, setup.valid)]
            seconds *= both[0] / max(sum(both), 1)
        known = self.features(setup.train, seconds, samples)
        train = batching.batches(known, training=True)
        valid = None if setup.valid is None else batching.batches(self.features(setup.valid), training=False)
        built, _ = build_optimizer(
            setup.chosen.optimizer, self.head, momentum=cast(float | None, options.momentum),
            weight_decay=options.weight_decay,
        )  # fmt: skip
        alone = TrainState(
            self.head, built, state.loss, state.runtime, options.seed, options.accumulate, options.clip,
            average=options.average, rescue=options.rescue,
        )  # fmt: skip
        rates = Rates.of(built, lambda: [self.held], setup.chosen.optimizer, setup.samples_per_update)

        def evaluate(keep: Outputs | None = None) -> dict[str, float]:
            held_out = cast(Batches, valid)
            if keep is not None:
                keep.begin(samples_in_all(held_out))
            with alone.averaged():
                return evaluation.evaluate(
                    self.head, alone.runtime.epoch(held_out, 0), alone.loss, alone.runtime, keep
                )  # fmt: skip

        drawn = None if len(known[0]) == samples_in_all(setup.train) else len(known[0])
        return Trained(alone, train, valid, evaluate, rates, self.head, drawn)

    def features(
        self, batches: Batches, seconds: float | None = None, samples: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the head is given for each sample, and the targets: computed up to there, in evaluation.

        They are in order; with `seconds` or `samples` in one drawn from the seed, as many as that, of at least a batch
        of training. Of several ranks each computes its part of each batch, and has those of the others.

        Raises:
            FeaturesDiffer: in their shapes from batch to batch, or they take too much memory.
        """
        data, runtime = _samples(batches), self.state.runtime
        if seconds is not None or samples is not None:
            data = _drawn(data, self.state.seed)
        known, until = self.setup.batching.batches(data, training=False), time.perf_counter() + (seconds or 0.0)
        least = self.setup.batching.batch_size
        reached, made, size = list[Any](), list[tuple[Tensor, Tensor]](), 0

        def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            reached[:] = inputs
            raise _Reached

        hook = self.head.register_forward_pre_hook(take)
        try:
            with evaluation.evaluating(runtime, self.state.model):
                for batch in runtime.epoch(known, 0):
                    (part,) = runtime.ranks.parts([runtime.move(batch)], least=0)
                    inputs, target = pair(part.batch)
                    with suppress(_Reached), runtime.autocast():
                        self.state.model(inputs)
                    for one in _of_all(part, (reached[0], target), runtime.ranks):
                        made.append(one)
                        size += one[0].nbytes
                        if one[0].shape[1:] != made[0][0].shape[1:] or len(one[0]) != len(one[1]):
                            raise FeaturesDiffer("the features of batches differ in their shapes")
                        if size > MOST:
                            raise FeaturesDiffer(f"the features would take more than {MOST / 2**30:.0f} GB")
                    there = sum(len(features) for features, _ in made)
                    late = seconds is not None and runtime.ranks.broadcast(time.perf_counter() > until)
                    if there >= (samples or (least if late else math.inf)):
                        break
        finally:
            hook.remove()
        features, targets = (runtime.move(torch.cat(tensors)) for tensors in zip(*made, strict=True))
        return features[:samples], targets[:samples]


def _drawn(samples: Any, seed: int) -> Any:
    """Samples in an order drawn from the seed."""
    n = len(samples[0] if isinstance(samples, tuple) else samples)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, "features")))
    return tuple(tensor[order] for tensor in samples) if isinstance(samples, tuple) else Subset(samples, order.tolist())


def _of_all(part: Part, made: tuple[Tensor, Tensor], ranks: Ranks) -> list[tuple[Tensor, Tensor]]:
    """What the ranks made of their parts of a batch, in the order of its samples; of several ranks on the CPU."""
    if ranks.world == 1:
        return [made]
    mine = (made[0].cpu(), made[1].cpu()) if ranks.counts(part) else None
    return [one for one in ranks.gather(mine) if one is not None]


class FeaturesDiffer(Exception):
    """Features cannot be kept; in words why."""


class _Reached(Exception):
    """The head was reached."""


def _given_alone(model: nn.Module, head: nn.Module, batch: Any, state: TrainState) -> Tensor | None:
    """What `head` is given for a batch, where the model's outputs are its outputs for one tensor, and nothing else."""
    calls = list[tuple[Any, Any, Any]]()
    hook = head.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)  # type: ignore[arg-type]
    try:
        with evaluation.evaluating(state.runtime, model), state.runtime.autocast():
            outputs = model(pair(batch)[0])
            hook.remove()
            ((inputs, keywords, output),) = calls
            (given,) = inputs
            alone = output is outputs and not keywords and isinstance(given, Tensor) and len(given) == len(outputs)
            return given if alone and torch.equal(head(given), outputs) else None
    except Exception:  # of several calls or inputs; or it is for the training to meet
        return None
    finally:
        hook.remove()


def _tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module itself."""
    return [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]


def _reads_alike(batches: Batches) -> bool:
    """Whether the first samples are the same in two epochs, in which they are read in their order."""
    first, again = (next(iter(batches.epoch(epoch))) for epoch in (0, 1))
    return all(torch.equal(a, b) for a, b in zip(few(first), few(again), strict=True))


def _samples(batches: Batches) -> Any:
    """The samples of batches that can be read in their order; None where they come in batches of somebody's own."""
    plain = untransformed(batches)
    if isinstance(plain, TensorBatches):
        return plain.tensors if len(plain.tensors) == 2 else None
    return plain.dataset if isinstance(plain, DatasetBatches) else None

"""What comes before a training: data and loss in the form that it takes, tried together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from ..checks import is_whole, unwrapped
from ..data.arrays import in_memory
from ..data.batch_settings import BATCH_SIZE, BatchSettings, fitting_batch_size, left_out, samples_listed, samples_of
from ..data.batches import Batches, OneShotBatches, first_batch, length_of, targets_in_memory
from ..data.hub import hub_kind, named_splits
from ..data.label_sets import has_label_sets
from ..data.loaders import is_of_a_rank
from ..data.shards import LEAST, can_be_cut, fingerprint, samples_in
from ..data.splits import Data
from ..data.standardise import InputTransform, scale_of, scaling_note, untransformed
from ..data.summary import data_summary
from ..errors import ConfigError, DataError
from ..models.tabular import TableFront
from ..optim.choice import AUTO, OptimizerChoice, choose
from ..text import count, listed
from . import balance, norms, probe
from . import objectives as tasks
from .loop import samples_per_update
from .losses import compares_numbers, criterion_of
from .losses import unwrapped as loss_within
from .metrics import can_be_combined
from .objectives import Loss, pair
from .options import TrainingOptions
from .runtime import Runtime
from .state import TrainState
from .summary import model_summary
from .units import Units

LABEL_METRICS = ("accuracy", "f1")  # of several labels a sample: most are 0, so that accuracy alone says little


class TrainingSetup:
    """The data and the loss of a training: `take_data`, then `take_loss`, then `lay_out`.

    Attributes:
        train, valid: batches.
        batching: how other data are batched alike.
        source: the data of `onecycle.load`, where they are such.
        held_out: what `valid` was made of.
        measured: the names of what an evaluation measures.
        chosen: the optimizer.

    `note` is told what was decided, in words.
    """

    train: Batches
    valid: Batches | None
    batching: BatchSettings
    chosen: OptimizerChoice

    def __init__(self, model: nn.Module, options: TrainingOptions, runtime: Runtime, note: Callable[..., None]):
        self.model, self.options, self.runtime, self._note = model, options, runtime, note
        self.source: Data | None = None
        self.held_out: Any = None
        self.measured: set[str] = set()
        self._units_known = False  # by the model, which was trained in them
        self._positions: dict[nn.Parameter, float] = {}  # of a sample, by weight, where a batch was tried

    def take_data(self, train: Any, valid: Any, loss: Any) -> None:
        statistics, augment = None, self.options.augment
        if hasattr(train, "train") and hasattr(train, "valid"):
            self.source = train
            self._note(*train.notes)
            augment = train.augment if augment is None else augment
            statistics = (train.mean, train.std)
            self._note(*_codes_as_numbers(self.model, train), *_plain_numbers(self.model))
            train, valid = train.train, train.valid if valid is None else valid
        if loss is None or criterion_of(loss) is not None:
            train, valid = samples_listed(train), samples_listed(valid)
        if hub_kind(train) == "splits":
            train, of_its_own, notes = named_splits(train)
            valid = of_its_own if valid is None else valid
            self._note(*notes)
        given, samples = self.options.batch_size, samples_of(train)
        settings = BatchSettings(
            fitting_batch_size(samples) if given is None else given, self.options.seed, self.options.workers,
            self.runtime.device, evaluated=2 * BATCH_SIZE if given is None else None,
        )  # fmt: skip
        self.batching, notes = settings.with_transforms(train, statistics, augment)
        self._note(*notes)
        self._scale_inputs(train, valid, loss)
        self.train = self.batching.batches(train, training=True)
        self._first = probe.FirstBatch(self.train)
        self._look_for_samples()
        if given is None and samples and settings.batch_size < BATCH_SIZE:
            self._note(f"batch_size {settings.batch_size}, for {count(samples, 'training sample')}")
        if unused := left_out(self.train):
            self._note(
                f"each epoch leaves out {unused} of {count(samples or 0, 'training sample')}, others every time: the "
                "batches are of one size"
            )
        self.held_out = valid
        self.valid = None if valid is None else self.batching.batches(valid, training=False)
        if isinstance(untransformed(self.valid), OneShotBatches):
            raise DataError(
                f"validation data are read again and again, and {type(valid).__name__} can be gone through only once: "
                "give list(valid), or an iterable that begins anew"
            )

    def _look_for_samples(self) -> None:
        """Let batches of several ranks not be cut where the first one's lengths say that it cannot be."""
        ranks = self.runtime.ranks
        if ranks.world > 1 and not is_of_a_rank(self.train):
            first = self._first()
            cuts = can_be_cut(first, samples_in(first))
            self.runtime = replace(self.runtime, ranks=replace(ranks, cuts=cuts))

    def check_ranks(self) -> None:
        """Check that all ranks have the same data, and batches that can be shared out; say where they are not.

        Raises:
            ConfigError: other data on some rank, or fewer samples in a batch than two for each rank.
        """
        ranks = self.runtime.ranks
        if ranks.world == 1:
            return
        facts: dict[str, Any] = {"batches": length_of(self.train)}
        facts |= {"valid": None if self.valid is None else length_of(self.valid)}
        ranks.check_same(facts)
        shared = not is_of_a_rank(self.train)
        first = self._first() if shared else None
        facts = {"the first batch": fingerprint(first)}
        if self.valid is not None and not is_of_a_rank(self.valid):
            facts["the first validation batch"] = fingerprint(first_batch(self.valid))
        try:
            ranks.check_same(facts)
        except ConfigError as error:
            raise ConfigError(
                f"{error}: each takes its part of the same batches. Data that were divided by hand come by a "
                "DataLoader with a DistributedSampler, or by datasets.distributed.split_dataset_by_node"
            ) from error
        if not shared:
            return
        n = samples_in(first)
        if not ranks.cuts:
            self._note(
                "batches: their tensors differ in their first lengths, so each rank computes all of each batch; give "
                "tensors whose first dimension is that of samples"
            )
        elif n < LEAST * ranks.world:
            raise ConfigError(
                f"a batch of {count(n, 'sample')} has fewer than {LEAST} for each of {ranks.world} ranks: give a "
                f"batch_size of at least {LEAST * ranks.world}, or start fewer ranks"
            )

    def _scale_inputs(self, train: Any, valid: Any, loss: Any) -> None:
        """Bring inputs that lie in memory to the model's type, where it takes no other, and to standard units."""
        inputs, targets = in_memory(train)
        if inputs is None or self.batching.normalise is not None:
            return
        dtype = probe.dtype_for(self.model, inputs, self.runtime)
        supervised = loss is None or criterion_of(loss) is not None
        measured = scale = None
        if self.options.standardise and dtype.is_floating_point and supervised and not _has_table_front(self.model):
            measured = scale_of(inputs, "inputs")
        if targets is not None and targets.is_floating_point() and (measured or scale_of(targets, "targets")):
            self._units_known = probe.predicts_already(self.model, inputs, targets, self.runtime)
        if measured is not None and not self._units_known:
            scale, which = measured
            how = "evaluate and predict do it too, while model(x) by itself takes standardised inputs"
            self._note(scaling_note(which, how))
        held_out = None if valid is None else in_memory(valid)[0]
        other = next((x.dtype for x in (inputs, held_out) if x is not None and x.dtype != dtype), dtype)
        if other != dtype:
            self._note(f"inputs: {str(other)[6:]} becomes {str(dtype)[6:]}, the model's type")
        if scale is not None or other != dtype:
            transform = InputTransform(dtype, scale)
            self.batching = replace(self.batching, normalise=transform, augment=transform)

    def _scale_targets(self, task: Loss) -> Loss:
        """The loss of a regression whose targets are unscaled, in standardised units."""
        known = getattr(self.train, "tensors", ())[1:]
        comparing = isinstance(task, tasks.Supervised) and compares_numbers(task.criterion)
        if self._units_known or not (self.options.standardise and comparing and len(known) == 1):
            return task
        measured = scale_of(known[0], "targets")
        if measured is None:
            return task
        how = "the loss is in these units, metrics and predictions in yours, while model(x) by itself gives these"
        self._note(scaling_note(measured[1], how))
        return replace(task, scale=measured[0])  # type: ignore[type-var]

    def take_loss(self, loss: Callable[..., Any] | None, metrics: tasks.Metrics) -> Loss:
        """The loss, tried on a few samples before anything is trained."""
        smoothing, seen = self.options.smoothing, cache(self._seen)
        if loss is None:
            metrics = LABEL_METRICS if metrics is None and self._label_sets else metrics
            task, note = tasks.pick_task(seen(), metrics, smoothing)
            notes = [note]
        elif smoothing:
            raise ConfigError("smoothing is for the default loss: smooth the labels in the loss that you give")
        else:
            task, notes = tasks.given_loss(loss, metrics, seen)
        task, more = self._balanced(task, seen() if loss is None else None, measured=metrics is not None)
        if isinstance(task, tasks.Supervised):
            more = [*tasks.activated_twice(self.model, task, seen().outputs), *more]
        self._note(*notes, *more)
        task = self._scale_targets(task)
        of_loss = tasks.loss_module(task)
        if of_loss is not None:
            of_loss.to(self.runtime.device)
        if isinstance(task, tasks.Supervised) or probe.is_unfinished(self.model):
            self.measured = self._checked(task, self._first(probe.FEW))
            self._check_validation(task)
        elif self.valid is not None or isinstance(task, tasks.MeasuredLoss):
            self.measured = self._checked(task, self._first() if self.valid is None else first_batch(self.valid))
        meters = getattr(task, "meters", {}) if self.runtime.ranks.world > 1 else {}
        if gathered := [name for name, meter in meters.items() if not can_be_combined(meter)]:
            self._note(
                f"metrics: what {listed(gathered)} of the ranks measured cannot be put together, so each rank gets all "
                "outputs of an evaluation; give it a method combine(meters), or let it be of torchmetrics"
            )
        one = probe.batch_of_one(self.train, self._first(2))
        if one is not None:
            probe.check_single(self.model, task, self.runtime.move(one), self.runtime)
        return task

    def _check_validation(self, task: Loss) -> None:
        """Try a few validation samples, rather than at the end of the first epoch."""
        if self.valid is None or not isinstance(task, tasks.Supervised):
            return
        first = first_batch(self.valid)
        single = probe.batch_of_one(self.valid, first)  # which a norm without running statistics does not take
        try:
            for batch in (first,) if single is None else (first, single):
                samples = probe.few(self.runtime.move(batch))
                probe.check(self.model, task.counting(), samples, self.runtime, finite=False)
        except DataError as error:
            raise DataError(f"validation data: {error}") from error

    def _checked(self, task: Loss, batch: Any) -> set[str]:
        """The names of what is measured on a batch; on the way, what positions weights are applied to is counted."""
        batch = self.runtime.move(batch)
        if self.options.optimizer != AUTO:
            return probe.check(self.model, task, batch, self.runtime)
        if probe.is_unfinished(self.model):
            probe.check(self.model, task, batch, self.runtime)  # which gives lazy layers their weights
        with probe.Positions(self.model) as counted:
            measured = probe.check(self.model, task, batch, self.runtime)
        self._positions = counted.of_a_sample(batch)
        return measured

    def choose_optimizer(self) -> OptimizerChoice:
        """What the option comes to, after `take_loss`: "auto" goes by the model and the batches."""
        self.chosen = OptimizerChoice("muon" if self.options.optimizer == AUTO else self.options.optimizer)
        if self.options.optimizer == AUTO:
            samples = self.samples_per_update or samples_in(self._first()) * self.options.accumulate
            once = dict.fromkeys(self.model.parameters(), 1.0)
            if not self._positions and choose(self.model, once, samples) != self.chosen:
                few = self.runtime.move(self._first(probe.FEW))
                self._positions = probe.positions_of(self.model, few, self.runtime)
            self.chosen = choose(self.model, self._positions, samples)
        self._first.forget()
        return self.chosen

    def lay_out(self, task: Loss) -> Runtime:
        """The runtime with convolutions in channels_last, where the model and its loss can be trained so."""
        if self.options.shard or not any(isinstance(module, nn.Conv2d) for module in self.model.modules()):
            return self.runtime
        runtime = replace(self.runtime, channels_last=True)
        runtime.place(self.model)
        if probe.trains(self.model, task, runtime.move(self._first(probe.FEW)), runtime):
            return runtime
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.runtime

    @property
    def batch_size(self) -> int | None:
        """The samples of a batch, None where the data do not say so by a whole number."""
        batches = untransformed(self.train)
        said = getattr(getattr(batches, "iterable", batches), "batch_size", None)
        return int(unwrapped(said)) if is_whole(said) else None

    @property
    def samples_per_update(self) -> int | None:
        """The samples of all batches of an update, None where the data do not say."""
        return samples_per_update(self.batch_size, self.options.accumulate, length_of(self.train))

    def resolved(self, state: TrainState) -> dict[str, Any]:
        """What the options came to in `state`, as plain data: momentum, weight decay, smoothing, device, ..."""
        groups, loss = state.optimizer.param_groups, state.loss
        first = next((group for group in groups if group.get("momentum") or "betas" in group), groups[0])
        momentum = first.get("momentum") or (first["betas"][0] if "betas" in first else 0.0)
        name, left = self.chosen.optimizer, len(self.chosen.left)
        frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        return {
            "optimizer": name if isinstance(name, str) else type(state.optimizer).__name__,
            **({"matrices_by_adamw": left} if left else {}),
            "momentum": float(momentum),
            "weight_decay": max(float(group.get("weight_decay", 0.0)) for group in groups),
            "batch_size": self.batch_size,
            "accumulate": state.accumulate,
            "clip": state.clip,
            "loss": getattr(loss_within(getattr(loss, "criterion", loss)), "__name__", type(loss).__name__),
            "class_weights": self.options.class_weights,
            "smoothing": getattr(loss, "smoothing", 0.0),
            "model": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **({"frozen": frozen} if frozen else {}),
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            **({"shards": self.runtime.ranks.world} if self.options.shard else {}),
            "norm_statistics": self.options.norm_statistics if norms.trained(self.model) else None,
            **({"scales": scales} if (scales := self._scales(loss)) else {}),
        }

    def summary(self) -> dict[str, Any]:
        """What the model and the data are, as plain data: see `model_summary` and `data_summary`."""
        batch = self.runtime.move(self._first(probe.FEW))
        self._first.forget()
        data = None if self.source is None else data_summary(self.source)
        return {"model": model_summary(self.model, batch, self.runtime), "data": data}

    def _scales(self, loss: Loss) -> dict[str, Any]:
        """The scales of inputs and targets, and the type that inputs are cast to, as plain data."""
        units, transform = Units.of(self.batching, loss), self.batching.normalise
        known = {"inputs": units.inputs, "targets": units.targets}
        dtype = {"dtype": str(transform.dtype)[6:]} if isinstance(transform, InputTransform) else {}
        return {**{name: scale.to_dict() for name, scale in known.items() if scale is not None}, **dtype}

    @property
    def class_names(self) -> Sequence[str] | None:
        return None if self.source is None else self.source.classes

    def _balanced(self, task: Loss, seen: tasks.Seen | None, *, measured: bool) -> tuple[Loss, list[str]]:
        """The loss with the weights that its classes are to have, uneven ones measured in balance too; and notes.

        The default loss is one for what was `seen`; another has weights of its own.
        """
        targets = balance.targets_of(self.train)
        counts, notes = balance.class_counts(task, targets), []
        if self.options.class_weights:
            if seen is None:
                raise ConfigError("class_weights is for the default loss: give your own the weights of its classes")
            outputs, narrow = seen.outputs, self.runtime.precision != "fp32"  # whose losses are in float32
            wide = torch.promote_types(outputs.dtype, torch.float32) if narrow else outputs.dtype
            task, note = balance.balanced(task, counts, targets, outputs.to(wide))
            notes.append(note)
        uneven = None
        if counts is not None and targets is not None and balance.one_a_sample(targets):
            uneven = balance.uneven_note(counts, self.class_names)
        if uneven:
            notes.append(uneven if self.options.class_weights else f'{uneven}; class_weights="balanced" evens them out')
        return (balance.with_balanced_accuracy(task) if uneven and not measured else task), notes

    def _seen(self) -> tasks.Seen:
        """What the model gives for a few samples, and the targets at hand."""
        inputs, targets = pair(self.runtime.move(self._first(probe.FEW)))
        outputs = probe.outputs_of(self.model, inputs, self.runtime)
        of_train = targets_in_memory(self.train)
        of_valid = () if self.valid is None else targets_in_memory(self.valid)
        known = [*(of_train or [pair(self.runtime.move(self._first()))[1]]), *of_valid]
        return tasks.Seen(
            outputs,
            targets,
            known,
            complete=bool(of_train and (of_valid or self.valid is None)),
            label_sets=self._label_sets,
        )

    @property
    def _label_sets(self) -> bool:
        """Whether a sample may have several of the classes."""
        return self.source is not None and has_label_sets(self.source.train.targets, self.source.classes)


def _has_table_front(model: nn.Module) -> bool:
    return any(isinstance(module, TableFront) for module in model.modules())


def _plain_numbers(model: nn.Module) -> list[str]:
    """A note where a table has too many numbers for each to be binned as well."""
    fronts = [module for module in model.modules() if isinstance(module, TableFront) and not module.binned]
    return [f"{count(front.numbers, 'number')} a row are too many to be binned: taken as they are" for front in fronts]


def _codes_as_numbers(model: nn.Module, data: Any) -> list[str]:
    """A note where a model takes the codes of a table's categories for numbers."""
    categories = getattr(getattr(data, "columns", None), "categories", ())
    if not categories or _has_table_front(model):
        return []
    return [
        f"the model takes the codes of {count(len(categories), 'category')} for numbers: build it with "
        "build_model(..., columns=data.columns) to embed them"
    ]

"""The training step of a Transformers Trainer, for runs that leave the Trainer as it is."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import ConfigError
from ..optim.driver import inner
from .common import host

LEAST = "5.0"  # of Transformers
# Held-out samples that a pilot or a sweep is judged on, at most.
SAMPLES = 256


@dataclass(frozen=True)
class TrainerStep:
    """What a `Trainer` trains with, of which nothing is kept in it.

    Args:
        trainer: a copy, whose attributes may change; model, data and accelerator are those of the original.
        batches: of the updates, in an order that follows from the generators.
        updates: of the whole training, by the Trainer's own arithmetic.
        epochs: of the whole training.
        held_out: batches of the evaluation data.
        seed: of the order and of what the step draws.
    """

    trainer: Any
    batches: UpdateGroups
    updates: int
    epochs: float
    held_out: list[Any]
    seed: int

    @classmethod
    def of(cls, trainer: Any, seed: int | None = None) -> TrainerStep:
        """The pieces of `trainer`; what is drawn for them follows from `seed`, or from that of its arguments.

        Raises:
            ConfigError: a trainer of several processes or devices.
            MissingDependency: Transformers is not installed, or too old.
        """
        host("transformers", "transformers", LEAST)
        args = trainer.args
        if args.world_size > 1 or args.n_gpu > 1 or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise ConfigError(
                "a search and a range test of a Trainer are for one process on one device: make them with such a one, "
                "and give with_policy the lr_max that came of it"
            )
        trainer_copy = copy.copy(trainer)
        trainer_copy.accelerator = _Unprepared(trainer.accelerator)
        trainer_copy.state, trainer_copy.log = copy.deepcopy(trainer.state), lambda *args, **kwargs: None
        trainer_copy.autocast_smart_context_manager = lambda cache_enabled=True: trainer.accelerator.autocast()
        vars(trainer_copy).pop("_eval_dataloaders", None)  # a mapping of both, and of all the data
        trainer_copy.optimizer = None if trainer.optimizer is None else inner(trainer.optimizer)
        drawn = int(args.seed if seed is None else seed)
        with _seeded(drawn):
            trainer_copy.create_optimizer()
            loader = trainer_copy.get_train_dataloader()
            _, per_epoch, *_, updates = trainer_copy.set_initial_training_values(args, loader)
            return cls(
                trainer_copy,
                UpdateGroups(trainer_copy, loader),
                updates,
                updates / per_epoch,
                list(_held_out(trainer_copy)),
                drawn,
            )

    def __call__(self, group: tuple[list[Any], Any]) -> Tensor:
        """Make one update as the Trainer does, of the batches that it accumulates; their mean loss."""
        batches, items = group
        trainer, scaler = self.trainer, self.trainer.accelerator.scaler
        model, optimizer, most = trainer.model, trainer.optimizer, trainer.args.max_grad_norm
        trainer.current_gradient_accumulation_steps = len(batches)
        loss = torch.stack([trainer.training_step(model, _copied(batch), items) for batch in batches]).sum()
        if scaler is not None:
            scaler.unscale_(optimizer)
        if most > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        model.zero_grad()
        return loss

    def evaluate(self) -> dict[str, float]:
        """The mean loss of the held-out samples, as the Trainer evaluates it."""
        trainer, sizes = self.trainer, [_size(batch) for batch in self.held_out]
        trainer.model.eval()
        losses = [trainer.prediction_step(trainer.model, _copied(batch), True)[0] for batch in self.held_out]
        if any(loss is None for loss in losses):
            raise ConfigError("the evaluation data of the trainer bring no loss: its eval_dataset needs the labels too")
        return {"loss": math.fsum(float(loss) * n for loss, n in zip(losses, sizes, strict=True)) / sum(sizes)}

    @property
    def learning_rate(self) -> float:
        """The optimizer's, where no scheduler has changed it yet."""
        return learning_rate(self.trainer.optimizer)

    @property
    def parts(self) -> dict[str, Any]:
        """What `onecycle.search` and `onecycle.range_test` take."""
        scaler = self.trainer.accelerator.scaler
        return {
            "step": self,
            "optimizer": self.trainer.optimizer,
            "batches": self.batches,
            "evaluate": self.evaluate if self.held_out else None,
            "model": self.trainer.model,
            "keep": [] if scaler is None else [scaler],
            "seed": self.seed,
        }


@dataclass(frozen=True)
class UpdateGroups:
    """The batches of each update of a Trainer, together, with the number of items in them."""

    trainer: Any
    loader: Any

    def __iter__(self) -> Iterator[tuple[list[Any], Any]]:
        args, batches = self.trainer.args, iter(self.loader)
        while True:
            group, items = self.trainer.get_batch_samples(batches, args.gradient_accumulation_steps, args.device)
            if not group:
                return
            yield group, items

    def __len__(self) -> int:
        return math.ceil(len(self.loader) / self.trainer.args.gradient_accumulation_steps)


def learning_rate(optimizer: Optimizer) -> float:
    """The largest that its groups were made with, whatever a scheduler has made of it since."""
    return max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)


class _Unprepared:
    """An accelerator that leaves model, optimizer and loaders as they are, and keeps no note of them."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def prepare(self, *objects: Any, **kwargs: Any) -> Any:
        return objects[0] if len(objects) == 1 else objects


def _held_out(trainer: Any) -> Iterator[Any]:
    """Batches of the evaluation data, of several data sets the same number of samples of each."""
    given = trainer.eval_dataset
    datasets = [] if given is None else list(given.values()) if isinstance(given, dict) else [given]
    for dataset in datasets:
        most, seen = max(1, SAMPLES // len(datasets)), 0
        for batch in trainer.get_eval_dataloader(_spaced(dataset, most)):
            yield batch
            seen += _size(batch)
            if seen >= most:
                break


def _spaced(dataset: Any, most: int) -> Any:
    """So many samples at most, evenly spaced, as data may be sorted by class; all of a stream."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return dataset
    index = torch.linspace(0, len(dataset) - 1, min(most, len(dataset))).long().tolist()
    return dataset.select(index) if hasattr(dataset, "select") else torch.utils.data.Subset(dataset, index)


def _size(batch: Any) -> int:
    return host("transformers.trainer_pt_utils", "transformers", LEAST).find_batch_size(batch) or 1


def _copied(batch: Any) -> Any:
    """Without what a loss takes out of it."""
    return copy.copy(batch) if isinstance(batch, Mapping) else batch


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws of the global generators follow from `seed`, and go on afterwards as if there had been none."""
    numpy = sys.modules.get("numpy")
    python, numpy_state = random.getstate(), None if numpy is None else numpy.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy is not None:
                numpy.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(numpy_state)

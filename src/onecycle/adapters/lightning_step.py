"""A LightningModule's step as a function, for tests that leave no trace: a copy of it in a Trainer of its own."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ..errors import ConfigError

Made = TypeVar("Made")

HELD_OUT = 512  # samples of the validation data that a measurement takes, at most


class LightningStep:
    """A module in the training that a Trainer is about to begin, for `onecycle.range_test` and `onecycle.search`."""

    def __init__(self, work: Callable[..., Any]):
        self.work, self.done = work, list[Any]()
        self.returned: list[Tensor] = []  # by training_step for this batch
        self.backward: list[Tensor] = []  # what went backward for it
        self.measured: dict[str, list[float]] = {}  # returned by validation_step

    def step(self, batch: Any) -> float:
        """Have Lightning's own loop train on `batch`; what training_step returned, else the sum of what went backward.

        Raises:
            ConfigError: neither is known.
        """
        self.returned.clear()
        self.backward.clear()
        loop, whole = self.trainer.fit_loop.epoch_loop, self.trainer.accumulate_grad_batches
        ready, batches = loop.batch_progress.current.ready, self.trainer.num_training_batches
        if ready >= batches or (ready % whole == 0 and ready + whole > batches):
            loop.batch_progress.reset_on_run()  # an epoch, but for the batches that would make a smaller update
        loop.advance(_Fetched(batch))
        losses = self.returned or self.backward
        if not losses:
            raise ConfigError("training_step returned no loss, and nothing went backward: return the loss of the batch")
        return float(sum(losses))

    def evaluate(self) -> dict[str, float]:
        """What validation_step logs or returns of the held-out batches: the loss and accuracy of the shortest name."""
        self.measured.clear()
        self.trainer.validating = True
        try:
            logged = self.trainer.fit_loop.epoch_loop.val_loop.run()
        finally:
            self.trainer.training = True
        values = {name: sum(some) / len(some) for name, some in self.measured.items()}
        values |= {name: float(value) for each in logged for name, value in each.items()}
        words = {"loss": "loss", "accuracy": "acc"}
        names = {kind: [name for name in values if word in name.lower()] for kind, word in words.items()}
        return {kind: values[min(some, key=len)] for kind, some in names.items() if some}

    def parts(self) -> dict[str, Any]:
        """The arguments of `onecycle.range_test` and `onecycle.search`."""
        evaluated = self.trainer.enable_validation and self.evaluate()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return {
            "step": self.step,
            "optimizer": self.trainer.optimizers,
            "batches": self.trainer.fit_loop._combined_loader.flattened[0].loader,
            "evaluate": self.evaluate if evaluated else None,
            "model": self.trainer.lightning_module,
            "keep": [] if scaler is None else [scaler],
        }

    # Hooks of a callback

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Do the work in place of the training, of which the module sees the beginning and no end."""
        self.trainer = trainer
        for config in trainer.lr_scheduler_configs:
            config.scheduler.step = _nothing
            getattr(config.scheduler, "detach", _nothing)()
        for hook in ("on_train_start", "on_train_epoch_start"):
            import_module(f"{_root(trainer)}.trainer.call")._call_lightning_module_hook(trainer, hook)
        try:
            self.done.append(self.work(**self.parts()))
        except BaseException as error:  # Lightning ends the process on some
            self.done.append(error)
        raise _Done

    def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
        """Note what goes backward."""
        self.backward.append(loss.detach())

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note what training_step returned, which comes divided by the batches that are accumulated."""
        if (loss := _numbers(outputs).get("loss")) is not None:
            self.returned.append(loss * trainer.accumulate_grad_batches)

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *batch: Any) -> None:
        """Note what validation_step returned."""
        for name, number in _numbers(outputs).items():
            self.measured.setdefault(name, []).append(float(number))


class _Done(Exception):
    """Ends a training before its first batch."""


def run_apart(trainer: Any, module: Any, datamodule: Any, train: Any, valid: Any, work: Callable[..., Made]) -> Made:
    """Do `work(**parts)` with a copy of `module` that a Trainer like `trainer` is about to train; throw both away.

    Of a datamodule the copy is shallow: its data are the same, its attributes its own.

    Raises:
        ConfigError: several loaders, or a module that cannot be copied.
    """
    lightning, source = import_module(_root(trainer)), copy.copy(datamodule)
    try:
        module = copy.deepcopy(getattr(module, "_orig_mod", module))  # of a compiled one
    except Exception as error:
        raise ConfigError(f"the test trains a copy of the module, which cannot be made: {error}") from error
    overridden = import_module(f"{_root(trainer)}.utilities.model_helpers").is_overridden
    at = module if source is None else source
    for name, given, kind in (("train_dataloader", train, _Unread), ("val_dataloader", valid, _HeldOut)):
        if given is not None or overridden(name, at):
            load = getattr(at, name) if given is None else partial(_itself, given)
            setattr(at, name, partial(_wrapped, kind, load, name))
    step, callback = LightningStep(work), lightning.Callback()
    for name in vars(LightningStep):
        if name.startswith("on_"):
            setattr(callback, name, getattr(step, name))
    with _unseen(trainer), suppress(_Done):
        _trainer_like(trainer, lightning, callback).fit(module, datamodule=source)
    if not step.done:
        raise ConfigError(
            f"the Trainer trains nothing: max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, "
            f"limit_train_batches={trainer.limit_train_batches}"
        )
    if isinstance(step.done[0], BaseException):
        raise step.done[0]
    return step.done[0]


def _root(trainer: Any) -> str:
    """The package that a Trainer, or a class made of it, is from."""
    return next(c.__module__ for c in type(trainer).__mro__ if c.__name__ == "Trainer").partition(".trainer")[0]


def _trainer_like(trainer: Any, lightning: Any, callback: Any) -> Any:
    """A Trainer of one process that makes updates as `trainer` does, and writes nothing."""
    device = trainer.strategy.root_device
    strategy = import_module(f"{lightning.__name__}.strategies").SingleDeviceStrategy(device)
    as_there = ("max_steps", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
    timed = any(hasattr(callback, "time_remaining") for callback in trainer.callbacks)
    return lightning.Trainer(
        accelerator=trainer.accelerator,
        strategy=strategy,
        devices=1 if device.index is None else [device.index],
        plugins=[copy.deepcopy(trainer.precision_plugin)],
        max_epochs=-1 if trainer.max_epochs is None and timed else trainer.max_epochs,
        limit_train_batches=trainer.limit_train_batches,
        callbacks=[callback],
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{name: getattr(trainer, name) for name in as_there},
    )


@contextmanager
def _unseen(trainer: Any) -> Iterator[None]:
    """Without Lightning's lines on what it begins, and with the global generators as they are afterwards."""
    root = _root(trainer)
    seed = import_module(f"{root}.utilities.seed")
    # The one that was imported last may speak for both.
    names = "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    states = seed._collect_rng_states()
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=import_module(f"{root}.utilities.warnings").PossibleUserWarning)
            yield
    finally:
        seed._set_rng_states(states)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _numbers(outputs: Any) -> dict[str, Tensor]:
    """The numbers among what a step returned."""
    named = outputs if isinstance(outputs, Mapping) else {"loss": outputs}
    return {k: v.detach() for k, v in named.items() if isinstance(v, Tensor) and v.numel() == 1 and isinstance(k, str)}


@dataclass
class _Fetched:
    """One batch, as Lightning's loop takes one."""

    batch: Any
    done: bool = False

    def __next__(self) -> tuple[Any, int, int]:
        return self.batch, 0, 0


class _Unread:
    """A loader that a Trainer can ask for its length; nothing is read before a first batch is."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


class _HeldOut(_Unread):
    """Some batches of validation data: samples evenly spaced where they have an index, else the first ones."""

    def __init__(self, loader: Any):
        dataset: Any = getattr(loader, "dataset", None)
        if isinstance(loader, DataLoader) and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
            n = min(len(dataset), HELD_OUT)
            part = Subset(dataset, [i * len(dataset) // n for i in range(n)])
            super().__init__(list(DataLoader(part, loader.batch_size or n, collate_fn=loader.collate_fn)))
        else:
            super().__init__(list(islice(loader, 8)))


def _itself(loader: Any) -> Any:
    return loader


def _nothing(*args: Any) -> None:
    pass


def _wrapped(kind: type[_Unread], load: Callable[[], Any], name: str) -> _Unread:
    loader = load()
    loader = getattr(loader, "flattened", loader)  # of a CombinedLoader
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if isinstance(loader, list | tuple | dict):
        raise ConfigError(f"{name} has one loader for such a test; received {len(loader)}")
    return kind(loader)

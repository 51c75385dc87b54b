"""A setting that changes the speed of an update, and the state and the batches with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..data.batches import Batches, DatasetBatches, LoaderBatches, TensorBatches
from ..data.standardise import changed_within, untransformed
from ..training.sharing import compute_in
from ..training.state import TrainState
from ..training.step import samples_in


@dataclass(frozen=True)
class Setting:
    """What decides the speed of an update. None: the data, the model or the device have no such thing."""

    batch_size: int | None
    precision: str = "fp32"
    threads: int | None = None
    workers: int | None = None
    channels_last: bool | None = None
    compile: bool = False

    def changes(self, since: Setting) -> dict[str, Any]:
        """The fields in which it is another than `since`.

        >>> Setting(64, "bf16").changes(Setting(64))
        {'precision': 'bf16'}
        """
        return {
            one.name: value for one in fields(self) if (value := getattr(self, one.name)) != getattr(since, one.name)
        }

    def words(self, since: Setting) -> str:
        """In what it is another than `since`, in words.

        >>> Setting(64, "bf16", 1).words(Setting(64, "fp32", 2)), Setting(64).words(Setting(64))
        ('bf16, 1 thread', 'as it is')
        """
        known = {
            "batch_size": lambda n: f"batches of {n}",
            "precision": str,
            "threads": lambda n: f"{n} thread{'s' * (n != 1)}",
            "workers": lambda n: f"{n or 'no'} worker{'s' * (n != 1)}",
            "channels_last": lambda last: "channels last" if last else "channels first",
            "compile": lambda compiled: "compiled" if compiled else "not compiled",
        }
        return ", ".join(known[name](value) for name, value in self.changes(since).items()) or "as it is"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def setting_of(state: TrainState, batches: Batches) -> Setting:
    """The setting of a state with its batches, as they are."""
    convolutions = any(isinstance(part, nn.Conv2d) for part in state.model.modules())
    return Setting(
        _batch_size(batches),
        state.runtime.precision,
        torch.get_num_threads() if state.runtime.device.type == "cpu" else None,
        _workers(batches),
        state.runtime.channels_last if convolutions else None,
        state.forward is not state.model,
    )


def _loader(batches: Batches) -> DataLoader[Any] | None:
    """The DataLoader that is read, where it is one that can be made with other numbers."""
    plain = untransformed(batches)
    loader = plain.iterable if isinstance(plain, LoaderBatches) else None
    return loader if type(loader) is DataLoader else None


def _batch_size(batches: Batches) -> int | None:
    plain, loader = untransformed(batches), _loader(batches)
    return getattr(plain if loader is None else loader, "batch_size", None)


def _workers(batches: Batches) -> int | None:
    plain, loader = untransformed(batches), _loader(batches)
    return plain.workers if isinstance(plain, DatasetBatches) else None if loader is None else loader.num_workers


def of_loader(batches: Batches) -> bool:
    """Whether batch size and workers are those of a DataLoader that was given."""
    return _loader(batches) is not None


def samples_at_most(batches: Batches) -> int | None:
    """The samples of the data, which no batch can have more of; None where that is not known."""
    plain, loader = untransformed(batches), _loader(batches)
    if isinstance(plain, TensorBatches):
        return len(plain.tensors[0])
    data = plain.dataset if isinstance(plain, DatasetBatches) else None if loader is None else loader.dataset
    return len(cast(Any, data)) if hasattr(data, "__len__") else None


def resized(batches: Batches, batch_size: int | None, workers: int | None) -> Batches:
    """The batches with other numbers of samples and of processes that read them, where they have such."""

    def change(plain: Batches) -> Batches:
        if isinstance(plain, TensorBatches):
            return replace(plain, batch_size=batch_size)
        if isinstance(plain, DatasetBatches):
            return replace(plain, batch_size=batch_size, workers=workers or 0)
        loader = _loader(plain)
        return plain if loader is None else replace(plain, iterable=_remade(loader, batch_size, workers or 0))  # type: ignore[type-var]

    if (batch_size, workers) == (_batch_size(batches), _workers(batches)):
        return batches
    return changed_within(batches, change)


def _remade(loader: DataLoader[Any], batch_size: int | None, workers: int) -> DataLoader[Any]:
    """A DataLoader like another one, with these numbers."""
    order: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_size is not None:
        order = {"batch_size": batch_size, "drop_last": loader.drop_last}
        order |= {} if loader.batch_sampler is None else {"sampler": loader.sampler}
    return DataLoader(
        loader.dataset, **order, num_workers=workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
        timeout=loader.timeout if workers else 0, worker_init_fn=loader.worker_init_fn, generator=loader.generator,
        persistent_workers=loader.persistent_workers and workers > 0,
    )  # fmt: skip


@contextmanager
def applied(setting: Setting, state: TrainState, batches: Batches) -> Iterator[tuple[TrainState, Batches]]:
    """Within the block, a copy of the state and the batches as `setting` has them; model and optimizer are the same.

    The copy begins a run of its own. Threads, and where the weights lie, are put back afterwards.
    """
    present, within = setting_of(state, batches), copy(state)
    within.at, within.average = copy(state.at), state.average
    within.end_run()
    runtime = replace(state.runtime, precision=setting.precision)
    if setting.channels_last is not None:
        runtime = replace(runtime, channels_last=setting.channels_last)
    if setting.precision != present.precision:
        within.scaler = runtime.scaler()
    if setting.compile != present.compile:
        within.forward = torch.compile(state.model) if setting.compile else state.model
    within.runtime = runtime
    threads = torch.get_num_threads()
    with _laid_out(state.model, setting.channels_last, present.channels_last):
        try:
            if setting.threads is not None:
                compute_in(setting.threads)
            yield within, resized(batches, setting.batch_size, setting.workers)
        finally:
            compute_in(threads)


@contextmanager
def _laid_out(model: nn.Module, last: bool | None, now: bool | None) -> Iterator[None]:
    """Within the block, convolutions with the channels `last` or first; afterwards in the memory of before."""
    if last == now:
        yield
        return
    before = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
    layout = torch.channels_last if last else torch.contiguous_format
    try:
        for tensor, values in before:
            if values.ndim == 4:
                tensor.data = values.to(memory_format=layout, copy=True)
        yield
    finally:
        for tensor, values in before:
            tensor.data = values


def samples_of_first(batches: Batches) -> int:
    """The samples of the first batch."""
    return samples_in(next(iter(batches.epoch(0)), ()))

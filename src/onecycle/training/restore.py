"""A block that leaves no trace: weights, buffers, optimizers, scalers and generators are put back to the bit."""

from __future__ import annotations

import copy
import random
import signal
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError
from .ranks import ALONE
from .reachable import before_first_call, caller, give_up_gathered, modules_of, tensors_of
from .runtime import generators
from .signals import stop_requests

Restore = Callable[[], object]


@contextmanager
def untouched(
    optimizers: Sequence[Optimizer], modules: Iterable[nn.Module] | None = None, keep: Iterable[Any] = ()
) -> Iterator[None]:
    """Put everything back, bit for bit, as it was before the block, whatever happens within it.

    That is: the optimizers' parameters, their gradients, state and settings; every parameter, buffer and mode of
    `modules`; the objects in `keep`; and the global generators of torch (every device in use), Python and numpy. It
    happens on success, on an error and on Ctrl-C; a Ctrl-C that comes meanwhile takes effect afterwards.
    Parameters that FSDP2 has sharded are put back on each rank by its own shards.

    Args:
        optimizers: those that the block steps.
        modules: what has buffers, such as running means; None: those with a parameter of the optimizers that the
            variables around the block lead to, and each other module that is called within it, as it was before its
            first call there. Calls inside what torch.compile has compiled are not seen.
        keep: whatever else changes, generators and anything with `state_dict` and `load_state_dict`: a gradient scaler,
            a scheduler, a moving average of the weights.

    Raises:
        ConfigError: something in `keep` cannot be put back.

    >>> model = nn.Linear(2, 1)
    >>> before, optimizer = model.weight.clone(), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with untouched([optimizer]):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> bool((model.weight == before).all()), model.weight.grad
    (True, None)
    """
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    known = modules_of(parameters, caller()) if modules is None else list(modules)
    tensors = {id(t): t for t in parameters}
    for module in known:
        tensors |= tensors_of(module)
    restore: list[Restore] = [_generators({t.device for t in tensors.values()})]
    restore += [_tensor(tensor) for tensor in tensors.values()]
    restore += [_module(part) for module in known for part in module.modules()]
    restore += [_optimizer(optimizer) for optimizer in optimizers]
    restore += [_stateful(thing) for thing in keep]
    with _put_back(restore), nullcontext() if modules is not None else called_untouched(known, tensors):
        yield


@contextmanager
def called_untouched(known: Iterable[nn.Module], tensors: Container[int] = ()) -> Iterator[list[nn.Module]]:
    """Put back each module that is called within the block, bit for bit, as it was before its first call.

    But for what is within `known`, and for the tensors of these ids. The list has the modules that were called.
    """
    restore: list[Restore] = []
    called: list[nn.Module] = []

    def take(module: nn.Module) -> None:
        called.append(module)
        restore.extend(_tensor(tensor) for key, tensor in tensors_of(module).items() if key not in tensors)
        restore.extend(map(_module, module.modules()))

    with _put_back(restore), before_first_call(take, known):
        yield called


@contextmanager
def _put_back(restore: Iterable[Restore]) -> Iterator[None]:
    try:
        yield
    finally:
        with stop_requests(ALONE) as stop, ExitStack() as stack:  # each of them, even where another fails
            for put_back in restore:
                stack.callback(put_back)
        if stop.signal is not None:
            signal.raise_signal(stop.signal)


def _tensor(tensor: Tensor) -> Restore:
    value, gradient, trained = tensor.detach().clone(), tensor.grad, tensor.requires_grad
    gradient_value = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        with torch.no_grad():
            tensor.copy_(value)
            before = gradient
            if gradient is not None and gradient_value is not None:
                try:
                    gradient.copy_(gradient_value)
                except RuntimeError:  # it was memory of a CUDA graph of torch.compile, which others have used since
                    before = gradient_value
        if tensor.is_leaf:
            tensor.requires_grad_(trained).grad = before

    return restore


def _module(module: nn.Module) -> Restore:
    """Mode, and which tensor is which buffer: some modules replace theirs."""
    training, buffers = module.training, dict(module._buffers)

    def restore() -> None:
        give_up_gathered(module)
        module.training = training
        module._buffers.clear()
        module._buffers.update(buffers)

    return restore


def _optimizer(optimizer: Optimizer) -> Restore:
    state = {parameter: copy.deepcopy(values) for parameter, values in optimizer.state.items()}
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    tensors = [t for _, group in groups for k, v in group.items() if k != "params" for t in _tensors_in(v)]
    numbers = [t.detach().clone() for t in tensors]

    def restore() -> None:
        optimizer.state.clear()
        optimizer.state.update(state)
        optimizer.param_groups[:] = [group for group, _ in groups]
        for group, before in groups:
            group.clear()
            group.update(before)
        with torch.no_grad():
            for tensor, number in zip(tensors, numbers, strict=True):
                tensor.copy_(number)

    return restore


def _tensors_in(value: Any) -> list[Tensor]:
    """A learning rate may be a tensor, and so may each of a pair of betas."""
    return [v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, Tensor)]


def _stateful(thing: Any) -> Restore:
    if isinstance(thing, torch.Generator):
        return partial(thing.set_state, thing.get_state())
    if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
        raise ConfigError(f"what is to be put back has state_dict() and load_state_dict(); received {thing!r}")
    state = copy.deepcopy(thing.state_dict())

    def restore() -> None:
        thing.load_state_dict(state)
        if isinstance(thing, torch.amp.GradScaler):  # an update that was broken off leaves its stage
            thing._per_optimizer_states.clear()

    return restore


def _generators(devices: set[torch.device]) -> Restore:
    drawn_from = generators(*devices)
    states, python, numpy = [g.get_state() for g in drawn_from], random.getstate(), sys.modules.get("numpy")
    numpy_state = None if numpy is None else numpy.random.get_state()

    def restore() -> None:
        for generator, state in zip(drawn_from, states, strict=True):
            generator.set_state(state)
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(numpy_state)

    return restore

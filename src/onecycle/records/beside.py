"""What is written beside a training: a copy of its state in memory, and the thread that brings it to the disk."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import thread_time
from typing import Any

import torch
from torch import Tensor

# Parts of a state whose tensors are replaced as a whole, and never changed.
NEVER_CHANGED = ("best", "rescue")


def copied_into(before: Mapping[str, Any], state: Mapping[str, Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    """A copy of tensors and plain data on the CPU, in the memory of the copy `before` where that is of the same form.

    The parts in `leave` are taken as they are. Tensors that share their memory do so in the copy.

    >>> state = {"weight": torch.ones(2), "step": 3}
    >>> first = copied_into({}, state)
    >>> state["weight"] += 1
    >>> first["weight"], copied_into(first, state)["weight"] is first["weight"], first["weight"]
    (tensor([1., 1.]), True, tensor([2., 2.]))
    """
    copying = _Copying()
    return {name: part if name in leave else copying.of(part, before.get(name)) for name, part in state.items()}


class _Copying:
    def __init__(self) -> None:
        self._copies: dict[Any, Tensor] = {}
        self._taken: set[int] = set()  # of the tensors of before, those that are copied into

    def of(self, value: Any, before: Any) -> Any:
        """The copy of anything."""
        if isinstance(value, Tensor):
            return self._of_tensor(value.detach(), before)
        if type(value) in (int, float, bool, str, type(None)):
            return value
        if isinstance(value, Mapping):
            known = before if isinstance(before, Mapping) else {}
            parts = {name: self.of(part, known.get(name)) for name, part in value.items()}
            if not isinstance(value, OrderedDict):
                return parts
            ordered = OrderedDict(parts)
            vars(ordered).update(vars(value))  # a module keeps the versions of its parts there
            return ordered
        if type(value) in (list, tuple):
            known = before if type(before) is type(value) and len(before) == len(value) else [None] * len(value)
            return type(value)([self.of(part, old) for part, old in zip(value, known, strict=True)])
        return copy.deepcopy(value)

    def _of_tensor(self, value: Tensor, before: Any) -> Tensor:
        if value.layout != torch.strided or not value.numel():
            return value.clone().cpu()
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in self._copies:
            if isinstance(before, Tensor) and _form(before) == _form(value) and id(before) not in self._taken:
                self._copies[key] = before.copy_(value)
            else:
                self._copies[key] = value.clone() if value.device.type == "cpu" else value.cpu()
            self._taken.add(id(self._copies[key]))
        return self._copies[key]


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.layout, tensor.shape, tensor.stride(), tensor.dtype


class Writing(threading.Thread):
    """A call in a thread of its own. The program does not end before it."""

    def __init__(self, call: Callable[[], Any]):
        super().__init__(name="onecycle-checkpoint")
        self._call = call
        self._error: BaseException | None = None
        self._seconds = 0.0
        self.start()

    def run(self) -> None:
        """Make the call."""
        began = thread_time()
        try:
            self._call()
        except BaseException as error:
            self._error = error
        self._seconds = thread_time() - began

    def end(self) -> float:
        """Wait for its end, raise what it raised, and return the seconds that it kept a core busy."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._seconds

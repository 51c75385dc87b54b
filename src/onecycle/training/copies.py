"""Copies of a state in memory, on the CPU or where it is: the same to the bit, and tied where it is."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..optim.shared import local


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


def copied(value: Any, *, stays: bool = False) -> Any:
    """A copy of plain data and tensors that shares nothing with it, on the CPU or, where it `stays`, on its device."""
    return _Copying(stays).of(value, None)


def bytes_of(value: Any) -> int:
    """The bytes of the tensors in plain data, those of tied ones again and again.

    >>> bytes_of({"weight": torch.ones(2), "state": [{"step": 3, "mean": torch.zeros(4, dtype=torch.float64)}]})
    40
    """
    if isinstance(value, Tensor):
        return local(value).numel() * value.itemsize
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(bytes_of, parts))


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A structure of tensors and plain data with each tensor changed; plain data are copied.

    >>> mapped({"a": [torch.ones(2), 3]}, lambda tensor: tensor.sum().item())
    {'a': [2.0, 3]}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _like(value, {name: mapped(part, change) for name, part in value.items()})
    if type(value) in (list, tuple):
        return type(value)([mapped(part, change) for part in value])
    return copy.deepcopy(value)


def _like(value: Mapping[Any, Any], parts: dict[Any, Any]) -> dict[Any, Any]:
    """A mapping of these parts as `value` is one."""
    if not isinstance(value, OrderedDict):
        return parts
    ordered = OrderedDict(parts)
    vars(ordered).update(vars(value))  # a module keeps the versions of its parts there
    return ordered


def outline(value: Any) -> Any:
    """A structure with the shapes and types of its tensors in their place, on the device "meta"."""
    return mapped(value, lambda tensor: torch.empty_like(tensor.detach(), device="meta"))


class _Copying:
    def __init__(self, stays: bool = False) -> None:
        self._stays = stays
        self._copies: dict[Any, Tensor] = {}
        self._taken: set[int] = set()  # of the tensors of before, those that are copied into
        self._copied: list[Tensor] = []  # those that are told by their identity, which must not be given anew meanwhile

    def of(self, value: Any, before: Any) -> Any:
        """The copy of anything."""
        if isinstance(value, Tensor):
            return self._of_tensor(value, before)
        if type(value) in (int, float, bool, str, type(None)):
            return value
        if isinstance(value, Mapping):
            known = before if isinstance(before, Mapping) else {}
            return _like(value, {name: self.of(part, known.get(name)) for name, part in value.items()})
        if type(value) in (list, tuple):
            known = before if type(before) is type(value) and len(before) == len(value) else [None] * len(value)
            return type(value)([self.of(part, old) for part, old in zip(value, known, strict=True)])
        return copy.deepcopy(value)

    def _of_tensor(self, tensor: Tensor, before: Any) -> Tensor:
        value = tensor.detach()
        if value.is_meta:  # the outline of one that another rank has
            return value
        if not _is_told_by_memory(value):
            if id(tensor) not in self._copies:
                self._copied.append(tensor)
                self._copies[id(tensor)] = value.clone() if self._stays else value.clone().cpu()
            return self._copies[id(tensor)]
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in self._copies:
            fits = isinstance(before, Tensor) and _is_told_by_memory(before) and _form(before) == _form(value)
            if fits and id(before) not in self._taken:
                self._copies[key] = before.copy_(value)
            else:
                self._copies[key] = value.clone() if self._stays or value.device.type == "cpu" else value.cpu()
            self._taken.add(id(self._copies[key]))
        return self._copies[key]


def _is_told_by_memory(tensor: Tensor) -> bool:
    """Whether tensors of this form at this address hold the same numbers.

    Those that wrap others (DTensor) have no address, and a conjugate or negative view has that of what it is made from.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or not tensor.numel():
        return False
    return tensor.data_ptr() != 0 and not tensor.is_conj() and not tensor.is_neg()


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.layout, tensor.shape, tensor.stride(), tensor.dtype

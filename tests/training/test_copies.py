"""Copies of a state: the same to the bit, of their own, and in the memory of the copy before."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from onecycle.records.checkpoint import load, save
from onecycle.training.copies import copied, copied_into


def test_a_copy_shares_nothing_but_what_shares_in_the_state(tmp_path):
    weight = torch.randn(3, 4)
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {
        "model": {"a": weight, "tied": weight, "image": image}, "empty": torch.zeros(0), "at": {"step": 3, "list": [1]},
        "pair": (torch.tensor(2.0), None), "half": torch.ones(2, dtype=torch.bfloat16), "left": {"kept": weight},
    }  # fmt: skip
    made = copied_into({}, state, leave=["left"])
    assert made["model"]["a"] is made["model"]["tied"] and made["left"] is state["left"]
    assert made["model"]["a"].data_ptr() != weight.data_ptr()
    assert made["model"]["image"].stride() == image.stride()
    first = (save(state, tmp_path / "a", 0) / "state.pt").read_bytes()
    assert (save({**made, "left": {"kept": made["model"]["a"]}}, tmp_path / "b", 0) / "state.pt").read_bytes() == first
    state["at"]["list"].append(2)
    weight.zero_()
    assert made["at"]["list"] == [1] and made["model"]["a"].all() and not made["left"]["kept"].all()


def test_the_memory_of_the_copy_before_is_used_again_where_it_fits():
    first = copied_into({}, {"x": torch.ones(4), "y": torch.ones(4), "z": torch.ones(4)})
    again = copied_into(first, {"x": torch.zeros(4), "y": torch.zeros(2, 2), "z": torch.zeros(4, dtype=torch.int64)})
    assert again["x"] is first["x"] and not again["x"].any()
    assert again["y"].shape == (2, 2) and again["z"].dtype == torch.int64


def test_weights_that_were_tied_and_are_no_more_are_two():
    tied = torch.ones(4)
    first = copied_into({}, {"x": tied, "y": tied})
    again = copied_into(first, {"x": torch.full((4,), 2.0), "y": torch.full((4,), 3.0)})
    assert (again["x"] == 2).all() and (again["y"] == 3).all()


def test_the_versions_of_a_modules_parts_are_copied(tmp_path):
    state = nn.BatchNorm1d(2).state_dict()
    made = copied_into({}, {"model": state})["model"]
    assert isinstance(made, OrderedDict) and made._metadata == state._metadata
    assert load(save({"model": made}, tmp_path, 0))["model"]._metadata == state._metadata


class Wrapped(Tensor):
    """A tensor without memory of its own, as a DTensor is."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        bare = tree_map(lambda value: value.inner if isinstance(value, Wrapped) else value, (args, kwargs or {}))
        return tree_map(
            lambda value: Wrapped(value) if isinstance(value, Tensor) else value, function(*bare[0], **bare[1])
        )


@pytest.mark.parametrize("copy", [copied, lambda state: copied_into({}, state), lambda s: copied_into(copied(s), s)])
def test_wrapped_tensors_of_the_same_shape_are_told_apart(copy):
    first = Wrapped(torch.ones(2))
    made = copy({"a": first, "b": Wrapped(torch.full((2,), 2.0)), "tied": first})
    assert made["a"].inner.tolist() == [1, 1] and made["b"].inner.tolist() == [2, 2]
    assert made["tied"] is made["a"] and made["a"].inner is not first.inner


@pytest.mark.parametrize("view", [torch.conj, lambda x: x.conj().imag])
def test_a_conjugate_or_negative_view_is_no_copy_of_what_it_views(view):
    base = torch.tensor([1 + 2j, 3 - 1j])
    seen = view(base)
    for made in (
        copied({"x": base, "imag": base.imag, "view": seen}),
        copied_into({}, {"x": base, "imag": base.imag, "view": seen}),
    ):
        assert torch.equal(made["x"], base) and torch.equal(made["imag"], base.imag) and torch.equal(made["view"], seen)

"""Seeded cuts and the checks on splits."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onecycle.data import splits
from onecycle.data.splits import Data, Split, check, check_finite, choose, cut, numbered, quotas, take
from onecycle.errors import DataError


def split_of(labels: list[int]) -> Split:
    """Samples that are their own index."""
    return Split(torch.arange(len(labels), dtype=torch.float32)[:, None], torch.tensor(labels))


@given(st.lists(st.integers(0, 60), min_size=2, max_size=12), st.data())
def test_quotas_are_the_nearest_shares_within_the_bounds(sizes, draw):
    present = sum(size > 0 for size in sizes)
    if not present:
        return
    count = draw.draw(st.integers(present, sum(sizes)))
    quota = quotas(sizes, count, sizes)
    assert sum(quota) == count
    assert all(min(1, size) <= share <= size for share, size in zip(quota, sizes, strict=True))
    exact = [Fraction(size * count, sum(sizes)) for size in sizes]
    if all(share >= 1 or size == 0 for share, size in zip(exact, sizes, strict=True)):
        assert all(abs(share - want) < 1 for share, want in zip(quota, exact, strict=True))


def slow_choice(labels: list[int], quota: list[int], keys: list[float]) -> list[int]:
    """Per class the samples with the smallest keys, one at a time."""
    chosen = []
    for label, share in enumerate(quota):
        members = sorted((key, i) for i, (key, own) in enumerate(zip(keys, labels, strict=True)) if own == label)
        chosen += [i for _, i in members[:share]]
    return sorted(chosen)


def test_stratified_choice_equals_the_slow_one():
    labels = random.Random(3).choices(range(5), weights=[1, 2, 3, 10, 4], k=500)
    sizes = [labels.count(label) for label in range(5)]
    keys = np.random.default_rng([7, 1]).random(500).tolist()
    got = choose(split_of(labels), 83, (7, 1), stratify=True)
    assert got.tolist() == slow_choice(labels, quotas(sizes, 83, sizes), keys)


def test_choice_is_the_same_everywhere():
    # pinned: another value on another machine or version would move samples between train and valid
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert choose(split_of(labels), 5, (0, 1), stratify=True).tolist() == [1, 2, 4, 5, 7]
    assert choose(split_of(labels), 5, (0, 1), stratify=False).tolist() == [1, 4, 5, 7, 9]


def test_choice_leaves_global_generators_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    choose(split_of([0, 1] * 20), 10, (0, 1), stratify=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_cut_keeps_the_shares_and_every_sample():
    labels = [0] * 100 + [1] * 40 + [2] * 2
    train, valid = cut(split_of(labels), 0.1, (0, 1), ("a", "b", "c"))
    assert valid.targets.bincount().tolist() == [9, 4, 1]
    assert sorted(torch.cat([train.inputs, valid.inputs]).flatten().tolist()) == list(range(142))
    assert torch.equal(take(split_of(labels), valid.inputs.flatten().long()).targets, valid.targets)


def test_cut_without_classes():
    part = Split(torch.arange(10.0)[:, None], torch.arange(10.0))
    train, valid = cut(part, 0.25, (0, 1), None)
    assert (len(train), len(valid)) == (7, 3)
    assert torch.equal(valid.inputs[:, 0], valid.targets)


def test_cut_of_very_few():
    train, valid = cut(split_of([0, 0, 1, 1]), 0.9, (0, 1), ("a", "b"))
    assert train.targets.tolist() == valid.targets.tolist() == [0, 1]
    train, valid = cut(split_of([0, 0, 1]), 0.1, (0, 1), ("a", "b"))
    assert (train.targets.tolist(), valid.targets.tolist()) == ([0, 1], [0]), "a class of one sample keeps it"
    with pytest.raises(DataError, match="cannot be cut from one sample of each class"):
        cut(split_of([0, 1]), 0.1, (0, 1), ("a", "b"))
    with pytest.raises(DataError, match="1 sample cannot be cut"):
        cut(Split(torch.zeros(1, 1), torch.zeros(1)), 0.5, (0, 1), None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_numbers_are_finite_though_their_sum_is_not_and_among_them_others_are_found(dtype):
    large = torch.full((2000, 200), torch.finfo(dtype).max, dtype=dtype)
    check_finite(large, "inputs")
    for bad in (torch.nan, torch.inf, -torch.inf):
        for values in (large, torch.zeros_like(large)):
            values = values.index_fill(0, torch.tensor([7, 9]), bad)
            with pytest.raises(DataError, match="infinite inputs: 2 of 2000 samples, the first at index 7"):
                check_finite(values, "inputs")
    both = torch.zeros(4, dtype=dtype).index_fill(0, torch.tensor([1]), torch.inf)
    with pytest.raises(DataError, match="2 of 4 samples, the first at index 1"):
        check_finite(both.index_fill(0, torch.tensor([3]), -torch.inf), "targets")


def test_each_number_is_looked_at_only_where_their_sum_is_not_finite(monkeypatch):
    looked = []
    monkeypatch.setattr(splits, "_samples", lambda *args: looked.append(args) or 1)
    check_finite(torch.ones(10, 3), "inputs")
    assert not looked
    check_finite(torch.full((10, 3), 3e38), "inputs")
    assert looked


def test_check_finds_nan_by_split_and_index():
    bad = Split(torch.zeros(6, 2), torch.tensor([0, 1] * 3))
    bad.inputs[4, 1], bad.inputs[5, 0] = torch.nan, torch.inf
    with pytest.raises(DataError, match="inputs in the valid split: 2 of 6 samples, the first at index 4"):
        check({"train": split_two(), "valid": bad}, ("a", "b"))
    target = Split(torch.zeros(3, 2), torch.tensor([0.0, torch.nan, 1.0]))
    with pytest.raises(DataError, match="targets in the train split: 1 of 3 samples, the first at index 1"):
        check({"train": target}, None)


def split_two() -> Split:
    return Split(torch.zeros(2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (
            [0, 1, 2],
            ("a", "b"),
            r"out of range in the train split: 1 of 3, the first is 2 at index 2. Allowed are 0 to 1",
        ),
        ([0, -1, 1], ("a", "b"), "the first is -1 at index 1"),
        ([0, 0], ("a",), "only one class: 'a'"),
        ([1, 1], ("a", "b"), "one class only: 'b'"),
        ([], ("a", "b"), "train split is empty"),
    ],
)
def test_check_refuses_labels(labels, classes, message):
    with pytest.raises(DataError, match=message):
        check({"train": Split(torch.zeros(len(labels), 2), torch.tensor(labels, dtype=torch.int64))}, classes)


def test_check_refuses_classes_and_shapes_that_differ():
    test = Split(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(DataError, match=r"differ between splits: 'c' in the test split"):
        check({"train": split_two(), "test": test}, ("a", "b", "c"))
    wide = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"shape \[2\] in the train split and \[3\] in the valid"):
        check({"train": split_two(), "valid": wide}, ("a", "b"))


def test_numbered():
    assert numbered(torch.tensor([2, 0, 1, 1])) == ("0", "1", "2")
    with pytest.raises(DataError, match="go up to 7, but only 3 of these 8 numbers occur; the first missing is 1"):
        numbered(torch.tensor([0, 7, 3]))


def test_split_prints_shapes_not_values():
    assert repr(split_two()) == "Split(inputs=float32 [2, 2], targets=int64 [2])"


def test_data_print_a_line():
    data = Data("made", "array", split_two(), split_two(), None, None, (), (), (), "here", ())
    assert repr(data) == "Data(made: array [2], 2 train, 2 valid)"
    assert repr(replace(data, classes=("a", "b"), test=split_two())).startswith("Data(made: array [2], 2 classes, 2 tr")

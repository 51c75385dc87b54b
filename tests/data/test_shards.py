"""Parts of batches, and ranks that have batches of their own."""

from __future__ import annotations

import pytest
import torch

from onecycle import DataError
from onecycle.data.shards import Part, Shards


def others(*flags: bool) -> Shards:
    """A rank that hears of the others whether they have a batch."""
    said = iter(flags)
    return Shards(1, 2, any=lambda flag: next(said) or flag)


def test_a_rank_that_is_resumed_where_it_has_no_batch_left_stands_in_with_its_first():
    batches = [torch.zeros(2), torch.ones(2)]
    parts = list(others(True, False).of_rank(lambda start: iter(batches[start:]), 2))
    assert parts == [Part(batches[0], 0, None, 0.0)]
    with pytest.raises(DataError, match="rank 1 of 2 has no batch of these data"):
        list(others(True).of_rank(lambda start: iter([]), 2))


def test_a_rank_with_no_batch_left_repeats_its_last():
    batches = [torch.zeros(2), torch.ones(2)]
    parts = list(others(True, True, True, False).of_rank(lambda start: iter(batches[start:])))
    assert [part.samples for part in parts] == [2, 2, 0] and parts[2].batch is batches[1]


def test_what_is_said_not_to_be_cut_is_whole():
    batch = (torch.zeros(4, 4, 2), torch.zeros(4))
    whole = Shards(0, 2, cuts=False).part(batch)
    assert whole.batch is batch and whole.factor == 0.5

"""The order of an epoch: drawn as a whole where that is affordable, computed place by place beyond."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from torch.utils.data import Dataset

from onecycle.data import batches as batching
from onecycle.data import orders
from onecycle.data.batches import DatasetBatches, TensorBatches
from onecycle.data.orders import BLOCK, FeistelOrder, epoch_order
from onecycle.data.seeds import derive_seed

KEYS = tuple(derive_seed(0, "keys", i) for i in range(orders.ROUNDS))
LARGE = 2**27 + 11


def drawn(n: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch)))


def test_the_order_is_a_permutation_by_seed_and_epoch():
    assert torch.equal(epoch_order(50, 3, 7)[:], epoch_order(50, 3, 7)[:])
    different = {tuple(epoch_order(50, seed, epoch)[:].tolist()) for seed in range(4) for epoch in range(4)}
    assert len(different) == 16 and all(sorted(order) == list(range(50)) for order in different)


def test_the_order_of_an_epoch_that_is_begun_again_is_kept_where_it_is_small(monkeypatch):
    made, expected, randperm = [], drawn(51, 4, 8), torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **how: made.append(n) or randperm(n, **how))
    for _ in range(3):
        assert torch.equal(epoch_order(51, 4, 8)[:], expected)
    assert made == [51]
    monkeypatch.setattr(orders, "KEPT", 50)
    assert torch.equal(epoch_order(51, 4, 8)[:], epoch_order(51, 4, 8)[:]) and made == [51] * 3


def test_an_order_that_was_first_asked_for_in_inference_mode_is_a_normal_tensor():
    with torch.inference_mode():
        epoch_order(53, 9, 9)
        FeistelOrder(53, KEYS[::-1])[:]
    assert not epoch_order(53, 9, 9)[:].is_inference() and not FeistelOrder(53, KEYS[::-1])[:].is_inference()


def test_a_computed_order_has_each_sample_once():
    for n in (*range(1, 300), 4095, 4096, 4097, 99_991, 100_489, 100_490, 2**17):  # squares and their neighbours too
        assert torch.equal(FeistelOrder(n, KEYS)[:].sort().values, torch.arange(n)), n


def test_a_computed_order_is_that_of_its_definition():
    """The same rounds in Python's own whole numbers."""
    n, (a, b), mask = 10**10 + 1, (10**5, 10**5 + 1), 2**64 - 1

    def hashed(digit: int, key: int) -> int:
        z = (digit + key) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return ((z ^ (z >> 31)) >> 16) & (2**31 - 1)

    def sample(place: int) -> int:
        high, low = divmod(place, b)
        for i, key in enumerate(KEYS):
            if i % 2 == 0:
                high = (high + (hashed(low, key) * a >> 31)) % a
            else:
                low = (low + (hashed(high, key) * b >> 31)) % b
        return place_of if (place_of := high * b + low) < n else sample(place_of)

    places = range(n - 500, n)
    assert FeistelOrder(n, KEYS)[n - 500 : n].tolist() == [sample(place) for place in places]


@pytest.mark.parametrize("n", [BLOCK - 1, 5 * BLOCK, 5 * BLOCK + 7])
def test_a_slice_of_a_computed_order_is_that_of_the_whole(n):
    order = FeistelOrder(n, KEYS)
    whole = order[:]
    sizes = (1, 64, 1000, BLOCK, BLOCK + 1, n)
    for start, stop in [(i, i + size) for size in sizes for i in (0, 1, 777, BLOCK - 5, n - 3, n)]:
        assert torch.equal(order[start:stop], whole[start:stop]), (start, stop)
    assert order[n - 1 :].tolist() == whole[-1:].tolist() and len(order) == n


def chi_square(cells: torch.Tensor, of: int) -> float:
    """The probability of counts as uneven as these, or more, where each of so many cells is as likely."""
    counts = torch.bincount(cells, minlength=of).double()
    expected = len(cells) / of
    return float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), of - 1))


def uniformities(order: FeistelOrder) -> list[float]:
    """Of a run of places: where its samples lie, what follows what, steps between neighbours, and the last digits."""
    n, samples = len(order), order[10**6 : 10**6 + 2**17]
    sixteenths, steps = samples * 16 // n, (samples[1:] - samples[:-1]) % n
    return [
        chi_square(samples * 64 // n, 64),
        chi_square(sixteenths[1:] * 16 + sixteenths[:-1], 256),
        chi_square(steps * 64 // n, 64),
        chi_square(samples % 64, 64),
    ]


def test_a_computed_order_is_even_over_its_places():
    chances = [p for epoch in range(8) for p in uniformities(epoch_order(LARGE, 5, epoch))]  # type: ignore[arg-type]
    assert min(chances) > 1e-5 and 0.2 < sum(chances) / len(chances) < 0.8, chances
    assert min(uniformities(FeistelOrder(LARGE, KEYS[:2]))) < 1e-50, "two rounds show"


def test_a_block_of_places_is_spread_over_all_samples_alike():
    """Each cell of (block of places, block of samples) has what a random permutation gives it."""
    n = 2**16
    blocks = torch.arange(n) * 16 // n * 16 + FeistelOrder(n, KEYS)[:] * 16 // n
    counts = torch.bincount(blocks, minlength=256).double()
    statistic = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    assert 1e-4 < chi2.sf(statistic, 15 * 15) < 1 - 1e-4


def test_computed_orders_of_two_epochs_and_of_two_seeds_are_unrelated():
    spans = [epoch_order(LARGE, seed, epoch)[: 2**16] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same_sample = len(set(spans[one].tolist()) & set(spans[other].tolist()))
        assert same_sample < 80, "32 are expected"
        assert int((spans[one] == spans[other]).sum()) < 3


class Places(Dataset):
    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(i)


def test_batches_of_ten_billion_samples_begin_anywhere_in_the_epoch(monkeypatch):
    n, size, span, looked_at = 10**10, 64, batching._span, []

    def counted(*given):
        looked_at.append(given)
        assert len(looked_at) < 50, "batches are made when they are asked for, not all at once"
        return span(*given)

    monkeypatch.setattr(batching, "_span", counted)
    for shuffle in (True, False):
        batches = DatasetBatches(Places(n), size, seed=3, shuffle=shuffle)
        middle = len(batches) // 2
        epoch = batches.epoch(2, middle)
        whole = epoch_order(n, 3, 2) if shuffle else None
        for i in range(middle, middle + 3):
            places = slice(i * size, (i + 1) * size)
            expected = torch.arange(places.start, places.stop) if whole is None else whole[places]
            assert torch.equal(next(epoch), expected)


def test_batches_of_tensors_follow_a_computed_order(monkeypatch):
    monkeypatch.setattr(orders, "DRAWN", 99)
    values = torch.arange(100) * 3
    epochs = [torch.cat([batch[0] for batch in TensorBatches((values,), 8, seed=1).epoch(e)]) for e in range(2)]
    assert torch.equal(epochs[0], values[epoch_order(100, 1, 0)[:]])
    assert all(torch.equal(epoch.sort().values, values) for epoch in epochs) and not torch.equal(*epochs)
    assert torch.equal(epoch_order(99, 1, 0)[:], drawn(99, 1, 0)), "as many as are drawn are drawn as ever"

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from onecycle.data.seeds import derive_seed, seeded, seeded_everywhere

PURPOSES = ("order", "augment", "update", "sample", "")


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "order", 3) == 4286156269588672064
    assert derive_seed(7, "update") == 8493911660228411864


def test_no_two_of_a_grid_collide():
    grid = list(product(range(-1, 20), PURPOSES, range(500)))
    assert len({derive_seed(*place) for place in grid}) == len(grid)


def test_lookalikes_differ():
    """Digits that move between seed, purpose and place: what an XOR or a sum would confuse."""
    places = [
        (1, "a", 2),
        (2, "a", 1),
        (12, "a"),
        (1, "2 a"),
        (1, "2a"),
        (1, "a", 1, 2),
        (1, "a", 12),
        (1, "a (1,)", 2),
        (0, "a", 3),
    ]
    assert len({derive_seed(*place) for place in places}) == len(places)


def test_integers_of_any_kind_are_equal():
    assert (
        derive_seed(np.int64(3), "order", np.int64(5))
        == derive_seed(3, "order", torch.tensor(5))
        == derive_seed(3, "order", 5)
    )


def test_seeds_fit_every_generator_and_use_all_their_bits():
    seeds = np.array([derive_seed(0, "update", k) for k in range(4000)])
    assert seeds.min() >= 0 and seeds.max() < 2**63
    ones = ((seeds[:, None] >> np.arange(63)) & 1).sum(0)
    # 63 bits, 4000 fair coins each: five standard deviations are 158
    assert np.abs(ones - 2000).max() < 158


@pytest.mark.parametrize("neighbour", ["seed", "step"])
def test_neighbours_draw_unrelated_numbers(neighbour):
    """First draws of 2,000 neighbouring streams: uniform, uncorrelated with the next stream's."""
    generator = torch.Generator()
    places = [(k, "update", 5) if neighbour == "seed" else (5, "update", k) for k in range(2000)]
    draws = np.array([torch.rand(4, generator=generator.manual_seed(derive_seed(*p))).numpy() for p in places])
    assert stats.chisquare(np.histogram(draws, bins=20, range=(0, 1))[0]).pvalue > 1e-4
    assert all(abs(np.corrcoef(draws[:-1, i], draws[1:, j])[0, 1]) < 5 / 2000**0.5 for i in range(4) for j in range(4))


def test_seeded_draws_depend_on_the_seed_alone():
    generators = [torch.default_generator, torch.Generator()]

    def draw(seed):
        with seeded(generators, seed):
            return torch.rand(3).tolist(), torch.rand(3, generator=generators[1]).tolist()

    first = draw(7)
    torch.rand(5)
    assert draw(7) == first and draw(8) != first


def test_seeded_leaves_no_trace_even_on_an_exception():
    own = torch.Generator().manual_seed(3)
    before = torch.get_rng_state(), own.get_state()
    with pytest.raises(ZeroDivisionError), seeded([torch.default_generator, own], 7):
        torch.rand(3), torch.rand(3, generator=own)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(own.get_state(), before[1])


def test_seeded_blocks_nest():
    with seeded([torch.default_generator], 1):
        plain = torch.rand(4).tolist()
    with seeded([torch.default_generator], 1):
        start = torch.rand(2).tolist()
        with seeded([torch.default_generator], 2):
            torch.rand(9)
        assert start + torch.rand(2).tolist() == plain


def states():
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (numpy[0], numpy[1].tolist(), *numpy[2:])


def test_seeded_everywhere_covers_torch_python_and_numpy_and_restores_all():
    own = torch.Generator().manual_seed(3)

    def draw(seed):
        with seeded_everywhere(seed, own):
            return torch.rand(2).tolist(), torch.rand(2, generator=own).tolist(), random.random(), np.random.rand()

    before, own_before = states(), own.get_state()
    first, other = draw(2**63 - 1), draw(5)
    assert draw(2**63 - 1) == first and all(a != b for a, b in zip(first, other, strict=True))
    with pytest.raises(ZeroDivisionError), seeded_everywhere(1, own):
        random.random(), np.random.rand(), torch.rand(1)
        raise ZeroDivisionError
    assert states() == before and torch.equal(own.get_state(), own_before)

"""Randomness is derived, not stored: every draw is a function of (seed, purpose, index)."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for one purpose at one index of a run: the same on every machine, unrelated to its neighbours'.

    >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
    True
    """
    text = f"{int(seed)} {purpose} {tuple(map(int, index))}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class seeded:
    """Within the block `generators` start from `seed`; afterwards they are as they were. Costs about 2 us.

    >>> before = torch.get_rng_state()
    >>> with seeded([torch.default_generator], 7):
    ...     first = torch.rand(3)
    >>> with seeded([torch.default_generator], 7):
    ...     bool((torch.rand(3) == first).all() and (torch.get_rng_state() != before).any())
    True
    >>> bool((torch.get_rng_state() == before).all())
    True
    """

    __slots__ = ("_generators", "_saved", "_seed")

    def __init__(self, generators: Sequence[torch.Generator], seed: int):
        self._generators = generators
        self._seed = seed

    def __enter__(self) -> None:
        self._saved = [generator.get_state() for generator in self._generators]
        for generator in self._generators:
            generator.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        for generator, state in zip(self._generators, self._saved, strict=True):
            generator.set_state(state)


class seeded_everywhere:
    """As `seeded`, for the global generators of torch's CPU, Python and (once loaded) numpy: for others' loaders."""

    def __init__(self, seed: int, *generators: torch.Generator):
        self._seed = seed
        self._torch = seeded([torch.default_generator, *generators], seed)

    def __enter__(self) -> None:
        self._torch.__enter__()
        self._python = random.getstate()
        random.seed(self._seed)
        self._numpy = sys.modules.get("numpy")
        if self._numpy is not None:
            self._numpy_state = self._numpy.random.get_state()
            self._numpy.random.seed(self._seed % 2**32)

    def __exit__(self, *error: Any) -> None:
        self._torch.__exit__()
        random.setstate(self._python)
        if self._numpy is not None:
            self._numpy.random.set_state(self._numpy_state)

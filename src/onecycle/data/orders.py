"""The order in which an epoch goes through its samples, a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .seeds import derive_seed

# Samples up to which the order of the last epoch is kept.
KEPT = 2**20
# Samples up to which an order is drawn as a whole: 1 GiB of it, in each process.
DRAWN = 2**27
# Of a larger one, places that are computed at once: batches are small, and the calls then cost more than the numbers.
BLOCK = 4096
ROUNDS = 6


def epoch_order(n: int, seed: int, epoch: int) -> Tensor | FeistelOrder:
    """The permutation of 0 ... n - 1 that epoch `epoch` follows, int64 [n]; take slices of it, and do not write to it.

    That of more than 2^27 samples is a `FeistelOrder`, whose slices are computed. The last one that was drawn stays,
    where it is small: an epoch is begun by what tries its first batch, by pilots and by the run.

    >>> bool((epoch_order(5, 0, 1)[:] == epoch_order(5, 0, 1)[:]).all()), sorted(epoch_order(3, 0, 0)[:].tolist())
    (True, [0, 1, 2])
    >>> len(epoch_order(10**10, 0, 0)), epoch_order(10**10, 0, 0)[10**9 : 10**9 + 3].tolist()
    (10000000000, [...])
    """
    if n > DRAWN:
        return FeistelOrder(n, tuple(derive_seed(seed, "order", epoch, i) for i in range(ROUNDS)))
    return (_drawn_once if n <= KEPT else _drawn)(n, derive_seed(seed, "order", epoch))


@torch.inference_mode(False)  # it is kept, and what is made from it may be trained on
def _drawn(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


_drawn_once = lru_cache(maxsize=1)(_drawn)


@dataclass(frozen=True)
class FeistelOrder:
    """A pseudo-random permutation of 0 ... n - 1 that is computed where it is looked at, and takes no memory.

    Place p is written with two digits, p // b below a and p % b below b, where a b >= n. Each round adds a hash of one
    digit and the round's key to the other, modulo its size, in turn. A round can be undone, so that no two places come
    to one sample. What lands beyond n goes through the rounds again until it does not.

    Args:
        n: how many, from 1 to 2^62.
        keys: one a round, of 63 bits.

    Source: J. Black and P. Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002, sections 4 and 5.

    >>> order = FeistelOrder(10, keys=(1, 2, 3, 4, 5, 6))
    >>> order[:].tolist()
    [...]
    >>> order[3:5].tolist() == order[:].tolist()[3:5], sorted(order[:].tolist()) == list(range(10))
    (True, True)
    """

    n: int
    keys: tuple[int, ...]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, span: slice) -> Tensor:
        start, stop, _ = span.indices(self.n)
        if not 0 < stop - start <= BLOCK:
            return self._samples(start, max(start, stop))
        blocks = [_block(self, i) for i in range(start // BLOCK, -(-stop // BLOCK))]
        first = start // BLOCK * BLOCK
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[start - first : stop - first]

    @torch.inference_mode(False)
    def _samples(self, start: int, stop: int) -> Tensor:
        """Those at the places from `start` to before `stop`."""
        samples = self._rounds(torch.arange(start, stop))
        while bool((beyond := samples >= self.n).any()):
            samples[beyond] = self._rounds(samples[beyond])
        return samples

    def _rounds(self, places: Tensor) -> Tensor:
        a = math.isqrt(self.n)
        b = -(-self.n // a)
        digits, sizes = (places // b, places % b), (a, b)
        for i, key in enumerate(self.keys):
            digit, other, size = digits[i % 2], digits[1 - i % 2], sizes[i % 2]
            digit += (_hashed(other, key) * size) >> 31
            digit -= (digit >= size) * size
        return digits[0] * b + digits[1]


@lru_cache(maxsize=2)
def _block(order: FeistelOrder, i: int) -> Tensor:
    return order._samples(i * BLOCK, min((i + 1) * BLOCK, order.n))


def _hashed(digits: Tensor, key: int) -> Tensor:
    """31 bits of each, mixed as by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = digits + key
    z = (z ^ ((z >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return ((z ^ ((z >> 31) & (2**33 - 1))) >> 16) & (2**31 - 1)

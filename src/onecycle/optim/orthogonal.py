"""Matrices made orthogonal: the products of Muon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Of the quintic polynomials, one a step: the largest distance from 1 is the smallest that there is, over what the step
# before makes of singular values from 1/50 to 1.
COEFFICIENTS = ((7.7110, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.5940, 0.4107))
MARGIN = 0.98  # of the scale, for rounding
EPS = 1e-7  # momentum of a norm below this is taken for smaller than it is
HALF_FROM = 128  # the shorter side of a matrix that is computed in bfloat16
# The elements of small matrices that are multiplied together.
TOGETHER = {"cpu": 2**18, "cuda": 2**24}


def orthogonal_each(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each tensor [out, ...] as a matrix, with all later dimensions flattened.

    Those that are of one shape are multiplied together.

    >>> [x.shape for x in orthogonal_each([torch.ones(4, 3), torch.ones(4, 2, 2)])]
    [torch.Size([4, 3]), torch.Size([4, 2, 2])]
    """
    made = list(tensors)
    for some in alike(tensors):
        for i, matrix in zip(some, _orthogonal_all([tensors[i].flatten(1) for i in some]), strict=True):
            made[i] = matrix.resolve_conj().contiguous().view_as(tensors[i])  # rounded alike, added faster
    return made


def alike(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Which of them have matrices of one shape, lying or standing; of small ones as many together as fit a cache."""
    kinds: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((*sorted(matrix_shape(tensor)), tensor.dtype, tensor.device), []).append(i)
    for (m, n, _, device), some in kinds.items():
        most = max(1, TOGETHER.get(device.type, TOGETHER["cuda"]) // max(1, m * n))
        yield from (some[i : i + most] for i in range(0, len(some), most))


def matrix_shape(tensor: Tensor) -> tuple[int, int]:
    """The shape [out, in] of a tensor [out, ...] as a matrix."""
    return tensor.shape[0], tensor.numel() // max(1, tensor.shape[0])


def _orthogonal_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of matrices of one shape, lying or standing."""
    if len(matrices) == 1:
        return [orthogonal(matrices[0])]
    lying = orthogonal(torch.stack([_lying(matrix) for matrix in matrices]))
    return [x if _lying(matrix) is matrix else x.mH for x, matrix in zip(lying.unbind(), matrices, strict=True)]


def _lying(matrix: Tensor) -> Tensor:
    return matrix.mH if matrix.shape[-2] > matrix.shape[-1] else matrix


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of `matrix` [..., m, n] and singular values near 1.

    They are about 0.9 to 1.1, in bfloat16 0.8 to 1.2; those that are below a fiftieth of the largest ones stay smaller.
    Newton-Schulz iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X^H``, from X scaled to a largest singular value
    of at most 1. Each step has the a, b, c that are best for what the step before leaves, as in Amsel et al., "The
    Polar Express", 2505.16932, section 3. Where one side is twice the other or more, the same polynomials are taken of
    A alone and X is multiplied with once, at the end; large matrices in float32 are computed in bfloat16 where the
    device does that faster.

    >>> values = torch.linalg.svdvals(orthogonal(torch.randn(4, 9, generator=torch.Generator().manual_seed(0))))
    >>> bool((values > 0.9).all() and (values < 1.1).all())
    True
    """
    x = _lying(matrix)
    m, n = x.shape[-2:]
    narrow = is_narrow(m, x.dtype, x.device)
    x = x.bfloat16() if narrow else x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    x = x / (_norm(x) + EPS)
    gram = x @ x.mH
    # The root of the sum of the singular values' fourth powers bounds the square of the largest.
    scale = MARGIN / _norm(gram).clamp_min(1 / m)
    gram, x = gram * scale, x * scale.sqrt()
    x = _iterated(x, gram) if narrow or n < 2 * m else _of_gram(gram) @ x
    x = x.to(matrix.dtype)
    return x if _lying(matrix) is matrix else x.mH


def is_narrow(shorter: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a matrix with this shorter side is computed in bfloat16."""
    return shorter >= HALF_FROM and dtype in (torch.float32, torch.bfloat16) and fast_in_half(device.type)


def _norm(matrix: Tensor) -> Tensor:
    """Frobenius norms, with the last two dimensions kept as 1."""
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)


def products_of_orthogonal(shape: Sequence[int]) -> float:
    """The floating-point operations of the products that `orthogonal` of a matrix of this shape takes, at least.

    >>> products_of_orthogonal((64, 64)) == 3 * 6 * 64**3, products_of_orthogonal((64, 576)) == (36 + 18) * 64**3
    (True, True)
    """
    m, n = sorted(shape)
    steps = len(COEFFICIENTS)
    return min(steps * (4 * m * m * n + 2 * m**3), 4 * m * m * n + (8 * steps - 6) * m**3)


def _iterated(x: Tensor, gram: Tensor) -> Tensor:
    """The polynomials of X itself, from its `gram`."""
    add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        gram = x @ x.mH if i else gram
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _of_gram(gram: Tensor) -> Tensor:
    """What X is to be multiplied with, which commutes with its `gram`."""
    add = torch.addmm if gram.ndim == 2 else torch.baddbmm
    product = factor = gram
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        gram = factor @ (gram @ factor) if i else gram
        factor = add(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor @ product if i else factor
    return product


def fast_in_half(device: str) -> bool:
    """Whether bfloat16 is faster than float32 in products of large matrices."""
    return _bf16_is_fast(device)  # a function of its own, which torch.compile can take for a constant


@cache
def _bf16_is_fast(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )

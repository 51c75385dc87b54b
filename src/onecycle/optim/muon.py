"""Muon: momentum whose update is made orthogonal, for the matrices inside a network; AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, _foreach_add_, _foreach_lerp, _foreach_lerp_, _foreach_mul_, nn  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from ..errors import ConfigError

# Of the quintic polynomials, one a step: the largest distance from 1 is the smallest that there is, over what the step
# before makes of singular values from 1/50 to 1.
COEFFICIENTS = ((7.7110, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.5940, 0.4107))
MARGIN = 0.98  # of the scale, for rounding
EPS = 1e-7  # momentum of a norm below this is taken for smaller than it is
HALF_FROM = 128  # the shorter side of a matrix that is computed in bfloat16
# The elements of small matrices that are multiplied together.
TOGETHER = {"cpu": 2**18, "cuda": 2**24}


def _undecorated(name: str) -> Any:
    """A method of torch's optimizers as it is below the decorator that keeps torch.compile out of it.

    At its first call that one imports torch._dynamo, which takes a second and a half, and nothing here needs it.
    """
    method = getattr(Optimizer, name)
    return getattr(method, "__wrapped__", method)


class Muon(Optimizer):
    """Each matrix moves along the nearest orthogonal matrix to its Nesterov momentum; other parameters by AdamW.

    For a weight W [out, ...], seen as [out, in] with all later dimensions flattened, with gradient G::

        M <- mu M + (1 - mu) G;  U = orthogonal(mu M + (1 - mu) G)
        W <- (1 - lr weight_decay) W - lr 0.2 sqrt(max(out, in)) U

    The factor gives the update the size of Adam's, so that one learning rate serves all shapes.

    Args:
        params: parameter groups. One with the key ``momentum`` holds matrices (two or more dimensions) for Muon; one
            without it is for AdamW, with ``betas`` and ``eps``.
        lr: learning rate of groups that give none.
        weight_decay: decoupled, of groups that give none.
        adamw_scale: AdamW's learning rate as a multiple of the group's, since it wants a smaller one.

    Source: Jordan et al., "Muon", kellerjordan.github.io/posts/muon (2024); the factor from Liu et al., 2502.16982,
    section 2.2.

    Raises:
        ConfigError: a vector in a group for matrices.

    >>> weight = nn.Parameter(torch.eye(2))
    >>> optimizer = Muon([{"params": [weight], "momentum": 0.0}], lr=0.5)
    >>> weight.sum().backward()
    >>> optimizer.step()
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.06, weight_decay: float = 0.0, adamw_scale: float = 1 / 6):
        self.adamw_scale = adamw_scale
        self._directions: Callable[[Sequence[Tensor]], Sequence[Tensor]] = _directions
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    state_dict, load_state_dict = _undecorated("state_dict"), _undecorated("load_state_dict")
    zero_grad = _undecorated("zero_grad")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one without ``momentum`` gets AdamW's ``betas`` and ``eps`` where it has none."""
        _undecorated("add_param_group")(self, param_group)
        group = self.param_groups[-1]
        if "momentum" not in group:
            group.setdefault("betas", (0.9, 0.99))
            group.setdefault("eps", 1e-8)
        elif any(p.ndim < 2 for p in group["params"]):
            raise ConfigError(
                "Muon takes parameters of two or more dimensions; put vectors in a group without momentum"
            )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update from the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        matrices = [(group, [p for p in params if p.numel()]) for group, params in groups if "momentum" in group]
        matrices = [(group, params) for group, params in matrices if params]
        directions = iter(self._directions([average for one in matrices for average in self._averages(*one)]))
        for group, params in matrices:
            _foreach_add_(params, [*islice(directions, len(params))], alpha=-float(group["lr"]))
        for group, params in groups:
            if params and "momentum" not in group:
                self._adamw_step(params, group)
        return loss

    def compile(self, **options: Any) -> None:
        """Have ``torch.compile`` with these options make the directions of all matrices together, of one set of shapes.

        Learning rates, momentum and weight decay, which change from update to update, are not in what is compiled.
        """
        torch.compiler.assume_constant_result(_fast_in_half)
        self._directions = torch.compile(_directions, fullgraph=True, dynamic=False, **options)

    def _averages(self, group: dict[str, Any], params: list[Tensor]) -> Sequence[Tensor]:
        """The Nesterov momentum of the matrices of a group, after their decay."""
        mu, gradients = float(group["momentum"]), cast(list[Tensor], [p.grad for p in params])
        for parameter in params:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        _foreach_lerp_(buffers, gradients, 1 - mu)
        if group["weight_decay"]:
            _foreach_mul_(params, 1 - float(group["lr"]) * group["weight_decay"])
        return _foreach_lerp(gradients, buffers, mu)

    def _adamw_step(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        for parameter, state in zip(params, states, strict=True):
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        fused = params[0].device.type in ("cpu", "cuda") and not any(p.is_complex() for p in params)
        adamw(
            [*params], [p.grad for p in params if p.grad is not None], [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states],
            fused=fused, amsgrad=False, beta1=first, beta2=second,
            lr=self.adamw_scale * group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)
_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, *_LOOK_UPS)


def _directions(averages: Sequence[Tensor]) -> list[Tensor]:
    """What parameters move along, for a learning rate of 1, by their Nesterov momentum [out, ...]."""
    directions = list(averages)
    for some in _alike(averages):
        made = _orthogonal_all([averages[i].flatten(1) for i in some])
        for i, direction in zip(some, made, strict=True):
            directions[i] = direction.view_as(averages[i])
    return directions


def _alike(averages: Sequence[Tensor]) -> Iterator[list[int]]:
    """Which of them have matrices of one shape, lying or standing; of small ones as many together as fit a cache."""
    kinds: dict[Any, list[int]] = {}
    for i, p in enumerate(averages):
        shape = sorted((p.shape[0], p.numel() // max(1, p.shape[0])))
        kinds.setdefault((*shape, p.dtype, p.device), []).append(i)
    for (m, n, _, device), some in kinds.items():
        most = max(1, TOGETHER.get(device.type, TOGETHER["cuda"]) // max(1, m * n))
        yield from (some[i : i + most] for i in range(0, len(some), most))


def _orthogonal_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of matrices of one shape, lying or standing, in the size of Adam's updates."""
    size = 0.2 * math.sqrt(max(matrices[0].shape))
    if len(matrices) == 1:
        return [orthogonal(matrices[0]).mul_(size)]
    lying = orthogonal(torch.stack([_lying(matrix) for matrix in matrices])).mul_(size)
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
    narrow = x.dtype in (torch.float32, torch.bfloat16) and m >= HALF_FROM and _fast_in_half(x.device.type)
    x = x.bfloat16() if narrow else x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    x = x / (_norm(x) + EPS)
    gram = x @ x.mH
    # The root of the sum of the singular values' fourth powers bounds the square of the largest.
    scale = MARGIN / _norm(gram).clamp_min(1 / m)
    gram, x = gram * scale, x * scale.sqrt()
    x = _iterated(x, gram) if narrow or n < 2 * m else _of_gram(gram) @ x
    x = x.to(matrix.dtype)
    return x if _lying(matrix) is matrix else x.mH


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


def _fast_in_half(device: str) -> bool:
    """Whether bfloat16 is faster than float32 in products of large matrices."""
    return _bf16_is_fast(device)  # a function of its own, which torch.compile can take for a constant


@cache
def _bf16_is_fast(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are weights, not biases, scales or shifts of whatever shape.

    Weights have two or more dimensions longer than 1, or are the ``weight`` of a linear, convolutional or embedding
    layer: the gains of a weight norm, [n, 1, 1], and biases of shape [1, n] are none.

    >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    >>> [tuple(p.shape) for p in weights_of(nn.Sequential(layer, nn.Linear(2, 1)))]
    [(2, 3), (1, 2)]
    """
    weights: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            named = name == "weight" and isinstance(module, _LAYERS)
            if p.ndim > 1 and (named or sum(length > 1 for length in p.shape) > 1):
                weights[id(p)] = p
    return list(weights.values())


def embedded_in(model: nn.Module) -> set[int]:
    """The ids of the weights of embeddings, which are looked up, and not multiplied with."""
    return {id(module.weight) for module in model.modules() if isinstance(module, _LOOK_UPS)}


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon is for: weights (see `weights_of`), neither an embedding nor in the last such layer.

    >>> [tuple(p.shape) for p in inner_matrices(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))]
    [(2, 3)]
    """
    embedded = embedded_in(model)
    others = [module for module in model.modules() if not isinstance(module, _LOOK_UPS)]
    weights = {id(p) for p in weights_of(model)}
    layers = [[p for p in module.parameters(recurse=False) if id(p) in weights] for module in others]
    layers = [params for params in layers if params]
    return [p for p in dict.fromkeys(p for params in layers[:-1] for p in params) if id(p) not in embedded]

"""Muon: momentum whose update is made orthogonal, for the matrices inside a network; AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from ..errors import ConfigError

# Of the quintic iteration; from the reference below.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


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
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one without ``momentum`` gets AdamW's ``betas`` and ``eps`` where it has none."""
        super().add_param_group(param_group)
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
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if "momentum" in group:
                for parameter in params:
                    self._orthogonal_step(parameter, parameter.grad, group)
            elif params:
                self._adamw_step(params, group)
        return loss

    def _orthogonal_step(self, parameter: nn.Parameter, gradient: Any, group: dict[str, Any]) -> None:
        mu = float(group["momentum"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1 - mu)
        matrix = gradient.lerp(average, mu).flatten(1)
        lr, size = float(group["lr"]), 0.2 * math.sqrt(max(matrix.shape))
        if group["weight_decay"]:
            parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(orthogonal(matrix).view_as(parameter), alpha=-lr * size)

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


_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """A matrix with the singular vectors of `matrix` [m, n] and singular values near 1 (about 0.7 to 1.2).

    Newton-Schulz iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X^H``, from X scaled to norm 1.

    >>> values = torch.linalg.svdvals(orthogonal(torch.randn(4, 9, generator=torch.Generator().manual_seed(0))))
    >>> bool((values > 0.5).all() and (values < 1.5).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mH if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mH
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mH if tall else x


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


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon is for: weights (see `weights_of`), neither an embedding nor in the last such layer.

    >>> [tuple(p.shape) for p in inner_matrices(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))]
    [(2, 3)]
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    embedded = {id(module.weight) for module in embeddings}
    others = [module for module in model.modules() if module not in embeddings]
    weights = {id(p) for p in weights_of(model)}
    layers = [[p for p in module.parameters(recurse=False) if id(p) in weights] for module in others]
    layers = [params for params in layers if params]
    return [p for p in dict.fromkeys(p for params in layers[:-1] for p in params) if id(p) not in embedded]

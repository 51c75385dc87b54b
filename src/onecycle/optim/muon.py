"""Muon: momentum whose update is made orthogonal, for the matrices inside a network; AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, _foreach_add_, _foreach_lerp, _foreach_lerp_, _foreach_mul_, nn  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from ..errors import ConfigError
from .orthogonal import fast_in_half, matrix_shape, orthogonal_each
from .shared import Sharing, local


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

    Parameters that are sharded over ranks (DTensors, as FSDP2 makes them) keep their states as such: each rank makes a
    part of the matrices orthogonal, from the shards of all, and gives each rank its shards back. Where every rank has
    them whole, see `share`.

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
        self._begin()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def _begin(self) -> None:
        self._orthogonal: Callable[[Sequence[Tensor]], Sequence[Tensor]] = orthogonal_each
        self._sharing = Sharing()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "adamw_scale": self.adamw_scale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state, of a copy too, which is neither compiled nor shared."""
        super().__setstate__(state)
        if "_sharing" not in vars(self):
            self._begin()

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
        directions = iter(self._directions(matrices))
        for group, params in matrices:
            _foreach_add_([*map(local, params)], [*islice(directions, len(params))], alpha=-float(group["lr"]))
        for group, params in groups:
            if params and "momentum" not in group:
                self._adamw_step(params, group)
        return loss

    def compile(self, **options: Any) -> None:
        """Have ``torch.compile`` with these options make the directions of all matrices together, of one set of shapes.

        Learning rates, momentum and weight decay, which change from update to update, are not in what is compiled. On
        several ranks each compiles its own part.
        """
        torch.compiler.assume_constant_result(fast_in_half)
        self._orthogonal = torch.compile(orthogonal_each, fullgraph=True, dynamic=False, **options)

    def share(self, group: Any) -> None:
        """Have each rank make a part of the directions of whole matrices, and gather them; None: each makes them all.

        Every rank takes the same steps with the same gradients then, as under DistributedDataParallel. All have the
        same directions, to the bit, and the state of one rank. What would be made sooner than gathered each rank makes
        by itself, by the shapes. Call it on all ranks.

        Args:
            group: a process group of torch.distributed, whose backend takes tensors where the parameters are.

        >>> optimizer = Muon([{"params": [nn.Parameter(torch.eye(2))], "momentum": 0.0}])
        >>> optimizer.share(None)
        """
        self._sharing = Sharing(group)

    def _directions(self, matrices: Sequence[tuple[dict[str, Any], list[Tensor]]]) -> list[Tensor]:
        """What the matrices of groups move along, for a learning rate of 1, in the size of Adam's updates."""
        params = [p for _, some in matrices for p in some]
        averages = [average for group, some in matrices for average in self._averages(group, some)]
        directions = self._sharing.orthogonal(params, averages, self._orthogonal)
        if directions:
            _foreach_mul_(directions, [0.2 * math.sqrt(max(matrix_shape(p))) for p in params])
        return directions

    def _averages(self, group: dict[str, Any], params: list[Tensor]) -> Sequence[Tensor]:
        """The Nesterov momentum of the matrices of a group, after their decay."""
        mu, gradients = float(group["momentum"]), [local(p.grad, like=p) for p in params]
        for parameter in params:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [local(self.state[p]["momentum_buffer"]) for p in params]
        _foreach_lerp_(buffers, gradients, 1 - mu)
        if group["weight_decay"]:
            _foreach_mul_([*map(local, params)], 1 - float(group["lr"]) * group["weight_decay"])
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
            [*map(local, params)], [local(p.grad, like=p) for p in params], [local(s["exp_avg"]) for s in states],
            [local(s["exp_avg_sq"]) for s in states], [], [s["step"] for s in states],
            fused=fused, amsgrad=False, beta1=first, beta2=second,
            lr=self.adamw_scale * group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)
_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, *_LOOK_UPS)


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

"""What a range test must not change, as plain data that compares by ==."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from training_makers import global_generators


def plain(value: Any) -> Any:
    """Tensors as their bytes, so that NaN equals NaN and nothing is rounded."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1)
        return "tensor", str(value.dtype), tuple(value.shape), bytes(flat.view(torch.uint8).tolist())
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value).__name__, [plain(v) for v in value]
    return value


def snapshot(modules: Sequence[nn.Module], optimizers: Sequence[Optimizer], keep: Sequence[Any] = ()) -> dict[str, Any]:
    """Everything that a training changes; tensors by identity too, since optimizers and compiled graphs hold them."""
    parameters = [p for module in modules for p in module.parameters()]
    buffers = [(name, b) for module in modules for name, b in module.named_buffers()]
    return {
        "weights": [(id(p), plain(p)) for p in parameters],
        "gradients": [(id(p.grad), plain(p.grad)) if p.grad is not None else None for p in parameters],
        "trained": [p.requires_grad for p in parameters],
        "buffers": [(name, id(b), plain(b)) for name, b in buffers],
        "modes": [part.training for module in modules for part in module.modules()],
        "state": [plain(optimizer.state_dict()["state"]) for optimizer in optimizers],
        "settings": [plain(optimizer.state_dict()["param_groups"]) for optimizer in optimizers],
        "lr objects": [id(g["lr"]) for o in optimizers for g in o.param_groups if isinstance(g["lr"], Tensor)],
        "hooks": [len(optimizer._optimizer_step_post_hooks) for optimizer in optimizers],
        "keep": [plain(thing.state_dict()) for thing in keep],
        "generators": global_generators(),
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return [name for name in before if before[name] != after[name]]


class Counter:
    """A piece of a step's own state that can be put back."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]

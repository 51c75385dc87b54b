"""A parameter with a gradient, a policy of two values, and what they are in an optimizer."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from onecycle.schedules.piecewise import Piecewise
from onecycle.schedules.policy import Policy

DOWN = Piecewise(((0, 1.0), (1, 0.0)))
CYCLED = Policy({"lr": DOWN, "momentum": Piecewise(((0, 0.8), (1, 0.4)))})


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    return p


def column(optimizer: Optimizer, key: str) -> list:
    return [group[key] for group in optimizer.param_groups]

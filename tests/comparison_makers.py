"""What the comparisons of the tests have in common."""

from __future__ import annotations

GIVEN = {
    "model": "mlp",
    "limit": 160,
    "batch_size": 64,
    "optimizer": "sgd",
    "policies": ["one_cycle", "step"],
    "verbose": False,
}

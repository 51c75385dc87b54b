"""The command that shows a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .. import checks, text
from .options import Json, Whole
from .options import momentum as momentum_of
from .printing import print_json, print_table

if TYPE_CHECKING:
    from ..schedules.policy import Policy


def policy(
    name: str = "one_cycle",
    *,
    lr_max: float = 0.1,
    epochs: float = 10,
    steps_per_epoch: Whole = 100,
    momentum: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """See a schedule before running it.

    Parameters
    ----------
    name
        one_cycle, paper, author, fastai, torch, clr, wsd, step, cosine, linear, constant or extension.
    lr_max
        Peak learning rate.
    epochs
        Length of the run.
    steps_per_epoch
        Updates an epoch.
    momentum
        One number, or HIGH,LOW to cycle it.
    out
        Draw it into this file: .png, .svg or .pdf.
    """
    from ..schedules.budget import Budget
    from ..schedules.presets import preset

    per_epoch = checks.whole("--steps-per-epoch", steps_per_epoch)
    updates = Budget(epochs=epochs).total_updates(per_epoch) or 1
    made = preset(name, lr_max, updates, **({} if momentum is None else {"momentum": momentum_of(momentum)}))
    figure = None
    if out is not None:
        from ..report.matplotlib import save

        figure = str(save(made.plot(updates, updates_per_epoch=per_epoch, title=f"{name}, peak {lr_max:g}"), out))
    if json:
        print_json({"name": name, "updates": updates, "policy": made.to_dict(), "figure": figure})
        return
    print_table(["update", "epoch", *made.schedules], _values(made, updates, per_epoch))
    if figure:
        print(f"drawn in {figure}")


def _values(policy: Policy, updates: int, per_epoch: int) -> list[list[str]]:
    """The values at the first and the last update and at the points between."""
    from ..schedules.policy import position

    points = {x for s in policy.schedules.values() for x, _ in getattr(s, "points", ()) if 0 <= x <= 1}
    steps = sorted({0, updates - 1, *(round(x * (updates - 1)) for x in points)})
    return [
        [f"{step:,}", f"{step / per_epoch:.2f}", *map(text.number, policy(position(step, updates)).values())]
        for step in steps
    ]

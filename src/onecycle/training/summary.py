"""What a model is, layer by layer, as plain data: seen in one pass of a few samples."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .objectives import pair
from .probe import Positions, outputs_of
from .restore import untouched
from .runtime import Runtime
from .sharded import has_shards
from .step import samples_in

# Of more layers the first and the last are kept.
FIRST, LAST = 70, 30


def model_summary(model: nn.Module, batch: Any, runtime: Runtime) -> dict[str, Any]:
    """The layers of a model in the order in which they are run for the inputs of a batch, and totals.

    A layer is a module with parameters of its own, or one without modules in it whose output has another shape than its
    input; how many others there are is ``others``. Each has its ``name`` and ``kind``, the ``shape`` of its output
    without the batch's dimension where it is a tensor, ``parameters`` and, for a sample, ``flops``: two for each
    multiplication with a weight, counted as by `Positions`. What activations are multiplied with each other, as in
    attention, is not counted. ``left_out`` layers of a long list are not kept, and without a pass that the model takes
    there is the ``reason`` in place of layers. The model is as before.
    """
    known = {id(p): p for p in model.parameters()}.values()
    summary: dict[str, Any] = {
        "parameters": sum(p.numel() for p in known),
        "trained": sum(p.numel() for p in known if p.requires_grad),
    }
    if has_shards(model):
        return {**summary, "reason": "the model is in shards"}
    names, rows = {module: name for name, module in model.named_modules()}, dict[nn.Module, dict[str, Any]]()
    try:
        with untouched([], []), ExitStack() as stack:
            for module in names:
                stack.callback(module.register_forward_hook(_Seen(rows, names)).remove)
            with Positions(model) as counted:
                outputs_of(model, pair(batch)[0], runtime)
    except Exception as error:  # it is for the training to meet
        return {**summary, "reason": f"it does not take a batch by itself: {type(error).__name__}"}
    flops = {p: 2 * times * p.numel() for p, times in counted.of_a_sample(batch).items()}
    for module, row in rows.items():
        row["flops"] = round(sum(flops.get(p, 0.0) for p in module.parameters(recurse=False)))
    layers = [row for row in rows.values() if row.pop("listed")]
    cut = len(layers) - FIRST - LAST
    return {
        **summary,
        "flops": round(sum(flops.values())),
        "samples": samples_in(batch),
        "others": len(rows) - len(layers),
        "layers": layers if cut <= 0 else [*layers[:FIRST], *layers[-LAST:]],
        **({"left_out": cut, "left_out_after": FIRST} if cut > 0 else {}),
    }


class _Seen:
    """Takes down each module at its first call."""

    def __init__(self, rows: dict[nn.Module, dict[str, Any]], names: dict[nn.Module, str]):
        self._rows, self._names = rows, names

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        own = list(module.parameters(recurse=False))
        if module in self._rows or (not own and any(True for _ in module.children())):
            return
        out = next((one for one in (output if isinstance(output, tuple | list) else [output])), None)
        shape = list(out.shape[1:]) if isinstance(out, Tensor) else None
        given = inputs[0].shape[1:] if inputs and isinstance(inputs[0], Tensor) else torch.Size()
        self._rows[module] = {
            "name": self._names[module],
            "kind": type(module).__name__,
            "shape": shape,
            "parameters": sum(p.numel() for p in own),
            "listed": bool(own) or shape != list(given),
        }

"""What a run that is begun in Python keeps so that its model can predict from its folder alone."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from ..data.hub import HubDataset


def needed_to_predict(model: nn.Module, data: Any, batches: Any, normalise: Any, loss: Any) -> dict[str, Any]:
    """How to make the model again, prepare its inputs and read its outputs, as plain data.

    Args:
        model: one of `onecycle.build_model` knows how it was made; of others that is None.
        data: of `onecycle.load`, or None; then shape and channels are those of the training `batches`.
        normalise: the transform of images, with mean and std, or None.
        loss: whose form says what the outputs are.
    """
    form = getattr(loss, "form", None)
    tensors, dataset = getattr(batches, "tensors", None), getattr(batches, "dataset", None)
    of_images = dataset.shape if isinstance(dataset, HubDataset) else None  # that of others may be anything
    shape = tuple(tensors[0].shape[1:]) if tensors else of_images
    kind = "image" if getattr(normalise, "mean", ()) or of_images else "array"
    columns = getattr(data, "columns", None)
    return {
        "kind": kind if data is None else data.kind,
        "input_shape": shape if data is None else data.input_shape,
        "classes": None if data is None else data.classes,
        "mean": getattr(normalise, "mean", ()),
        "std": getattr(normalise, "std", ()),
        "seen": getattr(data, "seen", None),
        "fit": getattr(data, "fit", "crop"),
        "columns": columns.to_dict() if columns else None,
        "form": getattr(form, "kind", "free"),
        "class_axis": getattr(form, "class_axis", 1),
        "activation": getattr(form, "activation", ""),
        "model": _plain(getattr(model, "recipe", None)),
    }


def _plain(recipe: Any) -> Any:
    """The recipe, or None where its options are no plain data."""
    try:
        return json.loads(json.dumps(recipe))
    except TypeError:
        return None

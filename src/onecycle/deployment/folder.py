"""A run as a folder for others: weights, record, labels and a model card. `onecycle.load_run` reads it as any run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.batches import ImageTransform
from ..data.text_tokens import TextTokens
from ..jobs.predict import TrainedModel
from ..records.checkpoint import save_weights
from ..records.files import RUN, replace_text, write_json
from .card import Card, Details

CARD, CONFIG, PREPROCESSOR, TOKENIZER = "README.md", "config.json", "preprocessor_config.json", "tokenizer.json"


def write(
    folder: Path,
    trained: TrainedModel,
    record: Mapping[str, Any],
    about: Mapping[str, Any],
    details: Details,
    figure: Path,
) -> None:
    """Write the folder of a trained model.

    Args:
        folder: that is made.
        trained: on the CPU.
        record: the ``run.json`` as others may see it.
        about: the description of the model.
        details: for the card.
        figure: of the run, for the card too where it is there.
    """
    folder.mkdir(parents=True)
    save_weights(trained.model, folder / "model.safetensors", {"format": "pt"})
    RUN.write(folder, {name: value for name, value in record.items() if name != "schema"})
    labels = {str(i): name for i, name in enumerate(trained.classes or ())}
    names = {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}} if labels else {}
    architecture = type(trained.model).__name__
    write_json(folder / CONFIG, {"library_name": "onecycle", "architectures": [architecture], **names, **about})
    if isinstance(trained.batching.normalise, ImageTransform) and trained.input_shape is not None:
        write_json(folder / PREPROCESSOR, _preprocessor(trained.batching.normalise, trained.input_shape, trained.fit))
    if isinstance(trained.columns, TextTokens):
        replace_text(folder / TOKENIZER, trained.columns.standalone())
    if figure.exists():
        shutil.copy(figure, folder / figure.name)
    replace_text(folder / CARD, Card(record, trained, details, figure.name if figure.exists() else None).text())


def is_exported(folder: Path) -> bool:
    """Whether `write` made this folder."""
    return RUN.exists(folder) and (folder / CARD).exists() and (folder / CONFIG).exists()


def _preprocessor(change: ImageTransform, shape: tuple[int, ...], fit: str) -> dict[str, Any]:
    """What is done to images, in the words of image processors; `fit` says how they are brought to the size."""
    return {
        "do_resize": True, "size": {"height": shape[1], "width": shape[2]}, "fit": fit, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(change.mean), "image_std": list(change.std),
    }  # fmt: skip

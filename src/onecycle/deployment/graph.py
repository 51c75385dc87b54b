"""A trained model as one module from raw inputs to predictions: what is exported, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..data.arrays import as_tensor
from ..data.batches import ImageTransform
from ..data.seeds import derive_seed
from ..data.standardise import InputTransform
from ..data.table_columns import TableColumns, squeezed
from ..data.text_tokens import SPECIAL, TextTokens
from ..errors import ConfigError
from ..jobs.predict import TrainedModel
from ..training.evaluate import called
from ..training.probe import described
from ..training.runtime import weights_dtype

BATCH = "batch"
"""The name of the dimension of samples, the only one that may change."""


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph: its name, type, the shape of one sample, and what it is in words.

    `draw` makes so many samples, like those of training as far as that is known.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    about: str
    draw: Callable[[int, torch.Generator], Tensor]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "dtype": named(self.dtype), "shape": [BATCH, *self.shape], "about": self.about}


class PredictionGraph(nn.Module):
    """From raw inputs to what `TrainedModel.predict` gives, in float32.

    Inside are what the inputs go through (an image's normalising, an array's standardising, a table's medians and
    scales), the model, softmax or sigmoid, and the way back to the units of the targets.

    Args:
        trained: on the CPU.
        example: samples as the model takes them, a tensor or a dictionary of tensors; needed where the run does not
            know the shape of its inputs.

    Raises:
        ConfigError: an example that is needed and missing, or one that cannot be used.
    """

    def __init__(self, trained: TrainedModel, example: Any = None):
        super().__init__()
        self.model = trained.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.inputs, self.before = _front(trained, example)
        self._form, self._scale, self._predict = trained.form, trained.scale, trained.predict

    def forward(self, *inputs: Tensor) -> Any:
        outputs = pytree.tree_map_only(Tensor, _precise, called(self.model, self.before(*inputs)))
        outputs = self._form.predict(outputs)
        return outputs if self._scale is None else self._scale.inverse(outputs)

    @property
    def probabilities(self) -> bool:
        """Whether the outputs are such."""
        return bool(self._form.activation)

    def samples(self, n: int, seed: int = 0) -> tuple[Tensor, ...]:
        """So many samples for all inputs, drawn from a generator with this seed."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "export", n))
        return tuple(each.draw(n, generator) for each in self.inputs)

    def predicted(self, inputs: Sequence[Tensor]) -> Any:
        """What `TrainedModel.predict` gives for the same samples."""
        return self._predict(self.before.as_trained(*inputs))


class _Single(nn.Module):
    """One input, changed as in training."""

    def __init__(self, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self._change = change

    def forward(self, x: Tensor) -> Any:
        return self._change(x)

    def as_trained(self, x: Tensor) -> Any:
        """As `TrainedModel.predict` takes it."""
        return x


class _Named(nn.Module):
    """Several inputs that the model takes by name."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self._names = tuple(names)

    def forward(self, *inputs: Tensor) -> Any:
        return dict(zip(self._names, inputs, strict=True))

    def as_trained(self, *inputs: Tensor) -> Any:
        """As `TrainedModel.predict` takes them."""
        return self.forward(*inputs)


class _Row(nn.Module):
    """The numbers of a table, NaN where missing, and the codes of its categories as a row of `TableColumns.rows`."""

    median: Tensor
    center: Tensor
    scale: Tensor
    flagged: Tensor

    def __init__(self, columns: TableColumns):
        super().__init__()
        self._columns = columns
        for name in ("median", "center", "scale"):
            values = [getattr(column, name) for column in columns.numbers]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        flagged = [i for i, column in enumerate(columns.numbers) if column.flag]
        self.register_buffer("flagged", torch.tensor(flagged, dtype=torch.int64))

    def forward(self, *inputs: Tensor) -> Tensor:
        parts: list[Tensor] = []
        if self._columns.numbers:
            numbers, inputs = inputs[0], inputs[1:]
            missing = numbers.isnan()
            known = torch.where(missing, self.median, numbers)
            parts = [squeezed((known - self.center) / self.scale)]
            parts += [missing[:, self.flagged]] if len(self.flagged) else []
        return torch.cat([part.float() for part in (*parts, *inputs)], 1)

    def as_trained(self, *inputs: Tensor) -> Tensor:
        """As `TrainedModel.predict` takes them: rows that `TableColumns` encoded."""
        nothing = np.empty((len(inputs[0]), 0))
        numbers = inputs[0].numpy() if self._columns.numbers else nothing
        return self._columns.rows(numbers, inputs[-1].numpy() if self._columns.categories else nothing)


def _front(trained: TrainedModel, example: Any) -> tuple[tuple[GraphInput, ...], Any]:
    """The inputs of a graph, and the module that brings them to what the model takes."""
    columns = trained.columns
    if example is not None and (columns is not None or trained.kind == "text"):
        raise ConfigError(f"this run knows its inputs ({trained.kind}): leave out example")
    if isinstance(columns, TableColumns):
        return _table_inputs(columns), _Row(columns)
    if columns is not None or trained.kind == "text":
        return (_tokens(trained),), _Single(lambda ids: ids)
    if isinstance(example, Mapping):
        tensors = {str(name): as_tensor(value) for name, value in example.items()}
        return tuple(_of_example(name, value) for name, value in tensors.items()), _Named(list(tensors))
    change = trained.batching.normalise
    if isinstance(change, ImageTransform):
        return (_images(trained, change),), _Single(lambda images: change((images,), torch.Generator())[0])
    dtype = change.dtype if isinstance(change, InputTransform) else weights_dtype(trained.model)
    if example is not None:
        if not hasattr(example, "shape") or len(example.shape) < 1 or not len(example):
            raise ConfigError(
                f"example is a tensor of samples or a dictionary of tensors; received {described(example)}"
            )
        given = _of_example("inputs", as_tensor(example))
    else:
        given = _array(trained, change, dtype)
    return (given,), _Single(lambda x: _changed(x, change, dtype))


def _changed(x: Tensor, change: Any, dtype: torch.dtype | None) -> Tensor:
    """An array as the model takes it."""
    if isinstance(change, InputTransform):
        return change((x,))[0]
    return x.to(dtype) if dtype is not None and x.is_floating_point() else x


def _images(trained: TrainedModel, change: ImageTransform) -> GraphInput:
    """Images uint8 [c, h, w], drawn with mean and spread of those of training."""
    if trained.input_shape is None:
        raise _unknown_shape()
    mean, std = (torch.tensor(values)[:, None, None] for values in (change.mean, change.std))

    def draw(n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, *trained.input_shape or (), generator=generator)
        return ((noise * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    channels = {1: "grey", 3: "red, green, blue"}.get(trained.input_shape[0], f"{trained.input_shape[0]} channels")
    return GraphInput("images", torch.uint8, trained.input_shape, f"pixels from 0 to 255, {channels}", draw)


def _array(trained: TrainedModel, change: Any, dtype: torch.dtype | None) -> GraphInput:
    """An array of the run's shape: codes where the model takes no other numbers, else floating-point numbers."""
    shape = trained.input_shape
    if shape is None:
        raise _unknown_shape()
    scale = getattr(change, "scale", None)
    if not isinstance(change, InputTransform) and _takes_codes(trained.model, shape):
        return GraphInput("inputs", torch.int64, shape, "codes", lambda n, _: torch.zeros(n, *shape, dtype=torch.int64))
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def draw(n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, *shape, generator=generator)
        noise = noise.sigmoid() if trained.kind == "image" else noise
        return (noise if scale is None else scale.inverse(noise)).to(wide)

    about = "images from 0 to 1" if trained.kind == "image" else "numbers as they are"
    return GraphInput("images" if trained.kind == "image" else "inputs", wide, shape, about, draw)


def _takes_codes(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a model with an embedding computes for whole numbers, and not for others."""
    if not any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()):
        return False
    with torch.no_grad():
        try:
            model(torch.zeros(2, *shape))
        except Exception:  # whatever the model raises for inputs that it is not made for
            return True
    return False


def _of_example(name: str, values: Tensor) -> GraphInput:
    """An input like the samples that were given, which are drawn from them."""

    def draw(n: int, generator: torch.Generator) -> Tensor:
        return values[torch.randint(len(values), (n,), generator=generator)].contiguous()

    return GraphInput(name, values.dtype, tuple(values.shape[1:]), "as in the example", draw)


def _tokens(trained: TrainedModel) -> GraphInput:
    """The tokens of texts, padded at the end; or the codes of characters."""
    columns, length = trained.columns, (trained.input_shape or (1,))[0]
    if not isinstance(columns, TextTokens):
        many = len(trained.classes or ()) or 1
        about = "codes of characters, by their place among the classes"
        return GraphInput(
            "codes", torch.int64, (length,), about, lambda n, g: torch.randint(many, (n, length), generator=g)
        )
    many = columns.vocabulary

    def draw(n: int, generator: torch.Generator) -> Tensor:
        ids = torch.randint(len(SPECIAL), max(many, len(SPECIAL) + 1), (n, columns.length), generator=generator)
        if not columns.source:
            ids[:, 0] = SPECIAL.index("[START]")
        lengths = torch.randint(1, columns.length + 1, (n, 1), generator=generator)
        return ids.where(torch.arange(columns.length) < lengths, columns.pad).clamp(max=many - 1)

    about = f"tokens of a text, the first {columns.length}, {columns.pad} after its end; by the tokenizer beside"
    return GraphInput("ids", torch.int64, (columns.length,), about, draw)


def _table_inputs(columns: TableColumns) -> tuple[GraphInput, ...]:
    """The numbers and the codes of a table's columns, whichever it has."""

    def numbers(n: int, generator: torch.Generator) -> Tensor:
        center, scale = (torch.tensor([getattr(c, name) for c in columns.numbers]) for name in ("center", "scale"))
        drawn = torch.randn(n, len(columns.numbers), generator=generator).double() * scale + center
        flagged = torch.tensor([column.flag for column in columns.numbers])
        return drawn.masked_fill((torch.rand(drawn.shape, generator=generator) < 0.2) & flagged, torch.nan)

    def codes(n: int, generator: torch.Generator) -> Tensor:
        return torch.stack([torch.randint(many, (n,), generator=generator) for many in columns.cardinalities], 1)

    inputs = [
        GraphInput("numbers", torch.float64, (len(columns.numbers),), "of the columns, NaN where missing", numbers),
        GraphInput("codes", torch.int64, (len(columns.categories),), "0 unknown, 1 missing, i + 2 the value i", codes),
    ]
    return tuple(each for each in inputs if each.shape[0])


def named(dtype: torch.dtype) -> str:
    """A type by its name.

    >>> named(torch.uint8)
    'uint8'
    """
    return str(dtype).removeprefix("torch.")


def _precise(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.is_floating_point() and outputs.itemsize < 4 else outputs


def _unknown_shape() -> ConfigError:
    return ConfigError(
        "this run does not know the shape of its inputs, which came in batches: give some, export(..., example=x), a "
        "tensor of samples or a dictionary of tensors"
    )

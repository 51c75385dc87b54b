"""The model and the samples behind predictions, to be looked at again: names, pictures, heat maps, importance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batches
from ..data.by_number import as_seen, inputs_of
from ..data.splits import about_sample
from ..data.table_columns import TableColumns
from ..errors import ConfigError
from ..records.predictions import Predictions
from ..training.evaluate import evaluating, predict
from ..training.runtime import Runtime
from ..training.setup import TrainingSetup
from ..training.state import TrainState
from .heat_maps import heat_maps
from .importance import REPEATS, ColumnImportance, permutation_importance, places_of
from .made import outputs_as
from .pictures import is_picture

AT_A_TIME = 1024  # rows that are predicted for at once


@dataclass(frozen=True, eq=False)
class Looked:
    """A `model` with what it was evaluated on.

    Attributes:
        batches: of the samples, in order.
        data: what they were made of, which may know their names.
        loss: which says what outputs and targets are.
        averaged: a block within which the model has the weights that are to be looked at.
        columns: of a table, or else what a model of texts reads.
        whole: whether this process has all of the model.
    """

    model: nn.Module
    batches: Batches
    data: Any
    loss: Any
    runtime: Runtime
    averaged: Callable[[], AbstractContextManager[None]]
    columns: Any = None
    whole: bool = True

    @classmethod
    def of(cls, model: nn.Module, state: TrainState, setup: TrainingSetup, batches: Batches, data: Any) -> Looked:
        """Of a `model` that is trained in a `state`, and `batches` of `data` that its `setup` made."""
        columns = getattr(setup.source, "columns", None)
        return cls(
            model, batches, data, state.loss, state.runtime, state.averaged, columns, not state.is_sharded
        )  # fmt: skip

    def about(self, number: int) -> dict[str, Any]:
        """What is known of the sample with this number."""
        return about_sample(self.data, number)

    def images(self, numbers: Sequence[int]) -> Tensor | None:
        """The samples with these numbers as images [n, c, h, w]; None where they are none, or cannot be asked for."""
        inputs = inputs_of(self.batches, numbers) if numbers else None
        return inputs if inputs is not None and is_picture(tuple(inputs.shape[1:])) else None

    def heat_maps(self, images: Tensor, outputs: Sequence[int]) -> list[Tensor] | str:
        """See `onecycle.interpretation.heat_maps.heat_maps`; or why there are none."""
        if not self.whole:
            return "the model is in shards"
        with self.averaged(), evaluating(self.runtime, self.model), self.runtime.autocast():
            return heat_maps(self.model, self.runtime.move(as_seen(self.batches, images)), outputs)

    def importance(
        self,
        predictions: Predictions,
        repeats: int = REPEATS,
        most: int | None = None,
        seconds: float | None = None,
    ) -> list[ColumnImportance]:
        """The importance of each column of a table, on at most so many of its rows, and within about so many seconds.

        Raises:
            ConfigError: the samples are no rows of a table, or it would take longer.
        """
        chosen = np.arange(len(predictions))
        if most is not None and len(chosen) > most:
            chosen = np.linspace(0, len(chosen) - 1, most).astype(np.int64)
        rows = inputs_of(self.batches, predictions.numbers[chosen].tolist()) if self.whole else None
        table = isinstance(self.columns, TableColumns)
        if rows is None or rows.ndim != 2 or not (table or (self.columns is None and rows.is_floating_point())):
            raise ConfigError("importance is of the columns of a table, and these samples are no rows of one")
        some = replace(predictions, targets=predictions.targets[chosen], numbers=predictions.numbers[chosen])
        columns = places_of(self.columns, rows.shape[1])

        def predicted(rows: np.ndarray) -> Predictions:
            return replace(some, outputs=outputs_as(some.kind, self._outputs(torch.from_numpy(rows)), self.loss))

        begun, passes = time.perf_counter(), 1 + repeats * len(columns)
        predicted(rows.cpu().numpy())
        if seconds is not None and (took := passes * (time.perf_counter() - begun)) > seconds:
            raise ConfigError(f"the importance of {len(columns)} columns takes about {took:.1f} s: ask for it")
        return permutation_importance(rows.cpu().numpy(), columns, predicted, repeats)

    def _outputs(self, rows: Tensor) -> Tensor:
        parts = rows.to(self.runtime.device).split(AT_A_TIME)
        with self.averaged():
            return predict(self.model, [as_seen(self.batches, part) for part in parts], self.runtime)

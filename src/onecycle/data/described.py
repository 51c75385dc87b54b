"""What the samples of a split were: the file, the row or the text that each was made from, see `Split`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CELLS, LONGEST = 40, 400  # of a row that are told, and characters of a text


@dataclass(frozen=True)
class NamedBy:
    """Samples of which the name alone is told."""

    name: Callable[[int], str]

    def __call__(self, i: int) -> dict[str, Any]:
        return {"name": self.name(i)}


@dataclass(frozen=True, eq=False)
class RowsOf:
    """Samples made from the rows of a pyarrow `table`.

    They are named by their `numbers` in the file or frame, from 1 on and without its heading, or by `names`. The
    `columns` are those that the model sees; where they are one column of `text`, it is told as that.
    """

    table: Any
    numbers: Sequence[int] | np.ndarray
    columns: Sequence[str] = ()
    text: bool = False
    names: Sequence[str] | None = None

    def seen(self, columns: Sequence[str], text: bool) -> RowsOf:
        """The same of these columns alone."""
        return replace(self, table=self.table.select(list(columns)), columns=columns, text=text)

    def __call__(self, i: int) -> dict[str, Any]:
        number = int(self.numbers[i])
        name = f"row {number}" if self.names is None else self.names[number - 1]
        cells = {column: _said(self.table[column][i].as_py()) for column in self.columns[:CELLS]}
        return {"name": name, "text": cells[self.columns[0]]} if self.text else {"name": name, "row": cells}


def _said(value: Any) -> str:
    words = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"

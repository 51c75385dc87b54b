"""The figure and the page of a run or a check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, MissingDependency

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(folder: Path, file: str, figure: Callable[[], Figure]) -> None:
    """Write the figure and the page, where what they need is installed: nothing fails for want of a picture."""
    from ..report.matplotlib import save

    with suppress(MissingDependency):
        save(figure(), folder / file)
    write_page(folder)


def write_page(folder: Path) -> None:
    """Write the page, where what it needs is installed; a run that broke off before its first record has none."""
    from ..report.page import page

    with suppress(MissingDependency, CheckpointError):
        page([folder], folder / "report.html")

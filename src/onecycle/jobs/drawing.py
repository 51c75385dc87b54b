"""What a check or a profile leaves in its folder; the figure and the page of these and of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CheckpointError, MissingDependency
from ..profiling.result import Profile
from ..range_test.api import RangeTest
from ..records.files import Kind
from ..records.origin import origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = TypeVar("Measured", RangeTest, Profile)


def written(kind: Kind, measured: Measured, report: bool, **record: Any) -> Measured:
    """What was measured, after it is in its folder, where it has one, with the `record` of what it was measured on.

    Its figure and its page are too, unless `report` says otherwise.
    """
    if measured.folder is not None:
        result = replace(measured, folder=None).to_dict()
        kind.write(measured.folder, {**origin(), **record, "result": result})
        if report:
            draw(measured.folder, f"{kind.what}.png", measured.plot)
    return measured


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

"""What each tracker offers, what it is told of a run at the beginning, and its host, which is imported when used."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from ..errors import MissingDependency
from .values import Row, SentTable

PROJECT = "onecycle"
# Where runs without a folder of their own are tracked.
RUNS = Path("runs")


class Known(NamedTuple):
    """The first update that a tracker does not have yet, and the first update whose epoch's end it does not have."""

    update: int = 0
    epoch: int = 0

    def lacks(self, row: Row) -> bool:
        """Whether a row is still to be sent."""
        return row.kind not in self._fields or row.step >= getattr(self, row.kind)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins, or goes on after so many `updates`.

    Args:
        name: what it is called.
        folder: the run's own; None for a fit without one.
        config: what was asked for, what it came to, data, versions, hardware, as plain data.
        before: what the tracker had as its reference when the run began; None for a new one.
        updates: those that the run has made.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any]
    before: Mapping[str, Any] | None = None
    updates: int = 0

    @property
    def home(self) -> Path:
        """Where what is of this run alone is written."""
        return self.folder or RUNS

    @property
    def beside(self) -> Path:
        """Where what all runs share is written."""
        return self.folder.parent if self.folder else RUNS


class Tracker(Protocol):
    """A run in a tracker.

    Attributes:
        reference: plain data by which a resumed run finds it again.
        known: what it has already, of a run that is resumed.
        place: how to look at it, in words.
    """

    reference: dict[str, Any]
    known: Known
    place: str

    def log(self, rows: deque[Row]) -> None:
        """Send the rows, and take those that were sent out of the queue."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text."""
        ...

    def table(self, name: str, table: SentTable, step: int) -> None:
        """Add a table."""
        ...

    def picture(self, name: str, path: Path, step: int) -> None:
        """Add a picture that is a PNG file."""
        ...

    def finish(self, status: str) -> None:
        """End the run as "finished", "failed" or "killed", once everything is written."""
        ...


def without_credentials(text: str) -> str:
    """A text whose addresses have neither user and password nor a query, which may have a token.

    >>> without_credentials("at https://ada:a/se@cret@host.org:5000/x?write_token=abc and sqlite:////tmp/a@b/mlflow.db")
    'at https://host.org:5000/x and sqlite:////tmp/a@b/mlflow.db'
    """
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", re.sub(r"(?<=\w://)[^\s/?#:@]*(?::\S*)?@", "", text))


def check_host(name: str) -> None:
    """Validate that the package of a tracker is there.

    Raises:
        MissingDependency: it is not.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a folder of this name, such as wandb writes, is no package
        raise MissingDependency(f"track={name!r} needs the package {name}: pip install {name}")


def host(name: str, module: str = "") -> ModuleType:
    """The package of a tracker, or a module of it.

    Raises:
        MissingDependency: it is not installed, or does not import.
    """
    check_host(name)
    try:
        return import_module(module or name)
    except ImportError as error:
        raise MissingDependency(
            f"track={name!r} needs a package {name} that imports: pip install --upgrade {name} ({error})"
        ) from error

"""What the ranks of a training on Ray and the process that asked for it tell each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MissingDependency,
    OneCycleError,
    RankError,
    TrainingError,
)

if TYPE_CHECKING:
    from ..training.ranks import Ranks

# What is raised as what it was; anything else is a TrainingError.
ALIKE = {kind.__name__: kind for kind in (CheckpointError, ConfigError, DataError, MissingDependency)}


@dataclass(frozen=True)
class RankEnd:
    """How the rank of a `name` ended: with a result or an error, which is `silent` where another rank tells of it."""

    result: dict[str, Any] | None = None
    error: str | None = None
    kind: str = ""
    silent: bool = False
    signal: int | None = None
    name: str = ""

    def renamed(self, old: Path, new: Path) -> RankEnd:
        """The same, in whose error the folder `old` is called `new`."""
        return self if self.error is None else replace(self, error=self.error.replace(str(old), str(new)))

    @classmethod
    def of(cls, error: BaseException, ranks: Ranks) -> RankEnd:
        """That of an error."""
        said = str(error) if isinstance(error, OneCycleError | Interrupted) else f"{type(error).__name__}: {error}"
        silent = getattr(error, "silent", False) or isinstance(error, RankError)
        return cls(None, said, type(error).__name__, silent, getattr(error, "signal", None), ranks.name)

    @classmethod
    def of_all(cls, ends: Sequence[RankEnd]) -> RankEnd:
        """The end of all ranks that came to theirs: the error that one tells of, or the main rank's result.

        The error of one alone, which the others were told of, says whose it is.
        """
        told = [end for end in ends if end.error is not None and not end.silent]
        if not told:
            return ends[0]
        alone = any(end.kind == RankError.__name__ for end in ends)
        return replace(told[0], error=f"{told[0].name}: {told[0].error}") if alone else told[0]

    def raised(self) -> BaseException:
        """The error, as it is raised where the training was asked for."""
        if self.signal is not None:
            return Interrupted(str(self.error), signal=self.signal)
        return ALIKE.get(self.kind, TrainingError)(self.error)


class Channel:
    """An actor of Ray by which the ranks and the process that asked for them talk: no signal reaches a rank."""

    def __init__(self) -> None:
        self._begun, self._signal = 0, None
        self._lines: list[str] = []
        self._ends: dict[int, RankEnd] = {}

    def begin(self) -> int:
        """Note that all ranks are there, and say how often they were before."""
        self._begun += 1
        self._ends.clear()
        return self._begun - 1

    def say(self, line: str) -> None:
        """Add a line for the process that asked."""
        self._lines.append(line)

    def heard(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def stop(self, number: int) -> bool:
        """Ask the ranks to stop as by a signal; whether they have begun."""
        self._signal = number
        return self._begun > 0

    def asked(self) -> int | None:
        """The signal that asks for a stop."""
        return self._signal

    def end(self, rank: int, end: RankEnd) -> None:
        """Note how a rank ended."""
        self._ends[rank] = end

    def ends(self) -> list[RankEnd]:
        """How the ranks ended, by their numbers."""
        return [self._ends[rank] for rank in sorted(self._ends)]


class ChannelStream(io.TextIOBase):
    """A stream whose lines go through a channel, in which the folder `old` is called `new`."""

    def __init__(self, channel: Any, old: Path, new: Path):
        self._channel, self._old, self._new, self._rest = channel, str(old), str(new), ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._channel.say.remote(line.replace(self._old, self._new))
        return len(text)

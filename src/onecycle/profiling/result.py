"""What a profile comes to: timings of settings, what to change, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import text
from .measure import Timing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Change:
    """One thing to change: the `words` to change it with, how many times the samples a second it gives, and all of it.

    `changes` are the fields of the setting that it is about.
    """

    words: str
    gain: float
    sentence: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "changes": dict(self.changes)}


@dataclass(frozen=True)
class Profile:
    """Where the time of an update goes, and what would make it faster here.

    Args:
        present: the training as it is.
        others: other settings, each as much different from it as its own says.
        change: what to change, the largest gain first; of what was measured alone.
        largest: the largest batch that fits into the memory, and how that is known; None where it is not.
        left_out: what was not measured, and why.
        notes: what was decided for the measurement.
        device: where it was measured, in words.
        support: what computes each narrow precision here; None for one that is emulated.
        cores, updates_per_epoch, budget, seconds: of the machine, the data, what was allowed and what was spent.
        folder: where the profile was written; None for one that was not.
    """

    present: Timing
    others: tuple[Timing, ...] = ()
    change: tuple[Change, ...] = ()
    largest: Mapping[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    device: str = "cpu"
    support: Mapping[str, str | None] = field(default_factory=dict)
    cores: int = 1
    updates_per_epoch: int | None = None
    budget: float = 60.0
    seconds: float = 0.0
    title: str = ""
    folder: Path | None = None

    def __repr__(self) -> str:
        rate = "None" if self.present.failed else f"{text.rate(self.present.rate)} samples a second"
        best = f", {self.change[0].words}: {self.change[0].gain:.2f} x" if self.change else ""
        return f"Profile({rate}{best})"

    def __str__(self) -> str:
        from ..report.draw_profile import profile_text

        return "\n".join(profile_text(self.to_dict()))

    def _repr_html_(self) -> str:
        shares = [(name, text.percent(share, 0)) for name, share in self.present.shares.items()]
        rows = [("samples a second", text.rate(self.present.rate)), *shares]
        return text.html_table([*rows, *((one.words, one.sentence) for one in self.change)], title=self.title)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the folder where there is one."""
        several = {name: [one.to_dict() for one in getattr(self, name)] for name in ("others", "change")}
        texts = {name: list(getattr(self, name)) for name in ("left_out", "notes")}
        known = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "folder"}
        more = {} if self.folder is None else {"folder": str(self.folder)}
        largest = None if self.largest is None else dict(self.largest)
        kept = {"present": self.present.to_dict(), "support": dict(self.support), "largest": largest}
        return {**known, **several, **texts, **kept, **more}

    def plot(self) -> Figure:
        """The share of each part, and the samples a second by the size of a batch."""
        from ..report.draw_profile import profile_figure

        return profile_figure(self.to_dict())

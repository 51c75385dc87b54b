"""TensorBoard: event files in the folder of a run, by torch's writer. Numbers are in single precision there."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from .tracker import Known, TrackedRun, host
from .values import Row, SentTable


class TensorBoardTracker:
    """A run in event files."""

    def __init__(self, writer: Any, folder: Path, known: Known):
        self._writer, self.known, self._last = writer, known, 0
        self.reference = {"folder": str(folder)}
        self.place = f"tensorboard --logdir {folder}"

    @classmethod
    def open(cls, run: TrackedRun) -> TensorBoardTracker:
        """Begin event files; of a resumed run those of before lose what came after its checkpoint."""
        writer = host("tensorboard", "torch.utils.tensorboard.writer")
        folder = run.home / "tensorboard" if run.folder else run.home / "tensorboard" / run.name
        known = _known(folder, run.updates) if run.before else Known()
        if run.before:
            _await_later_name(folder)
        made = cls(writer.SummaryWriter(str(folder), purge_step=run.updates if run.before else None), folder, known)
        if run.updates == 0 or not run.before:
            made.text("config", f"```json\n{json.dumps(run.config, indent=2, ensure_ascii=False)}\n```", 0)
        return made

    def log(self, rows: deque[Row]) -> None:
        """Add the scalars of a row in one event; what is added twice, after an error, is of the same update."""
        protocol = host("tensorboard", "tensorboard.compat.proto.summary_pb2")
        for row in rows:
            values = [protocol.Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            self._writer.file_writer.add_summary(protocol.Summary(value=values), row.step)
            self._last = row.step
        self._writer.flush()
        rows.clear()

    def text(self, name: str, text: str, step: int) -> None:
        """Add Markdown."""
        self._writer.add_text(name, text, step)

    def table(self, name: str, table: SentTable, step: int) -> None:
        """Add a table as Markdown."""
        self.text(name, table.markdown(), step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Add an image."""
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def finish(self, status: str) -> None:
        """Write everything; TensorBoard has no status of its own, so that a text says it."""
        self.text("status", status, self._last)
        self._writer.close()


def check_tensorboard(run: TrackedRun) -> None:
    """Import the package, and torch's writer of it."""
    host("tensorboard", "torch.utils.tensorboard.writer")


def _await_later_name(folder: Path) -> None:
    """Wait, for a second at most, until a new event file comes after those that are there.

    They are read in the order of their names, which begin with the second that they were begun in, and then have the
    number of the process: one that is resumed in the second of its kill would come before what it goes on from.
    """
    if any(path.name.startswith(f"events.out.tfevents.{int(time.time()):010d}.") for path in folder.glob("events.*")):
        time.sleep(1 - time.time() % 1)


def _known(folder: Path, updates: int) -> Known:
    """What event files have of the updates before `updates`."""
    if not folder.is_dir():
        return Known()
    reader = host("tensorboard", "tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    there = events.Tags()["scalars"]

    def first_missing(tag: str) -> int:
        steps = [one.step for one in events.Scalars(tag) if one.step < updates] if tag in there else []
        return max(steps, default=-1) + 1

    return Known(first_missing("loss"), first_missing("epoch_seconds"))

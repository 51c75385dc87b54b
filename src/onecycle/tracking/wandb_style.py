"""The interface of Weights & Biases, which Trackio has too: one tracker for both, each begun in its own way."""

from __future__ import annotations

import contextvars
import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from secrets import token_hex
from typing import Any

from ..checks import one_of
from .tracker import PROJECT, Known, TrackedRun, host
from .values import Row, SentTable

# The exit code that says how a run ended.
EXITS = {"finished": 0, "failed": 1, "killed": 130}
# Values of WANDB_MODE, those of old among them, and what they come to.
MODES = {
    "online": "online", "run": "online", "shared": "shared", "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip


class WandbTracker:
    """A run that is logged by steps: `module` has the tables and the pictures, and `end` ends it."""

    def __init__(
        self, module: Any, run: Any, known: Known, place: str, reference: dict[str, Any], end: Callable[[str], None]
    ):
        self._module, self._run, self._end = module, run, end
        self.known, self.place, self.reference = known, place, reference

    def log(self, rows: deque[Row]) -> None:
        """Log each row at the step of its update; an epoch's joins that of its last update."""
        while rows:
            row = rows[0]
            self._run.log(row.values, step=row.step)
            rows.popleft()

    def text(self, name: str, text: str, step: int) -> None:
        """Log a text, as Markdown where there is such a thing."""
        markdown = getattr(self._module, "Markdown", str)
        self._run.log({name: markdown(text)}, step=step)

    def table(self, name: str, table: SentTable, step: int) -> None:
        """Log a table."""
        self._run.log({name: self._module.Table(columns=table.columns, data=table.rows)}, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Log an image."""
        self._run.log({name: self._module.Image(str(path))}, step=step)

    def finish(self, status: str) -> None:
        """End the run with its status."""
        self._end(status)


def open_wandb(run: TrackedRun) -> WandbTracker:
    """Begin a run of Weights & Biases, beside any other of this process; offline, unless WANDB_MODE says otherwise.

    Offline a file cannot be gone on with: a resumed run has a new one, which gets everything from the first update on,
    and the one of before is removed.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb, mode = host("wandb"), _mode()
    online = mode in ("online", "shared")
    before = run.before or {}
    name = before.get("id") or token_hex(4)
    if mode == "offline":
        _remove(before.get("folder"), name)
    run.home.mkdir(parents=True, exist_ok=True)
    made = wandb.init(
        project=None if "WANDB_PROJECT" in os.environ else PROJECT, name=run.name, id=name, config=dict(run.config),
        dir=None if "WANDB_DIR" in os.environ else str(run.home), mode=mode,
        resume="allow" if online else None, reinit="create_new",
        settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
    )  # fmt: skip
    folder = made.settings.sync_dir
    known = Known(made.starting_step, made.starting_step) if online else Known()
    if mode == "disabled":
        place, reference = "nothing is logged, as WANDB_MODE=disabled says", {"id": name, **before}
    else:
        place, reference = (online and made.url) or f"wandb sync {folder}", {"id": name, "folder": folder}
    return WandbTracker(wandb, made, known, place, reference, lambda status: made.finish(exit_code=EXITS[status]))


def check_wandb(run: TrackedRun) -> None:
    """Validate the mode, and import the package."""
    host("wandb")
    _mode()


def _mode() -> str:
    """What WANDB_MODE says; offline where it says nothing.

    Raises:
        ConfigError: there is no such mode.
    """
    return MODES[one_of("WANDB_MODE", os.environ.get("WANDB_MODE") or "offline", MODES)]


def _remove(folder: str | None, name: str) -> None:
    """Remove what an offline run wrote before it was broken off."""
    path = Path(folder or "")
    if path.name.startswith("offline-run-") and path.name.endswith(f"-{name}"):
        shutil.rmtree(path, ignore_errors=True)


def open_trackio(run: TrackedRun) -> WandbTracker:
    """Begin a run of Trackio, or go on with one: in its database on this machine, unless its environment says else."""
    trackio = host("trackio")
    local = not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & set(os.environ)
    name = (run.before or {}).get("name") or f"{run.name}-{token_hex(3)}"  # by which Trackio finds a run again

    def init() -> Any:
        return trackio.init(project=PROJECT, name=name, config=dict(run.config), resume="allow", embed=False)

    with redirect_stdout(io.StringIO()), _without_hub(local):
        run_of_it = contextvars.Context().run(init)  # so that another run of this process goes on
    made = TrackioRun(run_of_it, trackio.SQLiteStorage if local else None)
    known = made.known(run.updates) if run.before else Known()
    return WandbTracker(trackio, made, known, _trackio_place(), {"name": name}, made.end)


def check_trackio(run: TrackedRun) -> None:
    """Import the package."""
    host("trackio")


def _trackio_place() -> str:
    if space := os.environ.get("TRACKIO_SPACE_ID"):
        return f"https://huggingface.co/spaces/{space}"
    return os.environ.get("TRACKIO_SERVER_URL") or f'trackio show --project "{PROJECT}"'


class TrackioRun:
    """A run of Trackio, which itself says of nothing that it could not be written.

    Args:
        run: as Trackio has it.
        storage: where its databases are, which is asked for what came there; None for a run that is sent elsewhere.
    """

    def __init__(self, run: Any, storage: Any):
        self._run, self._storage, self._last = run, storage, 0
        self._expected = self._count()

    def _count(self) -> int:
        return 0 if self._storage is None else self._storage.get_log_count(self._run.project, run_id=self._run.id)

    def known(self, updates: int) -> Known:
        """What the database has; of a run that is sent elsewhere what its server said, or what is before `updates`."""
        if self._storage is None:
            heard = getattr(self._run, "_initial_last_step", None)
            return Known(updates, updates) if heard is None else Known(heard + 1, heard + 1)
        last = self._storage.get_max_step_for_run(self._run.project, run_id=self._run.id)
        if last is None:
            return Known()

        def has(name: str) -> bool:
            of = self._storage.get_metric_values(self._run.project, None, name, step=last, run_id=self._run.id)
            return bool(of)

        return Known(last + has("loss"), last + has("epoch_seconds"))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log numbers and whatever else Trackio takes."""
        self._run.log(values, step=step)
        self._last = max(self._last, step)
        self._expected += 1

    def end(self, status: str) -> None:
        """End the run; Trackio has no status of its own, so that a text says it.

        Raises:
            OSError: something was not written.
        """
        self.log({"status": status}, step=self._last)
        with redirect_stdout(io.StringIO()):
            self._run.finish()
        if self._storage is not None and (missing := self._expected - self._count()):
            raise OSError(f"{missing} of its entries are not in the database {self._run.project} of Trackio")


@contextmanager
def _without_hub(local: bool) -> Iterator[None]:
    """Within the block the Hugging Face hub, which Trackio asks for the name of who has a token, is not asked."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or local
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

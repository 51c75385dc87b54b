"""MLflow: its SQLite store beside the runs, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from .tracker import PROJECT, Known, TrackedRun, host, without_credentials
from .values import Row, SentTable, flattened

# What MLflow takes: metrics and parameters of one call, characters of a parameter and of its name.
METRICS, PARAMETERS, LONGEST, LONGEST_NAME = 1000, 100, 6000, 250
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MlflowTracker:
    """A run in an MLflow store, by a client of its own: what is active in this process stays so."""

    def __init__(self, client: Any, run_id: str, known: Known, place: str, reference: dict[str, Any]):
        self._client, self._id, self.known, self.place = client, run_id, known, place
        self.reference = {**reference, "id": run_id}

    @classmethod
    def open(cls, run: TrackedRun) -> MlflowTracker:
        """Begin a run, or go on with one."""
        uri = _address(run)
        client, place, reference = _client(run), _place(uri), {"uri": without_credentials(uri)}
        if run.before:
            _check_same_server(run.before["uri"], uri)
            run_id = run.before["id"]
            client.update_run(run_id, status="RUNNING")
            return cls(client, run_id, _known(client, run_id), place, reference)
        artifacts = (run.beside / "mlflow-artifacts").resolve().as_uri() if uri == _local(run) else None
        made = client.create_run(_experiment(client, artifacts), run_name=run.name)
        tracker = cls(client, made.info.run_id, Known(), place, reference)
        tracker._ask(run.config)
        return tracker

    def _ask(self, config: Mapping[str, Any]) -> None:
        param = host("mlflow", "mlflow.entities").Param
        named = ((re.sub(r"[^\w\-. /]", "_", name)[:LONGEST_NAME], value) for name, value in flattened(config).items())
        parameters = iter([param(name, value[:LONGEST]) for name, value in dict(named).items()])
        while some := list(islice(parameters, PARAMETERS)):
            self._client.log_batch(self._id, params=some)
        self._client.log_dict(self._id, config, "config.json")

    def log(self, rows: deque[Row]) -> None:
        """Add metrics, as many at once as MLflow takes: a call is all in the store or not at all."""
        metric = host("mlflow", "mlflow.entities").Metric
        now = int(1000 * time.time())
        while rows:
            metrics, taken = list[Any](), 0
            for row in rows:
                if taken and len(metrics) + len(row.values) > METRICS:
                    break
                metrics += [metric(name, float(value), now, row.step) for name, value in row.values.items()]
                taken += 1
            self._client.log_batch(self._id, metrics=metrics)
            for _ in range(taken):
                rows.popleft()

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text file; notes are the description of the run too."""
        self._client.log_text(self._id, text, f"{name}.md")
        if name == "notes":
            self._client.set_tag(self._id, "mlflow.note.content", text[:LONGEST])

    def table(self, name: str, table: SentTable, step: int) -> None:
        """Add a table as JSON that MLflow shows."""
        self._client.log_dict(self._id, {"columns": table.columns, "data": table.rows}, f"{name}.json")

    def picture(self, name: str, path: Path, step: int) -> None:
        """Add the file."""
        self._client.log_artifact(self._id, str(path))

    def finish(self, status: str) -> None:
        """End the run with its status."""
        self._client.set_terminated(self._id, status=STATUS[status])


def check_mlflow(run: TrackedRun) -> None:
    """Ask the store for the experiment, which fails where the store cannot be had; a local one is made."""
    _client(run).get_experiment_by_name(_experiment_name())


def _client(run: TrackedRun) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = host("mlflow")
    run.beside.mkdir(parents=True, exist_ok=True)
    return mlflow.MlflowClient(tracking_uri=_address(run))


def _local(run: TrackedRun) -> str:
    """The store beside the runs."""
    return f"sqlite:///{(run.beside / 'mlflow.db').resolve()}"


def _address(run: TrackedRun) -> str:
    """That of the store; it may have a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local(run)


def _on_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _place(uri: str) -> str:
    """How to look at a store.

    >>> _place("https://ada:secret@host.org/mlflow"), _place("sqlite:////runs/mlflow.db")
    ('https://host.org/mlflow', 'mlflow ui --backend-store-uri sqlite:////runs/mlflow.db')
    >>> _place("postgresql://ada:secret@host.org/mlflow")
    'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    """
    public = without_credentials(uri)
    if _on_server(uri):
        return public
    store = shlex.quote(uri) if public == uri else '"$MLFLOW_TRACKING_URI"'
    return f"mlflow ui --backend-store-uri {store}"


def _check_same_server(before: str, uri: str) -> None:
    """Validate that a run on a server is looked for on one: where to send, and credentials, come with each start."""
    if _on_server(before) and not _on_server(uri):
        raise ConfigError(f"it is on {before}, and MLFLOW_TRACKING_URI does not say so")


def _experiment_name() -> str:
    """That which the environment names, or ours."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT


def _experiment(client: Any, artifacts: str | None) -> str:
    """The identity of the experiment, which is made where there is none."""
    name = _experiment_name()
    if (known := client.get_experiment_by_name(name)) is not None:
        return known.experiment_id
    return client.create_experiment(name, artifact_location=artifacts)


def _known(client: Any, run_id: str) -> Known:
    """What the store has of a run."""
    steps = ([one.step for one in client.get_metric_history(run_id, name)] for name in ("loss", "epoch_seconds"))
    return Known(*(max(of, default=-1) + 1 for of in steps))

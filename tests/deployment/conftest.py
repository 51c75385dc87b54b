"""Servers of runs, started where they are asked for and stopped at the end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from service_makers import Served, trained, write_data


@pytest.fixture(scope="session")
def at(tmp_path_factory) -> Path:
    """The folder of the runs and their data."""
    at = tmp_path_factory.mktemp("service")
    write_data(at)
    return at


@pytest.fixture(scope="session")
def service(at):
    """Starts the server of a run, once; its options are those of the first time."""
    for name in ("starlette", "uvicorn", "python_multipart"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install 'onecycle[serve]')")
    started: dict[str, Served] = {}

    def of(name: str, *options: str, key: str = "", words: tuple[str, ...] = ("-m", "onecycle")) -> Served:
        key = key or name
        if key not in started:
            trained(at, name)
            started[key] = Served([*words, "serve", name, "--port", "0", *options], at, at / f"{key}.log")
        return started[key]

    yield of
    for one in started.values():
        one.process.send_signal(signal.SIGTERM)
    ended = [one.end() for one in started.values()]
    assert [status for status, _ in ended] == [143] * len(ended)
    assert not [log for _, log in ended if "Traceback" in log or "error:" in log]


@pytest.fixture(scope="session")
def digits(service) -> Served:
    return service("digits", "--max-bytes", "200000", "--timeout", "20s")


@pytest.fixture(scope="session")
def people(service) -> Served:
    return service("people")

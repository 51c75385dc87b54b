"""The connection to a Ray cluster, or why there is none."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import ConfigError, MissingDependency

# Seconds to wait for an answer.
PATIENCE = 10.0
START = "To start one, on its first machine: ray start --head --port=6379 --ray-client-server-port=10001."


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """The module `ray`, connected within the block to a cluster; a connection that is there already stays.

    "ray" is the cluster of RAY_ADDRESS, else the one that this machine is part of, else a new one on this machine;
    "ray://HOST:PORT" is the one that answers there.

    Raises:
        ConfigError: no cluster answers, or one that another version of Ray or Python runs.
        MissingDependency: Ray is not installed.
    """
    ray = _ray()
    ours = _connect(ray, on)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def gist(error: BaseException) -> str:
    """What an error of Ray's says, in one line; of a traceback in it the end."""
    text = str(getattr(error, "cause", None) or error)
    head, traceback, rest = text.partition("Traceback (most recent call last)")
    words = head.split() + (rest.strip().rpartition("\n")[2].split() if traceback else [])
    return " ".join(words).rstrip(".") or type(error).__name__


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anywhere unless the user says so
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingDependency(f'--on ray needs Ray ({error}): pip install "onecycle[ray]"') from error
    return ray


def _connect(ray: Any, on: str) -> bool:
    """Whether a connection was made that is to be closed."""
    if ray.is_initialized():
        if on == "ray":
            return False
        raise ConfigError(f'this process is connected to Ray already: give on="ray", or ray.shutdown() before {on}')
    address = _here() if on == "ray" else on
    if refused := _refused(address):
        raise ConfigError(f"no Ray cluster answers at {address}: {refused}. {START}") from refused
    os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "5")  # of which Ray makes three
    try:
        _init(ray, address)
    except Exception as error:  # ConnectionError, RuntimeError where versions differ, and whatever gRPC raises
        raise ConfigError(
            f"cannot use the Ray cluster ({address}): {gist(error)}. {START} If it runs: the port is that of "
            "--ray-client-server-port, and a cluster that asks for a token needs RAY_AUTH_MODE=token here too"
        ) from error
    return True


def _init(ray: Any, address: str) -> None:
    options = {"include_dashboard": False} if address == "local" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a connection that fails says so in its error
        for last in (False, True):
            try:
                ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
                return
            except ConnectionAbortedError:  # the server that Ray forks for a client dies now and then
                if last:
                    raise


def _here() -> str:
    """The address of the cluster that this machine is part of; "local" for a new one, where there is none."""
    asked = os.environ.get("RAY_ADDRESS", "")
    if asked not in ("", "auto"):
        return asked
    last = None
    with suppress(Exception):  # where Ray keeps it is Ray's own affair
        from ray._private.utils import read_ray_address

        last = read_ray_address()
    if asked == "auto":
        return last or "auto"
    return last if last and not _refused(last) else "local"


def _refused(address: str) -> OSError | None:
    """See at once that nobody is there: Ray itself tries for up to two minutes, and may then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        return error
    return None

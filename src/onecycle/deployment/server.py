"""The server of a service: it listens, says where, and answers until a signal stops it."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..checks import whole
from ..errors import ConfigError, Interrupted, MissingDependency
from ..text import count
from .answers import as_json
from .questions import RequestRefused
from .service import LIMITS, Limits, application, error_response

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingDependency("Serving needs uvicorn: pip install 'onecycle[serve]'") from error

CONNECTIONS = 512  # that are open at once, at most
HEAD = 16_384  # bytes of the head of a request, at most
HEADERS = 10.0  # seconds for it
IDLE = 10  # seconds for the next request of a connection
GRACE = 5  # seconds for the answers under way when the service is stopped
NEXT = 100  # ports that are tried for one that is free
ALL_INTERFACES = ("0.0.0.0", "::", "")


class _Connection(H11Protocol):
    """A connection that is closed where the head of a request does not come in time, and whose errors are JSON."""

    _patience: asyncio.TimerHandle | None = None

    def __init__(self, *words: Any, **options: Any):
        super().__init__(*words, **options)
        self._application, self.app = self.app, self._unless_full

    async def _unless_full(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.connections) <= CONNECTIONS:
            await self._application(scope, receive, send)
            return
        full = f"more than {count(CONNECTIONS, 'connection')} at once; try again in a second"
        answer = error_response(RequestRefused(503, full, retry_after="1", connection="close"))
        await answer(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._patience is None:
            self._patience = self.loop.call_later(HEADERS, self.transport.close)
        elif not waiting and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]  # of h11, which is being handled
        status = HTTPStatus(getattr(error, "error_status_hint", 400))
        long = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        why = f"its head is longer than {HEAD:,} bytes" if long else str(error or msg)[:200]
        body = as_json({"error": f"received no request of HTTP/1.1 that can be read: {why}"})
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that a signal stops once: `stopped_by` tells which; a second one does not wait for answers."""

    stopped_by: int | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self.force_exit = self.should_exit
            self.should_exit, self.stopped_by = True, self.stopped_by or number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; 0 is a free port.

    Raises:
        ConfigError: a host that is none of this machine, or a port that is in use or not allowed.
    """
    whole("port", port, least=0, what="a port, 0 for one that is free")
    if port > 65535:
        raise ConfigError(f"port is a port, from 0 to 65535; received {port}")
    try:
        family, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"host is a name or an address of this machine, such as 127.0.0.1; received {host!r}"
        ) from error
    try:
        return _bound(family, address)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise ConfigError(f"port {port} needs the rights of an administrator: give one from 1024 on") from error
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"cannot listen at {host}: {error.strerror}. Give an address of this machine") from error
        free = next((one for one in range(port + 1, min(port + NEXT, 65536)) if _is_free(family, address, one)), 0)
        raise ConfigError(
            f"port {port} is in use: give --port {free}" + ("" if free else ", any that is free")
        ) from error


def _bound(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sends at once
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(CONNECTIONS)
    except BaseException:
        made.close()
        raise
    return made


def _is_free(family: int, address: Any, port: int) -> bool:
    try:
        _bound(family, (address[0], port, *address[2:])).close()
    except OSError:
        return False
    return True


def said_at_once(line: str) -> None:
    print(line, flush=True)  # whoever waits for it in a pipe goes on


def serve(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits = LIMITS,
    hosts: tuple[str, ...] = (),
    device: str | None = None,
    say: Callable[[str], None] = said_at_once,
    note: Callable[[str], None] = lambda note: None,
) -> None:
    """Serve the model of the run in `folder` until Ctrl-C or SIGTERM.

    Args:
        folder: of a run.
        model: one that the weights are loaded into, where the run does not know how its own was made.
        host: address to listen at; "0.0.0.0" for all interfaces.
        port: 0 for one that is free.
        limits: on each request.
        hosts: further names by which it may be called.
        device: to predict on; None: the best one here.
        say: told where it listens, once it does.
        note: told what is worth knowing of that.

    Raises:
        ConfigError: host or port cannot be used, or the model cannot be served.
        CheckpointError: no run there.
        Interrupted: it was stopped.
    """
    with listening(host, port) as connection:
        app = application(folder, model=model, limits=limits, hosts=(*hosts, host, socket.gethostname()), device=device)
        at = connection.getsockname()[1]
        shown = "127.0.0.1" if host in ALL_INTERFACES else f"[{host}]" if ":" in host else host
        if host in ALL_INTERFACES:
            note("it listens at all interfaces: whoever reaches this machine may ask it")
        say(f"serving {folder} at http://{shown}:{at}/ (Ctrl-C stops it)")
        answer_at(connection, app)


def answer_at(connection: socket.socket, app: Any, *, lifespan: Literal["on", "off"] = "on") -> None:
    """Answer by an ASGI application at a socket that listens, until Ctrl-C or SIGTERM.

    Raises:
        Interrupted: it was stopped.
    """
    config = uvicorn.Config(
        app, loop="asyncio", http=_Connection, ws="none", lifespan=lifespan, log_config=None, log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    server = _Server(config)
    asyncio.run(server.serve(sockets=[connection]))
    if server.stopped_by is not None:
        raise Interrupted("stopped", signal=server.stopped_by)

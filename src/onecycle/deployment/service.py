"""The model of a run over HTTP, as an application for any server; the `server` of its own runs it until it is stopped.

Requests are read and checked by the event loop, which never decodes and never computes; that is the `Batcher`'s. No
request names a file: what is sent is decoded in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import number, whole
from ..errors import ConfigError, MissingDependency, did_you_mean
from ..jobs.predict import TrainedModel, load_run
from ..records.files import RUN
from ..text import count, duration, size
from .answers import as_json, model_facts
from .batcher import Batcher, refusal
from .questions import SAMPLES, Question, RequestRefused, check_media, check_served, columns_of_rows, media_of

try:
    import python_multipart  # noqa: F401 - which reads forms
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:
    raise MissingDependency("Serving needs starlette and python-multipart: pip install 'onecycle[serve]'") from error

TEMPLATES = Path(__file__).parent / "templates"
REQUESTS = 256  # that are under way at once, at most
HELD = 16  # bodies of full length that are held in memory at once, at most
LINGER = 5.0  # seconds in which the rest of a body that is refused is still taken, so that its answer can be read
SAFE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Limits:
    """What a request may take: bytes of its body, and seconds for reading it, for waiting and for computing each."""

    max_bytes: int = 16_000_000
    timeout: float = 30.0

    def __post_init__(self) -> None:
        whole("max_bytes", self.max_bytes, what="the bytes of a request's body")
        number("timeout", self.timeout, above=0, what="seconds for a request", example="30")


LIMITS = Limits()


def application(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    limits: Limits = LIMITS,
    hosts: tuple[str, ...] = (),
    device: str | None = None,
) -> Starlette:
    """Make the ASGI application that answers for the run in `folder`: POST /predict, and GET /, /model and /health.

    Args:
        folder: of a run.
        model: one that the weights are loaded into, where the run does not know how its own was made.
        limits: on each request.
        hosts: names beside localhost and addresses by which it may be called, of the header Host.
        device: to predict on; None: the best one here.

    Raises:
        CheckpointError: no run there, no weights, or a model that must be given.
        ConfigError: a model of what cannot be sent, or with several outputs.
        DataError: a model that fails on a sample such as those of training.
    """
    trained = load_run(folder, model=model, device=device, verbose=False)
    check_served(trained)
    about = model_facts(trained, Path(folder), RUN.read(folder))
    _check_example(trained, about["example"])
    batcher = Batcher(trained)
    about = {**about, "limits": {"bytes": limits.max_bytes, "samples": SAMPLES, "seconds": limits.timeout}}
    service = _Service(batcher, as_json(about), *_page(about), limits)

    @asynccontextmanager
    async def answering(app: Starlette) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            batcher.close(1.0)

    routes = [
        Route("/", service.page, methods=["GET"]),
        Route("/model", service.model, methods=["GET"]),
        Route("/health", service.health, methods=["GET"]),
        Route("/predict", service.predict, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _unknown, RequestRefused: _refused}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=answering)
    app.router.redirect_slashes = False
    app.add_middleware(HostGuard, hosts=tuple(host.lower() for host in hosts))
    return app


def _check_example(trained: TrainedModel, example: Any) -> None:
    """Predict once, so that what fails fails now, and what is made at first is made."""
    if isinstance(example, dict) and trained.columns is not None:
        row = example if trained.kind == "table" else {trained.columns.names[0]: example["text"]}
        samples = trained.samples(columns_of_rows([row]))
    elif trained.input_shape is not None:  # whole numbers may be tokens, and become others where a model has weights
        samples = torch.zeros(1, *trained.input_shape, dtype=torch.uint8 if trained.kind == "image" else torch.int64)
    else:
        return
    outputs: Any = trained.of_samples(samples)
    if not isinstance(outputs, torch.Tensor):
        raise ConfigError(
            f"the model of this run gives a {type(outputs).__name__}, and a service has words for one tensor of "
            "outputs: use onecycle.load_run in Python"
        )


class _Service:
    """The answers to requests, and how much of them is in memory."""

    def __init__(self, batcher: Batcher, about: bytes, page: bytes, policy: str, limits: Limits):
        self._batcher, self._about, self._html, self._policy, self._limits = batcher, about, page, policy, limits
        self._requests = self._held = 0
        self._freed = asyncio.Condition()

    async def page(self, request: Request) -> Response:
        headers = {**SAFE, "Content-Security-Policy": self._policy, "X-Frame-Options": "DENY"}
        return Response(self._html, headers=headers, media_type="text/html")

    async def model(self, request: Request) -> Response:
        return _json(self._about)

    async def health(self, request: Request) -> Response:
        return _json(as_json({"status": "ok", "requests": self._requests}))

    async def predict(self, request: Request) -> Response:
        top_k = _top_k(request)
        media, boundary = media_of(request.headers.get("content-type", ""))
        if (encoding := request.headers.get("content-encoding", "").lower()) not in ("", "identity"):
            words = f"received a body that is encoded, as {encoding[:60]!r}; send it as it is, without Content-Encoding"
            raise RequestRefused(415, words, accept_encoding="identity")
        if self._requests >= REQUESTS:
            raise RequestRefused(
                503, f"more than {count(REQUESTS, 'request')} at once; try again in a second", retry_after="1"
            )
        self._requests += 1
        try:
            check_media(self._batcher.trained.kind, media)
            async with self._room(_length(request, self._limits.max_bytes)):
                body = await self._body(request)
                return _json(await self._answer(Question(body, media, boundary, top_k)))
        finally:
            self._requests -= 1

    @asynccontextmanager
    async def _room(self, length: int) -> AsyncIterator[None]:
        """Within the block, so many bytes of memory are this request's."""
        most = HELD * self._limits.max_bytes
        async with self._freed:
            try:
                async with asyncio.timeout(self._limits.timeout):
                    await self._freed.wait_for(lambda: self._held + length <= most)
            except TimeoutError:
                raise RequestRefused(
                    503, f"requests of {size(self._held)} are under way; try again in a second", retry_after="1"
                ) from None
            self._held += length
        try:
            yield
        finally:
            async with self._freed:
                self._held -= length
                self._freed.notify_all()

    async def _body(self, request: Request) -> bytes:
        body, most = bytearray(), self._limits.max_bytes
        try:
            async with asyncio.timeout(self._limits.timeout):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise _too_long(f"more than {size(most)}", most)
        except TimeoutError:
            raise RequestRefused(
                408,
                f"received {size(len(body))} in {duration(self._limits.timeout)}, and not yet the end; send it faster, "
                "or less",
                connection="close",
            ) from None
        return bytes(body)

    async def _answer(self, question: Question) -> bytes:
        answer = self._batcher.ask(question)
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            waited = f"{duration(self._limits.timeout)} (--timeout)"
            if answer.cancelled():
                raise RequestRefused(
                    503, f"this waited {waited} for its turn; try again later", retry_after="1"
                ) from None
            raise RequestRefused(504, f"this was not computed in {waited}; send fewer samples") from None


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {**SAFE, **(headers or {})}, "application/json")


def _top_k(request: Request) -> int | None:
    """The number of classes that the query asks for."""
    for name in request.query_params:
        if name != "top_k":
            raise RequestRefused(400, f"unknown parameter {name[:60]!r}: {did_you_mean(name[:60], ['top_k'])}")
    asked = request.query_params.getlist("top_k")
    if not asked:
        return None
    if len(asked) > 1 or not asked[0].isascii() or not asked[0].isdecimal() or len(asked[0]) > 9:
        raise RequestRefused(400, f"top_k is a whole number, the classes to name; received {', '.join(asked)[:60]!r}")
    return int(asked[0])


def _length(request: Request, most: int) -> int:
    """How many bytes a request has, by its header, or may have."""
    declared = request.headers.get("content-length")
    if declared is None:
        return most
    length = int(declared) if declared.isdecimal() and len(declared) < 20 else most + 1  # h11 has looked at it
    if length > most:
        raise _too_long(f"a body of {size(length)}", most)
    return length


def _too_long(received: str, most: int) -> RequestRefused:
    return RequestRefused(413, f"received {received}; allowed are {size(most)} (--max-bytes): send less")


# Errors


def error_response(error: RequestRefused) -> Response:
    """The answer to a request that is refused."""
    headers = {name.replace("_", "-"): value for name, value in error.headers.items()}
    kind = _Lingering if error.status == 413 else Response
    body = as_json({"error": str(error)})
    return kind(body, error.status, {**SAFE, **headers}, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    return error_response(refusal(error))


async def _unknown(request: Request, error: Exception) -> Response:
    """The answer about a path that is none, or a method that it does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    allowed = "GET /, GET /model, GET /health and POST /predict"
    received = f"received {request.method} {request.url.path[:80]}"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _json(as_json({"error": f"{received}; there are {allowed}"}), status, headers)


class _Lingering(Response):
    """A response before all of the request is read: the rest is taken for a while, else the client never sees it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


class HostGuard:
    """Lets through what is called by a name that it has, and from no page of elsewhere; and no traceback out."""

    def __init__(self, app: Any, hosts: tuple[str, ...]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if (refused := self._refusal(Request(scope))) is not None:
                await error_response(refused)(scope, receive, noting)
                return
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            pass
        except Exception as error:
            failed = refusal(error)
            if not begun:
                await error_response(failed)(scope, receive, send)

    def _refusal(self, request: Request) -> RequestRefused | None:
        host = request.headers.get("host", "localhost").lower()
        name = _hostname(host)
        if not (name in self._hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name)):
            return RequestRefused(
                403,
                f"received the host {name[:80]!r}; if this service is to be called so, give --allow-host {name[:80]}",
            )
        origin = request.headers.get("origin", "").lower()
        if request.method not in ("GET", "HEAD") and origin and origin.partition("://")[2] != host:
            return RequestRefused(
                403, f"received a request from a page of {origin[:80]}; pages of this service alone may send some"
            )
        return None


def _hostname(host: str) -> str:
    """A host without its port.

    >>> _hostname("a.example:80"), _hostname("[::1]:8000"), _hostname("::1")
    ('a.example', '::1', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# The page


def _page(about: dict[str, Any]) -> tuple[bytes, str]:
    """The page as HTML, and what it may do: its own script and style, and questions to its own service."""
    style, script, html = (
        (TEMPLATES / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
    )  # fmt: skip
    data = json.dumps(json.loads(as_json(about))).replace("<", "\\u003c")
    for mark, text in (("{{style}}", style), ("{{script}}", script), ("{{about}}", data)):
        html = html.replace(mark, text)
    policy = (
        f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy


def hashed(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

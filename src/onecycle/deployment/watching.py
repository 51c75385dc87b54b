"""A page that follows runs while they train, on this machine alone: it reads their files, and writes nothing."""

from __future__ import annotations

import html as markup
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import OneCycleError
from ..records.live import Follower, Standing
from ..records.read import read
from ..report.page import html
from .answers import as_json
from .server import answer_at, listening, said_at_once
from .service import SAFE, TEMPLATES, HostGuard, hashed

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:
    from ..errors import MissingDependency

    raise MissingDependency("Watching on a page needs starlette: pip install 'onecycle[serve]'") from error

HOST = "127.0.0.1"
KEPT = 8  # pages that are kept while nothing has changed


class _Pages:
    """The pages of runs and comparisons as they stand, made where they are asked for."""

    def __init__(self, follower: Follower):
        self._follower, self._lock = follower, Lock()
        self._made: dict[str, tuple[str, bytes]] = {}
        self._script: bytes | None = None
        style, script, page = (
            (TEMPLATES / f"watch.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
        )
        name = markup.escape(str(follower.root))
        self._index = page.replace("{{style}}", style).replace("{{script}}", script).replace("{{root}}", name).encode()
        self._policy = (
            f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; img-src data:; "
            "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def index(self, request: Request) -> Response:
        return Response(self._index, headers={**SAFE, "Content-Security-Policy": self._policy}, media_type="text/html")

    def standing(self, request: Request) -> Response:
        """How everything stands, as JSON."""
        with self._lock:
            try:
                found: Sequence[Standing] = self._follower.look()
            except OneCycleError as error:  # the folder is gone
                return _json({"error": str(error), "standing": []})
        return _json({"standing": [one.to_dict() for one in found]})

    def run(self, request: Request) -> Response:
        """The page of one of them; only what was found in the folder is read."""
        name = request.query_params.get("name", "")
        with self._lock:
            one = next((one for one in self._follower.look() if one.name == name), None)
            if one is None:
                return Response("there is no such run", 404, SAFE, "text/plain")
            if (made := self._made.get(name)) is None or made[0] != one.version:
                made = one.version, self._page(one)
                self._made = {**dict(list(self._made.items())[1 - KEPT :]), name: made}
        headers = {**SAFE, "Content-Security-Policy": "frame-ancestors 'self'"}
        return Response(made[1], headers=headers, media_type="text/html")

    def plotly(self, request: Request) -> Response:
        with self._lock:
            if self._script is None:
                from plotly.offline import get_plotlyjs

                self._script = get_plotlyjs().encode()
        return Response(self._script, headers={**SAFE, "Cache-Control": "max-age=3600"}, media_type="text/javascript")

    def _page(self, one: Standing) -> bytes:
        try:
            return html(read([one.folder]), script="plotly.js").encode("utf-8", "replace")
        except OneCycleError as error:
            return f"<!DOCTYPE html><meta charset=utf-8><p>{markup.escape(str(error))}</p>".encode()


def application(root: str | Path) -> Starlette:
    """The ASGI application that shows what is in `root` and below it.

    Raises:
        CheckpointError: there is no such folder.
        MissingDependency: what makes the pages of runs is not installed.
    """
    follower = Follower(root)
    follower.look()
    pages = _Pages(follower)
    routes = [
        Route(path, answer, methods=["GET"])
        for path, answer in (
            ("/", pages.index), ("/standing", pages.standing), ("/run", pages.run), ("/plotly.js", pages.plotly)
        )
    ]  # fmt: skip
    app = Starlette(routes=routes)
    app.add_middleware(HostGuard, hosts=())
    return app


def watch_on_page(root: str | Path, *, port: int = 0, say: Callable[[str], None] = said_at_once) -> None:
    """Show a page about what is in `root` at an address of this machine that no other can reach, until Ctrl-C.

    Raises:
        ConfigError: the port cannot be used.
        CheckpointError: there is no such folder.
        Interrupted: it was stopped.
    """
    app = application(root)
    with listening(HOST, port) as connection:
        say(f"watching {root} at http://{HOST}:{connection.getsockname()[1]}/ (Ctrl-C stops it)")
        answer_at(connection, app, lifespan="off")


def _json(value: Any) -> Response:
    return Response(as_json(value), headers=SAFE, media_type="application/json")

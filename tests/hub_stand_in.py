"""A stand-in for the Hugging Face hub on this machine: the few endpoints that an upload of a folder asks."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class StandIn:
    """What was uploaded: by repository whether it is private, its files, and the messages of its commits."""

    endpoint: str = ""
    lfs: bool = False  # weights are sent as large files
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        """The status and the answer to a request."""
        parts = path.strip("/").split("/")
        if parts[0] == "store":
            return self._stored(parts[1], body)
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if parts[:2] == ["api", "models"]:
            return self._model("/".join(parts[2:4]), parts[4:], body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._wanted(one) for one in json.loads(body)["objects"]]}
        return 404, {"error": f"the stand-in does not know {method} {path}"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = "/".join(filter(None, (asked.get("organization", "me"), asked["name"])))
        if name.startswith("others/"):
            return 403, {"error": 'You don\'t have the rights to create a model under the namespace "others".'}
        if name in self.private:
            return 409, {"error": "You already created this model repo", "url": f"{self.endpoint}/{name}"}
        self.private[name] = asked.get("private", asked.get("visibility") == "private")
        self.files[name] = {}
        return 200, {"url": f"{self.endpoint}/{name}", "name": name, "id": name}

    def _model(self, name: str, what: list[str], body: bytes) -> tuple[int, Any]:
        if name not in self.private:
            return 404, {"error": "Repository not found"}
        if not what or what[0] == "revision":
            return 200, {"id": name, "private": self.private[name], "sha": "0" * 40, "siblings": [], "tags": []}
        if what[0] == "preupload":
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = {path: "lfs" if self.lfs and path.endswith(".safetensors") else "regular" for path in files}
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
        if what[0] == "commit":
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"the stand-in does not know {what}"}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.large[value["oid"]]
        oid = f"{len(self.commits):040x}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.endpoint}/{name}/commit/{oid}"}

    def _wanted(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.endpoint}/store/{one['oid']}", "header": {}}}}

    def _stored(self, oid: str, body: bytes) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "another file"}
        self.large[oid] = body
        return 200, {}


@contextmanager
def stand_in(**settings: Any) -> Iterator[StandIn]:
    """Within the block a stand-in answers at its `endpoint`."""
    hub = StandIn(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body, path = self.rfile.read(int(self.headers.get("content-length") or 0)), urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            status, said = hub.answer(self.command, path, body, self.headers.get("authorization"))
            sent = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_HEAD = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

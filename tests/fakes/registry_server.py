"""A schema registry for tests: a real HTTP server on a loopback socket.

Flow: a client's question -> [RegistryServer] -> a schema, or the answer that a test has chosen.
It cannot show TLS or a slow network.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that gave up waiting is what one test is about."""


class RegistryServer:
    """The two questions of the REST API, answered from a dictionary; it notes every request."""

    def __init__(
        self, schemas: Mapping[int, object], *, port: int = 0, path: str = "/registry"
    ) -> None:
        """Answer below `path` at a `port` of this machine, 0 for a free one, until `close`."""
        self._path = path
        self.schemas = dict(schemas)
        self.requests: list[tuple[str, str | None]] = []
        #: Answers a path in place of the usual answer: (status, body, headers).
        self.instead: Callable[[str], tuple[int, bytes, dict[str, str]]] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Authorization")))
                status, body, headers = (outer.instead or outer.answer)(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """What `--registry` is to be given."""
        return f"http://127.0.0.1:{self._server.server_port}{self._path}"

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """What a registry says; subjects are named after records."""
        if not path.startswith(f"{self._path}/"):
            return 404, b"<html>not the registry</html>", {}
        below = path.removeprefix(f"{self._path}/")
        parts = [urllib.parse.unquote(part) for part in below.strip("/").split("/")]
        match parts:
            case ["schemas", "ids", number] if int(number) in self.schemas:
                return self._found(int(number))
            case ["schemas", "ids", _]:
                return 404, b'{"error_code": 40403, "message": "Schema not found"}', {}
            case ["subjects", name, "versions", "latest"]:
                named = [
                    number
                    for number, schema in self.schemas.items()
                    if isinstance(schema, dict)
                    and name in (schema["name"], f"{schema['name']}s-value")
                ]
                if named:
                    return self._found(max(named))
                return 404, b'{"error_code": 40401, "message": "Subject not found"}', {}
        return 404, b"<html>not the registry</html>", {}

    def _found(self, number: int) -> tuple[int, bytes, dict[str, str]]:
        text = json.dumps({"id": number, "schema": json.dumps(self.schemas[number])})
        return 200, text.encode(), {"Content-Type": "application/vnd.schemaregistry.v1+json"}

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

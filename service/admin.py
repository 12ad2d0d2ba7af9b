"""What a process answers over HTTP: /metrics, /healthz, /readyz. Nothing here changes anything.

Flow: Prometheus, Kubernetes or a person -> [AdminServer] -> readings of the process.

Invariants
  A1  Handlers read a few attributes that the main loop writes; they take no lock and call no
      client.
  A2  Health means "the loop turns", never "Kafka answers": a broker outage must not restart the
      pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.errors import UsageError

#: Answer of a probe: whether it holds, and a sentence.
Verdict = tuple[bool, str]


class AdminServer:
    """Serves one process's readings from a thread of its own."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        healthy: Callable[[], Verdict],
        ready: Callable[[], Verdict],
    ) -> None:
        """Bind at once (port 0 takes a free one) and serve until `close`.

        Raises:
            UsageError: the address cannot be bound.
        """

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path in ("/healthz", "/readyz"):
                    good, text = (healthy if self.path == "/healthz" else ready)()
                    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Say nothing: scrapes would drown the log."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"/metrics cannot be served at {host}:{port}: {error.strerror}; choose another "
                "--http-port, or 0 for a free one"
            ) from error
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

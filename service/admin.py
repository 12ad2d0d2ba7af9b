"""What a process answers over HTTP: /metrics, /healthz, /readyz. Nothing here changes anything.

Flow: Prometheus, Kubernetes or a person -> [AdminServer] -> readings of the process.

Invariants
  A1  Handlers read a few attributes that the main loop writes; they take no lock and call no
      client.
  A2  Health means "the loop turns", never "Kafka answers": a short outage must not restart the
      pool, and a long one ends the job by its own error.
  A3  There is nothing but GET and HEAD, no answer repeats what was asked, and whoever connects and
      says nothing is let go: at most CONNECTIONS_MAX are open, each for IDLE_S without a word.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import ClassVar, Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.errors import UsageError

#: As the server's own class says it.
Connection: TypeAlias = socket | tuple[bytes, socket]

#: Connections that are answered at a time; more are closed.
CONNECTIONS_MAX: Final = 64
#: What a connection may take to say something.
IDLE_S: Final = 10.0

#: Answer of a probe: whether it holds, and a sentence.
Verdict = tuple[bool, str]


class _BoundedServer(ThreadingHTTPServer):
    """A thread a connection, and so many connections (A3)."""

    #: Who comes while others are let in is not made to knock again.
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Connection, client_address: object) -> None:
        """Answer in a thread, or hang up if too many do already."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Connection, client_address: object) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Connection, client_address: object) -> None:
        """Say nothing of those who hang up or fall silent: they would fill the log."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


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
            timeout: ClassVar[float | None] = IDLE_S
            # Which versions run here is nobody's business (A3).
            server_version = "megaphone"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path in ("/healthz", "/readyz"):
                    good, text = (healthy if self.path == "/healthz" else ready)()
                    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

            def do_HEAD(self) -> None:
                self.do_GET()

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def send_error(
                self, code: int, message: str | None = None, explain: str | None = None
            ) -> None:
                """Refuse any other method, and what is no request, without repeating it (A3)."""
                other = code == HTTPStatus.NOT_IMPLEMENTED
                status = HTTPStatus.METHOD_NOT_ALLOWED if other else HTTPStatus(code)
                self.close_connection = True
                # Of the oldest version, which is taken for what is none, nothing would be answered.
                self.request_version = "HTTP/1.0"
                self.send_response(status)
                if other:
                    self.send_header("Allow", "GET, HEAD")
                self.send_header("Connection", "close")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Say nothing: scrapes would drown the log."""

        try:
            self._server = _BoundedServer((host, port), Handler)
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

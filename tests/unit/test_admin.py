"""What a process answers over HTTP, asked over a real socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from service.admin import CONNECTIONS_MAX, AdminServer, Verdict
from service.errors import UsageError
from service.telemetry import registry_of


class Process:
    """The readings behind a server."""

    def __init__(self) -> None:
        self.healthy: Verdict = (True, "the loop turns")
        self.ready: Verdict = (False, "no generation yet")
        self.rows = 7
        registry = registry_of(
            "job", "worker-0", lambda: {"megaphone_dataflow_held_bytes": self.rows}
        )
        self.server = AdminServer(
            "127.0.0.1", 0, registry, lambda: self.healthy, lambda: self.ready
        )

    def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection(self.server.address, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, kind, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def process() -> Iterator[Process]:
    started = Process()
    yield started
    started.server.close()


def test_metrics_are_what_the_process_reads_now(process: Process) -> None:
    status, kind, body = process.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert 'megaphone_dataflow_held_bytes{app="job",slot="worker-0"} 7.0' in body
    process.rows = 8
    assert "} 8.0" in process.get("/metrics")[2]


def test_a_probe_answers_with_a_status_and_a_sentence(process: Process) -> None:
    assert process.get("/healthz")[::2] == (200, "the loop turns\n")
    assert process.get("/readyz")[::2] == (503, "no generation yet\n")
    process.healthy, process.ready = (False, "the loop stands"), (True, "running")
    assert process.get("/healthz")[::2] == (503, "the loop stands\n")
    assert process.get("/readyz")[::2] == (200, "running\n")


def test_there_is_nothing_else_and_nothing_can_be_changed(
    process: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    assert process.get("/")[0] == 404
    assert process.get("/metrics/../secret")[0] == 404
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "<script>"):
        assert process.get("/metrics", method) == (405, "", "")
    assert process.get("/healthz", "HEAD")[::2] == (200, "")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x00\xff\xfe garbage\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /metrics HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_is_refused_without_a_word_of_it(
    process: Process, capsys: pytest.CaptureFixture[str], request_: bytes, status: int
) -> None:
    host, _, port = process.server.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65_536):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 %d " % status)
    assert body == b""
    assert b"Python" not in head
    assert process.get("/healthz")[0] == 200
    assert capsys.readouterr().err == ""


def test_more_connections_than_there_is_room_for_are_closed(process: Process) -> None:
    host, _, port = process.server.address.partition(":")
    silent = [
        socket.create_connection((host, int(port)), timeout=10) for _ in range(CONNECTIONS_MAX)
    ]
    with socket.create_connection((host, int(port)), timeout=10) as beyond:
        assert beyond.recv(1) == b""
    for connection in silent:
        connection.close()
    for _ in range(1000):
        try:
            if process.get("/healthz")[0] == 200:
                return
        except (ConnectionError, http.client.HTTPException):
            continue
    raise AssertionError("there is never room again")


def test_a_taken_port_is_an_error_that_names_it(process: Process) -> None:
    host, _, port = process.server.address.partition(":")
    registry = registry_of("job", "worker-1", dict)
    with pytest.raises(UsageError, match=port):
        AdminServer(host, int(port), registry, lambda: (True, ""), lambda: (True, ""))


def test_after_close_nobody_answers() -> None:
    started = Process()
    started.server.close()
    with pytest.raises(ConnectionRefusedError):
        started.get("/healthz")

"""Log lines: one JSON object a line, with the time, the process and the fact."""

from __future__ import annotations

import io
import json

import pytest

from service.log import Log


class StoppedClock:
    def wall_us(self) -> int:
        return 1_700_000_000_000_000

    def monotonic_ns(self) -> int:
        return 0


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Log:
    return Log("worker-0", stream, StoppedClock())


def test_a_line_has_time_level_slot_event_and_the_fields_in_this_order(
    log: Log, stream: io.StringIO
) -> None:
    log.info("member.started", generation=3, endpoint="tcp://host:1", ready=False, cut=None)
    (line,) = stream.getvalue().splitlines()
    assert list(json.loads(line).items()) == [
        ("t_us", 1_700_000_000_000_000),
        ("level", "info"),
        ("slot", "worker-0"),
        ("event", "member.started"),
        ("generation", 3),
        ("endpoint", "tcp://host:1"),
        ("ready", False),
        ("cut", None),
    ]


def test_an_error_says_so(log: Log, stream: io.StringIO) -> None:
    log.error("member.failed", message="no broker answered")
    assert json.loads(stream.getvalue())["level"] == "error"


def test_a_message_of_several_lines_stays_on_one(log: Log, stream: io.StringIO) -> None:
    log.info("a.b", text="one\ntwo\u2028three")
    log.info("a.c")
    assert stream.getvalue().count("\n") == 2


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Log("worker-0").info("member.started")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "member.started"

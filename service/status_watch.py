"""`megaphone status --watch`: the same again and again, drawn in place or one document a line.

Flow: <app>.members and <app>.status, read on from where the last look ended -> [StatusFeed] ->
JobStatus -> text or JSON until a signal.

Invariants
  SW1  A look gives what `read_status` would give then, and costs no new client.
  SW2  A broker that is away ends nothing: the last status stays, with a line that says so.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from service.clock import SystemClock
from service.config import Config
from service.control_topics import TopicTail
from service.errors import BrokerError
from service.migration.records import MemberRecord, StatusRecord, decode_member, decode_status
from service.status import JobStatus, job_topics, status_of, text_of


class StatusFeed:
    """What a job says about itself, as of each look; close it."""

    def __init__(self, bootstrap_servers: str, app: str, config: Config) -> None:
        """Find the job's topics.

        Raises:
            UsageError: there is no such job.
            BrokerUnavailable: Kafka did not answer.
        """
        self._app = app
        self._timeout_s = config.limits.broker_timeout_s
        topics = job_topics(bootstrap_servers, app, config)
        self._members: dict[str, MemberRecord] = {}
        self._statuses: dict[str, StatusRecord] = {}
        self._of_members = TopicTail(bootstrap_servers, topics.members, timeout_s=self._timeout_s)
        self._of_statuses = TopicTail(bootstrap_servers, topics.status, timeout_s=self._timeout_s)

    def look(self) -> JobStatus:
        """Read on to the ends of both topics.

        Raises:
            BrokerError: an end was not reached in time; what was read counts at the next look.
        """
        for entry in self._of_members.read_to_end(self._timeout_s):
            if entry.value is None:
                self._members.pop(entry.key, None)
            else:
                self._members[entry.key] = decode_member(entry.value)
        for entry in self._of_statuses.read_to_end(self._timeout_s):
            if entry.value is None:
                self._statuses.pop(entry.key, None)
            else:
                self._statuses[entry.key] = decode_status(entry.value)
        return status_of(self._app, [*self._members.values()], [*self._statuses.values()])

    def close(self) -> None:
        """Release the clients."""
        self._of_members.close()
        self._of_statuses.close()


def watch_status(
    bootstrap_servers: str, app: str, config: Config, *, every_s: float, as_json: bool
) -> None:
    """Print a job's status every `every_s` seconds until Ctrl-C or SIGTERM.

    Raises:
        UsageError: there is no such job.
        BrokerUnavailable: Kafka did not answer at the start.
    """
    clock, console = SystemClock(), Console()
    with ExitStack() as stack:
        stop = stack.enter_context(_until_a_signal())
        feed = StatusFeed(bootstrap_servers, app, config)
        stack.callback(feed.close)
        live = None
        if console.is_terminal and not as_json:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
        status, problem = None, ""
        while not stop.is_set():
            try:
                status, problem = feed.look(), ""
            except BrokerError as error:
                problem = str(error)
            if as_json:
                _tell(status, problem)
            else:
                now = [] if status is None else [text_of(status, clock.wall_us())]
                shown = Group(*now, *([Text(problem, style="bold red")] if problem else []))
                if live is not None:
                    live.update(shown, refresh=True)
                else:
                    console.print(shown)
            stop.wait(every_s)


def _tell(status: JobStatus | None, problem: str) -> None:
    if problem:
        sys.stderr.write(problem + "\n")
    elif status is not None:
        sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
        sys.stdout.flush()


@contextmanager
def _until_a_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; to be used in the main thread."""
    stop = threading.Event()
    ending = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda _number, _frame: stop.set()) for number in ending]
    try:
        yield stop
    finally:
        for number, handler in zip(ending, before, strict=True):
            signal.signal(number, handler)

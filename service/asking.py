"""Asking a running job for something and following what becomes of it, as any user can.

Flow: `megaphone migrate` and its like -> [Conversation] -> <app>.control; <app>.status -> statuses.

Invariants
  AS1  Nothing is written but one record on the control topic.
  AS2  Whoever waits learns of a job that has ended or fell silent; no wait outlives it.
Not handled here: two requests of one id at the same time; ids made here are never used twice.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from service.clock import Clock, SystemClock
from service.config import Config
from service.control_topics import (
    START_AT_BEGINNING,
    START_AT_END,
    AppTopics,
    Entry,
    RecordWriter,
    TopicTail,
    read_compacted,
)
from service.errors import PeerLost, RequestRejected, UsageError
from service.ids import Role
from service.migration.records import (
    MemberRecord,
    MemberState,
    RequestState,
    StatusRecord,
    decode_member,
    decode_status,
)
from service.migration.requests import RECORD_BYTES_MAX
from service.status import JobStatus, read_status

FINAL = frozenset({RequestState.COMPLETED, RequestState.ABORTED, RequestState.REJECTED})
_ANSWERS = frozenset({RequestState.ACCEPTED, RequestState.REJECTED})
_POLL_S = 0.1
#: Without news for so long, the controller's heartbeat is looked at.
_LOOK_EVERY_S = 5.0


class Conversation:
    """One user's conversation with one job; close it, or use it in a `with` statement."""

    def __init__(
        self, bootstrap_servers: str, app: str, config: Config, clock: Clock | None = None
    ) -> None:
        """Stand at the end of the status topic.

        Raises:
            UsageError: there is no such job, or it does not run.
            BrokerUnavailable: Kafka did not answer.
        """
        self.app = app
        self._bootstrap = bootstrap_servers
        self._clock = clock or SystemClock()
        self._limits = config.limits
        self._topics = AppTopics(app)
        self.status: JobStatus = read_status(bootstrap_servers, app, config)
        ended = next((m for m in self.status.members if m.role == Role.CONTROLLER), None)
        if ended is None or ended.state in (MemberState.STOPPED, MemberState.FAILED):
            state = "was never started" if ended is None else f"is {ended.state}"
            raise UsageError(
                f"the controller of job {app!r} {state}; start the job before asking it"
            )
        self._beat: int | None = None
        #: Statuses polled and not yet looked at.
        self._unread: deque[StatusRecord] = deque()
        self._tail = TopicTail(
            bootstrap_servers, self._topics.status, START_AT_END, self._limits.broker_timeout_s
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the client."""
        self._tail.close()

    @property
    def workers(self) -> int:
        """How many workers the job has."""
        generation = self.status.generation
        return sum(
            member.role == Role.WORKER and member.generation == generation
            for member in self.status.members
        )

    def new_id(self, kind: str) -> str:
        """An id that nobody has used."""
        return f"{kind}-{self._clock.wall_us() // 1_000_000}-{secrets.token_hex(4)}"

    def ask(self, identity: str, body: Mapping[str, object]) -> StatusRecord:
        """Publish a request and return the job's answer: accepted, or an estimate.

        Raises:
            RequestRejected: the job refused it; the text is its reason.
            UsageError: the request is too large for a record.
            PeerLost: the job did not answer in time.
        """
        value = msgspec.json.encode({"id": identity, **body})
        if len(value) > RECORD_BYTES_MAX:
            raise UsageError(
                f"the request takes {len(value):,} bytes, a record holds {RECORD_BYTES_MAX:,}; "
                "cut the plan into several"
            )
        writer = RecordWriter(self._bootstrap, f"{self.app}.user")
        writer.write(self._topics.control, identity, value)
        writer.flush(self._limits.broker_timeout_s)
        deadline = self._now_s() + self._limits.broker_timeout_s
        while self._now_s() < deadline:
            for status in self._news(identity):
                if status.state is RequestState.REJECTED:
                    raise RequestRejected(f"{identity} was rejected: {status.reason}")
                if status.state in _ANSWERS or status.dry_run is True:
                    return status
        raise PeerLost(
            f"job {self.app!r} did not answer within {self._limits.broker_timeout_s:g} s; is it "
            f"running? The request stays on {self._topics.control} and is answered when it is"
        )

    def follow(self, identity: str) -> Iterator[StatusRecord]:
        """Statuses of a request as they come, up to the final one.

        Raises:
            PeerLost: the job ended or fell silent before (AS2).
        """
        look_at = self._now_s() + _LOOK_EVERY_S
        while True:
            for status in self._news(identity):
                # A rejection under this id is about another record.
                if status.state is not RequestState.REJECTED:
                    yield status
                if status.state in (RequestState.COMPLETED, RequestState.ABORTED):
                    return
                look_at = self._now_s() + _LOOK_EVERY_S
            if self._now_s() > look_at:
                self._look_at_the_controller()
                look_at = self._now_s() + max(_LOOK_EVERY_S, self._limits.peer_timeout_s)

    def history(self, identity: str | None) -> list[StatusRecord]:
        """What was said of a request so far; None: of the plan under way, if there is one."""
        tail = TopicTail(
            self._bootstrap,
            self._topics.status,
            START_AT_BEGINNING,
            self._limits.broker_timeout_s,
        )
        try:
            entries = list(tail.read_to_end(self._limits.broker_timeout_s))
        finally:
            tail.close()
        said: dict[str, list[StatusRecord]] = {}
        for status in _statuses(entries):
            if status.state is not RequestState.REJECTED:
                said.setdefault(status.id, []).append(status)
        if identity is not None:
            return said.get(identity, [])
        open_ones = [each for each in said.values() if each[-1].state not in FINAL]
        begun = [each for each in open_ones if each[-1].state is not RequestState.ACCEPTED]
        return next(iter(begun or open_ones), [])

    def _news(self, identity: str) -> Iterator[StatusRecord]:
        """What was said of a request since; what the caller does not take is kept for the next."""
        if not self._unread:
            self._unread.extend(_statuses(self._tail.poll(_POLL_S)))
        while self._unread:
            status = self._unread.popleft()
            if status.id == identity:
                yield status

    def _look_at_the_controller(self) -> None:
        timeout_s = self._limits.broker_timeout_s
        members = read_compacted(self._bootstrap, self._topics.members, timeout_s)
        entry = members.get(str(Role.CONTROLLER))
        record: MemberRecord | None = None
        if entry is not None and entry.value is not None:
            record = decode_member(entry.value)
        if record is None or record.state in (MemberState.STOPPED, MemberState.FAILED):
            raise PeerLost(f"job {self.app!r} ended; `megaphone status` shows its last words")
        if record.heartbeat == self._beat:
            raise PeerLost(
                f"the controller of job {self.app!r} fell silent; look at its own last lines"
            )
        self._beat = record.heartbeat

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9


def _statuses(entries: list[Entry]) -> list[StatusRecord]:
    return [decode_status(entry.value) for entry in entries if entry.value is not None]

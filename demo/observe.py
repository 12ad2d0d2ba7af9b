"""What the job says about itself while it runs, read from its topics as any outsider could.

Flow: <app>.members, <app>.status -> [JobWatch, a thread] -> JobView for the run and the live view.

Only the fields of docs/contracts are read, and unknown ones are ignored.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import msgspec

from service.control_topics import AppTopics, TopicTail
from service.errors import BrokerError
from service.ids import Membership, Role, Slot

_POLL_S = 0.1
#: Rates are taken over this much of the past: a few heartbeats.
_RATE_WINDOW_US = 2_500_000


class Details(msgspec.Struct, frozen=True):
    """What a member tells about its work."""

    rows_read: int = 0
    rows_skipped: int = 0
    bad_records: int = 0
    lag: int = 0
    rows_applied: int = 0
    outputs: int = 0
    bins_owned: int = 0
    state_rows: int = 0
    state_bytes: int = 0
    held_bytes: int = 0
    reason: str | None = None
    #: The controller's only: worker of each bin.
    owners: list[int] | None = None


class MemberBeat(msgspec.Struct, frozen=True):
    """A heartbeat on <app>.members."""

    slot: str
    state: str
    heartbeat: int
    details: Details = Details()


class RequestStatus(msgspec.Struct, frozen=True):
    """State of a request on <app>.status."""

    id: str
    state: str
    reason: str | None = None
    at: int | None = None
    bins: int = 0
    bytes: int = 0
    waves: int = 0
    duration_ms: int = 0

    @property
    def final(self) -> bool:
        """Whether nothing more will be said about the request."""
        return self.state in ("completed", "rejected", "aborted")


@dataclass(slots=True)
class JobView:
    """The newest of everything. Writer: `take_member` and `take_status`; readers look only."""

    membership: Membership
    beats: dict[str, MemberBeat] = field(default_factory=dict)
    requests: dict[str, RequestStatus] = field(default_factory=dict)
    #: (heartbeat µs, events processed) over the recent past.
    _recent: deque[tuple[int, int]] = field(default_factory=deque)

    def take_member(self, beat: MemberBeat) -> None:
        """Keep a heartbeat."""
        self.beats = {**self.beats, beat.slot: beat}
        recent = self._recent
        recent.append((beat.heartbeat, self.processed))
        while recent and recent[0][0] < beat.heartbeat - _RATE_WINDOW_US:
            recent.popleft()

    def take_status(self, status: RequestStatus) -> None:
        """Keep the state of a request."""
        self.requests = {**self.requests, status.id: status}

    @property
    def running(self) -> bool:
        """Whether every process of the job runs."""
        slots = [Slot(Role.CONTROLLER, 0)]
        slots += [self.membership.slot(peer) for peer in range(self.membership.peers)]
        beats = [self.beats.get(str(slot)) for slot in slots]
        return all(beat is not None and beat.state == "running" for beat in beats)

    @property
    def failure(self) -> str | None:
        """The first member that failed, and why; None while none has."""
        for beat in self.beats.values():
            if beat.state == "failed":
                return f"{beat.slot} failed: {beat.details.reason or 'no reason given'}"
        return None

    @property
    def read(self) -> int:
        """Records that gateways have read."""
        return sum(beat.details.rows_read for beat in self.beats.values())

    @property
    def not_applicable(self) -> int:
        """Records read that are no rows of the flow: other kinds of event, and bad ones."""
        return sum(
            beat.details.rows_skipped + beat.details.bad_records for beat in self.beats.values()
        )

    @property
    def bad(self) -> int:
        """Records that could not be decoded."""
        return sum(beat.details.bad_records for beat in self.beats.values())

    @property
    def applied(self) -> int:
        """Rows that workers have applied to their state."""
        return sum(beat.details.rows_applied for beat in self.beats.values())

    @property
    def processed(self) -> int:
        """Events the job is done with: applied, or of no concern to it."""
        return self.applied + self.not_applicable

    @property
    def lag(self) -> int:
        """Records in Kafka that no gateway has read."""
        return sum(beat.details.lag for beat in self.beats.values())

    @property
    def state_rows(self) -> int:
        """Rows of state in all workers."""
        return sum(beat.details.state_rows for beat in self.beats.values())

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for a frontier."""
        return sum(beat.details.held_bytes for beat in self.beats.values())

    @property
    def bins_by_worker(self) -> list[int]:
        """How many bins each worker hosts."""
        beats = self.beats
        slots = [str(Slot(Role.WORKER, number)) for number in range(self.membership.workers)]
        return [beats[slot].details.bins_owned if slot in beats else 0 for slot in slots]

    @property
    def processed_per_second(self) -> float:
        """Events per second over the last heartbeats."""
        recent = list(self._recent)
        if len(recent) < 2 or recent[-1][0] == recent[0][0]:
            return 0.0
        (first_us, first), (last_us, last) = recent[0], recent[-1]
        return max(0.0, (last - first) * 1e6 / (last_us - first_us))

    def owners(self, bins: int) -> list[int] | None:
        """Worker of each bin, as the controller says; None while it has not said."""
        controller = self.beats.get(str(Slot(Role.CONTROLLER, 0)))
        owners = controller.details.owners if controller is not None else None
        return owners if owners is not None and len(owners) == bins else None


class JobWatch:
    """Reads a job's topics into a JobView until closed."""

    def __init__(self, bootstrap_servers: str, app: str, membership: Membership) -> None:
        """Start reading; the app's topics exist."""
        self.view = JobView(membership)
        self._error: BrokerError | None = None
        topics = AppTopics(app)
        self._members = TopicTail(bootstrap_servers, topics.members)
        self._statuses = TopicTail(bootstrap_servers, topics.status)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="job-watch", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Look whether the job and the reading of it are well.

        Raises:
            BrokerError: the topics cannot be read any more.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()
        self._members.close()
        self._statuses.close()

    def _read(self) -> None:
        members = msgspec.json.Decoder(MemberBeat)
        statuses = msgspec.json.Decoder(RequestStatus)
        try:
            while not self._closing.is_set():
                for entry in self._members.poll(_POLL_S, 100):
                    if entry.value:
                        self.view.take_member(members.decode(entry.value))
                for entry in self._statuses.poll(0.0):
                    if entry.value:
                        self.view.take_status(statuses.decode(entry.value))
        except BrokerError as error:
            self._error = error
        except msgspec.DecodeError as error:
            self._error = BrokerError(f"a record of the job is not as its contract says: {error}")

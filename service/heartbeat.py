"""How a process says that it lives and what it does: to the members topic and over HTTP.

Flow: loop -> [Heartbeat.beat] -> <app>.members for the controller and `megaphone status`;
/metrics, /healthz and /readyz for everybody else.

Invariants
  HB1  What HTTP tells was published with a heartbeat and is never changed: the loop replaces it
       whole, so a scrape never walks through what the loop is changing.
  HB2  Health is the age of the loop's last turn, read live: it must be true of a loop that hangs.
  HB3  Who takes any slot has a key of its own on the topic, which is gone once it has one, stops or
       fails.
"""

from __future__ import annotations

from service.admin import AdminServer, Verdict
from service.clock import Clock
from service.config import Config
from service.control_topics import AppTopics, RecordWriter
from service.errors import BrokerError
from service.ids import Slot
from service.log import Log
from service.migration.records import MemberDetails, MemberRecord, MemberState, encode
from service.process_reading import process_reading
from service.refusals import Refusals
from service.telemetry import ProcessCollector, Reading, registry_with

#: What a process that fails still waits for its last word to be stored.
_LAST_WORD_S = 1.0


class Heartbeat:
    """One boot of one slot, as others see it. Owned by the loop's thread."""

    def __init__(
        self,
        slot: Slot,
        incarnation: int,
        topics: AppTopics,
        records: RecordWriter,
        config: Config,
        http_port: int | None,
        clock: Clock,
    ) -> None:
        """Answer over HTTP at once; tell nothing on the topic yet.

        Args:
            slot: who this is.
            incarnation: which boot.
            topics: of the app.
            records: writes to them.
            config: where to answer, how often to beat, when a loop counts as hanging.
            http_port: in place of the knob; 0 takes a free one.
            clock: of this process.

        Raises:
            UsageError: the port is taken.
        """
        self._slot = slot
        #: On the topic.
        self._key = f"{slot}.{incarnation}" if slot.is_any else str(slot)
        self._incarnation = str(incarnation)
        self._members = topics.members
        self._records = records
        self._clock = clock
        self._every_ns = int(config.control.heartbeat_ms * 1e6)
        self._hang_s = config.limits.peer_timeout_s
        self._turned_ns = self._next_ns = clock.monotonic_ns()
        self._reading: Reading = {}
        self._state = "starting"
        self._ready: Verdict = (False, self._state)
        self._endpoint = ""
        self._refusals: Refusals | None = None
        self._collector = ProcessCollector(topics.app, str(slot), self._read)
        self._http = AdminServer(
            config.http.host,
            config.http.port if http_port is None else http_port,
            registry_with(self._collector),
            self._healthy,
            lambda: self._ready,
        )

    @property
    def http(self) -> str:
        """Where /metrics answers."""
        return self._http.address

    def listens_at(self, endpoint: str) -> None:
        """Note where peers connect to."""
        self._endpoint = endpoint

    def plays(self, slot: Slot) -> None:
        """Be `slot` from now on; it was given by a generation (HB3)."""
        self._records.write(self._members, self._key, None)
        self._slot, self._key = slot, str(slot)
        self._collector.plays(self._key)

    def watches(self, refusals: Refusals) -> None:
        """Tell with every beat what was not let in."""
        self._refusals = refusals

    def turn(self, now_ns: int) -> bool:
        """The loop is alive at `now_ns` of the monotonic clock; whether a beat is due."""
        self._turned_ns = now_ns
        if now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + self._every_ns
        return True

    def beat(
        self,
        state: MemberState,
        generation: int | None,
        details: MemberDetails,
        reading: Reading,
        *,
        ready: bool,
        behind: str = "",
    ) -> None:
        """Tell how this process is, everywhere; `behind` says why it is not ready, if it runs.

        Raises:
            BrokerError: an earlier beat, or another record of the process, was not stored.
        """
        self._reading = reading
        self._state = str(state)
        self._ready = (ready, f"{state}{behind and ', '}{behind}")
        if self._refusals is not None:
            self._refusals.tell()
        self._records.poll()
        record = MemberRecord(
            slot=str(self._slot),
            role=self._slot.role,
            incarnation=self._incarnation,
            address=self._endpoint,
            state=state,
            heartbeat=self._clock.wall_us(),
            generation=generation,
            details=details,
        )
        self._records.write(self._members, self._key, encode(record))
        if self._slot.is_any and state in (MemberState.STOPPED, MemberState.FAILED):
            self._records.write(self._members, self._key, None)

    def last_word(self, reason: str, generation: int | None, log: Log) -> None:
        """Tell why this process fails; if nobody can hear it, only the log says so."""
        details = MemberDetails(reason=reason, http=self.http)
        try:
            self.beat(MemberState.FAILED, generation, details, self._reading, ready=False)
            self._records.flush(_LAST_WORD_S)
        except BrokerError as unheard:
            log.error("farewell.unheard", message=str(unheard))

    def close(self) -> None:
        """Stop answering."""
        self._http.close()

    def _read(self) -> Reading:
        live = {"megaphone_process_loop_age_seconds": self._age_s()}
        return {**self._reading, **live, **process_reading(self._state)}

    def _healthy(self) -> Verdict:
        age = self._age_s()
        return age < self._hang_s, f"the loop turned {age:.1f} s ago"

    def _age_s(self) -> float:
        return (self._clock.monotonic_ns() - self._turned_ns) / 1e9

"""The accepted log as one gateway or worker reads it.

Flow: <app>.accepted -> [LogReader] -> the generation that names this boot, then every record behind
it -> Member.

Invariants
  LR1  The log is read from where it ended before the first heartbeat, so that the generation which
       names this boot cannot have been missed, nor an older one be taken for it.
  LR2  Behind the generation every record is read, in order, each once; one that this version does
       not know ends the process.
  LR3  A log that is silent for the peer timeout ends the process: promises come every few
       milliseconds, so the controller, or the broker, is gone. Only time during which this process
       looked counts: it may itself have been stopped.
"""

from __future__ import annotations

from service.config import LimitsConfig
from service.control_topics import START_AT_END, Admin, AppTopics, TopicTail
from service.dataflow.transport.link import PeerAddress
from service.errors import (
    BrokerLost,
    BrokerUnavailable,
    MegaphoneError,
    PeerLost,
    ProtocolViolation,
)
from service.ids import Membership, Slot
from service.migration.records import Generation, LogRecord, decode_log

#: What one look waits while nothing else is to be done.
_JOIN_WAIT_S = 0.01
#: What the broker gets to show that it is there, when the log has fallen silent.
_BROKER_ANSWER_S = 2.0


class LogReader:
    """Reads the log for one boot of one slot. Owned by one thread."""

    def __init__(
        self,
        bootstrap_servers: str,
        topics: AppTopics,
        slot: Slot,
        incarnation: int,
        limits: LimitsConfig,
        now_ns: int,
    ) -> None:
        """Stand at the end of the log (LR1).

        Raises:
            BrokerError: the broker did not say where that is.
        """
        self._bootstrap = bootstrap_servers
        self._slot = slot
        self._incarnation = str(incarnation)
        self._limits = limits
        self._deadline_ns = now_ns + int(limits.start_timeout_s * 1e9)
        self._generation: Generation | None = None
        self._looked_ns = now_ns
        self._silent_ns = 0
        self._tail = TopicTail(
            bootstrap_servers, topics.accepted, START_AT_END, limits.broker_timeout_s
        )

    def await_generation(self, now_ns: int) -> Generation | None:
        """Read on; the generation, once there is one that names this boot.

        Raises:
            PeerLost: none came within the start timeout.
            ProtocolViolation: the log holds a record that this version does not know.
            BrokerError: the log cannot be read.
        """
        # One by one, so that what stands behind the generation is left for `read`.
        while entries := self._tail.poll(_JOIN_WAIT_S, limit=1):
            record = decode_log(entries[0].value or b"")
            if isinstance(record, Generation) and (slot := self._of_this_boot(record)):
                self._generation, self._slot = record, slot
                return record
        if now_ns > self._deadline_ns:
            seconds = self._limits.start_timeout_s
            if self._slot.is_any:
                role = self._slot.role
                raise PeerLost(
                    f"no generation gave this {role} a slot within {seconds:g} s; is a controller "
                    f"of the same --app running, and do its --{role}s leave one?"
                )
            raise PeerLost(
                f"no generation that names {self._slot} began within {seconds:g} s; are the "
                "controller and all the workers and gateways it waits for running, with the same "
                "--app?"
            )
        return None

    @property
    def slot(self) -> Slot:
        """Who this boot plays; from the generation on no longer any."""
        return self._slot

    def begin(self, now_ns: int) -> None:
        """Silence counts from here on."""
        self._looked_ns = now_ns
        self._silent_ns = 0

    def read(self, now_ns: int, *, silence_allowed: bool) -> list[LogRecord]:
        """What was written since the last look.

        Args:
            now_ns: the monotonic clock.
            silence_allowed: whether the controller has said its last word.

        Raises:
            ProtocolViolation: a record that this version does not know, or another generation.
            BrokerLost: the log is silent because the broker is (LR3).
            PeerLost: the log is silent though the broker answers (LR3).
            BrokerError: the log cannot be read.
        """
        entries = self._tail.poll()
        limit = int(self._limits.peer_timeout_s * 1e9)
        elapsed = min(now_ns - self._looked_ns, limit // 4)
        self._looked_ns = now_ns
        self._silent_ns = 0 if entries or silence_allowed else self._silent_ns + elapsed
        if self._silent_ns > limit:
            raise self._silence()
        records: list[LogRecord] = []
        for entry in entries:
            record = decode_log(entry.value or b"")
            if not isinstance(record, Generation):
                records.append(record)
            elif self._generation is None or record.generation > self._generation.generation:
                raise ProtocolViolation(
                    f"generation {record.generation} was announced and {self._slot} is not part of "
                    "it; is another controller running for the same --app?"
                )
        return records

    def close(self) -> None:
        """Release the client; may be called twice."""
        self._tail.close()

    def _silence(self) -> MegaphoneError:
        seconds = self._limits.peer_timeout_s
        try:
            Admin(self._bootstrap, _BROKER_ANSWER_S).partitions()
        except BrokerUnavailable:
            return BrokerLost(self._bootstrap, seconds)
        return PeerLost(
            f"the controller has promised nothing for {seconds:g} s and is taken for lost; start "
            "the job again to go on from its last checkpoint"
        )

    def _of_this_boot(self, generation: Generation) -> Slot | None:
        """The slot in which a generation names this boot, if it does."""
        for binding in generation.slots:
            slot = Slot.parse(binding.slot)
            ours = slot == self._slot or (self._slot.is_any and slot.role is self._slot.role)
            if ours and binding.incarnation == self._incarnation:
                return slot
        return None


def addresses_of(generation: Generation) -> dict[int, PeerAddress]:
    """Where each peer listens, by index; the controller's index is the number of peers."""
    membership = Membership(generation.workers, generation.gateways)
    bindings = {membership.peer(Slot.parse(each.slot)): each for each in generation.slots}
    if generation.controller is not None:
        bindings[membership.peers] = generation.controller
    return {
        peer: PeerAddress(Slot.parse(each.slot), int(each.incarnation), each.address)
        for peer, each in bindings.items()
    }

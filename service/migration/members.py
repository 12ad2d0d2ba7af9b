"""The roll call: which processes of a job are there, and which of them were lost.

Flow: `<app>.members` -> controller -> [RollCall] -> the slots of a generation, or the sentence that
ends the job. Pure: times are the controller's clock at which a heartbeat was *read*; a member's own
clock is compared with nobody's.

Invariants
  RC1  A slot is played by one incarnation. A second one may take it over before the generation
       begins, if the first has stopped or fallen silent; otherwise two processes were started as
       the same slot, and the job must not begin.
  RC2  Once the generation has begun, a member that falls silent, stops before its checkpoint, fails
       or comes back as another incarnation is lost, and the generation cannot go on.
  RC3  A member that says it has stopped is lost only if its report of having done its part does not
       come within FAREWELL_US: the two travel by different ways and may arrive in either order.
  RC4  Silence counts only while the controller itself was awake.
  RC5  Who takes any slot of its role (I2 of `ids`) is given one that nobody plays when the
       generation begins, by its record and not before, the one that came first the lowest. Of two
       at one address the later is there: the earlier one's boot is over.
Caller: passes heartbeats written after it began to read; those of earlier runs mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.ids import Membership, Role, Slot
from service.migration.records import MemberRecord, MemberState, SlotBinding

#: From the last heartbeat before a farewell to the loss of the member (RC3).
FAREWELL_US = 3_000_000


@dataclass(slots=True)
class _Seat:
    """What is known of one slot."""

    record: MemberRecord
    seen_us: int
    #: Another incarnation that wants the slot while the first may still live (RC1).
    rival: MemberRecord | None = None


class RollCall:
    """Watches the members of one job. Every problem is a sentence for a person."""

    def __init__(self, membership: Membership, now_us: int, wait_us: int, silence_us: int) -> None:
        """Begin to wait.

        Args:
            membership: who must come.
            now_us: the controller's clock.
            wait_us: how long to wait for all of them.
            silence_us: time without a heartbeat after which a member is lost.
        """
        self.slots = [str(membership.slot(peer)) for peer in range(membership.peers)]
        #: Members that need not be heard of any more, as their part is done.
        self._excused: set[str] = set()
        self._seats: dict[str, _Seat] = {}
        #: Who takes any slot, by role and in the order they came (RC5); by incarnation.
        self._seekers: dict[str, dict[str, _Seat]] = {
            str(Slot.any_of(role)): {} for role in (Role.WORKER, Role.GATEWAY)
        }
        self._begun = False
        self._now_us = now_us
        self._deadline_us = now_us + wait_us
        self._wait_us = wait_us
        self._silence_us = silence_us

    @property
    def missing(self) -> list[str]:
        """Slots that nobody plays yet or would be given, or that two processes claim."""
        given = self._given()
        return [
            slot
            for slot in self.slots
            if (self._seats[slot].rival is not None if slot in self._seats else slot not in given)
        ]

    def begin(self) -> list[SlotBinding]:
        """The generation begins with those who are there; from now on RC2 holds."""
        assert not self.missing, "RC1: the generation begins when every slot is played by one"
        self._seats |= self._given()
        self._begun = True
        return [
            SlotBinding(slot=slot, incarnation=record.incarnation, address=record.address)
            for slot, record in ((slot, self._seats[slot].record) for slot in self.slots)
        ]

    def excuse(self, slot: str) -> None:
        """The slot's part is done: it may fall silent or stop."""
        self._excused.add(slot)

    def seen(self, record: MemberRecord) -> str | None:
        """Take in a heartbeat; returns the problem it reveals. Slots of no member are ignored."""
        seeks = record.slot in self._seekers and not self._begun
        if not seeks and (record.slot not in self.slots or record.slot in self._excused):
            return None
        if record.state is MemberState.FAILED:
            return f"{record.slot} failed: {record.details.reason or 'it gave no reason'}"
        if seeks:
            self._seen_seeking(record, self._seekers[record.slot])
            return None
        return self._seen_begun(record) if self._begun else self._seen_waiting(record)

    def passed(self, now_us: int) -> str | None:
        """Note the clock; returns the problem that the time passed reveals."""
        gap = now_us - self._now_us
        self._now_us = now_us
        if gap > self._silence_us // 2:
            # The controller slept (RC4): nobody could be heard, so nobody was silent.
            self._deadline_us += gap
            for seats in (self._seats, *self._seekers.values()):
                for seat in seats.values():
                    seat.seen_us += gap
        if self._begun:
            for slot, seat in self._seats.items():
                stopped = seat.record.state is MemberState.STOPPED and slot not in self._excused
                if stopped and now_us - seat.seen_us > FAREWELL_US:
                    return f"{self._lost(slot)}, it stopped while the job runs"
        silent = [
            slot
            for slot, seat in self._seats.items()
            if now_us - seat.seen_us > self._silence_us and slot not in self._excused
        ]
        if self._begun:
            return f"{self._lost(silent[0])}, silent for {self._seconds()} s" if silent else None
        for slot in silent:
            rival = self._seats[slot].rival
            if rival is None:
                del self._seats[slot]
            else:
                self._seats[slot] = _Seat(rival, now_us)
        for sought in self._seekers.values():
            self._forget(sought, lambda seat: now_us - seat.seen_us > self._silence_us)
        if self.missing and now_us > self._deadline_us:
            return (
                f"{', '.join(self.missing)} did not come within {self._wait_us / 1e6:g} s; "
                "start every worker and gateway with the same --app, --workers and --gateways"
            )
        return None

    def _seen_waiting(self, record: MemberRecord) -> str | None:
        seat = self._seats.get(record.slot)
        if record.state is MemberState.STOPPED:
            if seat is not None and seat.record.incarnation == record.incarnation:
                self._leave(record.slot, seat)
            return None
        if seat is None:
            self._seats[record.slot] = _Seat(record, self._now_us)
        elif seat.record.incarnation == record.incarnation:
            if seat.rival is not None:
                return (
                    f"{record.slot} was started twice, at {record.address} and at "
                    f"{seat.rival.address}; stop one of them"
                )
            seat.record, seat.seen_us = record, self._now_us
        else:
            seat.rival = record
        return None

    def _seen_seeking(self, record: MemberRecord, sought: dict[str, _Seat]) -> None:
        """Somebody takes any slot of its role, or does so no more (RC5)."""
        if record.state is MemberState.STOPPED:
            sought.pop(record.incarnation, None)
            return
        known = sought.get(record.incarnation)
        if known is not None:
            known.record, known.seen_us = record, self._now_us
            return
        self._forget(sought, lambda seat: seat.record.address == record.address)
        sought[record.incarnation] = _Seat(record, self._now_us)

    def _forget(self, sought: dict[str, _Seat], gone: Callable[[_Seat], bool]) -> None:
        for incarnation in [each for each, seat in sought.items() if gone(seat)]:
            del sought[incarnation]

    def _given(self) -> dict[str, _Seat]:
        """Who would be given which free slot (RC5)."""
        given: dict[str, _Seat] = {}
        for name, sought in self._seekers.items():
            role = name.removesuffix("any")
            free = [slot for slot in self.slots if slot.startswith(role)]
            given |= zip((slot for slot in free if slot not in self._seats), sought.values())
        return given

    def _leave(self, slot: str, seat: _Seat) -> None:
        if seat.rival is None:
            del self._seats[slot]
        else:
            self._seats[slot] = _Seat(seat.rival, self._now_us)

    def _seen_begun(self, record: MemberRecord) -> str | None:
        seat = self._seats[record.slot]
        if record.incarnation != seat.record.incarnation:
            return (
                f"{record.slot} was started again at {record.address} while the job runs with the "
                f"one at {seat.record.address}; stop the job and start it as a whole"
            )
        if record.state is not MemberState.STOPPED:
            seat.seen_us = self._now_us
        seat.record = record
        return None

    def _lost(self, slot: str) -> str:
        return f"{slot} at {self._seats[slot].record.address} is lost"

    def _seconds(self) -> str:
        return f"{self._silence_us / 1e6:g}"

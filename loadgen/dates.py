"""Event times of a scheduled stream, and back: which event let a watermark pass.

Flow: schedule -> [EventDates.dates_ms] -> date_time of events; window ends of results ->
[EventDates.passing_us] -> the intended time that their latency counts from. Pure.

An event's date runs with the schedule, `dilation` times as fast: at 720, a minute of the run holds
twelve hours of event time. In an out-of-order group an event leaves at another's time, but has its
own date.

A window that ends at E closes when the watermark, the greatest date seen less a bound b, reaches E;
so no system can answer before an event with a date of E + b or more has been sent. When that one is
*meant* to be sent is a pure function of the schedule. With several partitions the watermark waits
for such an event in each; counting from the first of all overstates the latency by the time until
the last, and never understates it.

Invariants
  DA1  dates_ms never decreases with the event's own number.
  DA2  passing_us(D) is the intended time of the first sending, in sending order, of an event with a
       date of at least D; none if the stream has no such event.
  DA3  intended_us(D) is at no time after the sending of an event of date D was meant to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from loadgen.schedule import Schedule
from loadgen.shapes import plan_of, schedule_of
from service.nexmark.events import EventSource, NexmarkConfig

#: Stands for "no event": its window was closed by the end of the stream.
NEVER = np.iinfo(np.int64).min
_SPAN_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class EventDates:
    """Dates of a schedule's events.

    Attributes:
        schedule: when events are sent.
        origin_us: date of the schedule's start, epoch microseconds.
        dilation: microseconds of event time per microsecond of the run, > 0.
        within: the event sent at each place of an out-of-order group, from 0; [0] without groups.

    Raises:
        ValueError: dates leave 64 bits, or the dilation is not above 0.
    """

    schedule: Schedule
    origin_us: int
    dilation: Fraction = Fraction(1)
    within: tuple[int, ...] = (0,)

    @classmethod
    def grouped(cls, schedule: Schedule, origin_us: int, dilation: Fraction, group: int) -> Self:
        """The dates of a stream with out-of-order groups of a size.

        Raises:
            KnobError: no such group can be.
            ValueError: as the class says.
        """
        source = EventSource(NexmarkConfig(out_of_order_group_size=group))
        within = source.events(np.arange(group, dtype=np.int64)).tolist()
        return cls(schedule, origin_us, dilation, tuple(within))

    @classmethod
    def of_document(cls, document: Mapping[str, object]) -> Self:
        """The dates that `document()` described.

        Raises:
            KeyError: it is no such document.
            ValueError: a value is out of range.
        """
        origin_us, group = cast("int", document["origin_us"]), cast("int", document["group"])
        dilation = Fraction(str(document["dilation"]))
        schedule = schedule_of(cast("Mapping[str, object]", document["schedule"]))
        return cls.grouped(schedule, origin_us, dilation, group)

    def document(self) -> dict[str, object]:
        """JSON form, for a meter in another process."""
        return {
            "kind": "plan",
            "origin_us": self.origin_us,
            "dilation": str(self.dilation),
            "group": len(self.within),
            "schedule": plan_of(self.schedule),
        }

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.dilation <= 0:
            raise ValueError(f"time dilation {self.dilation}: must be above 0")
        end = np.array([max(0, self.schedule.total - 1)], dtype=np.int64)
        span = int(self.schedule.times_us(end)[0]) - self.schedule.start_us
        if (span + 1) * self.dilation.numerator + abs(self.origin_us) >= _SPAN_MAX:
            raise ValueError(f"time dilation {self.dilation}: dates leave 64 bits")

    def dates_ms(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Date of each event, by its own number, epoch milliseconds, floored (DA1)."""
        times_us = self.schedule.times_us(events)
        if self.dilation == 1:  # The usual case, spared three passes.
            return (times_us + (self.origin_us - self.schedule.start_us)) // 1000
        elapsed = times_us - self.schedule.start_us
        ahead = elapsed * self.dilation.numerator // self.dilation.denominator
        dates: NDArray[np.int64] = (self.origin_us + ahead) // 1000
        return dates

    def intended_us(self, dates_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """When an event of each date was meant to be sent, floored as the date is.

        In an out-of-order group an event leaves at another's time: there it is when the group of
        the first event of that date began, which is too early by a group at most and never too
        late (DA3). Cost then: 20 us a different date.
        """
        if len(self.within) > 1:
            different, places = np.unique(dates_ms, return_inverse=True)
            numbers = np.array([self._first(date) for date in different.tolist()], dtype=np.int64)
            begun: NDArray[np.int64] = self.schedule.times_us(numbers - numbers % len(self.within))
            return begun[places]
        ahead = dates_ms * 1000 - self.origin_us
        back = ahead * self.dilation.denominator // self.dilation.numerator
        times: NDArray[np.int64] = self.schedule.start_us + back
        return times

    def passing_us(self, dates_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The time that DA2 says, for each date; NEVER for none. Cost: 20 us a different date."""
        different, places = np.unique(dates_ms, return_inverse=True)
        numbers = [self._passing(date) for date in different.tolist()]
        sent = np.array([0 if n is None else n for n in numbers], dtype=np.int64)
        times = self.schedule.times_us(sent)
        times[[n is None for n in numbers]] = NEVER
        out: NDArray[np.int64] = times[places]
        return out

    def _passing(self, date_ms: int) -> int | None:
        """Number of the first sending of an event with at least this date."""
        schedule, event = self.schedule, self._first(date_ms)
        first = event - event % len(self.within)
        for place, sent in enumerate(self.within):
            if first + sent >= event:
                # Later groups have later places still.
                return first + place if first + place < schedule.total else None
        raise AssertionError("a group holds its own event")

    def _first(self, date_ms: int) -> int:
        """Own number of the first event with at least this date."""
        ahead = date_ms * 1000 - self.origin_us
        # Least elapsed time whose dilated, floored value reaches `ahead`.
        elapsed = -(-ahead * self.dilation.denominator // self.dilation.numerator)
        return self.schedule.reached(self.schedule.start_us + elapsed - 1) if elapsed > 0 else 0

"""Open-loop sending: each event leaves as soon as it is due, and lateness is measured.

Flow: Schedule (what is due) -> EventSource (messages, grouped by partition) -> RunSender: the
[Sender] over Kafka's client library, or `direct.DirectProducer` without it.

At each wake-up everything due is drawn, encoded and queued. The schedule never waits for the
system: when the client's queue is full the producer waits for room and the events that come due
meanwhile are late, which is counted, not hidden.

Invariants
  O1  Every event of the shard is sent once, in order within each partition, or the run ends with
      an error.
  O2  date_time of an event of the stream follows from its own number alone (`dates`): unless asked
      otherwise it is the intended send time in milliseconds, floored, whenever it really leaves. In
      an out-of-order group an event leaves at the time of another.
  O3  An event is late when the client got it more than `late_us` after its intended time; the
      moment taken is the end of the run of events it was queued with, so lateness is never
      understated.

At low rates the requests dominate the cost (the library sends one per partition and wake-up); that
is what `tick_us` trades against latency. docs/LOADGEN.md has the cost per event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from loadgen.broker import Outgoing, ProducerClient
from loadgen.clock import Clock
from loadgen.dates import EventDates
from loadgen.schedule import US_PER_SECOND, WHOLE, Schedule, Shard
from service.nexmark.events import EncodedRun, EventSource, NexmarkConfig, Wire

_FULL_QUEUE_SECONDS = 0.002  # How long one wait for room in the client's queue may take.
# The most that a run may weigh: what brokers take of one partition in a request is 1 MB.
_RUN_BYTES_MAX = 900_000
_PAUSE_US_MAX = 200_000  # A pause is cut to this, so that a request to stop is heard.

Document = dict[str, int | float | str]
Emit = Callable[[Document], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """How events are sent.

    Attributes:
        partitions: how many each topic has.
        tick_us: time between wake-ups; adds up to this much to each latency.
        late_us: the bound of O3.
        run_events_max: events encoded and queued in one go; bounds how stale O3's moment is.
        shard: this process's share of the events.
    """

    partitions: int
    tick_us: int = 5_000
    late_us: int = 10_000
    run_events_max: int = 4_096
    shard: Shard = WHOLE


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far behind schedule events were handed over (O3)."""

    late: int = 0
    worst_us: int = 0

    def widened(self, other: Lateness) -> Lateness:
        """Both together."""
        return Lateness(self.late + other.late, max(self.worst_us, other.worst_us))


class RunSender(Protocol):
    """What a load needs of Kafka."""

    #: Times `send` had to wait for room.
    waits: int

    def send(self, run: EncodedRun) -> None:
        """Hand a run over, waiting for room as long as it takes (O1)."""
        ...

    def poll(self, seconds: float) -> None:
        """Serve what has been sent; wait up to `seconds` for something to do."""
        ...

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` for all deliveries."""
        ...

    def queued(self) -> int:
        """Events queued or in flight."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class Sender:
    """Turns encoded runs into messages and puts them into the client's queue (O1)."""

    def __init__(self, client: ProducerClient, topics: Sequence[str], partitions: int) -> None:
        self._client = client
        self._targets = [(topic, partition) for topic in topics for partition in range(partitions)]
        #: Times the queue was found full. Writer: send().
        self.waits = 0

    def send(self, run: EncodedRun) -> None:
        """Queue a run, waiting for room as long as it takes.

        Raises:
            LoadError: the client cannot deliver.
        """
        # A comprehension over ready-made columns: what the client's API costs per event.
        messages: list[Outgoing] = [
            {"key": key, "value": value} for key, value in zip(run.key_bytes(), run.values())
        ]
        starts = run.partition_starts.tolist()
        for (topic, partition), (first, end) in zip(self._targets, pairwise(starts)):
            rest = messages[first:end]
            while rest:
                taken = self._client.send(topic, rest, partition)
                rest = rest[taken:]
                if rest:
                    self.waits += 1
                    self._client.poll(_FULL_QUEUE_SECONDS)

    def poll(self, seconds: float) -> None:
        """Serve the client.

        Raises:
            LoadError: a message could not be delivered.
        """
        self._client.poll(seconds)

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` for all deliveries.

        Raises:
            LoadError: a message could not be delivered.
        """
        self._client.flush(seconds)

    def queued(self) -> int:
        """Messages queued or in flight."""
        return self._client.queued()

    def close(self) -> None:
        """Nothing: the client library gives its connections back by itself."""


class Progress:
    """Prints one document per second of a phase, and the last one of all."""

    def __init__(self, phase: str, clock: Clock, emit: Emit) -> None:
        self._phase = phase
        self._clock = clock
        self._emit = emit
        self._start_us = self._second_us = clock.wall_us()
        self._cpu_us = clock.cpu_us()
        self._second_sent = 0
        self._second = Lateness()
        self._total = Lateness()
        self.sent = 0

    def handed_over(self, events: int, lateness: Lateness) -> None:
        """Count events that the client has taken."""
        self.sent += events
        self._second = self._second.widened(lateness)
        self._total = self._total.widened(lateness)

    def tell(self, queued: int) -> None:
        """Print, when a second has passed since the last time."""
        now = self._clock.wall_us()
        passed = now - self._second_us
        if passed < US_PER_SECOND:
            return
        self._emit(
            {
                "kind": "progress",
                "phase": self._phase,
                "t_us": now,
                "events": self.sent,
                "events_per_second": round((self.sent - self._second_sent) * 1e6 / passed),
                "late": self._second.late,
                "lateness_ms_max": self._second.worst_us / 1000,
                "queued": queued,
            }
        )
        self._second_us, self._second_sent, self._second = now, self.sent, Lateness()

    def finish(self, queue_full_waits: int) -> Document:
        """Print and return the summary of the phase."""
        now = self._clock.wall_us()
        cpu_us = self._clock.cpu_us() - self._cpu_us
        document: Document = {
            "kind": "summary",
            "phase": self._phase,
            "start_us": self._start_us,
            "end_us": now,
            "events": self.sent,
            "events_per_second": round(self.sent * 1e6 / max(1, now - self._start_us)),
            "cpu_us_per_event": round(cpu_us / max(1, self.sent), 3),
            "late": self._total.late,
            "late_fraction": self._total.late / max(1, self.sent),
            "lateness_ms_max": self._total.worst_us / 1000,
            "queue_full_waits": queue_full_waits,
        }
        self._emit(document)
        return document


class Load:
    """The two phases of a load: opening bids as fast as possible, then the stream on schedule."""

    def __init__(
        self,
        config: NexmarkConfig,
        options: SendOptions,
        sender: RunSender,
        clock: Clock,
        *,
        wire: Wire | None = None,
    ) -> None:
        self._config = config
        self._options = options
        self._sender = sender
        self._clock = clock
        self._wire = wire or Wire()

    def warm_up(self) -> None:
        """Compile or load the kernels, so that the first events are not late for it."""
        numbers = np.arange(self._config.cycle, dtype=np.int64)
        for opening in (True, False):
            source = EventSource(self._config, opening=opening, wire=self._wire)
            run = source.encode(numbers, numbers, self._options.partitions)
            run.values()
            run.key_bytes()

    def open_auctions(self, emit: Emit, stop: Stop, date_ms: int | None = None) -> Document:
        """Send one opening bid per loaded auction and wait until all are delivered.

        Such a bid is due when it is sent: its date_time is the start of its run, or `date_ms`.

        Raises:
            LoadError: the client cannot deliver.
        """
        source = EventSource(self._config, opening=True, wire=self._wire)
        shard = self._options.shard
        progress = Progress("load", self._clock, emit)
        total = shard.share(self._config.state_keys)
        while progress.sent < total and not stop():
            first = progress.sent
            end = min(total, first + self._run_events_max(source))
            numbers = shard.numbers(first, end)
            now_ms = self._clock.wall_us() // 1000 if date_ms is None else date_ms
            times_ms = np.full(len(numbers), now_ms, dtype=np.int64)
            self._sender.send(source.encode(numbers, times_ms, self._options.partitions))
            self._sender.poll(0)
            progress.handed_over(end - first, Lateness())
            progress.tell(self._sender.queued())
        return self._finish(progress)

    def stream(
        self, schedule: Schedule, emit: Emit, stop: Stop, dates: EventDates | None = None
    ) -> Document:
        """Send the shard's events of a schedule, each when it is due, and wait for delivery.

        Their date_time is the time they are sent at, unless `dates` says otherwise.

        Prints first when the first and the last event are due.

        Raises:
            LoadError: the client cannot deliver.
        """
        source = EventSource(self._config, wire=self._wire)
        shard = self._options.shard
        dated = dates or EventDates(schedule, schedule.start_us)
        total = shard.share(schedule.total)
        if total:
            ends = schedule.times_us(np.array([0, schedule.total - 1], dtype=np.int64)).tolist()
            emit({"kind": "schedule", "start_us": ends[0], "end_us": ends[1], "events": total})
        progress = Progress("live", self._clock, emit)
        while progress.sent < total and not stop():
            first = progress.sent
            due = shard.share(schedule.due(self._clock.wall_us()))
            end = min(due, first + self._run_events_max(source))
            if end > first:
                numbers = shard.numbers(first, end)
                dates_ms = dated.dates_ms(source.events(numbers))
                self._sender.send(source.encode(numbers, dates_ms, self._options.partitions))
                lateness = self._lateness(schedule, first, end)
                progress.handed_over(end - first, lateness)
            self._sender.poll(0)
            progress.tell(self._sender.queued())
            if end == due < total:
                self._pause(int(schedule.times_us(shard.numbers(end, end + 1))[0]))
        return self._finish(progress)

    def _run_events_max(self, source: EventSource) -> int:
        return min(self._options.run_events_max, _RUN_BYTES_MAX // source.message_bytes_max)

    def _lateness(self, schedule: Schedule, first: int, end: int) -> Lateness:
        """How late the run of the shard's events `first` up to `end` was handed over (O3)."""
        now = self._clock.wall_us()
        shard = self._options.shard
        over = shard.share(schedule.due(now - self._options.late_us - 1)) - first
        oldest_us = int(schedule.times_us(shard.numbers(first, first + 1))[0])
        return Lateness(late=min(max(over, 0), end - first), worst_us=max(0, now - oldest_us))

    def _pause(self, next_us: int) -> None:
        """Sleep until the next tick, or until the next event where that is later."""
        now = self._clock.wall_us()
        tick = self._options.tick_us
        wake = max(next_us, (now // tick + 1) * tick)
        self._clock.sleep_us(min(wake - now, _PAUSE_US_MAX))

    def _finish(self, progress: Progress) -> Document:
        """Wait until everything is delivered; an undeliverable message raises within a bound."""
        while self._sender.queued():
            self._sender.flush(1.0)
            progress.tell(self._sender.queued())
        return progress.finish(queue_full_waits=self._sender.waits)

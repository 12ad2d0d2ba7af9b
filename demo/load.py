"""What the load generator, the latency meter and the stall probe say, as they say it.

Flow: JSON lines of `python -m loadgen run | measure` and `demo.stall` -> the classes here -> run,
live view, summary. Each object is written by the thread that reads its process's lines; the run
only looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from demo.live import Latency, Second
from loadgen.histogram import Histogram
from loadgen.measure import FinalDocument, WindowDocument
from loadgen.report import Window, windows_of

#: Finer than the meter's default: migrations of a second are to be told from what is around them.
WINDOW_MS = 100
_WINDOWS_PER_SECOND = 1000 // WINDOW_MS

Document = Mapping[str, object]


@dataclass(slots=True)
class Generated:
    """The generator's phases: "load", "warm-up" and "live"."""

    #: Events handed to Kafka so far, by phase, and per second in the last report.
    sent: dict[str, int] = field(default_factory=dict)
    per_second: float = 0.0
    #: When the first and the last event of the stream are due, epoch µs; None before it is known.
    schedule: tuple[int, int] | None = None
    #: The closing document of each phase.
    summaries: dict[str, Document] = field(default_factory=dict)

    def take(self, document: Document) -> None:
        """Keep what a line says."""
        match document.get("kind"):
            case "schedule":
                self.schedule = _int(document, "start_us"), _int(document, "end_us")
            case "progress":
                self.sent[str(document["phase"])] = _int(document, "events")
                self.per_second = _int(document, "events_per_second")
            case "summary":
                phase = str(document["phase"])
                self.sent[phase] = _int(document, "events")
                self.per_second = 0.0
                self.summaries[phase] = document
            case _:
                pass

    def take_warm_up(self, document: Document) -> None:
        """Keep how much was sent of what a line says; the schedule is not the measured one."""
        if "phase" in document:
            self.take({**document, "phase": "warm-up"})

    @property
    def before_stream(self) -> int:
        """Events sent before the clock started."""
        return sum(events for phase, events in self.sent.items() if phase != "live")

    @property
    def total(self) -> int:
        """Events sent so far in all phases."""
        return sum(self.sent.values())


@dataclass(slots=True)
class Measured:
    """The meter at the output topic."""

    #: Next offset of each partition at the start, as the meter says; None before it is ready.
    offsets: Mapping[str, int] | None = None
    final: FinalDocument | None = None
    #: One value per whole second since it was ready, newest last: p99 or None.
    p99_by_second: list[tuple[int, float | None]] = field(default_factory=list)
    _last_second: deque[WindowDocument] = field(
        default_factory=lambda: deque(maxlen=_WINDOWS_PER_SECOND)
    )
    _windows: int = 0

    def take(self, document: Document) -> None:
        """Keep what a line says."""
        match document.get("kind"):
            case "ready":
                self.offsets = cast("Mapping[str, int]", document["offsets"])
            case "window":
                self._last_second.append(cast("WindowDocument", document))
                self._windows += 1
                if self._windows % _WINDOWS_PER_SECOND == 0:
                    merged = self._merged()
                    p99 = merged.quantile(0.99) / 1000 if merged.count else None
                    self.p99_by_second.append((_int(document, "t_us"), p99))
            case "final":
                self.final = cast("FinalDocument", document)
            case _:
                pass

    def last_second(self) -> Latency | None:
        """Latency over the last second; None without results in it."""
        merged = self._merged()
        if not merged.count:
            return None
        return Latency(
            merged.quantile(0.5) / 1000, merged.quantile(0.99) / 1000, merged.max_us / 1000
        )

    def seconds(self, moving: Sequence[tuple[int, int]]) -> list[Second]:
        """The timeline by seconds; `moving` are the intervals (epoch µs) in which bins moved."""
        out = []
        for end_us, p99 in list(self.p99_by_second):
            start_us = end_us - 1_000_000
            out.append(Second(p99, any(a <= end_us and start_us <= b for a, b in moving)))
        return out

    def windows(self) -> list[Window]:
        """The final timeline by the intended time of the events."""
        if self.final is None:
            return []
        return windows_of(self.final["intended"], self.final["window_us"])

    def last_result_us(self) -> int | None:
        """End of the last window in which a result was consumed; None without results."""
        if self.final is None:
            return None
        ends = [w["t_us"] + self.final["window_us"] for w in self.final["consumed"] if w["count"]]
        return max(ends, default=None)

    def _merged(self) -> Histogram:
        windows = list(self._last_second)
        return Histogram.merged(Histogram.of_document(w["histogram"]) for w in windows)


@dataclass(slots=True)
class Stalls:
    """The stall probe's result: worst lateness of a wake-up, by window."""

    window_us: int = 0
    #: (start of the window µs, worst lateness µs), windows without a stall left out.
    windows: list[tuple[int, int]] | None = None

    def take(self, document: Document) -> None:
        """Keep what the line says."""
        if document.get("kind") == "stalls":
            self.window_us = _int(document, "window_us")
            pairs = cast("list[list[int]]", document["windows"])
            self.windows = [(start, worst) for start, worst in pairs]

    def worst_ms(self, start_us: int, end_us: int) -> float:
        """The longest stall that touches an interval."""
        touching = [
            worst
            for start, worst in self.windows or []
            if start <= end_us and start_us <= start + self.window_us
        ]
        return max(touching, default=0) / 1000


def _int(document: Document, name: str) -> int:
    value = document[name]
    assert isinstance(value, int | float), f"{name} is a number"
    return int(value)
